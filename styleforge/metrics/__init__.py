"""Measures of pictures and sets of them: `update(real=, fake=)` takes batches, `compute()` gives numbers by name."""

from .checkerboard import Checkerboard
from .color import ColorDistance, ColorShift
from .content import Content
from .diversity import Diversity
from .fid import FID
from .kid import KID
from .lpips import LPIPS
from .precision_recall import PrecisionRecall
from .psnr import PSNR
from .ssim import MSSSIM, SSIM
from .temporal import WarpingError
from .texture import Texture

__all__ = [
    "FID",
    "KID",
    "LPIPS",
    "MSSSIM",
    "PSNR",
    "SSIM",
    "Checkerboard",
    "ColorDistance",
    "ColorShift",
    "Content",
    "Diversity",
    "PrecisionRecall",
    "Texture",
    "WarpingError",
]
