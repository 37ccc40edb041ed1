"""A blind comparison of styles; the folder `study` beside this file comes from `styleforge survey prepare`."""

import os
from pathlib import Path

from styleforge.survey import app

app.serve(os.environ.get("STYLE_SURVEY_STUDY", Path(__file__).parent / "study"))
