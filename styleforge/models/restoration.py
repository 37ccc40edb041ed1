"""A residual U-Net that repairs pictures, after DRUNet (Zhang et al., 2021)."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import init_he


class Repair(nn.Module):
    """conv3, ReLU, conv3, plus the input; begins near it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


class RestorationUNet(PretrainedMixin, tags=["image-to-image", "restoration"]):
    """What it makes is added to the picture: levels of residual blocks, each level added to its mirror image.

    As in DRUNet there are no norms and no biases, so that it can be used where the damage is stronger than any it has
    seen (Mohan et al., 2020). Beside its size two things differ: it begins at half of the size, with each 2 x 2
    pixels as channels (FFDNet, Zhang et al., 2018), for a quarter of the time; and there are no ReLUs between blocks.

    Args:
        width: channels at half of the size; twice as many each time the size halves.
        levels: times that the size halves after that.
        blocks: residual blocks of each level, on the way down and on the way up.
    """

    def __init__(
        self,
        *,
        width: Width = 48,
        levels: Annotated[int, Range(0, 6)] = 2,
        blocks: Annotated[int, Range(1, 16)] = 2,
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(multiple=2 ** (levels + 1), smallest=2 ** (levels + 1))
        widths = [width * 2**level for level in range(levels + 1)]
        self.stem = nn.Conv2d(12, width, 3, padding=1, bias=False)
        self.before = nn.ModuleList([_blocks(wide, blocks) for wide in widths])
        self.down = nn.ModuleList([nn.Conv2d(wide, 2 * wide, 2, 2, bias=False) for wide in widths[:-1]])
        self.up = nn.ModuleList([nn.Conv2d(2 * wide, 4 * wide, 1, bias=False) for wide in widths[:-1]])
        self.after = nn.ModuleList([_blocks(wide, blocks) for wide in widths[:-1]])
        self.head = nn.Conv2d(width, 12, 3, padding=1, bias=False)
        init_he(self, last=self.head)
        for block in self.modules():
            if isinstance(block, Repair):
                nn.init.normal_(block.conv2.weight, 0.0, 0.005)

    def forward(self, image: Tensor) -> Tensor:
        """Repair a picture.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of `2 ** (levels + 1)`.

        Returns:
            The same shape, in [-1, 1]; while training, what lies outside is not cut off.
        """
        x, skips = self.stem(F.pixel_unshuffle(image, 2)), []
        for before, down in zip(self.before, self.down, strict=False):
            x = before(x)
            skips.append(x)
            x = down(x)
        x = self.before[-1](x)
        for up, after in zip(self.up[::-1], self.after[::-1], strict=True):
            x = after(F.pixel_shuffle(up(x), 2) + skips.pop())
        repaired = image + F.pixel_shuffle(self.head(x), 2)
        return repaired if self.training else repaired.clamp(-1, 1)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[Repair(channels) for _ in range(count)])
