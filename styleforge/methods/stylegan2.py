"""StyleGAN2: pictures from noise that can be taken apart into coarse and fine (Karras et al., 2020)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..configs import Options, Range, Weight, Width
from ..errors import ConfigError
from ..hub import PretrainedMixin
from ..losses import Adversarial, path_length
from ..models import StyleGAN2Discriminator, StyleGAN2Generator
from ..models.stylegan2 import Size
from .base import Adversary, Batch, Method, Player, Terms

HEADS_RATE = 0.1  # of the learning rate: unlike StyleGAN2's layers those of the projected discriminator are not scaled


class StyleGAN2(Method):
    """Generator and discriminator of StyleGAN2, with augmentation so that some hundred pictures are enough.

    Two differences from the reference: both players share the newest pictures, which saves a pass through the
    generator; and the lazy penalties are part of an ordinary step, so Adam's settings need no correction for steps
    of their own.

    Args:
        size: side of the pictures; that of the run.
        width: channels at 128 px, of the generator; see :class:`~styleforge.models.StyleGAN2Generator`.
        discriminator_width: the same of the discriminator.
        max_width: most channels of both.
        noise_size: length of the noise.
        style_size: length of a style code.
        mapping_layers: layers from noise to code.
        group: pictures whose deviation the discriminator sees.
        mixing: share of the pictures whose fine scales have the code of another noise than the coarse ones.
        path_length: weight of keeping steps between styles even; 0 leaves it out.
        path_every: steps between two of these.
        adversarial: see :func:`~styleforge.losses.discriminator_loss`.
        penalty: on the discriminator's gradient, "r1" or "wgan-gp".
        penalty_weight: of the penalty; for "r1", .0001 size^2 / batch when null. That is half of the usual gamma,
            because our loss of the discriminator is half of StyleGAN's.
        penalty_every: turns between two penalties, each weighted so many times more.
        augment: of all that the discriminator sees; "" for none, which takes ten thousands of pictures.
        lr: learning rate of the generator.
        adversary: how the discriminator is trained, see :class:`~styleforge.methods.base.Adversary`.
    """

    data = "images"
    batch_size = 16
    paper = "https://arxiv.org/abs/1912.04958"
    path_mean: Tensor

    def __init__(
        self,
        *,
        size: Size = 128,
        width: Width = 64,
        discriminator_width: Width = 64,
        max_width: Annotated[int, Range(1, 4096)] = 512,
        noise_size: Annotated[int, Range(1, 4096)] = 512,
        style_size: Annotated[int, Range(1, 4096)] = 512,
        mapping_layers: Annotated[int, Range(1, 32)] = 8,
        group: Annotated[int, Range(1, 64)] = 4,
        mixing: Annotated[float, Range(0, 1)] = 0.9,
        path_length: Weight = 2.0,
        path_every: Annotated[int, Range(1, 1000)] = 4,
        adversarial: Adversarial = "nonsaturating",
        penalty: Literal["none", "r1", "wgan-gp"] = "r1",
        penalty_weight: Weight | None = None,
        penalty_every: Annotated[int, Range(1, 1000)] = 16,
        augment: str = "color,translation,cutout",
        lr: Annotated[float, Range(0, 1)] = 2e-3,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.adversary = Adversary(
            adversarial=adversarial,
            penalty=penalty,
            penalty_weight=10.0 if penalty_weight is None else penalty_weight,
            penalty_every=penalty_every,
            augment=augment,
            **adversary,
        )
        if self.adversary.spectral_norm:
            raise ConfigError(
                "StyleGAN2's discriminator has no spectral norm",
                todo="Leave spectral_norm out: its layers are scaled already, and R1 keeps it smooth.",
            )
        self.r1_by_size = penalty == "r1" and penalty_weight is None
        self.mixing, self.path_length, self.path_every, self.lr = mixing, path_length, path_every, lr
        self.generator = StyleGAN2Generator(
            size=size,
            width=width,
            max_width=max_width,
            noise_size=noise_size,
            style_size=style_size,
            mapping_layers=mapping_layers,
        )
        self.discriminator = StyleGAN2Discriminator(
            size=size, width=discriminator_width, max_width=max_width, group=group
        )
        self.register_buffer("path_mean", torch.zeros(()))

    def players(self) -> list[Player]:  # noqa: D102
        betas = (0.0, 0.99)
        judges = (self.discriminator, *self.adversary.heads)
        groups = tuple((tuple(n.parameters()), 1.0 if n is self.discriminator else HEADS_RATE) for n in judges)
        return [
            self.adversary.player("d", judges, self.discriminator_terms, self.lr, betas=betas, groups=groups),
            Player("generator", (self.generator,), self.generator_terms, self.lr, betas),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell the pictures from fakes, and now and then be smooth about it."""
        real, fake = batch["target"], self._fake(batch)
        if self.r1_by_size:
            self.adversary.penalty_weight = 1e-4 * real[0, 0].numel() / len(real)
        terms = self.adversary.discriminator_terms(self.discriminator, real, fake, batch)
        return terms | self.adversary.projected_terms(real, fake, batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool the discriminator, and now and then even out the way between styles."""
        fake = self._fake(batch)
        terms = {"fool": self.adversary.generator_loss(self.discriminator, fake, batch)}
        terms |= self.adversary.fool_projected(fake, batch)
        step = batch.turn // self.adversary.n_critic
        if self.path_length and step % self.path_every == 0:
            terms["path_length"] = self.path_length * self.path_every * self._path_length(batch)
        return terms

    def preview(
        self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A real picture, three generated ones, and the last of these with a code nearer to the mean."""
        real, style = images["target"], styles[""]
        noise = torch.randn(3, style.config["noise_size"], generator=generator).to(real)
        samples = {f"sample {n}": made for n, made in enumerate(style(noise).split(1), 1)}
        return {"target": real, **samples, "sample 3, truncated": style(noise[2:], truncation=0.6)}

    def _fake(self, batch: Batch) -> Tensor:
        """The newest pictures with their graph: one forward pass serves both players."""
        if "fake" not in batch:
            batch["fake"], _ = self._draw(batch, "fake", len(batch["target"]))
        return batch["fake"]

    def _draw(self, batch: Batch, purpose: str, count: int) -> tuple[Tensor, Tensor]:
        """New pictures, and their style codes (count, layers, style_size), some of them mixed out of two."""
        generator, layers = batch.generator(purpose), self.generator.layers
        noise = torch.randn(2 * count, self.generator.config["noise_size"], generator=generator)
        first, second = self.generator.codes(noise.to(batch["target"])).split(count)
        crossing = torch.randint(1, layers, (count, 1), generator=generator)
        mixed = torch.rand(count, 1, generator=generator) < self.mixing
        taken = mixed & (torch.arange(layers) >= crossing)
        codes = torch.where(taken[:, :, None].to(first.device), second, first)
        return self.generator.synthesize(codes, self.generator.fresh_noises(count, generator)), codes

    def _path_length(self, batch: Batch) -> Tensor:
        """Of half as many pictures, as in the paper; in float32, because gradients of gradients are taken."""
        with torch.autocast(batch["target"].device.type, enabled=False):
            images, codes = self._draw(batch, "path", max(1, len(batch["target"]) // 2))
            penalty, self.path_mean = path_length(images, codes, self.path_mean, batch.generator("direction"))
        return penalty
