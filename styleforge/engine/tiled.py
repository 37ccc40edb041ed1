"""One picture in tiles that together compute what the whole would: any size in bounded memory.

Tiles overlap by as far as a pixel reaches, so all that ties them together is what a network sums up over the whole
picture: the statistics of its norms, pooled features, peaks of heat maps. A tile runs until it needs such a sum, gives
its share (in float64, overlaps left out) and waits; when the last has given its share, all go on from where they are.
To go on, the forward pass is called again and answered from what is known: calls before the pause are not computed but
give stand-ins of the right shape, and what was alive at the pause comes from memory or, if that is full, from a file.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import memory
from ..errors import ConfigError
from .trace import Trace, argument, keeps_map, sum_wanted, tensors, trace

Statistics = Literal["exact", "thumbnail"]
Progress = Callable[[int, int], None]
Sums = dict[tuple[int, str], Tensor]  # by step and kind; see _measure

SHARE = 0.5  # of the free memory, if no budget is given
WORKING, WAITING = 0.35, 0.2  # shares of a budget for the tile that is computed and for what waits; the allocator
# leaves gaps between them: with 0.4 and 0.25, a budget of 0.75 GiB became 0.82
SLACK = 2.0  # peak of a process to what the steps hold: torch's own copies, and what the allocator keeps; measured 1.6
LARGEST_TILE = 1536  # sides beyond it gain nothing
SMALLEST_TILE = 64
THUMBNAIL = 512  # longer side of the reduced copy that approximate statistics come from
BLOCK = 2**20  # values that are turned into float64 at a time


@dataclass(frozen=True)
class Plan:
    """How a picture is cut.

    Attributes:
        trace: the steps of the network for this size.
        tile: side of a tile without its overlap, in pixels; None for the whole picture at once.
        held: bytes that waiting tiles may keep in memory; what is more goes into files.
    """

    trace: Trace
    tile: int | None
    held: int


def plan(
    model: nn.Module, image: Tensor, max_bytes: int | None = None, options: Mapping[str, Any] | None = None
) -> Plan:
    """Choose tiles for a picture.

    Args:
        model: a network that maps a picture to one of the same size.
        image: (1, C, H, W); only its shape matters.
        max_bytes: what may be needed beside the model, the input and the output; by default half of the free memory.
        options: further arguments of the model.

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
        raise ConfigError(
            "The picture is too large for this network, which cannot run in tiles",
            where=type(model).__name__,
            found=f"about {whole / memory.GIB:.1f} GiB, because of {steps.refusal}",
            allowed=f"{max_bytes / memory.GIB:.1f} GiB",
            todo="Allow more memory (max_memory), or make the picture smaller.",
        )
    pixels = max_bytes * WORKING * steps.height * steps.width / whole
    overlap = 2 * _halo(steps)
    tile = min(LARGEST_TILE, int(math.sqrt(pixels)) - overlap) // steps.align * steps.align
    if tile < max(SMALLEST_TILE, steps.align):
        least = (max(SMALLEST_TILE, steps.align) + overlap + steps.align) ** 2 * whole / (steps.height * steps.width)
        raise ConfigError(
            "There is too little memory for this network, even in tiles",
            where=type(model).__name__,
            found=f"{max_bytes / 2**20:.0f} MiB",
            allowed=f"at least {least / WORKING / 2**20:.0f} MiB",
            todo="Allow more (max_memory), or close other programs.",
        )
    return Plan(steps, tile, int(max_bytes * WAITING))


@torch.no_grad()
def run_tiled(
    model: nn.Module,
    image: Tensor,
    *,
    max_bytes: int | None = None,
    tile: int | None = None,
    statistics: Statistics = "exact",
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """What `model(image, **options)` gives, in tiles if the whole does not fit.

    Exact statistics compute each tile once, and keep what waits for the others: the features that are alive at a norm,
    256 bytes for each pixel of a residual generator of width 64 in float32, and as much again as tiles overlap. What
    does not fit into the budget is written to the folder for temporary files.

    Args:
        model: a network in evaluation mode.
        image: (1, C, H, W) in [-1, 1], of a size that the network takes.
        max_bytes: as for :func:`plan`.
        tile: side of a tile without its overlap, in place of a budget; what waits then stays in memory.
        statistics: "exact", those of the whole picture; or "thumbnail", those of a copy of 512 pixels: no tile waits,
            nothing is kept, but colours and contrast differ a little.
        options: further arguments of the model; styles are the same for all tiles.
        progress: called with how many tiles of how many are done, over all rounds.

    Returns:
        (1, 3, H, W) in [-1, 1] on the device of `image`.

    Raises:
        ConfigError: the network cannot run in tiles, the budget is too small, or temporary files do not fit.
    """
    options = dict(options or {})
    if tile is None:
        chosen = plan(model, image, max_bytes, options)
    else:
        chosen = Plan(trace(model, image, options), tile, 2**63)
    if chosen.tile is None:
        return model(image, **options)
    if chosen.trace.refusal:
        raise ConfigError(
            "This network cannot run in tiles",
            where=type(model).__name__,
            found=chosen.trace.refusal,
            todo="Run it on the whole picture.",
        )
    sums = _thumbnail(model, image, options) if statistics == "thumbnail" else {}
    return _rounds(model, image, options, chosen, sums, progress or (lambda done, total: None))


def _rounds(
    model: nn.Module, image: Tensor, options: Mapping[str, Any], chosen: Plan, sums: Sums, progress: Progress
) -> Tensor:
    """All tiles up to the first sum that is not known, again and again, until all have arrived."""
    steps = chosen.trace
    tiles = list(_tiles(steps, chosen.tile))
    total, done = len(tiles) * (1 + len(steps.cuts.keys() - sums.keys())), 0
    result: Tensor | None = None
    with _Store(chosen.held, _check_disk(steps, tiles, chosen.held, sums)) as store:
        runs = [_Run(steps, tile, sums, _Shelf(store, number)) for number, tile in enumerate(tiles)]
        while result is None:
            wanted, shares = None, None
            for run in runs:
                try:
                    part = run(model, image, options)
                except _Pause as pause:
                    wanted, shares = pause.wanted, _join(pause.wanted, shares, pause.share)
                else:
                    if result is None:
                        result = part.new_empty(1, part.shape[1], *image.shape[2:])
                    run.tile.paste(part, result)
                done += 1
                progress(done, total)
            if wanted:
                sums[wanted] = shares
    return result


def _thumbnail(model: nn.Module, image: Tensor, options: Mapping[str, Any]) -> Sums:
    """The sums of a reduced copy, as if all of its pixels were larger."""
    steps = trace(model, image, options)
    factor = min(1.0, THUMBNAIL / max(image.shape[2:]))
    small = [max(1, round(side * factor / steps.align)) * steps.align for side in image.shape[2:]]
    copy = F.interpolate(image, small, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    steps, sums = trace(model, copy, options), {}
    run = _Run(steps, next(_tiles(steps, max(small))), sums, _Shelf(_Store(2**63, None), 0))
    while True:
        try:
            run(model, copy, options)
        except _Pause as pause:
            sums[pause.wanted] = pause.share
        else:
            return sums


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

    def core(self, scale: int, length: int) -> slice:
        """Where the core lies in `length` features of the tile."""
        stop = length if self.core_end == self.size else (self.core_end - self.begin) // scale
        return slice((self.core_begin - self.begin) // scale, stop)


@dataclass(frozen=True)
class _Tile:
    rows: _Span
    columns: _Span

    def cut(self, image: Tensor) -> Tensor:
        return image[:, :, self.rows.begin : self.rows.end, self.columns.begin : self.columns.end].contiguous()

    def core(self, features: Tensor, scale: int) -> Tensor:
        return features[:, :, self.rows.core(scale, features.shape[2]), self.columns.core(scale, features.shape[3])]

    def paste(self, part: Tensor, result: Tensor) -> None:
        rows, columns = self.rows, self.columns
        core = self.core(part, 1)
        result[:, :, rows.core_begin : rows.core_end, columns.core_begin : columns.core_end] = core


def _halo(steps: Trace) -> int:
    return math.ceil(steps.radius / steps.align) * steps.align


def _tiles(steps: Trace, tile: int) -> Iterator[_Tile]:
    """Tiles of about equal size, row by row."""
    spans = [list(_spans(size, tile, _halo(steps), steps.align)) for size in (steps.height, steps.width)]
    return itertools.starmap(_Tile, itertools.product(*spans))


def _spans(size: int, tile: int, halo: int, align: int) -> Iterator[_Span]:
    count = math.ceil(size / max(tile, align))
    cuts = [round(number * size / count / align) * align for number in range(count)] + [size]
    for begin, end in itertools.pairwise(cuts):
        if end > begin:
            yield _Span(max(0, begin - halo), min(size, end + halo), begin, end, size)


# -- what waits --


class _Store:
    """Tensors by key: in memory as long as they fit, else in files.

    Args:
        limit: bytes in memory.
        folder: for files, made and removed here; None if there will be none.
    """

    def __init__(self, limit: int, folder: Path | None) -> None:
        self._left, self._folder = limit, folder
        self._kept: dict[Any, Tensor] = {}

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self._kept.clear()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, key: tuple[int, int], tensor: Tensor) -> None:
        if self._folder is None or tensor.nbytes <= self._left:
            self._left -= tensor.nbytes
            self._kept[key] = tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        else:
            # Not mapped into memory: pages of a mapping count as ours.
            tensor.cpu().contiguous().view(torch.uint8).numpy().tofile(self._path(key))

    def get(self, key: tuple[int, int], like: Tensor) -> Tensor:
        if key in self._kept:
            return self._kept[key]
        raw = torch.from_numpy(np.fromfile(self._path(key), np.uint8))
        return raw.view(like.dtype).view(like.shape).to(like.device)

    def drop(self, key: tuple[int, int]) -> None:
        tensor = self._kept.pop(key, None)
        if tensor is None:
            self._path(key).unlink()
        else:
            self._left += tensor.nbytes

    def _path(self, key: tuple[int, int]) -> Path:
        return self._folder / "{}-{}".format(*key)


class _Shelf:
    """The part of a store that belongs to one tile."""

    def __init__(self, store: _Store, number: int) -> None:
        self._store, self._number = store, number
        self._steps: set[int] = set()

    def get(self, step: int, like: Tensor) -> Tensor:
        return self._store.get((self._number, step), like)

    def keep(self, living: Mapping[int, Tensor], needed: Callable[[int], bool]) -> None:
        """Keep of what lives what is needed, and nothing else any more."""
        for step in [step for step in self._steps if not needed(step)]:
            self._steps.remove(step)
            self._store.drop((self._number, step))
        for step, tensor in living.items():
            if needed(step) and step not in self._steps:
                self._steps.add(step)
                self._store.put((self._number, step), tensor)


def _check_disk(steps: Trace, tiles: list[_Tile], held: int, sums: Sums) -> Path | None:
    """A folder for what does not fit into memory.

    Raises:
        ConfigError: it would not fit there either.
    """
    pixels = sum((t.rows.end - t.rows.begin) * (t.columns.end - t.columns.begin) for t in tiles)
    need = 0 if steps.cuts.keys() <= sums.keys() else steps.held() * pixels // (steps.height * steps.width)
    if need <= held:
        return None
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if need - held > free:
        raise ConfigError(
            "The features of this picture fit neither into memory nor onto the disk",
            where=tempfile.gettempdir(),
            found=f"{free / memory.GIB:.1f} GiB free",
            allowed=f"at least {(need - held) / memory.GIB:.1f} GiB",
            todo="Point TMPDIR to a larger disk, allow more memory, or take statistics='thumbnail'.",
        )
    return Path(tempfile.mkdtemp(prefix="styleforge-"))


# -- a tile on its way --


class _Pause(Exception):
    """No error: a tile needs a sum that is not known."""

    def __init__(self, wanted: tuple[int, str], share: Tensor) -> None:
        super().__init__(wanted)
        self.wanted, self.share = wanted, share


@dataclass(frozen=True)
class _StandIn:
    """What is known of a step's result."""

    step: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class _Run(TorchFunctionMode):
    """The forward pass of one tile, in as many goes as there are pauses.

    Args:
        steps: the pass over the whole picture.
        tile: where.
        sums: those that are known; others may be added between two goes.
        shelf: what is alive in a pause.
    """

    def __init__(self, steps: Trace, tile: _Tile, sums: Sums, shelf: _Shelf) -> None:
        super().__init__()
        self.tile = tile
        self._steps, self._sums, self._shelf = steps, sums, shelf
        self._calls: list[Any] = []  # what the calls before the pause gave
        self._begin_again()

    def __call__(self, model: nn.Module, image: Tensor, options: Mapping[str, Any]) -> Tensor:
        """The styled tile with its overlap.

        Raises:
            _Pause: a sum is not known.
        """
        self._begin_again()
        try:
            with self:
                return model(self._label(self.tile.cut(image)), **options)
        except _Pause:
            self._shelf.keep(self._living, lambda step: self._steps.last_use[step] >= self._next)
            raise
        finally:
            self._living = {}

    def _begin_again(self) -> None:
        self._living: dict[int, Tensor] = {}
        self._call = self._next = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        labelled = [t for t in tensors((args, kwargs)) if hasattr(t, "_step")]
        if not labelled:
            return func(*args, **kwargs)
        name = func.__name__
        kind = sum_wanted(name, args, kwargs)
        if kind and not keeps_map(name, args, kwargs):  # not numbered: the same for all tiles, and small
            return self._pooled(name, labelled[0], kind, args, kwargs)
        self._call += 1
        if self._call <= len(self._calls):
            return self._remember(self._calls[self._call - 1])
        result = self._compute(func, name, kind, args, kwargs)
        self._calls.append(_described(result))
        return result

    def _remember(self, known: Any) -> Any:
        """The result of a call before the pause."""
        if isinstance(known, _StandIn):
            self._next = known.step + 1
            # Of the right shape, and of no size.
            tensor = torch.empty(1, dtype=known.dtype, device=known.device).expand(known.shape)
            tensor._step = known.step
            return tensor
        if isinstance(known, (tuple, list)) and any(isinstance(inner, _StandIn) for inner in known):
            return type(known)([self._remember(inner) for inner in known])
        return known

    def _compute(self, func: Any, name: str, kind: str | None, args: Any, kwargs: dict[str, Any]) -> Any:
        if name in ("shape", "__get__", "dim", "size", "numel"):
            return func(*args, **kwargs)
        if kind:
            total = self._total(args[0], kind)
        args, kwargs = self._real(args), self._real(kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}  # a later go may need what was
        if kind:
            result = _normalised(name, args, kwargs, total)
        elif name == "interpolate" and argument(args, kwargs, 4, "align_corners"):
            result = self._interpolated(args[0], argument(args, kwargs, 1, "size"))
        else:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            result = self._label(result)
        elif isinstance(result, (tuple, list)) and result and all(isinstance(one, Tensor) for one in result):
            result = type(result)([self._label(one) for one in result])
        return result

    def _label(self, tensor: Tensor) -> Tensor:
        tensor = tensor.view_as(tensor)  # a call may give what it got
        tensor._step, self._next = self._next, self._next + 1
        self._living[tensor._step] = tensor
        last_use = self._steps.last_use
        for step in [step for step in self._living if last_use[step] <= tensor._step and step != tensor._step]:
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
            self._living[value._step] = self._shelf.get(value._step, value)
        return self._living.get(value._step, value)

    def _total(self, features: Tensor, kind: str) -> Tensor:
        """The sum over the whole picture."""
        wanted = features._step, kind
        if wanted not in self._sums:
            core = self.tile.core(self._real(features), self._steps.scales[features._step])
            raise _Pause(wanted, _measure(core, kind))
        return self._sums[wanted]

    def _pooled(self, name: str, features: Tensor, kind: str, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """What a call that reduces height and width gives for the whole picture, (1, C, 1, 1) or (1, C)."""
        total = self._total(features, kind)
        if kind == "amax":
            value = total
        else:
            count, first, second = total
            value = first / count
            if name == "sum":  # of as many pixels as this tile has, which is what a caller divides by
                value = value * features.shape[2:].numel()
            elif name == "var":
                value = (second - count * value.square()).clamp_min(0) / (count - 1)
        value = value.to(features.dtype)[None]
        keeps = name == "adaptive_avg_pool2d" or kwargs.get("keepdim") or True in args[2:]
        return value[..., None, None] if keeps else value

    def _interpolated(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear with aligned corners: where a pixel comes from depends on where in the picture it lies."""
        taken = self._steps.sizes[x._step], self._steps.scales[x._step]
        given = self._steps.sizes[self._next], self._steps.scales[self._next]
        for axis, span in ((2, self.tile.rows), (3, self.tile.columns)):
            (inner, scale), (outer, outer_scale) = ((sizes[axis - 2], scale) for sizes, scale in (taken, given))
            places = torch.arange(size[axis - 2], device=x.device, dtype=torch.float64) + span.begin // outer_scale
            places = places * ((inner - 1) / max(outer - 1, 1)) - span.begin // scale
            places = places.clamp(0, x.shape[axis] - 1)
            low = places.long()
            high = (low + 1).clamp_max(x.shape[axis] - 1)
            share = (places - low).to(x.dtype).view(-1, *[1] * (3 - axis))
            x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
        return x


def _described(result: Any) -> Any:
    """A result without its numbers."""
    if isinstance(result, Tensor):
        return _StandIn(result._step, result.shape, result.dtype, result.device)
    if isinstance(result, (tuple, list)) and result and all(isinstance(one, Tensor) for one in result):
        return type(result)([_described(one) for one in result])
    return result


def _measure(core: Tensor, kind: str) -> Tensor:
    """Of (1, C, H, W): the largest values (C,), or count, sums and sums of squares (3, C), in float64."""
    if kind == "amax":
        return core.amax((0, 2, 3)).double()
    pixels = core.shape[2:].numel()
    parts = []
    for block in core[0].split(max(1, BLOCK // pixels)):
        values = block.double().flatten(1)
        parts.append(torch.stack([torch.full_like(values[:, 0], pixels), values.sum(1), values.square().sum(1)]))
    return torch.cat(parts, 1)


def _join(wanted: tuple[int, str], total: Tensor | None, share: Tensor) -> Tensor:
    if total is None:
        return share
    return torch.maximum(total, share) if wanted[1] == "amax" else total + share


def _normalised(name: str, args: Any, kwargs: dict[str, Any], total: Tensor) -> Tensor:
    """What a norm with these sums makes of a map."""
    x, places = args[0], {"instance_norm": (3, 4, 7), "batch_norm": (3, 4, 7), "group_norm": (2, 3, 4)}[name]
    weight, bias, eps = (
        argument(args, kwargs, place, key, default)
        for place, key, default in zip(places, ("weight", "bias", "eps"), (None, None, 1e-5), strict=True)
    )
    if name == "group_norm":
        groups = argument(args, kwargs, 1, "num_groups")
        total = total.view(3, groups, -1).sum(2).repeat_interleave(total.shape[1] // groups, 1)
    count, first, second = total
    mean = first / count
    variance = (second / count - mean.square()).clamp_min(0)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, variance, weight, bias = (None if t is None else t.to(dtype) for t in (mean, variance, weight, bias))
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
