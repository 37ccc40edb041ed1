"""Writing files and folders so that a crash, a full disk or a second writer never leaves half of one."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well, else it is removed.

    What was at `path` stays readable until the last moment. Missing parent folders are made.
    The temporary name keeps the suffix, because image encoders choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
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
    temporary = parent / f".{folder.name}-{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(p.relative_to(temporary) for p in temporary.rglob("*") if p.is_file())
        for file in files:
            _sync(temporary / file)
        if parent != folder:
            with suppress(OSError):  # another writer may have made it by now
                os.rename(temporary, folder)
        if temporary.exists():
            _replace_all(temporary, folder, sorted(files, key=lambda file: file.as_posix() in last))
        _sync(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` through :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 to `path` through :func:`replacing`."""
    return write_bytes(path, text.encode())


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
            os.replace(source / file, target / file)
    except BaseException:
        for file in files:
            if (old / file).exists():
                os.replace(old / file, target / file)
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
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync folders; but a full disk must be heard
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(descriptor)
