"""What can be measured, in one table for both tasks: to resemble a set of paintings, and to make the right picture."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from ..metrics.color import color_shift
from ..metrics.content import edges, structure
from ..metrics.psnr import psnr
from ..metrics.ssim import ssim

MOST = 58.9  # dB: PSNR of rounding to 8 bit; files show no picture that is nearer
DEFINITIONS = {
    "psnr": f"all pixels and channels of a picture, {MOST} dB at most; mean over pictures",
    "ssim": "gaussian windows 11 x 11, sigma 1.5, wholly inside; channels of sRGB apart; mean over pictures",
}


class Measure(NamedTuple):
    """What a figure is about.

    Attributes:
        better: "lower" or "higher".
        about: for people; `{truth}` is what a picture is compared with.
        layers: of the judge that it looks at, "style" or "content"; none when the judge is not asked.
        paired: it compares a picture with the photograph that it was made of, or with the right answer.
        targets: it is a mean over the paintings.
        sets: it is of use where the target is a set of paintings.
        answers: it is of use where there is a right answer.
        gain: the measure of which it is what a picture has more than its input.
    """

    better: Literal["lower", "higher"]
    about: str
    layers: tuple[str, ...] = ()
    paired: bool = False
    targets: bool = False
    sets: bool = True
    answers: bool = False
    gain: str = ""


BY_STYLE = ("style",)
NEAR = {"paired": True, "sets": False, "answers": True}
MEASURES = {
    "PSNR": Measure("higher", f"nearness to the {{truth}} in dB, pixel by pixel; at most {MOST}", **NEAR),
    "PSNR gain": Measure("higher", "dB more than the input has; 0 is nothing gained", **NEAR, gain="PSNR"),
    "SSIM": Measure("higher", "structural similarity to the {truth}, in windows of 11 x 11; 1 is the same", **NEAR),
    "SSIM gain": Measure("higher", "more than the input has; 0 is nothing gained", **NEAR, gain="SSIM"),
    "KID": Measure("lower", "distance to the paintings, without bias; 0 is like them", BY_STYLE),
    "FID": Measure("lower", "distance to the paintings, biased upwards by few pictures", BY_STYLE),
    "ArtFID-type": Measure("lower", "(1 + content distance) x (1 + FID)", ("content", "style"), paired=True),
    "texture distance": Measure("lower", "to the grain of the paintings, by spectra of blocks; 0 is like them"),
    "palette distance": Measure("lower", "to mean and covariance of the paintings' colors, in L*a*b*"),
    "checkerboard": Measure(
        "lower", "how far a grid of 2 or 4 pixels stands out, in dB; about 0 is none", answers=True
    ),
    "content distance": Measure(
        "lower", "to the {truth}, in what is shown; 0 is the same", ("content",), paired=True, answers=True
    ),
    "edges": Measure("higher", "correlation of edges with the {truth}'s; 1 is the same", paired=True),
    "structure": Measure("higher", "SSIM of luma to the {truth}; 1 is the same", paired=True),
    "color shift": Measure("lower", "from the {truth}, Delta E 2000", paired=True, answers=True),
    "precision": Measure("higher", "share of the pictures that lie among the paintings", BY_STYLE),
    "recall": Measure("higher", "share of the paintings that lie among the pictures", BY_STYLE, targets=True),
    "density": Measure("higher", "how deep the pictures lie among the paintings", BY_STYLE),
    "coverage": Measure("higher", "share of the paintings that have a picture near", BY_STYLE, targets=True),
    "diversity": Measure("higher", "mean distance of two pictures; 1 is that of two paintings", BY_STYLE),
    "near-duplicates": Measure("lower", "share of the pictures that have a twin", BY_STYLE),
}


def _psnr(real: Tensor, fake: Tensor) -> Tensor:
    return psnr(real, fake).clamp_max(MOST)  # infinity has no mean


COMPARED = {"PSNR": _psnr, "SSIM": ssim, "edges": edges, "structure": structure, "color shift": color_shift}
