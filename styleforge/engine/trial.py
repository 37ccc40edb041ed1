"""Which convolutions of a network bear 8 bit: found out by four small pictures, before the first that is asked for.

Most trained networks hardly notice. Networks of random weights do; the rounding of the last layers is seen as it is;
and where a picture shows little, or one light in the dark, norms enlarge the rounding of the first layers. So pictures
that are always the same are made with all convolutions in 8 bit. If the difference is seen, they are made with each
convolution in 8 bit alone, and as many are chosen as the network bears together, beginning with those that are seen
least for the work that they take. The choice depends on the weights alone, and not on what the network was shown
before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..precision import int8_is_fast
from . import int8, subpixel
from .calls import OPTIONS, convolution
from .fast import accelerate, in_half
from .later import small
from .parts import parts, state

# How near each of the four pictures has to stay to itself without 8 bit, in dB. Others may come out further off,
# but none below the 40 dB that every shortcut keeps: so chosen, the worst of 36 photographs in 20 of our styles had 42.
ENOUGH = (53.0, 53.0, 48.0, 45.0)
SIDE = 64  # of the pictures
BALLS = 24  # in the first
TOGETHER = 2**17  # pixels
SKY = ((-0.6, -0.7, -0.6), (1.0, 0.5, -0.1))  # above and below
NIGHTS = ((0.01, 0.95), (0.001, 0.99))  # what is left of the clouds, and how dark it is

_tried: WeakKeyDictionary[nn.Module, tuple[Any, int8.Kernels]] = WeakKeyDictionary()
_lock = threading.RLock()


def kernels(model: nn.Module, options: Mapping[str, Any], *, fast: bool = True) -> int8.Kernels:
    """The convolutions of a network that are computed in 8 bit, by their weights; tried where that is not known.

    None of a network that is told something beside the picture, because it might bear it with one style and not with
    the next; nor of one that somebody looks into by hooks, which would be shown the pictures of the trial.

    Args:
        model: in evaluation mode.
        options: what it is told.
        fast: whether less than float32 will do.
    """
    if not fast or options or not int8_is_fast():
        return {}
    can, own = getattr(model, "capabilities", None), parts(model)
    if can is None or (can.inputs, can.output) != (("image",), "image"):
        return {}
    if not own or not any(map(_large, own.tensors)) or not all(part.is_cpu for part in own.tensors):
        return {}
    now = in_half(next(model.parameters())), state(own)
    with _lock:
        before, found = _tried.get(model, (None, {}))
        if before != now:
            found = _try(model, own.tensors)
            _tried[model] = now, found
        return found


def pictures(channels: int, side: int) -> Tensor:
    """What networks are tried with: (4, C, H, W) in [-1, 1].

    Clouds as strong at each scale, as in nature, before which balls fly; an evening sky, and nothing else; the clouds
    by night, and a darker one, with a lamp.
    """
    source = torch.Generator().manual_seed(0)
    single = {"dtype": torch.float32}  # whatever the default
    chance = {"generator": source, **single}
    clouds = torch.zeros(1, channels, side, side, **single)
    scale = 2
    while scale <= side:
        grey, color = (torch.randn(1, count, scale, scale, **chance) for count in (1, channels))
        clouds += nn.functional.interpolate(grey + color / 2, clouds.shape[2:], mode="bilinear")
        scale *= 2
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    day = clouds
    for _ in range(BALLS):
        row, column, radius = (torch.rand(3, **chance) * side).unbind()
        ball = (rows - row) ** 2 + (columns - column) ** 2 < (radius / 8) ** 2
        day = torch.where(ball, 3 * torch.randn(1, channels, 1, 1, **chance), day)
    top, bottom = torch.tensor(SKY, **single)[:, :channels, None, None]
    evening = torch.lerp(top, bottom, (rows.float() / side).expand(1, channels, side, side))
    lamp = (rows - side / 2) ** 2 + (columns - side / 3) ** 2 < (side / 24) ** 2
    nights = [torch.where(lamp, 1.0, clouds * light - dark) for light, dark in NIGHTS]
    return torch.cat([day / 4, evening, *nights]).clamp(-1, 1)


def _large(weight: Tensor) -> bool:
    """Whether a convolution with it might be worth it; spares small networks the trial."""
    return weight.ndim == 4 and weight.shape[1] >= int8.CHANNELS and weight[:, 0].numel() >= min(int8.WORK.values())


@torch.inference_mode(False)
@torch.no_grad()
def _try(model: nn.Module, own: list[Tensor]) -> int8.Kernels:
    can = model.capabilities
    side = max(SIDE, can.smallest)
    given = pictures(model.config.get("in_channels", 3), side + -side % can.multiple)
    dtype = torch.bfloat16 if in_half(next(model.parameters())) else torch.float32
    seen = _Seen(set(map(id, own)), dtype)
    with accelerate(model), seen:
        plain = model(given).double()
    found = {key: int8.kernel(*each) for key, each in seen.found.items()}

    def shares(made: Tensor) -> Tensor:
        """Of what pictures may be off, (n, 4) of n times those that are tried."""
        off = (made.double().unflatten(0, (-1, len(given))) - plain).square().mean((2, 3, 4))
        return off / (4 * 10 ** (torch.tensor(ENOUGH) / -10))

    def bears(chosen: int8.Kernels) -> bool:
        with accelerate(model, kernels=chosen):
            return bool((shares(model(given)) <= 1).all())  # not if it is NaN

    if not found or bears(found):
        return found
    alone, many = {}, max(1, TOGETHER // given[:, 0].numel())
    for first in range(0, len(found), many):
        some = list(found)[first : first + many]
        with accelerate(model), _Alone({key: found[key] for key in some}, len(given), dtype):
            made = model(given.repeat(len(some), 1, 1, 1))
        alone |= zip(some, shares(made), strict=True)
    # By what is seen of each for the work that it takes. What several of them change hardly adds up: any change rounds
    # all that comes behind it another way.
    order = sorted(found, key=lambda key: alone[key].max().item() / seen.work[key])
    few, most = 0, len(order) - 1
    while few < most:
        half = (few + most + 1) // 2
        few, most = (half, most) if bears({key: found[key] for key in order[:half]}) else (few, half - 1)
    return {key: found[key] for key in order[:few]}


class _Seen(TorchFunctionMode):
    """Looks for convolutions that would be faster in 8 bit, and at whether their maps have values below zero.

    Args:
        weights: identities of those that stay as they are.
        dtype: what is computed in.

    Attributes:
        found: what :func:`styleforge.engine.int8.kernel` is to be given, by the identity of the weight.
        work: multiplications of each.
    """

    def __init__(self, weights: set[int], dtype: torch.dtype) -> None:
        super().__init__()
        self._weights, self._dtype = weights, dtype
        self.work: Counter[int] = Counter()
        self.found: dict[int, tuple[Tensor, bool, dict[str, Any], torch.dtype, str | None]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in OPTIONS and args[0].ndim == 4:
            x, (weight, _, options) = args[0], convolution(name, args, kwargs)
            found = small(name, x, weight, options)
            x, how = (found.source, found.how) if found else (x, None)
            able = id(weight) in self._weights and (found or name == "conv2d")
            if able and int8.suits(x, weight, options, self._dtype, how):
                signed = id(weight) in self.found and self.found[id(weight)][1]
                self.found[id(weight)] = weight, signed or bool((x < 0).any()), options, self._dtype, how
                self.work[id(weight)] += x.numel() * int8.products(weight, options, how)
        return func(*args, **kwargs)


class _Alone(TorchFunctionMode):
    """Each of some convolutions in 8 bit, of a part of the pictures of its own.

    Args:
        kernels: in the order of the parts.
        count: pictures of each part.
        dtype: what is computed in.
    """

    def __init__(self, kernels: int8.Kernels, count: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._kernels, self._dtype = kernels, dtype
        self._parts = {key: slice(place * count, (place + 1) * count) for place, key in enumerate(kernels)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in OPTIONS:
            x, (weight, bias, options) = args[0], convolution(name, args, kwargs)
            if part := self._parts.get(id(weight)):
                whole, found = self._kernels[id(weight)], small(name, x, weight, options)
                with torch.autocast("cpu", enabled=False):
                    if found and found.how == whole.doubled:
                        options = {**subpixel.PLACE, "padding": found.place.padding}
                        blocks = int8.conv2d(found.source[part], whole, bias, options, self._dtype)
                        found.place.fill(made[part], blocks)
                    elif name == "conv2d" and not whole.doubled:
                        made[part] = int8.conv2d(x[part], whole, bias, options, self._dtype)
        return made
