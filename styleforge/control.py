"""What the artist decides after the network has run: how much, where, whose colors, how large the strokes.

Functions on pictures (1, 3, H, W) in [-1, 1] and masks (1, 1, H, W) in [0, 1]; they compute in float32 and give it
back. Nothing here knows a pipeline. A mask that covers nothing is allowed (a photograph without sky): the picture
stays what it was.
"""

from __future__ import annotations

import copy
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import images
from .errors import ConfigError, ImageError, MaskMismatch, MissingExtra, NoSuchRegion, UnknownName, nearest
from .hub import PretrainedMixin
from .images import DEFAULT_POLICY, ImagePolicy, Picture, Source
from .losses.pixel import YUV, gray
from .precision import full_precision

Color = Literal["luma", "histogram"]
Region = tuple[Tensor, Tensor]  # styled (1, 3, H, W) in [-1, 1], mask (1, 1, H, W) in [0, 1]
Segmenter = Callable[[Image.Image], Any]
MAX_STRENGTH = 1.5
SCALES = (0.25, 8.0)  # of style_scale: 16 times the pixels, and what is left of 512 px is 64
_STRIP = 2**22  # pixels that `compose` works on at once: some 50 MB for each tensor

# ---------------------------------------------------------------------------------------------- how much


def check_strength(strength: float) -> float:
    """`strength`, when it is a number in [0, 1.5]; a pipeline asks before the network runs.

    Raises:
        ConfigError: it is none.
    """
    return check_number("strength", strength, 0, MAX_STRENGTH, "0 is the picture, 1 the style, above it exaggerates.")


def check_scale(factor: float) -> float:
    """`factor`, when it is a number in [0.25, 8], as :func:`check_strength`.

    Raises:
        ConfigError: it is none.
    """
    return check_number("The scale", factor, *SCALES, "2 makes strokes twice as large.")


@full_precision
def extrapolate(source: Tensor, styled: Tensor, strength: float) -> Tensor:
    """Go from the picture towards the style, or beyond it.

    No pixel comes nearer to the source again as strength grows: colors that leave [-1, 1] stay at its end.

    Args:
        source: (1, 3, H, W) in [-1, 1].
        styled: likewise.
        strength: 0 gives `source` back and 1 `styled`, both exactly.

    Returns:
        (1, 3, H, W) in [-1, 1].

    Raises:
        ConfigError: the strength is outside [0, 1.5].
        ImageError: the pictures differ in size.
    """
    _check_pair(source, styled)
    return torch.lerp(source, styled, check_strength(strength)).clamp(-1, 1)


# ----------------------------------------------------------------------------------------- whose colors


def check_color(how: str) -> None:
    """Raise :class:`UnknownName` unless `how` is one that :func:`preserve_color` knows."""
    if how not in get_args(Color):
        allowed = get_args(Color)
        raise UnknownName(
            "Unknown way to preserve colors",
            found=repr(how),
            allowed=", ".join(allowed),
            todo=f"{nearest(how, allowed)}Name one.",
        )


@full_precision
def preserve_color(source: Tensor, styled: Tensor, how: Color) -> Tensor:
    """Give a styled picture the colors of its source, after Gatys et al., "Preserving color in neural style transfer".

    "luma": each pixel has the BT.601 luma of the styled picture and the chroma of the source. YCbCr and not a
    perceptual space, because it is linear in the sRGB values that the network drew in: luma is kept up to
    rounding, and chroma is a plain difference. "histogram": one affine map of all pixels gives the styled picture
    the mean and covariance of the source's colors, and of all such maps the one that moves pixels least (Pitié and
    Kokaram, 2007); objects may swap colors, strokes keep their own hues.

    What leaves the gamut loses saturation, and neither luma nor hue.

    Args:
        source: (1, 3, H, W) in [-1, 1].
        styled: likewise.
        how: "luma" or "histogram".

    Returns:
        (1, 3, H, W) in [-1, 1].

    Raises:
        ConfigError: another `how`.
        ImageError: the pictures differ in size.
    """
    check_color(how)
    _check_pair(source, styled)
    if how == "luma":
        return _into_gamut(gray(styled), source - gray(source))
    moved = _match_moments(styled, source)
    luma = gray(moved)
    return _into_gamut(luma, moved - luma)


def _into_gamut(luma: Tensor, chroma: Tensor) -> Tensor:
    """`luma + k chroma` with the largest k in [0, 1], for each pixel, that stays in [-1, 1]."""
    luma = luma.clamp(-1, 1)
    room = torch.where(chroma > 0, 1 - luma, 1 + luma)
    share = (room / chroma.abs().clamp_min(1e-6)).amin(1, keepdim=True).clamp(max=1)
    return (luma + share * chroma).clamp(-1, 1)  # of roundings only


def _match_moments(image: Tensor, target: Tensor) -> Tensor:
    """Pixels of `image` moved to the mean and covariance of those of `target`."""
    pixels, wanted = (x[0].flatten(1) for x in (image, target))
    mean, goal = (x.mean(1, keepdim=True) for x in (pixels, wanted))
    # Deviations below one level of 8 bit count as one: a flat picture's noise is not blown up.
    floor = (2 / 255) ** 2 * torch.eye(3, dtype=torch.float64)
    have, want = ((x - m) @ (x - m).T / x.shape[1] for x, m in ((pixels, mean), (wanted, goal)))
    have, want = (x.cpu().double() + floor for x in (have, want))
    root = _power(have, 0.5)
    inverse = _power(have, -0.5)
    matrix = (inverse @ _power(root @ want @ root, 0.5) @ inverse).to(pixels)
    return (matrix @ (pixels - mean) + goal).view_as(image)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0) ** exponent @ vectors.T


# ------------------------------------------------------------------------------------------------ where


def read_mask(
    mask: Source,
    size: tuple[int, int],
    *,
    fit: bool = False,
    policy: ImagePolicy = DEFAULT_POLICY,
    photo: str | None = None,
) -> Tensor:
    """Read where to style: 1 (white) is styled, 0 (black or transparent) is not.

    Args:
        mask: whatever :func:`styleforge.images.read` takes: a path, a PIL image, an array or tensor of bool, uint8,
            uint16 or floats in [0, 1]. Colors count by their luma, times the alpha where there is one.
        size: `(width, height)` of the picture, as :attr:`styleforge.images.Picture.size`.
        fit: resize a mask of another size.
        policy: limits on files.
        photo: where the picture comes from, for messages.

    Returns:
        (1, 1, H, W) float32 in [0, 1]; black is exactly 0 and white exactly 1.

    Raises:
        MaskMismatch: another size, unless `fit`.
        ConfigError: integers of which the largest is 1, which is black but for one level of 255.
        ImageError: it cannot be read, or holds NaN or what lies outside [0, 1].
    """
    picture = images.read(mask, policy)
    top = np.iinfo(picture.rgb.dtype).max
    if picture.rgb.max() == 1 and "float" not in str(getattr(mask, "dtype", "")):  # floats may be as faint
        raise ConfigError(
            "The mask styles next to nothing",
            where=picture.source,
            found=f"only 0 and 1 of {top}",
            allowed=f"0 to {top}, or bool",
            todo=f"Of 0 and 1 give mask.astype(bool), or multiply a file's values by {top}.",
        )
    # Not `@`, which would convert all three channels at once. Rounded to a level, as Pillow's grey is, because the
    # weights sum to 1 only nearly.
    values = np.einsum("hwc,c->hw", picture.rgb, np.float32(YUV[0]), dtype=np.float32, casting="unsafe")
    np.rint(values, out=values)
    values /= top
    if picture.alpha is not None:
        values *= picture.alpha / np.float32(np.iinfo(picture.alpha.dtype).max)
    result = torch.from_numpy(values)[None, None]
    if picture.size == tuple(size):
        return result
    if not fit:
        raise MaskMismatch(
            "The mask has another size than the picture",
            where=f"{picture.source} for {photo}" if photo else picture.source,
            found=f"{picture.size[0]}x{picture.size[1]}",
            allowed=f"{size[0]}x{size[1]}",
            todo="Make it as large, or have it resized: mask_fit=True, or --mask-fit.",
        )
    return F.interpolate(result, size[::-1], mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def read_where(mask: Source, segmenter: Segmenter | str | None, policy: ImagePolicy = DEFAULT_POLICY) -> Picture | str:
    """What says where to style, for :func:`read_mask` or :func:`find_region`: of many pictures it is read once.

    Args:
        mask: as for :func:`read_mask`; text that is neither a file nor a URL is the name of a region.
        segmenter: what finds regions, if anything does.
        policy: limits on files.

    Raises:
        ConfigError: the name of a region, and no segmenter.
        ImageError: it cannot be read.
    """
    if not isinstance(mask, str) or "://" in mask or os.path.isfile(mask):
        return images.read(mask, policy)
    if segmenter is None:
        raise ConfigError(
            "This mask is no file, and nothing finds regions by name",
            found=repr(mask),
            allowed="a picture, or the name of a region and a segmenter",
            todo="Check the path, or name what finds regions: segmenter=, or --segmenter.",
        )
    return mask


def feather(mask: Tensor, radius_px: float) -> Tensor:
    """Let a mask fade towards its edge, inwards only: what it does not cover stays exactly 0.

    A pixel keeps a share of its mask that grows smoothly with its distance d to the nearest pixel where the mask is
    0: 3t² - 2t³ of t = d / (radius + 1). Thin parts fade and do not vanish. The border of the picture is no edge.

    Args:
        mask: (1, 1, H, W) in [0, 1].
        radius_px: width of the ramp in pixels; 0 changes nothing. Takes time in proportion.

    Returns:
        (1, 1, H, W), nowhere more than `mask`.

    Raises:
        ConfigError: a radius that is negative or not finite.
    """
    radius = check_number("The feather", radius_px, 0, 4000, "It is a width in pixels.")
    if radius == 0:
        return mask
    t = _distance(mask == 0, radius + 1) / (radius + 1)
    return mask * (t * t * (3 - 2 * t))


def _distance(outside: Tensor, most: float) -> Tensor:
    """Euclidean distance to the nearest true pixel of (1, 1, H, W), at most `most`: first along columns, then rows."""
    rows = torch.arange(outside.shape[2], dtype=torch.float32, device=outside.device).view(1, 1, -1, 1)
    above = torch.where(outside, rows, -math.inf).cummax(2).values
    below = torch.where(outside, rows, math.inf).flip(2).cummin(2).values.flip(2)
    column = torch.minimum(rows - above, below - rows).clamp_(max=most).square_()
    square, width = column.clone(), column.shape[3]
    for step in range(1, min(math.ceil(most), width)):  # further ones are no nearer than `most`
        shifted = column + step * step
        torch.minimum(square[..., step:], shifted[..., : width - step], out=square[..., step:])
        torch.minimum(square[..., : width - step], shifted[..., step:], out=square[..., : width - step])
    return square.sqrt_()


def blend(source: Tensor, styled: Tensor, mask: Tensor) -> Tensor:
    """The styled picture where the mask is 1, the source where it is 0, both exactly; :func:`compose_regions` of one.

    Args:
        source: (1, 3, H, W) in [-1, 1].
        styled: likewise.
        mask: (1, 1, H, W) in [0, 1].
    """
    return compose_regions(source, [(styled, mask)])


def compose_regions(source: Tensor, regions: Sequence[Region]) -> Tensor:
    """Several styles, each in its region.

    Where masks overlap and sum to more than 1 they are divided by their sum; what they leave of 1 is the source's.

    Args:
        source: (1, 3, H, W) in [-1, 1].
        regions: styled pictures with their masks, of the same size.

    Returns:
        (1, 3, H, W) in [-1, 1], float32; where all masks are 0, exactly the source.

    Raises:
        ImageError: pictures of different sizes.
        ConfigError: a mask of another size.
    """
    _check_regions(tuple(source.shape[2:]), regions)
    source = source.float()
    masks = [mask.to(source) for _, mask in regions]
    total = sum(masks, torch.zeros_like(source[:, :1]))
    result = source * (1 - total).clamp_min(0)
    for (styled, _), mask in zip(regions, masks, strict=True):
        result = result + styled.to(source) * (mask / total.clamp_min(1))
    return result.clamp(-1, 1)


def compose(picture: Picture, regions: Sequence[Region]) -> Picture:
    """:func:`compose_regions` on the integers of a picture.

    The last step of a pipeline. It starts from the pixels that were read, so neither a network in half precision nor
    16 bit changes one that no mask covers. Nothing is dithered, the alpha is not touched, and pixels below a
    transparent alpha are kept like all others. (PNG, TIFF and arrays keep this; JPEG and WebP change every pixel.)

    Args:
        picture: the picture, of 8 or 16 bit.
        regions: as for :func:`compose_regions`; (1, 3, H, W) on any device.

    Returns:
        A picture of the same depth and size. **Where all masks are 0 its pixels are those of `picture`.**

    Raises:
        ImageError: pictures of another size, or NaN or infinity in one of them.
        ConfigError: a mask of another size.
    """
    _check_regions(picture.rgb.shape[:2], regions)
    rgb, top = np.empty_like(picture.rgb), np.iinfo(picture.rgb.dtype).max
    step = max(1, _STRIP // picture.size[0])
    for first in range(0, len(rgb), step):
        rows = slice(first, first + step)
        strip = Picture(picture.rgb[rows], None, picture.source).tensor()
        mixed = compose_regions(strip, [(s[:, :, rows].to(strip), m[:, :, rows].to(strip)) for s, m in regions])
        if not torch.isfinite(mixed).all():
            todo = "The weights or the input of the model are broken."
            raise ImageError("The picture holds NaN or infinity", where=picture.source, todo=todo)
        rgb[rows] = ((mixed[0] + 1) * (top / 2)).round().permute(1, 2, 0).numpy()
    return Picture(rgb, picture.alpha, picture.source)


# ------------------------------------------------------------------------------ regions from a segmenter

BACKGROUND = "background"


def find_region(
    image: Source,
    name: str,
    segmenter: Segmenter | str,
    *,
    fit: bool = False,
    policy: ImagePolicy = DEFAULT_POLICY,
) -> Tensor:
    """Find what is called `name` in a picture.

    Args:
        image: the picture; the segmenter sees it upright, in sRGB and 8 bit, as the network does.
        name: of a region, in any case; "background" is what no region covers, unless the segmenter has one itself.
        segmenter: a function from a PIL image to one of these, or the name of a model for :func:`load_segmenter`:
            names with masks, `{"sky": mask}`; what image-segmentation pipelines of transformers give,
            `[{"label": "sky", "mask": mask, "score": 0.9}]`, where masks of one label are united; or a label map
            with the names of its labels, `(array (H, W) of integers, {0: "sky"})` or `(array, ["sky"])`.
            Masks are whatever :func:`read_mask` takes, of the size of the picture.
        fit: resize masks of another size.
        policy: limits on the picture.

    Returns:
        (1, 1, H, W) float32 in [0, 1], for :func:`feather` and :func:`compose`.

    Raises:
        NoSuchRegion: no such region; the message lists those that were found.
        MaskMismatch: the segmenter gave masks of another size, and not `fit`.
        ConfigError: the segmenter is none or gave something else.
        MissingExtra: transformers is not installed.
    """
    picture = images.read(image, policy)
    return pick_region(picture, name, segment(picture, segmenter), fit=fit, policy=policy)


def pick_region(
    picture: Picture, name: str, segments: Any, *, fit: bool = False, policy: ImagePolicy = DEFAULT_POLICY
) -> Tensor:
    """As :func:`find_region`, from `segments`: what :func:`segment` gave for the picture."""
    found = _regions(segments)
    covered: dict[str, Tensor] = {}
    for label, mask in found:
        mask = read_mask(mask, picture.size, fit=fit, policy=policy, photo=picture.source)
        key = label.casefold()
        covered[key] = torch.maximum(covered[key], mask) if key in covered else mask
    wanted = name.casefold()
    if wanted in covered:
        return covered[wanted]
    if wanted == BACKGROUND:
        nothing = torch.zeros(1, 1, *picture.rgb.shape[:2])
        return 1 - functools.reduce(torch.maximum, covered.values(), nothing)
    known = list(dict.fromkeys([*(label for label, _ in found), BACKGROUND]))
    raise NoSuchRegion(
        "No such region in this picture",
        where=picture.source,
        found=repr(name),
        allowed=", ".join(known),
        todo=f"{nearest(name, known)}Name one that was found.",
    )


def segment(picture: Picture, segmenter: Segmenter | str) -> Any:
    """What a segmenter, as of :func:`find_region`, says of a picture.

    Raises:
        ConfigError: it is none.
        MissingExtra: transformers is not installed.
    """
    call = load_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
    if not callable(call):
        raise ConfigError(
            "This segmenter cannot be used",
            found=f"a {type(call).__name__}",
            allowed="a function from a PIL image to regions, or the name of a model",
            todo="Give one of these.",
        )
    return call(Image.fromarray(images.to_8_bit(picture.rgb)))


@functools.lru_cache(maxsize=1)  # one call for each picture, and models of hundreds of megabytes
def load_segmenter(name: str) -> Segmenter:
    """An image-segmentation pipeline of transformers, from the Hub or a folder; safetensors only, no code of its own.

    Raises:
        MissingExtra: transformers is not installed.
        ConfigError: there is no such model, or it segments nothing.
    """
    try:
        from transformers import pipeline
    except ImportError as error:
        raise MissingExtra(
            "Finding regions by the name of a model needs transformers",
            found=error,  # transformers may be there, and a torchvision that was built for another torch beside it
            todo="Install it with: pip install styleforge[segment], or give a function as segmenter.",
        ) from error
    try:
        found = pipeline("image-segmentation", model=name, model_kwargs={"use_safetensors": True})
        if "Segmentation" not in type(found.model).__name__:  # transformers logs it, and fails over the first picture
            raise ValueError(f"a {type(found.model).__name__}")
        return found
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(
            "This segmenter cannot be loaded",
            where=name,
            found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}",
            allowed="models for image-segmentation with model.safetensors",
            todo="Check its name on the Hub, or give a function as segmenter.",
        ) from error


def _regions(result: Any) -> list[tuple[str, Any]]:
    """Labels and masks, of any form that :func:`find_region` knows."""
    if isinstance(result, Mapping):
        return [(str(label), mask) for label, mask in result.items()]
    if isinstance(result, list) and all(isinstance(one, Mapping) and {"label", "mask"} <= set(one) for one in result):
        return [(str(one["label"]), one["mask"]) for one in result]
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], (Mapping, Sequence)):
        labels = np.asarray(result[0].cpu() if isinstance(result[0], Tensor) else result[0])
        names = dict(result[1] if isinstance(result[1], Mapping) else enumerate(result[1]))
        if labels.ndim == 2 and labels.dtype.kind in "iu":
            return [(str(names[i]), labels == i) for i in np.unique(labels).tolist() if i in names]
    raise ConfigError(
        "The segmenter gave something else than regions",
        found=f"a {type(result).__name__}",
        allowed="{name: mask}, [{'label': name, 'mask': mask}], or (label map of integers (H, W), names)",
        todo="Wrap it in a function that gives one of these.",
    )


# ---------------------------------------------------------------------------------- how large the strokes


def style_scale(image: Tensor, factor: float, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Paint with a larger or a smaller brush: run the network at another scale and come back to the full size.

    A network draws strokes of a fixed number of pixels. From a smaller picture (factor > 1) they come out larger, and
    :func:`upsample_guided` keeps the edges of the photograph sharp.

    Args:
        image: (1, 3, H, W) in [-1, 1], of any size.
        factor: 2 makes strokes twice as large (and takes a quarter of the time), 0.5 half as large.
        run: the network, from (1, 3, h, w) of any size to the same shape.

    Returns:
        (1, 3, H, W) in [-1, 1].

    Raises:
        ConfigError: a factor outside [0.25, 8].
    """
    factor = check_scale(factor)
    if factor == 1:
        return run(image)
    size = [max(1, round(side / factor)) for side in image.shape[2:]]
    small = _resize(image, size).to(image.dtype)
    styled = run(small)
    return upsample_guided(styled, small, image) if factor > 1 else _resize(styled, list(image.shape[2:]))


@full_precision
def upsample_guided(styled: Tensor, small: Tensor, guide: Tensor, *, radius: int = 2, eps: float = 0.02) -> Tensor:
    """Enlarge a styled picture, with the edges that the photograph has at full size.

    After the guided filter (He et al., 2010; its fast form, He and Sun, 2015): in each window of the small pictures,
    styled is a x luma + b by least squares. There a x luma + b alone is enlarged, which wipes out strokes that the
    photograph does not explain; here styled itself is (bicubic), plus a times what the luma of the photograph lost by
    being made small. Where the photograph has an edge, a carries it over; in flat parts `eps` makes it 0, so that
    neither grain nor leaves come back.

    Args:
        styled: (1, 3, h, w) in [-1, 1].
        small: (1, 3, h, w), the photograph that it was made from.
        guide: (1, 3, H, W), the photograph at full size.
        radius: of a window, in pixels of the small picture.
        eps: variance of luma, in [-1, 1], from which on a window has an edge.

    Returns:
        (1, 3, H, W) in [-1, 1].
    """
    size, luma, guide = list(guide.shape[2:]), gray(small), gray(guide)

    def mean(x: Tensor) -> Tensor:
        for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
            x = F.avg_pool2d(x, kernel, 1, padding, count_include_pad=False)
        return x

    average = mean(luma)
    variance = (mean(luma * luma) - average * average).clamp_min(0)
    gain = mean((mean(luma * styled) - average * mean(styled)) / (variance + eps))
    gain = F.interpolate(gain, size, mode="bilinear", align_corners=False)
    return (_resize(styled, size) + gain * (guide - _resize(luma, size))).clamp(-1, 1)


@full_precision
def _resize(image: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


# ------------------------------------------------------------------------------------------ whose style


def read_styles(style: Any, policy: ImagePolicy = DEFAULT_POLICY) -> list[tuple[Picture, float]]:
    """Pictures to take a style from, and the share of each; shares have sum 1.

    Args:
        style: a picture in any form that :func:`styleforge.images.read` takes, a list of them, which then count alike,
            or a list of pairs (picture, share).
        policy: limits on the pictures.

    Raises:
        ConfigError: no picture, or a share that is none.
        ImageError: a picture cannot be used.
    """
    several = list(style) if isinstance(style, (list, tuple)) else [style]
    pairs = [one if isinstance(one, tuple) and len(one) == 2 else (one, 1.0) for one in several]
    numbers = [plain(share) for _, share in pairs]
    fits = all(isinstance(n, (int, float)) and math.isfinite(n) and n >= 0 for n in numbers)
    if not pairs or not fits or not sum(numbers) > 0:
        raise ConfigError(
            "These pictures cannot share a style",
            found=", ".join(map(str, numbers)) or "none",
            allowed="a picture, or several with shares that are not negative and not all 0",
            todo='Give for instance style=[("a.jpg", 0.7), ("b.jpg", 0.3)].',
        )
    return [(images.read(one, policy), n / sum(numbers)) for (one, _), n in zip(pairs, numbers, strict=True)]


def read_style(style: Any, policy: ImagePolicy = DEFAULT_POLICY) -> Any:
    """A style for a pipeline, of which many pictures take it: its pictures are read, numbers stay what they are.

    Raises:
        ConfigError, ImageError: as :func:`read_styles`.
    """
    style = plain(style)
    several = style if isinstance(style, (list, tuple)) else [style]
    if style is None or all(isinstance(plain(one), (int, float)) for one in several):
        return style
    return read_styles(style, policy) if several is style else images.read(style, policy)


# ------------------------------------------------------------------------------------ between two styles


@torch.no_grad()
def interpolate_styles(a: PretrainedMixin, b: PretrainedMixin, t: float) -> PretrainedMixin:
    """A new network between two of one architecture and configuration, weight by weight.

    Deep network interpolation (Wang et al., 2019): it gives pictures between both where the two were trained from the
    same network, as `styleforge adapt` does; those of strangers cancel each other out.

    Args:
        a: the network at t = 0; the new one has its type and device.
        b: the network at t = 1.
        t: 0 to 1.

    Raises:
        ConfigError: they are no networks, or differ in architecture, setting or tensors, or `t` is outside [0, 1].
    """
    t = check_number("t", t, 0, 1, "0 is the first style, 1 the second.")
    _check_kin(a, b)
    result, other = copy.deepcopy(a), b.state_dict()
    for name, weight in result.state_dict().items():  # these share their memory with the network
        end = other[name].cpu()
        if weight.is_floating_point():
            weight.copy_(torch.lerp(weight.cpu().double(), end.double(), t))
        elif t >= 0.5:  # counters
            weight.copy_(end)
    return result


def _check_kin(a: PretrainedMixin, b: PretrainedMixin) -> None:
    def refuse(first: object, second: object, todo: str) -> ConfigError:
        what = f"Nothing lies between this {type(a).__name__} and this {type(b).__name__}"
        return ConfigError(what, found=f"{first} and {second}", allowed="two that agree", todo=todo)

    if type(a) is not type(b):
        raise refuse(type(a).__name__, type(b).__name__, "Interpolate styles of one architecture.")
    if not isinstance(a, PretrainedMixin):
        raise refuse(type(a).__name__, type(b).__name__, "Give networks: of a pipeline, pipe.model.")
    for key, value in a.config.items():
        if value != b.config[key]:
            raise refuse(f"{key}={value!r}", f"{key}={b.config[key]!r}", "Interpolate styles of one configuration.")
    shapes_a, shapes_b = ({name: tuple(x.shape) for name, x in n.state_dict().items()} for n in (a, b))
    for name in {**shapes_a, **shapes_b}:
        if shapes_a.get(name) != shapes_b.get(name):
            first, second = (f"{name} {shapes.get(name, 'missing')}" for shapes in (shapes_a, shapes_b))
            raise refuse(first, second, "Merge adapters first: styleforge.lora.merge.")


# ------------------------------------------------------------------------------------------------ checks


def plain(value: Any) -> Any:
    """A number or a list of numbers of NumPy or torch as Python has them; anything else as it is."""
    return value.tolist() if getattr(value, "ndim", 2) < 2 else value


def check_number(what: str, value: Any, low: float, high: float, todo: str) -> float:
    """`value`, when it is a number in [low, high], of Python, NumPy or torch.

    Raises:
        ConfigError: it is none; the message begins with `what`.
    """
    value = plain(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and low <= value <= high):  # written so that NaN fails too
        raise ConfigError(f"{what} cannot be used", found=repr(value), allowed=f"{low:g} to {high:g}", todo=todo)
    return value


def _check_pair(source: Tensor, styled: Tensor) -> None:
    shapes = tuple(source.shape), tuple(styled.shape)
    if shapes[0] != shapes[1] or shapes[0][:-2] != (1, 3):
        raise ImageError(
            "The styled picture does not fit its source",
            found=f"{shapes[1]} for {shapes[0]}",
            allowed="(1, 3, H, W) twice",
            todo="Crop what was padded.",
        )


def _check_regions(size: tuple[int, ...], regions: Sequence[Region]) -> None:
    for styled, mask in regions:
        if tuple(styled.shape) != (1, 3, *size):
            found, allowed = tuple(styled.shape), (1, 3, *size)
            raise ImageError(
                "A region's picture does not fit", found=found, allowed=allowed, todo="Crop what was padded."
            )
        if tuple(mask.shape) != (1, 1, *size):
            found, allowed = tuple(mask.shape), (1, 1, *size)
            todo = "Read it with styleforge.control.read_mask(mask, (width, height))."
            raise ConfigError("The mask does not fit the picture", found=found, allowed=allowed, todo=todo)
