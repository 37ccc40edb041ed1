"""The feed-forward network of fast style transfer (Johnson et al., 2016), for one style or several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Range, Width
from ..errors import ConfigError
from ..hub import Capabilities, PretrainedMixin

# Of the last convolution's values, 1 makes this share of the picture's. It sums up thousands of products, and all its
# weights move by Adam's step at once: undivided, the first steps drive every pixel to the end of its range. The
# field's networks, which give values in [0, 255], divide by 127.5 as it were; then colors come late.
HEAD_UNIT = 8.0


class StyleNorm(nn.Module):
    """Instance norm with a gain and an offset of its own for each style (Dumoulin et al., 2017)."""

    def __init__(self, channels: int, styles: int, offset: bool) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.weight = nn.Parameter(torch.ones(styles, channels))
        self.bias = nn.Parameter(torch.zeros(styles, channels)) if offset else None

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, by styles mixed with `weights` (B or 1, styles)."""

        def mixed(parameter: Tensor) -> Tensor:
            # Products and a sum, because autocast would round a matrix product.
            return (weights[:, :, None] * parameter).sum(1)[:, :, None, None].to(x.dtype)

        if self.bias is None:
            return self.norm(x) * mixed(self.weight)
        return torch.addcmul(mixed(self.bias), self.norm(x), mixed(self.weight))


class StyleConv(nn.Module):
    """A convolution with reflected borders, and the norm of the styles."""

    def __init__(
        self, inputs: int, outputs: int, styles: int, *, size: int = 3, stride: int = 1, offset: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, padding_mode="reflect", bias=False)
        self.norm = StyleNorm(outputs, styles, offset)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H/stride), ceil(W/stride)); `weights` as for the norm."""
        return self.norm(self.conv(x), weights)


class StyleBlock(nn.Module):
    """Two convolutions with a ReLU between them, plus the input.

    What comes out has no offset, as a convolution in front of a norm has no bias: sooner or later a norm removes it.
    The reference has both; its outputs are the same without them.
    """

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.first = StyleConv(channels, channels, styles)
        self.second = StyleConv(channels, channels, styles, offset=False)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; `weights` as for the norm."""
        return x + self.second(F.relu(self.first(x, weights), inplace=True), weights)


class TransformerNet(PretrainedMixin, tags=["image-to-image", "fast-style-transfer"]):
    """Two steps down, residual blocks, two steps up; all borders are reflected.

    Of several styles only the gains and offsets of the norms differ, so a mixture of these is a style between them.

    Args:
        width: channels after the first convolution; 4 times as many in the blocks.
        blocks: residual blocks.
        styles: styles in this network.
        output: how values are kept in [-1, 1]: "tanh", or "clamp" as the published networks, which cut off what
            is outside.
    """

    def __init__(
        self,
        *,
        width: Width = 32,
        blocks: Annotated[int, Range(0, 64)] = 5,
        styles: Annotated[int, Range(1, 1024)] = 1,
        output: Literal["tanh", "clamp"] = "tanh",
    ) -> None:
        super().__init__()
        self.capabilities = Capabilities(multiple=4, smallest=8, styles=styles)
        self.styles, self.output = styles, output
        self.down = nn.ModuleList(
            [
                StyleConv(3, width, styles, size=9),
                StyleConv(width, 2 * width, styles, stride=2),
                StyleConv(2 * width, 4 * width, styles, stride=2),
            ]
        )
        self.blocks = nn.ModuleList([StyleBlock(4 * width, styles) for _ in range(blocks)])
        self.up = nn.ModuleList([StyleConv(4 * width, 2 * width, styles), StyleConv(2 * width, width, styles)])
        self.head = nn.Conv2d(width, 3, 9, padding=4, padding_mode="reflect")

    def forward(self, image: Tensor, weights: Tensor | None = None) -> Tensor:
        """Style a picture.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of 4 and at least 8.
            weights: (B, styles), how much of each style, usually with sum 1; the first style when None.

        Returns:
            (B, 3, H, W) in [-1, 1].

        Raises:
            ConfigError: weights of another shape.
        """
        x = self.unbounded(image, weights)
        return x.tanh() if self.output == "tanh" else x.clamp(-1, 1)

    def unbounded(self, image: Tensor, weights: Tensor | None = None) -> Tensor:
        """What :meth:`forward` then keeps in [-1, 1]."""
        weights = self._weights(image, weights)
        x = image
        for step in self.down:
            x = F.relu(step(x, weights), inplace=True)
        for block in self.blocks:
            x = block(x, weights)
        for step in self.up:
            x = F.relu(step(F.interpolate(x, scale_factor=2, mode="nearest"), weights), inplace=True)
        return self.head(x) / HEAD_UNIT

    def _weights(self, image: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return torch.eye(1, self.styles, device=image.device)
        if weights.shape != (len(image), self.styles):
            raise ConfigError(
                "These weights of styles do not fit",
                found=tuple(weights.shape),
                allowed=f"({len(image)}, {self.styles}): pictures, and styles of this network",
                todo="Give one row of weights for each picture.",
            )
        return weights


def from_bytes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that were learnt on pictures in [0, 255] as those for [-1, 1], where the picture is 127.5 (x + 1).

    The input's offset is the same everywhere, also in reflected borders, so the first norm removes it; what is left
    goes into two convolutions, and nothing is lost but rounding.

    Args:
        state: tensors by our names.
    """
    return {
        **state,
        "down.0.conv.weight": state["down.0.conv.weight"] * 127.5,
        "head.weight": state["head.weight"] * HEAD_UNIT / 127.5,
        "head.bias": (state["head.bias"] / 127.5 - 1) * HEAD_UNIT,
    }
