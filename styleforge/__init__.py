"""styleforge: GAN image style, from two lines of code.

>>> from styleforge import StylePipeline
>>> pipe = StylePipeline.from_pretrained("cut-impressionist")
>>> pipe("photo.jpg").save("painting.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that holds it. Names load on first use (PEP 562), so `import styleforge`
# costs no torch, gradio, diffusers or accelerate.
_PUBLIC = {}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'styleforge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
