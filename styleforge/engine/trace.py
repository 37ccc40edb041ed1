"""What a network does to a picture of some size, found by one run with fake tensors, which computes nothing.

Every call that makes a tensor out of features is a *step*; steps are numbered in the order of the forward pass, which
must not depend on the values of pixels. Nothing here knows a model: calls are recognised by the names of torch's
functions, so whatever a forward pass does by other means than these is refused, never computed wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

# Calls in which every pixel stays by itself, as far as height and width do not change.
# fmt: off
_POINTWISE = frozenset((
    "__add__", "__mul__", "__neg__", "__pow__", "__radd__", "__rmul__", "__rsub__", "__sub__", "__truediv__", "abs",
    "add", "addcmul", "amax", "batch_norm", "bfloat16", "cat", "chunk", "clamp", "clamp_max", "clamp_min", "clone",
    "contiguous", "detach", "div", "double", "dropout", "elu", "exp", "expand", "expand_as", "float", "gelu",
    "half", "hardtanh", "leaky_relu", "lerp", "maximum", "mean", "minimum", "mul", "neg", "pow", "prelu", "relu",
    "rsqrt", "sigmoid", "silu", "softplus", "split", "sqrt", "square", "sub", "sum", "tanh", "to", "true_divide",
    "type_as", "unbind", "where",
))
# fmt: on
_NORMS = frozenset(("instance_norm", "group_norm"))
_REDUCTIONS = {"mean": "moments", "sum": "moments", "var": "moments", "amax": "amax"}


@dataclass
class Trace:
    """The steps of a forward pass.

    Attributes:
        height, width: of the picture, in pixels.
        scales: for each step, pixels of the picture to one of its features; 0 where these are no map.
        sizes: for each step, height and width of its features.
        bytes: for each step, of its features.
        last_use: for each step, the last step that needs it.
        cuts: the sums over the whole picture that the pass waits for, (step, kind), and the step that needs them.
        radius: how far a pixel reaches, statistics left aside, in pixels.
        stride: how far it reaches between two of the sums that the pass waits for.
        align: tiles begin at multiples of this.
        refusal: why the pass cannot be run in tiles.
    """

    height: int
    width: int
    scales: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    last_use: list[int] = field(default_factory=list)
    cuts: dict[tuple[int, str], int] = field(default_factory=dict)
    radius: int = 0
    stride: int = 0
    align: int = 1
    refusal: str | None = None

    def peak(self) -> int:
        """Bytes that a pass over the whole picture holds at its worst moment, beside weights, input and output."""
        return max((self._live(step) + 2 * own for step, own in enumerate(self.bytes)), default=0)

    def held(self) -> int:
        """Bytes of the features of the whole picture that wait at two cuts in a row, at the worst of them."""
        waiting = [self.waiting(at) for at in sorted(set(self.cuts.values()))]
        return max((sum(self.bytes[step] for step in a | b) for a, b in pairwise([set(), *waiting])), default=0)

    def waiting(self, at: int) -> set[int]:
        """The steps that are needed from step `at` on, but for the picture itself."""
        return {step for step in range(1, at) if self.last_use[step] >= at}

    def _live(self, step: int) -> int:
        return sum(size for size, last in zip(self.bytes[:step], self.last_use, strict=False) if last >= step)


def trace(model: nn.Module, image: Tensor, options: Mapping[str, Any]) -> Trace:
    """Follow a picture through a network.

    Args:
        model: maps a picture to one of the same size.
        image: (1, C, H, W); its values do not matter.
        options: further arguments of the model.
    """
    with torch.no_grad(), FakeTensorMode() as fake:
        state = {n: fake.from_tensor(t) for n, t in (*model.named_parameters(), *model.named_buffers())}
        options = {n: fake.from_tensor(v) if isinstance(v, Tensor) else v for n, v in options.items()}
        with _Tracer(*image.shape[2:]) as mode:
            picture = mode.begin(torch.empty(image.shape, dtype=image.dtype, device=image.device))
            torch.func.functional_call(model, state, (picture,), options)
    return mode.trace


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors(inner)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    """An argument that may be given by place or by name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def sum_wanted(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Which sums over all pixels a call needs ("moments" or "amax"); None if its pixels know no others."""
    if name in _NORMS or (name == "batch_norm" and argument(args, kwargs, 5, "training", False)):
        return "moments"
    if name == "adaptive_avg_pool2d" and argument(args, kwargs, 1, "output_size") in (1, (1, 1), [1, 1]):
        return "moments"
    if name in _REDUCTIONS and args[0].ndim == 4:
        axes = argument(args, kwargs, 1, "dim")
        if isinstance(axes, (tuple, list)) and {axis % 4 for axis in axes} == {2, 3}:
            return _REDUCTIONS[name]
    return None


def keeps_map(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call that needs sums gives a map again, as norms do, and not only these sums."""
    return name in _NORMS or name == "batch_norm"


def _reach(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """How many of its features a call looks to one side; None if that is unknown."""
    if name == "conv2d":
        stride, dilation = (
            max(_pair(argument(args, kwargs, n, key, 1))) for n, key in ((3, "stride"), (5, "dilation"))
        )
        side = (max(args[1].shape[2:]) - 1) * dilation
        return math.ceil(side / 2) if stride == 1 else side  # those with a stride may look to one side only
    if name == "conv_transpose2d":
        return math.ceil((max(args[1].shape[2:]) - 1) / max(_pair(argument(args, kwargs, 3, "stride", 1))))
    if name in ("avg_pool2d", "max_pool2d"):
        return max(_pair(argument(args, kwargs, 1, "kernel_size")))
    if name == "interpolate":
        return 2
    return 0 if name in _POINTWISE or name in ("pad", *_NORMS) else None


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


class _Tracer(TorchFunctionMode):
    """Numbers the steps, and adds up how far they look."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.trace = Trace(height, width)
        self._reached: list[int] = []  # pixels, for each step
        self._since: list[tuple[int, int]] = []  # the number of cuts so far, and pixels since the last of them

    def begin(self, image: Tensor) -> Tensor:
        """The picture as step 0."""
        return self._step(image, scale=1, reached=0, since=0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, results = [t for t in tensors((args, kwargs)) if hasattr(t, "_step")], list(tensors(result))
        if not given or not results:
            return result
        sources = [t._step for t in given]
        name, found = func.__name__, self.trace
        for source in sources:
            found.last_use[source] = max(found.last_use[source], len(found.scales))
        if any(not found.scales[source] for source in sources):
            self._refuse(f"{name} of features that are no map")
        if kind := sum_wanted(name, args, kwargs):
            found.cuts.setdefault((sources[0], kind), len(found.scales))
            if not keeps_map(name, args, kwargs):
                return result
        reach = _reach(name, args, kwargs)
        reached = max(self._reached[s] + (reach or 0) * found.scales[s] for s in sources)
        since = max(self._reached_since(s) + (reach or 0) * found.scales[s] for s in sources)
        scale = max(found.scales[s] for s in sources) if name == "pad" else None
        changed = results[0].shape[2:] not in [t.shape[2:] for t in given]
        if results[0].ndim == 4 and (reach is None or (changed and name in _POINTWISE)):
            self._refuse(f"nothing is known of {name}")
        for place, tensor in enumerate(results):
            results[place] = self._step(tensor, scale, reached, since)
        return results[0] if isinstance(result, Tensor) else type(result)(results)

    def _reached_since(self, step: int) -> int:
        cuts, pixels = self._since[step]
        return pixels if cuts == len(self.trace.cuts) else 0

    def _step(self, tensor: Tensor, scale: int | None, reached: int, since: int) -> Tensor:
        found = self.trace
        if scale is None:
            scale = round(found.height / tensor.shape[2]) if tensor.ndim == 4 else 0
            if tensor.ndim == 4 and scale != round(found.width / tensor.shape[3]):
                self._refuse("features whose height and width have other scales")
        tensor = tensor.view_as(tensor)  # a call may give what it got
        tensor._step = len(found.scales)
        found.scales.append(scale)
        found.sizes.append(tuple(tensor.shape[2:]) if tensor.ndim == 4 else (0, 0))
        found.bytes.append(tensor.numel() * tensor.element_size() if scale else 0)
        found.last_use.append(-1)
        found.align = math.lcm(found.align, scale or 1)
        found.radius, found.stride = max(found.radius, reached), max(found.stride, since)
        self._reached.append(reached)
        self._since.append((len(found.cuts), since))
        return tensor

    def _refuse(self, why: str) -> None:
        self.trace.refusal = self.trace.refusal or why
