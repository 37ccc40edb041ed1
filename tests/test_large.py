"""Pictures from file to file, by parts, through libvips."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageCms

from styleforge import ResnetGenerator, StylePipeline, cli, images
from styleforge.errors import ConfigError, ImageError, ImageTooLarge
from styleforge.images import ImagePolicy
from styleforge.models import DCGANGenerator

pytest.importorskip("pyvips", reason="pip install styleforge[large]")
from styleforge import large


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return StylePipeline(ResnetGenerator(width=4, blocks=1), fast=False)


def picture(width, height, mode="RGB"):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(array, "RGBA").convert(mode)


def compared(pipe, source, target, **options):
    """The largest difference to what the pipeline makes of the file, and transparency."""
    made = images.read(large.stylize_file(pipe, source, target, **options))
    expected = images.read(pipe(source, **options))
    assert made.rgb.shape == expected.rgb.shape and (made.alpha is None) == (expected.alpha is None)
    if made.alpha is not None:
        assert np.array_equal(made.alpha, expected.alpha)
    return np.abs(made.rgb.astype(int) - expected.rgb).max()


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", ".png"), ("RGBA", ".png"), ("L", ".tif"), ("LA", ".tiff")])
def test_files_are_styled_as_pictures_are(pipe, tmp_path, mode, suffix):
    picture(61, 46, mode).save(tmp_path / "in.png")
    assert compared(pipe, tmp_path / "in.png", tmp_path / f"out{suffix}") == 0
    options = {"strength": 0.6, "preserve_color": "luma"}
    assert compared(pipe, tmp_path / "in.png", tmp_path / f"out{suffix}", **options) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.png", f"out{suffix}"])


@pytest.mark.parametrize("name", ["in.jpg", "in.webp", "in.tif", "in.png"])
def test_formats_in_tiles(pipe, tmp_path, name):
    picture(700, 500).save(tmp_path / name)
    tiles = []
    options = {"max_memory": 0.012, "progress": lambda *done: tiles.append(done)}
    assert compared(pipe, tmp_path / name, tmp_path / "out.tif", **options) <= 1, "decoders of JPEG differ by one"
    assert len(tiles) > 8


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_no_file_that_goes_is_open(pipe, tmp_path, monkeypatch, mode):
    """Windows would not let it go; nor the picture itself, should its owner want that."""
    process, remove, gone, held = psutil.Process(), Path.unlink, [], []

    def used():
        mapped = getattr(process, "memory_maps", list)()  # not on macOS
        return {Path(one.path) for one in [*mapped, *process.open_files()]}

    def unlink(path, **options):
        gone.append(path.suffix)
        held.extend({path} & used())
        remove(path, **options)

    name = "in.jpg" if mode == "RGB" else "in.png"
    picture(64, 48, mode).save(tmp_path / name)
    monkeypatch.setattr(Path, "unlink", unlink)
    large.stylize_file(pipe, tmp_path / name, tmp_path / "out.png")
    assert ".raw" in gone and not held
    assert not used() & {tmp_path / name, tmp_path / "out.png"}


def test_orientation_and_profile_are_heeded(pipe, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(40, 24).save(tmp_path / "in.png", exif=exif, icc_profile=profile)
    assert compared(pipe, tmp_path / "in.png", tmp_path / "out.png") <= 12, (
        "the rounding of a profile, through a network"
    )
    assert Image.open(tmp_path / "out.png").size == (24, 40)


@pytest.mark.parametrize("name", ["in.jpg", "in.tif"])
def test_inks_without_a_profile_have_the_colors_that_they_have_elsewhere(pipe, tmp_path, name):
    picture(64, 48, "CMYK").save(tmp_path / name, quality=95)
    assert compared(pipe, tmp_path / name, tmp_path / "out.png", strength=0.0) <= 1, "decoders of JPEG differ by one"


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_of_other_kinds_are_refused_and_not_guessed(pipe, tmp_path, dtype):
    Image.fromarray(np.linspace(0, 1, 64 * 48).reshape(48, 64).astype(dtype)).save(tmp_path / "in.tif")
    with pytest.raises(ImageError, match=r"by parts.*b-w in (float|int).*8 or 16 bit.*without --stream"):
        large.stylize_file(pipe, tmp_path / "in.tif", tmp_path / "out.png")


def test_what_libvips_does_not_know_need_not_be_broken(pipe, tmp_path):
    picture(64, 48).convert("LAB").save(tmp_path / "in.tif")
    with pytest.raises(ImageError, match=r"libvips cannot read.*labq.*if both are well, style it without --stream"):
        large.stylize_file(pipe, tmp_path / "in.tif", tmp_path / "out.png")


def test_what_cannot_be_styled_leaves_nothing(pipe, tmp_path):
    picture(64, 64).save(tmp_path / "in.png")
    whole = (tmp_path / "in.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    picture(64, 64).save(tmp_path / "cut.tif")
    whole = (tmp_path / "cut.tif").read_bytes()  # its header comes first
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) * 6 // 10])
    small = ImagePolicy(max_pixels=100)
    for source, target, options, error in (
        ("in.png", "out.jpg", {}, ImageError),
        ("in.png", "out.png", {"policy": small}, ImageTooLarge),
        ("cut.png", "out.png", {}, ImageError),
        ("cut.tif", "out.png", {}, ImageError),
        ("text.png", "out.png", {}, ImageError),
        ("none.png", "out.png", {}, ImageError),
        ("in.png", "out.png", {"preserve_color": "histogram"}, ConfigError),
        ("in.png", "out.png", {"strength": 2.0}, ConfigError),
        ("in.png", "in.png/out.png", {}, ImageError),
    ):
        with pytest.raises(error):
            large.stylize_file(pipe, tmp_path / source, tmp_path / target, **options)
    with pytest.raises(ConfigError, match="part by part"):
        large.stylize_file(StylePipeline(DCGANGenerator(width=4, size=64)), tmp_path / "in.png", tmp_path / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.png", "cut.tif", "in.png", "text.png"]


def test_on_the_command_line(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "style")
    for name in ("a", "b"):
        picture(33, 20).save(tmp_path / f"{name}.png")

    def call(*arguments):
        return CliRunner().invoke(
            cli.cli, ["stylize", *map(str, arguments), "--stream", "--float32", "--device", "cpu"]
        )

    style = ("--style", tmp_path / "style")
    assert call(tmp_path / "a.png", *style, "--output", tmp_path / "a.tif").exit_code == 0
    assert np.array_equal(np.array(Image.open(tmp_path / "a.tif")), np.array(pipe(tmp_path / "a.png")))
    assert call(tmp_path / "a.png", tmp_path / "b.png", *style, "--output", tmp_path / "many").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["a-styled.png", "b-styled.png"]
    refused = call(tmp_path / "a.png", *style, "--style-scale", 2)
    assert isinstance(refused.exception, ConfigError) and "--style-scale" in str(refused.exception)
