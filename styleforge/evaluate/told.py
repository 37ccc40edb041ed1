"""What an evaluation says: its files, its verdict, and the pictures that it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..card.measured import METRICS
from ..files import replacing_folder, write_text
from ..metrics import bootstrap
from .figures import Figures
from .page import Sheet, figure, render
from .studio import Studio, chosen
from .task import AGAINST, STYLE

EXAMPLES, EXTREMES, GOALS = 8, 4, 6  # pictures on the page
NEARNESS = (  # better than, not measurably other than, and worse than doing nothing
    "brings the {} nearer to",
    "does not bring the {} measurably nearer to",
    "takes the {} farther from",
)
FAULTS = {  # where a style is worse than what it is compared with, and above 0, which is none of it
    "texture distance": "Its grain is farther from that of the paintings",
    "checkerboard": "It leaves a grid",
}


def write(path: Path, facts: Mapping[str, Any], title: str, studio: Studio, figures: Figures) -> None:
    """The page, and `metrics.json` beside it: both or none.

    Args:
        path: of the page.
        facts: what `metrics.json` is to hold.
        title: of the style.
        studio: makes the pictures again that are shown.
        figures: of all makers.
    """
    judge, task = figures.judge, studio.task
    page = render(
        facts,
        title=title,
        subject=_subject(studio),
        verdict=verdict(title, figures, facts.get(AGAINST, {}).get("style", "")),
        legend=task.legend,
        abouts={
            judge.called(name): measure.about
            for name, measure in task.measures.items()
            if judge.network or not measure.layers
        },
        sheets=_sheets(studio, figures),
        goals=[studio.square(file) for file in chosen(studio.targets, GOALS)] if task.sets else [],
        each={
            judge.called(name): {
                maker: tables[name].tolist() for maker, tables in figures.rows.items() if name in tables
            }
            for name in task.measures
            if name in figures.rows[STYLE]
        },
    )
    with replacing_folder(path.parent, last=(METRICS,)) as folder:
        write_text(folder / METRICS, json.dumps(facts, indent=2, allow_nan=False) + "\n")
        write_text(folder / path.name, page)


def _subject(studio: Studio) -> str:
    """How many pictures of which kind."""
    count = len(studio.sources)
    if studio.task.sets:
        return f"{count} photographs, {len(studio.targets)} paintings"
    return f"{count} pictures damaged by {', '.join(studio.kinds)}" if studio.kinds else f"{count} pairs"


def verdict(title: str, figures: Figures, rival: str) -> str:
    """What the figures say, as far as the intervals allow."""
    task, known = figures.task, figures.values[STYLE]

    def compared(name: str, other: str, words: Sequence[str]) -> str:
        """The word for a figure that is better, not measurably another, or worse than that of another maker."""
        gap = bootstrap.estimate(figures.gap(name, other))
        low, high = (gap.low, gap.high) if task.measures[name].better == "lower" else (-gap.high, -gap.low)
        return words[0] if high < 0 else words[2] if low > 0 else words[1]

    def value(name: str, maker: str) -> str:
        return figure(figures.values[maker][name][0].item())

    def beside(name: str, other: str, who: str) -> str:
        return f"({name} {value(name, STYLE)}, {who} {value(name, other)})"

    sentences, decides, (inputs, goals, truth) = [], task.decides, task.nouns
    if decides in known:
        said = compared(decides, task.base, NEARNESS).format(inputs)
        sentences.append(f"{title} {said} the {goals} {beside(decides, task.base, task.untouched)}.")
    else:
        sentences.append(f"How near {title} comes to the {goals} was not measured.")
    for name in (name for name, measure in task.measures.items() if measure.gain):
        value_, low, high = map(figure, bootstrap.estimate(known[name]))
        sentences.append(f"{name}: {value_} ({low} to {high}).")
    unlike = task.untouched if task.sets else truth
    for name, fault in FAULTS.items():
        if name in known and known[name][0] > 0 and (said := compared(name, task.truth, ("", "", fault))):
            sentences.append(f"{said} {beside(name, task.truth, unlike)}.")
    for other, who in (task.rival, (AGAINST, rival)):
        if decides in known and other in figures.values:
            near = compared(decides, other, ("less near", "about as near", "nearer"))
            sentences.append(f"{who} comes {near} ({decides} {value(decides, other)}).")
    return " ".join(sentences)


def _sheets(studio: Studio, figures: Figures) -> list[Sheet]:
    """Pictures side by side, and the worst and the best."""
    task, names = studio.task, [file.stem for file in studio.sources]
    styles = [maker for maker in studio.makers if maker not in task.controls]
    others = [maker for maker in task.controls if maker != task.base]
    few = [task.base, *styles, *([] if task.sets else [task.truth])]

    def sheet(heading: str, note: str, captions: dict[int, str], makers: Sequence[str]) -> Sheet:
        made = ((caption, studio.make(number)) for number, caption in captions.items())
        return Sheet(heading, note, [(caption, {maker: each[maker] for maker in makers}) for caption, each in made])

    evenly = {number: names[number] for number in chosen(range(len(names)), EXAMPLES)}
    note = "Evenly chosen, at the size at which they were measured."
    sheets = [sheet("Side by side", note, evenly, [task.base, *styles, *others])]
    order = figures.rows[STYLE].get(task.order)
    if order is not None:
        about = f"By {task.order}: {task.measures[task.order].about}."
        for heading, ranks in zip(task.sheets, (order.argsort(), (-order).argsort()), strict=True):
            captions = {number: f"{names[number]}: {order[number]:.2f}" for number in ranks[:EXTREMES].tolist()}
            sheets.append(sheet(heading, about, captions, few))
    return sheets
