"""Files and folders arrive whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from styleforge import files
from styleforge.errors import ConfigError
from styleforge.files import clean, remove_folder, replacing, replacing_folder, write_bytes, write_text


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def put(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def test_write_makes_folders_and_keeps_utf8(tmp_path):
    assert write_text(tmp_path / "a/b/c.txt", "Schön\n").read_bytes() == "Schön\n".encode()
    assert write_bytes(tmp_path / "a/b/c.txt", b"new").read_bytes() == b"new"
    assert contents(tmp_path) == {"a/b/c.txt": "new"}


def test_where_a_folder_can_be_written(tmp_path, monkeypatch):
    put(tmp_path, file="x")
    for name in ("", "new", "new/deep"):
        assert files.writable(tmp_path / name) == tmp_path / name
    for name in ("file", "file/new", "file/new/deep"):
        with pytest.raises(ConfigError, match=r"cannot be written.*/file is no folder.*another --output"):
            files.writable(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(ConfigError, match="found .* may not be written"):
        files.writable(tmp_path / "new")
    assert contents(tmp_path) == {"file": "x"}


@pytest.mark.parametrize("letter", ["a", "ü", "🎨"])
def test_names_as_long_as_the_system_allows(tmp_path, letter):
    name = letter * (251 // len(letter.encode())) + ".txt"
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("x")
        assert temporary.suffix == ".txt" and files._TEMPORARY.fullmatch(temporary.name)
    with replacing_folder(tmp_path / name[:-4]) as temporary:
        put(temporary, x="1")
    assert contents(tmp_path) == {name: "x", f"{name[:-4]}/x": "1"}


def test_a_failing_block_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "picture.png", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        assert temporary.suffix == ".png" and temporary.parent == path.parent
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise RuntimeError
    assert contents(tmp_path) == {"picture.png": "old"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_umask_is_heard(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = write_text(tmp_path / "file", "x")
        with replacing_folder(tmp_path / "folder") as temporary:
            write_text(temporary / "file", "x")
    finally:
        os.umask(before)
    for file in (path, tmp_path / "folder/file"):
        assert stat.S_IMODE(file.stat().st_mode) == mode


def test_new_folder(tmp_path):
    with replacing_folder(tmp_path / "a/b") as temporary:
        put(temporary, x="1")
        put(temporary / "deep/er", y="2")
        assert not (tmp_path / "a/b").exists()
    assert contents(tmp_path) == {"a/b/x": "1", "a/b/deep/er/y": "2"}


def test_existing_folder_keeps_what_is_not_written(tmp_path):
    folder = put(tmp_path / "folder", x="old", mine="stays")
    with replacing_folder(folder) as temporary:
        put(temporary, x="new")
        put(temporary / "deep", y="2")
        assert (folder / "x").read_text() == "old"
    assert contents(tmp_path) == {"folder/x": "new", "folder/mine": "stays", "folder/deep/y": "2"}


def test_the_folder_that_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(put(tmp_path / "folder"))
    with replacing_folder(".") as temporary:
        put(temporary, x="1")
    assert contents(tmp_path) == {"folder/x": "1"}


def test_an_existing_folder_needs_no_place_beside_it(tmp_path):
    """It may be the root of a mounted disk."""
    folder = put(tmp_path / "folder", x="old")
    beside = {p.name for p in tmp_path.iterdir()}
    with replacing_folder(folder) as temporary:
        assert {p.name for p in tmp_path.iterdir()} == beside
        put(temporary, x="new")
    assert contents(tmp_path) == {"folder/x": "new"}


def test_last_comes_last(tmp_path, monkeypatch):
    folder = put(tmp_path / "folder", a="old", z="old")
    order, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    with replacing_folder(folder, last=("a",)) as temporary:
        put(temporary, a="new", m="new", z="new")
    assert order == ["m", "z", "a"]


def test_two_writers_of_a_new_folder(tmp_path):
    with replacing_folder(tmp_path / "folder") as first:
        put(first, x="first")
        with replacing_folder(tmp_path / "folder") as second:
            put(second, x="second", y="second")
    assert contents(tmp_path) == {"folder/x": "first", "folder/y": "second"}


def test_a_failing_block_leaves_the_old_folder(tmp_path):
    folder = put(tmp_path / "folder", x="old")
    for target in (folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt), replacing_folder(target) as temporary:
            put(temporary, x="new")
            raise KeyboardInterrupt
    assert contents(tmp_path) == {"folder/x": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("links", [True, False])
def test_a_failing_rename_brings_the_old_files_back(tmp_path, monkeypatch, links):
    folder = put(tmp_path / "folder", a="old", c="old")
    replace = os.replace

    def broken(source, target):
        if Path(target) == folder / "c" and ".old" not in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    def no_links(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "replace", broken)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OSError, match="No space"), replacing_folder(folder) as temporary:
        put(temporary, a="new", b="new", c="new")
    assert contents(tmp_path) == {"folder/a": "old", "folder/c": "old"}
    assert sorted(p.name for p in folder.iterdir()) == ["a", "c"]


@pytest.mark.parametrize(("number", "heard"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EINVAL, False)])
def test_a_disk_that_is_full_at_the_last_moment(tmp_path, monkeypatch, number, heard):
    """Some file systems notice only at fsync; others cannot sync and say so."""
    path = write_text(tmp_path / "file", "old")

    def broken(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", broken)
    if heard:
        with pytest.raises(OSError):
            write_text(path, "new")
    else:
        write_text(path, "new")
    assert contents(tmp_path) == {"file": "old" if heard else "new"}


def test_windows_syncs_what_is_open_for_writing(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path, synced = write_text(tmp_path / "file", "x"), []

    def flush(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(os.fstat(descriptor).st_ino)

    with monkeypatch.context() as windows:
        windows.setattr(os, "fsync", flush)
        windows.setattr(os, "name", "nt")
        files._sync(path)
    assert synced == [path.stat().st_ino]


def test_a_file_that_windows_has_in_use_for_a_moment(tmp_path, monkeypatch):
    """As a virus scanner has each new one; what may never be written is told at once."""
    moves = {"replace": os.replace, "rename": os.rename}
    tries, waits = [], []

    class InUse(PermissionError):
        winerror = 5

    def scanned(name):
        def move(source, target):
            tries.append(Path(target))
            if tries.count(Path(target)) < 3:
                raise InUse(errno.EACCES, "Access is denied")
            moves[name](source, target)

        return move

    for name in moves:
        monkeypatch.setattr(os, name, scanned(name))
    monkeypatch.setattr(files.time, "sleep", waits.append)
    write_text(tmp_path / "file", "x")
    for text in ("1", "2"):  # a new folder, and one that is there
        with replacing_folder(tmp_path / "folder") as temporary:
            put(temporary, x=text)
    assert contents(tmp_path) == {"file": "x", "folder/x": "2"}
    assert len(waits) == 6 and max(waits) < 0.2
    monkeypatch.setattr(InUse, "winerror", None)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "other", "x")
    assert len(waits) == 6 and not (tmp_path / "other").exists()


def test_a_file_in_the_way(tmp_path):
    path = put(tmp_path, file="a file") / "file"
    with pytest.raises(OSError), replacing_folder(path) as temporary:
        put(temporary, x="1")
    assert contents(tmp_path) == {"file": "a file"}


def test_a_full_disk_at_the_rename_of_a_new_folder(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"), replacing_folder(tmp_path / "folder") as temporary:
        put(temporary, x="1")
    assert not list(tmp_path.iterdir())


def test_a_removed_folder_goes_as_a_whole(tmp_path, monkeypatch):
    folder = put(tmp_path / "folder", x="1", y="2")
    monkeypatch.setattr(os, "unlink", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    remove_folder(folder)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".folder-") and left.name.endswith(".tmp")
    monkeypatch.undo()
    clean(tmp_path)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, pathlib, signal, sys
from styleforge import files
root = pathlib.Path(sys.argv[1])
with files.replacing(root / "a.json") as a, files.replacing_folder(root / "b/new") as b:
    with files.replacing_folder(root) as c, files.replacing(b / "z.txt") as d:
        for path in (a, b / "x", c / "y", d):
            path.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path) -> int:
    """A process that dies while it writes below `folder`; its number."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)]) as child:
        assert child.wait(60) == -signal.SIGKILL
    return child.pid


def test_what_a_killed_writer_leaves_is_cleaned(tmp_path):
    put(tmp_path, **{"mine": "stays", ".hidden.tmp": "stays", ".a-b-12345678.tmp.json": "stays"})
    number = killed(tmp_path)
    left = [path for path in tmp_path.rglob(f"*-{number}-*") if path.name.endswith((".tmp", ".tmp.json", ".tmp.txt"))]
    assert len(left) == 4
    clean(tmp_path)
    assert sorted(contents(tmp_path)) == [".a-b-12345678.tmp.json", ".hidden.tmp", "mine"]
    clean(tmp_path / "nowhere")


def test_cleaning_leaves_the_living_their_files(tmp_path):
    own = put(tmp_path / f".a-{os.getpid()}-00000000.tmp", x="from a process that had our number")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        others = put(tmp_path / f".b-{living.pid}-00000000.tmp", x="1")
        old = put(tmp_path / f".c-{living.pid}-00000000.tmp", x="1")
        os.utime(old, (0, 0))
        clean(tmp_path)
        assert others.exists() and not own.exists() and not old.exists()
        living.communicate(b"\n")
    clean(tmp_path)
    assert not others.exists()


def test_a_process_of_somebody_else_is_alive(tmp_path, monkeypatch):
    put(tmp_path / ".a-1-00000000.tmp", x="1")

    def forbidden(number, signal):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", forbidden)
    clean(tmp_path)
    assert list(tmp_path.iterdir())
