"""AnimeGAN: photographs into drawings, from unpaired pictures (Chen et al., 2020), in its second version."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import features as feature_networks
from ..configs import Options, Range, Weight, Width
from ..losses import color_loss, gram, gray, total_variation
from ..models import AnimeGANDiscriminator, AnimeGANGenerator
from ..precision import full_precision
from .base import Adversary, Batch, Method, Player, Terms


class AnimeGAN(Method):
    """Texture from the drawings, colors from the photograph, and edges that the discriminator insists on.

    To the discriminator drawings without color, and drawings with soft edges, are fakes as well.

    Args:
        width: base channels of the generator.
        align_corners: see :class:`~styleforge.models.AnimeGANGenerator`.
        discriminator_width: base channels of the discriminator.
        discriminator_layers: see :class:`~styleforge.models.AnimeGANDiscriminator`.
        features: frozen network: "vgg19" from the Hub, or a local file; see :func:`styleforge.features.read`.
        layer: its layer that content and style are compared at.
        gan: weight of fooling the discriminator.
        content: weight of what the source shows, L1 of features, as a share of their size.
        style: weight of the texture of drawings without their colors, L1 of Gram matrices, likewise.
        color: weight of the source's colors; see :func:`~styleforge.losses.color_loss`.
        tv: weight of the total variation.
        gray: weight of drawings without color as fakes; 0 for styles that have none themselves.
        edges: weight of drawings with soft edges as fakes.
        warmup: steps, at the beginning, in which the generator learns to paint the photograph itself: its content, and
            its pixels (L1, with the weight of `color`; the paper has the content only). The discriminator pauses.
        lr: learning rate of the generator.
        spectral_norm: bound the gain of each convolution of the discriminator (Miyato et al., 2018).
    """

    data = "unpaired"
    batch_size = 4
    paper = "https://doi.org/10.1007/978-981-15-5577-0_18"

    def __init__(
        self,
        *,
        width: Width = 32,
        align_corners: bool = True,
        discriminator_width: Width = 32,
        discriminator_layers: Annotated[int, Range(1, 6)] = 2,
        features: str = "vgg19",
        layer: str = "relu4_4",
        gan: Weight = 1.0,
        content: Weight = 1.5,
        style: Weight = 3.0,
        color: Weight = 10.0,
        tv: Weight = 1.0,
        gray: Weight = 1.0,
        edges: Weight = 0.6,
        warmup: Annotated[int, Range(0, 10**9)] = 500,
        lr: Annotated[float, Range(0, 1)] = 2e-4,
        spectral_norm: bool = True,
        **adversary: Annotated[Any, Options(Adversary)],
    ) -> None:
        super().__init__()
        self.adversary = Adversary(spectral_norm=spectral_norm, features=features, **adversary)
        self.gan, self.content, self.style, self.color, self.tv = gan, content, style, color, tv
        self.gray, self.edges, self.warmup, self.layer, self.lr = gray, edges, warmup, layer, lr
        self.features = feature_networks.load(features)
        self.generator = AnimeGANGenerator(width=width, align_corners=align_corners)
        self.discriminator = AnimeGANDiscriminator(
            width=discriminator_width, layers=discriminator_layers, spectral_norm=spectral_norm
        )

    def players(self) -> list[Player]:  # noqa: D102
        return [
            self.adversary.player("d", (self.discriminator, *self.adversary.heads), self.discriminator_terms, self.lr),
            Player("generator", (self.generator,), self.generator_terms, self.lr),
        ]

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Tell drawings from styled photographs, from drawings without color, and from those with soft edges."""
        if batch.turn < self.warmup:
            return {}
        real = batch["target"]
        terms = self.adversary.discriminator_terms(self.discriminator, real, self._fake(batch), batch)
        more = {"gray": (self.gray, gray(real).expand_as(real)), "edges": (self.edges, smooth_edges(real))}
        for name, (weight, fake) in more.items():
            if weight:
                found = self.adversary.fakes_terms(self.discriminator, fake, batch, name)
                terms |= {term: weight * loss for term, loss in found.items()}
        return terms | self.adversary.projected_terms(real, self._fake(batch), batch)

    def generator_terms(self, batch: Batch) -> Terms:
        """Fool the discriminator, with the source's content and colors and the drawings' texture."""
        source, fake = batch["source"], self._fake(batch)
        seen = self._see(fake)
        with torch.no_grad():
            shown = self._see(source)
        content = self.content * _share(seen, shown)
        if batch.turn < self.warmup:
            return {"content": content, "photograph": self.color * F.l1_loss(fake, source)}
        with torch.no_grad():
            texture = gram(self._see(gray(batch["target"]).expand_as(batch["target"])))
        terms = {
            "fool": self.gan * self.adversary.generator_loss(self.discriminator, fake, batch),
            "content": content,
            "style": self.style * _share(gram(seen), texture),
            "color": self.color * color_loss(fake, source),
            "tv": self.tv * total_variation(fake, "mean_square"),
        }
        return terms | self.adversary.fool_projected(fake, batch)

    def _see(self, image: Tensor) -> Tensor:
        return self.features(image, [self.layer])[self.layer]


@full_precision
def _share(x: Tensor, target: Tensor) -> Tensor:
    """L1 as a share of the target's own size."""
    return F.l1_loss(x, target) / target.abs().mean()


@full_precision
def smooth_edges(image: Tensor, threshold: float = 0.6) -> Tensor:
    """Blur the surroundings of edges, and nothing else.

    CartoonGAN, and AnimeGAN after it, prepare files with Canny's thresholds of 100 and 200 (of Sobel's slopes, in
    [0, 255]); ours is one threshold between them, on the fly. Dilation and blur are theirs.

    Args:
        image: (B, 3, H, W) in [-1, 1], at least 3 pixels a side.
        threshold: the sum of both slopes, of luma in [0, 1], above which there is an edge.

    Returns:
        The same shape.
    """
    luma = F.pad((gray(image) + 1) / 2, (1, 1, 1, 1), mode="reflect")
    sobel = luma.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    slopes = F.conv2d(luma, torch.stack([sobel, sobel.T])[:, None]).abs().sum(1, keepdim=True)
    edges = F.max_pool2d((slopes > threshold).to(image.dtype), 5, stride=1, padding=2)
    row = image.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = (row[:, None] * row).expand(3, 1, 5, 5)
    return torch.lerp(image, F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=3), edges)
