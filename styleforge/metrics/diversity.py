"""Mode collapse: whether a set of pictures is as diverse as another, and how many of it are nearly the same."""

from __future__ import annotations

import torch
from torch import Tensor

from . import bootstrap
from .looks import FeatureMetric, check_rows
from .precision_recall import distances, nearest

# Of the usual gap between a real picture and its nearest. At 256 px, with SqueezeNet, photographs were 0.15 to 0.4 of
# it away from themselves mirrored, moved, enlarged or in a coarse JPEG, and at least 0.65 from any other.
NEAR = 0.4


def spread(real: Tensor, fake: Tensor, times_real: Tensor, times_fake: Tensor) -> Tensor:
    """The mean distance of two fakes, where that of two real ones is 1, under draws (r, n) and (r, m): (r,).

    Args:
        real: features (n, d), one row for each picture.
        fake: features (m, d).
        times_real: see :mod:`styleforge.metrics.bootstrap`.
        times_fake: likewise.

    Raises:
        ConfigError: fewer than 2 rows, different widths, NaN or infinity.
    """
    check_rows(real, fake, "diversity", 2)
    sets = ((real.double(), times_real), (fake.double(), times_fake))
    usual, ours = (bootstrap.within(distances, rows, times) for rows, times in sets)
    return ours / usual.clamp_min(torch.finfo(usual.dtype).tiny)


def doubled(real: Tensor, fake: Tensor) -> Tensor:
    """Whether each fake has another one nearer than :data:`NEAR` of the median gap between real neighbors: (m,).

    Args:
        real: features (n, d), one row for each picture.
        fake: features (m, d).

    Raises:
        ConfigError: fewer than 2 rows, different widths, NaN or infinity.
    """
    check_rows(real, fake, "diversity", 2)
    return (nearest(fake.double(), 1) <= NEAR * nearest(real.double(), 1).median()).double()


class Diversity(FeatureMetric):
    """Diversity of fakes beside that of real pictures, which come in batches of any size.

    Args:
        features: network that looks at the pictures; see :func:`styleforge.features.load`.
        layer: of the network; that of :data:`styleforge.metrics.looks.DEFAULT_LAYERS` when None.
    """

    def compute(self) -> dict[str, float]:
        """What is known so far.

        Returns:
            "diversity": 1 is that of the real ones, near 0 all fakes are one.
            "near_duplicates": share of the fakes that have a twin.

        Raises:
            ConfigError: fewer than 2 pictures of either set; features with NaN or infinity.
        """
        real, fake = self._rows.values()
        ones = (torch.ones(1, len(rows), dtype=torch.float64) for rows in (real, fake))
        return {
            "diversity": spread(real, fake, *ones).item(),
            "near_duplicates": doubled(real, fake).mean().item(),
        }
