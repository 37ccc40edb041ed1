"""KID (Binkowski et al., 2018): how far two sets of pictures are apart, without bias however few they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import configs, rng
from ..configs import Range
from ..errors import ConfigError
from ..features import VGG19, FeatureNetwork, SqueezeNet
from ..precision import full

# The last layer before the classifier, as in the paper, and of VGG-19 the deepest that all known files have. Layers
# in the middle are less noisy, but right textures alone please them: the pictures of one style that shows a grid
# came to 0.2 of the photographs' distance at fire3, and to 0.7 at fire9.
DEFAULT_LAYERS = {SqueezeNet: "fire9", VGG19: "relu5_1"}
ROWS = 1024  # of a kernel matrix that are in memory at a time


def kid(x: Tensor, y: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, in float64.

    Args:
        x: features (n, d), one row for each picture.
        y: features (m, d).

    Returns:
        0 on average for two sets of one distribution, so about half of such pairs give less.

    Raises:
        ConfigError: fewer than 3 rows, different widths, NaN or infinity.
    """
    return estimate(x, y)[0]


def estimate(x: Tensor, y: Tensor) -> tuple[float, float]:
    """:func:`kid` and its standard error; arguments and errors as there.

    The error is that of the jackknife: each row of `x` is left out in turn, then each of `y`, and the two variances
    are added. Of 20 to 200 rows it was within a tenth of the true one for sets that differ, and 1.4 times too large,
    on the safe side, for sets of one distribution. It tells how much other pictures of the same kind would change
    the number; two numbers on the same pictures differ by much less.
    """
    _check(x, y)
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    within_x, within_y = (_sums(z, z) - _kernel((z * z).sum(1), z.shape[1]) for z in (x, y))
    of_x, of_y = _sums(x, y), _sums(y, x)
    xx, yy, xy = within_x.sum(), within_y.sum(), of_x.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    without_x = (xx - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (xy - of_x) / ((n - 1) * m)
    without_y = (yy - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (xy - of_y) / (n * (m - 1))
    variance = sum((len(z) - 1) * z.var(correction=0) for z in (without_x, without_y))
    return value.item(), variance.sqrt().item()


def pool(features: Tensor) -> Tensor:
    """Features (B, C, H, W) as rows for :func:`kid`: their means over all places, scaled to length sqrt(C).

    So `x.y / d` is a cosine, whatever units a network computes in. Here we differ from the paper, which takes the
    means as they are: its kernel is made for the units of Inception. As they are, those of SqueezeNet at fire9 gave
    KIDs of millions, and twice the noise relative to the distance between photographs and paintings.

    Returns:
        (B, C), float64, on the CPU.
    """
    means = full(features).mean((2, 3)).cpu().double()
    return F.normalize(means, dim=1) * means.shape[1] ** 0.5


@torch.no_grad()
def look(network: FeatureNetwork, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Features of pictures (B, 3, H, W) in [-1, 1] by layer, in float32 and on the network's device."""
    images = full(images).to(network.mean.device)
    with torch.autocast(images.device.type, enabled=False):
        return network(images, layers)


class KID:
    """KID of two sets of pictures, which come in batches of any size.

    With a network other than Inception, and by :func:`pool`, it cannot be compared with the KIDs of papers.

    Args:
        features: network that looks at the pictures; see :func:`styleforge.features.load`.
        layer: of the network; that of :data:`DEFAULT_LAYERS` when None.
        subsets: how many are drawn.
        subset_size: pictures of either set in each, at most half of those there are, so that the subsets differ.
        seed: of the draw.

    Raises:
        ConfigError: a setting is out of range.
        UnknownName: no such layer.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        *,
        layer: str | None = None,
        subsets: Annotated[int, Range(1, 10**6)] = 100,
        subset_size: Annotated[int, Range(3, 10**6)] = 1000,
        seed: Annotated[int, Range(0, 2**31)] = 0,
    ) -> None:
        configs.check(KID.__init__, {"subsets": subsets, "subset_size": subset_size, "seed": seed}, "KID")
        self.features, self.layer = features, layer or DEFAULT_LAYERS[type(features)]
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self._rows: dict[str, list[Tensor]] = {"real": [], "fake": []}

    def update(self, real: Tensor | None = None, fake: Tensor | None = None) -> None:
        """Take in more pictures, (B, 3, H, W) in [-1, 1]; only their features are kept."""
        for name, images in (("real", real), ("fake", fake)):
            if images is not None:
                self._rows[name].append(pool(look(self.features, images, [self.layer])[self.layer]))

    def compute(self) -> dict[str, float]:
        """What is known so far.

        Returns:
            "kid" and "kid_std": mean and deviation over subsets, as papers print them. The deviation depends on the
            size of the subsets and is no error of the mean.
            "kid_unbiased" and "kid_error": :func:`estimate` on all pictures.

        Raises:
            ConfigError: fewer than 3 pictures of either set; features with NaN or infinity.
        """
        real, fake = (torch.cat(rows) if rows else torch.empty(0, 1) for rows in self._rows.values())
        value, error = estimate(real, fake)
        size = max(3, min(self.subset_size, len(real) // 2, len(fake) // 2))
        draws = [kid(*self._draw(real, fake, size, number)) for number in range(self.subsets)]
        deviation, mean = (s.item() for s in torch.std_mean(torch.tensor(draws, dtype=torch.float64), correction=0))
        return {"kid": mean, "kid_std": deviation, "kid_unbiased": value, "kid_error": error}

    def _draw(self, real: Tensor, fake: Tensor, size: int, number: int) -> tuple[Tensor, Tensor]:
        generator = rng.generator(self.seed, "kid", number)
        return tuple(rows[torch.randperm(len(rows), generator=generator)[:size]] for rows in (real, fake))


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """The sum over `y` of its kernel with each row of `x`."""
    return torch.cat([_kernel(rows @ y.T, x.shape[1]).sum(1) for rows in x.split(ROWS)])


def _check(x: Tensor, y: Tensor) -> None:
    problem = None
    if min(len(x), len(y)) < 3:
        problem = f"{len(x)} and {len(y)} pictures", "at least 3 each", "Give more pictures."
    elif x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        problem = f"{tuple(x.shape)} and {tuple(y.shape)}", "(n, d) and (m, d)", "Take both from one layer."
    elif not (x.isfinite().all() and y.isfinite().all()):
        problem = "NaN or infinity", "numbers", "Look at the pictures, and at the weights that made them."
    if problem:
        found, allowed, todo = problem
        raise ConfigError("There is no KID of these features", found=found, allowed=allowed, todo=todo)
