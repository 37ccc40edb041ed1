"""What keeps discriminators, and StyleGAN's generator, smooth: penalties on gradients, unweighted.

A judge computes in float32 here, under autocast too: the gradient of a gradient has no digits to spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..precision import full, full_precision

Judge = Callable[[Tensor], Tensor | Sequence[Tensor]]


@full_precision
def gradient_penalty(
    judge: Judge, real: Tensor, fake: Tensor, generator: torch.Generator, *, center: float = 1.0
) -> Tensor:
    """E(|gradient| - center)^2 at random mixtures of real and fake pictures (WGAN-GP, Gulrajani et al., 2017).

    Args:
        judge: from pictures (B, C, H, W) to logits, or several tensors of them. All logits of a picture are summed
            before the gradient is taken, so a map of patches counts by its sum, as in the field's code.
        real: real pictures; no gradient reaches them.
        fake: as many generated ones; nor these.
        generator: CPU randomness of the mixture.
        center: the length that gradients should have; 0 draws them to nothing.

    Returns:
        A scalar; the paper's weight is 10.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=generator).to(real)
    lengths = _gradient(judge, share * real + (1 - share) * fake).flatten(1).norm(dim=1)
    return (lengths - center).square().mean()


@full_precision
def r1_penalty(judge: Judge, real: Tensor) -> Tensor:
    """E|gradient|^2 / 2 at real pictures (Mescheder et al., 2018); the paper's weight gamma is 10.

    Args:
        judge: see :func:`gradient_penalty`.
        real: (B, C, H, W); no gradient reaches them.
    """
    return _gradient(judge, real).flatten(1).square().sum(1).mean() / 2


def path_length(
    images: Tensor, latents: Tensor, mean: Tensor, generator: torch.Generator, *, decay: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Steps in the space of styles should move all pictures equally far (StyleGAN2, Karras et al., 2020).

    Args:
        images: (B, C, H, W) with their graph from `latents`.
        latents: (B, size) or (B, layers, size).
        mean: running mean of the lengths, a scalar; begins at zero.
        generator: CPU randomness of the direction in which pictures are looked at.
        decay: how quickly the mean follows.

    Returns:
        The penalty (the paper's weight is 2), and the mean to be kept for the next time.
    """
    images = full(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    seen = (images * noise).sum() / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad(seen, latents, create_graph=True)
    lengths = full(gradient).square().sum(-1).reshape(len(images), -1).mean(1).sqrt()
    mean = mean.lerp(lengths.mean().to(mean), decay)
    return (lengths - mean).square().mean(), mean.detach()


def _gradient(judge: Judge, images: Tensor) -> Tensor:
    """Of the sum of all logits, with respect to the pictures; differentiable once more."""
    images = images.detach().requires_grad_()
    logits = judge(images)
    total = logits.sum() if isinstance(logits, Tensor) else sum(x.sum() for x in logits)
    return torch.autograd.grad(total, images, create_graph=True)[0]
