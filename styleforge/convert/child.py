"""The process in which a stranger's checkpoint is read: `python child.py FILE FOLDER MEMORY SECONDS`.

:mod:`.reading` starts it as a script, so it imports nothing of this library, and torch only when a look at the
pickle's opcodes has found nothing but tensors and plain values in it: a hostile file costs no start of torch.
What it finds goes into FOLDER: `tensors.safetensors`, and `result.json` with the tree around the tensors or with
the reason for a refusal. Nothing that comes out of here is a pickle.

MEMORY is what the file may cost in bytes, beyond an idle process. Linux enforces it, as a limit on the address
space. Elsewhere it holds as far as the checks before loading do: what a file claims is never larger than it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import pickletools
import re
import shutil
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

TENSORS, RESULT, CLEAN = "tensors.safetensors", "result.json", "clean.pt"
MAX_TENSORS = 4096  # as in weights.py
MAX_DIMENSIONS = 8
MAX_PICKLE_BYTES = 64 * 2**20
MAX_OPCODES = 1_000_000
MAX_NODES = 200_000
MAX_TEXT = 16 * 2**20
MAX_DEPTH = 32
MAX_KEY = 2**31  # integers beyond it can be chosen so that all have one hash, and fill a dictionary for hours

ELEMENT_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
ORDERED, SIZE, ENCODE = "collections.OrderedDict", "torch.Size", "_codecs.encode"
TENSOR_1, TENSOR_2 = "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
MAPPINGS = {
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
}
# Settings and scores that lie beside weights. Their classes are never imported: see Inert.
INERT = {
    "argparse.Namespace",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
}
ALLOWED = {*ELEMENT_BYTES, ORDERED, SIZE, ENCODE, TENSOR_1, TENSOR_2, PARAMETER, *MAPPINGS, *INERT}

VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save until 1.5: a pickle of a magic number
OTHERS = {
    b"<": "a page of HTML or XML",
    b"version https://git-lfs": "a pointer of git-lfs to the file",
    b"\x89HDF": "an HDF5 file, perhaps of Keras",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"{": "JSON",
}
ASK = "Ask its author for safetensors, or for what torch.save(model.state_dict(), FILE) writes."
AGAIN = "Download it again, or ask its author."


class Refused(Exception):
    """The file is not read. `kind` is "unsafe", "corrupt" or "room"; the rest becomes an error of the library."""

    def __init__(self, kind: str, what: str, found: object = None, allowed: object = None, todo: str = ASK) -> None:
        super().__init__(kind, what, found, allowed, todo)
        self.facts = {"kind": kind, "what": what, "found": found, "allowed": allowed, "todo": todo}


def corrupt(found: object, allowed: object = None) -> Refused:
    """The refusal of a file that broke on its way."""
    return Refused("corrupt", "This checkpoint is damaged", found, allowed, AGAIN)


# -- a look at the pickle --


@dataclass(frozen=True)
class Global:
    """A name from the allow-list."""

    name: str


@dataclass(frozen=True)
class Stored:
    """A storage: `count` elements of a kind."""

    key: str
    kind: str
    count: int

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return ELEMENT_BYTES[self.kind]


@dataclass(frozen=True)
class Made:
    """Whatever a call of `name` would make."""

    name: str


class Scan:
    """What pickles would build, without building it: an interpreter of their opcodes over placeholders.

    Only names of the allow-list, only in calls with the arguments that `torch.save` gives them, and only
    storages and views that lie within the file. The opcodes are those of `torch.load(weights_only=True)`.

    Args:
        size: bytes of the file; tensors may claim twice as many, for some share their memory.
        records: bytes of each storage, where the container tells.
    """

    def __init__(self, size: int, records: Mapping[str, int] | None = None) -> None:
        self.size, self.records = size, records
        self.storages: dict[str, Stored] = {}
        self.held = 0  # bytes of them
        self.views: dict[tuple[Any, ...], int] = {}  # bytes of each
        self.harmless: set[str] = set()
        self.work = 0

    def run(self, stream: BinaryIO) -> Any:
        """Go through one pickle; returns what it would build, as far as that matters here."""
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(stream):
            self._spend(1)
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > MAX_OPCODES:
            raise Refused("unsafe", "This pickle is larger than that of any network", allowed=f"{MAX_OPCODES} opcodes")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case _ if opcode in VALUES:
                stack.append(argument)
            case _ if opcode in CONSTANTS:
                stack.append(CONSTANTS[opcode])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append(Made("dict"))
            case "MARK":  # as torch does, so that nothing reaches below a mark
                self.marks.append(stack)
                self.stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = self._since_mark()
                self.stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = self._since_mark()
                self.stack[-1].extend(items)
            case "SETITEM":
                _, key = stack.pop(), stack.pop()
                _check_keys([key])
            case "SETITEMS":
                _check_keys(self._since_mark()[::2])
            case "GLOBAL":
                stack.append(self._global(argument))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments, new=opcode == "NEWOBJ"))
            case "BUILD":
                state = stack.pop()
                _check_state(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "PROTO":
                pass
            case _:
                raise Refused("unsafe", "This pickle uses an opcode that torch.save does not write", found=opcode)

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _global(self, argument: str) -> Global:
        name = argument.replace(" ", ".", 1)
        if name not in ALLOWED:
            raise Refused(
                "unsafe",
                "To read this checkpoint is to run code that it names",
                found=name[:100],
                allowed="tensors, dictionaries, lists, text and numbers",
                todo=f"Perhaps it is a whole model rather than its weights. {ASK}",
            )
        if name in INERT:
            self.harmless.add(name)
        return Global(name)

    def _call(self, function: Any, arguments: Any, *, new: bool) -> Any:
        if type(function) is not Global or type(arguments) is not tuple:
            raise _odd_call(function)
        name = function.name
        if name in INERT:
            return Made(name)
        if name in MAPPINGS or name == ORDERED:
            return self._mapping(name, arguments)
        if name == PARAMETER and not new and arguments[:1] == (Made("tensor"),) and len(arguments) == 3:
            return Made("tensor")
        if name in (TENSOR_1, TENSOR_2) and not new:
            return self._tensor(name, arguments)
        if name == SIZE and not new and len(arguments) == 1 and _are_sizes(arguments[0]):
            return arguments[0]
        if name == ENCODE and not new and len(arguments) == 2 and arguments[1] == "latin1":  # how bytes are written
            self._spend(len(arguments[0]) // 16)
            return Made("bytes")
        raise _odd_call(function)

    def _mapping(self, name: str, arguments: tuple[Any, ...]) -> Made:
        """An empty one, or one of a list of pairs, as Python 2 wrote it."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or type(pairs) is not list or any(type(pair) not in (list, tuple) for pair in pairs):
            raise _odd_call(Global(name))
        self._spend(len(pairs))
        _check_keys([pair[0] for pair in pairs])
        return Made(ORDERED)

    def _storage(self, identity: Any) -> Stored:
        match identity:
            case ("storage", Global(kind), str(key), str(place), int(count), *rest) if (
                kind in ELEMENT_BYTES and re.fullmatch(r"\d{1,20}", key, re.ASCII) and rest in ([], [None])
            ):
                stored = Stored(key, kind, count)
            case _:
                raise Refused("unsafe", "This checkpoint refers to something that is not a dense tensor")
        if not re.fullmatch(r"[a-z]{1,16}(:\d{1,4})?", place, re.ASCII) or place == "meta":
            raise Refused("unsafe", "A tensor lies at an unknown place", found=repr(place[:40]), allowed="cpu, cuda:0")
        if self.storages.get(key, stored) != stored:
            raise Refused("unsafe", f"Storage {key} has two types or lengths", todo=AGAIN)
        if key not in self.storages:
            self._check_storage(stored)
            self.storages[key] = stored
            self.held += stored.width * stored.count
        return stored

    def _check_storage(self, stored: Stored) -> None:
        size = stored.width * stored.count
        held = self.size - self.held if self.records is None else self.records.get(stored.key, 0)
        wrong = size > held if self.records is None else size != held
        if wrong or stored.count < 0:
            raise Refused(
                "unsafe",
                f"Storage {stored.key} is not as large as the checkpoint says",
                found=f"{size} bytes",
                allowed=f"{held}, as the file has",
                todo=AGAIN,
            )

    def _tensor(self, name: str, arguments: tuple[Any, ...]) -> Made:
        if name == TENSOR_1:  # torch before 0.4: no gradients, no hooks
            arguments = (*arguments, False, Made(ORDERED))
        match arguments:
            case (Stored() as stored, int(offset), tuple(size), tuple(stride), bool(), Made("collections.OrderedDict")):
                pass
            case _:
                raise _odd_call(Global(name))
        if not _are_sizes(size) or not _are_sizes(stride) or len(size) != len(stride):
            raise Refused("unsafe", "A tensor has an impossible shape", allowed=f"up to {MAX_DIMENSIONS} dimensions")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else offset - 1
        if not 0 <= offset <= stored.count or last >= stored.count:
            raise Refused("unsafe", "A tensor reaches beyond its storage", found=f"element {last} of {stored.count}")
        # max(): an empty tensor of astronomic sides is as good as a large one at making sums overflow
        self.views[stored.key, offset, size, stride] = stored.width * math.prod(max(n, 1) for n in size)
        return Made("tensor")

    def check_views(self) -> None:
        """Refuse tensors that repeat a few bytes until they fill the memory, and too many of them."""
        if len(self.views) > MAX_TENSORS:
            raise Refused("unsafe", "It holds more tensors than any network", len(self.views), MAX_TENSORS)
        claimed = sum(self.views.values())
        if claimed > 2 * self.size:
            raise Refused(
                "unsafe",
                "Its tensors are larger than the file",
                found=f"{claimed} bytes in a file of {self.size}",
                allowed="twice the file",
            )


def _are_sizes(values: Any) -> bool:
    fits = type(values) is tuple and len(values) <= MAX_DIMENSIONS
    return fits and all(type(n) is int and 0 <= n < 2**40 for n in values)


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not (key is None or type(key) in (str, bool) or (type(key) is int and abs(key) <= MAX_KEY)):
            raise Refused("unsafe", "A dictionary has a key that no checkpoint has", allowed="text and small numbers")


def _check_state(target: Any, state: Any) -> None:
    """Attributes: of state dicts their `_metadata`, of harmless objects anything (see Inert)."""
    if type(target) is not Made or target.name not in {ORDERED, *INERT}:
        raise Refused("unsafe", "The checkpoint sets attributes of something that has none")
    if target.name == ORDERED and state != Made("dict"):
        raise Refused("unsafe", "The checkpoint sets odd attributes of a dictionary")


def _odd_call(function: Any) -> Refused:
    found = function.name if isinstance(function, Global) else type(function).__name__
    return Refused("unsafe", "The checkpoint calls a function in a way that torch.save never does", found)


# -- containers --


def container(file: BinaryIO, size: int) -> str:
    """Which one it is, "zip" or "legacy"; anything else is refused by its name."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    # torch looks for a tar before it looks for its own magic number, so this does too (to tarfile zeros are one).
    with contextlib.suppress(tarfile.TarError, ValueError, EOFError), tarfile.open(fileobj=file, mode="r:"):
        if any(head):
            todo = f"Unpack it. If it is of PyTorch before 0.1.10: {ASK}"
            raise Refused("unsafe", "This is a tar archive", allowed="a checkpoint of torch.save", todo=todo)
    file.seek(0)
    if head.startswith(LEGACY):
        return "legacy"
    if head[:1] == b"\x80":
        raise Refused("unsafe", "A bare pickle can run code and is not read", allowed="a checkpoint of torch.save")
    start = head.lstrip()
    kind = next((kind for magic, kind in OTHERS.items() if start.startswith(magic)), None)
    found = "an empty file" if not size else kind or f"{size} bytes that begin with {head[:16]!r}"
    raise Refused("corrupt", "This is not a checkpoint", found, "a file of torch.save or safetensors", AGAIN)


def from_zip(file: BinaryIO, size: int, folder: Path) -> tuple[Scan, Path]:
    """Check an archive; returns the scan, and a clean archive with nothing but what was checked.

    torch then does not see the file itself, which its reader might take for another than ours does.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = check_entries(archive, size)
            root = next(name for name in entries if name.endswith("data.pkl")).removesuffix("data.pkl")
            prefix = f"{root}data/"
            records = {n.removeprefix(prefix): i.file_size for n, i in entries.items() if n.startswith(prefix)}
            scan, pickle = Scan(size, records), archive.read(f"{root}data.pkl")
            scan.run(io.BytesIO(pickle))
            scan.check_views()
            clean = folder / CLEAN
            with zipfile.ZipFile(clean, "w") as copy:
                copy.writestr("archive/data.pkl", pickle)
                copy.writestr("archive/version", b"3\n")
                if f"{root}byteorder" in entries:
                    copy.writestr("archive/byteorder", archive.read(f"{root}byteorder"))
                for key in scan.storages:
                    target = zipfile.ZipInfo(f"archive/data/{key}")
                    target.file_size = records[key]
                    with archive.open(f"{prefix}{key}") as source, copy.open(target, "w") as sink:
                        shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise corrupt(error) from error
    return scan, clean


def check_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, when they are what torch.save writes."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    for name, entry in entries.items():
        if not re.fullmatch(r"(?![A-Za-z]:)[^\\\0]{1,512}", name) or name.startswith("/") or ".." in name.split("/"):
            raise Refused("unsafe", "The archive has a path that leaves its folder", found=repr(name[:80]))
        if entry.compress_type or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise Refused("unsafe", "The archive is compressed or encrypted", name[:80], "entries stored as they are")
    total = sum(entry.file_size for entry in archive.infolist())
    if len(entries) != len(archive.infolist()) or total > size:
        raise Refused("unsafe", "The archive holds more than the file", f"{total} bytes, or a name twice", size)
    names = {name.rpartition("/")[2] for name in entries}
    if "constants.pkl" in names:
        raise Refused("unsafe", "This is a TorchScript archive, which is a program", allowed="weights")
    pickles = [entry for name, entry in entries.items() if name.endswith("data.pkl")]
    if len(pickles) != 1:
        shown = ", ".join(itertools.islice(entries, 4))[:200] or "nothing"
        raise Refused("corrupt", "This zip archive is not a checkpoint", shown, "what torch.save writes")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise Refused("unsafe", "Its pickle is too large", f"{pickles[0].file_size} bytes", MAX_PICKLE_BYTES)
    return entries


def from_legacy(file: BinaryIO, size: int) -> Scan:
    """Check the container of torch before 1.6: five pickles, then each storage behind its length."""
    scan, pickles = Scan(size), io.BytesIO(file.read(MAX_PICKLE_BYTES))
    *_, keys = [scan.run(pickles) for _ in ("magic number", "protocol", "system", "tree", "keys")]
    scan.check_views()
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(scan.storages):
        raise corrupt("storages that are missing")
    position = pickles.tell()
    for key in keys:
        stored = scan.storages[key]
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        if count != stored.count:
            raise corrupt(f"storage {key} of {count} elements", stored.count)
        position += 8 + stored.count * stored.width
    if position != size:
        raise corrupt(f"{size} bytes", f"the {position} that it describes")
    file.seek(0)
    return scan


# -- loading --


class Inert:
    """Stands for an object of a harmless class, which is neither imported nor made; keeps its attributes."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load(source: Path | BinaryIO) -> Any:
    """`torch.load`, of a file whose scan was clean."""
    import torch

    names = [(Inert, name) for name in INERT] + [(OrderedDict, name) for name in MAPPINGS]
    torch.serialization.add_safe_globals(names)
    return torch.load(source, map_location="cpu", weights_only=True, mmap=False)


class Encoder:
    """Takes a tree apart into JSON and a list of tensors, each contiguous and with memory of its own."""

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self.names: dict[tuple[Any, ...], str] = {}
        self.storages: set[int] = set()
        self.shared, self.left, self.nodes, self.text = 0, set(), 0, 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """JSON of a value: {"tensor": NAME}, {"items": [[KEY, VALUE], ...]}, a list, or the plain value."""
        import torch

        self._count(depth)
        if isinstance(value, torch.Tensor):
            return {"tensor": self._tensor(value)}
        if isinstance(value, Inert):
            value = value.state if isinstance(value.state, dict) else None
        if isinstance(value, dict):  # not value.items(): its attributes come from the file
            return {"items": [[self._plain(k), self.encode(v, depth + 1)] for k, v in dict.items(value)]}
        if isinstance(value, list | tuple):
            return [self.encode(v, depth + 1) for v in value]
        return self._plain(value)

    def notes(self) -> list[str]:
        """What is different now."""
        shared = [f"{self.shared} tensors were parts of a common storage; each has its own now"] * (self.shared > 0)
        return shared + [f"left out: {kind}" for kind in sorted(self.left)]

    def _count(self, depth: int) -> None:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            allowed = f"{MAX_DEPTH} levels and {MAX_NODES} values"
            raise Refused("unsafe", "The tree in this checkpoint is deeper or larger than any", allowed=allowed)

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str):
            self.text += len(value)
            if self.text > MAX_TEXT:
                raise Refused("unsafe", "This checkpoint holds too much text", allowed=f"{MAX_TEXT} letters")
        elif not (value is None or isinstance(value, bool | int | float)):
            self.left.add(type(value).__name__)
            return None
        return value

    def _tensor(self, tensor: Any) -> str:
        import torch

        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise Refused("unsafe", "A tensor is not dense", found=tensor.layout, allowed="strided tensors")
        tensor, storage = tensor.detach(), tensor.untyped_storage()
        place = (storage.data_ptr(), tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride())
        if place not in self.names:
            own = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in self.storages
            self.storages.add(storage.data_ptr())
            self.shared += not own
            self.names[place] = str(len(self.names))
            apart = tensor if own else tensor.clone()
            self.tensors[self.names[place]] = apart.contiguous()
        return self.names[place]


def read(path: Path, folder: Path, memory: int) -> dict[str, Any]:
    """Check and load a file, and put its tensors into `folder`; returns what `result.json` says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = container(file, size)
        if kind == "zip":
            scan, source = from_zip(file, size, folder)
        else:
            scan, source = from_legacy(file, size), file
        limit_memory(None)
        import safetensors.torch  # and torch, which takes gigabytes of addresses where it brings CUDA

        limit_memory(memory)
        encoder = Encoder()
        tree = encoder.encode(load(source))
        safetensors.torch.save_file(encoder.tensors, folder / TENSORS)
    harmless = [f"{name} was not made, only read" for name in sorted(scan.harmless)]
    return {"container": kind, "tree": tree, "notes": harmless + encoder.notes()}


def limit_memory(budget: int | None) -> None:
    """Let this process take `budget` bytes of addresses more than it has; None: as many as it likes."""
    if sys.platform != "linux":  # others do not enforce it
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard
    if budget is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        soft = used + budget if hard == resource.RLIM_INFINITY else min(used + budget, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def limit_rest(size: int, seconds: int) -> None:
    """No core dumps, no endless files, and an end by itself should nobody be there to kill it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    largest = 4 * size + 2 * MAX_PICKLE_BYTES
    wanted = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds + 1), (resource.RLIMIT_FSIZE, largest))
    for kind, value in wanted:
        with contextlib.suppress(ValueError, OSError):  # a stricter one is in force
            resource.setrlimit(kind, (value, value))


def outcome(path: Path, folder: Path, memory: int) -> dict[str, Any]:
    """What :func:`read` says, or why it does not."""
    too_much = Refused(
        "unsafe",
        "Reading this checkpoint takes more memory than it may",
        found=f"more than {memory / 2**20:.0f} MiB",
        todo="If its author is known to you, raise max_memory.",
    )
    try:
        return read(path, folder, memory)
    except Refused as refused:
        return {"refused": refused.facts}
    except MemoryError:
        return {"refused": too_much.facts}
    except RecursionError:
        return {"refused": Refused("unsafe", "The pickle is nested deeper than any checkpoint").facts}
    except Exception as error:  # what torch, zipfile and pickletools raise over mutated files: eleven classes
        if "alloc" in str(error):
            return {"refused": too_much.facts}
        if any(words in str(error) for words in ("space left", "os error 112")):  # the latter is Rust's on Windows
            return {"refused": no_room(folder).facts}
        return {"refused": corrupt(f"{type(error).__name__}: {str(error)[:200]}").facts}


def no_room(folder: Path) -> Refused:
    """The refusal for a full disk, and room for the word of it."""
    for name in (CLEAN, TENSORS):
        (folder / name).unlink(missing_ok=True)
    return Refused("room", "No room for temporary files", folder.parent, todo="Name a larger folder in TMPDIR.")


def main(path: str, folder: str, memory: str, seconds: str) -> None:
    """The whole life of the process."""
    limit_rest(os.stat(path).st_size, int(seconds))
    limit_memory(int(memory))
    text = json.dumps(outcome(Path(path), Path(folder), int(memory)), default=str)
    Path(folder, RESULT).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
