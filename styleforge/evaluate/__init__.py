"""What a style is worth, in figures that others can check: protocol, intervals, and controls beside every figure.

>>> found = evaluate("fastcut-monet", source="photos/", target="paintings/", output="out/", judge="judge.safetensors")
>>> found.metrics["KID (squeezenet fire9)"]  # and found.controls["source"], of the photographs as they are

Where each picture has a right answer, as for pix2pix and restorations, that is what a style is measured by:

>>> evaluate("my-sketch", source="photos/", target="drawings/", pairs=True, output="out/").metrics["PSNR"]
>>> evaluate("my-denoiser", target="photos/", damage=["noise"], output="out/").metrics["PSNR gain"]

Every photograph is seen as the largest square in its middle, at one size, and styled at that size. All figures of one
evaluation are about the same pictures, and all intervals about the same draws of them: figures of one page may be
compared, and those of two pages when their protocols agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..damage import KINDS, check_kinds
from ..errors import ConfigError
from ..files import writable
from ..metrics import cache
from ..pipeline import StylePipeline
from .figures import Figures
from .judge import Judge
from .measures import DEFINITIONS
from .rows import Work, goals, measured
from .studio import RESIZE, Given, Studio, load
from .task import AGAINST, ANSWERS, PAINTINGS, STYLE
from .told import write

__all__ = ["Evaluation", "evaluate"]

SMALLEST = 64  # side at which the judges still have places to look at


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found; `metrics.json` holds the same.

    Attributes:
        output: the folder of `metrics.json` and the page.
        protocol: what was measured, how, and with which network.
        metrics: of the style by name: "value", "low" and "high" (95 %), "n" pictures, and which is "better".
        controls: the same of pictures that no style made, by control.
        warnings: in whole sentences.
        against: of another style "style" (its name), "metrics", and "differences": the figures of the first one less
            its own on the same pictures. Empty without another one.
    """

    output: Path
    protocol: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    controls: dict[str, dict[str, dict[str, Any]]]
    warnings: list[str]
    against: dict[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """`report.html`; in the folder of a run, which has one already, `evaluation.html`."""
        return self.output / ("evaluation.html" if (self.output / "train.json").exists() else "report.html")


def evaluate(
    style: Given,
    *,
    source: str | os.PathLike[str] | None = None,
    target: str | os.PathLike[str],
    output: str | os.PathLike[str],
    pairs: bool = False,
    damage: Sequence[str] | None = None,
    judge: str | os.PathLike[str] | None = None,
    size: int = 256,
    against: Given | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Measure a style on pictures that it was not trained with.

    What it makes of photographs is compared with a set of paintings, and with the photographs; or, with `pairs` or
    `damage`, with the right answer to each picture.

    In several processes (see :func:`styleforge.processes.join`) each styles and sees its share; the figures are the
    same, and the first process writes. Rows of the target are cached, see :mod:`styleforge.metrics.cache`.

    Args:
        style: the folder of a run or of a style, a bundled one, one of the Hub; or a folder of ready pictures, each
            with the name of its photograph, perhaps with something like `-styled` or `_fake` behind it. Networks that
            take any style are given a painting for each photograph, the one that the color transfer has.
        source: photographs, or whatever else comes in; None when `damage` makes it.
        target: paintings in the style, or the right answers.
        output: folder for `metrics.json` and `report.html`, which in that of a run is called `evaluation.html`.
        pairs: each picture of `source` has its right answer in `target`, of the same name (suffix aside).
        damage: make what comes in from `target` by these kinds of damage, see :mod:`styleforge.damage`: at the size of
            the squares, and the same for all styles and controls.
        judge: weights of the network that sees, best one that no loss used; see :func:`styleforge.features.load`.
            Without it there are no distances of what it sees.
        size: side of the squares in pixels.
        against: another style, in any of these forms, on the same pictures.
        seed: of noise and damage, of the paintings that lend their colors, and of the draws behind the intervals.
        limit: take at most so many pictures of each folder, or so many pairs, evenly chosen.
        progress: is told how many pictures of how many are done.

    Raises:
        ConfigError: a setting out of range; no source, or one too many; a style that has no right answers; or a judge
            that ends before the layers that see; or an output that cannot be written.
        DataError: no pictures; ready pictures that are missing, or several of one photograph; a picture without its
            right answer, or pairs of different shapes.
        ImageError: a picture cannot be used.
        RepoError, WeightsError, CorruptFileError: a style or the judge cannot be loaded.
    """
    output = writable(output)
    _check(size, limit)
    _check_source(source, damage)
    kinds = [kind for kind in KINDS if kind in (damage or ())]
    task = ANSWERS if pairs or kinds else PAINTINGS
    work = Work(progress)
    eyes = Judge(judge, work.device, task)
    studio = Studio(task, source, target, size=size, seed=seed, kinds=kinds, limit=limit)
    for name, given in ((STYLE, style), (AGAINST, against)):
        if given is not None:
            studio.add(name, load(given, work.device))
    studio.makers |= task.controls
    work.total = len(studio.sources) + (len(studio.targets) if task.sets else 0)
    figures = Figures(studio, eyes, measured(studio, eyes, work), goals(studio, eyes, work) if task.sets else {})
    evaluation = Evaluation(
        output=output,
        protocol=_protocol(studio, eyes),
        metrics=figures.of(STYLE),
        controls={name: figures.of(name) for name in task.controls},
        warnings=[*eyes.warnings, *figures.warnings, *studio.warnings],
        against={} if against is None else figures.against(_title(against)),
    )
    if work.first:
        facts = asdict(evaluation)
        del facts["output"]
        if against is None:
            del facts[AGAINST]
        write(evaluation.page, facts, _title(style), studio, figures)
    work.wait()
    return evaluation


def _check(size: int, limit: int | None) -> None:
    for name, value, low in (("size", size, SMALLEST), ("limit", limit, 1)):
        if value is not None and value < low:
            raise ConfigError(f"{name} cannot be used", found=value, allowed=f"{low} and more", todo=f"Give {low}.")


def _check_source(source: object, damage: Sequence[str] | None) -> None:
    """One thing that makes what comes in."""
    if damage is not None:
        check_kinds(damage)
    if source is None and damage is None:
        raise ConfigError(
            "Nothing comes in",
            found="neither source nor damage",
            todo="Give source (--source photos/), or damage (--damage noise) to make it from the target.",
        )
    if source is not None and damage is not None:
        raise ConfigError(
            "What comes in is damaged already, or made from the target by damage, but not both",
            found=f"source {source} and damage {', '.join(damage)}",
            todo="Leave out damage, and give pairs=True (--pairs); or leave out source.",
        )


def _title(style: Given) -> str:
    if isinstance(style, StylePipeline):
        return type(style.model).__name__
    if not os.path.isdir(style):
        return str(style)
    folder = Path(style).resolve()
    return folder.parent.name if folder.name == "style" else folder.name  # that of a run is called like it


def _protocol(studio: Studio, judge: Judge) -> dict[str, Any]:
    def described(folder: Path, files: list[Path]) -> str:
        folder = folder.resolve()
        return f"{folder.parent.name}/{folder.name} ({cache.digest(files)[:12]})"

    came, wanted = studio.folders
    split = described(wanted, studio.targets)
    if studio.kinds:
        split += f" damaged by {', '.join(studio.kinds)}"
    else:
        split = f"{described(came, studio.sources)} {'against' if studio.task.sets else 'paired with'} {split}"
    return {
        "split": split,
        "n_source": len(studio.sources),
        "n_target": len(studio.targets),
        "size": studio.size,
        "resize": RESIZE,
        "feature_network": judge.name,
        "feature_sha256": judge.sha256,
        "seed": studio.seed,
        **({"damage": studio.kinds} if studio.kinds else {}),
        **({} if studio.task.sets else DEFINITIONS),
    }
