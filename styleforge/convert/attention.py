"""Parts of SANET and AdaAttN. Their keys have a bias that the softmax takes away again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..layers import from_unit_range
from ..models.attention import AttentionLayer, SkipDecoder, StyleAttention
from .adain import PLACES
from .family import Family, Shapes, Tensors, vote

PARTS = {"query": "f", "key": "g", "value": "h", "out": "out_conv"}
MAX_KEYS = 4096  # AdaAttN's; SANet takes all places


class Transform(Family):
    """transformer_iter_*.pth of SANet: attention at two layers, and what joins them."""

    name, project, role, model = "sanet", "GlebSBrykin/SANET", "attention", StyleAttention
    example: ClassVar = {"channels": 512, "keys_relu4_1": 512, "keys_relu5_1": 512}
    kind: ClassVar[str] = "sanet"
    layers: ClassVar[dict[str, str]] = {"relu4_1": "sanet4_1", "relu5_1": "sanet5_1"}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        return {"channels": vote(shapes, ("merge_conv.weight", 0, 1), ("merge_conv.weight", 1, 1))} | {
            f"keys_{layer}": vote(shapes, (f"{theirs}.f.weight", 0, 1), (f"{theirs}.g.weight", 0, 1))
            for layer, theirs in self.layers.items()
        }

    def build(self, config: Mapping[str, Any]) -> StyleAttention:  # noqa: D102
        channels = config["channels"]
        ours = StyleAttention(dict.fromkeys(self.layers, channels), self.kind, False, False, MAX_KEYS)
        for layer in self.layers:
            ours.layers[layer] = AttentionLayer(self.kind, channels, config[f"keys_{layer}"], MAX_KEYS)
        return ours

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        pairs = [(f"layers.{ours}", theirs) for ours, theirs in self.layers.items()]
        inner = {f"{ours}.{part}": f"{theirs}.{name}" for ours, theirs in pairs for part, name in PARTS.items()}
        return {**inner, "merge": "merge_conv"}


class AdaTransform(Transform):
    """latest_net_transformer.pth of AdaAttN."""

    name, project, kind = "adaattn", "Huage001/AdaAttN", "adaattn"
    example: ClassVar = {"channels": 512, "keys_relu4_1": 960, "keys_relu5_1": 1472}
    layers: ClassVar = {"relu4_1": "attn_adain_4_1", "relu5_1": "attn_adain_5_1"}


class AdaLayer(Family):
    """latest_net_adaattn_3.pth of AdaAttN: attention at one more layer."""

    name, project, role, model = "adaattn-3", "Huage001/AdaAttN", "skip", AttentionLayer
    example: ClassVar = {"channels": 256, "keys": 448}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        return {
            "channels": vote(shapes, ("h.weight", 0, 1), ("h.weight", 1, 1)),
            "keys": vote(shapes, ("f.weight", 0, 1), ("g.weight", 0, 1)),
        }

    def build(self, config: Mapping[str, Any]) -> AttentionLayer:  # noqa: D102
        return AttentionLayer("adaattn", config["channels"], config["keys"], MAX_KEYS)

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        return PARTS


class AdaDecoder(Family):
    """latest_net_decoder.pth of AdaAttN, which may be shown relu3_1 on its way."""

    name, project, role, model = "adaattn-decoder", "Huage001/AdaAttN", "decoder", SkipDecoder
    example: ClassVar = {"widths": (64, 128, 256, 512), "skip": True}

    def arguments(self, shapes: Shapes) -> dict[str, Any]:  # noqa: D102
        reading = (("decoder_layer_2.24", 1), ("decoder_layer_2.17", 1), ("decoder_layer_2.10", 1))
        widths = [vote(shapes, (f"{place}.weight", axis, 1)) for place, axis in reading]
        return {
            "widths": (*widths, vote(shapes, ("decoder_layer_1.1.weight", 1, 1))),
            "skip": vote(shapes, ("decoder_layer_2.1.weight", 1, 1)) == 2 * widths[-1],
        }

    def build(self, config: Mapping[str, Any]) -> SkipDecoder:  # noqa: D102
        channels = {f"relu{layer}": config["widths"][int(layer[0]) - 1] for layer in reversed(PLACES)}
        return SkipDecoder(channels, config["skip"])

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:  # noqa: D102
        behind = {f"shallow.convs.conv{layer}": place - 4 for layer, place in PLACES.items() if layer != "4_1"}
        return {ours: f"decoder_layer_2.{place}" for ours, place in behind.items()} | {"deep": "decoder_layer_1.1"}

    def finish(self, ours: Tensors, left: Tensors, config: Mapping[str, Any]) -> Tensors:  # noqa: D102
        return from_unit_range(ours, last="shallow.convs.conv1_1")
