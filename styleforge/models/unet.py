"""The U-Net generator of pix2pix (Isola et al., 2017)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Channels, Range, Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import init_normal, norm


class ResizeConv(nn.Conv2d):
    """Double the size by repeating pixels, then conv4, which sees one pixel more to the left and above."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        return super().forward(F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), (2, 1, 2, 1)))


class UNetGenerator(PretrainedMixin, tags=["image-to-image", "unet"]):
    """Convolutions down to a few pixels and up again, each level joined to its mirror image.

    As in the reference, what crosses to the other side has gone through the LeakyReLU of the next level (there
    by an in-place operation). The network of PyTorch-GAN and huggan is this one with instance norm, `skips="leaky"`
    and `head="resize"`; it has dropout on the way down, too.

    Args:
        in_channels: channels of the input picture.
        out_channels: channels of the output picture.
        width: channels of the first level; doubled at each of the next three.
        downs: levels; 7 for 128 px, 8 for 256 px.
        norm: batch norm, or instance norm.
        dropout: dropout of one half in the inner levels, while training.
        statistics: for batch norm at test time, "running" ones or those of the picture ("batch", as the
            reference's test script does).
        skips: what has crossed goes through a ReLU before the way up ("relu", as in the reference) or not ("leaky").
        head: the last step up: a transposed convolution, or a resize and a convolution.
    """

    def __init__(
        self,
        *,
        in_channels: Channels = 3,
        out_channels: Channels = 3,
        width: Width = 64,
        downs: Annotated[int, Range(2, 10)] = 8,
        norm: Literal["instance", "batch"] = "batch",
        dropout: bool = False,
        statistics: Literal["running", "batch"] = "running",
        skips: Literal["relu", "leaky"] = "relu",
        head: Literal["transpose", "resize"] = "transpose",
    ) -> None:
        super().__init__()
        self.skips = skips
        self.capabilities = Capabilities(multiple=2**downs, smallest=2**downs)
        widths = [width * min(2**level, 8) for level in range(downs)]
        # The outermost and innermost way down have no norm. The reference gives all of them a bias with
        # instance norm and none with batch norm; where a norm follows, ours never has one.
        bias = norm == "instance"
        self.down = nn.ModuleList()
        self.down_norm = nn.ModuleList()
        self.up = nn.ModuleList()
        self.up_norm = nn.ModuleList()
        self.dropout = nn.ModuleList()
        for level, outputs in enumerate(widths):
            outer, inner = level == 0, level == downs - 1
            inputs = in_channels if outer else widths[level - 1]
            self.down.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=bias and (outer or inner)))
            self.down_norm.append(nn.Identity() if outer or inner else _norm(norm, outputs, statistics))
            mirrored = out_channels if outer else inputs
            joined = outputs if inner else 2 * outputs
            if outer and head == "resize":
                self.up.append(ResizeConv(joined, mirrored))
            else:
                self.up.append(nn.ConvTranspose2d(joined, mirrored, 4, 2, 1, bias=outer))
            self.up_norm.append(nn.Identity() if outer else _norm(norm, mirrored, statistics))
            drops = dropout and 4 <= level < downs - 1
            self.dropout.append(nn.Dropout(0.5) if drops else nn.Identity())
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Style a picture.

        Args:
            image: (B, in_channels, H, W) in [-1, 1], H and W multiples of `2 ** downs`.

        Returns:
            (B, out_channels, H, W) in [-1, 1].
        """
        x, skips = image, []
        for level, (conv, normalise) in enumerate(zip(self.down, self.down_norm, strict=True)):
            x = normalise(conv(x if level == 0 else skips[-1]))
            skips.append(F.leaky_relu(x, 0.2))
        if self.skips == "relu":
            skips = [skip.relu() for skip in skips]
        x = skips[-1]
        for level in reversed(range(len(self.up))):
            x = self.dropout[level](self.up_norm[level](self.up[level](x)))
            if level:
                x = torch.cat([skips[level - 1], x.relu()], dim=1)
        return x.tanh()


_norm = norm  # the constructor's argument of that name hides it
