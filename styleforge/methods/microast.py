"""MicroAST: small networks for any style (Wang et al., 2023)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from .. import features as feature_networks
from ..configs import Range, Weight, Width
from ..hub import PretrainedMixin
from ..models import MicroASTGenerator
from .adain import LAYERS, distances
from .base import Batch, Method, Player, Terms


class MicroAST(Method):
    """Source pictures in the styles of target pictures, judged by a VGG-19 that is not needed afterwards.

    The paper's rate falls as 1 / (1 + 5e-5 steps); here it falls as the run says.

    Args:
        width: channels after the first convolution.
        features: the network that judges: "vgg19" from the Hub, or a local safetensors file.
        content: weight of the source's features.
        style: weight of the style's means and deviations in four layers.
        normalize: compare as if the mean of each layer were 1, which the papers' encoder has by itself; without it
            the layers with the largest values decide.
        contrast: weight of being read as the own style and not as others of the batch, which needs two pictures.
        lr: learning rate.
    """

    data = "unpaired"
    batch_size = 8
    paper = "https://arxiv.org/abs/2211.15313"

    def __init__(
        self,
        *,
        width: Width = 16,
        features: str = "vgg19",
        content: Weight = 1.0,
        style: Weight = 3.0,
        normalize: bool = True,
        contrast: Weight = 3.0,
        lr: Annotated[float, Range(0, 1)] = 1e-4,
    ) -> None:
        super().__init__()
        self.content, self.style, self.normalize = content, style, normalize
        self.contrast, self.lr = contrast, lr
        self.smallest = 2 if contrast else 1
        self.model = MicroASTGenerator(width=width)
        self.features = feature_networks.load(features, last="relu4_1")

    def players(self) -> list[Player]:  # noqa: D102
        return [Player("generator", (self.model,), self.terms, self.lr, betas=(0.9, 0.999))]

    def terms(self, batch: Batch) -> Terms:
        """Keep the content, take the style, and read the output as that style and no other one of the batch."""
        source, target = batch["source"], batch["target"]
        signals = self.model.signals(target)
        output = self.model.paint(source, signals)
        found = self.features(output, LAYERS)
        with torch.no_grad():
            content, style = self.features(source, ["relu4_1"])["relu4_1"], self.features(target, LAYERS)
        content, style = distances(found, content, style, self.normalize)
        terms = {"content": self.content * content, "style": self.style * style}
        if self.contrast and len(target) > 1:
            terms["contrast"] = self.contrast * signal_contrast(self.model.signals(output), signals)
        return terms

    def styles(self) -> dict[str, PretrainedMixin]:  # noqa: D102
        return {"": self.model}


def signal_contrast(found: Tensor, wanted: Tensor) -> Tensor:
    """How far signals are from their own style, as a share of how far they are from all others, summed.

    The official code takes a part of what is far from other outputs instead of their styles, probably by mistake.

    Args:
        found: signals of outputs, (B, ...).
        wanted: signals of their styles, of the same shape, B at least 2.
    """
    found, wanted = found.flatten(1), wanted.flatten(1)
    distance = (found[:, None] - wanted[None]).square().mean(2)
    own = torch.eye(len(found), dtype=torch.bool, device=found.device)
    return (distance.diagonal() / distance.masked_fill(own, 0).sum(1)).sum()
