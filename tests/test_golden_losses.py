"""Losses against the numbers of the field's own code (../shared/golden), in float64."""

from __future__ import annotations

from typing import get_args

import golden
import numpy as np
import pytest
import torch

from styleforge.layers import mean_std
from styleforge.losses import (
    Adversarial,
    content_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    gram,
    gram_loss,
    gray,
    r1_penalty,
    ssim,
    statistics_loss,
    total_variation,
)
from styleforge.models import PatchDiscriminator

pytestmark = golden.NEEDS_GOLDEN


@pytest.mark.parametrize("shape", ["patch", "multi"])
def test_adversarial(shape):
    values = golden.meta("gan_losses")["values_float64"]
    x = golden.tensors("gan_losses")[f"pred_{shape}"]

    def theirs(kind, real, labels="1.0,0.0"):
        return values[f"{shape}/{kind}/real={real}/labels={labels}"]

    # Theirs are single terms; ours is the mean of two, on the same logits here.
    expected = {
        "lsgan": (theirs("lsgan", True), theirs("lsgan", False)),
        "vanilla": (theirs("vanilla", True), theirs("vanilla", False)),
        "wgan": (theirs("wgangp", True), theirs("wgangp", False)),
        "nonsaturating": (theirs("vanilla", True), theirs("vanilla", False)),
        "hinge": (values[f"{shape}/hinge_D/real=True"], values[f"{shape}/hinge_D/real=False"]),
    }
    assert expected.keys() == set(get_args(Adversarial))
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


# -- penalties --


def judge():
    """The discriminator, whose logits upstream sums up over the map, and the names of its weights."""
    network = PatchDiscriminator(width=4)
    names = golden.names("patchgan")
    return golden.adopt(network, golden.tensors("gradient_penalty", "model.safetensors"), names), names


def mixture():
    """The generator that upstream's mixture was drawn from."""
    return torch.Generator().manual_seed(7)


def test_gradient_penalty():
    network, names = judge()
    io, values = golden.tensors("gradient_penalty"), golden.meta("gradient_penalty")["values_float64"]
    real, fake = io["real"], io["fake"]
    assert torch.equal(torch.rand(3, 1, generator=mixture()).double(), io["alpha"])
    for kind, (a, b) in {"mixed": (real, fake), "real": (real, real), "fake": (fake, fake)}.items():
        for center, weight in ((1.0, 10.0), (0.5, 2.0)):
            penalty = weight * gradient_penalty(network, a, b, mixture(), center=center)
            expected = values[f"{kind}/constant={center}/lambda_gp={weight}"]
            assert penalty.item() == pytest.approx(expected, rel=1e-9)
    unweighted = gradient_penalty(network, real, fake, mixture())
    assert unweighted.item() == pytest.approx(values["ptgan_wgan_gp (no eps, no lambda, sum over D outputs)"], rel=1e-9)

    (10 * unweighted).backward()
    expected, _ = golden.rename(values["mixed/param_grad_norms_of_penalty"], names)
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters() if p.grad is not None}
    # Missing are the last bias, which moves no gradient, and those that a norm cancels.
    assert network.state_dict().keys() - norms.keys() <= {"layers.11.bias"}
    assert norms == pytest.approx({key: expected.get(key, 0.0) for key in norms}, rel=1e-9)
    assert all(expected[key] < 1e-12 for key in expected.keys() - norms.keys())


def test_r1_penalty():
    network, _ = judge()
    expected = golden.meta("gradient_penalty")["values_float64"]["sg2_d_r1 = mean_b sum grad^2 (no gamma/2)"]
    penalty = r1_penalty(network, golden.tensors("gradient_penalty")["real"])
    assert 2 * penalty.item() == pytest.approx(expected, rel=1e-9)


# -- features --


def close(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == torch.float64
    assert (ours - theirs).abs().max().item() < 1e-12 * theirs.abs().max().item()


def test_gram_conventions():
    io = golden.tensors("gram_tv_conventions")
    x = io["feat"]
    close(gram(x, "none"), io["gram64_raw"])
    close(gram(x, "hw"), io["gram64_hw"])
    close(gram(x, "chw"), io["gram64_johnson_chw"])
    # PyTorch's tutorial has one matrix of all pictures of a batch; each one's own part is this, and of a single
    # picture it is Johnson's.
    whole = io["gram64_pytorch_tutorial"]
    close(gram(x) / 2, torch.stack([whole[:7, :7], whole[7:, 7:]]))
    close(gram(x.flatten(0, 1)[None])[0], whole)
    # A covariance is what is left of it without the means.
    close(gram(x - mean_std(x)[0], "hw"), io["covariance64_biased"])


def test_style_losses():
    io, values = golden.tensors("gram_tv_conventions"), golden.meta("gram_tv_conventions")["values_float64"]
    x, y = io["feat"], io["feat2"]
    assert gram_loss(x, y).item() == pytest.approx(values["style_mse_johnson (mean over b,c,c)"], rel=1e-12)
    gatys = values["gatys_E_l per sample = sum (G-A)^2 / (4 N^2 M^2)"]
    for i, expected in enumerate(gatys):
        assert gram_loss(x[[i]], y[[i]], "hw").item() / 4 == pytest.approx(expected, rel=1e-12)
    statistics = values["adain_statistics mse(mean)+mse(std)"]
    assert statistics_loss(x, y).item() == pytest.approx(statistics, rel=1e-12)
    # Crowson scales this one by itself; ours is its Gram matrix only.
    difference = gram(x, "hw") - gram(y, "hw")
    scaled = difference.square().sum() / (difference.abs().sum() + 1e-8)
    expected = values["crowsonkb StyleLoss ScaledMSE = sum d^2/(sum|d|+1e-8)"]
    assert scaled.item() == pytest.approx(expected, rel=1e-12)


def test_adain_functions():
    io, values = golden.tensors("adain_functions"), golden.meta("adain_functions")["values_float64"]
    for name in ("content", "style"):  # a channel of the content is constant
        mean, std = mean_std(io[name])
        close(mean, io[f"{name}_mean64"])
        close(std, io[f"{name}_std64"])
    x, y = io["loss_input"], io["loss_target"]
    assert content_loss(x, y).item() == pytest.approx(values["calc_content_loss"], rel=1e-12)
    assert statistics_loss(x, y).item() == pytest.approx(values["calc_style_loss"], rel=1e-12)


# -- pixels --


def test_total_variation_conventions():
    x = golden.tensors("gram_tv_conventions")["image"]
    tv = golden.meta("gram_tv_conventions")["values_float64"]["tv"]
    singly = [total_variation(x[[i]], "sum_abs").item() for i in range(2)]
    ours = {
        "sum_abs (torchmetrics reduction=sum, tf.image per image summed)": sum(singly),
        "sum_abs per image (torchmetrics reduction=none)": singly,
        "sum_abs mean over batch (torchmetrics reduction=mean)": total_variation(x, "sum_abs").item(),
        "mean_abs = mean|dh| + mean|dw|": total_variation(x).item(),
        "mean_sq = mean dh^2 + mean dw^2": total_variation(x, "mean_square").item(),
        "sum_sq": 2 * total_variation(x, "sum_square").item(),  # theirs is that of the batch
        "crowsonkb TVLoss nine point stencil": total_variation(x, "nine_point").item(),
    }
    assert ours.keys() == tv.keys()
    for name, expected in tv.items():
        assert ours[name] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("pair", ["noise", "blur", "shift", "unrelated", "const", "gray", "big"])
def test_ssim(pair):
    io, values = golden.tensors("metrics_images"), golden.meta("metrics_images")["values_float64"][pair]
    a, b = (io[f"{pair}_{name}"].double() / 127.5 - 1 for name in "xy")
    wang = values["ssim_valid_window (mean of map cropped by 5)"]
    assert ssim(a, b).item() == pytest.approx(wang, rel=1e-9, abs=1e-11)
    # Variances of flat pictures (pair "const") are small differences of large numbers.
    assert ssim(a.float(), b.float()).item() == pytest.approx(wang, abs=1e-4 if pair == "const" else 1e-6)
    if a.shape[1] == 3:
        luma = values["ssim_luma_bt601_[0,255] skimage gaussian"]
        assert ssim(gray(a), gray(b)).item() == pytest.approx(luma, abs=1e-8)
