"""What measures of pictures, rather than of features, have in common: what they take, keep and add up."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ImageError

if TYPE_CHECKING:
    from ..processes import Accelerator

Measure = Callable[..., Tensor]

_TOLERANCE = 1e-4  # by which pictures may leave [-1, 1]: rounding of a resize, not a wrong range


def exact(smallest: int = 1) -> Callable[[Measure], Measure]:
    """Give a measure its pictures in float64 on the CPU, so that no device, precision or batch changes a figure.

    Args:
        smallest: pixels that a side must have.

    Raises:
        ImageError: (when called) not (B, 3, H, W) in [-1, 1], NaN or infinity, pictures of different
            shapes, or smaller ones.
    """

    def decorate(measure: Measure) -> Measure:
        @functools.wraps(measure)
        @torch.no_grad()
        def compute(*images: Tensor) -> Tensor:
            check(*images, smallest=smallest)
            return measure(*(x.cpu().double() for x in images))

        return compute

    return decorate


def check(*images: Tensor, smallest: int = 1) -> None:
    """Raise :class:`ImageError` unless these are pictures of one shape; see :func:`exact`."""
    for x in images:
        problem = None
        if x.ndim != 4 or x.shape[1] != 3 or not len(x) or not x.is_floating_point():
            problem = f"{tuple(x.shape)} {x.dtype}", "(B, 3, H, W) of floats", "Stack pictures to a batch."
        elif x.shape != images[0].shape:
            problem = f"{tuple(images[0].shape)} and {tuple(x.shape)}", "the same shape", "Resize one to the other."
        elif min(x.shape[2:]) < smallest:
            problem = f"{tuple(x.shape)}", f"at least {smallest} pixels a side", "Take larger pictures."
        elif not x.isfinite().all():
            problem = "NaN or infinity", "numbers", "Look at what made these pictures."
        elif x.abs().max() > 1 + _TOLERANCE:
            problem = f"values up to {x.abs().max().item():.3g}", "-1 to 1", "Scale them to that range, or clamp them."
        if problem:
            found, allowed, todo = problem
            raise ImageError("These pictures cannot be measured", found=found, allowed=allowed, todo=todo)


def mean_and_error(values: Tensor, name: str) -> dict[str, float]:
    """The mean of `values` (n,) as `name`, and its standard error as `name_error`, which is 0 for a single one."""
    error = (values.var() / len(values)).sqrt().item() if len(values) > 1 else 0.0
    return {name: values.mean().item(), f"{name}_error": error}


class Rows:
    """One row of float64 on the CPU for each picture, by name; all that any of these measures keeps.

    Args:
        names: of the kinds of rows.
        width: numbers in a row.
    """

    def __init__(self, names: Iterable[str], width: int = 1) -> None:
        self._rows = {name: torch.empty(0, width, dtype=torch.float64) for name in names}

    def gather(self, accelerator: Accelerator) -> None:
        """Let every process know what all of them have seen: once, after the last update.

        Args:
            accelerator: of :func:`styleforge.processes.join`. Processes may have seen different numbers of pictures.
        """
        for name, rows in self._rows.items():
            marked = F.pad(rows, (0, 1), value=1.0).to(accelerator.device)  # what fills up shorter ones has a 0 there
            every = accelerator.gather(accelerator.pad_across_processes(marked)).cpu()
            self._rows[name] = every[every[:, -1] == 1, :-1]

    def _take(self, name: str, rows: Tensor) -> None:
        self._rows[name] = torch.cat([self._rows[name], rows.view(len(rows), -1)])

    def _known(self, name: str) -> Tensor:
        if not len(self._rows[name]):
            raise ConfigError("Nothing to measure yet", found=f"no {name}", todo="Give pictures to update() first.")
        return self._rows[name]


class Pairs(Rows):
    """Base of measures that compare each picture with one of its own and average over pairs.

    Args:
        measures: by the name of the figure, from two batches (B, 3, H, W) in [-1, 1] to (B,).
    """

    def __init__(self, measures: Mapping[str, Measure]) -> None:
        super().__init__(measures)
        self._measures = dict(measures)

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Take in more pairs.

        Args:
            real: (B, 3, H, W) in [-1, 1]: the target of each, or the source that it was made from.
            fake: what was made, of the same shape.

        Raises:
            ImageError: see :func:`exact`.
        """
        found = {name: measure(real, fake) for name, measure in self._measures.items()}
        for name, values in found.items():
            self._take(name, values)

    def compute(self) -> dict[str, float]:
        """The mean of each figure by its name, and its standard error over pairs as "NAME_error".

        Raises:
            ConfigError: no pairs yet.
        """
        parts = [mean_and_error(self._known(name)[:, 0], name) for name in self._measures]
        return {name: value for part in parts for name, value in part.items()}


class Sets(Rows, ABC):
    """Base of measures of two sets of pictures that are not pairs, of any sizes.

    Attributes:
        width: of the rows that :meth:`look` makes.
    """

    width: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__(("real", "fake"), self.width)

    @abstractmethod
    def look(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to rows (B, width), or (B,) where that is 1."""

    def update(self, real: Tensor | None = None, fake: Tensor | None = None) -> None:
        """Take in more pictures of either set, (B, 3, H, W) in [-1, 1].

        Raises:
            ImageError: see :func:`exact`.
        """
        given = {"real": real, "fake": fake}
        found = {name: self.look(images) for name, images in given.items() if images is not None}
        for name, rows in found.items():
            self._take(name, rows)
