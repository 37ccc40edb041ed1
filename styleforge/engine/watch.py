"""What norms and poolings sum up over a whole picture, shown to somebody who may put other numbers in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .calls import argument
from .sums import joined, measure, normed
from .trace import keeps_map, sum_wanted

How = Literal["whole", "tiles", "thumbnail"]


class Watcher(Protocol):
    """Sees the sums of one picture after the other."""

    def begin(self, how: How) -> None:
        """A picture comes. Pictures of one `how` show their sums in the same order, from the same layers."""

    def __call__(self, total: Tensor) -> Tensor:
        """The sums of a layer as :func:`styleforge.engine.sums.measure` has them, to those that are used."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """Show the sums of all pictures that are run within, one after the other, to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watching() -> bool:
    """Whether there is a watcher."""
    return _watcher.get() is not None


def announce(how: How) -> None:
    """Tell the watcher, if there is one."""
    if watcher := _watcher.get():
        watcher.begin(how)


def changed(total: Tensor) -> Tensor:
    """What the watcher makes of sums; without one they stay."""
    watcher = _watcher.get()
    return watcher(total) if watcher else total


def run_whole(model: nn.Module, image: Tensor, options: Mapping[str, Any]) -> Tensor:
    """`model(image, **options)` before the eyes of the watcher."""
    if not watching() or len(image) != 1:
        return model(image, **options)
    announce("whole")
    with _Watching():
        return model(image, **options)


class _Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        kind = sum_wanted(name, args, kwargs)
        if not kind:
            return func(*args, **kwargs)
        total = changed(measure(args[0], kind))
        if keeps_map(name, args, kwargs):
            return normalised(name, args, kwargs, total)
        return pooled(name, args, kwargs, total, kind)


def normalised(name: str, args: Any, kwargs: Mapping[str, Any], total: Tensor) -> Tensor:
    """What a norm with these sums makes of a map."""
    x, places = args[0], {"instance_norm": (3, 4, 7), "batch_norm": (3, 4, 7), "group_norm": (2, 3, 4)}[name]
    weight, bias, eps = (
        argument(args, kwargs, place, key, default)
        for place, key, default in zip(places, ("weight", "bias", "eps"), (None, None, 1e-5), strict=True)
    )
    if name == "group_norm":
        groups = argument(args, kwargs, 1, "num_groups")
        members = total.view(3, groups, -1).permute(2, 0, 1)
        total = joined("moments", members).repeat_interleave(len(members), 1)
    return normed(x, total, weight, bias, eps)


def pooled(name: str, args: Any, kwargs: Mapping[str, Any], total: Tensor, kind: str) -> Any:
    """What a call that reduces height and width gives with these sums, (1, C, 1, 1) or (1, C); of `var_mean` both."""
    keeps = name == "adaptive_avg_pool2d" or kwargs.get("keepdim") or True in args[2:]
    dtype = args[0].dtype
    if name == "var_mean":
        dtype = torch.promote_types(dtype, torch.float32)  # as without tiles, see fast.py
    if kind == "amax":
        values = [total]
    else:
        count, mean, squares = total
        variance = squares / (count - 1)
        values = {"sum": [mean * count], "var": [variance], "var_mean": [variance, mean]}.get(name, [mean])
    values = [value.to(dtype).to(args[0].device)[None] for value in values]
    values = [value[..., None, None] for value in values] if keeps else values
    return values[0] if len(values) == 1 else tuple(values)
