"""Pads and doubled maps are left to the convolution behind them: to copy a large map takes half as long as to convolve
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .calls import convolution, tensors
from .padding import Padded
from .subpixel import Doubled, Small, together, transposed

_BEGINNINGS = {"pad": Padded.of, "interpolate": Doubled.of}  # of maps that are there
_KNOWN = frozenset(("__get__", "dim", "numel", "size"))


class Later(TorchFunctionMode):
    """What `pad` gives, and `interpolate` where it doubles a map, is a stand-in. A convolution that gets it computes
    the same without, see :mod:`.padding` and :mod:`.subpixel`. All others get what they ask for.

    Args:
        only: convolutions that take no stand-ins, by the identity of the weight, or just those of maps that are doubled
            as it is said there.
    """

    def __init__(self, only: Mapping[int, str | None] | None = None) -> None:
        super().__init__()
        self._only = only or {}
        self._waiting: WeakSet[Padded | Doubled] = WeakSet()

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call in which there are no stand-ins."""
        return func(*args, **kwargs)

    def subpixels(self, x: Tensor, weight: Tensor, bias: Tensor | None, how: str, padding: tuple[int, int]) -> Tensor:
        """The convolution that makes blocks, (B, 4 K, h, w), of a map that would be doubled; see :mod:`.subpixel`."""
        return self.compute(F.conv2d, (x, *together(weight, bias, how)), {"padding": padding})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = waiting(args[0]) if args and self._waiting else None
        begin = _BEGINNINGS.get(name) if first is None else first.padded if name == "pad" else None
        if begin and (begun := begin(args, kwargs)):
            self._waiting.add(begun)
            return _stand_in(begun)
        if not self._waiting:  # nobody has one; there are many small calls
            return self.compute(func, args, kwargs)
        if first and name == "detach":
            return _stand_in(first)
        if first and name in _KNOWN and not isinstance(known := func(*args, **kwargs), Tensor):
            return known
        if first and name == "conv2d" and (made := self._convolved(func, first, args, kwargs)) is not None:
            return made
        given = list(tensors((args, kwargs)))
        for one in list(self._waiting):
            if any(_shared(other, one.source) for other in given):  # it may be about to change
                self._made(one)
        if any(waiting(one) for one in given):
            args, kwargs = self._filled(args), self._filled(kwargs)
        return self.compute(func, args, kwargs)

    def _convolved(self, func: Any, first: Padded | Doubled, args: Any, kwargs: Any) -> Tensor | None:
        """What a convolution makes of a stand-in, or None where it is better off with what that stands for."""
        weight, bias, options = convolution("conv2d", args, kwargs)
        if first.made is not None or self._only.get(id(weight), first.how) != first.how:
            return None
        return first.convolved(self, func, weight, bias, options)

    def _made(self, one: Padded | Doubled) -> Tensor:
        if one.made is None:
            one.made = one.make(self.compute)
        return one.made

    def _filled(self, value: Any) -> Any:
        """With stand-ins replaced by what they stand for."""
        if type(value) in (tuple, list):
            return type(value)(map(self._filled, value))
        if isinstance(value, dict):
            return {key: self._filled(inner) for key, inner in value.items()}
        one = waiting(value)
        return value if one is None else self._made(one)


def waiting(value: Any) -> Padded | Doubled | None:
    """What is to be made of the map that a stand-in stands for; None if it is none."""
    return getattr(value, "_waiting", None) if isinstance(value, Tensor) else None


def small(name: str, x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> Small | None:
    """Of which map a convolution is one to blocks; None if it is of that which it is given.

    Args:
        name: "conv2d" or "conv_transpose2d".
        x, weight, options: of that.
    """
    if name == "conv_transpose2d":
        place = transposed(x, weight, options)
        return place and Small(x, "zeros", place)
    one = waiting(x)
    place = one.place(weight, options) if isinstance(one, Doubled) else None
    return place and Small(one.source, one.how, place)


def _stand_in(one: Padded | Doubled) -> Tensor:
    """A tensor of the right shape, and of no size."""
    stand_in = one.source.new_empty(1).expand(one.shape)
    stand_in._waiting = one
    return stand_in


def _shared(one: Tensor, other: Tensor) -> bool:
    """Whether two lie in the same memory, as views do; weights in the order of oneDNN lie in none that can be asked."""
    return not one.is_mkldnn and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
