"""Styles as ONNX graphs, for whatever runs those: one file, pictures of any size, pixels in [0, 1] in and out.

By torch's older exporter, which records one run. The newer one (`dynamo=True`) took 5 to 15 s for tiny networks that
this one records in 0.1 to 0.6, and its graph of a full U-GAT-IT failed at other sizes. What a record would get wrong,
:class:`_Recordable` says in other words, and a graph is compared with its network before its file is kept.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import __version__, images, rng
from .errors import ConfigError, MissingExtra
from .files import replacing
from .hub import Capabilities, PretrainedMixin
from .models import attention
from .pipeline import StylePipeline, luma

OPSET = 18  # 16 to 20 gave the same
SIZES = ((64, 64), (96, 128), (130, 75))
TOLERANCE = 1e-3  # a quarter of a step of 8 bits
ROUNDS = 3  # of each, in turn; the fastest counts, because others use the machine as well


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares.

    Attributes:
        file: the graph.
        bytes: its size.
        differences: largest difference from PyTorch, of values in [0, 1], by (height, width).
        seconds: for one picture of the largest size, in ONNX Runtime.
        latency_ratio: of that to PyTorch's time in float32, with as many threads; below 1 ONNX Runtime is faster.
    """

    file: Path
    bytes: int
    differences: dict[tuple[int, int], float]
    seconds: float
    latency_ratio: float


def export_onnx(
    style: PretrainedMixin | StylePipeline,
    file: str | os.PathLike[str],
    *,
    name: str = "",
    license: str = "",
    opset: int = OPSET,
    sizes: Sequence[tuple[int, int]] = SIZES,
    tolerance: float = TOLERANCE,
) -> ExportReport:
    """Write a style as an ONNX graph, and compare it with PyTorch before the file is kept.

    All is float32, and batch, height and width are free. What the graph takes:

    ========= ============ ================================================================================
    `image`   (B, 3, H, W) pictures, sRGB in [0, 1], of any size: it is padded and cropped inside
    `style`   (1, 3, h, w) for networks that take any style, a picture of it, in [0, 1], of any size
    `weights` (B, styles)  for networks that have learnt several, how much of each, with sum 1
    `noise`   (B, size)    for networks that start from noise, from N(0, 1); nothing else then
    ========= ============ ================================================================================

    and what it gives: `output`, (B, 3, H, W) in [0, 1]. The strength is always the full one: blend with the picture.
    A style's picture is used as it comes, where :class:`StylePipeline` makes large ones smaller. Networks that attend
    to it need memory for all pairs of places at once.

    Args:
        style: the style.
        file: where to, ending in `.onnx`; replaced only when all is well.
        name: of the style, for the metadata; that of the file if empty.
        license: of the style, for the metadata.
        opset: version of ONNX's operators.
        sizes: heights and widths at which it is compared, with 1 and 2 pictures in turn.
        tolerance: largest difference of a value in [0, 1] that is allowed.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        ConfigError: the network makes no pictures or has no ONNX form; the graph differs; no size to compare at;
            another suffix, or a folder.
        OSError: the file cannot be written.
    """
    file = Path(file)
    if file.is_dir() or file.suffix.lower() != ".onnx":
        raise ConfigError(
            "Cannot write a graph here",
            where=file,
            found="a folder" if file.is_dir() else repr(file.suffix),
            allowed="a file that ends in .onnx",
            todo="Name one; files for spandrel, which styleforge.bridges.spandrel writes, end in .safetensors.",
        )
    if not sizes or not tolerance > 0:
        raise ConfigError(
            "A graph that is not compared is not kept",
            found=f"{len(sizes)} sizes, tolerance {tolerance}",
            todo="Give sizes like (64, 64), and a tolerance above 0.",
        )
    model = copy.deepcopy(style.model if isinstance(style, StylePipeline) else style).to("cpu", torch.float32)
    StylePipeline(model)  # raises for networks that make no pictures
    with replacing(file) as temporary:
        temporary.touch()  # if nothing can be written here, that is heard before the work
        graph = _record(model, opset)
        facts = {"name": name or file.stem, "license": license, "styleforge": __version__}
        facts |= {"architecture": type(model).__name__, "config": json.dumps(model.config), "value_range": "0 to 1"}
        for key, value in facts.items():
            if value:
                graph.metadata_props.add(key=key, value=value)
        graph.producer_name, graph.producer_version = "styleforge", __version__
        temporary.write_bytes(graph.SerializeToString())
        run = _session(temporary)
        differences = {tuple(size): _difference(model, run, size, 1 + n % 2) for n, size in enumerate(sizes)}
        if not all(difference <= tolerance for difference in differences.values()):  # NaN is not
            raise ConfigError(
                "The graph does not do what the network does, and was not kept",
                where=type(model).__name__,
                found=", ".join(f"{d:.2g} at {w}x{h}" for (h, w), d in differences.items()),
                allowed=f"differences up to {tolerance:g}",
                todo="Try another opset; if none helps, report it with the config.json of the style.",
            )
        ours, theirs = _seconds(model, run, max(sizes, key=math.prod))
    return ExportReport(file, file.stat().st_size, differences, ours, ours / theirs)


class _Whole(nn.Module):
    """A network with all that the pipeline does around it, for pixels in [0, 1]."""

    def __init__(self, model: PretrainedMixin) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        can = self.model.capabilities
        if can.inputs == ("noise",):
            return _finished(self.model(first))
        size = first.shape[2:]
        image = network_input(self.model, _padded(first, can))
        if "style" in can.inputs:
            styled = self.model(image, _padded(second, can) * 2 - 1)
        else:
            styled = self.model(image) if second is None else self.model(image, weights=second)
        return _finished(styled[:, :, : size[0], : size[1]])


def network_input(model: PretrainedMixin, image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to what a network takes."""
    if model.config.get("in_channels", 3) == 1:
        image = luma(image)
    return image * 2 - 1


def _finished(styled: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) in [-1, 1] to (B, 3, H, W) in [0, 1]."""
    styled = torch.cat([styled] * 3, 1) if styled.shape[1] == 1 else styled
    return ((styled + 1) / 2).clamp(0, 1)


def _padded(image: Tensor, can: Capabilities) -> Tensor:
    """As :func:`styleforge.images.pad`, of any size: there the sizes are numbers, here they are part of the graph."""
    for dim in (2, 3):
        length = torch.as_tensor(image.shape[dim])
        target = length.clamp(min=can.smallest).add(can.multiple - 1).div(can.multiple, rounding_mode="floor")
        wave = torch.arange(target * can.multiple) % (2 * length - 2).clamp(min=1)
        image = image.index_select(dim, torch.minimum(wave, (2 * length - 2 - wave).abs()))
    return image


class _Recordable(TorchFunctionMode):
    """The same numbers in operations that a record keeps free of the example's size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.shape.__get__:
            # Channels are numbers: of filters that are made as they are needed, the exporter must know the shape.
            return torch.Size(int(n) if dim == 1 else n for dim, n in enumerate(func(*args)))
        if func is Tensor.split:  # saves memory only; the record would hold as many parts as the example has
            return (args[0],)
        if func is F.adaptive_avg_pool2d and args[1] != 1:
            return _pool(*args)
        if func is F.batch_norm and kwargs.get("training") and args[1] is None:
            centred = args[0] - args[0].mean((0, 2, 3), keepdim=True)
            deviation = (centred.square().mean((0, 2, 3), keepdim=True) + kwargs["eps"]).sqrt()
            weight, bias = (kwargs[name].view(1, -1, 1, 1) for name in ("weight", "bias"))
            return centred / deviation * weight + bias
        return func(*args, **kwargs)


def _pool(x: Tensor, size: int) -> Tensor:
    """Adaptive average pooling to a square, by matrix products."""
    places = torch.arange(size)
    shares = []
    for length in x.shape[2:]:
        start = (places * length).div(size, rounding_mode="floor")[:, None]
        end = ((places + 1) * length + size - 1).div(size, rounding_mode="floor")[:, None]
        pixels = torch.arange(length)
        shares.append(((pixels >= start) & (pixels < end)).to(x.dtype) / (end - start))
    return shares[0] @ x @ shares[1].T


def _thin(x: Tensor, count: int) -> Tensor:
    """As :func:`styleforge.models.attention.thin`, whatever the size."""
    sides = [torch.as_tensor(side) for side in x.shape[2:]]
    share = (count / (sides[0] * sides[1]).double()).sqrt().clamp(max=1)
    for dim, side in zip((2, 3), sides, strict=True):
        kept = (side * share).long().clamp(1, count)
        x = x.index_select(dim, ((2 * torch.arange(kept) + 1) * side).div(2 * kept, rounding_mode="floor"))
    return x


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """In words fit to be recorded; without the warnings, one for each size that becomes a number."""
    usual = attention.thin
    attention.thin = _thin
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Recordable():
            warnings.simplefilter("ignore")
            yield
    finally:
        attention.thin = usual


def _record(model: PretrainedMixin, opset: int) -> Any:
    """The graph, as an `onnx.ModelProto`."""
    try:
        import onnx
    except ImportError as error:
        raise _missing() from error
    can = model.capabilities
    side = max(can.smallest, 32) + 1
    # One picture: what the record then takes for a constant (StyleGAN2's start) still fits any number of them.
    example = _example(model, (side, side + 9), 1)
    whole = _Whole(model)
    # Not what it is: where values of two weights are equal, as they are at the start, the exporter keeps one of them
    # and now and then loses it. It leaves them alone in networks that are trained, and this flag is all it looks at.
    whole.training = True
    free = {0: "batch", 2: "height", 3: "width"}
    axes = {"image": free, "style": {2: "style_height", 3: "style_width"}, "output": free}
    names = list(example)
    file = io.BytesIO()
    try:
        with _recording():
            torch.onnx.export(
                whole,
                tuple(example.values()),
                file,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=names,
                output_names=["output"],
                opset_version=opset,
                dynamic_axes={key: axes.get(key, {0: "batch"}) for key in [*names, "output"]},
            )
        return onnx.load_from_string(file.getvalue())
    except Exception as error:  # the exporter raises nearly everything
        raise ConfigError(
            "This network has no ONNX form",
            where=type(model).__name__,
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}",
            todo="Try a newer opset, or use the style through StylePipeline.",
        ) from error


def _example(model: PretrainedMixin, size: tuple[int, int], batch: int) -> dict[str, Tensor]:
    """Something of everything that a graph takes, by name; the same for the same size."""
    can, generator = model.capabilities, rng.generator("export", *size)
    if can.inputs == ("noise",):
        return {"noise": torch.randn(batch, model.config["noise_size"], generator=generator)}
    given = {"image": torch.rand(batch, 3, *size, generator=generator)}
    if "style" in can.inputs:
        given["style"] = torch.rand(1, 3, size[0] + 9, size[1] + 3, generator=generator)
    elif can.styles > 1:
        given["weights"] = torch.rand(batch, can.styles, generator=generator).softmax(1)
    return given


def _session(file: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing() from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; which warnings there are depends on the machine
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, without a base
        raise ConfigError("ONNX Runtime refuses the graph", found=error, todo="Try another opset.") from error
    return lambda given: session.run(["output"], given)[0]


def _missing() -> MissingExtra:
    return MissingExtra(
        "Exporting needs onnx and onnxruntime", todo='Install them with: pip install "styleforge[export]"'
    )


@torch.inference_mode()
def _expected(model: PretrainedMixin, given: dict[str, Tensor]) -> Tensor:
    """What :class:`_Whole` should give, with the padding of the library."""
    can, given = model.capabilities, dict(given)
    if "noise" in given:
        return _finished(model(given["noise"]))
    image, box = images.pad(given.pop("image"), can.multiple, can.smallest)
    if "style" in given:
        given["style"] = images.pad(given["style"], can.multiple, can.smallest)[0] * 2 - 1
    return _finished(images.crop(model(network_input(model, image), **given), box))


def _difference(model: PretrainedMixin, run: Callable[..., np.ndarray], size: tuple[int, int], batch: int) -> float:
    given = _example(model, size, batch)
    expected = _expected(model, given).numpy()
    try:
        found = run({key: value.numpy() for key, value in given.items()})
    except Exception as error:  # as above
        raise ConfigError(
            "The graph does not run, and was not kept",
            where=f"{type(model).__name__} at {size[1]}x{size[0]}",
            found=error,
            todo="Try another opset; if none helps, report it with the config.json of the style.",
        ) from error
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else math.inf


def _seconds(model: PretrainedMixin, run: Callable[..., np.ndarray], size: tuple[int, int]) -> tuple[float, float]:
    """For one picture, in ONNX Runtime and in PyTorch."""
    given = _example(model, size, 1)
    arrays = {key: value.numpy() for key, value in given.items()}
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for spent, call in zip(times, (lambda: run(arrays), lambda: _expected(model, given)), strict=True):
            begin = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begin)
    return min(times[0]), min(times[1])
