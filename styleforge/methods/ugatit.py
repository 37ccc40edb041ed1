"""U-GAT-IT: two generators that undo each other, guided by attention (Kim et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import features as feature_networks
from ..configs import Options, Range, Weight, Width
from ..hub import PretrainedMixin
from ..losses import StyleKind, cam_loss, style_perceptual
from ..models import UGATITDiscriminator, UGATITGenerator
from ..models.ugatit import draw_heatmap
from .base import Adversary, Batch, Method, Player, Terms

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
OTHER = {"target": "source", "source": "target"}


class UGATIT(Method):
    """As CycleGAN, but classifiers that tell the domains apart point to where pictures must change.

    For styles that change shapes. The terms "cam" are large and say little; look at the others.

    Args:
        width: base channels of the generators.
        blocks: see :class:`~styleforge.models.UGATITGenerator`.
        light: see there.
        size: side of the training pictures, for full generators.
        fusion: see there. Not in the paper.
        discriminator_width: base channels of the discriminators; at 64, those with 7 layers have 53 million weights.
        global_layers: convolutions of the discriminators that see the whole picture, which must have a side of 96
            for 7, of 48 for 6, and so on.
        local_layers: of those that see patches.
        gan: weight of fooling a discriminator.
        cycle: weight of getting the picture back, L1.
        identity: weight of leaving pictures of the other domain alone, L1.
        cam: weight of telling the domains apart inside the generators.
        style: weight of the distance to the style of target pictures. Features differ in size: with the compressed
            VGG, 0.3 makes it about as large as `cycle`. Not in the paper.
        style_kind: what is compared for it, see :func:`~styleforge.losses.style_perceptual`.
        features: frozen network for it, loaded for no other reason: "vgg19" from the Hub, or a local file; see
            :func:`styleforge.features.read`.
        lr: learning rate of the generators.
        weight_decay: of all networks.
        spectral_norm: bound the gain of each convolution of the discriminators (Miyato et al., 2018).
        adversary: how the discriminators are trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "unpaired"
    paper = "https://arxiv.org/abs/1907.10830"

    def __init__(
        self,
        *,
        width: Width = 64,
        blocks: Annotated[int, Range(1, 64)] = 4,
        light: bool = True,
        size: Annotated[int, Range(8, 4096)] = 256,
        fusion: Literal["none", "pyramid"] = "none",
        discriminator_width: Width = 64,
        global_layers: Annotated[int, Range(3, 9)] = 7,
        local_layers: Annotated[int, Range(3, 9)] = 5,
        gan: Weight = 1.0,
        cycle: Weight = 10.0,
        identity: Weight = 10.0,
        cam: Weight = 1000.0,
        style: Weight = 0.0,
        style_kind: StyleKind = "statistics",
        features: str = "vgg19",
        lr: Annotated[float, Range(0, 1)] = 1e-4,
        weight_decay: Annotated[float, Range(0, 1)] = 1e-4,
        spectral_norm: bool = True,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.gan, self.cycle, self.identity, self.cam = gan, cycle, identity, cam
        self.style, self.style_kind, self.lr, self.weight_decay = style, style_kind, lr, weight_decay
        self.adversary = Adversary(spectral_norm=spectral_norm, features=features, **adversary)
        self.features = feature_networks.load(features, last=STYLE_LAYERS[-1]) if style else None
        # By the domain whose pictures they make, and judge.
        self.generators = nn.ModuleDict(
            {
                domain: UGATITGenerator(width=width, blocks=blocks, light=light, size=size, fusion=fusion)
                for domain in OTHER
            }
        )
        self.discriminators = nn.ModuleDict(
            {
                f"{domain}_{reach}": UGATITDiscriminator(
                    width=discriminator_width, layers=layers, spectral_norm=spectral_norm
                )
                for domain in OTHER
                for reach, layers in (("global", global_layers), ("local", local_layers))
            }
        )

    def players(self) -> list[Player]:  # noqa: D102
        generators, decay = tuple(self.generators.values()), self.weight_decay
        discriminators = (*self.discriminators.values(), *self.adversary.heads)
        # The discriminators first, as in the reference.
        return [
            self.adversary.player("d", discriminators, self.discriminator_terms, self.lr, weight_decay=decay),
            Player("generator", generators, self.generator_terms, self.lr, weight_decay=decay, after=self._clip_shares),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell pictures of each domain from fakes, patch by patch and by the classifiers inside."""
        terms: Terms = {}
        for name, discriminator in self.discriminators.items():
            domain = name.partition("_")[0]
            real, fake = batch[domain], self._translated(batch, domain)[0]
            found = self.adversary.discriminator_terms(_judge(discriminator), real, fake, batch, name)
            # The paper adds up what our loss takes the mean of. Adam alone would not notice, weight decay does.
            terms |= {term: 2 * loss for term, loss in found.items()}
        return terms | self.adversary.projected_terms(batch["target"], self._translated(batch, "target")[0], batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool the discriminators, get the pictures back, and know both domains apart."""
        terms: Terms = {}
        for name, discriminator in self.discriminators.items():
            fake = self._translated(batch, name.partition("_")[0])[0]
            terms[name] = self.gan * self.adversary.generator_loss(_judge(discriminator), fake, batch, name)
        for domain, other in OTHER.items():
            fake, same, logits = self._translated(batch, domain)
            back = self.generators[other](fake)
            told, known = logits.split([len(fake), len(same)])
            terms[f"cycle_{other}"] = self.cycle * F.l1_loss(back, batch[other])
            terms[f"identity_{domain}"] = self.identity * F.l1_loss(same, batch[domain])
            terms[f"cam_{domain}"] = self.cam * (cam_loss(told, True) + cam_loss(known, False))
        if self.features is not None:
            seen = self.features(self._translated(batch, "target")[0], STYLE_LAYERS)
            with torch.no_grad():
                wanted = self.features(batch["target"], STYLE_LAYERS)
            terms["style"] = self.style * style_perceptual(seen, wanted, self.style_kind)
        return terms | self.adversary.fool_projected(self._translated(batch, "target")[0], batch)

    def styles(self) -> dict[str, PretrainedMixin]:  # noqa: D102
        return {"": self.generators["target"], "reverse": self.generators["source"]}

    def preview(  # noqa: D102
        self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin], generator: torch.Generator
    ) -> dict[str, Tensor]:
        source = images["source"]
        styled, _, heatmap = styles[""].translate(source)
        return {"source": source, "styled": styled, "attention": draw_heatmap(heatmap, source.shape[2:])}

    def _translated(self, batch: Batch, domain: str) -> tuple[Tensor, Tensor, Tensor]:
        """What one generator makes of a batch, with its graph; one forward pass serves all terms of both players.

        Returns:
            Fakes from the other domain; its own domain's pictures once more; the logits of both, (2B, 2).
        """
        if f"fake_{domain}" not in batch:
            other, own = batch[OTHER[domain]], batch[domain]
            made, batch[f"cam_{domain}"], _ = self.generators[domain].translate(torch.cat([other, own]))
            batch[f"fake_{domain}"], batch[f"same_{domain}"] = made.split([len(other), len(own)])
        return batch[f"fake_{domain}"], batch[f"same_{domain}"], batch[f"cam_{domain}"]

    def _clip_shares(self) -> None:
        for generator in self.generators.values():
            generator.clip_rho()


def _judge(discriminator: UGATITDiscriminator) -> Callable[[Tensor], list[Tensor]]:
    """Logits of the patches, and of the classifiers, which must be fooled as well."""
    return lambda images: list(discriminator.judge(images)[:2])
