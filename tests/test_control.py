"""Control after the network: colors, masks, strength, regions, brush size, styles between styles."""

import builtins
import math
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from styleforge import ResnetGenerator, StylePipeline, UNetGenerator, control, images
from styleforge.errors import ConfigError, ImageError, MaskMismatch, MissingExtra, NoSuchRegion, UnknownName
from styleforge.lora import add_lora
from styleforge.losses import gray

BAD_NUMBERS = [float("nan"), float("inf"), -0.1, "1", None, True, np.True_, np.float32("nan"), np.ones(2)]


def picture(height=24, width=32, seed=0):
    """Smooth colors in [-1, 1] with the gamut's corners among them."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 3 - 1.5
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(-1, 1)


def disc(height=24, width=32):
    y, x = torch.meshgrid(torch.arange(height) - height // 2, torch.arange(width) - width // 2, indexing="ij")
    return (x * x + y * y < 81).float()[None, None]


# ------------------------------------------------------------------------------------------------ strength


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), low=st.floats(0, 1.5), high=st.floats(0, 1.5))
def test_strength_is_monotone_in_every_pixel(seed, low, high):
    source, styled = picture(seed=seed), picture(seed=seed + 1)
    near, far = (control.extrapolate(source, styled, s) for s in sorted((low, high)))
    assert far.abs().max() <= 1
    assert ((far - source).abs() - (near - source).abs()).min() >= -1e-6
    assert ((far - source) * (near - source)).min() >= 0  # on the same side of it


def test_strength_0_and_1_are_the_pictures_and_more_goes_beyond():
    source, styled = picture(seed=1), picture(seed=2)
    assert torch.equal(control.extrapolate(source, styled, 0), source)
    assert torch.equal(control.extrapolate(source, styled, 1), styled)
    beyond = control.extrapolate(source / 4, styled / 4, 1.5)
    torch.testing.assert_close(beyond, (1.5 * styled - 0.5 * source) / 4)


@pytest.mark.parametrize("half", [np.float32(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5), np.int64(0)])
def test_numbers_of_numpy_and_torch_are_numbers(half):
    source, styled = picture(seed=1), picture(seed=2)
    assert torch.equal(control.extrapolate(source, styled, half), control.extrapolate(source, styled, float(half)))
    assert control.read_styles([(PHOTO, half), (PHOTO, 1.0)])[0][1] == float(half) / (1 + float(half))
    a, b = (control.interpolate_styles(network(0), network(1), t).state_dict() for t in (half, float(half)))
    assert all(torch.equal(weight, b[name]) for name, weight in a.items())


@pytest.mark.parametrize("strength", [*BAD_NUMBERS, 1.51])
def test_strengths_that_are_none(strength):
    with pytest.raises(ConfigError, match="strength cannot be used.*allowed: 0 to 1.5"):
        control.extrapolate(picture(), picture(), strength)


# -------------------------------------------------------------------------------------------------- colors


@pytest.mark.parametrize("seed", range(5))
def test_luma_is_the_styles_and_hue_the_sources_even_at_the_edge_of_the_gamut(seed):
    source, styled = picture(seed=seed), picture(seed=seed + 50)
    result = control.preserve_color(source, styled, "luma")
    assert result.abs().max() <= 1
    torch.testing.assert_close(gray(result), gray(styled), atol=2e-6, rtol=0)
    had, has = source - gray(source), result - gray(result)
    lost = (has.norm(dim=1) / had.norm(dim=1).clamp_min(1e-6)).flatten()
    parallel = (had * has).sum(1) - had.norm(dim=1) * has.norm(dim=1)
    assert parallel.abs().max() < 1e-5  # the same direction of chroma
    assert lost.max() <= 1 + 1e-4 and lost.median() > 0.5
    touches = (result.abs().amax(1) > 1 - 1e-5).flatten()
    assert touches[(lost < 0.99) & (had.norm(dim=1).flatten() > 1e-2)].all()  # no saturation is lost for nothing


def test_luma_of_the_picture_itself_is_the_picture():
    torch.testing.assert_close(control.preserve_color(picture(), picture(), "luma"), picture(), atol=1e-6, rtol=0)


def test_histogram_has_mean_and_covariance_of_the_source_and_moves_pixels_least():
    source, styled = picture(seed=3) * 0.3 + 0.1, picture(seed=4) * 0.4 - 0.2
    result = control.preserve_color(source, styled, "histogram")
    pixels, wanted, before = (x[0].flatten(1) for x in (result, source, styled))
    torch.testing.assert_close(pixels.mean(1), wanted.mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.cov(), wanted.cov(), atol=2e-4, rtol=0)
    lower = torch.linalg.cholesky(wanted.cov()) @ torch.linalg.inv(torch.linalg.cholesky(before.cov()))
    other = lower @ (before - before.mean(1, keepdim=True)) + wanted.mean(1, keepdim=True)  # Gatys' other choice
    assert (pixels - before).square().mean() <= (other - before).square().mean()


def test_histogram_of_the_same_colors_elsewhere_changes_nothing():
    source = picture(seed=5) * 0.8
    torch.testing.assert_close(control.preserve_color(source.flip(2), source, "histogram"), source, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["luma", "histogram"])
def test_flat_and_half_precision_pictures_stay_finite(how):
    flat = torch.full((1, 3, 4, 4), 0.5)
    noise = flat + 1e-4 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    for source, styled in ((picture(4, 4), noise), (flat, picture(4, 4)), (-flat, flat)):
        result = control.preserve_color(source.bfloat16(), styled.bfloat16(), how)
        assert result.dtype == torch.float32 and result.abs().max() <= 1
    spread = control.preserve_color(picture(4, 4), noise, how)
    if how == "histogram":  # noise below a level does not become a picture
        assert spread.std((2, 3)).max() < 0.05


def test_bad_colors():
    with pytest.raises(UnknownName, match="'lum'.*luma, histogram. Did you mean 'luma'"):
        control.preserve_color(picture(), picture(), "lum")
    with pytest.raises(ImageError, match=r"found \(1, 3, 24, 33\) for \(1, 3, 24, 32\)"):
        control.preserve_color(picture(), picture(24, 33), "luma")


# --------------------------------------------------------------------------------------------------- masks


def test_masks_of_every_kind_are_the_same_mask(tmp_path):
    wanted = disc()
    array = wanted[0, 0].numpy().astype(bool)
    image = Image.fromarray(array)
    image.save(tmp_path / "mask.png")
    rgba = np.zeros((24, 32, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = 255, array * 255
    kinds = [array, array * np.uint8(255), array * np.uint16(65535), array.astype(np.float64), torch.from_numpy(array)]
    for mask in [*kinds, wanted, image, image.convert("RGB"), tmp_path / "mask.png", rgba]:
        found = control.read_mask(mask, (32, 24))
        assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_every_level_is_kept():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = control.read_mask(levels, (256, 256))[0, 0].flatten()
    assert torch.equal(found, torch.arange(65536) / 65535)


def test_another_size_is_an_error_with_both_sizes_unless_it_may_be_fitted():
    mask = disc(12, 16)
    with pytest.raises(ConfigError, match="found 16x12; allowed: 32x24.*fit=True"):
        control.read_mask(mask, (32, 24))
    fitted = control.read_mask(torch.ones(12, 16), (32, 24), fit=True)
    assert fitted.shape == (1, 1, 24, 32) and fitted.min() > 1 - 1e-6 and fitted.max() <= 1


def test_0_and_1_of_255_are_no_mask_though_nothing_may_be_and_floats_may_be_faint(tmp_path):
    Image.fromarray(disc()[0, 0].numpy().astype(np.uint8)).save(tmp_path / "01.png")
    for mask in (disc().byte(), disc()[0, 0].numpy().astype(np.uint16), tmp_path / "01.png"):
        with pytest.raises(ConfigError, match=r"found only 0 and 1 of (255|65535); .*astype\(bool\)"):
            control.read_mask(mask, (32, 24))
    with pytest.raises(ConfigError, match="only 0 and 1 of 255"):
        control.find_region(PHOTO, "sky", lambda _: {"sky": TOP.astype(np.uint8)})
    assert control.read_mask((disc() * 0).byte(), (32, 24)).max() == 0
    assert control.read_mask(disc() / 65535, (32, 24)).max() > 0


@pytest.mark.parametrize(("mask", "message"), [(np.full((4, 4), np.nan), "NaN"), (np.full((4, 4), 2.0), "0 to 1")])
def test_masks_out_of_range(mask, message):
    with pytest.raises(ImageError, match=message):
        control.read_mask(mask, (4, 4))


@pytest.mark.parametrize("radius", [0.5, 1, 3, 7.5, 500])
def test_feather_is_the_ramp_of_the_true_distance_and_zero_outside(radius):
    mask = torch.rand(1, 1, 19, 23, generator=torch.Generator().manual_seed(1)) + 0.1
    mask = (mask * (F.interpolate(disc(6, 7), (19, 23)) > 0)).clamp(max=1)
    mask[..., 9, 11] = 0  # a hole
    ys, xs = torch.nonzero(mask[0, 0] == 0, as_tuple=True)
    y, x = torch.meshgrid(torch.arange(19), torch.arange(23), indexing="ij")
    distance = torch.hypot((y[..., None] - ys).float(), (x[..., None] - xs).float()).amin(-1)
    t = (distance / (radius + 1)).clamp(max=1)
    result = control.feather(mask, radius)
    torch.testing.assert_close(result[0, 0], mask[0, 0] * (3 * t**2 - 2 * t**3))
    assert (result[mask == 0] == 0).all() and (result <= mask).all()


def test_feather_keeps_thin_parts_and_the_border_of_the_picture():
    thin = torch.zeros(1, 1, 9, 9)
    thin[..., 4, :] = 1
    assert (control.feather(thin, 5)[..., 4, :] > 0.05).all()
    full = torch.ones(1, 1, 9, 9)
    assert torch.equal(control.feather(full, 5), full)
    assert torch.equal(control.feather(full * 0, 5), full * 0)
    assert torch.equal(control.feather(thin, 0), thin)


@pytest.mark.parametrize("radius", BAD_NUMBERS)
def test_feathers_that_are_none(radius):
    with pytest.raises(ConfigError, match="feather cannot be used"):
        control.feather(disc(), radius)


# -------------------------------------------------------------------------------- outside nothing changes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_survives_outside_the_mask_to_the_bit(dtype):
    """All levels of 8 and of 16 bit, with a network in half precision and alpha down to 0."""
    top = np.iinfo(dtype).max
    rgb = np.random.default_rng(0).integers(0, top, (300, 256, 3), dtype, endpoint=True)
    rgb[:256, :, 0] = np.arange(65536).reshape(256, 256) % (top + 1)
    alpha = rgb[..., 1].copy()
    original = images.Picture(rgb.copy(), alpha.copy(), "x")
    mask = torch.zeros(1, 1, 300, 256)
    mask[..., 256:, :128] = 1
    mask[..., 256:, 128:] = 0.5
    styled = picture(300, 256).bfloat16()
    result = control.compose(original, [(styled, mask)])
    assert result.rgb.dtype == dtype
    assert np.array_equal(result.rgb[:256], rgb[:256]) and np.array_equal(original.rgb, rgb)
    assert np.array_equal(result.alpha, alpha)
    inside = np.array(images.to_pil(styled))[256:, :128]
    assert np.abs(images.to_8_bit(result.rgb)[256:, :128].astype(int) - inside).max() <= (dtype == np.uint16)
    half = (rgb[256:, 128:] + (styled[0, :, 256:, 128:].float().permute(1, 2, 0).numpy() + 1) * (top / 2)) / 2
    assert np.abs(result.rgb[256:, 128:] - half).max() <= 0.51


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), radius=st.floats(0, 9))
def test_soft_masks_and_overlaps_keep_what_they_do_not_touch(seed, radius):
    rng = np.random.default_rng(seed)
    original = images.Picture(rng.integers(0, 65536, (20, 30, 3), np.uint16), None, "x")
    masks = [torch.from_numpy((rng.random((1, 1, 20, 30)) < 0.3).astype(np.float32)) for _ in range(2)]
    regions = [(picture(20, 30, seed + n), control.feather(mask, radius)) for n, mask in enumerate(masks)]
    outside = (sum(masks) == 0)[0, 0].numpy()
    result = control.compose(original, regions)
    assert np.array_equal(result.rgb[outside], original.rgb[outside])
    assert not np.array_equal(result.rgb, original.rgb)


def test_strips_make_no_difference(monkeypatch):
    original = images.read(np.random.default_rng(0).random((23, 31, 3)))
    regions = [(picture(23, 31), disc(23, 31))]
    whole = control.compose(original, regions)
    monkeypatch.setattr(control, "_STRIP", 100)
    assert np.array_equal(control.compose(original, regions).rgb, whole.rgb)


def test_an_empty_mask_and_no_region_give_the_picture_back():
    original = images.read(np.random.default_rng(0).random((8, 9, 3)))
    for regions in ([], [(picture(8, 9), torch.zeros(1, 1, 8, 9))]):
        assert np.array_equal(control.compose(original, regions).rgb, original.rgb)


def test_blend_is_exact_at_both_ends():
    source, styled = picture(seed=1), picture(seed=2)
    result = control.blend(source, styled, disc())
    covered = disc().expand(-1, 3, -1, -1) == 1
    assert torch.equal(result[covered], styled[covered]) and torch.equal(result[~covered], source[~covered])


def test_overlapping_regions_share_and_the_rest_is_the_sources():
    source, red, blue = (torch.full((1, 3, 1, 4), v) for v in (0.5, 1.0, -1.0))
    first, second = torch.tensor([[[[1.0, 1, 0.5, 0]]]]), torch.tensor([[[[0, 1.0, 0.25, 0]]]])
    result = control.compose_regions(source, [(red, first), (blue, second)])
    assert result[0, 0, 0].tolist() == [1.0, 0.0, 0.375, 0.5]
    thrice = control.compose_regions(source, [(red, first), (red, first), (red, first)])
    torch.testing.assert_close(thrice[0, 0, 0], torch.tensor([1.0, 1, 1, 0.5]))


def test_regions_that_do_not_fit():
    original = images.read(np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"mask does not fit.*\(1, 1, 24, 31\).*\(1, 1, 24, 32\).*read_mask"):
        control.compose(original, [(picture(), disc(24, 31))])
    with pytest.raises(ImageError, match=r"picture does not fit.*\(1, 3, 24, 31\).*\(1, 3, 24, 32\)"):
        control.compose(original, [(picture(24, 31), disc())])
    with pytest.raises(ImageError, match="NaN or infinity"):
        control.compose(original, [(picture() * math.nan, disc())])


# ------------------------------------------------------------------------------------------------- regions

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
TOP, LEFT = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
TOP[:2], LEFT[3:, :4] = True, True


def white(mask):
    return Image.fromarray(mask * np.uint8(255))


FORMS = {
    "names": {"Sky": TOP, "person": LEFT},
    "transformers": [
        {"score": None, "label": "Sky", "mask": white(TOP)},  # no score from semantic models
        {"score": 0.9, "label": "person", "mask": white(LEFT & (np.arange(8) < 2))},  # instances of one label
        {"score": 0.8, "label": "person", "mask": white(LEFT & (np.arange(8) >= 2))},
    ],
    "label map": (TOP * 3 + LEFT * 7, {3: "Sky", 7: "person", 9: "boat"}),  # 0 has no name: nobody's
    "label tensor": (torch.from_numpy(TOP * 1 + LEFT * 2 - 1), ["Sky", "person"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_segmenter_may_answer_in_four_ways(form):
    def segment(image):
        assert image.mode == "RGB" and image.size == (8, 6)
        return FORMS[form]

    for name, mask in (("sky", TOP), ("Person", LEFT), ("background", ~(TOP | LEFT))):
        assert np.array_equal(control.find_region(PHOTO, name, segment)[0, 0].numpy(), mask.astype(np.float32))
    with pytest.raises(NoSuchRegion, match="found 'skies'; allowed: Sky, person, background. Did you mean 'Sky'"):
        control.find_region(PHOTO, "skies", segment)


def test_a_segmenter_that_knows_the_background_is_believed_and_an_empty_answer_is_all_background():
    assert np.array_equal(control.find_region(PHOTO, "background", lambda _: {"background": TOP})[0, 0], TOP)
    assert control.find_region(PHOTO, "background", lambda _: []).min() == 1


def test_the_segmenter_sees_what_the_network_sees():
    turned = PHOTO.copy()
    turned.getexif()[0x0112] = 6
    assert control.find_region(turned, "all", lambda image: {"all": np.ones(image.size[::-1])}).shape == (1, 1, 8, 6)
    deep = np.full((6, 8), 128 * 257 + 99, np.uint16)
    assert control.find_region(deep, "gray", lambda image: {"gray": np.asarray(image)[..., 0] == 128}).min() == 1


@pytest.mark.parametrize(
    "answer",
    [None, "sky", [{"label": "sky"}], (TOP, ["sky"]), (TOP * 1.0, {1: "sky"}), (np.zeros((2, 6, 8), int), ["sky"])],
)
def test_answers_that_are_no_regions(answer):
    with pytest.raises(ConfigError, match="something else than regions.*Wrap it"):
        control.find_region(PHOTO, "sky", lambda _: answer)


def test_masks_of_another_size_than_the_picture_are_refused():
    photo = images.Picture(np.asarray(PHOTO), None, "photo.png")
    with pytest.raises(MaskMismatch, match=r"<array> for photo\.png\): found 8x5; allowed: 8x6.*--mask-fit"):
        control.find_region(photo, "sky", lambda _: {"sky": TOP[:5]})
    fitted = control.find_region(photo, "sky", lambda _: {"sky": TOP[:3, :4]}, fit=True)
    assert fitted.shape == (1, 1, 6, 8) and 0 < fitted.mean() < 1


@pytest.mark.parametrize("segmenter", [5, None, {"sky": TOP}])
def test_segmenters_that_are_none(segmenter):
    with pytest.raises(ConfigError, match="segmenter cannot be used.*a function from a PIL image"):
        control.find_region(PHOTO, "sky", segmenter)


@pytest.fixture
def fresh():
    control.load_segmenter.cache_clear()
    yield
    control.load_segmenter.cache_clear()


def loaded(name):
    """A pipeline of transformers around a network of this class."""

    class Pipeline:
        model = type(name, (), {})()

        def __call__(self, image):
            return FORMS["transformers"]

    return Pipeline()


def test_a_model_is_named_and_loaded_once_without_pickles(monkeypatch, fresh):
    calls = []

    def pipeline(task, model, model_kwargs):
        calls.append((task, model, model_kwargs))
        return loaded("SegformerForSemanticSegmentation")

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    for _ in range(2):
        assert np.array_equal(control.find_region(PHOTO, "sky", "some/model")[0, 0], TOP)
    assert calls == [("image-segmentation", "some/model", {"use_safetensors": True})]


def test_a_model_that_cannot_be_loaded(monkeypatch, fresh):
    def pipeline(*_, **__):
        raise OSError("no file named model.safetensors")

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    with pytest.raises(ConfigError, match="some/model.*no file named model.safetensors"):
        control.find_region(PHOTO, "sky", "some/model")


def test_a_model_that_segments_nothing(monkeypatch, fresh):
    pipeline = lambda *_, **__: loaded("ViTForImageClassification")  # noqa: E731  # transformers only logs it
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    with pytest.raises(ConfigError, match="some/model.*ViTForImageClassification"):
        control.find_region(PHOTO, "sky", "some/model")


def test_why_transformers_cannot_be_used_where_it_is(monkeypatch, fresh):
    def lazy(name):  # as transformers over a torchvision that was built for another torch
        raise ModuleNotFoundError(f"Could not import module '{name}'")

    broken = types.ModuleType("transformers")
    broken.__getattr__ = lazy
    monkeypatch.setitem(sys.modules, "transformers", broken)
    with pytest.raises(MissingExtra, match="Could not import module"):
        control.find_region(PHOTO, "sky", "some/model")


def test_without_transformers(monkeypatch, fresh):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install styleforge\[segment\]"):
        control.find_region(PHOTO, "sky", "some/model")


# ---------------------------------------------------------------------------------------------- brush size


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), factor=st.floats(0.25, 8))
def test_any_size_and_scale_and_the_network_sees_the_other_one(height, width, factor):
    seen = []

    def run(x):
        seen.append(tuple(x.shape[2:]))
        return -x

    result = control.style_scale(picture(height, width), factor, run)
    assert result.shape == (1, 3, height, width) and result.abs().max() <= 1
    assert seen == [tuple(max(1, round(side / factor)) for side in (height, width))]


def test_scale_1_is_the_network_itself():
    assert torch.equal(control.style_scale(picture(), 1, lambda x: -x), -picture())


@pytest.mark.parametrize("affine", [(0.8, 0.1), (-0.7, -0.1)])  # brighter where the photograph is, and darker
def test_edges_of_the_photograph_stay_sharp(affine):
    """Against plain enlarging, with a step edge and a network that only changes contrast."""
    gain, shift = affine
    step = torch.full((1, 3, 32, 48), -0.6)
    step[..., 23:] = 0.6
    wanted = gain * step + shift

    def run(x):
        assert x.dtype == torch.float32
        return gain * x + shift

    small = run(F.interpolate(step, (8, 12), mode="bicubic", antialias=True))
    plain = F.interpolate(small, (32, 48), mode="bicubic", antialias=True)
    guided = control.style_scale(step, 4, run)
    assert (guided - wanted).abs().mean() < 0.35 * (plain - wanted).abs().mean()


def test_grain_of_the_photograph_does_not_come_back():
    grain = 0.05 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    result = control.style_scale(grain, 4, lambda x: x)
    assert result.std() < 0.4 * grain.std()


def test_strokes_that_the_photograph_does_not_explain_stay():
    """A guided filter of its own would wipe them out."""
    strokes = picture(12, 12, seed=8) - picture(12, 12, seed=9) / 2
    result = control.style_scale(torch.zeros(1, 3, 48, 48), 4, lambda _: strokes.clamp(-1, 1))
    expected = F.interpolate(strokes.clamp(-1, 1), (48, 48), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_half_precision_reaches_the_network():
    seen = []
    control.style_scale(picture().bfloat16(), 2, lambda x: seen.append(x.dtype) or x)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("factor", [*BAD_NUMBERS, 0, 9])
def test_scales_that_are_none(factor):
    with pytest.raises(ConfigError, match="scale cannot be used.*0.25 to 8"):
        control.style_scale(picture(), factor, lambda x: x)


# ------------------------------------------------------------------------------------------ between styles


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return ResnetGenerator(**{"width": 2, "blocks": 1, "norm": "batch", **changes}).eval()


def test_between_two_styles():
    a, b = network(0), network(1)
    b.stem_norm.num_batches_tracked.fill_(7)
    before = {name: x.clone() for name, x in a.state_dict().items()}
    middle = control.interpolate_styles(a, b, 0.25)
    for name, x in middle.state_dict().items():
        if x.is_floating_point():
            torch.testing.assert_close(x, 0.75 * a.state_dict()[name] + 0.25 * b.state_dict()[name])
    assert all(torch.equal(x, before[name]) for name, x in a.state_dict().items())
    assert middle.config == a.config and not middle.training
    for t, end in ((0, a), (1, b)):
        states = control.interpolate_styles(a, b, t).state_dict(), end.state_dict()
        assert all(torch.equal(states[0][name], x) for name, x in states[1].items())


def test_what_lies_between_can_be_saved(tmp_path):
    middle = control.interpolate_styles(network(0), network(1), 0.5)
    loaded = ResnetGenerator.from_pretrained(middle.save_pretrained(tmp_path / "style"))
    assert torch.equal(loaded(picture()), middle(picture()))


def test_types_are_those_of_the_first():
    middle = control.interpolate_styles(network(0).bfloat16(), network(1), 0.5)
    assert middle.dtype == torch.bfloat16


def test_styles_that_have_nothing_between_them():
    with pytest.raises(ConfigError, match="this ResnetGenerator and this UNetGenerator"):
        control.interpolate_styles(network(), UNetGenerator(width=2, downs=5), 0.5)
    with pytest.raises(ConfigError, match="found width=2 and width=3"):
        control.interpolate_styles(network(), network(width=3, blocks=2), 0.5)
    with pytest.raises(ConfigError, match=r"this StylePipeline.*pipe\.model"):
        control.interpolate_styles(StylePipeline(network()), StylePipeline(network(1)), 0.5)
    adapted = network(1)
    add_lora(adapted, rank=1)
    with pytest.raises(ConfigError, match=r"styleforge\.lora\.merge"):
        control.interpolate_styles(network(), adapted, 0.5)


@pytest.mark.parametrize("t", [*BAD_NUMBERS, 1.1])
def test_shares_that_are_none(t):
    with pytest.raises(ConfigError, match="t cannot be used.*0 to 1"):
        control.interpolate_styles(network(), network(1), t)
