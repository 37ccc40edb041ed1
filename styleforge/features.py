"""Frozen feature networks: what perceptual losses and measures see a picture with.

Weights come from the Hub at one commit and with one SHA-256, or from a local safetensors file whose layout is
recognised by its keys. Random weights are given only to those who ask for them by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import hub, rng, weights
from .errors import HubUnavailable, UnknownName, WeightsMismatch, nearest

VGG_LAYERS = tuple(f"{block}_{n}" for block, count in enumerate((2, 2, 4, 4, 4), 1) for n in range(1, count + 1))
FIRES = {3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
Backbone = Literal["vgg19", "vgg19-normalised", "vgg19-16x"]


class VGG19(nn.Module):
    """The convolutions of VGG-19 (Simonyan and Zisserman, 2014), asked for some of its layers.

    Args:
        widths: channels of its five blocks.
        stem: a 1x1 convolution in front that takes [0, 1] instead of ImageNet's mean and deviation.
        border: padding of the convolutions; torchvision's weights are made for "zero".
        ceil: halve odd sizes upwards.
        last: deepest layer; there are no convolutions behind it.

    Attributes:
        channels: channels by layer.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        *,
        stem: bool = False,
        border: Literal["zero", "reflect"] = "zero",
        ceil: bool = False,
        last: str = "relu5_4",
    ) -> None:
        super().__init__()
        self.ceil = ceil
        _check_layers([last], [f"relu{layer}" for layer in VGG_LAYERS])
        wanted = VGG_LAYERS[: VGG_LAYERS.index(last.removeprefix("relu")) + 1]
        self.channels = {f"relu{layer}": widths[int(layer[0]) - 1] for layer in wanted}
        self.stem = nn.Conv2d(3, 3, 1) if stem else None
        mode = "zeros" if border == "zero" else border
        sizes = zip(wanted, pairwise([3, *self.channels.values()]), strict=True)
        self.convs = nn.ModuleDict(
            {f"conv{layer}": nn.Conv2d(*size, 3, padding=1, padding_mode=mode) for layer, size in sizes}
        )
        mean, deviation = ((0.0,) * 3, (1.0,) * 3) if stem else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.register_buffer("mean", torch.tensor(mean, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of a picture.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            layers: names such as "relu4_1"; nothing behind the deepest of them is computed.

        Returns:
            For each name (B, C, h, w), after its ReLU, in the order of `layers`.

        Raises:
            UnknownName: a layer that this network does not have.
        """
        _check_layers(layers, self.channels)
        x = ((image + 1) / 2 - self.mean) / self.deviation
        x = x if self.stem is None else self.stem(x)
        found: dict[str, Tensor] = {}
        for name, conv in self.convs.items():
            if len(found) == len(set(layers)):
                break
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2, ceil_mode=self.ceil)
            x = F.relu(conv(x))
            if (layer := name.replace("conv", "relu")) in layers:
                found[layer] = x
        return {layer: found[layer] for layer in layers}


class Fire(nn.Module):
    """SqueezeNet's block: few channels, then many of 1x1 beside many of 3x3."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 2 expand, h, w)."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 (Iandola et al., 2016): small, and no loss of ours uses it, so it may judge.

    Args:
        caffe: the original weights, for BGR in 0..255 less its mean; else torchvision's, for ImageNet's mean and
            deviation.

    Attributes:
        channels: channels by layer.
    """

    def __init__(self, *, caffe: bool = True) -> None:
        super().__init__()
        self.caffe = caffe
        self.conv1 = nn.Conv2d(3, 96, 7, 2)
        self.fire2 = Fire(96, 16, 64)
        for index, (squeeze, expand) in FIRES.items():
            setattr(self, f"fire{index}", Fire(2 * FIRES.get(index - 1, (16, 64))[1], squeeze, expand))
        self.channels = {"conv1": 96, "fire2": 128} | {f"fire{i}": 2 * expand for i, (_, expand) in FIRES.items()}
        # Of RGB in [0, 1].
        mean = (123.0 / 255, 117.0 / 255, 104.0 / 255) if caffe else (0.485, 0.456, 0.406)
        deviation = (1 / 255,) * 3 if caffe else (0.229, 0.224, 0.225)
        self.register_buffer("mean", torch.tensor(mean, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of a picture; as :meth:`VGG19.forward`, with layers "conv1" and "fire2" to "fire9"."""
        _check_layers(layers, self.channels)
        x = ((image + 1) / 2 - self.mean) / self.deviation
        x = x.flip(1) if self.caffe else x
        found: dict[str, Tensor] = {}
        for name in self.channels:
            if len(found) == len(set(layers)):
                break
            if name in ("fire2", "fire5", "fire9"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = getattr(self, name)(x)
            x = F.relu(x) if name == "conv1" else x
            if name in layers:
                found[name] = x
        return {layer: found[layer] for layer in layers}


FeatureNetwork = VGG19 | SqueezeNet


def _vgg_names(key: Callable[[int, str], str], stem: str | None = None) -> dict[str, str]:
    """Foreign names by ours, for weights and biases."""
    pairs = {f"convs.conv{layer}": key(index, layer) for index, layer in enumerate(VGG_LAYERS)}
    if stem is not None:
        pairs["stem"] = stem
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in pairs.items() for part in ("weight", "bias")}


def _squeeze_names(key: Callable[[int, str], str], first: str) -> dict[str, str]:
    parts = ("squeeze", "expand1x1", "expand3x3")
    pairs = {"conv1": first} | {f"fire{i}.{part}": key(i, part) for i in range(2, 10) for part in parts}
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in pairs.items() for part in ("weight", "bias")}


def _place(step: int, *, stem: bool, pads: bool) -> Callable[[int, str], str]:
    """Where convolution number `index` stands in a flat sequence with ReLU, pools and perhaps pads."""

    def place(index: int, layer: str) -> str:
        return str(index * step + int(layer[0]) - 1 + pads + stem)

    return place


_CAFFE = {"squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}
_TORCHVISION_FIRES = {2: 3, 3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 12}

# What can be built, and under which names each kind of file has our tensors.
PRESETS: dict[str, tuple[Callable[..., FeatureNetwork], dict[str, Any], dict[str, str]]] = {
    "vgg19": (VGG19, {}, {k: f"features.{v}" for k, v in _vgg_names(_place(2, stem=False, pads=False)).items()}),
    "vgg19-normalised": (
        VGG19,
        {"stem": True, "border": "reflect", "ceil": True},
        _vgg_names(_place(3, stem=True, pads=True), stem="0"),
    ),
    "vgg19-16x": (
        VGG19,
        {"widths": (16, 32, 64, 128, 128), "stem": True, "border": "reflect"},
        _vgg_names(lambda index, layer: f"conv{layer.replace('_', '')}", stem="conv0"),
    ),
    "squeezenet": (
        SqueezeNet,
        {"caffe": False},
        _squeeze_names(lambda i, part: f"features.{_TORCHVISION_FIRES[i]}.{part}", "features.0"),
    ),
    "squeezenet-caffe": (SqueezeNet, {}, _squeeze_names(lambda i, part: f"fire{i}/{_CAFFE[part]}", "conv1")),
}
RANDOM = {"random": "vgg19", "random-16x": "vgg19-16x"}
# Of timm, BSD-3: torchvision's weights. The digest is the one its page on the Hub shows.
PUBLISHED = {
    "vgg19": (
        "timm/vgg19.tv_in1k",
        "128d4708565b3a414bcbb9bbad440b2fe37b9f18",
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
    )
}


def build(preset: str, **options: Any) -> FeatureNetwork:
    """The network of a preset with random weights, to be filled; `options` such as `last="relu4_1"`.

    Raises:
        UnknownName: no such preset, or no such layer.
    """
    if preset not in PRESETS:
        raise UnknownName(
            "Unknown feature network",
            found=repr(preset),
            allowed=", ".join(PRESETS),
            todo=f"{nearest(preset, PRESETS)}Choose one of these.",
        )
    make, settings, _ = PRESETS[preset]
    return make(**settings, **options)


def read(source: str | os.PathLike[str]) -> tuple[str, dict[str, Tensor]]:
    """Weights from a file or the Hub.

    Args:
        source: "vgg19" (from the Hub, or its cache), or a local safetensors file: torchvision's or timm's VGG-19,
            the normalised VGG-19 of AdaIN, the compressed one of Collaborative Distillation, SqueezeNet 1.0.

    Returns:
        The preset that they are for, and tensors under our names.

    Raises:
        UnknownName: neither.
        WeightsMismatch: a file of another layout.
        RepoError, CorruptFileError, UnsafeFileError: see :mod:`styleforge.errors`.
    """
    if str(source) in PUBLISHED:
        path = _fetch(*PUBLISHED[str(source)])
    elif Path(source).is_file():
        path = Path(source)
    else:
        raise UnknownName(
            "No such feature network",
            found=repr(str(source)),
            allowed=f"{', '.join([*PUBLISHED, *RANDOM])}, or a local safetensors file",
            todo=f"{nearest(str(source), [*PUBLISHED, *RANDOM])}Check the path.",
        )
    header = weights.read_header(path)
    for preset, (_, _, names) in PRESETS.items():
        # A file may end after any convolution; its first ones tell what it is.
        first = list(names.values())[:4]
        if all(name in header for name in first) and _fits(preset, names, header):
            tensors = weights.read(path)
            return preset, {ours: tensors[theirs] for ours, theirs in names.items() if theirs in tensors}
    raise WeightsMismatch(
        "This is no feature network that we know",
        where=path,
        found=", ".join(list(header)[:4]),
        allowed=", ".join(PRESETS),
        todo="Give a safetensors file of one of these.",
    )


def fill(network: FeatureNetwork, source: str | os.PathLike[str]) -> None:
    """Give `network` the weights of `source`, see :func:`read`, or the random ones of :func:`load`.

    Raises:
        WeightsMismatch: the weights are for another network.
        UnknownName, RepoError, ...: see :func:`read`.
    """
    if str(source) in RANDOM:
        preset, tensors = RANDOM[str(source)], _random(str(source)).state_dict()
    else:
        preset, tensors = read(source)
    wanted = _shapes(network)
    if any(name not in tensors or tensors[name].shape != shape for name, shape in wanted.items()):
        raise _mismatch(source, preset)
    network.load_state_dict({name: tensors[name] for name in wanted})


def load(source: str | os.PathLike[str], *, last: str | None = None) -> FeatureNetwork:
    """A frozen network with the weights of `source`.

    Its weights are buffers that are not stored: they follow `.to()`, get no gradient, and are not part of the
    state of what holds them.

    Args:
        source: see :func:`read`; or "random" and "random-16x", VGG-19 of either size with random weights, the
            same every time, for tests.
        last: deepest layer of VGG-19 that will be asked for; all of the network when None.

    Raises: as :func:`read`.
    """
    options = {} if last is None else {"last": last}
    if str(source) in RANDOM:
        network = _random(str(source), **options)
    else:
        preset, tensors = read(source)
        if not _is_vgg(preset) and last is not None:  # a layer of VGG-19's, which is what losses look through
            raise _mismatch(source, preset)
        if _is_vgg(preset) and last is None:  # a file may end early
            last = next(f"relu{layer}" for layer in reversed(VGG_LAYERS) if f"convs.conv{layer}.weight" in tensors)
            options = {"last": last}
        network = build(preset, **options)
        missing = [name for name in network.state_dict() if name not in tensors]
        if missing:
            raise WeightsMismatch(
                "This file ends before the layer that is wanted",
                where=source,
                found=f"no {missing[0]}",
                allowed=f"everything up to {last}",
                todo="Ask for an earlier layer, or give a complete file.",
            )
        network.load_state_dict({name: tensors[name].float() for name in network.state_dict()})
    return _freeze(network)


def _fetch(repo: str, commit: str, digest: str) -> Path:
    try:
        return hub.fetch_file(repo, hub.WEIGHTS_NAME, commit=commit, digest=digest)
    except HubUnavailable as error:
        raise HubUnavailable(
            "The Hub cannot be reached and the cache does not hold this feature network",
            where=repo,
            found=error.__cause__,
            todo="Check the network (and HF_HUB_OFFLINE), or give a local safetensors file: --features or --judge.",
        ) from error


def _random(name: str, **options: Any) -> FeatureNetwork:
    """The same weights every time, and with every `last`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of("features", name))
        return build(RANDOM[name], **options)


def _freeze(network: FeatureNetwork) -> FeatureNetwork:
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach(), persistent=False)
    return network.eval()


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _fits(preset: str, names: Mapping[str, str], header: Mapping[str, weights.TensorInfo]) -> bool:
    with torch.device("meta"):
        expected = _shapes(build(preset))
    return all(header[names[ours]].shape == shape for ours, shape in expected.items() if names[ours] in header)


def _is_vgg(preset: str) -> bool:
    return PRESETS[preset][0] is VGG19


def _mismatch(source: object, preset: str) -> WeightsMismatch:
    choose = f"Choose the backbone {preset!r} (--backbone), or weights for the one that was chosen (--features)."
    return WeightsMismatch(
        "These weights are for another feature network",
        where=source,
        found=preset,
        todo=choose if _is_vgg(preset) else "Give weights of VGG-19: this network only judges (--judge).",
    )


def _check_layers(layers: Sequence[str], known: Collection[str]) -> None:
    for layer in layers:
        if layer not in known:
            raise UnknownName(
                "This feature network has no such layer",
                found=repr(layer),
                allowed=", ".join(known),
                todo=f"{nearest(layer, known)}Choose one of these.",
            )
