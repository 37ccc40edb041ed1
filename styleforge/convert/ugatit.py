"""Networks of UGATIT-pytorch: a file holds two generators and four discriminators, "genA2B" to "disLB"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..models import UGATITDiscriminator, UGATITGenerator
from .family import Family, Shapes, convolutions, places, vote

PROJECT = "znxlwm/UGATIT-pytorch"
ATTENTION = {"attention.average": "gap_fc", "attention.maximum": "gmp_fc", "attention.mix": "conv1x1"}
# Torch's older spectral norm, which upstream uses, and the newer one.
SPECTRAL = {"original": "orig", "0._u": "u", "0._v": "v"}


class Generator(Family):
    """ResnetGenerator, light or full. Scale and shift of its norms come from the mean of the map, or from all of it."""

    name, project, model, biased = "ugatit", PROJECT, UGATITGenerator, False
    back = "B2A"

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        width = vote(shapes, ("DownBlock.1.weight", 0, 1), ("DownBlock.5.weight", 1, 1), ("gamma.weight", 0, 4))
        side = math.isqrt(vote(shapes, ("FC.0.weight", 1, 4 * width)))
        return {
            "in_channels": vote(shapes, ("DownBlock.1.weight", 1, 1)),
            "out_channels": vote(shapes, ("UpBlock2.11.weight", 0, 1)),
            "width": width,
            "blocks": len(places(shapes, r"DownBlock\.(\d+)\.conv_block\.")),
            "light": side == 1,
            **({"size": 4 * side} if side > 1 else {}),
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        names = {"stem": "DownBlock.1", "down.0.conv": "DownBlock.5", "down.1.conv": "DownBlock.9", **ATTENTION}
        names |= {"style.0": "FC.0", "style.2": "FC.2", "gamma": "gamma", "beta": "beta", "head": "UpBlock2.11"}
        names |= {"up.0.1": "UpBlock2.2", "up.0.2": "UpBlock2.3", "up.1.1": "UpBlock2.7", "up.1.2": "UpBlock2.8"}
        for block in range(config["blocks"]):
            for which, number in ((1, 1), (2, 5)):
                names[f"blocks.{block}.conv{which}"] = f"DownBlock.{12 + block}.conv_block.{number}"
                for part in ("conv", "norm"):
                    names[f"adaptive.{block}.{part}{which}"] = f"UpBlock1_{block + 1}.{part}{which}"
        return names


class Discriminator(Family):
    """Discriminator, global or local: a question of its layers."""

    name, project, role, model, biased = "ugatit-discriminator", PROJECT, "discriminator", UGATITDiscriminator, False
    back = "dis[GL]A"

    def role_of(self, name: str) -> str:  # noqa: D102
        reach = re.search(r"dis([GL])[AB]$", name)
        role = f"{self.role}_{'global' if reach[1] == 'G' else 'local'}" if reach else self.role
        return super().role_of(name).replace(self.role, role)

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        numbers, spectral = convolutions(shapes, "model"), "conv.weight_orig" in shapes
        weight = "weight_orig" if spectral else "weight"
        return {
            "in_channels": vote(shapes, (f"model.1.{weight}", 1, 1)),
            "width": vote(
                shapes, (f"model.1.{weight}", 0, 1), (f"model.4.{weight}", 1, 1), (f"model.4.{weight}", 0, 2)
            ),
            "layers": len(numbers) + 1,
            "spectral_norm": spectral,
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        layers = {f"layers.{2 * i}": f"model.{3 * i + 1}" for i in range(config["layers"] - 1)}
        return {**layers, **ATTENTION, "head": "conv"}

    def source(self, key: str, names: Mapping[str, str]) -> str:  # noqa: D102
        module, parametrized, kind = key.partition(".parametrizations.weight.")
        return f"{names[module]}.weight_{SPECTRAL[kind]}" if parametrized else super().source(key, names)
