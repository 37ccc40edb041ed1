"""A discriminator that looks through a frozen feature network (Projected GANs, Sauer et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import features as feature_networks
from ..errors import ConfigError
from ..precision import full

LAYERS = ("relu2_1", "relu3_1", "relu4_1", "relu5_1")
WIDTH = 64
GAIN = 8  # on the logits: the heads learn as much faster
JITTER = 8  # pixels: the steps of the frozen network down to relu4
SMALLEST = 32  # pixels: two places are left at relu5, which a mirrored border needs


class ProjectedDiscriminator(nn.Module):
    """Small heads on what a frozen network sees, from the grain (relu2_1) to the scene (relu5_1).

    It needs not find out first what tells pictures apart, so some hundred steps are enough where one from scratch
    needs tens of thousands. Simpler than the paper's: features are scaled to one length at each place in place of
    mixing them by random projections over channels and scales, and there is no spectral norm.

    Args:
        features: the frozen network, see :func:`styleforge.features.load`. It is no part of the state.
    """

    def __init__(self, features: str) -> None:
        super().__init__()
        self.features = feature_networks.load(features, last=LAYERS[-1])
        self.heads = nn.ModuleDict(
            {
                layer: nn.Sequential(
                    nn.Conv2d(self.features.channels[layer], WIDTH, 1),
                    nn.LeakyReLU(0.2),
                    nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                    nn.LeakyReLU(0.2),
                    nn.Conv2d(WIDTH, 1, 3, padding=1),
                )
                for layer in LAYERS
            }
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] to logits (B, 1, h, w) of each layer, finest first.

        Raises:
            ConfigError: too small a picture.
        """
        if min(image.shape[2:]) < SMALLEST:
            raise ConfigError(
                "These pictures are too small for a projected discriminator",
                found=f"{image.shape[3]} x {image.shape[2]} pixels",
                allowed=f"{SMALLEST} pixels at least",
                todo="Give a larger --size, or leave out --projected.",
            )
        seen = self.features(image, LAYERS)
        scaled = {layer: F.normalize(full(x), dim=1) * x.shape[1] ** 0.5 for layer, x in seen.items()}
        return [GAIN * head(scaled[layer]) for layer, head in self.heads.items()]

    def moved(self, image: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The same of a picture that is :func:`off_grid`."""
        return self(*off_grid(generator, image, least=SMALLEST))


def off_grid(generator: torch.Generator, *images: Tensor, least: int = 1) -> list[Tensor]:
    """A window of pictures without 7 of their rows and columns; where it lies is left to chance, the same for all.

    A frozen network has a grid, too: its poolings. A generator to which that always begins at the same place learns
    patterns that only suit it. All windows have one size: oneDNN makes code for each that it meets, which takes longer
    than a convolution.

    Args:
        generator: draws.
        images: (B, C, H, W), all of one size.
        least: pixels of the shorter side that are kept.
    """
    height, width = images[0].shape[2:]
    places = max(1, min(JITTER, min(height, width) - least + 1))
    down, right = torch.randint(places, (2,), generator=generator).tolist()
    return [image[..., down : height - places + 1 + down, right : width - places + 1 + right] for image in images]
