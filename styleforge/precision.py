"""What networks compute in; statistics and losses are computed in float32 or better, whatever it is."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
Kind = Literal["fp32", "bf16", "fp16"]
# Of the names that oneDNN has for sets of instructions.
WITHOUT_INT8 = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
WITHOUT_BF16 = (*WITHOUT_INT8, "AVX2_VNNI", "AVX512_CORE_VNNI")


# Whether sums over half precision come in float32 by themselves, as inside of :func:`styleforge.engine.accelerate`.
sums_in_full: ContextVar[bool] = ContextVar("sums_in_full", default=False)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether a processor or GPU computes in bfloat16 by itself.

    A processor that oneDNN was told to take for an older one (ONEDNN_MAX_CPU_ISA) counts as that.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":  # not known
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16:
        return False
    cpu = torch.cpu
    return any(getattr(cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def bf16_by_tiles() -> bool:
    """Whether this processor multiplies bfloat16 by tiles (AMX), which is several times as fast as by vectors."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return tiles and (limit in ("", "DEFAULT") or "AMX" in limit)


def int8_is_fast() -> bool:
    """Whether this processor multiplies whole numbers of 8 bit and sums them up in 32 bit in one instruction (VNNI).

    Those before it may round or cut off in between, and are slower.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_INT8:
        return False
    can = getattr(torch.cpu, "get_capabilities", dict)()
    vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return vnni or any(can.get(name) for name in ("avx_vnni", "avx512_vnni"))


def lanes() -> int:
    """How many numbers of 32 bit a vector of this processor has: 16 (AVX-512), 8 (AVX2), or 0, where not known."""
    can, limit = getattr(torch.cpu, "get_capabilities", dict)(), os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if not can.get("avx2") or limit in ("SSE41", "AVX"):
        return 0
    return 16 if can.get("avx512_f") and not limit.startswith("AVX2") else 8


def full(x: Any) -> Any:
    """Half-precision tensors in float32; everything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Give a loss its tensors by :func:`full`, and no autocast, which would round its products to half again."""

    @functools.wraps(loss)
    def compute(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if not torch.is_autocast_enabled(device):
            # Leaving an autocast empties the cache of all threads: one that prepares pictures would change how the
            # gradients of another, in the middle of a step, are rounded.
            return loss(*map(full, args), **{name: full(x) for name, x in kwargs.items()})
        with torch.autocast(device, enabled=False):
            return loss(*map(full, args), **{name: full(x) for name, x in kwargs.items()})

    return compute


class Precision:
    """What the networks of a run compute in: float32, or half of it where a product allows that.

    float16 ends at 65504 and at 6e-8, so losses are scaled before the backward pass; one scale, found by trial, serves
    all players. Each of them: :meth:`backward`, once or (for pieces of a batch) several times; the mean over processes;
    :meth:`unscale`; clipping; :meth:`step`. After all of them: :meth:`update`.

    Args:
        device: where the networks are.
        kind: "fp32", "bf16" (needs no scale: it has the range of float32) or "fp16".
    """

    def __init__(self, device: torch.device | str, kind: Kind = "fp32") -> None:
        self.kind, self._device = kind, torch.device(device).type
        self._scaler = torch.amp.GradScaler(self._device, enabled=kind == "fp16")
        self._stepped = False

    def autocast(self) -> torch.autocast:
        """The context in which losses are computed."""
        dtype = torch.float16 if self.kind == "fp16" else torch.bfloat16
        return torch.autocast(self._device, dtype, enabled=self.kind != "fp32")

    def backward(self, loss: Tensor, inputs: Sequence[nn.Parameter]) -> None:
        """Add the gradient of a scalar, scaled, to that of `inputs`, and of nothing else."""
        self._scaler.scale(loss).backward(inputs=inputs)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the scale out of the gradients of `optimizer`, so that they can be measured and clipped.

        The mean over processes comes first: all must see the same gradients to agree on what is finite.
        """
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer` make its step, unless a gradient is not finite because of the scale ("fp16")."""
        self._scaler.step(optimizer)
        self._stepped = True

    def update(self) -> None:
        """Adapt the scale. Once in each turn, after all players: between two steps of the same optimizer."""
        if self._stepped:  # all may have paused
            self._scaler.update()
        self._stepped = False

    def state(self) -> dict[str, Any]:
        """What a run must remember, as JSON."""
        return self._scaler.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; a run may go on in another precision."""
        if state:
            self._scaler.load_state_dict(dict(state))
