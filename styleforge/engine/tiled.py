"""One picture in tiles that together compute what the whole would: any size in bounded memory.

A network sums up over the whole picture: the statistics of its norms, pooled features, peaks of heat maps. A tile runs
until it needs such a sum, gives its share (in float64, overlaps left out) and waits; when the last has given its share,
all go on from where they are, see :mod:`.go`. What was alive at the pause has been put together to maps of the whole
picture, in memory or, if that is full, in a file, see :mod:`.store`, and each takes its part of them with a margin:
so tiles overlap by as far as a pixel reaches between two sums only, a few pixels. What is cheaper to compute again than
to keep is not kept, as the first layers. Where all sums are known before, nothing waits, and tiles overlap by as far as
a pixel reaches at all. On CPUs tiles are computed side by side, as far as memory is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import memory
from ..errors import ConfigError
from .fast import KEPT, TENSORS, keep_freed_memory
from .go import Pass, Pause, Sums
from .spans import Paintable, Pixels, overlap, tiles
from .store import Store, free_on_disk
from .sums import joined
from .trace import AGAIN, Segment, Trace, trace
from .watch import announce, changed, run_whole
from .workers import Around, Workers

Statistics = Literal["exact", "thumbnail"]
Progress = Callable[[int, int], None]

SHARE = 0.5  # of the free memory, if no budget is given
WORKING, WAITING = 0.4, 0.7  # shares of a budget: of all for the tile that is computed, of the rest for what waits
THRIFT = (100, 200, 400)  # multiplications that are cheaper than to keep a value: in memory about the first of these,
# in a file that the system has in memory the last; see _choose_again
SLACK = 2.0  # peak of a process to what the steps hold: torch's own copies, and what the allocator keeps; measured 1.6
WORKERS = 4  # most tiles side by side: Python does one thing at a time; more were never measured
ALIKE = 0.6  # of the side of a tile that is quickest: only where memory is enough for such, tiles go side by side
LARGEST_TILE = 1024  # beyond it one tile at a time is all that memory is enough for, and the system clears its maps
LARGEST_MAP = TENSORS[0]  # bytes of a tile's features: larger ones the system clears each time, see fast.py, and that
# takes longer than most calls that fill them
SMALLEST_TILE = 64
THUMBNAIL = 512  # longer side of the reduced copy that approximate statistics come from
STRIP = 2**22  # pixels of the picture that are looked at together for it: a file is not read row by row


@dataclass(frozen=True)
class Plan:
    """How a picture is cut.

    Attributes:
        trace: the steps of the network for this size.
        tile: side of a tile without its overlap, in pixels; None for the whole picture at once.
        held: bytes that waiting tiles may keep in memory; what is more goes into a file.
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
    free = max(max_bytes - KEPT, max_bytes * 7 // 8)  # threads keep freed memory of their own
    area = steps.height * steps.width
    beyond = 2 * overlap(steps, steps.segments(waits=waits))
    quick = max(int(math.sqrt(LARGEST_MAP * area / max(steps.bytes))) - beyond, 8 * beyond)
    for workers in range(_most_workers(image.device), 0, -1):
        tile = min(LARGEST_TILE, quick, int(math.sqrt(free * share * area / whole / workers)) - beyond)
        if tile >= min(LARGEST_TILE, quick) * ALIKE:
            break
    tile = tile // steps.align * steps.align
    if tile < max(SMALLEST_TILE, steps.align):
        least = min(whole, (max(SMALLEST_TILE, steps.align) + beyond + steps.align) ** 2 * whole / area / share * 8 / 7)
        raise ConfigError(
            "There is too little memory for this network, even in tiles",
            where=type(model).__name__,
            found=f"{max_bytes / 2**20:.0f} MiB",
            allowed=f"at least {math.ceil(least / 2**20)} MiB",
            todo="Allow more (max_memory), or close other programs.",
        )
    held = int((free - workers * (tile + beyond) ** 2 * whole / area) * WAITING)
    if waits:
        _choose_again(steps, tile, workers, held, max_bytes)
    return Plan(steps, tile, held, workers)


def _choose_again(steps: Trace, tile: int, workers: int, held: int, max_bytes: int) -> None:
    """What is computed again, and what kept: no more than there is room for, in memory or a file.

    As long as the system has free memory, a file costs two copies. A larger one waits for the disk, and as little as
    possible is kept in it.
    """

    def fits(again: int, room: float) -> bool:
        steps.again = again
        return steps.held(segments := steps.segments(), _ahead(steps, segments, tile, workers)) <= room

    if any(fits(again, held) for again in THRIFT):
        return
    try:
        beside = min(memory.available() - max_bytes, free_on_disk()) * SHARE
    except OSError:  # no folder for files; perhaps none is needed
        beside = 0
    if not fits(THRIFT[-1], held + beside):
        steps.again = AGAIN


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
    that are quickly computed again. What does not fit into the budget is written to the folder for temporary files: of
    100 megapixels of a residual generator of width 32 with 6 blocks in bfloat16 6.9 GB wait at a time, or 3.7 where the
    system has no free memory for such a file, and then the time is that of the disk.

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
        keep_freed_memory(image.shape[2:].numel())
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
    cuts = [list(tiles(steps, chosen.tile, overlap(steps, [segment]))) for segment in segments]
    total, done = sum(map(len, cuts)), 0
    keep_freed_memory(max(tile.rows.length * tile.columns.length for places in cuts for tile in places))
    count = chosen.workers if around else 1
    store = Store(steps, segments, chosen.held, image.device, _ahead(steps, segments, chosen.tile, count))
    with store, Workers(count, around) as workers:
        run, kept = Pass(model, image, options, steps, sums, store), frozenset()
        for segment, places in zip(segments, cuts, strict=True):
            wanted, shares = None, []
            run.begin(segment, segment.kept - kept)
            parts = workers.each(run.go, places)
            for number, (tile, part) in enumerate(zip(places, parts, strict=True), 1):
                if isinstance(part, Pause):
                    wanted = part.wanted
                    shares.append(part.share)
                else:
                    if into is None:
                        into = part.new_empty(1, part.shape[1], *image.shape[2:])
                    tile.paste(part, into)
                for following in places[number : number + 1]:
                    store.keep(segment.kept, following.rows.begin)  # none of those to come looks higher
                done += 1
                progress(done, total)
            if wanted:
                sums[wanted] = changed(joined(wanted[1], torch.stack(shares)))
            store.keep(kept := segment.kept)
    return into


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


def _ahead(steps: Trace, segments: Sequence[Segment], tile: int, workers: int) -> float:
    """How much of the picture, at most 1, is begun or looked at before the first tile of that is done."""
    begun = 1 + math.ceil((workers + 1) / math.ceil(steps.width / tile))  # rows of tiles; see Workers.each
    return min(1.0, (begun * tile + 2 * overlap(steps, segments)) / steps.height)


def _most_workers(device: torch.device) -> int:
    return min(torch.get_num_threads(), WORKERS) if device.type == "cpu" else 1
