"""What the networks of one foreign project look like, and how one of ours takes their weights.

A :class:`Family` says for a set of names and shapes with which arguments our network would be the same, and what each
of our tensors is called there. From that :func:`fit` knows every name and shape that the file must hold. So a file is
recognised by fitting exactly, and of one that does not fit it can be said where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mode
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import StyleforgeError
from ..hub import WithoutDrawing

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Tensors = dict[str, Tensor]
Statistics = Literal["running", "batch"]

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


class Family:
    """Networks of one foreign class. A subclass fills in what follows.

    Attributes:
        name: by which users call it.
        project: where the class comes from.
        role: what its networks do: "generator", "discriminator", or a part of a whole, see
            :mod:`styleforge.convert.wholes`.
        back: how names of those end that belong to the way back, where there are two ways.
        model: ours.
        example: arguments of a usual one, to compare files with that fit nothing.
        statistics: of batch norms at test time, when nobody says otherwise.
        biased: convolutions have a bias also where ours, in front of a norm that takes it away again, has none.
    """

    name: ClassVar[str]
    project: ClassVar[str]
    role: ClassVar[str] = "generator"
    back: ClassVar[str] = ""
    model: ClassVar[type[nn.Module]]
    example: ClassVar[dict[str, Any]] = {}
    statistics: ClassVar[Statistics] = "running"
    biased: ClassVar[bool] = True

    def role_of(self, name: str) -> str:
        """The role of a network called `name` in its file, or by its file: that of the way back ends in "_b"."""
        return self.role + ("_b" if self.back and re.search(rf"(?:{self.back})(?:_\d+)?$", name) else "")

    def arguments(self, shapes: Shapes) -> dict[str, Any]:
        """Arguments for :meth:`build`.

        Raises:
            LookupError, ValueError, ArithmeticError: nothing in the file tells them.
        """
        raise NotImplementedError

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Our network."""
        return self.model(**config)

    def names(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Our modules: theirs. Ours without tensors may be among them."""
        raise NotImplementedError

    def source(self, key: str, names: Mapping[str, str]) -> str:
        """Their name of a tensor of ours; `names` are :meth:`names`."""
        module, dot, kind = key.rpartition(".")
        while dot and module not in names:
            module, dot, last = module.rpartition(".")
            kind = f"{last}.{kind}"
        return f"{names[module]}.{kind}" if dot else key

    def shape(self, source: str, shape: Shape) -> Shape:
        """Their shape of a tensor of theirs, by the shape of ours."""
        return shape

    def biases(self, config: Mapping[str, Any]) -> bool:
        """See :attr:`biased`, where it depends on the arguments."""
        return self.biased

    def dropped(self, config: Mapping[str, Any]) -> dict[str, Shape]:
        """Tensors of theirs that ours has no use for, beside the biases."""
        return {}

    def constants(self, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Filters that may be stored, and which ours computes."""
        return {}

    def zeros(self, config: Mapping[str, Any]) -> set[str]:
        """Tensors of ours that are zero where the file has none."""
        return set()

    def finish(self, ours: Tensors, left: Tensors, config: Mapping[str, Any]) -> Tensors:
        """Weights under our names, and what was left of theirs, as those of a network that does the same."""
        return ours

    def complete(self, network: nn.Module, given: Shapes) -> None:
        """Fill what a network needs and the file, with `given` in it, does not hold."""

    def notes(self, config: Mapping[str, Any], given: Shapes) -> list[str]:
        """What a user must know of such a network."""
        return []


@dataclass(frozen=True)
class Fit:
    """A family, and a network of it that is as like to a file as can be.

    Attributes:
        family: of the network.
        config: its arguments, defaults included.
        network: ours, on the meta device.
        sources: our tensors: theirs.
        expected: names and shapes that the file must hold.
        shapes: those that it holds.
    """

    family: Family
    config: dict[str, Any]
    network: nn.Module
    sources: dict[str, str]
    expected: dict[str, Shape]
    shapes: Shapes

    @cached_property
    def constants(self) -> Tensors:
        """See :meth:`Family.constants`."""
        return self.family.constants(self.config)

    @cached_property
    def missing(self) -> list[str]:
        """What the file should hold and does not."""
        zeros = {self.sources[ours] for ours in self.family.zeros(self.config)}
        return [k for k in self.expected if k not in self.shapes and k not in zeros and not _counter(k)]

    @cached_property
    def unexpected(self) -> list[str]:
        """What it holds and should not."""
        return [k for k in self.shapes if k not in self.expected and not self._idle(k)]

    @cached_property
    def misshapen(self) -> list[str]:
        """What has another shape than it should."""
        constants = {key: tuple(tensor.shape) for key, tensor in self.constants.items()}
        wanted = {**self.expected, **constants}
        return [k for k, shape in self.shapes.items() if wanted.get(k, shape) != shape]

    @property
    def exact(self) -> bool:
        """Whether the file is such a network."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def likeness(self) -> float:
        """Share of all names that both have, in [0, 1]; one of another shape counts half."""
        both = self.expected.keys() & self.shapes.keys()
        agreeing = sum(1 if self.expected[key] == self.shapes[key] else 0.5 for key in both)
        return agreeing / max(1, len(self.expected.keys() | self.shapes.keys()))

    def convert(self, theirs: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> nn.Module:
        """Our network with the weights of a file that fits exactly, in evaluation mode."""
        theirs = {k: t.detach().to(dtype if t.is_floating_point() else t.dtype) for k, t in theirs.items()}
        wanted, ours = self.network.state_dict(), {}
        for key, source in self.sources.items():
            kind = dtype if wanted[key].is_floating_point() else wanted[key].dtype
            found = theirs.pop(source, torch.zeros((), dtype=kind).expand(wanted[key].shape))
            # Contiguous, and with a memory of its own.
            ours[key] = found.reshape(wanted[key].shape).to(kind).clone(memory_format=torch.contiguous_format)
        self.network.load_state_dict(self.family.finish(ours, theirs, self.config), strict=True, assign=True)
        self.family.complete(self.network.eval(), self.shapes)
        return self.network

    def refit(self, **changes: Any) -> Fit:
        """The same with other arguments, which change no tensor."""
        network = _on_meta(self.family, config := {**self.config, **changes})
        return replace(self, config=config, network=network)

    def _idle(self, key: str) -> bool:
        """Whether a tensor may be stored without meaning anything: statistics of norms that use the picture's own."""
        module, _, kind = key.rpartition(".")
        return key in self.constants or (kind in RUNNING and module in self._instance_norms)

    @cached_property
    def _instance_norms(self) -> set[str]:
        modules = dict(self.network.named_modules())
        names = self.family.names(self.config).items()
        return {theirs for ours, theirs in names if _is_instance_norm(modules.get(ours))}


def fit(family: Family, shapes: Shapes, config: Mapping[str, Any] | None = None) -> Fit | None:
    """The network of a family that is most like a file; None when the file does not tell what it would be.

    It is built on the meta device: what absurd shapes ask for is never allocated.

    Args:
        family: to compare with.
        shapes: names and shapes in the file.
        config: arguments; derived from `shapes` when None.
    """
    try:
        config = dict(family.arguments(shapes) if config is None else config)
        network = _on_meta(family, config)
    except (LookupError, ValueError, ArithmeticError, RuntimeError, StyleforgeError):
        return None
    config |= getattr(network, "config", {})  # parts have none
    names, modules = family.names(config), dict(network.named_modules())
    sources, expected = {}, {}
    for key, tensor in network.state_dict().items():
        sources[key] = family.source(key, names)
        expected[sources[key]] = family.shape(sources[key], tuple(tensor.shape))
    if family.biases(config):
        for ours, theirs in names.items():
            module = modules.get(ours)
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is None:
                expected[f"{theirs}.bias"] = (module.out_channels,)
    return Fit(family, config, network, sources, {**expected, **family.dropped(config)}, shapes)


def _on_meta(family: Family, config: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"), WithoutDrawing():
        return family.build(config)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Names and shapes."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def vote(shapes: Shapes, *readings: tuple[str, int, int]) -> int:
    """A number that several tensors tell: the most frequent, so that a wrong shape stands out.

    Args:
        shapes: of the file.
        readings: name of a tensor, a dimension of it, and how many times the number this is.

    Raises:
        LookupError: none of the tensors is there.
    """
    found = [shapes[key][axis] // times for key, axis, times in readings if len(shapes.get(key, ())) > axis]
    if not found:
        raise LookupError(readings[0][0])
    return mode(found)


def places(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers that the group of a pattern finds at the beginning of names, in order.

    Raises:
        LookupError: there are none.
    """
    found = sorted({int(match[1]) for key in shapes if (match := re.match(pattern, key))})
    if not found:
        raise LookupError(pattern)
    return found


def convolutions(shapes: Shapes, root: str) -> list[int]:
    """Places of the convolutions in a sequence."""
    return places({k: None for k, s in shapes.items() if len(s) == 4}, rf"{re.escape(root)}\.(\d+)\.weight(?:_orig)?$")


def _counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")  # old files have none, and nothing of ours reads it


def _is_instance_norm(module: nn.Module | None) -> bool:
    return module is not None and any(isinstance(m, nn.InstanceNorm2d) for m in module.modules())
