"""Statistics and losses are computed in float32 or better, whatever the networks compute in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full(x: Any) -> Any:
    """Half-precision tensors in float32; everything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Give a loss its tensors by :func:`full`, and no autocast, which would round its products to half again."""

    @functools.wraps(loss)
    def compute(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*map(full, args), **{name: full(x) for name, x in kwargs.items()})

    return compute
