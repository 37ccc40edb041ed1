"""Low-rank adapters (LoRA, Hu et al., 2021) for the networks of styles: some per cent of the weights, kept apart.

A weight, seen as a matrix with a row for each output, becomes W + alpha / rank * up @ down. `peft` does this for
convolutions too, but neither for transposed ones nor for layers of our own, and needs transformers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import __version__, weights
from .errors import ConfigError, CorruptFileError, NotAStyle, UnknownName, WeightsMismatch, nearest
from .files import replacing_folder, write_text
from .hub import MAX_CONFIG_BYTES, PretrainedMixin

FACTORS, FACTS = "adapter.safetensors", "adapter.json"
MAX_RANK = 1024
_INSIDE = ".parametrizations.weight."  # where torch keeps what a weight is made of


class LowRank(nn.Module):
    """What an adapter adds to one weight; nothing at first, because `up` begins as zeros.

    It changes the weight. A second path beside the layer would take longer (0.22 s instead of 0.18 s forwards and
    backwards through the bundled style's network, two pictures of 128 px, bf16, one CPU core): convolutions with 4
    channels are slow, borders are padded once more, and maps are larger than weights. And this way all kinds of layers
    are treated alike.

    Args:
        weight: that it is for.
        rank: of what is added, where the weight has so many rows and columns.
        alpha: factor on what is added, times the rank.
        strength: a further factor.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, strength: float = 1.0) -> None:
        super().__init__()
        self.rank, self.alpha, self.strength = rank, alpha, strength
        up, down = _shapes(weight, rank)
        self.up = nn.Parameter(torch.zeros(up, device=weight.device))
        self.down = nn.Parameter(torch.empty(down, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight and what is added; in float32, because small steps would be lost in half of it."""
        with torch.autocast(weight.device.type, enabled=False):
            added = (self.up @ self.down).view_as(weight)
            return (weight + self.strength * self.alpha / self.rank * added).to(weight.dtype)


def add_lora(
    network: PretrainedMixin,
    rank: int = 4,
    alpha: float | None = None,
    where: Sequence[str] | None = None,
    share: float = 0.05,
) -> int:
    """Freeze a network and give its layers adapters, which change nothing yet.

    Layers are whatever has a trainable `weight` that is a matrix: convolutions, transposed ones, linear layers. Those
    with groups are left alone, and those with a single output: there is little to save.

    Args:
        network: changed in place. It cannot be saved with its adapter inside: see :func:`merge`.
        rank: of what is added to each weight; lowered, down to 1, until the adapter is no larger than `share`.
        alpha: factor on what is added, times the rank; the rank itself when None.
        where: names of layers, or of parts of the network with all of their layers; all layers when None.
        share: most parameters of the adapter, relative to those of the network.

    Returns:
        How many parameters the adapter has.

    Raises:
        ConfigError: the network has an adapter, or no layer for one, or `rank` is out of range.
        UnknownName: there is no layer of a name in `where`.
    """
    if not 1 <= rank <= MAX_RANK:
        raise ConfigError("No such rank", found=rank, allowed=f"1 to {MAX_RANK}", todo="4 is usual, 16 is much.")
    layers = _chosen(_layers(network), where)
    if not layers:
        raise ConfigError("No layer here can have an adapter", where=type(network).__name__, todo="Train it whole.")
    most = share * sum(parameter.numel() for parameter in network.parameters())
    while rank > 1 and _size(layers, rank) > most:
        rank -= 1
    _attach(network, layers, rank, rank if alpha is None else alpha)
    return _size(layers, rank)


def lora_state(network: PretrainedMixin) -> dict[str, Tensor]:
    """The tensors of the adapter: for each layer "<layer>.up" and "<layer>.down"."""
    return {
        f"{name}.{part}": getattr(adapter, part).detach()
        for name, adapter in _adapters(network).items()
        for part in ("up", "down")
    }


def base_digest(network: PretrainedMixin) -> str:
    """SHA-256 over names, types, shapes and values of the network's weights, without its adapter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_plain(network, merged=False).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_adapter(network: PretrainedMixin, folder: str | os.PathLike[str], base: Mapping[str, Any]) -> Path:
    """Write the adapter of a network, and what it belongs to, into a folder: whole or not at all.

    Args:
        network: with an adapter, see :func:`add_lora`.
        folder: made when it is missing.
        base: where the network was from, plain JSON, for instance {"name": "organisation/name", "revision": commit}.
            The digest of its weights is added.

    Returns:
        The folder.

    Raises:
        ConfigError: the network has no adapter.
        NonFiniteWeights: NaN or infinity in the adapter.
    """
    adapter = next(iter(_adapters(network).values()), None)
    if adapter is None:
        raise ConfigError("This network has no adapter", where=type(network).__name__, todo="Call add_lora first.")
    facts = {
        "styleforge": __version__,
        "architecture": type(network).__name__,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "base": {**base, "sha256": base_digest(network)},
    }
    with replacing_folder(folder, last=(FACTS,)) as temporary:
        weights.write(temporary / FACTORS, lora_state(network))
        write_text(temporary / FACTS, json.dumps(facts, indent=2) + "\n")
    return Path(folder)


def load_adapter(network: PretrainedMixin, folder: str | os.PathLike[str], strength: float = 1.0) -> PretrainedMixin:
    """Put a saved adapter into the network that it was made for.

    Args:
        network: changed in place, and frozen but for the adapter.
        folder: see :func:`save_adapter`.
        strength: 0 is the network without it, 1 the whole adapter.

    Returns:
        The network; :func:`merge` makes a plain one of it, which is a little faster and can be saved.

    Raises:
        NotAStyle, CorruptFileError, UnsafeFileError, NonFiniteWeights: no adapter, or a damaged one.
        WeightsMismatch: it is for another architecture, or for other weights.
        ConfigError: the network has an adapter, or `strength` is not finite.
    """
    if not math.isfinite(strength):
        raise ConfigError("strength cannot be used", found=strength, allowed="a number", todo="1 is all of it.")
    facts, layers = _read_facts(Path(folder)), _layers(network)
    base = facts["base"]
    home = f"Load it into {base.get('name', 'its base')!r}, revision {base.get('revision')}."
    expected = type(network).__name__, base_digest(network)
    found = facts["architecture"], base.get("sha256")
    for what, ours, theirs in zip(("another architecture", "other weights"), expected, found, strict=True):
        if ours != theirs:
            raise WeightsMismatch(f"This adapter is for {what}", where=folder, found=theirs, allowed=ours, todo=home)
    path = Path(folder) / FACTORS
    shapes = {name: info.shape for name, info in weights.read_header(path).items()}
    layers = {name: layer for name, layer in layers.items() if f"{name}.up" in shapes}
    if shapes != _factors(layers, facts["rank"]):
        raise WeightsMismatch(
            "This adapter does not fit its own description",
            where=folder,
            found=", ".join(sorted(shapes)[:3]) or "no tensors",
            allowed=f"two factors of rank {facts['rank']} for each layer of the network",
            todo="Both of its files must come from one save; ask its author.",
        )
    factors = weights.read(path)
    weights.check_finite(factors, where=path)
    _attach(network, layers, facts["rank"], facts["alpha"], strength)
    for name, tensor in lora_state(network).items():
        tensor.copy_(factors[name])
    return network


def merge(network: PretrainedMixin) -> PretrainedMixin:
    """A plain copy of a network, whose weights are those that the adapter makes; without one, the network itself."""
    if not _adapters(network):
        return network
    with torch.random.fork_rng(devices=[]):  # the numbers that it begins with are not used
        plain = type(network)(**network.config)
    plain.to(network.device, network.dtype).load_state_dict(_plain(network, merged=True))
    return plain.train(network.training)


def read_table(path: Path) -> dict[str, Any]:
    """A small JSON file with a table in it.

    Raises:
        CorruptFileError: it is something else.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
        return dict(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=weights.unique_keys))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CorruptFileError(
            f"{path.name} cannot be read", where=path, found=error, todo="Download it again, or ask its author."
        ) from error


def _read_facts(folder: Path) -> dict[str, Any]:
    """The description of an adapter.

    Raises:
        NotAStyle: the folder holds none.
        CorruptFileError: it is damaged.
    """
    if not all((folder / name).is_file() for name in (FACTORS, FACTS)):
        raise NotAStyle(
            "There is no adapter here", where=folder, allowed=f"a folder with {FACTS} and {FACTORS}", todo="Check it."
        )
    facts = read_table(folder / FACTS)
    kinds = {"architecture": str, "rank": int, "alpha": (int, float), "base": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(facts.get(key), kind)]
    if wrong or not 1 <= facts["rank"] <= MAX_RANK or not math.isfinite(facts["alpha"]):
        raise CorruptFileError(
            "This adapter is not described", where=folder / FACTS, found=facts, todo="Ask its author for another copy."
        )
    return facts


def _layers(network: PretrainedMixin) -> dict[str, nn.Module]:
    """The layers that can have an adapter, by name."""
    if _adapters(network):
        raise ConfigError("This network has an adapter already", todo="Go on with merge(network).")
    return {
        name: module
        for name, module in network.named_modules()
        if (weight := module._parameters.get("weight")) is not None
        and weight.requires_grad
        and weight.ndim > 1
        and min(weight.flatten(1).shape) > 1
        and getattr(module, "groups", 1) == 1
    }


def _chosen(layers: dict[str, nn.Module], where: Sequence[str] | None) -> dict[str, nn.Module]:
    for part in where or ():
        if not any(f"{name}.".startswith(f"{part}.") for name in layers):
            raise UnknownName(
                "No layer of this name",
                found=repr(part),
                allowed=", ".join(layers),
                todo=f"{nearest(part, layers)}Name a layer, or the part of the network that holds it.",
            )
    parts = tuple(f"{part}." for part in where or ())
    return {name: layer for name, layer in layers.items() if where is None or f"{name}.".startswith(parts)}


def _shapes(weight: Tensor, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of `up` and `down`."""
    rows, columns = weight.flatten(1).shape
    rank = min(rank, rows, columns)
    return (rows, rank), (rank, columns)


def _factors(layers: Mapping[str, nn.Module], rank: int) -> dict[str, tuple[int, int]]:
    """The shapes of all tensors of an adapter, named as by :func:`lora_state`."""
    return {
        f"{name}.{part}": shape
        for name, layer in layers.items()
        for part, shape in zip(("up", "down"), _shapes(layer.weight, rank), strict=True)
    }


def _size(layers: Mapping[str, nn.Module], rank: int) -> int:
    return sum(math.prod(shape) for shape in _factors(layers, rank).values())


def _attach(
    network: PretrainedMixin, layers: Mapping[str, nn.Module], rank: int, alpha: float, strength: float = 1.0
) -> None:
    network.requires_grad_(False)
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, strength))
    network.save_pretrained = _refuse_to_save  # type: ignore[method-assign]


def _refuse_to_save(*_: Any, **__: Any) -> NoReturn:
    """Stands before the method: with an adapter inside, the file would fit no configuration."""
    raise ConfigError(
        "A network with an adapter inside is no style",
        todo="Save merge(network), a plain copy, or the adapter alone with save_adapter.",
    )


def _adapters(network: nn.Module) -> dict[str, LowRank]:
    """The adapters of a network, by the name of their layers."""
    found = {
        name: module.parametrizations.weight[0]
        for name, module in network.named_modules()
        if parametrize.is_parametrized(module, "weight")  # spectral norms are this as well
    }
    return {name: adapter for name, adapter in found.items() if isinstance(adapter, LowRank)}


def _plain(network: PretrainedMixin, *, merged: bool) -> dict[str, Tensor]:
    """What the `state_dict` would be without adapters, with or without what they add."""
    adapters, state = _adapters(network), {}
    for key, tensor in network.state_dict().items():
        name, _, part = key.partition(_INSIDE)
        if not part or name not in adapters:
            state[key] = tensor
        elif part == "original":
            state[f"{name}.weight"] = adapters[name](tensor).detach() if merged else tensor
    return state
