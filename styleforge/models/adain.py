"""AdaIN: any style, by the statistics of its features (Huang and Belongie, 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import features
from ..hub import Capabilities, PretrainedMixin
from ..layers import Style, adaptive_instance_norm, blended, init_he, mean_std, shares

LAYER = "relu4_1"


class MirroredDecoder(nn.Module):
    """A VGG-19 backwards: a convolution with reflected borders for each of its own, nearest steps up for its pools.

    Args:
        channels: of the VGG's layers by name, see :class:`styleforge.features.VGG19`; the deepest is what comes in.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        pairs = zip(channels, pairwise([3, *channels.values()]), strict=True)
        self.convs = nn.ModuleDict(
            {
                layer.replace("relu", "conv"): nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
                for layer, (outputs, inputs) in reversed(list(pairs))
            }
        )
        init_he(self, last=self.convs["conv1_1"])

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w) to a picture, around [-1, 1] but not bounded."""
        *hidden, (_, last) = self.convs.items()
        for name, conv in hidden:
            x = F.relu(conv(x), inplace=True)
            if name.endswith("_1"):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
        return last(x)


class AdaINGenerator(PretrainedMixin, tags=["image-to-image", "arbitrary-style", "adain"]):
    """A frozen encoder, one exchange of statistics, and a learnt decoder.

    The encoder is stored with the network, so a style needs no other file.

    Args:
        backbone: the encoder: torchvision's VGG-19, the normalised one of the paper, or one with a quarter of the
            channels, whose decoder is as much smaller.
    """

    capabilities = Capabilities(inputs=("image", "style"), multiple=8, smallest=16, strength=True)

    def __init__(self, *, backbone: features.Backbone = "vgg19") -> None:
        super().__init__()
        self.encoder = features.build(backbone, last=LAYER).requires_grad_(False)
        self.decoder = MirroredDecoder(self.encoder.channels)

    def forward(self, image: Tensor, style: Style, strength: float = 1.0) -> Tensor:
        """Paint a picture in the style of another, or between those of several.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of 8 and at least 16.
            style: (B or 1, 3, H', W') in [-1, 1], of any such size; or several with their shares, usually of sum 1:
                `[(a, 0.7), (b, 0.3)]`.
            strength: 0 only encodes and decodes, 1 is the full style.

        Returns:
            (B, 3, H, W), in evaluation mode within [-1, 1]. While training nothing is cut off: what is outside
            would get no gradient.
        """
        return self.paint(self.mix(image, style, strength))

    def mix(self, image: Tensor, style: Style, strength: float = 1.0) -> Tensor:
        """What :meth:`paint` takes: features of the picture with the statistics of the style, (B, C, H/8, W/8)."""
        content = self.encode(image)
        known = [(mean_std(self.encode(one)), share) for one, share in shares(style)]
        styled = blended([(adaptive_instance_norm(content, *wanted), share) for wanted, share in known])
        return torch.lerp(content, styled, strength)

    def encode(self, image: Tensor) -> Tensor:
        """The features that statistics are those of, (B, C, H/8, W/8)."""
        return self.encoder(image, [LAYER])[LAYER]

    def paint(self, mixed: Tensor) -> Tensor:
        """Features to a picture, see :meth:`forward`."""
        image = self.decoder(mixed)
        return image if self.training else image.clamp(-1, 1)
