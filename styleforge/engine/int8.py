"""Convolutions in whole numbers of 8 bit, which many CPUs multiply two to four times as fast.

A map is brought to some 250 steps between zero, or its lowest value, and its largest, and each kernel to as many;
products are summed up in 32 bit, and what comes out is of the type that it would have been. This is dynamic
quantization with one scale for a map and one for each kernel, as in Krishnamoorthi's white paper
(https://arxiv.org/abs/1806.08342). Which networks bear it: see :mod:`.trial`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import bf16_by_tiles
from . import blocks, subpixel
from .calls import pair

CHANNELS = 32  # of a map, from which on there is enough to sum up
# Multiplications for each value of a map, from which on they save more than bringing the map to 8 bit takes: where it
# would be computed in bfloat16, and in float32.
WORK = {torch.bfloat16: 400, torch.float32: 250}
WORK_FOR_TILES = 2000  # where bfloat16 is multiplied by tiles
STEPS, HALF = 254, 126  # above zero: of maps without values below, and with; rounded up they still fit into 8 bit
ZERO = 128  # the step that is zero where there are values below
TINY = 1e-30
PART = 4 * 2**20  # bytes of a map that are brought to 8 bit at once

# What torch.compile makes of quantized networks; they have no public names.
conv = getattr(torch.ops.onednn, "qconv2d_pointwise", None)
_pack = getattr(torch.ops.onednn, "qconv_prepack", None)


@dataclass(frozen=True)
class Kernel:
    """The weights of a convolution in 8 bit, and how maps for it are brought to 8 bit.

    Attributes:
        packed: weights in the processor's order.
        scales: (K,), what a step of each weight is worth, divided by the steps to which the map's largest value is
            brought.
        zeros: (K,), the step that is zero.
        steps: (C,), to which the largest value of a map is brought.
        shift: (C,), added to steps.
        still: (2, C), mean 0 and variance 1, by which a norm takes nothing away.
        signed: whether maps have values below zero.
        taps: (h, w), of a pixel, where they make blocks of pixels; see :mod:`.blocks`.
        doubled: how a map is, where it is this map as it was that they take; see :mod:`.subpixel`.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor
    steps: Tensor
    shift: Tensor
    still: Tensor
    signed: bool
    taps: tuple[int, int] | None = None
    doubled: str | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it that is one."""
        return self.packed, self.scales, self.zeros, self.steps, self.shift, self.still


Kernels = Mapping[int, Kernel]  # by the identity of the weight


def suits(
    x: Tensor, weight: Tensor, options: Mapping[str, Any], dtype: torch.dtype, doubled: str | None = None
) -> bool:
    """Whether a convolution would be faster in 8 bit.

    Args:
        x: (B, C, H, W).
        weight: (K, C, h, w).
        options: all others of `torch.nn.functional.conv2d`.
        dtype: what it is computed in otherwise.
        doubled: how the map is before, if it is; see :func:`styleforge.engine.subpixel.together`.
    """
    if conv is None or options["groups"] != 1 or isinstance(options["padding"], str) or x.shape[1] < CHANNELS:
        return False
    # A window of odd size has zeros beside it, and of 2 x 2 is left too little.
    sparse = doubled == "zeros" and any(tap % 2 or tap < 4 for tap in weight.shape[2:])
    if sparse and dtype == torch.bfloat16:
        return False
    work = WORK_FOR_TILES if dtype == torch.bfloat16 and bf16_by_tiles() else WORK[dtype]
    return weight.dtype == torch.float32 and products(weight, options, doubled) >= work


def products(weight: Tensor, options: Mapping[str, Any], doubled: str | None = None) -> float:
    """How many multiplications a convolution is for each value of its map; the arguments as for :func:`suits`."""
    down, right = pair(options["stride"])
    return subpixel.products(weight, doubled) if doubled else weight[:, 0].numel() / (down * right)


def kernel(
    weight: Tensor, signed: bool, options: Mapping[str, Any], dtype: torch.dtype, doubled: str | None = None
) -> Kernel:
    """Bring (K, C, h, w) in float32 to 8 bit.

    Args:
        weight: see above.
        signed: whether maps will have values below zero.
        options: "stride", "padding" and "dilation" of the convolution.
        dtype: bfloat16 or float32, of maps.
        doubled: how maps are before, if they are; see :func:`styleforge.engine.subpixel.together`.
    """
    weight, taps = weight.detach(), None
    if doubled:
        (weight, _), options = subpixel.together(weight, None, doubled), subpixel.PLACE
    elif blocks.suits_weight(weight, options) and not bf16_by_tiles():
        taps = tuple(weight.shape[2:])
        weight, _ = blocks.together(weight, None)
        options = {**options, "stride": blocks.size()}
    scales = weight.abs().amax((1, 2, 3)).clamp_min(TINY) / 127
    whole = (weight / scales[:, None, None, None]).round().to(torch.int8)
    place = (pair(options[name]) for name in ("stride", "padding", "dilation"))
    packed = _pack(whole, scales, 1.0, ZERO if signed else 0, *place, 1)
    steps = torch.full((weight.shape[1],), float(HALF if signed else STEPS), dtype=torch.float32)
    # Steps are the whole part. Bfloat16 has no place behind the point from 128 on, and is rounded there by itself.
    shift = (ZERO + (0.125 if dtype == torch.bfloat16 else 0.5)) if signed else 0.5
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    still = torch.stack([torch.zeros_like(steps), torch.ones_like(steps)])
    shifts = torch.full_like(steps, shift)
    return Kernel(packed, scales / steps[0], zeros, steps, shifts, still, signed, taps, doubled)


def conv2d(x: Tensor, weights: Kernel, bias: Tensor | None, options: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """What `torch.nn.functional.conv2d` gives, but for the rounding, without gradients.

    Args:
        x: (B, C, H, W); values below zero become zero where the kernel is not for such.
        weights: see :func:`kernel`.
        bias: (K,).
        options: as there; of the convolution to blocks, where the map is one that would be doubled.
        dtype: bfloat16 or float32, of the result.

    Returns:
        (B, K, H', W'), channels-last, unless it was made by blocks; of a map that is to be doubled, (B, 4 K, h, w).
    """
    spare = 0, 0
    if weights.taps:
        options, spare = blocks.place(x, weights.taps, options["padding"])
        bias = None if bias is None else bias.repeat_interleave(len(weights.scales) // len(bias))
    if weights.doubled:
        bias = None if bias is None else bias.repeat(4)
    place = [pair(options[name]) for name in ("stride", "padding", "dilation")]
    zero = ZERO if weights.signed else 0
    bias = None if bias is None else bias.float()
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    made = []
    for one in x.split(1) if len(x) > 1 else [x]:  # each has a scale of its own
        steps, largest = to_steps(one, weights.steps, weights.shift, weights.still, weights.signed)
        given = steps, 1.0, zero, weights.packed, weights.scales * largest, weights.zeros, bias, *place, 1
        made.append(conv(*given, 1.0, 0, dtype, "none", [], ""))
    made = made[0] if len(made) == 1 else torch.cat(made)
    return blocks.apart(made, spare) if weights.taps else made


def _to_steps(x: Tensor, steps: Tensor, shift: Tensor, still: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """A map (1, C, H, W), channels-last, in steps, uint8, and its largest value; the others as in :class:`Kernel`.

    Bits of numbers from zero on have the order of whole numbers, which are compared ten times as fast. Large maps go
    part by part, so that what lies between stays in the processor's cache: up to three times as fast.
    """
    count = max(1, min(-(-x.nbytes // PART), x.shape[2]))
    parts = x.tensor_split(count, 2) if count > 1 else [x]

    def top(part: Tensor) -> Tensor:
        bits = part.view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32)
        return (bits & torch.iinfo(bits.dtype).max if signed else bits).amax()

    tops = [top(part) for part in parts]
    largest = (tops[0] if count == 1 else torch.stack(tops).amax()).view(x.dtype).clamp_min(TINY)
    worth = steps / largest

    def made(part: Tensor) -> Tensor:
        part = F.batch_norm(part, *still, worth, shift, eps=0.0)  # one way through memory
        part = part.to(torch.int16)  # a step in between is twice as fast as none
        return part if signed else part.relu_()

    if count == 1:
        return made(x).to(torch.uint8), largest
    whole = torch.empty_like(x, dtype=torch.uint8)
    for part, into in zip(parts, whole.tensor_split(count, 2), strict=True):
        into.copy_(made(part))
    return whole, largest


# One operation for torch, so that one line of :mod:`.replay` stands for it; there before where a notebook reloads this.
if not hasattr(torch.ops.styleforge, "to_steps"):
    _library = torch.library.Library("styleforge", "FRAGMENT")
    _library.define("to_steps(Tensor x, Tensor steps, Tensor shift, Tensor still, bool signed) -> (Tensor, Tensor)")
    _library.impl("to_steps", _to_steps, "CPU")
to_steps = torch.ops.styleforge.to_steps.default
