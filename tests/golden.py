"""Numbers made elsewhere: ../shared/golden (the field's own code), the names of its tensors in our networks, and
weights that depend on nothing but their names.

Upstream gives every convolution in front of an instance norm a bias. The norm subtracts it again, so ours have
none: :func:`rename` drops these, and the tests look that upstream's gradient for them is nothing but rounding.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
FIXTURES = Path(__file__).with_name("fixtures")
NEEDS_GOLDEN = [
    pytest.mark.shared,
    pytest.mark.skipif(
        not GOLDEN.is_dir(),
        reason="needs ../shared/golden: reference numbers of the field's code are not part of this repository",
    ),
]


def needs_golden(test: Any) -> Any:
    """Mark one test; a whole module says `pytestmark = golden.NEEDS_GOLDEN`."""
    for mark in NEEDS_GOLDEN:
        test = mark(test)
    return test


# -- reading --


def meta(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "meta.json").read_text())


def tensors(name: str, file: str = "io.safetensors") -> dict[str, Tensor]:
    """Tensors of one file; floats as float64. `file` is safetensors, or what `torch.save` wrote."""
    path = GOLDEN / name / file
    found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return {k: t.double() if t.is_floating_point() else t for k, t in found.items()}


def picture(io: dict[str, Tensor], key: str) -> Tensor:
    """An input; 8-bit ones become [-1, 1] in float32, as they did upstream."""
    if f"{key}_u8" in io:
        return (io[f"{key}_u8"].float() / 127.5 - 1).double()
    x = io[key]
    return x if x.is_floating_point() else (x.float() / 127.5 - 1).double()


def error(actual: Tensor, io: dict[str, Tensor], key: str) -> float:
    """Largest deviation from all that is stored of `key`, in units of its root mean square."""
    if key in io:
        pairs = [(actual, io[key])]
    else:  # big ones: a grid of pixels, and mean and rms of each channel
        assert list(actual.shape) == io[f"{key}_shape"].tolist()
        statistics = torch.stack([actual.mean((0, 2, 3)), actual.square().mean((0, 2, 3)).sqrt()])
        pairs = [(actual[..., 1::4, 2::4], io[f"{key}_sub4"]), (statistics, io[f"{key}_stats"])]
    assert all(ours.shape == theirs.shape and ours.dtype == torch.float64 for ours, theirs in pairs)
    scale = pairs[0][1].square().mean().sqrt().item()
    return torch.stack([(ours.detach() - theirs).abs().max() for ours, theirs in pairs]).max().item() / scale


# -- the field's names in our networks: {our tensor or module: its tensor or module} --


def resnet_names(blocks: int, *, dropout: bool = False, blur: bool = False, blur_up: bool = False) -> dict[str, str]:
    """ResnetGenerator of pytorch-CycleGAN-and-pix2pix, and of CUT with its blurs, which shift the indices."""
    first = 12 if blur else 10
    up = [first + blocks + 1, first + blocks + 5] if blur_up else [first + blocks, first + blocks + 3]
    names = {
        "stem": "model.1",
        "down.0.conv": "model.4",
        "down.1.conv": "model.8" if blur else "model.7",
        "up.0.conv": f"model.{up[0]}",
        "up.1.conv": f"model.{up[1]}",
        "head": f"model.{up[1] + 4}",
    }
    for block in range(blocks):
        names[f"blocks.{block}.conv1"] = f"model.{first + block}.conv_block.1"
        names[f"blocks.{block}.conv2"] = f"model.{first + block}.conv_block.{6 if dropout else 5}"
    return names


def unet_names(downs: int) -> dict[str, str]:
    """UnetGenerator of pytorch-CycleGAN-and-pix2pix: each level lies inside the one around it."""
    names, prefix = {"down.0": "model.model.0", "up.0": "model.model.3"}, "model.model.1.model"
    for level in range(1, downs):
        inner = level == downs - 1
        names[f"down.{level}"] = f"{prefix}.1"
        names[f"down_norm.{level}"] = f"{prefix}.2"
        names[f"up.{level}"] = f"{prefix}.{3 if inner else 5}"
        names[f"up_norm.{level}"] = f"{prefix}.{4 if inner else 6}"
        prefix += ".3.model"
    del names[f"down_norm.{downs - 1}"]
    return names


def sequential_names(ours: Iterable[str], root: str = "model") -> dict[str, str]:
    """NLayerDiscriminator ("model") and PixelDiscriminator ("net"): the same indices as ours."""
    modules = {key.rpartition(".")[0] for key in ours}
    return {module: module.replace("layers", root, 1) for module in modules}


def heads_names(count: int) -> dict[str, str]:
    """PatchSampleF of CUT."""
    return {f"{i}.{layer}": f"mlp_{i}.{layer}" for i in range(count) for layer in (0, 2)}


def rename(theirs: dict[str, Any], names: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Upstream's entries under our names, and those that no name asks for."""
    back = {their: our for our, their in names.items()}
    ours, left = {}, {}
    for key, value in theirs.items():
        module, _, kind = key.rpartition(".")
        if module in back:
            ours[f"{back[module]}.{kind}"] = value
        else:
            left[key] = value
    return ours, left


def adopt(network: nn.Module, theirs: dict[str, Tensor], names: dict[str, str]) -> nn.Module:
    """Load upstream's weights, strictly, into a float64 network.

    Dropped are biases that a norm cancels, and the constant kernels of CUT's blurs; nothing else.
    """
    ours, left = rename(theirs, names)
    wanted = network.state_dict()
    cancelled = {k for k, t in ours.items() if k not in wanted and k.endswith(".bias") and t.dim() == 1}
    assert all(key.endswith(".filt") for key in left), sorted(left)
    network.double().load_state_dict({k: t for k, t in ours.items() if k not in cancelled}, strict=True)
    return network


# -- weights out of nothing --


def hashed(key: str, shape: tuple[int, ...], *, seed: int = 0, gain: float = 1.4) -> Tensor:
    """Weights that depend on their name and place only (the rule "formula-v1" of ../shared/golden), float64.

    An exact hash in 32 bits, so the numbers are the same on every machine and with every version of torch.
    """
    h = np.arange(math.prod(shape), dtype=np.uint64) * 0x9E3779B1 + (zlib.crc32(key.encode()) ^ seed)
    h &= 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    h = h * np.uint64(0x85EBCA6B) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    h = h * np.uint64(0xC2B2AE35) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    value = 2 * ((h.astype(np.float64) + 0.5) / 2**32) - 1
    last = key.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last == "running_var":
        value = 1 + 0.5 * value
    elif len(shape) >= 2:
        value = value * math.sqrt(3) * gain / math.sqrt(math.prod(shape) / shape[0])
    elif last == "weight":
        value = 1 + 0.3 * value
    else:
        value = 0.1 * value
    return torch.from_numpy(value.astype(np.float32).astype(np.float64)).reshape(shape)


def by_formula(name: str, network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Upstream's weights of a fixture that has a rule in place of a file, as many as our network has."""
    rule, theirs = meta(name)["weights"], {}
    for key, tensor in network.state_dict().items():
        module, _, kind = key.rpartition(".")
        their = f"{names[module]}.{kind}"
        theirs[their] = hashed(their, tuple(tensor.shape), seed=rule["seed"], gain=rule["gain"])
    return theirs


def hashed_picture(key: str, *shape: int) -> Tensor:
    """A picture of noise in [-1, 1], float64."""
    return hashed(f"{key}.picture", (math.prod(shape),)).reshape(shape) * 10


def fill(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give a network hashed weights in float64."""
    state = network.state_dict()
    network.double().load_state_dict({k: hashed(k, tuple(t.shape), seed=seed) for k, t in state.items()})
    for module in network.modules():
        if hasattr(module, "gain"):  # an equalised learning rate: weights are scaled when they are used
            module.weight.data /= module.gain
    return network
