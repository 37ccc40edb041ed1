"""Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020) of two sets of pictures.

Around each picture of a set lies a ball that reaches to its k-th nearest neighbor in that set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from .. import configs
from ..configs import Range
from ..features import FeatureNetwork
from .bootstrap import ROWS
from .looks import FeatureMetric, check_rows

MANIFOLD, DENSITY = 3, 5  # neighbors that make a ball, in either paper


def shares(real: Tensor, fake: Tensor, *, neighbors: int = MANIFOLD, dense: int = DENSITY) -> dict[str, Tensor]:
    """What each picture adds to the four measures, which are the means of these.

    Args:
        real: features (n, d), one row for each picture.
        fake: features (m, d).
        neighbors: k of precision and recall.
        dense: k of density and coverage.

    Returns:
        "precision" (m,): whether a fake lies in the ball of a real one.
        "recall" (n,): whether a real one lies in the ball of a fake.
        "density" (m,): in how many balls of real ones a fake lies, divided by k; not limited by 1.
        "coverage" (n,): whether the ball of a real one holds a fake.

    Raises:
        ConfigError: no more rows than neighbors, different widths, NaN or infinity.
    """
    check_rows(real, fake, "precision", max(neighbors, dense) + 1)
    real, fake = real.double(), fake.double()
    around_real, around_dense, around_fake = nearest(real, neighbors), nearest(real, dense), nearest(fake, neighbors)
    inside, times = [], []
    reached, closest = torch.zeros(len(real)).bool(), torch.full((len(real),), torch.inf).double()
    for gaps, radii in zip(_gaps(fake, real), around_fake.split(ROWS), strict=True):
        inside.append((gaps <= around_real).any(1))
        times.append((gaps <= around_dense).sum(1).double() / dense)
        reached |= (gaps <= radii[:, None]).any(0)
        closest = closest.minimum(gaps.amin(0))
    found = {"precision": torch.cat(inside), "recall": reached, "density": torch.cat(times)}
    return {name: values.double() for name, values in {**found, "coverage": closest <= around_dense}.items()}


class PrecisionRecall(FeatureMetric):
    """The four measures of two sets of pictures, which come in batches of any size.

    Args:
        features: network that looks at the pictures; see :func:`styleforge.features.load`.
        layer: of the network; that of :data:`styleforge.metrics.looks.DEFAULT_LAYERS` when None.
        neighbors: k of precision and recall.
        dense: k of density and coverage.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        *,
        layer: str | None = None,
        neighbors: Annotated[int, Range(1, 1000)] = MANIFOLD,
        dense: Annotated[int, Range(1, 1000)] = DENSITY,
    ) -> None:
        self._neighbors = {"neighbors": neighbors, "dense": dense}
        configs.check(PrecisionRecall.__init__, self._neighbors, "PrecisionRecall")
        super().__init__(features, layer=layer)

    def compute(self) -> dict[str, float]:
        """ "precision", "recall", "density" and "coverage" so far.

        Raises:
            ConfigError: no more pictures than neighbors; features with NaN or infinity.
        """
        return {name: each.mean().item() for name, each in shares(*self._rows.values(), **self._neighbors).items()}


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean, (n, m); 0, and not nearly so, for equal rows."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _gaps(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    return (distances(rows, y) for rows in x.split(ROWS))


def nearest(x: Tensor, neighbors: int) -> Tensor:
    """How far each row is from its k-th neighbor, itself aside."""
    return torch.cat([gaps.kthvalue(neighbors + 1, 1).values for gaps in _gaps(x, x)])
