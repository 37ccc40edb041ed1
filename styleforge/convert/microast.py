"""Parts of MicroAST: two encoders with the same names, a modulator and a decoder. Its pictures are in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from ..models.microast import Decoder, Encoder, Modulator
from .family import Family, Shapes, vote

PROJECT = "EndyWon/MicroAST"


class MicroEncoder(Family):
    """content_encoder_iter_*.pth.tar and style_encoder_iter_*.pth.tar."""

    name, project, role, model = "microast-encoder", PROJECT, "encoder", Encoder
    example: ClassVar = {"width": 16}

    def role_of(self, name: str) -> str:
        """Only names tell the two apart."""
        of = next((kind for kind in ("content", "style") if kind in name), "")
        return f"{of}_{self.role}".lstrip("_")

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        readings = (
            ("enc1.0.conv_layer.weight", 0, 1),
            ("enc1.2.conv_layer.weight", 0, 2),
            ("enc1.10.conv1.conv_layer.weight", 0, 4),
        )
        return {"width": vote(shapes, *readings)}

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        steps = {f"down.{i}": f"enc1.{i}" for i in (0, 2, 4, 6, 8)}
        return _wrapped(steps | _blocks({"shallow": "enc1.10", "deep": "enc2.0"}))


class MicroModulator(Family):
    """modulator_iter_*.pth.tar."""

    name, project, role, model = "microast-modulator", PROJECT, "modulator", Modulator
    example: ClassVar = {"width": 16}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        return {
            "width": vote(shapes, *((f"{part}.0.conv_layer.weight", 0, 4) for part in ("weight1", "weight2", "bias1")))
        }

    def build(self, config: Mapping[str, Any]) -> nn.ModuleList:  # noqa: D102
        return nn.ModuleList(Modulator(4 * config["width"]) for _ in range(2))

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return _wrapped({f"{i}.{kind}": f"{kind}{i + 1}.0" for i in (0, 1) for kind in ("weight", "bias")})


class MicroDecoder(Family):
    """decoder_iter_*.pth.tar."""

    name, project, role, model = "microast-decoder", PROJECT, "decoder", Decoder
    example: ClassVar = {"width": 16}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        readings = (
            ("dec3.10.conv_layer.weight", 1, 1),
            ("dec3.8.conv_layer.weight", 0, 1),
            ("dec1.conv1.conv_layer.weight", 0, 4),
        )
        return {"width": vote(shapes, *readings)}

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        steps = {f"up.{i}": f"dec3.{i}" for i in (1, 3, 6, 8, 10)}
        return _wrapped(steps | _blocks({"deep": "dec1", "shallow": "dec2"}))


def _blocks(pairs: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.conv{i}": f"{theirs}.conv{i}" for ours, theirs in pairs.items() for i in (1, 2)}


def _wrapped(pairs: Mapping[str, str]) -> dict[str, str]:
    return {ours: f"{theirs}.conv_layer" for ours, theirs in pairs.items()}
