"""AdaIN: a decoder for the features of a frozen encoder, for any style (Huang and Belongie, 2017)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from .. import features as feature_networks
from ..configs import Range, Weight
from ..hub import PretrainedMixin
from ..losses import content_loss, statistics_loss
from ..models import AdaINGenerator
from .base import Batch, Method, Player, Terms

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


class AdaIN(Method):
    """Source pictures in the styles of target pictures, both seen again by the encoder that made the features.

    The paper's rate falls as 1 / (1 + 5e-5 steps); here it falls as the run says.

    Args:
        backbone: the encoder: torchvision's VGG-19, the normalised one of the paper, or one with a quarter of the
            channels. The decoder mirrors it.
        features: its weights: "vgg19" from the Hub, or a local safetensors file.
        content: weight of getting the features back that the decoder was given.
        style: weight of the style's means and deviations in four layers.
        normalize: compare as if the mean of each layer were 1, which the papers' encoder has by itself; without it
            the layers with the largest values decide.
        lr: learning rate of the decoder.
    """

    data = "unpaired"
    batch_size = 8
    paper = "https://arxiv.org/abs/1703.06868"

    def __init__(
        self,
        *,
        backbone: feature_networks.Backbone = "vgg19",
        features: str = "vgg19",
        content: Weight = 1.0,
        style: Weight = 10.0,
        normalize: bool = True,
        lr: Annotated[float, Range(0, 1)] = 1e-4,
    ) -> None:
        super().__init__()
        self.content, self.style, self.normalize, self.lr = content, style, normalize, lr
        self.model = AdaINGenerator(backbone=backbone)
        feature_networks.fill(self.model.encoder, features)

    def players(self) -> list[Player]:  # noqa: D102
        return [Player("decoder", (self.model.decoder,), self.terms, self.lr, betas=(0.9, 0.999))]

    def terms(self, batch: Batch) -> Terms:
        """The output shall have the features that it was painted from, and the statistics of its style."""
        with torch.no_grad():
            mixed = self.model.mix(batch["source"], batch["target"])
            style = self.model.encoder(batch["target"], LAYERS)
        found = self.model.encoder(self.model.paint(mixed), LAYERS)
        content, style = distances(found, mixed, style, self.normalize)
        return {"content": self.content * content, "style": self.style * style}

    def styles(self) -> dict[str, PretrainedMixin]:  # noqa: D102
        return {"": self.model}


def distances(
    found: dict[str, Tensor], content: Tensor, style: dict[str, Tensor], normalize: bool
) -> tuple[Tensor, Tensor]:
    """How far features are from a content at relu4_1, and in all layers from the statistics of a style.

    The papers' weights are for a VGG-19 that was scaled until the mean of each layer was 1. In the compressed one
    the second block's is several times that of the fourth.

    Args:
        found: features of the output, by layer.
        content: at relu4_1.
        style: features of the style pictures, by layer.
        normalize: divide each layer by its mean in the style pictures.
    """
    weights = {layer: x.mean() ** -2 if normalize else 1.0 for layer, x in style.items()}
    statistics = sum(weights[layer] * statistics_loss(found[layer], style[layer]) for layer in style)
    return weights["relu4_1"] * content_loss(found["relu4_1"], content), statistics
