"""Networks faster than written, on CPUs: calls of a forward pass are replaced by what computes the same sooner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..precision import bf16_is_fast
from .trace import argument


@contextmanager
def accelerate(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """Make calls of `model` fast inside of this context; for inference only.

    On a CPU instance norms are computed as group norms with one channel a group, which are the same and, in float32,
    three to four times as fast. A float32 network computes in bfloat16 where the processor does so by itself, in
    channels-last layout; norms still sum up in float32, and the final tanh keeps its result in float32. On other
    devices nothing changes.

    Args:
        model: the network; it keeps its weights as they are.
        enabled: False leaves bfloat16 away.
    """
    first = next(model.parameters())
    if first.device.type != "cpu":
        yield
        return
    half = enabled and first.dtype == torch.float32 and bf16_is_fast(first.device)
    with torch.autocast("cpu", torch.bfloat16, enabled=half), _Faster(half):
        yield


class _Faster(TorchFunctionMode):
    """Replaces single calls.

    Args:
        half: whether convolutions compute in bfloat16.
    """

    def __init__(self, half: bool) -> None:
        super().__init__()
        self._half = half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "instance_norm" and _own_statistics(args, kwargs):
            weight, bias = (argument(args, kwargs, place, key) for place, key in ((3, "weight"), (4, "bias")))
            with torch.autocast("cpu", enabled=False):
                return F.group_norm(args[0], args[0].shape[1], weight, bias, argument(args, kwargs, 7, "eps", 1e-5))
        if not self._half:
            return func(*args, **kwargs)
        if name in ("pad", "interpolate"):  # autocast would do these in float32
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        if name == "tanh":
            return func(args[0].float(), *args[1:], **kwargs)
        if name == "conv2d" and args[0].ndim == 4 and args[0].shape[1] > 3:
            return func(args[0].contiguous(memory_format=torch.channels_last), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _own_statistics(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    x: Tensor = args[0]
    running, own = argument(args, kwargs, 1, "running_mean"), argument(args, kwargs, 5, "use_input_stats", True)
    parts = (argument(args, kwargs, place, key) for place, key in ((3, "weight"), (4, "bias")))
    return running is None and own and x.ndim == 4 and all(part is None or part.dtype == x.dtype for part in parts)
