"""torch.compile, where it is possible."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import StyleforgeError
from ..hub import PretrainedMixin
from .fast import in_half
from .trace import trace

SIZES = 8  # of pictures that are compiled for, as many as torch does by itself; each takes seconds to minutes


class Compiled:
    """A network from picture to picture, compiled for each size of picture when the first of it comes.

    Torch could compile for all sizes at once ("dynamic"), too; on CPUs that was slower than not to compile.

    Args:
        model: the network.

    Attributes:
        model: the same.
        problem: why it is not compiled, when that is known; the caller goes on without.
    """

    def __init__(self, model: PretrainedMixin) -> None:
        self.model, self.problem = model, None
        if model.capabilities.inputs != ("image",) or model.capabilities.styles > 1:
            self._give_up(f"{type(model).__name__} takes more than a picture")
        self._sizes: set[tuple[int, ...]] = set()
        self._left: set[tuple[int, ...]] = set()  # sizes that are not compiled for
        self._run = torch.compile(model, dynamic=False)

    def __call__(self, image: Tensor, options: Mapping[str, Any], *, fast: bool) -> Tensor | None:
        """What the network makes of (B, C, H, W), or None where it is not compiled for that.

        Args:
            image: of a size that the network takes.
            options: further arguments, for which it is not compiled.
            fast: in bfloat16 where that is fast; see :func:`styleforge.engine.fast.accelerate`.
        """
        half = fast and in_half(image)
        if options or self.problem or (image.shape not in self._sizes and len(self._sizes) == SIZES):
            return None
        if half and image.device.type == "cpu" and image.shape not in self._sizes and self._makes_a_column(image):
            return None  # the engine's own way knows oneDNN's mistake with such, see fast.py
        try:
            with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
                made = self._run(image)
        except StyleforgeError:
            raise
        except Exception as error:  # no compiler, a bug in one: there are too many ways to list
            self._give_up(str(error).strip().split("\n")[0] or type(error).__name__)
            return None
        self._sizes.add(image.shape)
        return made.to(image.dtype)

    def _makes_a_column(self, image: Tensor) -> bool:
        """Whether a map is a single column of several rows."""
        if image.shape not in self._left and any(w == 1 < h for h, w in trace(self.model, image[:1], {}).sizes):
            self._left.add(image.shape)
        return image.shape in self._left

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        warnings.warn(f"torch.compile is of no use here, going on without it: {problem}", stacklevel=4)
