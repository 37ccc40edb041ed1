"""Any style, each place from where the style resembles it: SANet (Park and Lee, 2019) and AdaAttN (Liu et al., 2021).

Three modules: `extractor` (a frozen VGG-19) makes features, `attention` mixes those of picture and style, and
`decoder` paints what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import features
from ..configs import Range
from ..errors import ImageError
from ..hub import Capabilities, PretrainedMixin
from ..layers import Style, adaptive_instance_norm, blended, init_he, normalize, shares
from ..precision import full_precision
from .adain import MirroredDecoder

Kind = Literal["adaattn", "sanet"]
Features = Mapping[str, Tensor]

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
BLOCK = 2**24  # attention weights held at once: 64 MB


class AttentionLayer(nn.Module):
    """Attention at one layer of the extractor.

    Its `key` has no bias, unlike the reference: that adds the same to all logits of a place, and the softmax
    takes it away again.

    Args:
        kind: see :class:`AttentionGenerator`.
        channels: of the layer.
        key_channels: of its keys, see :func:`keys`.
        max_keys: see :class:`AttentionGenerator`.
    """

    def __init__(self, kind: Kind, channels: int, key_channels: int, max_keys: int) -> None:
        super().__init__()
        self.max_keys = max_keys
        self.query = nn.Conv2d(key_channels, key_channels, 1)
        self.key = nn.Conv2d(key_channels, key_channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1) if kind == "sanet" else None

    def forward(self, content: Tensor, style: Tensor, content_keys: Tensor, style_keys: Tensor) -> Tensor:
        """Features (B, C, h, w) and (B or 1, C, h', w') with their keys to (B, C, h, w)."""
        query, key = self.project(content_keys, style_keys)
        value = self.value(thin(style, self.max_keys))
        if self.out is None:
            return adapt(content, query, key, value).to(content.dtype)
        return content + self.out(attend(query, key, value).to(content.dtype))

    def project(self, content_keys: Tensor, style_keys: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared: (B, C, h, w), and (B or 1, C, h', w') of at most `max_keys` places."""
        return self.query(content_keys), self.key(thin(style_keys, self.max_keys))


class StyleAttention(nn.Module):
    """Attention at several layers; the two deepest are joined.

    Args:
        channels: of the extractor's layers by name.
        kind, shallow, skip, max_keys: see :class:`AttentionGenerator`.
    """

    def __init__(self, channels: Mapping[str, int], kind: Kind, shallow: bool, skip: bool, max_keys: int) -> None:
        super().__init__()
        self.shallow = shallow
        self.layers = nn.ModuleDict()
        for layer in LAYERS[2 if skip else 3 :]:
            size = sum(channels[name] for name in key_layers(layer, shallow))
            self.layers[layer] = AttentionLayer(kind, channels[layer], size, max_keys)
        self.merge = nn.Conv2d(channels["relu5_1"], channels["relu4_1"], 3, padding=1, padding_mode="reflect")

    def forward(self, content: Features, style: Features) -> list[Tensor]:
        """Features of both pictures to what the decoder takes: relu4_1 with relu5_1, and with a skip relu3_1."""
        found = {
            layer: attention(
                content[layer], style[layer], keys(content, layer, self.shallow), keys(style, layer, self.shallow)
            )
            for layer, attention in self.layers.items()
        }
        deepest, deep = found.pop("relu5_1"), found.pop("relu4_1")
        return [self.merge(deep + double(deepest, deep.shape[2:])), *found.values()]

    def project(self, content: Features, style: Features, layer: str) -> tuple[Tensor, Tensor]:
        """What is compared at a layer, see :meth:`AttentionLayer.project`."""
        return self.layers[layer].project(keys(content, layer, self.shallow), keys(style, layer, self.shallow))


class SkipDecoder(nn.Module):
    """A VGG-19 backwards from relu4_1, which may be shown relu3_1 on its way.

    Args:
        channels: of the VGG's layers by name.
        skip: whether it is.
    """

    def __init__(self, channels: Mapping[str, int], skip: bool) -> None:
        super().__init__()
        width = channels["relu3_4"]
        self.deep = nn.Conv2d(channels["relu4_1"], width, 3, padding=1, padding_mode="reflect")
        shallow = {layer: count for layer, count in channels.items() if layer < "relu4_1"}
        self.shallow = MirroredDecoder({**shallow, "relu3_4": 2 * width if skip else width})
        init_he(self, last=self.shallow.convs["conv1_1"])

    def forward(self, deep: Tensor, *skipped: Tensor) -> Tensor:
        """(B, C, h, w), and with a skip (B, C', 2h, 2w), to a picture (B, 3, 8h, 8w) that is not bounded."""
        x = F.interpolate(F.relu(self.deep(deep), inplace=True), scale_factor=2, mode="nearest")
        return self.shallow(torch.cat([x, *skipped], 1))


class AttentionGenerator(PretrainedMixin, tags=["image-to-image", "arbitrary-style", "attention"]):
    """A frozen extractor, attention from the picture's features to the style's, and a learnt decoder.

    The extractor is stored with the network, so a style needs no other file. Keys are normalised features: what a
    place shows, whatever its colors.

    Args:
        attention: what a place gets from those of the style that it attends to: "adaattn", their mean and
            deviation in place of its own; "sanet", their mean on top of its own features.
        backbone: the extractor: torchvision's VGG-19, the normalised one of the papers, or one with a quarter of
            the channels, for which everything else is as much smaller.
        shallow: keys hold the features of all shallower layers too, as in AdaAttN; SANet has false.
        skip: attention at relu3_1 too, for fine strokes, as in AdaAttN; SANet has false.
        max_keys: places of the style that are attended to. Of larger style pictures, a regular grid of so many
            places is taken (AdaAttN draws them, SANet takes all).
    """

    capabilities = Capabilities(inputs=("image", "style"), multiple=8, smallest=32, strength=True)

    def __init__(
        self,
        *,
        attention: Kind = "adaattn",
        backbone: features.Backbone = "vgg19",
        shallow: bool = True,
        skip: bool = True,
        max_keys: Annotated[int, Range(16, 2**19)] = 4096,
    ) -> None:
        super().__init__()
        self.extractor = features.build(backbone, last=LAYERS[-1]).requires_grad_(False)
        self.attention = StyleAttention(self.extractor.channels, attention, shallow, skip, max_keys)
        self.decoder = SkipDecoder(self.extractor.channels, skip)

    def forward(self, image: Tensor, style: Style, strength: float = 1.0) -> Tensor:
        """Paint a picture in the style of another, or between those of several.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W multiples of 8 and at least 32.
            style: (B or 1, 3, H', W') in [-1, 1], of any such size; or several with their shares, usually of sum 1:
                `[(a, 0.7), (b, 0.3)]`. A place attends to each of them apart.
            strength: 1 is the full style. At 0 the picture attends to itself, and what lies between is a blend of
                the features of both, as in SANet.

        Returns:
            (B, 3, H, W), in evaluation mode within [-1, 1]. While training nothing is cut off: what is outside
            would get no gradient.
        """
        content = self.extract(image)
        parts = [[(x, share) for x in self.attention(content, self.extract(one))] for one, share in shares(style)]
        mixed = [blended(maps) for maps in zip(*parts, strict=True)]
        if strength != 1:
            own = self.attention(content, content)
            mixed = [torch.lerp(a, b, strength) for a, b in zip(own, mixed, strict=True)]
        painted = self.decoder(*mixed)
        return painted if self.training else painted.clamp(-1, 1)

    def extract(self, image: Tensor) -> dict[str, Tensor]:
        """The features that attention sees, (B, C, h, w) by layer: relu1_1, relu2_1, ... relu5_1."""
        return self.extractor(image, LAYERS)

    def attention_map(self, image: Tensor, style: Tensor, point: tuple[int, int], layer: str = "relu4_1") -> Tensor:
        """Where in the style a point of the picture looks.

        Args:
            image: as for :meth:`forward`.
            style: as for :meth:`forward`.
            point: row and column of a pixel.
            layer: "relu4_1", "relu5_1", or with a skip "relu3_1".

        Returns:
            (B, 1, h, w) over the places that can be attended to, not negative, with sum 1.

        Raises:
            ImageError: the point lies outside.
        """
        check_point(point, image.shape[2:])
        query, key = self.attention.project(self.extract(image), self.extract(style), layer)
        return looks_from(point, image.shape[2:], query, key)


def check_point(point: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise :class:`ImageError` unless the row and the column of `point` lie in a picture of `size`."""
    if not all(0 <= at < side for at, side in zip(point, size, strict=True)):
        raise ImageError(
            "This point is not in the picture",
            found=point,
            allowed=f"rows below {size[0]}, columns below {size[1]}",
            todo="Give its row and its column, counted from 0.",
        )


def looks_from(point: tuple[int, int], size: tuple[int, int], query: Tensor, key: Tensor) -> Tensor:
    """What :meth:`AttentionGenerator.attention_map` gives, for a picture of `size` by what is compared there."""
    row, column = (at * cells // side for at, cells, side in zip(point, query.shape[2:], size, strict=True))
    weights = attention_weights(query[:, :, row, column, None], key.flatten(2))
    return weights.unflatten(2, key.shape[2:])


def key_layers(layer: str, shallow: bool) -> tuple[str, ...]:
    """The layers of which the keys at `layer` are made."""
    return LAYERS[: LAYERS.index(layer) + 1] if shallow else (layer,)


def keys(found: Features, layer: str, shallow: bool) -> Tensor:
    """Normalised features of a layer, after those of the shallower ones in its size; (B, sum of channels, h, w)."""
    size = found[layer].shape[2:]
    parts = [normalize(F.interpolate(found[name], size)) for name in key_layers(layer, shallow)]
    return torch.cat(parts, 1).to(found[layer].dtype)


def thin(x: Tensor, count: int) -> Tensor:
    """At most `count` places of (B, C, h, w), on a regular grid; all of them when there are no more."""
    height, width = x.shape[2:]
    share = math.sqrt(count / (height * width))
    if share >= 1:
        return x
    size = [min(max(int(side * share), 1), count) for side in (height, width)]
    return F.interpolate(x, size, mode="nearest-exact")


def double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Each place four times; where the finer map has an odd side, the last ones are cut off or repeated."""
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(x, scale_factor=2, mode="nearest")[:, :, : size[0], : size[1]]


@full_precision
def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """(B, C, Q) and (B or 1, C, K) to weights (B, Q, K) with sum 1 over K. Logits are not scaled, as in both papers."""
    return (query.transpose(1, 2) @ key).softmax(2)


@full_precision
def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Means by attention, for some queries at a time: memory does not grow with the square of the picture.

    Args:
        query: (B, C, h, w).
        key: (B or 1, C, h', w').
        value: (B or 1, D, h', w').

    Returns:
        (B, D, h, w).
    """
    size, (query, key, value) = query.shape[2:], (x.flatten(2) for x in (query, key, value))
    step = max(1, BLOCK // (len(query) * key.shape[2]))
    parts = [value @ attention_weights(part, key).transpose(1, 2) for part in query.split(step, 2)]
    return torch.cat(parts, 2).unflatten(2, size)


@full_precision
def adapt(content: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """AdaIN with a mean and a deviation for each place: those of `value` by attention, see :func:`attend`."""
    mean, square = attend(query, key, torch.cat([value, value.square()], 1)).chunk(2, 1)
    variance = (square - mean.square()).relu()  # but for rounding never below 0
    return adaptive_instance_norm(content, mean, variance.sqrt())
