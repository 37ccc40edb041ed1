"""The page of an evaluation, `report.html`: figures, pictures and protocol in one file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .. import images
from ..report import Scale, template

SIDE = 224  # of a picture on the page, in pixels
LEFT, RIGHT, TOP, ROW = 104, 344, 20, 19  # of a chart 360 wide
MARGIN, HIGH, BINS = 12, 130, 24  # of a histogram
STYLE, AGAINST = "style", "against"
COLORS = {STYLE: "c0", AGAINST: "c1", "color transfer": "c2", "input": "c2"}


class Sheet(NamedTuple):
    """Pictures side by side: rows with a caption, in which pictures (1, 3, S, S) in [-1, 1] stand by maker."""

    heading: str
    note: str
    rows: list[tuple[str, Mapping[str, Tensor]]]


class Mark(NamedTuple):
    """A figure in a chart: who, how it is written, its color, its height, and where value and interval are."""

    label: str
    text: str
    color: str
    up: float
    at: float
    low: float
    high: float


class Chart(NamedTuple):
    """A figure of all makers."""

    title: str
    about: str
    better: str
    marks: list[Mark]
    ticks: list[tuple[float, str]]
    height: int


class Histogram(NamedTuple):
    """A figure of each picture: outlines by maker as SVG paths, each with its color."""

    title: str
    about: str
    outlines: list[tuple[str, str, str]]
    ticks: list[tuple[float, str]]


def render(
    facts: Mapping[str, Any],
    *,
    title: str,
    subject: str,
    verdict: str,
    legend: str,
    abouts: Mapping[str, str],
    sheets: Sequence[Sheet],
    goals: Sequence[Tensor],
    each: Mapping[str, Mapping[str, Sequence[float]]],
) -> str:
    """The page.

    Args:
        facts: what `metrics.json` holds.
        title: of the style.
        subject: what was measured: how many pictures of which kind.
        verdict: what the figures say, in words.
        legend: what no style made, in words.
        abouts: what a figure is about, by its name.
        sheets: pictures side by side.
        goals: some paintings, (1, 3, S, S) in [-1, 1]; none where each picture has its right answer.
        each: by measure and maker what was measured of each picture.
    """
    against = facts.get("against", {})
    labels = {STYLE: title, AGAINST: against.get("style", "")}
    makers = {STYLE: facts["metrics"], AGAINST: against.get("metrics", {}), **facts["controls"]}
    makers = {maker: figures for maker, figures in makers.items() if figures}
    return template("evaluation.html", figure=figure, picture=picture).render(
        facts=facts,
        title=title,
        subject=subject,
        verdict=verdict,
        legend=legend,
        labels=labels,
        makers=makers,
        abouts=abouts,
        charts=[_chart(name, makers, labels, abouts[name]) for name in facts["metrics"]],
        histograms=[_histogram(name, found, labels, abouts.get(name, "")) for name, found in each.items() if found],
        sheets=sheets,
        goals=goals,
        frame={"left": LEFT, "right": RIGHT, "top": TOP, "margin": MARGIN, "high": HIGH},
    )


def figure(value: float) -> str:
    """A number for people: three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def picture(image: Tensor) -> str:
    """(1, 3, S, S) in [-1, 1] as a data address."""
    shown, buffer = images.to_pil(image), io.BytesIO()
    shown.thumbnail((SIDE, SIDE))
    shown.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _chart(name: str, makers: Mapping[str, Any], labels: Mapping[str, str], about: str) -> Chart:
    """Dots with intervals, one line for each maker."""
    found = {maker: figures[name] for maker, figures in makers.items() if name in figures}
    ends = [entry[end] for entry in found.values() for end in ("low", "high")]
    x = _across(min(ends), max(ends))
    marks = []
    for number, (maker, entry) in enumerate(found.items()):
        places = (float(x(entry[key])) for key in ("value", "low", "high"))
        color, label = COLORS.get(maker, ""), labels.get(maker, maker)
        marks.append(Mark(label, figure(entry["value"]), color, TOP + (number + 0.5) * ROW, *places))
    return Chart(name, about, next(iter(found.values()))["better"], marks, x.ticks(), TOP + len(found) * ROW)


def _histogram(name: str, found: Mapping[str, Sequence[float]], labels: Mapping[str, str], about: str) -> Histogram:
    """How the figures of single pictures lie, of the makers that have a color."""
    shown = {maker: np.asarray(found[maker]) for maker in COLORS if maker in found}
    everything = np.concatenate(list(shown.values()))
    x = _across(float(everything.min()), float(everything.max()), MARGIN)
    counts = {maker: np.histogram(values, BINS, (x.low, x.high))[0] for maker, values in shown.items()}
    most = max(count.max() for count in counts.values())
    edges = x(np.linspace(x.low, x.high, BINS + 1))
    outlines = []
    for maker, count in counts.items():
        heights = TOP + (HIGH - TOP) * (1 - np.repeat(count, 2) / most)
        points = [f"{a:.1f} {b:.1f}" for a, b in zip(np.repeat(edges, 2)[1:-1], heights, strict=True)]
        outlines.append(
            (labels.get(maker, maker), COLORS[maker], f"M{MARGIN} {HIGH}L{'L'.join(points)}L{RIGHT} {HIGH}")
        )
    return Histogram(name, about, outlines, x.ticks())


def _across(low: float, high: float, begin: float = LEFT) -> Scale:
    """The axis on which values fill the width; from 0 on when they come near it."""
    low = 0.0 if 0 <= low < 0.4 * high else low
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(low and low - margin, high + margin, begin, RIGHT)
