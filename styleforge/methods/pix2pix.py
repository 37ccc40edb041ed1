"""pix2pix: from pairs, one picture to the other (Isola et al., 2017)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F

from ..configs import Options, Range, Weight, Width
from ..models import PatchDiscriminator, ResnetGenerator, UNetGenerator
from .base import Adversary, Batch, Method, Player, Terms


class Pix2Pix(Method):
    """A generator and a discriminator that sees source and target side by side.

    Args:
        generator: "unet" as in the paper, or "resnet" (any picture size without a large multiple).
        width: base channels of the generator.
        downs: levels of the U-Net; `2 ** downs` must divide the training size.
        blocks: residual blocks of the ResNet.
        norm: norm of the generator and the discriminator.
        dropout: dropout in the generator while training; the paper's only source of noise.
        statistics: batch norm statistics at test time, see :class:`~styleforge.models.UNetGenerator`.
        discriminator_width: base channels of the discriminator.
        discriminator_layers: 3 judges patches of 70 px.
        l1: weight of the distance to the target.
        lr: learning rate of the generator.
        adversary: how the discriminators are trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "paired"
    paper = "https://arxiv.org/abs/1611.07004"

    def __init__(
        self,
        *,
        generator: Literal["unet", "resnet"] = "unet",
        width: Width = 64,
        downs: Annotated[int, Range(2, 10)] = 7,
        blocks: Annotated[int, Range(0, 64)] = 9,
        norm: Literal["instance", "batch"] = "batch",
        dropout: bool = True,
        statistics: Literal["running", "batch"] = "running",
        discriminator_width: Width = 64,
        discriminator_layers: Annotated[int, Range(1, 8)] = 3,
        l1: Weight = 100.0,
        lr: Annotated[float, Range(0, 1)] = 2e-4,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.adversary = Adversary(**adversary)
        self.l1, self.lr = l1, lr
        if generator == "unet":
            self.generator = UNetGenerator(width=width, downs=downs, norm=norm, dropout=dropout, statistics=statistics)
        else:
            self.generator = ResnetGenerator(width=width, blocks=blocks, norm=norm, dropout=dropout, upsample="resize")
        self.discriminator = PatchDiscriminator(
            in_channels=6,
            width=discriminator_width,
            layers=discriminator_layers,
            **{"norm": norm, **self.adversary.discriminator_options},
        )

    def players(self) -> list[Player]:  # noqa: D102
        # The discriminator first, as in the reference: the generator then meets its newest opinion.
        return [
            self.adversary.player("d", (self.discriminator, *self.adversary.heads), self.discriminator_terms, self.lr),
            Player("generator", (self.generator,), self.generator_terms, self.lr),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell (source, target) from (source, fake)."""
        source = batch["source"]
        real, fake = torch.cat([source, batch["target"]], 1), torch.cat([source, self._fake(batch)], 1)
        terms = self.adversary.discriminator_terms(self.discriminator, real, fake, batch)
        return terms | self.adversary.projected_terms(batch["target"], self._fake(batch), batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Pass as the target, and be near it."""
        fake = self._fake(batch)
        pair = torch.cat([batch["source"], fake], 1)
        terms = {
            "fool": self.adversary.generator_loss(self.discriminator, pair, batch),
            "l1": self.l1 * F.l1_loss(fake, batch["target"]),
        }
        return terms | self.adversary.fool_projected(fake, batch)
