"""Rows of a folder of pictures, computed once.

They are kept under a digest of the bytes of all pictures, the weights that looked, the layer, and what was done to the
pictures before: whatever changes makes another digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from .. import weights
from ..errors import CorruptFileError
from ..files import sha256


def folder() -> Path:
    """Where rows are kept: `$XDG_CACHE_HOME/styleforge/features`, and in `~/.cache` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "styleforge" / "features"


def digest(files: Iterable[Path], *about: object) -> str:
    """SHA-256 of the bytes of files in their order, not of their names, and of whatever else decides.

    Raises:
        OSError: a file cannot be read.
    """
    total = hashlib.sha256(repr(about).encode())
    for file in files:
        total.update(sha256(file).encode())
    return total.hexdigest()


def read(key: str) -> dict[str, Tensor] | None:
    """What :func:`write` has kept under a digest; None when it is not there, or damaged."""
    with suppress(OSError, CorruptFileError):
        return weights.read(_path(key))
    return None


def write(key: str, rows: Mapping[str, Tensor]) -> None:
    """Keep tables of rows (n, d), whole or not at all; a full or read-only disk costs the cache and no result."""
    with suppress(OSError):
        weights.write(_path(key), rows)


def _path(key: str) -> Path:
    return folder() / f"{key}.safetensors"
