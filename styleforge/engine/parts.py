"""What a network consists of, and whether it still is what it was."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

_number = ctypes.c_uint32.from_address


class Parts(NamedTuple):
    """Of a network on the CPU: all modules, and all parameters and buffers."""

    modules: list[nn.Module]
    tensors: list[Tensor]


def parts(model: nn.Module) -> Parts | None:
    """What a network consists of; None where that does not tell what it gives.

    So with hooks, with a `forward` that was put in place of the class's, in training mode (dropout is chance), and with
    tensors of inference mode, whose changes torch does not count. This is asked for each picture, so without torch's
    iterators, which would take a tenth of the time of a small network.
    """
    modules, found = [model], []
    for module in modules:
        if module.training or module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return None
        modules += filter(None, module._modules.values())
        found += [*module._parameters.values(), *module._buffers.values()]
    found = [part for part in found if part is not None]
    return None if _has_any_global_hook() or any(part.is_inference() for part in found) else Parts(modules, found)


def state(own: Parts) -> list[Any]:
    """A value that differs as soon as a part is replaced or changed.

    Torch counts changes of a tensor, but neither those through `.data` nor those of fused optimizers. These hardly
    leave the first number of every tensor as it was, so it is looked at, too. Other attributes of modules, such as the
    eps of a norm, are not seen.
    """
    return [*map(id, own.modules), *((id(part), _first(part), part.dtype, part._version) for part in own.tensors)]


def _first(part: Tensor) -> tuple[int, int]:
    """Where a tensor lies, and the bits that it begins with."""
    place = part.data_ptr()
    return place, _number(place).value if place and part.nbytes >= 4 and part.is_cpu else 0
