"""The noise GANs of pytorch/examples and huggan, whose sequences are called "main" and "model", and of PyTorch-GAN.

Generators use running statistics unless told otherwise: with those of the batch, a picture depends on what else is
made with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..models import DCGANDiscriminator, DCGANGenerator
from .family import Family, Shapes, Tensors, convolutions, vote


class Generator(Family):
    """Generator of pytorch/examples."""

    name, project, model, biased = "dcgan", "pytorch/examples", DCGANGenerator, False
    example: ClassVar = {"size": 64}
    root: ClassVar[str] = "main"

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        numbers, last = convolutions(shapes, self.root), f"{self.root}.{convolutions(shapes, self.root)[-1]}"
        return {
            "noise_size": vote(shapes, (f"{self.root}.0.weight", 0, 1)),
            "out_channels": vote(shapes, (f"{last}.weight", 1, 1)),
            "width": vote(shapes, (f"{last}.weight", 0, 1), (f"{self.root}.0.weight", 1, 2 ** (len(numbers) - 2))),
            "size": 2 ** (len(numbers) + 1),
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return {f"layers.{number + 1}": f"{self.root}.{number}" for number in range(64)}


class Discriminator(Generator):
    """Discriminator of pytorch/examples; of its two classes ours gives the logit."""

    name, model, role = "dcgan-discriminator", DCGANDiscriminator, "discriminator"

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        numbers = convolutions(shapes, self.root)
        first, second = (f"{self.root}.{number}.weight" for number in numbers[:2])
        return {
            "in_channels": vote(shapes, (first, 1, 1)),
            "width": vote(shapes, (first, 0, 1), (second, 1, 1), (second, 0, 2)),
            "size": 2 ** (len(numbers) + 1),
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Ours has a dropout behind each step."""
        steps = int(math.log2(config["size"])) - 2
        names = {"layers.0": f"{self.root}.0", f"layers.{4 * steps - 1}": f"{self.root}.{3 * steps - 1}"}
        for step in range(1, steps):
            names[f"layers.{4 * step - 1}"] = f"{self.root}.{3 * step - 1}"
            names[f"layers.{4 * step}"] = f"{self.root}.{3 * step}"
        return names


class HugganGenerator(Generator):
    """Generator of huggan."""

    name, project, root = "huggan-dcgan", "huggingface/community-events (huggan)", "model"


class HugganDiscriminator(Discriminator):
    """Discriminator of huggan."""

    name, project, root = "huggan-dcgan-discriminator", "huggingface/community-events (huggan)", "model"


class DenseGenerator(Family):
    """Generator of PyTorch-GAN: from a quarter of the side on."""

    name, project, model = "pytorch-gan-dcgan", "eriklindernoren/PyTorch-GAN", DCGANGenerator
    example: ClassVar = {"size": 32, "kind": "dense-quarter"}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        readings = ("conv_blocks.9.weight", 1, 1), ("conv_blocks.0.weight", 0, 2), ("conv_blocks.6.weight", 0, 1)
        width = vote(shapes, *readings)
        return {
            "noise_size": vote(shapes, ("l1.0.weight", 1, 1)),
            "out_channels": vote(shapes, ("conv_blocks.9.weight", 0, 1), ("conv_blocks.9.bias", 0, 1)),
            "width": width,
            "size": 4 * math.isqrt(vote(shapes, ("l1.0.weight", 0, 2 * width), ("l1.0.bias", 0, 2 * width))),
            "kind": "dense-quarter",
            "eps": 0.8,
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        places = {0: "l1.0", 2: "conv_blocks.0", 4: "conv_blocks.2", 5: "conv_blocks.3", 8: "conv_blocks.6"}
        places |= {9: "conv_blocks.7", 11: "conv_blocks.9"}
        return {f"layers.{ours}": theirs for ours, theirs in places.items()}

    def finish(self, ours: Tensors, left: Tensors, config: Mapping[str, Any]) -> Tensors:
        """Running means take over the biases in front of them; statistics of the batch would cancel these."""
        for conv, norm in ((2, 5), (6, 9)):
            ours[f"layers.{norm}.running_mean"] -= left[f"conv_blocks.{conv}.bias"]
        return ours
