"""Inference: fast where the processor allows it, and of any size in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import memory
from .compiled import Compiled
from .fast import accelerate
from .replay import Replay
from .tiled import SHARE, Paintable, Pixels, Plan, Progress, Statistics, painted, plan, run_tiled
from .trial import kernels
from .watch import How, run_whole, watched, watching

__all__ = [
    "Compiled",
    "How",
    "Paintable",
    "Pixels",
    "Plan",
    "Progress",
    "Replay",
    "Statistics",
    "accelerate",
    "plan",
    "run",
    "run_tiled",
    "watched",
]

FEW = 64  # pixels of a picture, or less: in bfloat16 norms divide its rounding by next to nothing
SURELY = 8192  # bytes for each pixel that are enough for all of our networks, so that small pictures wait for no plan


@torch.no_grad()
def run(
    model: nn.Module,
    image: Tensor | Pixels,
    *,
    into: Paintable | None = None,
    max_memory: int | None = None,
    statistics: Statistics = "exact",
    fast: bool = True,
    shortcut: Compiled | Replay | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """What `model(image, **options)` gives: at once if that fits into memory, else in tiles.

    Args:
        model: a network in evaluation mode.
        image: (B, C, H, W) in [-1, 1], of a size that the network takes; of several pictures, each by itself.
        into: takes the result of one picture, by tiles as they are done; a new tensor, when None.
        max_memory: bytes that may be needed beside the model, the input and the output; by default half of what is
            free.
        statistics: of tiles; see :func:`styleforge.engine.tiled.run_tiled`.
        fast: compute in bfloat16 where that is faster, see :func:`styleforge.engine.fast.accelerate`, and in 8 bit
            where the network bears it, see :func:`styleforge.engine.trial.kernels`; not of a few pixels.
        shortcut: for the same network, where it is computed at once and without a watcher.
        options: further arguments of the model, the same for all pictures.
        progress: called with how many tiles of how many are done.

    Returns:
        (B, 3, H, W) in [-1, 1], of the type of `image`; or `into`.

    Raises:
        ConfigError: the budget is too small, or the network can only see the whole and that does not fit.
    """
    pixels, options = image.shape[2:].numel(), options or {}
    fast = fast and pixels > FEW
    budget = int(memory.available(image.device) * SHARE) if max_memory is None else max_memory
    whole = image.shape[0] * pixels * SURELY <= budget
    if shortcut and whole and not watching():
        made = shortcut(image[:, :, :, :], options, fast=fast)
        if made is not None:
            return painted(made, into)
    eight = kernels(model, options, fast=fast)
    ordered = None if whole else {}
    known = pixels if whole else None  # else it will turn out
    around = partial(accelerate, model, enabled=fast, pixels=known, kernels=eight, ordered=ordered)
    given = {"max_bytes": budget, "statistics": statistics, "options": options, "progress": progress, "around": around}
    with around():
        if whole:
            return painted(run_whole(model, image[:, :, :, :], options).to(image.dtype), into)
        if into is not None:
            return run_tiled(model, image, into=into, **given)
        return torch.cat([run_tiled(model, one, **given) for one in image.split(1)]).to(image.dtype)
