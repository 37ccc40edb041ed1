"""The picture of a card: what a style does, in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from .. import images
from ..errors import ConfigError
from ..pipeline import StylePipeline

SIDE, GAP, MADE = 512, 6, 4  # pixels of a picture in the row, and between two; most pictures in it


def draw(pipe: StylePipeline, picture: Any = None, reference: Any = None) -> Image.Image:
    """A picture before and after, or what comes out of noise.

    Args:
        pipe: the style.
        picture: in any form that :func:`styleforge.images.read` takes; none for noise.
        reference: the same, for networks that take any style.

    Raises:
        ConfigError: a picture that is missing, or of no use.
        ImageError: one that cannot be used.
    """
    can = pipe.model.capabilities
    _check("picture", picture, "image" in can.inputs)
    _check("reference", reference, "style" in can.inputs)
    if picture is None:
        return _row(pipe.generate(MADE, seed=0))
    before = _small(picture)
    if reference is not None:
        lent = _small(reference)
        return _row([before, lent, pipe(before, style=lent)])
    styles = range(min(can.styles, MADE - 1)) if can.styles > 1 else [None]
    return _row([before, *(pipe(before, style=style) for style in styles)])


def _check(name: str, given: Any, wanted: bool) -> None:
    if wanted and given is None:
        raise ConfigError(f"This style needs a {name} to show what it does", todo=f"Give --{name} FILE.")
    if given is not None and not wanted:
        raise ConfigError(f"This style takes no {name}", todo=f"Leave out --{name}.")


def _small(picture: Any) -> Image.Image:
    image = images.to_pil(images.read(picture).tensor())
    image.thumbnail((SIDE, SIDE))
    return image


def _row(tiles: Sequence[Image.Image]) -> Image.Image:
    """Pictures beside each other, of one height."""
    height = min(tile.height for tile in tiles)
    tiles = [tile.resize((max(1, round(tile.width * height / tile.height)), height)) for tile in tiles]
    row = Image.new("RGB", (sum(tile.width for tile in tiles) + GAP * (len(tiles) - 1), height), "white")
    left = 0
    for tile in tiles:
        row.paste(tile.convert("RGB"), (left, 0))
        left += tile.width + GAP
    return row
