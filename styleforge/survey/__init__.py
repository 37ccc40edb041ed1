"""Blind comparisons of styles by people: prepare a study, collect votes, rank.

>>> study = survey.prepare({"ours": "runs/a", "cut": "runs/b", "paper": "their-pictures/"}, "photos", "study")
>>> survey.app.serve(study)  # after `from styleforge.survey import app`; pip install "styleforge[demo]"
>>> print(survey.results(study).text())

`study` styles the pictures and says who is shown what, `votes` keeps the answers, `ranking` draws conclusions;
only `app` needs gradio.
"""

from .ranking import Results, results
from .study import Question, Study, load, prepare
from .votes import Mirror, Vote, Votes, read_csv, read_database, write_csv

__all__ = [
    "Mirror",
    "Question",
    "Results",
    "Study",
    "Vote",
    "Votes",
    "load",
    "prepare",
    "read_csv",
    "read_database",
    "results",
    "write_csv",
]
