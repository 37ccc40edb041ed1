"""Fast style: one or several pictures become a network that paints like them (Johnson et al., 2016)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import features as feature_networks
from ..configs import Range, Weight, Width
from ..hub import PretrainedMixin
from ..losses import content_loss, gram, total_variation
from ..models import TransformerNet
from .base import Batch, Method, Player, Terms, unsteadiness
from .projected import off_grid


class FastStyle(Method):
    """Content and style are what a frozen network sees; no discriminator, no pairs.

    All distances are shares of what they are compared with, so that the weights mean the same for every feature
    network and every style. A style is that of the whole picture: masks are not part of this method.

    Args:
        width: base channels of the network.
        blocks: its residual blocks.
        styles: how many styles one network learns; there must be as many target pictures. Only gains and offsets of
            the norms differ between them (Dumoulin et al., 2017).
        features: the frozen network: "vgg19" from the Hub, or a local file; see :func:`styleforge.features.read`.
        content_layer: its layer that content is compared at; a deeper one ("relu3_1", "relu4_1") keeps less.
        style_layers: its layers that style is compared at, equally weighted.
        content: weight of the content.
        style: weight of the style, a squared distance of Gram matrices; more of it, and the strokes eat the content.
        tv: weight of the total variation, against fine noise.
        shift_equivariance: weight of :func:`~styleforge.methods.base.unsteadiness`, against patterns that are bound to
            the network's grid of 4 pixels. Not in the paper.
        lr: learning rate.
    """

    data = "styles"
    batch_size = 4
    paper = "https://arxiv.org/abs/1603.08155"

    def __init__(
        self,
        *,
        width: Width = 32,
        blocks: Annotated[int, Range(0, 64)] = 5,
        styles: Annotated[int, Range(1, 1024)] = 1,
        features: str = "vgg19",
        content_layer: str = "relu2_2",
        style_layers: list[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),  # type: ignore[assignment]
        content: Weight = 1.0,
        style: Weight = 5.0,
        tv: Weight = 0.1,
        shift_equivariance: Weight = 0.0,
        lr: Annotated[float, Range(0, 1)] = 1e-3,
    ) -> None:
        super().__init__()
        self.targets = styles
        self.content_layer, self.style_layers = content_layer, tuple(style_layers)
        self.content, self.style, self.tv, self.lr = content, style, tv, lr
        self.shift_equivariance = shift_equivariance
        self.features = feature_networks.load(features)
        self.generator = TransformerNet(width=width, blocks=blocks, styles=styles)

    def players(self) -> list[Player]:  # noqa: D102
        return [Player("generator", (self.generator,), self.terms, self.lr, betas=(0.9, 0.999))]

    def terms(self, batch: Batch) -> Terms:
        """Keep the content of the source, take the style of the target."""
        weights = F.one_hot(batch["style_index"], self.targets)
        styled = self.generator(batch["source"], weights)
        moved, source = off_grid(batch.generator("jitter"), styled, batch["source"])
        seen = self.features(moved, [self.content_layer, *self.style_layers])
        with torch.no_grad():
            content = self.features(source, [self.content_layer])[self.content_layer]
            target = self.features(batch["target"], self.style_layers)
        distances = [_gram_distance(seen[layer], target[layer]) for layer in self.style_layers]
        terms = {
            "content": self.content * content_loss(seen[self.content_layer], content) / content.square().mean(),
            "style": self.style * torch.stack(distances).mean(),
            "tv": self.tv * total_variation(styled),
        }
        if self.shift_equivariance:
            unsteady = unsteadiness(partial(self.generator, weights=weights), batch["source"], styled, batch)
            terms["shift"] = self.shift_equivariance * unsteady
        return terms

    def preview(
        self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """With several styles, the source in each of the first six."""
        if self.targets == 1:
            return super().preview(images, styles, generator)
        source = images["source"]
        chosen = F.one_hot(torch.arange(min(self.targets, 6), device=source.device), self.targets)
        styled = {f"style {i}": styles[""](source, row.expand(len(source), -1)) for i, row in enumerate(chosen)}
        return {"source": source, **styled}


def _gram_distance(features: Tensor, target: Tensor) -> Tensor:
    """Squared distance of Gram matrices as a share of the target's own size, mean over the batch."""
    ours, theirs = gram(features), gram(target)
    return ((ours - theirs).square().sum((1, 2)) / theirs.square().sum((1, 2))).mean()
