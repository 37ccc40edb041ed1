"""Convolutions to few channels, as at the end of every network that makes a picture, by blocks of pixels.

x86 CPUs compute 8 or 16 channels that come out at once, and of three throw the rest away. So the pixels of a block of
2 x 1 or 2 x 2 become channels: six or twelve. Their window is larger than that of a pixel (for 7 x 7, 64 taps in place
of 49) and moves by a block. What is computed is the same, but for zeros and the order of sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor

from ..precision import lanes
from .calls import pair

SIZES = {16: (2, 2), 8: (2, 1)}  # rows and columns of a block, one or two, by the lanes of a vector
CHANNELS = 4  # that come out, at most
TAPS = 9  # at least; of fewer the larger window has twice as many or more
PIXELS = 2048  # of a map; below, weights take longer to be put together


def size() -> tuple[int, int]:
    """Rows and columns of a block on this processor."""
    return SIZES[lanes()]


def suits(x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> bool:
    """Whether a convolution is faster by blocks.

    Args:
        x: (B, C, H, W).
        weight: (K, C, h, w).
        options: all others of `torch.nn.functional.conv2d`.
    """
    if torch.is_grad_enabled() or isinstance(x, FakeTensor):  # of which only the shape is asked
        return False
    return x.shape[2:].numel() >= PIXELS and suits_weight(weight, options)


def suits_weight(weight: Tensor, options: Mapping[str, Any]) -> bool:
    """The same of large maps."""
    if len(weight) > CHANNELS or weight.shape[2:].numel() < TAPS or options["groups"] != 1:
        return False
    still = all(pair(options[name]) == (1, 1) for name in ("stride", "dilation"))
    return still and not isinstance(options["padding"], str) and lanes() in SIZES


def place(x: Tensor, taps: Sequence[int], padding: int | Sequence[int]) -> tuple[dict[str, Any], tuple[int, int]]:
    """Options of the convolution to blocks, and how many rows and columns that come out first are none of the map's.

    Where rows do not fill blocks, these begin before them: padded there, maps need no copy.

    Args:
        x: (B, C, H, W).
        taps: (h, w) of the window of a pixel.
        padding: rows and columns of zeros on either side.
    """
    stride, pads = size(), pair(padding)
    places = zip(x.shape[2:], taps, pads, stride, strict=True)
    spare = tuple((length + 2 * pad - tap + 1) % block for length, tap, pad, block in places)
    padding = tuple(pad + more for pad, more in zip(pads, spare, strict=True))
    return {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": 1}, spare


def together(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight (n K, C, h', w') and bias (n K,) for blocks of n pixels, of those for pixels."""
    rows, columns = size()
    ways = [(c, columns - 1 - c, r, rows - 1 - r) for r in range(rows) for c in range(columns)]
    weight = torch.stack([F.pad(weight, way) for way in ways], 1).flatten(0, 1)
    return weight, None if bias is None else bias.repeat_interleave(len(ways))


def apart(blocks: Tensor, spare: tuple[int, int]) -> Tensor:
    """Pixels (B, K, H', W') of blocks (B, n K, ..., ...)."""
    pixels = blocks.unflatten(1, (-1, *size())).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    return pixels[:, :, spare[0] :, spare[1] :]
