"""Writing files and folders so that a crash, a full disk or a second writer never leaves half of one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
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
    files that were not written this time stay. A failing block leaves `folder` as it was.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(p.relative_to(temporary) for p in temporary.rglob("*") if p.is_file())
        for file in files:
            _sync(temporary / file)
        try:
            os.rename(temporary, folder)  # works when `folder` is new (or an empty folder)
        except OSError:
            if not folder.is_dir():
                raise
            for file in sorted(files, key=lambda f: f.as_posix() in last):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / file, folder / file)
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


def _sync(path: Path) -> None:
    """Ask the system to put a file or a folder's entries on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot sync folders
        pass
    finally:
        os.close(descriptor)
