"""A device that is not the CPU, for tests where there is no GPU: "elsewhere", made of the CPU's memory.

It refuses what a GPU refuses, above all numbers of two devices in one call, and float64, which Apple's have not. It is
registered for the whole process and cannot be taken back, so only processes of their own import this: see
test_elsewhere.py. Of torch it uses the parts for devices written in Python, which torch calls experimental.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

tensor_of = torch.tensor


class Module(_DummyBackendModule):
    """What stands as `torch.elsewhere`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("elsewhere", Module())
DEVICE = torch.device("elsewhere", 0)


class Elsewhere(Tensor):
    """A tensor of that device; `inner` is the one of the CPU that has its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        if inner.dtype == torch.float64:
            raise TypeError("This device has no float64.")
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=DEVICE)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, *args, **(kwargs or {}))

    # What torch does in C++, for tensors with memory of their own.

    def __deepcopy__(self, memo: dict[int, Any]) -> Elsewhere:
        made = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        made._is_param = getattr(self, "_is_param", False)
        return made

    def __getitem__(self, places: Any) -> Tensor:
        return super().__getitem__(tensor_of(places).to(DEVICE) if isinstance(places, list) else places)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def new_tensor(self, values: Any, **options: Any) -> Tensor:
        return torch.tensor(values, **{"dtype": self.dtype, "device": DEVICE, **options})

    def tolist(self) -> Any:
        return self.inner.tolist()


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation of torch, by the CPU."""
    name, given = func.overloadpacket.__name__, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    target = kwargs.get("device")
    stays = target is None or torch.device(target).type != "cpu"
    if name == "copy_":
        stays = isinstance(args[0], Elsewhere)
    elif name not in ("_to_copy", "index", "index_put_"):  # places may come from the CPU
        strange = [x for x in given if not isinstance(x, Elsewhere) and x.ndim]
        if strange and len(strange) < len(given):
            raise RuntimeError(f"Tensors of two devices in {func}: {[(x.device, tuple(x.shape)) for x in given]}")
    if target is not None:
        kwargs["device"] = torch.device("cpu")
    known = {id(x.inner): x for x in given if isinstance(x, Elsewhere)}
    args, kwargs = tree_map_only(Elsewhere, lambda x: x.inner, (args, kwargs))
    made = func(*args, **kwargs)
    return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else Elsewhere(x), made) if stays else made


def _tensor(values: Any, *, device: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
    made = tensor_of(values, **options)
    return (made if device is None else made.to(device)).requires_grad_(requires_grad)


def _maker(func: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: run(func, *args, **kwargs)


torch.tensor = _tensor  # the one of torch goes a way in C++ that Python cannot follow
_rest, _aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
_rest.fallback(lambda func, *args, **kwargs: run(func, *args, **kwargs), "PrivateUse1")
for _name in ("eye", "eye.m", "arange", "arange.start", "arange.start_step", "linspace"):  # which make room as they go
    _packet, _, _overload = _name.partition(".")
    _aten.impl(_name, _maker(getattr(getattr(torch.ops.aten, _packet), _overload or "default")), "PrivateUse1")
