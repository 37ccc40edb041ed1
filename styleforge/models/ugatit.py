"""U-GAT-IT (Kim et al., 2020): a generator that attends to what tells the domains apart, and its discriminators."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as add_spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from ..configs import Channels, Range, Width
from ..errors import ConfigError
from ..hub import Capabilities, PretrainedMixin
from ..layers import bound_gain, moments
from .resnet import Down, ResidualBlock


def instance_layer_norm(x: Tensor, rho: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """A mixture of instance norm and layer norm, both with the unbiased variance, in float32 or better.

    The statistics of all channels follow from those of each, so each pixel is summed up and scaled once.

    Args:
        x: (B, C, H, W) of more than one pixel.
        rho: share of the instance norm, (1, C, 1, 1).
        gamma: factor, (B or 1, C, 1, 1).
        beta: shift, (B or 1, C, 1, 1).
        eps: added to the variances.

    Returns:
        The shape and type of `x`.
    """
    channels = x.shape[1]
    pixels = x.numel() // (len(x) * channels)  # not from height and width: tiles of a picture are told of the whole
    mean, variance = moments(x)
    offset = mean - mean.mean(1, keepdim=True)
    all_squares = ((pixels - 1) * variance + pixels * offset.square()).sum(1, keepdim=True)
    layer = gamma * (1 - rho) * (all_squares / (pixels * channels - 1) + eps).rsqrt()
    scale = gamma * rho * (variance + eps).rsqrt() + layer
    return torch.addcmul(layer * offset + beta - mean * scale, x, scale).to(x.dtype)


class AdaILN(nn.Module):
    """:func:`instance_layer_norm` with a learnt mixture, for scales and shifts that come from the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """(B, C, H, W) with `gamma` and `beta` (B, C, 1, 1) to the same shape."""
        return instance_layer_norm(x, self.rho, gamma, beta)


class ILN(nn.Module):
    """:func:`instance_layer_norm` with learnt mixture, scale and shift; begins as a layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return instance_layer_norm(x, self.rho, self.gamma, self.beta)


class Attention(nn.Module):
    """Class activation map: the weights by which two classifiers tell the domains apart, applied to the features.

    Args:
        channels: of the features.
        slope: of the LeakyReLU at the end; 0 is a ReLU.
        spectral_norm: bound the gain of both classifiers.
    """

    def __init__(self, channels: int, *, slope: float, spectral_norm: bool = False) -> None:
        super().__init__()
        self.slope = slope
        self.average = nn.Linear(channels, 1, bias=False)
        self.maximum = nn.Linear(channels, 1, bias=False)
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        if spectral_norm:
            add_spectral_norm(self.average)
            add_spectral_norm(self.maximum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H, W) to those attended to, of the same shape, and the classifiers' logits (B, 2)."""
        logits = torch.cat([self.average(x.mean((2, 3))), self.maximum(x.amax((2, 3)))], 1)
        # The weights are the same for all pictures: weighting, joining and mixing are one 1x1 convolution.
        weights = torch.cat([_learnt(self.average), _learnt(self.maximum)], 1)[..., None, None]
        mix = (self.mix.weight * weights).unflatten(1, (2, -1)).sum(1)
        return F.leaky_relu(F.conv2d(x, mix, self.mix.bias), self.slope), logits


def _learnt(linear: nn.Linear) -> Tensor:
    """The weight before its spectral norm, if it has one: the reference attends by this one."""
    return linear.parametrizations.weight.original if is_parametrized(linear) else linear.weight


class AdaptiveBlock(nn.Module):
    """conv3, AdaILN, ReLU, conv3, AdaILN, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm1 = AdaILN(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm2 = AdaILN(channels)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """(B, C, H, W) with `gamma` and `beta` (B, C, 1, 1) to the same shape."""
        y = F.relu(self.norm1(self.conv1(x), gamma, beta), inplace=True)
        return x + self.norm2(self.conv2(y), gamma, beta)


class UGATITGenerator(PretrainedMixin, tags=["image-to-image", "u-gat-it"]):
    """Two steps down, residual blocks, attention, blocks with AdaILN, two steps up.

    No convolution has a bias, as in the reference, but the one that mixes what attention saw.

    Args:
        in_channels: channels of the input picture.
        out_channels: channels of the output picture.
        width: channels after the first convolution; 4 times as many in the blocks.
        blocks: residual blocks before the attention, and as many behind it; 4 are light, 6 usual at 256 px.
        light: find scale and shift of AdaILN from the mean of the map; else from the whole map, by a matrix that
            at 256 px and width 64 has 268 million weights.
        size: side of the pictures that a full generator is made for, a multiple of 4. At any other size it sees
            its map averaged to that of this one, where the reference fails. A light one does without.
        fusion: "none", as the paper; with "pyramid" the features on the way down join those on the way up, where
            attention is high: for clearer edges.
    """

    capabilities = Capabilities(multiple=4, smallest=8)

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        out_channels: Channels = 3,
        width: Width = 64,
        blocks: Annotated[int, Range(1, 64)] = 4,
        light: bool = True,
        size: Annotated[int, Range(8, 4096)] = 256,
        fusion: Literal["none", "pyramid"] = "none",
    ) -> None:
        super().__init__()
        if size % 4:
            raise ConfigError(
                "A full generator halves its pictures twice",
                found=f"size = {size}",
                allowed="multiples of 4",
                todo=f"Take {size // 4 * 4}.",
            )
        inner = 4 * width
        self.side = 1 if light else size // 4
        self.stem = nn.Conv2d(in_channels, width, 7, padding=3, padding_mode="reflect", bias=False)
        self.stem_norm = nn.InstanceNorm2d(width)
        self.down = nn.ModuleList(
            Down(channels, 2 * channels, "instance", blur=False, border="reflect") for channels in (width, 2 * width)
        )
        self.blocks = nn.ModuleList(ResidualBlock(inner, "instance", dropout=False) for _ in range(blocks))
        self.attention = Attention(inner, slope=0.0)
        self.style = nn.Sequential(
            nn.Linear(self.side**2 * inner, inner, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(inner, inner, bias=False),
            nn.ReLU(inplace=True),
        )
        self.gamma = nn.Linear(inner, inner, bias=False)
        self.beta = nn.Linear(inner, inner, bias=False)
        self.adaptive = nn.ModuleList(AdaptiveBlock(inner) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(channels, channels // 2, 3, padding=1, padding_mode="reflect", bias=False),
                ILN(channels // 2),
                nn.ReLU(inplace=True),
            )
            for channels in (inner, inner // 2)
        )
        self.laterals = nn.ModuleList()
        if fusion == "pyramid":
            self.laterals.extend(nn.Conv2d(channels, channels, 1, bias=False) for channels in (2 * width, width))
            for lateral in self.laterals:
                nn.init.zeros_(lateral.weight)  # begins as the network of the paper
        self.head = nn.Conv2d(width, out_channels, 7, padding=3, padding_mode="reflect", bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, in_channels, H, W) in [-1, 1], H and W multiples of 4 and at least 8.

        Returns:
            (B, out_channels, H, W) in [-1, 1].
        """
        return self.translate(image)[0]

    def translate(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Style a picture and say what was looked at.

        Args:
            image: as for :meth:`forward`.

        Returns:
            The picture; logits (B, 2) for its being of the domain to be translated, from the average and from the
            maximum of the features; and the heat map of attention, (B, 1, H/4, W/4), not negative.
        """
        levels = [F.relu(self.stem_norm(self.stem(image)), inplace=True)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for block in self.blocks:
            x = block(x)
        x, logits = self.attention(x)
        heatmap = x.sum(1, keepdim=True)
        style = self.style(F.adaptive_avg_pool2d(x, self.side).flatten(1))
        gamma, beta = self.gamma(style)[..., None, None], self.beta(style)[..., None, None]
        for block in self.adaptive:
            x = block(x, gamma, beta)
        for index, up in enumerate(self.up):
            x = up(x)
            if self.laterals:
                x = x + _where(heatmap, x) * self.laterals[index](levels.pop())
        return self.head(x).tanh(), logits, heatmap

    @torch.no_grad()
    def clip_rho(self) -> None:
        """Keep the shares of the instance norms in [0, 1]; wanted after every step of training."""
        for name, parameter in self.named_parameters():
            if name.endswith("rho"):
                parameter.clamp_(0, 1)


def _where(heatmap: Tensor, x: Tensor) -> Tensor:
    """A heat map in [0, 1], its own peak being 1, in the size of `x`."""
    peak = heatmap.amax((2, 3), keepdim=True).clamp_min(1e-5)
    return F.interpolate(heatmap / peak, x.shape[2:], mode="bilinear", align_corners=False)


def draw_heatmap(heatmap: Tensor, size: tuple[int, int]) -> Tensor:
    """A heat map as gray pictures, the least attention black and the most white.

    Args:
        heatmap: (B, 1, h, w).
        size: height and width of the pictures.

    Returns:
        (B, 3, *size) in [-1, 1].
    """
    heat = heatmap.float() - heatmap.float().amin((2, 3), keepdim=True)
    heat = heat / heat.amax((2, 3), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    return F.interpolate(heat, size, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1) * 2 - 1


class UGATITDiscriminator(PretrainedMixin, tags=["discriminator", "u-gat-it"]):
    """A map of logits from features attended to, without norms.

    Args:
        in_channels: channels of the picture.
        width: channels after the first convolution, doubled by each further one.
        layers: convolutions; 7 see patches of 286 px ("global"), 6 of 142, 5 of 70 ("local").
        spectral_norm: bound each convolution's gain (Miyato et al., 2018).
    """

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        width: Width = 64,
        layers: Annotated[int, Range(3, 9)] = 7,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(smallest=3 * 2 ** (layers - 2), output="logits")
        steps: list[nn.Module] = []
        channels = in_channels
        for level in range(layers - 1):
            stride, wider = 1 if level == layers - 2 else 2, width * 2**level
            steps.append(nn.Conv2d(channels, wider, 4, stride, padding=1, padding_mode="reflect"))
            steps.append(nn.LeakyReLU(0.2, inplace=True))
            channels = wider
        self.layers = nn.Sequential(*steps)
        self.attention = Attention(channels, slope=0.2, spectral_norm=spectral_norm)
        self.head = nn.Conv2d(channels, 1, 4, padding=1, padding_mode="reflect", bias=False)
        if spectral_norm:  # not of what mixes the attention, as in the reference
            bound_gain(self.layers)
            bound_gain(self.head)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1] to logits (B, 1, h, w)."""
        return self.judge(image)[0]

    def judge(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judge a picture by its patches and as a whole, and say what was looked at.

        Args:
            image: as for :meth:`forward`.

        Returns:
            Logits (B, 1, h, w); those of the attention's classifiers (B, 2); the heat map (B, 1, h + 1, w + 1).
        """
        self._check_inputs({"image": image})
        x, logits = self.attention(self.layers(image))
        return self.head(x), logits, x.sum(1, keepdim=True)
