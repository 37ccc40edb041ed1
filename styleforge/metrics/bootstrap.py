"""How much other pictures of the same kind would change a figure.

A draw with replacement is written as how often each picture was drawn, so that a figure under many draws is a product
of matrices, and figures of two styles on the same pictures are compared under the same draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import rng

Kernel = Callable[[Tensor, Tensor], Tensor]  # (b, d) and (m, d) to (b, m)

ROWS = 1024  # of a matrix of pairs that are in memory at a time
LEVEL = 0.95  # of the intervals


class Estimate(NamedTuple):
    """A figure and the interval that holds it in 95 of 100 cases."""

    value: float
    low: float
    high: float


def draws(pictures: int, count: int, *key: int | str) -> Tensor:
    """How often each picture is drawn: (count + 1, pictures), float64; first each once, then `count` draws.

    Args:
        pictures: there are.
        count: of draws, each of as many pictures.
        key: of the randomness; see :mod:`styleforge.rng`.
    """
    chosen = torch.randint(pictures, (count, pictures), generator=rng.generator("bootstrap", *key))
    drawn = torch.zeros(count, pictures, dtype=torch.float64).scatter_add_(1, chosen, torch.ones_like(chosen).double())
    return torch.cat([torch.ones(1, pictures, dtype=torch.float64), drawn])


def mean(values: Tensor, times: Tensor) -> Tensor:
    """The mean of `values` (n,) under draws (r, n): (r,)."""
    return times @ values.double() / times.sum(1)


def between(kernel: Kernel, x: Tensor, y: Tensor, times_x: Tensor, times_y: Tensor) -> Tensor:
    """The mean kernel of a picture of `x` (n, d) with one of `y` (m, d), under draws (r, n) and (r, m): (r,)."""
    sums = sum(
        (times * (kernel(rows, y) @ times_y.T).T).sum(1)
        for rows, times in zip(x.split(ROWS), times_x.split(ROWS, 1), strict=True)
    )
    return sums / (times_x.sum(1) * times_y.sum(1))


def within(kernel: Kernel, x: Tensor, times: Tensor) -> Tensor:
    """The mean kernel of two pictures of `x` (n, d) under draws (r, n): (r,).

    Of pairs of one picture with itself, of which draws with replacement are full, none counts: they would make any
    set look less diverse, and nearer to itself, than it is.
    """
    sums = torch.zeros(len(times), dtype=torch.float64)
    for begin in range(0, len(x), ROWS):
        matrix = kernel(x[begin : begin + ROWS], x)
        matrix.diagonal(begin).zero_()
        sums += (times[:, begin : begin + ROWS] * (matrix @ times.T).T).sum(1)
    return sums / (times.sum(1).square() - times.square().sum(1))


def estimate(values: Tensor) -> Estimate:
    """The figure itself, `values[0]`, and the middle of what the draws behind it gave.

    Where the draws lie to one side by more than chance, the interval is moved back: they repeat pictures, and what
    counts different ones (FID, for instance) is biased by that. What is never negative stays so.
    """
    value, drawn = values[0], values[1:]
    drawn = drawn[drawn.isfinite()]  # of few pictures one may be drawn each time, and has no pairs
    bias = drawn.mean() - value
    bias = bias * (bias.abs() > 3 * drawn.std() / len(drawn) ** 0.5)
    ends = torch.quantile(drawn - bias, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64))
    low, high = (ends.clamp_min(0) if min(value, drawn.min()) >= 0 else ends).tolist()
    return Estimate(value.item(), min(low, value.item()), max(high, value.item()))
