"""Networks that projects save in parts, each in a file of its own: put together they are one of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import WeightsMismatch
from ..hub import PretrainedMixin
from ..layers import from_unit_range
from ..models import AdaINGenerator, AttentionGenerator, MicroASTGenerator
from .family import Fit, Tensors

BACKBONE = "vgg19-normalised"
Parts = Mapping[str, nn.Module]


class Whole(NamedTuple):
    """A network in parts.

    Attributes:
        name: of the family.
        project: where it comes from.
        parts: families by role.
        model: ours.
        config: from the arguments of the parts to those of ours.
        state: from the parts to the weights of ours.
        maybe: roles that may be missing.
    """

    name: str
    project: str
    parts: dict[str, str]
    model: type[PretrainedMixin]
    config: Callable[[Mapping[str, Fit]], dict[str, Any]]
    state: Callable[[Parts], Tensors]
    maybe: frozenset[str] = frozenset()


def whole_of(fits: Mapping[str, Fit]) -> Whole | None:
    """What parts, by role, make up; None when some are missing, or there are others."""
    found = {role: fit.family.name for role, fit in fits.items()}
    return next(
        (w for w in WHOLES if found.items() <= w.parts.items() and w.parts.keys() - found.keys() <= w.maybe), None
    )


def lacking(fits: Mapping[str, Fit]) -> dict[str, str]:
    """What the whole that parts belong to lacks: families by role. Empty when they belong to none."""
    found = {role: fit.family.name for role, fit in fits.items()}
    able = [w for w in WHOLES if found.items() <= w.parts.items()]
    return {role: name for role, name in able[0].parts.items() if role not in found} if able else {}


def assemble(whole: Whole, fits: Mapping[str, Fit], parts: Parts, where: object) -> PretrainedMixin:
    """One network out of its parts, in evaluation mode.

    Raises:
        WeightsMismatch: they do not belong together.
    """
    with torch.device("meta"):
        network = whole.model(**whole.config(fits))
    wanted, state = network.state_dict(), whole.state(parts)
    state = {
        key: tensor for key, tensor in state.items() if key in wanted or not key.startswith(("encoder", "extractor"))
    }
    wrong = [
        k
        for k in wanted.keys() | state.keys()
        if k not in wanted or k not in state or wanted[k].shape != state[k].shape
    ]
    if wrong:
        key = min(wrong)
        raise WeightsMismatch(
            "These parts do not belong together",
            where=where,
            found=f"{key} {tuple(state[key].shape) if key in state else 'missing'}",
            allowed=tuple(wanted[key].shape) if key in wanted else "no such tensor",
            todo="Take all of them from one run of the project.",
        )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _under(prefix: str, part: nn.Module) -> Tensors:
    return {f"{prefix}.{key}": tensor for key, tensor in part.state_dict().items()}


def _adain(parts: Parts) -> Tensors:
    return _under("encoder", parts["encoder"]) | _under("decoder", parts["decoder"])


def _sanet(parts: Parts) -> Tensors:
    decoder = {
        f"decoder.{'deep' if layer == 'convs.conv4_1' else f'shallow.{layer}'}.{kind}": tensor
        for layer, kind, tensor in ((*k.rsplit(".", 1), t) for k, t in parts["decoder"].state_dict().items())
    }
    return _under("extractor", parts["encoder"]) | _under("attention", parts["attention"]) | decoder


def _adaattn(parts: Parts) -> Tensors:
    state = _under("extractor", parts["encoder"]) | _under("attention", parts["attention"])
    if "skip" in parts:
        state |= _under("attention.layers.relu3_1", parts["skip"])
    return state | _under("decoder", parts["decoder"])


def _adaattn_config(fits: Mapping[str, Fit]) -> dict[str, Any]:
    attention = fits["attention"].config
    shallow = attention["keys_relu4_1"] > attention["channels"]
    return {"attention": "adaattn", "backbone": BACKBONE, "shallow": shallow, "skip": "skip" in fits}


def _microast(parts: Parts) -> Tensors:
    encoders = ("content_encoder", "style_encoder")
    state = _under("decoder", parts["decoder"]) | _under("modulators", parts["modulator"])
    for name in encoders:
        state |= _under(name, parts[name])
    return from_unit_range(state, first=[f"{name}.down.0" for name in encoders], last="decoder.up.10")


WHOLES = (
    Whole(
        "adain",
        "naoto0804/pytorch-AdaIN",
        {"encoder": BACKBONE, "decoder": "adain-decoder"},
        AdaINGenerator,
        lambda fits: {"backbone": BACKBONE},
        _adain,
    ),
    Whole(
        "sanet",
        "GlebSBrykin/SANET",
        {"encoder": BACKBONE, "attention": "sanet", "decoder": "adain-decoder"},
        AttentionGenerator,
        lambda fits: {"attention": "sanet", "backbone": BACKBONE, "shallow": False, "skip": False},
        _sanet,
    ),
    Whole(
        "adaattn",
        "Huage001/AdaAttN",
        {"encoder": BACKBONE, "attention": "adaattn", "skip": "adaattn-3", "decoder": "adaattn-decoder"},
        AttentionGenerator,
        _adaattn_config,
        _adaattn,
        maybe=frozenset({"skip"}),
    ),
    Whole(
        "microast",
        "EndyWon/MicroAST",
        {
            "content_encoder": "microast-encoder",
            "style_encoder": "microast-encoder",
            "modulator": "microast-modulator",
            "decoder": "microast-decoder",
        },
        MicroASTGenerator,
        lambda fits: {"width": fits["decoder"].config["width"]},
        _microast,
    ),
)
