"""Checkpoints of other projects become styles: recognised by names and shapes alone, or refused with a sentence.

Here foreign files are made of our own networks, by the families' names backwards. Numbers of the projects themselves
are in test_golden_convert.py.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from torch import Tensor, nn

from styleforge import PretrainedMixin, StylePipeline, adaptation, methods
from styleforge import convert as package
from styleforge.convert import FAMILIES, WHOLES, convert_checkpoint
from styleforge.convert.family import RUNNING, Fit, fit
from styleforge.convert.recognize import COLUMN, ROWS, closest, find_family
from styleforge.errors import ConfigError, CorruptFileError, NonFiniteWeights, NotAStyle, UnknownName, WeightsMismatch
from styleforge.models import PatchDiscriminator, ResnetGenerator

CASES: list[tuple[str, dict[str, Any]]] = [
    ("cyclegan-resnet", {"width": 4, "blocks": 1}),
    ("cyclegan-resnet", {"width": 4, "blocks": 3, "dropout": True, "in_channels": 1}),
    ("cyclegan-resnet", {"width": 4, "blocks": 2, "norm": "batch", "statistics": "batch"}),
    ("cyclegan-resnet", {"width": 4, "blocks": 2, "norm": "batch", "dropout": True, "statistics": "batch"}),
    ("cut-resnet", {"width": 4, "blocks": 2, "downsample": "blur", "upsample": "blur"}),
    ("cut-resnet", {"width": 4, "blocks": 2, "downsample": "blur", "out_channels": 1}),
    ("cut-resnet", {"width": 4, "blocks": 2, "upsample": "blur", "dropout": True}),
    ("huggan-cyclegan", {"width": 4, "blocks": 2, "upsample": "resize"}),
    ("pix2pix-unet", {"width": 2, "downs": 5, "dropout": True, "statistics": "batch"}),
    ("pix2pix-unet", {"width": 2, "downs": 6, "norm": "instance", "in_channels": 1, "out_channels": 2}),
    (
        "huggan-pix2pix",
        {"width": 2, "downs": 5, "norm": "instance", "dropout": True, "skips": "leaky", "head": "resize"},
    ),
    ("ugatit", {"width": 2, "blocks": 2}),
    ("ugatit", {"width": 2, "blocks": 1, "light": False, "size": 24}),
    ("animegan2", {"width": 4}),
    ("fast-neural-style", {"width": 4, "blocks": 3, "output": "clamp"}),
    ("dcgan", {"width": 2, "size": 32, "noise_size": 7}),
    ("huggan-dcgan", {"width": 2, "size": 64, "noise_size": 5, "out_channels": 1}),
    (
        "pytorch-gan-dcgan",
        {"width": 2, "size": 32, "noise_size": 6, "kind": "dense-quarter", "eps": 0.8, "out_channels": 1},
    ),
    (
        "stylegan2",
        {"width": 1, "max_width": 8, "size": 32, "noise_size": 6, "style_size": 5, "mapping_layers": 3},
    ),
    ("patchgan", {"width": 2, "layers": 2}),
    ("patchgan", {"width": 2, "layers": 4, "norm": "batch", "in_channels": 6}),
    ("pixelgan", {"width": 4}),
    ("pixelgan", {"width": 4, "norm": "batch", "in_channels": 6}),
    ("cut-patchgan", {"width": 2, "layers": 3, "downsample": "blur"}),
    ("huggan-patchgan", {"width": 2, "layers": 4, "ending": "one", "in_channels": 6}),
    ("ugatit-discriminator", {"width": 2, "layers": 3}),
    ("ugatit-discriminator", {"width": 2, "layers": 6, "spectral_norm": False}),
    ("dcgan-discriminator", {"width": 2, "size": 32}),
    ("huggan-dcgan-discriminator", {"width": 2, "size": 64, "in_channels": 1}),
    ("stylegan2-discriminator", {"width": 1, "max_width": 8, "size": 32}),
    ("cut-heads", {"channels": [3, 8, 16], "size": 4}),
    ("vgg19-normalised", {"last": "relu1_2"}),
    ("adain-decoder", {"widths": (2, 3, 4, 5)}),
    ("sanet", {"channels": 6, "keys_relu4_1": 5, "keys_relu5_1": 4}),
    ("adaattn", {"channels": 6, "keys_relu4_1": 9, "keys_relu5_1": 8}),
    ("adaattn-3", {"channels": 4, "keys": 6}),
    ("adaattn-decoder", {"widths": (2, 3, 4, 5), "skip": True}),
    ("adaattn-decoder", {"widths": (2, 3, 4, 5), "skip": False}),
    ("microast-encoder", {"width": 2}),
    ("microast-modulator", {"width": 2}),
    ("microast-decoder", {"width": 2}),
]
EACH = pytest.mark.parametrize(("family", "config"), CASES, ids=lambda value: value if isinstance(value, str) else "")


def network_of(family: str, config: dict[str, Any], seed: int = 0) -> nn.Module:
    """Ours, with weights that no initialisation makes, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    network, found = find_family(family).build(config), find_family(family)
    zeros = found.zeros(fit(found, {}, config).config)
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and key not in zeros:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if key.endswith("running_var") else 0.3 * noise)
    return network.eval()


def foreign(family: str, network: nn.Module, config: dict[str, Any]) -> dict[str, Tensor]:
    """The file of a project that holds the same network."""
    found, ours = fit(find_family(family), {}, config), network.state_dict()
    theirs = {source: ours[key].reshape(found.expected[source]).clone() for key, source in found.sources.items()}
    optional = {found.sources[key] for key in found.family.zeros(found.config)}
    theirs = {key: t for key, t in theirs.items() if key not in optional or family == "huggan-patchgan"}
    theirs |= {
        key: torch.randn(shape) for key, shape in found.expected.items() if key not in theirs | dict.fromkeys(optional)
    }
    return {**theirs, **undone(family, theirs, found)}


def undone(family: str, theirs: dict[str, Tensor], found: Fit) -> dict[str, Tensor]:
    """What a family's `finish` does, the other way round."""
    if family == "fast-neural-style":
        head = {f"deconv3.conv2d.{kind}": theirs[f"deconv3.conv2d.{kind}"] / 8 for kind in ("weight", "bias")}
        head = {key: (t + key.endswith("bias")) * 127.5 for key, t in head.items()}
        return {"conv1.conv2d.weight": theirs["conv1.conv2d.weight"] / 127.5, **head}
    if family in ("adain-decoder", "adaattn-decoder"):
        last = "28" if family == "adain-decoder" else "decoder_layer_2.24"
        return {f"{last}.weight": theirs[f"{last}.weight"] / 2, f"{last}.bias": (theirs[f"{last}.bias"] + 1) / 2}
    if family == "huggan-pix2pix":
        joined = [
            (found.sources[f"up.{level}.weight"], 0 if level else 1) for level in range(found.config["downs"] - 1)
        ]
        return {key: torch.cat(theirs[key].chunk(2, axis)[::-1], axis) for key, axis in joined}
    if family == "pytorch-gan-dcgan":
        pairs = [(f"conv_blocks.{norm}.running_mean", f"conv_blocks.{norm - 1}.bias") for norm in (3, 7)]
        return {mean: theirs[mean] + theirs[bias] for mean, bias in pairs}
    return {}


def outputs(network: nn.Module) -> list[Tensor]:
    """What a network makes of something; its weights, when it is only a part."""
    if not isinstance(network, PretrainedMixin):
        return [tensor.float() for tensor in network.state_dict().values()]
    can = network.capabilities
    if can.inputs == ("noise",):
        return [network(golden.hashed("x", (2, network.config["noise_size"])).float())]
    side = -(-max(can.smallest, 32) // can.multiple) * can.multiple
    pictures = [golden.hashed_picture(name, 2, network.config.get("in_channels", 3), side, side) for name in can.inputs]
    with torch.no_grad():
        return [network(*(picture.float() for picture in pictures))]


def alike(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(outputs(one), outputs(other), strict=True))


@pytest.fixture
def quick(monkeypatch):
    """Files are read in this process: test_convert_reading.py is about the other one."""
    monkeypatch.setattr(package, "read_checkpoint", golden.read_here)


def save(path: Path, tree: Any) -> Path:
    torch.save(tree, path)
    return path


# -- families --


def test_every_family_has_a_case():
    assert {family.name for family in FAMILIES} == {name for name, _ in CASES}
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert {name for whole in WHOLES for name in whole.parts.values()} <= {family.name for family in FAMILIES}


@EACH
def test_there_and_back(family, config, quick, tmp_path):
    network = network_of(family, config)
    theirs = foreign(family, network, config)
    mean = {"latent_avg": network.w_mean} if family == "stylegan2" else {}
    tree = {"state_dict": theirs, **mean} if mean else theirs
    converted = convert_checkpoint(save(tmp_path / "a.pth", tree))
    assert converted.provenance["family"] == converted.family == family
    (ours,) = converted.networks.values()
    assert type(ours) is type(network)
    if isinstance(network, PretrainedMixin):
        assert ours.config == network.config
        assert converted.config == {"_class_name": type(network).__name__, **network.config}
    if mean:
        assert torch.equal(ours.w_mean, network.w_mean)
    assert alike(ours, network)
    assert not ours.training and all(t.dtype in (torch.float32, torch.int64) for t in ours.state_dict().values())


@EACH
def test_nothing_larger_than_the_file_is_made(family, config):
    theirs = foreign(family, network_of(family, config), config)
    found = closest({key: tuple(t.shape) for key, t in theirs.items()})
    assert found.exact and all(t.is_meta for t in found.network.state_dict().values())
    zeros = {key: t for key, t in found.network.state_dict().items() if found.sources[key] not in theirs}
    assert zeros.keys() <= found.family.zeros(found.config)
    made = sum(t.numel() for t in found.convert(theirs).state_dict().values())
    assert made <= sum(t.numel() for t in theirs.values()) + sum(t.numel() for t in zeros.values())


@EACH
def test_one_wrong_or_missing_tensor_is_the_only_difference(family, config):
    theirs = {key: tuple(t.shape) for key, t in foreign(family, network_of(family, config), config).items()}
    key = next(key for key in theirs if key.endswith("bias"))
    found = closest({**theirs, key: (3, 1, 4)})
    assert (found.family.name, found.misshapen, found.missing, found.unexpected) == (family, [key], [], [])
    found = closest({name: shape for name, shape in theirs.items() if name != key})
    assert (found.family.name, found.misshapen, found.missing, found.unexpected) == (family, [], [key], [])
    found = closest({**theirs, "more.weight": (1, 2)})
    assert (found.family.name, found.misshapen, found.missing, found.unexpected) == (family, [], [], ["more.weight"])


@pytest.mark.parametrize("family", ["cyclegan-resnet", "patchgan", "fast-neural-style", "cut-resnet"])
def test_statistics_of_instance_norms_mean_nothing(family):
    config = next(config for name, config in CASES if name == family and config.get("norm") != "batch")
    network = network_of(family, config)
    theirs, found = foreign(family, network, config), fit(find_family(family), {}, config)
    norms = {theirs for theirs in found.family.names(found.config).values() if theirs in found._instance_norms}
    assert norms
    theirs |= {f"{norm}.{kind}": torch.randn(2) for norm in norms for kind in RUNNING}
    other = closest({key: tuple(t.shape) for key, t in theirs.items()})
    assert other.family.name == family and other.exact
    assert alike(other.convert(theirs), network)


def test_filters_may_be_stored_but_must_be_the_usual_ones(quick, tmp_path):
    config = {"width": 4, "blocks": 1, "downsample": "blur", "upsample": "blur"}
    theirs = foreign("cut-resnet", network_of("cut-resnet", config), config)
    filters = fit(find_family("cut-resnet"), {}, config).constants
    assert sorted(filters) == ["model.11.filt", "model.13.filt", "model.17.filt", "model.7.filt"]
    whole = convert_checkpoint(save(tmp_path / "a.pth", {**theirs, **{k: t.clone() for k, t in filters.items()}}))
    assert alike(
        whole.networks["generator"], convert_checkpoint(save(tmp_path / "b.pth", theirs)).networks["generator"]
    )
    odd = {"model.7.filt": filters["model.7.filt"] * 1.1}
    with pytest.raises(WeightsMismatch, match=r"not the usual one.*model\.7\.filt"):
        convert_checkpoint(save(tmp_path / "c.pth", {**theirs, **odd}))


def test_old_files_count_no_batches():
    config = {"width": 2, "downs": 5}
    theirs = foreign("pix2pix-unet", network_of("pix2pix-unet", config), config)
    theirs = {key: t for key, t in theirs.items() if not key.endswith("num_batches_tracked")}
    found = closest({key: tuple(t.shape) for key, t in theirs.items()})
    assert found.exact and found.convert(theirs).state_dict()["down_norm.1.num_batches_tracked"] == 0


def test_the_mean_of_style_codes_is_estimated_where_there_is_none(quick, tmp_path):
    family, config = next(case for case in CASES if case[0] == "stylegan2")
    network = network_of(family, config)
    converted = convert_checkpoint(save(tmp_path / "a.pt", {"g_ema": foreign(family, network, config)}))
    codes = network.codes(torch.randn(20_000, config["noise_size"]))[:, 0]
    apart = (converted.networks["generator"].w_mean - codes.mean(0)).norm() / codes.mean(0).norm()
    assert apart < 0.1 and any("4096" in note for note in converted.notes)


# -- batch norms --


@pytest.mark.parametrize(("family", "usual"), [("pix2pix-unet", "batch"), ("dcgan", "running")])
def test_statistics_of_batch_norms_are_a_recorded_choice(family, usual, quick, tmp_path):
    config = next(config for name, config in CASES if name == family)
    path = save(tmp_path / "a.pth", foreign(family, network_of(family, config), config))
    found = {}
    for choice in (None, "running", "batch"):
        folder = tmp_path / f"style-{choice}"
        converted = convert_checkpoint(path, folder, norm_statistics=choice)
        found[choice] = converted.networks["generator"]
        assert found[choice].config["statistics"] == (choice or usual)
        assert json.loads((folder / "config.json").read_text())["statistics"] == (choice or usual)
        assert ("as asked for" if choice else "the default of this family") in (folder / "README.md").read_text()
    assert alike(found[None], found[usual]) and not alike(found["running"], found["batch"])


def test_statistics_need_a_batch_norm(quick, tmp_path):
    config = {"width": 4, "blocks": 1}
    path = save(tmp_path / "a.pth", foreign("cyclegan-resnet", network_of("cyclegan-resnet", config), config))
    with pytest.raises(ConfigError, match="no batch norm"):
        convert_checkpoint(path, norm_statistics="batch")


# -- several networks --

RESNET, PATCH = {"width": 4, "blocks": 2}, {"width": 4, "layers": 3}


def cyclegan(seed: int = 0) -> dict[str, nn.Module]:
    return {
        "G_A": network_of("cyclegan-resnet", RESNET, seed),
        "G_B": network_of("cyclegan-resnet", RESNET, seed + 1),
        "D_A": network_of("patchgan", PATCH, seed + 2),
        "D_B": network_of("patchgan", PATCH, seed + 3),
    }


def as_file(networks: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    pairs = {"G": ("cyclegan-resnet", RESNET), "D": ("patchgan", PATCH)}
    return {name: foreign(pairs[name[0]][0], network, pairs[name[0]][1]) for name, network in networks.items()}


def test_both_ways_and_their_discriminators(quick, tmp_path):
    networks = cyclegan()
    converted = convert_checkpoint(save(tmp_path / "all.pth", as_file(networks)), tmp_path / "style", name="Rain")
    roles = {"generator": "G_A", "generator_b": "G_B", "discriminator": "D_A", "discriminator_b": "D_B"}
    assert list(converted.networks) == list(roles)
    for role, name in roles.items():
        assert alike(converted.networks[role], networks[name])
    style = tmp_path / "style"
    assert alike(PretrainedMixin.from_pretrained(style), networks["G_A"])
    assert alike(PretrainedMixin.from_pretrained(style, subfolder="reverse"), networks["G_B"])
    # A run that adapts it starts with these discriminators: D_A judges what G_A makes.
    word, settings = adaptation.settings_for(style)
    method = methods.build(word, settings)
    assert word == "cyclegan" and adaptation.load_training(method, style)
    assert alike(method.target_discriminator.eval(), networks["D_A"])
    assert alike(method.source_discriminator.eval(), networks["D_B"])
    assert method.to_target.config == networks["G_A"].config


def test_a_folder_of_files_is_the_same(quick, tmp_path):
    networks = cyclegan()
    (tmp_path / "run").mkdir()
    for name, tensors in as_file(networks).items():
        save(tmp_path / "run" / f"latest_net_{name}.pth", tensors)
    (tmp_path / "run" / "opt.txt").write_text("lr: 0.1")
    converted = convert_checkpoint(tmp_path / "run")
    assert list(converted.networks) == ["generator", "generator_b", "discriminator", "discriminator_b"]
    assert all(
        alike(converted.networks[role], networks[name])
        for role, name in (("generator", "G_A"), ("discriminator_b", "D_B"))
    )
    digest = hashlib.sha256((tmp_path / "run" / "latest_net_G_A.pth").read_bytes()).hexdigest()
    assert converted.provenance["files"]["latest_net_G_A.pth"] == digest and len(converted.provenance["files"]) == 4


def test_the_way_back_alone_is_a_style(quick, tmp_path):
    networks = cyclegan()
    path = save(tmp_path / "latest_net_G_B.pth", as_file(networks)["G_B"])
    assert alike(convert_checkpoint(path).networks["generator"], networks["G_B"])


def test_one_of_several_can_be_chosen(quick, tmp_path):
    networks = cyclegan()
    tree = as_file(networks)
    path = save(tmp_path / "all.pth", {"first": tree["G_A"], "second": tree["G_B"]})
    with pytest.raises(ConfigError, match="same role, generator.*'first' and 'second'.*network="):
        convert_checkpoint(path)
    assert alike(convert_checkpoint(path, network="second").networks["generator"], networks["G_B"])
    with pytest.raises(ConfigError, match="allowed: first, second"):
        convert_checkpoint(path, network="third")
    (tmp_path / "run").mkdir()
    for suffix in ("pt", "pth"):
        save(tmp_path / "run" / f"G.{suffix}", tree["G_A"])
    with pytest.raises(ConfigError, match=r"same name.*'G' and 'G'"):
        convert_checkpoint(tmp_path / "run")


def test_what_is_no_network_is_left_out_and_said(quick, tmp_path):
    tree = as_file(cyclegan())
    odd = {"quality": {"x.weight": torch.ones(3, 4)}, "<b>\n# bold": {"x.weight": torch.ones(3)}}
    converted = convert_checkpoint(save(tmp_path / "all.pth", {"G_A": tree["G_A"], **odd}), tmp_path / "style")
    assert list(converted.networks) == ["generator"] and "'quality'" in converted.notes[0]
    card = (tmp_path / "style" / "README.md").read_text()
    assert "'quality'" in card and "'?b??# bold'" in card
    broken = {key: t for key, t in tree["G_B"].items() if key != "model.4.weight"}
    with pytest.raises(WeightsMismatch, match=r"all\.pth: G_B.*1 tensors missing"):
        convert_checkpoint(save(tmp_path / "b.pth", {"G_A": tree["G_A"], "G_B": broken}).rename(tmp_path / "all.pth"))


def test_ugatit(quick, tmp_path):
    generator, judges = {"width": 2, "blocks": 1}, {"G": 4, "L": 3}
    networks = {name: network_of("ugatit", generator, i) for i, name in enumerate(("genA2B", "genB2A"))}
    tree = {name: foreign("ugatit", network, generator) for name, network in networks.items()}
    for seed, (reach, layers) in enumerate(judges.items()):
        for domain in "AB":
            config, name = {"width": 2, "layers": layers}, f"dis{reach}{domain}"
            networks[name] = network_of("ugatit-discriminator", config, 2 * seed + ord(domain))
            tree[name] = foreign("ugatit-discriminator", networks[name], config)
    converted = convert_checkpoint(save(tmp_path / "params.pt", tree), tmp_path / "style")
    assert len(converted.networks) == 6
    assert alike(converted.networks["discriminator_global"], networks["disGB"])  # judges what genA2B makes
    word, settings = adaptation.settings_for(tmp_path / "style")
    method = methods.build(word, settings)
    assert word == "ugatit" and adaptation.load_training(method, tmp_path / "style")
    for name, theirs in {"target_global": "disGB", "source_local": "disLA"}.items():
        assert alike(method.discriminators[name].eval(), networks[theirs])


def test_cut_with_its_heads(quick, tmp_path):
    generator = {"width": 4, "blocks": 5, "downsample": "blur", "upsample": "blur"}
    judge, heads = {"width": 4, "downsample": "blur"}, {"channels": [3, 8, 16, 16, 16], "size": 8}
    parts = {"G": ("cut-resnet", generator), "D": ("cut-patchgan", judge), "F": ("cut-heads", heads)}
    (tmp_path / "run").mkdir()
    for name, (family, config) in parts.items():
        save(tmp_path / "run" / f"latest_net_{name}.pth", foreign(family, network_of(family, config), config))
    converted = convert_checkpoint(tmp_path / "run", tmp_path / "style")
    assert sorted(converted.networks) == ["discriminator", "generator", "heads"]
    recipe = json.loads((tmp_path / "style" / "training" / "train.json").read_text())
    # The style's borders are zeros, as upstream's; methods of ours reflect them unless told otherwise.
    assert recipe["method"] == "cut" and recipe["settings"]["border"] == "zero"
    method = methods.build("cut", recipe["settings"])
    assert adaptation.load_training(method, tmp_path / "style")
    assert torch.equal(method.heads[0][0].weight, converted.networks["heads"][0][0].weight)


@pytest.mark.parametrize(
    ("generator", "judge", "word"),
    [
        (("pix2pix-unet", 0), ("patchgan", {"width": 2, "norm": "batch", "in_channels": 6}), "pix2pix"),
        (("dcgan", 0), ("dcgan-discriminator", {"width": 2, "size": 32}), "dcgan"),
        (("stylegan2", 0), ("stylegan2-discriminator", {"width": 1, "max_width": 8, "size": 32}), "stylegan2"),
    ],
)
def test_discriminators_of_other_methods(generator, judge, word, quick, tmp_path):
    config = next(config for name, config in CASES if name == generator[0])
    theirs = network_of(*judge)
    tree = {
        "g": foreign(generator[0], network_of(generator[0], config), config),
        "d": foreign(judge[0], theirs, judge[1]),
    }
    convert_checkpoint(save(tmp_path / "a.pt", tree), tmp_path / "style")
    found, settings = adaptation.settings_for(tmp_path / "style")
    method = methods.build(found, settings)
    assert found == word and adaptation.load_training(method, tmp_path / "style")
    ours = method.discriminator.state_dict()
    assert all(torch.equal(t, ours[key]) for key, t in theirs.state_dict().items())


def test_discriminators_that_no_method_has_are_said_to_be_left_out(quick, tmp_path):
    config, judge = {"width": 4, "blocks": 2, "dropout": True}, {"width": 4}
    tree = {
        "G": foreign("cyclegan-resnet", network_of("cyclegan-resnet", config), config),
        "D": foreign("patchgan", network_of("patchgan", judge), judge),
    }
    convert_checkpoint(save(tmp_path / "a.pt", tree), tmp_path / "style")
    assert not (tmp_path / "style" / "training").exists()
    assert "left out: no method of ours" in (tmp_path / "style" / "README.md").read_text()


# -- parts --

MICRO = {"content_encoder": "microast-encoder", "style_encoder": "microast-encoder"}
MICRO |= {"modulator": "microast-modulator", "decoder": "microast-decoder"}


def test_parts_make_a_whole(quick, tmp_path):
    (tmp_path / "run").mkdir()
    for seed, (name, family) in enumerate(MICRO.items()):
        theirs = foreign(family, network_of(family, {"width": 2}, seed), {"width": 2})
        save(tmp_path / "run" / f"{name}_iter_160000.pth.tar", theirs)
    converted = convert_checkpoint(tmp_path / "run", tmp_path / "style")
    assert converted.family == "microast" and list(converted.networks) == ["generator"]
    ours = converted.networks["generator"]
    assert ours.config == {"width": 2} and alike(PretrainedMixin.from_pretrained(tmp_path / "style"), ours)
    # Upstream's pictures are in [0, 1]: an encoder sees the same of a picture in either range.
    content = network_of("microast-encoder", {"width": 2}, 0)
    picture = golden.hashed_picture("p", 1, 3, 16, 16).float()
    for a, b in zip(ours.content_encoder(picture), content((picture + 1) / 2), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_part_alone_says_what_it_lacks(quick, tmp_path):
    family, config = "adain-decoder", {"widths": (64, 128, 256, 512)}
    path = save(tmp_path / "decoder.pth", foreign(family, network_of(family, config), config))
    converted = convert_checkpoint(path)
    assert list(converted.networks) == ["decoder"] and "vgg19-normalised" in converted.notes[-1]
    with pytest.raises(NotAStyle, match="lacks the encoder.*one folder"):
        convert_checkpoint(path, tmp_path / "style")
    assert not (tmp_path / "style").exists()


def test_parts_that_do_not_belong_together(quick, tmp_path):
    (tmp_path / "run").mkdir()
    for name, family in MICRO.items():
        config = {"width": 4 if name == "modulator" else 2}
        save(tmp_path / "run" / f"{name}.pth", foreign(family, network_of(family, config), config))
    with pytest.raises(WeightsMismatch, match="do not belong together.*modulators"):
        convert_checkpoint(tmp_path / "run")


# -- what cannot be converted --


def test_an_unknown_file_names_the_nearest_family_and_shows_the_difference(quick, tmp_path):
    tree = as_file(cyclegan())["G_A"]
    tree = {key.replace("model.18", "model.20"): t for key, t in tree.items()}
    tree["model.4.weight"] = torch.ones(9, 4, 3, 3)
    with pytest.raises(WeightsMismatch) as caught:
        convert_checkpoint(save(tmp_path / "odd.pth", tree))
    message = str(caught.value)
    assert "nearly cyclegan-resnet of junyanz/pytorch-CycleGAN-and-pix2pix" in message and "odd.pth" in message
    rows = message.splitlines()[1:]
    assert rows[0].split() == ["this", "file", "cyclegan-resnet"]
    assert "model.4.weight (9, 4, 3, 3)" in rows[1] and rows[1].endswith("model.4.weight (8, 4, 3, 3)")
    begin = rows[0].index("cyclegan-resnet")  # of the second column
    assert all(row[begin - 2 : begin] == "  " and row[begin] in "-m" for row in rows[1:]) and len(rows) <= ROWS + 2


def test_a_difference_is_short_and_plain(quick, tmp_path):
    hostile = {f"model.1.{'x' * 300}\n\x1b[31m{i}": torch.ones(2) for i in range(300)}
    with pytest.raises(WeightsMismatch) as caught:
        convert_checkpoint(save(tmp_path / "odd.pth", {**as_file(cyclegan())["G_A"], **hostile}))
    message = str(caught.value)
    assert "\x1b" not in message and "and 288 more" in message
    assert all(len(line) <= 2 * COLUMN + 4 for line in message.splitlines()[1:])


def test_a_file_of_something_else(quick, tmp_path):
    with pytest.raises(WeightsMismatch, match="2 tensors"):
        convert_checkpoint(save(tmp_path / "odd.pth", {"lstm.weight_ih": torch.ones(4, 4), "lstm.bias": torch.ones(4)}))
    with pytest.raises(CorruptFileError, match="no network"):
        convert_checkpoint(save(tmp_path / "empty.pth", {"epoch": 3}))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NotAStyle, match="0 files"):
        convert_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    "shapes",
    [
        {
            "model.1.weight": (2**40, 3, 7, 7),
            "model.10.conv_block.1.weight": (2**40, 2**40, 3, 3),
            "model.17.bias": (3,),
        },
        {"FC.0.weight": (4, 2**60), "DownBlock.1.weight": (0, 3, 7, 7), "gamma.weight": (0,)},
        {f"res{i}.conv1.x": (1,) for i in range(3000)} | {"conv1.conv2d.weight": (4, 3, 9, 9)},
        {f"main.{i}.weight": (1, 1, 1, 1) for i in range(3000)},
        {f"model.{'9' * 5000}.conv_block.1.weight": (1, 1, 1, 1)},
        {f"model.model.1.{'model.3.' * n}model.1.weight": (2, 2, 4, 4) for n in range(200)},
        {"mlp_0.0.weight": (2**62, 2**62)},
        {"merge_conv.weight": (2**31, 2**31, 3, 3), "sanet4_1.f.weight": (1, 1), "sanet5_1.f.weight": (1, 1)},
    ],
)
def test_absurd_shapes_cost_nothing(shapes):
    found = closest(shapes)
    assert found is None or (not found.exact and all(t.is_meta for t in found.network.state_dict().values()))


def test_a_family_can_be_asked_for(quick, tmp_path):
    path = save(tmp_path / "a.pth", as_file(cyclegan())["G_A"])
    assert convert_checkpoint(path, family="cyclegan-resnet").family == "cyclegan-resnet"
    with pytest.raises(WeightsMismatch, match="cut-resnet"):
        convert_checkpoint(path, family="cut-resnet")
    with pytest.raises(UnknownName, match="Did you mean 'cyclegan-resnet'"):
        convert_checkpoint(path, family="cyclegan-resnets")


# -- the folder --


def test_the_style_runs_and_tells_where_it_comes_from(tmp_path):
    """Through the real reader, from a file of strange precision."""
    network = network_of("cyclegan-resnet", RESNET)
    theirs = {f"module.{k}": t.double() for k, t in foreign("cyclegan-resnet", network, RESNET).items()}
    path = save(tmp_path / "latest_net_G.pth", {"state_dict": theirs})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    converted = convert_checkpoint(path, tmp_path / "style", license="cc-by-4.0", name="Rain")
    card, config = (
        (tmp_path / "style" / "README.md").read_text(),
        json.loads((tmp_path / "style" / "config.json").read_text()),
    )
    assert config["_converted_from"] == converted.provenance
    assert converted.provenance["files"] == {"latest_net_G.pth": digest}
    assert converted.provenance["license"] == "cc-by-4.0"
    for words in (
        "# Rain",
        "license: cc-by-4.0",
        "## Origin",
        digest,
        "junyanz/pytorch-CycleGAN-and-pix2pix",
        "float64",
    ):
        assert words in card
    picture = (golden.hashed_picture("p", 3, 24, 20).float() + 1) / 2
    assert StylePipeline.from_pretrained(tmp_path / "style")(picture).size == (20, 24)
    assert alike(PretrainedMixin.from_pretrained(tmp_path / "style"), network)


def test_a_license_is_one_that_the_hub_knows(quick, tmp_path):
    path = save(tmp_path / "a.pth", as_file(cyclegan())["G_A"])
    assert convert_checkpoint(path, license="CC-BY-4.0").provenance["license"] == "cc-by-4.0"
    with pytest.raises(ConfigError, match="knows no such license: found 'cc-by4'.*Did you mean 'cc-by-4.0'"):
        convert_checkpoint(path, tmp_path / "style", license="cc-by4")
    assert not (tmp_path / "style").exists()


def test_a_discriminator_alone_is_a_folder_of_its_own(quick, tmp_path):
    tree = as_file(cyclegan())
    convert_checkpoint(save(tmp_path / "latest_net_D_B.pth", tree["D_B"]), tmp_path / "judge")
    assert isinstance(PatchDiscriminator.from_pretrained(tmp_path / "judge"), PatchDiscriminator)
    both = save(tmp_path / "both.pth", {"D_A": tree["D_A"], "D_B": tree["D_B"]})
    with pytest.raises(NotAStyle, match="discriminator, discriminator_b.*network="):
        convert_checkpoint(both, tmp_path / "style")


def test_of_the_way_back_its_own_discriminator_is_kept(quick, tmp_path):
    networks = cyclegan()
    tree = {name: tensors for name, tensors in as_file(networks).items() if name != "G_A"}
    converted = convert_checkpoint(save(tmp_path / "b.pth", tree))
    for role, name in {"generator": "G_B", "discriminator": "D_B", "discriminator_b": "D_A"}.items():
        assert alike(converted.networks[role], networks[name])


def test_numbers_that_no_float_holds(quick, tmp_path):
    theirs = as_file(cyclegan())["G_A"]
    theirs["model.4.weight"] = theirs["model.4.weight"].double().fill_(1e300)
    with pytest.raises(NonFiniteWeights, match="down.0.conv.weight"):
        convert_checkpoint(save(tmp_path / "a.pth", theirs))


def test_whole_numbers_become_floats(quick, tmp_path):
    theirs = as_file(cyclegan())["G_A"]
    theirs["model.4.weight"] = theirs["model.4.weight"].round().long()
    network = convert_checkpoint(save(tmp_path / "a.pth", theirs)).networks["generator"]
    assert torch.equal(network.down[0].conv.weight, theirs["model.4.weight"].float())


def test_a_folder_that_holds_something_stays_as_it_is(quick, tmp_path):
    path = save(tmp_path / "a.pth", as_file(cyclegan())["G_A"])
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something here already"):
        convert_checkpoint(path, tmp_path / "style")
    assert [p.name for p in (tmp_path / "style").iterdir()] == ["notes.txt"]


def test_a_failure_leaves_no_half_of_a_style(quick, tmp_path, monkeypatch):
    path = save(tmp_path / "all.pth", as_file(cyclegan()))

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(ResnetGenerator, "save_pretrained", fail)
    with pytest.raises(OSError, match="full"):
        convert_checkpoint(path, tmp_path / "style")
    assert [p.name for p in tmp_path.iterdir()] == ["all.pth"]
