"""DiffAugment (Zhao et al., 2020): a discriminator that sees all pictures, real and fake, changed at random.

So it cannot learn a few real ones by heart, and because the changes are differentiable the generator still learns.
ADA (Karras et al., 2020) changes only as many pictures as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from .errors import ConfigError, nearest

MEMORY = 256  # pictures that adaptive augmentation judges by: four batches of the paper's 64


def diff_augment(image: Tensor, policy: str, generator: torch.Generator) -> Tensor:
    """Change each picture of a batch in its own way.

    Args:
        image: (B, C, H, W) in [-1, 1]; the result may leave that range. With a multiple of 3 channels each three are
            a picture of their own (the pairs of pix2pix): all get the same change.
        policy: words out of "color", "translation" and "cutout", separated by commas, applied in this order;
            "" changes nothing.
        generator: CPU randomness.
    """
    for word in check_policy(policy):
        image = CHANGES[word](image, generator)
    return image


def check_policy(text: str) -> list[str]:
    """The words of a policy; raises :class:`ConfigError` for one that does not exist."""
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if word not in CHANGES:
            raise ConfigError(
                "Unknown augmentation",
                found=repr(word),
                allowed=", ".join(CHANGES),
                todo=f"{nearest(word, CHANGES)}Separate several by commas.",
            )
    return words


class AdaptiveAugment(nn.Module):
    """:func:`diff_augment` of a share of the pictures, which a discriminator's overfitting sets (Karras et al., 2020).

    The paper's sign of overfitting: how much more often real training pictures are taken for real than for fake, as
    a share, from -1 to 1. While it is above a target the share of changed pictures grows, while
    it is below it shrinks. Two differences: the paper looks at the last four batches of 64, we at a running mean over
    about as many pictures, whatever the batch; and its pictures escape each change for itself, ours all of them.

    Everything is in buffers, so that a run goes on with it. Several processes add up what they saw; their
    probabilities stay the same, those of one process with the joint batch.

    Args:
        policy: see :func:`diff_augment`.
        target: the sign of overfitting that is aimed at; the paper's is 0.6.
        images: pictures in which the probability can go from 0 to 1.
    """

    probability: Tensor
    overfitting: Tensor
    tally: Tensor

    def __init__(self, policy: str, target: float, images: int) -> None:
        super().__init__()
        self.policy, self.target, self.images = policy, target, images
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("overfitting", torch.zeros(()))
        self.register_buffer("tally", torch.zeros(3))  # since the last move: sum of signs, signs, pictures

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Change each picture with the present probability; arguments as for :func:`diff_augment`."""
        draws = torch.rand(len(image), 1, 1, 1, generator=generator)
        chosen = draws.to(image.device) < self.probability  # there, because nothing should wait for a GPU
        return torch.where(chosen, diff_augment(image, self.policy, generator), image)

    @torch.no_grad()
    def watch(self, logits: Sequence[Tensor], middle: float, pictures: int) -> None:
        """Note how real pictures were judged.

        Args:
            logits: (B, ...) of each scale; all scales count alike.
            middle: the logit that tells nothing.
            pictures: those that no other discriminator has been counted for.
        """
        signs = torch.stack([(x.float() - middle).sign().nan_to_num().mean() for x in logits]).mean()
        count = len(logits[0])
        for total, more in zip(self.tally, (signs * count, count, pictures), strict=True):
            total += more

    @torch.no_grad()
    def move(self) -> None:
        """Follow what was seen since the last move; to be called once after each step of a discriminator."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.tally)
        signs, count, pictures = self.tally
        self.overfitting.lerp_(signs / count.clamp_min(1), (count / MEMORY).clamp_max(1))
        self.probability += (self.overfitting - self.target).sign() * pictures / self.images
        self.probability.clamp_(0, 1)
        self.tally.zero_()


def _color(image: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness +-.5, then saturation x0 to x2, then contrast x.5 to x1.5."""
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1, 1, generator=generator).to(image)
    x = image.unflatten(1, (-1, math.gcd(image.shape[1], 3)))
    x = x + (brightness - 0.5)
    mean = x.mean(2, keepdim=True)
    x = (x - mean) * (2 * saturation) + mean
    mean = x.mean((2, 3, 4), keepdim=True)
    return ((x - mean) * (contrast + 0.5) + mean).flatten(1, 2)


def _translation(image: Tensor, generator: torch.Generator) -> Tensor:
    """By up to an eighth of each side; what comes in is 0, a medium gray."""
    height, width = image.shape[2:]
    y, x = (int(side / 8 + 0.5) for side in (height, width))
    tops, lefts = (torch.randint(2 * most + 1, (len(image),), generator=generator).tolist() for most in (y, x))
    padded = F.pad(image, (x, x, y, y))
    return torch.stack(
        [p[:, top : top + height, left : left + width] for p, top, left in zip(padded, tops, lefts, strict=True)]
    )


def _cutout(image: Tensor, generator: torch.Generator) -> Tensor:
    """A box of half of each side becomes 0; its center is anywhere, so part of it may lie outside."""
    down, right = (_span(side, len(image), generator) for side in image.shape[2:])
    return image * ~(down[:, None, :, None] & right[:, None, None, :]).to(image.device)


def _span(side: int, count: int, generator: torch.Generator) -> Tensor:
    """Which of `side` places the boxes cover, (count, side)."""
    size = int(side / 2 + 0.5)
    first = torch.randint(side + 1 - size % 2, (count, 1), generator=generator) - size // 2
    places = torch.arange(side)
    return (first <= places) & (places < first + size)


CHANGES = {"color": _color, "translation": _translation, "cutout": _cutout}
