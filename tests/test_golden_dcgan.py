"""DCGAN's networks against the numbers of the field's own code (../shared/golden), in float64.

Upstream's discriminators end in a sigmoid; ours give logits, and here the sigmoid is taken of them.
"""

import golden
import pytest
import torch
from torch import Tensor, nn

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
NAMES = ("huggan_dcgan", "dcgan_ptexamples", "huggan_dcgan_disc", "dcgan_ptexamples_disc")
FORMULA = "ptgan_dcgan_formula"
every = pytest.mark.parametrize("name", [*NAMES, FORMULA])


def build(name: str, file: str = "model.safetensors", **changes: str) -> tuple[nn.Module, dict[str, str]]:
    """Our network with upstream's weights, in evaluation mode, and the names.

    PyTorch-GAN's convolutions have a bias in front of norms, which running statistics do not cancel: here the running
    means take it over.
    """
    config = {"size": 32, "kind": "dense-quarter", "out_channels": 1}
    theirs = golden.formula(name, "pytorch-gan-dcgan", config) if name == FORMULA else golden.tensors(name, file)
    network, found = golden.convert(theirs, **changes)
    return network, found.family.names(found.config)


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
    layers = build("huggan_dcgan")[0].layers[1:]
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
    network, other = build(name)[0].state_dict(), build(name, file)[0].state_dict()
    assert network.keys() == other.keys()
    assert all(torch.equal(network[key], other[key]) for key in network)
