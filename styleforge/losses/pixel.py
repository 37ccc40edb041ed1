"""Losses on pixels. Pictures are (B, 3, H, W) in [-1, 1] where nothing else is said."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision

Variation = Literal["mean_abs", "mean_square", "sum_abs", "sum_square", "nine_point"]

# BT.601, rows Y, U, V; the numbers of tf.image.rgb_to_yuv, which AnimeGAN uses.
YUV = (
    (0.299, 0.587, 0.114),
    (-0.14714119, -0.28886916, 0.43601035),
    (0.61497538, -0.51496512, -0.10001026),
)


@full_precision
def total_variation(image: Tensor, kind: Variation = "mean_abs") -> Tensor:
    """How much neighboring pixels differ.

    Args:
        image: (B, C, H, W), any range.
        kind: "mean_abs" and "mean_square" average each direction apart, so they do not depend on the size;
            "sum_abs" and "sum_square" add up a picture and average over the batch (the first is that of TensorFlow
            and torchmetrics). "nine_point" has squares along diagonals too, which treats directions more alike, and
            averages over all pixels with borders repeated (Crowson's style-transfer-pytorch).
    """
    if kind == "nine_point":
        x = F.pad(image, (1, 1, 1, 1), mode="replicate")
        straight = x[..., 1:-1, 1:].diff(dim=3), x[..., 1:, 1:-1].diff(dim=2)
        slanted = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
        means = [sum(d.square().mean() for d in pair) for pair in (straight, slanted)]
        return means[0] * 2 / 3 + means[1] / 6
    differences = image.diff(dim=2), image.diff(dim=3)
    sizes = [d.abs() if kind.endswith("abs") else d.square() for d in differences]
    if kind.startswith("mean"):
        return sizes[0].mean() + sizes[1].mean()
    return (sizes[0].sum() + sizes[1].sum()) / len(image)


@full_precision
def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004), 1 for equal pictures; mean over windows, channels and pictures.

    Windows are gaussian, 11 x 11, sigma 1.5, and lie wholly inside the picture. Constants are .01 and .03 of the
    range, the moments those of a population, the channels apart.

    Args:
        a: (B, C, H, W) in [-1, 1], at least 11 pixels a side.
        b: likewise.
    """
    luminance, structure = similarity(a, b)
    return (luminance * structure).mean()


@full_precision
def similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of :func:`ssim`, of brightness and of structure, at all windows: (B, C, H - 10, W - 10) each."""
    a, b = (a + 1) / 2, (b + 1) / 2
    mean_a, mean_b, aa, bb, ab = windows(torch.stack([a, b, a * a, b * b, a * b]))
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    variance = aa - mean_a**2 + bb - mean_b**2
    return luminance, (2 * (ab - mean_a * mean_b) + 0.03**2) / (variance + 0.03**2)


def ssim_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - :func:`ssim`, from 0 to 2."""
    return 1 - ssim(a, b)


@full_precision
def gray(image: Tensor) -> Tensor:
    """BT.601 luma: (B, 3, H, W) to (B, 1, H, W) in the same range."""
    return yuv(image, YUV[:1])


@full_precision
def color_loss(image: Tensor, target: Tensor) -> Tensor:
    """Keep the colors of `target`: L1 on luma, Huber on both chromas, summed (AnimeGAN, Chen et al., 2020).

    As there, in YUV of pictures in [0, 1].
    """
    y, chroma = yuv((image - target) / 2).split((1, 2), dim=1)  # of the difference: YUV is linear
    return y.abs().mean() + 2 * F.huber_loss(chroma, torch.zeros_like(chroma))


def yuv(image: Tensor, rows: tuple[tuple[float, ...], ...] = YUV) -> Tensor:
    """The channels that `rows` make of RGB: (B, 3, H, W) to (B, rows, H, W)."""
    # Sums, not a convolution or product, which a GPU may round to TF32.
    channels = image.unbind(1)
    return torch.stack([sum(w * x for w, x in zip(row, channels, strict=True)) for row in rows], dim=1)


def windows(x: Tensor) -> Tensor:
    """Gaussian means over all windows of :func:`ssim`, (..., H, W) to (..., H - 10, W - 10)."""
    kernel = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    weights = (kernel / kernel.sum()).tolist()
    for dim in (-2, -1):
        size = x.shape[dim] - 10
        x = sum(w * x.narrow(dim, i, size) for i, w in enumerate(weights))
    return x
