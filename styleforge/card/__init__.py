"""The model card of a style, its `README.md`: front matter that the Hub reads, and a page that a person reads.

:func:`render` writes one, :func:`refresh` brings one up to date and leaves alone what its author wrote, and
:func:`lint` finds what is wrong with one. None of them needs a network; :mod:`styleforge.cards` reads runs and styles.
"""

from .front import Front, parse
from .linter import LICENSES, Problem, known_license, lint
from .marks import Refreshed, refresh, sections
from .page import SOMEWHERE, UNSAID, UNTRIED, home, render

__all__ = [
    "LICENSES",
    "SOMEWHERE",
    "UNSAID",
    "UNTRIED",
    "Front",
    "Problem",
    "Refreshed",
    "home",
    "known_license",
    "lint",
    "parse",
    "refresh",
    "render",
    "sections",
]
