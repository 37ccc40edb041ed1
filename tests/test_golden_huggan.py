"""CycleGAN's and pix2pix's networks of PyTorch-GAN, which huggan took over, against ../shared/golden, in float64.

The ResNet is ours with `upsample="resize"`, the U-Net ours with `skips="leaky"` and `head="resize"`. Where upstream
gives convolutions in front of norms a bias, its gradient is looked at: it is nothing but rounding.
"""

import golden
import pytest
import torch
from torch import nn

from styleforge.models import PatchDiscriminator, ResnetGenerator, UNetGenerator

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
DOWNS = 8  # of the U-Net


def resnet_names(blocks: int) -> dict[str, str]:
    return golden.names("huggan-cyclegan", blocks=blocks, upsample="resize")


def resnet(name: str, width: int, blocks: int) -> tuple[nn.Module, dict[str, str]]:
    network, names = ResnetGenerator(width=width, blocks=blocks, upsample="resize"), resnet_names(blocks)
    formula = "formula" in name
    theirs = golden.by_formula(name, network, names) if formula else golden.tensors(name, "model.safetensors")
    return golden.adopt(network, theirs, names), names


def gray(name: str) -> tuple[nn.Module, dict[str, str]]:
    """Upstream pads by as many pixels as there are channels: with one, each conv7 takes 4 away. Ours never do."""
    network = ResnetGenerator(in_channels=1, out_channels=1, width=8, blocks=2, upsample="resize")
    names = resnet_names(2)
    network.stem = nn.Conv2d(1, 8, 7, padding=1, padding_mode="reflect", bias=False)
    network.head = nn.Conv2d(8, 1, 7, padding=1, padding_mode="reflect")
    return golden.adopt(network, golden.tensors(name, "model.safetensors"), names), names


def discriminator(name: str) -> tuple[nn.Module, dict[str, str]]:
    """Upstream ends sooner: one convolution after four steps down, with one more row and column of zeros."""
    network, names = PatchDiscriminator(width=2, layers=4, ending="one"), golden.names("huggan-patchgan")
    return golden.adopt(network, golden.tensors(name, "model.safetensors"), names), names


def unet(name: str) -> tuple[nn.Module, dict[str, str]]:
    network = UNetGenerator(width=2, downs=DOWNS, norm="instance", skips="leaky", head="resize")
    theirs, names = golden.tensors(name, "model.safetensors"), golden.names("huggan-pix2pix", downs=DOWNS)
    # Upstream joins what comes up and what crosses in this order, we the other way round.
    for level in range(DOWNS - 1):
        key, axis = f"{names[f'up.{level}']}.weight", 0 if level else 1
        theirs[key] = torch.cat(theirs[key].chunk(2, axis)[::-1], axis)
    # Ours has a bias where no norm follows; upstream has none there.
    for level in (0, DOWNS - 1):
        theirs[f"{names[f'down.{level}']}.bias"] = torch.zeros(len(network.down[level].bias), dtype=torch.float64)
    return golden.adopt(network, theirs, names), names


BUILD = {
    "huggan_cyclegan_scaled": lambda name: resnet(name, 4, 3),
    "huggan_cyclegan_full_formula": lambda name: resnet(name, 64, 9),
    "huggan_cyclegan_gray": gray,
    "huggan_cyclegan_disc_scaled": discriminator,
    "huggan_pix2pix_unet_scaled": unet,
}
every = pytest.mark.parametrize("name", BUILD)


def build(name: str) -> tuple[nn.Module, dict[str, str]]:
    network, names = BUILD[name](name)
    return network.eval(), names


@every
def test_outputs_and_gradients(name):
    network, names = build(name)
    io, grad = golden.tensors(name), golden.meta(name)["grad"]
    x = golden.picture(io, "x_a").requires_grad_()
    y = network.forward(x)
    assert golden.error(y, io, "y64_a") < TOLERANCE
    loss = y.square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=TOLERANCE)
    assert golden.error(x.grad, io, "gx64_a") < TOLERANCE

    expected, left = golden.rename(grad["param_grad_norms"], names)
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters() if key in expected}
    assert not left
    assert norms == pytest.approx({key: expected[key] for key in norms}, rel=TOLERANCE)
    assert all(expected[key] < 1e-14 * max(norms.values()) for key in expected.keys() - norms.keys())


@pytest.mark.parametrize("name", ["huggan_cyclegan_scaled", "huggan_cyclegan_disc_scaled"])
def test_sizes_that_are_no_multiples(name):
    network, io = build(name)[0], golden.tensors(name)
    assert golden.error(network.forward(io["x_b"]), io, "y64_b") < TOLERANCE


@every
def test_outputs_in_float32(name):
    network, io, meta = build(name)[0].float(), golden.tensors(name), golden.meta(name)
    for case, facts in meta["cases"].items():
        y = network.forward(golden.picture(io, f"x_{case}").float())
        facts = facts["outputs"]["y"]
        # Five times what upstream's own float32 is off by.
        assert golden.error(y.double(), io, f"y64_{case}") < 5 * facts["max_abs_f32_vs_f64"] / facts["rms"]
