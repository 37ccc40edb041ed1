"""Restoration: clean pictures are damaged, and a network learns to undo it."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configs import Options, Range, Weight, Width
from ..damage import check_kinds, damage
from ..errors import ConfigError
from ..losses import focal_frequency_loss
from ..models import PatchDiscriminator, RestorationUNet
from .base import Adversary, Batch, Method, Player, Terms


class Restore(Method):
    """A residual U-Net that adds what is missing, near the undamaged picture, in pixels and in frequencies.

    Args:
        kinds: kinds of damage, all done to each picture: "noise", "blur", "jpeg", "low_resolution", "dark", "fade",
            "hole", "scratch"; see :mod:`styleforge.damage`.
        width: channels of the network at half of the size.
        levels: times that the size halves after that.
        blocks: residual blocks of each level.
        l1: weight of the distance to the undamaged picture.
        frequency: weight of the focal frequency loss (Jiang et al., 2021).
        gan: weight of a discriminator that sees damaged and restored side by side, as in pix2pix. With 0 there is
            none: best in PSNR, a little soft.
        discriminator_width: base channels of the discriminator.
        discriminator_layers: 3 judges patches of 70 px.
        lr: learning rate of the network.
        adversary: how the discriminator is trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "damaged"
    batch_size = 8
    paper = "https://arxiv.org/abs/2008.13751"

    def __init__(
        self,
        *,
        kinds: list[str] = ("noise",),  # type: ignore[assignment]
        width: Width = 48,
        levels: Annotated[int, Range(0, 6)] = 2,
        blocks: Annotated[int, Range(1, 16)] = 2,
        l1: Weight = 100.0,
        frequency: Weight = 1.0,
        gan: Weight = 0.0,
        discriminator_width: Width = 64,
        discriminator_layers: Annotated[int, Range(1, 8)] = 3,
        lr: Annotated[float, Range(0, 1)] = 5e-4,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        check_kinds(kinds)
        self.kinds, self.l1, self.frequency, self.gan, self.lr = tuple(kinds), l1, frequency, gan, lr
        self.generator = RestorationUNet(width=width, levels=levels, blocks=blocks)
        self.adversary = Adversary(**adversary)
        if self.adversary.projected and not gan:
            raise ConfigError(
                "There is no discriminator that another could join",
                found=f"projected = {self.adversary.projected:g} without gan",
                todo="Give gan as well (--gan 1), or leave out projected.",
            )
        if gan:
            self.discriminator = PatchDiscriminator(
                in_channels=6,
                width=discriminator_width,
                layers=discriminator_layers,
                **{"norm": "instance", **self.adversary.discriminator_options},
            )

    def prepare(self, images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Beside each "target" its damaged "source"."""
        return {"source": damage(images["target"], self.kinds, generator), **images}

    def players(self) -> list[Player]:  # noqa: D102
        players = [Player("generator", (self.generator,), self.generator_terms, self.lr, (0.9, 0.999))]
        if self.gan:
            judges = (self.discriminator, *self.adversary.heads)
            judge = self.adversary.player("d", judges, self.discriminator_terms, self.lr)
            players.insert(0, judge)  # as in pix2pix: the generator then meets its newest opinion
        return players

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell (damaged, clean) from (damaged, restored)."""
        source = batch["source"]
        real, fake = torch.cat([source, batch["target"]], 1), torch.cat([source, self._fake(batch)], 1)
        terms = self.adversary.discriminator_terms(self.discriminator, real, fake, batch)
        return terms | self.adversary.projected_terms(batch["target"], self._fake(batch), batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Be near the undamaged picture, and pass as it."""
        fake, target = self._fake(batch), batch["target"]
        terms = {"l1": self.l1 * F.l1_loss(fake, target)}
        if self.frequency:
            terms["frequency"] = self.frequency * focal_frequency_loss(fake, target)
        if self.gan:
            pair = torch.cat([batch["source"], fake], 1)
            terms["fool"] = self.gan * self.adversary.generator_loss(self.discriminator, pair, batch)
            terms |= self.adversary.fool_projected(fake, batch)
        return terms
