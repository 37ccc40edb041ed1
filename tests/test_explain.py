"""What changed, what was looked at, what a discriminator thinks: maps of the right size, with the right contents."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import settings

from styleforge import StylePipeline, methods
from styleforge import explain as module
from styleforge.adaptation import save_training
from styleforge.errors import ConfigError, ImageError, UnknownName
from styleforge.explain import changes, colors, discriminators, explain
from styleforge.models import (
    AttentionGenerator,
    DCGANGenerator,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    StyleGAN2Discriminator,
    UGATITDiscriminator,
    UGATITGenerator,
)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ResnetGenerator(width=2, blocks=1)


@pytest.fixture(scope="module")
def attending():
    torch.manual_seed(0)
    return AttentionGenerator(backbone="vgg19-16x", skip=False, shallow=False, attention="sanet").eval()


def test_what_changed_is_told_apart():
    black = -torch.ones(1, 3, 1, 1)
    for color, luma in (((1.0, 1.0, 1.0), 1.0), ((0.0, 0.0, 1.0), 0.114), ((0.587, -0.299, 0.0), 0.0)):
        found = changes(black, black + 2 * torch.tensor(color).view(1, 3, 1, 1))
        assert found["changed"].item() == pytest.approx(np.sqrt(np.mean(np.square(color))), abs=1e-6)
        assert found["changed_luma"].item() == pytest.approx(luma, abs=1e-6)
        rest = np.sqrt(np.mean(np.square(np.subtract(color, luma))))
        assert found["changed_color"].item() == pytest.approx(rest, abs=1e-6)
    green = black * torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    assert changes(green, -green)["changed_color"].item() == 1


def test_maps_have_the_size_of_the_picture_and_lie_where_it_changed(net, monkeypatch):
    def repaint(image):
        image = image.clone()
        image[:, :, 3:9, 20:30] *= -1
        return image

    monkeypatch.setattr(net, "forward", repaint)
    image = picture(21, 33) * 0.4  # no pixel is its own negative
    result = explain(net, image)
    assert set(result.maps) == {"changed", "changed_luma", "changed_color"} and result.style is None
    touched = np.zeros((21, 33), bool)
    touched[3:9, 20:30] = True
    for name in ("changed", "changed_luma"):
        values = result.maps[name]
        assert values.shape == (21, 33) and values.dtype == np.float32
        assert values[touched].min() > 0.1 and values[~touched].max() < 1e-4
    assert np.array_equal(np.array(result.image), (np.float32(image) * 255).round().astype(np.uint8))
    assert np.array(result.styled)[~touched].tolist() == np.array(result.image)[~touched].tolist()


def test_colors_get_lighter_by_even_steps():
    linear = np.where((rgb := colors(np.linspace(0, 1, 33))) <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ (0.2126, 0.7152, 0.0722)
    lightness = np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)
    assert lightness[0] == 0 and lightness[-1] > 95
    steps = np.diff(lightness)
    assert steps.min() > 1.5 and steps.max() < 6  # 3 each, if they were equal


@pytest.mark.parametrize("channels", [1, 3])
def test_the_heat_of_a_class_activation_map(channels):
    torch.manual_seed(0)
    net = UGATITGenerator(width=2, blocks=1, in_channels=channels).eval()
    image = picture(40, 48)
    found = explain(net, image).maps["attention"]
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    if channels == 1:
        tensor = (tensor * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        heat = net.translate(tensor * 2 - 1)[2]
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    expected = F.interpolate(heat, (40, 48), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.abs(found - expected).max() < 1e-3 and found.max() > 0.5
    assert explain(net, picture(45, 70)).maps["attention"].shape == (45, 70)


def test_looks_are_those_of_all_places(attending, monkeypatch):
    image, style = picture(32, 40), picture(48, 32, seed=1)
    found = explain(attending, image, reference=style)
    assert found.maps["looked_at"].shape == (48, 32) and found.style.size == (32, 48)
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None] * 2 - 1 for x in (image, style)]
    with torch.no_grad():
        points = [(row, column) for row in range(0, 32, 8) for column in range(0, 40, 8)]
        looks = [attending.attention_map(*tensors, point) for point in points]
    total = sum(looks)
    expected = F.interpolate(total / total.max(), (48, 32), mode="bilinear")[0, 0].numpy()
    assert np.abs(found.maps["looked_at"] - expected).max() < 1e-3
    entropies = torch.tensor([torch.special.entr(look).sum() for look in looks]).view(1, 1, 4, 5)
    expected = F.interpolate(1 - entropies / np.log(6 * 4), (32, 40), mode="bilinear")[0, 0].numpy()
    assert np.abs(found.maps["concentration"] - expected).max() < 1e-3

    monkeypatch.setattr(module, "BLOCK", 1)  # one place at a time
    again = explain(attending, image, reference=style)
    assert all(np.abs(again.maps[name] - found.maps[name]).max() < 1e-5 for name in found.maps)
    at = explain(attending, image, reference=style, point=(31, 0)).maps["looked_at"]
    expected = F.interpolate(looks[15] / looks[15].max(), (48, 32), mode="bilinear")[0, 0].numpy()
    assert np.abs(at - expected).max() < 1e-3


@pytest.mark.parametrize(("gain", "expected"), [(0.0, 0.0), (1e6, 1.0)])
def test_concentration_goes_from_all_alike_to_one_place(attending, gain, expected):
    query = attending.attention.layers["relu4_1"].query
    before = {name: value.clone() for name, value in query.state_dict().items()}
    with torch.no_grad():
        for value in query.parameters():
            value *= gain
    found = explain(attending, picture(33, 37), reference=picture(48, 32, seed=1)).maps["concentration"]
    query.load_state_dict(before)
    assert found.shape == (33, 37) and np.abs(found - expected).max() < 1e-3


def test_a_discriminator_is_shown_the_result(net, monkeypatch):
    judge = PixelDiscriminator(width=2)
    monkeypatch.setattr(judge, "forward", lambda x: x[:, :1])  # red is real
    found = explain(net, picture(13, 18), discriminator=judge)
    red = np.array(found.styled)[..., 0] / 255.0
    expected = (red - red.min()) / (red.max() - red.min())
    assert np.abs(found.maps["real"] - expected).max() < 0.02


def test_a_discriminator_of_pairs_is_shown_both(net, monkeypatch):
    judge = PixelDiscriminator(width=2, in_channels=6)
    monkeypatch.setattr(judge, "forward", lambda x: x[:, :1])
    found = explain(net, image := picture(13, 18), discriminator=judge)
    red = image[..., 0]
    assert np.abs(found.maps["real"] - (red - red.min()) / (red.max() - red.min())).max() < 1e-3


@pytest.mark.parametrize(
    "judge",
    [
        PatchDiscriminator(width=2, layers=2),
        MultiScaleDiscriminator(width=2, layers=1),
        UGATITDiscriminator(width=2, layers=3),
    ],
    ids=lambda judge: type(judge).__name__,
)
def test_all_discriminators_of_places_are_understood(net, judge):
    judge.train()
    found = explain(net, picture(7, 41), discriminator={"one": judge, "two": judge})
    assert found.maps["real one"].shape == (7, 41) and np.array_equal(found.maps["real one"], found.maps["real two"])
    assert 0 <= found.maps["real one"].min() < found.maps["real one"].max() <= 1
    assert judge.training  # a norm in training would have seen this picture


@pytest.mark.parametrize(("name", "expected"), [("fastcut", {"discriminator"}), ("cyclegan", {"target_discriminator"})])
def test_a_style_brings_its_discriminators(tmp_path, name, expected):
    torch.manual_seed(0)
    method = methods.build(name, settings(name))
    style = method.styles()[""]
    style.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="carries no discriminators"):
        explain(style, picture(9, 9), discriminator=tmp_path)
    save_training(method, tmp_path, {"method": name, "settings": settings(name), "size": 32})
    found = discriminators(tmp_path)
    assert set(found) == expected
    (ours,) = (getattr(method, known) for known in expected)
    (theirs,) = found.values()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not theirs.training
    image = picture(48, 52)
    ours = explain(style, image, discriminator=ours).maps["real"]
    assert np.array_equal(explain(style, image, discriminator=tmp_path).maps["real"], ours)


def test_saved_and_drawn(net, tmp_path):
    image = Image.fromarray((picture(13, 18) * 255).astype(np.uint8)).convert("RGBA")
    found = explain(StylePipeline(net), image, discriminator={"far away": PixelDiscriminator(width=2)})
    assert found.save(tmp_path / "x") == tmp_path / "x"
    names = ["changed", "changed_luma", "changed_color", "real"]
    files = ["image", "styled", *names, *(f"{name}-overlay" for name in names)]
    assert {path.name for path in (tmp_path / "x").iterdir()} == {f"{file}.png" for file in files}
    assert all(Image.open(path).size == (18, 13) for path in (tmp_path / "x").iterdir())
    gray = np.array(found.image.convert("L"))[..., None].repeat(3, 2)
    assert np.array_equal(np.array(found.overlay("changed", 0)), gray)
    assert np.array_equal(np.array(found.overlay("changed", 1)), np.array(found.draw("changed")))
    with pytest.raises(UnknownName, match="'changd'.*'changed'"):
        found.overlay("changd")
    with pytest.raises(ConfigError, match="opacity.*1.5"):
        found.overlay("changed", 1.5)


def test_half_precision_is_explained_too(attending):
    torch.manual_seed(0)
    judge = PixelDiscriminator(width=2).to(torch.bfloat16)
    heat = explain(UGATITGenerator(width=2, blocks=1, in_channels=1).to(torch.bfloat16), picture(9, 9))
    assert heat.maps["attention"].max() > heat.maps["attention"].min()
    half = StylePipeline(copy.deepcopy(attending)).to(torch.bfloat16)
    given = {"reference": picture(32, 32, seed=1), "discriminator": judge}
    ours, full = explain(half, picture(32, 40), **given).maps, explain(attending, picture(32, 40), **given).maps
    assert ours.keys() == full.keys()
    assert np.abs(ours["concentration"] - full["concentration"]).mean() < 0.05


def test_a_picture_that_stays_is_drawn_black(net, monkeypatch):
    monkeypatch.setattr(net, "forward", lambda image: image)
    assert not np.array(explain(net, picture(8, 8)).draw("changed")).any()


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (DCGANGenerator(size=32, width=2), {}, ConfigError, "starts from noise"),
        (None, {"point": (0, 0)}, ConfigError, "where it looks"),
        (None, {"discriminator": ResnetGenerator(width=2, blocks=0)}, ConfigError, "no discriminator.*ResnetGenerator"),
        (None, {"discriminator": StyleGAN2Discriminator(size=8, width=2, group=1)}, ConfigError, "as a whole"),
        (None, {"discriminator": PixelDiscriminator(width=2, in_channels=1)}, ConfigError, "1 channels"),
        ("attending", {"reference": picture(32, 32), "point": (8, 0)}, ImageError, "rows below 8"),
        ("attending", {}, ConfigError, "takes any style"),
    ],
)
def test_what_cannot_be_explained(net, attending, model, options, error, message):
    with pytest.raises(error, match=message):
        explain({None: net, "attending": attending}.get(model, model), picture(8, 8), **options)
