"""Discriminators of a foreign checkpoint as the folder `training/` that styles of this project carry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import __version__, adaptation, methods
from ..hub import PretrainedMixin
from ..methods.base import Method
from ..models import (
    DCGANGenerator,
    ResnetGenerator,
    StyleGAN2Generator,
    UGATITGenerator,
    UNetGenerator,
)
from .family import shapes_of

Networks = Mapping[str, nn.Module]

SIDES = {"": "target", "_b": "source"}  # the discriminators that belong to the way there judge the target
BOTH_WAYS = {f"{role}{suffix}" for role in ("generator", "discriminator") for suffix in SIDES}


class Plan(NamedTuple):
    """The method that trains these networks.

    Attributes:
        method: its word.
        settings: that make it have such networks.
        players: those beside the style, by the names that they have in the method.
    """

    method: str
    settings: dict[str, Any]
    players: dict[str, nn.Module]


def plan(networks: Networks, notes: list[str]) -> Plan | None:
    """The method that a style can be trained on with.

    Args:
        networks: by role.
        notes: where it is told when there are networks beside the style and no method trains them.
    """
    others = [role for role in networks if not role.startswith("generator")]
    if not others:
        return None
    found = _by_kind(networks)
    if found is None:
        problem = f"no method of ours has these beside the style: {', '.join(others)}"
    else:
        with torch.device("meta"):
            method = methods.build(found.method, found.settings)
        difference = _difference(method, networks, found.players)
        if not difference:
            return found
        problem = f"the method {found.method} trains others: {difference}"
    notes.append(f"Its other networks are left out: {problem}.")
    return None


def write_training(found: Plan, folder: Path) -> None:
    """Write `training/` into the folder of a style."""
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        method = methods.build(found.method, found.settings)
    for name, network in found.players.items():
        method.get_submodule(name).load_state_dict(network.state_dict(), strict=True)
    settings = dict(found.settings)
    size = {"size": settings.pop("size")} if "size" in settings else {}  # it belongs to the run
    recipe = {"method": found.method, **size, "styleforge": __version__, "settings": settings}
    adaptation.save_training(method, folder, recipe)


def _by_kind(networks: Networks) -> Plan | None:
    """The plan by the kind of the generator, and the roles of the others."""
    generator, judge, roles = networks["generator"], networks.get("discriminator"), set(networks)
    if isinstance(generator, UGATITGenerator) and len(roles) == 6:
        return _ugatit(networks)
    if isinstance(generator, ResnetGenerator) and roles == {"generator", "heads", "discriminator"}:
        return _cut(networks)
    if isinstance(generator, ResnetGenerator) and roles == BOTH_WAYS:
        players = {f"{side}_discriminator": networks[f"discriminator{suffix}"] for suffix, side in SIDES.items()}
        return Plan("cyclegan", _settings("cyclegan", generator, judge), players)
    if roles != {"generator", "discriminator"}:
        return None
    if isinstance(generator, ResnetGenerator | UNetGenerator) and judge.config["in_channels"] == 6:
        kind = {"generator": "unet" if isinstance(generator, UNetGenerator) else "resnet"}
        return Plan("pix2pix", _settings("pix2pix", generator, judge) | kind, {"discriminator": judge})
    word = {DCGANGenerator: "dcgan", StyleGAN2Generator: "stylegan2"}.get(type(generator))
    return Plan(word, _settings(word, generator, judge), {"discriminator": judge}) if word else None


def _ugatit(networks: Networks) -> Plan:
    generator = networks["generator"]
    players = {
        f"discriminators.{side}_{reach}": networks[f"discriminator_{reach}{suffix}"]
        for suffix, side in SIDES.items()
        for reach in ("global", "local")
    }
    settings = _settings("ugatit", generator, networks["discriminator_global"])
    layers = {f"{reach}_layers": networks[f"discriminator_{reach}"].config["layers"] for reach in ("global", "local")}
    return Plan("ugatit", settings | layers, players)


def _cut(networks: Networks) -> Plan:
    generator, heads, judge = (networks[role] for role in ("generator", "heads", "discriminator"))
    blocks = len(heads) - 3  # the picture, both steps down, and then blocks; upstream's are 0 and 4 of them
    settings = {"head_width": heads[0][0].out_features, "nce_blocks": [0, 4][:blocks]}
    return Plan("cut", _settings("cut", generator, judge) | settings, {"heads": heads, "discriminator": judge})


def _settings(word: str, generator: PretrainedMixin, judge: PretrainedMixin) -> dict[str, Any]:
    """Settings of a method by the arguments of its networks, where they are not its own."""
    known = methods.settings(word)
    found = {**generator.config, **{f"discriminator_{key}": value for key, value in judge.config.items()}}
    return {key: value for key, value in found.items() if key in known and known[key] != value}


def _difference(method: Method, networks: Networks, players: Networks) -> str:
    """What differs between a method's networks and these; empty when nothing does."""
    styles = {"": "generator", "reverse": "generator_b"}
    pairs = [(network, networks[styles[name]]) for name, network in method.styles().items()]
    pairs += [(method.get_submodule(name), network) for name, network in players.items()]
    for ours, theirs in pairs:
        if type(ours) is not type(theirs):
            return f"{type(ours).__name__}, and not {type(theirs).__name__}"
        for key, value in theirs.config.items() if isinstance(theirs, PretrainedMixin) else ():
            if ours.config[key] != value:
                return f"{type(ours).__name__} with {key} {ours.config[key]!r}, and not {value!r}"
        if shapes_of(ours.state_dict()) != shapes_of(theirs.state_dict()):
            return f"another {type(ours).__name__}"
    return ""
