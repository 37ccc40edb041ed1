"""Attention to style: SANet (Park and Lee, 2019) and AdaAttN (Liu et al., 2021)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from .. import features as feature_networks
from ..configs import Range, Weight
from ..layers import normalize
from ..losses import attention_entropy, attention_variation, content_loss, local_feature_loss, statistics_loss
from ..models import AttentionGenerator
from ..models.attention import LAYERS, Features, Kind, adapt, attention_weights, keys, thin
from .base import Batch, Method, Player, Terms


class Attention(Method):
    """Source pictures in the styles of target pictures, seen again by the extractor of their features.

    The defaults are AdaAttN's. :class:`SANet` has other weights and layers, and either may have either network.

    Args:
        attention: what a place gets from those that it attends to: "adaattn", their mean and deviation in place of
            its own; "sanet", their mean on top of its own features.
        backbone: the extractor, see :class:`~styleforge.models.AttentionGenerator`.
        features: weights of the extractor, see :func:`styleforge.features.fill`.
        shallow: compare places by the features of all shallower layers too.
        skip: attention at relu3_1 too, for fine strokes.
        max_keys: places of the style that are attended to, also for the target of `local`; of larger pictures, a
            regular grid.
        content: weight of the source's normalised features at relu4_1 and relu5_1.
        style: weight of the style's means and deviations in each layer.
        local: weight of AdaAttN's attention loss: features shall be those that attention without learnt parameters
            makes of source and style.
        identity: weight of getting a picture back whose style is itself, squared error of pixels in [0, 1]. AdaAttN has
            none; with SANet's 50 our decoder knew its colors after some hundred steps.
        identity_features: weight of the same of its features.
        normalize: divide each layer by its mean in the style pictures. The papers' weights are for a VGG-19 that was
            scaled until these are 1; of others one layer may be ten times as large as the next, and alone decide.
        entropy: weight of looking at few places (at relu4_1). Neither paper has this one or the next.
        variation: weight of neighbours looking at the same places (at relu4_1).
        lr: learning rate of attention and decoder.
    """

    data = "unpaired"
    batch_size = 8
    paper = "https://arxiv.org/abs/2108.03647"
    style_layers: ClassVar[tuple[str, ...]] = LAYERS[1:]

    def __init__(
        self,
        *,
        attention: Kind = "adaattn",
        backbone: feature_networks.Backbone = "vgg19",
        features: str = "vgg19",
        shallow: bool = True,
        skip: bool = True,
        max_keys: Annotated[int, Range(16, 2**19)] = 4096,
        content: Weight = 0.0,
        style: Weight = 10.0,
        local: Weight = 3.0,
        identity: Weight = 0.0,
        identity_features: Weight = 0.0,
        normalize: bool = True,
        entropy: Weight = 0.0,
        variation: Weight = 0.0,
        lr: Annotated[float, Range(0, 1)] = 1e-4,
    ) -> None:
        super().__init__()
        self.content, self.style, self.local = content, style, local
        self.identity, self.identity_features = identity, identity_features
        self.normalize = normalize
        self.entropy, self.variation, self.lr = entropy, variation, lr
        self.generator = AttentionGenerator(
            attention=attention, backbone=backbone, shallow=shallow, skip=skip, max_keys=max_keys
        )
        feature_networks.fill(self.generator.extractor, features)

    def players(self) -> list[Player]:  # noqa: D102
        networks = (self.generator.attention, self.generator.decoder)
        return [Player("generator", networks, self.terms, self.lr, betas=(0.9, 0.999))]

    def terms(self, batch: Batch) -> Terms:
        """The output shall have the statistics of its style, and whatever else has a weight."""
        content, style = self.generator.extract(batch["source"]), self.generator.extract(batch["target"])
        styled = self.generator.decoder(*self.generator.attention(content, style))
        found = self.generator.extract(styled)
        weights = {layer: x.mean() ** -2 if self.normalize else 1.0 for layer, x in style.items()}
        distance = sum(weights[layer] * statistics_loss(found[layer], style[layer]) for layer in self.style_layers)
        terms = {"style": self.style * distance}
        if self.content:
            pairs = [(normalize(found[layer]), normalize(content[layer])) for layer in LAYERS[3:]]
            terms["content"] = self.content * sum(content_loss(*pair) for pair in pairs)
        if self.local:
            distances = self._local(found, content, style)
            terms["local"] = self.local * sum(weights[layer] * distance for layer, distance in distances.items())
        if self.identity or self.identity_features:
            terms |= self._identities(batch, content, style, weights)
        if self.entropy or self.variation:
            terms |= self._looks(content, style)
        return terms

    def _local(self, found: Features, content: Features, style: Features) -> dict[str, Tensor]:
        """AdaAttN's local feature loss by layer: attention by keys and features as they are, from relu2_1 on."""
        shallow, most, losses = self.generator.attention.shallow, self.generator.config["max_keys"], {}
        for layer in LAYERS[1:]:
            query, key = keys(content, layer, shallow), thin(keys(style, layer, shallow), most)
            target = adapt(content[layer], query, key, thin(style[layer], most))
            losses[layer] = local_feature_loss(found[layer], target)
        return losses

    def _identities(self, batch: Batch, content: Features, style: Features, weights: dict[str, Any]) -> Terms:
        """SANet's: a picture whose style is itself comes back, both as pixels and as features."""
        pictures = torch.cat([batch["source"], batch["target"]])
        own = {layer: torch.cat([content[layer], style[layer]]) for layer in LAYERS}
        again = self.generator.decoder(*self.generator.attention(own, own))
        # Twice, because the paper adds up sources and targets; of half the difference, because its range is half.
        terms = {"identity": 2 * self.identity * content_loss(again / 2, pictures / 2)}
        if self.identity_features:
            seen = self.generator.extract(again)
            distance = sum(weights[layer] * content_loss(seen[layer], own[layer]) for layer in LAYERS)
            terms["identity_features"] = 2 * self.identity_features * distance
        return terms

    def _looks(self, content: Features, style: Features) -> Terms:
        """How spread attention is, and how much it differs between neighbours."""
        query, key = self.generator.attention.project(content, style, LAYERS[3])
        attention = attention_weights(query.flatten(2), key.flatten(2))
        maps = attention.transpose(1, 2).unflatten(2, query.shape[2:])
        return {
            "entropy": self.entropy * attention_entropy(attention),
            "variation": self.variation * attention_variation(maps),
        }


class SANet(Attention):
    """:class:`Attention` with the style of all five layers; its settings are in :data:`styleforge.methods.METHODS`."""

    paper = "https://arxiv.org/abs/1812.02342"
    style_layers = LAYERS
