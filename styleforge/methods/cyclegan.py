"""CycleGAN: two generators that undo each other, learnt from unpaired pictures (Zhu et al., 2017)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch.nn.functional as F
from torch import Tensor

from ..configs import Options, Range, Weight, Width
from ..hub import PretrainedMixin
from ..models import PatchDiscriminator, ResnetGenerator
from .base import Adversary, Batch, History, Method, Player, Terms


class CycleGAN(Method):
    """Source to target and back, each direction with its own discriminator.

    Args:
        width: base channels of the generators.
        blocks: their residual blocks; 6 at 128 px, 9 from 256 px on.
        downsample: see :class:`~styleforge.models.ResnetGenerator`.
        upsample: see there. The paper has "transpose"; "resize" leaves no checkerboard.
        border: see there.
        discriminator_width: base channels of the discriminators.
        discriminator_layers: 3 judges patches of 70 px, 2 of 34 px (better for textures at 128 px).
        discriminator_downsample: see :class:`~styleforge.models.PatchDiscriminator`.
        cycle: weight of getting the picture back, L1.
        identity: weight of leaving pictures of the other domain alone, as a share of `cycle`, L1.
        history: fakes remembered for the discriminators.
        lr: learning rate of the generators.
        adversary: how the discriminators are trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "unpaired"
    paper = "https://arxiv.org/abs/1703.10593"

    def __init__(
        self,
        *,
        width: Width = 64,
        blocks: Annotated[int, Range(0, 64)] = 9,
        downsample: Literal["stride", "blur"] = "stride",
        upsample: Literal["transpose", "resize", "blur"] = "resize",
        border: Literal["zero", "reflect"] = "zero",
        discriminator_width: Width = 64,
        discriminator_layers: Annotated[int, Range(1, 8)] = 3,
        discriminator_downsample: Literal["stride", "blur"] = "stride",
        cycle: Weight = 10.0,
        identity: Weight = 0.5,
        history: Annotated[int, Range(0, 10_000)] = 50,
        lr: Annotated[float, Range(0, 1)] = 2e-4,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.cycle, self.identity, self.lr = cycle, identity, lr
        self.adversary = Adversary(**adversary)

        def generator() -> ResnetGenerator:
            return ResnetGenerator(width=width, blocks=blocks, downsample=downsample, upsample=upsample, border=border)

        def discriminator() -> PatchDiscriminator:
            return PatchDiscriminator(
                width=discriminator_width,
                layers=discriminator_layers,
                downsample=discriminator_downsample,
                **self.adversary.discriminator_options,
            )

        self.to_target, self.to_source = generator(), generator()
        self.target_discriminator, self.source_discriminator = discriminator(), discriminator()
        self.target_history, self.source_history = History(history), History(history)

    def players(self) -> list[Player]:  # noqa: D102
        generators = (self.to_target, self.to_source)
        judges = (self.target_discriminator, *self.adversary.heads)
        return [
            Player("generator", generators, self.generator_terms, self.lr),
            self.adversary.player("target_d", judges, self.target_terms, self.lr),
            self.adversary.player("source_d", (self.source_discriminator,), self.source_terms, self.lr),
        ]

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool both discriminators, get the pictures back, leave pictures of the other domain alone."""
        source, target = batch["source"], batch["target"]
        fake_target, fake_source = self.to_target(source), self.to_source(target)
        batch["fake_target"], batch["fake_source"] = fake_target.detach(), fake_source.detach()
        terms = {
            "target": self.adversary.generator_loss(self.target_discriminator, fake_target, batch, "target"),
            "source": self.adversary.generator_loss(self.source_discriminator, fake_source, batch, "source"),
            "cycle_source": self.cycle * F.l1_loss(self.to_source(fake_target), source),
            "cycle_target": self.cycle * F.l1_loss(self.to_target(fake_source), target),
        }
        terms |= self.adversary.fool_projected(fake_target, batch)
        if self.identity:
            weight = self.cycle * self.identity
            terms["identity_target"] = weight * F.l1_loss(self.to_target(target), target)
            terms["identity_source"] = weight * F.l1_loss(self.to_source(source), source)
        return terms

    def target_terms(self, batch: Batch) -> Terms:
        """Tell target pictures from fakes, some of them older."""
        fakes = self._fakes(batch, "fake_target", self.to_target, "source")
        fakes = self.target_history(fakes, batch.generator("target history"))
        terms = self.adversary.discriminator_terms(self.target_discriminator, batch["target"], fakes, batch)
        return terms | self.adversary.projected_terms(batch["target"], fakes, batch)

    def source_terms(self, batch: Batch) -> Terms:
        """Tell source pictures from fakes, some of them older."""
        fakes = self._fakes(batch, "fake_source", self.to_source, "target")
        fakes = self.source_history(fakes, batch.generator("source history"))
        return self.adversary.discriminator_terms(self.source_discriminator, batch["source"], fakes, batch)

    def styles(self) -> dict[str, PretrainedMixin]:  # noqa: D102
        return {"": self.to_target, "reverse": self.to_source}

    @staticmethod
    def _fakes(batch: Batch, name: str, generator: ResnetGenerator, source: str) -> Tensor:
        """The generator's player leaves its fakes in the batch; in a turn of their own there are none yet."""
        return batch[name] if name in batch else generator(batch[source]).detach()
