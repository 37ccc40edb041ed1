"""PatchNCE: a patch of the output should resemble its own source patch more than any other (CUT, Park et al., 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision


@full_precision
def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """Cross-entropy of finding each query's own key among all keys of the same picture.

    Args:
        query: (B, P, C) features of output patches, of unit length.
        key: (B, P, C) features of the same places in the source; gets no gradient.
        temperature: similarities are divided by it.

    Returns:
        A scalar, the mean over patches. The reference puts the positive in front and -10 in its old place;
        that extra class weighs exp(-10 / temperature) and is left out here.
    """
    similarity = query @ key.detach().transpose(1, 2) / temperature
    own = torch.arange(query.shape[1], device=query.device).expand(query.shape[0], -1)
    return F.cross_entropy(similarity.transpose(1, 2), own)
