"""A network small enough to be a student: nothing is computed at the full size, and little at half of it."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BlurUp, init_he, norm
from .resnet import ResidualBlock

CONTRAST = 0.25  # deviation of the colors that a new network hands on; about that of paintings


class MiniGenerator(PretrainedMixin, tags=["image-to-image", "mini"]):
    """Residual blocks at a quarter of the size and one at half of it, added to the picture, its colors evened out.

    Half of the size means that each 2 x 2 pixels are channels (as in FFDNet, Zhang et al., 2018). It has norms of the
    whole picture, because networks that it learns from have them: what becomes of a color depends on the others. Up
    from a quarter it goes by a blur: pixels of 4 x 4 as channels left a grid.

    Args:
        width: channels at half of the size; twice as many at a quarter.
        blocks: residual blocks at a quarter.
    """

    capabilities = Capabilities(multiple=4, smallest=8)

    def __init__(self, *, width: Width = 16, blocks: Annotated[int, Range(1, 64)] = 5) -> None:
        super().__init__()
        self.even = nn.InstanceNorm2d(3, affine=True)
        self.stem = nn.Conv2d(12, width, 3, padding=1, padding_mode="reflect", bias=False)
        self.stem_norm = norm("instance", width)
        self.down = nn.Conv2d(width, 2 * width, 2, 2, bias=False)
        self.down_norm = norm("instance", 2 * width)
        self.blocks = nn.Sequential(*[ResidualBlock(2 * width, "instance", dropout=False) for _ in range(blocks)])
        self.up = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False), BlurUp())
        self.last = ResidualBlock(width, "instance", dropout=False)
        self.head = nn.Conv2d(width, 12, 3, padding=1, padding_mode="reflect")
        init_he(self, last=self.head)
        nn.init.constant_(self.even.weight, CONTRAST)

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of 4 and at least 8.

        Returns:
            (B, 3, H, W) in [-1, 1]; while training, what lies outside is not cut off. (A tanh has no slope there:
            highlights that were too bright once stayed so, as white blots.)
        """
        even = F.pixel_unshuffle(self.even(image), 2)
        x = F.relu(self.stem_norm(self.stem(even)), inplace=True)
        deep = self.blocks(F.relu(self.down_norm(self.down(x)), inplace=True))
        styled = F.pixel_shuffle(even + self.head(self.last(x + self.up(deep))), 2)
        return styled if self.training else styled.clamp(-1, 1)
