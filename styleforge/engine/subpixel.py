"""Maps that are doubled and then convolved, as one convolution of the map as it was.

Of what it makes four channels are the four pixels that a pixel becomes (sub-pixel convolution, Shi et al.,
https://arxiv.org/abs/1609.05158). Doubled by repeated pixels, a window of 3 x 3 sees four different ones, so that 16
products do for 36; doubled by bilinear interpolation, it sees nine, and four times as many channels come out of a
quarter of the pixels. Neither the doubled map nor a padded one is there. Near the borders it is computed as written.

A transposed convolution with a stride of 2 is one of pixels with zeros between. As written it multiplies as little; but
so it can be done in 8 bit, and of few channels that come out four times as many fill vectors.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor

from .calls import argument, pair

if TYPE_CHECKING:
    from .later import Later

TIMES = {"zeros": 0, "nearest": 1, "bilinear": 3}  # that two neighbours are summed up, of pixels with zeros between
SMALLEST = 8  # rows and columns of a map that has something inside
TAPS = (2, 7)  # rows and columns of a window, at least and at most
FEW = 4  # channels, up to which a transposed convolution is faster so, in 8 bit or not
PLACE = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}  # of the convolution to blocks

Pads = tuple[int, int, int, int]  # left, right, top, bottom


class Place(NamedTuple):
    """Where what a convolution makes of a doubled map is that of blocks.

    Attributes:
        size: rows and columns of what it makes.
        begin, end: rows and columns of blocks in that; with padding they may begin before it and end behind.
        pads: around the doubled map.
        mode: what is in them.
        padding: rows and columns of zeros around the map, for the convolution to blocks.
    """

    size: tuple[int, int]
    begin: tuple[int, int]
    end: tuple[int, int]
    pads: Pads
    mode: str
    padding: tuple[int, int] = (0, 0)

    @property
    def complete(self) -> bool:
        """Whether that is all of it."""
        return all(b <= 0 and e >= s for b, e, s in zip(self.begin, self.end, self.size, strict=True))

    def filled(self, blocks: Tensor) -> Tensor:
        """A new (B, K, H', W'), channels-last, in which only blocks are."""
        kind = {"dtype": blocks.dtype, "device": blocks.device}
        made = torch.empty(len(blocks), *self.size, blocks.shape[1] // 4, **kind).permute(0, 3, 1, 2)
        self.fill(made, blocks)
        return made

    def fill(self, made: Tensor, blocks: Tensor) -> None:
        """Put the pixels of blocks (B, 4 K, h, w) where they belong in (B, K, H', W')."""
        pixels = blocks.unflatten(1, (2, 2, -1))
        (row, column), (below, behind) = self.begin, self.end
        if not any(self.padding):
            inside = made[:, :, row:below, column:behind].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
            inside.copy_(pixels.permute(0, 3, 4, 1, 5, 2))
            return
        for down, across in itertools.product((0, 1), (0, 1)):
            (rows, columns), (y, x) = zip(
                _lines(row + down, pixels.shape[4], self.size[0]),
                _lines(column + across, pixels.shape[5], self.size[1]),
                strict=True,
            )
            made[:, :, rows, columns] = pixels[:, down, across, :, y, x]


class Small(NamedTuple):
    """A map that a convolution takes in place of a doubled one.

    Attributes:
        source: (B, C, H, W).
        how: it would be doubled, "zeros" by a transposed convolution.
        place: of blocks in what it makes.
    """

    source: Tensor
    how: str
    place: Place


class Doubled:
    """A map doubled, and then perhaps padded, which is made only if somebody wants it.

    Args:
        source: (B, C, H, W).
        how: "nearest" or "bilinear".
        pads: columns and rows on each side.
        mode: what is in them, "constant" (zeros) or "reflect".

    Attributes:
        made: (B, C, 2 H + top + bottom, 2 W + left + right), once it is.
    """

    def __init__(self, source: Tensor, how: str, pads: Pads = (0, 0, 0, 0), mode: str = "constant") -> None:
        self.source, self.how, self.pads, self.mode = source, how, pads, mode
        self.made: Tensor | None = None

    @classmethod
    def of(cls, args: Any, kwargs: Any) -> Doubled | None:
        """What a call of `interpolate` is to give, if it may be left to a convolution."""
        names = "input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"
        x, size, factor, how, aligned, _, smooth = (argument(args, kwargs, *each) for each in enumerate(names))
        how = how or "nearest"
        if isinstance(x, FakeTensor) or torch.is_grad_enabled() or x.ndim != 4:
            return None
        if how not in ("nearest", "bilinear") or aligned or smooth:
            return None
        asked = pair(size) if factor is None else tuple(map(operator.mul, pair(factor), x.shape[2:]))
        return cls(x, how) if asked == tuple(2 * side for side in x.shape[2:]) else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the map."""
        (batch, channels, height, width), (left, right, top, bottom) = self.source.shape, self.pads
        return batch, channels, 2 * height + top + bottom, 2 * width + left + right

    def make(self, compute: Callable[..., Tensor]) -> Tensor:
        """The map."""
        return self._part(compute, self.source, self.pads, self.mode)

    def padded(self, args: Any, kwargs: Any) -> Doubled | None:
        """The same with what a call of `pad` puts around it, if that may be left to a convolution, too."""
        pads, mode = argument(args, kwargs, 1, "pad"), argument(args, kwargs, 2, "mode", "constant")
        if any(self.pads) or self.made is not None or len(pads) != 4 or min(pads) < 0:
            return None
        if mode != "reflect" and (mode != "constant" or argument(args, kwargs, 3, "value")):
            return None
        return Doubled(self.source, self.how, tuple(pads), mode)

    def convolved(
        self, later: Later, func: Any, weight: Tensor, bias: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor | None:
        """What a convolution makes of the map, or None where it had better get that."""
        place = self.place(weight, options)
        if place is None:
            return None
        x, (left, right, top, bottom), (rows, columns) = self.source, place.pads, weight.shape[2:]
        made = place.filled(later.subpixels(x, weight, bias, self.how, place.padding))
        if place.complete:
            return made

        def border(into: Tensor, part: Tensor, pads: Pads, crop: tuple[slice, slice]) -> None:
            if into.numel():  # no more of the padded part than is looked at
                padded = self._part(later.compute, part, pads, place.mode)[:, :, *crop]
                into.copy_(later.compute(func, (padded, weight, bias), {}))

        (height, width), (above, begin), (below, end), whole = place.size, place.begin, place.end, slice(None)
        first, last = slice(above + rows - 1), slice(below - height - rows + 1, None)
        part = x[:, :, : _before(above + rows - 1 - top, top)]
        border(made[:, :, :above], part, (left, right, top, 0), (first, whole))
        part = x[:, :, _behind(below - top, bottom, x.shape[2]) :]
        border(made[:, :, below:], part, (left, right, 0, bottom), (last, whole))
        first, last = slice(begin + columns - 1), slice(end - width - columns + 1, None)
        part = x[..., : _before(begin + columns - 1 - left, left)]
        border(made[..., :begin], part, (left, 0, top, bottom), (whole, first))
        part = x[..., _behind(end - left, right, x.shape[3]) :]
        border(made[..., end:], part, (0, right, top, bottom), (whole, last))
        return made

    def place(self, weight: Tensor, options: Mapping[str, Any]) -> Place | None:
        """Where what a convolution makes of it is that of blocks; None where it had better get the map."""
        still = all(pair(options[name]) == (1, 1) for name in ("stride", "dilation"))
        if isinstance(options["padding"], str) or options["groups"] != 1 or not still:
            return None
        rows, columns = pair(options["padding"])
        if any(self.pads) and (rows or columns):
            return None
        pads, mode = ((columns, columns, rows, rows), "constant") if rows or columns else (self.pads, self.mode)
        return _place(self.source, weight, self.how, pads, mode)

    def _part(self, compute: Callable[..., Tensor], x: Tensor, pads: Pads, mode: str) -> Tensor:
        """Some rows or columns of it, from those of the source."""
        x = compute(F.interpolate, (x,), {"scale_factor": 2, "mode": self.how})
        return compute(F.pad, (x, pads), {"mode": mode}) if any(pads) else x


def transposed(x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> Place | None:
    """Where what a transposed convolution makes is that of blocks; None where it had better be done as written.

    Args:
        x: (B, C, H, W).
        weight: (C, K, h, w).
        options: all others of `torch.nn.functional.conv_transpose2d`.
    """
    if isinstance(x, FakeTensor) or torch.is_grad_enabled() or options["groups"] != 1:
        return None
    if pair(options["stride"]) != (2, 2) or pair(options["dilation"]) != (1, 1):
        return None
    given = zip(weight.shape[2:], pair(options["padding"]), pair(options["output_padding"]), strict=True)
    (top, bottom), (left, right) = ((tap - 1 - pad, tap - 2 - pad + more) for tap, pad, more in given)
    if min(top, left) < 1 or min(bottom, right) < 0:
        return None
    return _place(x, weight, "zeros", (left, right, top, bottom), "constant")


def together(weight: Tensor, bias: Tensor | None, how: str) -> tuple[Tensor, Tensor | None]:
    """Weight (4 K, C, h', w') and bias (4 K,) for the four pixels that a pixel becomes, row by row.

    Args:
        weight: (K, C, h, w), of a convolution of the doubled map; (C, K, h, w) of a transposed one.
        bias: (K,).
        how: that is doubled; "zeros" for a transposed one.
    """
    return joined(weight, how), None if bias is None else bias.repeat(4)


def _joined(weight: Tensor, how: str) -> Tensor:
    weight = weight.transpose(0, 1) if how == "zeros" else weight
    taps = tuple(weight.shape[2:])
    with torch.autocast("cpu", enabled=False):
        shares = weight.flatten(2) @ _shares(how, taps, weight.dtype)
    return shares.unflatten(2, (4, *_window(taps, how))).permute(2, 0, 1, 3, 4).flatten(0, 1)


@lru_cache(maxsize=32)  # few networks have two of them
def _shares(how: str, taps: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Which share each tap has in those of the four pixels, (h w, 4 h' w')."""
    one = torch.eye(taps[0] * taps[1], dtype=dtype, device="cpu").unflatten(1, taps)
    one = one.flip(1, 2) if how == "zeros" else one
    for _ in range(TIMES[how]):
        one = F.pad(one, (1, 0, 0, 0)) + F.pad(one, (0, 1, 0, 0))
        one = F.pad(one, (0, 0, 1, 0)) + F.pad(one, (0, 0, 0, 1))
    if how == "bilinear":
        one = one / 16
    # Every second tap meets a pixel, the others zeros between. The first pixel of a block is the one whose window
    # begins with such a zero.
    one = F.pad(one, (0, one.shape[2] % 2, 0, one.shape[1] % 2))
    return one.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).flip(2, 4).permute(0, 2, 4, 1, 3).flatten(1)


# One operation for torch, as in :mod:`.int8`.
if not hasattr(torch.ops.styleforge, "joined"):
    _library = torch.library.Library("styleforge", "FRAGMENT")
    _library.define("joined(Tensor weight, str how) -> Tensor")
    _library.impl("joined", _joined, "CPU")
joined = torch.ops.styleforge.joined.default


def products(weight: Tensor, how: str) -> int:
    """How many multiplications the convolution to blocks is for each value of the map; as for :func:`together`."""
    rows, columns = _window(weight.shape[2:], how)
    return 4 * weight.shape[how == "zeros"] * rows * columns


def _place(x: Tensor, weight: Tensor, how: str, pads: Pads, mode: str) -> Place | None:
    """Where blocks lie in what is made of a map; None where it is too small, or the window not of a usual size."""
    sides, taps, (left, right, top, bottom) = x.shape[2:], weight.shape[2:], pads
    if min(sides) < SMALLEST or min(taps) < TAPS[0] or max(taps) > TAPS[1]:
        return None
    size = 2 * sides[0] + top + bottom - taps[0] + 1, 2 * sides[1] + left + right - taps[1] + 1
    beside = (TIMES[how] + 1) // 2 - 1
    begin, seen = (top + beside, left + beside), _window(taps, how)
    end = begin[0] + 2 * (sides[0] - seen[0] + 1), begin[1] + 2 * (sides[1] - seen[1] + 1)
    if mode != "constant" or how == "bilinear":  # which repeats pixels at the borders
        return Place(size, begin, end, pads, mode)
    rows, columns = (-(-max(b, s - e) // 2) for b, e, s in zip(begin, end, size, strict=True))
    begin, end = (begin[0] - 2 * rows, begin[1] - 2 * columns), (end[0] + 2 * rows, end[1] + 2 * columns)
    return Place(size, begin, end, pads, mode, (rows, columns))


def _lines(begin: int, count: int, size: int) -> tuple[slice, slice]:
    """Which rows every second one is, from `begin` on, as far as there are `size`; and which of `count` lie there."""
    skipped = max(0, -(begin // 2))
    begin += 2 * skipped
    count = min(count - skipped, (size - begin + 1) // 2)
    return slice(begin, begin + 2 * count, 2), slice(skipped, skipped + count)


def _window(taps: Sequence[int], how: str) -> tuple[int, int]:
    """Rows and columns of the map that blocks see, where pixels of the doubled one see so many."""
    rows, columns = ((tap + TIMES[how] + 1) // 2 for tap in taps)
    return rows, columns


def _before(end: int, pads: int) -> int:
    """How many rows of a map those of the doubled one see that come before the row `end`, or are reflected."""
    return max(end - 1, pads) // 2 + 2


def _behind(begin: int, pads: int, size: int) -> int:
    """The first row of a map that those of the doubled one see from the row `begin` on, or where they are reflected."""
    return max(0, min(begin, 2 * size - pads - 1) // 2 - 1)
