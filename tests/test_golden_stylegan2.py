"""StyleGAN2 against rosinality/stylegan2-pytorch, which has one set of weights for each picture (fused=False).

Its tensors have extra dimensions of 1 for that; its constant filters are tensors, ours are not.
"""

import argparse
import math

import golden
import pytest
import torch
import torch.nn.functional as F

from styleforge.convert.recognize import find_family
from styleforge.models.stylegan2 import (
    EqualLinear,
    ModulatedConv,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    binomial,
    fir,
    halve,
    leaky,
)

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
SCALED = {"size": 32, "width": 2, "max_width": 8}
GENERATOR = {"noise_size": 64, "style_size": 64, "mapping_layers": 2, **SCALED}


def adopt(network, theirs, mean=None):
    """Load upstream's weights; nothing of them is left but its constant filters."""
    ours = network.state_dict()
    family = find_family("stylegan2" if "w_mean" in ours else "stylegan2-discriminator")
    names = {key: family.source(key, family.names({})) for key in ours if key != "w_mean"}
    assert all(key.endswith(".kernel") for key in theirs.keys() - set(names.values()))
    state = {key: theirs[name].reshape(ours[key].shape) for key, name in names.items()}
    if "w_mean" in ours:
        state["w_mean"] = torch.zeros_like(ours["w_mean"]) if mean is None else mean
    network.double().load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def io():
    return golden.tensors("sg2_generator_scaled")


@pytest.fixture(scope="module")
def network(io):
    theirs = golden.tensors("sg2_generator_scaled", "g_ema.safetensors")
    return adopt(StyleGAN2Generator(**GENERATOR), theirs, io["latent_avg"])


# -- primitives --


def test_fir():
    io, facts = golden.tensors("sg2_upfirdn2d"), golden.meta("sg2_upfirdn2d")
    assert len(facts["ufd_cases"]) == 28
    for case in facts["ufd_cases"]:
        x, pad = io["x"], case["pad"]
        if len(pad) == 4:  # another pad for each side is possible by padding before; nothing needs it
            assert case["up"] == 1
            x, pad = F.pad(x, pad), (0, 0)
        kernel = io[f"kernel_{case['kernel']}"].flip(0, 1)  # upstream convolves, we correlate
        y = fir(x, kernel, up=case["up"], pad=tuple(pad))[..., :: case["down"], :: case["down"]]
        expected = io[f"y64_{case['i']}"]
        assert y.shape == expected.shape
        assert (y - expected).abs().max() < TOLERANCE  # one of them sees nothing but zeros
    x = io["x"]
    assert golden.error(fir(x, binomial(x, gain=4), up=2, pad=(2, 1)), io, "upsample64") < TOLERANCE
    y = fir(x, binomial(x), pad=(1, 1))[..., ::2, ::2]
    assert golden.error(y, io, "downsample64") < TOLERANCE
    assert golden.error(fir(x, binomial(x), pad=(2, 1)), io, "blur64_pad2_1") < TOLERANCE
    x = x[..., :6, :8]  # even, as all of ours are
    assert torch.allclose(halve(x), fir(x, binomial(x), pad=(1, 1))[..., ::2, ::2], rtol=0, atol=TOLERANCE)


def test_activation_and_normalization_of_noise():
    primitives = golden.tensors("sg2_upfirdn2d")
    x = primitives["x"]
    assert golden.error(leaky(x + primitives["bias"][:, None, None]), primitives, "fused_lrelu64") < TOLERANCE
    assert golden.error(leaky(x), primitives, "fused_lrelu64_nobias") < TOLERANCE
    network = StyleGAN2Generator(**{**GENERATOR, "noise_size": 3, "style_size": 3})
    network.mapping = torch.nn.ModuleList()
    y = network.eval().codes(x.movedim(1, -1).flatten(0, 2))[:, 0]
    expected = {"y": primitives["pixelnorm64"].movedim(1, -1).flatten(0, 2)}
    assert golden.error(y, expected, "y") < TOLERANCE


CONVS = {
    "plain3": (3, {}),
    "plain1_nodemod": (1, {"demodulate": False}),
    "up3": (3, {"up": True}),
}


def modulated(io, name, size, **options):
    conv = ModulatedConv(6, 5, size, 8, **options).double()
    state = {"weight": io[f"{name}.weight"][0], "bias": torch.zeros(5)}
    state |= {f"style.{part}": io[f"{name}.modulation.{part}"] for part in ("weight", "bias")}
    conv.load_state_dict(state)
    return conv


@pytest.mark.parametrize("name", CONVS)
def test_modulated_convolutions(name):
    io = golden.tensors("sg2_modulated_conv")
    size, options = CONVS[name]
    conv = modulated(io, name, size, **options)
    assert golden.error(conv(io[f"{name}.x"], io[f"{name}.style"]), io, f"{name}.y64") < TOLERANCE


@pytest.mark.parametrize("name", ["down3", "up3_blur121"])
def test_modulated_convolutions_that_no_network_has(name):
    # Ours are scale, convolve, scale: with another middle they are these, too.
    io = golden.tensors("sg2_modulated_conv")
    conv = modulated(io, name, 3)
    style, weight = conv.style(io[f"{name}.style"]), conv.weight * conv.gain
    x = io[f"{name}.x"] * style[:, :, None, None]
    if name == "down3":
        y = F.conv2d(fir(x, binomial(x), pad=(2, 2)), weight, stride=2)
    else:
        row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 2
        y = fir(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), row[:, None] * row, pad=(1, 0))
    length = torch.einsum("bi,oikl->bo", style.square(), weight.square())
    y = y * (length + 1e-8).rsqrt()[:, :, None, None]
    assert golden.error(y, io, f"{name}.y64") < TOLERANCE


def test_linear_layer():
    io = golden.tensors("sg2_modulated_conv")
    layer = EqualLinear(8, 4, lr_mult=0.01).double()
    layer.load_state_dict({part: io[f"equal_linear.{part}"] for part in ("weight", "bias")})
    assert golden.error(leaky(layer(io["plain3.style"])), io, "equal_linear.y64") < TOLERANCE


# -- networks --


def test_own_noise(network, io):
    y = network.synthesize(network.codes(io["z"]))
    assert golden.error(y, io, "y64_bufnoise") < TOLERANCE
    assert torch.equal(network(io["z"]), y.clamp(-1, 1))
    facts = golden.meta("sg2_generator_scaled")["cases"]["bufnoise"]["outputs"]["y"]
    single = network.float()(io["z"].float()).double()  # five times what upstream's own float32 is off by
    network.double()
    assert (single - y.clamp(-1, 1)).abs().max() < 5 * facts["max_abs_f32_vs_f64"]


def test_given_noise(network, io):
    y = network.synthesize(network.codes(io["z"]), noises=[io[f"noise_{i}"] for i in range(7)])
    assert golden.error(y, io, "y64_given_noise") < TOLERANCE


def test_truncation(network, io):
    y = network.synthesize(network.codes(io["z"], truncation=0.7))
    assert golden.error(y, io, "y64_trunc0.7") < TOLERANCE


def test_mixed_codes(network, io):
    first, second = network.codes(io["z"]), network.codes(io["z2"])
    y = network.synthesize(torch.cat([first[:, :3], second[:, 3:]], 1))
    assert golden.error(y, io, "y64_mix3") < TOLERANCE


def test_codes(network, io):
    codes = network.codes(io["z"])
    assert codes.shape == (2, network.layers, 64)
    y = network.synthesize(io["w64"][:, None].expand(-1, network.layers, -1))
    assert golden.error(y, io, "y64_input_is_latent") < TOLERANCE


def test_discriminator(io):
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs = torch.load(golden.GOLDEN / "sg2_generator_scaled" / "550000.pt", weights_only=True)
    discriminator = adopt(StyleGAN2Discriminator(**SCALED), {k: t.double() for k, t in theirs["d"].items()})
    assert golden.error(discriminator(io["disc_x"]), io, "disc_y64") < TOLERANCE
    # Its file has the weights of g_ema, too.
    ema = golden.tensors("sg2_generator_scaled", "g_ema.safetensors")
    assert theirs["g_ema"].keys() == ema.keys()
    assert all(torch.equal(theirs["g_ema"][k].double(), t) for k, t in ema.items())


def test_file_with_mean_code(network, io):
    path = golden.GOLDEN / "sg2_generator_scaled" / "stylegan2-ffhq-config-f.pt"
    theirs = torch.load(path, weights_only=True)
    ema = {key: t.double() for key, t in theirs["g_ema"].items()}
    other = adopt(StyleGAN2Generator(**GENERATOR), ema, theirs["latent_avg"].double())
    assert torch.equal(other(io["z"], 0.7), network(io["z"], 0.7))


def test_full_size():
    """All 21 million weights out of a rule; twice as wide as the scaled one's table, the paper's config F."""
    io, facts = golden.tensors("sg2_generator_full_formula"), golden.meta("sg2_generator_full_formula")
    rule = facts["weights"]
    network, family = StyleGAN2Generator(size=32, width=256), find_family("stylegan2")
    assert facts["constructor"] == {"size": 32, "style_dim": 512, "n_mlp": 8, "channel_multiplier": 2}
    state = {"w_mean": torch.zeros(512, dtype=torch.float64)}
    for key, t in network.state_dict().items():
        if key == "w_mean":
            continue
        name = family.source(key, {})
        shape = family.shape(name, tuple(t.shape))
        value = golden.hashed(name, shape, seed=rule["seed"], gain=rule["gain"]).float()
        if len(shape) >= 2:
            value = value * math.sqrt(math.prod(shape) / shape[0])
            value = value * (100 if name.startswith("style.") else 1)
        if "modulation.bias" in name:
            value = value + 1
        state[key] = value.double().reshape(t.shape)
        if name in rule["check"]:
            assert value.flatten()[:4].tolist() == rule["check"][name]["first4"]
    network.load_state_dict(state, assign=True)
    network.eval()
    with torch.no_grad():
        y = network.synthesize(network.codes(io["z"]))
    assert golden.error(y, io, "y64") < TOLERANCE
