"""styleforge: GAN image style, from two lines of code.

>>> from styleforge import StylePipeline
>>> pipe = StylePipeline.from_pretrained("fastcut-monet")
>>> pipe("photo.jpg").save("painting.png")
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Large tensors in pages of 2 MB: clearing pages of 4 KB takes up to a third of the time of a picture of 1024 px. Torch
# looks at this once, at its first tensor; who sets it to 0 before is obeyed.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# Threads of libgomp (torch for Linux) wait for each other by turning 300,000 times before they sleep, where they are no
# more than the processors. It does not know of other programs: beside one that computes on all cores they keep the
# processor from those that they wait for, and a picture took ten times as long as with half of the cores, and
# more. Read once, when torch is imported. Measured by --part beside of scripts/benchmark.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Public name -> the module that holds it. Names load on first use (PEP 562), so `import styleforge`
# costs no torch, gradio, diffusers or accelerate.
# PretrainedMixin comes through `models`, which fills its table. Training is `styleforge.train`: TrainConfig, train().
_PUBLIC = {
    "ImagePolicy": ".images",
    "PatchDiscriminator": ".models",
    "PixelDiscriminator": ".models",
    "PretrainedMixin": ".models",
    "ResnetGenerator": ".models",
    "StylePipeline": ".pipeline",
    "StyleforgeError": ".errors",
    "UNetGenerator": ".models",
    "bundled_styles": ".hub",
    "convert_checkpoint": ".convert",
}

if TYPE_CHECKING:
    from .convert import convert_checkpoint
    from .errors import StyleforgeError
    from .hub import bundled_styles
    from .images import ImagePolicy
    from .models import PatchDiscriminator, PixelDiscriminator, PretrainedMixin, ResnetGenerator, UNetGenerator
    from .pipeline import StylePipeline

__all__ = [  # noqa: RUF022 -- the table above is sorted
    "__version__",
    "ImagePolicy",
    "PatchDiscriminator",
    "PixelDiscriminator",
    "PretrainedMixin",
    "ResnetGenerator",
    "StylePipeline",
    "StyleforgeError",
    "UNetGenerator",
    "bundled_styles",
    "convert_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'styleforge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
