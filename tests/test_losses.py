"""Losses against the field's numbers (../shared/golden) and against themselves written out in numpy."""

from __future__ import annotations

from typing import get_args

import golden
import numpy as np
import pytest
import torch

from styleforge.losses import Adversarial, discriminator_loss, generator_loss, patch_nce

KINDS = get_args(Adversarial)
kinds = pytest.mark.parametrize("kind", KINDS)


def logits(key, *shape):
    return golden.hashed_picture(key, *shape) * 2


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
    }[kind]()


def g_by_hand(kind, fake):
    return {
        "lsgan": lambda: np.mean((fake - 1) ** 2),
        "vanilla": lambda: cross_entropy(fake, 1),
        "hinge": lambda: -np.mean(fake),
        "wgan": lambda: -np.mean(fake),
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
    # Only these two have labels that could be smoothed.
    assert (loss != discriminator_loss(real, fake, kind).item()) == (kind in ("lsgan", "vanilla"))


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


@kinds
def test_far_logits_stay_finite(kind):
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = discriminator_loss(far, -far, kind) + generator_loss(far, kind)
    loss.backward()
    assert loss.isfinite() and far.grad.isfinite().all()


@golden.needs_golden
@pytest.mark.parametrize("shape", ["patch", "multi"])
def test_against_the_field(shape):
    values = golden.meta("gan_losses")["values_float64"]
    x = golden.tensors("gan_losses")[f"pred_{shape}"]

    def theirs(kind, real, labels="1.0,0.0"):
        return values[f"{shape}/{kind}/real={real}/labels={labels}"]

    # Theirs are single terms; ours is the mean of two, on the same logits here.
    expected = {
        "lsgan": (theirs("lsgan", True), theirs("lsgan", False)),
        "vanilla": (theirs("vanilla", True), theirs("vanilla", False)),
        "wgan": (theirs("wgangp", True), theirs("wgangp", False)),
        "hinge": (values[f"{shape}/hinge_D/real=True"], values[f"{shape}/hinge_D/real=False"]),
    }
    assert expected.keys() == set(KINDS)
    for kind, terms in expected.items():
        assert discriminator_loss(x, x, kind).item() == pytest.approx(sum(terms) / 2, rel=1e-12, abs=1e-15)
        of_generator = values[f"{shape}/hinge_G"] if kind == "hinge" else terms[0]
        assert generator_loss(x, kind).item() == pytest.approx(of_generator, rel=1e-12)
    # Smoothing of real labels; theirs smooths the fakes' too, which ours does not. Their 0.9 is a float32.
    tenth = 1 - float(np.float32(0.9))
    for kind in ("lsgan", "vanilla"):
        smooth = (theirs(kind, True, "0.9,0.1") + theirs(kind, False)) / 2
        assert discriminator_loss(x, x, kind, smooth=tenth).item() == pytest.approx(smooth, rel=1e-12)
    # Other names for the cross-entropy: StyleGAN2's logistic losses, CUT's "nonsaturating" (a value per picture).
    logistic = values[f"{shape}/sg2_D_logistic(real=pred,fake=-pred)"]
    assert 2 * discriminator_loss(x, -x, "vanilla").item() == pytest.approx(logistic, rel=1e-12)
    g = generator_loss(x, "vanilla").item()
    assert g == pytest.approx(values[f"{shape}/sg2_G_nonsaturating"], rel=1e-12)
    assert g == pytest.approx(np.mean(values[f"{shape}/cut_nonsaturating_per_sample/real=True"]), rel=1e-12)


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
