"""LPIPS v0.1 (Zhang et al., 2018): how different two pictures look, as people said, by weighted features.

The weights of the features, the heads, were learnt on those of one AlexNet and one VGG-16 (torchvision's). On any other
network they say nothing, and the figure is not LPIPS; so both are recognized by their values, whatever file they come
from. Heads and networks are not part of this library.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .. import configs, hub, weights
from ..errors import ConfigError, HubUnavailable, WeightsMismatch
from .pictures import Pairs, check

Net = Literal["alex", "vgg"]

SMALLEST = 32  # pixels: less leaves nothing behind the pools of AlexNet

# Of timm, BSD-3: torchvision's weights. The digest is the one its page on the Hub shows. There is no such page of a
# known publisher for AlexNet.
PUBLISHED = {
    "vgg": (
        "timm/vgg16.tv_in1k",
        "3394518cba29aee1ea82a49d971be90d2dd1dab7",
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
    )
}
# Numbers of the first filter, by place, as people have printed them: networks learnt elsewhere begin otherwise.
FIRST = {
    "alex": dict(zip((0, 1, 2, 8, 9, 10), (0.11864, 0.094069, 0.095435, 0.055822, 0.021575, 0.049963), strict=True)),
    "vgg": dict(enumerate((-0.5537, 0.1427, 0.5290, -0.5831, 0.3566, 0.7657, -0.6902, -0.0480, 0.4841))),
}
# SHA-256 of the heads, float32, one behind the other.
HEADS = {
    "alex": "718a8b40b0d22f96192d34ab93c0db5c7943558ff6c2407f44812dce2f29b5f4",
    "vgg": "9153a2043dccf3b525d4f13db916e93ef040548ea923b6f2100de5ebac141a78",
}

# Convolutions by block: channels, kernel, stride, padding.
BLOCKS = {
    "alex": ([(64, 11, 4, 2)], [(192, 5, 1, 2)], [(384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)]),
    "vgg": [[(width, 3, 1, 1)] * count for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))],
}
POOL = {"alex": 3, "vgg": 2}
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # each ReLU of AlexNet, of VGG-16 the last of each block
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet, in [-1, 1]


class Backbone(nn.Sequential):
    """The convolutions of torchvision's AlexNet or VGG-16, under its names without "features.".

    Args:
        net: "alex" or "vgg".
    """

    def __init__(self, net: Net) -> None:
        super().__init__(*_layers(net))
        self.taps = TAPS[net]
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five features (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1]."""
        x, found = (image - self.mean) / self.deviation, []
        for number, layer in enumerate(self):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


def distance(one: Sequence[Tensor], two: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """The weighted distance of features, each scaled to length 1 over its channels; mean over places, sum of layers.

    Args:
        one: for each layer (B, C, h, w).
        two: those of the other pictures.
        heads: for each layer the weights of its channels, (C,).

    Returns:
        (B, layers), float64, on the CPU; LPIPS is the sum over layers.
    """
    columns = []
    for a, b, head in zip(one, two, heads, strict=True):
        squares = (_unit(a) - _unit(b)).square() * head.to(a).view(1, -1, 1, 1)
        columns.append(squares.sum(1).cpu().double().mean((1, 2)))
    return torch.stack(columns, 1)


class LPIPS(Pairs):
    """Mean LPIPS, "lpips_alex" or "lpips_vgg": less is nearer, 0 is the same. The two are different scales.

    Args:
        heads: safetensors file of the v0.1 heads, under the names of their release (`lin0.model.1.weight`, ...), with
            or without the net in front.
        net: "vgg", or "alex", the default of its authors.
        backbone: safetensors file of torchvision's weights of that net; when None, VGG-16 comes from the Hub.
        device: that looks.

    Raises:
        ConfigError: another net, or no backbone for "alex".
        WeightsMismatch: a file is for another net, or its numbers are not those that LPIPS was learnt on.
        RepoError, CorruptFileError, UnsafeFileError: see :mod:`styleforge.errors`.
    """

    def __init__(
        self,
        heads: str | os.PathLike[str],
        *,
        net: Net = "vgg",
        backbone: str | os.PathLike[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        configs.check(LPIPS.__init__, {"net": net}, "LPIPS")
        super().__init__({f"lpips_{net}": self._distances})
        self._heads = read_heads(heads, net)
        self._network = read_backbone(backbone or _fetch(net), net).to(device)

    @torch.no_grad()
    def _distances(self, real: Tensor, fake: Tensor) -> Tensor:
        check(real, fake, smallest=SMALLEST)
        with torch.autocast(self._network.mean.device.type, enabled=False):
            features = (self._network(x.to(self._network.mean)) for x in (real, fake))
            return distance(*features, self._heads).sum(1)


def read_heads(path: str | os.PathLike[str], net: Net) -> list[Tensor]:
    """The five heads of a net, (C,) each, from a file; see :class:`LPIPS`."""
    found = weights.read(path)
    heads = [found.get(f"{net}.{name}", found.get(name)) for name in (f"lin{n}.model.1.weight" for n in range(5))]
    digest = hashlib.sha256()
    for head in heads:
        digest.update(b"" if head is None else head.float().contiguous().numpy().tobytes())
    if digest.hexdigest() != HEADS[net]:
        raise _mismatch("heads", net, path, f"{', '.join(list(found)[:2])}, ...")
    return [head.flatten() for head in heads]


def read_backbone(path: str | os.PathLike[str], net: Net) -> Backbone:
    """The frozen network from a file; see :class:`LPIPS`."""
    tensors = {name.removeprefix("features."): tensor for name, tensor in weights.read(path).items()}
    network = Backbone(net)
    wanted = network.state_dict()
    if any(name not in tensors or tensors[name].shape != tensor.shape for name, tensor in wanted.items()):
        raise _mismatch("backbone", net, path, "tensors of other names or shapes")
    if not _recognized(tensors, net):
        raise _mismatch("backbone", net, path, "weights that were learnt elsewhere")
    network.load_state_dict({name: tensors[name] for name in wanted})
    return network.requires_grad_(False).eval()


def _recognized(tensors: Mapping[str, Tensor], net: Net) -> bool:
    """Whether the first filter is the known one, to the digits that are known.

    That tells networks apart that began elsewhere; not one that was tuned further with its first layer kept.
    """
    numbers = tensors["0.weight"].flatten()[list(FIRST[net])].double()
    return torch.allclose(numbers, torch.tensor(list(FIRST[net].values()), dtype=torch.float64), rtol=5e-5, atol=5e-5)


def _fetch(net: Net) -> Path:
    todo = "Give a safetensors file of torchvision's weights as the backbone."
    if net not in PUBLISHED:
        raise ConfigError("LPIPS has no AlexNet to look with", found="no backbone", todo=todo)
    repo, commit, digest = PUBLISHED[net]
    try:
        return hub.fetch_file(repo, hub.WEIGHTS_NAME, commit=commit, digest=digest)
    except HubUnavailable as error:
        raise HubUnavailable(
            "The Hub cannot be reached and the cache does not hold the network of LPIPS",
            where=repo,
            found=error.__cause__,
            todo=f"Check the network (and HF_HUB_OFFLINE). {todo}",
        ) from error


def _mismatch(what: str, net: Net, path: object, found: str) -> WeightsMismatch:
    return WeightsMismatch(
        f"This is not the {what} of LPIPS, and with another one the figure would not be LPIPS",
        where=path,
        found=found,
        allowed={"heads": "v0.1", "backbone": "torchvision's IMAGENET1K_V1"}[what] + f" for {net}",
        todo="Give the published file.",
    )


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _layers(net: Net) -> list[nn.Module]:
    layers: list[nn.Module] = []
    width = 3
    for block in BLOCKS[net]:
        if layers:
            layers.append(nn.MaxPool2d(POOL[net], 2))
        for after, *shape in block:
            layers += [nn.Conv2d(width, after, *shape), nn.ReLU()]
            width = after
    return layers
