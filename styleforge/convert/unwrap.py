"""The networks in the tree of a checkpoint, out of the wrappings that training programs put around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..errors import WeightsError

State = dict[str, Tensor]

# Keys that say "here are weights", and not whose.
_WRAPPER = re.compile(r"checkpoint|ema|(model_)?state(_dict)?|model|module|net(work)?|params|weights")
_AVERAGE = re.compile(r"^ema[_.]|[_.]ema$", re.IGNORECASE)
_ROLE = re.compile(r"(net_?)?(G|D|gen|generator|dis|disc|discriminator)(_\w+)?", re.IGNORECASE)


class Networks(dict[str, State]):
    """Weights by the place in the tree that they were found at, "" where it has no name of its own.

    Attributes:
        notes: what was chosen, and what was left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


def unwrap(tree: Any, *, ema: bool = True) -> Networks:
    """Every network in a tree of :func:`.read_checkpoint`.

    Taken off are dictionaries around it (`state_dict`, `model`, `params`, ...), `module.` of DataParallel, once or
    more, `_orig_mod.` of torch.compile, and the common prefix of each network of a Lightning module or of one that
    holds generators and discriminators only. Optimisers are left out.

    Args:
        tree: dictionaries and lists of plain values and tensors.
        ema: whether to take averaged weights, where there are both, or the raw ones.

    Raises:
        WeightsError: two keys become one without their prefixes.
    """
    networks = Networks()
    found = list(_search(tree, (), ema, networks.notes))
    short = ["/".join(part for part in path if not _WRAPPER.fullmatch(_AVERAGE.sub("", part))) for path, _ in found]
    names = short if len(set(short)) == len(short) else ["/".join(path) for path, _ in found]
    networks.update(zip(names, (state for _, state in found), strict=True))
    return networks


def _search(node: Any, path: tuple[str, ...], ema: bool, notes: list[str]) -> Iterator[tuple[tuple[str, ...], State]]:
    """(path, state dict) of all networks below a node."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, Mapping):
        return
    place = "/".join(path) or "the file"
    if "param_groups" in node:
        notes.append(f"{place}: an optimizer, left out")
    elif tensors := _state(node):
        if left := sorted(str(key) for key in node.keys() - tensors.keys()):
            notes.append(f"{place}: left out {', '.join(left)[:200]}, no tensors")
        state = _plain(tensors, path)
        parts = _parts(state, lightning=False)
        yield from _search(parts, path, ema, notes) if parts else [(path, state)]
    else:
        if "pytorch-lightning_version" in node and isinstance(node.get("state_dict"), Mapping):
            node = {**node, "state_dict": _parts(node["state_dict"], lightning=True) or node["state_dict"]}
        for key in _chosen(node, ema, notes):
            yield from _search(node[key], (*path, str(key)), ema, notes)


def _state(node: Mapping[Any, Any]) -> State | None:
    """The weights, when this is a state dict: tensors under text, and not only scores that lie beside networks."""
    tensors = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Tensor)}
    among_others = len(tensors) < len(node)
    if not any(t.dim() for t in tensors.values()) or (among_others and not any("." in key for key in tensors)):
        return None
    return tensors


def _parts(state: Mapping[str, Any], *, lightning: bool) -> dict[str, State] | None:
    """The networks that a module around them holds as attributes; None when it is a network itself."""
    split = {key: _bare(key).partition(".") for key in state}
    names = list(dict.fromkeys(name for name, _, _ in split.values()))
    if lightning:  # a network of one Sequential, itself the Lightning module, has names such as model.1.weight
        around = len(names) > 1 or not all(rest.split(".")[0].isdigit() for _, _, rest in split.values())
    else:
        around = all(rest and _ROLE.fullmatch(name) for name, _, rest in split.values())
    if not around:
        return None
    parts: dict[str, State] = {name: {} for name in names}
    for key, (name, _, rest) in split.items():
        parts[name][rest or name] = state[key]
    return parts


def _chosen(node: Mapping[Any, Any], ema: bool, notes: list[str]) -> list[Any]:
    """Keys of a dictionary, of raw and averaged weights only those that are asked for."""
    dropped = set()
    for key in node:
        if isinstance(key, str) and isinstance(node[key], Mapping):
            for raw in _raw(key, node):
                better, worse = (key, raw) if ema else (raw, key)
                dropped.add(worse)
                notes.append(f"'{better}' taken, {'averaged' if ema else 'raw'} weights, and not '{worse}'")
    return [key for key in node if key not in dropped]


def _raw(key: str, node: Mapping[Any, Any]) -> list[str]:
    """Keys of the raw weights that those under `key` are the average of; none, when they are no average."""
    others = [other for other in node if isinstance(other, str) and other != key and isinstance(node[other], Mapping)]
    if key == "ema":
        return [other for other in others if _WRAPPER.fullmatch(other)]
    return [other for other in others if other == _AVERAGE.sub("", key)]


def _plain(state: State, path: tuple[str, ...]) -> State:
    """Weights under the names that they have in the network."""
    wrapped = all(_bare(key).startswith("module.") for key in state if key != "n_averaged")
    kept = [key for key in state if not (wrapped and key == "n_averaged")]  # a counter of torch's AveragedModel
    names = [_bare(key) for key in kept]
    while names and all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if len(set(names)) < len(names):
        raise WeightsError(
            "Two tensors have one name without the prefixes of wrappers",
            where="/".join(path) or None,
            found=next(name for name in names if names.count(name) > 1),
            todo="Save the state dict of the network alone.",
        )
    return {name: state[key] for name, key in zip(names, kept, strict=True)}


def _bare(key: str) -> str:
    """Without what torch.compile puts in, at any level."""
    return ".".join(part for part in key.split(".") if part != "_orig_mod")
