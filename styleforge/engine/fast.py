"""Networks faster than written: on CPUs calls of a forward pass are replaced by what computes the same sooner."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode

from ..precision import bf16_by_tiles, bf16_is_fast, sums_in_full
from . import blocks, int8, subpixel, winograd
from .calls import OPTIONS, argument, convolution, pair
from .later import Later
from .sums import measure, normed, quickly

# Pixels of a map from which on channels-last pays: below, weights take longer to be reordered, which happens at each
# call, than the convolution gains.
LARGE = 2048
WIDE = 256  # channels from which on columns are padded and cut off again, see _ordered_convolution: 12 % with AMX
NAIVE = 512 * 512  # most pixels of a map that are summed up one after the other, where it need not be exact
KEPT = 256 * 2**20  # bytes of freed memory that the process keeps
TENSORS = (64 * 2**20, 32 * 2**20)  # for tensors of up to so many; glibc before 2.33 takes only the second
ROWS = 256  # channels from which on a 1 x 1 convolution is a product of matrices, see _product_of_rows
SMALL = 2**19  # pixels of a picture up to which the first is good
_onednn = torch.ops.mkldnn if hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise") else None
Ordered = dict[tuple[Any, ...], Tensor]  # weights of convolutions, by who they are and how these go
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@contextmanager
def accelerate(
    model: nn.Module,
    *,
    enabled: bool = True,
    pixels: int | None = 0,
    kernels: int8.Kernels | None = None,
    ordered: Ordered | None = None,
) -> Iterator[None]:
    """Make calls of `model` fast inside of this context; for inference only.

    On a CPU convolutions compute in channels-last layout, two to three times as fast where they change the size of a
    map, wide ones of 3 x 3 multiply less in float32, see :mod:`styleforge.engine.winograd`, and those to few channels
    make several pixels at once, see :mod:`styleforge.engine.blocks`. Instance norms are
    computed as group norms with one channel a group, which are the same and faster. Freed memory is kept, see
    :func:`keep_freed_memory`. A float32 network computes in bfloat16 where the processor does so by itself; norms still
    sum up in float32, and the final tanh keeps its result in float32.

    On a CUDA GPU with bfloat16 (from Ampere on) a float32 network computes in it by autocast; the rest is what torch
    and cuDNN do by themselves. On other devices nothing changes.

    Args:
        model: the network; it keeps its weights as they are.
        enabled: False leaves bfloat16 away.
        pixels: of the picture, for :func:`keep_freed_memory`; None for who calls that, too.
        kernels: of convolutions that compute in whole numbers of 8 bit; see :mod:`styleforge.engine.int8`.
        ordered: keeps the weights in the order of the processor, for who needs them more than once: half of their size
            in memory once more.
    """
    first = next(model.parameters())
    half = enabled and in_half(first)
    if first.device.type != "cpu":
        with by_autocast(first.device.type) if half else nullcontext():
            yield
        return
    if pixels is not None:
        keep_freed_memory(pixels)
    before = sums_in_full.set(True)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=half), _Faster(half, kernels or {}, ordered):
            yield
    finally:
        sums_in_full.reset(before)


@contextmanager
def by_autocast(device: str) -> Iterator[None]:
    """In bfloat16 what autocast has in that, and a tanh in float32: near black and white it has more than 8 bit."""
    with torch.autocast(device, torch.bfloat16), _TanhInFull():
        yield


def in_half(tensor: Tensor) -> bool:
    """Whether what such a tensor stands for is computed in bfloat16."""
    known = tensor.device.type in ("cpu", "cuda") and tensor.dtype == torch.float32
    return known and bf16_is_fast(tensor.device)


def keep_freed_memory(pixels: int) -> None:
    """Let the process keep what is freed, up to :data:`KEPT`; from now on, and only with glibc.

    By itself glibc gives much of it back to the system, more in one process than in the next, and the system clears
    each page again when a tensor touches it: 5 to 15 % of the time of a forward pass at 512 px, where wide networks
    have maps of a little over 32 MB. For larger pictures these are given back: kept, they are 0.2 GB more at 1024 px.

    Args:
        pixels: of the picture that is to be computed, or of a tile of it.
    """
    _keep(TENSORS if pixels <= SMALL else TENSORS[1:])


@functools.lru_cache(maxsize=1)  # said once, until something else is
def _keep(tensors: tuple[int, ...]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    # Not for larger ones: chunks that an aligned tensor just misses would pile up.
    if mallopt and any(mallopt(_M_MMAP_THRESHOLD, size) for size in tensors):
        mallopt(_M_TRIM_THRESHOLD, KEPT)


class _TanhInFull(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "tanh":
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class _Faster(Later):
    """Replaces single calls.

    Args:
        half: whether convolutions compute in bfloat16.
        kernels: of those that compute in 8 bit.
        ordered: see :func:`accelerate`.
    """

    def __init__(self, half: bool, kernels: int8.Kernels, ordered: Ordered | None) -> None:
        super().__init__({key: whole.doubled for key, whole in kernels.items()})  # padded when they are in 8 bit
        self._half, self._kernels, self._ordered = half, kernels, ordered
        self._by_tiles = half and bf16_by_tiles()

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if not args:  # only given by names: as it is
            return func(**kwargs)
        if name in OPTIONS and args[0].ndim == 4:
            return self._convolution(func, name, args, kwargs)
        if name in ("cat", "concat", "concatenate") and _in_pixels(args[0]):  # else of neither layout
            parts = [x.contiguous(memory_format=torch.channels_last) for x in args[0]]
            return func(parts, *args[1:], **kwargs)
        if name == "instance_norm" and _own_statistics(args, kwargs):
            weight, bias = (argument(args, kwargs, place, key) for place, key in ((3, "weight"), (4, "bias")))
            eps = argument(args, kwargs, 7, "eps", 1e-5)
            with torch.autocast("cpu", enabled=False):
                return _instance_norm(args[0], weight, bias, eps, bool(self._kernels))
        if name == "var_mean" and args[0].ndim == 4 and args[1:] == ((2, 3),) and kwargs == {"keepdim": True}:
            with torch.autocast("cpu", enabled=False):
                return _var_mean(args[0], bool(self._kernels))
        if name == "addcmul" and not kwargs and _by_channel(*args):
            with torch.autocast("cpu", enabled=False):
                return _scaled(*args)
        if not self._half:
            return func(*args, **kwargs)
        if name in ("relu", "relu_") and _as_whole_numbers(args[0]):
            inplace = name == "relu_" or argument(args, kwargs, 1, "inplace", False)
            return (torch.relu_ if inplace else torch.relu)(args[0].view(torch.int16)).view(torch.bfloat16)
        if name in ("pad", "interpolate"):  # autocast would do these in float32
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        if name == "tanh":
            return func(args[0].float(), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def subpixels(self, x: Tensor, weight: Tensor, bias: Tensor | None, how: str, padding: tuple[int, int]) -> Tensor:
        """As there; in 8 bit where these are known."""
        if whole := self._kernels.get(id(weight)):
            return self._in_whole_numbers(x, whole, bias, {**subpixel.PLACE, "padding": padding})
        together = subpixel.together(weight, bias, how)
        return self._convolution(F.conv2d, "conv2d", (x, *together), {"padding": padding}, owner=weight)

    def _in_whole_numbers(self, x: Tensor, whole: int8.Kernel, bias: Tensor | None, options: dict[str, Any]) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return int8.conv2d(x, whole, bias, options, torch.bfloat16 if self._half else torch.float32)

    def _convolution(self, func: Any, name: str, args: Any, kwargs: Any, owner: Tensor | None = None) -> Tensor:
        """A call of "conv2d" or "conv_transpose2d"; `owner` is what its weight is made of, if that is not its own."""
        x, (weight, bias, options) = args[0], convolution(name, args, kwargs)
        if name == "conv2d" and (self._half or x.dtype == torch.bfloat16) and _one_column(x, weight, options):
            wider = F.pad(x, (0, pair(options["stride"])[1]))
            return self._convolution(func, name, (wider, *args[1:]), kwargs)[..., :1]
        whole = self._kernels.get(id(weight))
        worth = whole.doubled == "zeros" if whole else weight.shape[1] <= subpixel.FEW
        if name == "conv_transpose2d" and worth and (place := subpixel.transposed(x, weight, options)):
            return place.filled(self.subpixels(x, weight, bias, "zeros", place.padding))
        fake = isinstance(x, FakeTensor)  # of which only the shape is asked
        if whole and name == "conv2d" and not whole.doubled and not fake:
            return self._in_whole_numbers(x, whole, bias, options)
        if name == "conv2d" and not self._by_tiles and blocks.suits(x, weight, options):  # with tiles not measured yet
            place, spare = blocks.place(x, weight.shape[2:], options["padding"])
            together = x, *blocks.together(weight, bias)
            return blocks.apart(self._convolution(func, name, together, place, owner=weight), spare)
        if not self._half and name == "conv2d" and winograd.suits(x, weight, **options):
            return winograd.conv3x3(x, weight, bias, options["padding"])
        stays = self._half and _in_pixels([x])  # weights in order wait for it
        large = x.shape[2:].numel() >= LARGE
        layout = torch.channels_last if large or stays else torch.contiguous_format
        x = x.contiguous(memory_format=layout)
        if self._half and _can_order(x, weight, bias, options["padding"]):
            owner = weight if owner is None else owner
            known = self._ordered if isinstance(owner, nn.Parameter) else None  # others are made anew each time
            if name == "conv2d" and not self._by_tiles and _looks_at_one(weight, options):
                return _product_of_rows(x, weight, bias, id(owner), known)
            return _ordered_convolution(x, weight, bias, id(owner), known, by_tiles=self._by_tiles, **options)
        return func(x, *args[1:], **kwargs)


def _one_column(x: Tensor, weight: Tensor, options: dict[str, Any]) -> bool:
    """Whether a convolution with a stride makes a single column of several rows, which oneDNN gets wrong in bfloat16
    with AMX, NaN at times (seen in torch 2.13).
    """
    if isinstance(options["padding"], str):
        return False
    places = zip(
        x.shape[2:], weight.shape[2:], *(pair(options[k]) for k in ("padding", "dilation", "stride")), strict=True
    )
    rows, columns = ((size + 2 * pad - far * (taps - 1) - 1) // step + 1 for size, taps, pad, far, step in places)
    return columns == 1 < rows and pair(options["stride"])[1] > 1


def _as_whole_numbers(x: Tensor) -> bool:
    """Whether a ReLU may look at bfloat16 as int16, whose sign is the same bit: 5 to 8 times as fast.

    A NaN below zero becomes zero; weights and pictures have none.
    """
    return x.dtype == torch.bfloat16 and not (torch.is_grad_enabled() and x.requires_grad)


def _in_pixels(maps: Any) -> bool:
    """Whether the first of several maps is channels-last."""
    if not all(isinstance(x, Tensor) and x.ndim == 4 for x in maps):
        return False
    return maps[0].is_contiguous(memory_format=torch.channels_last) and not maps[0].is_contiguous()


def _can_order(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any) -> bool:
    """Whether :func:`_ordered_convolution` can be put in the place of a convolution."""
    if _onednn is None or isinstance(x, FakeTensor) or isinstance(padding, str) or not torch.is_autocast_enabled("cpu"):
        return False
    wanted = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias))
    return x.dtype in (torch.float32, torch.bfloat16) and not wanted


def _ordered_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, owner: int, known: Ordered | None, *, by_tiles: bool, **options: Any
) -> Tensor:
    """In bfloat16, its weights brought into the order of the processor beforehand.

    Which takes as long as when the convolution does it by itself, but can be kept: in `known`, and see :mod:`.replay`.
    Where borders were padded before, as by reflection, oneDNN takes a slower way with tiles than where it pads by
    itself: wide ones get a column of zeros on each side, and what these make is cut off.
    """
    groups = options.pop("groups")
    twice = {key: (value, value) if isinstance(value, int) else value for key, value in options.items()}
    more = [twice["output_padding"]] if "output_padding" in twice else []
    place = twice["padding"], *more, twice["stride"], twice["dilation"], groups
    order = _onednn._reorder_convolution_transpose_weight if more else _onednn._reorder_convolution_weight
    run = _onednn._convolution_transpose_pointwise if more else _onednn._convolution_pointwise
    wide = by_tiles and weight.shape[2:] == (3, 3) and weight.shape[1] >= WIDE
    cut = wide and not more and place[:3] == ((0, 0), (1, 1), (1, 1))
    place = ((0, 1), *place[1:]) if cut else place
    with torch.autocast("cpu", enabled=False):
        inner = _kept(known, (owner, weight.shape, place), lambda: order(weight.to(torch.bfloat16), *place))
        x, bias = (None if each is None else each.to(torch.bfloat16) for each in (x, bias))
        made = run(x, inner, bias, *place, "none", [], "")
    return made[..., 1:-1].contiguous(memory_format=torch.channels_last) if cut else made


def _looks_at_one(weight: Tensor, options: dict[str, Any]) -> bool:
    """Whether each pixel that comes out of a wide convolution sees one of the map."""
    plain = pair(options["stride"]) == (1, 1) and pair(options["padding"]) == (0, 0) and options["groups"] == 1
    return plain and weight.shape[2:] == (1, 1) and min(weight.shape[:2]) >= ROWS


def _product_of_rows(x: Tensor, weight: Tensor, bias: Tensor | None, owner: int, known: Ordered | None) -> Tensor:
    """A convolution of 1 x 1 in bfloat16; pixels are rows. oneDNN's own is as fast up to 448 channels, and from 512 on,
    on a Zen 4, takes 3 to 20 times as long (seen in torch 2.13). With tiles it is not measured yet.
    """
    with torch.autocast("cpu", enabled=False):
        inner = _kept(
            known, (owner, "rows"), lambda: _onednn._reorder_linear_weight(weight.to(torch.bfloat16).flatten(1))
        )
        x, bias = (None if each is None else each.to(torch.bfloat16) for each in (x, bias))
        made = _onednn._linear_pointwise(x.permute(0, 2, 3, 1).contiguous(), inner, bias, "none", [], "")
    return made.permute(0, 3, 1, 2)


def _kept(known: Ordered | None, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
    """A weight in order, made once where such are kept."""
    if known is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


def _instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, roughly: bool) -> Tensor:
    """As a group norm; that of torch sums up naively in channels-last, so not where float32 or many pixels show it."""
    if _summed_naively(x, roughly) or x.is_contiguous() or isinstance(x, FakeTensor):  # whose shape alone is asked
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    made = [normed(one, measure(one, "moments"), weight, bias, eps) for one in x.split(1)]
    return made[0] if len(made) == 1 else torch.cat(made)


def _var_mean(x: Tensor, roughly: bool) -> tuple[Tensor, Tensor]:
    """Unbiased variance and mean of each channel, in float32 or better; torch's own take three times as long."""
    pixels = x.shape[2:].numel()
    if _summed_naively(x, roughly):
        mean, variance = (each[..., None, None] for each in quickly(x))
        return variance * (pixels / (pixels - 1)), mean
    mean = x.mean((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    squares = (x - mean).square_().sum((2, 3), keepdim=True)
    return squares / (pixels - 1), mean


def _summed_naively(x: Tensor, roughly: bool) -> bool:
    """Whether the group norm of torch, which sums up naively in channels-last, does so well enough: in bfloat16, or
    where maps are rounded to 8 bit, which is rougher (`roughly`).
    """
    known = x.dtype == torch.bfloat16 or (roughly and x.dtype == torch.float32)
    return known and x.shape[2:].numel() <= NAIVE


def _by_channel(shift: Tensor, x: Tensor, scale: Tensor) -> bool:
    """Whether a map in bfloat16 is scaled and shifted by a number for each of its channels."""
    known = x.ndim == 4 and x.dtype == torch.bfloat16 and not isinstance(x, FakeTensor)
    return known and shift.shape == scale.shape == (1, x.shape[1], 1, 1)


def _scaled(shift: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """In one way through memory, and in bfloat16: as a norm whose statistics are known."""
    shift, scale = shift.flatten().float(), scale.flatten().float()
    return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, eps=0.0)


def _own_statistics(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    x: Tensor = args[0]
    running, own = argument(args, kwargs, 1, "running_mean"), argument(args, kwargs, 5, "use_input_stats", True)
    parts = (argument(args, kwargs, place, key) for place, key in ((3, "weight"), (4, "bias")))
    return running is None and own and x.ndim == 4 and all(part is None or part.dtype == x.dtype for part in parts)
