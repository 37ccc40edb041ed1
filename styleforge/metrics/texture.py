"""Whether pictures have the grain of others, whatever they show; colors count little: spectra of small blocks.

No network is asked, so no training against one can please this judge; brushwork, blur, noise and grids move it, and so
do resizing and JPEG: bring all pictures to one size in one way. A style is nearer to its target than the photographs
are only if its figure is below theirs. At 128 px, to 103 old paintings: 103 others 0.00, 60 photographs 0.14, the same
in the colors of paintings 0.26, blurred (sigma 1.5) 1.24, with noise (0.1 of the range) 1.45.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from .. import configs
from ..configs import Range
from ..losses.pixel import yuv
from . import bootstrap
from .looks import check_rows
from .pictures import Sets, exact

BLOCK = 8
FLOOR = 1 / 12  # power of rounding to 8 bit, in squared levels: what lies below it is not seen in a file
FARTHEST = 6.0  # deviations from the mean; whatever lies beyond lies there


def log_power(images: Tensor) -> Tensor:
    """Log power of each frequency of 8 x 8 blocks (DCT-II, orthonormal) of luma and both chromas, mean over blocks.

    Args:
        images: (B, 3, H, W) in [-1, 1]. Rows and columns beyond a multiple of 8 are left out.

    Returns:
        (B, 192), of levels of 8 bit.
    """
    blocks = yuv((images + 1) * 127.5).unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    matrix = _cosines().to(images)
    power = (matrix @ blocks @ matrix.T).square().mean((2, 3))
    return (power + FLOOR).log().flatten(1)


@exact(BLOCK)
def spectrum(images: Tensor) -> Tensor:
    """:func:`log_power` in float64.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    return log_power(images)


def texture(real: Tensor, fake: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of two sets of spectra under a gaussian kernel.

    Spectra are standardized by the real ones, cut at 6 deviations, and the kernel is as wide as the median distance of
    two real ones: so figures of several styles against one target can be compared.

    Args:
        real: rows (n, 192) of :func:`spectrum`.
        fake: likewise (m, 192).

    Returns:
        From about 0 for two sets of one kind, a little below as often as above, to at most 2.

    Raises:
        ConfigError: fewer than 3 rows, NaN or infinity.
    """
    check_rows(real, fake, "texture distance", 3)
    ones = (torch.ones(1, len(rows), dtype=torch.float64) for rows in (real, fake))
    return resampled(real, fake, *ones).item()


def resampled(real: Tensor, fake: Tensor, times_real: Tensor, times_fake: Tensor) -> Tensor:
    """:func:`texture` under draws (r, n) and (r, m), see :mod:`styleforge.metrics.bootstrap`: (r,)."""
    check_rows(real, fake, "texture distance", 3)
    mean, deviation = real.mean(0), real.std(0).clamp_min(1e-3)
    real, fake = (((rows - mean) / deviation).clamp(-FARTHEST, FARTHEST) for rows in (real, fake))
    width = 2 * torch.pdist(real[: bootstrap.ROWS]).median().square().clamp_min(1e-12)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / width)

    alike = bootstrap.within(kernel, real, times_real) + bootstrap.within(kernel, fake, times_fake)
    return alike - 2 * bootstrap.between(kernel, real, fake, times_real, times_fake)


class Texture(Sets):
    """:func:`texture` of two sets of pictures, which come in batches of any size.

    Args:
        draws: of pictures, for the error.

    Raises:
        ConfigError: `draws` is out of range.
    """

    width = 3 * BLOCK**2

    def __init__(self, *, draws: Annotated[int, Range(2, 10**6)] = 100) -> None:
        configs.check(Texture.__init__, {"draws": draws}, "Texture")
        super().__init__()
        self._draws = draws

    def look(self, images: Tensor) -> Tensor:
        """See :func:`spectrum`."""
        return spectrum(images)

    def compute(self) -> dict[str, float]:
        """What is known so far.

        Returns:
            "texture", and "texture_error": the deviation under draws of pictures with replacement.

        Raises:
            ConfigError: fewer than 3 pictures of either set.
        """
        real, fake = self._known("real"), self._known("fake")
        times = (bootstrap.draws(len(rows), self._draws, "texture", n) for n, rows in enumerate((real, fake)))
        value, *drawn = resampled(real, fake, *times)
        error = torch.stack([each for each in drawn if each.isfinite()]).std()  # few draw one picture again and again
        return {"texture": value.item(), "texture_error": error.item()}


def _cosines() -> Tensor:
    """The orthonormal DCT-II: one row for each frequency."""
    places, frequencies = torch.arange(BLOCK) + 0.5, torch.arange(BLOCK, dtype=torch.float64)
    matrix = torch.cos(torch.pi / BLOCK * torch.outer(frequencies, places)) * (2 / BLOCK) ** 0.5
    matrix[0] /= 2**0.5
    return matrix
