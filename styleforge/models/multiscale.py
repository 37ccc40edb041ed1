"""A generator of several scales that tell each other what they see, for noise-free translation into abstract art."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Channels, Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BlurDown, BlurUp, mean_std
from .resnet import ResidualBlock


def image_pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """A picture at several sizes, the finest first, each half as large as the one before (means of 2x2 pixels).

    Args:
        image: (B, C, H, W), H and W multiples of `2 ** (scales - 1)`.
        scales: how many.
    """
    return list(accumulate(range(1, scales), lambda finer, _: F.avg_pool2d(finer, 2), initial=image))


class Exchange(nn.Module):
    """Every scale gets what all others have: resized, through a 1x1 convolution for each pair, and added (HRNet).

    Args:
        channels: of the scales, the finest first.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.down, self.up = BlurDown(), BlurUp()
        self.convs = nn.ModuleDict(
            {
                f"{giver}_{taker}": nn.Conv2d(inputs, outputs, 1, bias=False)
                for giver, inputs in enumerate(channels)
                for taker, outputs in enumerate(channels)
                if giver != taker
            }
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of all scales, (B, C_s, H / 2^s, W / 2^s), to the same shapes."""
        given = list(features)
        scales = range(len(features))
        for giver, x in enumerate(features):
            for taker in scales[giver + 1 :]:
                x = self.down(x)
                given[taker] = given[taker] + self.convs[f"{giver}_{taker}"](x)
        for taker in scales[:-1]:
            # Resizing is linear, so what comes from below shares its steps up.
            total: Tensor | float = 0.0
            for giver in reversed(scales[taker + 1 :]):
                total = self.up(total + self.convs[f"{giver}_{taker}"](features[giver]))
            given[taker] = given[taker] + total
        return given


class StyledNorm(nn.Module):
    """An instance norm whose deviations and means come from a style code (AdaIN, Huang and Belongie, 2017)."""

    def __init__(self, channels: int, style_size: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.style = nn.Linear(style_size, 2 * channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, C, H, W) and a code (B, style_size) to (B, C, H, W)."""
        gain, mean = self.style(code)[..., None, None].chunk(2, dim=1)
        return torch.addcmul(mean, self.norm(x), 1 + gain)


class StyledBlock(nn.Module):
    """conv3, styled norm, ReLU, conv3, styled norm, plus the input."""

    def __init__(self, channels: int, style_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm1 = StyledNorm(channels, style_size)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm2 = StyledNorm(channels, style_size)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """As :meth:`StyledNorm.forward`."""
        y = F.relu(self.norm1(self.conv1(x), code), inplace=True)
        return x + self.norm2(self.conv2(y), code)


class Painter(nn.Module):
    """What one scale paints over the next coarser one, whose statistics are its style.

    Args:
        channels: of its features.
        coarser: channels of the next coarser scale; None where there is none, and it has its style from itself.
        out_channels: of its picture.
        blocks: residual blocks.
        style_size: of its style code.
    """

    def __init__(self, channels: int, coarser: int | None, out_channels: int, blocks: int, style_size: int) -> None:
        super().__init__()
        if coarser is not None:
            self.up = BlurUp()
            self.lateral = nn.Conv2d(coarser, channels, 1, bias=False)
        self.code = nn.Linear(2 * (coarser or channels), style_size)
        self.norm = StyledNorm(channels, style_size)
        self.blocks = nn.ModuleList([StyledBlock(channels, style_size) for _ in range(blocks)])
        self.head = nn.Conv2d(channels, out_channels, 3, padding=1, padding_mode="reflect")
        nn.init.xavier_normal_(self.head.weight, gain=0.2)  # the strokes of all scales together begin within tanh

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoded features of this scale and painted ones of the coarser to painted ones and strokes.

        Args:
            x: (B, channels, H, W).
            coarser: (B, C, H / 2, W / 2).

        Returns:
            (B, channels, H, W), and (B, out_channels, H, W), to be added to the coarser picture before its tanh.
        """
        statistics = mean_std(x if coarser is None else coarser)
        code = self.code(torch.cat(statistics, dim=1).flatten(1).to(x.dtype))
        # Of one length: a style that grew with what it styles would grow from scale to scale.
        code = F.layer_norm(code, code.shape[1:])
        if coarser is not None:
            x = x + self.up(self.lateral(coarser))
        x = self.norm(x, code)
        for block in self.blocks:
            x = block(x, code)
        return x, self.head(x)


class MultiScaleGenerator(PretrainedMixin, tags=["image-to-image", "multi-scale"]):
    """One branch for each size of an image pyramid; forms come from the coarse ones, strokes from the fine ones.

    Our reading of "cross-scale style learning". Encoding, after every block each branch gets the features of all
    others, as in HRNet (Sun et al., 2019). Painting goes from coarse to fine: mean and deviation of each scale's
    features become a code that styles the norms of the next finer scale (AdaIN), and each scale adds its strokes to
    the picture of the one before, so every scale has a picture that can be judged (MSG-GAN, Karnewar and Wang, 2020,
    with the sum of StyleGAN2) and what holds for the coarsest, holds roughly for the finest.

    Args:
        in_channels: channels of the input picture.
        out_channels: channels of the output picture.
        scales: sizes; each is half of the one before.
        width: channels of the finest branch, doubled from scale to scale up to 8 times.
        blocks: residual blocks of each branch, before and after the styles are known.
        style_size: numbers in a style code.
        cross_scale: whether branches exchange features and styles. Without, each is alone, and only their strokes
            are added up: the comparison that shows what the exchange is good for.
    """

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        out_channels: Channels = 3,
        scales: Annotated[int, Range(1, 8)] = 4,
        width: Width = 32,
        blocks: Annotated[int, Range(1, 16)] = 2,
        style_size: Annotated[int, Range(2, 4096)] = 64,
        cross_scale: bool = True,
    ) -> None:
        super().__init__()
        # Two pixels at the coarsest scale: fewer have neither a mirrored border nor a deviation.
        self.capabilities = Capabilities(multiple=2 ** (scales - 1), smallest=2**scales)
        channels = [width * min(2**scale, 8) for scale in range(scales)]
        self.stems = nn.ModuleList(
            nn.Conv2d(in_channels, own, 3, padding=1, padding_mode="reflect") for own in channels
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(own, "instance", dropout=False) for own in channels) for _ in range(blocks)
        )
        self.exchanges = nn.ModuleList(Exchange(channels) for _ in range(blocks if cross_scale else 0))
        coarser = [*channels[1:], None] if cross_scale else [None] * scales
        self.painters = nn.ModuleList(
            Painter(own, other, out_channels, blocks, style_size) for own, other in zip(channels, coarser, strict=True)
        )
        self.up = BlurUp()

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, in_channels, H, W) in [-1, 1], H and W multiples of `2 ** (scales - 1)`, at least twice that.

        Returns:
            (B, out_channels, H, W) in [-1, 1].
        """
        return self.pyramid(image)[0]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """The pictures of all scales, the finest first.

        Args:
            image: as for :meth:`forward`.

        Returns:
            (B, out_channels, H / 2^s, W / 2^s) in [-1, 1] for each scale s.
        """
        pictures: list[Tensor] = []
        painted, total = None, None
        for painter, x in zip(reversed(self.painters), reversed(self._encode(image)), strict=True):
            painted, strokes = painter(x, painted if self.exchanges else None)
            total = strokes if total is None else strokes + self.up(total)
            pictures.append(total.tanh())
        return pictures[::-1]

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Features (B, C_s, H / 2^s, W / 2^s) of all scales, the finest first."""
        # In one layout: where a channels-last stream passes by an instance norm, torch's (2.13, on CPUs, a single
        # picture) answers its gradient with nonsense.
        pictures = image_pyramid(image.contiguous(), len(self.stems))
        features = [F.relu(stem(x), inplace=True) for stem, x in zip(self.stems, pictures, strict=True)]
        for index, branches in enumerate(self.blocks):
            features = [block(x) for block, x in zip(branches, features, strict=True)]
            if self.exchanges:
                features = self.exchanges[index](features)
        return features
