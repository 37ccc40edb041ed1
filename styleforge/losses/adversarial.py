"""What discriminator and generator minimise against each other; all on logits."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision

Adversarial = Literal["lsgan", "vanilla", "hinge", "wgan", "nonsaturating"]


@full_precision
def discriminator_loss(real: Tensor, fake: Tensor, kind: Adversarial = "lsgan", *, smooth: float = 0.0) -> Tensor:
    """Mean of the losses on real and on fake pictures.

    Args:
        real: logits of real pictures, any shape.
        fake: logits of generated pictures.
        kind: "lsgan" (Mao et al., 2017), "vanilla" (cross-entropy, Goodfellow et al., 2014), "hinge"
            (Lim and Ye, 2017), "wgan" (Arjovsky et al., 2017) or "nonsaturating", StyleGAN's name for "vanilla".
        smooth: one-sided label smoothing for "lsgan" and both names of the cross-entropy: real pictures count as
            `1 - smooth`.

    Returns:
        A scalar. The mean, as CycleGAN takes it; the sum of DCGAN and StyleGAN is twice this, so a penalty beside
        it weighs twice what it does there.
    """
    if kind == "lsgan":
        of_real = (real - (1 - smooth)).square()
    elif kind in ("vanilla", "nonsaturating"):
        of_real = _cross_entropy(real, 1 - smooth)
    else:
        of_real = F.relu(1 - real) if kind == "hinge" else -real
    return (of_real.mean() + fakes_loss(fake, kind)) / 2


@full_precision
def fakes_loss(fake: Tensor, kind: Adversarial = "lsgan") -> Tensor:
    """The part of :func:`discriminator_loss` (before the mean of both) that fakes have, for more kinds of them."""
    if kind == "lsgan":
        return fake.square().mean()
    if kind in ("vanilla", "nonsaturating"):
        return _cross_entropy(fake, 0.0)
    return F.relu(1 + fake).mean() if kind == "hinge" else fake.mean()


@full_precision
def generator_loss(fake: Tensor, kind: Adversarial = "lsgan") -> Tensor:
    """How far generated pictures are from passing as real ones; `kind` as in :func:`discriminator_loss`.

    "vanilla" is the non-saturating form that everybody uses.
    """
    if kind == "lsgan":
        return (fake - 1).square().mean()
    return _cross_entropy(fake, 1.0) if kind in ("vanilla", "nonsaturating") else -fake.mean()


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
