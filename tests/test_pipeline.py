"""Two lines of code: the size stays, transparency stays, and errors say what to do."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import tqdm
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from styleforge import PatchDiscriminator, ResnetGenerator, StylePipeline, UNetGenerator, cli, engine
from styleforge.errors import ConfigError, ImageError, ImageTooLarge, RepoNotFound
from styleforge.images import ImagePolicy
from styleforge.pipeline import style_regions


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return StylePipeline(ResnetGenerator(width=4, blocks=1, upsample="resize"))


def noise(width, height, mode="RGB", seed=0):
    bands = len(Image.new(mode, (1, 1)).getbands())
    array = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(array.squeeze(-1) if bands == 1 else array, mode)


def test_without_weights_there_is_no_pipeline(tmp_path):
    folder = ResnetGenerator(width=4, blocks=1).save_pretrained(tmp_path / "style")
    with pytest.raises(ConfigError, match="no weights .*'meta'"):
        StylePipeline.from_pretrained(folder, device="meta")


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40), mode=st.sampled_from(["RGB", "L", "RGBA", "LA", "CMYK"]))
def test_size_stays_whatever_it_is(pipe, width, height, mode):
    image = noise(width, height, mode)
    result = pipe(image)
    assert result.size == (width, height)
    assert result.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")
    if mode in ("RGBA", "LA"):
        assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (333, 2), (127, 65)])
def test_networks_with_large_multiples_keep_the_size_too(size):
    pipe = StylePipeline(UNetGenerator(width=2, downs=6, norm="instance"))
    assert pipe(noise(*size)).size == size


def test_orientation_is_applied(pipe):
    image = noise(20, 10)
    image.getexif()[0x0112] = 6  # turned by a quarter
    assert pipe(image).size == (10, 20)


def test_padding_changes_nothing_where_none_is_needed(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "fast", False)
    """With sizes that fit, the pipeline is the network and nothing else."""
    image = noise(24, 16)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        expected = ((pipe.model(tensor)[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.array(pipe(image)), expected)


def test_every_kind_of_input_gives_the_same_picture(pipe, tmp_path):
    image = noise(21, 13)
    image.save(tmp_path / "x.png")
    array = np.array(image)
    expected = array_of(pipe(image))
    inputs = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        (tmp_path / "x.png").read_bytes(),
        open(tmp_path / "x.png", "rb"),  # noqa: SIM115
        array,
        array.astype(np.float32) / 255,
        torch.from_numpy(array).permute(2, 0, 1),
    ]
    for given_ in inputs:
        assert np.abs(array_of(pipe(given_)).astype(int) - expected).max() <= 1, type(given_)


def array_of(image):
    return np.array(image)


def test_output_types_agree(pipe):
    image = noise(9, 7, "RGBA")
    pil, array, tensor = (pipe(image, output_type=kind) for kind in ("pil", "np", "pt"))
    assert array.shape == (7, 9, 4) and array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
    assert tensor.shape == (4, 7, 9)
    assert np.array_equal(array, tensor.permute(1, 2, 0).numpy())
    assert np.abs(np.array(pil) / 255 - array).max() <= 0.5 / 255 + 1e-6
    again = pipe(array)  # what comes out may go in
    assert again.size == (9, 7)


def test_lists_and_batches_give_lists(pipe):
    one, two = noise(8, 9), noise(10, 11)
    results = pipe([one, two])
    assert [r.size for r in results] == [(8, 9), (10, 11)]
    assert np.array_equal(array_of(results[1]), array_of(pipe(two)))
    assert [r.size for r in pipe(np.zeros((2, 6, 5, 3), np.uint8))] == [(5, 6)] * 2
    assert len(pipe(torch.zeros(3, 3, 8, 8))) == 3


def test_strength_blends_monotonously(pipe):
    image = noise(16, 16)
    source = array_of(image).astype(float)
    distances = [np.abs(array_of(pipe(image, strength=s)) - source).mean() for s in (0, 0.25, 0.5, 0.75, 1)]
    assert distances[0] == 0
    assert all(a < b for a, b in pairwise(distances))
    half = (source + array_of(pipe(image))) / 2
    assert np.abs(array_of(pipe(image, strength=0.5)) - half).max() <= 1


@pytest.mark.parametrize("strength", [-0.1, 1.6, math.nan, math.inf, "full", None])
def test_strength_out_of_range(pipe, strength):
    with pytest.raises(ConfigError, match=r"strength.*0 to 1\.5"):
        pipe(noise(8, 8), strength=strength)


def test_unknown_output_type(pipe):
    with pytest.raises(ConfigError, match="'jpeg'.*'pil'"):
        pipe(noise(8, 8), output_type="jpeg")


@pytest.mark.parametrize("bad", ["no such file.png", b"no picture", np.zeros((4, 4, 7), np.uint8), 7, None])
def test_what_is_no_picture(pipe, bad):
    with pytest.raises(ImageError):
        pipe(bad)


def test_the_policy_is_the_pipelines():
    pipe = StylePipeline(ResnetGenerator(width=2, blocks=0), ImagePolicy(max_pixels=50))
    assert pipe(noise(5, 10)).size == (5, 10)
    with pytest.raises(ImageTooLarge):
        pipe(noise(5, 11))


def test_the_callers_picture_is_left_alone(pipe):
    image = noise(8, 8, "RGBA")
    before = image.tobytes(), image.mode
    pipe(image)
    assert (image.tobytes(), image.mode) == before


def test_training_mode_never_leaks_in():
    """Dropout and batch statistics of a network fresh from training would make results random."""
    pipe = StylePipeline(ResnetGenerator(width=4, blocks=2, norm="batch", dropout=True).train())
    image = noise(16, 16)
    assert pipe(image).tobytes() == pipe(image).tobytes()


def test_grey_networks(tmp_path):
    pipe = StylePipeline(ResnetGenerator(in_channels=1, out_channels=1, width=4, blocks=1))
    result = np.array(pipe(noise(12, 12)))
    assert result.shape == (12, 12, 3)
    assert np.array_equal(result[..., 0], result[..., 1])


def test_a_discriminator_is_no_style():
    with pytest.raises(ConfigError, match="logits out"):
        StylePipeline(PatchDiscriminator(width=2))


def test_a_network_for_six_channels_is_no_style():
    with pytest.raises(ConfigError, match="6 channels"):
        StylePipeline(ResnetGenerator(width=2, blocks=0, in_channels=6))


def test_save_and_load(pipe, tmp_path):
    image = noise(17, 23)
    pipe.save_pretrained(tmp_path / "style")
    again = StylePipeline.from_pretrained(tmp_path / "style")
    assert again(image).tobytes() == pipe(image).tobytes()
    assert again.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_half_precision_weights_compute_in_float32(pipe, tmp_path):
    ResnetGenerator(width=4, blocks=1).half().save_pretrained(tmp_path / "style")
    again = StylePipeline.from_pretrained(tmp_path / "style")
    assert again.dtype == torch.float32
    assert again.to(torch.bfloat16).dtype == torch.bfloat16
    assert again(noise(9, 9)).size == (9, 9)


def test_unknown_styles_name_what_there_is():
    with pytest.raises(RepoNotFound, match="bundled"):
        StylePipeline.from_pretrained("no-such-style")


def test_repr_says_what_it_is(pipe):
    assert "ResnetGenerator" in repr(pipe) and "float32" in repr(pipe)


# -- control --


def test_outside_the_mask_nothing_changes_and_inside_it_is_the_style(pipe):
    image = noise(40, 30)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 10:30] = 255
    source, styled, whole = (array_of(i) for i in (image, pipe(image, mask=mask), pipe(image)))
    assert np.array_equal(styled[mask == 0], source[mask == 0])
    assert np.array_equal(styled[mask == 255], whole[mask == 255]) and not np.array_equal(whole, source)
    soft = array_of(pipe(image, mask=mask, feather=4))
    assert np.array_equal(soft[mask == 0], source[mask == 0]) and not np.array_equal(soft, styled)
    assert np.array_equal(array_of(pipe(image, mask=np.zeros_like(mask))), source)


def test_masks_of_another_size_and_regions_by_name(pipe):
    image = noise(40, 30)
    with pytest.raises(ConfigError, match=r"\(20, 15\).*\(40, 30\)|20 x 15.*40 x 30|20x15.*40x30"):
        pipe(image, mask=np.ones((15, 20), bool))
    fitted = pipe(image, mask=np.ones((15, 20), bool), mask_fit=True)
    assert array_of(fitted).tolist() == array_of(pipe(image)).tolist()
    sky = np.zeros((30, 40), bool)
    sky[:10] = True
    found = array_of(pipe(image, mask="sky", segmenter=lambda picture: {"sky": sky}))
    assert np.array_equal(found, array_of(pipe(image, mask=sky)))


def test_colors_brush_and_more_than_the_full_style(pipe):
    image = noise(48, 32)
    source, full = (array_of(i).astype(float) for i in (image, pipe(image)))
    more = array_of(pipe(image, strength=1.5)).astype(float)
    assert np.abs(more - source).mean() > np.abs(full - source).mean()
    luma = np.array([0.299, 0.587, 0.114])
    kept = array_of(pipe(image, preserve_color="luma")).astype(float)
    assert np.abs(kept @ luma - full @ luma).max() < 3 and not np.array_equal(kept, full)
    assert pipe(image, style_scale=2).size == image.size
    for changes in ({"preserve_color": "hue"}, {"style_scale": 0}, {"feather": -1, "mask": np.ones((32, 48), bool)}):
        with pytest.raises(ConfigError):
            pipe(image, **changes)


def test_what_belongs_to_a_mask_needs_one(pipe):
    for given_ in ({"mask_fit": True}, {"feather": 3}, {"feather": math.nan}, {"segmenter": lambda picture: {}}):
        with pytest.raises(ConfigError, match=r"There is no mask: found .*--mask"):
            pipe(noise(8, 8), **given_)


@pytest.mark.parametrize("bad", [{"style_scale": 99}, {"strength": 77}, {"preserve_color": "hue"}, {"max_memory": -1}])
def test_settings_are_checked_where_nothing_is_styled(pipe, bad):
    image, nowhere = noise(8, 8), np.zeros((8, 8), bool)
    for call in (
        lambda: pipe(image, **{"strength": 0, **bad}),
        lambda: pipe(image, mask=nowhere, **bad),
        lambda: pipe([], **bad),
        lambda: style_regions(image, [(pipe, nowhere)], **bad),
    ):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize("budget", [math.nan, math.inf, -1, "1", True])
def test_budgets_that_are_none(pipe, budget):
    with pytest.raises(ConfigError, match="max_memory cannot be used.*It is in GiB"):
        pipe(noise(8, 8), max_memory=budget)


def test_a_file_is_a_mask_though_regions_are_found_by_name(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, left = noise(40, 30), np.zeros((30, 40), bool)
    left[:, :12] = True
    Image.fromarray(left).save("sky.png")

    def segmenter(picture):
        return {"sky": ~left}

    by_file = array_of(pipe(image, mask=left))
    assert np.array_equal(array_of(pipe(image, mask="sky.png", segmenter=segmenter)), by_file)
    both = array_of(style_regions(image, [(pipe, "sky.png"), (pipe, "sky")], segmenter=segmenter))
    assert np.array_equal(both, array_of(pipe(image)))
    with pytest.raises(ConfigError, match="'sky'; .*--segmenter"):
        pipe(image, mask="sky")


def test_masks_of_a_segmenter_are_fitted_when_they_may(pipe):
    def segmenter(picture):
        return {"sky": np.ones((15, 20), bool)}

    with pytest.raises(ConfigError, match="mask_fit=True"):
        pipe(noise(40, 30), mask="sky", segmenter=segmenter)
    fitted = pipe(noise(40, 30), mask="sky", segmenter=segmenter, mask_fit=True)
    assert fitted.tobytes() == pipe(noise(40, 30)).tobytes()


def test_a_mask_from_a_file_object_is_read_once_for_all(pipe, tmp_path):
    image, left = noise(40, 30), np.zeros((30, 40), bool)
    left[:, :12] = True
    Image.fromarray(left).save(tmp_path / "mask.png")
    with open(tmp_path / "mask.png", "rb") as file:
        made = pipe([image, image], mask=file)
    assert {one.tobytes() for one in made} == {pipe(image, mask=left).tobytes()}


# -- engine --


def test_a_small_budget_gives_the_same_picture_in_tiles(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "fast", False)
    image = noise(300, 260)
    whole = pipe(image, output_type="pt")
    tiles = []
    with pytest.MonkeyPatch.context() as patch:
        original = engine.run_tiled
        patch.setattr(engine, "run_tiled", lambda *a, **k: tiles.append(k["max_bytes"]) or original(*a, **k))
        found = pipe(image, output_type="pt", max_memory=0.02)
    assert tiles == [int(0.02 * 2**30)] and (found - whole).abs().max() < 1 / 255
    with pytest.raises(ConfigError, match="memory|budget|bytes|fit"):
        pipe(image, max_memory=1e-6)


@pytest.mark.parametrize("options", [{}, {"strength": 0.7}, {"strength": 1.3, "preserve_color": "luma"}])
@pytest.mark.parametrize("budget", [None, 0.01])
def test_tiles_that_are_finished_one_by_one_make_the_whole_picture(pipe, options, budget, monkeypatch):
    monkeypatch.setattr(pipe, "fast", False)
    image, tiles = noise(301, 259, "RGBA"), []
    made = pipe(image, **options, max_memory=budget, progress=lambda *done: tiles.append(done))
    assert (len(tiles) > 4) == (budget is not None) and (not tiles or tiles[-1][0] == tiles[-1][1])
    whole = pipe(image, **options, output_type="np")
    assert np.abs(array_of(made)[..., :3] - whole[..., :3] * 255).max() <= 0.51
    assert made.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_statistics_are_a_choice(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "fast", False)
    monkeypatch.setattr(engine.tiled, "THUMBNAIL", 64)
    image = Image.fromarray(np.dstack([np.tile(np.linspace(0, 255, 400), (300, 1)).astype(np.uint8)] * 3))
    exact, near = (pipe(image, max_memory=0.01, statistics=kind) for kind in ("exact", "thumbnail"))
    assert exact.size == near.size == image.size and exact.tobytes() != near.tobytes()
    with pytest.raises(ConfigError, match="'exact', 'thumbnail'"):
        pipe(image, statistics="guessed")


def test_statistics_and_tiles_on_the_command_line(pipe, monkeypatch, tmp_path):
    monkeypatch.setattr(pipe, "fast", False)
    pipe.save_pretrained(tmp_path / "style")
    image = noise(300, 260)
    image.save(tmp_path / "in.png")
    shown = []

    class Bar(tqdm.tqdm):
        def update(self, n=1):
            shown.append((self.n + n, self.total))
            self.n += n

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    options = ["--style", tmp_path / "style", "-o", tmp_path / "out.png", "--device", "cpu", "--float32"]
    options += ["--max-memory", "0.01", "--statistics"]
    for kind in ("exact", "thumbnail"):
        done = CliRunner().invoke(cli.cli, ["stylize", *map(str, [tmp_path / "in.png", *options, kind])])
        assert done.exit_code == 0
        expected = pipe(image, max_memory=0.01, statistics=kind)
        assert Image.open(tmp_path / "out.png").tobytes() == expected.tobytes()
        assert len(shown) > 3 and shown[-1][0] == shown[-1][1]
        shown.clear()


def test_fast_is_as_good_as_float32_to_the_eye(pipe, monkeypatch):
    image = noise(64, 64)
    fast = pipe(image, output_type="pt")
    monkeypatch.setattr(pipe, "fast", False)
    exact = pipe(image, output_type="pt")
    assert (fast - exact).square().mean() < 1e-4  # 40 dB


def test_who_names_a_type_gets_it(tmp_path):
    folder = ResnetGenerator(width=4, blocks=1).save_pretrained(tmp_path / "style")
    assert (
        StylePipeline.from_pretrained(folder).fast
        and not StylePipeline.from_pretrained(folder, dtype=torch.float32).fast
    )


def test_several_styles_in_several_regions(pipe):
    torch.manual_seed(1)
    other, image = StylePipeline(ResnetGenerator(width=4, blocks=1)), noise(40, 30)
    left, right = np.zeros((2, 30, 40), bool)
    left[:, :12], right[:, 25:] = True, True
    found, source = array_of(style_regions(image, [(pipe, left), (other, right)])), array_of(image)
    assert np.array_equal(found[left], array_of(pipe(image))[left])
    assert np.array_equal(found[right], array_of(other(image))[right])
    assert np.array_equal(found[~(left | right)], source[~(left | right)])
    half = style_regions(image, [(pipe, left)], strength=0.5)
    assert np.array_equal(array_of(half), array_of(pipe(image, mask=left, strength=0.5)))
    assert style_regions(image, iter([(pipe, left)])).tobytes() == pipe(image, mask=left).tobytes()
    for none in ([], {"sky": pipe}, [(left, pipe)], [pipe], [(pipe, left, right)]):
        with pytest.raises(ConfigError, match="no region.*\\(pipeline, mask\\)"):
            style_regions(image, none)


def test_regions_ask_the_segmenter_once_and_keep_16_bit_for_the_network(pipe, monkeypatch):
    deep, asked = np.random.default_rng(0).random((30, 40, 3)), []
    left = np.zeros((30, 40), bool)
    left[:, :12] = True
    monkeypatch.setattr(pipe, "fast", False)
    expected = pipe(deep, output_type="np")

    def segmenter(picture):
        asked.append(picture)
        return {"left": left, "right": ~left}

    found = style_regions(deep, [(pipe, "left"), (pipe, "right")], segmenter=segmenter, output_type="np")
    assert len(asked) == 1 and np.abs(found - expected).max() <= 0.51 / 65535


@pytest.mark.parametrize("name", ["fastcut-classic", "mini-impressionist"])
@pytest.mark.parametrize("size", [(2, 3), (3, 5), (8, 8)])
def test_a_picture_of_a_few_pixels_is_that_of_float32(name, size):
    """Norms over so few values divide roundings by next to nothing: 13 dB in bfloat16."""
    photo = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20).convert("RGB")
    exact = StylePipeline.from_pretrained(name, dtype=torch.float32)(photo, output_type="np")
    assert np.abs(StylePipeline.from_pretrained(name)(photo, output_type="np") - exact).max() < 1 / 255
