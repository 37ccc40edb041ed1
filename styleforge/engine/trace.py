"""What a network does to a picture of some size, found by one run with fake tensors, which computes nothing.

Every call that makes a tensor out of features is a *step*; steps are numbered in the order of the forward pass, which
must not depend on the values of pixels. Nothing here knows a model: calls are recognised by the names of torch's
functions, so whatever a forward pass does by other means than these is refused, never computed wrongly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from .calls import argument, pair, tensors

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
_STILL = _NORMS | {"pad", "pixel_shuffle", "pixel_unshuffle"}  # look at nothing beside; blocks lie within one tile
_REDUCTIONS = {"mean": "moments", "sum": "moments", "var": "moments", "var_mean": "moments", "amax": "amax"}
AGAIN = 800  # multiplications that are cheaper than to keep a value that is written and read, on slow disks too


@dataclass(frozen=True)
class Segment:
    """A part of the pass, from one sum over the whole picture that it waits for to the next.

    Attributes:
        computed: its steps; some have been computed before, where that is cheaper than to keep them.
        kept: the steps whose features are kept after it, so that the rest can be computed.
    """

    computed: AbstractSet[int]
    kept: AbstractSet[int]


@dataclass
class Trace:
    """The steps of a forward pass.

    Attributes:
        height, width: of the picture, in pixels.
        scales: for each step, pixels of the picture to one of its features; 0 where these are no map.
        sizes: for each step, height and width of its features.
        values: for each step, how many its features have.
        bytes: for each step, of its features.
        sources: for each step, those it is computed from.
        looks: for each step, how many features of its sources it looks to one side.
        work: for each step, multiplications.
        last_use: for each step, the last step that needs it.
        cuts: the sums over the whole picture that the pass waits for, (step, kind), and the step that needs them.
        align: tiles begin at multiples of this.
        again: what takes fewer multiplications for each value is computed again, and not kept.
        refusal: why the pass cannot be run in tiles.
    """

    height: int
    width: int
    scales: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    sources: list[tuple[int, ...]] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    last_use: list[int] = field(default_factory=list)
    cuts: dict[tuple[int, str], int] = field(default_factory=dict)
    align: int = 1
    again: int = AGAIN
    refusal: str | None = None

    @cached_property
    def extents(self) -> dict[int, tuple[int, int]]:
        """For each scale, height and width of the picture in features; padded maps have more."""
        found: dict[int, tuple[int, int]] = {}
        for scale, (height, width) in zip(self.scales, self.sizes, strict=True):
            least = found.get(scale, (height, width))
            found[scale] = min(least[0], height), min(least[1], width)
        return found

    def peak(self) -> int:
        """Bytes that a pass over the whole picture holds at its worst moment, beside weights, input and output."""
        return max((self._live(step) + 2 * own for step, own in enumerate(self.bytes)), default=0)

    def segments(self, *, waits: bool = True) -> list[Segment]:
        """The pass in parts; in one part if it does not wait, because all sums are known before."""
        found: list[Segment] = []
        kept: AbstractSet[int] = frozenset()
        begin = 1
        for (step, _), at in self.cuts.items() if waits else ():
            computed = self._needed((step, *range(begin, at)), kept)
            kept, begin = self._worth_keeping(self._waiting(at), kept, computed), at
            found.append(Segment(computed, kept))
        return [*found, Segment(self._needed(range(begin, len(self.scales)), kept), frozenset())]

    def reach(self, segments: Iterable[Segment]) -> int:
        """How far a pixel reaches in any of these, in pixels."""
        most = 0
        for segment in segments:
            reached: dict[int, int] = {}
            for step in sorted(segment.computed):
                looks = ((source, self.looks[step] * self.scales[source]) for source in self.sources[step])
                reached[step] = max(reached.get(source, 0) + pixels for source, pixels in looks)
            most = max([most, *reached.values()])
        return most

    def held(self, segments: Iterable[Segment], ahead: float = 1.0) -> int:
        """Bytes of the features of the whole picture that are there while a segment runs, at the worst of them.

        Args:
            segments: of the pass.
            ahead: how much of the picture, at most 1, is kept anew before what is no longer needed there is given back.
        """
        return max(replaced(*map(self._sizes, steps), ahead) for steps in exchanges(segments))

    def _sizes(self, steps: AbstractSet[int]) -> int:
        return sum(self.bytes[step] for step in steps)

    def _needed(self, wanted: Iterable[int], known: AbstractSet[int]) -> set[int]:
        """The steps to compute for `wanted` by who has the picture and `known`."""
        found: set[int] = set()
        left = list(wanted)
        while left:
            step = left.pop()
            if step and step not in known and step not in found:
                found.add(step)
                left += self.sources[step]
        return found

    def _waiting(self, at: int) -> set[int]:
        """The steps that are needed from step `at` on, but for the picture itself."""
        return {step for step in range(1, at) if self.last_use[step] >= at}

    def _worth_keeping(
        self, waiting: AbstractSet[int], before: AbstractSet[int], computed: AbstractSet[int]
    ) -> AbstractSet[int]:
        """Of what is needed later, that which is dear to compute again; and what the rest is computed from."""
        kept = set(before & waiting)
        for step in sorted(waiting - before):
            ways = self._ways(step, before, kept, computed)
            kept |= min(ways, key=lambda way: sum(self.bytes[one] for one in way))
        return kept

    def _ways(
        self, step: int, before: AbstractSet[int], kept: AbstractSet[int], computed: AbstractSet[int]
    ) -> Iterator[set[int]]:
        """What could be kept for a step: itself, or what it is quickly computed from again."""
        there = step in computed
        if there:
            yield {step}
        known = before | kept
        between = self._needed({step}, known) & computed - {step} if there else ()
        for new in (set(), *({one} for one in between)):
            again = self._needed({step}, known | new)
            if not there or sum(self.work[one] for one in again) <= self.again * self.values[step]:
                yield new | {source for one in again for source in self.sources[one]} & before - kept

    def _live(self, step: int) -> int:
        return sum(size for size, last in zip(self.bytes[:step], self.last_use, strict=False) if last >= step)


def exchanges(segments: Iterable[Segment]) -> Iterator[tuple[AbstractSet[int], AbstractSet[int], AbstractSet[int]]]:
    """For each segment, the steps that are kept before and after it, only before, and only after."""
    kept: list[AbstractSet[int]] = [frozenset(), *(segment.kept for segment in segments)]
    return ((a & b, a - b, b - a) for a, b in pairwise(kept))


def replaced(staying: int, going: int, coming: int, ahead: float) -> int:
    """What is needed at the worst moment, the first or the last, while what comes takes the room of what goes, but so
    much of it ahead.
    """
    return staying + max(going, coming) + math.ceil(min(going, coming) * ahead)


def trace(model: nn.Module, image: Tensor, options: Mapping[str, Any]) -> Trace:
    """Follow a picture through a network.

    Args:
        model: maps a picture to one of the same size.
        image: (1, C, H, W); its values do not matter.
        options: further arguments of the model.
    """
    with torch.no_grad(), FakeTensorMode() as fake:
        # Of a copy, because other threads compute with the model meanwhile; one that has no weights.
        twin = copy.deepcopy(model, {id(t): fake.from_tensor(t) for t in (*model.parameters(), *model.buffers())})
        options = _faked(fake, dict(options))
        with _Tracer(*image.shape[2:]) as mode:
            picture = mode.begin(torch.empty(image.shape, dtype=image.dtype, device=image.device))
            twin(picture, **options)
    return mode.trace


def _faked(fake: FakeTensorMode, value: Any) -> Any:
    """The same with fake tensors, in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return fake.from_tensor(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_faked(fake, inner) for inner in value)
    return {name: _faked(fake, inner) for name, inner in value.items()} if isinstance(value, dict) else value


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
        stride, dilation = (max(pair(argument(args, kwargs, n, key, 1))) for n, key in ((3, "stride"), (5, "dilation")))
        side = (max(args[1].shape[2:]) - 1) * dilation
        return math.ceil(side / 2) if stride == 1 else side  # those with a stride may look to one side only
    if name == "conv_transpose2d":
        return math.ceil((max(args[1].shape[2:]) - 1) / max(pair(argument(args, kwargs, 3, "stride", 1))))
    if name in ("avg_pool2d", "max_pool2d"):
        return max(pair(argument(args, kwargs, 1, "kernel_size")))
    if name == "interpolate":
        return 2
    return 0 if name in _POINTWISE or name in _STILL else None


def _work(name: str, args: tuple[Any, ...], results: list[Tensor]) -> int:
    """How many multiplications a call is."""
    values = sum(result.numel() for result in results)
    if name == "conv2d":
        return values * args[1].shape[1:].numel()
    return args[0].numel() * args[1].shape[1:].numel() if name == "conv_transpose2d" else values


class _Tracer(TorchFunctionMode):
    """Numbers the steps, and notes what they are computed from."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.trace = Trace(height, width, again=AGAIN)

    def begin(self, image: Tensor) -> Tensor:
        """The picture as step 0."""
        return self._step(image, scale=1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, results = [t for t in tensors((args, kwargs)) if hasattr(t, "_step")], list(tensors(result))
        if not given or not results:
            return result
        sources = tuple(t._step for t in given)
        name, found = func.__name__, self.trace
        for source in sources:
            found.last_use[source] = max(found.last_use[source], len(found.scales))
        if any(not found.scales[source] for source in sources):
            self._refuse(f"{name} of features that are no map")
        if kind := sum_wanted(name, args, kwargs):
            found.cuts.setdefault((sources[0], kind), len(found.scales))
            if not keeps_map(name, args, kwargs):
                return result
        looks = _reach(name, args, kwargs)
        scale = max(found.scales[s] for s in sources) if name == "pad" else None
        changed = results[0].shape[2:] not in [t.shape[2:] for t in given]
        if results[0].ndim == 4 and (looks is None or (changed and name in _POINTWISE)):
            self._refuse(f"nothing is known of {name}")
        work = _work(name, args, results)
        for place, tensor in enumerate(results):
            results[place] = self._step(tensor, scale, sources, looks or 0, work)
        return results[0] if isinstance(result, Tensor) else type(result)(results)

    def _step(
        self, tensor: Tensor, scale: int | None, sources: tuple[int, ...] = (), looks: int = 0, work: int = 0
    ) -> Tensor:
        found = self.trace
        if scale is None:
            scale = round(found.height / tensor.shape[2]) if tensor.ndim == 4 else 0
            if tensor.ndim == 4 and scale != round(found.width / tensor.shape[3]):
                self._refuse("features whose height and width have other scales")
        tensor = tensor.detach()  # a call may give what it got
        tensor._step = len(found.scales)
        found.scales.append(scale)
        found.sizes.append(tuple(tensor.shape[2:]) if tensor.ndim == 4 else (0, 0))
        found.values.append(tensor.numel() if scale else 0)
        found.bytes.append(tensor.nbytes if scale else 0)
        found.sources.append(sources)
        found.looks.append(looks)
        found.work.append(work)
        found.last_use.append(-1)
        found.align = math.lcm(found.align, scale or 1)
        return tensor

    def _refuse(self, why: str) -> None:
        self.trace.refusal = self.trace.refusal or why
