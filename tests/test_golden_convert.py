"""Networks of other projects, recognised by names and shapes alone, give these projects' numbers (../shared/golden).

The network fixtures' own files say how ours differ; here each is found without being told what it is, and converted in
float64. Where a fixture has a rule in place of weights, these are of the names and shapes that the family expects.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import golden
import pytest
import torch
from torch import Tensor, nn

from styleforge import convert, images
from styleforge.convert import convert_checkpoint, wholes
from styleforge.errors import StyleforgeError, WeightsMismatch
from styleforge.models import attention

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
FORMULA = "ptgan_dcgan_formula"

# Fixtures of networks from picture to picture or to logits, or from noise: family, and the arguments that differ.
PLAIN = {
    "cyclegan_resnet6": ("cyclegan-resnet", {"width": 4, "blocks": 6}),
    "cyclegan_resnet9_dropout": ("cyclegan-resnet", {"width": 6, "blocks": 9, "dropout": True}),
    "cyclegan_unet128_instance": ("pix2pix-unet", {"width": 2, "downs": 7, "norm": "instance"}),
    "pix2pix_unet128": ("pix2pix-unet", {"width": 3, "downs": 7, "dropout": True}),
    "pix2pix_unet256": ("pix2pix-unet", {"width": 2, "dropout": True}),
    "cyclegan_patchgan70": ("patchgan", {"width": 5}),
    "cyclegan_nlayers": ("patchgan", {"width": 3, "layers": 5}),
    "pix2pix_patchgan70_cond": ("patchgan", {"in_channels": 6, "width": 4, "norm": "batch"}),
    "pix2pix_pixeld": ("pixelgan", {"in_channels": 6, "width": 16, "norm": "batch"}),
    "cut_resnet9_antialias": ("cut-resnet", {"width": 4, "downsample": "blur", "upsample": "blur"}),
    "cut_resnet6_no_antialias": ("cut-resnet", {"width": 5, "blocks": 6, "upsample": "blur"}),
    "cut_patchgan_antialias": ("cut-patchgan", {"width": 6, "downsample": "blur"}),
    "huggan_cyclegan_scaled": ("huggan-cyclegan", {"width": 4, "blocks": 3, "upsample": "resize"}),
    "huggan_cyclegan_full_formula": ("huggan-cyclegan", {"upsample": "resize"}),
    "huggan_cyclegan_gray": (
        "huggan-cyclegan",
        {"in_channels": 1, "out_channels": 1, "width": 8, "blocks": 2, "upsample": "resize"},
    ),
    "huggan_cyclegan_disc_scaled": ("huggan-patchgan", {"width": 2, "layers": 4, "ending": "one"}),
    "huggan_pix2pix_unet_scaled": (
        "huggan-pix2pix",
        {"width": 2, "norm": "instance", "dropout": True, "skips": "leaky", "head": "resize"},
    ),
    "animegan2_scaled": ("animegan2", {"width": 4}),
    "animegan2_full_formula": ("animegan2", {}),
    "fns_transformer_scaled": ("fast-neural-style", {"width": 4, "output": "clamp"}),
    "fns_transformer_full_formula": ("fast-neural-style", {"output": "clamp"}),
    "huggan_dcgan": ("huggan-dcgan", {"size": 64, "width": 5}),
    "huggan_dcgan_disc": ("huggan-dcgan-discriminator", {"size": 64, "width": 4}),
    "dcgan_ptexamples": ("dcgan", {"size": 64, "width": 4}),
    "dcgan_ptexamples_disc": ("dcgan-discriminator", {"size": 64, "width": 4}),
    FORMULA: (
        "pytorch-gan-dcgan",
        {"size": 32, "kind": "dense-quarter", "eps": 0.8, "out_channels": 1},
    ),
}


def weights(name: str) -> dict[str, Tensor]:
    family, config = PLAIN[name]
    if "formula" in name:
        return golden.formula(name, family, config)
    file = "latest_net_G.safetensors" if name.startswith("cut_resnet") else "model.safetensors"
    return golden.tensors(name, file)


def answer(name: str, network: nn.Module, x: Tensor) -> Tensor:
    """What ours makes of an input of a project's, in its units."""
    if name.startswith("fns"):  # pictures in [0, 255], not cut off
        return (network.unbounded(x / 127.5 - 1) + 1) * 127.5
    if "dcgan" in name:  # noise as a map of a pixel, probabilities for logits
        y = network.forward(x if name.endswith("disc") else x.flatten(1))
        return y.sigmoid().reshape(golden.meta(name)["cases"]["a"]["outputs"]["y"]["shape"]) if y.ndim == 2 else y
    return network.forward(x)


def as_upstream(name: str, case: str, network: nn.Module) -> None:
    """What no file tells, and ours does otherwise on purpose."""
    if name == "huggan_cyclegan_gray":  # upstream pads by as many pixels as there are channels
        network.stem.padding = network.head.padding = (1, 1)
        for conv in (network.stem, network.head):
            conv._reversed_padding_repeated_twice = (1, 1, 1, 1)
    if name.startswith("animegan2"):
        network.align_corners = "alignFalse" not in case


@pytest.mark.parametrize("name", PLAIN)
def test_outputs(name):
    theirs, io = weights(name), golden.tensors(name)
    family, config = PLAIN[name]
    for case in golden.meta(name)["cases"]:
        if case == "b" and name == "huggan_dcgan":  # a map of noise, see test_golden_dcgan.py
            continue
        network, found = golden.convert(theirs)
        assert found.family.name == family
        assert network.config == type(network)(**config).config
        as_upstream(name, case, network)
        x = golden.picture(io, f"x_{case[-1]}")
        assert golden.error(answer(name, network, x), io, f"y64_{case}") < TOLERANCE


@pytest.mark.parametrize("name", ["pix2pix_unet128", "pix2pix_unet256", "huggan_dcgan", "dcgan_ptexamples", FORMULA])
def test_statistics_of_the_batch(name):
    io = golden.tensors(name)
    network, _ = golden.convert(weights(name), statistics="batch")
    assert golden.error(answer(name, network, golden.picture(io, "x_a")), io, "y64_batchstats_a") < TOLERANCE


@pytest.mark.parametrize("name", ["ugatit_light", "ugatit_full"])
def test_all_networks_of_ugatit(name):
    io = golden.tensors(name)
    nested = torch.load(golden.GOLDEN / name / "YOUR_DATASET_NAME_params_0100000.pt", weights_only=True)
    assert len(nested) == 6
    for net in ("genA2B", "genB2A", "disGA", "disLA"):
        network, found = golden.convert(nested[net])
        outputs = network.judge if net.startswith("dis") else network.translate
        for y, kind in zip(outputs(io[f"{net}.x_a"]), ("y", "cam_logit", "heatmap"), strict=True):
            assert golden.error(y, io, f"{net}.{kind}64_a") < TOLERANCE, (net, kind)
        assert (
            found.family.role_of(net)
            == {
                "genA2B": "generator",
                "genB2A": "generator_b",
                "disGA": "discriminator_global_b",
                "disLA": "discriminator_local_b",
            }[net]
        )


def test_stylegan2():
    name = "sg2_generator_scaled"
    io, theirs = golden.tensors(name), golden.tensors(name, "g_ema.safetensors")
    network, found = golden.convert({**theirs, "latent_avg": io["latent_avg"]})
    assert found.family.name == "stylegan2"
    assert golden.error(network.synthesize(network.codes(io["z"])), io, "y64_bufnoise") < TOLERANCE
    assert golden.error(network.synthesize(network.codes(io["z"], 0.7)), io, "y64_trunc0.7") < TOLERANCE
    # Without the mean of its codes it is estimated. (That of the fixture is none.)
    estimated, _ = golden.convert(theirs)
    noise = torch.randn(4096, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = network.codes(noise)[:, 0].mean(0)
    assert (estimated.w_mean - other).norm() < 0.05 * other.norm()


def test_full_stylegan2():
    name = "sg2_generator_full_formula"
    rule, io = golden.meta(name)["weights"], golden.tensors(name)
    theirs = {}
    for key, shape in golden.expected("stylegan2", {"size": 32, "width": 256}).items():
        value = golden.hashed(key, shape, seed=rule["seed"], gain=rule["gain"]).float()
        value = value * math.sqrt(math.prod(shape) / shape[0]) if len(shape) > 1 else value
        value = value * (100 if len(shape) > 1 and key.startswith("style.") else 1)
        theirs[key] = value + 1 if "modulation.bias" in key else value
    network, _ = golden.convert(theirs)
    with torch.no_grad():
        assert golden.error(network.synthesize(network.codes(io["z"])), io, "y64") < TOLERANCE


def levels(io: dict[str, Tensor], which: str, kind: str = "") -> dict[str, Tensor]:
    return {f"relu{n}": io[f"{which}{n}{kind}"] for n in ("4_1", "5_1")}


@pytest.mark.parametrize("file", ["model.safetensors", "transformer_iter_500000.pth"])
def test_attention_of_sanet(file):
    io = golden.tensors("sanet_modules")
    network, found = golden.convert(golden.tensors("sanet_modules", file))
    (y,) = network(levels(io, "content"), levels(io, "style"))
    assert found.family.name == "sanet" and golden.error(y, io, "y64") < TOLERANCE


def test_attention_of_adaattn(monkeypatch):
    io = golden.tensors("adaattn_modules")
    layer, found = golden.convert(golden.tensors("adaattn_modules", "latest_net_adaattn_3.pth"))
    y = layer(*(io[key] for key in ("content", "style", "content_key", "style_key")))
    assert found.family.name == "adaattn-3" and golden.error(y, io, "y64") < TOLERANCE
    network, _ = golden.convert(golden.tensors("adaattn_modules", "latest_net_transformer.pth"))
    content, style = levels(io, "t_content"), levels(io, "t_style")  # whose keys are no features of theirs
    given = {id(content): levels(io, "t_content", "_key"), id(style): levels(io, "t_style", "_key")}
    monkeypatch.setattr(attention, "keys", lambda found, layer, shallow: given[id(found)][layer])
    assert golden.error(network(content, style)[0], io, "t_y64") < TOLERANCE


# Networks in parts, by a rule: fixture, and by upstream's file the family and the arguments of each part.
VGG = ("vgg19-normalised", {"last": "relu5_2"})  # upstream's file goes on; what ours does not need is left out
DECODER = ("adain-decoder", {"widths": (64, 128, 256, 512)})
PARTS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "adain_full_formula": {"vgg": VGG, "decoder": DECODER},
    "sanet_full_formula": {
        "vgg": VGG,
        "decoder": DECODER,
        "transform": ("sanet", {"channels": 512, "keys_relu4_1": 512, "keys_relu5_1": 512}),
    },
    "adaattn_full_formula": {
        "vgg (vgg_normalised.pth)": VGG,
        "latest_net_adaattn_3.pth": ("adaattn-3", {"channels": 256, "keys": 448}),
        "latest_net_transformer.pth": ("adaattn", {"channels": 512, "keys_relu4_1": 960, "keys_relu5_1": 1472}),
        "latest_net_decoder.pth": ("adaattn-decoder", {"widths": (64, 128, 256, 512), "skip": True}),
    },
}


@pytest.mark.parametrize("name", PARTS)
def test_networks_in_parts(name):
    parts, fits = {}, {}
    for part, (family, config) in PARTS[name].items():
        theirs = golden.formula(name, family, config, part=part)
        network, found = golden.convert(theirs)
        parts[found.family.role], fits[found.family.role] = network, found
        assert found.family.name == family
    network = wholes.assemble(wholes.whole_of(fits), fits, parts, name)
    io = golden.tensors(name)
    with torch.no_grad():  # in training mode nothing is cut off
        y = network.double().train().forward(*(io[key] * 2 - 1 for key in ("content", "style")))
    assert golden.error((y + 1) / 2, io, "out64_alpha1.0" if name.startswith("adain") else "out64") < TOLERANCE


# -- files --

SAME = {
    "cyclegan_resnet6": (
        "latest_net_G_A.dataparallel.pth",
        "latest_net_G_A.legacyformat.pth",
        "latest_net_G_A.torch03.pth",
        "latest_net_G_A.trackstats2018.pth",
    ),
    "cut_resnet9_antialias": ("latest_net_G.pth", "latest_net_G.nofilt.pth"),
    "fns_transformer_scaled": ("mosaic.legacy_running.pth",),
}


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in SAME.items() for file in files])
def test_other_files_of_the_same_weights(name, file, monkeypatch):
    monkeypatch.setattr(convert, "read_checkpoint", golden.read_here)
    converted = convert_checkpoint(golden.GOLDEN / name / file)
    expected = golden.convert({key: t.float() for key, t in weights(name).items()}, dtype=torch.float32)[0].state_dict()
    ours = converted.networks["generator"].state_dict()
    assert ours.keys() == expected.keys() and all(torch.equal(t, expected[key]) for key, t in ours.items())


TRAPS = "importer_traps"


@cache
def trap(file: str, **options: Any) -> dict[str, dict[str, Tensor]]:
    converted = convert_checkpoint(golden.GOLDEN / TRAPS / file, **options)
    return {role: network.state_dict() for role, network in converted.networks.items()}


def reference(file: str) -> dict[str, Tensor]:
    tensors = {key: t.float() for key, t in golden.tensors(TRAPS, file).items()}
    return golden.convert(tensors, dtype=torch.float32)[0].state_dict()


@pytest.mark.parametrize(
    ("file", "role", "weights"),
    [
        ("module_module_prefix.pth", "generator", "raw"),
        ("lightning.ckpt", "generator", "raw"),
        ("float64.pth", "generator", "raw"),
        ("basicsr_ema.pth", "generator", "ema"),
        ("rosinality_like.pt", "generator", "ema"),
        ("cyclegan_bundle.pth", "generator", "raw"),
        ("cyclegan_bundle.pth", "generator_b", "ema"),
    ],
)
def test_containers(file, role, weights):
    found, expected = trap(file)[role], reference(f"{weights}.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(t, expected[key]) for key, t in found.items())
    assert all(t.dtype == torch.float32 for t in found.values())


def test_raw_weights_on_request():
    assert torch.equal(
        trap("basicsr_ema.pth", ema=False)["generator"]["head.bias"], reference("raw.safetensors")["head.bias"]
    )


def test_half_precision_becomes_single():
    found, expected = trap("half.pth")["generator"], reference("raw.safetensors")
    assert all(t.dtype == torch.float32 and torch.equal(t, expected[key].half().float()) for key, t in found.items())


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("missing_key.pth", ["nearly cyclegan-resnet", "1 tensors missing, 0 unexpected", "-  ", "model.1.bias (2,)"]),
        ("extra_key.pth", ["nearly cyclegan-resnet", "0 tensors missing, 1 unexpected", "model.99.weight"]),
        ("wrong_shape.pth", ["1 of another shape", "model.1.weight (5, 3, 7, 7)  model.1.weight (2, 3, 7, 7)"]),
        ("nan.pth", ["model.1.weight"]),
    ],
)
def test_what_does_not_fit_is_named(file, words):
    with pytest.raises(StyleforgeError) as caught:
        trap(file)
    assert isinstance(caught.value, WeightsMismatch) or file == "nan.pth"
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_folder_of_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "read_checkpoint", golden.read_here)
    for file in ("G_A", "G_B", "D_A", "D_B"):
        (tmp_path / f"latest_net_{file}.pth").symlink_to(golden.GOLDEN / "train_cyclegan" / f"init_net_{file}.pth")
    converted = convert_checkpoint(tmp_path, tmp_path / "style", license="cc-by-4.0")
    assert list(converted.networks) == ["generator", "generator_b", "discriminator", "discriminator_b"]
    config = json.loads((tmp_path / "style" / "config.json").read_text())
    assert len(config["_converted_from"]["files"]) == 4
    assert (tmp_path / "style" / "training" / "train.json").is_file()


def test_published_files(shared, tmp_path):
    found = convert_checkpoint(shared / "weights" / "fns_candy.safetensors").networks["generator"]
    assert found.config == {"width": 32, "blocks": 5, "styles": 1, "output": "clamp"}
    for file in (shared / "weights").glob("microast_*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    converted = convert_checkpoint(tmp_path)
    assert converted.family == "microast" and converted.networks["generator"].config == {"width": 16}
    # In its own style a picture is nearly as it was; candy is another.
    content = images.to_8_bit(images.read(shared / "data" / "demo" / "content" / "ak-moraine-lake.jpg").rgb)[:64, :96]
    x = torch.from_numpy(content.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        assert (converted.networks["generator"](x, x) - x).abs().mean() < 0.1
        assert (found(x) - x).abs().mean() > 0.4
