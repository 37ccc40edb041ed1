"""Strangers' checkpoints as plain trees of tensors, without running what they say.

A checkpoint of PyTorch is a pickle, and a pickle is a program. :func:`read_checkpoint` has another process read it
(:mod:`.child`), with limits on memory and time and without the secrets of this one's environment. That process
first follows the pickle's opcodes without carrying them out; only a file that would call nothing beyond a short list,
in nothing but the usual ways, and claim no more than it holds, goes on to `torch.load(weights_only=True)`.
Back come a safetensors file and JSON. Whatever befalls that process, this one gets an error with a sentence.

On Linux the limit on memory is the system's. macOS and Windows do not enforce one; there the checks of sizes before
loading stand alone, and the limit on time.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from .. import weights
from ..errors import CorruptFileError, RepoNotFound, StyleforgeError, UnsafeFileError
from ..files import sha256
from . import child

MEMORY = 256 * 2**20
TIMES_FILE = 4  # loading, parting shared memory, and writing
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "USERPROFILE")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        tree: dictionaries and lists of None, bool, int, float, str and dense tensors on the CPU, as in the file.
            Tuples are lists, parameters are tensors, settings such as `argparse.Namespace` are dictionaries.
        file: the file's name.
        sha256: of the file, in hexadecimal digits.
        container: "zip", "legacy" (torch before 1.6) or "safetensors".
        notes: what was made harmless, or is remarkable.
    """

    tree: Any
    file: str
    sha256: str
    container: str
    notes: tuple[str, ...]


def read_checkpoint(path: str | os.PathLike[str], *, max_memory: int | None = None, seconds: float = 120) -> Checkpoint:
    """Read a stranger's checkpoint of `torch.save`, or a safetensors file.

    Args:
        path: the file; its name says nothing about its kind.
        max_memory: bytes that reading may take beyond an idle process; None: 256 MiB and four times the file.
        seconds: how long it may take.

    Raises:
        RepoNotFound: there is no such file, or it cannot be opened.
        UnsafeFileError: it names code, claims more than it holds, goes over a limit, or is no file but a device.
        CorruptFileError: truncated, damaged, or another kind of file.
        NonFiniteWeights: a tensor holds NaN or infinity.
        StyleforgeError: no room for temporary files.
    """
    path = Path(path)
    if _first_bytes(path, 9)[8:] == b"{":
        tree, container, notes = weights.read(path), "safetensors", []
    else:
        tree, container, notes = _read_elsewhere(path, max_memory, seconds)
    tensors = dict(_tensors(tree))
    weights.check_finite(tensors, where=path)
    return Checkpoint(tree, path.name, sha256(path), container, (*notes, *_precisions(tensors)))


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(count)
    except (OSError, ValueError) as error:
        todo = "Check its name, and who may read it."
        raise RepoNotFound("There is no such file", where=path, found=error, todo=todo) from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
    raise UnsafeFileError("This is not a file", where=path, found=kind, todo="Name the checkpoint itself.")


def _read_elsewhere(path: Path, max_memory: int | None, seconds: float) -> tuple[Any, str, list[str]]:
    """Tree, container and notes, by way of the child."""
    memory = MEMORY + TIMES_FILE * path.stat().st_size if max_memory is None else max_memory
    with tempfile.TemporaryDirectory(prefix="styleforge-", ignore_cleanup_errors=True) as folder:
        _run(path, Path(folder), memory, seconds)
        result = json.loads(Path(folder, child.RESULT).read_bytes())
        if "refused" in result:
            raise _refusal(path, **result["refused"])
        tensors = weights.read(Path(folder, child.TENSORS))
    return _rebuilt(result["tree"], tensors), result["container"], result["notes"]


def _run(path: Path, folder: Path, memory: int, seconds: float) -> None:
    """Start the child and wait until it has left its result.

    Not :mod:`multiprocessing`: its processes answer in pickles, and start by importing the caller's program.
    """
    command = [sys.executable, "-P", "-B", child.__file__, path.absolute(), folder, str(memory), str(int(seconds) + 1)]
    packages = {str(Path(package.__file__).parents[1]) for package in (torch, safetensors)}
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(sorted(packages)), "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise UnsafeFileError(
            "Reading this checkpoint takes too long",
            where=path,
            found=f"no end after {seconds:g} s",
            todo="If its author is known to you, allow more seconds.",
        ) from error
    if done.returncode:
        raise CorruptFileError(
            "The process that read this checkpoint has died over it",
            where=path,
            found=f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}",
            todo=child.AGAIN,
        )


def _refusal(path: Path, kind: str, what: str, found: object, allowed: object, todo: str) -> StyleforgeError:
    cls = {"unsafe": UnsafeFileError, "corrupt": CorruptFileError, "room": StyleforgeError}[kind]
    return cls(what, where=path, found=found, allowed=allowed, todo=todo)


def _rebuilt(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree out of the child's JSON."""
    if isinstance(value, list):
        return [_rebuilt(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _rebuilt(v, tensors) for key, v in value["items"]}


def _tensors(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a tree, with its place in it."""
    if isinstance(value, Tensor):
        yield "/".join(path), value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(inner, (*path, str(key)))


def _precisions(tensors: dict[str, Tensor]) -> Iterator[str]:
    """Of what is not single precision."""
    kinds = Counter(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    for kind, count in kinds.items():
        if kind != torch.float32:
            yield f"{count} tensors are of type {str(kind).removeprefix('torch.')}"
