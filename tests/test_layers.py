"""Blocks against themselves written out by hand, in float64."""

from __future__ import annotations

import math

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from styleforge import layers
from styleforge.layers import BatchNorm, BlurDown, BlurUp

# -- blurs --


def reflected(i, n):
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def blur_down(x):
    rows, columns = x.shape[2:]
    y = torch.zeros(*x.shape[:2], math.ceil(rows / 2), math.ceil(columns / 2), dtype=x.dtype)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            for di, dj in ((di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)):
                weight = (2 - abs(di)) * (2 - abs(dj)) / 16
                y[:, :, i, j] += weight * x[:, :, reflected(2 * i + di, rows), reflected(2 * j + dj, columns)]
    return y


def blur_up(x):
    """Put zeros between, repeat the ends, and blur with [1, 3, 3, 1] / 4."""
    rows, columns = x.shape[2:]
    y = torch.zeros(*x.shape[:2], 2 * rows, 2 * columns, dtype=x.dtype)
    for i in range(2 * rows):
        for j in range(2 * columns):
            for near_i, weight_i in ((True, 3), (False, 1)):
                for near_j, weight_j in ((True, 3), (False, 1)):
                    a = i // 2 if near_i else i // 2 + (1 if i % 2 else -1)
                    b = j // 2 if near_j else j // 2 + (1 if j % 2 else -1)
                    a, b = min(max(a, 0), rows - 1), min(max(b, 0), columns - 1)
                    y[:, :, i, j] += weight_i * weight_j / 16 * x[:, :, a, b]
    return y


BLURS = pytest.mark.parametrize(("blur", "by_hand"), [(BlurDown(), blur_down), (BlurUp(), blur_up)])


@BLURS
@pytest.mark.parametrize("size", [(2, 2), (2, 5), (3, 3), (8, 8), (7, 12), (9, 4)])
@pytest.mark.parametrize("grad", [True, False])
def test_blurs_by_hand(blur, by_hand, size, grad):
    x = golden.hashed_picture("x", 2, 3, *size)
    with torch.set_grad_enabled(grad):  # two ways to compute it
        y = blur(x)
    expected = by_hand(x)
    assert y.shape == expected.shape
    assert torch.allclose(y, expected, rtol=0, atol=1e-14)


@BLURS
def test_gradients_of_blurs(blur, by_hand):
    x = golden.hashed_picture("x", 1, 2, 5, 6).requires_grad_()
    w = golden.hashed_picture("w", *blur(x).shape)
    (gradient,) = torch.autograd.grad((blur(x) * w).sum(), x)
    # Both are linear, so the gradient does not depend on x: try all unit pictures.
    for place in range(0, x.numel(), 7):
        unit = torch.zeros_like(x.detach())
        unit.view(-1)[place] = 1
        assert gradient.flatten()[place].item() == pytest.approx((by_hand(unit) * w).sum().item(), abs=1e-14)


@BLURS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blurs_keep_type_constants_and_layout(blur, by_hand, dtype):
    x = torch.full((1, 2, 6, 5), 0.75, dtype=dtype)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y = blur(x)
        assert y.dtype == dtype and torch.equal(y, torch.full_like(y, 0.75))
        last = x.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(grad):
            assert torch.equal(blur(last), y)


def test_blurs_are_what_they_are_called():
    x = golden.hashed_picture("x", 1, 1, 6, 6)
    assert torch.allclose(BlurUp()(x), F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
    # The finest checkerboard vanishes, away from the ends at any rate.
    board = (-1.0) ** torch.arange(12, dtype=torch.float64)
    down = BlurDown()((board[:, None] * board)[None, None])
    assert down.abs().max() < 1e-15


def test_matrices_are_made_once_and_survive_inference_mode():
    layers._up_matrix.cache_clear()
    with torch.inference_mode():
        BlurUp()(torch.zeros(1, 1, 4, 4))
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    BlurUp()(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 4))
    BlurUp()(x)
    assert layers._up_matrix.cache_info().hits > 0


# -- norms --


def test_norms_by_name():
    assert type(layers.norm("none", 4)) is nn.Identity
    instance = layers.norm("instance", 4)
    assert type(instance) is nn.InstanceNorm2d and not list(instance.parameters()) and not list(instance.buffers())
    batch = layers.norm("batch", 4, "batch")
    assert type(batch) is BatchNorm and batch.statistics == "batch"
    assert layers.norm("batch", 4).statistics == "running"


def normalised(x, axes, mean=None, var=None):
    mean = x.mean(axes, keepdim=True) if mean is None else mean[:, None, None]
    var = (x - mean).square().mean(axes, keepdim=True) if var is None else var[:, None, None]
    return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_by_hand(batch, training):
    x = golden.hashed_picture("x", batch, 3, 5, 4) * 3 + 1
    y = layers.norm("instance", 3).train(training)(x)
    assert torch.allclose(y, normalised(x, (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_batch_norm_by_hand(statistics):
    module = golden.fill(BatchNorm(3, statistics))
    mean, var = module.running_mean.clone(), module.running_var.clone()
    x = golden.hashed_picture("x", 2, 3, 5, 4) * 3 + 1
    own, learnt = normalised(x, (0, 2, 3)), normalised(x, None, mean, var)

    def scaled(y):
        return y * module.weight[:, None, None] + module.bias[:, None, None]

    # At test time, as told; and nothing is remembered.
    y = module.eval()(x)
    assert torch.allclose(y, scaled(own if statistics == "batch" else learnt), rtol=0, atol=1e-12)
    assert torch.equal(module.running_mean, mean) and module.num_batches_tracked == 0
    assert not torch.allclose(own, learnt, atol=0.01)
    # While training, the batch's own, which are remembered: a tenth of the new, with the unbiased variance.
    y = module.train()(x)
    assert torch.allclose(y, scaled(own), rtol=0, atol=1e-12)
    assert torch.allclose(module.running_mean, 0.9 * mean + 0.1 * x.mean((0, 2, 3)))
    assert torch.allclose(module.running_var, 0.9 * var + 0.1 * x.var((0, 2, 3), correction=1))


def test_batch_norm_passes_gradients_in_both_ways():
    for statistics in ("running", "batch"):
        module = golden.fill(BatchNorm(3, statistics)).eval()
        x = golden.hashed_picture("x", 1, 3, 4, 4).requires_grad_()
        w = golden.hashed_picture("w", 1, 3, 4, 4)
        assert torch.autograd.gradcheck(module, x)
        (module(x) * w).sum().backward()
        assert module.weight.grad.abs().min() > 0 and module.bias.grad.abs().min() > 0


# -- first weights --


def test_init_normal():
    network = nn.Sequential(
        nn.Conv2d(16, 32, 5), nn.BatchNorm2d(256), nn.ConvTranspose2d(16, 32, 5), nn.Linear(128, 64), nn.Identity()
    )
    for parameter in network.parameters():
        nn.init.constant_(parameter, 7.0)
    torch.manual_seed(0)
    layers.init_normal(network, 0.1)
    for module in (network[0], network[2], network[3]):
        assert module.weight.mean().item() == pytest.approx(0, abs=0.01)
        assert module.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert not module.bias.any()
    assert network[1].weight.mean().item() == pytest.approx(1, abs=0.03)
    assert network[1].weight.std().item() == pytest.approx(0.1, rel=0.2)
    assert not network[1].bias.any()
    layers.init_normal(nn.Conv2d(1, 1, 1, bias=False))  # nothing to set to zero
