"""Reading and writing safetensors files with limits: what a stranger's file may cost is known beforehand."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import CorruptFileError, NonFiniteWeights, UnsafeFileError, WeightsError
from .files import replacing

MAX_HEADER_BYTES = 4 * 2**20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAME = re.compile(r"(?!/|.*\.\./)[\w.\-/]{1,256}")


class TensorInfo(NamedTuple):
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: str | os.PathLike[str]) -> dict[str, TensorInfo]:
    """Names, dtypes and shapes in a safetensors file; no tensor is read.

    Stricter than the library: a header of 70 MB with a million empty tensors is a valid file, and takes it
    29 s and 884 MB.

    Raises:
        CorruptFileError: not a safetensors file, truncated, or over the limits above.
        UnsafeFileError: a tensor with a name that no network has.
    """

    def corrupt(found: object, allowed: object = None) -> CorruptFileError:
        return CorruptFileError(
            "This is not a usable safetensors file",
            where=path,
            found=found,
            allowed=allowed,
            todo="Download it again (force_download=True), or ask its author.",
        )

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise corrupt(f"{size} bytes with a header of {length}", "a header that fits into the file")
        if length > MAX_HEADER_BYTES:
            raise corrupt(f"a header of {length} bytes", f"up to {MAX_HEADER_BYTES}")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=unique_keys)
        header.pop("__metadata__", None)
        infos = {n: TensorInfo(str(i["dtype"]), tuple(map(int, i["shape"]))) for n, i in header.items()}
        ends = [int(i["data_offsets"][1]) for i in header.values()]
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise corrupt(f"a header that cannot be read ({type(error).__name__}: {error})") from error
    if len(infos) > MAX_TENSORS:
        raise corrupt(f"{len(infos)} tensors", f"up to {MAX_TENSORS}")
    if size != 8 + length + max(ends, default=0):
        raise corrupt(f"{size} bytes", f"the {8 + length + max(ends, default=0)} that its header describes")
    for name, info in infos.items():
        if not _NAME.fullmatch(name):
            raise UnsafeFileError(
                "A tensor has a name that no network has",
                where=path,
                found=repr(name[:80]),
                allowed="letters, digits, '_', '-', '.' and '/'",
                todo="Do not use this file.",
            )
        if info.dtype not in DTYPES:
            raise corrupt(f"'{name}' of type {info.dtype}", ", ".join(DTYPES))
        if len(info.shape) > MAX_DIMENSIONS or any(s < 0 for s in info.shape):
            raise corrupt(f"'{name}' of shape {info.shape}", f"up to {MAX_DIMENSIONS} dimensions")
    return infos


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=)`: where a key stands twice, two readers may see two files."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key that stands twice")
    return dict(pairs)


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in memory; the file is not left mapped.

    A mapped file that another process truncates kills the reader, and one that it overwrites changes the
    loaded weights; so the bytes are copied.

    Raises:
        CorruptFileError, UnsafeFileError: see :func:`read_header`.
    """
    read_header(path)
    try:
        return safetensors.torch.load_file(path, backend="pread")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CorruptFileError(
            "The weights cannot be read",
            where=path,
            found=error,
            todo="Download the file again (force_download=True), or ask its author.",
        ) from error


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors to a safetensors file, whole or not at all.

    The same tensors give the same bytes, unless there is `metadata`: safetensors shuffles its entries, and then
    pushing a style again would upload it again.

    Raises:
        NonFiniteWeights: a tensor holds NaN or infinity; nothing is written.
        OSError: it cannot be written, nothing of it is left.
        WeightsError: a tensor of a name or a type that :func:`read_header` would refuse; nothing is written.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values() or not _NAME.fullmatch(name):
            raise WeightsError(
                "This tensor cannot be stored",
                where=path,
                found=f"{name[:80]!r} of type {tensor.dtype}",
                allowed=f"{', '.join(DTYPES)}, and names of letters, digits, '_', '-', '.' and '/'",
                todo="Convert it before saving.",
            )
    check_finite(tensors, where=path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.touch()
        readers = temporary.stat().st_mode  # of safetensors' own files only the owner is one
        try:
            safetensors.torch.save_file(plain, temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # a full disk, under their name
            raise OSError(str(error)) from error
        temporary.chmod(readers)
    return Path(path)


def check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise :class:`NonFiniteWeights` naming the tensors that hold NaN or infinity."""
    # aminmax hands NaN through and allocates nothing
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.numel() and not all(v.isfinite() for v in torch.aminmax(tensor))
    ]
    if bad:
        raise NonFiniteWeights(
            "The weights hold NaN or infinity",
            where=where,
            found=f"{len(bad)} tensors, the first '{bad[0]}'",
            allowed="finite numbers",
            todo="Use an earlier checkpoint of the training, or ask the author for a repaired file.",
        )
