"""Tiles of a picture: where each begins and ends, and what of a map lies in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .trace import Segment, Trace

Place = tuple[slice, slice, slice, slice]


class Pixels(Protocol):
    """A picture (1, C, H, W) that is made where it is looked at, so that it need not be there as a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def __getitem__(self, place: Place) -> Tensor: ...


class Paintable(Protocol):
    """What takes tiles (1, 3, h, w) as they are done."""

    def __setitem__(self, place: Place, styled: Tensor) -> None: ...


@dataclass(frozen=True)
class Span:
    """One side of a tile, in pixels of the picture.

    Attributes:
        begin, end: with the overlap.
        core_begin, core_end: without.
        size: of the picture.
    """

    begin: int
    end: int
    core_begin: int
    core_end: int
    size: int

    @property
    def length(self) -> int:
        """With the overlap."""
        return self.end - self.begin

    def features(self, scale: int, extent: int) -> int:
        """How many features lie in the tile, of a picture that has `extent` of them: at its end one may be a part."""
        return (extent if self.end == self.size else self.end // scale) - self.begin // scale

    def core(self, scale: int, length: int) -> slice:
        """Where the core lies in `length` features of the tile."""
        stop = length if self.core_end == self.size else (self.core_end - self.begin) // scale
        return slice((self.core_begin - self.begin) // scale, stop)


@dataclass(frozen=True)
class Tile:
    """A part of a picture."""

    rows: Span
    columns: Span

    @property
    def inside(self) -> bool:
        """Whether it touches no border of the picture."""
        return all(span.begin and span.end < span.size for span in (self.rows, self.columns))

    def cut(self, image: Tensor | Pixels) -> Tensor:
        """What of a picture lies in it, with the overlap."""
        return image[:, :, self.rows.begin : self.rows.end, self.columns.begin : self.columns.end].contiguous()

    def core(self, features: Tensor, scale: int) -> Tensor:
        """Its features without the overlap."""
        return features[:, :, self.rows.core(scale, features.shape[2]), self.columns.core(scale, features.shape[3])]

    def shape(self, extents: Mapping[int, tuple[int, int]]) -> tuple[int, ...]:
        """How many rows and columns of features it has of each scale, of a picture that has `extents` of them."""
        pairs = ((scale, self.rows, self.columns, *sizes) for scale, sizes in extents.items() if scale)
        counts = ((down.features(n, tall), across.features(n, wide)) for n, down, across, tall, wide in pairs)
        return tuple(itertools.chain.from_iterable(counts))

    def more(self, before: Tile, scale: int, height: int, width: int) -> tuple[int, int]:
        """How many more rows and columns of features it has than another, of a picture of so many."""
        sides = (self.rows, before.rows, height), (self.columns, before.columns, width)
        taller, wider = (now.features(scale, extent) - was.features(scale, extent) for now, was, extent in sides)
        return taller, wider

    def paste(self, core: Tensor, into: Tensor | Paintable) -> None:
        """Put what it has become where it lies."""
        rows, columns = self.rows, self.columns
        into[:, :, rows.core_begin : rows.core_end, columns.core_begin : columns.core_end] = core


def overlap(steps: Trace, segments: Sequence[Segment]) -> int:
    """How far a tile reaches over its neighbours for these parts of a pass, in pixels."""
    return math.ceil(steps.reach(segments) / steps.align) * steps.align


def tiles(steps: Trace, side: int, beyond: int) -> Iterator[Tile]:
    """Tiles of about equal size, row by row.

    Args:
        steps: of the pass over the whole picture.
        side: of a tile, in pixels, at most.
        beyond: how far they overlap.
    """
    both = [list(_spans(size, side, beyond, steps.align)) for size in (steps.height, steps.width)]
    return itertools.starmap(Tile, itertools.product(*both))


def _spans(size: int, side: int, beyond: int, align: int) -> Iterator[Span]:
    many = math.ceil(size / max(side, align))
    length = math.ceil(size / many / align) * align
    cuts = [number * length for number in range(many)]  # one length: what is noted down of one tile is good for others
    if size - cuts[-1] < length / 2:  # the last would be too little for networks that want to see something
        cuts = sorted({round(number * size / many / align) * align for number in range(many)} - {size})
    for begin, end in itertools.pairwise((*cuts, size)):
        yield Span(max(0, begin - beyond), min(size, end + beyond), begin, end, size)
