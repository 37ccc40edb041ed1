"""The Frechet distance of two sets of pictures (Heusel et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..features import FeatureNetwork
from .looks import FeatureMetric, check_rows, eye


def fid(x: Tensor, y: Tensor) -> float:
    """The Frechet distance of the normal distributions with the means and covariances of two sets, in float64.

    It is biased upwards, the more the fewer pictures there are: below 10,000 of either set compare KIDs.

    Args:
        x: features (n, d), one row for each picture.
        y: features (m, d).

    Raises:
        ConfigError: fewer than 2 rows, different widths, NaN or infinity.
    """
    check_rows(x, y, "FID", 2)
    ones = (torch.ones(1, len(z), dtype=torch.float64) for z in (x, y))
    return resampled(x, y, *ones).item()


def resampled(x: Tensor, y: Tensor, times_x: Tensor, times_y: Tensor) -> Tensor:
    """:func:`fid` under draws (r, n) and (r, m), see :mod:`styleforge.metrics.bootstrap`: (r,)."""
    pairs = zip(times_x, times_y, strict=True)
    return torch.stack([_distance(*_spread(x.double(), a), *_spread(y.double(), b)) for a, b in pairs])


def frechet(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """:func:`fid` of means (d,) and covariances (d, d)."""
    roots = (_root(cov.double()) for cov in (cov_x, cov_y))
    return _distance(mean_x.double(), next(roots), mean_y.double(), next(roots)).item()


class FID(FeatureMetric):
    """FID of two sets of pictures, of which only moments are kept, however many there are.

    What papers call FID looks through Inception at 299 px, with means as they are. This one looks through the network
    that it is given, at rows of :func:`styleforge.metrics.looks.pool`, and its figure bears that network's name:
    it cannot be compared with theirs.

    Args:
        features: network that looks at the pictures; see :func:`styleforge.features.load`.
        layer: of the network; that of :data:`styleforge.metrics.looks.DEFAULT_LAYERS` when None.
    """

    def __init__(self, features: FeatureNetwork, *, layer: str | None = None) -> None:
        super().__init__(features, layer=layer)
        blank = torch.zeros(1, 1 + self.width + self.width**2, dtype=torch.float64)
        self._rows = {"real": blank, "fake": blank}

    @property
    def name(self) -> str:
        """For instance "FID (squeezenet fire9)"."""
        return f"FID ({eye(self.features, self.layer)})"

    def compute(self) -> dict[str, float]:
        """The distance so far, by :attr:`name`.

        Raises:
            ConfigError: fewer than 2 pictures of either set; features with NaN or infinity.
        """
        sums = [rows.sum(0) for rows in self._rows.values()]  # of several processes, where they have been gathered
        check_rows(*(torch.empty(int(each[0]), 0) for each in sums), "FID", 2)
        (mean_x, cov_x), (mean_y, cov_y) = map(_normal, sums)
        check_rows(cov_x, cov_y, "FID", 1)
        return {self.name: frechet(mean_x, cov_x, mean_y, cov_y)}

    def _take(self, name: str, rows: Tensor) -> None:
        """Keep the number of rows, their sum, and that of their products, in one row."""
        count = torch.tensor([len(rows)], dtype=torch.float64)
        self._rows[name] = self._rows[name] + torch.cat([count, rows.sum(0), (rows.T @ rows).flatten()])


def _normal(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d)."""
    width = int(len(sums) ** 0.5)  # of 1 + d + d * d
    count, total, products = sums.split([1, width, width * width])
    mean = total / count
    return mean, (products.view(width, width) - count * torch.outer(mean, mean)) / (count - 1)


def _distance(mean_x: Tensor, x: Tensor, mean_y: Tensor, y: Tensor) -> Tensor:
    """Of two means and two factors of covariances: x.T x and y.T y.

    The trace of the root of a product of covariances is the sum of the singular values of x y.T, so no root of a matrix
    is taken, and covariances without full rank need no care.
    """
    cross = torch.linalg.svdvals(x @ y.T).sum()
    distance = (mean_x - mean_y).square().sum() + x.square().sum() + y.square().sum() - 2 * cross
    return distance.clamp_min(0)  # of equal sets rounding leaves a little on either side


def _spread(rows: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of rows (n, d) under one draw (n,), and a factor of their covariance, at most (d, d)."""
    mean = times @ rows / times.sum()
    factor = (times / (times.sum() - 1)).sqrt()[:, None] * (rows - mean)
    return mean, torch.linalg.qr(factor, mode="r").R if len(factor) > factor.shape[1] else factor


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return values.clamp_min(0).sqrt()[:, None] * vectors.T
