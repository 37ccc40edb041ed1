"""Losses on spectra: what pictures look like from far away and up close, whatever they show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from .pixel import gray, yuv


@full_precision
def focal_frequency_loss(image: Tensor, target: Tensor, alpha: float = 1.0) -> Tensor:
    """Squared difference of spectra, weighted by itself: frequencies that are hard count more (Jiang et al., 2021).

    Args:
        image: (B, C, H, W).
        target: the picture it should be, of the same shape.
        alpha: how much more hard frequencies count; 0 is the mean squared difference of pixels.
    """
    power = torch.view_as_real(torch.fft.fft2(image - target, norm="ortho")).square().sum(-1)
    weight = power.detach() ** (alpha / 2)
    weight = weight / weight.amax((2, 3), keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
    return (weight * power).mean()


@full_precision
def spectral_loss(image: Tensor, target: Tensor, *, color: bool = False) -> Tensor:
    """Fine detail should be as strong as in other pictures of the kind (Durall et al., 2020); needs no pairs.

    Compared are the means over the batch of :func:`power_profile`, in the finer half of the frequencies.
    The paper has cross-entropy over all frequencies instead.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        target: pictures of the same size, any number.
        color: compare the detail of both chromas, too: a network that is asked for texture alone makes it of colors.
    """
    ours, theirs = power_profile(image, color=color).mean(0), power_profile(target, color=color).mean(0)
    half = ours.shape[-1] // 2
    return F.mse_loss(ours[..., half:], theirs[..., half:])


@full_precision
def power_profile(image: Tensor, *, color: bool = False) -> Tensor:
    """Power of each frequency, whatever its direction, on a logarithmic scale where the mean brightness is 1.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        color: of luma and both chromas, instead of luma alone.

    Returns:
        (B, frequencies), from zero to that of a checkerboard, which is where upsampling leaves its marks; of colors
        (B, 3, frequencies).
    """
    planes = yuv((image + 1) / 2) if color else (gray(image) + 1) / 2
    power = torch.view_as_real(torch.fft.fft2(planes)).square().sum(-1)
    radii = _radii(*planes.shape[2:]).to(image.device)
    counts = radii.bincount()
    total = power.new_zeros(*power.shape[:2], len(counts)).index_add(2, radii, power.flatten(2))
    profile = (total / counts).log1p()
    profile = profile / profile[:, :1, :1].clamp_min(1)
    return profile if color else profile[:, 0]


def _radii(height: int, width: int) -> Tensor:
    """Distance from frequency zero of each entry of a transform, flat, in whole steps of the shorter side."""
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :]
    return (torch.hypot(y, x) * min(height, width)).round().long().flatten()
