"""Doubled maps that a convolution does without: the same pictures, with no map of twice the size."""

import pytest
import torch
import torch.nn.functional as F
from test_models import build
from test_padding import Seen
from torch import nn
from torch._subclasses import FakeTensorMode
from variants import VARIANTS

from styleforge import engine
from styleforge.engine import Replay, accelerate, int8, subpixel, trial
from styleforge.engine.calls import pair
from styleforge.engine.fast import _onednn
from styleforge.engine.later import Later
from styleforge.models import ResnetGenerator, UGATITGenerator, UNetGenerator
from styleforge.models.adain import MirroredDecoder

NEAREST, BILINEAR = {"scale_factor": 2}, {"scale_factor": 2.0, "mode": "bilinear", "align_corners": False}


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (21, 10)], ids=str)
@pytest.mark.parametrize(
    ("pads", "mode"),
    [
        ((0, 0, 0, 0), "constant"),
        ((1, 1, 1, 1), "reflect"),
        ((2, 1, 2, 1), "constant"),
        ((3, 3, 3, 3), "reflect"),
        ((0, 2, 1, 3), "reflect"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 4), (7, 7), (3, 5), (4, 3)], ids=str)
@pytest.mark.parametrize("how", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
@torch.no_grad()
def test_it_is_the_same_convolution(how, kernel, pads, mode, size):
    x, weight, bias = numbers(2, 5, *size), numbers(6, 5, *kernel, seed=1), numbers(6, seed=2)

    def doubled_and_convolved(padding):
        x_doubled = F.interpolate(x, **how)
        padded = F.pad(x_doubled, pads, mode=mode) if any(pads) else x_doubled
        return F.conv2d(padded, weight, bias, padding=padding)

    for padding in (0,) if any(pads) else (0, 1, (1, 2)):
        with Seen() as seen, Later():
            made = doubled_and_convolved(padding)
        torch.testing.assert_close(made, doubled_and_convolved(padding))
        assert seen.convolved[0] == size and size not in seen.doubled  # only parts of it are, for the borders


@torch.no_grad()
def test_others_get_what_they_ask_for():
    x, weight = numbers(1, 16, 12, 12), numbers(16, 16, 3, 3, seed=1)
    exact = F.interpolate(x, **NEAREST)
    asked = [
        (exact, weight, {"stride": 2}),
        (exact, weight, {"dilation": 2}),
        (exact, weight[:, :4], {"groups": 4}),
        (exact, weight, {"padding": "same"}),
        (exact, weight[..., :1, :1], {}),
        (exact, numbers(4, 16, 9, 9), {}),
    ]
    with Seen() as seen, Later():
        doubled = F.interpolate(x, **NEAREST)
        other = doubled.detach()
        padded = F.pad(doubled, (1,) * 4, mode="reflect")
        assert doubled.shape == exact.shape and padded.shape == (1, 16, 26, 26) and not seen.doubled
        for _, kernel, options in asked:
            assert torch.equal(F.conv2d(other, kernel, **options), F.conv2d(exact, kernel, **options)), options
        assert torch.equal(doubled + 1, exact + 1) and torch.equal(
            torch.cat([padded]), F.pad(exact, (1,) * 4, "reflect")
        )
        twice = F.interpolate(F.interpolate(x, **NEAREST), **NEAREST)
        assert torch.equal(twice + 0, F.interpolate(exact, **NEAREST))
        replicated = F.pad(F.interpolate(x, **NEAREST), (1,) * 4, mode="replicate")
        assert torch.equal(replicated, F.pad(exact, (1,) * 4, mode="replicate"))
        framed = F.pad(F.pad(F.interpolate(x, **NEAREST), (1,) * 4), (2,) * 4)
        assert torch.equal(framed + 0, F.pad(exact, (3,) * 4))
        little = F.interpolate(x[..., :7], **NEAREST)
        assert torch.equal(F.conv2d(little, weight), F.conv2d(F.interpolate(x[..., :7], **NEAREST), weight))


@torch.no_grad()
def test_what_was_doubled_may_change_afterwards():
    x, weight = numbers(1, 16, 12, 12), numbers(16, 16, 3, 3, seed=1)
    exact = F.conv2d(F.interpolate(x, **NEAREST), weight)
    for change in (torch.Tensor.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.__setitem__(..., 0)):
        with Later():
            source = x.clone()
            doubled = F.interpolate(source, **NEAREST)
            padded = F.pad(doubled, (1,) * 4)
            change(source)
            assert torch.equal(F.conv2d(doubled, weight), exact)
            torch.testing.assert_close(F.conv2d(padded, weight)[..., 1:-1, 1:-1], exact)


def test_what_is_not_doubled_is_made_at_once():
    x = numbers(1, 16, 12, 12)
    calls = [
        {"scale_factor": 3},
        {"scale_factor": (2, 1)},
        {"size": (24, 25)},
        {"scale_factor": 2, "mode": "bicubic"},
        {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
        {"scale_factor": 0.5, "mode": "bilinear", "antialias": True},
    ]
    with torch.no_grad(), Later() as later:
        made = [F.interpolate(x, **given) for given in calls]
        assert not later._waiting
        left = [F.interpolate(x, **given) for given in ({"size": (24, 24)}, {"scale_factor": [2.0, 2.0]})]
        assert len(later._waiting) == len(left)
    for one, given in zip(made, calls, strict=True):
        assert torch.equal(one, F.interpolate(x, **given))
    with FakeTensorMode(), torch.no_grad(), Later() as later:
        F.interpolate(torch.empty(1, 16, 12, 12), scale_factor=2)
        assert not later._waiting
    weight = numbers(16, 16, 3, 3, seed=1).requires_grad_()
    with Later():
        F.conv2d(F.interpolate(x, scale_factor=2), weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (20, 11)], ids=str)
@pytest.mark.parametrize("more", [0, 1, (1, 0)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 2, (1, 0)], ids=str)
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 4), (5, 5), (7, 7), (3, 4), (4, 2)], ids=str)
@torch.no_grad()
def test_a_transposed_convolution_is_the_same(kernel, padding, more, size, monkeypatch):
    taken, fill = [], subpixel.Place.filled
    monkeypatch.setattr(subpixel.Place, "filled", lambda self, blocks: taken.append(1) or fill(self, blocks))
    x, weight, bias = numbers(2, 5, *size), numbers(5, 3, *kernel, seed=1), numbers(3, seed=2)
    exact = F.conv_transpose2d(x, weight, bias, 2, padding, more)
    with accelerate(nn.Conv2d(1, 1, 1), enabled=False):
        made = F.conv_transpose2d(x, weight, bias, stride=2, padding=padding, output_padding=more)
    torch.testing.assert_close(made, exact)
    sides = zip(kernel, pair(padding), pair(more), strict=True)
    assert bool(taken) == all(pad <= tap - 2 and pad <= tap - 2 + beyond for tap, pad, beyond in sides)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("taps", "worth"), [(4, True), (6, True), (2, False), (3, False)])
def test_windows_with_zeros_beside_are_not_worth_8_bit_in_half(taps, worth, dtype, monkeypatch):
    if int8.conv is None:
        pytest.skip("this torch has no convolutions in 8 bit")
    monkeypatch.setattr(int8, "bf16_by_tiles", lambda: False)
    x, weight = torch.empty(1, 128, 64, 64), torch.empty(128, 128, taps, taps)
    options = {"stride": 2, "padding": 1, "output_padding": 0, "dilation": 1, "groups": 1}
    assert int8.suits(x, weight, options, dtype, "zeros") == (worth or dtype == torch.float32)


@torch.no_grad()
def test_other_transposed_convolutions_are_done_as_written(monkeypatch):
    monkeypatch.setattr(subpixel.Place, "filled", lambda self, blocks: pytest.fail("by blocks"))
    x, weight = numbers(1, 16, 12, 12), numbers(16, 16, 4, 4, seed=1)
    few = weight[:, :3]
    asked = [
        (x, weight, {"stride": 2}),  # many channels
        (x, few, {"stride": 1}),
        (x, few, {"stride": (2, 1)}),
        (x, few, {"stride": 2, "dilation": 2}),
        (x, few, {"stride": 2, "padding": 3}),
        (x, weight[:, :1], {"stride": 2, "groups": 4}),
        (x[:, :, :7], few, {"stride": 2}),
        (x, few[..., :1, :1], {"stride": 2}),
    ]
    with accelerate(nn.Conv2d(1, 1, 1), enabled=False):
        made = [F.conv_transpose2d(x, weight, **options) for x, weight, options in asked]
    for one, (x, weight, options) in zip(made, asked, strict=True):
        torch.testing.assert_close(one, F.conv_transpose2d(x, weight, **options))


# -- whole networks --


@pytest.fixture(params=[False, True], ids=["fp32", "bf16"])
def half(request, monkeypatch):
    """On any processor, some of which are slow then, but the same; none has 8 bit or tiles."""
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: request.param)
    monkeypatch.setattr(trial, "int8_is_fast", lambda: False)
    for module in (engine.fast, int8):
        monkeypatch.setattr(module, "bf16_by_tiles", lambda: False)
    return request.param


@pytest.mark.parametrize(
    ("model", "twice"),
    [
        (lambda: ResnetGenerator(width=8, blocks=1, upsample="resize"), 2),
        (lambda: ResnetGenerator(width=8, blocks=1, upsample="blur", border="reflect"), 2),
        (lambda: UGATITGenerator(width=8, blocks=1), 2),
    ],
    ids=["resize", "blur", "ugatit"],
)
@torch.no_grad()
def test_networks_make_the_same_pictures_and_notes_the_same_bits(model, twice, half, monkeypatch):
    torch.manual_seed(0)
    model, image = model().eval(), torch.tanh(numbers(1, 3, 64, 48, dtype=torch.float32))
    joined, places = [], subpixel.Doubled.convolved

    def convolved(self, *given):
        made = places(self, *given)
        joined.append(made is not None)
        return made

    monkeypatch.setattr(subpixel.Doubled, "convolved", convolved)
    with accelerate(model):
        made = model(image)
    assert joined == [True] * twice
    assert (made - model(image)).abs().mean() <= (0.02 if half else 1e-5)
    replay = Replay(model)
    pictures = [engine.run(model, image, shortcut=replay) for _ in range(3)]
    assert torch.equal(pictures[0], made) and all(torch.equal(made, other) for other in pictures[1:])
    (notes,) = replay._notes.values()
    sizes = {str(node.target) for node in notes.graph.nodes}
    if half and _onednn is not None:
        assert "styleforge.joined.default" not in sizes  # kept, in order


@torch.no_grad()
def test_tiles_are_the_whole_picture(half):
    torch.manual_seed(0)
    for how in ("resize", "blur"):
        model = ResnetGenerator(width=8, blocks=1, upsample=how, border="reflect").eval()
        image = torch.tanh(numbers(1, 3, 160, 132, dtype=torch.float32))
        with accelerate(model):
            whole, cut = model(image), engine.run_tiled(model, image, tile=64)
        assert (whole - cut).abs().max() <= (0.1 if half else 1e-4)
        assert (whole - cut).abs().mean() <= (0.01 if half else 1e-5)


@torch.no_grad()
def test_decoders_that_repeat_pixels_do_without_these(half):
    torch.manual_seed(0)
    decoder = MirroredDecoder({"relu1_1": 8, "relu2_1": 16, "relu3_1": 16}).eval()
    features = numbers(1, 16, 12, 10, dtype=torch.float32).relu()
    with Seen() as seen, accelerate(decoder):
        made = decoder(features)
    assert (12, 10) not in seen.doubled and (24, 20) not in seen.doubled
    exact = decoder(features)
    assert (made - exact).abs().max() <= (0.05 if half else 1e-5) * exact.abs().max()


# -- in 8 bit --


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def eight(request, monkeypatch):
    """All networks bear 8 bit, and small ones are worth it."""
    if int8.conv is None:
        pytest.skip("this torch has no convolutions in 8 bit")
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: request.param == torch.bfloat16)
    for module in (engine.fast, int8):
        monkeypatch.setattr(module, "bf16_by_tiles", lambda: False)
    monkeypatch.setattr(trial, "int8_is_fast", lambda: True)
    monkeypatch.setattr(trial, "ENOUGH", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(int8, "WORK", dict.fromkeys((torch.bfloat16, torch.float32), 16))
    monkeypatch.setattr(int8, "CHANNELS", 8)
    return request.param


def check_near_and_noted(model, image, kernels):
    with accelerate(model, kernels=kernels):
        made = model(image)
    with accelerate(model):
        plain = model(image)
    assert 0 < (made - plain).square().mean() < 1e-2
    replay = Replay(model)
    for _ in range(3):
        assert torch.equal(engine.run(model, image, shortcut=replay), made)


@pytest.mark.parametrize("how", ["resize", "blur"])
@pytest.mark.parametrize("border", ["zero", "reflect"])
@torch.no_grad()
def test_maps_as_they_were_are_brought_to_8_bit(how, border, eight, monkeypatch):
    torch.manual_seed(0)
    model = ResnetGenerator(width=16, blocks=1, upsample=how, border=border).eval()
    image = F.interpolate(numbers(2, 3, 8, 6, dtype=torch.float32), scale_factor=8, mode="bicubic").clamp(-1, 1)
    kernels, asked = trial.kernels(model, {}), []
    ups = [kernels[id(up.conv.weight)] for up in model.up]
    assert [up.doubled for up in ups] == [{"resize": "nearest", "blur": "bilinear"}[how]] * 2
    once = int8.conv2d
    monkeypatch.setattr(int8, "conv2d", lambda x, *rest: asked.append(tuple(x.shape[2:])) or once(x, *rest))
    check_near_and_noted(model, image, kernels)
    # Of the pass in 8 bit, and not twice as large; behind them is the head.
    assert asked[len(kernels) - 3 : len(kernels) - 1] == [(16, 12), (32, 24)]


@torch.no_grad()
def test_transposed_convolutions_are_done_in_8_bit(eight):
    torch.manual_seed(0)
    model = UNetGenerator(width=16, downs=4).eval()
    image = F.interpolate(numbers(2, 3, 8, 6, dtype=torch.float32), scale_factor=16, mode="bicubic").clamp(-1, 1)
    kernels = trial.kernels(model, {})
    # The deepest maps are too small.
    assert {kernels[id(up.weight)].doubled for up in model.up[:3]} == {"zeros"}
    check_near_and_noted(model, image, kernels)


@torch.no_grad()
def test_alone_it_is_what_it_is_in_the_network(eight, monkeypatch):
    # In float32 norms sum up in another way as soon as anything is in 8 bit.
    monkeypatch.setattr(engine.fast, "_summed_naively", lambda x, roughly: False)
    torch.manual_seed(0)
    given = trial.pictures(3, 64)
    for how in ("resize", "blur", *(["transpose"] if eight == torch.float32 else [])):  # which is as fast in bfloat16
        model = ResnetGenerator(width=16, blocks=1, upsample=how, border="reflect").eval()
        kernels = trial.kernels(model, {})
        for up in model.up:
            only = {id(up.conv.weight): kernels[id(up.conv.weight)]}
            with accelerate(model, kernels=only):
                exact = model(given)
            with accelerate(model), trial._Alone(only, len(given), eight):
                off = (model(given) - exact).abs()  # in float32 the layout of maps is another, and the order of sums
                assert off.mean() <= (0 if eight == torch.bfloat16 else 1e-5)


@torch.no_grad()
def test_a_weight_that_is_used_in_two_ways_is_right_in_both(eight):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x):
            return self.conv(F.interpolate(self.conv(x), **NEAREST))

    torch.manual_seed(0)
    model, x = Twice().eval(), numbers(1, 16, 20, 20, dtype=torch.float32)
    weight, exact = model.conv.weight, model(x)
    place = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}
    for how in (None, "nearest", "bilinear"):
        with accelerate(model, kernels={id(weight): int8.kernel(weight, True, place, eight, how)}):
            made = model(x)
        assert made.shape == exact.shape and (made - exact).abs().max() <= 0.1 * exact.abs().max(), how


OTHERS = ("DCGANGenerator", "StyleGAN2Generator")  # make pictures of noise


@pytest.mark.parametrize(
    "variant", [each for each in VARIANTS if not each[0].__name__.endswith(("Discriminator", *OTHERS))], ids=str
)
@torch.no_grad()
def test_every_network_makes_the_same_pictures(variant, half, monkeypatch):
    model = build(variant).eval()
    side = max(model.capabilities.smallest, 64)
    side += -side % model.capabilities.multiple
    image = torch.tanh(numbers(1, model.config.get("in_channels", 3), side, side, dtype=torch.float32))
    given = {"style": image.flip(3)} if "style" in model.capabilities.inputs else {}
    with accelerate(model):
        made = model(image, **given)
        monkeypatch.setattr(subpixel, "SMALLEST", 10**6)
        plain = model(image, **given)
    off = (made - plain).abs()
    assert off.mean() <= (0.02 if half else 1e-4) and made.shape == plain.shape
