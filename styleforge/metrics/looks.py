"""How a feature network sees sets of pictures: one row of numbers for each of them, and whose numbers they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..features import VGG19, FeatureNetwork, SqueezeNet
from ..precision import full
from .pictures import Sets, check

# The last layer before the classifier, as in the paper of KID, and of VGG-19 the deepest that all known files have.
# Layers in the middle are less noisy, but right textures alone please them: the pictures of one style that shows a
# grid came to 0.2 of the photographs' distance at fire3, and to 0.7 at fire9.
DEFAULT_LAYERS = {SqueezeNet: "fire9", VGG19: "relu5_1"}


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


def eye(network: FeatureNetwork, layer: str | None = None) -> str:
    """Who looks, for names of figures: "squeezenet fire9". The weights are told apart by :func:`fingerprint`."""
    return f"{type(network).__name__.lower()} {layer or DEFAULT_LAYERS[type(network)]}"


def fingerprint(network: FeatureNetwork) -> str:
    """SHA-256 of the weights: of the names, shapes and float32 values of all tensors, whatever file they came from."""
    digest = hashlib.sha256(repr(network).encode())
    tensors = dict(network.named_buffers()) | dict(network.named_parameters())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureMetric(Sets):
    """Base of measures of two sets of pictures, which come in batches of any size; only their rows are kept.

    Args:
        features: network that looks at the pictures; see :func:`styleforge.features.load`.
        layer: of the network; that of :data:`DEFAULT_LAYERS` when None. Another one than it has is an
            :class:`UnknownName` when it looks.
    """

    def __init__(self, features: FeatureNetwork, *, layer: str | None = None) -> None:
        self.features, self.layer = features, layer or DEFAULT_LAYERS[type(features)]
        self.width = features.channels.get(self.layer, 1)
        super().__init__()

    def look(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to rows (B, d); see :func:`pool`."""
        check(images)
        return pool(look(self.features, images, [self.layer])[self.layer])


def check_rows(x: Tensor, y: Tensor, measure: str, fewest: int) -> None:
    """Raise :class:`ConfigError` unless there is such a measure of these rows (n, d) and (m, d)."""
    problem = None
    if min(len(x), len(y)) < fewest:
        problem = f"{len(x)} and {len(y)} pictures", f"at least {fewest} each", "Give more pictures."
    elif x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        problem = f"{tuple(x.shape)} and {tuple(y.shape)}", "(n, d) and (m, d)", "Take both from one layer."
    elif not (x.isfinite().all() and y.isfinite().all()):
        problem = "NaN or infinity", "numbers", "Look at the pictures, and at the weights that made them."
    if problem:
        found, allowed, todo = problem
        raise ConfigError(f"There is no {measure} of these features", found=found, allowed=allowed, todo=todo)
