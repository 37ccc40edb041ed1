"""Writing files and folders so that a crash, a full disk or a second writer never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .errors import ConfigError

_TEMPORARY = re.compile(r"\..*-(\d{1,9})-[0-9a-f]{8}\.tmp(\..*)?")
KEPT = 48  # letters of a name: systems allow 255 bytes, a letter may have 4, and what is added wants room
_ABANDONED = 86_400  # seconds: no writer takes a day
_IN_USE = (5, 32)  # what Windows calls a file that somebody has open
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # seconds


@contextmanager
def replacing(path: str | os.PathLike[str], folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; it becomes `path` when the block ends well, else it is removed.

    It lies beside `path`, or in `folder` of the same disk, where there is one to :func:`clean`.
    What was at `path` stays readable until the last moment. Missing parent folders are made.
    The temporary name keeps the suffix, because image encoders choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(folder or path.parent, path.stem, path.suffix)
    try:
        yield temporary
        _sync(temporary)
        _patiently(os.replace, temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | os.PathLike[str], last: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a temporary folder; its files arrive in `folder` when the block ends well.

    A new `folder` appears by one rename. In an existing one every file is replaced by a rename of its own,
    those named in `last` at the end (a reader then never sees the new description of old contents), and
    files that were not written this time stay. A failing block, or a failing rename, leaves `folder` as it was.
    """
    folder = Path(folder)
    # In an existing folder rather than beside it: that may be another disk, or not ours to write.
    parent = folder if folder.is_dir() else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(parent, folder.name)
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(p.relative_to(temporary) for p in temporary.rglob("*") if p.is_file())
        for file in files:
            _sync(temporary / file)
        if parent == folder or not _renamed(temporary, folder):
            _replace_all(temporary, folder, sorted(files, key=lambda file: file.as_posix() in last))
        _sync(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_or_empty(folder: str | os.PathLike[str]) -> Path:
    """The folder, which must be new or empty.

    Raises:
        ConfigError: there is something in it, or it is a file.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError("There is something here already", where=folder, todo="Choose another folder.")
    return folder


def writable(folder: str | os.PathLike[str]) -> Path:
    """The folder, which is there or can be made, as far as can be seen without trying.

    Raises:
        ConfigError: it, or what is to hold it, is a file, or may not be written.
    """
    folder = Path(folder)
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written" if there.is_dir() else "is no folder"
        todo = "Give another --output."
        raise ConfigError("This folder cannot be written", where=folder, found=f"{there} {why}", todo=todo)
    return folder


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` through :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 to `path` through :func:`replacing`."""
    return write_bytes(path, text.encode())


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Remove a folder; a crash on the way leaves no half of it under its name."""
    folder = Path(folder)
    temporary = _temporary(folder.parent, folder.name)
    os.rename(folder, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def clean(folder: str | os.PathLike[str]) -> None:
    """Remove what writers of this module that were killed have left anywhere below `folder`.

    What belongs to another living process stays, unless it is a day old: then that process only has the number of
    the writer. What belongs to this one goes (in a container every process may be number 1), so call it before
    writing there.
    """
    for path in list(Path(folder).rglob(".*.tmp*")):
        match = _TEMPORARY.fullmatch(path.name)
        with suppress(OSError):  # gone with the folder it was in, or by another hand
            if match and (not _elsewhere(int(match[1])) or time.time() - path.stat().st_mtime > _ABANDONED):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _temporary(parent: Path, name: str, suffix: str = "") -> Path:
    """A name that nobody else has, and that tells :func:`clean` whose it is."""
    return parent / f".{name[:KEPT]}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{suffix}"


def _elsewhere(number: int) -> bool:
    """Whether another living process has this number."""
    return number != os.getpid() and psutil.pid_exists(number)


def _patiently(move: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Rename; Windows refuses that while anybody has a file open, as virus scanners have each new one for a moment."""
    for pause in _PAUSES:
        try:
            return move(source, target)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
            time.sleep(pause)
    return move(source, target)


def _renamed(source: Path, target: Path) -> bool:
    """Rename a folder; not when another writer has made the target by now."""
    try:
        _patiently(os.rename, source, target)
    except OSError:
        if not target.is_dir():
            raise
        return False
    return True


def _replace_all(source: Path, target: Path, files: list[Path]) -> None:
    """Put files of one folder over those of another; when one cannot be put there, the old ones come back."""
    old = source / ".old"
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (old / file).parent.mkdir(parents=True, exist_ok=True)
        if (target / file).exists():
            _link(target / file, old / file)
    try:
        for file in files:
            _patiently(os.replace, source / file, target / file)
    except BaseException:
        for file in files:
            if (old / file).exists():
                _patiently(os.replace, old / file, target / file)
            else:
                (target / file).unlink(missing_ok=True)
        raise


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copy2(source, target)


def _sync(path: Path) -> None:
    """Ask the system to put a file or a folder's entries on the disk."""
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows asks for the right to write
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync folders; but a full disk must be heard
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(descriptor)
