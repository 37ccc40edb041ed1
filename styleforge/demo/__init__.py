"""A page on which friends, or strangers, try styles: `styleforge demo`, and the Space in `spaces/styleforge-demo`.

A thin face over the library. What it adds is a policy for strangers' input (:mod:`.policy`), a store of loaded styles
with a budget (:mod:`.styles`), a picture to try them on (:mod:`.scene`), and the page (:mod:`.face`, :mod:`.page`).
"""

from ..errors import MissingExtra

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise MissingExtra("The page needs gradio", todo="Install it with: pip install 'styleforge[demo]'") from error

from .page import build, launch
from .policy import Policy

__all__ = ["Policy", "build", "launch"]
