"""The light networks of AnimeGAN (Chen et al., 2020) in their second version."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import bound_gain, init_he, init_normal


class ConvNorm(nn.Sequential):
    """A convolution with reflected borders, a layer norm, and a LeakyReLU.

    The norm is over all channels together, so it does not remove a bias. The reference has one in the convolutions
    that keep the channels apart, and nowhere else.
    """

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1, groups: int = 1) -> None:
        before = (size - 1) // 2 if stride == 1 else 0  # halving steps look to the right and below only
        super().__init__(
            nn.ReflectionPad2d((before, size // 2, before, size // 2)),
            nn.Conv2d(inputs, outputs, size, stride, groups=groups, bias=groups > 1),
            nn.GroupNorm(1, outputs),
            nn.LeakyReLU(0.2, inplace=True),
        )


class InvertedBlock(nn.Module):
    """Twice as many channels, a convolution of each by itself, and back; plus the input where the widths agree."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = 2 * inputs
        self.residual = inputs == outputs
        self.layers = nn.Sequential(
            ConvNorm(inputs, wide, size=1),
            ConvNorm(wide, wide, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.GroupNorm(1, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        return x + self.layers(x) if self.residual else self.layers(x)


class AnimeGANGenerator(PretrainedMixin, tags=["image-to-image", "animegan"]):
    """Two steps down, inverted bottlenecks, two bilinear steps up.

    Args:
        width: channels after the first convolution; 8 times as many in the blocks.
        align_corners: how the steps up interpolate. True keeps the corners in place, as the published weights
            expect, and any size; False is usual elsewhere.
    """

    def __init__(self, *, width: Width = 32, align_corners: bool = True) -> None:
        super().__init__()
        self.capabilities = Capabilities(multiple=1 if align_corners else 4, smallest=8)
        self.align_corners = align_corners
        self.down = nn.Sequential(
            ConvNorm(3, width, size=7),
            ConvNorm(width, 2 * width, stride=2),
            ConvNorm(2 * width, 2 * width),
            ConvNorm(2 * width, 4 * width, stride=2),
            ConvNorm(4 * width, 4 * width),
        )
        self.blocks = nn.Sequential(
            ConvNorm(4 * width, 4 * width),
            InvertedBlock(4 * width, 8 * width),
            *(InvertedBlock(8 * width, 8 * width) for _ in range(3)),
            ConvNorm(8 * width, 4 * width),
        )
        self.middle = nn.Sequential(ConvNorm(4 * width, 4 * width), ConvNorm(4 * width, 4 * width))
        self.up = nn.Sequential(
            ConvNorm(4 * width, 2 * width), ConvNorm(2 * width, 2 * width), ConvNorm(2 * width, width, size=7)
        )
        self.head = nn.Conv2d(width, 3, 1, bias=False)
        init_he(self, last=self.head)

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, 3, H, W) in [-1, 1], at least 8 pixels a side, without `align_corners` multiples of 4.

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        height, width = image.shape[2:]
        x = self.blocks(self.down(image))
        x = self.middle(self._enlarge(x, height // 2, width // 2))
        return self.head(self.up(self._enlarge(x, height, width))).tanh()

    def _enlarge(self, x: Tensor, height: int, width: int) -> Tensor:
        """To that size; without aligned corners to the double one, as upstream does whatever the size was."""
        if self.align_corners:
            return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class AnimeGANDiscriminator(PretrainedMixin, tags=["discriminator"]):
    """A map of logits for patches 17 px wide with 1 layer, 37 with 2, 77 with 3; the norms see the whole picture.

    No convolution has a bias, as in the reference.

    Args:
        width: channels after the first convolution, twice as many with each layer, and once more at the end.
        layers: steps that halve the size.
        spectral_norm: bound each convolution's gain (Miyato et al., 2018).
    """

    def __init__(
        self, *, width: Width = 32, layers: Annotated[int, Range(1, 6)] = 2, spectral_norm: bool = True
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(smallest=2**layers, output="logits")
        steps: list[nn.Module] = [*_judged(3, width)]
        inputs = width
        for level in range(1, layers + 1):
            down, outputs = width * 2**level, width * 2 ** (level + 1)
            steps += [*_judged(inputs, down, stride=2), *_judged(down, outputs, norm=True)]
            inputs = outputs
        steps += [*_judged(inputs, inputs, norm=True), nn.Conv2d(inputs, 1, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*steps)
        init_normal(self)
        if spectral_norm:
            bound_gain(self)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, 1, h, w), where h and w are halved `layers` times, rounded up."""
        return self.layers(image)


def _judged(inputs: int, outputs: int, *, stride: int = 1, norm: bool = False) -> list[nn.Module]:
    norms = [nn.GroupNorm(1, outputs)] if norm else []
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        *norms,
        nn.LeakyReLU(0.2, inplace=True),
    ]
