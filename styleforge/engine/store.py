"""Maps of a whole picture between two parts of a pass: in memory as long as there is room, else in a file."""

from __future__ import annotations

import errno
import heapq
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from torch import Tensor

from .. import memory
from ..errors import ConfigError
from .spans import Tile
from .trace import Segment, Trace, exchanges, replaced

ROWS = 16  # of the largest map that a page holds: so little of a page is left over, and few are begun for a tile


@dataclass
class _Map:
    """A map of the whole picture, channels last, in pages of so many rows.

    Attributes:
        shape: of a page: rows, columns, channels.
        row: bytes.
        rows: of a page.
        last: whether who gave it had its channels last, too.
        pages: their numbers, by place; only those that are there.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    row: int
    rows: int
    last: bool
    pages: dict[int, int] = field(default_factory=dict)

    def parts(self, begin: int, many: int) -> Iterator[tuple[int, slice, slice]]:
        """Of so many rows from one on: place of the page, rows of the page, and the same rows counted from `begin`."""
        row, end = begin, begin + many
        while row < end:
            place, first = divmod(row, self.rows)
            stop = min(row + self.rows - first, end)
            yield place, slice(first, first + stop - row), slice(row - begin, stop - begin)
            row = stop


class Store:
    """Maps by step, put together from tiles.

    All consist of pages of one size, so those that come take the pages of those that go, row by row as tiles go down
    the picture: two maps of which one replaces the other need little more room than one. The first pages are memory,
    further ones places in a file without a name, so that it goes with the process, however that ends.

    Args:
        steps: of the pass over the whole picture.
        segments: its parts.
        limit: bytes in memory.
        device: where maps in memory are.
        ahead: how much of the picture, at most 1, is put before what is no longer needed there is given back.

    Raises:
        ConfigError: what does not fit into memory does not fit onto the disk.
    """

    def __init__(
        self, steps: Trace, segments: Sequence[Segment], limit: int, device: torch.device, ahead: float = 1.0
    ) -> None:
        kept = {step for segment in segments for step in segment.kept}
        self._steps, self._maps = steps, {}
        self._page = -(-ROWS * max((_row(steps, step) for step in kept), default=0) // 64) * 64
        need = self._needed(segments, ahead)
        here = min(need, limit // self._page) if need else 0
        if need > here:
            _check_disk((need - here) * self._page)
        # On CPUs memory only as soon as it is written to.
        self._memory = torch.empty(here * self._page, dtype=torch.uint8, device=device)
        self._here, self._file = here, None
        self._spare: list[int] = []  # the lowest first: those in memory
        self._new = count()
        self._lock = threading.Lock()
        self.one_at_a_time = threading.Lock()  # for what threads must not do side by side

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file:
            self._file.close()
        self._maps, self._memory = {}, None

    def put(self, step: int, tile: Tile, core: Tensor) -> None:
        """Keep features (1, C, h, w) of a tile, without its overlap."""
        scale, core = self._steps.scales[step], core[0].permute(1, 2, 0)
        down, right = tile.rows.core_begin // scale, tile.columns.core_begin // scale
        known = self._map(step, core)
        for place, rows, part in known.parts(down, len(core)):
            page = self._taken(known, place)
            if page < self._here:
                self._seen(known, page)[rows, right : right + core.shape[1]] = core[part]
            else:
                with _on_disk():
                    for at, line in self._lines(known, page, rows, right, core[part].cpu()):
                        self._file.write(line, at)

    def get(self, step: int, tile: Tile, like: Tensor) -> Tensor:
        """A tile's features with its margins, of the shape and type of `like`."""
        scale, known = self._steps.scales[step], self._maps[step]
        down, right = tile.rows.begin // scale, tile.columns.begin // scale
        made = torch.empty((*like.shape[2:], like.shape[1]), dtype=like.dtype, device=like.device)
        for place, rows, part in known.parts(down, len(made)):
            page, into = known.pages[place], made[part]
            if page < self._here:
                into.copy_(self._seen(known, page)[rows, right : right + made.shape[1]])
            else:
                read = into if into.is_cpu else torch.empty_like(into, device="cpu")
                with _on_disk():
                    for at, line in self._lines(known, page, rows, right, read):
                        self._file.read(line, at)
                if read is not into:
                    into.copy_(read)
        made = made.permute(2, 0, 1)[None]
        return made if known.last else made.contiguous()

    def keep(self, steps: AbstractSet[int], begin: int | None = None) -> None:
        """Of all maps only these; of the others, if it is given, what lies from a row of pixels on.

        If none is to come, memory is given back row by row: as much as the picture takes that is made meanwhile.
        """
        with self._lock:
            for step in self._maps.keys() - steps:
                known = self._maps[step]
                first = math.inf if begin is None else begin // self._steps.scales[step] // known.rows
                for place in [place for place in known.pages if place < first]:
                    page = known.pages.pop(place)
                    heapq.heappush(self._spare, page)
                    if not steps and page < self._here:
                        memory.give_back(self._raw(page))
                if begin is None:
                    del self._maps[step]

    def _needed(self, segments: Sequence[Segment], ahead: float) -> int:
        """Pages that are in use at the worst moment."""
        # Of each that comes and goes one page may be there in part.
        return max(
            min(
                len(going | coming) + replaced(*map(self._pages, (staying, going, coming)), ahead),
                self._pages(staying | going | coming),
            )
            for staying, going, coming in exchanges(segments)
        )

    def _pages(self, steps: AbstractSet[int]) -> int:
        return sum(-(-self._steps.sizes[step][0] // (self._page // _row(self._steps, step))) for step in steps)

    def _map(self, step: int, core: Tensor) -> _Map:
        with self._lock:
            if step not in self._maps:
                row = self._steps.sizes[step][1] * core.shape[2] * core.element_size()
                last = core.stride(2) == 1 and core.shape[2] > 1
                shape = self._page // row, self._steps.sizes[step][1], core.shape[2]
                self._maps[step] = _Map(shape, core.dtype, row, self._page // row, last)
            return self._maps[step]

    def _taken(self, known: _Map, place: int) -> int:
        """The number of a page, which is begun if it is not there."""
        with self._lock:
            if place not in known.pages:
                page = heapq.heappop(self._spare) if self._spare else next(self._new)
                if page >= self._here and self._file is None:
                    with _on_disk():
                        self._file = _File()
                known.pages[place] = page
            return known.pages[place]

    def _seen(self, known: _Map, page: int) -> Tensor:
        """A page in memory, as features (h, W, C)."""
        return self._raw(page)[: known.rows * known.row].view(known.dtype).view(known.shape)

    def _raw(self, page: int) -> Tensor:
        return self._memory[page * self._page :][: self._page]

    def _lines(
        self, known: _Map, page: int, rows: slice, right: int, features: Tensor
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Rows of a tile (h, w, C) as bytes, and where in the file they are."""
        begin = (page - self._here) * self._page + rows.start * known.row + right * known.row // known.shape[1]
        lines = features.flatten(1)
        lines = lines if lines.stride(1) == 1 else lines.contiguous()  # each is written by itself, one after the other
        return zip(count(begin, known.row), lines.view(torch.uint8).numpy(), strict=False)


def _row(steps: Trace, step: int) -> int:
    """Bytes of a row of a map."""
    return steps.bytes[step] // steps.sizes[step][0]


class _File:
    """A file without a name, which several threads read and write at places."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()  # where the system knows one place for all

    def write(self, data: np.ndarray, place: int) -> None:
        """Bytes from `place` on. Not mapped into memory: pages of a mapping count as ours."""
        if hasattr(os, "pwrite"):
            written = os.pwrite(self._file.fileno(), data, place)
        else:
            with self._lock:
                self._file.seek(place)
                written = self._file.write(data)
        if written != data.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())

    def read(self, into: np.ndarray, place: int) -> None:
        """Bytes from `place` on."""
        if hasattr(os, "preadv"):
            read = os.preadv(self._file.fileno(), [into], place)
        else:
            with self._lock:
                self._file.seek(place)
                read = self._file.readinto(into)
        if read != into.nbytes:
            raise OSError(errno.EIO, "a temporary file has become shorter", tempfile.gettempdir())

    def close(self) -> None:
        """It is gone."""
        self._file.close()


@contextmanager
def _on_disk() -> Iterator[None]:
    """Errors of the system with temporary files, as ours."""
    try:
        yield
    except OSError as error:
        raise _no_room(error.strerror or error) from error


def free_on_disk() -> int:
    """Bytes that are free for temporary files; raises :class:`OSError` where there is no folder for them."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def _check_disk(need: int) -> None:
    """Raise :class:`ConfigError` if there is no room for so many bytes in temporary files."""
    with _on_disk():
        free = free_on_disk()
    if need > free:
        raise _no_room(f"{free / memory.GIB:.1f} GiB free", f"at least {need / memory.GIB:.1f} GiB")


def _no_room(found: object, allowed: str | None = None) -> ConfigError:
    return ConfigError(
        "The features of this picture fit neither into memory nor onto the disk",
        where=tempfile.tempdir,  # None where the system has no folder
        found=found,
        allowed=allowed,
        todo="Point TMPDIR to a larger disk, allow more memory, or take statistics='thumbnail'.",
    )
