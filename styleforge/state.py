"""Everything that a training run remembers: what a checkpoint holds and a rollback brings back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import checkpoint
from .errors import CheckpointError, ConfigError

_OF_THE_RUN = ("adversary.", "spectra.")  # parts of a method that another run need not have


class Memory(Protocol):
    """Something that remembers plain JSON from step to step."""

    def state(self) -> dict[str, Any]:
        """What to remember."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class TrainState:
    """Networks, averages and optimisers as tensors, the rest as JSON.

    Attributes:
        method: its `state_dict` holds networks, histories, augmentation.
        averages: published networks that follow those of the method, by name.
        optimizers: by name of the player; learning rates are functions of the step and not part of it.
        memories: by name.
    """

    method: nn.Module
    averages: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    memories: dict[str, Memory]

    def tensors(self, *, copy: bool = False) -> dict[str, Tensor]:
        """All tensors by name; with `copy` as they are now, in the memory of the CPU."""
        found = {f"method.{key}": tensor for key, tensor in self.method.state_dict().items()}
        for name, average in self.averages.items():
            found |= {f"average.{name}.{key}": tensor for key, tensor in average.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            found |= checkpoint.pack(optimizer, f"optimizer.{name}")
        return {key: tensor.detach().to("cpu", copy=True) for key, tensor in found.items()} if copy else found

    def facts(self) -> dict[str, Any]:
        """All memories, as JSON."""
        return {name: memory.state() for name, memory in self.memories.items()}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], where: object) -> None:
        """Go on from what :meth:`tensors` and :meth:`facts` gave.

        Raises:
            ConfigError: they are of another method, or other settings.
        """
        load(self.method, under(tensors, "method."), where)
        for name, average in self.averages.items():
            load(average, under(tensors, f"average.{name}."), where)
        for name, optimizer in self.optimizers.items():
            checkpoint.unpack(optimizer, tensors, f"optimizer.{name}")
        for name, memory in self.memories.items():
            if name in facts:  # a run may be given more to remember when it goes on
                memory.restore(facts[name])


def start_from(run: Path, method: nn.Module) -> None:
    """Give the networks of `method` the weights of another run's newest checkpoint.

    How discriminators are trained may differ: augmentation begins anew, and one that looks through a frozen network may
    join or leave. Means of spectra begin anew.
    """
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        raise CheckpointError(
            "There is no run to start from",
            where=run,
            allowed="the folder of a run with checkpoints",
            todo="Check --init, or leave it out.",
        )
    given, own = under(found[0], "method."), method.state_dict()
    before = {name for name in given if not name.startswith(_OF_THE_RUN)}
    before |= {name for name in given if name.startswith("adversary.projection.") and name in own}
    new = {name: own[name] for name in own if name.startswith(_OF_THE_RUN) and name not in before}
    load(method, {name: given[name] for name in before} | new, run)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def load(network: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """`load_state_dict` whose failure says what to do."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(
            "The checkpoint is of another method or other settings",
            where=where,
            found=str(error).split("\n")[1].strip() if "\n" in str(error) else error,
            todo="Take the method and the settings in its train.json, or another folder.",
        ) from error
