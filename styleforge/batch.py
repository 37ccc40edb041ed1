"""Many pictures: names and folders stay, what is done is skipped, what is broken is listed at the end.

An output folder holds a small `.styleforge.json` with a digest of the style and its options. It is written when these
change and only then, so an output is done when it is whole and neither older than its picture nor than that file.

Pictures pass the network one by one. Batches of equal sizes are slower on a CPU: fastcut-monet at 256 px on one core of
an AMD EPYC takes 0.245 s a picture alone, 0.289 s in fours, 0.344 s in eights.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import glob
import hashlib
import inspect
import json
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from . import control, files, images
from .data import SUFFIXES, list_pictures
from .errors import ConfigError, DataError, ImageError, MaskMismatch, MissingExtra, NoSuchRegion
from .images import ImagePolicy, Picture
from .pipeline import StylePipeline

Format = Literal["png", "jpg", "webp"]
Input = str | os.PathLike[str]
MANIFEST = ".styleforge.json"
_FORMATS = get_args(Format)
_OF_ONE = (ImageError, MaskMismatch, NoSuchRegion)  # of one picture: what is wrong with the settings ends the run
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # no picture after this one would fare better


@dataclass(frozen=True)
class Item:
    """What became of one picture.

    Attributes:
        source: the picture.
        target: its styled one.
        state: "done"; "skipped", because it was done before; or "failed".
        reason: why it failed, as a sentence.
    """

    source: Path
    target: Path
    state: Literal["done", "skipped", "failed"]
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    """What became of all pictures.

    Attributes:
        done: how many were styled.
        skipped: how many were done before.
        failed: those that could not be, each with a sentence that says why.
        seconds: how long it took.
    """

    done: int
    skipped: int
    failed: list[tuple[Path, str]]
    seconds: float


def find_pictures(inputs: Iterable[Input]) -> list[tuple[Path, Path]]:
    """Files, folders and globs (`photos/**/*.jpg`) as pictures.

    Args:
        inputs: a file counts as a picture whatever it is; of a folder all that have the suffix of one.

    Returns:
        Each picture with its path below the folder, or below the part of the glob that has no wildcard; in the order
        of `inputs`, and by name within each.

    Raises:
        DataError: no such folder, no pictures in it, or a glob that matches nothing.
    """
    found: list[tuple[Path, Path]] = []
    for given in map(os.fsdecode, inputs):
        path = Path(given)
        if path.is_file() or (path.suffix.lower() in SUFFIXES and not glob.has_magic(given)):
            found.append((path, Path(path.name)))  # one that is not there fails later, and the others are styled
        elif path.is_dir() or not glob.has_magic(given):
            found += [(file, file.relative_to(path)) for file in list_pictures(path)]
        else:
            fixed = len(next((parent for parent in path.parents if not glob.has_magic(str(parent))), Path()).parts)
            matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
            matches = [match for match in matches if match.is_file() and match.suffix.lower() in SUFFIXES]
            if not matches:
                raise DataError("No pictures match", where=given, todo="Check the pattern, and quote it in a shell.")
            found += [(match, Path(*match.parts[fixed:])) for match in matches]
    return found


def stylize_many(
    pipe: StylePipeline,
    inputs: Iterable[Input],
    output: Input,
    *,
    workers: int = 1,
    suffix: str = "-styled",
    format: Format = "png",
    overwrite: bool = False,
    on_item: Callable[[Item], object] | None = None,
    **options: Any,
) -> Summary:
    """Style many pictures into a folder; run again, it goes on where it stopped.

    Each file appears whole or not at all, whatever happens on the way. `workers` threads decode and encode while the
    network runs; they hold at most twice as many pictures.

    What was made with another style or other options is no result of this run. Functions among the options, as a
    `segmenter`, are others when their code is, not when what they call or remember is: `overwrite` then.

    Args:
        pipe: the style.
        inputs: files, folders and globs; see :func:`find_pictures`.
        output: folder for the results. `holiday/beach.jpg` of the folder `photos` becomes
            `OUTPUT/holiday/beach-styled.png`. It may be the folder of the pictures, or lie below it: results in it, or
            in other output folders below, are not styled again unless they are named one by one.
        workers: threads that decode and encode.
        suffix: added to the names.
        format: "png", "jpg" or "webp".
        overwrite: style again what is done, and replace what was made with another style or other options.
        on_item: called with each :class:`Item` in the order of the pictures, in this thread.
        **options: for :meth:`StylePipeline.__call__`.

    Returns:
        Counts, and the pictures that could not be styled with the reasons.

    Raises:
        DataError: no pictures, two that would become one file, or one that would be replaced by its own result.
        ConfigError: a setting that cannot be used, an output folder that cannot be written, or one that holds results
            of another style or of other options while `overwrite` is False. Nothing has been styled then.
        ImageError: the disk is full or gone. Results so far are kept.
    """
    begin = time.monotonic()
    _check_count("workers", workers)
    pairs = _plan(inputs, Path(output), suffix, format)
    options = read_options(options, pipe.policy)
    since = _remember(Path(output), pairs, digest(pipe, options), suffix, overwrite)
    with ThreadPoolExecutor(workers) as pool:
        try:
            return _summary(_styled(pipe, pairs, since, options, pool, workers), on_item, begin)
        finally:  # Ctrl-C and a full disk: what is being written is finished, the rest is not begun
            pool.shutdown(cancel_futures=True)


def stylize_with_ray(
    pipe: StylePipeline,
    inputs: Iterable[Input],
    output: Input,
    *,
    actors: int,
    gpus: float = 0,
    suffix: str = "-styled",
    format: Format = "png",
    overwrite: bool = False,
    on_item: Callable[[Item], object] | None = None,
    **options: Any,
) -> Summary:
    """:func:`stylize_many` on a Ray cluster, that of `ray.init()` or one on this machine.

    Each actor has a copy of the pipeline, and reads, styles and writes one picture at a time. One that dies is started
    again, and its picture tried twice more; a picture over which it dies each time is a broken one.

    Args:
        pipe: the style; it is sent to the actors.
        inputs: as there; every node must see these paths.
        output: as there; every node must see this folder.
        actors: how many; each takes a CPU. Those that the cluster has no room for wait, and the others do the work.
        gpus: share of a GPU that each actor takes; with 0 it computes on its CPU.
        suffix: as there.
        format: as there.
        overwrite: as there.
        on_item: called as pictures are finished, in any order.
        **options: for :meth:`StylePipeline.__call__`.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigError, DataError, ImageError: as there.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("This engine needs Ray", todo="Install it with: pip install 'styleforge[ray]'") from error
    begin = time.monotonic()
    _check_count("actors", actors)
    if not 0 <= gpus <= 1 and not (gpus > 1 and float(gpus).is_integer()):
        raise ConfigError("gpus cannot be used", found=gpus, allowed="0 to 1, and whole numbers", todo="Give 0 or 1.")
    pairs = _plan(inputs, Path(output).absolute(), suffix, format)
    options = read_options(options, pipe.policy)
    since = _remember(Path(output), pairs, digest(pipe, options), suffix, overwrite)
    started, stop = not ray.is_initialized(), signal.getsignal(signal.SIGTERM)
    if started:
        ray.init(include_dashboard=False, logging_level="warning")
        if callable(stop) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)  # Ray's would abort with a dump
    try:
        if started and gpus > (there := ray.cluster_resources().get("GPU", 0)):
            raise ConfigError(
                "No actor would ever begin",
                where=f"gpus={gpus:g}",
                found=f"{there:g} GPUs in the Ray cluster",
                todo="Give 0 to compute on CPUs.",
            )
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=2)(_Actor)
        given = ray.put((copy.deepcopy(pipe).to("cpu"), "cuda" if gpus else "cpu", since, options))
        pairs = [(source.absolute(), target) for source, target in pairs]
        return _summary(_styled_by([actor.remote(given) for _ in range(actors)], pairs), on_item, begin)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        if started:
            ray.shutdown()


class _Actor:
    """One pipeline in a process of its own."""

    def __init__(self, given: tuple[StylePipeline, str, float, dict[str, Any]]) -> None:
        pipe, device, self.since, self.options = given
        self.pipe = pipe.to(device)

    def style(self, source: Path, target: Path) -> Item:
        def work() -> Path | None:
            picture = _read(source, target, self.since, self.pipe.policy)
            return images.save(self.pipe(picture, **self.options), target) if picture else None

        return _outcome(source, target, work)


def _styled_by(actors: list[Any], pairs: list[tuple[Path, Path]]) -> Iterator[Item]:
    """Give each actor that is up a picture at a time: one that waits for a place in the cluster keeps none waiting."""
    import ray

    todo, left = iter(pairs), len(pairs)
    busy: dict[Any, tuple[Any, tuple[Path, Path] | None]] = {one.__ray_ready__.remote(): (one, None) for one in actors}
    while left:
        (done, *_), _ = ray.wait(list(busy))
        actor, pair = busy.pop(done)
        try:
            item = ray.get(done)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            if pair is None:
                raise ConfigError(
                    "An actor of Ray cannot begin",
                    found=str(error).strip().rpartition("\n")[2],
                    todo="Look whether every node has what the pipeline and its options need.",
                ) from error
            died = ImageError(
                "The process that styled this picture died, and so did the two after it",
                where=pair[0],
                todo="Memory may be short: style it alone, or with fewer actors.",
            )
            item = Item(*pair, "failed", str(died))
        if pair:
            left -= 1
            yield item
        if pair := next(todo, None):
            busy[actor.style.remote(*pair)] = actor, pair
        else:
            ray.kill(actor)  # makes room for one that died, and has to be started again for its picture


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} cannot be used", found=value, allowed="1 and more", todo="Give 1.")


def _styled(
    pipe: StylePipeline,
    pairs: list[tuple[Path, Path]],
    since: float,
    options: dict[str, Any],
    pool: ThreadPoolExecutor,
    workers: int,
) -> Iterator[Item]:
    """Decode ahead, run the network here, encode behind."""
    todo = iter(pairs)
    reading = deque((pair, pool.submit(_read, *pair, since, pipe.policy)) for pair in islice(todo, workers))
    writing: deque[tuple[tuple[Path, Path], Future]] = deque()
    while reading or writing:
        if reading:
            pair, read = reading.popleft()
            reading.extend((after, pool.submit(_read, *after, since, pipe.policy)) for after in islice(todo, 1))
            result = read  # where there is nothing to style: None, done before, or why it cannot be read
            if read.exception() is None and read.result():
                try:
                    result = pool.submit(images.save, pipe(read.result(), **options), pair[1])
                except _OF_ONE as error:
                    result = Future()
                    result.set_exception(error)
            writing.append((pair, result))
        while writing and (writing[0][1].done() or not reading or len(writing) > workers):
            pair, result = writing.popleft()
            yield _outcome(*pair, result.result)


def _outcome(source: Path, target: Path, work: Callable[[], object]) -> Item:
    """Do the work: a picture that fails is one of many, a disk that fails is the end."""
    try:
        return Item(source, target, "done" if work() else "skipped")
    except _OF_ONE as error:
        if getattr(error.__cause__, "errno", None) in _DISK:
            raise ImageError(
                "The disk takes no more",
                where=target.parent,
                found=error.__cause__,
                todo="Results so far are kept. Make room and run the same again: it goes on from here.",
            ) from error
        return Item(source, target, "failed", str(error))


def _summary(items: Iterable[Item], on_item: Callable[[Item], object] | None, begin: float) -> Summary:
    counts, failed = Counter(), []
    for item in items:
        counts[item.state] += 1
        if item.state == "failed":
            failed.append((item.source, item.reason))
        if on_item:
            on_item(item)
    return Summary(counts["done"], counts["skipped"], failed, time.monotonic() - begin)


def _read(source: Path, target: Path, since: float, policy: ImagePolicy) -> Picture | None:
    """The picture, or None when its result is there, whole and recent."""
    try:
        if target.stat().st_mtime >= max(since, source.stat().st_mtime) and images.read(target):
            return None
    except (OSError, ImageError):
        pass  # no result, or a broken one, or no picture: reading says so
    return images.read(source, policy)


def _plan(inputs: Iterable[Input], output: Path, suffix: str, format: str) -> list[tuple[Path, Path]]:
    """Pictures and their targets, all different."""
    if format not in _FORMATS:
        raise ConfigError(
            "Unknown format", found=repr(format), allowed=", ".join(_FORMATS), todo="Choose one of these."
        )
    if Path(f"x{suffix}").name != f"x{suffix}":
        raise ConfigError(
            "suffix cannot be used", found=repr(suffix), allowed="part of a file name", todo="Give '-styled'."
        )
    given = [Path(os.fsdecode(one)) for one in inputs]
    found = [(s, to) for s, to in find_pictures(given) if s in given or not _is_result(s, to, output, suffix)]
    sources = by_target((s, output / to.parent / f"{to.stem}{suffix}.{format}") for s, to in found)
    results = {target.resolve() for target in sources}
    for target, source in sources.items():
        if target.resolve() == source.resolve():
            raise DataError(
                "A picture would be replaced by its own result",
                where=source,
                todo="Give a suffix, or another output folder.",
            )
    return [(source, target) for target, source in sources.items() if source.resolve() not in results]


def _is_result(source: Path, relative: Path, output: Path, suffix: str) -> bool:
    """Whether a run has made this: into the output folder, or into one below the folder that is to be styled."""
    folders = [*source.parents[: len(relative.parts) - 1], *({output.resolve()} & {*source.resolve().parents})]
    return suffix != "" and source.stem.endswith(suffix) and any((folder / MANIFEST).exists() for folder in folders)


def by_target(pairs: Iterable[tuple[Path, Path]]) -> dict[Path, Path]:
    """The picture that each target is made of, from pairs of a picture and its target.

    Raises:
        DataError: two pictures would become one file.
    """
    sources: dict[Path, Path] = {}
    for source, target in pairs:
        other = sources.setdefault(target, source)
        if other.resolve() != source.resolve():
            raise DataError(
                "Two pictures would become one file",
                where=target,
                found=f"{other} and {source}",
                todo="Rename one of them, or style them into different folders.",
            )
    return sources


def read_options(options: dict[str, Any], policy: ImagePolicy) -> dict[str, Any]:
    """Read the pictures among the options once, and stop now when one cannot be read."""
    read = dict(options)
    if "style" in options:
        read["style"] = control.read_style(options["style"], policy)
    if options.get("mask") is not None:
        read["mask"] = control.read_where(options["mask"], options.get("segmenter"), policy)
    return read


def _remember(output: Path, pairs: list[tuple[Path, Path]], made_with: str, suffix: str, overwrite: bool) -> float:
    """Leave the digest in the output folder, and say since when it has been there (seconds, as of `st_mtime`)."""
    path, text = output / MANIFEST, json.dumps({"digest": made_with})
    try:
        files.clean(output)  # what a killed run was writing
        same = path.is_file() and path.read_text("utf-8", "replace") == text
        if not same:
            results = (file for format in _FORMATS for file in output.rglob(f"*{glob.escape(suffix)}.{format}"))
            targets = (target for _, target in pairs if target.exists())
            old = next(results if path.is_file() else targets, None)
            if old and not overwrite:
                raise ConfigError(
                    "The output folder holds pictures made with another style or other options",
                    where=output,
                    found=old.name,
                    todo="Choose another folder, or overwrite them.",
                )
            files.write_text(path, text)
        return float("inf") if overwrite else path.stat().st_mtime
    except OSError as error:
        raise ConfigError(
            "Cannot write into the output folder", where=output, found=error, todo="Check its rights and the disk."
        ) from error


def digest(pipe: StylePipeline, options: dict[str, Any]) -> str:
    """A digest of all that decides what a result looks like, but for the picture and for options left at their
    defaults; functions count as in :func:`stylize_many`.
    """
    defaults = [(p.name, p.default) for p in inspect.signature(StylePipeline.__call__).parameters.values()]
    usual = {name: (type(value), value) for name, value in defaults}
    chosen = {name: value for name, value in options.items() if (type(value), value) != usual.get(name)}
    weights = hashlib.sha256(type(pipe.model).__name__.encode())
    for name, tensor in pipe.model.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    described = [weights.hexdigest(), str(pipe.dtype), pipe.fast, pipe.model.config, chosen]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=_described).encode()).hexdigest()


def _described(value: Any) -> object:
    """What JSON does not know, as something it does."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return [value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, frozenset):  # a constant of a function, in another order each time
        return sorted(map(repr, value))
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    name = f"{type(value).__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return [name, getattr(value, "__code__", None)]
