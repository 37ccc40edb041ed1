"""The operations of a forward pass, noted down for each size of picture, and then done without the Python around."""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from . import int8, subpixel, winograd
from .fast import accelerate, keep_freed_memory
from .parts import parts, state
from .trial import kernels

SIZES = 8  # of pictures whose notes are kept; those that were not asked for longest are thrown away
_ONCE = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_aten, _onednn = torch.ops.aten, torch.ops.mkldnn
_PAD = _aten.reflection_pad2d.default
_RELU = {_aten.relu.default, _aten.relu_.default}
# What is done to weights before the processor's order.
_ORDERING = {
    _aten._to_copy.default,
    _aten.constant_pad_nd.default,
    _aten.stack.default,
    _aten.view.default,
    subpixel.joined,
}
_CONVOLVING, _WITH_RELU = set(), set()  # the latter do a ReLU behind them, too
if hasattr(_onednn, "_convolution_transpose_pointwise"):
    _ORDERING |= {_onednn._reorder_convolution_weight.default, _onednn._reorder_convolution_transpose_weight.default}
    _ORDERING |= {_onednn._reorder_linear_weight.default}
    _CONVOLVING |= {_onednn._convolution_pointwise.default, _onednn._convolution_transpose_pointwise.default}
    _CONVOLVING |= {_onednn._linear_pointwise.default}
    _WITH_RELU |= _CONVOLVING
if int8.conv is not None:
    _WITH_RELU |= {int8.conv.default}


class Replay:
    """A network of which notes are taken when it gets the second picture of a size; later ones go by these.

    Modules, autocast and :func:`styleforge.engine.fast.accelerate` take milliseconds of each pass, and what a module
    was given stays in memory until it returns. Notes have neither; and weights of convolutions in bfloat16 are kept as
    the processor wants them, half of their size in float32, where they would be made anew for each picture.

    A network with other modules or parameters, or changed ones, is noted down anew; see :func:`.parts.state`. One that
    somebody looks into by hooks, or that goes by values or by chance, is never noted down. CPUs only.

    Args:
        model: the network.

    Attributes:
        model: the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self._lock, self._able = model, threading.Lock(), True
        self._parts: list[Any] = []
        self._known: dict[str, Tensor] = {}
        self._notes: OrderedDict[Any, fx.GraphModule | None] = OrderedDict()  # None: to be taken

    def __call__(self, image: Tensor, options: Mapping[str, Any], *, fast: bool) -> Tensor | None:
        """What the network makes of (B, C, H, W) and further arguments, or None where there are no notes of such ones.

        Args:
            image: of a size that the network takes.
            options: what the network is told beside; tensors in it may be others each time.
            fast: in less than float32 where that is faster; see :func:`styleforge.engine.run`.
        """
        own = parts(self.model)
        if not self._able or own is None or image.device.type != "cpu":
            return None
        given, form = tree_flatten(((image,), dict(options)))
        tensors = [x for x in given if isinstance(x, Tensor)]
        if len(set(map(id, tensors))) < len(tensors):  # notes would take the second for the first
            return None
        key = (fast, str(form), *((x.dtype, x.shape, x.stride()) if isinstance(x, Tensor) else x for x in given))
        with self._lock:
            now = state(own)
            if now != self._parts:
                self._parts, self._known = now, {}
                self._notes.clear()
            first, notes = key not in self._notes, self._notes.pop(key, None)
            self._notes[key] = notes
            if len(self._notes) > SIZES:
                self._notes.popitem(last=False)
            known = self._known
        if first:
            return None
        pixels = image.shape[2:].numel()
        if notes is not None:
            keep_freed_memory(pixels)
            with torch.autocast("cpu", enabled=False):  # that of the caller, too
                return notes(*tensors)
        eight = kernels(self.model, options, fast=fast)
        fixed = [*own.tensors, *winograd.transforms(), *(part for kernel in eight.values() for part in kernel.tensors)]
        taking = _Notes(tensors, fixed)
        quick = accelerate(self.model, enabled=fast, pixels=pixels, kernels=eight)
        # In inference mode operations would be seen before torch takes them apart.
        with torch.inference_mode(False), torch.no_grad(), quick, taking:
            made = self.model(image, **options).to(image.dtype)
        notes = taking.finished(made, known)
        with self._lock:
            self._able = notes is not None
            if known is self._known:
                self._notes[key] = notes
        return made


class _Notes(TorchDispatchMode):
    """Writes down what is done.

    Args:
        given: what the notes are to be asked with.
        parts: of the network.
    """

    def __init__(self, given: list[Tensor], parts: list[Tensor]) -> None:
        super().__init__()
        self._graph, self._root, self._complete = fx.Graph(), nn.Module(), True
        self._nodes = WeakTensorKeyDictionary()  # tensors are freed as always
        for place, tensor in enumerate(given):
            self._bind(tensor, self._graph.placeholder(f"given_{place}"))
        for part in parts:
            self._bind(part, self._keep(part))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, 2 seconds, to keep it from looking at this."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self._complete &= _ONCE.isdisjoint(func.tags)
        if "lift_fresh" in func.name():  # how a tensor made of numbers begins
            kept = self._keep(args[0].clone())  # a later operation may write into it, so each pass gets a copy
            self._bind(args[0], self._graph.call_function(_aten.clone.default, (kept,)))
        node = self._graph.call_function(func, *tree_map_only(Tensor, self._node, (args, kwargs)))
        if isinstance(made, Tensor):
            self._bind(made, node)
        for place, part in enumerate(made if isinstance(made, (list, tuple)) else ()):
            if isinstance(part, Tensor):
                self._bind(part, self._graph.call_function(operator.getitem, (node, place)))
        return made

    def finished(self, made: Tensor, known: dict[str, Tensor]) -> fx.GraphModule | None:
        """What gives the same of other pictures, unless something cannot be noted down.

        Args:
            made: what came out.
            known: what is computed from the parts of the network alone; more is added.
        """
        self._graph.output(self._node(made))
        if not self._complete:
            return None
        for node in self._graph.nodes:
            if node.target is _aten.detach.default:
                node.replace_all_uses_with(node.args[0])
                self._graph.erase_node(node)
            elif node.op == "get_attr":
                node.meta["fixed"] = node.target
            elif node.target in _ORDERING and all("fixed" in each.meta for each in node.all_input_nodes):
                node.meta["fixed"] = f"{node.target}{fx.map_arg((node.args, node.kwargs), _name)}"
        for node in reversed(self._graph.nodes):
            if not node.users and node.op in ("call_function", "get_attr") and not _writes(node):
                self._graph.erase_node(node)
            elif "fixed" in node.meta and node.op != "get_attr" and all(u.target in _CONVOLVING for u in node.users):
                self._foresee(node, known)  # safe to share, because convolutions only read it
        for node in self._graph.nodes:
            if node.target is _PAD:
                _pad_later(node)
        for node in self._graph.nodes:
            chain = _activation(node) if node.target in _WITH_RELU else []
            if chain:
                node.args = *node.args[:-3], "relu", [], ""
                chain[-1].replace_all_uses_with(node)
            for each in reversed(chain):
                self._graph.erase_node(each)
        return fx.GraphModule(self._root, self._graph)

    def _foresee(self, node: fx.Node, known: dict[str, Tensor]) -> None:
        """Put what an operation gives of fixed tensors in its place."""
        name = _name(node)
        if name not in known:
            known[name] = self._value(node)
        with self._graph.inserting_before(node):
            node.replace_all_uses_with(self._keep(known[name]))
        self._graph.erase_node(node)

    def _value(self, node: fx.Node) -> Tensor:
        if node.op == "get_attr":
            return self._root.get_buffer(node.target).detach()
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
        return node.target(*args, **kwargs)

    def _keep(self, tensor: Tensor) -> fx.Node:
        name = f"kept_{len(self._root._buffers)}"
        self._root.register_buffer(name, tensor)
        return self._graph.get_attr(name)

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[tensor] = node

    def _node(self, tensor: Tensor) -> fx.Node | None:
        node = self._nodes.get(tensor)
        self._complete &= node is not None
        return node


def _writes(node: fx.Node) -> bool:
    """Whether it changes what it is given."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _activation(node: fx.Node) -> list[fx.Node]:
    """The ReLU that alone uses what an operation gives; with what sees that as whole numbers, and back again."""
    chain = []
    for wanted in ({_aten.view.dtype}, _RELU, {_aten.view.dtype}):
        behind = next(iter(node.users), None)
        if len(node.users) == 1 and behind.target in wanted:
            node = behind
            chain.append(node)
    kinds = [each.target is _aten.view.dtype for each in chain]
    return chain if kinds in ([False], [True, False, True]) else []


def _pad_later(pad: fx.Node) -> None:
    """Pad what a map is in 8 bit, half as large, in place of the map: reflected, its largest value stays the same."""
    made, *others = pad.users
    if others or made.target is not int8.to_steps:
        return
    steps = next(part for part in made.users if part.args[1] == 0)  # beside the largest value
    made.replace_input_with(pad, pad.args[0])
    with pad.graph.inserting_after(steps):
        padded = pad.graph.call_function(_PAD, (steps, *pad.args[1:]))
    steps.replace_all_uses_with(padded, lambda user: user is not padded)
    pad.graph.erase_node(pad)


def _name(node: fx.Node) -> str:
    return node.meta["fixed"]
