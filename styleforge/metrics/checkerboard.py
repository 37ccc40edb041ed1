"""The grid that strided networks leave in pictures: a peak at a half and a quarter of the frequency of pixels."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ..losses.frequency import faded
from ..losses.pixel import gray
from .pictures import Sets, exact, mean_and_error

SMALLEST = 64  # pixels, so that there are frequencies around a peak to compare it with
FLOOR = 1 / 12  # power of rounding to 8 bit, in squared levels: a grid below it is not seen in a file
_PEAK = 1  # frequencies to either side that belong to a peak: the window spreads it that far


@exact(SMALLEST)
def checkerboard(images: Tensor) -> Tensor:
    """How far patterns of a period of 2 or 4 pixels stand out, in dB.

    Transposed convolutions of stride 2 repeat a pattern every 2 pixels, two in a row every 4: peaks in the power of
    luma at Nyquist and at half of it, along rows, columns or both. Each of these 15 frequencies is divided by the
    power beside it; the figure is the logarithm of the mean. A plain picture has 0; smooth spectra, of textures, blur
    and noise, come to about 0, and photographs and paintings to -1 on the mean, give or take 1. The 8 x 8 blocks of a
    coarse JPEG show too: look at the figure of the real pictures.

    Args:
        images: (B, 3, H, W) in [-1, 1], at least 64 pixels a side. Rows and columns beyond a multiple of 4 are left
            out.

    Returns:
        (B,), float64.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    power = _power(images[..., : images.shape[2] // 4 * 4, : images.shape[3] // 4 * 4])
    ratios = [_prominence(power, down, right) for down, right in product(range(4), repeat=2) if down or right]
    return 10 * torch.stack(ratios).mean(0).log10()


class Checkerboard(Sets):
    """Mean of :func:`checkerboard` of what was made, and of real pictures beside it."""

    def look(self, images: Tensor) -> Tensor:
        """See :func:`checkerboard`."""
        return checkerboard(images)

    def compute(self) -> dict[str, float]:
        """What is known so far, in dB: about 0 is no grid.

        Returns:
            "checkerboard" and its standard error "checkerboard_error"; where there were real pictures, theirs as
            "checkerboard_real" and "checkerboard_real_error".

        Raises:
            ConfigError: no fakes yet.
        """
        found = mean_and_error(self._known("fake")[:, 0], "checkerboard")
        real = self._rows["real"][:, 0]
        return found | (mean_and_error(real, "checkerboard_real") if len(real) else {})


def _power(images: Tensor) -> Tensor:
    """Power of luma at each frequency, (B, H, W), per pixel and in squared levels of 8 bit."""
    return torch.fft.fft2(faded(gray(images)[:, 0] * 127.5), norm="ortho").abs().square()


def _prominence(power: Tensor, down: int, right: int) -> Tensor:
    """Power at `down` and `right` quarters of the frequency of pixels, over that beside it: (B,).

    Beside it is along the row or the column, whichever has more: straight lines of a scene, horizontal or vertical,
    are a ridge through all frequencies of one of them, and no peak.
    """
    here = power
    for dim, quarter in ((1, down), (2, right)):
        size = here.shape[dim]
        reach = size // 16  # halfway to the eighth at which JPEG's blocks repeat
        places = (torch.arange(-reach, reach + 1) + quarter * size // 4) % size
        here = here.index_select(dim, places)
    y, x = (size // 2 for size in here.shape[1:])
    lines = here[:, y - _PEAK : y + _PEAK + 1], here[:, :, x - _PEAK : x + _PEAK + 1].mT
    peak = lines[0][..., x - _PEAK : x + _PEAK + 1].mean((1, 2))
    beside = [
        torch.cat([line[..., : middle - _PEAK - 1], line[..., middle + _PEAK + 2 :]], 2).mean((1, 2))
        for line, middle in zip(lines, (x, y), strict=True)
    ]
    return (peak + FLOOR) / (torch.maximum(*beside) + FLOOR)
