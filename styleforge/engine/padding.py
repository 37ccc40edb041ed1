"""Padding is left to the convolution behind it: to copy a large map takes half as long as to convolve it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode

from .calls import argument, convolution, pair, tensors

LARGE = 12 * 2**20  # bytes of a map from which on to convolve its borders once more takes less than to copy all of it
FEW = 16  # channels that come out, below which to convolve borders once more takes longer than the copy
_KNOWN = frozenset(("__get__", "dim", "numel", "size"))


class PadLater(TorchFunctionMode):
    """What `pad` gives is a stand-in. A convolution that gets it pads by itself, with zeros; where borders were to be
    reflected, it is done again for these alone. All others get what they ask for.

    Args:
        as_they_are: identities of the weights of convolutions that want their maps padded.
    """

    def __init__(self, as_they_are: Iterable[int] = ()) -> None:
        super().__init__()
        self._as_they_are = frozenset(as_they_are)
        self._waiting: WeakSet[_Padded] = WeakSet()

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call in which there are no stand-ins."""
        return func(*args, **kwargs)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "pad" and (padded := _padded(args, kwargs)):
            self._waiting.add(padded)
            return padded.stand_in()
        if not self._waiting:  # nobody has one; there are many small calls
            return self.compute(func, args, kwargs)
        first = getattr(args[0], "_padded", None) if args else None
        if first and name == "detach":
            return first.stand_in()
        if first and name in _KNOWN and not isinstance(known := func(*args, **kwargs), Tensor):
            return known
        if first and name == "conv2d" and (made := self._convolved(func, first, args, kwargs)) is not None:
            return made
        given = list(tensors((args, kwargs)))
        for padded in list(self._waiting):
            if any(_shared(one, padded.source) for one in given):  # it may be about to change
                self._made(padded)
        if any(hasattr(one, "_padded") for one in given):
            args, kwargs = self._filled(args), self._filled(kwargs)
        return self.compute(func, args, kwargs)

    def _made(self, padded: _Padded) -> Tensor:
        if padded.made is None:
            rows, columns = padded.pads
            mode = "reflect" if padded.reflected else "constant"
            padded.made = self.compute(F.pad, (padded.source, (columns, columns, rows, rows)), {"mode": mode})
        return padded.made

    def _filled(self, value: Any) -> Any:
        """With stand-ins replaced by what they stand for."""
        if type(value) in (tuple, list):
            return type(value)(map(self._filled, value))
        if isinstance(value, dict):
            return {key: self._filled(inner) for key, inner in value.items()}
        padded = getattr(value, "_padded", None) if isinstance(value, Tensor) else None
        return value if padded is None else self._made(padded)

    def _convolved(self, func: Any, padded: _Padded, args: Any, kwargs: Any) -> Tensor | None:
        """What a convolution makes of a stand-in, or None where it is better off with what that stands for."""
        weight, bias, options = convolution("conv2d", args, kwargs)
        plain = options["padding"] in (0, (0, 0)) and pair(options["dilation"]) == (1, 1)
        small = any(length < 2 * pad + 1 for length, pad in zip(weight.shape[2:], padded.pads, strict=True))
        few = padded.reflected and len(weight) < FEW
        if padded.made is not None or not plain or small or few or id(weight) in self._as_they_are:
            return None
        made = self.compute(func, (padded.source, weight, bias), {**options, "padding": padded.pads})
        if not padded.reflected:
            return made
        x, (rows, columns) = padded.source, padded.pads
        kernel, stride = weight.shape[2:], pair(options["stride"])
        spans = [_inside(*each) for each in zip(x.shape[2:], made.shape[2:], padded.pads, kernel, stride, strict=True)]
        (top, bottom, above, below), (left, right, before, behind) = spans

        def reflect(place: Tensor, part: Tensor, pads: tuple[int, int, int, int]) -> None:
            if place.numel():
                part = self.compute(F.pad, (part, pads), {"mode": "reflect"})
                place.copy_(self.compute(func, (part, weight, bias), options))

        reflect(made[:, :, :top], x[:, :, :above], (columns, columns, rows, 0))
        reflect(made[:, :, bottom:], x[:, :, below:], (columns, columns, 0, rows))
        middle = slice(top * stride[0] - rows, (bottom - 1) * stride[0] - rows + kernel[0])
        reflect(made[:, :, top:bottom, :left], x[:, :, middle, :before], (columns, 0, 0, 0))
        reflect(made[:, :, top:bottom, right:], x[:, :, middle, behind:], (0, columns, 0, 0))
        return made


class _Padded:
    """A map with its borders, which is made only if somebody wants it.

    Args:
        source: (B, C, H, W).
        pads: how many rows and columns on either side.
        reflected: what is in them, else zeros.

    Attributes:
        made: (B, C, H + 2 * rows, W + 2 * columns), once it is.
    """

    def __init__(self, source: Tensor, pads: tuple[int, int], reflected: bool) -> None:
        self.source, self.pads, self.reflected = source, pads, reflected
        self.made: Tensor | None = None

    def stand_in(self) -> Tensor:
        """A tensor of the right shape, and of no size."""
        (batch, channels, height, width), (rows, columns) = self.source.shape, self.pads
        stand_in = self.source.new_empty(1).expand(batch, channels, height + 2 * rows, width + 2 * columns)
        stand_in._padded = self
        return stand_in


def _padded(args: Any, kwargs: Any) -> _Padded | None:
    """What a call of `pad` is to give, if it may be left to a convolution."""
    x, pads = (argument(args, kwargs, place, name) for place, name in enumerate(("input", "pad")))
    mode, value = argument(args, kwargs, 2, "mode", "constant"), argument(args, kwargs, 3, "value")
    if isinstance(x, FakeTensor) or x.requires_grad or x.ndim != 4 or hasattr(x, "_padded"):
        return None
    if len(pads) != 4 or tuple(pads[::2]) != tuple(pads[1::2]) or min(pads) < 0 or max(pads) == 0:
        return None
    reflected = mode == "reflect" and x.nbytes >= LARGE and min(x.shape[2:]) > 4 * max(pads)
    return _Padded(x, (pads[2], pads[0]), reflected) if reflected or (mode == "constant" and not value) else None


def _shared(one: Tensor, other: Tensor) -> bool:
    """Whether two lie in the same memory, as views do; weights in the order of oneDNN lie in none that can be asked."""
    return not one.is_mkldnn and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _inside(size: int, outputs: int, pad: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Of the outputs of a convolution along one side: the first and the end of those that see nothing of the borders;
    the end of what those before them see of the map, and the begin of what those behind see.
    """
    first, end = -(-pad // stride), (size + pad - kernel) // stride + 1
    while end < outputs and size + pad - end * stride <= pad:  # too little to be reflected
        end -= 1
    return first, end, (first - 1) * stride - pad + kernel, end * stride - pad
