"""DCGAN's networks against the numbers of the field's own code (../shared/golden), in float64.

Upstream's discriminators end in a sigmoid; ours give logits, and here the sigmoid is taken of them.
"""

import golden
import pytest
import torch
from torch import Tensor, nn

from styleforge.models import DCGANDiscriminator, DCGANGenerator

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
WIDTHS = {"huggan_dcgan": 5, "dcgan_ptexamples": 4, "huggan_dcgan_disc": 4, "dcgan_ptexamples_disc": 4}
FORMULA = "ptgan_dcgan_formula"
every = pytest.mark.parametrize("name", [*WIDTHS, FORMULA])


def adopt(name: str, file: str = "model.safetensors", **changes: str) -> tuple[nn.Module, dict[str, str]]:
    """Our network with upstream's weights, in evaluation mode, and the names: both are sequences, in one order."""
    if name.endswith("disc"):
        network: nn.Module = DCGANDiscriminator(size=64, width=WIDTHS[name])
    else:
        network = DCGANGenerator(size=64, width=WIDTHS[name], **changes)
    theirs = golden.tensors(name, file)
    modules = sorted({key.rpartition(".")[0] for key in theirs}, key=lambda module: int(module.rpartition(".")[2]))
    ours = list(dict.fromkeys(key.rpartition(".")[0] for key in network.state_dict()))
    names = dict(zip(ours, modules, strict=True))
    return golden.adopt(network, theirs, names).eval(), names


def formula(**changes: str) -> tuple[nn.Module, dict[str, str]]:
    """PyTorch-GAN's generator of 32 px is ours of 64 px without the first doubling, but for two things.

    It hands over the 0.8 that is meant as a momentum as epsilon. And its convolutions have a bias in front of norms,
    which running statistics do not cancel: here the running means take it over.
    """
    network = DCGANGenerator(size=64, kind="dense", out_channels=1, **changes)
    del network.layers[3:7]
    network.layers[5].eps = network.layers[9].eps = 0.8
    modules = {0: "l1.0", 2: "conv_blocks.0", 4: "conv_blocks.2", 5: "conv_blocks.3", 8: "conv_blocks.6"}
    modules |= {9: "conv_blocks.7", 11: "conv_blocks.9"}
    names = {f"layers.{ours}": theirs for ours, theirs in modules.items()}
    theirs, seed = golden.by_formula(FORMULA, network, names), golden.meta(FORMULA)["weights"]["seed"]
    for conv, norm in ((2, 3), (6, 7)):
        mean = theirs[f"conv_blocks.{norm}.running_mean"]
        mean -= golden.hashed(f"conv_blocks.{conv}.bias", tuple(mean.shape), seed=seed)
    return golden.adopt(network, theirs, names).eval(), names


def build(name: str, **changes: str) -> tuple[nn.Module, dict[str, str]]:
    return formula(**changes) if name == FORMULA else adopt(name, **changes)


def answer(name: str, network: nn.Module, x: Tensor) -> Tensor:
    """In upstream's shapes: its noise may be a map of one pixel, its probabilities too."""
    y = network(x if name.endswith("disc") else x.flatten(1))
    return y.sigmoid().reshape(golden.meta(name)["cases"]["a"]["outputs"]["y"]["shape"]) if y.ndim == 2 else y


@every
def test_outputs_and_gradients(name):
    network, names = build(name)
    io, grad = golden.tensors(name), golden.meta(name)["grad"]
    x = io["x_a"].requires_grad_()
    y = answer(name, network, x)
    assert golden.error(y, io, "y64_a") < TOLERANCE
    loss = y.square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=TOLERANCE)
    assert golden.error(x.grad, io, "gx64_a") < TOLERANCE
    expected, _ = golden.rename(grad["param_grad_norms"], names)
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters()}
    assert norms == pytest.approx({key: expected.pop(key) for key in norms}, rel=TOLERANCE)
    # Left are the biases of PyTorch-GAN that the running means have taken over; no others.
    assert list(expected) == (["layers.4.bias", "layers.8.bias"] if name == FORMULA else [])


@every
def test_outputs_in_float32(name):
    network, io = build(name)[0].float(), golden.tensors(name)
    facts = golden.meta(name)["cases"]["a"]["outputs"]["y"]
    y = answer(name, network, io["x_a"].float())
    # Five times what upstream's own float32 is off by.
    assert golden.error(y.double(), io, "y64_a") < 5 * facts["max_abs_f32_vs_f64"] / facts["rms"]


@every
def test_statistics_of_the_batch(name):
    io = golden.tensors(name)
    network = build(name)[0].train() if name.endswith("disc") else build(name, statistics="batch")[0]
    assert golden.error(answer(name, network, io["x_a"]), io, "y64_batchstats_a") < TOLERANCE
    assert golden.error(answer(name, build(name)[0], io["x_a"]), io, "y64_batchstats_a") > 0.01  # the choice matters


def test_a_map_of_noise_becomes_a_larger_picture():
    # Ours takes one noise for a picture; the layers behind it take a map of them, as upstream's do.
    io = golden.tensors("huggan_dcgan")
    layers = adopt("huggan_dcgan")[0].layers[1:]
    assert golden.error(layers(io["x_b"]), io, "y64_b") < TOLERANCE


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("huggan_dcgan", "pytorch_model.bin"),
        ("huggan_dcgan_disc", "pytorch_model.bin"),
        ("dcgan_ptexamples", "netG_epoch_24.pth"),
        ("dcgan_ptexamples_disc", "netD_epoch_24.pth"),
    ],
)
def test_other_files_of_the_same_weights(name, file):
    network, other = adopt(name)[0].state_dict(), adopt(name, file)[0].state_dict()
    assert network.keys() == other.keys()
    assert all(torch.equal(network[key], other[key]) for key in network)
