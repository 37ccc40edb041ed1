"""PSNR, SSIM, MS-SSIM and LPIPS against the numbers of scikit-image, torchmetrics and the authors of LPIPS."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

from styleforge.losses.pixel import similarity
from styleforge.metrics.content import structure
from styleforge.metrics.lpips import Backbone, distance, read_heads
from styleforge.metrics.psnr import psnr
from styleforge.metrics.ssim import WEIGHTS, ms_ssim, ssim

pytestmark = golden.NEEDS_GOLDEN

FIXTURE = "metrics_images"
pairs = pytest.mark.parametrize("name", ["noise", "blur", "shift", "unrelated", "const", "gray", "big"])
nets = pytest.mark.parametrize("net", ["alex", "vgg"])


def pair(name):
    """Two pictures in float64, and what others say of them."""
    io = golden.tensors(FIXTURE)
    images = [(io[f"{name}_{one}"].double() / 127.5 - 1).expand(-1, 3, -1, -1) for one in "xy"]
    return *images, golden.meta(FIXTURE)["values_float64"][name]


@pairs
def test_psnr(name):
    real, fake, values = pair(name)
    assert psnr(real, fake).item() == pytest.approx(
        values["psnr_skimage_uint8 (data_range=255, mse over all channels)"], rel=1e-12
    )
    assert psnr(real, fake).item() == pytest.approx(values["psnr_torchmetrics_[0,1]"], rel=1e-6)


@pairs
def test_ssim_of_colors_and_of_luma(name):
    real, fake, values = pair(name)
    ours = ssim(real, fake).item()
    assert ours == pytest.approx(values["ssim_valid_window (mean of map cropped by 5)"], rel=1e-9, abs=1e-11)
    assert ours == pytest.approx(values["ssim_skimage_gaussian_[0,1] (data_range=1)"], rel=1e-9, abs=1e-11)
    luma = values["ssim_luma_bt601_[0,255] skimage gaussian"]
    assert structure(real, fake).item() == pytest.approx(luma, abs=1e-8)


def test_ms_ssim_but_for_the_border_of_the_coarsest_scale():
    """torchmetrics pads the picture there and averages its whole map; ours, put in its place, gives its number."""
    real, fake, values = pair("big")
    small = [F.avg_pool2d(x, 16) for x in (real, fake)]
    whole, inside = (
        torch.mul(*similarity(*images)).mean() for images in ([F.pad(x, (5,) * 4, "reflect") for x in small], small)
    )
    theirs = ms_ssim(real, fake) * (whole / inside) ** WEIGHTS[-1]
    assert theirs.item() == pytest.approx(values["ms_ssim_torchmetrics (data_range=1)"], rel=1e-9)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_of_features(net):
    io, values = golden.tensors(f"lpips_{net}"), golden.meta(f"lpips_{net}")["values_float64"]
    layers = range(len(values["per_layer"]))
    file = golden.tensors(f"lpips_{net}", "lin.safetensors")
    heads = [file[f"lin{n}.model.1.weight"].flatten() for n in layers]
    found = distance([io[f"feat0_{n}"] for n in layers], [io[f"feat1_{n}"] for n in layers], heads)
    assert found[0].tolist() == pytest.approx([value for (value,) in values["per_layer"]], rel=1e-9)
    assert found.sum().item() == pytest.approx(values["total"][0], rel=1e-9)


@nets
def test_lpips_of_pictures_through_a_network_of_known_weights(net):
    name = f"lpips_{net}"
    io, meta = golden.tensors(name), golden.meta(name)
    network, rule = Backbone(net).double(), meta["weights"]["backbone"]
    state = network.state_dict()
    for key, tensor in state.items():
        index = int(key.partition(".")[0])
        theirs = f"slice{sum(tap < index for tap in network.taps) + 1}.{key}"
        state[key] = golden.hashed(theirs, tuple(tensor.shape), seed=rule["seed"], gain=rule["gain"])
    network.load_state_dict(state)
    heads = read_heads(golden.GOLDEN / name / "lin.safetensors", net)
    with torch.no_grad():
        found = distance(*(network(io[f"image{n}"]) for n in (0, 1)), heads)
    expected = meta["values_float64"]["full_formula_backbone"]
    assert found[0].tolist() == pytest.approx(expected["per_layer"], rel=1e-7)
    assert found.sum().item() == pytest.approx(expected["value"], rel=1e-7)
