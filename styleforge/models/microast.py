"""MicroAST: any style with half a million weights, fit for large pictures (Wang et al., 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import Width
from ..hub import Capabilities, PretrainedMixin
from ..layers import Style, adaptive_instance_norm, blended, init_he, mean_std, shares


class Encoder(nn.Module):
    """Two steps down that keep the channels apart, and two residual blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            _conv(3, width, 9),
            nn.ReLU(inplace=True),
            _conv(width, 2 * width, 3, stride=2, groups=width),
            nn.ReLU(inplace=True),
            _conv(2 * width, 2 * width, 1),
            nn.ReLU(inplace=True),
            _conv(2 * width, 4 * width, 3, stride=2, groups=2 * width),
            nn.ReLU(inplace=True),
            _conv(4 * width, 4 * width, 1),
            nn.ReLU(inplace=True),
        )
        self.shallow, self.deep = Block(4 * width), Block(4 * width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to the outputs of both blocks, (B, 4 width, ceil(H/4), ceil(W/4)) each."""
        shallow = self.shallow(self.down(image))
        return shallow, self.deep(shallow)


class Block(nn.Module):
    """Two convolutions with a ReLU between them, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, channels, 3), _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


class ModulatedBlock(Block):
    """The same, with filters that the style bends: a gain for each, and a share of what goes in."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) to the same shape; `weight` and `bias` (B or 1, C, 1, 1)."""
        y = F.relu(weight * self.conv1(x) + bias * x)
        return x + weight * self.conv2(y) + bias * y


class Modulator(nn.Module):
    """Reads from the features of a style how to bend the filters of the decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (_conv(channels, channels, 3, groups=channels) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to gains and shares, (B, C, 1, 1) each."""
        return self.weight(x).mean((2, 3), keepdim=True), self.bias(x).mean((2, 3), keepdim=True)


class Decoder(nn.Module):
    """Two blocks that the style modulates twice, in their features and in their filters, and two steps up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep, self.shallow = ModulatedBlock(4 * width), ModulatedBlock(4 * width)
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _conv(4 * width, 2 * width, 3, groups=2 * width),
            nn.ReLU(inplace=True),
            _conv(2 * width, 2 * width, 1),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _conv(2 * width, width, 3, groups=width),
            nn.ReLU(inplace=True),
            _conv(width, width, 1),
            nn.ReLU(inplace=True),
            _conv(width, 3, 9),
        )

    def forward(self, x: Tensor, signals: Tensor) -> Tensor:
        """Deep features and :meth:`MicroASTGenerator.signals` to a picture that is not bounded."""
        shallow, deep = signals.to(x.dtype)[..., None, None].unbind(1)
        for block, signal in ((self.deep, deep), (self.shallow, shallow)):
            mean, std, weight, bias = signal.unbind(1)
            x = block(adaptive_instance_norm(x, mean, std), weight, bias)
        return self.up(x)


class MicroASTGenerator(PretrainedMixin, tags=["image-to-image", "arbitrary-style", "microast"]):
    """An encoder for content, one for style, a modulator and a decoder, all small; no VGG is needed to paint.

    Args:
        width: channels after the first convolution; 4 times as many in the blocks.
    """

    capabilities = Capabilities(inputs=("image", "style"), multiple=4, smallest=8, strength=True)

    def __init__(self, *, width: Width = 16) -> None:
        super().__init__()
        self.content_encoder, self.style_encoder = Encoder(width), Encoder(width)
        self.modulators = nn.ModuleList([Modulator(4 * width), Modulator(4 * width)])
        self.decoder = Decoder(width)
        init_he(self, last=self.decoder.up[-1])

    def forward(self, image: Tensor, style: Style, strength: float = 1.0) -> Tensor:
        """Paint a picture in the style of another, or between those of several.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of 4 and at least 8.
            style: (B or 1, 3, H', W') in [-1, 1], of any such size; or several with their shares, usually of sum 1:
                `[(a, 0.7), (b, 0.3)]`.
            strength: 0 is the picture in its own style, which nearly gives it back, 1 the full style. The reference
                blends only the features, between statistics that its decoder has never seen: with the published
                weights half a style is a picture of one color.

        Returns:
            (B, 3, H, W), in evaluation mode within [-1, 1]. While training nothing is cut off: what is outside
            would get no gradient.
        """
        signals = blended([(self.signals(one), share) for one, share in shares(style)])
        if strength != 1:
            signals = torch.lerp(self.signals(image), signals, strength)
        return self.paint(image, signals)

    def signals(self, style: Tensor) -> Tensor:
        """All that is known of a style, (B, 2, 4, 4 width).

        For the shallow and the deep block: mean and deviation of each feature, gain and share of each filter. A
        style is read once for many pictures, and a mean of several signals is a style between them.
        """
        levels = [
            torch.stack([s.flatten(1) for s in (*mean_std(x), *modulator(x))], 1)
            for x, modulator in zip(self.style_encoder(style), self.modulators, strict=True)
        ]
        return torch.stack(levels, 1)

    def paint(self, image: Tensor, signals: Tensor) -> Tensor:
        """As :meth:`forward`, with the :meth:`signals` of a style in place of its picture."""
        _, deep = self.content_encoder(image)
        painted = self.decoder(deep, signals)
        return painted if self.training else painted.clamp(-1, 1)


def _conv(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, padding_mode="reflect")
