"""Discriminators that judge patches: PatchGAN (pix2pix, Isola et al., 2017), its 1x1 form, and several at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Channels, Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BlurDown, Norm, bound_gain, init_normal, norm


class PatchDiscriminator(PretrainedMixin, tags=["discriminator"]):
    """A map of logits, one for each overlapping patch: 34 px wide with 2 layers, 70 with 3, 142 with 4.

    Args:
        in_channels: channels of the picture; twice as many for pix2pix, which joins source and target.
        width: channels after the first convolution, doubled up to 8 times.
        layers: steps that halve the size.
        norm: instance, batch or none. With spectral norm, "none" is usual.
        downsample: "stride", or "blur" as in CUT against aliasing (its gradients leave no grid).
        spectral_norm: bound each convolution's gain (Miyato et al., 2018).
        ending: convolutions that keep the size, after the steps: "two" as in the paper, or "one" as in PyTorch-GAN,
            where a row and a column of zeros more stand above and to the left of it.
    """

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        width: Width = 64,
        layers: Annotated[int, Range(1, 8)] = 3,
        norm: Norm = "instance",
        downsample: Literal["stride", "blur"] = "stride",
        spectral_norm: bool = False,
        ending: Literal["two", "one"] = "two",
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(smallest=3 * 2**layers, output="logits")
        widths = [in_channels, *(width * min(2**n, 8) for n in range(layers + (ending == "two")))]
        steps: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(pairwise(widths)):
            first, last = level == 0, level == layers
            stride = 1 if last or downsample == "blur" else 2
            bias = first or norm == "none"
            steps.append(nn.Conv2d(inputs, outputs, 4, stride, 1, bias=bias))
            if not first and norm != "none":
                steps.append(_norm(norm, outputs))
            steps.append(nn.LeakyReLU(0.2, inplace=True))
            if downsample == "blur" and not last:
                steps.append(BlurDown())
        if ending == "one":
            steps.append(nn.ZeroPad2d((1, 0, 1, 0)))
        steps.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.layers = nn.Sequential(*steps)
        init_normal(self)
        if spectral_norm:
            bound_gain(self)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to logits (B, 1, h, w)."""
        return self.layers(image)

    def features(self, image: Tensor) -> list[Tensor]:
        """What feature matching compares (pix2pixHD): the maps (B, C, h, w) after each LeakyReLU, finest first."""
        maps, x = [], image
        for layer in self.layers[:-1]:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                maps.append(x)
        return maps


class PixelDiscriminator(PretrainedMixin, tags=["discriminator"]):
    """A logit for each pixel, from 1x1 convolutions: judges colors only.

    Args: as :class:`PatchDiscriminator`.
    """

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        width: Width = 64,
        norm: Norm = "instance",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        # An instance norm needs more than one pixel.
        self.capabilities = Capabilities(smallest=2 if norm == "instance" else 1, output="logits")
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 1, bias=norm == "none"),
            _norm(norm, 2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            # The reference gives this one a bias with instance norm only.
            nn.Conv2d(2 * width, 1, 1, bias=norm == "instance"),
        )
        init_normal(self)
        if spectral_norm:
            bound_gain(self)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to logits (B, 1, H, W)."""
        return self.layers(image)


class MultiScaleDiscriminator(PretrainedMixin, tags=["discriminator"]):
    """Several PatchGANs, each on the picture at half the size of the one before (pix2pixHD, Wang et al., 2018).

    The coarse ones judge the whole, the fine ones the texture. They do not share weights. The reference pads its
    convolutions by 2, ours are those of :class:`PatchDiscriminator`.

    Args:
        scales: how many of them; 2 or 3 are usual.
        in_channels: as for :class:`PatchDiscriminator`.
        width: see there.
        layers: see there.
        norm: see there.
        downsample: see there.
        spectral_norm: see there.
    """

    def __init__(
        self,
        *,
        scales: Annotated[int, Range(1, 5)] = 2,
        in_channels: Channels = 3,
        width: Width = 64,
        layers: Annotated[int, Range(1, 8)] = 3,
        norm: Norm = "instance",
        downsample: Literal["stride", "blur"] = "stride",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            PatchDiscriminator(
                in_channels=in_channels,
                width=width,
                layers=layers,
                norm=norm,
                downsample=downsample,
                spectral_norm=spectral_norm,
            )
            for _ in range(scales)
        )
        smallest = self.scales[0].capabilities.smallest * 2 ** (scales - 1)
        self.capabilities = Capabilities(smallest=smallest, output="logits")

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to the logits of all scales, (B, N)."""
        return torch.cat([logits.flatten(1) for logits in self.judge(image)], 1)

    def judge(self, image: Tensor) -> list[Tensor]:
        """Logits (B, 1, h, w) of each scale, finest first: a loss that averages over them lets all count alike."""
        return [network(x) for network, x in self._pyramid(image)]

    def features(self, image: Tensor) -> list[Tensor]:
        """As :meth:`PatchDiscriminator.features`, of all scales, finest first."""
        return [feature for network, x in self._pyramid(image) for feature in network.features(x)]

    def _pyramid(self, image: Tensor) -> Iterator[tuple[PatchDiscriminator, Tensor]]:
        for number, network in enumerate(self.scales):
            if number:
                image = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
            yield network, image


_norm = norm  # the constructors' argument of that name hides it
