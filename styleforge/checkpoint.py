"""The state of a training run on disk: a folder of safetensors and JSON, whole or not there.

```
RUN/checkpoints/step-00001200/
    state.safetensors   networks, averages, optimisers
    manifest.json       step, what belongs to it, SHA-256 of the tensors and of all else in it
```
A folder gets its name when everything in it is on the disk, and loses it before anything in it is removed; older
ones go only after a newer one is there. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from . import __version__, weights
from .errors import CheckpointError, StyleforgeError
from .files import remove_folder, replacing_folder, sha256, write_bytes, write_text

STATE, MANIFEST, SEAL = "state.safetensors", "manifest.json", "manifest_sha256"


def save(root: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Args:
        root: folder of the checkpoints.
        step: how many steps are done.
        tensors: by name.
        facts: JSON that :func:`newest` gives back as it was.
        keep: checkpoints to keep, this one included.

    Raises:
        NonFiniteWeights: NaN or infinity in the state; nothing is written.
        OSError: the disk is full, say; older checkpoints are as they were, and nothing else is left.
    """
    folder = root / f"step-{step:08d}"
    with replacing_folder(folder, last=(MANIFEST,)) as temporary:
        weights.write(temporary / STATE, tensors)
        manifest = {"step": step, "styleforge": __version__, "sha256": sha256(temporary / STATE), **facts}
        manifest[SEAL] = _seal(manifest)
        write_text(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    for damaged in [other for other in _folders(root) if other > folder]:  # else the run would have begun there
        with suppress(OSError):
            remove_folder(damaged)
    prune(root, step, keep)
    return folder


def prune(root: Path, step: int, keep: int = 2) -> None:
    """Of the checkpoints up to a step remove all but the newest `keep`.

    A run that was killed in the middle of this does it again when it goes on.
    """
    earlier = [other for other in _folders(root) if other <= root / f"step-{step:08d}"]
    for other in earlier[:-keep]:
        with suppress(OSError):
            remove_folder(other)


def newest(root: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and manifest of the newest checkpoint that is whole; None when there is no checkpoint at all.

    Newer ones that are damaged are named in a warning, each with its reason.

    Raises:
        CheckpointError: there are some, but none can be used; each is named with its reason.
    """
    reasons = []
    for folder in reversed(_folders(root)):
        try:
            found = _read(folder)
        except (OSError, ValueError, RecursionError, SafetensorError, StyleforgeError) as error:
            reasons.append(f"{folder.name}: {error}")
            continue
        if reasons:
            damaged = "; ".join(reasons)
            warnings.warn(f"Damaged checkpoints in {root} ({damaged}): going on from {folder.name}", stacklevel=2)
        return found
    if reasons:
        raise CheckpointError(
            "No checkpoint of this run can be used",
            where=root,
            found="; ".join(reasons),
            todo="Start again with another --output.",
        )
    return None


def manifests(root: Path) -> Iterator[dict[str, Any]]:
    """What the manifests say that can be read, the newest first; whether their tensors are whole is not looked at."""
    for folder in reversed(_folders(root)):
        try:
            manifest = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            continue
        yield manifest


def rewind(log: Path, step: int) -> None:
    """Take back the lines of a log that a run which goes on after `step` writes once more, and torn ones.

    Args:
        log: a file of JSON objects, one a line, each with its "step".
        step: the last one whose lines stay.
    """
    if not log.exists():
        return
    before = log.read_bytes()
    after = b"".join(line + b"\n" for line in before.splitlines() if _is_of(line, step))
    if after != before:
        write_bytes(log, after)


def pack(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors."""
    return {
        f"{prefix}.{index}.{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what :func:`pack` made; learning rates are functions of the step and not stored."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name[len(prefix) + 1 :].split(".")
            state.setdefault(int(index), {})[key] = tensor.clone()  # the optimiser would write into ours
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or type(manifest.get("step")) is not int:
        raise ValueError(f"{MANIFEST} tells no step")
    if manifest.pop(SEAL, None) not in (None, _seal(manifest)):
        raise ValueError(f"{MANIFEST} has been changed or damaged")
    if manifest.get("sha256") != sha256(folder / STATE):
        raise ValueError(f"{STATE} has been changed or damaged")
    tensors = safetensors.torch.load_file(folder / STATE, backend="pread")
    weights.check_finite(tensors, where=folder / STATE)
    return tensors, manifest


def _is_of(line: bytes, step: int) -> bool:
    """Whether a line of a log is whole and tells of a step up to `step`."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, LookupError, TypeError):
        return False


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("step-????????") if p.is_dir())


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
