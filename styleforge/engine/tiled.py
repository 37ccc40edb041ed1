"""One picture in tiles that together compute what the whole would: any size in bounded memory.

A network sums up over the whole picture: the statistics of its norms, pooled features, peaks of heat maps. A tile runs
until it needs such a sum, gives its share (in float64, overlaps left out) and waits; when the last has given its share,
all go on from where they are. What was alive at the pause has been put together to maps of the whole picture, in memory
or, if that is full, in files, and each tile takes its part of them with a margin: so tiles overlap by as far as a pixel
reaches between two sums only, a few pixels. What is cheaper to compute again than to keep is not kept, as the first
layers. To go on, the forward pass is called again and answered from what is known: calls before the pause are not
computed but give stand-ins of the right shape. Where all sums are known before, nothing waits, and tiles overlap by as
far as a pixel reaches at all. On CPUs tiles are computed side by side, as far as memory is enough.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import memory
from ..errors import ConfigError
from .calls import argument, tensors
from .sums import joined, measure
from .trace import AGAIN, Segment, Trace, keeps_map, sum_wanted, trace
from .watch import announce, changed, normalised, pooled, run_whole
from .workers import Around, Workers

Statistics = Literal["exact", "thumbnail"]
Progress = Callable[[int, int], None]
Place = tuple[slice, slice, slice, slice]
Sums = dict[tuple[int, str], Tensor]  # by step and kind; see measure

SHARE = 0.5  # of the free memory, if no budget is given
WORKING, WAITING = 0.35, 0.6  # shares of a budget: of all for the tile that is computed, of the rest for what waits;
# the allocator leaves gaps between them
THRIFT = (100, 200, 400, AGAIN)  # multiplications for a value; the first that lets all that waits stay in memory is
# taken, where keeping costs about as much as the first of these, and for files the last
SLACK = 2.0  # peak of a process to what the steps hold: torch's own copies, and what the allocator keeps; measured 1.6
WORKERS = 4  # most tiles side by side: Python does one thing at a time, and is a tenth of the time of a tile
ALIKE = 0.9  # of the side of a tile that is quickest: only where memory is enough for such, tiles go side by side
LARGEST_TILE = 1024  # beyond it one tile at a time is all that memory is enough for, and the system clears its maps
LARGEST_MAP = 2**25  # bytes of a tile's features: glibc asks the system for larger ones each time, which has to clear
# their pages first; that takes longer than most calls that fill them
SMALLEST_TILE = 64
THUMBNAIL = 512  # longer side of the reduced copy that approximate statistics come from
STRIP = 2**22  # pixels of the picture that are looked at together for it: a file is not read row by row


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
class Plan:
    """How a picture is cut.

    Attributes:
        trace: the steps of the network for this size.
        tile: side of a tile without its overlap, in pixels; None for the whole picture at once.
        held: bytes that waiting tiles may keep in memory; what is more goes into files.
        workers: how many tiles are computed side by side.
    """

    trace: Trace
    tile: int | None
    held: int
    workers: int = 1


def plan(
    model: nn.Module,
    image: Tensor | Pixels,
    max_bytes: int | None = None,
    options: Mapping[str, Any] | None = None,
    statistics: Statistics = "exact",
) -> Plan:
    """Choose tiles for a picture.

    Args:
        model: a network that maps a picture to one of the same size.
        image: (1, C, H, W); only its shape matters.
        max_bytes: what may be needed beside the model, the input and the output; by default half of the free memory.
        options: further arguments of the model.
        statistics: see :func:`run_tiled`.

    Raises:
        ConfigError: the budget is too small for any tile, or too small for a network that takes no tiles.
    """
    if max_bytes is None:
        max_bytes = int(memory.available(image.device) * SHARE)
    steps = trace(model, image, options or {})
    whole = SLACK * steps.peak()
    if whole <= max_bytes:
        return Plan(steps, None, 0)
    if steps.refusal:
        smaller = min(math.ceil(10 * math.sqrt(whole / max_bytes)) / 10, 8)  # the most that the pipeline takes
        raise ConfigError(
            "The picture is too large for this network, which cannot run in tiles",
            where=type(model).__name__,
            found=f"about {whole / memory.GIB:.1f} GiB, because of {steps.refusal}",
            allowed=f"{max_bytes / memory.GIB:.1f} GiB",
            todo=f"Allow more memory (max_memory), or compute it at a smaller size (style_scale={smaller:g}).",
        )
    waits = statistics == "exact" and bool(steps.cuts)
    share = WORKING if waits else 1.0
    area = steps.height * steps.width
    overlap = 2 * _halo(steps, steps.segments(waits=waits))
    quick = max(int(math.sqrt(LARGEST_MAP * area / max(steps.bytes))) - overlap, 8 * overlap)
    for workers in range(_most_workers(image.device), 0, -1):
        tile = min(LARGEST_TILE, quick, int(math.sqrt(max_bytes * share * area / whole / workers)) - overlap)
        if tile >= min(LARGEST_TILE, quick) * ALIKE:
            break
    tile = tile // steps.align * steps.align
    if tile < max(SMALLEST_TILE, steps.align):
        least = min(whole, (max(SMALLEST_TILE, steps.align) + overlap + steps.align) ** 2 * whole / area / share)
        raise ConfigError(
            "There is too little memory for this network, even in tiles",
            where=type(model).__name__,
            found=f"{max_bytes / 2**20:.0f} MiB",
            allowed=f"at least {math.ceil(least / 2**20)} MiB",
            todo="Allow more (max_memory), or close other programs.",
        )
    held = int((max_bytes - workers * (tile + overlap) ** 2 * whole / area) * WAITING)
    for steps.again in THRIFT if waits else ():
        if steps.held(steps.segments()) <= held:
            break
    return Plan(steps, tile, held, workers)


@torch.no_grad()
def run_tiled(
    model: nn.Module,
    image: Tensor | Pixels,
    *,
    into: Paintable | None = None,
    max_bytes: int | None = None,
    tile: int | None = None,
    statistics: Statistics = "exact",
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    around: Around | None = None,
) -> Tensor:
    """What `model(image, **options)` gives, in tiles if the whole does not fit.

    Exact statistics keep what waits for other tiles: the features that are alive at two norms in a row, but for those
    that are quickly computed again. What does not fit into the budget is written to the folder for temporary files, and
    the time then is that of the disk: 6.4 GB at a time for 100 megapixels of a residual generator of width 32 with 6
    blocks in bfloat16.

    Args:
        model: a network in evaluation mode.
        image: (1, C, H, W) in [-1, 1], of a size that the network takes.
        into: takes the tiles as they are done; a new tensor, when None.
        max_bytes: as for :func:`plan`.
        tile: side of a tile without its overlap, in place of a budget; what waits then stays in memory.
        statistics: "exact", those of the whole picture; or "thumbnail", those of a copy of 512 pixels: no tile waits,
            nothing is kept, but colors and contrast differ a little.
        options: further arguments of the model; styles are the same for all tiles.
        progress: called with how many tiles of how many are done, over all rounds.
        around: what threads enter that compute tiles side by side, on CPUs, as the caller has; modes of torch belong to
            one thread. Without it tiles are computed one after the other.

    Returns:
        (1, 3, H, W) in [-1, 1] on the device of `image`; or `into`.

    Raises:
        ConfigError: the network cannot run in tiles, the budget is too small, or temporary files do not fit.
    """
    options = dict(options or {})
    if tile is None:
        chosen = plan(model, image, max_bytes, options, statistics)
    else:
        chosen = Plan(trace(model, image, options), tile, 2**63, _most_workers(image.device))
    if chosen.tile is None:
        return painted(run_whole(model, image[:, :, :, :], options), into)
    if chosen.trace.refusal:
        raise ConfigError(
            "This network cannot run in tiles",
            where=type(model).__name__,
            found=chosen.trace.refusal,
            todo="Run it on the whole picture.",
        )
    announce("tiles" if statistics == "exact" else "thumbnail")
    sums = _thumbnail(model, image, options) if statistics == "thumbnail" else {}
    return _rounds(model, image, options, chosen, sums, progress or (lambda done, total: None), into, around)


def painted(styled: Tensor, into: Paintable | None) -> Any:
    """A whole picture, in what takes it if there is any."""
    if into is None:
        return styled
    into[:, :, :, :] = styled
    return into


def _rounds(
    model: nn.Module,
    image: Tensor | Pixels,
    options: Mapping[str, Any],
    chosen: Plan,
    sums: Sums,
    progress: Progress,
    into: Paintable | None = None,
    around: Around | None = None,
) -> Any:
    """All tiles up to the first sum that is not known, again and again, until all have arrived."""
    steps = chosen.trace
    segments = steps.segments(waits=not sums)
    # Each part of the pass has overlaps of its own, because most look less far than the one that looks farthest.
    tiles = [list(_tiles(steps, chosen.tile, _halo(steps, [segment]))) for segment in segments]
    total, done = sum(map(len, tiles)), 0
    if (held := steps.held(segments)) > chosen.held:
        largest = max(steps.bytes[step] for segment in segments for step in segment.kept)
        _check_disk(held - max(0, chosen.held - largest))  # what does not fit as a whole goes to a file as a whole
    with _Store(steps, chosen.held) as store, Workers(chosen.workers if around else 1, around) as workers:
        runs = [_Run(steps, sums, store) for _ in tiles[0]]
        for segment, places in zip(segments, tiles, strict=True):
            wanted, shares = None, []
            parts = workers.each(partial(_go, model, image, options, segment), zip(runs, places, strict=True))
            for tile, part in zip(places, parts, strict=True):
                if isinstance(part, _Pause):
                    wanted = part.wanted
                    shares.append(part.share)
                else:
                    if into is None:
                        into = part.new_empty(1, part.shape[1], *image.shape[2:])
                    tile.paste(part, into)
                done += 1
                progress(done, total)
            if wanted:
                sums[wanted] = changed(joined(wanted[1], torch.stack(shares)))
            store.keep(segment.kept)
    return into


def _go(
    model: nn.Module, image: Tensor | Pixels, options: Mapping[str, Any], segment: Segment, one: tuple[_Run, _Tile]
) -> Tensor | _Pause:
    """One tile, up to its end or the next pause."""
    run, tile = one
    try:
        return run(model, image, options, segment, tile)
    except _Pause as pause:
        return pause.with_traceback(None)  # which would keep all that was alive


def _thumbnail(model: nn.Module, image: Tensor | Pixels, options: Mapping[str, Any]) -> Sums:
    """The sums of a reduced copy, as if all of its pixels were larger."""
    align, sums = trace(model, image, options).align, {}
    factor = min(1.0, THUMBNAIL / max(image.shape[2:]))
    least = math.ceil(SMALLEST_TILE / align) * align  # of a long thin picture the short side would become next to none
    small = [max(min(side, least), round(side * factor / align) * align) for side in image.shape[2:]]
    # Averaged by rows of boxes first, to twice the size, so that it needs no memory.
    down, across = (max(1, side // (2 * kept)) for side, kept in zip(image.shape[2:], small, strict=True))
    strip = down * max(1, STRIP // (down * image.shape[3]))
    ends = image.shape[2] // down * down
    parts = (image[:, :, row : min(row + strip, ends), :] for row in range(0, ends, strip))
    copy = torch.cat([F.avg_pool2d(part, (down, across)) for part in parts], 2)
    copy = F.interpolate(copy, small, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    _rounds(model, copy, options, Plan(trace(model, copy, options), max(small), 2**63), sums, lambda done, total: None)
    return sums


def _most_workers(device: torch.device) -> int:
    return min(torch.get_num_threads(), WORKERS) if device.type == "cpu" else 1


# -- tiles --


@dataclass(frozen=True)
class _Span:
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

    def whole(self, scale: int, length: int) -> slice:
        """Where `length` features of the tile lie in the map of the picture."""
        return slice(self.begin // scale, self.begin // scale + length)


@dataclass(frozen=True)
class _Tile:
    rows: _Span
    columns: _Span

    @property
    def inside(self) -> bool:
        """Whether it touches no border of the picture."""
        return all(span.begin and span.end < span.size for span in (self.rows, self.columns))

    def cut(self, image: Tensor | Pixels) -> Tensor:
        return image[:, :, self.rows.begin : self.rows.end, self.columns.begin : self.columns.end].contiguous()

    def core(self, features: Tensor, scale: int) -> Tensor:
        return features[:, :, self.rows.core(scale, features.shape[2]), self.columns.core(scale, features.shape[3])]

    def more(self, before: _Tile, scale: int, height: int, width: int) -> tuple[int, int]:
        """How many more rows and columns of features it has than another, of a picture of so many."""
        sides = (self.rows, before.rows, height), (self.columns, before.columns, width)
        taller, wider = (now.features(scale, extent) - was.features(scale, extent) for now, was, extent in sides)
        return taller, wider

    def paste(self, core: Tensor, into: Tensor | Paintable) -> None:
        rows, columns = self.rows, self.columns
        into[:, :, rows.core_begin : rows.core_end, columns.core_begin : columns.core_end] = core


def _halo(steps: Trace, segments: Sequence[Segment]) -> int:
    """How far a tile overlaps."""
    return math.ceil(steps.reach(segments) / steps.align) * steps.align


def _tiles(steps: Trace, tile: int, halo: int) -> Iterator[_Tile]:
    """Tiles of about equal size, row by row."""
    spans = [list(_spans(size, tile, halo, steps.align)) for size in (steps.height, steps.width)]
    return itertools.starmap(_Tile, itertools.product(*spans))


def _spans(size: int, tile: int, halo: int, align: int) -> Iterator[_Span]:
    count = math.ceil(size / max(tile, align))
    cuts = [round(number * size / count / align) * align for number in range(count)] + [size]
    for begin, end in itertools.pairwise(cuts):
        if end > begin:
            yield _Span(max(0, begin - halo), min(size, end + halo), begin, end, size)


# -- what waits --


@contextmanager
def _on_disk() -> Iterator[None]:
    """Errors of the system with temporary files, as ours."""
    try:
        yield
    except OSError as error:
        raise _no_room(error.strerror or error) from error


class _Store:
    """Maps of the whole picture by step, put together from tiles: in memory as long as they fit, else in files.

    The files have no names, so that they go with the process, however it ends.

    Args:
        steps: of the pass.
        limit: bytes in memory.
    """

    def __init__(self, steps: Trace, limit: int) -> None:
        self._steps, self._left = steps, limit
        self._maps: dict[int, Tensor | _File] = {}
        self._spare: list[Tensor] = []  # to write over what is there is quicker than to begin anew
        self._files: list[_File] = []  # spare, too
        self.one_at_a_time = threading.Lock()  # for what threads must not do side by side

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.keep(set())
        for file in self._files:
            file.close()

    @_on_disk()
    def put(self, step: int, tile: _Tile, features: Tensor) -> None:
        """Keep the core of a tile's features (1, C, h, w)."""
        scale = self._steps.scales[step]
        core, rows, columns = tile.core(features, scale), tile.rows, tile.columns
        down, right = rows.core_begin // scale, columns.core_begin // scale
        with self.one_at_a_time:
            whole = self._map(step, core)
        if isinstance(whole, Tensor):
            whole[:, :, down : down + core.shape[2], right : right + core.shape[3]] = core
            return
        # Rows of the map as bytes, channels last: each row of a tile is one piece of the file. Not mapped into memory:
        # pages of a mapping count as ours.
        raw = core[0].permute(1, 2, 0).cpu().flatten(1)
        raw = raw if raw.stride(1) == 1 else raw.contiguous()  # of one column, channels may lie apart
        raw = raw.view(torch.uint8).numpy()
        for place, line in self._lines(raw, step, down, right, core):
            whole.write(line, place)

    @_on_disk()
    def get(self, step: int, tile: _Tile, like: Tensor) -> Tensor:
        """A tile's features with its margins, of the shape and type of `like`."""
        scale, whole = self._steps.scales[step], self._maps[step]
        down, right = tile.rows.whole(scale, like.shape[2]), tile.columns.whole(scale, like.shape[3])
        if isinstance(whole, Tensor):
            return whole[:, :, down, right].contiguous(memory_format=_layout(whole))
        raw = np.empty((like.shape[2], like.shape[3] * like.shape[1] * like.element_size()), np.uint8)
        for place, line in self._lines(raw, step, down.start, right.start, like):
            whole.read(line, place)
        features = torch.from_numpy(raw).view(like.dtype).view(1, *like.shape[2:], like.shape[1])
        return features.permute(0, 3, 1, 2).to(like.device)

    def keep(self, steps: AbstractSet[int]) -> None:
        """Of all maps only these."""
        for step in self._maps.keys() - steps:
            gone = self._maps.pop(step)
            (self._spare if isinstance(gone, Tensor) else self._files).append(gone)

    def _map(self, step: int, core: Tensor) -> Tensor | _File:
        if step not in self._maps:
            shape = torch.Size((1, core.shape[1], *self._steps.sizes[step]))
            self._maps[step] = self._room(shape, core.dtype, core.device, _layout(core))
        return self._maps[step]

    def _room(
        self, shape: torch.Size, dtype: torch.dtype, device: torch.device, layout: torch.memory_format
    ) -> Tensor | _File:
        """For a map: spare memory of the same kind, else new, as long as there is some, else a file."""
        for place, spare in enumerate(self._spare):
            if (spare.shape, spare.dtype, _layout(spare)) == (shape, dtype, layout):
                return self._spare.pop(place)
        size = shape.numel() * dtype.itemsize
        while self._spare and size > self._left:
            self._left += self._spare.pop().nbytes
        if size > self._left:
            return self._files.pop() if self._files else _File()
        self._left -= size
        return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)

    def _lines(
        self, raw: np.ndarray, step: int, row: int, column: int, like: Tensor
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Rows of a tile as bytes, and where in the file they are."""
        pixel = like.shape[1] * like.element_size()
        length = self._steps.sizes[step][1] * pixel
        return zip(itertools.count(row * length + column * pixel, length), raw, strict=False)


class _File:
    """A file without a name, which several threads read and write at places."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()  # where the system knows one place for all

    def write(self, data: np.ndarray, place: int) -> None:
        """Bytes from `place` on."""
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


def _layout(features: Tensor) -> torch.memory_format:
    last = features.stride(1) == 1 and features.shape[1] > 1
    return torch.channels_last if last else torch.contiguous_format


def _check_disk(need: int) -> None:
    """Raise :class:`ConfigError` if there is no room for so many bytes in temporary files."""
    with _on_disk():
        free = shutil.disk_usage(tempfile.gettempdir()).free
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


# -- a tile on its way --


class _Pause(Exception):
    """No error: a tile needs a sum that is not known."""

    def __init__(self, wanted: tuple[int, str], share: Tensor) -> None:
        super().__init__(wanted)
        self.wanted, self.share = wanted, share


_ANEW = object()  # what a call gave that is no map, but a sum or a size: it is asked for each time
_SIZES = frozenset(("__get__", "dim", "shape", "size"))


class _Run(TorchFunctionMode):
    """The forward pass of one tile, in as many goes as there are pauses.

    Args:
        steps: the pass over the whole picture.
        sums: those that are known; others may be added between two goes.
        store: what is alive in a pause.
    """

    def __init__(self, steps: Trace, sums: Sums, store: _Store) -> None:
        super().__init__()
        self._steps, self._sums, self._store = steps, sums, store
        self._tile: _Tile | None = None
        self._stored: set[int] = set()
        self._calls: list[Any] = []  # what the calls before the pause gave, see _described
        self._computed, self._kept = frozenset(), frozenset()
        self._living: dict[int, Tensor] = {}

    def __call__(
        self, model: nn.Module, image: Tensor | Pixels, options: Mapping[str, Any], segment: Segment, tile: _Tile
    ) -> Tensor:
        """The styled tile without its overlap, which may be another one each time.

        Raises:
            _Pause: a sum is not known.
        """
        self._begin_again(segment, tile)
        try:
            picture = self._label(self._cut(image))
            with self:
                made = model(picture, **options)
            return self._tile.core(made, 1)  # here, because a pad at the end of a network is known to this thread alone
        except _Pause:
            for step in segment.kept - self._stored:
                self._store.put(step, self._tile, self._real(self._living[step]))
                self._stored.add(step)
            raise
        finally:
            self._living = {}

    def _cut(self, image: Tensor | Pixels) -> Tensor:
        """The tile of the picture, or a stand-in where no step looks at it and no sum of its pixels is missing."""
        summed = any(step == 0 and (step, kind) not in self._sums for step, kind in self._steps.cuts)
        if summed or any(0 in self._steps.sources[step] for step in self._computed):
            with self._store.one_at_a_time:
                return self._tile.cut(image)
        shape = 1, image.shape[1], self._tile.rows.length, self._tile.columns.length
        return torch.empty(1, dtype=image.dtype, device=image.device).expand(shape)

    def _begin_again(self, segment: Segment, tile: _Tile) -> None:
        if self._tile and tile != self._tile:
            more = {scale: tile.more(self._tile, scale, *both) for scale, both in self._steps.extents.items() if scale}
            self._calls = [_resized(known, more, self._steps.scales) for known in self._calls]
        self._tile, self._computed, self._kept = tile, segment.computed, segment.kept
        self._living = {}
        self._call = self._next = 0
        self._normed = -1  # the last step whose features are in memory of their own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (args and hasattr(args[0], "_step")) and not any(hasattr(t, "_step") for t in tensors((args, kwargs))):
            return func(*args, **kwargs)
        self._call += 1
        before = self._call <= len(self._calls)
        known = self._calls[self._call - 1] if before else _ANEW
        if known is not _ANEW and self._computed.isdisjoint(steps := _steps_in(known)):
            self._next = max(steps, default=self._next - 1) + 1
            return list(known) if isinstance(known, list) else known
        name = func.__name__
        kind = sum_wanted(name, args, kwargs)
        if kind and not keeps_map(name, args, kwargs):  # not numbered: the same for all tiles, and small
            result, described = pooled(name, args, kwargs, self._total(args[0], kind), kind), _ANEW
        else:
            result = self._compute(func, name, kind, args, kwargs)
            described = known if before else _described(name, result)
        if not before:
            self._calls.append(described)
        return result

    def _compute(self, func: Any, name: str, kind: str | None, args: Any, kwargs: dict[str, Any]) -> Any:
        if name == "numel":  # that of the whole picture, as its sums are
            return args[0].shape[:2].numel() * math.prod(self._steps.sizes[args[0]._step])
        if name in _SIZES:
            return func(*args, **kwargs)
        if kind:
            total = self._total(args[0], kind)
        first = getattr(next(iter(args), None), "_step", None)
        if name == "pad" and len(pads := argument(args, kwargs, 1, "pad")) == 4 and self._tile.inside:
            # What is beyond the overlap does not matter, and zeros are least work.
            args, kwargs = (argument(args, kwargs, 0, "input"), pads), {}
        args, kwargs = self._real(args), self._real(kwargs)
        if "inplace" in kwargs:  # only where nobody else needs what was
            needed = first is None or first in self._kept or self._steps.last_use[first] > self._next
            kwargs["inplace"] &= first == self._normed and not needed
        if kind:
            result = normalised(name, args, kwargs, total)
            self._normed = self._next
        elif name == "interpolate" and argument(args, kwargs, 4, "align_corners"):
            result = self._interpolated(args[0], argument(args, kwargs, 1, "size"))
        else:
            result = func(*args, **kwargs)
        return _each(result, self._label)

    def _label(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()  # a call may give what it got; a view would forget the layout
        tensor._step, self._next = self._next, self._next + 1
        self._living[tensor._step] = tensor
        last_use = self._steps.last_use
        done = (step for step in self._living if last_use[step] <= tensor._step and step not in self._kept)
        for step in [step for step in done if step != tensor._step]:
            del self._living[step]
        return tensor

    def _real(self, value: Any) -> Any:
        """With stand-ins replaced by what they stand for."""
        if isinstance(value, (tuple, list)):
            return type(value)([self._real(inner) for inner in value]) if type(value) in (tuple, list) else value
        if isinstance(value, dict):
            return {key: self._real(inner) for key, inner in value.items()}
        if not isinstance(value, Tensor) or not hasattr(value, "_step"):
            return value
        if value._step not in self._living and not any(value.stride()) and value.numel() > 1:
            self._living[value._step] = self._store.get(value._step, self._tile, value)
        return self._living.get(value._step, value)

    def _total(self, features: Tensor, kind: str) -> Tensor:
        """The sum over the whole picture."""
        wanted = features._step, kind
        if wanted not in self._sums:
            core = self._tile.core(self._real(features), self._steps.scales[features._step])
            raise _Pause(wanted, measure(core, kind))
        return self._sums[wanted]

    def _interpolated(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear with aligned corners: where a pixel comes from depends on where in the picture it lies."""
        taken = self._steps.sizes[x._step], self._steps.scales[x._step]
        given = self._steps.sizes[self._next], self._steps.scales[self._next]
        for axis, span in ((2, self._tile.rows), (3, self._tile.columns)):
            (inner, scale), (outer, outer_scale) = ((sizes[axis - 2], scale) for sizes, scale in (taken, given))
            places = torch.arange(size[axis - 2], dtype=torch.float64) + span.begin // outer_scale
            places = places * ((inner - 1) / max(outer - 1, 1)) - span.begin // scale
            places = places.clamp(0, x.shape[axis] - 1)
            low = places.long()
            high = (low + 1).clamp_max(x.shape[axis] - 1)
            share = (places - low).to(x.dtype).view(-1, *[1] * (3 - axis))
            low, high, share = (t.to(x.device) for t in (low, high, share))
            x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
        return x


@lru_cache(maxsize=2**12)  # many tiles have the same size
def _stand_in(step: int, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is known of a step's result: a tensor of the right shape, and of no size."""
    tensor = torch.empty(1, dtype=dtype, device=device).expand(shape)
    tensor._step = step
    return tensor


def _described(name: str, result: Any) -> Any:
    """A result without its numbers."""
    if name in _SIZES:
        return _ANEW
    return _each(result, lambda one: _stand_in(one._step, one.shape, one.dtype, one.device))


def _resized(described: Any, more: Mapping[int, tuple[int, int]], scales: Sequence[int]) -> Any:
    """The same of a tile that has, by scale, so many more rows and columns of features."""

    def resized(one: Tensor) -> Tensor:
        if not scales[one._step]:
            return one
        taller, wider = more[scales[one._step]]
        shape = torch.Size((*one.shape[:2], one.shape[2] + taller, one.shape[3] + wider))
        return _stand_in(one._step, shape, one.dtype, one.device)

    return _each(described, resized)


def _each(result: Any, changed: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or several, each changed; what is none stays."""
    if isinstance(result, Tensor):
        return changed(result)
    if isinstance(result, (tuple, list)) and result and all(isinstance(one, Tensor) for one in result):
        return type(result)([changed(one) for one in result])
    return result


def _steps_in(known: Any) -> list[int]:
    """Of a described result."""
    if isinstance(known, Tensor):
        return [known._step]
    return [one._step for one in known if isinstance(one, Tensor)] if isinstance(known, (tuple, list)) else []
