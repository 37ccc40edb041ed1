"""Networks of CUT: those of pytorch-CycleGAN-and-pix2pix with blurs, which move what comes behind them.

The blurs' filters are stored in some files and not in others; they are constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..methods.cut import PatchHeads
from .family import Family, Shapes, places, vote
from .junyanz import Patch, Resnet

PROJECT = "taesungp/contrastive-unpaired-translation"


class CutResnet(Resnet):
    """ResnetGenerator, with blurs in one direction or both; without any it is CycleGAN's."""

    name, project = "cut-resnet", PROJECT
    example: ClassVar = {"blocks": 9, "downsample": "blur", "upsample": "blur"}

    def check(self, config: dict[str, Any]) -> dict[str, Any]:  # noqa: D102
        if "blur" not in (config["downsample"], config["upsample"]):
            raise ValueError("without blurs it is CycleGAN's")
        return config

    def constants(self, config: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        width, found = config["width"], {}
        if config["downsample"] == "blur":
            found |= {"model.7.filt": _filter((1, 2, 1), 2 * width), "model.11.filt": _filter((1, 2, 1), 4 * width)}
        if config["upsample"] == "blur":
            end = (12 if config["downsample"] == "blur" else 10) + config["blocks"]
            found[f"model.{end}.filt"] = _filter((1, 3, 3, 1), 4 * width, gain=4)
            found[f"model.{end + 4}.filt"] = _filter((1, 3, 3, 1), 2 * width, gain=4)
        return found


class CutPatch(Patch):
    """NLayerDiscriminator with blurs."""

    name, project, blurs = "cut-patchgan", PROJECT, True
    example: ClassVar = {"layers": 3, "downsample": "blur"}

    def constants(self, config: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        widths = [config["width"] * min(2**level, 8) for level in range(config["layers"])]
        return {f"model.{4 * i + 2}.filt": _filter((1, 2, 1), channels) for i, channels in enumerate(widths)}


class Heads(Family):
    """PatchSampleF: what CUT's contrast compares with. It is of use for training only."""

    name, project, role, model = "cut-heads", PROJECT, "heads", PatchHeads
    example: ClassVar = {"channels": [3, 128, 256, 256, 256], "size": 256}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        firsts = [f"mlp_{number}.0.weight" for number in places(shapes, r"mlp_(\d+)\.")]
        return {
            "channels": [shapes[first][1] for first in firsts],
            "size": vote(shapes, *((first, 0, 1) for first in firsts)),
        }

    def build(self, config: Mapping[str, Any]) -> PatchHeads:  # noqa: D102
        return PatchHeads(config["channels"], config["size"])

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return {f"{i}.{layer}": f"mlp_{i}.{layer}" for i in range(len(config["channels"])) for layer in (0, 2)}


def _filter(row: tuple[int, ...], channels: int, gain: float = 1) -> Tensor:
    weights = torch.tensor(row, dtype=torch.float32)
    kernel = weights[:, None] * weights
    return (gain * kernel / kernel.sum()).expand(channels, 1, -1, -1)
