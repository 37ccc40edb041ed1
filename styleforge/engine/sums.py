"""Sums over maps of features, fast and accurate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2**17  # values that are summed up in float32, from where the processor keeps them; their sums are, in float64
QUICK = 2**20  # in bfloat16: larger blocks, because threads wait for each other in Python for each small call


def measure(core: Tensor, kind: str) -> Tensor:
    """Of (1, C, H, W): the largest values (C,), or count, mean and squares about the mean (3, C).

    In float64, so on the CPU: Apple's GPUs have none.
    """
    if kind == "amax":
        return core.amax((0, 2, 3)).cpu().double()
    quick = core.dtype == torch.bfloat16 and core.device.type == "cpu"
    rows = max(1, (QUICK if quick else BLOCK) // core[0, :, 0].numel())
    blocks = core.split(rows, 2)
    # Few calls for each block, because there are many: what can be done of all is done of all, a row for each.
    parts = zip(*map(_mean_and_variance if quick else _mean_and_squares, blocks), strict=True)
    mean, squares = (torch.stack(part).cpu().double() for part in parts)
    count = mean.new_tensor([block[0, 0].numel() for block in blocks])[:, None].expand_as(mean)
    if quick:
        squares = squares * count
    return joined(kind, torch.stack([count, mean, squares], 1))


def quickly(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of (B, C, H, W), both (B, C) in float32, by a norm of torch; on CPUs.

    It sums up naively in channels-last, so it is for bfloat16 and not for too many pixels; torch's own sums over such
    take several times as long.
    """
    mean, variance = (torch.stack(part).float() for part in zip(*map(_mean_and_variance, x.split(1)), strict=True))
    return mean, variance


def _mean_and_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of (1, C, H, W), in float32 or better, both (C,): the mean and the sum of squares about it."""
    x = x if x.dtype == torch.float64 else x.float()
    mean = x.mean((2, 3), keepdim=True)
    return mean[0, :, 0, 0], (x - mean).square_().sum((0, 2, 3))


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of (1, C, H, W), in float32 both (C,): the mean and the mean square about it."""
    x = x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)
    running = torch.zeros(2, x.shape[1])  # not asked for, but with these in float32 the results are, too
    return torch.batch_norm_update_stats(x, *running, 0.0)


def joined(kind: str, shares: Tensor) -> Tensor:
    """Of several parts (N, ...) what :func:`measure` gives for all of them (Chan, Golub & LeVeque, 1979)."""
    if kind == "amax":
        return shares.amax(0)
    count, mean, squares = shares.unbind(1)
    total = count.sum(0)
    middle = (count * mean).sum(0) / total
    return torch.stack([total, middle, (squares + count * (mean - middle).square()).sum(0)])


def normed(x: Tensor, moments: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """A map (B, C, H, W) less the mean and over the deviation of each channel, by what :func:`measure` gave."""
    count, mean, squares = moments
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    parts = (None if t is None else t.to(dtype).to(x.device) for t in (mean, squares / count, weight, bias))
    return F.batch_norm(x, *parts, training=False, eps=eps)
