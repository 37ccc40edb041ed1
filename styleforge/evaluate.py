"""What a style is worth, in figures that others can check: protocol, intervals, and controls beside every figure.

>>> found = evaluate("fastcut-monet", source="photos/", target="paintings/", output="out/", judge="judge.safetensors")
>>> found.metrics["KID (squeezenet fire9)"]  # and found.controls["source"], of the photographs as they are

Every photograph is seen as the largest square in its middle, at one size, and styled at that size. All figures of one
evaluation are about the same photographs and paintings, and all intervals about the same draws of them: figures of one
page may be compared, and those of two pages when their protocols agree.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from . import control, evaluation_page, features, images, processes, rng
from .data import list_pictures, picture_name
from .errors import ConfigError, DataError
from .features import VGG19, FeatureNetwork
from .files import replacing_folder, write_text
from .hub import CONFIG_NAME
from .metrics import bootstrap, cache, fid, kid, texture
from .metrics.artfid import artfid, content_distance
from .metrics.checkerboard import checkerboard
from .metrics.color import ColorDistance, color_distance, color_shift, moments
from .metrics.content import edges, structure
from .metrics.diversity import doubled, spread
from .metrics.looks import DEFAULT_LAYERS, eye, fingerprint, look, pool
from .metrics.precision_recall import shares
from .metrics.texture import Texture, spectrum
from .pipeline import StylePipeline
from .quality import CONTENT_LAYERS, FEWEST

Given = str | os.PathLike[str] | StylePipeline
Rows = dict[str, dict[str, Tensor]]  # by maker and measure: a number, or a row of them, for each photograph

METRICS, PAGE = "metrics.json", "report.html"
RESIZE = "largest middle square, bicubic with antialiasing"
SMALLEST = 64  # side at which the judges still have places to look at
BLUR, NOISE = 1.5, 0.1  # deviations: in pixels of the square, and of values in [0, 1]
BATCH = 8
DRAWS, FID_DRAWS = 1000, 100  # an FID decomposes a matrix for each
ENOUGH = 10_000  # pictures for an FID, as its authors advise
EXAMPLES, EXTREMES, GOALS = 8, 4, 6  # pictures on the page
STYLE, AGAINST, SOURCE, TRANSFER = "style", "against", "source", "color transfer"
SEEN, GRAIN, PALETTE = "seen", "grain", "palette"  # rows: of the judge, of spectra, and of colors
CACHED = 1  # to be raised when such a row is computed in another way
NO_JUDGE = "No network has judged, so nothing tells how near the pictures come to the paintings: give a judge."


class Draw(NamedTuple):
    """What a picture is made of: a photograph and a painting for it, (1, 3, S, S) in [-1, 1]."""

    number: int
    photo: Tensor
    painting: Tensor
    seed: int


Maker = Callable[[Draw], Tensor]


class Measure(NamedTuple):
    """What a figure is about.

    Attributes:
        better: "lower" or "higher".
        about: for people.
        layers: of the judge that it looks at, "style" or "content"; none when the judge is not asked.
        paired: it compares a picture with its photograph.
        targets: it is a mean over the paintings.
    """

    better: Literal["lower", "higher"]
    about: str
    layers: tuple[str, ...] = ()
    paired: bool = False
    targets: bool = False


BY_STYLE = ("style",)
MEASURES = {
    "KID": Measure("lower", "distance to the paintings, without bias; 0 is like them", BY_STYLE),
    "FID": Measure("lower", "distance to the paintings, biased upwards by few pictures", BY_STYLE),
    "ArtFID-type": Measure("lower", "(1 + content distance) x (1 + FID)", ("content", "style"), paired=True),
    "texture distance": Measure("lower", "to the grain of the paintings, by spectra of blocks; 0 is like them"),
    "palette distance": Measure("lower", "to mean and covariance of the paintings' colors, in L*a*b*"),
    "checkerboard": Measure("lower", "how far a grid of 2 or 4 pixels stands out, in dB; about 0 is none"),
    "content distance": Measure(
        "lower", "to the photograph, in what is shown; 0 is the same", ("content",), paired=True
    ),
    "edges": Measure("higher", "correlation of edges with the photograph's; 1 is the same", paired=True),
    "structure": Measure("higher", "SSIM of luma to the photograph; 1 is the same", paired=True),
    "color shift": Measure("lower", "from the photograph, Delta E 2000", paired=True),
    "precision": Measure("higher", "share of the pictures that lie among the paintings", BY_STYLE),
    "recall": Measure("higher", "share of the paintings that lie among the pictures", BY_STYLE, targets=True),
    "density": Measure("higher", "how deep the pictures lie among the paintings", BY_STYLE),
    "coverage": Measure("higher", "share of the paintings that have a picture near", BY_STYLE, targets=True),
    "diversity": Measure("higher", "mean distance of two pictures; 1 is that of two paintings", BY_STYLE),
    "near-duplicates": Measure("lower", "share of the pictures that have a twin", BY_STYLE),
}
COMPARED = {"edges": edges, "structure": structure, "color shift": color_shift}
NEARNESS = (  # better than, not measurably other than, and worse than doing nothing
    "brings the photographs nearer to",
    "does not bring the photographs measurably nearer to",
    "takes the photographs farther from",
)
FAULTS = {  # where a style is worse than doing nothing
    "texture distance": "Its grain is farther from that of the paintings",
    "checkerboard": "It leaves a grid",
}
ORDER = "edges"  # tells how much of a photograph is left


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found; `metrics.json` holds the same.

    Attributes:
        output: the folder of `metrics.json` and `report.html`.
        protocol: what was measured, how, and with which network.
        metrics: of the style by name: "value", "low" and "high" (95 %), "n" pictures, and which is "better".
        controls: the same of pictures that no style made, by control.
        warnings: in whole sentences.
        against: of another style "style" (its name), "metrics", and "differences": the figures of the first one less
            its own on the same photographs. Empty without another one.
    """

    output: Path
    protocol: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    controls: dict[str, dict[str, dict[str, Any]]]
    warnings: list[str]
    against: dict[str, Any] = field(default_factory=dict)


def evaluate(
    style: Given,
    *,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    output: str | os.PathLike[str],
    judge: str | os.PathLike[str] | None = None,
    size: int = 256,
    against: Given | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Measure a style on photographs and paintings that it was not trained with.

    In several processes (see :func:`styleforge.processes.join`) each styles and sees its share; the figures are the
    same, and the first process writes. Rows of the target are cached, see :mod:`styleforge.metrics.cache`.

    Args:
        style: the folder of a run or of a style, a bundled one, one of the Hub; or a folder of ready pictures, each
            with the name of its photograph, perhaps with something like `-styled` or `_fake` behind it. Networks that
            take any style are given a painting for each photograph, the one that the color transfer has.
        source: photographs.
        target: paintings in the style.
        output: folder for `metrics.json` and `report.html`.
        judge: weights of the network that sees, best one that no loss used; see :func:`styleforge.features.load`.
            Without it there are no distances to the target.
        size: side of the squares in pixels.
        against: another style, in any of these forms, on the same photographs.
        seed: of the noise, of the paintings that lend their colors, and of the draws behind the intervals.
        limit: take at most so many photographs and so many paintings, evenly chosen.
        progress: is told how many pictures of how many are done.

    Raises:
        ConfigError: a setting out of range, or a judge that ends before the layers that see.
        DataError: no pictures; ready pictures that are missing, or several of one photograph.
        ImageError: a picture cannot be used.
        RepoError, WeightsError, CorruptFileError: a style or the judge cannot be loaded.
    """
    _check(size, limit)
    work, source = _Work(progress), Path(source)
    eyes = _Judge(judge, work.device)
    studio = _Studio(_chosen(source, limit), _chosen(target, limit), size, seed)
    for name, given in ((STYLE, style), (AGAINST, against)):
        if given is not None:
            studio.add(name, _load(given, work.device), source)
    studio.makers |= CONTROLS
    work.total = len(studio.sources) + len(studio.targets)
    figures = _Figures(studio, eyes, _rows(studio, eyes, work), _goals(studio, eyes, work))
    evaluation = Evaluation(
        output=Path(output),
        protocol=_protocol(studio, eyes),
        metrics=figures.of(STYLE),
        controls={name: figures.of(name) for name in CONTROLS},
        warnings=[*eyes.warnings, *figures.warnings, *studio.warnings],
        against={} if against is None else figures.against(_title(against)),
    )
    if work.first:
        _write(evaluation, _title(style), studio, figures)
    work.wait()
    return evaluation


def _check(size: int, limit: int | None) -> None:
    for name, value, low in (("size", size, SMALLEST), ("limit", limit, 1)):
        if value is not None and value < low:
            raise ConfigError(f"{name} cannot be used", found=value, allowed=f"{low} and more", todo=f"Give {low}.")


def _chosen(folder: str | os.PathLike[str], limit: int | None) -> list[Path]:
    """All pictures of a folder, or `limit` of them, evenly spread over their names."""
    files = list_pictures(folder)
    count = min(limit or len(files), len(files))
    return [files[number * len(files) // count] for number in range(count)]


def _title(style: Given) -> str:
    if isinstance(style, StylePipeline):
        return type(style.model).__name__
    return Path(style).resolve().name if os.path.isdir(style) else str(style)


def _protocol(studio: _Studio, eyes: _Judge) -> dict[str, Any]:
    def described(files: list[Path]) -> str:
        folder = files[0].resolve().parent
        return f"{folder.parent.name}/{folder.name} ({cache.digest(files)[:12]})"

    return {
        "split": f"{described(studio.sources)} against {described(studio.targets)}",
        "n_source": len(studio.sources),
        "n_target": len(studio.targets),
        "size": studio.size,
        "resize": RESIZE,
        "feature_network": eyes.name,
        "feature_sha256": eyes.sha256,
        "seed": studio.seed,
    }


# -- who works, who judges --


class _Work:
    """The batches of this process, and what all of them have found."""

    def __init__(self, progress: Callable[[int, int], object] | None) -> None:
        self.accelerator = processes.join() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
        self.rank, self.count = 0, 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.accelerator:
            self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device
        self.first = self.rank == 0
        self.progress, self.done, self.total = progress, 0, 0

    def batches(self, pictures: int) -> Iterator[slice]:
        """The same batches whoever works on them: others would round differently."""
        for start in range(self.rank * BATCH, pictures, self.count * BATCH):
            yield slice(start, min(start + BATCH, pictures))
            self.note(BATCH * self.count)

    def note(self, pictures: int) -> None:
        """Tell that so many more pictures are done, here and elsewhere."""
        self.done = min(self.done + pictures, self.total)
        if self.progress:
            self.progress(self.done, self.total)

    def anywhere(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return processes.anywhere(self.accelerator, flag)[0] if self.accelerator else flag

    def together(self, rows: Tensor) -> Tensor:
        """Rows of all processes, each of which has left those of the others at 0."""
        if self.accelerator is None:
            return rows
        return self.accelerator.reduce(rows.to(self.device), reduction="sum").cpu()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()


class _Judge:
    """The feature network, or none."""

    def __init__(self, given: str | os.PathLike[str] | None, device: torch.device) -> None:
        self.network: FeatureNetwork | None = None
        self.name, self.sha256, self.warnings = "none", "", [NO_JUDGE]
        if given is None:
            return
        self.network = features.load(given).to(device)
        kind = type(self.network)
        self.layers = {"style": DEFAULT_LAYERS[kind], "content": CONTENT_LAYERS[kind]}
        for layer in self.layers.values():
            if layer not in self.network.channels:
                raise ConfigError(
                    "This feature network ends before the layers that judge",
                    where=given,
                    found=f"no {layer}",
                    todo="Give a complete file of its weights.",
                )
        self.name, self.sha256 = eye(self.network), fingerprint(self.network)
        self.warnings = []
        if str(given) in features.RANDOM:
            self.warnings.append("The judge has random weights, which see little but color: give a trained one.")
        elif isinstance(self.network, VGG19):
            self.warnings.append("Losses that look through VGG please this judge too; SqueezeNet is impartial.")

    @property
    def widths(self) -> dict[str, int]:
        """Of the rows by kind."""
        seen = {SEEN: self.network.channels[self.layers["style"]]} if self.network else {}
        return {GRAIN: Texture.width, PALETTE: ColorDistance.width, **seen}

    def see(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Rows (B, d) by kind, and what is shown, (B, C, h, w), of pictures (B, 3, S, S) in [-1, 1]."""
        rows = {GRAIN: spectrum(pictures), PALETTE: moments(pictures)}
        if not self.network:
            return rows, None
        seen = look(self.network, pictures, list(self.layers.values()))
        return {**rows, SEEN: pool(seen[self.layers["style"]])}, seen[self.layers["content"]]

    def called(self, name: str) -> str:
        """The name of a figure: that of a measure, and of the network and the layers that it looks at."""
        layers = " x ".join(self.layers[layer] for layer in MEASURES[name].layers)
        return f"{name} ({eye(self.network, layers)})" if layers else name


# -- what is seen --


class _Studio:
    """Photographs, paintings, and everything that is made of a photograph: by the controls and by the styles."""

    def __init__(self, sources: list[Path], targets: list[Path], size: int, seed: int) -> None:
        self.sources, self.targets, self.size, self.seed = sources, targets, size, seed
        lenders = torch.randint(len(targets), (len(sources),), generator=rng.generator(seed, "painting"))
        self.lenders = lenders.tolist()
        self.makers: dict[str, Maker] = {}
        self.unpaired: set[str] = set()  # makers that see no photograph
        self.warnings = []
        if small := sum(min(_size(file)) < size for file in (*sources, *targets)):
            self.warnings.append(f"{small} pictures are smaller than {size} px and were enlarged, which blurs them.")

    def add(self, name: str, style: StylePipeline | Path, source: Path) -> None:
        """Take in a style, or a folder of ready pictures."""
        if isinstance(style, StylePipeline):
            self.makers[name] = _by_style(style, self.size)
            self.unpaired |= {name} if style.model.capabilities.inputs == ("noise",) else set()
            return
        ready = _match(self.sources, source, style)
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
        """By maker what becomes of a photograph, (1, 3, S, S) in [-1, 1]."""
        painting = self.targets[self.lenders[number]]
        draw = Draw(number, self.square(self.sources[number]), self.square(painting), self.seed)
        return {name: maker(draw).clamp(-1, 1) for name, maker in self.makers.items()}


def _rows(studio: _Studio, eyes: _Judge, work: _Work) -> Rows:
    """What is measured of each photograph, and of all that is made of it."""
    count = len(studio.sources)
    single = [*COMPARED, "checkerboard", *(["content distance"] if eyes.network else [])]
    rows: Rows = {maker: _tables(count, eyes.widths, single) for maker in studio.makers}
    for here in work.batches(count):
        made = [studio.make(number) for number in range(here.start, here.stop)]
        batch = {maker: torch.cat([each[maker] for each in made]) for maker in rows}
        seen = {maker: eyes.see(pictures) for maker, pictures in batch.items()}
        for maker, tables in rows.items():
            found = _compared(batch[maker], batch[SOURCE], seen[maker][1], seen[SOURCE][1])
            for name, values in {**seen[maker][0], **found}.items():
                tables[name][here] = values
    for maker, tables in rows.items():
        paired = {name for name in tables if name in MEASURES and MEASURES[name].paired}
        left_out = paired if maker in studio.unpaired else set()
        rows[maker] = {name: work.together(table) for name, table in tables.items() if name not in left_out}
    return rows


def _tables(count: int, widths: dict[str, int], single: Sequence[str] = ()) -> dict[str, Tensor]:
    rows = {name: torch.zeros(count, width, dtype=torch.float64) for name, width in widths.items()}
    return rows | {name: torch.zeros(count, dtype=torch.float64) for name in single}


def _compared(pictures: Tensor, photos: Tensor, content: Tensor | None, shown: Tensor | None) -> dict[str, Tensor]:
    """Pictures (B, 3, S, S) beside their photographs, and their content beside what these show."""
    found = {name: measure(photos, pictures) for name, measure in COMPARED.items()}
    found["checkerboard"] = checkerboard(pictures)
    return found if content is None else {**found, "content distance": content_distance(content, shown).cpu()}


def _goals(studio: _Studio, eyes: _Judge, work: _Work) -> dict[str, Tensor]:
    """Rows (m, d) of the paintings by kind."""
    files = studio.targets
    key = cache.digest(files, CACHED, eyes.name, eyes.sha256, studio.size, RESIZE)
    known = cache.read(key)
    if not work.anywhere(known is None):
        work.note(len(files))
        return known
    tables = _tables(len(files), eyes.widths)
    for here in work.batches(len(files)):
        for kind, rows in eyes.see(torch.cat([studio.square(file) for file in files[here]]))[0].items():
            tables[kind][here] = rows
    tables = {kind: work.together(rows) for kind, rows in tables.items()}
    if work.first:
        cache.write(key, tables)
    return tables


# -- who makes pictures --


def _unit(image: Tensor) -> Tensor:
    """(1, 3, H, W) in [-1, 1] to (3, H, W) in [0, 1], as pipelines take and give it."""
    return (image[0].clamp(-1, 1) + 1) / 2


def _as_it_is(draw: Draw) -> Tensor:
    return draw.photo


def _color_transfer(draw: Draw) -> Tensor:
    """The photograph with mean and covariance of the painting's colors, by the map that moves pixels least."""
    return control.preserve_color(draw.painting, draw.photo, "histogram")


def _blurred(draw: Draw) -> Tensor:
    return images.read(images.to_pil(draw.photo).filter(ImageFilter.GaussianBlur(BLUR))).tensor()


def _noisy(draw: Draw) -> Tensor:
    noise = torch.randn(draw.photo.shape, generator=rng.generator(draw.seed, "noise", draw.number))
    return draw.photo + 2 * NOISE * noise


CONTROLS: dict[str, Maker] = {SOURCE: _as_it_is, TRANSFER: _color_transfer, "blur": _blurred, "noise": _noisy}


def _load(given: Given, device: torch.device) -> StylePipeline | Path:
    """A style, or a folder of ready pictures."""
    if isinstance(given, StylePipeline):
        return given
    for folder in (Path(given) / "style", Path(given)):
        if (folder / CONFIG_NAME).is_file():
            return StylePipeline.from_pretrained(folder, device=device)
    return Path(given) if os.path.isdir(given) else StylePipeline.from_pretrained(given, device=device)


def _by_style(pipe: StylePipeline, size: int) -> Maker:
    can = pipe.model.capabilities

    @torch.inference_mode()
    def from_noise(draw: Draw) -> Tensor:
        noise = torch.randn(
            1, pipe.model.config["noise_size"], generator=rng.generator(draw.seed, "noise", draw.number)
        )
        made = pipe.model(noise.to(pipe.device, pipe.dtype)).float().cpu().expand(-1, 3, -1, -1)
        return images.square(images.read(_unit(made)), size)

    def styled(draw: Draw) -> Tensor:
        options = {"style": _unit(draw.painting)} if "style" in can.inputs else {}
        return pipe(_unit(draw.photo), output_type="pt", **options)[None] * 2 - 1

    return from_noise if can.inputs == ("noise",) else styled


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
    """Width and height; one that cannot be read fails where it is used."""
    with suppress(OSError), Image.open(file) as image:
        return image.size
    return 1, 1


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) < 0.02


# -- figures --


class _Figures:
    """Every figure of every maker under the same draws."""

    def __init__(self, studio: _Studio, eyes: _Judge, rows: Rows, goals: dict[str, Tensor]) -> None:
        self.eyes, self.rows, self.goals = eyes, rows, goals
        self.counts = len(studio.sources), len(studio.targets)
        kinds = zip(self.counts, ("source", "target"), strict=True)
        self.ours, self.theirs = (bootstrap.draws(count, DRAWS, studio.seed, kind) for count, kind in kinds)
        self.warnings = self._warnings()
        self.values = {maker: self._values(tables) for maker, tables in rows.items()}

    def of(self, maker: str) -> dict[str, dict[str, Any]]:
        """Figures as `metrics.json` has them."""
        return self._entries(self.values[maker])

    def against(self, title: str) -> dict[str, Any]:
        """Those of the other style, and how far ours are from them."""
        gaps = {name: self.gap(name, AGAINST) for name in self.values[STYLE] if name in self.values[AGAINST]}
        return {"style": title, "metrics": self.of(AGAINST), "differences": self._entries(gaps)}

    def gap(self, name: str, other: str) -> Tensor:
        """A measure of the style less that of another maker under each draw."""
        return self.values[STYLE][name] - self.values[other][name]

    def _warnings(self) -> list[str]:
        counts = "{} photographs and {} paintings".format(*self.counts)
        if min(self.counts) < FEWEST:
            return [f"{counts} are too few for distances between them: give {FEWEST} of each."]
        if self.eyes.network and min(self.counts) < ENOUGH:
            return [f"{counts} are few for an FID, which is biased upwards until some {ENOUGH:,}: compare by KID."]
        return []

    def _values(self, tables: dict[str, Tensor]) -> dict[str, Tensor]:
        """By measure, under all draws."""
        values = {name: bootstrap.mean(each, self.ours) for name, each in tables.items() if name in MEASURES}
        if min(self.counts) >= FEWEST:
            values |= self._distances(tables)
        if "FID" in values and "content distance" in values:
            values["ArtFID-type"] = artfid(values["content distance"][: FID_DRAWS + 1], values["FID"])
        return {name: values[name] for name in MEASURES if name in values}

    def _distances(self, tables: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the pictures to the paintings, as wholes."""
        ours, theirs = self.ours, self.theirs
        means = (
            (times @ rows[PALETTE] / times.sum(1, keepdim=True)).split(1)
            for rows, times in ((self.goals, theirs), (tables, ours))
        )
        palettes = [color_distance(*pair) for pair in zip(*means, strict=True)]
        values = {
            "texture distance": texture.resampled(self.goals[GRAIN], tables[GRAIN], theirs, ours),
            "palette distance": torch.tensor(palettes, dtype=torch.float64),
        }
        if not self.eyes.network:
            return values
        real, fake = self.goals[SEEN], tables[SEEN]
        for name, each in shares(real, fake).items():
            values[name] = bootstrap.mean(each, theirs if MEASURES[name].targets else ours)
        return values | {
            "KID": kid.resampled(real, fake, theirs, ours),
            "FID": fid.resampled(real, fake, theirs[: FID_DRAWS + 1], ours[: FID_DRAWS + 1]),
            "diversity": spread(real, fake, theirs, ours),
            "near-duplicates": bootstrap.mean(doubled(real, fake), ours),
        }

    def _entries(self, values: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
        entries = {}
        for name, drawn in values.items():
            about = {"n": self.counts[MEASURES[name].targets], "better": MEASURES[name].better}
            entries[self.eyes.called(name)] = {**bootstrap.estimate(drawn)._asdict(), **about}
        return entries


# -- the page --


def _write(evaluation: Evaluation, title: str, studio: _Studio, figures: _Figures) -> None:
    eyes = figures.eyes
    facts = {
        name: value for name, value in asdict(evaluation).items() if name != "output" and (value or name != AGAINST)
    }
    page = evaluation_page.render(
        facts,
        title=title,
        verdict=_verdict(title, figures, evaluation.against.get("style", "")),
        abouts={
            eyes.called(name): measure.about for name, measure in MEASURES.items() if eyes.network or not measure.layers
        },
        sheets=_sheets(studio, figures),
        goals=[studio.square(file) for file in _evenly(studio.targets, GOALS)],
        each={
            eyes.called(name): {
                maker: tables[name].tolist() for maker, tables in figures.rows.items() if name in tables
            }
            for name in MEASURES
            if name in figures.rows[STYLE]
        },
    )
    with replacing_folder(evaluation.output, last=(METRICS,)) as folder:
        write_text(folder / METRICS, json.dumps(facts, indent=2, allow_nan=False) + "\n")
        write_text(folder / PAGE, page)


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """Up to `most` of them, evenly chosen."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _verdict(title: str, figures: _Figures, rival: str) -> str:
    """What the distances say, as far as the intervals allow."""

    def compared(name: str, other: str, words: tuple[str, str, str]) -> str:
        """The word for a figure that is better, not measurably another, or worse than that of another maker."""
        gap = bootstrap.estimate(figures.gap(name, other))
        return words[0] if gap.high < 0 else words[2] if gap.low > 0 else words[1]

    def value(name: str, maker: str) -> str:
        return evaluation_page.figure(figures.values[maker][name][0].item())

    known, sentences = figures.values[STYLE], []
    if "KID" in known:
        said = compared("KID", SOURCE, NEARNESS)
        sentences.append(f"{title} {said} the paintings (KID {value('KID', STYLE)}, unstyled {value('KID', SOURCE)}).")
    else:
        sentences.append(f"How near {title} comes to the paintings was not measured.")
    for name, fault in FAULTS.items():
        if name in known and (said := compared(name, SOURCE, ("", "", fault))):
            sentences.append(f"{said} ({name} {value(name, STYLE)}, unstyled {value(name, SOURCE)}).")
    for other, who in ((TRANSFER, "A plain color transfer"), (AGAINST, rival)):
        if "KID" in known and other in figures.values:
            near = compared("KID", other, ("less near", "about as near", "nearer"))
            sentences.append(f"{who} comes {near} (KID {value('KID', other)}).")
    return " ".join(sentences)


def _sheets(studio: _Studio, figures: _Figures) -> list[evaluation_page.Sheet]:
    """Pictures side by side, and those of which the least and the most is left."""
    names = [file.stem for file in studio.sources]
    makers = [SOURCE, *(name for name in studio.makers if name != SOURCE)]

    def sheet(heading: str, note: str, captions: dict[int, str], makers: Sequence[str]) -> evaluation_page.Sheet:
        made = ((caption, studio.make(number)) for number, caption in captions.items())
        return evaluation_page.Sheet(
            heading, note, [(caption, {maker: each[maker] for maker in makers}) for caption, each in made]
        )

    chosen = {number: names[number] for number in _evenly(range(len(names)), EXAMPLES)}
    sheets = [sheet("Side by side", "Evenly chosen, at the size at which they were measured.", chosen, makers)]
    kept = figures.rows[STYLE].get(ORDER)
    if kept is not None:
        few = [maker for maker in makers if maker not in CONTROLS or maker == SOURCE]
        for heading, order in (("Content kept worst", kept.argsort()), ("Content kept best", (-kept).argsort())):
            captions = {number: f"{names[number]}: {kept[number]:.2f}" for number in order[:EXTREMES].tolist()}
            sheets.append(sheet(heading, f"By {ORDER}: {MEASURES[ORDER].about}.", captions, few))
    return sheets
