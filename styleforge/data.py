"""Folders of pictures to training batches: any names, any sizes, unequal counts.

What picture comes at which step, and how it is cropped, is a function of (seed, domain, index); see
:mod:`styleforge.rng`. The two domains of unpaired data never share a stream, so their orders are independent.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import images, rng
from .errors import DataError, ImageError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
ROTTEN_SHARE = 0.2


def list_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """All files below `folder` with the suffix of a picture, in a fixed order; hidden ones are left out.

    A picture in place of a folder stands for itself.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix.lower() in SUFFIXES:
        return [folder]
    if not folder.is_dir():
        raise DataError("No such folder of pictures", where=folder, todo="Check the path.")
    everything = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    pictures = sorted(p for p in everything if p.suffix.lower() in SUFFIXES)
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


class Pictures:
    """The pictures of one domain: all read once to find the rotten ones, and kept as far as memory allows.

    Args:
        files: what to read.
        short_side: larger pictures are reduced so that their short side has this many pixels.
        memory: bytes of pixels to keep; pictures beyond that are read again whenever they are wanted.

    Raises:
        DataError: more than a fifth of the files cannot be read. Fewer are left out with a warning.
    """

    def __init__(self, files: list[Path], short_side: int, memory: int = 2 * 2**30) -> None:
        self.files: list[Path] = []
        self.ratios: list[float] = []
        self._short_side = short_side
        self._kept: dict[Path, np.ndarray] = {}
        errors: list[ImageError] = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for file, array in zip(files, pool.map(lambda file: _read(file, short_side), files), strict=True):
                if isinstance(array, ImageError):
                    errors.append(array)
                    continue
                self.files.append(file)
                self.ratios.append(array.shape[1] / array.shape[0])
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

    def choose(self, indices: list[int]) -> None:
        """Go on with these pictures only, in this order."""
        self.files = [self.files[i] for i in indices]
        self.ratios = [self.ratios[i] for i in indices]

    def at(self, seed: int, domain: str, index: int) -> int:
        """Which picture has the running number `index`; each epoch is a new permutation."""
        epoch, position = divmod(index, len(self))
        order = torch.randperm(len(self), generator=rng.generator(seed, "order", domain, epoch))
        return int(order[position])


@dataclass(frozen=True)
class RandomCrop:
    """A random square of a picture.

    Attributes:
        size: side of the result, in pixels.
        zoom: the short side of the picture is first brought to `size` times something in this interval; CycleGAN
            has (1.12, 1.12).
        flip: mirror half of the pictures.
    """

    size: int
    zoom: tuple[float, float] = (1.12, 1.12)
    flip: bool = True

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
        image = Image.fromarray(array).resize(
            (self.size, self.size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        result = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        result = result.flip(2) if self.flip and mirror < 0.5 else result
        return result.float() / 127.5 - 1


class Unpaired:
    """Two folders without any relation between their pictures.

    Args:
        source: folder of pictures to start from.
        target: folder of pictures to resemble.
        crop: how squares are taken.
        seed: of all draws.
    """

    def __init__(self, source: str | Path, target: str | Path, crop: RandomCrop, seed: int = 0) -> None:
        self.crop, self.seed = crop, seed
        self.domains = {
            "source": Pictures(list_pictures(source), crop.short_side),
            "target": Pictures(list_pictures(target), crop.short_side),
        }

    def __len__(self) -> int:
        return max(len(pictures) for pictures in self.domains.values())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The pair with the running number `index`, of any size: {"source", "target"}, (3, size, size) each."""
        return {
            name: self.crop(pictures[pictures.at(self.seed, name, index)], self.seed, name, index)
            for name, pictures in self.domains.items()
        }

    def describe(self) -> str:
        """What there is, for the log."""
        return ", ".join(f"{len(pictures)} {name}" for name, pictures in self.domains.items())


class Paired:
    """Two folders whose files belong together by name (without suffix); both get the same crop.

    Args: as :class:`Unpaired`.

    Raises:
        DataError: no file of one folder has its counterpart in the other.
    """

    def __init__(self, source: str | Path, target: str | Path, crop: RandomCrop, seed: int = 0) -> None:
        self.crop, self.seed = crop, seed
        folders = {"source": Path(source), "target": Path(target)}
        names = {
            domain: {p.relative_to(folder).with_suffix("").as_posix(): p for p in list_pictures(folder)}
            for domain, folder in folders.items()
        }
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
            warnings.warn(f"{left_over} pictures have no counterpart and are left out", stacklevel=2)
        self.domains = {d: Pictures([names[d][name] for name in common], crop.short_side) for d in folders}
        # A rotten half takes its other half with it.
        positions = {d: {file: i for i, file in enumerate(p.files)} for d, p in self.domains.items()}
        both = [name for name in common if all(names[d][name] in positions[d] for d in folders)]
        for domain, pictures in self.domains.items():
            pictures.choose([positions[domain][names[domain][name]] for name in both])
        for name, a, b in zip(both, self.domains["source"].ratios, self.domains["target"].ratios, strict=True):
            if abs(a / b - 1) > 0.03:  # reduced sizes are rounded
                raise DataError(
                    "The two pictures of a pair have different shapes",
                    where=name,
                    found=f"width / height = {a:.2f} and {b:.2f}",
                    allowed="the same ratio",
                    todo="Crop them to the same view.",
                )

    def __len__(self) -> int:
        return len(self.domains["source"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The pair with the running number `index`: {"source", "target"}, (3, size, size) each."""
        at = self.domains["source"].at(self.seed, "pair", index)
        return {n: self.crop(p[at], self.seed, "pair", index) for n, p in self.domains.items()}

    def describe(self) -> str:
        """What there is, for the log."""
        return f"{len(self)} pairs"


class Images:
    """One folder of pictures, to make more of their kind.

    Args: as :class:`Unpaired`; there is no source.
    """

    def __init__(self, source: None, target: str | Path, crop: RandomCrop, seed: int = 0) -> None:
        self.crop, self.seed = crop, seed
        self.domains = {"target": Pictures(list_pictures(target), crop.short_side)}

    def __len__(self) -> int:
        return len(self.domains["target"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The picture with the running number `index`: {"target"}, (3, size, size)."""
        pictures = self.domains["target"]
        return {"target": self.crop(pictures[pictures.at(self.seed, "target", index)], self.seed, "target", index)}

    def describe(self) -> str:
        """What there is, for the log."""
        return f"{len(self)} pictures"


class Styles(Unpaired):
    """Pictures to start from, and a few pictures that are a style each.

    Of a style the largest square is taken, unmirrored, wherever it lies: its brush strokes keep their size.

    Args: as :class:`Unpaired`; `target` may be a single picture.
    """

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


Data = Unpaired | Paired | Images
KINDS: dict[str, type[Unpaired] | type[Paired] | type[Images]] = {
    "unpaired": Unpaired,
    "paired": Paired,
    "images": Images,
    "styles": Styles,
}


def batches(data: Data, size: int, turns: range, *, rank: int = 0, processes: int = 1) -> Iterator[dict[str, Tensor]]:
    """Batches for some turns, prepared one turn ahead.

    Process `rank` of `processes` takes its part of the joint batch, so that many processes see together what one
    would see alone.

    Args:
        data: where samples come from.
        size: samples per process and turn.
        turns: running numbers of the turns.
        rank: of this process.
        processes: how many there are.

    Yields:
        Tensors (size, 3, H, W) by name.
    """

    def make(turn: int) -> dict[str, Tensor]:
        first = (turn * processes + rank) * size
        samples = [data[index] for index in range(first, first + size)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    with ThreadPoolExecutor(1) as pool:
        yield from _ahead(pool.submit, make, turns)


def _ahead(submit: Callable[..., Any], make: Callable[[int], Any], turns: range) -> Iterator[Any]:
    waiting = None
    for turn in turns:
        following = submit(make, turn)
        if waiting is not None:
            yield waiting.result()
        waiting = following
    if waiting is not None:
        yield waiting.result()


def _read(file: Path, short_side: int) -> np.ndarray | ImageError:
    try:
        rgb = images.to_8_bit(images.read(file).rgb)
    except ImageError as error:
        return error
    factor = short_side / min(rgb.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(rgb)
    size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
