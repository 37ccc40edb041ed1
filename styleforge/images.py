"""Pictures in and out: files, bytes, URLs, PIL, numpy and torch <-> tensors `(1, 3, H, W)` in [-1, 1].

`read` is the only door in. Whatever comes through it ends as a `Picture` (upright, sRGB, alpha apart) or
as an `ImageError`; nothing is guessed. `to_pil` and `save` lead out, `pad` and `crop` fit any size to a
network.

Known limits: of an animation the first frame is read (of a PIL object, the frame it stands at). Pillow
decodes 16-bit *color* to 8 bit, so only 16-bit *grey* keeps its depth. A JPEG that was cut and then got
an end marker is legal to libjpeg and comes out grey below; so does any cut file for whoever sets Pillow's
`LOAD_TRUNCATED_IMAGES`. Proxies from the environment are not used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from torch import Tensor

from .download import check_bytes, download, read_at_most, short
from .errors import ConfigError, ImageError, ImageFormatRefused, ImageTooLarge, ImageUnreadable
from .files import write_bytes

_TOLERANCE = 1e-4  # by which floats may leave [0, 1]: rounding of a resize, not a wrong range


@dataclass(frozen=True)
class ImagePolicy:
    """Every limit on a picture in one place; changed by the caller in code only, never by data.

    Attributes:
        formats: Pillow's names of the only decoders that are tried. "JPEG" includes MPO (phone cameras); "HEIF"
            (HEIC of iPhones) needs the extra `heif`.
            Left out of the default: formats without a signature (TGA: any bytes would be a picture),
            those whose header need not tell the decoded size (ICO), JPEG2000 (a cut file may decode).
        max_pixels: width times height, checked before anything is decoded.
        max_side: width or height in pixels.
        max_bytes: size of the encoded file.
        urls: whether `http://` and `https://` sources are allowed.
        timeout: seconds for a whole download, redirects included (looking up a host name has its own).
        redirects: how many redirects are followed.
        url_bytes: size of a download, on top of `max_bytes`.
    """

    formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIF")
    max_pixels: int = 200_000_000
    max_side: int = 50_000
    max_bytes: int = 512 * 2**20
    urls: bool = True
    timeout: float = 10.0
    redirects: int = 3
    url_bytes: int = 64 * 2**20


DEFAULT_POLICY = ImagePolicy()
"""For the user's own pictures."""
STRICT_POLICY = ImagePolicy(
    ("PNG", "JPEG", "WEBP"), max_pixels=24_000_000, max_side=10_000, max_bytes=20 * 2**20, urls=False
)
"""For strangers' pictures, as in a public Space."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes:
        rgb: `(H, W, 3)` uint8 or uint16, sRGB, upright.
        alpha: `(H, W)` uint8 or uint16 as stored (0 is transparent), turned with `rgb`; or None.
        source: where it came from, for messages.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    def on_white(self) -> Picture:
        """As it looks on a white page, without alpha; what has none is given back as it is."""
        if self.alpha is None:
            return self
        share = self.alpha[..., None] / np.float32(np.iinfo(self.alpha.dtype).max)
        white = np.iinfo(self.rgb.dtype).max
        rgb = np.rint(white - share * (white - self.rgb)).astype(self.rgb.dtype)
        return Picture(rgb, None, self.source)

    def tensor(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """A new tensor `(1, 3, H, W)` in [-1, 1] (without the alpha)."""
        half = np.iinfo(self.rgb.dtype).max / 2  # 127.5 or 32767.5: exact, so the ends are exactly -1 and 1
        planes = np.ascontiguousarray(self.rgb.transpose(2, 0, 1), dtype=np.float32)
        return torch.from_numpy(planes).div_(half).sub_(1).unsqueeze(0).to(device=device, dtype=dtype)


Source = Picture | Image.Image | np.ndarray | Tensor | str | os.PathLike | bytes | BinaryIO


def read(source: Source, policy: ImagePolicy = DEFAULT_POLICY) -> Picture:
    """Read one picture from nearly anything.

    Args:
        source: a path, an `http(s)://` URL, the bytes of a file, a binary file object (read from where it
            stands), a PIL image (never changed), a numpy array `(H, W)` or `(H, W, 1..4)`, a tensor
            `(H, W)`, `(1..4, H, W)` or `(1, 1..4, H, W)`, or a `Picture`, which comes back as it is.
            Two channels are grey and alpha, four are RGB and alpha. Arrays and tensors are bool, uint8,
            uint16 or **floats in [0, 1]**, and so is PIL's mode F; 32-bit integer grey (PIL's mode I)
            counts 0..65535. Floats and grey of more than 8 bit become uint16.
        policy: the limits. They are checked from the header, before any pixel is decoded.

    Returns:
        The picture, upright (EXIF), in sRGB (ICC, perceptual), with its alpha apart. A color profile or
        EXIF block that makes no sense is ignored with a warning.

    Raises:
        ImageTooLarge: over a limit of the policy.
        ImageFormatRefused: a format that the policy does not list.
        ImageUnreadable: missing, rotten, truncated, no picture at all, a failed download.
        ImageError: a wrong shape, type or range of values, or an address that may not be read.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, "<array>", policy)
    if isinstance(source, Tensor):
        return _from_tensor(source, policy)
    where = "<bytes>"
    if isinstance(source, str) and (scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", source)):
        where = short(source)
        if (scheme[1] or "").lower() not in ("http", "https") or not policy.urls:
            allowed = "http and https" if policy.urls else "no address at all"
            todo = "Save the picture to a file and give its path."
            raise ImageError("This address is not read", where=where, allowed=allowed, todo=todo)
        limit = min(policy.url_bytes, policy.max_bytes)
        with _reading(where, "Cannot download the picture"):
            source = download(source, limit=limit, timeout=policy.timeout, redirects=policy.redirects)
    if isinstance(source, Image.Image):
        where = str(getattr(source, "filename", "") or "<PIL image>")
        with _reading(where):
            return _from_pil(source, where, policy)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), where, policy)
    if isinstance(source, (str, os.PathLike)):
        where = os.fsdecode(source)
        if re.match(r"https?:/[^/]", where) and not os.path.lexists(source):  # a path has one slash of two left
            todo = "Save the picture to a file and give its path; Python takes an address as text."
            raise ImageError("This address is not read", where=where, allowed="the path of a file", todo=todo)
        with _reading(where):
            if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe would block, /dev/zero never ends
                raise ImageUnreadable(
                    "Cannot read the picture", where=where, found="no regular file", todo="Give the path of a picture."
                )
            with open(source, "rb") as file:
                return _from_file(file, where, policy)
    if hasattr(source, "read"):
        where = str(getattr(source, "name", "<file>"))
        with _reading(where):
            return _from_file(io.BytesIO(read_at_most(source, policy.max_bytes, where)), where, policy)
    allowed = "a path, URL, bytes, binary file, PIL image, numpy array or tensor"
    raise ImageError(
        "Cannot read a picture from this",
        found=f"a {type(source).__name__}",
        allowed=allowed,
        todo="Give one of these.",
    )


# ---------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def _reading(
    where: str,
    what: str = "Cannot read the picture",
    todo: str = "Check that it is there, complete, and opens in a viewer.",
) -> Iterator[None]:
    """Turn whatever a decoder throws (Pillow's plugins throw nearly everything) into `ImageUnreadable`."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # of a GIF's frame or a WebP, which Pillow checks by itself
        raise ImageTooLarge(what, where=where, found=error, todo="Make it smaller first.") from error
    except Exception as error:
        raise ImageUnreadable(what, where=where, found=f"{type(error).__name__}: {error}", todo=todo) from error


def _from_file(file: BinaryIO, where: str, policy: ImagePolicy) -> Picture:
    with _reading(where):
        check_bytes(file.seek(0, os.SEEK_END), policy.max_bytes, where)
        image = _identify(file, where, policy)
        picture = _from_pil(image, where, policy)
        # Rows that a short PNG stream leaves out stay zero, and Pillow says nothing. (For 16-bit grey
        # getbbox() looks at half of a row only; that costs a needless check, never a missing one.)
        if image.format == "PNG" and (
            image.info.get("interlace") or (image.getbbox(alpha_only=False) or (0,))[-1] < image.height
        ):
            _check_png(file)
        return picture


def check_file(path: str | os.PathLike[str], policy: ImagePolicy = DEFAULT_POLICY) -> None:
    """Check all of a file that its header tells; no pixel is decoded.

    Raises:
        ImageError: as :func:`read`.
    """
    where = os.fsdecode(path)
    with _reading(where), open(path, "rb") as file:
        check_bytes(file.seek(0, os.SEEK_END), policy.max_bytes, where)
        image = _identify(file, where, policy)
        check_size(*image.size, where, policy)


def _identify(file: BinaryIO, where: str, policy: ImagePolicy) -> Image.Image:
    """Pillow's `Image.open(file, formats=...)` without its own limit of 179 megapixels.

    That limit is a global of the process: neither a larger nor a smaller one can be had by changing it
    without a race between threads. The registry of plugins is public. (From Pillow 13 on the WebP plugin looks at
    the limit by itself, so a WebP of more than 179 megapixels is too large, by that error of ours.)
    """
    Image.init()
    file.seek(0)
    prefix = file.read(32)
    of_phone = prefix[4:10] in (b"ftyphe", b"ftypmi") and b"avif" not in prefix  # which may begin as "mif1", too
    if of_phone and "HEIF" in policy.formats:
        with contextlib.suppress(ImportError):
            import pi_heif

            pi_heif.register_heif_opener()
    cause: Exception = ValueError(f"no {', '.join(policy.formats)} picture begins like this")
    for name in policy.formats:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory and (accept is None or accept(prefix) is True):
            file.seek(0)
            try:
                return factory(file, "")
            except SyntaxError as error:  # "not mine", and what Pillow makes of most errors in a header
                cause = error
    others = ["HEIC"] if of_phone else []  # first: Pillow's AVIF takes a "mif1" for its own until it has looked into it
    others += [name for name, (_, accept) in Image.OPEN.items() if accept and accept(prefix) is True]
    if others and (isinstance(cause, ValueError) or (of_phone and "HEIF" not in Image.OPEN)):
        allowed, todo = ", ".join(policy.formats), "Convert it to PNG or JPEG first."
        if of_phone and "HEIF" in policy.formats:
            todo = "Install what reads it: pip install 'styleforge[heif]'. Or convert it to PNG or JPEG first."
        raise ImageFormatRefused("This format is not read", where=where, found=others[0], allowed=allowed, todo=todo)
    raise cause


def _check_png(file: BinaryIO) -> None:
    """Refuse a PNG whose compressed stream holds fewer rows than its header promises."""
    file.seek(8)
    inflate, missing = zlib.decompressobj(), 1
    while missing > 0:
        length, kind = struct.unpack(">I4s", file.read(8))  # struct.error at the end of the file
        body = file.read(length)
        file.seek(4, os.SEEK_CUR)  # the checksum, which Pillow has seen
        if kind == b"IHDR":
            width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            passes = [(0, 0, 1, 1)]  # first column, first row, steps
            if interlaced:
                passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
                passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
            bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
            sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
            missing = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns)
        elif kind == b"IEND":
            raise EOFError(f"truncated, {missing} bytes of pixels are missing")
        while kind == b"IDAT" and body and missing > 0:
            missing -= len(inflate.decompress(body, 2**20))
            body = inflate.unconsumed_tail


# ------------------------------------------------------------------------------------- PIL -> Picture


def check_size(width: int, height: int, where: str | os.PathLike[str], policy: ImagePolicy) -> None:
    """Raises :class:`ImageError` for an empty picture, :class:`ImageTooLarge` for one over the limits of the policy."""
    found = f"{width:,} x {height:,} pixels"
    if width < 1 or height < 1:
        raise ImageError("The picture is empty", where=where, found=found, todo="Give one with pixels.")
    if max(width, height) > policy.max_side or width * height > policy.max_pixels:
        allowed = f"{policy.max_pixels / 1e6:g} megapixels, sides up to {policy.max_side:,}"
        todo = "Make it smaller first."
        raise ImageTooLarge("The picture is too large", where=where, found=found, allowed=allowed, todo=todo)


def _check_tiff(tags: Any, where: str, policy: ImagePolicy) -> None:
    """What the size does not tell: a huge tile, or fewer strips than rows (Pillow leaves those black)."""
    width, height = tags[256], tags[257]
    across, down = tags.get(322, width), tags.get(323, tags.get(278, height))
    if 322 in tags:
        check_size(across, down, where, policy)
    needed = -(-width // across) * -(-height // down) * (tags.get(277, 1) if tags.get(284) == 2 else 1)
    if (found := np.size(tags.get(324, tags.get(273, ())))) < needed:
        raise EOFError(f"truncated, {found} strips or tiles of {needed}")


def _from_pil(image: Image.Image, where: str, policy: ImagePolicy) -> Picture:
    check_size(*image.size, where, policy)
    tiles = getattr(image, "tile", None)  # what is left to decode; nothing after load()
    if tiles and (found := {"MPO": "JPEG"}.get(image.format, image.format)) not in policy.formats:
        allowed = ", ".join(policy.formats)
        todo = "Convert it to PNG or JPEG first."
        raise ImageFormatRefused("This format is not read", where=where, found=found, allowed=allowed, todo=todo)
    if tiles and hasattr(image, "tag_v2"):
        _check_tiff(image.tag_v2, where, policy)
        # Otherwise Pillow allocates this after a look at its own limit (see _identify).
        image.im = Image.new(image.mode, (image.tag_v2[256], image.tag_v2[257])).im
    packing = tiles[0][3] if tiles and image.format == "PNG" else None
    try:
        image.load()
    except Exception:
        if tiles:  # Pillow forgets that it failed, and would hand out black the next time
            image.tile = tiles
        raise
    rgb, alpha = _channels(image, packing, where)
    orientation = 1
    try:  # after the pixels: an object that raised may be broken and is not touched again
        orientation = image.getexif().get(0x0112, 1)
    except Exception as error:
        warnings.warn(f"{where}: a broken EXIF block is ignored ({error})", stacklevel=4)
    swap, down, across = _TURNS.get(orientation, _TURNS[1]) if isinstance(orientation, int) else _TURNS[1]

    def upright(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((array.swapaxes(0, 1) if swap else array)[::down, ::across])

    return Picture(upright(rgb), None if alpha is None else upright(alpha), where)


# EXIF orientation: whether rows and columns are swapped, then the steps down and across.
_TURNS = {1: (0, 1, 1), 2: (0, 1, -1), 3: (0, -1, -1), 4: (0, -1, 1)}
_TURNS |= {5: (1, 1, 1), 6: (1, 1, -1), 7: (1, -1, -1), 8: (1, -1, 1)}


def _channels(image: Image.Image, packing: object, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """`(H, W, 3)` in sRGB and `(H, W)` or None, of a loaded PIL image of any mode, not yet turned."""
    profile, key = image.info.get("icc_profile"), image.info.get("transparency")
    palette = "RGBA" if image.has_transparency_data else "RGB"
    straight = {"1": "L", "P": palette, "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}.get(image.mode)
    image = image.convert(straight) if straight else image
    if image.mode in ("LA", "RGBA"):
        return _srgb(image.convert(image.mode[:-1]), profile, where), np.array(image.getchannel("A"))
    if image.mode == "F":
        rgb = _grey(_unit_to_16_bit(np.asarray(image), where))
    elif image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            found = f"values from {values.min()} to {values.max()}"
            todo = "Scale it to 16 bit first."
            raise ImageError("Integer grey out of range", where=where, found=found, allowed="0 to 65535", todo=todo)
        values = values.astype(np.uint16)
        if profile:  # lcms gives 8-bit RGB only; a curve through its 256 answers keeps all 65536 levels
            ramp = _srgb(_ramp(), profile, where)
            curve = np.interp(np.arange(65536) / 257, np.arange(256), ramp[0, :, 1])
            values = np.rint(curve * 257).astype(np.uint16)[values]
        rgb = _grey(values)
    else:
        rgb = _srgb(image, profile, where)
    if key is None or image.mode not in ("L", "RGB", "I", "I;16", "I;16B", "I;16L"):
        return rgb, None
    # PNG's one transparent color, in the depth of the file, while Pillow has scaled the pixels.
    key = np.array(key) * {"L;2": 85, "L;4": 17}.get(packing, 1) >> (8 if packing == "RGB;16B" else 0)
    opaque = (np.asarray(image).reshape(*rgb.shape[:2], -1) != key).any(axis=2)
    return rgb, opaque * rgb.dtype.type(np.iinfo(rgb.dtype).max)


def _ramp() -> Image.Image:
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _srgb(image: Image.Image, profile: bytes | None, where: str) -> np.ndarray:
    """`(H, W, 3)` uint8 in sRGB, of a mode without alpha; the profile is used when it fits the picture."""
    if profile and image.mode != "LAB":
        image = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
        try:  # lcms sees the picture only after this
            transform = _to_srgb(profile, image.mode)
        except Exception as error:
            warnings.warn(f"{where}: a broken color profile is ignored ({error})", stacklevel=6)
        else:
            if transform is None:
                return np.array(image.convert("RGB"))
            image = image.convert(transform.inputMode)
            if image.mode == "L":  # a table instead, which is also faster
                return np.asarray(transform.apply(_ramp()))[0][np.asarray(image)]
            return np.array(transform.apply(image))
    return _grey(np.asarray(image)) if image.mode == "L" else np.array(image.convert("RGB"))


@functools.lru_cache(maxsize=8)  # to make one takes longer than to use it, and most pictures have one of a few
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile, for pictures of a mode; None if that changes no color by more than a level of 8 bit.

    Which is so for sRGB in its many versions, that most pictures with a profile have. lcms lets threads share one.
    """
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = given.profile.xcolor_space.strip()
    if space == "RGB" and mode == "L":  # a grey JPEG tagged sRGB is common
        mode = "RGB"
    if {"GRAY": "L"}.get(space, space) != mode:
        raise ValueError(f"it is for {space}, the picture is {mode}")
    srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL
    # lcms's shortcut for a grey curve is up to 10 levels off in the shadows.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(given, srgb, mode, "RGB", intent, flags)
    if mode == "RGB":
        steps = np.linspace(0, 255, 18, dtype=np.uint8)  # of 15 levels
        colors = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(18, -1, 3))
        if all(_changed(transform, probe) <= 1 for probe in (colors, _ramp().convert("RGB"))):
            return None
    return transform


def _changed(transform: ImageCms.ImageCmsTransform, probe: Image.Image) -> int:
    """By how many levels at most."""
    return int(np.abs(np.asarray(transform.apply(probe), np.int16) - np.asarray(probe, np.int16)).max())


# --------------------------------------------------------------------------- arrays, tensors -> Picture


def _unit_to_16_bit(values: np.ndarray, where: str) -> np.ndarray:
    """Floats in [0, 1] to uint16, rounded. One rule for all: a range that is guessed is guessed wrong."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # written so that NaN fails too
        signed = -1 - _TOLERANCE <= low < 0 and high <= 1 + _TOLERANCE
        todo = "A model tensor in [-1, 1]? Give (x + 1) / 2." if signed else "Scale it: 8-bit values by 1 / 255."
        found = "NaN" if np.isnan(low) else f"values from {low:g} to {high:g}"
        raise ImageError("Floats out of range", where=where, found=found, allowed="0 to 1", todo=todo)
    return np.rint(np.clip(values, 0, 1) * np.float64(65535)).astype(np.uint16)


def _from_array(array: np.ndarray, where: str, policy: ImagePolicy) -> Picture:
    shape, allowed = array.shape, "(H, W) or (H, W, 1..4)"
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        todo = "Give one picture, with its channels last: array.transpose(1, 2, 0)."
        raise ImageError("This is not the shape of a picture", where=where, found=shape, allowed=allowed, todo=todo)
    check_size(array.shape[1], array.shape[0], where, policy)
    if array.dtype.kind == "f":
        array = _unit_to_16_bit(array, where)
    elif array.dtype.kind == "b":
        array = array * np.uint8(255)
    elif array.dtype.kind != "u" or array.dtype.itemsize > 2:
        allowed = "bool, uint8, uint16, or floats in [0, 1]"
        todo = "Convert it: what is 0 and 1 with .astype(bool), 0 to 255 with .astype(np.uint8)."
        raise ImageError(
            "This is not the type of a picture", where=where, found=array.dtype, allowed=allowed, todo=todo
        )
    array = array.astype(array.dtype.newbyteorder("="))  # a copy: the caller may go on writing to his
    rgb = np.ascontiguousarray(array[..., :3]) if array.shape[2] > 2 else _grey(array[..., 0])
    return Picture(rgb, array[..., -1].copy() if array.shape[2] in (2, 4) else None, where)


def _from_tensor(tensor: Tensor, policy: ImagePolicy) -> Picture:
    planes = tensor.detach()[0] if tensor.ndim == 4 and tensor.shape[0] == 1 else tensor.detach()
    planes = planes[None] if planes.ndim == 2 else planes
    where, found, allowed = "<tensor>", tuple(tensor.shape), "(H, W), (1..4, H, W) or (1, 1..4, H, W)"
    if planes.ndim != 3 or not 1 <= planes.shape[0] <= 4:
        todo = "Give one picture, with its channels first: tensor.permute(2, 0, 1)."
        raise ImageError("This is not the shape of a picture", where=where, found=found, allowed=allowed, todo=todo)
    # A sparse, quantised, meta or float8 tensor has no array.
    with _reading(where, todo="Give a dense tensor of bool, uint8, uint16 or floats, for instance x.float()."):
        planes = planes.float() if planes.dtype == torch.bfloat16 else planes  # nor has bfloat16
        array = planes.movedim(0, -1).cpu().numpy()
    return _from_array(array, where, policy)


# ------------------------------------------------------------------------------------------------ out


def to_pil(image: Tensor, alpha: np.ndarray | None = None) -> Image.Image:
    """Make a PIL image of what a network gave.

    Args:
        image: `(3, H, W)` or `(1, 3, H, W)`, floats in [-1, 1]; clipped, and rounded to 8 bit.
        alpha: `(H, W)` uint8, given back bit for bit, or uint16, rounded to 8 bit. None for mode RGB.

    Returns:
        An image of mode RGB or RGBA.

    Raises:
        ImageError: for another shape or type, or when `image` holds NaN or infinity.
    """
    shape = tuple(image.shape)
    planes = image.detach()[0] if image.ndim == 4 and shape[0] == 1 else image.detach()
    if planes.ndim != 3 or planes.shape[0] != 3 or planes.numel() == 0 or not planes.is_floating_point():
        found = f"{shape} of {image.dtype}"
        raise ImageError(
            "Cannot make a picture of this tensor",
            found=found,
            allowed="floats (3, H, W) or (1, 3, H, W)",
            todo="Give one picture of a batch at a time.",
        )
    return with_alpha(to_array(planes), alpha)


def to_array(planes: Tensor) -> np.ndarray:
    """`(3, H, W)` in [-1, 1] to `(H, W, 3)` uint8, clipped and rounded.

    Raises:
        ImageError: NaN or infinity.
    """
    planes = planes.float()
    # A sum is sooner made than all are looked at, and is not finite if one is not.
    if not planes.sum().isfinite() and not planes.isfinite().all():
        todo = "The weights or the input of the model are broken."
        raise ImageError("The picture holds NaN or infinity", found=tuple(planes.shape), todo=todo)
    levels = (planes + 1).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def with_alpha(rgb: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    """A PIL image of `(H, W, 3)` uint8 and an alpha as for :func:`to_pil`.

    Raises:
        ImageError: the alpha does not fit.
    """
    if alpha is None:
        return Image.fromarray(np.ascontiguousarray(rgb))
    if alpha.shape != rgb.shape[:2] or alpha.dtype not in (np.uint8, np.uint16):
        found = f"{alpha.shape} of {alpha.dtype}"
        raise ImageError(
            "The alpha does not fit",
            found=found,
            allowed=f"{rgb.shape[:2]} of uint8 or uint16",
            todo="Give the alpha of the same picture.",
        )
    return Image.fromarray(np.dstack([rgb, to_8_bit(alpha)]))


def to_8_bit(array: np.ndarray) -> np.ndarray:
    """uint16 to uint8, rounded; uint8 as it is."""
    return array if array.dtype == np.uint8 else ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encoding(path: str | os.PathLike, quality: int = 95) -> dict[str, Any]:
    """How Pillow encodes what :func:`save` writes into a file of this name.

    Raises:
        ImageError: for another suffix.
    """
    path = Path(path)
    options = {
        ".png": {"format": "PNG"},
        ".jpg": {"format": "JPEG", "quality": quality, "subsampling": 0 if quality >= 90 else 2},
        ".webp": {"format": "WEBP", "quality": quality, "exact": True},
        ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    }
    options |= {".jpeg": options[".jpg"], ".tiff": options[".tif"]}
    chosen = options.get(path.suffix.lower())
    if chosen is None:
        known = ", ".join(sorted(options))
        raise ImageError(
            "Cannot save to this suffix", where=path, found=repr(path.suffix), allowed=known, todo="Rename it."
        )
    return chosen


def save(image: Image.Image, path: str | os.PathLike, *, quality: int = 95) -> Path:
    """Write a picture by the suffix of its path: `.png`, `.jpg`, `.jpeg`, `.webp`, `.tif` or `.tiff`.

    The file appears whole or not at all, and an old one is replaced in one step. Missing folders are
    made. Pixels are written as they are, taken for sRGB; no profile, EXIF or comment is carried along.

    Args:
        image: any PIL image, as from `to_pil`.
        path: where to.
        quality: 1 to 100, for JPEG (from 90 on without color subsampling) and WebP.

    Raises:
        ImageError: for another suffix, transparency in a JPEG, or when it cannot be encoded or written.
    """
    path = Path(path)
    chosen = encoding(path, quality)
    if chosen["format"] == "JPEG" and image.has_transparency_data:
        todo = f"Use {path.with_suffix('.png').name}, or drop the alpha with image.convert('RGB')."
        raise ImageError("A JPEG would lose the transparency", where=path, found=f"mode {image.mode}", todo=todo)
    try:
        # Encoded in memory first: a full disk then meets plain bytes, not the middle of an encoder
        # (Pillow's TIFF encoder corrupts the heap when it fails).
        plain, encoded = image.copy(), io.BytesIO()
        plain.info = {k: v for k, v in image.info.items() if k == "transparency"}
        plain.save(encoded, **chosen)
        write_bytes(path, encoded.getvalue())
    except Exception as error:
        found, todo = (
            f"{type(error).__name__}: {error}",
            "Check the folder, the free space, and what the format can hold.",
        )
        raise ImageError("Cannot save the picture", where=path, found=found, todo=todo) from error
    return path


# ---------------------------------------------------------------------------------------- pad and crop


def square(picture: Picture, size: int) -> Tensor:
    """The largest square in the middle of a picture, on white, as (1, 3, size, size) in [-1, 1]."""
    image = picture.on_white().tensor()
    height, width = image.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[:, :, top : top + side, left : left + side]
    if side == size:
        return middle
    return F.interpolate(middle, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


class Crop(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def pad(image: Tensor, multiple: int = 1, smallest: int = 1) -> tuple[Tensor, Crop]:
    """Reflect a picture at its right and lower edge until its size suits a network.

    Those two sides only, so that the grid of strided layers lies on the picture as it does without
    padding. A picture smaller than its padding is reflected again and again, down to 1 x 1.

    Args:
        image: `(B, C, H, W)`.
        multiple: both sides become the next multiple of this.
        smallest: and at least this long.

    Returns:
        The padded tensor (the same object when nothing was missing) and the `Crop` that undoes it.

    Raises:
        ImageError: when `image` is not `(B, C, H, W)` or is empty.
        ConfigError: when `multiple` or `smallest` is less than 1.
    """
    if multiple < 1 or smallest < 1:
        raise ConfigError(
            "Cannot pad by this", found=f"multiple={multiple}, smallest={smallest}", allowed=">= 1", todo="Give 1."
        )
    if image.ndim != 4 or 0 in image.shape[2:]:
        allowed, todo = "(B, C, H, W) with pixels", "Add the missing dimension with [None]."
        raise ImageError("Cannot pad this", found=tuple(image.shape), allowed=allowed, todo=todo)
    height, width = image.shape[2:]
    box = Crop(0, 0, height, width)
    for dim, length in ((2, height), (3, width)):
        target = _padded(length, multiple, smallest)
        if target > length:
            image = image.index_select(dim, _reflected(torch.arange(target, device=image.device), length))
    return image, box


def _padded(length: int, multiple: int, smallest: int) -> int:
    return -(-max(length, smallest) // multiple) * multiple


def _reflected(places: Tensor, length: int) -> Tensor:
    """Where a side of `length` pixels, reflected again and again, has what belongs to `places`."""
    wave = places % max(2 * length - 2, 1)
    return torch.where(wave < length, wave, 2 * length - 2 - wave)


class Pixels:
    """A picture as a tensor (1, 3, H, W) in [-1, 1], made where it is looked at: a large one by parts.

    `pixels[:, :, rows, columns]` is that part of `picture.tensor()` after :func:`pad`.

    Args:
        picture: the picture.
        multiple: as for :func:`pad`, like `smallest`.
        smallest: see there.
        dtype: of the tensors.
        device: of the tensors.

    Attributes:
        shape: with the padding.
        dtype, device: see above.
        box: undoes the padding.
    """

    def __init__(
        self,
        picture: Picture,
        *,
        multiple: int = 1,
        smallest: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        height, width = picture.rgb.shape[:2]
        self._picture = picture
        self.shape = torch.Size((1, 3, _padded(height, multiple, smallest), _padded(width, multiple, smallest)))
        self.dtype, self.device = dtype, torch.device(device)
        self.box = Crop(0, 0, height, width)

    def __getitem__(self, place: tuple[slice, slice, slice, slice]) -> Tensor:
        rgb, window, repeats = self._picture.rgb, [], []
        for axis, part in enumerate(place[2:]):
            begin, end, _ = part.indices(self.shape[2 + axis])
            if begin < end and end > rgb.shape[axis]:
                places = _reflected(torch.arange(begin, end), rgb.shape[axis]).numpy()
                begin, end = int(places.min()), int(places.max()) + 1
                repeats.append((axis, places - begin))
            window.append(slice(begin, end))
        rgb = rgb[tuple(window)]  # looked at once: it may come from a file
        for axis, places in repeats:
            rgb = rgb.take(places, axis)
        return Picture(rgb, None, self._picture.source).tensor(dtype=self.dtype, device=self.device)


def crop(image: Tensor, box: Crop) -> Tensor:
    """Cut `box` out of `(..., H, W)`: a view, or `image` itself when the box is all of it.

    Raises:
        ImageError: when the box does not lie inside.
    """
    top, left, height, width = box
    if min(top, left) < 0 or top + height > image.shape[-2] or left + width > image.shape[-1]:
        todo = "Give the box that pad() returned for it."
        raise ImageError("Cannot crop this", found=tuple(image.shape), allowed=f"at least {box}", todo=todo)
    if (height, width) == tuple(image.shape[-2:]):
        return image
    return image[..., top : top + height, left : left + width]
