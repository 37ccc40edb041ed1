"""Parts of pytorch-AdaIN: the normalised VGG-19 and the decoder; SANet's decoder is the same one.

Its pictures are in [0, 1], those of our decoders in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import features
from ..features import VGG19
from ..layers import from_unit_range
from ..models.adain import MirroredDecoder
from .family import Family, Shapes, Tensors, places, vote

# Places of the decoder's convolutions in its sequence, by our names, which are the VGG's.
PLACES = {"4_1": 1, "3_4": 5, "3_3": 8, "3_2": 11, "3_1": 14, "2_2": 18, "2_1": 21, "1_2": 25, "1_1": 28}


class Decoder(Family):
    """decoder.pth."""

    name, project, role, model = "adain-decoder", "naoto0804/pytorch-AdaIN", "decoder", MirroredDecoder
    example: ClassVar = {"widths": (64, 128, 256, 512)}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        return {"widths": tuple(vote(shapes, (f"{place}.weight", 1, 1)) for place in (28, 21, 14, 1))}

    def build(self, config: Mapping[str, Any]) -> MirroredDecoder:  # noqa: D102
        return MirroredDecoder({f"relu{layer}": config["widths"][int(layer[0]) - 1] for layer in reversed(PLACES)})

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return {f"convs.conv{layer}": str(place) for layer, place in PLACES.items()}

    def finish(self, ours: Tensors, left: Tensors, config: Mapping[str, Any]) -> Tensors:  # noqa: D102
        return from_unit_range(ours, last="convs.conv1_1")


class Encoder(Family):
    """vgg_normalised.pth, as far as a file goes."""

    name, project, role, model = "vgg19-normalised", "naoto0804/pytorch-AdaIN", "encoder", VGG19
    example: ClassVar = {"last": "relu5_4"}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        if "0.weight" not in shapes:
            raise LookupError("0.weight")
        deepest = max(places(shapes, r"(\d+)\.weight"))
        ours = {theirs: ours for ours, theirs in features.PRESETS[self.name][2].items()}
        return {"last": ours[f"{deepest}.weight"].removesuffix(".weight").replace("convs.conv", "relu")}

    def build(self, config: Mapping[str, Any]) -> VGG19:  # noqa: D102
        return features.build(self.name, **config)

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        pairs = features.PRESETS[self.name][2].items()
        return {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for ours, theirs in pairs}
