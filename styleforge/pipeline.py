"""From a picture to a styled picture of the same size."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import (
    control,
    engine,
    images,
    memory,
    models,  # noqa: F401 -- fills the table that from_pretrained looks classes up in
    rng,
)
from .errors import ConfigError
from .hub import PretrainedMixin, fetch
from .images import DEFAULT_POLICY, ImagePolicy, Picture, Pixels
from .losses.pixel import YUV

OutputType = Literal["pil", "np", "pt"]
KINDS_OF_INPUT = (("image",), ("image", "style"), ("noise",))
STYLE_SIDE = 512  # short side of a picture that a style is taken from: more shows finer strokes only


class StylePipeline:
    """Applies a style to pictures.

    >>> pipe = StylePipeline.from_pretrained("fastcut-monet")
    >>> pipe("photo.jpg").save("painting.png")

    Several threads may call one pipeline. On a CPU a server is quickest if it loads and calls its pipelines on a single
    thread: torch keeps helpers for each thread that calls it, and more of them than cores get in each other's way (256
    px in 60 ms where it could be 40).

    Args:
        model: a network that makes pictures: from a picture, from a picture and a picture of the style, or from noise.
        policy: limits on the pictures that come in.
        fast: compute in bfloat16 where the processor or GPU does that by itself, and in 8 bit where the processor is
            faster in that and the network bears it, which is tried before the first picture (about a second for our
            styles, see :mod:`styleforge.engine.trial`). Of 36 photographs in our styles none came out further than 42
            dB from float32; a picture with next to nothing in it may. Weights of convolutions are then kept in the
            processor's order from the second picture of a size on, half of their size in float32 or less, see
            :mod:`styleforge.engine.replay`.
        compile: use torch.compile, for many pictures of one size: the first of each size takes seconds to minutes,
            those after it are sooner done on some machines, and on others not (`scripts/benchmark.py --compile`
            measures). Without a compiler (a C++ compiler, for CPUs) it warns and goes on without; so do networks that
            take more than a picture. Pictures in tiles, and films with steady statistics, are not compiled; what is
            computes nothing in 8 bit.

    Attributes:
        model: the network, in evaluation mode.
        policy: limits on the pictures that come in.
        fast: see above.
        compile: see above.

    Raises:
        ConfigError: the network makes no pictures, or lies on the device "meta", where nothing is computed.
    """

    def __init__(
        self, model: PretrainedMixin, policy: ImagePolicy = DEFAULT_POLICY, *, fast: bool = True, compile: bool = False
    ) -> None:
        can = model.capabilities
        channels = model.config.get("in_channels", 3), model.config.get("out_channels", 3)
        if can.inputs not in KINDS_OF_INPUT or can.output != "image" or not set(channels) <= {1, 3}:
            raise ConfigError(
                "This network makes no pictures",
                where=type(model).__name__,
                found=f"{' and '.join(can.inputs)} with {channels[0]} channels in, {can.output} out",
                allowed="an image, an image and a style, or noise; images with 1 or 3 channels in and out",
                todo="Load the generator of the style (another subfolder?), or call the network itself.",
            )
        if model.device.type == "meta":
            raise ConfigError(
                "This network has shapes and no weights",
                where=type(model).__name__,
                found="device 'meta'",
                allowed="cpu, or cuda, mps, xpu where torch finds one",
                todo="Choose another device.",
            )
        self.model = model.eval()
        self.policy = policy
        self.fast, self.compile = fast, compile
        self._shortcut: engine.Compiled | engine.Replay | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = "",
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        policy: ImagePolicy = DEFAULT_POLICY,
        compile: bool = False,
    ) -> Self:
        """Load a style from a folder, from those that come with the package, or from the Hub.

        Args:
            pretrained_model_name_or_path: a folder, also of a run, the name of a bundled style, or
                `organisation/name`.
            revision: branch, tag or commit on the Hub.
            subfolder: folder inside the repository, for instance "reverse" for the way back of a CycleGAN.
            dtype: type to compute in, and nothing else; when None, float32 or what is faster: see `fast` of the class.
            device: where to compute; when None "cuda" where torch finds one, else "cpu".
            token: Hub token; the saved one when None.
            cache_dir: Hub cache; the usual one when None.
            local_files_only: never ask the network.
            force_download: fetch again although it is in the cache.
            policy: limits on the pictures that come in.
            compile: use torch.compile; see the class.

        Raises:
            RepoError, ConfigError, CorruptFileError, UnsafeFileError, WeightsError: see
                :mod:`styleforge.errors`; the message says what to do.
        """
        files = fetch(
            pretrained_model_name_or_path,
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = PretrainedMixin.from_files(files, dtype=dtype or torch.float32, device=device)
        return cls(model, policy, fast=dtype is None, compile=compile)

    def __call__(
        self,
        image: Any,
        *,
        style: Any = None,
        strength: float = 1.0,
        mask: Any = None,
        mask_fit: bool = False,
        feather: float = 0.0,
        segmenter: control.Segmenter | str | None = None,
        preserve_color: control.Color | None = None,
        style_scale: float = 1.0,
        max_memory: float | None = None,
        statistics: engine.Statistics = "exact",
        progress: engine.Progress | None = None,
        output_type: OutputType = "pil",
    ) -> Any:
        """Style a picture, or several.

        Args:
            image: a path, URL, `bytes`, file object, PIL image, array (H, W[, C]) or tensor (C, H, W), or a list
                of these; see :func:`styleforge.images.read`.
            style: for networks that take any style, a picture of it (in any form that `image` may have), or several:
                `["a.jpg", "b.jpg"]`, with shares `[("a.jpg", 0.7), ("b.jpg", 0.3)]`; for networks that have learnt
                several, the number of one, or a weight for each.
            strength: 0 gives the picture back, 1 the full style, between them a blend; up to 1.5 exaggerates.
            mask: where to style: a picture (in any form that `image` may have) that is white there, or the name of a
                region that `segmenter` finds, unless a file is called so. Pixels where it is black stay as they are, to
                the bit.
            mask_fit: resize a mask of another size than the picture.
            feather: width in pixels of a soft edge inside the mask.
            segmenter: finds regions by name: see :func:`styleforge.control.find_region`.
            preserve_color: "luma" keeps the colors of the picture place by place, "histogram" its palette; see
                :func:`styleforge.control.preserve_color`.
            style_scale: size of the brush, from 0.25 to 8; see :func:`styleforge.control.style_scale`.
            max_memory: GiB that computing may take, half of what is free when None; a picture that needs more is
                computed in tiles, see :mod:`styleforge.engine`. The picture itself is in memory, before and after, in
                8 bit; with a mask, the colors of "histogram", a `style_scale` or another `output_type` also in float32.
            statistics: where tiles have the statistics of the whole picture from: "exact", or "thumbnail", which is
                quicker and differs a little in color and contrast; see :func:`styleforge.engine.run_tiled`.
            progress: called with how many tiles of how many are done.
            output_type: "pil"; "np", an array (H, W, C) of float32 in [0, 1]; or "pt", a tensor (C, H, W) of
                float32 in [0, 1]. Transparency is the fourth channel where the picture has it.

        Returns:
            A picture of the same size, with the same transparency; a list for a list.

        Raises:
            ImageError: a picture cannot be used.
            ConfigError: a strength outside [0, 1.5] or another setting that cannot be used, a mask of another size,
                a region that is not there, what belongs to a mask without one, a style that is missing or of no use,
                or a network that starts from noise: see :meth:`generate`.
        """
        _check_choice("output_type", output_type, OutputType)
        how = _checked(strength, preserve_color, style_scale, max_memory, statistics, progress)
        if mask is None and (mask_fit or feather or segmenter is not None):
            raise ConfigError(
                "There is no mask",
                found=f"mask_fit={mask_fit}, feather={feather}, segmenter={segmenter}",
                todo="Say where to style: mask=, or --mask. Or leave these out.",
            )
        options = self._style_options(style)
        where = None if mask is None else control.read_where(mask, segmenter, self.policy)

        def made(one: Any) -> Any:
            picture = images.read(one, self.policy)
            segments = control.segment(picture, segmenter) if isinstance(where, str) else None
            region = None if where is None else self._region(picture, where, mask_fit, feather, segments)
            return self._made(picture, region, options, how, output_type)

        if isinstance(image, (list, tuple)) or (isinstance(image, (Tensor, np.ndarray)) and image.ndim == 4):
            return [made(one) for one in image]
        return made(image)

    def _made(
        self, picture: Picture, region: Tensor | None, options: dict[str, Any], how: _How, output_type: OutputType
    ) -> Any:
        """What the caller gets of one picture."""
        if region is not None and not region.any():
            return _finish(picture.tensor(), picture.alpha, output_type)
        by_place = region is None and how.scale == 1 and how.color != "histogram"
        if output_type == "pil" and by_place and how.strength > 0 and self.model.config.get("in_channels", 3) == 3:
            array = np.empty(picture.rgb.shape, np.uint8)
            self._paint(picture, array, options, how)
            return images.with_alpha(array, picture.alpha)
        styled = self._style(picture, options, how)
        if region is not None:
            styled = control.compose(picture, [(styled.float().cpu(), region)]).tensor()
        return _finish(styled, picture.alpha, output_type)

    @torch.inference_mode()
    def generate(
        self,
        num_images: int = 1,
        *,
        seed: int = 0,
        first: int = 0,
        grain: Literal["fresh", "kept"] = "fresh",
        output_type: OutputType = "pil",
    ) -> list[Any]:
        """Make new pictures from noise.

        Args:
            num_images: how many.
            seed: the same seed makes the same pictures; a longer list begins with those of a shorter one.
            first: leave out so many that come before.
            grain: of networks that have some (StyleGAN2): "fresh" for each picture, or the one that the network keeps,
                with which `styleforge invert` finds codes: all strokes then fall on the same places.
            output_type: as for calling the pipeline.

        Raises:
            ConfigError: this network starts from pictures.
        """
        _check_choice("output_type", output_type, OutputType)
        _check_choice("grain", grain, Literal["fresh", "kept"])
        if self.model.capabilities.inputs != ("noise",):
            raise ConfigError(
                "This network styles pictures and makes none from noise",
                where=type(self.model).__name__,
                todo="Call pipe(image), or `styleforge stylize`.",
            )
        size, pictures = self.model.config["noise_size"], []
        fresh = self.model.capabilities.grain and grain == "fresh"
        for number in range(first, first + num_images):
            noise = torch.randn(1, size, generator=rng.generator(seed, "noise", number))
            more = {"noises": self.model.fresh_noises(1, rng.generator(seed, "grain", number))} if fresh else {}
            picture = self.model(noise.to(self.device, self.dtype), **more).expand(-1, 3, -1, -1)
            pictures.append(_finish(picture, None, output_type))
        return pictures

    def paint(
        self,
        picture: Picture,
        array: Any,
        *,
        style: Any = None,
        strength: float = 1.0,
        preserve_color: Literal["luma"] | None = None,
        max_memory: float | None = None,
        statistics: engine.Statistics = "exact",
        progress: engine.Progress | None = None,
    ) -> None:
        """What calling the pipeline gives, put into an array part by part, as they are done.

        Args:
            picture: where `rgb[rows, columns]` reads a part.
            array: (H, W, 3) of uint8, where `array[rows, columns] = part` keeps one.
            style: as for calling, like all others.
            strength: see there.
            preserve_color: see there; "histogram" would have to know the whole picture.
            max_memory: see there.
            statistics: see there.
            progress: see there.

        Raises:
            ConfigError: a setting that cannot be used, or a network that takes no color pictures.
        """
        how = _checked(strength, preserve_color, 1.0, max_memory, statistics, progress)
        can = self.model.capabilities
        problem = None
        if preserve_color not in (None, "luma"):
            problem = "Colors cannot be kept like this part by part", preserve_color, 'preserve_color="luma"'
        elif "image" not in can.inputs or self.model.config.get("in_channels", 3) != 3:
            problem = "This network cannot paint part by part", type(self.model).__name__, "one from color to color"
        if problem:
            what, found, allowed = problem
            raise ConfigError(what, found=found, allowed=allowed, todo="Call the pipeline with the whole picture.")
        self._paint(picture, array, self._style_options(style), how)

    @torch.inference_mode()
    def _paint(self, picture: Picture, array: Any, options: dict[str, Any], how: _How) -> None:
        """What :meth:`_style` and rounding give, where each pixel can be finished by itself: by tiles of any size."""
        options, rest = self._shares(options, how.strength)
        can = self.model.capabilities
        fits = {"multiple": can.multiple, "smallest": can.smallest}
        source = Pixels(picture, **fits, dtype=self.dtype, device=self.device)
        plain = rest == 1 and how.color is None
        finish = None if plain else lambda before, styled: _blend(before, styled, rest, how.color)
        canvas = _Canvas(source, array, finish)
        self._engine(source, options, how.given, into=canvas)

    @torch.inference_mode()
    def _style(self, picture: Picture, options: dict[str, Any], how: _How) -> Tensor:
        """(1, 3, H, W) in [-1, 1]."""
        source = picture.tensor(dtype=self.dtype, device=self.device)
        if how.strength == 0:
            return source
        options, rest = self._shares(options, how.strength)
        styled = control.style_scale(source, how.scale, lambda image: self._run(image, options, how.given))
        return _blend(source, styled, rest, how.color)

    def _shares(self, options: dict[str, Any], strength: float) -> tuple[dict[str, Any], float]:
        """What the network does of `strength`, in its options, and what is left for the pixels."""
        if self.model.capabilities.strength and strength > 0:  # it blends features itself, up to the full style, but
            # what it makes of the picture's own features is not the picture
            return {**options, "strength": min(strength, 1.0)}, max(strength, 1.0)
        return options, strength

    def _run(self, source: Tensor, options: dict[str, Any], given: dict[str, Any]) -> Tensor:
        """The network on a picture of any size: (1, 3, H, W) in [-1, 1] to the same."""
        can = self.model.capabilities
        padded, box = images.pad(source.to(self.dtype), can.multiple, can.smallest)
        if self.model.config.get("in_channels", 3) == 1:
            padded = luma(padded)
        return images.crop(self._engine(padded, options, given), box).expand(-1, 3, -1, -1)

    def _engine(
        self, image: Tensor | Pixels, options: dict[str, Any], given: dict[str, Any], into: Any = None
    ) -> Tensor:
        kind = engine.Compiled if self.compile else engine.Replay
        shortcut = self._shortcut
        if not isinstance(shortcut, kind) or shortcut.model is not self.model:
            shortcut = self._shortcut = kind(self.model)
        return engine.run(self.model, image, into=into, fast=self.fast, shortcut=shortcut, options=options, **given)

    def _region(self, picture: Picture, where: Picture | str, fit: bool, feather: float, segments: Any) -> Tensor:
        """(1, 1, H, W) in [0, 1]; `segments` is what :func:`control.segment` gave, for a region that is named."""
        if isinstance(where, str):
            mask = control.pick_region(picture, where, segments, fit=fit, policy=self.policy)
        else:
            mask = control.read_mask(where, picture.size, fit=fit, photo=picture.source)
        return control.feather(mask, feather)

    @property
    def _takes_style(self) -> bool:
        return "style" in self.model.capabilities.inputs or self.model.capabilities.styles > 1

    def _style_options(self, style: Any) -> dict[str, Tensor]:
        """What the network wants to know beside the picture."""
        can, name = self.model.capabilities, type(self.model).__name__
        if can.inputs == ("noise",):
            raise ConfigError(
                "This network makes pictures from noise and styles none",
                where=name,
                todo="Call pipe.generate(8, seed=0), or `styleforge generate`.",
            )
        if "style" in can.inputs:
            if style is None:
                raise ConfigError(
                    "This network takes any style and was given none",
                    where=name,
                    todo='Give a picture of it: pipe(image, style="painting.jpg"), or --reference painting.jpg.',
                )
            read = control.read_styles(style, self.policy)
            return {"style": [(self._reference(picture), share) for picture, share in read]}
        if style is None:
            return {}
        style = control.plain(style)
        given = [float(n == style) for n in range(can.styles)] if isinstance(style, int) else style
        weights = [control.plain(weight) for weight in given] if isinstance(given, (list, tuple)) else []
        numbers = all(isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights)
        if can.styles == 1 or not numbers or len(weights) != can.styles or not sum(weights) > 0:
            raise ConfigError(
                "This style cannot be chosen",
                where=name,
                found=reprlib.repr(style),  # may be a picture
                allowed=f"a number below {can.styles}, or {can.styles} weights" if can.styles > 1 else "the one it has",
                todo="Choose another one." if can.styles > 1 else "Leave it out: this network has learnt one style.",
            )
        return {"weights": torch.tensor([weights], dtype=self.dtype, device=self.device) / sum(weights)}

    def _reference(self, picture: Picture) -> Tensor:
        """(1, 3, H, W) of a size that the network takes; its shape changes by less than the network can see."""
        can, style = self.model.capabilities, picture.tensor(dtype=self.dtype, device=self.device)
        factor = min(1.0, STYLE_SIDE / min(style.shape[2:]))
        size = [max(can.smallest, round(side * factor / can.multiple) * can.multiple) for side in style.shape[2:]]
        if size == list(style.shape[2:]):
            return style
        return F.interpolate(style, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.model.dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert the network, as `torch.nn.Module.to`."""
        self.model.to(*args, **kwargs)
        return self

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> Path:
        """Write the style into a folder; see :meth:`styleforge.hub.PretrainedMixin.save_pretrained`."""
        return self.model.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the style; see :meth:`styleforge.hub.PretrainedMixin.push_to_hub`."""
        return self.model.push_to_hub(repo_id, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """What is compiled, or noted down, belongs to its process."""
        return {**self.__dict__, "_shortcut": None}

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.model.config.items())
        return f"StylePipeline({type(self.model).__name__}({settings}), {self.dtype}, {self.device})"


def style_regions(
    image: Any,
    regions: Iterable[tuple[StylePipeline, Any]],
    *,
    style: Any = None,
    mask_fit: bool = False,
    feather: float = 0.0,
    segmenter: control.Segmenter | str | None = None,
    output_type: OutputType = "pil",
    **options: Any,
) -> Any:
    """Several styles in several regions of one picture.

    >>> style_regions("photo.jpg", [(monet, "sky"), (hokusai, "sea")], segmenter="organisation/name", feather=8)

    Args:
        image: one picture, as for calling a pipeline.
        regions: styles with the mask or the name of their region. Where masks overlap they share; pixels that none
            covers stay as they are, to the bit.
        style: as for calling a pipeline, for those of them that take one.
        mask_fit: as for calling a pipeline, like `feather`, `segmenter` and `output_type`.
        feather: see there.
        segmenter: see there; it is asked once.
        output_type: see there.
        **options: for all styles: `strength`, `preserve_color`, `style_scale`, `max_memory`, `statistics`, `progress`.

    Raises:
        ImageError, ConfigError: as there.
    """
    _check_choice("output_type", output_type, OutputType)
    how = _checked(**options)
    pairs = [pair if isinstance(pair, (tuple, list)) else (pair,) for pair in regions]
    if not pairs or not all(len(pair) == 2 and isinstance(pair[0], StylePipeline) for pair in pairs):
        raise ConfigError(
            "There is no region to style in this",
            found=", ".join(f"({', '.join(type(part).__name__ for part in pair)})" for pair in pairs) or "nothing",
            allowed="(pipeline, mask), and more of these",
            todo='Give a list: [(monet, "sky"), (hokusai, mask)].',
        )
    policy = pairs[0][0].policy
    picture, style = images.read(image, policy), control.read_style(style, policy)
    takers = [pipe for pipe, _ in pairs if pipe._takes_style] or [pairs[0][0]]  # which says that it takes none
    plan = [
        (pipe, control.read_where(mask, segmenter, policy), pipe._style_options(style if pipe in takers else None))
        for pipe, mask in pairs
    ]
    named = any(isinstance(where, str) for _, where, _ in plan)
    segments = control.segment(picture, segmenter) if named else None
    layers = []
    for pipe, where, chosen in plan:
        region = pipe._region(picture, where, mask_fit, feather, segments)
        if region.any():
            layers.append((pipe._style(picture, chosen, how).float().cpu(), region))
    result = control.compose(picture, layers) if layers else picture
    return _finish(result.tensor(), picture.alpha, output_type)


def luma(image: Tensor) -> Tensor:
    """As :func:`styleforge.losses.gray`, in the type of the picture: what networks of one channel are given."""
    weights = torch.tensor(YUV[0], dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise ConfigError(f"Unknown {name}", found=repr(value), allowed=allowed, todo="Choose one of these.")


class _How(NamedTuple):
    """What :func:`_checked` has found in order.

    Attributes:
        strength: see :meth:`StylePipeline.__call__`.
        color: `preserve_color`.
        scale: `style_scale`.
        given: what the engine is told beside the picture.
    """

    strength: float
    color: control.Color | None
    scale: float
    given: dict[str, Any]


def _checked(
    strength: float = 1.0,
    preserve_color: control.Color | None = None,
    style_scale: float = 1.0,
    max_memory: float | None = None,
    statistics: engine.Statistics = "exact",
    progress: engine.Progress | None = None,
) -> _How:
    """Settings for all pictures, before anything is read or computed."""
    if preserve_color is not None:
        control.check_color(preserve_color)
    _check_choice("statistics", statistics, engine.Statistics)
    budget = None
    if max_memory is not None:
        budget = int(control.check_number("max_memory", max_memory, 0, 1e6, "It is in GiB.") * memory.GIB)
    given = {"max_memory": budget, "statistics": statistics, "progress": progress}
    return _How(control.check_strength(strength), preserve_color, control.check_scale(style_scale), given)


class _Canvas:
    """Takes tiles of what a network makes; finishes and rounds them at once.

    Args:
        source: the picture.
        array: (H, W, 3) uint8, for what comes out.
        finish: makes (1, 3, h, w) in [-1, 1] of a part of the picture and of the same part as the network gave it;
            the latter, when None.
    """

    def __init__(self, source: Pixels, array: Any, finish: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        self._source, self._array, self._finish = source, array, finish

    def __setitem__(self, place: tuple[slice, slice, slice, slice], styled: Tensor) -> None:
        rows, columns = (slice(*p.indices(side)) for p, side in zip(place[2:], self._array.shape[:2], strict=True))
        height, width = rows.stop - rows.start, columns.stop - columns.start  # without padding
        if height and width:
            styled = styled[..., :height, :width].expand(-1, 3, -1, -1)
            made = self._finish(self._source[:, :, rows, columns], styled) if self._finish else styled
            self._array[rows, columns] = images.to_array(made[0])


def _blend(source: Tensor, styled: Tensor, strength: float, color: control.Color | None) -> Tensor:
    """(1, 3, H, W) in [-1, 1], of a picture and what the network makes of it."""
    if color is not None:
        styled = control.preserve_color(source, styled, color)
    return control.extrapolate(source, styled, strength)


def _finish(styled: Tensor, alpha: np.ndarray | None, output_type: OutputType) -> Any:
    """(1, 3, H, W) in [-1, 1] to what the caller wants."""
    if output_type == "pil":
        return images.to_pil(styled, alpha)
    result = ((styled[0].float().clamp(-1, 1) + 1) / 2).cpu()
    if alpha is not None:
        result = torch.cat([result, torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[None]])
    return result if output_type == "pt" else result.permute(1, 2, 0).contiguous().numpy()
