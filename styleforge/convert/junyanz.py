"""Networks of pytorch-CycleGAN-and-pix2pix: sequences called "model", whose numbers tell what stands in them.

Its test script calls no `eval()`, so batch norms use the statistics of the picture: ours do, too, unless told not to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..models import PatchDiscriminator, PixelDiscriminator, ResnetGenerator, UNetGenerator
from .family import Family, Shapes, convolutions, places, vote

PROJECT = "junyanz/pytorch-CycleGAN-and-pix2pix"


class Resnet(Family):
    """ResnetGenerator, with any number of blocks, with and without dropout, with either norm."""

    name, project, model, statistics = "cyclegan-resnet", PROJECT, ResnetGenerator, "batch"
    back = "G_B"
    block, resize = "conv_block", "blur"  # what others call a block, and how they enlarge

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        numbers = places(shapes, rf"model\.(\d+)\.{self.block}\.")
        first, end = numbers[0], numbers[-1] + 1
        inner, resizes = f"model.{first}.{self.block}", len(shapes.get(f"model.{end + 1}.weight", ())) == 4
        head = f"model.{end + (9 if resizes else 7)}"
        config = {
            "in_channels": vote(shapes, ("model.1.weight", 1, 1)),
            "out_channels": vote(shapes, (f"{head}.weight", 0, 1), (f"{head}.bias", 0, 1)),
            "width": vote(
                shapes,
                ("model.1.weight", 0, 1),
                ("model.4.weight", 1, 1),
                ("model.4.weight", 0, 2),
                (f"{inner}.1.weight", 0, 4),
            ),
            "blocks": len(numbers),
            "norm": "batch" if "model.2.weight" in shapes else "instance",
            "dropout": len(shapes.get(f"{inner}.5.weight", ())) != 4,
            "downsample": "blur" if first == 12 else "stride",
            "upsample": self.resize if resizes else "transpose",
        }
        return self.check(config)

    def check(self, config: dict[str, Any]) -> dict[str, Any]:
        """Raise ValueError when this project has no such network."""
        if (config["downsample"], config["upsample"]) != ("stride", "transpose"):
            raise ValueError("blurs belong to CUT")
        return config

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        blur = config["downsample"] == "blur"
        first, second = 12 if blur else 10, 6 if config["dropout"] else 5
        end = first + config["blocks"]
        ups = (end, end + 3) if config["upsample"] == "transpose" else (end + 1, end + 5)
        names = {"stem": "model.1", "stem_norm": "model.2", "head": f"model.{ups[1] + 4}"}
        for part, numbers in (("down", (4, 8 if blur else 7)), ("up", ups)):
            for index, number in enumerate(numbers):
                names |= {f"{part}.{index}.conv": f"model.{number}", f"{part}.{index}.norm": f"model.{number + 1}"}
        for index in range(config["blocks"]):
            inner = f"model.{first + index}.{self.block}"
            for which, number in ((1, 1), (2, second)):
                names[f"blocks.{index}.conv{which}"] = f"{inner}.{number}"
                names[f"blocks.{index}.norm{which}"] = f"{inner}.{number + 1}"
        return names

    def biases(self, config: Mapping[str, Any]) -> bool:  # noqa: D102
        return config["norm"] != "batch"


class UNet(Family):
    """UnetGenerator of any depth, with either norm. Each level lies inside the one around it.

    Dropout leaves no trace in a file; it matters while training only. It is on with batch norm, as pix2pix has it.
    """

    name, project, model, statistics = "pix2pix-unet", PROJECT, UNetGenerator, "batch"
    back = "G_B"

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        downs = 1
        while any(key.startswith(f"{_level(downs)}.1.") for key in shapes):
            downs += 1
        batch = f"{_level(1)}.2.weight" in shapes
        return {
            "in_channels": vote(shapes, ("model.model.0.weight", 1, 1)),
            "out_channels": vote(shapes, ("model.model.3.weight", 1, 1), ("model.model.3.bias", 0, 1)),
            "width": vote(
                shapes,
                ("model.model.0.weight", 0, 1),
                (f"{_level(1)}.1.weight", 1, 1),
                (f"{_level(1)}.1.weight", 0, 2),
                ("model.model.3.weight", 0, 2),
            ),
            "downs": downs,
            "norm": "batch" if batch else "instance",
            "dropout": batch,
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        names = {"down.0": "model.model.0", "up.0": "model.model.3"}
        for level in range(1, config["downs"]):
            inner, around = level == config["downs"] - 1, _level(level)
            names |= {
                f"down.{level}": f"{around}.1",
                f"down_norm.{level}": f"{around}.2",
                f"up.{level}": f"{around}.{3 if inner else 5}",
                f"up_norm.{level}": f"{around}.{4 if inner else 6}",
            }
        return names

    def biases(self, config: Mapping[str, Any]) -> bool:  # noqa: D102
        return config["norm"] == "instance"


class Patch(Family):
    """NLayerDiscriminator, with any number of layers, with either norm; CUT's, with blurs, is one of its kind."""

    name, project, model, role = "patchgan", PROJECT, PatchDiscriminator, "discriminator"
    back = "D_B"
    root, blurs = "model", False

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        numbers = convolutions(shapes, self.root)
        first, second = (f"{self.root}.{number}.weight" for number in numbers[:2])
        if numbers[1] != (3 if self.blurs else 2):
            raise ValueError("blurs move what comes behind them, and belong to CUT")
        return {
            "in_channels": vote(shapes, (first, 1, 1)),
            "width": vote(shapes, (first, 0, 1), (second, 1, 1), (second, 0, 2)),
            "layers": len(numbers) - 2,
            "norm": _flat_norm(shapes),
            "downsample": "blur" if self.blurs else "stride",
        }

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return same_places(self.root)

    def biases(self, config: Mapping[str, Any]) -> bool:  # noqa: D102
        return config["norm"] != "batch"


class Pixel(Patch):
    """PixelDiscriminator, with either norm."""

    name, model, root = "pixelgan", PixelDiscriminator, "net"

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        return {
            "in_channels": vote(shapes, ("net.0.weight", 1, 1)),
            "width": vote(shapes, ("net.0.weight", 0, 1), ("net.2.weight", 1, 1), ("net.2.weight", 0, 2)),
            "norm": _flat_norm(shapes),
        }


def same_places(root: str) -> dict[str, str]:
    """Names of two sequences with the same things in the same places."""
    return {f"layers.{number}": f"{root}.{number}" for number in range(64)}


def _level(level: int) -> str:
    """The name of a level of the U-Net, from 1 on."""
    return f"model.model.1{'.model.3' * (level - 1)}.model"


def _flat_norm(shapes: Shapes) -> str:
    """Batch norms have a weight for each channel, instance norms at most statistics that nobody uses."""
    batch = any(key.endswith(".weight") and len(shape) == 1 for key, shape in shapes.items())
    return "batch" if batch else "instance"
