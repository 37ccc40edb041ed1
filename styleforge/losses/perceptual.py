"""Losses on features (B, C, H, W) of a network that looks at pictures, see :mod:`styleforge.features`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..layers import mean_std
from ..precision import full_precision

Normalization = Literal["chw", "hw", "none"]
StyleKind = Literal["statistics", "gram", "l1"]


@full_precision
def gram(features: Tensor, normalize: Normalization = "chw") -> Tensor:
    """Gram matrices (B, C, C): what occurs together with what, wherever (Gatys et al., 2016).

    Args:
        features: (B, C, H, W).
        normalize: what the sums over places are divided by: "chw" (Johnson et al., 2016), "hw" or "none".
    """
    rows = features.flatten(2)
    matrix = rows @ rows.transpose(1, 2)
    return matrix / {"chw": rows[0].numel(), "hw": rows.shape[2], "none": 1}[normalize]


def gram_loss(features: Tensor, target: Tensor, normalize: Normalization = "chw") -> Tensor:
    """Mean squared difference of Gram matrices.

    Args:
        features: (B, C, H, W).
        target: (B or 1, C, H, W), of any size.
        normalize: see :func:`gram`. Gatys' own weight is a quarter of "hw".
    """
    return (gram(features, normalize) - gram(target, normalize)).square().mean()


@full_precision
def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference, place by place."""
    return F.mse_loss(features, target)


def statistics_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of channel means, plus that of their deviations (AdaIN, Huang and Belongie, 2017).

    Args:
        features: (B, C, H, W).
        target: (B or 1, C, H, W), of any size.
    """
    pairs = zip(mean_std(features), mean_std(target), strict=True)
    return sum((ours - theirs).square().mean() for ours, theirs in pairs)


def style_perceptual(
    features: Mapping[str, Tensor], target: Mapping[str, Tensor], kind: StyleKind = "statistics"
) -> Tensor:
    """Distance of two styles, summed over layers.

    Args:
        features: layers by name; may hold more than `target` does.
        target: the layers to compare.
        kind: "statistics" (:func:`statistics_loss`), "gram" (:func:`gram_loss`) or "l1", the mean absolute
            difference place by place, for which both pictures must be of one size.
    """
    distance = {"statistics": statistics_loss, "gram": gram_loss, "l1": full_precision(F.l1_loss)}[kind]
    return sum(distance(features[layer], wanted) for layer, wanted in target.items())
