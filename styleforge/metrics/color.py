"""How far colors are from those of the source, pixel by pixel, and from those of a set of pictures, as a whole.

Colors are CIE L*a*b* of sRGB (IEC 61966-2-1) under D65. A difference of 1 is about the least that an eye sees side by
side, 100 is that of black and white.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fid import frechet
from .pictures import Pairs, Sets, exact

XYZ = (  # of linear sRGB
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def lab(images: Tensor) -> Tensor:
    """L* from 0 to 100, a* and b*: (B, 3, H, W) in [-1, 1] to (B, 3, H, W), in the precision of `images`."""
    rgb = (images + 1) / 2
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(XYZ).to(images)
    matrix = matrix / matrix.sum(1, keepdim=True)  # of white, so that gray has no color at all
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    d = 6 / 29
    x, y, z = torch.where(xyz > d**3, xyz.clamp_min(d**3) ** (1 / 3), xyz / (3 * d**2) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def delta_e(one: Tensor, two: Tensor) -> Tensor:
    """CIE Delta E 2000 (Sharma et al., 2005) of colors (B, 3, ...) in L*a*b*: (B, ...)."""
    l1, a1, b1 = one.unbind(1)
    l2, a2, b2 = two.unbind(1)
    chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1.5 - _saturation(chroma) / 2
    c1, c2 = torch.hypot(stretch * a1, b1), torch.hypot(stretch * a2, b2)
    h1, h2 = (torch.rad2deg(torch.atan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    far = (h1 - h2).abs() > 180
    turn = h2 - h1 - 360 * torch.where(far, (h2 - h1).sign(), 0)
    # Where one color is gray its hue is any; then c1 c2 is 0, and with it all that follows from hues.
    hue = ((h1 + h2) / 2 + 180 * far) % 360
    lightness, chroma = (l1 + l2) / 2 - 50, (c1 + c2) / 2
    weight = 1 + sum(
        part * torch.cos(torch.deg2rad(times * hue + shift))
        for part, times, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    )
    light = (l2 - l1) / (1 + 0.015 * lightness**2 / (20 + lightness**2).sqrt())
    color = (c2 - c1) / (1 + 0.045 * chroma)
    tint = 2 * (c1 * c2).sqrt() * torch.sin(torch.deg2rad(turn / 2)) / (1 + 0.015 * chroma * weight)
    blue = torch.exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * torch.sin(torch.deg2rad(60 * blue)) * _saturation(chroma)
    return (light**2 + color**2 + tint**2 + rotation * color * tint).clamp_min(0).sqrt()


@exact()
def color_shift(real: Tensor, fake: Tensor) -> Tensor:
    """Mean :func:`delta_e` of each pixel of a picture.

    Args:
        real: (B, 3, H, W) in [-1, 1].
        fake: of the same shape.

    Returns:
        (B,), float64, 0 for the same picture.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    return delta_e(lab(real), lab(fake)).mean((1, 2))


@exact()
def moments(images: Tensor) -> Tensor:
    """Mean color of each picture, and means of the products of two channels: (B, 3 + 9), float64, in L*a*b*.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    colors = lab(images).flatten(2)
    products = colors @ colors.mT / colors.shape[2]
    return torch.cat([colors.mean(2), products.flatten(1)], 1)


def color_distance(real: Tensor, fake: Tensor) -> float:
    """How far two palettes are apart: the Wasserstein distance of normal distributions with their moments, in L*a*b*.

    Args:
        real: rows (n, 12) of :func:`moments`; each picture counts the same, whatever its size.
        fake: likewise (m, 12).

    Returns:
        0 for the same mean and covariance of colors. When all colors move alike, it is by how much (Delta E 1976).
    """
    normals = [part for rows in (real, fake) for part in _normal(rows.mean(0))]
    return frechet(*normals) ** 0.5


class ColorShift(Pairs):
    """Mean of :func:`color_shift`, "color_shift", in Delta E 2000: less is nearer to the source."""

    def __init__(self) -> None:
        super().__init__({"color_shift": color_shift})


class ColorDistance(Sets):
    """:func:`color_distance` of two sets of pictures that need not be pairs, "color_distance"."""

    width = 12

    def look(self, images: Tensor) -> Tensor:
        """See :func:`moments`."""
        return moments(images)

    def compute(self) -> dict[str, float]:
        """The distance so far.

        Raises:
            ConfigError: no pictures of one of the sets.
        """
        return {"color_distance": color_distance(self._known("real"), self._known("fake"))}


def _saturation(chroma: Tensor) -> Tensor:
    """From 0 for gray towards 1 for the most colorful."""
    power = chroma**7
    return (power / (power + 25.0**7)).sqrt()


def _normal(row: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (3,) and covariance (3, 3)."""
    mean = row[:3]
    return mean, row[3:].view(3, 3) - torch.outer(mean, mean)
