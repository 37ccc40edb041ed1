"""Figures from rows, with intervals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..metrics import bootstrap, fid, kid, texture
from ..metrics.artfid import artfid
from ..metrics.color import color_distance
from ..metrics.diversity import doubled, spread
from ..metrics.precision_recall import shares
from ..quality import FEWEST
from .judge import GRAIN, PALETTE, SEEN, Judge
from .measures import MEASURES
from .rows import Rows
from .studio import Studio
from .task import AGAINST, STYLE

DRAWS, FID_DRAWS = 1000, 100  # an FID decomposes a matrix for each
ENOUGH = 10_000  # pictures for an FID, as its authors advise


class Figures:
    """Every figure of every maker under the same draws."""

    def __init__(self, studio: Studio, judge: Judge, rows: Rows, goals: dict[str, Tensor]) -> None:
        self.task, self.judge, self.rows, self.goals = studio.task, judge, rows, goals
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
        if not self.task.sets:
            few = f"{self.counts[0]} pairs are so few that intervals come out too narrow: give {FEWEST} and more."
            return [few] if self.counts[0] < FEWEST else []
        counts = "{} photographs and {} paintings".format(*self.counts)
        if min(self.counts) < FEWEST:
            return [f"{counts} are too few for distances between them: give {FEWEST} of each."]
        if self.judge.network and min(self.counts) < ENOUGH:
            return [f"{counts} are few for an FID, which is biased upwards until some {ENOUGH:,}: compare by KID."]
        return []

    def _values(self, tables: dict[str, Tensor]) -> dict[str, Tensor]:
        """By measure, under all draws."""
        values = {name: bootstrap.mean(each, self.ours) for name, each in tables.items() if name in MEASURES}
        if self.task.sets and min(self.counts) >= FEWEST:
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
        if not self.judge.network:
            return values
        real, fake = self.goals[SEEN], tables[SEEN]
        for name, each in shares(real, fake).items():
            values[name] = bootstrap.mean(each, theirs if MEASURES[name].targets else ours)
        if (real != real[0]).any():  # of one painting over and over there is no usual distance
            values["diversity"] = spread(real, fake, theirs, ours)
        return values | {
            "KID": kid.resampled(real, fake, theirs, ours),
            "FID": fid.resampled(real, fake, theirs[: FID_DRAWS + 1], ours[: FID_DRAWS + 1]),
            "near-duplicates": bootstrap.mean(doubled(real, fake), ours),
        }

    def _entries(self, values: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
        entries = {}
        for name, drawn in values.items():
            about = {"n": self.counts[MEASURES[name].targets], "better": MEASURES[name].better}
            entries[self.judge.called(name)] = {**bootstrap.estimate(drawn)._asdict(), **about}
        return entries
