"""Pads of a convolution's map: it pads by itself, with zeros; where borders are to be reflected, it is done again for
these alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor

from .calls import argument, pair

if TYPE_CHECKING:
    from .later import Later

LARGE = 12 * 2**20  # bytes of a map from which on to convolve its borders once more takes less than to copy all of it
FEW = 16  # channels that come out, below which to convolve borders once more takes longer than the copy


class Padded:
    """A map with its borders, which is made only if somebody wants it.

    Args:
        source: (B, C, H, W).
        pads: how many rows and columns on either side.
        reflected: what is in them, else zeros.

    Attributes:
        made: (B, C, H + 2 * rows, W + 2 * columns), once it is.
    """

    how = "padded"

    def __init__(self, source: Tensor, pads: tuple[int, int], reflected: bool) -> None:
        self.source, self.pads, self.reflected = source, pads, reflected
        self.made: Tensor | None = None

    @classmethod
    def of(cls, args: Any, kwargs: Any) -> Padded | None:
        """What a call of `pad` is to give, if it may be left to a convolution."""
        x, pads = (argument(args, kwargs, place, name) for place, name in enumerate(("input", "pad")))
        mode, value = argument(args, kwargs, 2, "mode", "constant"), argument(args, kwargs, 3, "value")
        if isinstance(x, FakeTensor) or x.requires_grad or x.ndim != 4:
            return None
        if len(pads) != 4 or tuple(pads[::2]) != tuple(pads[1::2]) or min(pads) < 0 or max(pads) == 0:
            return None
        reflected = mode == "reflect" and x.nbytes >= LARGE and min(x.shape[2:]) > 4 * max(pads)
        return cls(x, (pads[2], pads[0]), reflected) if reflected or (mode == "constant" and not value) else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the map."""
        (batch, channels, height, width), (rows, columns) = self.source.shape, self.pads
        return batch, channels, height + 2 * rows, width + 2 * columns

    def make(self, compute: Callable[..., Tensor]) -> Tensor:
        """The map."""
        rows, columns = self.pads
        mode = "reflect" if self.reflected else "constant"
        return compute(F.pad, (self.source, (columns, columns, rows, rows)), {"mode": mode})

    def padded(self, args: Any, kwargs: Any) -> None:
        """Nothing that is padded again is left to a convolution."""

    def convolved(
        self, later: Later, func: Any, weight: Tensor, bias: Tensor | None, options: dict[str, Any]
    ) -> Tensor | None:
        """What a convolution makes of the map, or None where it had better get that."""
        plain = options["padding"] in (0, (0, 0)) and pair(options["dilation"]) == (1, 1)
        small = any(length < 2 * pad + 1 for length, pad in zip(weight.shape[2:], self.pads, strict=True))
        if not plain or small or (self.reflected and len(weight) < FEW):
            return None
        made = later.compute(func, (self.source, weight, bias), {**options, "padding": self.pads})
        if not self.reflected:
            return made
        x, (rows, columns) = self.source, self.pads
        kernel, stride = weight.shape[2:], pair(options["stride"])
        spans = [_inside(*each) for each in zip(x.shape[2:], made.shape[2:], self.pads, kernel, stride, strict=True)]
        (top, bottom, above, below), (left, right, before, behind) = spans

        def reflect(place: Tensor, part: Tensor, pads: tuple[int, int, int, int]) -> None:
            if place.numel():
                part = later.compute(F.pad, (part, pads), {"mode": "reflect"})
                place.copy_(later.compute(func, (part, weight, bias), options))

        reflect(made[:, :, :top], x[:, :, :above], (columns, columns, rows, 0))
        reflect(made[:, :, bottom:], x[:, :, below:], (columns, columns, 0, rows))
        middle = slice(top * stride[0] - rows, (bottom - 1) * stride[0] - rows + kernel[0])
        reflect(made[:, :, top:bottom, :left], x[:, :, middle, :before], (columns, 0, 0, 0))
        reflect(made[:, :, top:bottom, right:], x[:, :, middle, behind:], (0, columns, 0, 0))
        return made


def _inside(size: int, outputs: int, pad: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Of the outputs of a convolution along one side: the first and the end of those that see nothing of the borders;
    the end of what those before them see of the map, and the begin of what those behind see.
    """
    first, end = -(-pad // stride), (size + pad - kernel) // stride + 1
    while end < outputs and size + pad - end * stride <= pad:  # too little to be reflected
        end -= 1
    return first, end, (first - 1) * stride - pad + kernel, end * stride - pad
