"""The state of a training run on disk: a folder of safetensors and JSON, whole or not there.

```
RUN/checkpoints/step-00001200/
    state.safetensors   networks, averages, optimisers
    manifest.json       step, what belongs to it, SHA-256 of the tensors
```
A folder gets its name when everything in it is on the disk; older ones go only afterwards. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from . import __version__, weights
from .errors import CheckpointError, StyleforgeError
from .files import replacing_folder, write_text

STATE, MANIFEST = "state.safetensors", "manifest.json"


def save(root: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = 2) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Raises:
        NonFiniteWeights: NaN or infinity in the state; nothing is written.
    """
    folder = root / f"step-{step:08d}"
    with replacing_folder(folder, last=(MANIFEST,)) as temporary:
        weights.write(temporary / STATE, tensors)
        manifest = {"step": step, "styleforge": __version__, "sha256": _sha256(temporary / STATE), **facts}
        write_text(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    for old in _folders(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest(root: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and manifest of the newest checkpoint that is whole; None when there is no checkpoint at all.

    Raises:
        CheckpointError: there are some, but none can be used; each is named with its reason.
    """
    reasons = []
    for folder in reversed(_folders(root)):
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if _sha256(folder / STATE) != manifest["sha256"]:
                raise ValueError(f"{STATE} has been changed or damaged")
            return safetensors.torch.load_file(folder / STATE, backend="pread"), manifest
        except (OSError, ValueError, KeyError, StyleforgeError) as error:
            reasons.append(f"{folder.name}: {error}")
    if reasons:
        raise CheckpointError(
            "No checkpoint of this run can be used",
            where=root,
            found="; ".join(reasons),
            todo="Start again with another --output.",
        )
    return None


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
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("step-????????") if p.is_dir())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
