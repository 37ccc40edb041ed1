"""DCGAN: new pictures in the manner of given ones, out of noise (Radford et al., 2015)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from ..configs import Options, Range, Width
from ..hub import PretrainedMixin
from ..losses import Adversarial
from ..models import DCGANDiscriminator, DCGANGenerator
from ..models.dcgan import Kind, Size, Statistics
from .base import Adversary, Batch, Method, Player, Terms


class DCGAN(Method):
    """Two players and no content: what is learnt is how such pictures look, not how to change one.

    The discriminator has batch norm, unless spectral norm or a gradient penalty is asked for: a penalty is about one
    picture, and batch norm mixes them. Losses of a healthy run stay where they are; look at the pictures.

    Args:
        size: side of the pictures; that of the run.
        noise_size: length of the noise; see :class:`~styleforge.models.DCGANGenerator`.
        width: base channels of the generator.
        kind: how the generator doubles sizes; see there. The paper has "transpose"; "resize" leaves no checkerboard.
        statistics: see there.
        discriminator_width: base channels of the discriminator.
        discriminator_dropout: while training; see :class:`~styleforge.models.DCGANDiscriminator`.
        lr: learning rate of the generator.
        adversarial: see :func:`~styleforge.losses.discriminator_loss`; "wgan" wants penalty "wgan-gp" and n_critic 5.
        augment: differentiable augmentation of all that the discriminator sees: "color", "translation" and "cutout"
            joined by commas. Without it ("") it learns a few hundred pictures by heart; thousands need none.
        adversary: how the discriminator is trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "images"
    batch_size = 32
    paper = "https://arxiv.org/abs/1511.06434"

    def __init__(
        self,
        *,
        size: Size = 128,
        noise_size: Annotated[int, Range(1, 4096)] = 100,
        width: Width = 64,
        kind: Kind = "resize",
        statistics: Statistics = "running",
        discriminator_width: Width = 64,
        discriminator_dropout: Annotated[float, Range(0, 0.9)] = 0.3,
        lr: Annotated[float, Range(0, 1)] = 2e-4,
        adversarial: Adversarial = "vanilla",
        augment: str = "color,translation,cutout",
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.adversary = Adversary(adversarial=adversarial, augment=augment, **adversary)
        self.lr = lr
        self.generator = DCGANGenerator(noise_size=noise_size, size=size, width=width, kind=kind, statistics=statistics)
        self.discriminator = DCGANDiscriminator(
            size=size,
            width=discriminator_width,
            dropout=discriminator_dropout,
            **{"norm": "batch" if self.adversary.penalty == "none" else "none", **self.adversary.discriminator_options},
        )

    def players(self) -> list[Player]:  # noqa: D102
        # The discriminator first, as in the reference: the generator then meets its newest opinion.
        judges = (self.discriminator, *self.adversary.heads)
        return [
            self.adversary.player("d", judges, self.discriminator_terms, self.lr),
            Player("generator", (self.generator,), self.generator_terms, self.lr),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell pictures from fakes, each in a batch of its own, for the sake of batch norm."""
        real, fake = batch["target"], self._fake(batch)
        terms = self.adversary.discriminator_terms(self.discriminator, real, fake, batch)
        return terms | self.adversary.projected_terms(real, fake, batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool the discriminator."""
        fake = self._fake(batch)
        terms = {"fool": self.adversary.generator_loss(self.discriminator, fake, batch)}
        return terms | self.adversary.fool_projected(fake, batch)

    def preview(
        self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A real picture, and four generated ones."""
        real, style = images["target"], styles[""]
        noise = torch.randn(4, style.config["noise_size"], generator=generator).to(real)
        return {"target": real, **{f"sample {n}": made for n, made in enumerate(style(noise).split(1), 1)}}

    def _fake(self, batch: Batch) -> Tensor:
        """The newest fakes with their graph: one forward pass serves both players."""
        if "fake" not in batch:
            real = batch["target"]
            noise = torch.randn(len(real), self.generator.config["noise_size"], generator=batch.generator("noise"))
            batch["fake"] = self.generator(noise.to(real))
        return batch["fake"]
