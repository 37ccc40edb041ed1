"""Pictures of an evaluation: what comes in, and all that is made of it, by the controls and by the styles."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import images, rng
from ..damage import damage
from ..data import list_pictures, picture_name
from ..errors import ConfigError, DataError
from ..pipeline import StylePipeline
from ..repos import without_style
from .task import Draw, Maker, Task

Given = str | os.PathLike[str] | StylePipeline

RESIZE = "largest middle square, bicubic with antialiasing"
TURNED, ORIENTATION = range(5, 9), 0x0112  # of EXIF: rows and columns are swapped
UNREAD = (1, 1)


class Studio:
    """Pictures that come in, paintings or right answers, and everything that is made.

    Args:
        task: what a style is for.
        source: folder of what comes in; None when it is made by damage.
        target: folder of paintings, or of right answers.
        size: side of the squares.
        seed: of all draws.
        kinds: of damage.
        limit: of pictures.
    """

    def __init__(
        self,
        task: Task,
        source: str | os.PathLike[str] | None,
        target: str | os.PathLike[str],
        *,
        size: int,
        seed: int,
        kinds: Sequence[str] = (),
        limit: int | None = None,
    ) -> None:
        self.task, self.size, self.seed, self.kinds = task, size, seed, kinds
        self.folders = Path(source or target), Path(target)
        if task.sets:
            self.sources, self.targets = (chosen(list_pictures(folder), limit) for folder in (source, target))
            generator = rng.generator(seed, "painting")
            lenders = torch.randint(len(self.targets), (len(self.sources),), generator=generator)
            self.lenders = lenders.tolist()
        else:
            pairs = [(file, file) for file in list_pictures(target)] if source is None else matched(source, target)
            self.sources, self.targets = map(list, zip(*chosen(pairs, limit), strict=True))
            self.lenders = range(len(self.targets))
        self.makers: dict[str, Maker] = {}
        self.alone = {task.truth} - {task.base}  # makers whose pictures are compared with none
        self.warnings = []
        if small := sum(min(_size(file)) < size for file in {*self.sources, *self.targets}):
            self.warnings.append(f"{small} pictures are smaller than {size} px and were enlarged, which blurs them.")

    def add(self, name: str, style: StylePipeline | Path) -> None:
        """Take in a style, or a folder of ready pictures."""
        if isinstance(style, StylePipeline):
            inputs = style.model.capabilities.inputs
            if not self.task.sets and inputs != ("image",):
                raise ConfigError(
                    "Only a network that takes a picture alone has a right answer",
                    where=type(style.model).__name__,
                    found=" and ".join(inputs),
                    todo="Compare its pictures with a set of paintings, without pairs and damage.",
                )
            self.makers[name] = _by_style(style, self.size)
            self.alone |= {name} if inputs == ("noise",) else set()
            return
        if self.kinds:
            raise ConfigError(
                "Ready pictures were not made from the pictures damaged here",
                where=style,
                todo="Give a style, or the damaged pictures as source, with pairs.",
            )
        ready = _match(self.sources, self.folders[0], style)
        self.makers[name] = lambda draw: self.square(ready[draw.number])
        if odd := sum(not _alike(*map(_size, pair)) for pair in zip(self.sources, ready, strict=True)):
            self.warnings.append(
                f"{odd} pictures of {style.name} have another shape than their photographs: they may show another part."
            )
        if resized := sum(min(_size(file)) != self.size for file in ready):
            self.warnings.append(
                f"{resized} pictures of {style.name} were resized to {self.size} px, and grids and grain with them."
            )

    def square(self, file: Path) -> Tensor:
        """(1, 3, S, S) in [-1, 1]."""
        return images.square(images.read(file), self.size)

    def make(self, number: int) -> dict[str, Tensor]:
        """By maker what becomes of a picture, (1, 3, S, S) in [-1, 1]."""
        target = self.square(self.targets[self.lenders[number]])
        if self.kinds:
            photo = damage(target, self.kinds, rng.generator(self.seed, "damage", number))
        else:
            photo = self.square(self.sources[number])
        draw = Draw(number, photo, target, self.seed)
        return {name: maker(draw).clamp(-1, 1) for name, maker in self.makers.items()}


def chosen(items: Sequence[Any], most: int | None) -> list[Any]:
    """All of them, or at most so many, evenly spread."""
    count = min(most or len(items), len(items))
    return [items[number * len(items) // count] for number in range(count)]


# -- who makes pictures --


def load(given: Given, device: torch.device) -> StylePipeline | Path:
    """A style, or a folder of ready pictures."""
    if isinstance(given, StylePipeline):
        return given
    return Path(given) if without_style(given) else StylePipeline.from_pretrained(given, device=device)


def _by_style(pipe: StylePipeline, size: int) -> Maker:
    can = pipe.model.capabilities

    def from_noise(draw: Draw) -> Tensor:
        (made,) = pipe.generate(1, seed=draw.seed, first=draw.number, output_type="pt")
        return images.square(images.read(made), size)

    @torch.inference_mode()
    def styled(draw: Draw) -> Tensor:
        options = {"style": _unit(draw.target)} if "style" in can.inputs else {}
        return pipe(_unit(draw.photo), output_type="pt", **options)[None] * 2 - 1

    return from_noise if can.inputs == ("noise",) else styled


def _unit(image: Tensor) -> Tensor:
    """(1, 3, H, W) in [-1, 1] to (3, H, W) in [0, 1], as pipelines take and give it."""
    return (image[0].clamp(-1, 1) + 1) / 2


# -- which pictures belong together --


def matched(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """Pictures of two folders that belong together: those of one name, suffixes aside, as in training.

    Raises:
        DataError: a picture has no counterpart or two of them, or a pair has different shapes.
    """
    folders, names = (Path(source), Path(target)), []
    for folder in folders:
        found: dict[str, Path] = {}
        for file in list_pictures(folder):
            if (other := found.setdefault(picture_name(file, folder), file)) != file:
                raise DataError(
                    "Two pictures have one name, suffixes aside",
                    where=folder,
                    found=f"{other.name} and {file.name}",
                    todo="Move one of them away.",
                )
        names.append(found)
    for found, there, folder, other in zip(names, names[::-1], folders, folders[::-1], strict=True):
        if orphans := [file for name, file in found.items() if name not in there]:
            more = f", nor for {len(orphans) - 1} more" if orphans[1:] else ""
            raise DataError(
                "A picture has no counterpart",
                where=orphans[0],
                found=f"nothing of its name in {other}{more}",
                allowed="the same names in both folders, suffixes aside",
                todo=f"Add what is missing there, or move what is left over out of {folder}.",
            )
    pairs = [(file, names[1][name]) for name, file in names[0].items()]
    for pair in pairs:
        one, other = map(_size, pair)
        if not _alike(one, other):
            raise DataError(
                "The two pictures of a pair have different shapes",
                where=f"{pair[0]} and {pair[1].name}",
                found="{} x {} and {} x {}".format(*one, *other),
                allowed="the same ratio",
                todo="Crop them to the same view.",
            )
    return pairs


def _match(sources: Sequence[Path], source: Path, ready: Path) -> list[Path]:
    """The ready picture of each photograph: of its name, or of one that goes on with no letter or digit."""
    names = {picture_name(file, source) for file in list_pictures(source)}
    found: dict[str, list[Path]] = defaultdict(list)
    for file in list_pictures(ready):
        name = picture_name(file, ready)
        ends = [end for end in range(len(name), 0, -1) if end == len(name) or not name[end].isalnum()]
        owner = next((name[:end] for end in ends if name[:end] in names), None)  # the longest, so that a-1 is not of a
        if owner is not None:
            found[owner].append(file)
    wanted = [picture_name(file, source) for file in sources]
    for name in wanted:
        if len(found[name]) != 1:
            raise DataError(
                "Each photograph needs one ready picture of its name",
                where=ready,
                found=f"{' and '.join(file.name for file in found[name][:2]) or 'none'} for {name}",
                todo="Name it like the photograph, and keep other pictures elsewhere.",
            )
    return [found[name][0] for name in wanted]


def _size(file: Path) -> tuple[int, int]:
    """Width and height of what is seen; a file that cannot be read fails where it is used."""
    with suppress(Exception), Image.open(file) as image:
        return image.size[::-1] if image.getexif().get(ORIENTATION) in TURNED else image.size
    return UNREAD


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return (
        UNREAD in (one, other) or abs(one[0] * other[1] / (one[1] * other[0]) - 1) < 0.03
    )  # reduced sizes are rounded
