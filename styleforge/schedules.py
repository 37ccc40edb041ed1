"""How learning rates change: functions of the step, and one that follows what is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

FALL, SMALLEST = 0.5, 0.01  # of a plateau's factor: what it is multiplied with, and where it ends
Schedule = Literal["constant", "linear", "cosine", "step", "plateau"]


def learning_rate(schedule: Schedule, step: int, steps: int, *, warmup: int = 0, decay: float = 0.5) -> float:
    """Factor on the learning rate of a step, at most 1.

    Args:
        schedule: "constant"; "linear" (CycleGAN's: 1, and at the end down to 0) or "cosine", the same on half a wave;
            "step", down to a tenth after each third; "plateau", to be multiplied by that of :class:`Plateau`.
        step: number of the step, from 0.
        steps: of the run.
        warmup: steps in which the factor first rises, from 1 / warmup to what it would be.
        decay: share of the run, at its end, in which "linear" and "cosine" fall.
    """
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if schedule == "step":
        return rising * 0.1 ** (3 * step // steps)
    if schedule not in ("linear", "cosine") or not decay:
        return rising
    left = min(1.0, (steps - step) / max(1, round(decay * steps)))
    return rising * (left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


class Plateau:
    """Lower the learning rate when quality no longer improves.

    Args:
        patience: measurements in a row without an improvement after which the rate falls; 0 leaves it alone.

    Attributes:
        factor: on the learning rate, now.
    """

    def __init__(self, patience: int) -> None:
        self.factor = 1.0
        self._patience, self._waited = patience, 0

    def update(self, improved: bool) -> None:
        """Follow a measurement: whether it was better than all before."""
        self._waited = 0 if improved else self._waited + 1
        if self._patience and self._waited >= self._patience:
            self.factor, self._waited = max(SMALLEST, self.factor * FALL), 0

    def state(self) -> dict[str, Any]:
        """What a run must remember, as JSON."""
        return {"factor": self.factor, "waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.factor, self._waited = state["factor"], state["waited"]
