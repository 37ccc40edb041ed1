"""Losses on spectra: what pictures look like from far away and up close, whatever they show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from .pixel import gray


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
def spectral_loss(image: Tensor, target: Tensor) -> Tensor:
    """Fine detail should be as strong as in other pictures of the kind (Durall et al., 2020); needs no pairs.

    Compared are the means over the batch of :func:`power_profile`, in the finer half of the frequencies.
    The paper has cross-entropy over all frequencies instead.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        target: pictures of the same size, any number.
    """
    ours, theirs = power_profile(image).mean(0), power_profile(target).mean(0)
    return F.mse_loss(ours[len(ours) // 2 :], theirs[len(theirs) // 2 :])


@full_precision
def power_profile(image: Tensor) -> Tensor:
    """Power of each frequency, whatever its direction, on a logarithmic scale where the mean brightness is 1.

    Args:
        image: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, frequencies), from zero to that of a checkerboard, which is where upsampling leaves its marks.
    """
    luma = (gray(image)[:, 0] + 1) / 2
    power = torch.view_as_real(torch.fft.fft2(luma)).square().sum(-1)
    radii = _radii(*luma.shape[1:]).to(image.device)
    counts = radii.bincount()
    total = power.new_zeros(len(power), len(counts)).index_add(1, radii, power.flatten(1))
    profile = (total / counts).log1p()
    return profile / profile[:, :1].clamp_min(1)


def _radii(height: int, width: int) -> Tensor:
    """Distance from frequency zero of each entry of a transform, flat, in whole steps of the shorter side."""
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :]
    return (torch.hypot(y, x) * min(height, width)).round().long().flatten()
