"""Our networks against the numbers of the field's own code (../shared/golden), in float64.

Compared are outputs, the gradient with respect to the input and the gradient of every parameter, to 1e-9 of their
root mean square. One rounding of a float32 would show as 1e-7.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import golden
import pytest
import torch
from torch import Tensor, nn

from styleforge import methods
from styleforge.layers import BlurDown, BlurUp
from styleforge.losses import patch_nce
from styleforge.methods.base import Batch
from styleforge.methods.cut import PatchHeads
from styleforge.models import PatchDiscriminator, PixelDiscriminator, ResnetGenerator, UNetGenerator

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9


class Case(NamedTuple):
    model: type[Any]
    config: dict[str, Any]
    family: str = "patchgan"
    file: str = "model.safetensors"


CUT = "latest_net_G.safetensors"
CASES = {
    "cyclegan_resnet6": Case(ResnetGenerator, {"width": 4, "blocks": 6}, "cyclegan-resnet"),
    # Dropout moves the second convolution of each block from conv_block.5 to conv_block.6.
    "cyclegan_resnet9_dropout": Case(ResnetGenerator, {"width": 6, "blocks": 9, "dropout": True}, "cyclegan-resnet"),
    "cyclegan_unet128_instance": Case(UNetGenerator, {"width": 2, "downs": 7, "norm": "instance"}, "pix2pix-unet"),
    "cyclegan_patchgan70": Case(PatchDiscriminator, {"width": 5}),
    "cyclegan_nlayers": Case(PatchDiscriminator, {"width": 3, "layers": 5}),
    "pix2pix_unet128": Case(UNetGenerator, {"width": 3, "downs": 7}, "pix2pix-unet"),
    "pix2pix_unet256": Case(UNetGenerator, {"width": 2, "downs": 8, "dropout": True}, "pix2pix-unet"),
    "pix2pix_patchgan70_cond": Case(PatchDiscriminator, {"in_channels": 6, "width": 4, "norm": "batch"}),
    "pix2pix_pixeld": Case(PixelDiscriminator, {"in_channels": 6, "width": 16, "norm": "batch"}, "pixelgan"),
    "cut_resnet9_antialias": Case(
        ResnetGenerator, {"width": 4, "blocks": 9, "downsample": "blur", "upsample": "blur"}, "cut-resnet", CUT
    ),
    "cut_resnet6_no_antialias": Case(ResnetGenerator, {"width": 5, "blocks": 6, "upsample": "blur"}, "cut-resnet", CUT),
    "cut_patchgan_antialias": Case(PatchDiscriminator, {"width": 6, "downsample": "blur"}, "cut-patchgan"),
}


def build(name: str, file: str | None = None, **changes: Any) -> tuple[nn.Module, dict[str, str]]:
    """Our network with upstream's weights, in evaluation mode, and the names."""
    case = CASES[name]
    network, names = case.model(**case.config, **changes), golden.names(case.family, **case.config)
    return golden.adopt(network, golden.tensors(name, file or case.file), names).eval(), names


@pytest.mark.parametrize("name", CASES)
def test_outputs(name):
    network, _ = build(name)
    io, meta = golden.tensors(name), golden.meta(name)
    assert "a" in meta["cases"]
    for case in meta["cases"]:  # one of them is of a size that is no multiple of 4: refused by a call, not by forward
        x = golden.picture(io, f"x_{case}")
        assert golden.error(network.forward(x), io, f"y64_{case}") < TOLERANCE
        with torch.no_grad():  # blurs take another path here
            assert golden.error(network.forward(x), io, f"y64_{case}") < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    network, names = build(name)
    io, grad = golden.tensors(name), golden.meta(name)["grad"]
    x = golden.picture(io, "x_a").requires_grad_()
    loss = network(x).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=TOLERANCE)
    assert golden.error(x.grad, io, "gx64_a") < TOLERANCE

    expected, left = golden.rename(grad["param_grad_norms"], names)
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters()}
    assert not left
    assert norms == pytest.approx({key: expected[key] for key in norms}, rel=TOLERANCE)
    # The biases that ours do without: their gradient is nothing but rounding, by the largest of the others.
    assert all(expected[key] < 1e-14 * max(norms.values()) for key in expected.keys() - norms.keys())


@pytest.mark.parametrize("name", CASES)
def test_outputs_in_float32(name):
    network, _ = build(name)
    io, meta = golden.tensors(name), golden.meta(name)
    for case, facts in meta["cases"].items():
        y = network.float().forward(golden.picture(io, f"x_{case}").float())
        facts = facts["outputs"]["y"]
        # Five times what upstream's own float32 is off by.
        assert golden.error(y.double(), io, f"y64_{case}") < 5 * facts["max_abs_f32_vs_f64"] / facts["rms"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cyclegan_resnet6", "latest_net_G_A.pth"),
        ("cyclegan_resnet6", "latest_net_G_A.legacyformat.pth"),
        ("cut_resnet9_antialias", "latest_net_G.pth"),
        ("cut_resnet9_antialias", "latest_net_G.nofilt.pth"),  # without the constant kernels of the blurs
        ("cut_resnet6_no_antialias", "latest_net_G.nofilt.pth"),
    ],
)
def test_other_files_of_the_same_weights(name, file):
    network, other = build(name)[0].state_dict(), build(name, file)[0].state_dict()
    assert network.keys() == other.keys()
    assert all(torch.equal(network[key], other[key]) for key in network)


# -- batch norm --


@pytest.mark.parametrize("name", ["pix2pix_unet128", "pix2pix_unet256"])
def test_statistics_of_the_picture(name):
    io = golden.tensors(name)
    x = golden.picture(io, "x_a")
    network, _ = build(name, statistics="batch")
    before = {key: t.clone() for key, t in network.state_dict().items()}
    assert golden.error(network(x), io, "y64_batchstats_a") < TOLERANCE
    assert all(torch.equal(t, before[key]) for key, t in network.state_dict().items())
    assert golden.error(build(name)[0](x), io, "y64_batchstats_a") > 0.01  # the choice matters


@pytest.mark.parametrize("name", ["pix2pix_unet128", "pix2pix_unet256"])
def test_training_keeps_running_statistics_as_upstream_does(name):
    io = golden.tensors(name)
    network, names = build(name)
    network.train()
    network.dropout.eval()
    assert golden.error(network(golden.picture(io, "x_a")), io, "y64_batchstats_a") < TOLERANCE
    key, left = golden.rename({golden.meta(name)["running_mean_after_key"]: 0}, names)
    assert list(key) == ["down_norm.1.running_mean"] and not left
    assert golden.error(network.state_dict()["down_norm.1.running_mean"], io, "running_mean_after") < TOLERANCE


# -- CUT: blurs, features, PatchNCE --


def test_blurs():
    # Ours are the two that CUT uses, at 9x12 pixels; the fixture's other kernel sizes, and blurs that keep the
    # size, have no counterpart here.
    io = golden.tensors("cut_blur_primitives")
    x = io["x"]
    for key, blur in (("down_f3_reflect", BlurDown()), ("up_f4_repl", BlurUp())):
        assert golden.error(blur(x), io, key) < TOLERANCE
        with torch.no_grad():
            assert golden.error(blur(x), io, key) < TOLERANCE


def nce_features(name: str, network: ResnetGenerator, image: Tensor) -> list[Tensor]:
    """Upstream's layers 0, 4, 8, 12, 16 from our taps, but for the biases of the convolutions among them.

    With blurs these are ours. Without, upstream's indices mean other places: 8 is the end of the way down (its norm,
    seen after an in-place ReLU), 12 the third block, and 16 the first resize of the way up.
    """
    if "no_antialias" not in name:
        return network.features(image, (0, 4))
    *taps, third, last = network.features(image, (2, 5))
    return [*taps[:2], network.down[1].after_conv(taps[2]), third, network.up[0].resize(last)]


def nce_biases(name: str) -> dict[int, Tensor]:
    """The biases of the convolutions among those layers. Here, in front of the norm, they can be seen."""
    theirs = golden.tensors(name, CASES[name].file)
    if "no_antialias" in name:
        return {1: theirs["model.4.bias"]}
    return {1: theirs["model.4.bias"], 2: theirs["model.8.bias"]}


def nce_heads(name: str) -> PatchHeads:
    """Heads with upstream's weights, that also do what the missing biases did: W (x + b) + c = W x + (W b + c)."""
    weights = golden.tensors(name, "latest_net_F.safetensors")
    for i, bias in nce_biases(name).items():
        weights[f"mlp_{i}.0.bias"] += weights[f"mlp_{i}.0.weight"] @ bias
    heads = PatchHeads([weights[f"mlp_{i}.0.weight"].shape[1] for i in range(5)], len(weights["mlp_0.0.bias"]))
    return golden.adopt(heads, weights, golden.names("cut-heads", channels=[0] * 5))


def nce_vectors(name: str, image: str) -> list[Tensor]:
    io = golden.tensors(name)
    features = nce_features(name, build(name)[0], io[image])
    return nce_heads(name)(features, [io[f"ids_l{i}"] for i in range(5)])


NCE = pytest.mark.parametrize("name", ["cut_resnet9_antialias", "cut_resnet6_no_antialias"])


@NCE
@pytest.mark.parametrize("grad", [True, False])
def test_features(name, grad):
    network, io, biases = build(name)[0], golden.tensors(name), nce_biases(name)
    with torch.set_grad_enabled(grad):
        features = nce_features(name, network, io["nce_src"])
    for i, bias in biases.items():
        features[i] = features[i] + bias[:, None, None]
    for i, feature in enumerate(features):
        assert golden.error(feature, io, f"featk64_l{i}") < TOLERANCE
    # Sampling and length, without the learnt part of the heads.
    plain = PatchHeads([])
    plain.extend(nn.Identity() for _ in features)
    for i, vector in enumerate(plain(features, [io[f"ids_l{i}"] for i in range(5)])):
        assert golden.error(vector.flatten(0, 1)[:16], io, f"samplek64_nomlp_l{i}") < TOLERANCE


@NCE
def test_heads(name):
    io = golden.tensors(name)
    for i, vector in enumerate(nce_vectors(name, "nce_src")):
        assert golden.error(vector.flatten(0, 1)[:16], io, f"samplek64_l{i}") < TOLERANCE


@NCE
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_patch_nce(name, temperature):
    io, values = golden.tensors(name), golden.meta(name)["nce_values_float64"]["per_layer"]
    pairs = list(zip(nce_vectors(name, "nce_tgt"), nce_vectors(name, "nce_src"), strict=True))

    losses = [patch_nce(q, k, temperature).item() for q, k in pairs]
    assert losses == pytest.approx(values[f"all_negatives=False/T={temperature}"], rel=TOLERANCE)
    # Negatives from the whole minibatch: the same function on one long picture.
    losses = [patch_nce(q.flatten(0, 1)[None], k.flatten(0, 1)[None], temperature).item() for q, k in pairs]
    assert losses == pytest.approx(values[f"all_negatives=True/T={temperature}"], rel=TOLERANCE)
    if temperature == 0.07:  # upstream keeps a value for each patch; compare those of each picture
        for i, (q, k) in enumerate(pairs):
            single = [patch_nce(q[b : b + 1], k[b : b + 1]).item() for b in range(len(q))]
            expected = io[f"nce_loss_vec_l{i}"].unflatten(0, (len(q), -1)).mean(1).tolist()
            assert single == pytest.approx(expected, rel=TOLERANCE)


def test_contrast_of_the_method():
    name = "cut_resnet9_antialias"
    io, heads = golden.tensors(name), golden.meta(name)["netF"]
    settings = {"width": 4, "blocks": 9, "head_width": heads["nc"], "patches": heads["num_patches"]}
    method = methods.build("cut", {**settings, "discriminator_width": 1})
    method.generator, method.heads = build(name)[0], nce_heads(name)
    method._places = lambda batch, name, sizes: [io[f"ids_l{i}"] for i in range(5)]
    loss = method._contrast(Batch({"source": io["nce_src"]}), "source", io["nce_tgt"])
    expected = golden.meta(name)["nce_values_float64"]["total"]["all_negatives=False/T=0.07"]
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE)


def test_hashed_weights_follow_the_rule_of_the_fixtures():
    for vector in golden.meta("formula_weights_v1")["test_vectors"]:
        weights = golden.hashed(
            vector["key"], tuple(vector["shape"]), seed=vector["seed"], gain=vector["gain"]
        ).flatten()
        assert weights[:8].tolist() == vector["first8"]
        assert weights[-2:].tolist() == vector["last2"]
        assert weights.sum().item() == pytest.approx(vector["sum64"], rel=1e-12)
