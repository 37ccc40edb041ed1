"""StyleGAN2 (Karras et al., 2020): pictures from noise by way of style codes, in plain PyTorch.

Written from the paper. Names of parts are ours; the numbers are those of rosinality/stylegan2-pytorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..precision import full

Size = Literal[8, 16, 32, 64, 128, 256, 512, 1024]


def fir(x: Tensor, kernel: Tensor, *, up: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Filter each channel: insert zeros, pad, correlate.

    Args:
        x: (B, C, H, W).
        kernel: (h, w).
        up: each pixel is followed by `up - 1` zeros.
        pad: zeros before and after each row and column; what is negative is cut off.
    """
    batch, channels, height, width = x.shape
    if up > 1:
        x = F.pad(x[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch, channels, height * up, width * up)
    return F.conv2d(F.pad(x, (*pad, *pad)), kernel.expand(channels, 1, -1, -1), groups=channels)


def binomial(x: Tensor, gain: float = 1.0) -> Tensor:
    """The kernel [1, 3, 3, 1] in both directions, of the type of `x`, with the sum `gain`."""
    row = _row(x)
    return gain * row[:, None] * row


def halve(x: Tensor) -> Tensor:
    """Filter by :func:`binomial` and keep every second pixel, (B, C, H, W) to (B, C, H/2, W/2).

    By matrix products: a CPU takes 6 to 16 times as long for the gradient of a strided depthwise convolution in
    bf16. Without the stride, as in :func:`fir`, it is the other way round.
    """
    rows, columns = (
        F.conv1d(torch.eye(n, dtype=x.dtype, device=x.device)[:, None], _row(x)[None, None], stride=2, padding=1)
        for n in x.shape[2:]
    )
    return rows[:, 0].T @ (x @ columns[:, 0])


def _row(x: Tensor) -> Tensor:
    return torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU that keeps the variance."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class EqualLinear(nn.Module):
    """A linear layer with an equalised learning rate: weights begin at N(0, 1) and are scaled when they are used.

    Args:
        inputs: features that come in.
        outputs: features that go out.
        bias: where the bias begins.
        lr_mult: how much slower than others this layer learns.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr_mult: float = 1.0) -> None:
        super().__init__()
        self.gain, self.lr_mult = lr_mult / math.sqrt(inputs), lr_mult
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs), std=1 / lr_mult))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        return F.linear(x, self.weight * self.gain, self.bias * self.lr_mult)


class EqualConv(nn.Module):
    """A convolution with an equalised learning rate; halving the size, it filters first."""

    def __init__(self, inputs: int, outputs: int, size: int, *, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.down, self.gain = down, 1 / math.sqrt(inputs * size**2)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs, size, size)))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), or half of H and W."""
        size = self.weight.shape[2]
        weight = self.weight * self.gain
        if not self.down:
            return F.conv2d(x, weight, self.bias, padding=size // 2)
        if size == 1:
            return F.conv2d(halve(x), weight, self.bias)
        return F.conv2d(fir(x, binomial(x), pad=(2, 2)), weight, self.bias, stride=2)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by a style, and brought back to unit length for each output channel.

    The paper scales the weights, a set for each picture, and groups. Scaling input and output of one convolution
    gives the same numbers; on a CPU it takes 40 % of the time at 128 channels, and the same at 32.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        size: of the kernel.
        style_size: of the style codes.
        up: double the size.
        demodulate: bring the weights back to unit length.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, style_size: int, *, up: bool = False, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.up, self.demodulate, self.gain = up, demodulate, 1 / math.sqrt(inputs * size**2)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs, size, size)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualLinear(style_size, inputs, bias=1.0)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, inputs, H, W) and codes (B, style_size) to (B, outputs, H, W), or twice H and W."""
        style, weight = self.style(code), self.weight * self.gain
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = fir(x, binomial(x, gain=4), pad=(1, 1))
        else:
            x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        if self.demodulate:
            length = F.linear(style.square(), weight.square().sum((2, 3)))
            x = x * (length + 1e-8).rsqrt().to(x)[:, :, None, None]
        return x + self.bias.to(x)[:, None, None]  # under autocast nothing large becomes float32 again


class StyledConv(nn.Module):
    """Modulated conv3, noise, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, style_size: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_size, up=up)
        self.noise_weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, code: Tensor, noise: Tensor) -> Tensor:
        """As :class:`ModulatedConv`, with noise (B or 1, 1, H, W) of the size of the output."""
        x = self.conv(x, code)
        return leaky(x + (self.noise_weight * noise).to(x))


class StyleGAN2Generator(PretrainedMixin, pipeline_tag="unconditional-image-generation", tags=["stylegan2"]):
    """Noise to style codes, and style codes to a picture.

    At a side of r pixels there are `min(max_width, width * 128 / r)` channels, and at least one:

    ======= ===== ===== ===== ===== ===== ===== =====
    width   4     8     16    32    64    128   256
    ======= ===== ===== ===== ===== ===== ===== =====
    32      512   512   256   128   64    32    16
    64      512   512   512   256   128   64    32
    256     512   512   512   512   512   256   128
    ======= ===== ===== ===== ===== ===== ===== =====

    The last line is the paper's network (config F).

    Args:
        size: side of the pictures.
        width: channels at 128 px.
        max_width: most channels.
        noise_size: length of the noise.
        style_size: length of a style code.
        mapping_layers: layers from noise to code; for few pictures 2 are enough.
    """

    capabilities = Capabilities(inputs=("noise",), grain=True)
    w_mean: Tensor

    def __init__(
        self,
        *,
        size: Size = 128,
        width: Width = 64,
        max_width: Annotated[int, Range(1, 4096)] = 512,
        noise_size: Annotated[int, Range(1, 4096)] = 512,
        style_size: Annotated[int, Range(1, 4096)] = 512,
        mapping_layers: Annotated[int, Range(1, 32)] = 8,
    ) -> None:
        super().__init__()
        sizes = [noise_size] + mapping_layers * [style_size]
        self.mapping = nn.ModuleList(EqualLinear(*pair, lr_mult=0.01) for pair in pairwise(sizes))
        self.register_buffer("w_mean", torch.zeros(style_size))
        widths = _widths(size, width, max_width)[::-1]
        self.start = nn.Parameter(nn.init.normal_(torch.empty(widths[0], 4, 4)))
        self.convs = nn.ModuleList([StyledConv(widths[0], widths[0], style_size)])
        for inputs, outputs in pairwise(widths):
            self.convs.append(StyledConv(inputs, outputs, style_size, up=True))
            self.convs.append(StyledConv(outputs, outputs, style_size))
        self.to_rgb = nn.ModuleList(ModulatedConv(c, 3, 1, style_size, demodulate=False) for c in widths)
        for index in range(len(self.convs)):
            side = 4 * 2 ** ((index + 1) // 2)
            self.register_buffer(f"noise_{index}", nn.init.normal_(torch.empty(1, 1, side, side)))

    @property
    def noises(self) -> list[Tensor]:
        """The noise that this network keeps, (1, 1, r, r) for each convolution."""
        return [self.get_buffer(f"noise_{index}") for index in range(len(self.convs))]

    def fresh_noises(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Noise for training, (count, 1, r, r) for each convolution; `generator` is a CPU one."""
        return [torch.randn(count, *kept.shape[1:], generator=generator).to(kept) for kept in self.noises]

    @property
    def layers(self) -> int:
        """How many style codes a picture has: 2 for 4 px, and 2 more each time its side doubles."""
        return len(self.convs) + 1

    def forward(self, noise: Tensor, truncation: float = 1.0, noises: Sequence[Tensor] | None = None) -> Tensor:
        """Make pictures.

        Args:
            noise: (B, noise_size) from N(0, 1).
            truncation: below 1 draws the codes to their mean: fewer odd pictures, less variety.
            noises: where strokes and hairs fall, see :meth:`synthesize`.

        Returns:
            (B, 3, size, size) in [-1, 1].
        """
        return self.synthesize(self.codes(noise, truncation), noises).clamp(-1, 1)

    def codes(self, noise: Tensor, truncation: float = 1.0) -> Tensor:
        """Noise (B, noise_size) to style codes (B, layers, style_size); in training their mean is followed."""
        x = noise * (noise.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            x = leaky(layer(x))
        if self.training:
            self.w_mean.lerp_(x.detach().mean(0).to(self.w_mean), 0.005)
        if truncation != 1:
            x = self.w_mean.lerp(x, truncation)
        return x[:, None].expand(-1, self.layers, -1)

    def synthesize(self, codes: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """Style codes to pictures.

        Args:
            codes: (B, layers, style_size).
            noises: for each convolution (B or 1, 1, r, r); :attr:`noises` when None, so that the same codes give the
                same picture.

        Returns:
            (B, 3, size, size), mostly in [-1, 1] but not confined to it.
        """
        noises = self.noises if noises is None else noises
        x = self.convs[0](self.start.expand(len(codes), -1, -1, -1), codes[:, 0], noises[0])
        rgb = self.to_rgb[0](x, codes[:, 1])
        for level in range(1, len(self.to_rgb)):
            for index in (2 * level - 1, 2 * level):
                x = self.convs[index](x, codes[:, index], noises[index])
            rgb = fir(rgb, binomial(rgb, gain=4), up=2, pad=(2, 1))
            rgb = rgb + self.to_rgb[level](x, codes[:, 2 * level + 1])
        return rgb


class ResidualDown(nn.Module):
    """Two conv3, the second halving the size, and a conv1 beside them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(inputs, inputs, 3)
        self.conv2 = EqualConv(inputs, outputs, 3, down=True)
        self.skip = EqualConv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/2, W/2)."""
        return (leaky(self.conv2(leaky(self.conv1(x)))) + self.skip(x)) / math.sqrt(2)


class StyleGAN2Discriminator(PretrainedMixin, tags=["discriminator", "stylegan2"]):
    """Residual blocks down to 4 px, the deviation within small groups of pictures, and one logit.

    The deviation shows the discriminator when pictures are too much alike, so the generator must not repeat itself.

    Args:
        size: side of the pictures it is made for; of larger ones the last features are averaged down to 4x4.
        width: channels at 128 px, as in :class:`StyleGAN2Generator`.
        max_width: most channels.
        group: pictures compared; fewer where a batch cannot be divided by so many, and 1 compares none.
    """

    def __init__(
        self,
        *,
        size: Size = 128,
        width: Width = 64,
        max_width: Annotated[int, Range(1, 4096)] = 512,
        group: Annotated[int, Range(1, 64)] = 4,
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(multiple=size // 4, smallest=size, output="logits")
        self.group = group
        widths = _widths(size, width, max_width)
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(ResidualDown(*pair) for pair in pairwise(widths))
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3)
        self.hidden = EqualLinear(16 * widths[-1], widths[-1])
        self.head = EqualLinear(widths[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, 1)."""
        x = leaky(self.from_rgb(image))
        for block in self.blocks:
            x = block(x)
        x = torch.cat([x, self._deviation(x)], 1)
        x = F.adaptive_avg_pool2d(leaky(self.conv(x)), 4)
        return self.head(leaky(self.hidden(x.flatten(1))))

    def _deviation(self, x: Tensor) -> Tensor:
        """(B, 1, H, W): the mean over all features of their deviation within the picture's group."""
        group = next(n for n in range(self.group, 0, -1) if len(x) % n == 0)
        groups = full(x).reshape(group, -1, *x.shape[1:])  # pictures of a group are evenly spaced, as in the reference
        deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return deviation.to(x).repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])


def _widths(size: int, width: int, max_width: int) -> list[int]:
    """Channels at `size`, half of it, and so on down to 4 pixels."""
    return [max(1, min(max_width, width * 128 // (size >> n))) for n in range(size.bit_length() - 2)]
