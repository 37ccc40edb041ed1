"""Prove that a killed run ends like one that nobody disturbed: python scripts/kill_resume.py METHOD [--kills 50]

A tiny run, in a process of its own, is killed with SIGKILL and started again until it ends; then everything it has
left is compared, bit by bit, with what an undisturbed run leaves. Then comes the next run, until there were enough
kills: some by the clock, spread over the life of a process from its first moment to its last; some by the process
itself, before one of the calls that change the disk in a save or while the style is published, or with half a file
written, spread over all of these calls. The exit code is 1 when anything differs.

Processes are forked from this one, which has imported everything and computed nothing. On CPUs, not on Windows.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import accelerate  # noqa: F401  # here, or every child would import them
import jinja2  # noqa: F401
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny

from styleforge import checkpoint, methods, weights
from styleforge.train import Progress, TrainConfig, train

PHASES = ("start", "steps", "save", "publish")
START, STEPS, SAVE, PUBLISH = range(len(PHASES))
TIMES = {"images_per_second", "seconds"}  # what differs between two equal runs
HANGS = 120  # seconds after which a child tells where it is, and dies


@dataclass(frozen=True)
class Kill:
    """When to kill: before the disk call number `call` of a phase, or after a share of the life that is expected."""

    phase: int = START
    call: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class Death:
    """What a killed process was at."""

    run: int
    phase: str
    step: int
    milliseconds: float
    call: str


@dataclass(frozen=True)
class Proof:
    """Deaths, and for each run that came to its end in spite of them, what is not as it should be."""

    deaths: list[Death]
    different: dict[int, list[str]]


class Board:
    """What a child is at, in memory that its parent reads after its death."""

    def __init__(self) -> None:
        self.phase = multiprocessing.RawValue("i")
        self.step = multiprocessing.RawValue("q")
        self.call = multiprocessing.RawArray("c", 64)
        self.calls = multiprocessing.RawArray("q", len(PHASES))  # the most disk calls that a phase had
        self.moments = multiprocessing.RawArray("d", len(PHASES))  # seconds from birth to the last end of a phase


# -- a run --


def prepare() -> None:
    """Make this process, and all that it forks, compute the same every time."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def draw_pictures(folder: Path, kind: str) -> tuple[str | None, str]:
    """Small pictures for a kind of data: the arguments `source` and `target` of a run."""
    generator = np.random.default_rng(0)
    for domain, count in (("source", 7), ("target", 5)):
        (folder / domain).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 255, (40, 44 + i, 3), np.uint8)).save(folder / domain / f"{i}.png")
    source, target = str(folder / "source"), str(folder / "target")
    return {
        "unpaired": (source, target),
        "paired": (source, source),
        "images": (None, target),
        "damaged": (None, target),
        "styles": (source, f"{target}/0.png"),
    }[kind]


def tiny_run(method: str, source: str | None, target: str, steps: int = 12, **changes: Any) -> TrainConfig:
    """A run of a second that saves four times and shows what it can once."""
    values = {
        "output": "",
        "size": tiny.SIZE_OF.get(method, 32),
        "batch_size": 2,
        "save_every": max(1, steps // 4),
        "sample_every": max(1, 2 * steps // 3),
        "log_every": 1,
        "precision": "fp32",
        "settings": tiny.settings(method),
    }
    return TrainConfig(method=method, source=source, target=target, steps=steps, **{**values, **changes})


def fork(config: TrainConfig, kill: Kill | None, board: Board, seconds: float | None = None) -> bool:
    """Let a child train, for some seconds or as long as it can; whether it was killed.

    Raises:
        RuntimeError: it ended in an error, or hung.
    """
    log = Path(config.output).with_name("log.txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if not child:
        code = 1
        try:
            with open(log, "w") as file, redirect_stderr(file):
                faulthandler.dump_traceback_later(HANGS, exit=True, file=file)
                live(config, kill, board)
            code = 0
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{config.output} ended with {status}:\n{log.read_text()[-4000:]}")
    return status != 0


def live(config: TrainConfig, kill: Kill | None, board: Board) -> None:
    """Train, telling the board; a `kill` at a call is carried out here."""
    birth, counted, save, newest = time.monotonic(), 0, checkpoint.save, checkpoint.newest

    def enter(phase: int) -> None:
        nonlocal counted
        board.moments[board.phase.value], board.phase.value, counted = time.monotonic() - birth, phase, 0

    def found(root: Path) -> Any:
        result = newest(root)
        board.step.value = result[1]["step"] if result else 0
        if board.step.value == config.steps:
            enter(PUBLISH)
        return result

    def on_step(progress: Progress) -> None:
        board.step.value = progress.step
        if board.phase.value == START:
            enter(STEPS)

    def saved(root: Path, step: int, *arguments: Any, **keywords: Any) -> Path:
        enter(SAVE)
        folder = save(root, step, *arguments, **keywords)
        enter(PUBLISH if step == config.steps else STEPS)
        return folder

    def call(name: str) -> None:
        nonlocal counted
        phase, counted = board.phase.value, counted + 1
        board.calls[phase] = max(board.calls[phase], counted)
        if kill and (kill.phase, kill.call) == (phase, counted):
            board.call.value = f"{counted}, {name}".encode()
            os.kill(os.getpid(), signal.SIGKILL)

    with disk_calls(call), mock.patch.multiple(checkpoint, save=saved, newest=found):
        train(config, on_step)
    enter(PUBLISH)


@contextmanager
def disk_calls(call: Callable[[str], None]) -> Iterator[None]:
    """Tell `call` of every change to the disk before it is made, and of each file when half of it is written."""

    def told(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            call(name)
            return original(*arguments, **keywords)

        return wrapper

    def write_bytes(path: Path, data: bytes) -> int:
        call("open")
        with open(path, "wb", buffering=0) as file:
            half = file.write(data[: len(data) // 2])
            call("write")
            return half + file.write(data[half:])

    with ExitStack() as patches:
        for name in ("mkdir", "rename", "replace", "link", "fsync", "unlink", "rmdir"):
            patches.enter_context(mock.patch.object(os, name, told(name, getattr(os, name))))
        patches.enter_context(mock.patch.object(Path, "write_bytes", write_bytes))
        yield


# -- what it leaves --


def contents(run: Path) -> dict[str, object]:
    """Everything in the folder of a run by name, tensors one by one, without what tells of time and place."""
    found: dict[str, object] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = path.relative_to(run).as_posix()
        if ".tmp" in name or name == "report.html":
            found[name] = None
        elif path.suffix == ".safetensors":
            found |= {f"{name}: {key}": bits(tensor) for key, tensor in weights.read(path).items()}
        elif name == "metrics.jsonl":
            lines = path.read_text().splitlines()
            found |= {f"{name}: line {n}": without(line, TIMES) for n, line in enumerate(lines, 1)}
        elif path.name == checkpoint.MANIFEST:
            found[name] = without(path.read_text(), {*TIMES, checkpoint.SEAL})
        elif name == "train.json":
            found[name] = without(path.read_text(), {"output"})
        elif path.name == "README.md":
            timed = ("Time", "styleforge:training")  # the mark of that section is a hash of what stands in it
            found[name] = [line for line in path.read_text().splitlines() if not any(word in line for word in timed)]
        else:
            found[name] = path.read_bytes()
    return found


def bits(tensor: torch.Tensor) -> tuple[object, ...]:
    """What a tensor is, with every bit."""
    return tensor.dtype, tensor.shape, tensor.flatten().view(torch.uint8).numpy().tobytes()


def without(text: str, keys: set[str]) -> object:
    """A JSON object without some keys, a forecast without its text; anything else as it is."""
    try:
        table = dict(json.loads(text))
    except (ValueError, TypeError):
        return text
    return {k: v for k, v in table.items() if k not in keys and (k, table.get("event")) != ("text", "status")}


def differences(wanted: dict[str, object], found: dict[str, object]) -> list[str]:
    """What is missing, too much or different, by name."""
    return [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} is too much" for name in found if name not in wanted),
        *(f"{name} differs" for name in wanted if name in found and wanted[name] != found[name]),
    ]


# -- the proof --


def prove(config: TrainConfig, folder: Path, kills: int, in_save: int, seed: int = 0) -> Proof:
    """Kill runs until there were `kills`, and compare each with an undisturbed one.

    Args:
        config: the run; its output is chosen here.
        folder: an empty one.
        kills: how many; one in ten is while the style is published.
        in_save: how many of them are in a save.
        seed: of the moments.
    """
    board, chance = Board(), random.Random(seed)
    whole = replace(config, output=str(folder / "0" / "run"))
    fork(whole, None, board)
    wanted = contents(Path(whole.output))
    if not board.calls[SAVE] or not board.calls[PUBLISH]:
        raise RuntimeError("What a save does to the disk is not seen any more: see disk_calls.")
    plan = kills_of(board, kills, in_save, chance)
    deaths: list[Death] = []
    different: dict[int, list[str]] = {}
    while plan:
        run = len(different) + 1
        killed = replace(config, output=str(folder / str(run) / "run"))
        for left in reversed(range(chance.randint(2, 7))):  # what has made all its steps, or died often, may end
            kill = plan.pop() if left and plan and steps_of(killed) < config.steps else None
            at, birth = Board(), time.monotonic()
            if not fork(killed, kill, at, seconds_of(kill, board, killed)):
                if kill:  # too late: it comes to the next run, and sooner
                    plan.append(replace(kill, share=0.8 * kill.share))
                break
            milliseconds = 1000 * (time.monotonic() - birth)
            deaths.append(Death(run, PHASES[at.phase.value], at.step.value, milliseconds, at.call.value.decode()))
        different[run] = differences(wanted, contents(Path(killed.output)))
        shutil.rmtree(folder / str(run))
    return Proof(deaths, different)


def kills_of(board: Board, kills: int, in_save: int, chance: random.Random) -> list[Kill]:
    """Moments to kill at, in a random order: of each sort evenly spread, at random within their parts."""
    plan = []
    for phase, count in ((SAVE, in_save), (PUBLISH, kills // 10)):
        plan += [Kill(phase, 1 + int((i + chance.random()) / count * board.calls[phase])) for i in range(count)]
    clock = max(0, kills - len(plan))
    plan += [Kill(share=(i + chance.random()) / clock) for i in range(clock)]
    chance.shuffle(plan)
    return plan


def steps_of(config: TrainConfig) -> int:
    """The steps that a run has saved."""
    saved = (Path(config.output) / "checkpoints").glob("step-*")
    return max((int(folder.name[5:]) for folder in saved), default=0)


def seconds_of(kill: Kill | None, board: Board, config: TrainConfig) -> float | None:
    """When a kill by the clock comes, in what is left of a run."""
    if not kill or kill.call:
        return None
    begin, _, last, end = board.moments
    return kill.share * (begin + (last - begin) * (1 - steps_of(config) / config.steps) + end - last)


def show(proof: Proof) -> None:
    """A line for each kill and each difference, and what it comes to."""
    print(f"{'kill':>4} {'run':>4} {'after ms':>9}  in")
    for number, death in enumerate(proof.deaths, 1):
        call = f", before call {death.call}" if death.call else ""
        print(f"{number:4} {death.run:4} {death.milliseconds:9.0f}  {death.phase}, step {death.step}{call}")
    for run, names in proof.different.items():
        more = [f"and {len(names) - 5} more"] if len(names) > 5 else []
        print(*(f"run {run}: {name}\n" for name in names[:5] + more), sep="", end="")
    counts = ", ".join(f"{sum(d.phase == phase for d in proof.deaths)} in {phase}" for phase in PHASES)
    bad = sum(map(bool, proof.different.values()))
    print(f"{len(proof.deaths)} kills ({counts}); of {len(proof.different)} runs {bad or 'none'} ended differently")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=methods.METHODS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--in-save", type=int, default=10, help="how many of them before a disk call of a save")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--source", help="pictures to start from, when --target is given")
    parser.add_argument("--target", help="pictures to resemble, in place of drawn ones")
    parser.add_argument("--config", type=json.loads, default={}, help="more of TrainConfig, as JSON")
    options = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory(prefix="kill-resume-") as folder:
        pictures = options.source, options.target
        if not options.target:
            pictures = draw_pictures(Path(folder) / "pictures", methods.find(options.method).data)
        config = tiny_run(options.method, *pictures, options.steps, **options.config)
        proof = prove(config, Path(folder), options.kills, options.in_save, options.seed)
    show(proof)
    return int(any(proof.different.values()))


if __name__ == "__main__":
    sys.exit(main())
