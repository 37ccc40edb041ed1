"""Photographs into abstract art, without noise: a generator and a discriminator at every scale."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import features as feature_networks
from ..configs import Options, Range, Weight, Width
from ..losses import Adversarial, content_loss, focal_frequency_loss, style_perceptual
from ..models import MultiScaleGenerator, PatchDiscriminator
from ..models.multiscale import image_pyramid
from .base import Adversary, Batch, Method, Player, Terms

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
CONTENT_LAYER = "relu4_1"


class MultiScale(Method):
    """Every scale must pass as a painting of its size; only the coarsest must resemble the source.

    So the layout stays, and what fills it is free: a distance to the source at full size forbids style.

    Args:
        scales: sizes of the picture, each half of the one before.
        width: channels of the generator's finest branch, doubled from scale to scale up to 8 times.
        blocks: residual blocks of each branch, before and after the styles are known.
        cross_scale: whether branches exchange features and styles, see :class:`~styleforge.models.MultiScaleGenerator`.
        discriminator_width: base channels of the discriminators.
        discriminator_layers: of the discriminator at the finest scale, 3 judges patches of 70 px; one less at each
            coarser scale, but at least one, so that all see about as much of the picture.
        gan: weight of fooling the discriminators, mean over scales.
        reconstruction: distance to the source, "l1" or "l2" (mean squared).
        reconstruction_weight: of that distance, mean over its scales.
        reconstruction_scales: "coarsest" keeps where things are and their colors; "all" keeps the source.
        frequency: weight of :func:`~styleforge.losses.focal_frequency_loss` at the same scales.
        content: weight of the source's features in the finest picture; needs `features`.
        style: weight of the statistics of a target's features in it; needs `features`.
        features: frozen network for `content` and `style`: "vgg19" from the Hub, or a local file; see
            :func:`styleforge.features.read`. Not loaded while both weights are 0.
        lr: learning rate of the generator.
        adversarial: see :func:`~styleforge.losses.discriminator_loss`.
        spectral_norm: bound the gain of each convolution of the discriminators (Miyato et al., 2018). Without, their
            instance norms hide how bright and colorful a picture is, and in short trials ours drifted to neon.
        discriminator_lr: of the discriminators; as `lr` when null. At twice the generator's they ask for bolder forms;
            at the same, short trials stayed near photographs.
        adversary: how the discriminators are trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "unpaired"
    batch_size = 4
    paper = "https://arxiv.org/abs/1903.06048"  # MSG-GAN, the nearest: gradients at every scale

    def __init__(
        self,
        *,
        scales: Annotated[int, Range(1, 8)] = 4,
        width: Width = 32,
        blocks: Annotated[int, Range(1, 16)] = 2,
        cross_scale: bool = True,
        discriminator_width: Width = 64,
        discriminator_layers: Annotated[int, Range(1, 8)] = 3,
        gan: Weight = 1.0,
        reconstruction: Literal["l1", "l2"] = "l1",
        reconstruction_weight: Weight = 10.0,
        reconstruction_scales: Literal["coarsest", "all"] = "coarsest",
        frequency: Weight = 0.0,
        content: Weight = 0.0,
        style: Weight = 0.0,
        features: str = "vgg19",
        lr: Annotated[float, Range(0, 1)] = 2e-4,
        adversarial: Adversarial = "hinge",
        spectral_norm: bool = True,
        discriminator_lr: Annotated[float, Range(0, 1)] | None = 4e-4,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.adversary = Adversary(
            adversarial=adversarial,
            spectral_norm=spectral_norm,
            discriminator_lr=discriminator_lr,
            features=features,
            **adversary,
        )
        self.gan, self.frequency, self.content, self.style, self.lr = gan, frequency, content, style, lr
        self.distance = {"l1": F.l1_loss, "l2": F.mse_loss}[reconstruction]
        self.reconstruction = reconstruction_weight
        self.compared = slice(-1, None) if reconstruction_scales == "coarsest" else slice(None)
        self.features = feature_networks.load(features, last=CONTENT_LAYER) if content or style else None
        self.generator = MultiScaleGenerator(scales=scales, width=width, blocks=blocks, cross_scale=cross_scale)
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(
                width=discriminator_width,
                layers=max(1, discriminator_layers - scale),
                **self.adversary.discriminator_options,
            )
            for scale in range(scales)
        )

    def players(self) -> list[Player]:  # noqa: D102
        return [
            self.adversary.player("d", (self.discriminators, *self.adversary.heads), self.discriminator_terms, self.lr),
            Player("generator", (self.generator,), self.generator_terms, self.lr),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell paintings from fakes at every scale, apart."""
        fakes = self._fakes(batch)
        reals = image_pyramid(batch["target"], len(fakes))
        terms: Terms = {}
        for scale, (judge, real, fake) in enumerate(zip(self.discriminators, reals, fakes, strict=True)):
            terms |= self.adversary.discriminator_terms(judge, real, fake, batch, f"scale{scale}")
        return terms | self.adversary.projected_terms(batch["target"], fakes[0], batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool the discriminator of every scale, and leave things where they are."""
        fakes = self._fakes(batch)
        sources = image_pyramid(batch["source"], len(fakes))
        fooled = [
            self.adversary.generator_loss(judge, fake, batch, f"scale{scale}")
            for scale, (judge, fake) in enumerate(zip(self.discriminators, fakes, strict=True))
        ]
        pairs = list(zip(fakes, sources, strict=True))[self.compared]
        terms = {
            "fool": self.gan * torch.stack(fooled).mean(),
            "reconstruction": self.reconstruction * torch.stack([self.distance(*pair) for pair in pairs]).mean(),
        }
        terms |= self.adversary.fool_projected(fakes[0], batch)
        if self.frequency:
            hard = torch.stack([focal_frequency_loss(*pair) for pair in pairs])
            terms["frequency"] = self.frequency * hard.mean()
        return terms | (self._perceptual_terms(fakes[0], batch) if self.features is not None else {})

    def _perceptual_terms(self, fake: Tensor, batch: Batch) -> Terms:
        """What a frozen network sees in the finest picture."""
        seen = self.features(fake, STYLE_LAYERS)
        terms: Terms = {}
        if self.content:
            with torch.no_grad():
                shown = self.features(batch["source"], [CONTENT_LAYER])[CONTENT_LAYER]
            terms["content"] = self.content * content_loss(seen[CONTENT_LAYER], shown)
        if self.style:
            with torch.no_grad():
                wanted = self.features(batch["target"], STYLE_LAYERS)
            terms["style"] = self.style * style_perceptual(seen, wanted)
        return terms

    def _fakes(self, batch: Batch) -> list[Tensor]:
        """The newest fakes of all scales with their graph: one forward pass serves both players."""
        names = [f"fake{scale}" for scale in range(len(self.discriminators))]
        if names[0] not in batch:
            batch.update(zip(names, self.generator.pyramid(batch["source"]), strict=True))
        return [batch[name] for name in names]
