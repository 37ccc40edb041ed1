"""What a training method is: networks, players, and what each player minimises.

A method knows nothing of devices, files, precision or the Hub; :mod:`styleforge.train` knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .. import rng
from ..hub import PretrainedMixin

Terms = dict[str, Tensor]


class Batch(dict[str, Tensor]):
    """The tensors of one turn, by name. A player may leave here what the next one needs.

    Attributes:
        key: what randomness of this turn depends on, beside its purpose.
    """

    def __init__(self, tensors: dict[str, Tensor], *key: int | str) -> None:
        super().__init__(tensors)
        self.key = key

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness for one purpose of this turn, the same after every restart."""
        return rng.generator(purpose, *self.key)


@dataclass(frozen=True)
class Player:
    """Some networks that minimise some terms.

    Attributes:
        name: prefix of its terms in the log.
        networks: what its optimiser changes; gradients are taken for these parameters only, so nothing has to
            be frozen, and a player may leave a fake with its graph in the batch for another.
        loss: from a batch to named terms, already weighted; their sum is minimised.
        lr: learning rate of Adam; different ones for two players are TTUR.
        betas: of Adam.
        turns: steps it makes while others make one (`n_critic`); each has a batch of its own.
    """

    name: str
    networks: tuple[nn.Module, ...]
    loss: Callable[[Batch], Terms]
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    turns: int = 1

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that its optimiser changes."""
        return [p for network in self.networks for p in network.parameters()]


class Method(nn.Module):
    """Base of all training methods.

    A subclass has a keyword-only constructor with plain JSON values (see :mod:`styleforge.configs`); everything
    that a run must remember is in its `state_dict`.
    """

    data: ClassVar[Literal["unpaired", "paired"]] = "unpaired"
    paper: ClassVar[str] = ""

    def players(self) -> list[Player]:
        """Who plays, in the order of a turn."""
        raise NotImplementedError

    def styles(self) -> dict[str, PretrainedMixin]:
        """What a run publishes: "" is the style itself, other names are subfolders."""
        raise NotImplementedError

    def preview(self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin]) -> dict[str, Tensor]:
        """Columns of the sample sheet.

        Args:
            images: "source" (B, 3, H, W), and "target" for paired data, in [-1, 1].
            styles: networks as :meth:`styles` names them, averaged if the run averages.

        Returns:
            Pictures (B, 3, H, W) by column title.
        """
        return {**images, "styled": styles[""](images["source"])}


class History(nn.Module):
    """Past fakes: half of the pictures a discriminator sees are not the newest (Shrivastava et al., 2017).

    Args:
        capacity: pictures kept; 0 hands the newest on.
    """

    images: Tensor

    def __init__(self, capacity: int = 50) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("images", torch.empty(0))

    def forward(self, fakes: Tensor, generator: torch.Generator) -> Tensor:
        """For each picture, itself or (half of the time) an older one whose place it takes.

        Args:
            fakes: (B, C, H, W), detached.
            generator: CPU randomness of this turn.
        """
        if not self.capacity:
            return fakes
        if not self.images.numel():
            self.images = fakes[:0].clone()
        chosen = []
        for fake in fakes:
            if len(self.images) < self.capacity:
                self.images = torch.cat([self.images, fake[None]])
            elif torch.rand((), generator=generator) < 0.5:
                index = int(torch.randint(len(self.images), (), generator=generator))
                older = self.images[index].clone()
                self.images[index] = fake
                fake = older
            chosen.append(fake)
        return torch.stack(chosen)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (stored := state_dict.get(f"{prefix}images")) is not None:  # as many as there were
            self.images = torch.empty_like(stored, device=self.images.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
