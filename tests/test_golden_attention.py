"""AttentionGenerator against GlebSBrykin's SANET and Huage001's AdaAttN.

Their pictures are in [0, 1] and not bounded. Their `g`, our key, has a bias that the softmax cancels.
"""

import golden
import pytest
import torch
from torch import Tensor

from styleforge import features
from styleforge.layers import from_unit_range, normalize
from styleforge.models import AttentionGenerator
from styleforge.models.attention import AttentionLayer, StyleAttention, attention_weights

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
NORMALISED = features.PRESETS["vgg19-normalised"][2]
LAYER = golden.names("adaattn-3")


def attention(kind: str, fixture: str, file: str, widths: tuple[int, int]) -> StyleAttention:
    """Ours with upstream's weights, for maps of `widths[0]` channels and keys of `widths[1]`."""
    ours = StyleAttention(dict.fromkeys(["relu4_1", "relu5_1"], widths[0]), kind, False, False, 4096)
    for layer in ours.layers:
        ours.layers[layer] = AttentionLayer(kind, *widths, 4096)
    return golden.adopt(ours, golden.tensors(fixture, file), golden.names(kind))


def levels(io: dict[str, Tensor], which: str, kind: str = "") -> dict[str, Tensor]:
    return {f"relu{n}": io[f"{which}{n}{kind}"] for n in ("4_1", "5_1")}


# -- modules --


@pytest.mark.parametrize("file", ["model.safetensors", "transformer_iter_500000.pth"])
def test_sanet(file):
    io = golden.tensors("sanet_modules")
    ours = attention("sanet", "sanet_modules", file, (16, 16))
    content, style = levels(io, "content"), levels(io, "style")
    (found,) = ours(content, style)
    assert golden.error(found, io, "y64") < TOLERANCE

    deep = ours.layers["relu4_1"]
    maps = [normalize(x["relu4_1"]) for x in (content, style)]
    assert golden.error(maps[0], io, "mean_variance_norm64") < TOLERANCE
    assert golden.error(deep(content["relu4_1"], style["relu4_1"], *maps), io, "sanet4_1_y64") < TOLERANCE
    query, key = (x.flatten(2)[:1] for x in ours.project(content, style, "relu4_1"))
    assert golden.error(attention_weights(query, key), io, "sanet4_1_attention64") < TOLERANCE
    assert attention_weights(query, key).max().item() == pytest.approx(
        golden.meta("sanet_modules")["attention_max"], rel=TOLERANCE
    )


def adaattn(file: str) -> AttentionLayer:
    ours = torch.nn.ModuleDict({"layer": AttentionLayer("adaattn", 12, 20, 4096)})
    names = {f"layer.{part}": theirs for part, theirs in LAYER.items()}
    return golden.adopt(ours, golden.tensors("adaattn_modules", file), names)["layer"]


@pytest.mark.parametrize("file", ["adaattn.safetensors", "latest_net_adaattn_3.pth"])
def test_adaattn(file):
    io, layer = golden.tensors("adaattn_modules"), adaattn(file)
    assert (
        golden.error(layer(*(io[k] for k in ("content", "style", "content_key", "style_key"))), io, "y64") < TOLERANCE
    )


def test_adaattn_of_some_keys():
    # Upstream draws the places; our grid replaces that draw and nothing else.
    io, layer = golden.tensors("adaattn_modules"), adaattn("adaattn.safetensors")
    style, style_key = (io[k].flatten(2)[:, :, io["sample_index"], None] for k in ("style", "style_key"))
    assert style_key.shape == (2, 20, 17, 1)
    found = layer(io["content"], style, io["content_key"], style_key)
    assert golden.error(found, io, "y64_sampled") < TOLERANCE


@pytest.mark.parametrize("file", ["transformer.safetensors", "latest_net_transformer.pth"])
def test_two_layers_of_adaattn(file, monkeypatch):
    # The fixture's keys are no features of its layers, so they are handed over.
    io = golden.tensors("adaattn_modules")
    ours = attention("adaattn", "adaattn_modules", file, (12, 20))
    content, style = levels(io, "t_content"), levels(io, "t_style")
    given = {id(content): levels(io, "t_content", "_key"), id(style): levels(io, "t_style", "_key")}
    monkeypatch.setattr("styleforge.models.attention.keys", lambda found, layer, shallow: given[id(found)][layer])
    (found,) = ours(content, style)
    assert golden.error(found, io, "t_y64") < TOLERANCE


# -- networks of full size --


def within(prefix: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{prefix}.{ours}": theirs for ours, theirs in names.items()}


VGG = {ours.rpartition(".")[0]: theirs.rpartition(".")[0] for ours, theirs in NORMALISED.items()}
# SANet's decoder is AdaIN's; ours has its deepest convolution apart.
SANET_DECODER = {f"shallow.{ours}": theirs for ours, theirs in golden.names("adain-decoder").items()}
SANET_DECODER["deep"] = SANET_DECODER.pop("shallow.convs.conv4_1")
# By upstream's file: our modules and its.
FILES = {
    "sanet": {
        "vgg": within("extractor", VGG),
        "transform": within("attention", golden.names("sanet")),
        "decoder": within("decoder", SANET_DECODER),
    },
    "adaattn": {
        "vgg (vgg_normalised.pth)": within("extractor", VGG),
        "latest_net_adaattn_3.pth": within("attention.layers.relu3_1", LAYER),
        "latest_net_transformer.pth": within("attention", golden.names("adaattn")),
        "latest_net_decoder.pth": within("decoder", golden.names("adaattn-decoder")),
    },
}


@pytest.fixture(scope="module", params=FILES)
def full(request) -> tuple[AttentionGenerator, dict[str, Tensor]]:
    """Ours with upstream's weights, left in training mode, where outputs are not cut off; pictures in [-1, 1]."""
    name, adaattn = f"{request.param}_full_formula", request.param == "adaattn"
    options = {"attention": request.param, "shallow": adaattn, "skip": adaattn}
    ours = AttentionGenerator(backbone="vgg19-normalised", **options).double()
    state = {}
    for file, names in FILES[request.param].items():
        rule = golden.meta(name)["weights"][file]
        for key, check in rule.get("check", {}).items():
            weights = golden.hashed(key, tuple(check["shape"]), seed=rule["seed"], gain=rule["gain"])
            assert weights.sum().item() == pytest.approx(check["sum64"], rel=1e-12)
        for key, t in ours.state_dict().items():
            module, _, kind = key.rpartition(".")
            if module in names:
                their = f"{names[module]}.{kind}"
                state[key] = golden.hashed(their, tuple(t.shape), seed=rule["seed"], gain=rule["gain"])
    ours.load_state_dict(from_unit_range(state, last="decoder.shallow.convs.conv1_1"))
    io = golden.tensors(name)
    return ours, io | {key: io[key] * 2 - 1 for key in ("content", "style")}


def test_attention_of_a_whole_network(full):
    network, io = full
    found = network.attention(network.extract(io["content"]), network.extract(io["style"]))
    wanted = ["transform64"] if "transform64_sub4" in io else ["transformer64", "adaattn3_64"]
    for ours, key in zip(found, wanted, strict=True):
        assert golden.error(ours, io, key) < TOLERANCE


def test_output_of_a_whole_network(full):
    network, io = full
    found = network(io["content"], io["style"])
    assert golden.error((found + 1) / 2, io, "out64") < TOLERANCE
    bounded = network.eval()(io["content"], io["style"])
    network.train()
    assert torch.equal(bounded, found.clamp(-1, 1)) and not torch.equal(bounded, found)
