"""Losses: pure functions from tensors to a scalar. They know no networks, and compute in float32 or better.

One remembers what it has seen, and is a module for that.
"""

from .adversarial import Adversarial, discriminator_loss, fakes_loss, generator_loss
from .attention import attention_entropy, attention_variation, cam_loss, local_feature_loss
from .contrastive import patch_nce
from .frequency import ColorSpectra, focal_frequency_loss, spectral_loss
from .penalties import gradient_penalty, path_length, r1_penalty
from .perceptual import (
    Normalization,
    StyleKind,
    content_loss,
    gram,
    gram_loss,
    statistics_loss,
    style_perceptual,
)
from .pixel import Variation, color_loss, gray, ssim, ssim_loss, total_variation
from .weighting import weighted_mean

__all__ = [
    "Adversarial",
    "ColorSpectra",
    "Normalization",
    "StyleKind",
    "Variation",
    "attention_entropy",
    "attention_variation",
    "cam_loss",
    "color_loss",
    "content_loss",
    "discriminator_loss",
    "fakes_loss",
    "focal_frequency_loss",
    "generator_loss",
    "gradient_penalty",
    "gram",
    "gram_loss",
    "gray",
    "local_feature_loss",
    "patch_nce",
    "path_length",
    "r1_penalty",
    "spectral_loss",
    "ssim",
    "ssim_loss",
    "statistics_loss",
    "style_perceptual",
    "total_variation",
    "weighted_mean",
]
