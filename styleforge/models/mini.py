"""A network small enough to be a student: nothing but its last sum is computed at the full size."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import BlurUp, init_he, norm
from .microast import Block

CONTRAST = 0.25  # deviation of the colors that a new network hands on; about that of paintings


class MiniGenerator(PretrainedMixin, tags=["image-to-image", "mini"]):
    """Residual blocks at a quarter of the size and one at half of it, added to the picture, its colors evened out.

    The picture and its first two maps have norms over all places, because networks that it learns from have them: what
    becomes of a color depends on the others. What the norms take away, the mean color, comes in again beside them: a
    night is to stay one. Blocks begin without effect and have no norms, each of which takes as long as a convolution of
    maps this small. The way up from a quarter is a blur: pixels of 4 x 4 as channels left a grid.

    Args:
        width: channels at half of the size; twice as many at a quarter.
        blocks: residual blocks at a quarter.
    """

    capabilities = Capabilities(multiple=4, smallest=8)

    def __init__(self, *, width: Width = 16, blocks: Annotated[int, Range(1, 64)] = 5) -> None:
        super().__init__()
        self.even = nn.InstanceNorm2d(3, affine=True)
        self.stem = nn.Conv2d(3, width, 6, 2, padding=2, padding_mode="reflect", bias=False)
        self.stem_norm = norm("instance", width)
        self.down = nn.Conv2d(width, 2 * width, 2, 2, bias=False)
        self.down_norm = norm("instance", 2 * width)
        self.mean = nn.Linear(3, 2 * width)
        self.blocks = nn.Sequential(*[Block(2 * width) for _ in range(blocks)])
        self.up = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False), BlurUp())
        self.last = Block(width)
        self.head = nn.Conv2d(width, 12, 3, padding=1, padding_mode="reflect")
        init_he(self, last=self.head)
        for block in (*self.blocks, self.last):
            nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        nn.init.constant_(self.even.weight, CONTRAST)

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of 4 and at least 8.

        Returns:
            (B, 3, H, W) in [-1, 1]; while training, what lies outside is not cut off. (A tanh has no slope there:
            highlights that were too bright once stayed so, as white blots.)
        """
        even = self.even(image)
        x = F.relu(self.stem_norm(self.stem(even)), inplace=True)
        mean = self.mean(image.mean((2, 3)))[..., None, None]
        deep = self.blocks(F.relu(self.down_norm(self.down(x)) + mean, inplace=True))
        styled = even + F.pixel_shuffle(self.head(self.last(x + self.up(deep))), 2)
        return styled if self.training else styled.clamp(-1, 1)
