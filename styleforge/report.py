"""The page of a run, `report.html`: how it goes, its curves and its pictures, in one file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from . import checkpoint, methods
from .errors import ConfigError, UnknownName
from .files import write_text
from .runs import TrainConfig

if TYPE_CHECKING:
    import jinja2

PAGE = "report.html"
POINTS = 600  # of a curve: about two for each pixel
SHEETS, SCORES = 7, 3  # pictures over time
BYTES = 4_200_000  # of all pictures together; base64 makes a third more of them
SHARPNESS = (1.0, 0.8, 0.6, 0.45, 0.3)  # sizes to try until they fit
FAR = 1e100  # what is larger is as good as infinite, and cannot be drawn

# What is measured (see styleforge.quality) and logged: how it is called, and what its axis shows.
TITLES = {
    "kid": ("KID", "distance to the target's pictures, low is good"),
    "ssim": ("SSIM", "likeness to the target, high is good"),
    "l1": ("L1", "mean difference to the target, low is good"),
    "content": ("Content distance", "to the source, 0 is the same"),
    "structure": ("Structure", "SSIM to the source, 1 is the same"),
    "diversity": ("Diversity", "1 is that of the target, near 0 all are one"),
    "lr_factor": ("Learning rate", "factor on that of each player"),
    "images_per_second": ("Speed", "images/s"),
}
DECIDES = {"kid": -1, "ssim": 1}  # the first that is measured says which step is best: the lowest (-1) or highest
ERROR = "_error"  # ends the name of a measure's standard error
NORM = "/gradient_norm"  # follows the name of a player
SHOWN_APART = ("method", "source", "target", "output", "size", "batch_size", "steps", "seed", "settings")


class Frame(NamedTuple):
    """Where curves are drawn, in pixels of a chart 360 wide and 186 high, which the page scales by little."""

    left: int = 46
    top: int = 20
    right: int = 344
    bottom: int = 162


FRAME = Frame()


class Event(NamedTuple):
    """Something that the run said."""

    step: int
    kind: str
    text: str


@dataclass
class Log:
    """What `metrics.jsonl` holds, in the order of the steps, as far as it can be used.

    Attributes:
        trained: figures of the training by step.
        measured: figures of the measurements by step.
        events: each once, in the order in which they were said.
        damaged: lines that are none.
        odd: values that are no finite number.
    """

    trained: dict[int, dict[str, float]] = field(default_factory=dict)
    measured: dict[int, dict[str, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    damaged: int = 0
    odd: int = 0

    @property
    def step(self) -> int:
        """The last step that is told of."""
        return max([0, *self.trained, *self.measured, *(event.step for event in self.events)])


class Series(NamedTuple):
    """One figure over the steps."""

    steps: np.ndarray
    values: np.ndarray


class Curve(NamedTuple):
    """Lines of one color, as SVG paths; `name` stands in the legend."""

    name: str
    color: int
    faint: str
    line: str


@dataclass(frozen=True)
class Scale:
    """An axis: from values to pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, values: Any) -> Any:
        """Where values are."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        return self.begin + (np.asarray(values, float) - low) / (high - low) * (self.end - self.begin)

    def ticks(self, whole: bool = False) -> list[tuple[float, str]]:
        """Round values, where they are and how they are written."""
        values = (decades if self.log else ticks)(self.low, self.high)
        return [(float(self(v)), _short(v)) for v in values if not whole or v == int(v)]


class Chart(NamedTuple):
    """What the template draws: a title with a note beside it, the axis, and what lies above that of the steps."""

    title: str
    note: str
    unit: str
    y: Scale
    curves: list[Curve]
    band: str = ""
    dots: Sequence[tuple[float, float, str]] = ()
    best: tuple[float, float] | None = None


def write_report(run: Path) -> Path:
    """Write `report.html` into the folder of a run, whatever there is of it so far.

    It shows what is in `train.json`, `metrics.jsonl`, `samples/` and `checkpoints/`, and loads nothing: no script,
    no file from elsewhere. Lines of the log that are damaged are left out and counted; of repeated ones the last
    counts. It stays below some 6 MB however long the run is.

    Args:
        run: the folder of the run.

    Returns:
        Where it is.

    Raises:
        ConfigError: there is no `train.json` that can be read.
        OSError: the page cannot be written; the one before is as it was.
    """
    run = Path(run)
    config = _config(run / "train.json")
    log = read_log(run / "metrics.jsonl")
    manifest, x = _newest_manifest(run), _across(log)
    sheets, scores = _pictures(run / "samples")
    page = template(PAGE, number=_number).render(
        name=run.resolve().name,
        config=config,
        steps=config.get("steps"),
        step=max(log.step, manifest.get("step", 0)),
        log=log,
        statuses=[event for event in log.events if event.kind == "status"],
        events=[event for event in log.events if event.kind != "status"],
        tiles=_tiles(run, log, manifest),
        differences=_differences(config),
        x=x,
        rollbacks=[(float(x(event.step)), event.step) for event in log.events if event.kind == "rollback"],
        quality=_quality_charts(log),
        losses=_loss_charts(log),
        machine=_machine_charts(log),
        sheets=sheets,
        scores=scores,
        most=max(SHEETS, SCORES),
        frame=FRAME,
        commands=_commands(config, run),
        everything=json.dumps(config, indent=2),
    )
    return write_text(run / PAGE, page)


def template(name: str, **filters: Callable[[Any], str]) -> jinja2.Template:
    """A page of `templates/`, with filters of its own."""
    import jinja2  # as in card

    loader = jinja2.PackageLoader(__package__)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters
    return environment.get_template(name)


def read_log(path: Path) -> Log:
    """What can be used of a `metrics.jsonl`; nothing when there is none."""
    log = Log()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return log
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
            step = entry.pop("step")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            log.damaged += 1
            continue
        if not (isinstance(step, int) and 0 <= step <= 10**9):
            log.damaged += 1
        elif "event" in entry:
            log.events.append(Event(step, str(entry["event"]), str(entry.get("text", ""))))
        else:
            numbers = {name: float(value) for name, value in entry.items() if _is_finite(value)}
            log.odd += len(entry) - len(numbers)
            kind = log.trained if "lr_factor" in entry or any("/" in name for name in entry) else log.measured
            kind[step] = numbers
    log.trained, log.measured = dict(sorted(log.trained.items())), dict(sorted(log.measured.items()))
    log.events = list(dict.fromkeys(log.events))
    return log


def thin(series: Series, most: int = POINTS) -> Series:
    """At most `most` points of a series: first and last, and the lowest and highest of each stretch between."""
    count = len(series.steps)
    if count <= most:
        return series
    edges = np.linspace(1, count - 1, most // 2, dtype=int)
    kept = {0, count - 1}
    for begin, end in pairwise(edges):
        stretch = series.values[begin:end]
        kept |= {int(begin + stretch.argmin()), int(begin + stretch.argmax())}
    chosen = sorted(kept)
    return Series(series.steps[chosen], series.values[chosen])


def smooth(values: np.ndarray) -> np.ndarray:
    """Means of medians over the neighbourhood, a tenth of the series in all: one spike leaves no trace."""
    half, count = round(len(values) / 40), len(values)
    if not half:
        return values
    values = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(values, 2, "reflect"), 5), 1)
    here = np.arange(count)
    begin, end = np.maximum(here - half, 0), np.minimum(here + half + 1, count)
    for _ in range(2):  # twice a mean is a mean that favours the middle
        sums = np.concatenate([[0.0], np.cumsum(values)])
        values = (sums[end] - sums[begin]) / (end - begin)
    return values


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, `most` of them or fewer."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(unit for factor in (1, 2, 5, 10) if (unit := factor * power) >= rough * 0.999)
    return [n * unit for n in range(math.ceil(low / unit - 1e-9), math.floor(high / unit + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`; with their double and fivefold when there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = -(-(last - first) // 6)
    values = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return [value for value in values if low <= value <= high]


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        todo = "Give the folder of a run."
        raise ConfigError("There is no run to report on", where=path, found=error, todo=todo) from error


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= FAR


# -- the text --


def _tiles(run: Path, log: Log, manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures at the head of the page: name, value, what it is about."""
    found = []
    if name := _deciding(log):
        step, text = _best(log, name)
        kept = ", kept in best/" if (run / "best").is_dir() else ""
        found.append((f"Best {TITLES[name][0]}", text, f"at step {_number(step)}{kept}"))
    if len(speeds := _series(log.trained, "images_per_second").values):
        found.append(("Speed", _figure(float(np.median(speeds))), "images per second (median)"))
    if manifest:
        until = f"until the checkpoint of step {_number(manifest['step'])}"
        found.append(("Time", _duration(manifest["seconds"]), until))
    return found


def _deciding(log: Log) -> str | None:
    return next((name for name in DECIDES if len(_series(log.measured, name).steps)), None)


def _best(log: Log, name: str) -> tuple[int, str]:
    """Step and value, with its error, of the best measurement."""
    series = _series(log.measured, name)
    index = int(np.argmax(series.values * DECIDES[name]))
    step = int(series.steps[index])
    error = log.measured[step].get(name + ERROR)
    return step, _figure(series.values[index]) + (f" ± {error:.2g}" if error is not None else "")


def _newest_manifest(run: Path) -> dict[str, Any]:
    """Step and seconds of the newest checkpoint; empty when there is none."""
    for manifest in checkpoint.manifests(run / "checkpoints"):
        with suppress(ValueError, TypeError, KeyError):
            return {"step": int(manifest["step"]), "seconds": float(manifest["seconds"])}
    return {}


def _differences(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Settings that are not the default: name, value, default."""
    usual = {
        option.name: option.default if option.default_factory is MISSING else option.default_factory()
        for option in fields(TrainConfig)
        if option.name not in SHOWN_APART
    }
    try:
        settings = methods.settings(str(config.get("method")))
    except UnknownName:  # of another version
        settings = {}
    own = config.get("settings")
    given = [(name, config[name], usual[name]) for name in usual if name in config]
    given += [(name, value, settings.get(name, "")) for name, value in own.items()] if isinstance(own, dict) else []
    return [(name, _value(value), _value(default)) for name, value, default in given if value != default]


def _commands(config: Mapping[str, Any], run: Path) -> dict[str, str]:
    """What to type, from where the run was started: paths in `train.json` are seen from there."""
    output = Path(str(config.get("output", run)))
    base = ["styleforge", "train", "--config", str(output / "train.json")]
    return {
        "Make it again": shlex.join([*base, "--output", f"{output}-again"]),
        "Go on with it": shlex.join(base),
    }


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else _short(float(f"{value:.3g}"))


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(value: float) -> str:
    """A tick: 0.05, 250, 2.5k, 1M, 1e-05."""
    for unit, sign in ((1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e9:
            return f"{value / unit:g}{sign}"
    return f"{value:.6g}" if value else "0"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- the curves --


def _series(lines: Mapping[int, Mapping[str, float]], name: str) -> Series:
    found = [(step, line[name]) for step, line in lines.items() if name in line]
    return Series(np.array([step for step, _ in found], float), np.array([value for _, value in found], float))


def _names(lines: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Those of all figures, in the order in which they came."""
    return list(dict.fromkeys(name for line in lines.values() for name in line))


def _title(name: str) -> tuple[str, str]:
    return TITLES.get(name, (name.replace("_", " "), ""))


def _in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: [*TITLES, name].index(name))


def _players(log: Log) -> dict[str, int]:
    """Those whose terms are logged, with a color for each."""
    names = dict.fromkeys(name.split("/")[0] for name in _names(log.trained) if "/" in name)
    return {name: color for color, name in enumerate(names)}


def _quality_charts(log: Log) -> list[Chart]:
    return [_measure_chart(log, name) for name in _in_order(_names(log.measured)) if not name.endswith(ERROR)]


def _loss_charts(log: Log) -> dict[str, list[Chart]]:
    """By player, one for each of its terms: they differ by orders of magnitude."""
    found: dict[str, list[Chart]] = {}
    colors = _players(log)
    for name in _names(log.trained):
        player, _, term = name.partition("/")
        if term and not name.endswith(NORM):
            chart = _line_chart(log, {name: colors[player]}, term.replace("_", " "), "loss")
            found.setdefault(player, []).append(chart)
    return found


def _machine_charts(log: Log) -> list[Chart]:
    """Gradient norms, learning rate, speed, and whatever else is logged beside the losses."""
    norms = {player + NORM: color for player, color in _players(log).items()}
    norms = {name: color for name, color in norms.items() if (_series(log.trained, name).values > 0).any()}
    charts = [_line_chart(log, norms, "Gradient norms", "L2 norm, log axis", log_axis=True)] if norms else []
    for name in _in_order([name for name in _names(log.trained) if "/" not in name]):
        charts.append(_line_chart(log, {name: 0}, *_title(name), noisy=name != "lr_factor"))
    return charts


def _measure_chart(log: Log, name: str) -> Chart:
    """A measure with its error; the best is marked in the one that decides."""
    title, unit = _title(name)
    series = _series(log.measured, name)
    errors = np.array([log.measured[int(step)].get(name + ERROR, 0.0) for step in series.steps])
    edges = [Series(series.steps, series.values + sign * errors) for sign in (-1, 1)]
    x, y = _across(log), _upwards(np.concatenate([edge.values for edge in edges]))
    there, back = map(thin, edges)
    around = Series(*(np.concatenate([a, b[::-1]]) for a, b in zip(there, back, strict=True)))
    best, note = None, f"{_figure(series.values[-1])} at the end"
    if name == _deciding(log):
        step, text = _best(log, name)
        best = float(x(step)), float(y(log.measured[step][name]))
        note = f"best {text} at step {_number(step)}"
    dots = [
        (float(x(step)), float(y(value)), f"step {_number(int(step))}: {_figure(value)}")
        for step, value in zip(*thin(series, 120), strict=True)
    ]
    band = _path(x, y, around) if errors.any() else ""
    return Chart(title, note, unit, y, [Curve(title, 0, "", _path(x, y, thin(series)))], band, dots, best)


def _line_chart(
    log: Log, colors: Mapping[str, int], title: str, unit: str, *, log_axis: bool = False, noisy: bool = True
) -> Chart:
    """The figures in `colors`, those of noise twice: faint as they were, and smoothed."""
    found = []
    for name in colors:
        raw = _series(log.trained, name)
        if log_axis:
            raw = Series(*(column[raw.values > 0] for column in raw))
            even = np.exp(smooth(np.log(raw.values)))
        else:
            even = smooth(raw.values) if noisy else raw.values
        found.append((name, raw, Series(raw.steps, even)))
    reach = [
        values for _, raw, even in found for values in (raw.values if log_axis else _usual(raw.values), even.values)
    ]
    x, y = _across(log), _upwards(np.concatenate(reach), log_axis)
    curves = []
    for name, raw, even in found:
        faint = _path(x, y, thin(raw)) if (raw.values != even.values).any() else ""
        curves.append(Curve(name.split("/")[0], colors[name], faint, _path(x, y, thin(even))))
    note = f"{_figure(found[0][2].values[-1])} at the end" if len(found) == 1 else ""
    return Chart(title, note, unit, y, curves)


def _usual(values: np.ndarray) -> np.ndarray:
    """The range of nearly all values: a few spikes run out of the picture rather than flatten the rest."""
    return np.quantile(values, [0.01, 0.99])


def _across(log: Log) -> Scale:
    return Scale(0, max(log.step, 1), FRAME.left, FRAME.right)


def _upwards(values: np.ndarray, log_axis: bool = False) -> Scale:
    """The axis on which `values` fill the height; from 0 on when they come near it."""
    low, high = float(values.min()), float(values.max())
    if log_axis:
        return Scale(low / 1.6, high * 1.6, FRAME.bottom, FRAME.top, log=True)
    low = 0.0 if 0 <= low < 0.4 * high or low == high > 0 else low
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(low and low - margin, high + margin, FRAME.bottom, FRAME.top)


def _path(x: Scale, y: Scale, series: Series) -> str:
    heights = np.clip(y(series.values), -1000, 1000)  # enough to leave the picture
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x(series.steps), heights, strict=True)]
    return "M" + "L".join(points if len(points) > 1 else points * 2)  # one point alone is a dot


# -- the pictures --


def _pictures(folder: Path) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Sheets and score maps over time, by step, as base64 of JPEG files that are small enough together."""
    chosen = [_spread(folder, "step", SHEETS), _spread(folder, "scores", SCORES)]
    for scale in SHARPNESS:
        found = [[(step, data) for step, path in files if (data := _jpeg(path, scale))] for files in chosen]
        if sum(len(data) for files in found for _, data in files) <= BYTES:
            break
    sheets, scores = ([(step, base64.b64encode(data).decode()) for step, data in files] for files in found)
    return sheets, scores


def _spread(folder: Path, name: str, most: int) -> list[tuple[int, Path]]:
    """Some of the files `name-STEP.jpg`, evenly chosen, first and last among them."""
    pattern = re.compile(rf"{name}-(\d{{1,9}})\.jpg")
    matches = [(pattern.fullmatch(path.name), path) for path in folder.glob(f"{name}-*")]
    files = sorted((int(match[1]), path) for match, path in matches if match)
    places = np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)
    return [files[place] for place in places]


def _jpeg(path: Path, scale: float) -> bytes | None:
    """The picture, no larger than a page shows it; None when it cannot be read."""
    buffer = io.BytesIO()
    try:
        with Image.open(path, formats=["JPEG"]) as image:
            image.thumbnail((round(960 * scale), round(1600 * scale)))  # large ones are small as soon as decoded
            image.convert("RGB").save(buffer, "JPEG", quality=85, optimize=True)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return buffer.getvalue()
