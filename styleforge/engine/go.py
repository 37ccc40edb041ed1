"""One tile on its way through a network, in as many goes as there are sums over the whole picture to wait for.

To go on, the forward pass is called again and answered from what is known: calls before the pause are not computed but
give stand-ins of the right shape. What a tile of some shape computes in a go is noted down, and others of this shape do
it without the modules around: these take milliseconds for each tile, which all threads would wait for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode

from .calls import argument, tensors
from .later import waiting
from .parts import parts
from .spans import Pixels, Tile
from .store import Store
from .sums import measure
from .trace import Segment, Trace, keeps_map, sum_wanted
from .watch import normalised, pooled

Sums = dict[tuple[int, str], Tensor]  # by step and kind; see measure

_ANEW = object()  # what a call gave that is no map, but a sum or a size: it is asked for each time
_SIZES = frozenset(("__get__", "dim", "shape", "size"))


class Pause(Exception):
    """No error: a tile needs a sum that is not known.

    Attributes:
        wanted: its step and kind.
        share: of the tile.
    """

    def __init__(self, wanted: tuple[int, str], share: Tensor) -> None:
        super().__init__(wanted)
        self.wanted, self.share = wanted, share


@dataclass
class _Notes:
    """What a tile of some shape computes in one go.

    Attributes:
        calls: number of the step, whether under autocast, function, its name, which sum it needs, and what it is given,
            with stand-ins.
        wanted: the features whose sum it then waits for, and which; None if it comes to its end.
        made: what it has become there.
        whole: whether all that is given to calls is good for other tiles.
    """

    calls: list[tuple[int, bool, Any, str, str | None, Any, dict[str, Any]]] = field(default_factory=list)
    wanted: tuple[Tensor, str] | None = None
    made: Tensor | None = None
    whole: bool = True

    @property
    def complete(self) -> bool:
        """Whether they come to something."""
        return self.whole and (self.wanted is not None or self.made is not None)


class Pass:
    """A forward pass over a picture, tile by tile.

    Args:
        model: the network.
        image: the picture.
        options: further arguments of the model.
        steps: the pass over the whole picture.
        sums: those that are known; others may be added between two parts of the pass.
        store: what is alive in a pause.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Tensor | Pixels,
        options: Mapping[str, Any],
        steps: Trace,
        sums: Sums,
        store: Store,
    ) -> None:
        self.image, self.steps, self.sums, self.store = image, steps, sums, store
        self._model, self._options = model, options
        self._able = parts(model) is not None  # to go by notes
        self._known: tuple[Tile | None, list[Any]] = None, []  # what calls gave to a tile, see _described
        self._notes: dict[Any, _Notes] = {}

    def begin(self, segment: Segment, new: AbstractSet[int]) -> None:
        """A part of the pass, in which tiles may overlap more or less than in others.

        Args:
            segment: this part.
            new: of the steps that are kept after it, those that were not before.
        """
        self._segment, self._new, self._notes = segment, new, {}

    def go(self, tile: Tile) -> Tensor | Pause:
        """The styled tile without its overlap, or the pause before a sum that is not known."""
        go, shape = _Go(self, self._segment, tile), tile.shape(self.steps.extents)
        notes = self._notes.get(shape)
        try:
            made = go.first(self._model, self._options, *self._known) if notes is None else go.again(notes)
            return tile.core(made, 1)  # here, because a pad at the end of a network is known to this thread alone
        except Pause as pause:
            for step in self._new:
                core = tile.core(go.living[step], self.steps.scales[step])
                with DisableTorchFunction():
                    self.store.put(step, tile, core)
            return pause.with_traceback(None)  # which would keep all that was alive
        finally:
            if notes is None:
                self._learn(go, tile, shape)

    def _learn(self, go: _Go, tile: Tile, shape: Any) -> None:
        if len(go.known) > len(self._known[1]):
            self._known = tile, go.known
        if self._able and go.notes.complete:
            self._notes[shape] = go.notes


class _Go(TorchFunctionMode):
    """A tile from one pause to the next.

    Args:
        of: the pass.
        segment: the part of it.
        tile: where.

    Attributes:
        living: features by step.
        known: what calls gave, see :func:`_described`.
        notes: what is computed.
    """

    def __init__(self, of: Pass, segment: Segment, tile: Tile) -> None:
        super().__init__()
        self._steps, self._sums, self._store, self._tile = of.steps, of.sums, of.store, tile
        self._computed, self._kept = segment.computed, segment.kept
        self.living: dict[int, Tensor] = {}
        self.known: list[Any] = []
        self.notes = _Notes()
        self._call = self._next = 0
        self._normed = -1  # the last step whose features are in memory of their own
        self._picture = self._label(self._cut(of.image))

    def first(self, model: nn.Module, options: Mapping[str, Any], before: Tile | None, known: list[Any]) -> Tensor:
        """The tile as the network has it.

        Args:
            model: the network.
            options: its further arguments.
            before: another tile, or the same.
            known: what calls gave to that.

        Raises:
            Pause: a sum is not known.
        """
        if before and before != self._tile:
            extents = self._steps.extents.items()
            more = {scale: self._tile.more(before, scale, *both) for scale, both in extents if scale}
            known = [_resized(one, more, self._steps.scales) for one in known]
        self.known = list(known)
        with self:
            made = model(self._picture, **options)
        if getattr(made, "_step", None) in self.living:
            self.notes.made = _standing_in(made)
        return made

    def again(self, notes: _Notes) -> Tensor:
        """The tile as these notes have it, of another tile of its shape.

        Raises:
            Pause: a sum is not known.
        """
        for self._next, halving, *call in notes.calls:
            if halving == self._halving():
                self._compute(*call)
            else:
                with torch.autocast(self._picture.device.type, enabled=halving):
                    self._compute(*call)
        if notes.wanted:
            self._total(*notes.wanted)
        return self._real(notes.made)

    def _cut(self, image: Tensor | Pixels) -> Tensor:
        """The tile of the picture, or a stand-in where no step looks at it and no sum of its pixels is missing."""
        summed = any(step == 0 and (step, kind) not in self._sums for step, kind in self._steps.cuts)
        if summed or any(0 in self._steps.sources[step] for step in self._computed):
            with self._store.one_at_a_time:
                return self._tile.cut(image)
        shape = 1, image.shape[1], self._tile.rows.length, self._tile.columns.length
        return torch.empty(1, dtype=image.dtype, device=image.device).expand(shape)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (args and hasattr(args[0], "_step")) and not any(hasattr(t, "_step") for t in tensors((args, kwargs))):
            return func(*args, **kwargs)
        self._call += 1
        before = self._call <= len(self.known)
        known = self.known[self._call - 1] if before else _ANEW
        if known is not _ANEW and self._computed.isdisjoint(steps := _steps_in(known)):
            self._next = max(steps, default=self._next - 1) + 1
            return list(known) if isinstance(known, list) else known
        name = func.__name__
        kind = sum_wanted(name, args, kwargs)
        if kind and not keeps_map(name, args, kwargs):  # not numbered: the same for all tiles, and small
            result, described = pooled(name, args, kwargs, self._total(args[0], kind), kind), _ANEW
        else:
            noted = self._next, self._halving(), func, name, kind, _standing_in(args), _standing_in(kwargs)
            result = self._compute(func, name, kind, args, kwargs)
            described = known if before else _described(name, result)
            if self._next > noted[0]:
                self.notes.calls.append(noted)
            # A pad that was left for later, of something that is no map: this thread alone knows it.
            self.notes.whole &= not any(map(waiting, tensors(noted)))
        if not before:
            self.known.append(described)
        return result

    def _halving(self) -> bool:
        """Whether autocast is on, which a network may leave for a while."""
        return torch.is_autocast_enabled(self._picture.device.type)

    def _compute(self, func: Any, name: str, kind: str | None, args: Any, kwargs: dict[str, Any]) -> Any:
        if name == "numel":  # that of the whole picture, as its sums are
            return args[0].shape[:2].numel() * math.prod(self._steps.sizes[args[0]._step])
        if name in _SIZES:
            return func(*args, **kwargs)
        if kind:
            total = self._total(args[0], kind)
        first = getattr(next(iter(args), None), "_step", None)
        if name == "pad" and len(pads := argument(args, kwargs, 1, "pad")) == 4 and self._tile.inside:
            # What is beyond the overlap does not matter, and zeros are least work.
            args, kwargs = (argument(args, kwargs, 0, "input"), pads), {}
        args, kwargs = self._real(args), self._real(kwargs)
        if "inplace" in kwargs:  # only where nobody else needs what was
            needed = first is None or first in self._kept or self._steps.last_use[first] > self._next
            kwargs["inplace"] &= first == self._normed and not needed
        if kind:
            result = normalised(name, args, kwargs, total)
            self._normed = self._next
        elif name == "interpolate" and argument(args, kwargs, 4, "align_corners"):
            result = self._interpolated(args[0], argument(args, kwargs, 1, "size"))
        else:
            result = func(*args, **kwargs)
        return _each(result, self._label)

    def _label(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()  # a call may give what it got; a view would forget the layout
        tensor._step, self._next = self._next, self._next + 1
        self.living[tensor._step] = tensor
        last_use = self._steps.last_use
        done = (step for step in self.living if last_use[step] <= tensor._step and step not in self._kept)
        for step in [step for step in done if step != tensor._step]:
            del self.living[step]
        return tensor

    def _real(self, value: Any) -> Any:
        """With stand-ins replaced by what they stand for."""
        if isinstance(value, (tuple, list)):
            return type(value)([self._real(inner) for inner in value]) if type(value) in (tuple, list) else value
        if isinstance(value, dict):
            return {key: self._real(inner) for key, inner in value.items()}
        if not isinstance(value, Tensor) or not hasattr(value, "_step"):
            return value
        if value._step not in self.living and not any(value.stride()) and value.numel() > 1:
            with DisableTorchFunction():
                stored = self.living[value._step] = self._store.get(value._step, self._tile, value)
            stored._step = value._step
        return self.living.get(value._step, value)

    def _total(self, features: Tensor, kind: str) -> Tensor:
        """The sum over the whole picture."""
        wanted = features._step, kind
        if wanted not in self._sums:
            self.notes.wanted = _standing_in(features), kind
            core = self._tile.core(self._real(features), self._steps.scales[features._step])
            with DisableTorchFunction():  # the modes around have nothing to say in it, and take their time
                share = measure(core, kind)
            raise Pause(wanted, share)
        return self._sums[wanted]

    def _interpolated(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear with aligned corners: where a pixel comes from depends on where in the picture it lies."""
        taken = self._steps.sizes[x._step], self._steps.scales[x._step]
        given = self._steps.sizes[self._next], self._steps.scales[self._next]
        for axis, span in ((2, self._tile.rows), (3, self._tile.columns)):
            (inner, scale), (outer, outer_scale) = ((sizes[axis - 2], scale) for sizes, scale in (taken, given))
            places = torch.arange(size[axis - 2], dtype=torch.float64) + span.begin // outer_scale
            places = places * ((inner - 1) / max(outer - 1, 1)) - span.begin // scale
            places = places.clamp(0, x.shape[axis] - 1)
            low = places.long()
            high = (low + 1).clamp_max(x.shape[axis] - 1)
            share = (places - low).to(x.dtype).view(-1, *[1] * (3 - axis))
            low, high, share = (t.to(x.device) for t in (low, high, share))
            x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
        return x


@lru_cache(maxsize=2**12)  # many tiles have the same size
def _stand_in(step: int, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is known of a step's result: a tensor of the right shape, and of no size."""
    tensor = torch.empty(1, dtype=dtype, device=device).expand(shape)
    tensor._step = step
    return tensor


def _described(name: str, result: Any) -> Any:
    """A result without its numbers."""
    if name in _SIZES:
        return _ANEW
    return _each(result, _standing_in)


def _standing_in(value: Any) -> Any:
    """What is given to a call, or what it gives, with stand-ins for features; other tensors are of no tile."""
    if isinstance(value, Tensor):
        step = getattr(value, "_step", None)
        return value if step is None else _stand_in(step, value.shape, value.dtype, value.device)
    if type(value) in (tuple, list):
        return type(value)(map(_standing_in, value))
    return {key: _standing_in(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _resized(described: Any, more: Mapping[int, tuple[int, int]], scales: Sequence[int]) -> Any:
    """The same of a tile that has, by scale, so many more rows and columns of features."""

    def resized(one: Tensor) -> Tensor:
        if not scales[one._step]:
            return one
        taller, wider = more[scales[one._step]]
        shape = torch.Size((*one.shape[:2], one.shape[2] + taller, one.shape[3] + wider))
        return _stand_in(one._step, shape, one.dtype, one.device)

    return _each(described, resized)


def _each(result: Any, changed: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or several, each changed; what is none stays."""
    if isinstance(result, Tensor):
        return changed(result)
    if isinstance(result, (tuple, list)) and result and all(isinstance(one, Tensor) for one in result):
        return type(result)([changed(one) for one in result])
    return result


def _steps_in(known: Any) -> list[int]:
    """Of a described result."""
    if isinstance(known, Tensor):
        return [known._step]
    return [one._step for one in known if isinstance(one, Tensor)] if isinstance(known, (tuple, list)) else []
