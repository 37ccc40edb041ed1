"""Damage on purpose: what a restoration learns to undo. All pictures are (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .errors import ConfigError, nearest

HOLE = (1.0, -1.0, 1.0)
"""The color of what is missing, magenta: nobody's photograph has it, and any paint program does."""


def damage(image: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """Damage each picture of a batch in its own way.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        kinds: words of :data:`KINDS`, applied in their order there.
        generator: CPU randomness.

    Returns:
        The same shape and range.

    Raises:
        ConfigError: a kind that does not exist.
    """
    check_kinds(kinds)
    made = []
    for one in image.split(1):
        for kind in (kind for kind in KINDS if kind in kinds):
            one = KINDS[kind](one, generator)
        made.append(one.clamp(-1, 1))
    return torch.cat(made)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises :class:`ConfigError` for a kind of damage that does not exist, or for none at all."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(
                "Unknown damage", found=repr(kind), allowed=", ".join(KINDS), todo=f"{nearest(kind, KINDS)}Correct it."
            )
    if not kinds:
        raise ConfigError("No damage, nothing to restore", allowed=", ".join(KINDS), todo="Name at least one.")


def dark(image: Tensor, generator: torch.Generator) -> Tensor:
    """A photograph at night: a gamma of 2 to 3.5, a cast of color, and the noise of few photons."""
    gamma, photons, *cast = _uniform(generator, (2.0, 3.5), (200, 2000), *[(0.85, 1.0)] * 3)
    light = ((image + 1) / 2) ** gamma * torch.tensor(cast, device=image.device).view(1, 3, 1, 1)
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (light + (light / photons).sqrt() * noise) * 2 - 1


def blur(image: Tensor, generator: torch.Generator) -> Tensor:
    """Out of focus (a gaussian of 0.5 to 3 pixels) or shaken (a straight line of 3 to 13 pixels), evenly often."""
    focus, deviation, length, angle = _uniform(generator, (0, 1), (0.5, 3), (3, 13), (0, math.pi))
    y, x = torch.meshgrid(*[torch.arange(-9.0, 10.0)] * 2, indexing="ij")
    if focus < 0.5:
        kernel = torch.exp(-(x * x + y * y) / (2 * deviation**2))
    else:
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        kernel = (1 - across.abs()).clamp(min=0) * (length / 2 + 0.5 - along.abs()).clamp(0, 1)
    kernel = (kernel / kernel.sum()).to(image).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image, [9] * 4, mode="replicate"), kernel, groups=3)


def low_resolution(image: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the size, and back."""
    size, half = image.shape[2:], [-(-side // 2) for side in image.shape[2:]]
    small = F.interpolate(image, half, mode="bicubic", antialias=True, align_corners=False)
    return F.interpolate(small, size, mode="bicubic", align_corners=False)


def noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of 5 to 50 of 255 levels."""
    (deviation,) = _uniform(generator, (5, 50))
    return image + torch.randn(image.shape, generator=generator).to(image) * deviation / 127.5


def jpeg(image: Tensor, generator: torch.Generator) -> Tensor:
    """Compressed too much: JPEG of quality 10 to 60."""
    (quality,) = _uniform(generator, (10, 60))
    pixels = ((image[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(quality))
    with Image.open(file) as opened:
        return torch.from_numpy(np.array(opened)).permute(2, 0, 1)[None].to(image) / 127.5 - 1


def fade(image: Tensor, generator: torch.Generator) -> Tensor:
    """An old print: less contrast and color, yellowed, with light scratches."""
    contrast, color, yellow, scratches = _uniform(generator, (0.4, 0.9), (0, 0.6), (0, 0.3), (2, 9))
    gray = image.mean(1, keepdim=True)
    faded = (gray + color * (image - gray)) * contrast + 1 - contrast
    faded = faded - torch.tensor([0.0, 0.3, 1.0], device=image.device).view(1, 3, 1, 1) * yellow
    lines = _strokes(image, round(scratches), (0.002, 0.006), generator)
    return torch.where(lines, torch.ones_like(faded) * 0.9, faded)


def hole(image: Tensor, generator: torch.Generator) -> Tensor:
    """Free strokes painted over with :data:`HOLE`, over a tenth to two fifths of most pictures."""
    return _painted_over(image, (2, 6), (0.06, 0.16), generator)


def scratch(image: Tensor, generator: torch.Generator) -> Tensor:
    """Thin strokes painted over with :data:`HOLE`, as for scratches, wires and dates."""
    return _painted_over(image, (3, 12), (0.005, 0.035), generator)


KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "dark": dark,
    "blur": blur,
    "low_resolution": low_resolution,
    "noise": noise,
    "jpeg": jpeg,
    "fade": fade,
    "hole": hole,
    "scratch": scratch,
}
"""Kinds of damage, in the order in which a picture meets them: in the scene, the camera, the file, and on paper."""


def _uniform(generator: torch.Generator, *intervals: tuple[float, float]) -> list[float]:
    drawn = torch.rand(len(intervals), generator=generator).tolist()
    return [low + share * (high - low) for share, (low, high) in zip(drawn, intervals, strict=True)]


def _painted_over(
    image: Tensor, count: tuple[float, float], width: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """With about `count` strokes of :data:`HOLE`; see :func:`_strokes`."""
    missing = _strokes(image, round(_uniform(generator, count)[0]), width, generator)
    return torch.where(missing, torch.tensor(HOLE).to(image).view(1, 3, 1, 1), image)


def _strokes(image: Tensor, count: int, width: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Winding strokes, their width a share of the shorter side: (1, 1, H, W), true where they are."""
    height, length = image.shape[2:]
    drawing = Image.new("1", (length, height))
    pen = ImageDraw.Draw(drawing)
    for _ in range(count):
        x, y, thick, turn = _uniform(generator, (0, length), (0, height), width, (0, 2 * math.pi))
        points = [(x, y)]
        for _ in range(6):
            bend, far = _uniform(generator, (-0.9, 0.9), (0.05, 0.15))
            turn += bend
            x, y = x + math.cos(turn) * far * length, y + math.sin(turn) * far * height
            points.append((x, y))
        pen.line(points, fill=1, width=max(1, round(thick * min(height, length))), joint="curve")
    return torch.from_numpy(np.array(drawing))[None, None].to(image.device)
