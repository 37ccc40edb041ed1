"""Pictures larger than memory, from file to file: read, styled and written by parts, by way of libvips.

The engine's memory is bounded for any size (see :mod:`styleforge.engine`); here the picture itself is not in memory
either. libvips (pyvips) decodes to a temporary file what cannot be read at any place, as a PNG; results wait in another
one until the last tile is done, because encoders want rows in their order. Temporary files take 6 bytes a pixel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from . import files, images
from .errors import ImageError, ImageUnreadable, MissingExtra, StyleforgeError
from .images import ImagePolicy, Picture
from .pipeline import StylePipeline

POLICY = ImagePolicy(("PNG", "TIFF", "JPEG", "WEBP"), max_pixels=10**10, max_side=10**6, max_bytes=2**38)
"""Of these formats alone, and of more pixels than other pictures."""
KINDS = ("b-w", "grey16", "srgb", "rgb16", "cmyk")
"""Libvips' names of what it reads as Pillow does."""
WRITERS = {
    ".png": ("pngsave", {}),
    ".tif": ("tiffsave", {"compression": "deflate", "predictor": "horizontal", "tile": True, "bigtiff": True}),
}
WRITERS[".tiff"] = WRITERS[".tif"]


def stylize_file(
    pipe: StylePipeline,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    policy: ImagePolicy = POLICY,
    **options: Any,
) -> Path:
    """Style a picture of any size from file to file.

    Args:
        pipe: the style.
        source: PNG, TIFF, JPEG or WebP, of grey, RGB or CMYK. Color profile, orientation (of EXIF) and transparency
            are heeded as elsewhere; 16 bit a channel are read as 8.
        target: a `.png`, `.tif` or `.tiff`, which appears whole or not at all. TIFFs are tiled, and BigTIFF.
        policy: limits on the picture.
        **options: for :meth:`StylePipeline.paint`. `max_memory` is all that is needed beside some megabytes for rows of
            the files; statistics="thumbnail" writes no features to the disk, which for 100 megapixels are some GB.

    Returns:
        `target`.

    Raises:
        MissingExtra: pyvips is not installed.
        ImageError: the picture cannot be used or written, or the target has another suffix.
        ConfigError: a setting that cannot be used, as for calling the pipeline.
    """
    vips = _vips()
    source, target = Path(source), Path(target)
    if target.suffix.lower() not in WRITERS:
        known = ", ".join(WRITERS)
        raise ImageError(
            "Cannot write this by parts", where=target, found=repr(target.suffix), allowed=known, todo="Rename it."
        )
    with _errors(vips, source, target):
        color, alpha = _open(vips, source, policy)
        picture = Picture(_Scan(color), None, str(source))  # type: ignore[arg-type]  # as much of an array as is asked
        with files.replacing(target) as temporary:
            raw = temporary.with_name(f"{temporary.name}.raw")
            try:
                width, height = picture.size
                with open(raw, "wb") as file:
                    file.truncate(height * width * 3)
                    pipe.paint(picture, _Rows(file, height, width), **options)
                _write(vips, raw, picture.size, alpha, temporary)
            finally:
                _let_go(vips)
                raw.unlink(missing_ok=True)
    return target


def _vips() -> Any:
    try:
        import pyvips
    except ImportError as error:
        raise MissingExtra(
            "Pictures by parts need libvips", found=error, todo="Install it with: pip install 'styleforge[large]'."
        ) from error
    return pyvips


@contextmanager
def _errors(vips: Any, source: Path, target: Path) -> Iterator[None]:
    """Those of libvips and of the system as ours."""
    try:
        yield
    except StyleforgeError:  # some of them are OSErrors, too
        raise
    except vips.Error as error:
        raise ImageUnreadable(
            "libvips cannot read or write the picture",
            where=source,
            found=" ".join(str(error).split()),
            todo="Check the file and the free space for temporary files; if both are well, style it without --stream.",
        ) from error
    except OSError as error:
        raise ImageError(
            "Cannot write the picture",
            where=target,
            found=error.strerror or error,
            todo="Check the folder and the free space: 3 bytes a pixel wait there, beside the picture.",
        ) from error


def _open(vips: Any, path: Path, policy: ImagePolicy) -> tuple[Any, Any]:
    """Colors, of three bands in 8 bit, and alpha of one or None; nothing but the header has been read."""
    images.check_file(path, policy)
    # Not only on "truncated": of a TIFF libvips leaves black whatever it cannot read or decode.
    image = vips.Image.new_from_file(str(path), access="random", fail_on="error").autorot()
    if image.format not in ("uchar", "ushort") or image.interpretation not in KINDS:
        raise ImageError(
            "This kind of picture cannot be read by parts",
            where=path,
            found=f"{image.interpretation} in {image.format}",
            allowed="grey, RGB or CMYK in 8 or 16 bit without sign",
            todo="Convert it, or style it in memory (without --stream).",
        )
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True, intent="perceptual", depth=8)
    elif image.interpretation == "cmyk":  # libvips would take the profile of a press, Pillow takes none
        light = 255 - image.cast("uchar", shift=True)
        image = (light.extract_band(0, n=3) * light[3] / 255).rint().copy(interpretation="srgb")
    image = image.colourspace("srgb").cast("uchar")
    alpha = image[image.bands - 1] if image.hasalpha() else None
    return image.extract_band(0, n=3), alpha


def _write(vips: Any, raw: Path, size: tuple[int, int], alpha: Any, target: Path) -> None:
    image = vips.Image.rawload(str(raw), *size, 3, access="sequential" if alpha is None else "random")
    image = image.copy(interpretation="srgb")
    save, options = WRITERS[target.suffix.lower()]
    getattr(image if alpha is None else image.bandjoin(alpha), save)(str(target), keep="none", **options)


def _let_go(vips: Any) -> None:
    """Empty libvips' memory of what it has done: it keeps files open, which Windows then does not remove."""
    most = vips.cache_get_max()
    vips.cache_set_max(0)
    vips.cache_set_max(most)


class _Scan:
    """A picture of libvips as an array (H, W, 3) of uint8, of which parts are read when they are asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, image: Any) -> None:
        self._image, self.shape = image, (image.height, image.width, 3)

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (p.indices(n) for p, n in zip(place, self.shape[:2], strict=True))
        return self._image.crop(left, top, right - left, bottom - top).numpy()


class _Rows:
    """A file of raw pixels as an array (H, W, 3) of uint8, to write parts of; its pages are not this process's."""

    def __init__(self, file: BinaryIO, height: int, width: int) -> None:
        self._file, self.shape = file, (height, width, 3)

    def __setitem__(self, place: tuple[slice, slice], block: np.ndarray) -> None:
        (top, _, _), (left, _, _) = (p.indices(n) for p, n in zip(place, self.shape[:2], strict=True))
        for row, line in enumerate(np.ascontiguousarray(block), top):
            self._file.seek((row * self.shape[1] + left) * 3)
            self._file.write(line.data)
