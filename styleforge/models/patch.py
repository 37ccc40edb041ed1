"""Discriminators that judge patches: PatchGAN (pix2pix, Isola et al., 2017) and its 1x1 form."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as add_spectral_norm

from ..configs import Channels, Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BlurDown, Norm, init_normal, norm


class PatchDiscriminator(PretrainedMixin, tags=["discriminator"]):
    """A map of logits, one for each overlapping patch: 34 px wide with 2 layers, 70 with 3, 142 with 4.

    Args:
        in_channels: channels of the picture; twice as many for pix2pix, which joins source and target.
        width: channels after the first convolution, doubled up to 8 times.
        layers: steps that halve the size.
        norm: instance, batch or none. With spectral norm, "none" is usual.
        downsample: "stride", or "blur" as in CUT against aliasing (its gradients leave no grid).
        spectral_norm: bound each convolution's gain (Miyato et al., 2018).
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
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(smallest=3 * 2**layers, output="logits")
        widths = [in_channels, *(width * min(2**n, 8) for n in range(layers + 1))]
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
        steps.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.layers = nn.Sequential(*steps)
        _finish(self, spectral_norm)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to logits (B, 1, h, w)."""
        return self.layers(image)


class PixelDiscriminator(PretrainedMixin, tags=["discriminator"]):
    """A logit for each pixel, from 1x1 convolutions: judges colours only.

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
        _finish(self, spectral_norm)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to logits (B, 1, H, W)."""
        return self.layers(image)


def _finish(network: nn.Module, spectral_norm: bool) -> None:
    init_normal(network)
    if spectral_norm:
        for module in list(network.modules()):
            if isinstance(module, nn.Conv2d):
                add_spectral_norm(module)


_norm = norm  # the constructors' argument of that name hides it
