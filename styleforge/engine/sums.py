"""Sums over maps of features, fast and accurate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2**17  # values that are summed up in float32, from where the processor keeps them; their sums are, in float64


def measure(core: Tensor, kind: str) -> Tensor:
    """Of (1, C, H, W), in float64: the largest values (C,), or count, mean and squares about the mean (3, C)."""
    if kind == "amax":
        return core.amax((0, 2, 3)).double()
    parts = []
    for block in core[0].split(max(1, BLOCK // core[0, :, 0].numel()), 1):
        block = block if block.dtype == torch.float64 else block.float()
        mean = block.mean((1, 2), keepdim=True)
        squares = (block - mean).square_().sum((1, 2))
        parts.append(torch.stack([torch.full_like(squares, block[0].numel()), mean[:, 0, 0], squares]).double())
    return joined(kind, torch.stack(parts))


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
    parts = (None if t is None else t.to(dtype) for t in (mean, squares / count, weight, bias))
    return F.batch_norm(x, *parts, training=False, eps=eps)
