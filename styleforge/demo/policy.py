"""What a page for strangers takes in, and what it says when something is refused or fails."""

from __future__ import annotations

import html
import json
import logging
import lzma
import re
import shutil
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.utils import get_upload_folder

from ..data import SUFFIXES
from ..download import read_at_most
from ..errors import ConfigError, DataError, ImageError, ImageFormatRefused, ImageTooLarge, StyleforgeError
from ..files import KEPT
from ..images import STRICT_POLICY, ImagePolicy

LOG = logging.getLogger(__name__)
MIB = 2**20
PICTURES = replace(STRICT_POLICY, max_pixels=12_500_000)  # a telephone's; more would make others wait for minutes
_ENTRY = b"PK\x01\x02"  # begins every entry of a zip's directory
_DECODING = (zlib.error, lzma.LZMAError, OSError)  # of deflate, LZMA and bz2


@dataclass(frozen=True)
class Policy:
    """Every limit of the page in one place; what is over it is refused with a sentence.

    Attributes:
        pictures: of each picture. Addresses are never read, whatever it says.
        hub: whether visitors may type in styles of the Hub.
        upload_bytes: of one uploaded file.
        request_bytes: of a request that is no upload.
        free_bytes: of the disk; when less is left, nothing is taken in.
        memory: GiB that computing one picture may take; a larger picture is computed in tiles.
        style_bytes: of all loaded styles together.
        batch: pictures in one go.
        batch_bytes: of these, unpacked.
        film_frames: of one film.
        film_pixels: width times height of its frames.
        seconds: that a batch or a film may take.
        queue: requests that may wait; the next one is told to come back.
        keep: seconds after which files are deleted.
    """

    pictures: ImagePolicy = PICTURES
    hub: bool = True
    upload_bytes: int = 64 * MIB
    request_bytes: int = MIB // 4
    free_bytes: int = 1024 * MIB
    memory: float = 4.0
    style_bytes: int = 512 * MIB
    batch: int = 20
    batch_bytes: int = 200 * MIB
    film_frames: int = 300
    film_pixels: int = 1280 * 720
    seconds: float = 180.0
    queue: int = 64
    keep: int = 1800


# -- what is said --


@contextmanager
def polite(policy: Policy) -> Iterator[None]:
    """Errors of ours as their sentence, every other one as a number that the log explains: never without a word."""
    try:
        yield
    except gr.Error:
        raise
    except StyleforgeError as error:
        raise _said(str(error)) from error
    except InvalidPathError as error:
        minutes = policy.keep // 60
        raise _said(
            f"This file is not here, or not any more: files are deleted after {minutes} minutes. Upload it."
        ) from error
    except Exception as error:
        number = uuid.uuid4().hex[:8]
        LOG.exception("%s", number)
        raise _said(
            f"This did not work, and not for a reason we know. Try another picture, or report the number {number}."
        ) from error


def without_folders(text: str) -> str:
    """A message that names a stranger's file, without the folders of this machine."""
    return re.sub(re.escape(get_upload_folder()) + r"[\\/]([\w-]+[\\/])?", "", text)


def _said(text: str) -> gr.Error:
    # The page shows messages as HTML, and names of files in them are strangers'.
    text = html.escape(without_folders(text), quote=False)
    return gr.Error(text, print_exception=False)


def guard(page: gr.Blocks, policy: Policy) -> None:
    """Make a page polite, and blind for addresses: gradio fetches those that come through its API by itself."""
    process = page.process_api

    async def process_api(block_fn: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with polite(policy):
            refuse_addresses(inputs)
            return await process(block_fn, inputs, *args, **kwargs)

    page.process_api = process_api


# -- what is taken in --


def refuse_addresses(inputs: Any) -> None:
    """Look at the files in the arguments of a call, before anything is fetched.

    Raises:
        ImageError: one of them is an address, on the web or of any other kind.
    """
    if isinstance(inputs, dict):
        path = inputs.get("path")
        if isinstance(path, str) and ("://" in path or path.startswith("data:")):
            raise ImageError(
                "Addresses are not read here", found=path[:80], allowed="an uploaded file", todo="Upload the file."
            )
        inputs = list(inputs.values())
    if isinstance(inputs, list):
        for value in inputs:
            refuse_addresses(value)


def uploaded(value: Any, what: str = "picture") -> Path:
    """Path of an uploaded file, which gradio has found to be one.

    Raises:
        DataError: there is none.
    """
    if not isinstance(value, dict) or not value.get("path"):
        raise DataError(f"There is no {what} yet", todo=f"Give a {what} first.")
    return Path(value["path"])


def check_film(path: Path) -> Path:
    """Let only files through that begin like films: FFmpeg would also follow play lists, to files of this machine.

    Raises:
        ImageFormatRefused: another beginning.
    """
    with open(path, "rb") as file:
        begin = file.read(8)
    if begin[4:] != b"ftyp" and begin[:4] != b"\x1a\x45\xdf\xa3":
        raise ImageFormatRefused(
            "This is no film that is read here", where=path.name, allowed="MP4, MOV, MKV and WebM", todo="Convert it."
        )
    return path


def gather(files: list[Path], folder: Path, policy: Policy) -> list[Path]:
    """Pictures, and those in zips, in one folder under names that differ.

    Raises:
        DataError: too many, none, or a zip that cannot be unpacked.
        ImageTooLarge: a picture, or all of them, over the limits.
    """
    _check_count(len(files), policy)
    found: list[Path] = []
    for file in files:
        if zipfile.is_zipfile(file):
            _unpack(file, folder, found, policy)
        else:
            target = _free(folder, file.name, found)
            found.append(Path(shutil.copyfile(file, target)))
        _check_count(len(found), policy)
    if not found:
        raise DataError("There are no pictures in it", todo="Give some, or a zip of some.")
    return found


def to_number(name: str, value: Any, low: float, high: float) -> float:
    """A number that came through the API, where no slider has bounded it.

    Raises:
        ConfigError: it is none, or outside [low, high].
    """
    if isinstance(value, (int, float)) and low <= value <= high:
        return float(value)
    raise ConfigError(
        f"{name} cannot be used here", found=repr(value)[:80], allowed=f"{low:g} to {high:g}", todo="Give one of these."
    )


def check_frames(count: int, policy: Policy) -> None:
    """Let short films through.

    Raises:
        ImageTooLarge: more frames than that.
    """
    if count > policy.film_frames:
        raise ImageTooLarge(
            "This film is too long", found=f"{count} frames", allowed=policy.film_frames, todo="Cut a piece out of it."
        )


def _unpack(archive: Path, folder: Path, found: list[Path], policy: Policy) -> None:
    # Counted before Python makes an object of each: a million entries fit into 50 MB.
    if archive.read_bytes().count(_ENTRY) > 50 * policy.batch:
        raise DataError("This zip has too many entries", allowed=50 * policy.batch, todo="Give fewer pictures.")
    try:
        with zipfile.ZipFile(archive) as zipped:
            names = [name for name in zipped.namelist() if _is_picture(name)]
            _check_count(len(found) + len(names), policy)
            left = policy.batch_bytes - sum(path.stat().st_size for path in found)
            for name in names:
                with zipped.open(name) as file:
                    data = read_at_most(file, min(left, policy.pictures.max_bytes), name)
                left -= len(data)
                found.append(_free(folder, PureWindowsPath(name).name, found))
                found[-1].write_bytes(data)
    except (zipfile.BadZipFile, *_DECODING, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, StyleforgeError):
            raise
        raise DataError("Cannot unpack this zip", where=archive.name, found=error, todo="Make it anew.") from error


def _is_picture(name: str) -> bool:
    path = PureWindowsPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts if part != "..")
    return path.suffix.lower() in SUFFIXES and not hidden


def _free(folder: Path, name: str, taken: list[Path]) -> Path:
    """A path in `folder`, with a number where the name is taken; two results may not meet either."""
    stem, suffix = Path(name).stem[:KEPT], Path(name).suffix
    stems = {path.stem.lower() for path in taken}
    number = next(n for n in range(len(taken) + 1) if (f"{stem}-{n + 1}" if n else stem).lower() not in stems)
    return folder / (f"{stem}-{number + 1}{suffix}" if number else f"{stem}{suffix}")


def _check_count(count: int, policy: Policy) -> None:
    if count > policy.batch:
        raise DataError("These are too many pictures", found=count, allowed=policy.batch, todo="Give fewer at a time.")


class Deadline:
    """Ends work that takes too long, as soon as that can be seen.

    Args:
        policy: its `seconds` are what work may take.
        what: that is worked on.
    """

    def __init__(self, policy: Policy, what: str) -> None:
        self._allowed, self._what, self._begin = policy.seconds, what, time.monotonic()

    def check(self, done: int, total: int) -> None:
        """Look at the clock; with 8 parts done and their number known, also ahead.

        Raises:
            ImageTooLarge: it takes too long.
        """
        spent = time.monotonic() - self._begin
        needed = max(spent, spent / done * total if done >= 8 else 0)
        if needed > self._allowed:
            raise ImageTooLarge(
                f"This {self._what} takes too long",
                found=f"about {needed:.0f} seconds",
                allowed=f"{self._allowed:.0f}",
                todo="Make it shorter or smaller.",
            )


class Doorkeeper:
    """ASGI middleware: requests of bounded size, and uploads only while the disk has room."""

    def __init__(self, app: Callable, policy: Policy) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        upload = scope["path"].rstrip("/").endswith("/upload")
        if upload and shutil.disk_usage(Path(get_upload_folder()).anchor).free < self._policy.free_bytes:
            return await _answer(send, 507, "There is no room for uploads at the moment. Try again in half an hour.")
        length = int(dict(scope["headers"]).get(b"content-length", -1))  # the server holds it to that
        if scope["method"] == "POST" and not upload and not 0 <= length <= self._policy.request_bytes:
            return await _answer(send, 413, "This request is too large. Upload files, and name them in it.")
        await self._app(scope, receive, send)


async def _answer(send: Callable, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
