"""The noise GAN of DCGAN (Radford et al., 2015): pictures out of nothing, by convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from torch import Tensor, nn

from ..configs import Channels, Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BatchNorm, bound_gain, init_normal

Size = Literal[32, 64, 128, 256]
Kind = Literal["transpose", "resize", "dense", "dense-quarter"]
Statistics = Literal["running", "batch"]


class DCGANGenerator(PretrainedMixin, pipeline_tag="unconditional-image-generation", tags=["dcgan"]):
    """Noise becomes a small map of many channels, which doubles in size until it is a picture.

    Args:
        noise_size: length of the noise; more of it leaves room for more variety.
        size: side of the pictures.
        width: channels at half of that side; twice as many each time the side halves.
        kind: "transpose" doubles by transposed convolutions, as in the paper (prone to checkerboards), "resize" by
            repeating pixels before a convolution. "dense" begins with a linear layer at an eighth of the side and
            goes on by repeating pixels, with few channels and LeakyReLUs; "dense-quarter" begins at a quarter, as
            PyTorch-GAN does.
        out_channels: channels of the pictures.
        statistics: for batch norm at test time, "running" ones, or those of the pictures that are made together
            ("batch": how they look while training).
        eps: what batch norms behind convolutions add to the variance. PyTorch-GAN has 0.8, meant as a momentum.
    """

    capabilities = Capabilities(inputs=("noise",))

    def __init__(
        self,
        *,
        noise_size: Annotated[int, Range(1, 4096)] = 100,
        size: Size = 128,
        width: Width = 64,
        kind: Kind = "transpose",
        out_channels: Channels = 3,
        statistics: Statistics = "running",
        eps: Annotated[float, Range(0, 1)] = 1e-5,
    ) -> None:
        super().__init__()
        if kind.startswith("dense"):
            doublings = 2 if kind == "dense-quarter" else 3
            side, widths, activation = size >> doublings, doublings * [2 * width] + [width], nn.LeakyReLU(0.2, True)
            # This bias has a value for each place: the norm, whose mean is over all of them, does not cancel it.
            start = [nn.Linear(noise_size, widths[0] * side**2), nn.Unflatten(1, (-1, side, side))]
            start += [BatchNorm(widths[0], statistics)]
            head = [nn.Conv2d(width, out_channels, 3, padding=1)]
        else:
            widths, activation = _widths(size, width)[::-1], nn.ReLU(True)
            start = [nn.Unflatten(1, (-1, 1, 1)), nn.ConvTranspose2d(noise_size, widths[0], 4, bias=False)]
            start += [BatchNorm(widths[0], statistics, eps), activation]
            head = _double(width, out_channels, kind)  # without a bias, as in the field's code
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            steps += [*_double(inputs, outputs, kind), BatchNorm(outputs, statistics, eps), activation]
        self.layers = nn.Sequential(*start, *steps, *head, nn.Tanh())
        init_normal(self)

    def forward(self, noise: Tensor) -> Tensor:
        """Make pictures.

        Args:
            noise: (B, noise_size) from N(0, 1).

        Returns:
            (B, out_channels, size, size) in [-1, 1].
        """
        return self.layers(noise)


class DCGANDiscriminator(PretrainedMixin, tags=["discriminator", "dcgan"]):
    """Convolutions that halve the size down to 4 px, and one logit.

    Args:
        in_channels: channels of the pictures.
        size: side of the pictures it is made for; of larger ones every part of that size is judged, and the mean
            counts.
        width: channels after the first convolution, twice as many with each further one.
        dropout: share of the channels that are left out after each step, while training.
        norm: batch or none. Batch norm mixes the pictures of a batch: real and generated ones come apart, and a
            gradient penalty needs "none". Spectral norm goes with "none", too.
        spectral_norm: bound each convolution's gain (Miyato et al., 2018).
    """

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        size: Size = 128,
        width: Width = 64,
        dropout: Annotated[float, Range(0, 0.9)] = 0.0,
        norm: Literal["batch", "none"] = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(smallest=size, output="logits")
        widths, bias = _widths(size, width), norm == "none"  # with batch norm the reference has no bias anywhere
        steps: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(pairwise([in_channels, *widths])):
            steps.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=bias))
            if level and norm == "batch":
                steps.append(BatchNorm(outputs))
            steps += [nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(dropout)]
        self.layers = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 4, bias=bias))
        init_normal(self)
        if spectral_norm:
            bound_gain(self)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to logits (B, 1)."""
        return self.layers(image).mean((2, 3))


def _widths(size: int, width: int) -> list[int]:
    """Channels at half of `size`, a quarter, and so on down to 4 pixels."""
    return [width * 2**level for level in range(size.bit_length() - 3)]


def _double(inputs: int, outputs: int, kind: Kind) -> list[nn.Module]:
    if kind == "transpose":
        return [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
