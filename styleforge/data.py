"""Folders of pictures to training batches: any names, any sizes, unequal counts.

What picture comes at which step, and how it is cropped, is a function of (seed, domain, index); see
:mod:`styleforge.rng`. The two domains of unpaired data never share a stream, so their orders are independent.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import images, rng
from .errors import DataError, ImageError, nearest
from .losses import gray

Weigher = str | os.PathLike[str] | Callable[[Path], float]
"""Where weights of pictures come from; see :func:`read_weights`."""

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
SUFFIXES |= {".jfif", ".heic", ".heif"}  # JPEG as browsers of Windows name it; of phones, read with the extra `heif`
ROTTEN_SHARE = 0.2
KEPT = 2 * 2**30  # bytes of pixels of a domain that stay in memory


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """All files below `folder` with the suffix of a picture, in a fixed order.

    What is hidden there is left out, and what training runs have made: a run may lie among the pictures that it learns
    from, and would learn from its own. A picture in place of a folder stands for itself.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix.lower() in SUFFIXES:
        return [folder]
    if not folder.is_dir():
        raise DataError("No such folder of pictures", where=folder, todo="Check the path.")
    shown = (p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    everything = [p for p in shown if p.is_file()]
    made = {p.parent for p in everything if p.name == "train.json" and p.parent != folder and _is_of_a_run(p)}
    pictures = sorted(p for p in everything if p.suffix.lower() in SUFFIXES and made.isdisjoint(p.parents))
    if not pictures:
        others = ", ".join(sorted({p.suffix or p.name for p in everything})[:5])
        raise DataError(
            "This folder holds no pictures",
            where=folder,
            found=f"{len(everything)} files ({others})" if everything else "no files",
            allowed=", ".join(sorted(SUFFIXES)),
            todo="Put pictures into it, or name another folder.",
        )
    return pictures


def _is_of_a_run(file: Path) -> bool:
    """Whether a `train.json` is ours; data sets have some, too."""
    return b'"styleforge":' in file.read_bytes()


def read_weights(given: Weigher | None, folder: str | os.PathLike[str], files: Sequence[Path]) -> dict[Path, float]:
    """How often each picture is to come, relative to the others.

    Args:
        given: a CSV of lines `file,weight`, with that header or without. Names are relative to `folder`; without
            its suffix, one stands for all pictures of that name. Or a function from a picture's path to its weight.
            None gives all the same.
        folder: where the pictures are.
        files: the pictures.

    Returns:
        Weights above 0 by file, in the order of `files`, 1 for those that the CSV leaves out. Files of weight 0 are
        missing: they take no part.

    Raises:
        DataError: a CSV that cannot be read, a name that is unknown or comes twice, something that is no number
            from 0 on (each with its line), or nothing above 0.
    """
    folder = Path(folder)
    if given is None:
        return dict.fromkeys(files, 1.0)
    if callable(given):
        weights = {file: _weight(given(file), file) for file in files}
    else:
        weights = dict.fromkeys(files, 1.0) | _read_csv(Path(given), folder, files)
    if not any(weights.values()):
        raise DataError(
            "No picture has a weight above 0",
            where=folder if callable(given) else given,
            todo="Give one to those that are to come.",
        )
    return {file: weight for file, weight in weights.items() if weight}


def _read_csv(path: Path, folder: Path, files: Sequence[Path]) -> dict[Path, float]:
    known: dict[str, list[Path]] = {}
    for file in files:
        known.setdefault(picture_name(file, folder), []).append(file)
    known |= {picture_name(file, folder) + file.suffix: [file] for file in files}
    try:
        with open(path, newline="", encoding="utf-8-sig") as text:
            rows = list(csv.reader(text))
    except (OSError, ValueError, csv.Error) as error:
        todo = "Give a CSV file in UTF-8 with lines 'file,weight'."
        raise DataError("Cannot read the weights", where=path, found=error, todo=todo) from error
    weights: dict[Path, float] = {}
    for line, row in enumerate(rows, 1):
        name, *values = (cell.strip() for cell in row) if row else ("",)
        if not any((name, *values)) or (line == 1 and [v.lower() for v in values] == ["weight"]):
            continue
        where = f"{path}, line {line}"
        if len(values) != 1:
            raise DataError("No file and weight", where=where, found=repr(",".join(row)), todo="Write 'file,weight'.")
        if name not in known:
            raise DataError(
                "A weight for a picture that is not there",
                where=where,
                found=repr(name),
                allowed=f"names of pictures in {folder}",
                todo=f"{nearest(name, known)}Correct the name, or remove the line.",
            )
        for file in known[name]:
            if file in weights:
                raise DataError("A second weight for one picture", where=where, found=name, todo="Remove one of them.")
            weights[file] = _weight(values[0], f"{where}, {name}")
    return weights


def _weight(value: object, where: object) -> float:
    try:
        weight = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        todo = "Give 2 for twice as often, 0 for never."
        raise DataError("No weight", where=where, found=repr(value), allowed="finite numbers from 0 on", todo=todo)
    return weight


def picture_name(file: Path, folder: Path) -> str:
    """What a picture is called in its folder, suffix aside."""
    return (file.relative_to(folder) if file != folder else Path(file.name)).with_suffix("").as_posix()


def hold_out(files: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Set some files apart by a hash of their names, so that adding others later moves none from the kept to the held.

    Args:
        files: different names, relative to their folder.
        share: of them that is taken, on average. Of two and more at least one is taken, unless this is 0.
        seed: of the hash.

    Returns:
        Those that are kept, at least one, and those held out, both in the order of `files`.
    """
    numbers = {file: rng.seed_of(seed, "held out", file) / 2**63 for file in files}
    count = sum(number < share for number in numbers.values())
    held = set(sorted(files, key=numbers.__getitem__)[: min(max(count, share > 0), len(files) - 1)])
    return [file for file in files if file not in held], [file for file in files if file in held]


class Pictures:
    """The pictures of one domain: all read once to find the rotten ones, and kept as far as memory allows.

    Args:
        files: what to read. What is transparent there is white.
        short_side: larger pictures are reduced so that their short side has this many pixels.
        memory: bytes of pixels to keep; pictures beyond that are read again whenever they are wanted.
        weights: of the files, above 0: how often each comes, relative to the others; all the same when None.

    Raises:
        DataError: more than a fifth of the files cannot be read. Fewer are left out with a warning.
    """

    def __init__(
        self,
        files: Sequence[Path],
        short_side: int,
        memory: int = KEPT,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.files: list[Path] = []
        self.ratios: list[float] = []
        self.weights: list[float] = []
        self._short_side = short_side
        self._kept: dict[Path, np.ndarray] = {}
        self._orders: dict[tuple[int, str, int], Tensor] = {}
        errors: list[ImageError] = []
        weights = [1.0] * len(files) if weights is None else weights
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            closing(pool.map(lambda file: _read(file, short_side), files)) as arrays,  # Ctrl-C ends it at once
        ):
            for file, weight, array in zip(files, weights, arrays, strict=True):
                if isinstance(array, ImageError):
                    errors.append(array)
                    continue
                self.files.append(file)
                self.ratios.append(array.shape[1] / array.shape[0])
                self.weights.append(weight)
                if (memory := memory - array.nbytes) >= 0:
                    self._kept[file] = array
        for error in errors:
            warnings.warn(f"Left out: {error}", stacklevel=2)
        if len(errors) > ROTTEN_SHARE * len(files):
            raise DataError(
                "Too many pictures cannot be read",
                where=files[0].parent,
                found=f"{len(errors)} of {len(files)}, the first: {errors[0]}",
                allowed=f"up to {ROTTEN_SHARE:.0%}",
                todo="Remove or repair them.",
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture `index` as (H, W, 3) uint8.

        Raises:
            DataError: its file has become unreadable since the start.
        """
        file = self.files[index]
        array = self._kept[file] if file in self._kept else _read(file, self._short_side)
        if isinstance(array, ImageError):
            raise DataError(
                "A picture has become unreadable",
                where=file,
                found=array,
                todo="Restore it; the run goes on from there.",
            ) from array
        return array

    def part(self, indices: Sequence[int]) -> Pictures:
        """These pictures only, in this order; their pixels are shared."""
        part = copy.copy(self)
        part.files, part.ratios, part.weights = (
            [v[i] for i in indices] for v in (self.files, self.ratios, self.weights)
        )
        part._orders = {}
        return part

    def at(self, seed: int, domain: str, index: int) -> int:
        """Which picture has the running number `index`.

        An epoch has as many draws as there are pictures. Each is a new permutation when all weights are the same;
        else a picture comes as often as its share of the weights says, rounded up or down.
        """
        epoch, position = divmod(index, len(self))
        key = seed, domain, epoch
        if (order := self._orders.get(key)) is None:
            order = self._order(*key)
            self._orders = {key: order}  # replaced, never changed: threads may be reading it
        return int(order[position])

    def _order(self, seed: int, domain: str, epoch: int) -> Tensor:
        """Systematic sampling (Madow, 1949): equal steps through the heap of weights, from a random start.

        All arithmetic is exact for equal weights, which therefore give every picture once.
        """
        count = len(self)
        permutation = torch.randperm(count, generator=rng.generator(seed, "order", domain, epoch))
        generator = rng.generator(seed, "weights", domain, epoch)
        heap = torch.randperm(count, generator=generator)
        weights = torch.tensor(self.weights, dtype=torch.float64)[heap]
        ends = (weights / weights.max()).cumsum(0)
        steps = torch.arange(count) + torch.rand((), generator=generator).double()  # 24 random bits: k + 1 is not met
        places = torch.searchsorted(ends * (count / ends[-1]), steps, right=True)
        return heap[places.clamp(max=count - 1)].sort().values[permutation]


@dataclass(frozen=True)
class RandomCrop:
    """A random square of a picture.

    Attributes:
        size: side of the result, in pixels.
        zoom: the short side of the picture is first brought to `size` times something in this interval; CycleGAN
            has (1.12, 1.12).
        flip: mirror half of the pictures.
        color: change brightness, contrast and saturation by random factors in 1 +- this, from 0 to 1. What is learnt
            from target pictures so changed has their changes, too.
    """

    size: int
    zoom: tuple[float, float] = (1.12, 1.12)
    flip: bool = True
    color: float = 0.0

    @property
    def short_side(self) -> int:
        """The largest short side that is ever needed."""
        return round(self.size * self.zoom[1])

    def __call__(self, array: np.ndarray, *key: int | str) -> Tensor:
        """An (H, W, 3) uint8 array to (3, size, size) in [-1, 1]; the same key gives the same square."""
        zoom, x, y, mirror = torch.rand(4, generator=rng.generator("crop", *key)).tolist()
        height, width = array.shape[:2]
        low, high = self.zoom
        # Crop first and resize the crop: the same picture for a fraction of the work.
        side = min(height, width) / (low + zoom * (high - low))
        left, top = x * (width - side), y * (height - side)
        if side == self.size:  # taken as it is: interpolation between its pixels would soften the finest detail
            left, top = round(left), round(top)
        image = Image.fromarray(array).resize(
            (self.size, self.size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        result = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        result = result.flip(2) if self.flip and mirror < 0.5 else result
        result = result.float() / 127.5 - 1
        return _jitter(result, self.color, *key) if self.color else result


def _jitter(image: Tensor, most: float, *key: int | str) -> Tensor:
    """Another brightness, contrast and saturation of (3, H, W) in [-1, 1], each by a factor in 1 +- `most`.

    Contrast is about medium gray, not (as usual) about the mean of the picture: so each pixel changes by itself, and
    both halves of a pair by the same rule.
    """
    factors = 1 + most * (2 * torch.rand(3, generator=rng.generator("color", *key)) - 1)
    brightness, contrast, saturation = factors.tolist()
    image = ((image + 1) * brightness - 1) * contrast
    luma = gray(image[None])[0]
    return (luma + saturation * (image - luma)).clamp(-1, 1)


class Data:
    """Samples by running number, from folders of pictures; subclasses say how their pictures belong together.

    Args:
        source: folder of pictures to start from; None for data without.
        target: folder of pictures to resemble.
        crop: how squares are taken.
        seed: of all draws.
        weights: by domain ("source", "target"), see :func:`read_weights`.
        held_out: share of the pictures that is kept apart, see :func:`hold_out`.

    Attributes:
        folders: the domains that have a folder of their own.
        domains: the pictures to train with, by domain.
        held: the pictures held out, by domain; empty when none are.

    Raises:
        DataError: a folder or weights that cannot be used, or a single picture of which some are to be held out.
    """

    folders: ClassVar[tuple[str, ...]] = ("source", "target")

    def __init__(
        self,
        source: str | Path | None,
        target: str | Path,
        crop: RandomCrop,
        seed: int = 0,
        *,
        weights: Mapping[str, Weigher] | None = None,
        held_out: float = 0.0,
    ) -> None:
        self.crop, self.seed = crop, seed
        given = {"source": source, "target": target}
        self.domains, self.held = self._open({name: given[name] for name in self.folders}, weights, held_out)

    def _open(
        self, folders: Mapping[str, str | Path], weights: Mapping[str, Weigher] | None, held_out: float
    ) -> tuple[dict[str, Pictures], dict[str, Pictures]]:
        """Pictures by domain: those to train with, and those held out."""
        weighers = _weighers(weights, folders)
        domains, held = {}, {}
        for domain, folder in folders.items():
            weighed = read_weights(weighers.get(domain), folder, list_pictures(folder))
            pictures = domains[domain] = Pictures(list(weighed), self.crop.short_side, weights=list(weighed.values()))
            if held_out:
                names = [picture_name(file, Path(folder)) for file in pictures.files]
                domains[domain], held[domain] = _split(pictures, names, held_out, self.seed)
        return domains, held

    def __len__(self) -> int:
        return max(len(pictures) for pictures in self.domains.values())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The sample with the running number `index`, of any size: (3, size, size) by name."""
        raise NotImplementedError

    def describe(self) -> str:
        """What there is, for the log."""
        raise NotImplementedError


class Unpaired(Data):
    """Two folders without any relation between their pictures; see :class:`Data`."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The pair with the running number `index`, of any size: {"source", "target"}, (3, size, size) each."""
        return {
            name: self.crop(pictures[pictures.at(self.seed, name, index)], self.seed, name, index)
            for name, pictures in self.domains.items()
        }

    def describe(self) -> str:
        """What there is, for the log."""
        return ", ".join(f"{len(pictures)} {name}" for name, pictures in self.domains.items())


class Paired(Data):
    """Two folders whose files belong together by name (without suffix); both get the same crop.

    Args: as :class:`Data`; a pair has the weight of its source, and is held out together.

    Raises:
        DataError: as there, or no file of one folder has its counterpart in the other.
    """

    def _open(
        self, folders: Mapping[str, str | Path], weights: Mapping[str, Weigher] | None, held_out: float
    ) -> tuple[dict[str, Pictures], dict[str, Pictures]]:
        folders = {name: Path(folder) for name, folder in folders.items()}
        source, target = folders.values()
        weighed = read_weights(_weighers(weights, ["source"]).get("source"), source, list_pictures(source))
        files = {"source": list(weighed), "target": list_pictures(target)}
        names = {d: {picture_name(file, folder): file for file in files[d]} for d, folder in folders.items()}
        common = sorted(names["source"].keys() & names["target"].keys())
        if not common:
            raise DataError(
                "No two files belong together",
                where=f"{source} and {target}",
                found=f"for example '{min(names['source'])}' and '{min(names['target'])}'",
                allowed="pairs of files with the same name, suffixes aside",
                todo="Rename them, or train a method for unpaired pictures (cyclegan, cut).",
            )
        if left_over := len(names["source"]) + len(names["target"]) - 2 * len(common):
            wanted = " with a weight above 0" if weights else ""
            warnings.warn(f"{left_over} pictures have no counterpart{wanted} and are left out", stacklevel=2)
        shares = [weighed[names["source"][name]] for name in common]
        domains = {
            d: Pictures([names[d][name] for name in common], self.crop.short_side, weights=shares) for d in folders
        }
        # A rotten half takes its other half with it.
        positions = {d: {file: i for i, file in enumerate(p.files)} for d, p in domains.items()}
        both = [name for name in common if all(names[d][name] in positions[d] for d in folders)]
        for domain, pictures in domains.items():
            domains[domain] = pictures.part([positions[domain][names[domain][name]] for name in both])
        for name, a, b in zip(both, domains["source"].ratios, domains["target"].ratios, strict=True):
            if abs(a / b - 1) > 0.03:  # reduced sizes are rounded
                raise DataError(
                    "The two pictures of a pair have different shapes",
                    where=name,
                    found=f"width / height = {a:.2f} and {b:.2f}",
                    allowed="the same ratio",
                    todo="Crop them to the same view.",
                )
        held = {}
        for domain, pictures in domains.items() if held_out else ():
            domains[domain], held[domain] = _split(pictures, both, held_out, self.seed)
        return domains, held

    def __len__(self) -> int:
        return len(self.domains["source"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The pair with the running number `index`: {"source", "target"}, (3, size, size) each."""
        at = self.domains["source"].at(self.seed, "pair", index)
        return {n: self.crop(p[at], self.seed, "pair", index) for n, p in self.domains.items()}

    def describe(self) -> str:
        """What there is, for the log."""
        return f"{len(self)} pairs"


class Images(Data):
    """One folder of pictures, to make more of their kind, or to do something to them and learn to undo it.

    Args: as :class:`Data`; there is no source.
    """

    folders = ("target",)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The picture with the running number `index`: {"target"}, (3, size, size)."""
        pictures = self.domains["target"]
        return {"target": self.crop(pictures[pictures.at(self.seed, "target", index)], self.seed, "target", index)}

    def describe(self) -> str:
        """What there is, for the log."""
        return f"{len(self)} pictures"


class Styles(Data):
    """Pictures to start from, and a few pictures that are a style each.

    Of a style the largest square is taken, unmirrored, wherever it lies: its brush strokes keep their size.

    Args: as :class:`Data`; `target` may be a single picture. Styles come in turn, so they have no weights, and
        each is to be learnt, so "target" of what is held out is all of them.
    """

    def _open(
        self, folders: Mapping[str, str | Path], weights: Mapping[str, Weigher] | None, held_out: float
    ) -> tuple[dict[str, Pictures], dict[str, Pictures]]:
        domains, held = super()._open({"source": folders["source"]}, weights, held_out)
        styles = {"target": Pictures(list_pictures(folders["target"]), self.crop.short_side)}
        return domains | styles, held | styles if held_out else held

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Sample `index`: {"source", "target"}, (3, size, size) each, and "style_index", which style it is."""
        source, target = self.domains["source"], self.domains["target"]
        style, whole = index % len(target), RandomCrop(self.crop.size, (1.0, 1.0), flip=False)
        return {
            "source": self.crop(source[source.at(self.seed, "source", index)], self.seed, "source", index),
            "target": whole(target[style], self.seed, "style", index),
            "style_index": torch.tensor(style),
        }

    def describe(self) -> str:
        """What there is, for the log."""
        return f"{len(self.domains['source'])} pictures, {len(self.domains['target'])} styles"


KINDS: dict[str, type[Data]] = {
    "unpaired": Unpaired,
    "paired": Paired,
    "images": Images,
    "damaged": Images,
    "styles": Styles,
}


def _weighers(weights: Mapping[str, Weigher] | None, domains: Iterable[str]) -> Mapping[str, Weigher]:
    for domain in weights or ():
        if domain not in domains:
            raise DataError(
                "These pictures have no weights of their own",
                found=f"weights for '{domain}'",
                allowed=" and ".join(domains),
                todo="Leave them out.",
            )
    return weights or {}


def _split(pictures: Pictures, names: list[str], share: float, seed: int) -> tuple[Pictures, Pictures]:
    """Pictures to train with and pictures held out; those of one name stay together."""
    held = set(hold_out(sorted(set(names)), share, seed)[1])
    if not held:
        raise DataError(
            "Too few pictures to hold some out",
            where=pictures.files[0].parent,
            found=len(names),
            allowed="2 and more, with different names",
            todo="Train without held-out pictures, or bring some in a folder of their own.",
        )
    kept, apart = ([i for i, name in enumerate(names) if (name in held) == wanted] for wanted in (False, True))
    return pictures.part(kept), pictures.part(apart)


def batches(data: Data, size: int, turns: range, *, rank: int = 0, processes: int = 1, workers: int = 1) -> Batches:
    """Batches for some turns, prepared while the loop computes.

    Process `rank` of `processes` takes its part of the joint batch, so that many processes see together what one
    would see alone.

    Args:
        data: where samples come from.
        size: samples per process and turn.
        turns: running numbers of the turns.
        rank: of this process.
        processes: how many there are.
        workers: threads, each a turn ahead of the other; they change nothing but the speed.

    Returns:
        Tensors (size, 3, H, W) by name, turn by turn.
    """

    def make(turn: int) -> dict[str, Tensor]:
        first = (turn * processes + rank) * size
        samples = [data[index] for index in range(first, first + size)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    return Batches(make, turns, workers)


class Batches(Iterator[dict[str, Tensor]]):
    """What `make` makes of some turns, in their order; threads are up to `workers` turns ahead, and no more.

    Args:
        make: called with a turn, in a thread.
        turns: running numbers.
        workers: threads.

    Attributes:
        waited: seconds that its reader has waited so far.
    """

    def __init__(self, make: Callable[[int], dict[str, Tensor]], turns: Iterable[int], workers: int = 1) -> None:
        self.waited = 0.0
        self._make, self._turns, self._workers = make, iter(turns), workers
        self._pool = ThreadPoolExecutor(workers)
        self._ahead: deque[Future[dict[str, Tensor]]] = deque()

    def __next__(self) -> dict[str, Tensor]:
        for turn in islice(self._turns, self._workers + 1 - len(self._ahead)):
            self._ahead.append(self._pool.submit(self._make, turn))
        if not self._ahead:
            self.close()
            raise StopIteration
        begin = time.perf_counter()
        try:
            return self._ahead.popleft().result()
        except BaseException:
            self.close()  # what comes after a gap is of no use
            raise
        finally:
            self.waited += time.perf_counter() - begin

    def close(self) -> None:
        """End early; waits for what is being prepared."""
        self._turns = iter(())
        self._ahead.clear()
        self._pool.shutdown(cancel_futures=True)


def _read(file: Path, short_side: int) -> np.ndarray | ImageError:
    try:
        rgb = images.to_8_bit(images.read(file).on_white().rgb)
    except ImageError as error:
        return error
    factor = short_side / min(rgb.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(rgb)
    size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
