"""Pads that a convolution does by itself: the same pictures, with no copy of a large map."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from styleforge import engine
from styleforge.engine import accelerate, padding
from styleforge.engine.later import Later
from styleforge.models import ResnetGenerator, TransformerNet


class Seen(TorchFunctionMode):
    """The shapes of what is really padded, doubled and convolved, and what convolutions are told."""

    def __init__(self):
        super().__init__()
        self.padded, self.doubled, self.convolved, self.told = [], [], [], []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "pad":
            self.padded.append(tuple(args[0].shape[2:]))
        if name == "interpolate":
            self.doubled.append(tuple(args[0].shape[2:]))
        if name == "conv2d":
            self.convolved.append(tuple(args[0].shape[2:]))
            self.told.append((kwargs or {}).get("padding", 0))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(padding, "LARGE", 0)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("size", [(17, 22), (24, 19), (30, 30)])
@pytest.mark.parametrize(
    ("kernel", "pads", "stride", "groups"),
    [
        ((3, 3), (1, 1), 1, 1),
        ((3, 3), (1, 1), 2, 16),
        ((3, 3), (1, 1), (1, 3), 1),
        ((7, 7), (3, 3), 1, 1),
        ((7, 7), (3, 3), 3, 1),
        ((5, 3), (2, 0), 1, 1),
        ((3, 5), (0, 2), 2, 1),
        ((5, 5), (1, 2), 2, 1),
        ((4, 4), (1, 1), 2, 1),
    ],
)
@torch.no_grad()
def test_a_convolution_that_pads_gives_what_it_gives_of_the_padded(kernel, pads, stride, groups, size, mode):
    x, bias = numbers(2, 16, *size), numbers(16, seed=2)
    weight = numbers(16, 16 // groups, *kernel, seed=1)

    def padded_and_convolved():
        padded = F.pad(x, (pads[1], pads[1], pads[0], pads[0]), mode=mode)
        return F.conv2d(padded, weight, bias, stride=stride, groups=groups)

    with Seen() as seen, Later():
        made = padded_and_convolved()
    torch.testing.assert_close(made, padded_and_convolved(), rtol=1e-4, atol=1e-4)
    assert seen.told[0] == pads and size not in seen.padded
    assert len(seen.told) == 1 if mode == "constant" else len(seen.told) > 1


@torch.no_grad()
def test_others_get_what_they_ask_for():
    x, weight = numbers(1, 16, 12, 12), numbers(16, 16, 3, 3, seed=1)
    exact = F.pad(x, (1,) * 4, mode="reflect")
    with Seen() as seen, Later() as later:
        padded = F.pad(x, (1,) * 4, mode="reflect")
        assert padded.shape == exact.shape and padded.dtype == exact.dtype and padded.dim() == 4 and not seen.padded
        other = padded.detach()
        assert not seen.padded
        convolved = F.conv2d(other, weight)
        assert torch.equal(padded + 1, exact + 1) and torch.equal(torch.cat([other, other]), torch.cat([exact, exact]))
        assert torch.equal(F.conv2d(padded, weight, padding=1), F.conv2d(exact, weight, padding=1))
        assert torch.equal(F.conv2d(padded, weight, dilation=2), F.conv2d(exact, weight, dilation=2))
        assert torch.equal(F.conv2d(padded, weight[:3]), F.conv2d(exact, weight[:3]))  # few channels
        assert torch.equal(F.pad(padded, (1,) * 4), F.pad(exact, (1,) * 4))
    assert seen.padded.count((12, 12)) == 1
    torch.testing.assert_close(convolved, F.conv2d(exact, weight), rtol=1e-4, atol=1e-4)
    assert len(later._waiting) == 1
    del padded, other
    assert not later._waiting
    with Seen() as seen, Later({id(weight): None}):
        assert torch.equal(F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), weight), F.conv2d(exact, weight))
    assert seen.told == [0, 0]


@torch.no_grad()
def test_what_was_padded_may_change_afterwards():
    x, weight = numbers(1, 16, 12, 12), numbers(16, 16, 3, 3, seed=1)
    exact = F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), weight)
    for change in (torch.Tensor.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.__setitem__(..., 0)):
        with Later():
            source = x.clone()
            padded = F.pad(source, (1,) * 4, mode="reflect")
            change(source)
            assert torch.equal(F.conv2d(padded, weight), exact)
            source = x.clone()
            view, padded = source.flatten(1), F.pad(source, (1,) * 4, mode="reflect")
            change(view)
            assert torch.equal(F.conv2d(padded, weight), exact)


@torch.no_grad()
def test_what_cannot_be_left_to_a_convolution_is_padded_at_once():
    x = numbers(1, 16, 12, 12)
    calls = [
        ((x, (1, 2, 1, 1)), {"mode": "reflect"}),
        ((x, (1, 1, 1, 1)), {"mode": "replicate"}),
        ((x, (1, 1, 1, 1)), {"value": 0.5}),
        ((x, (-1, -1, 0, 0)), {}),
        ((x, (1, 1)), {}),
        ((x, (1, 1, 1, 1, 1, 1)), {}),
        ((x[0], (1, 1, 1, 1)), {}),
    ]
    for args, kwargs in calls:
        with Seen() as seen, Later():
            made = F.pad(*args, **kwargs)
        assert len(seen.padded) == 1 and torch.equal(made, F.pad(*args, **kwargs))
    with FakeTensorMode(), Later():
        assert F.pad(torch.empty(1, 16, 12, 12), (1,) * 4).is_contiguous()
    with torch.enable_grad(), Later():
        weight = numbers(16, 16, 3, 3, seed=1).requires_grad_()
        leaf = x.clone().requires_grad_()
        F.conv2d(F.pad(leaf, (1,) * 4, mode="reflect"), weight).sum().backward()
        assert leaf.grad is not None and weight.grad is not None


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(
    "model",
    [
        lambda: ResnetGenerator(width=16, blocks=1, border="reflect", downsample="blur", upsample="blur", detail=True),
        lambda: TransformerNet(width=16, blocks=1),
    ],
)
@torch.no_grad()
def test_networks_make_the_same_pictures_and_notes_the_same_bits(model, half, monkeypatch):
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: half)
    torch.manual_seed(0)
    model, image = model().eval(), torch.tanh(numbers(1, 3, 52, 64))
    with Seen() as seen, accelerate(model):
        made = model(image)
    maps = [size for size in seen.padded if min(size) > 9]  # and no kernels
    assert maps == [(52, 64)]  # the last, to 3 channels
    assert (made - model(image)).abs().mean() <= (0.02 if half else 1e-5)
    replay = engine.Replay(model)
    pictures = [engine.run(model, image, shortcut=replay) for _ in range(3)]
    assert all(torch.equal(pictures[0], other) for other in pictures[1:])
    (notes,) = replay._notes.values()
    assert notes is not None and not [n for n in notes.graph.nodes if "new_empty" in str(n.target)]  # of stand-ins


class Framed(torch.nn.Module):
    """Ends in a pad."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, bias=False)

    def forward(self, x):
        return F.pad(torch.tanh(self.conv(x)), (1,) * 4)


@pytest.mark.parametrize("workers", [1, 2])
@torch.no_grad()
def test_who_pads_last_gives_no_stand_in(workers, monkeypatch):
    monkeypatch.setattr(engine.tiled, "_most_workers", lambda device: workers)
    model, image = Framed().eval(), torch.tanh(numbers(1, 3, 96, 128))
    around = partial(accelerate, model, enabled=False)
    with around():
        tiles = engine.run_tiled(model, image, tile=32, around=around)
    torch.testing.assert_close(engine.run(model, image, fast=False), model(image))
    inner = model(image)[..., 32:64, 32:64]
    torch.testing.assert_close(tiles[..., 33:63, 33:63], inner[..., 1:-1, 1:-1])
