"""Losses against themselves written out by hand, and what must hold of them."""

from __future__ import annotations

from typing import get_args

import golden
import numpy as np
import pytest
import torch

from styleforge import layers, losses, rng
from styleforge.layers import mean_std, normalize
from styleforge.losses import (
    Adversarial,
    ColorSpectra,
    Variation,
    attention_entropy,
    attention_variation,
    cam_loss,
    color_loss,
    content_loss,
    discriminator_loss,
    fakes_loss,
    focal_frequency_loss,
    generator_loss,
    gradient_penalty,
    gram,
    gram_loss,
    gray,
    local_feature_loss,
    patch_nce,
    path_length,
    r1_penalty,
    spectral_loss,
    ssim,
    ssim_loss,
    statistics_loss,
    style_perceptual,
    total_variation,
    weighted_mean,
)
from styleforge.losses.frequency import _radii, color_profile, faded, power_profile
from styleforge.losses.pixel import yuv

KINDS = get_args(Adversarial)
kinds = pytest.mark.parametrize("kind", KINDS)


def logits(key, *shape):
    return golden.hashed_picture(key, *shape) * 2


def pair(*shape):
    """Two pictures of noise."""
    return golden.hashed_picture("x", *shape), golden.hashed_picture("y", *shape)


def shuffled(x):
    """The same pixels at other places."""
    places = torch.randperm(x.shape[2] * x.shape[3], generator=rng.generator("places"))
    return x.flatten(2)[:, :, places].reshape(x.shape)


# -- all of them --

# From two tensors (2, 3, 12, 13) to a scalar; the first is what is learnt.
ALL = {
    "attention_entropy": lambda x, y: attention_entropy(x.softmax(-1)),
    "attention_variation": lambda x, y: attention_variation(x),
    "cam_loss": lambda x, y: cam_loss(x, True),
    "color_loss": color_loss,
    "content_loss": content_loss,
    "discriminator_loss": lambda x, y: discriminator_loss(y, x, "vanilla"),
    "fakes_loss": lambda x, y: fakes_loss(x, "vanilla"),
    "focal_frequency_loss": focal_frequency_loss,
    "generator_loss": lambda x, y: generator_loss(x, "vanilla"),
    "gradient_penalty": lambda x, y: gradient_penalty(cubic, x, y, rng.generator("mixture")),
    "gram": lambda x, y: gram(x).square().sum(),
    "gram_loss": gram_loss,
    "gray": lambda x, y: gray(x).square().sum(),
    "local_feature_loss": local_feature_loss,
    "patch_nce": lambda x, y: patch_nce(x.flatten(2), y.flatten(2), 1.0),
    "path_length": lambda x, y: path_length(x**2, x, torch.zeros(()), rng.generator("noise"))[0],
    "r1_penalty": lambda x, y: r1_penalty(cubic, x),
    "spectral_loss": spectral_loss,
    "ssim": ssim,
    "ssim_loss": ssim_loss,
    "statistics_loss": statistics_loss,
    "style_perceptual": lambda x, y: style_perceptual({"a": x}, {"a": y}, "gram"),
    "total_variation": lambda x, y: total_variation(x),
    "weighted_mean": lambda x, y: weighted_mean(x, y[:, 0, 0, 0].abs()),
}


def cubic(x):
    return (x**3).sum((2, 3))


def test_none_is_forgotten():
    assert set(ALL) == {name for name in losses.__all__ if callable(getattr(losses, name)) and name.islower()}


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_nothing(name):
    x, y = (x.float().requires_grad_() for x in pair(2, 3, 12, 13))
    with torch.autocast("cpu", torch.bfloat16):
        under = ALL[name](x, y)
    assert under.dtype == torch.float32
    assert torch.equal(under, ALL[name](x, y))


# In two of them a step of the test's own comes before, in half precision.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(ALL.keys() - {"attention_entropy", "path_length"}))
def test_half_precision_is_computed_in_float32(name, dtype):
    x, y = (x.to(dtype) for x in pair(2, 3, 12, 13))
    loss = ALL[name](x, y)
    assert loss.dtype == torch.float32 or name in ("gray", "gram")
    assert torch.equal(loss, ALL[name](x.float(), y.float()))


# Not those whose gradient is not meant to be that of their value, or that give none to pictures.
@pytest.mark.parametrize("name", sorted(ALL.keys() - {"focal_frequency_loss", "gradient_penalty", "r1_penalty"}))
def test_gradients(name):
    x, y = pair(2, 3, 11, 12)
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, y), x.requires_grad_(), fast_mode=True)


def test_the_gradient_of_a_profile_of_colors():
    """That of the loss is this one: rounding, which has none, is passed by."""
    x, _ = pair(2, 3, 11, 12)
    assert torch.autograd.gradcheck(color_profile, x.requires_grad_(), fast_mode=True)


# -- adversarial --


def cross_entropy(x, label):
    p = 1 / (1 + np.exp(-x))
    return np.mean(-label * np.log(p) - (1 - label) * np.log(1 - p))


def d_by_hand(kind, real, fake, smooth=0.0):
    return {
        "lsgan": lambda: (np.mean((real - 1 + smooth) ** 2) + np.mean(fake**2)) / 2,
        "vanilla": lambda: (cross_entropy(real, 1 - smooth) + cross_entropy(fake, 0)) / 2,
        "hinge": lambda: (np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake))) / 2,
        "wgan": lambda: (np.mean(fake) - np.mean(real)) / 2,
        "nonsaturating": lambda: d_by_hand("vanilla", real, fake, smooth),
    }[kind]()


def g_by_hand(kind, fake):
    return {
        "lsgan": lambda: np.mean((fake - 1) ** 2),
        "vanilla": lambda: cross_entropy(fake, 1),
        "hinge": lambda: -np.mean(fake),
        "wgan": lambda: -np.mean(fake),
        "nonsaturating": lambda: np.mean(np.log1p(np.exp(-fake))),
    }[kind]()


@kinds
@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (3, 2), (1, 1)])
def test_by_hand(kind, shape):
    real, fake = logits("real", *shape), logits("fake", *shape)
    d, g = discriminator_loss(real, fake, kind), generator_loss(fake, kind)
    assert d.shape == g.shape == ()
    assert d.item() == pytest.approx(d_by_hand(kind, real.numpy(), fake.numpy()), rel=1e-12)
    assert g.item() == pytest.approx(g_by_hand(kind, fake.numpy()), rel=1e-12)


def test_lsgan_is_the_default():
    real, fake = logits("real", 4), logits("fake", 4)
    assert torch.equal(discriminator_loss(real, fake), discriminator_loss(real, fake, "lsgan"))
    assert torch.equal(generator_loss(fake), generator_loss(fake, "lsgan"))


@kinds
@pytest.mark.parametrize("smooth", [0.1, 0.3])
def test_smoothing_is_one_sided(kind, smooth):
    real, fake = logits("real", 2, 9), logits("fake", 2, 9)
    loss = discriminator_loss(real, fake, kind, smooth=smooth).item()
    assert loss == pytest.approx(d_by_hand(kind, real.numpy(), fake.numpy(), smooth), rel=1e-12)
    # Only these have labels that could be smoothed.
    labelled = kind in ("lsgan", "vanilla", "nonsaturating")
    assert (loss != discriminator_loss(real, fake, kind).item()) == labelled


@kinds
def test_numbers_of_maps_do_not_matter(kind):
    # Real and fake are averaged apart: another number of fakes weighs no more.
    real, fake = logits("real", 2, 5), logits("fake", 2, 5)
    once, twice = (discriminator_loss(real, f, kind).item() for f in (fake, torch.cat([fake, fake])))
    assert once == pytest.approx(twice, rel=1e-12)


@kinds
def test_opposite_aims(kind):
    real, fake = logits("real", 3, 4).requires_grad_(), logits("fake", 3, 4).requires_grad_()
    to_real, to_fake = torch.autograd.grad(discriminator_loss(real, fake, kind), (real, fake))
    (by_generator,) = torch.autograd.grad(generator_loss(fake, kind), fake)
    undecided = (real.abs() < 1) & (fake.abs() < 1)  # before least squares overshoot, and within the hinge
    assert undecided.sum() >= 3
    assert (to_real[undecided] <= 0).all() and (to_fake[undecided & (fake > 0)] >= 0).all()
    assert (by_generator[undecided] < 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@kinds
def test_half_precision_is_compared_in_float32(kind, dtype):
    real, fake = logits("real", 64, 64).to(dtype), logits("fake", 64, 64).to(dtype)
    d, g = discriminator_loss(real, fake, kind), generator_loss(fake, kind)
    assert d.dtype == g.dtype == torch.float32
    assert d.item() == pytest.approx(d_by_hand(kind, real.double().numpy(), fake.double().numpy()), rel=1e-5)
    assert g.item() == pytest.approx(g_by_hand(kind, fake.double().numpy()), rel=1e-5, abs=1e-6)


def test_the_worked_example():
    """A discriminator that says .9 of a real and .3 of a fake picture; an article prints 0.74 and 1.53."""
    real, fake = torch.tensor([0.9, 0.3], dtype=torch.float64).logit()
    assert 2 * discriminator_loss(real, fake, "vanilla").item() == pytest.approx(0.462, abs=5e-4)
    assert generator_loss(fake, "vanilla").item() == pytest.approx(1.204, abs=5e-4)


@kinds
def test_far_logits_stay_finite(kind):
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = discriminator_loss(far, -far, kind) + generator_loss(far, kind)
    loss.backward()
    assert loss.isfinite() and far.grad.isfinite().all()


# -- PatchNCE --


def unit(key, *shape):
    x = golden.hashed_picture(key, *shape)
    return x / x.norm(dim=-1, keepdim=True)


def patch_nce_by_hand(query, key, temperature):
    """As the paper has it: for each patch, its own key against all others of the same picture."""
    losses = []
    for q, k in zip(query, key, strict=True):
        for i in range(len(q)):
            scores = [float(np.dot(q[i], k[j])) / temperature for j in range(len(k))]
            losses.append(-scores[i] + np.log(sum(np.exp(score) for score in scores)))
    return np.mean(losses)


@pytest.mark.parametrize("shape", [(1, 5, 8), (3, 7, 4), (2, 1, 6)])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_patch_nce_by_hand(shape, temperature):
    query, key = unit("q", *shape), unit("k", *shape)
    expected = patch_nce_by_hand(query.numpy(), key.numpy(), temperature)
    assert patch_nce(query, key, temperature).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_patch_nce_is_low_when_patches_find_themselves():
    key = torch.eye(6, dtype=torch.float64)[None]
    assert patch_nce(key, key).item() < 1e-5
    assert patch_nce(key.roll(1, dims=1), key).item() == pytest.approx(1 / 0.07, rel=1e-5)
    same = torch.ones(1, 6, 1, dtype=torch.float64)
    assert patch_nce(same, same).item() == pytest.approx(np.log(6), rel=1e-12)


def test_patch_nce_keeps_pictures_apart():
    query, key = unit("q", 2, 6, 4), unit("k", 2, 6, 4)
    single = [patch_nce(query[i : i + 1], key[i : i + 1]).item() for i in range(2)]
    assert patch_nce(query, key).item() == pytest.approx(sum(single) / 2, rel=1e-12)


def test_patch_nce_teaches_queries_only():
    query, key = unit("q", 2, 6, 4).requires_grad_(), unit("k", 2, 6, 4).requires_grad_()
    patch_nce(query, key).backward()
    assert key.grad is None and query.grad.norm() > 0
    fixed = key.detach()
    assert torch.autograd.gradcheck(lambda q: patch_nce(q, fixed, 0.5), query)


# -- penalties --


def linear(weight):
    return lambda x: (x * weight).sum((1, 2, 3))


def test_penalties_of_a_linear_judge():
    weight = golden.hashed_picture("w", 3, 4, 5)
    length = weight.norm().item()
    real, fake = pair(2, 3, 4, 5)
    for center in (1.0, 0.0, 0.5):
        penalty = gradient_penalty(linear(weight), real, fake, rng.generator("mixture"), center=center)
        assert penalty.item() == pytest.approx((length - center) ** 2, rel=1e-12)
    assert r1_penalty(linear(weight), real).item() == pytest.approx(length**2 / 2, rel=1e-12)
    # Several judgements count by their sum, whatever their shapes.
    both = r1_penalty(lambda x: [linear(weight)(x), x * weight], real)
    assert both.item() == pytest.approx(2 * length**2, rel=1e-12)


def test_where_gradients_are_taken():
    def bowl(x):  # its gradient at x is x
        return x.square().sum((1, 2, 3)) / 2

    real, fake = pair(4, 3, 4, 5)
    share = torch.rand(4, 1, 1, 1, generator=rng.generator("mixture"))
    mixed = share * real + (1 - share) * fake
    expected = (mixed.flatten(1).norm(dim=1) - 1).square().mean()
    penalty = gradient_penalty(bowl, real, fake, rng.generator("mixture"))
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    assert penalty.item() != gradient_penalty(bowl, real, fake, rng.generator("another mixture")).item()
    assert r1_penalty(bowl, real).item() == pytest.approx(real.square().sum().item() / 4 / 2, rel=1e-12)


def test_penalties_teach_the_judge_only():
    judge = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Conv2d(4, 1, 3)).double()
    real, fake = (x.requires_grad_() for x in pair(2, 3, 8, 8))
    (gradient_penalty(judge, real, fake, rng.generator("mixture")) + r1_penalty(judge, real)).backward()
    assert real.grad is None and fake.grad is None
    assert judge[0].weight.grad.norm() > 0 and judge[2].weight.grad.norm() > 0

    def penalty(weight):
        def with_weight(x):
            return torch.func.functional_call(judge, {"0.weight": weight}, x)

        return gradient_penalty(with_weight, real, fake, rng.generator("mixture")) + r1_penalty(with_weight, real)

    assert torch.autograd.gradcheck(penalty, judge[0].weight, fast_mode=True)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5)])
def test_path_length_by_hand(shape):
    latents = golden.hashed_picture("latents", *shape).requires_grad_()
    matrix = golden.hashed_picture("matrix", latents[0].numel(), 3 * 4 * 6).requires_grad_()
    images = (latents.flatten(1) @ matrix).reshape(2, 3, 4, 6)
    noise = torch.randn(2, 3, 4, 6, generator=rng.generator("noise")).double() / np.sqrt(4 * 6)
    squares = (noise.flatten(1) @ matrix.T).square().reshape(2, -1, 5).sum(2)  # of each layer
    lengths = squares.mean(1).sqrt()

    before = torch.tensor(0.7, dtype=torch.float64)
    penalty, mean = path_length(images, latents, before, rng.generator("noise"))
    assert mean.item() == pytest.approx(0.7 + 0.01 * (lengths.mean().item() - 0.7), rel=1e-12)
    assert penalty.item() == pytest.approx((lengths - mean).square().mean().item(), rel=1e-12)
    assert not mean.requires_grad


def test_path_length_of_half_precision_pictures():
    latents = pair(2, 3, 12, 13)[0].float().requires_grad_()
    images = (latents**2).bfloat16()
    lengths = [path_length(x, latents, torch.zeros(()), rng.generator("noise"))[0] for x in (images, images.float())]
    assert torch.equal(*lengths)


# -- pixels --


@pytest.mark.parametrize("kind", get_args(Variation))
def test_total_variation_of_a_ramp(kind):
    ramp = (0.1 * torch.arange(7, dtype=torch.float64)).expand(2, 3, 5, 7)
    expected = {
        "mean_abs": 0.1,
        "mean_square": 0.01,
        "sum_abs": 3 * 5 * 6 * 0.1,
        "sum_square": 3 * 5 * 6 * 0.01,
        "nine_point": 0.01 * (2 / 3 * 6 / 7 + 2 / 6 * 6 / 8),
    }[kind]
    for image in (ramp, ramp.transpose(2, 3), -ramp, ramp + 3):
        assert total_variation(image, kind).item() == pytest.approx(expected, rel=1e-12)
    assert total_variation(torch.ones_like(ramp), kind) == 0


def ssim_by_hand(a, b):
    """Of a single window, 11 x 11 in [0, 1]."""
    weights = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    both = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def test_ssim_by_hand():
    a, b = pair(2, 3, 12, 13)
    expected = [
        ssim_by_hand(*(((x[i, c, top : top + 11, left : left + 11] + 1) / 2).numpy() for x in (a, b)))
        for i in range(2)
        for c in range(3)
        for top in range(2)
        for left in range(3)
    ]
    assert ssim(a, b).item() == pytest.approx(np.mean(expected), rel=1e-10)
    assert ssim_loss(a, b).item() == pytest.approx(1 - np.mean(expected), rel=1e-10)


def test_ssim_of_like_and_unlike():
    a, b = pair(1, 3, 16, 20)
    assert ssim(a, a).item() == pytest.approx(1, abs=1e-12)
    assert ssim(a, b).item() == pytest.approx(ssim(b, a).item(), rel=1e-12)
    assert ssim(a, b).item() == pytest.approx(ssim(a.mT.flip(3), b.mT.flip(3)).item(), rel=1e-12)
    assert ssim(a, -a).item() < -0.5
    assert ssim(a, 0.9 * a + 0.1 * b).item() > ssim(a, 0.5 * a + 0.5 * b).item() + 0.1


def test_gray_and_colors():
    def plain(r, g, b):
        return torch.tensor([r, g, b], dtype=torch.float64)[None, :, None, None].expand(1, 3, 2, 2)

    red, cyan, black, gray1, gray2 = (
        plain(1, -1, -1),
        plain(-1, 1, 1),
        plain(-1, -1, -1),
        plain(*[0.2] * 3),
        plain(*[0.7] * 3),
    )
    assert gray(red).shape == (1, 1, 2, 2)
    assert gray(gray1).unique().item() == pytest.approx(0.2, rel=1e-12)
    assert gray((red + 1) / 2).unique().item() == pytest.approx(0.299, rel=1e-12)
    # Of 0 to 1: half of a difference of grays, which have no chroma.
    assert color_loss(gray1, gray2).item() == pytest.approx(0.25, abs=1e-7)
    u, v = 0.14714119, 0.61497538  # of red, up to the sign
    assert color_loss(red, black).item() == pytest.approx(0.299 + (u**2 + v**2) / 2, rel=1e-9)
    # Far apart, the second chroma is beyond 1 where Huber's loss is straight.
    assert color_loss(red, cyan).item() == pytest.approx(0.402 + (2 * u) ** 2 / 2 + 2 * v - 0.5, rel=1e-7)


# -- features --


def test_statistics_of_one_two_three():
    """Worked example; an article prints [-1.732, 0, 1.732] for an instance norm with gamma 2."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    norm = 2 * layers.norm("instance", 1)(x)
    assert norm.flatten().tolist() == pytest.approx([-2.449, 0, 2.449], abs=5e-4)
    # AdaIN's deviation is that of a sample, not of a population.
    mean, std = mean_std(x)
    assert mean.shape == std.shape == (1, 1, 1, 1)
    assert mean.item() == 2 and std.item() == pytest.approx(np.sqrt(1 + 1e-5), rel=1e-12)
    assert mean_std(x, eps=3.0)[1].item() == pytest.approx(2, rel=1e-12)
    assert normalize(x).flatten().tolist() == pytest.approx([-1, 0, 1], abs=1e-5)


def test_normalized_features_have_no_style():
    x, _ = pair(2, 3, 6, 5)
    styled = x * torch.tensor([3.0, 0.5, 20.0])[:, None, None] + torch.tensor([1.0, -2.0, 5.0])[:, None, None]
    assert torch.allclose(normalize(styled), normalize(x), atol=2e-4)
    assert statistics_loss(normalize(styled), normalize(x)).item() < 1e-8 < 0.1 < statistics_loss(styled, x).item()


def test_gram_of_the_worked_example():
    """F^T F of [[1, 2], [3, 4]], whose columns are channels and whose rows are places."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T.reshape(1, 2, 2, 1)
    assert gram(x, "none").tolist() == [[[10, 14], [14, 20]]]
    assert gram(x, "hw").tolist() == [[[5, 7], [7, 10]]]
    assert gram(x, "chw").tolist() == gram(x).tolist() == [[[2.5, 3.5], [3.5, 5]]]


def test_style_does_not_know_places():
    x, y = pair(2, 4, 6, 5)
    assert torch.allclose(gram(shuffled(x)), gram(x), rtol=1e-12)
    for loss in (gram_loss, statistics_loss):
        assert loss(shuffled(x), x).item() == pytest.approx(0, abs=1e-24)
        assert loss(shuffled(x), shuffled(y)).item() == pytest.approx(loss(x, y).item(), rel=1e-10)
    assert content_loss(shuffled(x), x).item() > 0.1


@pytest.mark.parametrize("normalization", ["chw", "hw"])
def test_normalized_gram_does_not_know_sizes(normalization):
    x, _ = pair(2, 4, 6, 5)
    assert torch.allclose(gram(x.repeat(1, 1, 3, 2), normalization), gram(x, normalization), rtol=1e-12)
    assert torch.allclose(gram(x.repeat(1, 1, 3, 2), "none"), 6 * gram(x, "none"), rtol=1e-12)


def test_one_style_for_a_batch_of_any_size():
    x, _ = pair(3, 4, 6, 5)
    style = golden.hashed_picture("style", 1, 4, 8, 9)
    for loss in (gram_loss, statistics_loss):
        single = [loss(x[i : i + 1], style).item() for i in range(3)]
        assert loss(x, style).item() == pytest.approx(np.mean(single), rel=1e-12)


def test_features_by_hand():
    x, y = pair(2, 3, 5, 4)
    a, b = x.numpy(), y.numpy()
    means = (a.mean((2, 3)) - b.mean((2, 3))) ** 2
    deviations = [np.sqrt(f.var((2, 3), ddof=1) + 1e-5) for f in (a, b)]
    statistics = means.mean() + ((deviations[0] - deviations[1]) ** 2).mean()
    grams = [np.einsum("bchw,bdhw->bcd", f, f) / 60 for f in (a, b)]
    assert statistics_loss(x, y).item() == pytest.approx(statistics, rel=1e-12)
    assert gram_loss(x, y).item() == pytest.approx(((grams[0] - grams[1]) ** 2).mean(), rel=1e-12)
    assert content_loss(x, y).item() == pytest.approx(((a - b) ** 2).mean(), rel=1e-12)


def test_style_perceptual_adds_up_the_layers_of_the_target():
    x = {name: golden.hashed_picture(name, 2, 3, 5, 4) for name in ("relu1_1", "relu2_1", "relu4_2")}
    y = {name: golden.hashed_picture(f"y {name}", 2, 3, 5, 4) for name in ("relu1_1", "relu2_1")}
    for kind, loss in {"statistics": statistics_loss, "gram": gram_loss, "l1": torch.nn.functional.l1_loss}.items():
        expected = sum(loss(x[name], y[name]).item() for name in y)
        assert style_perceptual(x, y, kind).item() == pytest.approx(expected, rel=1e-12)
    assert style_perceptual(x, y) == style_perceptual(x, y, "statistics")


# -- attention --


def test_cam_loss_by_hand():
    x = logits("cam", 3, 2)
    for active in (True, False):
        assert cam_loss(x, active).item() == pytest.approx(cross_entropy(x.numpy(), active), rel=1e-12)


def test_attention_entropy_from_one_place_to_all():
    assert attention_entropy(torch.eye(7)).item() == pytest.approx(0, abs=1e-6)
    assert attention_entropy(torch.full((2, 3, 7), 1 / 7)).item() == pytest.approx(1, rel=1e-6)
    half = torch.tensor([0.5, 0.5, 0, 0])
    assert attention_entropy(half).item() == pytest.approx(0.5, rel=1e-6)
    # Scores so far apart that the lesser ones are nothing in float32.
    scores = torch.tensor([[0.0, -1000.0, -2000.0]], requires_grad=True)
    attention_entropy(scores.softmax(-1)).backward()
    assert scores.grad.isfinite().all()


def test_attention_variation_does_not_know_strength():
    x = pair(2, 1, 6, 5)[0].abs()
    strengths = torch.tensor([1e-3, 100.0], dtype=torch.float64)[:, None, None, None]
    assert attention_variation(x * strengths).item() == pytest.approx(attention_variation(x).item(), rel=1e-9)
    assert attention_variation(x).item() > 2 * attention_variation(x.sort(2)[0].sort(3)[0]).item()
    nothing = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = attention_variation(nothing)
    loss.backward()
    assert loss == 0 and nothing.grad.isfinite().all()


def test_local_features_follow_attention_not_the_reverse():
    x, y = (x.requires_grad_() for x in pair(2, 3, 5, 4))
    loss = local_feature_loss(x, y)
    loss.backward()
    assert loss.item() == pytest.approx((x - y).square().mean().item(), rel=1e-12)
    assert y.grad is None and x.grad.norm() > 0


# -- spectra --


def test_focal_frequency_by_hand():
    x, y = pair(2, 3, 6, 5)
    power = np.abs(np.fft.fft2((x - y).numpy(), norm="ortho")) ** 2
    for alpha in (1.0, 0.5, 2.0):
        weight = np.sqrt(power) ** alpha
        weight /= weight.max((2, 3), keepdims=True)
        assert focal_frequency_loss(x, y, alpha).item() == pytest.approx((weight * power).mean(), rel=1e-12)
    assert focal_frequency_loss(x, y, 0.0).item() == pytest.approx(content_loss(x, y).item(), rel=1e-12)
    # A single wave has nothing easier beside it.
    wave = torch.cos(2 * np.pi * 2 * torch.arange(8, dtype=torch.float64) / 8).expand(1, 1, 8, 8)
    assert focal_frequency_loss(wave, 0 * wave).item() == pytest.approx(wave.square().mean().item(), rel=1e-12)


def test_focal_weights_get_no_gradient():
    x, y = pair(1, 1, 6, 5)
    (gradient,) = torch.autograd.grad(focal_frequency_loss(x.requires_grad_(), y), x)
    spectrum = np.fft.fft2((x - y).detach().numpy(), norm="ortho")
    weight = np.abs(spectrum) / np.abs(spectrum).max()
    expected = 2 / 30 * np.fft.ifft2(weight * spectrum, norm="ortho").real
    assert np.allclose(gradient.numpy(), expected, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(focal_frequency_loss(x, x.detach()), x)
    assert (gradient == 0).all()


@pytest.mark.parametrize("size", [(8, 8), (6, 9), (7, 12)])
def test_power_profile_by_hand(size):
    x = golden.hashed_picture("x", 1, 3, *size)
    luma = (gray(x)[0, 0].numpy() + 1) / 2
    power = np.abs(np.fft.fft2(luma)) ** 2
    short = min(size)
    rings = {}
    for i, y in enumerate(np.fft.fftfreq(size[0])):
        for j, x_ in enumerate(np.fft.fftfreq(size[1])):
            rings.setdefault(round(float(np.hypot(y, x_)) * short), []).append(power[i, j])
    expected = np.log1p([np.mean(rings.get(r, [0.0])) for r in range(max(rings) + 1)])
    assert power_profile(x)[0].tolist() == pytest.approx(list(expected / expected[0]), rel=1e-9)


def test_power_profile_of_plain_and_checkered():
    plain = torch.full((1, 3, 8, 8), 0.3, dtype=torch.float64)
    board = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))
    assert power_profile(plain)[0, 0] == 1
    assert power_profile(plain)[0, 1:].abs().max() < 1e-12
    checkered = power_profile(plain + 0.1 * board)[0]
    assert checkered.argsort(descending=True)[:2].tolist() == [0, len(checkered) - 1]
    assert power_profile(-torch.ones(1, 3, 8, 8)).isfinite().all()  # black


def test_the_profile_of_colors_by_hand():
    x = golden.hashed_picture("x", 2, 3, 16, 16)
    profile = color_profile(x)
    planes = faded(yuv((x + 1) * 127.5))
    # Parseval: the powers of all frequencies are the mean square of the pixels.
    counts = _radii(16, 16).bincount()
    power = ((profile.exp() - 1 / 12) * counts).sum(2) / 256
    assert torch.allclose(power, planes.square().mean((2, 3)), rtol=1e-9)
    plain = torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)
    assert torch.allclose(color_profile(plain), torch.tensor(1 / 12).double().log())


def test_borders_are_no_detail():
    """Of a ramp, whose two ends lie beside each other when a transform repeats it."""
    ramp = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(1, 3, 64, 64)
    fine = color_profile(ramp)[0, 0, 24:].exp() - 1 / 12
    assert fine.max() < 1e-3 < power_profile(ramp)[0, 24:].max()
    even = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0)).double()
    assert faded(even).square().mean().item() == pytest.approx(even.square().mean().item(), rel=0.1)
    assert faded(even + 7).sub(faded(even)).abs().max() < 1e-12


def test_a_rainbow_that_brightness_does_not_show_is_heard():
    x, y = pair(2, 3, 16, 16)
    grays = gray(x).expand(-1, 3, -1, -1)
    noise = gray(y) - gray(y).mean()
    rainbow = grays + noise * torch.tensor([0.114, 0.0, -0.299], dtype=x.dtype).view(1, 3, 1, 1)
    assert spectral_loss(rainbow, grays).item() < 1e-12
    assert ColorSpectra()(rainbow, grays).item() > 1
    stored = ((rainbow + 1) * 127.5).round() / 127.5 - 1
    assert ColorSpectra()(stored.mT, stored).item() < 1e-12


def test_only_means_of_detail_are_compared():
    """Pictures that are plain and rich in turn, in the other order, want nothing after a while; poorer ones do."""
    rich, _ = pair(1, 3, 16, 16)
    plain = rich * 0.3
    compared, poorer = ColorSpectra().double(), ColorSpectra().double()
    for _ in range(60):
        apart = compared(rich, plain), poorer(plain * 0.7, plain)
        alike = compared(plain.requires_grad_(), rich), poorer(plain * 0.7, rich)
    assert apart[0].item() < 1e-3 and alike[0].item() < 1e-3
    assert poorer(plain * 0.7, plain).item() > 0.3
    image = (plain.detach() * 0.7).requires_grad_()
    poorer(image, rich).backward()
    moved = (
        ColorSpectra()((image - 0.01 * image.grad / image.grad.abs().max()).detach(), rich),
        ColorSpectra()(image, rich),
    )
    assert moved[0] < moved[1], "the gradient leads away"


def test_colors_are_compared_as_files_store_them():
    x, y = pair(2, 3, 16, 16)
    stored = ((x + 1) * 127.5).round() / 127.5 - 1
    smooth = stored + torch.linspace(0, 0.002, 16, dtype=x.dtype)  # of half a level: gone in the file
    assert ColorSpectra()(smooth, stored).item() < 1e-12 < spectral_loss(smooth, stored).item()
    smooth.requires_grad_()
    ColorSpectra()(smooth, y).backward()
    assert smooth.grad[..., 1:, 1:].abs().min() > 0, "rounding let no gradient pass"


def test_spectral_loss_knows_neither_places_nor_pairs():
    x, y = pair(4, 3, 12, 12)
    y = torch.nn.functional.avg_pool2d(y, 3, 1, 1)
    loss = spectral_loss(x, y).item()
    assert loss > 1e-3
    for same in (x.roll((3, 5), (2, 3)), x.flip(3), x.mT, x[[2, 0, 3, 1]]):
        assert spectral_loss(same, x).item() == pytest.approx(0, abs=1e-20)
        assert spectral_loss(same, y).item() == pytest.approx(loss, rel=1e-9)
    assert spectral_loss(x, torch.cat([y, y])).item() == pytest.approx(loss, rel=1e-9)


def test_spectral_loss_hears_fine_detail_only():
    x, _ = pair(2, 3, 16, 16)
    turns = 2 * np.pi * torch.arange(16, dtype=torch.float64) / 16
    assert spectral_loss(x + 0.5 * turns.cos(), x).item() < 1e-20
    assert spectral_loss(x + 0.5 * (8 * turns).cos(), x).item() > 1e-3  # every second column


# -- weights --


def test_weighted_mean():
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    assert weighted_mean(values, weights).item() == pytest.approx(19 / 4, rel=1e-12)
    assert weighted_mean(values, 100 * weights).item() == pytest.approx(19 / 4, rel=1e-12)
    assert weighted_mean(values, torch.ones(3)).item() == pytest.approx(3, rel=1e-12)
    maps = values[:, None, None, None] + torch.tensor([[-0.5, 0.5]])
    assert weighted_mean(maps, weights).item() == pytest.approx(19 / 4, rel=1e-12)
    assert weighted_mean(values, 0 * weights) == 0
