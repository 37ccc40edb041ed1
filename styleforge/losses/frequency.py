"""Losses on spectra: what pictures look like from far away and up close, whatever they show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import full_precision
from .pixel import gray, yuv

ROUNDING = 1 / 12  # power of rounding to 8 bit, in squared levels
BANDS = 32  # of frequencies, from zero to that of a checkerboard
COARSEST = 4  # band that is compared: of waves of 11 pixels; longer ones are what pictures show
MEMORY = 100  # batches
ALIKE = 0.1  # deviation, in natural logarithms of power, below which pictures count as alike


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
    ours, theirs = (power_profile(pictures).mean(0) for pictures in (image, target))
    half = len(ours) // 2
    return F.mse_loss(ours[half:], theirs[half:])


class ColorSpectra(nn.Module):
    """Detail of luma and of both chromas, fine and less fine, should be as strong as in other pictures on the mean.

    Of :func:`color_profile`, on the scale of what 8 bit show: on that of :func:`spectral_loss`, where the mean
    brightness is 1, the weak detail of colors does not count, and a network asked for texture makes it of rainbows.
    Differences are in deviations between the others: where these are all alike, in the finest detail of colors, little
    is seen.

    Means are over the last :data:`MEMORY` batches, so that pictures may differ in detail, as they do. The means of two
    batches of two are never alike, and a network that is asked for it gives every picture the same detail.

    Pictures are looked at as files store them, in 8 bit; gradients pass by. Else a network makes the noise by itself
    that rounding has left in real pictures, and its files then have twice as much of it.
    """

    means: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Of ours, of those it should be like, and of the squares of these.
        self.register_buffer("means", torch.zeros(3, 3, BANDS))
        self.register_buffer("seen", torch.zeros(()))

    @full_precision
    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean squared difference of logarithms, in deviations.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            target: pictures of any number and size.
        """
        stored = ((image + 1) * 127.5).round() / 127.5 - 1
        ours, theirs = (
            F.adaptive_avg_pool1d(color_profile(pictures), BANDS).to(self.means.dtype)
            for pictures in (image + (stored - image).detach(), target)
        )
        with torch.no_grad():
            self.seen += 1
            now = torch.stack([each.mean(0) for each in (ours, theirs, theirs.square())])
            self.means.lerp_(now, 1 / self.seen.clamp_max(MEMORY))
        mean, wanted, squares = self.means.clone()
        mean = mean + (ours - ours.detach()).mean(0)  # the gradient of a mean that ours are all of
        deviation = (squares - wanted.square()).clamp_min(ALIKE**2).sqrt()
        return ((mean - wanted) / deviation)[:, COARSEST:].square().mean()


@full_precision
def power_profile(image: Tensor) -> Tensor:
    """Power of each frequency, whatever its direction, on a logarithmic scale where the mean brightness is 1.

    Args:
        image: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, frequencies), from zero to that of a checkerboard, which is where upsampling leaves its marks.
    """
    profile = _power((gray(image) + 1) / 2)[:, 0].log1p()
    return profile / profile[:, :1].clamp_min(1)


@full_precision
def color_profile(image: Tensor) -> Tensor:
    """Power of each frequency of luma and of both chromas, whatever its direction, in squared levels of 8 bit.

    Args:
        image: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, 3, frequencies), natural logarithms; what lies below the power of rounding is not seen.
    """
    pixels = image.shape[2:].numel()
    return (_power(faded(yuv((image + 1) * 127.5))) / pixels + ROUNDING).log()


def faded(planes: Tensor) -> Tensor:
    """Planes whose borders go over into their mean, by a Hann window that keeps the power of even noise.

    A transform takes a picture for one tile of many: the jump from one to the next adds power to all frequencies, more
    than the weak detail of colors has.

    Args:
        planes: (..., H, W).
    """
    windows = (torch.hann_window(size, dtype=planes.dtype, device=planes.device) for size in planes.shape[-2:])
    window = torch.outer(*windows)
    window = window / window.square().mean().sqrt()
    mean = (planes * window).mean((-2, -1), keepdim=True) / window.mean()
    return (planes - mean) * window


def _power(planes: Tensor) -> Tensor:
    """Mean power of the entries of a transform by their distance from frequency zero: (B, C, frequencies)."""
    power = torch.view_as_real(torch.fft.fft2(planes)).square().sum(-1)
    radii = _radii(*planes.shape[2:]).to(planes.device)
    counts = radii.bincount()
    return power.new_zeros(*power.shape[:2], len(counts)).index_add(2, radii, power.flatten(2)) / counts


def _radii(height: int, width: int) -> Tensor:
    """Distance from frequency zero of each entry of a transform, flat, in whole steps of the shorter side."""
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :]
    return (torch.hypot(y, x) * min(height, width)).round().long().flatten()
