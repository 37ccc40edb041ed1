"""The generator of animegan2-pytorch, which differs from ours in its names only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..models import AnimeGANGenerator
from .family import Family, Shapes, vote


class Generator(Family):
    """Generator of AnimeGANv2. How it interpolates leaves no trace in a file: as its own entry on the hub does."""

    name, project, model, biased = "animegan2", "bryandlee/animegan2-pytorch", AnimeGANGenerator, False

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        readings = ("block_a.0.1.weight", 0, 1), ("block_a.1.1.weight", 0, 2), ("out_layer.0.weight", 1, 1)
        return {"width": vote(shapes, *readings)}

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        steps = {f"down.{i}": f"block_{step}" for i, step in enumerate(("a.0", "a.1", "a.2", "b.0", "b.1"))}
        steps |= {f"blocks.{i}": f"block_c.{i}" for i in (0, 5)}
        steps |= {f"middle.{i}": f"block_d.{i}" for i in (0, 1)} | {f"up.{i}": f"block_e.{i}" for i in (0, 1, 2)}
        inner = {f"blocks.{i}.layers": f"block_c.{i}.layers" for i in range(1, 5)}
        steps |= {f"{ours}.{j}": f"{theirs}.{j}" for ours, theirs in inner.items() for j in (0, 1)}
        names = {f"{ours}.{j}": f"{theirs}.{j}" for ours, theirs in steps.items() for j in (1, 2)}
        names |= {f"{ours}.{j}": f"{theirs}.{j}" for ours, theirs in inner.items() for j in (2, 3)}
        return {**names, "head": "out_layer.0"}

    def notes(self, config: Mapping[str, Any], given: Shapes) -> list[str]:  # noqa: D102
        return ["Steps up are taken to align corners, as the project's own entry on the hub does."]
