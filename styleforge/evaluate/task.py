"""The two tasks of a style, resembling paintings and making the right picture, and what no style made for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import ImageFilter
from torch import Tensor

from .. import control, images, rng
from .measures import MEASURES, Measure

STYLE, AGAINST = "style", "against"
SOURCE, TRANSFER, INPUT, SOFT, ANSWER = "source", "color transfer", "input", "blur", "right answer"
BLUR, NOISE = 1.5, 0.1  # deviations: in pixels of the square, and of values in [0, 1]


class Draw(NamedTuple):
    """What a picture is made of, (1, 3, S, S) in [-1, 1] each: what comes in, and a painting or the right answer."""

    number: int
    photo: Tensor
    target: Tensor
    seed: int


Maker = Callable[[Draw], Tensor]


def _as_it_is(draw: Draw) -> Tensor:
    return draw.photo


def _answer(draw: Draw) -> Tensor:
    return draw.target


def _color_transfer(draw: Draw) -> Tensor:
    """The photograph with mean and covariance of the painting's colors, by the map that moves pixels least."""
    return control.preserve_color(draw.target, draw.photo, "histogram")


def _blurred(draw: Draw) -> Tensor:
    return images.read(images.to_pil(draw.photo).filter(ImageFilter.GaussianBlur(BLUR))).tensor()


def _noisy(draw: Draw) -> Tensor:
    noise = torch.randn(draw.photo.shape, generator=rng.generator(draw.seed, "noise", draw.number))
    return draw.photo + 2 * NOISE * noise


class Task(NamedTuple):
    """What a style is for.

    Attributes:
        controls: what no style made, by name.
        base: the control that does nothing.
        truth: the control that pictures are compared with.
        rival: another control that a style should surpass, and what to call it.
        decides: the measure by which it is judged.
        order: the measure of single pictures that sorts them, for the sheets of the worst and the best.
        nouns: what comes in, what it is to come near to, and what it is compared with.
        untouched: what comes in, as an adjective or a noun.
        sheets: headings of the worst and the best.
        legend: of the controls.
    """

    controls: dict[str, Maker]
    base: str
    truth: str
    rival: tuple[str, str]
    decides: str
    order: str
    nouns: tuple[str, str, str]
    untouched: str
    sheets: tuple[str, str]
    legend: str

    @property
    def sets(self) -> bool:
        """Whether the target is a set to be resembled as a whole, rather than an answer to each picture."""
        return self.base == self.truth

    @property
    def measures(self) -> dict[str, Measure]:
        """Those of use."""
        used = {name: of for name, of in MEASURES.items() if (of.sets if self.sets else of.answers)}
        return {name: of._replace(about=of.about.format(truth=self.nouns[2])) for name, of in used.items()}


PAINTINGS = Task(
    controls={SOURCE: _as_it_is, TRANSFER: _color_transfer, SOFT: _blurred, "noise": _noisy},
    base=SOURCE,
    truth=SOURCE,
    rival=(TRANSFER, "A plain color transfer"),
    decides="KID",
    order="edges",
    nouns=("photographs", "paintings", "photograph"),
    untouched="unstyled",
    sheets=("Content kept worst", "Content kept best"),
    legend="the photographs as they are, blurred, and with noise; in green with the colors of a painting",
)
ANSWERS = Task(
    controls={INPUT: _as_it_is, SOFT: _blurred, ANSWER: _answer},
    base=INPUT,
    truth=ANSWER,
    rival=(SOFT, "A plain blur"),
    decides="PSNR",
    order="PSNR gain",
    nouns=("inputs", "right answers", "right answer"),
    untouched="input",
    sheets=("Gained least", "Gained most"),
    legend="the inputs blurred, and the right answers; in green the inputs as they came",
)
