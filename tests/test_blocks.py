"""Convolutions to few channels by blocks of pixels: the same pictures."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from styleforge import engine, precision
from styleforge.engine import accelerate, blocks, int8
from styleforge.engine.fast import _onednn
from styleforge.models import ResnetGenerator

of_onednn = pytest.mark.skipif(_onednn is None, reason="this torch has no convolutions with weights in order")


@pytest.fixture(params=[False, True], ids=["fp32", "bf16"])
def half(request, monkeypatch):
    """On any processor, some of which are slow then, but the same; none has tiles."""
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: request.param)
    for module in (engine.fast, int8):
        monkeypatch.setattr(module, "bf16_by_tiles", lambda: False)
    return request.param


@pytest.fixture(params=[16, 8], ids=["avx512", "avx2"], autouse=True)
def lanes(request, monkeypatch):
    """Of a processor."""
    monkeypatch.setattr(blocks, "lanes", lambda: request.param)
    return request.param


@pytest.fixture
def seen(monkeypatch):
    """Shapes of the maps that were computed by blocks."""
    shapes, place = [], blocks.place

    def seeing(x, *rest):
        shapes.append(tuple(x.shape))
        return place(x, *rest)

    monkeypatch.setattr(blocks, "place", seeing)
    return shapes


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(48, 50), (49, 50), (50, 47), (51, 53)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "padding", "biased"),
    [((7, 7), 0, True), ((3, 3), 1, False), ((3, 5), (2, 0), True), ((4, 4), (1,), True), ((1, 9), (0, 4), False)],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3, 4])
@torch.no_grad()
def test_it_is_the_same_convolution(channels, kernel, padding, biased, size, layout, half, seen):
    x = numbers(2, 8, *size).contiguous(memory_format=layout)
    weight = nn.Parameter(numbers(channels, 8, *kernel, seed=1))
    bias = numbers(channels, seed=2) if biased else None
    exact = F.conv2d(x, weight, bias, padding=padding)
    with accelerate(nn.Conv2d(1, 1, 1)):
        made = F.conv2d(x, weight, bias, padding=padding)
    assert seen == [(2, 8, *size)] and made.shape == exact.shape
    assert (made - exact).abs().max() <= (0.02 if half else 1e-5) * exact.abs().max()


@pytest.mark.parametrize(
    ("shape", "count", "given"),
    [
        ((1, 8, 40, 40), 3, {}),  # a small map
        ((1, 8, 64, 64), 5, {}),
        ((1, 8, 64, 64), 3, {"stride": 2}),
        ((1, 8, 64, 64), 3, {"dilation": (1, 2)}),
        ((1, 8, 64, 64), 3, {"padding": "same"}),
        ((1, 9, 64, 64), 3, {"groups": 3}),
    ],
    ids=str,
)
@torch.no_grad()
def test_all_others_stay_what_they_are(shape, count, given, half, seen):
    x, weight = numbers(*shape), numbers(count, shape[1] // given.get("groups", 1), 3, 3)
    with accelerate(nn.Conv2d(1, 1, 1)):
        made = F.conv2d(x, weight, **given)
        small = F.conv2d(x, weight[:, :, :1, :1], **given)
    assert seen == [] and small.shape[1] == count
    exact = F.conv2d(x, weight, **given)
    assert (made - exact).abs().max() <= (0.02 if half else 1e-5) * exact.abs().max()


@torch.no_grad()
def test_where_vectors_are_not_known_there_are_no_blocks(half, seen, monkeypatch):
    monkeypatch.setattr(blocks, "lanes", lambda: 0)
    with accelerate(layer := nn.Conv2d(8, 3, 3)):
        layer(numbers(1, 8, 64, 64))
    assert seen == []


@pytest.mark.parametrize(
    ("can", "limit", "expected"),
    [
        (("avx2", "avx512_f"), "", 16),
        (("avx2", "avx512_f"), "AVX512_CORE_VNNI", 16),
        (("avx2", "avx512_f"), "AVX2_VNNI", 8),
        (("avx2",), "DEFAULT", 8),
        (("avx2", "avx512_f"), "sse41", 0),
        (("neon",), "", 0),
    ],
)
def test_how_wide_vectors_are(can, limit, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(can, True), raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.lanes() == expected


def test_gradients_come_as_always(half, seen):
    x, weight = numbers(1, 4, 64, 64).requires_grad_(), numbers(3, 4, 3, 3)
    with accelerate(nn.Conv2d(1, 1, 1)):
        F.conv2d(x, weight).sum().backward()
    assert seen == [] and x.grad is not None


@torch.no_grad()
def test_with_tiles_it_is_done_in_float32_only(seen, monkeypatch):
    """Of bfloat16 by tiles nobody has measured it yet."""
    for module in (engine.fast, int8):
        monkeypatch.setattr(module, "bf16_by_tiles", lambda: True)
    x, layer = numbers(1, 8, 64, 64), nn.Conv2d(8, 3, 3)
    for half in (True, False):
        monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device, half=half: half)
        with accelerate(layer):
            layer(x)
    assert seen == [(1, 8, 64, 64)]
    assert int8.kernel(layer.weight, True, CONVOLUTION, torch.bfloat16).taps is None


@torch.no_grad()
def test_networks_notes_and_tiles_take_it(half, seen, monkeypatch):
    monkeypatch.setattr(engine.trial, "int8_is_fast", lambda: False)
    torch.manual_seed(0)
    model, image = ResnetGenerator(width=8, blocks=1).eval(), torch.tanh(numbers(1, 3, 200, 256))
    exact, replay = model(image), engine.Replay(model)
    pictures = [engine.run(model, image, shortcut=replay) for _ in range(4)]
    assert seen == [(1, 8, 206, 262)] * 2, "notes need no more of it"
    assert all(torch.equal(pictures[0], each) for each in pictures[1:])
    assert (pictures[0] - exact).abs().max() <= (0.1 if half else 1e-4)
    seen.clear()
    image = image.repeat(1, 1, 3, 2)
    exact = model(image)
    cut = engine.run(model, image, max_memory=engine.plan(model, image).trace.peak() // 2)
    assert len(seen) > 1 and (cut - exact).abs().max() <= (0.1 if half else 1e-4)


CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


@pytest.mark.skipif(int8.conv is None, reason="this torch has no convolutions in 8 bit")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [(20, 22), (21, 22), (20, 23), (21, 23)], ids=str)
@torch.no_grad()
def test_in_8_bit_it_is_near_to_itself(size, signed, dtype, half):
    x = numbers(2, 16, *size).to(dtype)
    x = x if signed else x.relu()
    weight, bias, given = numbers(3, 16, 5, 5, seed=1), numbers(3, seed=2), {**CONVOLUTION, "padding": 2}
    weights = int8.kernel(weight, signed, given, dtype)
    assert weights.taps == (5, 5)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=2)
    made = int8.conv2d(x, weights, bias, given, dtype)
    assert made.shape == exact.shape and made.dtype == dtype
    error = 10 * torch.log10(exact.square().mean() / (made - exact).square().mean())
    assert error > (33 if precision.int8_is_fast() else 25)
