"""AdaIN against naoto0804's pytorch-AdaIN, whose pictures are in [0, 1] and not bounded.

Its `coral` has no counterpart.
"""

import copy

import golden
import pytest
import torch
from torch import Tensor

from styleforge import features, losses, methods
from styleforge.layers import adaptive_instance_norm, from_unit_range, mean_std
from styleforge.models import AdaINGenerator

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
FULL = "adain_full_formula"
NORMALISED = features.PRESETS["vgg19-normalised"][2]
DECODER = golden.names("adain-decoder")


def formula(state: dict[str, Tensor], names: dict[str, str], part: str) -> dict[str, Tensor]:
    """Upstream's weights under our names, with the shapes of ours."""
    rule = golden.meta(FULL)["weights"][part]
    for key, check in rule["check"].items():
        weights = golden.hashed(key, tuple(check["shape"]), seed=rule["seed"], gain=rule["gain"])
        assert weights.sum().item() == pytest.approx(check["sum64"], rel=1e-12)
    return {
        ours: golden.hashed(names[ours], tuple(t.shape), seed=rule["seed"], gain=rule["gain"])
        for ours, t in state.items()
    }


def vgg() -> features.VGG19:
    network = features.build("vgg19-normalised").double()
    network.load_state_dict(formula(network.state_dict(), NORMALISED, "vgg"))
    return network


@pytest.fixture(scope="module")
def network() -> AdaINGenerator:
    """Ours with upstream's weights; left in training mode, where outputs are not cut off."""
    ours = AdaINGenerator(backbone="vgg19-normalised").double()
    names = {f"{ours}.{kind}": f"{i}.{kind}" for ours, i in DECODER.items() for kind in ("weight", "bias")}
    decoder = formula(ours.decoder.state_dict(), names, "decoder")
    ours.encoder.load_state_dict(formula(ours.encoder.state_dict(), NORMALISED, "vgg"))
    ours.decoder.load_state_dict(from_unit_range(decoder, last="convs.conv1_1"))
    return ours


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    """Pictures as ours, in [-1, 1]; everything else as it is."""
    found = golden.tensors(FULL)
    return found | {k: found[k] * 2 - 1 for k in ("content", "style", "style2", "loss_style_image")}


def error(ours: Tensor, io: dict[str, Tensor], key: str) -> float:
    return golden.error((ours + 1) / 2, io, key)


# -- functions --


@pytest.mark.parametrize("which", ["content", "style"])
def test_statistics(which):
    io = golden.tensors("adain_functions")
    for found, key in zip(mean_std(io[which]), ("mean", "std"), strict=True):
        assert golden.error(found, io, f"{which}_{key}64") < TOLERANCE


def test_exchange_of_statistics():
    io = golden.tensors("adain_functions")  # a channel of the content is constant
    found = adaptive_instance_norm(io["content"], *mean_std(io["style"]))
    assert golden.error(found, io, "adain64") < TOLERANCE


def test_losses():
    io, values = golden.tensors("adain_functions"), golden.meta("adain_functions")["values_float64"]
    pair = io["loss_input"], io["loss_target"]
    assert losses.content_loss(*pair).item() == pytest.approx(values["calc_content_loss"], rel=TOLERANCE)
    assert losses.statistics_loss(*pair).item() == pytest.approx(values["calc_style_loss"], rel=TOLERANCE)


# -- networks of full size --


@pytest.mark.parametrize("picture", ["content", "style"])  # the style's sides are odd after one pool
def test_encoder(picture, io):
    shapes = golden.meta(FULL)["feature_shapes"]
    layers = [key.removeprefix(f"{picture}_") for key in shapes if key.startswith(picture)]
    assert "relu5_4" in layers
    for layer, found in vgg()(io[picture], layers).items():
        assert list(found.shape) == shapes[f"{picture}_{layer}"]
        for statistic, key in zip(mean_std(found), ("mean", "std"), strict=True):
            assert golden.error(statistic[:, :, 0, 0], io, f"{picture}_{layer}_{key}64") < TOLERANCE
        if (picture, layer) == ("content", "relu4_1"):
            assert golden.error(found, io, "content_relu4_1_64") < TOLERANCE


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_outputs(strength, network, io):
    # Upstream takes styles of any size, our `__call__` multiples of 8 only.
    found = network.forward(io["content"], io["style"], strength)
    assert error(found, io, f"out64_alpha{strength}") < TOLERANCE
    bounded = copy.deepcopy(network).eval().forward(io["content"], io["style"], strength)
    assert torch.equal(bounded, found.clamp(-1, 1)) and not torch.equal(bounded, found)


def test_output_in_float32(network, io):
    single = copy.deepcopy(network).float()
    found = single.forward(io["content"].float(), io["style"].float()).double()
    upstream = (io["out32_alpha1.0_sub4"] - io["out64_alpha1.0_sub4"]).abs().max()
    scale = io["out64_alpha1.0_sub4"].square().mean().sqrt()
    assert error(found, io, "out64_alpha1.0") < 5 * upstream / scale


def test_styles_in_between(network, io):
    weights = golden.meta(FULL)["interpolation_weights"]
    found = network.forward(io["content"], list(zip([io["style"], io["style2"]], weights, strict=True)))
    assert error(found, io, "out64_interp") < TOLERANCE


def test_terms_of_the_method(network, io):
    method = methods.build(
        "adain", {"backbone": "vgg19-16x", "features": "random-16x", "style": 1.0, "normalize": False}
    )
    method.model = network
    terms = method.terms({"source": io["content"], "target": io["loss_style_image"]})
    values = golden.meta(FULL)["values_float64"]
    assert terms["content"].item() == pytest.approx(values["train_loss_c(content, loss_style_image)"], rel=TOLERANCE)
    assert terms["style"].item() == pytest.approx(values["train_loss_s"], rel=TOLERANCE)
