"""spandrel's own loader, without a window, gives what the pipeline gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_convert import CASES, foreign, network_of
from torch import Tensor, nn
from variants import VARIANTS

from styleforge import PretrainedMixin, ResnetGenerator, StylePipeline, weights
from styleforge.convert import convert_checkpoint
from styleforge.convert.recognize import find_family
from styleforge.errors import (
    ConfigError,
    CorruptFileError,
    NonFiniteWeights,
    NotAStyle,
    StyleforgeError,
    UnknownName,
    WeightsMismatch,
)
from styleforge.models import AnimeGANGenerator, MicroASTGenerator, PatchDiscriminator, UGATITGenerator, UNetGenerator

try:
    import spandrel
except (ImportError, RuntimeError) as error:
    pytest.skip(f"needs pip install '.[spandrel]' ({error})", allow_module_level=True)

from styleforge.bridges import spandrel as bridge

PAINTERS = [
    (model, config)
    for model, config in VARIANTS
    if bridge._paints(model(**config)) and not {1, 2} & {config.get("in_channels"), config.get("out_channels")}
]
GENERATORS = [(f, c) for f, c in CASES if find_family(f).role == "generator" and c.get("out_channels", 3) == 3]
GENERATORS = [(f, c) for f, c in GENERATORS if "noise_size" not in c and c.get("in_channels", 3) == 3]


@pytest.fixture
def loader() -> spandrel.ModelLoader:
    """With a registry of its own, so that no test lives on what another has registered."""
    registry = spandrel.MAIN_REGISTRY.copy()
    bridge.register(registry)
    return spandrel.ModelLoader(registry=registry)


def photo(width: int = 37, height: int = 29) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def tensor(array: np.ndarray) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def difference(descriptor: spandrel.ImageModelDescriptor, network: nn.Module, image: np.ndarray) -> float:
    """Between what spandrel and the pipeline make of a picture."""
    expected = StylePipeline(network, fast=False)(image, output_type="pt")
    found = descriptor(tensor(image))
    assert found.shape[2:] == image.shape[:2]
    return float((found[0] - expected).abs().max())


def small(model: type[PretrainedMixin], config: dict) -> PretrainedMixin:
    torch.manual_seed(0)
    narrow = {} if "size" in config and model is not UGATITGenerator else {"width": 4}
    return model(**{**narrow, **config}).eval()


@pytest.mark.parametrize(("model", "config"), PAINTERS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_network_that_paints_is_the_same_in_spandrel(loader, tmp_path, model, config):
    network = small(model, config)
    network.save_pretrained(tmp_path / "style")
    file = bridge.save(tmp_path / "style", tmp_path / "style.safetensors")
    descriptor = loader.load_from_file(file)
    assert type(descriptor.model) is model
    assert descriptor.model.config == network.config
    assert difference(descriptor, network, photo()) < 1e-5


def test_the_bundled_style_and_what_its_descriptor_says(loader, tmp_path):
    file = bridge.save("fastcut-monet", tmp_path / "monet.safetensors")
    descriptor = loader.load_from_file(str(file))
    network = PretrainedMixin.from_pretrained("fastcut-monet", dtype=torch.float32)
    assert difference(descriptor, network, photo(70, 45)) < 1e-5
    assert isinstance(descriptor, spandrel.ImageModelDescriptor)  # what ComfyUI asks for
    assert (descriptor.architecture.id, descriptor.purpose, descriptor.scale) == ("styleforge", "Restoration", 1)
    assert (descriptor.input_channels, descriptor.output_channels) == (3, 3)
    assert descriptor.size_requirements == spandrel.SizeRequirements(minimum=8, multiple_of=4)
    assert descriptor.tiling is spandrel.ModelTiling.INTERNAL
    assert descriptor.tags == ["ResnetGenerator"]
    assert descriptor.dtype == torch.float32
    with pytest.raises(spandrel.UnsupportedDtypeError):
        descriptor.half()
    in_bfloat16 = descriptor.bfloat16()(tensor(photo()).bfloat16()).float()
    assert (in_bfloat16 - bridge.load("fastcut-monet")(tensor(photo()))).abs().mean() < 0.02


def test_a_style_is_a_descriptor_without_a_file(tmp_path):
    network = small(UNetGenerator, {"downs": 4, "norm": "instance"})
    network.to(torch.float16).save_pretrained(tmp_path / "style" / "reverse")
    descriptor = bridge.load(tmp_path / "style", subfolder="reverse")
    assert descriptor.dtype == torch.float32
    assert descriptor.size_requirements.minimum == 16
    assert difference(descriptor, network.float(), photo(20, 17)) < 1e-5


def test_a_file_keeps_the_type_of_the_weights(tmp_path):
    small(ResnetGenerator, {"blocks": 0}).to(torch.bfloat16).save_pretrained(tmp_path / "style")
    file = bridge.save(tmp_path / "style", tmp_path / "style.safetensors")
    kinds = {name: t.dtype for name, t in load_file(file).items()}
    assert kinds.pop(bridge.CONFIG_KEY) == torch.uint8
    assert set(kinds.values()) == {torch.bfloat16}


def test_shapes_do_not_tell_all_and_are_not_guessed_from(loader, tmp_path):
    """Two networks of the same names and shapes, that paint differently."""
    plain, mirrored = (small(ResnetGenerator, {"blocks": 1, "border": border}) for border in ("zero", "reflect"))
    mirrored.load_state_dict(plain.state_dict())
    for name, network in (("plain", plain), ("mirrored", mirrored)):
        network.save_pretrained(tmp_path / name)
        file = bridge.save(tmp_path / name, tmp_path / f"{name}.safetensors")
        assert difference(loader.load_from_file(file), network, photo()) < 1e-5
    assert difference(bridge.load(tmp_path / "plain"), mirrored, photo()) > 1e-3
    with pytest.raises(NotAStyle, match=r"spandrel\.save\(style, file\)"):
        loader.load_from_file(tmp_path / "plain" / "model.safetensors")


@pytest.mark.parametrize("model", [UGATITGenerator, AnimeGANGenerator, UNetGenerator])
def test_plain_weights_of_every_family_are_refused_with_advice(loader, model):
    with pytest.raises(NotAStyle, match="which network"):
        loader.load_from_state_dict(small(model, {}).state_dict())


@pytest.mark.parametrize(("family", "config"), GENERATORS, ids=lambda value: value if isinstance(value, str) else "")
def test_generators_of_other_projects(loader, tmp_path, family, config):
    network = network_of(family, config)
    torch.save(foreign(family, network, config), tmp_path / "latest_net_G.pth")
    descriptor = loader.load_from_file(tmp_path / "latest_net_G.pth")
    assert descriptor.architecture.id == "styleforge-checkpoint"
    assert difference(descriptor, network, photo()) < 1e-4


def test_of_two_ways_in_a_checkpoint_the_way_there(loader, tmp_path):
    config = {"width": 2, "blocks": 1}
    networks = {name: network_of("ugatit", config, seed) for seed, name in enumerate(("genB2A", "genA2B"))}
    torch.save({name: foreign("ugatit", net, config) for name, net in networks.items()}, tmp_path / "params.pth")
    descriptor = loader.load_from_file(tmp_path / "params.pth")
    assert difference(descriptor, networks["genA2B"], photo()) < 1e-4
    assert difference(descriptor, networks["genB2A"], photo()) > 1e-2


def test_a_published_style(loader, shared):
    file = shared / "weights" / "fns_candy.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    network = convert_checkpoint(file).networks["generator"]
    assert difference(loader.load_from_file(file), network, photo(40, 32)) < 1e-4


def test_broken_weights_of_other_projects(loader):
    config = {"width": 2, "blocks": 1}
    state = foreign("ugatit", network_of("ugatit", config), config)
    next(iter(state.values())).fill_(torch.nan)
    with pytest.raises(NonFiniteWeights, match="ugatit"):
        loader.load_from_state_dict(state)


@pytest.mark.parametrize("family", ["patchgan", "adain-decoder", "dcgan"])
def test_what_makes_no_picture_of_a_picture_is_not_ours(loader, family):
    config = next(config for name, config in CASES if name == family)
    with pytest.raises(spandrel.UnsupportedModelError):
        loader.load_from_state_dict(foreign(family, network_of(family, config), config))


def test_spandrels_own_networks_stay_its_own_and_ours_are_not_taken_for_them(loader):
    *known, style, checkpoint = loader.registry.architectures("detection")
    assert (style.architecture.id, checkpoint.architecture.id) == ("styleforge", "styleforge-checkpoint")
    states = [small(model, config).state_dict() for model, config in PAINTERS]
    states += [foreign(family, network_of(family, config), config) for family, config in GENERATORS]
    assert not [support.architecture.id for support in known for state in states if support.detect(state)]


@pytest.mark.parametrize("state", [{}, {"a": None}, {"a": [1], "b": {"c": torch.ones(())}}, {"x": torch.zeros(0)}])
def test_what_is_no_network_is_still_spandrels_to_refuse(loader, state):
    with pytest.raises(spandrel.UnsupportedModelError):
        loader.load_from_state_dict(state)


def test_registering_twice_does_no_harm():
    registry = spandrel.MAIN_REGISTRY.copy()
    bridge.register(registry)
    before = len(registry)
    bridge.register(registry)
    assert len(registry) == before == len(spandrel.MAIN_REGISTRY) + 2


@pytest.mark.parametrize("network", [MicroASTGenerator(width=2), PatchDiscriminator(width=2, layers=1)])
def test_networks_that_spandrel_has_no_word_for(tmp_path, network):
    network.save_pretrained(tmp_path / "style")
    with pytest.raises(ConfigError, match="no use for this network"):
        bridge.save(tmp_path / "style", tmp_path / "style.safetensors")
    assert not (tmp_path / "style.safetensors").exists()


def test_only_a_suffix_that_spandrel_reads(tmp_path):
    with pytest.raises(ConfigError, match="safetensors"):
        bridge.save("fastcut-monet", tmp_path / "monet.pth")
    assert bridge.save("mini-monet", tmp_path / "monet.SAFETENSORS").exists()


HOSTILE = {
    "another class": ({"_class_name": "os.system"}, UnknownName),
    "an unknown setting": ({"_class_name": "ResnetGenerator", "wdith": 4}, ConfigError),
    "an absurd size": ({"_class_name": "ResnetGenerator", "width": 10**9}, ConfigError),
    "a larger network": ({"_class_name": "ResnetGenerator", "width": 1024, "blocks": 64}, WeightsMismatch),
    "no table": ([1, 2], StyleforgeError),
}


@pytest.mark.parametrize(("config", "error"), HOSTILE.values(), ids=HOSTILE)
def test_a_strangers_file_is_read_as_strictly_as_a_style(loader, tmp_path, config, error):
    text = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    state = small(ResnetGenerator, {"blocks": 1}).state_dict()
    file = weights.write(tmp_path / "x.safetensors", {**state, bridge.CONFIG_KEY: text})
    with pytest.raises(error):
        loader.load_from_file(file)


def test_a_configuration_that_is_no_text(loader):
    state = small(ResnetGenerator, {"blocks": 1}).state_dict()
    with pytest.raises(CorruptFileError):
        loader.load_from_state_dict({**state, bridge.CONFIG_KEY: torch.full((9,), 255, dtype=torch.uint8)})
    with pytest.raises((spandrel.UnsupportedModelError, NotAStyle)):
        loader.load_from_state_dict({**state, bridge.CONFIG_KEY: torch.zeros(9)})


def test_nothing_is_left_beside_the_file(tmp_path):
    bridge.save("fastcut-monet", tmp_path / "out" / "monet.safetensors")
    assert [path.name for path in Path(tmp_path / "out").iterdir()] == ["monet.safetensors"]
