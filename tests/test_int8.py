"""Convolutions in whole numbers of 8 bit: how near they are, and which networks get them."""

from __future__ import annotations

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from test_models import build
from torch import nn
from variants import VARIANTS

from styleforge import StylePipeline, engine, precision
from styleforge.engine import Replay, int8, trial
from styleforge.models import ResnetGenerator

pytestmark = pytest.mark.skipif(int8.conv is None, reason="this torch has no convolutions in 8 bit")
STYLE = "fastcut-impressionist"
TYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(params=["tiles", "bf16", "fp32"])
def half(request, monkeypatch):
    """What all else is computed in; on any processor, some of which are slow then, but the same."""
    half = request.param != "fp32"
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: half)
    for module in (engine.fast, int8):
        monkeypatch.setattr(module, "bf16_by_tiles", lambda: request.param == "tiles")
    monkeypatch.setattr(trial, "int8_is_fast", lambda: True)
    return half


@pytest.fixture
def bearing(half, monkeypatch):
    """All networks bear 8 bit, and small ones are worth it."""
    monkeypatch.setattr(trial, "ENOUGH", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(int8, "WORK", dict.fromkeys(TYPES, 16))
    monkeypatch.setattr(int8, "WORK_FOR_TILES", 16)
    monkeypatch.setattr(int8, "CHANNELS", 8)


def decibel(error, signal):
    return 10 * torch.log10(signal.double().square().mean() / error.double().square().mean()).item()


def network(width=8, blocks=2, **config):
    torch.manual_seed(0)
    return ResnetGenerator(width=width, blocks=blocks, **config).eval()


def photograph(height=96, width=128):
    """Not a photograph, but smooth, with edges."""
    source = torch.Generator().manual_seed(3)
    small = torch.randn(1, 3, height // 8, width // 8, generator=source)
    return F.interpolate(small, (height, width), mode="bicubic").clamp(-1, 1)


def options(**given):
    return {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **given}


# -- one convolution --


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "given",
    [
        options(),
        options(padding=1),
        options(padding=(0, 2), stride=(2, 1)),
        options(stride=2, padding=(1, 1)),
        options(dilation=2, padding=2),
    ],
    ids=str,
)
@torch.no_grad()
def test_a_convolution_is_near_to_itself(given, signed, dtype):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 37, 19, 26, generator=source).to(dtype)  # numbers that fit nothing
    x = x if signed else x.relu()
    weight, bias = torch.randn(45, 37, 3, 3, generator=source), torch.randn(45, generator=source)
    kernel = int8.kernel(weight, signed, given, dtype)
    for bias_given in (bias, None):
        made = int8.conv2d(x, kernel, bias_given, given, dtype)
        exact = F.conv2d(x.float(), weight, bias_given, **given)
        assert made.dtype == dtype and made.shape == exact.shape
        # Steps of a 127th of 4 deviations: 40 dB for a map and as much for a kernel. Borders of zeros are zeros.
        assert decibel(made - exact, exact) > (33 if precision.int8_is_fast() else 25)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [(37, 20), (2, 300), (1, 64)])
def test_a_map_part_by_part_is_the_same_as_whole(size, signed, dtype, monkeypatch):
    x = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = (x if signed else x.relu()).contiguous(memory_format=torch.channels_last)
    weights = int8.kernel(torch.randn(8, 16, 3, 3), signed, options(), dtype)
    given = x, weights.steps, weights.shift, weights.still, signed
    whole, largest = int8.to_steps(*given)
    assert largest == x.abs().amax()
    monkeypatch.setattr(int8, "PART", 2000)
    parts, same = int8.to_steps(*given)
    assert torch.equal(parts, whole) and parts.stride() == whole.stride() and same == largest


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@torch.no_grad()
def test_each_picture_has_a_scale_of_its_own(dtype):
    x = torch.rand(3, 32, 9, 9, generator=torch.Generator().manual_seed(0)).to(dtype) * torch.tensor([1, 1e-3, 1e3])[
        :, None, None, None
    ].to(dtype)
    kernel = int8.kernel(torch.randn(40, 32, 3, 3), False, options(), dtype)
    together = int8.conv2d(x, kernel, None, options(), dtype)
    for one, made in zip(x.split(1), together.split(1), strict=True):
        assert torch.equal(int8.conv2d(one, kernel, None, options(), dtype), made)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("signed", [True, False])
@torch.no_grad()
def test_what_cannot_be_steps_is_no_garbage(signed, dtype):
    weight = torch.randn(40, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel = int8.kernel(weight, signed, options(), dtype)
    nothing = torch.zeros(1, 32, 5, 5, dtype=dtype)
    assert not int8.conv2d(nothing, kernel, None, options(), dtype).any()
    assert not int8.conv2d(nothing, int8.kernel(weight * 0, signed, options(), dtype), None, options(), dtype).any()
    broken = nothing.clone()
    broken[0, 3, 2, 2] = torch.nan
    assert int8.conv2d(broken, kernel, None, options(), dtype).isnan().any()
    below = torch.randn(1, 32, 9, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = below if signed else below.relu()
    assert torch.equal(
        int8.conv2d(below, kernel, None, options(), dtype), int8.conv2d(wanted, kernel, None, options(), dtype)
    )


# -- whole networks --


@torch.no_grad()
def test_published_styles_bear_it_and_stay_near_to_float32(half):
    checked = 0
    for name in (STYLE, "fastcut-monet", "fast-great-wave", "restore-denoise", "mini-classic"):
        model, image = StylePipeline.from_pretrained(name).model, photograph()
        checked += bool(trial.kernels(model, {}))
        for each in (image, image * 0.05 - 0.9):
            exact, made = engine.run(model, each, fast=False), engine.run(model, each)
            assert decibel((made - exact) / 2, torch.ones(1)) >= 40, name
    # With tiles only networks that are twice as wide are faster in 8 bit, but for one that doubles by blur, and a mini
    # only where there is no bfloat16.
    assert checked == (1 if int8.bf16_by_tiles() else 4 if half else 5)


@torch.no_grad()
def test_a_network_of_random_weights_does_not_bear_all_of_it(half):
    model, image = network(width=64, blocks=6), photograph(64, 64)
    seen = trial._Seen(set(map(id, model.parameters())), torch.bfloat16 if half else torch.float32)
    with engine.accelerate(model), seen:
        model(image)
    found = trial.kernels(model, {})
    assert len(found) < len(seen.found)
    given = trial.pictures(3, 64)
    off = []
    for kernels in ({}, found):
        with engine.accelerate(model, kernels=kernels):
            off.append(model(given))
    for wanted, one, other in zip(trial.ENOUGH, *off, strict=True):
        assert decibel((one - other) / 2, torch.ones(1)) >= wanted or torch.equal(one, other)


@torch.no_grad()
def test_what_a_network_does_not_bear_is_left_out_and_nothing_else(bearing, monkeypatch):
    monkeypatch.setattr(trial, "ENOUGH", (20.0, 20.0, 20.0, 20.0))
    once, model = int8.kernel, network(width=16, upsample="resize")
    assert len(all_of_it := trial.kernels(model, {})) >= 6
    for spoiled in (model.blocks[0].conv2.weight, model.up[0].conv.weight, model.blocks[1].conv1.weight):
        monkeypatch.setattr(
            int8, "kernel", lambda weight, *rest, bad=spoiled: once(weight * (weight is not bad), *rest)
        )
        trial._tried.pop(model)
        assert set(trial.kernels(model, {})) == set(all_of_it) - {id(spoiled)}


@torch.no_grad()
def test_notes_give_the_same_bits(bearing):
    for model in (network(), network(downsample="blur", upsample="blur", border="reflect", detail=True)):
        replay, found = Replay(model), trial.kernels(model, {})
        assert len(found) >= 4
        for _ in range(4):
            picture = torch.rand(2, 3, 36, 44) * 2 - 1
            assert torch.equal(engine.run(model, picture, shortcut=replay), engine.run(model, picture))
        (notes,) = replay._notes.values()
        pads = [node for node in notes.graph.nodes if node.target is torch.ops.aten.reflection_pad2d.default]
        assert not any(user.target is torch.ops.aten.native_batch_norm.default for node in pads for user in node.users)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_every_network_from_picture_to_picture_takes_it(variant, bearing):
    model = build(variant).eval()
    if model.capabilities.inputs != ("image",) or model.capabilities.output != "image":
        assert not trial.kernels(model, {})
        return
    side = max(model.capabilities.smallest, 48)
    side += -side % model.capabilities.multiple
    image = torch.rand(1, model.config.get("in_channels", 3), side, side) * 2 - 1
    replay = Replay(model)
    for _ in range(3):
        made = engine.run(model, image, shortcut=replay)
    assert torch.equal(made, engine.run(model, image)) and made.isfinite().all()


@torch.no_grad()
def test_tiles_are_near_to_the_whole(bearing):
    model = network(width=16)
    image = F.interpolate(torch.rand(1, 3, 16, 20), scale_factor=16, mode="bicubic").clamp(0, 1) * 2 - 1
    kernels = trial.kernels(model, {})
    with engine.accelerate(model, kernels=kernels):
        whole, cut = model(image), engine.run_tiled(model, image, tile=96)
    with engine.accelerate(model):
        plain = model(image)
    noise, seams = ((whole - other).double().square().mean() for other in (plain, cut))
    assert len(kernels) >= 4 and 0 < seams < 4 * noise  # each tile has its own scale, and rounds otherwise


# -- when --


@torch.no_grad()
def test_it_is_tried_once_and_again_when_weights_change(bearing, monkeypatch):
    model, image, tried = network(), photograph(32, 32), []
    once = trial._try
    monkeypatch.setattr(trial, "_try", lambda *given: tried.append(1) or once(*given))
    for size in (32, 32, 64):
        engine.run(model, photograph(size, size))
    assert len(tried) == 1
    before = engine.run(model, image)
    model.blocks[0].conv1.weight.mul_(-1)
    assert not torch.equal(engine.run(model, image), before) and len(tried) == 2
    model.head.weight = nn.Parameter(model.head.weight * 0)
    assert engine.run(model, image).std() < 1e-6 and len(tried) == 3
    assert torch.equal(engine.run(copy.deepcopy(model), image), engine.run(model, image)) and len(tried) == 4


@torch.no_grad()
def test_what_it_was_shown_before_makes_no_difference(half):
    one, other = (StylePipeline.from_pretrained(STYLE).model for _ in range(2))
    night, day = photograph(64, 64) * 0.01 - 0.95, photograph(64, 64)
    engine.run(one, night)
    engine.run(other, day)
    assert torch.equal(engine.run(one, day), engine.run(other, day))


@torch.no_grad()
def test_nobody_gets_it_who_wants_or_needs_more(bearing, monkeypatch):
    model, image = network(), photograph(32, 32)
    assert trial.kernels(model, {})
    assert not trial.kernels(model, {}, fast=False) and not trial.kernels(model, {"strength": 0.5})
    handle = model.blocks[0].register_forward_hook(lambda *given: None)
    assert not trial.kernels(model, {})
    handle.remove()
    assert trial.kernels(model, {})
    assert not trial.kernels(nn.Conv2d(64, 64, 3), {})
    exact = engine.run(model, image, fast=False)
    monkeypatch.setattr(trial, "int8_is_fast", lambda: False)
    assert not trial.kernels(model, {}) and torch.equal(engine.run(model, image, fast=False), exact)
    assert not trial.kernels(network().double(), {})


@torch.no_grad()
def test_threads_wait_for_one_trial_and_models_are_let_go(bearing, monkeypatch):
    model, tried = network(), []
    once = trial._try
    monkeypatch.setattr(trial, "_try", lambda *given: tried.append(1) or once(*given))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(engine.run, [model] * 8, [photograph(32, 32)] * 8))
    assert len(tried) == 1 and all(torch.equal(each, made[0]) for each in made)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(("limit", "fast"), [("AVX2", False), ("avx512_core", False), ("AVX2_VNNI", True), ("", True)])
def test_a_processor_taken_for_an_older_one_has_no_int8(limit, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.int8_is_fast() is fast
