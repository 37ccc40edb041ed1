"""Networks of PyTorch-GAN for CycleGAN and pix2pix, which Hugging Face's huggan took over with their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..models import UNetGenerator
from .family import Family, Shapes, Tensors, convolutions, places, vote
from .junyanz import Patch, Resnet

PROJECT = "eriklindernoren/PyTorch-GAN and huggingface/community-events (huggan)"


class HugganResnet(Resnet):
    """GeneratorResNet: CycleGAN's, enlarging by repeated pixels."""

    name, project, block, resize = "huggan-cyclegan", PROJECT, "block", "resize"
    back = "G_BA"
    example: ClassVar = {"blocks": 9, "upsample": "resize"}

    def check(self, config: dict[str, Any]) -> dict[str, Any]:  # noqa: D102
        if (config["downsample"], config["upsample"]) != ("stride", "resize"):
            raise ValueError("it always enlarges by repeated pixels")
        return config

    def notes(self, config: Mapping[str, Any], given: Shapes) -> list[str]:  # noqa: D102
        if config["in_channels"] == 3:
            return []
        return [
            "The project pads by as many pixels as there are channels, and its pictures shrink. Ours keep their size."
        ]


class HugganPatch(Patch):
    """Discriminator: one convolution behind the steps down, with a further row and column of zeros."""

    name, project, back = "huggan-patchgan", PROJECT, "D_A"  # they call a discriminator by what it sees
    example: ClassVar = {"layers": 4, "ending": "one"}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        config, numbers = super().arguments(shapes), convolutions(shapes, "model")
        if numbers[-1] != numbers[-2] + 4:
            raise ValueError("no room for a pad before the last convolution")
        return {**config, "layers": len(numbers) - 1, "ending": "one"}

    def zeros(self, config: Mapping[str, Any]) -> set[str]:
        """Pix2pix has no bias in the last convolution, CycleGAN has."""
        return {f"layers.{3 * config['layers']}.bias"}


class HugganUNet(Family):
    """GeneratorUNet: what crosses stays leaky, and comes behind what goes up; the last step repeats pixels."""

    name, project, model, biased = "huggan-pix2pix", PROJECT, UNetGenerator, False
    example: ClassVar = {"downs": 8, "norm": "instance", "skips": "leaky", "head": "resize"}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        return {
            "in_channels": vote(shapes, ("down1.model.0.weight", 1, 1)),
            "out_channels": vote(shapes, ("final.2.weight", 0, 1), ("final.2.bias", 0, 1)),
            "width": vote(
                shapes, *(("down1.model.0.weight", 0, 1), ("down2.model.0.weight", 1, 1), ("final.2.weight", 1, 2))
            ),
            "downs": len(places(shapes, r"down(\d+)\.")),
            "norm": "instance",
            "dropout": True,
            "skips": "leaky",
            "head": "resize",
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        downs = config["downs"]
        names = {f"down.{level}": f"down{level + 1}.model.0" for level in range(downs)}
        return names | {f"up.{level}": f"up{downs - level}.model.0" for level in range(1, downs)} | {"up.0": "final.2"}

    def zeros(self, config: Mapping[str, Any]) -> set[str]:
        """Where no norm follows ours has a bias."""
        return {"down.0.bias", f"down.{config['downs'] - 1}.bias"}

    def finish(self, ours: Tensors, left: Tensors, config: Mapping[str, Any]) -> Tensors:
        """Ours joins what crosses and what goes up in the other order."""
        for level in range(config["downs"] - 1):
            key, axis = f"up.{level}.weight", 0 if level else 1
            ours[key] = torch.cat(ours[key].chunk(2, axis)[::-1], axis)
        return ours
