"""A watch over training: every step by its figures (:class:`Watch`), now and then by its pictures (:class:`Detectors`).

The limits were set by short runs of all methods. In healthy ones no figure was more than 12 times what was usual;
outputs were at least 23 % as diverse as the data, never nearer to their sources than 24 dB, and correlated with them by
-0.45 at the lowest, -0.31 in three looks in a row (-0.30 in color); discriminators lost 38 % of what guessing costs.
Of three CycleGANs without an identity term two swapped light and dark: -0.8 from step 20 on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .configs import Range
from .losses import gray

ENOUGH = 16  # remembered values, before which nothing counts as unusual
FLOOR = 1.0  # what is usually smaller may grow to `factor` times this: a term that was near 0 is no alarm
LENIENCE = 10.0  # factor on the limit for terms, which wander (WGAN's) and start at 0 (warm-ups) where gradients do not

CHANCE = {"lsgan": 0.25, "vanilla": math.log(2), "nonsaturating": math.log(2), "hinge": 1.0}  # loss of who only guesses
MEMORY = 100  # steps that the running mean of a discriminator's loss remembers
SATURATED = 0.05  # share of the loss at chance

LOOKS = 3  # in a row, before something is told, or is over
BEGINNING = 50  # steps in which outputs are mostly those of random weights
COLLAPSED = 0.1  # diversity of outputs as a share of that of the data
INVERTED = -0.5  # correlation of outputs with their sources
COPIED = 35.0  # dB
COPIED_PAIR = 0.1  # distance to the source, as a share of that of the target
FLAT = 0.02  # deviation, in [-1, 1], below which there is nothing to compare


class Watch:
    """Judges losses and gradient norms of every step by what was usual lately.

    Gradient norms are the main signal; terms may rise ten times as far.

    Args:
        window: healthy steps that are remembered, for each name.
        factor: how many times the median of these is too much.
    """

    def __init__(
        self, *, window: Annotated[int, Range(ENOUGH, 10_000)] = 64, factor: Annotated[float, Range(1, 1e12)] = 1000.0
    ) -> None:
        self.window, self.factor = window, factor
        self._past: dict[str, deque[float]] = {}

    def judge(self, values: Mapping[str, float]) -> str | None:
        """Look at one step, and remember it if it is healthy.

        Args:
            values: by name, "player/term" or "player/gradient_norm". Any may be missing in any step.

        Returns:
            None for a healthy step, else what is wrong with the first value that is.
        """
        for name, value in values.items():
            if complaint := self._complaint(name, value):
                return complaint
        for name, value in values.items():
            self._past.setdefault(name, deque(maxlen=self.window)).append(abs(value))
        return None

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON."""
        return {"past": {name: list(past) for name, past in self._past.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._past = {name: deque(past, maxlen=self.window) for name, past in state["past"].items()}

    def _complaint(self, name: str, value: float) -> str | None:
        if not math.isfinite(value):
            return f"{name} is not finite ({value})"
        past = self._past.get(name, ())
        if len(past) < ENOUGH:
            return None
        usual = max(sorted(past)[len(past) // 2], FLOOR)
        limit = self.factor * usual * (1 if name.endswith("/gradient_norm") else LENIENCE)
        return f"{name} = {value:.3g}, {abs(value) / usual:.0f} times what is usual" if abs(value) > limit else None


@dataclass(frozen=True)
class Finding:
    """Something that a run should not show.

    Attributes:
        name: "mode collapse", "copying", "luminance inversion", "color inversion" or "discriminator saturation".
        sentence: what was seen, and the option that usually helps.
    """

    name: str
    sentence: str


class Detectors:
    """Looks for the ways in which training fails while all its figures are finite.

    A fault is told when three looks in a row show it, once, and again only after three in a row that did not.

    Args:
        paired: whether sources and targets belong together.
        adversarial: the loss of the method's discriminators, see :func:`~styleforge.losses.discriminator_loss`; None
            without any. What WGAN's critics say has no scale, so these are not judged.
    """

    def __init__(self, *, paired: bool, adversarial: str | None) -> None:
        self.paired, self.adversarial = paired, adversarial
        self._means: dict[str, float] = {}
        self._low_since: dict[str, int] = {}
        self._told: dict[str, list[int]] = {}

    def saw(self, step: int, terms: Mapping[str, float]) -> None:
        """Take note of a step.

        Args:
            step: its number.
            terms: losses by name; those are followed that end with "real_fake".
        """
        chance = CHANCE.get(self.adversarial or "", 0.0)
        for name, value in terms.items():
            if chance and name.endswith("real_fake"):
                mean = self._means.get(name, chance)
                self._means[name] = mean = mean + (value - mean) / MEMORY
                if mean > SATURATED * chance:
                    self._low_since.pop(name, None)
                else:
                    self._low_since.setdefault(name, step)

    def look(
        self, step: int, steps: int, styled: Tensor, target: Tensor, source: Tensor | None = None
    ) -> list[Finding]:
        """Judge pictures, some eight of each kind, the same or others each time.

        Inversions show within the first hundred steps: to tell them early, look more often there.

        Args:
            step: steps done.
            steps: of the whole run.
            styled: (B, 3, S, S) in [-1, 1], float32 on the CPU: what the network makes now of `source`, or of noise.
            target: (N, 3, S, S), of the training data; with pairs, those of `source`.
            source: (B, 3, S, S); None for methods that start from noise.

        Returns:
            What there is to tell for the first time.
        """
        if not styled.isfinite().all():  # of which the losses tell
            return []
        seen = {"discriminator saturation": self._saturation()}
        if len(styled) > 1 and step >= max(4 * BEGINNING, 0.02 * steps):
            seen["mode collapse"] = self._collapse(styled, target, source)
        if source is not None and step >= max(BEGINNING, 0.1 * steps):
            seen["copying"] = self._copying(styled, target, source)
        if source is not None and step >= BEGINNING:
            seen |= self._inversions(styled, target, source)
        return [Finding(name, sentence) for name, sentence in seen.items() if self._is_news(name, sentence)]

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON."""
        return {"means": dict(self._means), "low_since": dict(self._low_since), "told": dict(self._told)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._means, self._low_since, self._told = (dict(state[name]) for name in ("means", "low_since", "told"))

    def _is_news(self, name: str, sentence: str) -> bool:
        """Whether a fault has now been seen for long enough; how often what is told was contradicted is kept."""
        told, against = self._told.get(name, (0, 0))
        against = against + 1 if bool(sentence) != bool(told) else 0
        if turned := against == LOOKS:
            told, against = 1 - told, 0
        self._told[name] = [told, against]
        return turned and bool(told)

    # Each of the following gives a sentence when there is something to say, else "".

    def _saturation(self) -> str:
        name = min(self._low_since, default=None)
        if name is None:
            return ""
        mean, chance = self._means[name], CHANCE[self.adversarial]
        return (
            f"{name} has been low since step {self._low_since[name]} and is {mean:.2g}, {mean / chance:.1%} of what "
            "guessing costs, so the generator learns little from that discriminator; a lower --discriminator-lr, "
            "--instance-noise 0.1 or --augment color,translation,cutout usually helps."
        )

    def _collapse(self, styled: Tensor, target: Tensor, source: Tensor | None) -> str:
        kind, most = "targets", _diversity(target)
        # Outputs cannot be more diverse than what they come from, and a single target says nothing about diversity.
        if source is not None and (most < FLAT or _diversity(source) < most):
            kind, most = "sources", _diversity(source)
        if most < FLAT or (share := _diversity(styled) / most) > COLLAPSED:
            return ""
        adversarial = "a lower --discriminator-lr or --augment color,translation,cutout"
        knob = adversarial if self.adversarial else "a higher --content"
        return f"Outputs differ {share:.1%} as much from each other as {kind} do (mode collapse); {knob} usually helps."

    def _copying(self, styled: Tensor, target: Tensor, source: Tensor) -> str:
        moved = _distance(styled, source)
        if self.paired:
            way = _distance(target, source)
            if way < FLAT or moved > COPIED_PAIR * way:
                return ""
            return (
                f"Outputs copy their sources, being {moved / way:.1%} as far from them as the targets are; a higher "
                "--l1 usually helps."
            )
        likeness = 20 * math.log10(2 / max(moved, 1e-5))
        if likeness < COPIED:
            return ""
        return (
            f"Outputs copy their sources (PSNR {likeness:.0f} dB); a lower --identity, --cycle, --nce or --content, or "
            "a higher --gan or --style, usually helps."
        )

    def _inversions(self, styled: Tensor, target: Tensor, source: Tensor) -> dict[str, str]:
        """The same about light and dark, and about colors."""
        styled, target, source = _small(styled), _small(target), _small(source)

        def correlation(part: Callable[[Tensor], Tensor]) -> float:
            """Of outputs with sources; 0 where pairs ask for an inversion."""
            asked = self.paired and _correlation(part(target), part(source)) < 0
            return 0.0 if asked else _correlation(part(styled), part(source))

        light, color = correlation(gray), correlation(_chroma)
        found = {"luminance inversion": "", "color inversion": ""}
        if light <= INVERTED:
            found["luminance inversion"] = (
                f"Light and dark are swapped in the outputs (correlation {light:.2f}); starting again with a higher "
                "--identity (--identity-l1, --content) or another --seed usually helps."
            )
        elif light >= 0 and color <= INVERTED:
            found["color inversion"] = (
                f"Colors are swapped for their opposites in the outputs (correlation {color:.2f}); a higher --identity "
                "(--identity-l1, --color) or another --seed usually helps."
            )
        return found


def _small(image: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(image, 8)


def _chroma(image: Tensor) -> Tensor:
    """R - Y, G - Y and B - Y; U and V are multiples of the last and the first."""
    return image - gray(image)


def _distance(a: Tensor, b: Tensor) -> float:
    """Root mean square."""
    return (a - b).square().mean().sqrt().item()


def _diversity(image: Tensor) -> float:
    """Mean distance of two pictures of a batch, root mean square over 8 x 8 places; 0 for a single picture.

    Means and deviations of whole channels would tell less: where instance norms fix them, they differed 7 % as much
    between healthy outputs as between their sources.
    """
    places = _small(image).flatten(1)
    return (torch.pdist(places).mean() / places.shape[1] ** 0.5).nan_to_num().item()


def _correlation(a: Tensor, b: Tensor) -> float:
    """Of what varies within the pictures of two batches, over all of them; 0 where next to nothing varies."""
    a, b = ((x - x.mean((2, 3), keepdim=True)) for x in (a, b))
    varies = min(a.square().mean(), b.square().mean()) > FLAT**2
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() if varies else 0.0
