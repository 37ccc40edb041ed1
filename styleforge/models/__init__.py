"""Networks. `MODELS` is the closed table of what can be loaded; a new family is one file and one name here."""

from __future__ import annotations

from ..hub import PretrainedMixin
from .patch import PatchDiscriminator, PixelDiscriminator
from .resnet import ResnetGenerator
from .unet import UNetGenerator

MODELS: tuple[type[PretrainedMixin], ...] = (
    ResnetGenerator,
    UNetGenerator,
    PatchDiscriminator,
    PixelDiscriminator,
)

__all__ = ["MODELS", "PretrainedMixin", *(model.__name__ for model in MODELS)]
