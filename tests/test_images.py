from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import socket
import stat
import struct
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL
import pytest
import torch
from effort import CLEAR, growth, seconds
from heic import HEIC
from heic import scene as shown
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageCms

from styleforge import download, images
from styleforge.errors import ConfigError, ImageError, ImageFormatRefused, ImageTooLarge, ImageUnreadable
from styleforge.images import (
    DEFAULT_POLICY,
    STRICT_POLICY,
    Crop,
    ImagePolicy,
    Picture,
    Pixels,
    crop,
    pad,
    read,
    save,
    to_pil,
)

SIZES = [(1, 1), (1, 7), (2, 3), (5, 1), (8, 8), (17, 33)]  # (height, width)
SMALL = ImagePolicy(max_pixels=2_000_000)


def noise(height=24, width=32, channels=3, dtype=np.uint8, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def scene(height=48, width=64):
    """Smooth with an edge in it, nowhere black: any missing part shows."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([60 + x * 2, 80 + y * 3, 90 + x + y], -1).astype(np.uint8)
    picture[10:20, 10:30] = (200, 30, 60)
    return picture


def encode(image, form, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, color, data, *, extra=b"", interlaced=0):
    """A PNG by hand; `data` is the filtered, not yet compressed stream."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(tags, data=b""):
    """A TIFF by hand: `(tag, type, value)` with type 3 or 4, one value each; `data` begins at byte 8."""
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def with_orientation(array, orientation, form, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(array, form, exif=exif, **options)


UPRIGHT = {  # the definition of EXIF 2.3, in numpy's words
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


# ------------------------------------------------------------------------------------ sizes and sources


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_lossless_formats_give_the_very_pixels(size, form):
    array = noise(*size)
    picture = read(encode(array, form, **({"lossless": True} if form == "WEBP" else {})))
    assert picture.rgb.dtype == np.uint8 and picture.alpha is None
    assert picture.size == size[::-1]
    np.testing.assert_array_equal(picture.rgb, array)


@pytest.mark.parametrize(("form", "error"), [("JPEG", 2), ("MPO", 2), ("AVIF", 3), ("GIF", 12)])
def test_lossy_formats_come_close(form, error):
    fine = {"quality": 98, "subsampling": 0}
    options = {"JPEG": fine, "MPO": fine, "AVIF": {"quality": 95, "subsampling": "4:4:4"}, "GIF": {}}
    array = scene()
    got = read(encode(array, form, **options[form])).rgb
    assert got.shape == array.shape
    assert np.abs(got.astype(int) - array).mean() < error


def test_every_source_gives_the_same_picture(tmp_path):
    array = noise(5, 9)
    data = encode(array, "PNG")
    path = tmp_path / "beach.jpg"  # the content decides, not the name
    path.write_bytes(data)
    later = io.BytesIO(b"something else" + data)
    later.seek(14)
    with open(path, "rb") as file:
        pipe = Unseekable(data)
        sources = [path, str(path), data, bytearray(data), memoryview(data), file, later, pipe, array]
        sources += [Image.fromarray(array), Image.open(path), torch.from_numpy(array).permute(2, 0, 1)]
        pictures = [read(source) for source in sources]
    for source, picture in zip(sources, pictures, strict=True):
        np.testing.assert_array_equal(picture.rgb, array, err_msg=repr(source))
    assert [p.source for p in pictures[:3]] == [str(path), str(path), "<bytes>"]
    assert pictures[5].source == str(path) and pictures[8].source == "<array>"
    assert read(pictures[0]) is pictures[0]


class Unseekable:
    """What a pipe or a socket offers: short reads, no seek."""

    def __init__(self, data):
        self.rest = data

    def read(self, size):
        part, self.rest = self.rest[: min(size, 7)], self.rest[min(size, 7) :]
        return part


@pytest.mark.parametrize("source", [None, 7, [1, 2], object(), Path, 1.5])
def test_what_is_no_source_is_named(source):
    with pytest.raises(ImageError, match=r"found a .*allowed: a path, URL"):
        read(source)


@pytest.mark.parametrize("source", ["no/such.png", "", "a\0b", Path("/"), "/dev/zero", b"", b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_there_is_unreadable(source):
    with pytest.raises(ImageUnreadable):
        read(source)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageUnreadable, match="regular file"):
        read(tmp_path / "pipe.png")


def test_text_files_are_unreadable(tmp_path):
    with pytest.raises(ImageUnreadable):
        read(io.StringIO("not a picture"))
    (tmp_path / "a.png").write_text("<html>404</html>")
    with pytest.raises(ImageUnreadable, match=r"a\.png.*begins like this"):
        read(tmp_path / "a.png")


def test_the_cause_is_kept_and_the_error_is_also_a_value_error():
    with pytest.raises(ValueError, match="FileNotFoundError") as info:
        read("no/such.png")
    assert isinstance(info.value.__cause__, FileNotFoundError)


# ------------------------------------------------------------------------------------ arrays and tensors


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", bool, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2)])
def test_arrays(size, dtype, channels):
    array = noise(*size, channels, np.uint16 if dtype in (np.uint16, ">u2") else np.uint8)
    expected = array
    if dtype is bool:
        array, expected = array > 99, np.where(array > 99, 255, 0)
    elif np.dtype(dtype).kind == "f":
        array = (array / 255).astype(dtype)
        expected = np.floor(array.astype(np.float64) * 65535 + 0.5)
    else:
        array = array.astype(dtype)
    picture = read(array)
    expected = expected[..., None] if channels == 0 else expected
    assert picture.rgb.dtype == (np.uint8 if dtype in (np.uint8, bool) else np.uint16)
    rgb = expected[..., :3] if channels > 2 else expected[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(picture.rgb, rgb)
    if channels in (2, 4):
        assert picture.alpha.dtype == picture.rgb.dtype
        np.testing.assert_array_equal(picture.alpha, expected[..., -1])
    else:
        assert picture.alpha is None
    before = picture.rgb.copy()
    array[:] = 0
    np.testing.assert_array_equal(picture.rgb, before)  # a copy, not a view on the caller's


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (2, 4, 6), (3, 4, 6), (4, 4, 6), (1, 1, 4, 6), (1, 3, 4, 6)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.bool])
def test_tensors(shape, dtype):
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255).round()
    tensor = tensor.to(dtype) if dtype == torch.uint8 else (tensor / 255).to(dtype)
    planes = tensor.reshape(-1, 4, 6).movedim(0, -1).float().numpy()
    scale = {torch.uint8: 1, torch.bool: 255}.get(dtype, 65535)
    picture = read(tensor.requires_grad_() if dtype == torch.float32 else tensor)
    channels = planes.shape[-1]
    rgb = planes[..., :3] if channels > 2 else planes[..., :1].repeat(3, axis=2)
    np.testing.assert_allclose(picture.rgb, rgb * scale, atol=0.51)
    assert (picture.alpha is not None) == (channels in (2, 4))
    if channels in (2, 4):
        np.testing.assert_allclose(picture.alpha, planes[..., -1] * scale, atol=0.51)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(5), r"found \(5,\); allowed: \(H, W\)"),
        (np.zeros((2, 3, 4, 5)), r"found \(2, 3, 4, 5\)"),
        (np.zeros((3, 8, 8)), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 5)), r"found \(8, 8, 5\)"),
        (np.zeros((0, 8, 3)), "empty"),
        (np.zeros((8, 0, 3), np.uint8), "empty"),
        (np.zeros((8, 8), np.int64), r"found int64; allowed: bool, uint8.*0 and 1 with \.astype\(bool\)"),
        (np.zeros((8, 8), np.complex64), "complex64"),
        (np.full((8, 8), "x"), "<U1"),
        (np.full((8, 8), None), "object"),
        (np.full((8, 8, 3), np.nan), "found NaN"),
        (np.full((8, 8, 3), np.inf), "found values from inf to inf"),
        (np.full((8, 8, 3), 200.0), r"from 200 to 200; allowed: 0 to 1.*1 / 255"),
        (np.linspace(-1, 1, 12).reshape(2, 2, 3), r"-1 to 1; .*\(x \+ 1\) / 2"),
        (torch.zeros(8, 8, 3), r"found \(8, 8, 3\).*permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 8, 8), "one picture"),
        (torch.zeros(5, 8, 8), r"found \(5, 8, 8\)"),
        (torch.zeros(3, 0, 8), "empty"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "int32"),
        (torch.zeros(3, 8, 8, device="meta"), "tensor.*Give a dense tensor"),
        (torch.zeros(3, 8, 8, dtype=torch.float8_e4m3fn), r"Float8.*x\.float\(\)"),
        (torch.linspace(-1, 1, 12).reshape(3, 2, 2), r"\(x \+ 1\) / 2"),
    ],
)
def test_wrong_arrays_say_what_was_found_and_what_to_do(source, message):
    with pytest.raises(ImageError, match=message):
        read(source)


@given(
    npst.arrays(
        np.float64,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.floats(-0.5, 1.5, allow_nan=False),
    )
)
@settings(max_examples=60, deadline=None)
def test_floats_are_rounded_to_16_bit_or_refused(array):
    if array.min() < -1e-4 or array.max() > 1 + 1e-4:
        with pytest.raises(ImageError, match="Floats out of range"):
            read(array)
    else:
        wanted = np.clip(array, 0, 1)[..., None]
        assert np.abs(read(array).rgb / 65535 - wanted).max() <= 0.5 / 65535 + 1e-12


def test_rounding_noise_is_no_wrong_range():
    assert read(np.array([[-1e-5, 1 + 1e-5]])).rgb[0, :, 0].tolist() == [0, 65535]
    for value in (-1e-3, 1 + 1e-3):
        with pytest.raises(ImageError, match="out of range"):
            read(np.array([[0.5, value]]))


@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 3))))
@settings(max_examples=60, deadline=None)
def test_8_bit_survives_the_way_to_a_tensor_and_back(array):
    tensor = read(array).tensor()
    assert tensor.shape == (1, 3, *array.shape[:2]) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(np.asarray(to_pil(tensor)), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tensor_range_type_and_layout(dtype):
    top = np.iinfo(dtype).max
    picture = Picture(np.array([[[0, top, top // 3]]], dtype), None, "x")
    tensor = picture.tensor()
    assert tensor.is_contiguous()
    assert tensor[0, 0, 0, 0] == -1 and tensor[0, 1, 0, 0] == 1  # exactly
    assert abs((tensor[0, 2, 0, 0].item() + 1) / 2 - (top // 3) / top) < 1e-7
    assert picture.tensor(dtype=torch.float16).dtype == torch.float16
    assert picture.tensor(dtype=torch.float64, device="cpu").dtype == torch.float64
    tensor.zero_()
    assert picture.rgb[0, 0, 1] == top


# ------------------------------------------------------------------------------------------------ modes

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
MODES += ["I;16", "I;16L", "I;16B", "I", "F"]


def in_mode(mode, height, width):
    array = noise(height, width, 4)
    if mode in ("I;16", "I;16L", "I;16B"):
        data = noise(height, width, 0, np.uint16).astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        return Image.frombytes(mode, (width, height), data)
    if mode == "I":
        return Image.fromarray(noise(height, width, 0, np.uint16).astype(np.int32))
    if mode == "F":
        return Image.fromarray((array[..., 0] / 255).astype(np.float32))
    if mode in ("La", "RGBa"):
        return Image.fromarray(array).convert(mode.upper()).convert(mode)
    if mode in ("P", "PA"):
        image = Image.fromarray(array[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE, colors=7)
        return image.convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", [Image.fromarray(array[..., i]) for i in range(3)])
    return Image.fromarray(array).convert("RGBA" if mode in ("RGBA", "LA") else "RGB").convert(mode)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pil(mode, size):
    image = in_mode(mode, *size)
    assert image.mode == mode
    before = (image.mode, image.tobytes(), dict(image.info))
    picture = read(image)
    assert (image.mode, image.tobytes(), dict(image.info)) == before  # the caller's object is as it was
    if mode.startswith("I"):
        grey = np.array([[image.getpixel((x, y)) for x in range(size[1])] for y in range(size[0])])
        assert picture.rgb.dtype == np.uint16
        np.testing.assert_array_equal(picture.rgb, grey[..., None].repeat(3, axis=2))
    elif mode == "F":
        np.testing.assert_allclose(picture.rgb[..., 0] / 65535, np.asarray(image), atol=1 / 65535)
    else:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
        np.testing.assert_array_equal(picture.rgb, np.asarray(straight.convert("RGBA").convert("RGB")))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        np.testing.assert_array_equal(picture.alpha, np.asarray(image.getchannel(len(image.getbands()) - 1)))
    else:
        assert picture.alpha is None


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (0, 65536), (-70000, -1)])
def test_mode_i_out_of_range_names_the_range(low, high):
    with pytest.raises(ImageError, match=f"values from {low} to {high}; allowed: 0 to 65535"):
        read(Image.fromarray(np.array([[low, high]], np.int32)))


def test_mode_f_outside_0_to_1_is_refused():
    with pytest.raises(ImageError, match=r"from 0 to 255; .*1 / 255"):
        read(Image.fromarray(np.array([[0, 255]], np.float32)))


def test_empty_pil_image():
    with pytest.raises(ImageError, match="empty"):
        read(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_depth(form):
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = read(encode(grey, form))
    np.testing.assert_array_equal(picture.rgb[..., 1], grey)
    error = (picture.tensor().double() + 1) / 2 - torch.from_numpy(grey / 65535)
    assert error.abs().max() <= 1 / 65535


def test_big_endian_16_bit_tiff():
    grey = noise(6, 5, 0, np.uint16)
    image = Image.frombytes("I;16B", (5, 6), grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(read(encode(image, "TIFF")).rgb[..., 0], grey)


def test_adobe_cmyk_jpeg_is_not_inverted():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    data = encode(image, "JPEG", quality=100)
    assert b"Adobe" in data
    assert read(data).rgb.reshape(-1, 3).mean(0) == pytest.approx([255, 0, 0], abs=3)


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (8, 6), c) for c in ((250, 0, 0), (0, 250, 0))]
    for form in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        assert np.abs(read(data).rgb.astype(int) - (250, 0, 0)).max() <= 4, form
    image = Image.open(io.BytesIO(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])))
    image.seek(1)
    assert read(image).rgb[0, 0].tolist() == [0, 250, 0]  # a PIL object stands where its owner put it


# ------------------------------------------------------------------------------------------------ alpha


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_bit_equal_and_color_under_it_stays(size, mode, form):
    array = noise(*size, 4 if mode == "RGBA" else 2)
    picture = read(encode(array, form, **({"lossless": True, "exact": True} if form == "WEBP" else {})))
    np.testing.assert_array_equal(picture.alpha, array[..., -1])
    np.testing.assert_array_equal(picture.rgb[..., 0], array[..., 0])
    back = to_pil(picture.tensor(), picture.alpha)
    assert back.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(back)[..., 3], array[..., -1])


def test_palette_with_transparency_table():
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    image.putpalette([v for i in range(6) for v in (i * 40, 255 - i * 40, 7)])
    for table, expected in ((bytes([0, 50, 100, 150, 200, 255]), [0, 50, 100, 150, 200, 255]), (2, None)):
        alpha = np.array(expected or [255, 255, 0, 255, 255, 255]).reshape(2, 3)
        for form in ("PNG",) if expected else ("PNG", "GIF"):
            picture = read(encode(image, form, transparency=table))
            np.testing.assert_array_equal(picture.alpha, alpha)
            np.testing.assert_array_equal(picture.rgb[..., 0].ravel(), np.arange(6) * 40)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_grey_with_one_transparent_value(bits):
    top = 2**bits - 1
    values = np.array([0, top // 2 if bits > 1 else 1, top, top // 3], np.uint16)
    digits = "".join(f"{v:0{bits}b}" for v in values)
    row = int(digits.ljust(-(-len(digits) // 8) * 8, "0"), 2).to_bytes(-(-len(digits) // 8), "big")
    data = png(4, 1, bits, 0, b"\0" + row, extra=chunk(b"tRNS", struct.pack(">H", values[1])))
    picture = read(data)
    scaled = np.iinfo(picture.rgb.dtype).max
    assert scaled == (65535 if bits == 16 else 255)
    np.testing.assert_array_equal(picture.rgb[0, :, 0], values.astype(np.uint32) * scaled // top)
    np.testing.assert_array_equal(picture.alpha[0], np.where(values == values[1], 0, scaled))
    assert picture.alpha.dtype == picture.rgb.dtype


@pytest.mark.parametrize("bits", [8, 16])
def test_png_color_with_one_transparent_value(bits):
    row = np.array([[9, 8, 7], [9, 8, 6], [0, 0, 0]]) * (257 if bits == 16 else 1)
    raw = b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes()
    picture = read(png(3, 1, bits, 2, raw, extra=chunk(b"tRNS", struct.pack(">HHH", *map(int, row[1])))))
    assert picture.alpha.tolist() == [[255, 0, 255]]
    assert picture.rgb.tolist() == [[[9, 8, 7], [9, 8, 6], [0, 0, 0]]]


def test_16_bit_alpha():
    array = noise(3, 4, 4, np.uint16)
    picture = read(array)
    np.testing.assert_array_equal(picture.alpha, array[..., 3])
    out = np.asarray(to_pil(picture.tensor(), picture.alpha))
    np.testing.assert_array_equal(out[..., 3], np.floor(array[..., 3] / 257 + 0.5))


# ------------------------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "PIL", "PIL loaded"])
def test_orientation_is_applied_to_the_pixel(form, orientation):
    array = noise(3, 5, 4)
    data = with_orientation(array, orientation, "PNG")
    if form == "WEBP":
        data = with_orientation(array, orientation, "WEBP", lossless=True, exact=True)
    elif form == "TIFF":
        data = with_orientation(array, orientation, "TIFF")
    source = Image.open(io.BytesIO(data)) if form.startswith("PIL") else data
    if form == "PIL loaded":
        source.load()
    for _ in range(2):  # reading a PIL object must not turn it for the next reader
        picture = read(source)
        np.testing.assert_array_equal(picture.rgb, UPRIGHT[orientation](array[..., :3]))
        np.testing.assert_array_equal(picture.alpha, UPRIGHT[orientation](array[..., 3]))
        assert picture.rgb.flags.c_contiguous


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["JPEG", "AVIF"])
def test_orientation_of_lossy_formats(form, orientation):
    corners = np.kron(np.array([[250, 20, 90], [130, 170, 60]], np.uint8), np.ones((16, 16), np.uint8))
    array = corners[..., None].repeat(3, axis=2)
    got = read(with_orientation(array, orientation, form, quality=95)).rgb
    expected = UPRIGHT[orientation](array)
    assert got.shape == expected.shape
    assert np.abs(got[8::16, 8::16].astype(int) - expected[8::16, 8::16]).max() < 12


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_absurd_orientations_are_none(orientation):
    array = noise(3, 5)
    np.testing.assert_array_equal(read(with_orientation(array, orientation, "PNG")).rgb, array)


def test_broken_exif_warns_and_keeps_the_picture():
    array = noise(3, 5)
    image = Image.fromarray(array)
    image.info["exif"] = b"Exif\0\0this is no TIFF header"
    with pytest.warns(UserWarning, match="EXIF"):
        np.testing.assert_array_equal(read(image).rgb, array)


# --------------------------------------------------------------------------------------------------- ICC


def icc(space, tags, pcs=b"XYZ ", kind=b"mntr"):
    """A version 2 profile by hand."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), b"cprt": b"text" + bytes(5)} | tags
    body, table, at = b"", struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    white = struct.pack(">iii", 63190, 65536, 54061)
    head = struct.pack(">I", at + len(body)) + bytes(4) + struct.pack(">I", 0x02400000) + kind + space + pcs
    head += bytes(12) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + body


WHITE = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
LINEAR_GREY = icc(b"GRAY", {b"wtpt": WHITE, b"kTRC": b"curv" + bytes(8)})
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(linear):
    """The curve of sRGB."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def test_an_srgb_profile_changes_nothing():
    array = noise(64, 64)
    for form in ("PNG", "TIFF"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(read(encode(array, form, icc_profile=SRGB)).rgb, array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grey = read(encode(array[..., 0], "PNG", icc_profile=SRGB)).rgb  # which is usual, though not grey
    assert np.abs(grey.astype(int) - array[..., :1]).max() <= 1


def test_a_profile_that_is_srgb_costs_nothing_and_one_that_is_a_little_darker_is_heeded():
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 0x0240)  # a gamma of 2.25
    primaries = {b"r": (28577, 14580, 912), b"g": (25240, 46981, 6362), b"b": (9379, 3973, 46795)}  # of sRGB, for D50
    tags = {name + b"TRC": curve for name in primaries}
    tags |= {name + b"XYZ": b"XYZ " + bytes(4) + struct.pack(">iii", *xyz) for name, xyz in primaries.items()}
    darker = icc(b"RGB ", {b"wtpt": WHITE, **tags})
    assert images._to_srgb(SRGB, "RGB") is None and images._to_srgb(SRGB, "L") is None
    assert images._to_srgb(darker, "RGB") is images._to_srgb(darker, "RGB") is not None
    array = noise(32, 32)
    assert 2 <= np.abs(read(encode(array, "PNG", icc_profile=darker)).rgb.astype(int) - array).max() <= 20


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_with_red_and_blue_swapped_swaps_them(mode):
    swapped = SRGB.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
    array = noise(16, 16, 4)
    image = Image.fromarray(array) if mode == "RGBA" else Image.fromarray(array[..., :3]).convert(mode)
    data = encode(image, "PNG", icc_profile=swapped)
    plain = np.asarray(image.convert("RGB")).astype(int)
    picture = read(data)
    assert np.abs(picture.rgb - plain[..., ::-1]).max() <= 2
    if mode == "RGBA":
        np.testing.assert_array_equal(picture.alpha, array[..., 3])


def test_grey_profiles():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = np.arange(256, dtype=np.uint8)[None]
        got = read(encode(values, "PNG", icc_profile=LINEAR_GREY)).rgb[0]
        alpha = read(encode(np.dstack([values, values[:, ::-1]]), "PNG", icc_profile=LINEAR_GREY))
        deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        got16 = read(encode(deep, "PNG", icc_profile=LINEAR_GREY)).rgb[..., 1].ravel().astype(int)
    expected = encoded(np.arange(256) / 255)
    assert np.abs(got / 255 - expected[:, None]).max() <= 0.6 / 255
    np.testing.assert_array_equal(alpha.rgb[0], got)
    np.testing.assert_array_equal(alpha.alpha, values[:, ::-1])
    smooth = slice(1024, None)  # below, the 8-bit answers of lcms are 13 levels apart
    assert np.abs(got16 / 65535 - encoded(np.arange(65536) / 65535))[smooth].max() <= 1.0 / 255
    assert (np.diff(got16) >= 0).all() and len(np.unique(got16)) > 30000


def test_cmyk_profiles():
    nodes = np.zeros((2, 2, 2, 2, 3), np.uint8)  # a press whose only ink is black
    nodes[..., 1:] = 128
    nodes[..., 0, 0] = 255
    ramp = bytes(range(256))
    unit = struct.pack(">9i", *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + ramp * 4 + nodes.tobytes() + ramp * 3
    press = icc(b"CMYK", {b"wtpt": WHITE, b"A2B0": table}, pcs=b"Lab ", kind=b"prtr")
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for form in ("JPEG", "TIFF"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read(encode(image, form, icc_profile=press)).rgb.min() >= 252
        assert read(encode(image, form)).rgb[0, 0].tolist() == pytest.approx([0, 255, 255], abs=3)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [("RGB", b"rubbish"), ("RGB", SRGB[:200]), ("RGB", LINEAR_GREY), ("CMYK", SRGB), ("I;16", b"x" * 500)],
)
def test_a_profile_that_makes_no_sense_warns_and_keeps_the_picture(mode, profile):
    image = in_mode(mode, 4, 5)
    form = "TIFF" if mode == "CMYK" else "PNG"
    with pytest.warns(UserWarning, match="profile"):
        picture = read(encode(image, form, icc_profile=profile))
    np.testing.assert_array_equal(picture.rgb, read(encode(image, form)).rgb)


# ------------------------------------------------------------------------------- truncated, rotten, bombs


def first_directory(data):
    """Pillow writes a TIFF's directory last; move it to the front so that cuts meet the pixels."""
    at = struct.unpack_from("<I", data, 4)[0]
    tail = len(data) - at
    out = bytearray(data[:4] + struct.pack("<I", 8) + data[at:] + data[8:at])

    def moved(x):
        return 8 + (x - at) if x >= at else x + tail

    for i in range(struct.unpack_from("<H", out, 8)[0]):
        place = 10 + 12 * i
        tag, kind, count, value = struct.unpack_from("<HHII", out, place)
        far = {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind] * count > 4
        if far:
            struct.pack_into("<I", out, place + 8, moved(value))
        if tag == 273:
            for j in range(count):
                spot = moved(value) + 4 * j if far else place + 8
                struct.pack_into("<I", out, spot, moved(struct.unpack_from("<I", out, spot)[0]))
    return bytes(out)


def files():
    one = Image.fromarray(scene()).convert("1")
    yield "png", encode(scene(), "PNG")
    yield "png grey 16", encode(scene()[..., 0].astype(np.uint16) * 250, "PNG")
    yield "png palette", encode(Image.fromarray(scene()).convert("P"), "PNG")
    yield "jpeg", encode(scene(), "JPEG")
    yield "jpeg progressive", encode(scene(), "JPEG", progressive=True)
    yield "webp", encode(scene(), "WEBP")
    yield "webp lossless", encode(scene(), "WEBP", lossless=True)
    yield "bmp", encode(scene(), "BMP")
    yield "gif", encode(scene(), "GIF")
    yield "ppm", encode(scene(), "PPM")
    yield "avif", encode(scene(), "AVIF")
    yield "tiff", encode(scene(), "TIFF")
    for method in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"tiff {method}", first_directory(encode(scene(), "TIFF", compression=method))
    for method in ("group3", "group4"):
        yield f"tiff {method}", first_directory(encode(one, "TIFF", compression=method))


FILES = dict(files())


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_an_error_or_the_whole_picture(name, capfd):
    data = FILES[name]
    whole = read(data)
    assert whole.size == (64, 48)
    refused, cuts = 0, [*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))]
    for cut in cuts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                np.testing.assert_array_equal(read(data[:cut]).rgb, whole.rgb, err_msg=f"cut at {cut}")
            except ImageUnreadable:
                refused += 1
    assert refused > 0.7 * len(cuts)


def rows_of(width, height, bits, channels, seed=0):
    size = -(-width * bits * channels // 8)
    return [b"\0" + (b"\xff" if i % 2 else b"\x5a") * size for i in range(height)]


@pytest.mark.parametrize(("bits", "color"), [(1, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (8, 6), (16, 6)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 4), (33, 17)])
def test_a_png_that_ends_early_inside_a_sound_stream(size, bits, color):
    width, height = size
    rows = rows_of(width, height, bits, {0: 1, 2: 3, 4: 2, 6: 4}[color])
    assert read(png(width, height, bits, color, b"".join(rows))).size == size
    for kept in {0, height // 2, height - 1}:
        with pytest.raises(ImageUnreadable, match=r"truncated|missing"):
            read(png(width, height, bits, color, b"".join(rows[:kept])))
    black = b"".join(b"\0" + bytes(len(row) - 1) for row in rows)  # but truly black is a picture
    assert read(png(width, height, bits, color, black)).rgb.max() == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 5), (8, 8), (2, 9), (17, 13)])
def test_an_interlaced_png_that_ends_early(size):
    width, height = size
    array = noise(height, width, 3) | 1
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in steps for row in array[y::dy, x::dx] if row.size]
    np.testing.assert_array_equal(read(png(width, height, 8, 2, b"".join(rows), interlaced=1)).rgb, array)
    for kept in range(len(rows)):
        with pytest.raises(ImageUnreadable):
            read(png(width, height, 8, 2, b"".join(rows[:kept]), interlaced=1))


RAW_TIFF = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]


def test_a_tiff_with_fewer_strips_than_rows():
    whole = tiff([*RAW_TIFF, (278, 4, 16), (279, 4, 256)], bytes(range(256)))
    np.testing.assert_array_equal(read(whole).rgb[..., 0].ravel(), np.arange(256))
    with pytest.raises(ImageUnreadable, match="1 strips or tiles of 4"):
        read(tiff([*RAW_TIFF, (278, 4, 4), (279, 4, 64)], bytes(range(256))))


def test_a_picture_object_that_failed_does_not_turn_black_later():
    image = Image.open(io.BytesIO(FILES["tiff tiff_adobe_deflate"][:4000]))
    for _ in range(3):
        with pytest.raises(ImageUnreadable):
            read(image)
    cut = Image.open(io.BytesIO(FILES["jpeg"][:700]))
    for _ in range(3):
        with pytest.raises(ImageUnreadable):
            read(cut)


@pytest.mark.parametrize(
    "error",
    [
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        zlib.error,
        IndexError,
        TypeError,
        KeyError,
        RecursionError,
        MemoryError,
        NotImplementedError,
        AttributeError,
        EOFError,
        AssertionError,
        ZeroDivisionError,
    ],
)
@pytest.mark.parametrize("place", ["open", "load"])
def test_whatever_a_decoder_throws_becomes_unreadable(error, place, monkeypatch):
    def fail(*args, **kwargs):
        raise error("inside the decoder")

    if place == "open":
        monkeypatch.setitem(Image.OPEN, "PNG", (fail, lambda prefix: True))
    else:
        monkeypatch.setattr(Image.Image, "load", fail)
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ImageUnreadable, match="inside the decoder") as info:
        read(FILES["png"])
    assert isinstance(info.value.__cause__, error)


def test_keyboard_interrupt_is_not_swallowed(monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stop)
    with pytest.raises(KeyboardInterrupt):
        read(FILES["png"])


def repaired(data):
    """The same PNG with right checksums, so that a mutation gets past them."""
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return bytes(out + data[at:])
        out += chunk(kind, bytes(data[at + 8 : at + 8 + length]))
        at += 12 + length
    return bytes(out)


@pytest.mark.parametrize(
    "name", ["png", "png palette", "jpeg", "webp", "gif", "bmp", "tiff tiff_lzw", "avif", "ppm", "tiff"]
)
def test_mutants_are_pictures_or_image_errors(name, capfd):
    rng = np.random.default_rng(sum(name.encode()))
    outcomes = {Picture: 0, ImageError: 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(70):
            data = bytearray(FILES[name])
            for _ in range(rng.integers(1, 6)):
                # half of the hits go to the first 100 bytes, where sizes, modes and offsets are
                at = rng.integers(0, len(data) if rng.random() < 0.5 else min(100, len(data)))
                if rng.random() < 0.8:
                    data[at] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
                else:
                    del data[at : at + rng.integers(1, 9)]
            data = repaired(data) if name.startswith("png") else bytes(data)
            try:
                picture = read(data, SMALL)
                assert picture.rgb.ndim == 3 and picture.rgb.size <= 3 * SMALL.max_pixels
                outcomes[Picture] += 1
            except ImageError:
                outcomes[ImageError] += 1
    assert outcomes[ImageError] >= 10  # the mutations bite


def bombs():
    def riff(*chunks):
        body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    def patched(name, marker, offset, data):
        out = bytearray(FILES[name])
        at = out.index(marker) + offset
        out[at : at + len(data)] = data
        return bytes(out)

    huge = struct.pack(">II", 50_000, 50_000)
    claims = bytearray(FILES["png"])
    claims[16:24] = huge
    yield "png claims", repaired(claims)
    yield "png real", png(20_000, 20_000, 1, 0, bytes(2501 * 20_000))
    yield "png side", png(60_000, 1, 8, 0, bytes(60_001))
    yield "png profile", png(1, 1, 8, 0, b"\0\0", extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(60 << 20))))
    yield "jpeg", patched("jpeg", b"\xff\xc0", 5, struct.pack(">HH", 65_000, 65_000))
    yield "gif", patched("gif", b"GIF8", 6, struct.pack("<HH", 65_000, 65_000))
    yield "gif frame", patched("gif", b",\0\0\0\0", 5, struct.pack("<HH", 65_000, 65_000))
    yield "bmp", patched("bmp", b"BM", 18, struct.pack("<ii", 60_000, 60_000))
    size = (16_382).to_bytes(3, "little")
    frame = bytes(6) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little") + bytes(4) + FILES["webp lossless"][12:]
    yield "webp", riff((b"VP8X", b"\2\0\0\0" + size * 2), (b"ANIM", bytes(6)), (b"ANMF", frame))
    yield "ppm", b"P6 60000 60000 255\n" + bytes(100)
    yield "avif", patched("avif", b"ispe", 8, huge)
    yield "tiff", tiff([(256, 4, 60_000), (257, 4, 60_000), *RAW_TIFF[2:], (278, 4, 60_000), (279, 4, 9)])
    deflated = [(t, k, 8 if t == 259 else v) for t, k, v in RAW_TIFF if t != 273]
    tiles = [(322, 4, 20_000), (323, 4, 20_000), (324, 4, 8), (325, 4, 400_000)]
    yield "tiff tile", tiff([*deflated, *tiles], zlib.compress(bytes(20_000 * 20_000), 1)[:400_000])


def seconds_of_reading():
    """An honest picture of two megapixels."""
    honest = encode(noise(1000, 2000), "PNG")
    return seconds(lambda: read(honest))


def test_bombs_cost_nothing():
    """Each is refused sooner than an honest picture of two megapixels is read, in a few megabytes."""

    def refused(name, data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ImageError) as info:
                read(data)
        if name not in ("png profile", "avif"):  # whose decoders refuse it as rotten
            assert isinstance(info.value, ImageTooLarge), (name, info.value)

    reading, bad = seconds_of_reading(), {}
    for name, data in bombs():
        with contextlib.suppress(ImageError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(data[:50])  # so that all of Pillow is imported
        refusal = functools.partial(refused, name, data)
        took, size = seconds(refusal), growth(refusal) if CLEAR.exists() else 0
        if took > reading or size > 20e6:
            bad[name] = (took, reading, size)
    assert not bad


def test_limits_are_exact(tmp_path):
    data = encode(noise(6, 10), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png", io.BytesIO(data), Image.open(io.BytesIO(data)), noise(6, 10)):
        assert read(source, ImagePolicy(max_pixels=60, max_side=10)).size == (10, 6)
        if isinstance(source, io.BytesIO):
            source.seek(0)
        for policy in (ImagePolicy(max_pixels=59), ImagePolicy(max_side=9)):
            with pytest.raises(ImageTooLarge, match="10 x 6 pixels; allowed: "):
                read(source, policy)
            if isinstance(source, io.BytesIO):
                source.seek(0)
    for source in (data, tmp_path / "a.png", io.BytesIO(data), Unseekable(data)):
        assert read(source, ImagePolicy(max_bytes=len(data))).size == (10, 6)
    for source in (data, tmp_path / "a.png", io.BytesIO(data), Unseekable(data)):
        with pytest.raises(ImageTooLarge, match="file is too large"):
            read(source, ImagePolicy(max_bytes=len(data) - 1))


def test_an_endless_file_object_is_left_after_max_bytes():
    class Endless:
        given = 0

        def read(self, size):
            self.given += size
            return bytes(size)

    source = Endless()
    with pytest.raises(ImageTooLarge):
        read(source, ImagePolicy(max_bytes=3_000_000))
    assert source.given == 3_000_001


def test_pillows_own_limit_neither_warns_nor_refuses_nor_moves(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 48 x 64 is far over twice that
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("png", "jpeg", "webp", "bmp", "ppm", "avif", "gif", "tiff", "tiff tiff_lzw"):
            if name == "webp" and int(PIL.__version__.split(".")[0]) >= 13:  # its plugin looks for itself
                with pytest.raises(ImageTooLarge, match="smaller"):
                    read(FILES[name])
            else:
                assert read(FILES[name]).size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "AVIF", "PPM"])
def test_the_strict_policy_refuses_formats_before_decoding(form):
    data = encode(noise(), form)
    with pytest.raises(ImageFormatRefused, match=f"found .*{form}; allowed: PNG, JPEG, WEBP"):
        read(data, STRICT_POLICY)
    with pytest.raises(ImageFormatRefused, match="PNG, JPEG, WEBP"):
        if form == "AVIF":  # decodes in load(), leaves no sign before
            read(data, STRICT_POLICY)
        read(Image.open(io.BytesIO(data)), STRICT_POLICY)
    assert read(data).size == (32, 24)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "MPO"])
def test_the_strict_policy_reads_the_three_formats(form):
    several = {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]} if form == "MPO" else {}
    data = encode(noise(), form, **several)
    assert Image.open(io.BytesIO(data)).format == form
    assert read(data, STRICT_POLICY).size == (32, 24)
    assert read(Image.open(io.BytesIO(data)), STRICT_POLICY).size == (32, 24)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        (b"8BPS\0\1" + bytes(30), "PSD"),
        (b"\0\0\1\0\1\0" + bytes(30), "ICO"),
        (b"SIMPLE  =                    T" + bytes(80), "FITS"),
        (b"\xd7\xcd\xc6\x9a\0\0" + bytes(60), "WMF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), "JPEG2000"),
    ],
)
def test_other_formats_are_named_and_never_opened(data, name, monkeypatch):
    Image.init()
    for other in set(Image.OPEN) - set(DEFAULT_POLICY.formats):
        monkeypatch.setitem(Image.OPEN, other, (lambda *_: pytest.fail("opened"), Image.OPEN[other][1]))
    with pytest.raises(ImageFormatRefused, match=f"found {name}; allowed: PNG"):
        read(data)


def test_what_iphones_make_is_read_upright():
    pytest.importorskip("pi_heif", reason="pip install styleforge[heif]")
    picture = read(HEIC)
    assert picture.size == (48, 64) and picture.alpha is None
    assert np.abs(picture.rgb.astype(int) - shown()).mean() < 3


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_cut_picture_of_an_iphone_is_refused(share):
    pytest.importorskip("pi_heif", reason="pip install styleforge[heif]")
    with pytest.raises(ImageError):
        read(HEIC[: int(share * len(HEIC))])


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])  # of which the second is AVIF's, too
def test_without_its_extra_a_picture_of_an_iphone_says_which(brand, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageFormatRefused, match=r"found HEIC.*pip install 'styleforge\[heif\]'"):
        read(HEIC.replace(b"ftypheic", b"ftyp" + brand))
    with pytest.raises(ImageFormatRefused, match="found HEIC; allowed: PNG, JPEG, WEBP. Convert it"):
        read(HEIC, STRICT_POLICY)


def test_a_caller_may_allow_more_formats():
    policy = ImagePolicy(formats=("PNG", "TGA"))
    array = noise()
    np.testing.assert_array_equal(read(encode(array, "TGA"), policy).rgb, array)
    with pytest.raises(ImageFormatRefused):
        read(encode(array, "BMP"), ImagePolicy(formats=("PNG",)))


# -------------------------------------------------------------------------------------------------- URLs

connects: list[object] | None = None


def _watch(event, args):
    if event == "socket.connect" and connects is not None:
        connects.append(args[1])


sys.addaudithook(_watch)


@pytest.fixture
def watched():
    global connects
    connects = []
    yield connects
    connects = None


_HOSTS = """
127.0.0.1 127.1 2130706433 0x7f000001 0177.0.0.1 localhost 0 0.0.0.0 10.0.0.1 172.16.5.4 192.168.1.1
169.254.169.254 100.64.0.1 100.100.100.200 168.63.129.16 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1
203.0.113.9 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 [::] [::1] [::ffff:127.0.0.1]
[::ffff:8.8.8.8] [::127.0.0.1] [fe80::1] [fc00::1] [fec0::1] [ff02::1] [2002:7f00:1::]
[2002:808:808::1] [64:ff9b::7f00:1] [64:ff9b:1::1] [2001:0:7f00:1::] [2001:db8::1] [100::1]
"""
REFUSED = _HOSTS.split()


@pytest.mark.parametrize("host", REFUSED)
def test_addresses_that_are_not_public_are_never_connected_to(host, watched):
    for scheme in ("http", "https"):
        with pytest.raises(ImageError, match="not public"):
            read(f"{scheme}://{host}/cat.png")
    assert watched == []


def test_public_addresses_would_be_let_through():
    for address in ("8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"):
        assert download.is_public(address)


def resolver(monkeypatch, answers):
    """Names in `answers` resolve to their next list of addresses; returns the names that were asked for."""
    asked, real = [], socket.getaddrinfo

    def fake(host, port, *args, **kwargs):
        if host not in answers:
            assert host.replace(".", "").isdigit(), f"{host} would be looked up"
            return real(host, port, *args, **kwargs)
        asked.append(host)
        found = answers[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return asked


def test_one_inside_address_among_many_refuses_a_name(monkeypatch, watched):
    resolver(monkeypatch, {"mixed.test": [["8.8.8.8", "10.0.0.1"]]})
    with pytest.raises(ImageError, match=r"mixed\.test at 10\.0\.0\.1"):
        read("http://mixed.test/a.png")
    assert watched == []


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64,iVBORw0KGgo=", "file:///etc/passwd", "ftp://example.com/a.png", "gopher://x/"],
)
def test_other_schemes_are_refused(url, watched):
    with pytest.raises(ImageError, match="address is not read"):
        read(url)
    assert watched == []


def test_the_strict_policy_knows_no_urls(watched, server):
    with pytest.raises(ImageError, match="no address at all"):
        read(f"{server}/cat.png", STRICT_POLICY)
    assert watched == []


class Handler(http.server.BaseHTTPRequestHandler):
    seen: ClassVar[list[dict]] = []
    sent = 0

    def log_message(self, *args):
        pass

    def give(self, data, status=200, length=None, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if length != -1:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def drip(self, data):
        for byte in data:
            self.wfile.write(bytes([byte]))
            Handler.sent += 1
            time.sleep(0.05)

    def do_GET(self):
        Handler.seen.append({"path": self.path, **self.headers})
        port = self.server.server_address[1]
        path, _, query = self.path.partition("?")
        with contextlib.suppress(OSError):
            match path.split("/")[1]:
                case "cat.png" | "b%C3%A4r%20.png":
                    self.give(FILES["png"])
                case "hop":  # /hop?3 redirects three times
                    left = int(query)
                    self.give(b"", 302, Location=f"/hop?{left - 1}" if left > 1 else "/cat.png")
                case "to":
                    self.give(b"", 307, Location=query)
                case "other-loopback":
                    self.give(b"", 301, Location=f"http://127.0.0.2:{port}/cat.png")
                case "nowhere":
                    self.give(b"", 302)
                case "short":
                    self.give(FILES["bmp"][:-900], length=len(FILES["bmp"]))
                case "liar":
                    self.give(b"x", length=10**12)
                    self.drip(FILES["png"])
                case "endless":
                    self.give(b"", length=-1)
                    while True:
                        self.wfile.write(bytes(2**16))
                        Handler.sent += 2**16
                case "drip":
                    self.give(b"", length=-1)
                    self.drip(FILES["png"])
                case "drip-headers":
                    self.drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 999)
                case "html":
                    self.give(b"<html>not a picture</html>")
                case _:
                    self.give(b"no", 404)


@pytest.fixture(scope="module")
def running():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running, monkeypatch):
    Handler.seen, Handler.sent = [], 0
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1")
    return running


def test_a_url_is_read(server, watched):
    picture = read(f"{server}/cat.png?token=secret#part")
    np.testing.assert_array_equal(picture.rgb, scene())
    assert picture.source == f"{server}/cat.png"  # without the secret
    assert Handler.seen[0]["path"] == "/cat.png?token=secret"
    assert "Authorization" not in Handler.seen[0] and Handler.seen[0]["Connection"] == "close"
    assert read(f"{server}/bär .png").size == (64, 48)
    assert read(f"{server}/b%C3%A4r%20.png").size == (64, 48)
    assert read(f"{server.replace('http', 'HTTP')}/cat.png").size == (64, 48)
    assert {address[0] for address in watched} == {"127.0.0.1"}


def test_an_address_that_was_taken_for_a_path_is_named(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match="address is not read.*Save the picture to a file"):
        read(Path("https://example.org/cat.png"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:").mkdir()
    Image.fromarray(scene()).save("https:/cat.png")
    assert read(Path("https:/cat.png")).size == (64, 48)


def test_redirects_up_to_three(server):
    assert read(f"{server}/hop?3").size == (64, 48)
    assert len(Handler.seen) == 4
    with pytest.raises(ImageUnreadable, match="more than 3 redirects"):
        read(f"{server}/hop?4")
    with pytest.raises(ImageUnreadable, match="more than 0 redirects"):
        read(f"{server}/hop?1", ImagePolicy(redirects=0))


@pytest.mark.parametrize(
    "path", ["other-loopback", "to?http://10.0.0.1/a.png", "to?http://[::1]/", "to?//192.168.0.1/"]
)
def test_redirects_to_the_inside_are_refused(path, server, watched):
    with pytest.raises(ImageError, match="not public"):
        read(f"{server}/{path}")
    assert [address[0] for address in watched] == ["127.0.0.1"]


@pytest.mark.parametrize("path", ["to?file:///etc/passwd", "to?ftp://127.0.0.1/a.png", "to?data:image/png,x"])
def test_redirects_to_other_schemes_are_refused(path, server):
    with pytest.raises(ImageError, match="address is not read"):
        read(f"{server}/{path}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "HTTP status 404"),
        ("nowhere", "Cannot download"),
        ("short", "not complete"),
        ("html", "begins like"),
    ],
)
def test_bad_answers_are_unreadable(path, message, server):
    with pytest.raises(ImageUnreadable, match=message):
        read(f"{server}/{path}")


def test_a_stream_is_stopped_at_the_limit(server):
    policy = ImagePolicy(url_bytes=2**20)
    with pytest.raises(ImageTooLarge):
        read(f"{server}/liar", policy)
    assert Handler.sent < 40  # by its announced length, without waiting for what drips
    for limits in (policy, ImagePolicy(max_bytes=2**20)):  # the smaller of the two counts
        before = Handler.sent
        with pytest.raises(ImageTooLarge, match="allowed: 1 MiB"):
            read(f"{server}/endless", limits)
        assert Handler.sent - before < 16 * 2**20  # what the system's buffers hold on top
    with pytest.raises(ImageTooLarge):
        read(f"{server}/cat.png", ImagePolicy(max_bytes=100))


@pytest.mark.parametrize("path", ["drip", "drip-headers"])
def test_the_time_limit_is_for_all_of_it(path, server):
    timeout, begin = 0.4, time.monotonic()
    with pytest.raises(ImageUnreadable):
        read(f"{server}/{path}", ImagePolicy(timeout=timeout))
    assert time.monotonic() - begin > 0.75 * timeout
    assert Handler.sent < 60  # of 180 and more, each of which comes within the limit


def test_nobody_there(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ImageUnreadable, match="ConnectionRefusedError"):
        read(f"http://127.0.0.1:{port}/a.png")
    for url in ("http://", "http:///a.png", "http://[::1/a.png", "http://127.0.0.1:99999/", f"{server}/\r\nX: y"):
        with pytest.raises(ImageError):
            read(url)


def test_the_checked_address_is_the_one_connected_to(server, monkeypatch, watched):
    port = server.rsplit(":", 1)[1]
    asked = resolver(monkeypatch, {"rebind.test": [["127.0.0.1"], ["127.0.0.2"]]})
    assert read(f"http://rebind.test:{port}/cat.png").size == (64, 48)
    assert asked == ["rebind.test"]  # once: nothing to rebind in between
    assert [address[0] for address in watched] == ["127.0.0.1"]
    assert Handler.seen[0]["Host"] == f"rebind.test:{port}"


def test_https_verifies_the_name_not_the_address(server, monkeypatch):
    names = []

    class Context:
        def wrap_socket(self, sock, server_hostname, do_handshake_on_connect):
            names.append(server_hostname)
            return Wrapped(sock)

    class Wrapped:  # plain text inside: what matters is who was asked for
        def __init__(self, sock):
            self.sock = sock

        def do_handshake(self):
            names.append("shaken")

        def __getattr__(self, name):
            return getattr(self.sock, name)

    monkeypatch.setattr(download.ssl, "create_default_context", Context)
    resolver(monkeypatch, {"secure.test": [["127.0.0.1"]]})
    port = server.rsplit(":", 1)[1]
    assert read(f"https://secure.test:{port}/cat.png").size == (64, 48)
    assert names == ["secure.test", "shaken"]


def test_downloads_leave_no_thread_and_no_socket(server, monkeypatch):
    sockets, real = [], socket.create_connection

    def connect(*args, **kwargs):
        sockets.append(real(*args, **kwargs))
        return sockets[-1]

    monkeypatch.setattr(socket, "create_connection", connect)
    read(f"{server}/cat.png")
    for path in ("hop?4", "missing", "liar", "short", "drip-headers"):
        with pytest.raises(ImageError):
            read(f"{server}/{path}", ImagePolicy(timeout=0.3))
    assert len(sockets) == 9
    assert [s.fileno() for s in sockets] == [-1] * 9
    timers = [t for t in threading.enumerate() if isinstance(t, threading.Timer)]
    for timer in timers:
        timer.join(1)
    assert not any(t.is_alive() for t in timers)


# --------------------------------------------------------------------------------------------------- out


def test_to_pil_rounds_and_clips():
    values = torch.tensor([-3.0, -1.0, -0.9999, 0.0, 0.00393, 0.9961, 1.0, 7.0])
    image = values.expand(3, 1, 8)
    out = np.asarray(to_pil(image))[0, :, 0]
    wanted = np.clip(np.rint((values.numpy().astype(np.float64) + 1) * 127.5), 0, 255)
    np.testing.assert_array_equal(out, wanted)
    up = torch.full((1, 3, 1, 1), (199.7 / 127.5) - 1)
    assert np.asarray(to_pil(up))[0, 0, 0] == 200  # truncation gives 199


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_to_pil_of_any_float_type(dtype):
    image = torch.rand(1, 3, 4, 5, dtype=torch.float32).mul(2).sub(1).to(dtype).requires_grad_()
    out = to_pil(image)
    assert out.mode == "RGB" and out.size == (5, 4)
    wanted = ((image.detach().double()[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(out) - wanted).max() <= 0.501


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_to_pil_never_paints_nan(value):
    image = torch.zeros(3, 4, 5)
    image[1, 2, 3] = value
    with pytest.raises(ImageError, match="NaN or infinity"):
        to_pil(image)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(4, 5),
        torch.zeros(1, 4, 5),
        torch.zeros(4, 4, 5),
        torch.zeros(2, 3, 4, 5),
        torch.zeros(3, 0, 5),
        torch.zeros(3, 4, 5, dtype=torch.uint8),
    ],
)
def test_to_pil_refuses_other_shapes_and_types(image):
    with pytest.raises(ImageError, match=r"allowed: floats \(3, H, W\)"):
        to_pil(image)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_on_white(kind):
    most = np.iinfo(kind).max
    rgb = np.broadcast_to(np.arange(0, most + 1, most // 255).astype(kind)[:, None, None], (256, 3, 3))
    seen = images.Picture(rgb, np.broadcast_to(np.array([0, most // 5, most], kind), (256, 3)), "").on_white()
    assert seen.alpha is None and seen.rgb.dtype == kind
    assert (seen.rgb[:, 0] == most).all() and np.array_equal(seen.rgb[:, 2], rgb[:, 2])
    np.testing.assert_allclose(seen.rgb[:, 1], 0.8 * most + 0.2 * rgb[:, 1], atol=0.5)
    plain = images.Picture(rgb, None, "")
    assert plain.on_white() is plain


@pytest.mark.parametrize("alpha", [np.zeros((5, 4), np.uint8), np.zeros((4, 5)), np.zeros((4, 5, 1), np.uint8)])
def test_to_pil_refuses_an_alpha_that_does_not_fit(alpha):
    with pytest.raises(ImageError, match="alpha"):
        to_pil(torch.zeros(3, 4, 5), alpha)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".webp", ".jpg", ".jpeg"])
def test_save_and_read_again(suffix, tmp_path):
    array = scene()
    path = save(Image.fromarray(array), tmp_path / "new" / "folder" / f"a{suffix}")
    assert path == tmp_path / "new" / "folder" / f"a{suffix}"
    got = read(path).rgb
    if suffix.lower() in (".png", ".tif", ".tiff"):
        np.testing.assert_array_equal(got, array)
    else:
        assert np.abs(got.astype(int) - array).mean() < 4
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_save_keeps_the_alpha(suffix, tmp_path):
    array = np.dstack([scene(), noise(48, 64, 0)])
    array[:20, :, 3] = 0
    picture = read(save(Image.fromarray(array), str(tmp_path / f"a{suffix}")))
    np.testing.assert_array_equal(picture.alpha, array[..., 3])
    assert np.abs(picture.rgb.astype(int) - array[..., :3])[:20].mean() < 4  # also where it is not seen


def test_save_with_quality(tmp_path):
    image = Image.fromarray(noise(64, 64))
    sizes = [save(image, tmp_path / f"{q}.jpg", quality=q).stat().st_size for q in (20, 95)]
    assert sizes[0] * 2 < sizes[1]


@pytest.mark.parametrize("suffix", ["", ".gif", ".jpgg", ".exe", ".svg"])
def test_save_to_an_unknown_suffix(suffix, tmp_path):
    with pytest.raises(ImageError, match=r"allowed: \.jpeg, \.jpg, \.png, \.tif, \.tiff, \.webp"):
        save(Image.new("RGB", (2, 2)), tmp_path / f"new/a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_save_a_transparent_jpeg_is_refused(mode, tmp_path):
    image = Image.new(mode, (2, 2))
    if mode == "P":
        image.info["transparency"] = 0
    with pytest.raises(ImageError, match=r"Use a\.png"):
        save(image, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_save_carries_no_profile_and_no_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(noise(4, 6), "PNG", icc_profile=SRGB, exif=exif, dpi=(300, 300))
    image = Image.open(io.BytesIO(data))
    info = dict(image.info)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        saved = Image.open(save(image, tmp_path / f"a{suffix}"))
        saved.load()
        assert "icc_profile" not in saved.info and "exif" not in saved.info
        assert saved.getexif().get(0x0112, 1) == 1 and saved.size == (6, 4)
    assert dict(image.info) == info


@pytest.mark.parametrize("place", ["encoder", "write", "rename"])
def test_a_failed_save_leaves_the_old_file_and_no_litter(place, tmp_path, monkeypatch):
    path = save(Image.new("RGB", (3, 3), (1, 2, 3)), tmp_path / "a.png")
    old = path.read_bytes()

    def fail(*args, **kwargs):
        if place == "encoder":
            args[1].write(b"half a file")
        raise OSError(28, "No space left on device")

    if place == "encoder":
        monkeypatch.setattr(Image.Image, "save", fail)
    else:
        monkeypatch.setattr(os, {"write": "fsync", "rename": "replace"}[place], fail)
    with pytest.raises(ImageError, match=r"a\.png.*No space left") as info:
        save(Image.new("RGB", (9, 9)), path)
    assert isinstance(info.value.__cause__, OSError)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_save_replaces_in_one_step(tmp_path, monkeypatch):
    path = save(Image.new("RGB", (3, 3)), tmp_path / "a.png")
    old, real, seen = path.read_bytes(), os.replace, []

    def replace(source, target):
        seen.append((Path(source).parent, Path(source).read_bytes(), Path(target).read_bytes()))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    save(Image.new("RGB", (9, 9)), path)
    assert seen == [(tmp_path, path.read_bytes(), old)] and path.read_bytes() != old


def test_saved_files_have_the_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        path = save(Image.new("RGB", (2, 2)), tmp_path / "a.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_picture_that_cannot_be_encoded(tmp_path):
    with pytest.raises(ImageError, match="Cannot save"):
        save(Image.new("RGB", (20_000, 1)), tmp_path / "a.webp")  # WebP ends at 16383
    with pytest.raises(ImageError, match="Cannot save"):
        save(Image.new("F", (2, 2)), tmp_path / "a.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="Cannot save"):
        save(Image.new("RGB", (2, 2)), tmp_path / "folder.png")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


# ------------------------------------------------------------------------------------------ pad and crop


@pytest.mark.parametrize("multiple", [1, 4, 32])
@pytest.mark.parametrize("smallest", [1, 6, 33])
def test_crop_undoes_pad(multiple, smallest):
    source = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    for height in range(1, 21):
        for width in range(1, 21):
            image = source[..., :height, :width]
            padded, box = pad(image, multiple, smallest)
            for side, length in zip(padded.shape[2:], (height, width), strict=True):
                assert side % multiple == 0 and side >= smallest
                assert side < max(length, smallest) + multiple  # no more than needed
            assert torch.equal(crop(padded, box), image)
            if padded.shape == image.shape:
                assert padded is image and crop(padded, box) is padded


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    multiple=st.integers(1, 48),
    smallest=st.integers(1, 150),
)
@settings(max_examples=150, deadline=None)
def test_pad_is_numpys_reflection(height, width, multiple, smallest):
    image = torch.arange(2 * height * width, dtype=torch.float32).reshape(1, 2, height, width)
    padded, box = pad(image, multiple, smallest)
    wanted = image.numpy()
    for axis in (2, 3):
        missing = padded.shape[axis] - image.shape[axis]
        mode = "edge" if image.shape[axis] == 1 else "reflect"
        wanted = np.pad(wanted, [(0, missing if i == axis else 0) for i in range(4)], mode=mode)
    np.testing.assert_array_equal(padded.numpy(), wanted)
    assert box == Crop(0, 0, height, width)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    multiple=st.integers(1, 16),
    smallest=st.integers(1, 20),
    ends=st.tuples(*[st.integers(0, 24)] * 4),
)
def test_pixels_are_parts_of_the_padded_tensor(size, multiple, smallest, ends):
    picture = read(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    padded, box = pad(picture.tensor(), multiple, smallest)
    pixels = Pixels(picture, multiple=multiple, smallest=smallest)
    assert pixels.shape == padded.shape and pixels.box == box
    rows, columns = slice(*sorted(ends[:2])), slice(*sorted(ends[2:]))
    assert torch.equal(pixels[:, :, rows, columns], padded[:, :, rows, columns])
    assert torch.equal(pixels[:, :, :, :], padded)


def test_pad_lets_gradients_through():
    image = torch.rand(1, 3, 3, 3, requires_grad=True)
    padded, box = pad(image, 4)
    crop(padded, box).sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))


def test_pad_and_crop_refuse_nonsense():
    image = torch.zeros(1, 3, 4, 4)
    for arguments in ((0, 1), (1, 0), (-4, 1)):
        with pytest.raises(ConfigError, match="multiple="):
            pad(image, *arguments)
    for wrong in (image[0], torch.zeros(1, 3, 0, 4)):
        with pytest.raises(ImageError, match="Cannot pad"):
            pad(wrong, 4)
    for box in (Crop(0, 0, 5, 4), Crop(0, 1, 4, 4), Crop(-1, 0, 2, 2)):
        with pytest.raises(ImageError, match="Cannot crop"):
            crop(image, box)
    assert crop(image, Crop(1, 2, 3, 1)).shape == (1, 3, 3, 1)


# ------------------------------------------------------------------------------------ the hostile pictures

HOSTILE = Path(__file__).parents[2] / "shared" / "data" / "hostile"


# Pictures that are truly of one color, looked at one by one: the first frames of the APNG suite (plain red or
# green), pictures of 1 x 1, 2 x 2 or 8 x 8 pixels, and test plates. `truncated_exif_dpi.jpg` is a white photo
# with a full scan (4974 bytes, one repeated block), `variation_tiny.png` a font drawn too small to show.
_FLAT_APNG = """
blend_op_over_near_transparent blend_op_source_solid chunk_actl_after_idat chunk_no_actl chunk_no_fdat delay
delay_short_max delay_zero_numer dispose_op_background dispose_op_background_final dispose_op_previous_final
dispose_op_previous_frame fctl_actl mode_palette mode_palette_alpha num_plays_1 sequence_gap
sequence_reorder_chunk sequence_repeat_chunk single_frame split_fdat syntax_num_frames_high
syntax_num_frames_low syntax_num_frames_zero_default
"""
_FLAT_IMAGES = """
blend_transparency.png broken_exif_dpi.jpg child_ifd_jpeg.tiff comment_after_last_frame.gif
decompression_bomb_extents.gif duplicate_frame.gif exif_gps.jpg imagedraw_big_rectangle.png
imagedraw_square_rotate_45.png lab-red.tif multipage-lastframe.tif multipage.tiff multipage_out_of_order.tiff
no_palette_after_rgb.gif no_palette_with_transparency.gif tRNS_null_1x1.png test_extents_transparency.gif
truncated_exif_dpi.jpg variation_tiny.png xmp_padded.jpg
"""
_FLAT_MADE = """
animated.gif animated.png bomb_200mpx_1bit.png flat_black_256.png fully_transparent_white.png one_by_one.png
thin_1x4000.png wide_4000x2.jpg
"""
FLAT = {f"images/apng/{name}.png" for name in _FLAT_APNG.split()}
FLAT |= {f"images/{name}" for name in _FLAT_IMAGES.split()} | {f"made/{name}" for name in _FLAT_MADE.split()}


@pytest.mark.shared
@pytest.mark.skipif(not HOSTILE.is_dir(), reason=f"the hostile pictures are not at {HOSTILE}")
def test_hostile_pictures(capfd):
    paths = sorted(p for folder in ("images", "made") for p in (HOSTILE / folder).rglob("*") if p.is_file())
    assert len(paths) > 500
    reading, pictures, errors, slow, lies = seconds_of_reading(), 0, {}, {}, {}
    for path in paths:
        begin = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                picture = read(path)
            except ImageError as error:  # anything else fails the test with its own traceback
                errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
                picture = None
        took, megapixels = time.process_time() - begin, picture.rgb[..., 0].size / 1e6 if picture else 0
        if took > 10 * reading * max(1, megapixels / 2):
            slow[path.name] = took, reading
        if picture is None:
            continue
        pictures += 1
        name = path.relative_to(HOSTILE).as_posix()
        if (picture.rgb == picture.rgb[0, 0]).all() and not (name in FLAT and is_flat(path)):
            lies[name] = picture.rgb[0, 0].tolist()
    assert not slow
    assert not lies
    assert pictures > 350 and errors["ImageFormatRefused"] > 90 and errors["ImageUnreadable"] > 50


def is_flat(path):
    """Whether Pillow, asked in the plainest way, finds one color in the file too."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path)
            image.load()
            if image.width * image.height > 10**8:
                return image.getextrema()[0] == image.getextrema()[1]
            return all(low == high for low, high in image.convert("RGB").getextrema())
    finally:
        Image.MAX_IMAGE_PIXELS = limit
