"""The generator of pytorch/examples' fast_neural_style, whose pictures are in [0, 255]; ours are in [-1, 1]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..models import TransformerNet
from ..models.transformer import from_bytes
from .family import Family, Shape, Shapes, Tensors, places, vote


class Transformer(Family):
    """TransformerNet; files of 2017 hold running statistics that were never used."""

    name, project, model = "fast-neural-style", "pytorch/examples", TransformerNet

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        readings = ("conv1.conv2d.weight", 0, 1), ("conv2.conv2d.weight", 0, 2), ("deconv3.conv2d.weight", 1, 1)
        return {
            "width": vote(shapes, *readings),
            "blocks": len(places(shapes, r"res(\d+)\.conv1\.")),
            "output": "clamp",
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        steps = {f"down.{i}": (f"conv{i + 1}", f"in{i + 1}") for i in range(3)}
        steps |= {"up.0": ("deconv1", "in4"), "up.1": ("deconv2", "in5")}
        for block in range(config["blocks"]):
            for number, half in enumerate(("first", "second"), 1):
                theirs = f"res{block + 1}"
                steps[f"blocks.{block}.{half}"] = (f"{theirs}.conv{number}", f"{theirs}.in{number}")
        convs = {f"{ours}.conv": f"{conv}.conv2d" for ours, (conv, _) in steps.items()}
        return convs | {f"{ours}.norm": norm for ours, (_, norm) in steps.items()} | {"head": "deconv3.conv2d"}

    def shape(self, source: str, shape: Shape) -> Shape:
        """Norms of one style only."""
        return shape[1:] if re.search(r"\bin\d\.", source) else shape

    def dropped(self, config: Mapping[str, Any]) -> dict[str, Shape]:
        """Offsets at the end of blocks, which the next norm takes away again."""
        return {f"res{block + 1}.in2.bias": (4 * config["width"],) for block in range(config["blocks"])}

    def finish(self, ours: Tensors, left: Tensors, config: Mapping[str, Any]) -> Tensors:  # noqa: D102
        return from_bytes(ours)
