"""Peak signal-to-noise ratio: how far pixels are off, on a logarithmic scale."""

from __future__ import annotations

from torch import Tensor

from .pictures import Pairs, exact


@exact()
def psnr(real: Tensor, fake: Tensor) -> Tensor:
    """10 log10(range^2 / mean squared difference), in dB; the mean is over all pixels and channels of a picture.

    Args:
        real: (B, 3, H, W) in [-1, 1], so the range is 2.
        fake: of the same shape.

    Returns:
        (B,), float64; infinity for equal pictures.

    Raises:
        ImageError: see :func:`styleforge.metrics.pictures.exact`.
    """
    return 10 * (4 / (real - fake).square().mean((1, 2, 3))).log10()


class PSNR(Pairs):
    """Mean of :func:`psnr`, "psnr" in dB: more is nearer.

    As in papers, ratios are averaged and not squared differences. One pair of equal pictures makes it infinite, and its
    error NaN.
    """

    def __init__(self) -> None:
        super().__init__({"psnr": psnr})
