"""Blocks that two or more families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .precision import full, sums_in_full

Norm = Literal["instance", "batch", "none"]
Style = Tensor | Sequence[tuple[Tensor, float]]


def shares(style: Style) -> Sequence[tuple[Tensor, float]]:
    """Pictures of a style with the share of each: what networks that take any style are given, as a sequence."""
    return [(style, 1.0)] if isinstance(style, Tensor) else style


def blended(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Tensors of one shape by their shares; one alone is not copied."""
    (blend, first), *others = parts
    blend = blend if first == 1 else blend * first
    for tensor, share in others:
        blend = blend + share * tensor
    return blend


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel of (B, C, H, W), both (B, C, 1, 1), in float32 or better."""
    variance, mean = torch.var_mean(x if sums_in_full.get() else full(x), (2, 3), keepdim=True)
    return mean, variance


def mean_std(features: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, both (B, C, 1, 1), as AdaIN has them.

    The variance is the unbiased one, and `eps` is added to it.
    """
    mean, variance = moments(features)
    return mean, (variance + eps).sqrt()


def normalize(features: Tensor) -> Tensor:
    """Features without their style: each channel with mean 0 and deviation 1, by :func:`mean_std`."""
    mean, std = mean_std(features)
    return torch.addcmul(-mean / std, features, 1 / std)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics at test time are a choice: the running ones, or those of the picture.

    pix2pix (Isola et al., 2017) normalises with the picture's own statistics at test time; most other networks
    use running ones. The results differ visibly, so the choice belongs into the configuration.
    """

    def __init__(self, channels: int, statistics: Literal["running", "batch"] = "running", eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)
        self.statistics = statistics

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` of shape (B, C, H, W)."""
        if self.training or self.statistics == "running":
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


def norm(kind: Norm, channels: int, statistics: Literal["running", "batch"] = "running") -> nn.Module:
    """The norm called `kind`. Instance norm has neither affine parameters nor running statistics."""
    if kind == "batch":
        return BatchNorm(channels, statistics)
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.Identity()


def adaptive_instance_norm(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Features (B, C, H, W) with another mean and deviation of each channel, (B or 1, C, 1, 1) (AdaIN)."""
    own, deviation = mean_std(x)
    scale = std / deviation
    return torch.addcmul(mean - own * scale, x, scale).to(x.dtype)


class BlurDown(nn.Module):
    """Blur with [1, 2, 1] and keep every second pixel (Zhang, "Making CNNs shift-invariant again", 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H/2), ceil(W/2)); borders are reflected."""
        if torch.is_grad_enabled():
            return _resample(x, _down_matrix)
        channels = x.shape[1]
        row = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
        kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=channels)


class BlurUp(nn.Module):
    """Double the size with the blur [1, 3, 3, 1]: the same numbers as bilinear interpolation."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        if torch.is_grad_enabled():
            return _resample(x, _up_matrix)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _resample(x: Tensor, matrix: Callable[[int], Tensor]) -> Tensor:
    """Resample rows and columns by matrix products.

    At the sizes of training this is the fastest way on a CPU by far, because of its backward pass: in bf16 at
    64 channels of 128 px, 3 ms against 20 ms for a depthwise convolution and 52 ms for average pools.
    """
    rows, columns = (matrix(n).to(x.device, x.dtype) for n in x.shape[2:])
    return rows @ (x @ columns.T)


@lru_cache(maxsize=64)
def _down_matrix(size: int) -> Tensor:
    """(ceil(size/2), size): [1, 2, 1] / 4 around every second place, reflected at both ends."""
    result = torch.zeros((size + 1) // 2, size, dtype=torch.float64, device="cpu")
    centres = torch.arange(0, size, 2, device="cpu")
    for shift, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        places = (centres + shift).abs()
        places = torch.where(places < size, places, 2 * (size - 1) - places)
        result[torch.arange(len(centres)), places] += weight
    return result


@lru_cache(maxsize=64)
def _up_matrix(size: int) -> Tensor:
    """(2 size, size): bilinear interpolation to the double size, ends repeated."""
    result = torch.zeros(2 * size, size, dtype=torch.float64, device="cpu")
    places = torch.arange(size, device="cpu")
    for half, shift in ((0, -1), (1, 1)):
        rows = 2 * places + half
        result[rows, places] += 0.75
        result[rows, (places + shift).clamp(0, size - 1)] += 0.25
    return result


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """Convolutions from N(0, std), norm weights from N(1, std), biases 0, as DCGAN and CycleGAN do."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std)
            nn.init.zeros_(module.bias)


def bound_gain(network: nn.Module) -> None:
    """Give each convolution of `network` a spectral norm (Miyato et al., 2018)."""
    for module in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
        spectral_norm(module)


def init_he(network: nn.Module, last: nn.Conv2d) -> None:
    """Convolutions for ReLUs without norms (He et al., 2015), which keep the scale of what comes in.

    With torch's own, signals become 2.4 times smaller in each layer, and a short run is over before anything shows.

    Args:
        network: all convolutions in it, with biases of 0.
        last: the one that makes the picture, N(0, 0.005), so that it begins near gray.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(last.weight, 0.0, 0.005)


def from_unit_range(state: dict[str, Tensor], *, first: Sequence[str] = (), last: str) -> dict[str, Tensor]:
    """Weights that were learnt on pictures in [0, 1] as those for [-1, 1], the same but for rounding.

    Args:
        state: tensors by name.
        first: convolutions that see a picture; their borders are not padded with zeros.
        last: the convolution that makes one.
    """
    state = dict(state)
    for name in first:
        weight = state[f"{name}.weight"] / 2
        state |= {f"{name}.weight": weight, f"{name}.bias": state[f"{name}.bias"] + weight.sum((1, 2, 3))}
    return state | {f"{last}.weight": state[f"{last}.weight"] * 2, f"{last}.bias": state[f"{last}.bias"] * 2 - 1}
