"""Content and style in one figure, after ArtFID (Wright and Ommer, 2022)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def content_distance(a: Tensor, b: Tensor) -> Tensor:
    """How far two pictures are apart in what they show: 1 less the cosine of their features, mean over all places.

    Args:
        a: features (B, C, h, w) of a layer at which colors count little and shapes much; see
            :data:`styleforge.quality.CONTENT_LAYERS`.
        b: those of the other pictures.

    Returns:
        (B,): 0 for the same picture; with SqueezeNet a photograph and any painting have about 0.55.
    """
    return 1 - F.cosine_similarity(a, b, dim=1).mean((1, 2))


def artfid(content: Tensor | float, style: Tensor | float) -> Tensor | float:
    """`(1 + content) * (1 + style)`: low is good, and neither copying the photograph nor leaving it pays.

    ArtFID itself has LPIPS for the content, and for the style the FID of an Inception trained on paintings. With other
    distances it bears their names: such figures cannot be compared with those of papers.

    Args:
        content: mean distance of the styled pictures to their photographs.
        style: distance of the styled pictures to the paintings.
    """
    return (1 + content) * (1 + style)
