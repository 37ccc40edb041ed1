"""Networks of rosinality/stylegan2-pytorch, with some dimensions of 1 more than ours and filters that we compute."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..models import StyleGAN2Discriminator, StyleGAN2Generator
from .family import Family, Shape, Shapes, places, vote

PROJECT = "rosinality/stylegan2-pytorch"
MEAN = "latent_avg"  # stands beside the networks in a file
CODES = 4096  # as many as the project takes
BLOCK = {
    "conv1.weight": "conv1.0.weight",
    "conv1.bias": "conv1.1.bias",
    "conv2.weight": "conv2.1.weight",
    "conv2.bias": "conv2.2.bias",
    "skip.weight": "skip.1.weight",
}


class Generator(Family):
    """Generator of any size; `latent_avg`, the mean of style codes, may be among its tensors."""

    name, project, model, biased = "stylegan2", PROJECT, StyleGAN2Generator, False
    example: ClassVar = {"size": 256}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        layers, steps = len(places(shapes, r"style\.(\d+)\.")), len(places(shapes, r"to_rgbs\.(\d+)\."))
        weights = ["conv1.conv.weight", *(f"convs.{2 * step + 1}.conv.weight" for step in range(steps))]
        return {
            "noise_size": vote(shapes, ("style.1.weight", 1, 1)),
            "style_size": vote(shapes, ("style.1.weight", 0, 1), ("style.1.bias", 0, 1)),
            "mapping_layers": layers,
            **_sizes([shapes[key][1] for key in weights]),
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return {}

    def source(self, key: str, names: Mapping[str, str]) -> str:  # noqa: D102
        if key == "w_mean":
            return MEAN
        if key == "start":
            return "input.input"
        kind, _, rest = key.partition(".")
        if kind.startswith("noise_"):
            return f"noises.{kind}"
        index, _, rest = rest.partition(".")
        if kind == "mapping":
            return f"style.{int(index) + 1}.{rest}"
        first, others = ("to_rgb1", "to_rgbs") if kind == "to_rgb" else ("conv1", "convs")
        module = f"{others}.{int(index) - 1}" if int(index) else first
        return f"{module}.{_inner(kind, rest)}"

    def shape(self, source: str, shape: Shape) -> Shape:
        """They have a dimension for the pictures of a batch."""
        if source.startswith("to_rgb") and re.search(r"\d\.bias$", source):
            return (1, *shape, 1, 1)
        return (1, *shape) if source.endswith("conv.weight") or source == "input.input" else shape

    def constants(self, config: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        steps, kernel = config["size"].bit_length() - 3, 4 * _kernel()
        found = {f"convs.{2 * step}.conv.blur.kernel": kernel for step in range(steps)}
        return found | {f"to_rgbs.{step}.upsample.kernel": kernel for step in range(steps)}

    def zeros(self, config: Mapping[str, Any]) -> set[str]:  # noqa: D102
        return {"w_mean"}

    def complete(self, network: nn.Module, given: Shapes) -> None:
        """The mean of the style codes is what truncation draws to; without it, it would draw to nothing."""
        if MEAN not in given:
            noise = torch.randn(CODES, network.config["noise_size"], generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                network.w_mean.copy_(network.codes(noise.to(network.dtype))[:, 0].mean(0))

    def notes(self, config: Mapping[str, Any], given: Shapes) -> list[str]:  # noqa: D102
        return [] if MEAN in given else [f"The mean of its style codes is that of {CODES}, drawn for the purpose."]


class Discriminator(Family):
    """Discriminator of any size."""

    name, project, model, biased = "stylegan2-discriminator", PROJECT, StyleGAN2Discriminator, False
    role = "discriminator"
    example: ClassVar = {"size": 256}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        blocks = len(places(shapes, r"convs\.(\d+)\.conv1\."))
        widths = [shapes["convs.0.0.weight"][0], *(shapes[f"convs.{i + 1}.conv2.1.weight"][0] for i in range(blocks))]
        return _sizes(widths[::-1])

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return {"from_rgb": "convs.0", "conv": "final_conv", "hidden": "final_linear.0", "head": "final_linear.1"}

    def source(self, key: str, names: Mapping[str, str]) -> str:  # noqa: D102
        module, _, kind = key.rpartition(".")
        if module in ("from_rgb", "conv"):
            return f"{names[module]}.{0 if kind == 'weight' else 1}.{kind}"
        if match := re.fullmatch(r"blocks\.(\d+)\.(.*)", key):
            return f"convs.{int(match[1]) + 1}.{BLOCK[match[2]]}"
        return super().source(key, names)

    def constants(self, config: Mapping[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        blocks = range(1, config["size"].bit_length() - 2)
        return {f"convs.{block}.{part}.0.kernel": _kernel() for block in blocks for part in ("conv2", "skip")}


def _inner(kind: str, rest: str) -> str:
    rest = rest.removeprefix("conv.").replace("style.", "modulation.")
    if rest == "bias":
        return "bias" if kind == "to_rgb" else "activate.bias"
    return "noise.weight" if rest == "noise_weight" else f"conv.{rest}"


def _sizes(widths: list[int]) -> dict[str, Any]:
    """Size and channels by the channels at 4 px, 8 px and so on: as many at most, and halved from some size on."""
    size = 2 ** (len(widths) + 1)
    return {"size": size, "width": max(1, widths[-1] * size // 128), "max_width": max(widths)}


def _kernel() -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return row[:, None] * row
