"""DiffAugment (Zhao et al., 2020): a discriminator that sees all pictures, real and fake, changed at random.

So it cannot learn a few real ones by heart, and because the changes are differentiable the generator still learns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ConfigError, nearest


def diff_augment(image: Tensor, policy: str, generator: torch.Generator) -> Tensor:
    """Change each picture of a batch in its own way.

    Args:
        image: (B, C, H, W) in [-1, 1]; the result may leave that range. With a multiple of 3 channels each three are
            a picture of their own (the pairs of pix2pix): all get the same change.
        policy: words out of "color", "translation" and "cutout", separated by commas, applied in this order;
            "" changes nothing.
        generator: CPU randomness.
    """
    for word in check_policy(policy):
        image = CHANGES[word](image, generator)
    return image


def check_policy(text: str) -> list[str]:
    """The words of a policy; raises :class:`ConfigError` for one that does not exist."""
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if word not in CHANGES:
            raise ConfigError(
                "Unknown augmentation",
                found=repr(word),
                allowed=", ".join(CHANGES),
                todo=f"{nearest(word, CHANGES)}Separate several by commas.",
            )
    return words


def _color(image: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness +-.5, then saturation x0 to x2, then contrast x.5 to x1.5."""
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1, 1, generator=generator).to(image)
    x = image.unflatten(1, (-1, math.gcd(image.shape[1], 3)))
    x = x + (brightness - 0.5)
    mean = x.mean(2, keepdim=True)
    x = (x - mean) * (2 * saturation) + mean
    mean = x.mean((2, 3, 4), keepdim=True)
    return ((x - mean) * (contrast + 0.5) + mean).flatten(1, 2)


def _translation(image: Tensor, generator: torch.Generator) -> Tensor:
    """By up to an eighth of each side; what comes in is 0, a medium gray."""
    height, width = image.shape[2:]
    y, x = (int(side / 8 + 0.5) for side in (height, width))
    tops, lefts = (torch.randint(2 * most + 1, (len(image),), generator=generator).tolist() for most in (y, x))
    padded = F.pad(image, (x, x, y, y))
    return torch.stack(
        [p[:, top : top + height, left : left + width] for p, top, left in zip(padded, tops, lefts, strict=True)]
    )


def _cutout(image: Tensor, generator: torch.Generator) -> Tensor:
    """A box of half of each side becomes 0; its center is anywhere, so part of it may lie outside."""
    down, right = (_span(side, len(image), generator) for side in image.shape[2:])
    return image * ~(down[:, None, :, None] & right[:, None, None, :]).to(image.device)


def _span(side: int, count: int, generator: torch.Generator) -> Tensor:
    """Which of `side` places the boxes cover, (count, side)."""
    size = int(side / 2 + 0.5)
    first = torch.randint(side + 1 - size % 2, (count, 1), generator=generator) - size // 2
    places = torch.arange(side)
    return (first <= places) & (places < first + size)


CHANGES = {"color": _color, "translation": _translation, "cutout": _cutout}
