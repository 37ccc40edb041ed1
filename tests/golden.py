"""Numbers made elsewhere: ../shared/golden (the field's own code), the names of its tensors in our networks, and
weights that depend on nothing but their names.

Upstream gives every convolution in front of an instance norm a bias. The norm subtracts it again, so ours have
none: :func:`rename` drops these, and the tests look that upstream's gradient for them is nothing but rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from styleforge import configs
from styleforge.convert.family import Fit, fit
from styleforge.convert.reading import Checkpoint
from styleforge.convert.recognize import find_family, recognize

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


def names(family: str, **config: Any) -> dict[str, str]:
    """Those of a family of :mod:`styleforge.convert`; arguments that are not given are the defaults of our network."""
    found = find_family(family)
    return found.names({**configs.defaults(found.model.__init__), **config})


def rename(theirs: dict[str, Any], names: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Upstream's entries under our names, and those that no name asks for."""
    back = {their: our for our, their in names.items()}
    ours, left = {}, {}
    for key, value in theirs.items():
        module, _, kind = key.rpartition(".")
        if module in back and kind != "filt":  # a filter of CUT's blurs, which ours computes
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


# -- networks of other projects as ours --


def convert(theirs: dict[str, Tensor], *, dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[nn.Module, Fit]:
    """Our network with their weights, recognised as :func:`styleforge.convert_checkpoint` does, and what it is.

    Args:
        theirs: tensors as the project names them.
        dtype: of the network.
        changes: arguments that no file tells, such as `statistics`; batch norms have running ones here.
    """
    found = recognize(theirs, "a fixture")
    return found.refit(**changes).convert(theirs, dtype), found


def read_here(path: Path) -> Checkpoint:
    """As :func:`styleforge.convert.reading.read_checkpoint`, in this process: quicker, for files that are ours."""
    tree, digest = torch.load(path, weights_only=True), hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(tree, path.name, digest, "zip", ())


def expected(family: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a file of a family, but for those that may be missing."""
    found = fit(find_family(family), {}, config)
    optional = {found.sources[key] for key in found.family.zeros(config)}
    return {key: shape for key, shape in found.expected.items() if key not in optional}


def formula(name: str, family: str, config: dict[str, Any], part: str | None = None) -> dict[str, Tensor]:
    """The weights of a fixture that has a rule in place of a file, or of one part of it."""
    rule = meta(name)["weights"] if part is None else meta(name)["weights"][part]
    found = {key: hashed(key, s, seed=rule["seed"], gain=rule["gain"]) for key, s in expected(family, config).items()}
    for key, check in rule.get("check", {}).items():
        assert found[key].shape == tuple(check["shape"])
        assert found[key].sum().item() == pytest.approx(check["sum64"], rel=1e-12)
    return found


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
