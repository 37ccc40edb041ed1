"""Losses on what a network attends to."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from .pixel import total_variation


@full_precision
def cam_loss(logits: Tensor, active: bool) -> Tensor:
    """Cross-entropy of U-GAT-IT's auxiliary classifier (Kim et al., 2020), which makes its attention map a map.

    Args:
        logits: any shape; there (B, 2), from average and maximum.
        active: whether the picture comes from the domain to be translated, or already is what it should be.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(active)))


@full_precision
def attention_entropy(attention: Tensor) -> Tensor:
    """How spread attention is: 0 when all rows look at one place, 1 when at all places alike.

    Args:
        attention: (..., N) with N > 1, rows that sum to one.
    """
    # The clamp is for rows that underflowed to zero, where the logarithm's gradient is infinite.
    logarithm = attention.clamp_min(torch.finfo(attention.dtype).tiny).log()
    return -(attention * logarithm).sum(-1).mean() / math.log(attention.shape[-1])


@full_precision
def attention_variation(attention: Tensor) -> Tensor:
    """Total variation of attention maps (B, C, H, W), each by its own mean size: a fainter map is no smoother one."""
    size = attention.abs().mean((1, 2, 3), keepdim=True)
    return total_variation(attention / size.clamp_min(torch.finfo(attention.dtype).eps))


@full_precision
def local_feature_loss(features: Tensor, target: Tensor) -> Tensor:
    """Features of the output should be what attention made of content and style (AdaAttN, Liu et al., 2021).

    Args:
        features: (B, C, H, W) of the output.
        target: the same shape, attention without learnt parameters; gets no gradient.
    """
    return F.mse_loss(features, target.detach())
