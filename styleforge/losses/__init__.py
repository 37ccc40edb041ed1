"""Losses: pure functions from tensors to a scalar. They know no networks."""

from .adversarial import Adversarial, discriminator_loss, generator_loss
from .contrastive import patch_nce

__all__ = ["Adversarial", "discriminator_loss", "generator_loss", "patch_nce"]
