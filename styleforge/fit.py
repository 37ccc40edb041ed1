"""Make a training run fit the memory at hand, by measuring dry steps before the first real one.

Each candidate is measured in a process of its own, by the loop that will train, so that one which takes too much
takes nothing else with it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from . import data, memory, methods
from .errors import ConfigError
from .files import writable
from .hub import PretrainedMixin
from .methods.base import Method
from .runs import TrainConfig
from .train import Progress, check_pieces, train

SPARE = 0.85  # share of the free memory that a plan may take
SMALLEST = 64
DRY_STEPS = 3
# What torch, CUDA, oneDNN, C++ and Python say when they get no more.
NO_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive", "bad_alloc", "MemoryError")
NO_MEMORY += ("not enough memory",)  # torch's allocator on Windows


@dataclass(frozen=True)
class Trial:
    """What dry steps have shown.

    Attributes:
        size: side of the squares, in pixels.
        pictures: computed at once.
        recompute: whether inner layers were computed twice.
        bytes: the most that the process held; None when it was more than it may.
        seconds: of one piece, all players together.
    """

    size: int
    pictures: int
    recompute: bool
    bytes: int | None
    seconds: float = 0.0

    def __str__(self) -> str:
        taken = "too much" if self.bytes is None else f"{self.bytes / memory.GIB:.2f} GiB, {self.seconds:.2f} s"
        return f"{self.pictures} at once, {self.size} px{', recomputing' if self.recompute else ''}: {taken}"


@dataclass(frozen=True)
class Plan:
    """How a run fits.

    Attributes:
        config: with `accumulate`, `recompute` and, where nothing else helped, `size` as they fit. The pictures per
            step are as they were.
        limit: bytes that it may take.
        trials: all that was measured.
        text: what was chosen and what it means, for people.
    """

    config: TrainConfig
    limit: int
    trials: list[Trial]
    text: str


def fit(config: TrainConfig, limit: int | None = None, tell: Callable[[str], None] = lambda text: None) -> Plan:
    """Find out how a run fits: as it is, in pieces, with recomputation, and at last with smaller squares.

    Args:
        config: the run. One that is in its folder already keeps what was planned when it was begun.
        limit: bytes that it may take; most of what is free when None.
        tell: hears of every measurement.

    Raises:
        ConfigError: not even one small picture at a time fits (or the fewest that the method compares), or the run
            cannot be tried at all.
    """
    begun = writable(config.output) / "train.json"
    if begun.exists():
        before = TrainConfig.read(begun)
        kept = replace(config, size=before.size, accumulate=before.accumulate, recompute=before.recompute)
        return Plan(kept, 0, [], f"As the run was begun: {_step_in_words(kept)}.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    limit = int(SPARE * memory.available(device)) if limit is None else limit
    room = limit if device == "cuda" else limit - _pixels(config)
    trials: dict[tuple[int, int, bool], Trial] = {}

    def fits(size: int, pictures: int, again: bool) -> bool:
        key = (size, pictures, again)
        if key not in trials:
            trials[key] = measure(config, *key, room)
            tell(str(trials[key]))
        return trials[key].bytes is not None

    method = methods.build(config.method, config.settings_with_size())
    check_pieces(replace(config, accumulate=1), method)
    pieces = [n for n in range(config.batch_size, method.smallest - 1, -1) if config.batch_size % n == 0]
    least = pieces[-1]

    # What lets the smallest piece through, mostly a single picture, the mildest first.
    step = _multiple(config, method)
    sizes = range(config.size, SMALLEST - 1, -step * max(1, config.size // 8 // step)) if step else [config.size]
    ways = [(config.size, False), *((size, True) for size in sizes)]
    way = next(((size, again) for size, again in ways if fits(size, least, again)), None)
    if way is None:
        raise ConfigError(
            "This run does not fit, however it is cut",
            where=config.method,
            found=f"{limit / memory.GIB:.2f} GiB for it",
            todo="Close other programs, or choose narrower networks (--width).",
        )

    # As many at once as there is room for: two measurements make a line, one more proves it.
    size, again = way
    if len(pieces) > 1:
        second = pieces[-2]
        if fits(size, second, again):
            one, more = trials[size, least, again].bytes, trials[size, second, again].bytes
            slope = max(1, (more - one) / (second - least))
            pieces = [n for n in pieces if n <= second or one + slope * (n - least) <= room]
        else:
            pieces = [least]
    pictures = next(n for n in pieces if fits(size, n, again))
    planned = replace(config, size=size, accumulate=config.batch_size // pictures, recompute=again)
    chosen = trials[size, pictures, again]
    return Plan(planned, limit, list(trials.values()), _plan_in_words(config, planned, chosen, limit, limit - room))


def measure(config: TrainConfig, size: int, pictures: int, again: bool, room: int) -> Trial:
    """Dry steps with random squares, in a process of its own that may take `room` bytes."""
    planned = replace(config, size=size, batch_size=pictures, accumulate=1, recompute=again)
    command = [sys.executable, "-c", f"from styleforge import fit; fit.dry_run({room})"]
    result = subprocess.run(command, input=json.dumps(asdict(planned)), capture_output=True, text=True, check=False)
    if result.returncode == 0:
        found = json.loads(result.stdout.splitlines()[-1])
        return Trial(size, pictures, again, found["bytes"] if found["bytes"] <= room else None, found["seconds"])
    said = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
    killed = result.returncode < 0  # by the system, for memory
    if killed or any(words in result.stderr for words in NO_MEMORY):
        return Trial(size, pictures, again, None)
    raise ConfigError("This run cannot be tried", where=config.method, found=said[-1], todo="Start it without --fit.")


def dry_run(room: int) -> None:
    """The child's side of :func:`measure`: configuration in from stdin, measurement out to stdout."""
    config = TrainConfig(**json.load(sys.stdin))
    _bound(room)
    times: list[float] = []

    def note(progress: Progress) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        targets = methods.build(config.method, config.settings_with_size()).targets or 4
        places = {"source": 4, "target": targets}
        noise = torch.Generator().manual_seed(0)
        for domain, count in places.items():
            (Path(folder) / domain).mkdir()
            for n in range(count):
                pixels = torch.randint(256, (config.size, config.size, 3), generator=noise, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(Path(folder) / domain / f"{n}.png", compress_level=1)
        dry = replace(
            config,
            source=None if config.source is None else f"{folder}/source",
            target=f"{folder}/target",
            output=f"{folder}/run",
            steps=DRY_STEPS,
            sample_every=0,
            judge_every=0,
            held_out=0.0,
            patience=0,
            schedule="linear",
            max_seconds=0.0,
            tracker="none",
            **dict.fromkeys(("preview", "test_source", "test_target", "source_weights", "target_weights")),
        )
        train(dry, note)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    print(json.dumps({"bytes": memory.peak(device), "seconds": round(seconds, 4)}))


def _bound(room: int) -> None:
    """Let allocations beyond `room` fail, before the system has to look for somebody to kill."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
        return
    try:
        import resource

        # Bytes that are reserved and never touched count here, too: threads' stacks and pools.
        resource.setrlimit(resource.RLIMIT_DATA, (room + memory.GIB // 2, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):  # not on this system: the measurement itself will tell
        return


def _pixels(config: TrainConfig) -> int:
    """Bytes that the run's pictures will be kept in, from the headers of their files."""
    short, total = round(config.size * config.zoom[1]), 0
    for folder in filter(None, (config.source, config.target)):
        for file in data.list_pictures(folder):
            try:
                with Image.open(file) as image:
                    width, height = image.size
            except (OSError, ValueError, Image.DecompressionBombError):
                continue  # left out by the run as well
            factor = min(1.0, short / max(1, min(width, height)))
            total += round(3 * width * height * factor**2)
    return min(total, 2 * data.KEPT)


def _plan_in_words(config: TrainConfig, planned: TrainConfig, chosen: Trial, limit: int, pixels: int) -> str:
    seconds = chosen.seconds * planned.accumulate
    needs = (chosen.bytes + pixels) / memory.GIB
    smaller = f" The squares have {planned.size} px, not {config.size}: nothing else helped."
    return (
        f"Plan: {_step_in_words(planned)}. It needs about {needs:.2f} of {limit / memory.GIB:.2f} GiB, "
        f"{seconds:.2f} s a step, {seconds * planned.steps / 3600:.1f} h for {planned.steps} steps."
        + (smaller if planned.size < config.size else "")
    )


def _step_in_words(config: TrainConfig) -> str:
    at_once = config.batch_size // config.accumulate
    pieces = f" as {config.accumulate} times {at_once}" if config.accumulate > 1 else ""
    again = ", inner layers computed twice" if config.recompute else ""
    return f"{config.batch_size} pictures of {config.size} px a step{pieces}{again}"


def _multiple(config: TrainConfig, method: Method) -> int:
    """What the sides of smaller squares differ by; 0 when the networks are made for one size."""
    if "size" in methods.settings(config.method):
        return 0
    return math.lcm(*(n.capabilities.multiple for n in method.modules() if isinstance(n, PretrainedMixin)))
