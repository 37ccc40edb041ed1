"""Structural similarity at one scale (Wang et al., 2004) and at five (Wang et al., 2003).

Windows are gaussian, 11 x 11, sigma 1.5, and lie wholly inside the picture. Constants are .01 and .03 of the range,
moments those of a population; the three channels of sRGB are compared apart and averaged. Libraries that pad the
picture, or take a uniform window or luma alone, give other numbers: 0.389 in place of 0.404 for one blurred picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.pixel import similarity
from .pictures import Pairs, exact

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first


@exact(11)
def ssim(real: Tensor, fake: Tensor) -> Tensor:
    """SSIM of each pair.

    Args:
        real: (B, 3, H, W) in [-1, 1], at least 11 pixels a side.
        fake: of the same shape.

    Returns:
        (B,), float64, 1 for equal pictures, about 0 for unrelated ones.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    return torch.mul(*similarity(real, fake)).mean((1, 2, 3))


@exact(11 * 2 ** (len(WEIGHTS) - 1))
def ms_ssim(real: Tensor, fake: Tensor) -> Tensor:
    """MS-SSIM of each pair: structure at five scales, brightness at the coarsest.

    From scale to scale 2 x 2 pixels become their mean, and an odd last row or column is left out. Means over channels
    and places are taken before they are multiplied, and negative ones count as 0.

    Args:
        real: (B, 3, H, W) in [-1, 1], at least 176 pixels a side, so that the coarsest scale has a window.
        fake: of the same shape.

    Returns:
        (B,), float64, from 0 to 1 for equal pictures.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    factors = []
    for scale in range(len(WEIGHTS)):
        if scale:
            real, fake = F.avg_pool2d(real, 2), F.avg_pool2d(fake, 2)
        luminance, structure = similarity(real, fake)
        factors.append(structure.mean((1, 2, 3)))
    factors[-1] = (luminance * structure).mean((1, 2, 3))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    return (torch.stack(factors, 1).clamp_min(0) ** weights).prod(1)


class SSIM(Pairs):
    """Mean of :func:`ssim`, "ssim": more is nearer, 1 is the same."""

    def __init__(self) -> None:
        super().__init__({"ssim": ssim})


class MSSSIM(Pairs):
    """Mean of :func:`ms_ssim`, "ms_ssim": more is nearer, 1 is the same."""

    def __init__(self) -> None:
        super().__init__({"ms_ssim": ms_ssim})
