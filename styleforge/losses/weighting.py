"""Samples that count for more than others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import full_precision


@full_precision
def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over samples, each with its weight; 0 when no sample counts.

    Args:
        values: (B, ...) losses; those of one sample are averaged first.
        weights: (B,), not negative; only their proportions matter.
    """
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    return (values.reshape(len(values), -1).mean(1) * weights).sum() / total
