"""Convolutions of 3 x 3 with a quarter of the multiplications, in float32 on CPUs.

Winograd's minimal filtering, as Lavin and Gray have it (https://arxiv.org/abs/1509.09308): four by four pixels come out
of six by six by 36 products for each pair of channels, where the sum of a convolution has 144. It is taken at the
points 0, 5/8, -5/8, 3/2, -3/2 and infinity. Theirs (0, 1, -1, 2, -2) have twice the error; with 256 channels it is 1e-6
of the result, where the plain sum has 2e-7.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor

STEP, TAPS = 4, 3
WIDE = STEP + TAPS - 1
POINTS = (0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)  # and infinity
CHANNELS = 192  # in and out, from which on it is faster: with fewer, changing the form takes what the products save
PIXELS = 1024  # of a map; below, there are too few places for each product
PLACES = 256  # multiplied at once, so that what lies between stays in the processor's cache

# oneDNN's product, twice as fast as that of torch.matmul on AMD. It has no public name; torch.compile calls it, too.
_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def suits(x: Tensor, weight: Tensor, stride: object, padding: object, dilation: object, groups: int) -> bool:
    """Whether :func:`conv3x3` can be put in the place of such a call of `torch.nn.functional.conv2d`, and is faster.

    Args:
        x: (B, C, H, W); the others are as they are given to it.
    """
    return (
        _linear is not None
        and not torch.is_grad_enabled()
        and not isinstance(x, FakeTensor)  # of which only the shape is asked
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[2:] == (TAPS, TAPS)
        and groups == 1
        and all(each in (1, (1, 1)) for each in (stride, dilation))
        and not isinstance(padding, str)
        and min(weight.shape[:2]) >= CHANNELS
        and x.shape[2:].numel() >= PIXELS
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int | tuple[int, int] = 0) -> Tensor:
    """What `torch.nn.functional.conv2d` gives, without gradients.

    Args:
        x: (B, C, H, W), float32.
        weight: (K, C, 3, 3).
        bias: (K,).
        padding: rows and columns of zeros on either side.

    Returns:
        (B, K, H', W'), channels-last.
    """
    backward, kernel, forward = transforms()
    above, left = (padding, padding) if isinstance(padding, int) else padding
    height, width = x.shape[2] + 2 * above - TAPS + 1, x.shape[3] + 2 * left - TAPS + 1
    down, right = -(-height // STEP), -(-width // STEP)  # squares
    border = left, left + STEP * right - width, above, above + STEP * down - height
    x = F.pad(x, border) if any(border) else x  # or it copies all the same
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    (line, pixel, each), channels = x.stride()[1:], x.shape[3]
    weights = _times(kernel, weight.permute(2, 3, 0, 1)).view(WIDE**2, *weight.shape[:2])
    made = x.new_empty(len(x), down, STEP, right, STEP, len(weight))
    rows = max(1, PLACES // right)  # of squares
    for image, into in zip(x, made, strict=True):
        for top, part in zip(range(0, down, rows), into.split(rows), strict=True):
            shape = WIDE, WIDE, len(part), right, channels
            squares = image[STEP * top :].as_strided(shape, (line, pixel, STEP * line, STEP * pixel, each))
            squares = _times(forward, squares).view(WIDE**2, -1, channels)
            products = torch.stack([_product(s, w) for s, w in zip(squares, weights, strict=True)])
            pixels = _times(backward, products).view(STEP, STEP, len(part), right, -1)
            part.copy_(pixels.permute(2, 0, 3, 1, 4))
            if bias is not None:
                part += bias
    return made.view(len(x), STEP * down, STEP * right, -1)[:, :height, :width].permute(0, 3, 1, 2)


def _times(matrix: Tensor, entries: Tensor) -> Tensor:
    """`matrix` (n, m) applied to m entries of whatever shape, the first one or two dimensions: (n, ...), flat."""
    return _product(matrix, entries.reshape(matrix.shape[1], -1).t())


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """As `torch.nn.functional.linear`."""
    return _linear(rows, weight, None, "none", [], "")


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of products to pixels (16, 36), of a kernel (36, 9) and of pixels (36, 36), in two dimensions.

    A product of polynomials is known from its values at as many points as it has coefficients (Toom and Cook): values
    of a kernel, values of what it slides over, and back. Turned around, it slides as convolutions of networks do.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)

    def values(count: int) -> Tensor:
        infinity = torch.arange(1 - count, 1, dtype=torch.float64) == 0  # where the highest power is all
        return torch.cat([points[:, None] ** torch.arange(count), infinity[None]])

    in_line = values(STEP).T, values(TAPS), torch.linalg.inv(values(WIDE)).T
    backward, kernel, forward = (torch.kron(each, each).float().contiguous() for each in in_line)
    return backward, kernel, forward
