"""Whether a styled picture still shows its source: where its edges lie, and how light and dark are spread."""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses.pixel import gray, similarity, windows
from .pictures import Pairs, exact

_NOTHING = 1e-12  # variance of edges below which a picture has none


@exact(13)
def edges(real: Tensor, fake: Tensor) -> Tensor:
    """Correlation of the strength of edges, place by place.

    That strength is the length of the gradient (central differences) of luma, smoothed with the windows of SSIM, so
    that strokes and noise finer than about 4 pixels count little: of photographs of 256 px with noise (0.1 of the
    range) 0.97 was kept. Contrast, brightness and which side of an edge is the lighter one do not matter.

    Args:
        real: (B, 3, H, W) in [-1, 1], at least 13 pixels a side.
        fake: of the same shape.

    Returns:
        (B,), float64, from -1 to 1 for the same edges, about 0 for unrelated pictures. Where neither has any edges it
        is 1, where one has none 0.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    a, b = (x - x.mean(1, keepdim=True) for x in map(_strength, (real, fake)))
    aa, bb, ab = (a * a).mean(1), (b * b).mean(1), (a * b).mean(1)
    flat_a, flat_b = aa < _NOTHING, bb < _NOTHING
    return torch.where(flat_a | flat_b, (flat_a & flat_b).double(), ab / (aa * bb).sqrt())


@exact(11)
def structure(real: Tensor, fake: Tensor) -> Tensor:
    """:func:`styleforge.metrics.ssim.ssim` of BT.601 luma; arguments and errors as there."""
    return torch.mul(*similarity(gray(real), gray(fake))).mean((1, 2, 3))


class Content(Pairs):
    """Means of :func:`edges` and :func:`structure`, "edges" and "structure": more is kept, 1 is the same."""

    def __init__(self) -> None:
        super().__init__({"edges": edges, "structure": structure})


def _strength(images: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, places)."""
    luma = windows(gray(images))
    down, right = luma[..., 2:, 1:-1] - luma[..., :-2, 1:-1], luma[..., 1:-1, 2:] - luma[..., 1:-1, :-2]
    return torch.hypot(down, right).flatten(1)
