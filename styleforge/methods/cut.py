"""CUT: one generator, from unpaired pictures, kept close by contrast (Park et al., 2020)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Options, Range, Weight, Width
from ..errors import ConfigError
from ..losses import ColorSpectra, patch_nce
from ..models import PatchDiscriminator, ResnetGenerator
from .base import Adversary, Batch, Method, Player, Terms, unsteadiness


class PatchHeads(nn.ModuleList):
    """For each feature map a small network that turns sampled places into unit vectors."""

    def __init__(self, channels: list[int], size: int = 256) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(inputs, size), nn.ReLU(), nn.Linear(size, size)) for inputs in channels
        )

    def forward(self, features: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Feature maps (B, C, h, w) and flat indices (P,) to vectors (B, P, size)."""
        vectors = []
        # Taken from flat maps: a permuted one would get its gradient as channels-last, for which torch's instance
        # norm (2.13, on CPUs, a single picture) answers nonsense.
        for head, feature, place in zip(self, features, places, strict=True):
            x = head(feature.flatten(2)[:, :, place].transpose(1, 2))
            x = x if x.dtype == torch.float64 else x.float()
            vectors.append(x / (x.norm(dim=2, keepdim=True) + 1e-7))
        return vectors


class CUT(Method):
    """The generator's own encoder compares patches: content stays without a way back.

    Half the networks of CycleGAN. The method called `fastcut` is this one with the paper's quicker settings: no
    identity term, a heavier contrast, mirrored turns.

    Args:
        width: base channels of the generator.
        blocks: its residual blocks; 6 at 128 px, 9 from 256 px on.
        downsample: see :class:`~styleforge.models.ResnetGenerator`.
        upsample: see there.
        border: see there. The paper has "zero"; with it our generator learnt stripes along the edges, by which the
            contrast told places of an even sky apart, and "reflect" cured it.
        detail: see there; a style without it can get it by `styleforge adapt --detail`.
        discriminator_width: base channels of the discriminator.
        discriminator_layers: 3 judges patches of 70 px, 2 of 34 px (better for textures at 128 px).
        discriminator_downsample: see :class:`~styleforge.models.PatchDiscriminator`.
        gan: weight of fooling the discriminator.
        nce: weight of the contrast between source and output.
        identity: contrast target pictures with their own translation too; calms colors, costs half the speed.
        identity_l1: weight of leaving target pictures alone, L1, as CycleGAN has it: keeps colors from drifting.
            Not in the paper; use it without `identity`.
        flip_equivariance: translate mirrored pictures in half of the turns.
        shift_equivariance: weight of the difference, L1, between the translation of a picture moved by 1 to 3 pixels
            and its moved translation. Not in the paper: a pattern that is bound to the grid of the network's steps (4
            pixels), and not to what is shown, stays where it is. Costs a third of the speed.
        spectrum: weight of :class:`~styleforge.losses.ColorSpectra`: detail as strong as in the target pictures,
            neither blurred nor made of rainbows. Not in the paper; 3 suits pictures that are near already, and drowns
            all else where they are not. The finest is only there where squares are not resized: with one zoom for
            all, 2,2 and not 1.7,2.
        nce_blocks: residual blocks whose output is compared, beside the picture and both steps down.
        patches: places compared in each feature map.
        temperature: of the contrast.
        head_width: size of the compared vectors.
        lr: learning rate of generator and heads.
        adversary: how the discriminators are trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "unpaired"
    paper = "https://arxiv.org/abs/2007.15651"

    def __init__(
        self,
        *,
        width: Width = 64,
        blocks: Annotated[int, Range(1, 64)] = 9,
        downsample: Literal["stride", "blur"] = "blur",
        upsample: Literal["transpose", "resize", "blur"] = "blur",
        border: Literal["zero", "reflect"] = "reflect",
        detail: bool = False,
        discriminator_width: Width = 64,
        discriminator_layers: Annotated[int, Range(1, 8)] = 3,
        discriminator_downsample: Literal["stride", "blur"] = "blur",
        gan: Weight = 1.0,
        nce: Weight = 1.0,
        identity: bool = True,
        identity_l1: Weight = 0.0,
        flip_equivariance: bool = False,
        shift_equivariance: Weight = 0.0,
        spectrum: Weight = 0.0,
        nce_blocks: list[int] = (0, 4),  # type: ignore[assignment]
        patches: Annotated[int, Range(1, 4096)] = 256,
        temperature: Annotated[float, Range(1e-3, 10)] = 0.07,
        head_width: Width = 256,
        lr: Annotated[float, Range(0, 1)] = 2e-4,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        if max(nce_blocks, default=0) >= blocks or min(nce_blocks, default=0) < 0:
            raise ConfigError(
                "nce_blocks names a block that the generator does not have",
                found=list(nce_blocks),
                allowed=f"0 to {blocks - 1}",
                todo="Give fewer nce_blocks, or more blocks.",
            )
        self.adversary = Adversary(**adversary)
        self.gan, self.nce, self.lr = gan, nce, lr
        self.identity, self.identity_l1 = identity, identity_l1
        self.flip_equivariance, self.shift_equivariance = flip_equivariance, shift_equivariance
        self.spectrum, self.spectra = spectrum, ColorSpectra() if spectrum else None
        self.nce_blocks = tuple(sorted(set(nce_blocks)))
        self.patches, self.temperature = patches, temperature
        self.generator = ResnetGenerator(
            width=width, blocks=blocks, downsample=downsample, upsample=upsample, border=border, detail=detail
        )
        self.heads = PatchHeads([3, 2 * width, 4 * width, *[4 * width] * len(self.nce_blocks)], head_width)
        self.discriminator = PatchDiscriminator(
            width=discriminator_width,
            layers=discriminator_layers,
            downsample=discriminator_downsample,
            **self.adversary.discriminator_options,
        )

    def players(self) -> list[Player]:  # noqa: D102
        # The discriminator first, as in the reference: the generator then meets its newest opinion.
        judges = (self.discriminator, *self.adversary.heads)
        return [
            self.adversary.player("d", judges, self.discriminator_terms, self.lr),
            Player("generator", (self.generator, self.heads), self.generator_terms, self.lr),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell target pictures from fakes."""
        fake = self._fake(batch)
        terms = self.adversary.discriminator_terms(self.discriminator, batch["target"], fake, batch)
        return terms | self.adversary.projected_terms(batch["target"], fake, batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool the discriminator, and let each patch of the output resemble its own source patch."""
        fake = self._fake(batch)
        fool = self.adversary.generator_loss(self.discriminator, fake, batch)
        share = self.nce / 2 if self.identity else self.nce
        terms = {"fool": self.gan * fool, "nce": share * self._contrast(batch, "source", fake)}
        terms |= self.adversary.fool_projected(fake, batch)
        if self.identity:
            terms["nce_identity"] = share * self._contrast(batch, "target", batch["identity"])
        if self.identity_l1:
            target = batch["target"].flip(3) if self._flipped(batch) else batch["target"]
            terms["identity"] = self.identity_l1 * F.l1_loss(batch["identity"], target)
        if self.shift_equivariance:
            source = batch["source"].flip(3) if self._flipped(batch) else batch["source"]
            terms["shift"] = self.shift_equivariance * unsteadiness(self.generator, source, fake, batch)
        if self.spectrum:
            terms["spectrum"] = self.spectrum * self.spectra(fake, batch["target"])
        return terms

    def _fake(self, batch: Batch) -> Tensor:
        """The newest fake with its graph: one forward pass serves both players."""
        if "fake" not in batch:
            both = self.identity or self.identity_l1 > 0
            images = torch.cat([batch["source"], batch["target"]]) if both else batch["source"]
            fakes = self.generator(images.flip(3) if self._flipped(batch) else images)
            if both:
                fakes, batch["identity"] = fakes.split(len(batch["source"]))
            batch["fake"] = fakes
        return batch["fake"]

    def _contrast(self, batch: Batch, name: str, output: Tensor) -> Tensor:
        """Mean of PatchNCE over the feature maps of `output` against those of `batch[name]`."""
        with torch.no_grad():  # keys get no gradient
            sources = self.generator.features(batch[name], self.nce_blocks)
        places = self._places(batch, name, [f.shape[2] * f.shape[3] for f in sources])
        outputs = self.generator.features(output, self.nce_blocks)
        if self._flipped(batch):
            outputs = [f.flip(3) for f in outputs]
        with torch.no_grad():
            keys = self.heads(sources, places)
        queries = self.heads(outputs, places)
        losses = [patch_nce(q, k, self.temperature) for q, k in zip(queries, keys, strict=True)]
        return torch.stack(losses).mean()

    def _places(self, batch: Batch, name: str, sizes: list[int]) -> list[Tensor]:
        """Which places of each feature map are compared, the same in all pictures of a batch."""
        generator = batch.generator(f"{name} patches")
        device = batch[name].device
        return [torch.randperm(size, generator=generator)[: self.patches].to(device) for size in sizes]

    def _flipped(self, batch: Batch) -> bool:
        return self.flip_equivariance and bool(torch.rand((), generator=batch.generator("flip")) < 0.5)
