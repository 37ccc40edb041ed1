"""Trackers: where the figures of a run go beside its `metrics.jsonl`.

A tracker looks on. Whatever goes wrong inside one is told once, and the training goes on without it.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import MissingExtra, UnknownName, nearest
from .files import write_text

MEMORY = "tracker.json"
"""File of a run that remembers what a tracker calls it."""


class Tracker:
    """Keeps nothing, and is the base of those that do.

    A subclass has the three methods with a leading underscore, which may raise what they like.
    """

    def __init__(self) -> None:
        self._quiet = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep some figures of a step, by name; a name may have a group before a slash."""
        self._guarded(self._log, step, values)

    def image(self, step: int, name: str, path: str | os.PathLike[str]) -> None:
        """Keep a picture file."""
        self._guarded(self._image, step, name, Path(path))

    def close(self) -> None:
        """Write what is held back; nothing is kept any more."""
        self._guarded(self._close)
        self._quiet = True

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._quiet:
            return
        try:
            function(*arguments)
        except Exception as error:  # of a foreign library with a network behind it: anything
            self._quiet = True
            _warn(type(self).__name__.lower(), error)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def _image(self, step: int, name: str, path: Path) -> None:
        pass

    def _close(self) -> None:
        pass


class TensorBoard(Tracker):
    """Event files in `RUN/tensorboard`.

    The first thing that is logged tells TensorBoard to forget what older files hold from that step on: a run that
    was killed makes the steps after its last checkpoint again.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._open = lambda step: SummaryWriter(str(run / "tensorboard"), purge_step=step)
        self._config = config
        self._writer: SummaryWriter | None = None

    def _begun(self, step: int) -> Any:
        if self._writer is None:
            self._writer = self._open(step)
            self._writer.add_text("train.json", _indented(json.dumps(self._config, indent=2)), step)
        return self._writer

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        writer = self._begun(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a run that is killed has its figures up to here

    def _image(self, step: int, name: str, path: Path) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # The file as it is: `add_image` would make a PNG of it, many times as large.
        with Image.open(path) as image:
            width, height = image.size
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        self._begun(step).file_writer.add_summary(summary, step)

    def _close(self) -> None:
        if self._writer:
            self._writer.close()


class Wandb(Tracker):
    """A run of Weights & Biases, its files in `RUN/wandb`; `WANDB_MODE=offline` needs neither account nor network.

    A run that goes on has the id that it began with, so that it stays one run.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self._picture = wandb.Image
        self._run = wandb.init(
            project="styleforge",
            name=run.resolve().name,
            id=_identity(run),
            resume="allow",
            dir=run,
            config=dict(config),
            settings=wandb.Settings(console="off"),  # the terminal and its progress bar are the user's
        )

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def _image(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._picture(str(path))}, step=step)

    def _close(self) -> None:
        self._run.finish()


KINDS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "none": lambda run, config: Tracker(),
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


def open_tracker(kind: str, run: Path, config: Mapping[str, Any]) -> Tracker:
    """The tracker of a run, new or gone on with.

    Args:
        kind: a key of :data:`KINDS`.
        run: folder of the run.
        config: what `train.json` holds.

    Returns:
        One whose methods never raise; one that keeps nothing, with a warning, when the service cannot be reached.

    Raises:
        MissingExtra: its library is not installed.
        UnknownName: no such tracker.
    """
    if kind not in KINDS:
        raise UnknownName(
            "No such tracker", found=repr(kind), allowed=", ".join(KINDS), todo=f"{nearest(kind, KINDS)}Name one."
        )
    try:
        return KINDS[kind](run, config)
    except MissingExtra:
        raise
    except Exception as error:  # see Tracker._guarded
        _warn(kind, error)
        return Tracker()


def _identity(run: Path) -> str:
    """What wandb calls this run: made once, and read from :data:`MEMORY` ever after."""
    path = run / MEMORY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["wandb"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        found = uuid.uuid4().hex[:8]
        write_text(path, json.dumps({"wandb": found}) + "\n")
    return found


def _missing(name: str) -> MissingExtra:
    return MissingExtra(
        f"The tracker needs {name}",
        todo=f"Install it with: pip install styleforge[{name}], or take --tracker none; metrics.jsonl is always there.",
    )


def _warn(name: str, error: Exception) -> None:
    warnings.warn(
        f"{name} keeps nothing from here on ({type(error).__name__}: {str(error).strip()[:500]}). "
        "The training goes on, and metrics.jsonl holds the same figures.",
        stacklevel=4,
    )


def _indented(text: str) -> str:
    """A block of code in Markdown."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
