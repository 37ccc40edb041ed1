"""Adapters: they change nothing until they learn, fit only where they belong, and can become plain weights."""

import copy
import json

import pytest
import safetensors.torch
import torch
from test_models import answer, build, image, name_of
from variants import VARIANTS

from styleforge import PatchDiscriminator, PretrainedMixin, ResnetGenerator, StylePipeline, lora, weights
from styleforge.errors import (
    ConfigError,
    CorruptFileError,
    NonFiniteWeights,
    NotAStyle,
    UnknownName,
    WeightsMismatch,
)
from styleforge.models import MODELS, AnimeGANGenerator, MicroASTGenerator

GENERATORS = [cls for cls in MODELS if not cls.__name__.endswith("Discriminator")]
LIGHT = {cls: (cls, config) for cls, config in VARIANTS if config.get("backbone", "vgg19-16x") == "vgg19-16x"}


def taught(network):
    """With an adapter that has learnt something: any other numbers."""
    generator = torch.Generator().manual_seed(1)
    for adapter in lora._adapters(network).values():
        torch.nn.init.normal_(adapter.up, std=0.1, generator=generator)
    return network


@pytest.fixture
def base():
    torch.manual_seed(0)
    return ResnetGenerator(width=4, blocks=2).eval()


@pytest.fixture
def picture():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def saved(base, tmp_path):
    """A base, the same with what an adapter learnt, and the folder of that adapter."""
    network = copy.deepcopy(base)
    lora.add_lora(network, 2, alpha=3.0, share=1)
    return (
        base,
        taught(network),
        lora.save_adapter(network, tmp_path / "adapter", {"name": "org/rain", "revision": "1"}),
    )


@pytest.mark.parametrize("variant", [LIGHT[cls] for cls in GENERATORS], ids=name_of)
def test_nothing_changes_until_it_learns_and_merged_it_is_a_plain_network(variant):
    network = build(variant).double().eval()  # of float32, norms here and there make more than what is asserted
    x, names = image(network, dtype=torch.float64), list(network.state_dict())
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    with torch.no_grad():
        plain = answer(network, x)
        size = lora.add_lora(network, share=1)
        assert torch.equal(answer(network, x), plain)
        changed, merged = answer(taught(network), x), lora.merge(network)
        assert (changed - plain).abs().max() > 0.01 * plain.abs().max()
        torch.testing.assert_close(answer(merged, x), changed, atol=1e-6, rtol=0)
    assert size == sum(p.numel() for p in network.parameters() if p.requires_grad) > 0
    assert list(merged.state_dict()) == names and type(merged) is variant[0] and not merged.training
    assert {name: parameter.requires_grad for name, parameter in merged.named_parameters()} == trained
    assert lora.merge(merged) is merged


@pytest.mark.parametrize("make", [ResnetGenerator, lambda: PretrainedMixin.from_pretrained("fastcut-monet")])
def test_at_the_default_rank_an_adapter_is_small(make):
    network = make()
    whole = sum(p.numel() for p in network.parameters())
    assert lora.add_lora(network) <= 0.05 * whole
    assert {adapter.rank for adapter in lora._adapters(network).values()} == {4}


def test_the_rank_is_lowered_where_the_network_is_small():
    network = MicroASTGenerator()
    whole = sum(p.numel() for p in network.parameters())
    assert 0.025 * whole < lora.add_lora(network) <= 0.05 * whole
    assert next(iter(lora._adapters(network).values())).rank == 2
    assert lora.add_lora(ResnetGenerator(width=1, blocks=0), share=1e-6) > 0  # never below 1


def test_only_the_adapter_learns(base, picture):
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    lora.add_lora(base)
    optimizer = torch.optim.Adam([p for p in base.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = (base(picture) - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    plain = lora._plain(base, merged=False)
    assert all(torch.equal(plain[name], tensor) for name, tensor in before.items())
    assert all(tensor.abs().max() > 0 for name, tensor in lora.lora_state(base).items() if name.endswith(".up"))


def test_small_steps_survive_half_precision(base, picture):
    """Under autocast the sum of weight and difference is rounded once, when it is used, and not before."""
    lora.add_lora(base)
    taught(base)
    merged = lora.merge(base)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(base(picture), merged(picture), atol=0, rtol=0)


def test_where_names_layers_or_parts(base):
    lora.add_lora(base, where=["blocks.1", "head"])
    assert set(lora._adapters(base)) == {"blocks.1.conv1", "blocks.1.conv2", "head"}
    with pytest.raises(UnknownName, match=r"'hea'.*Did you mean 'head'"):
        lora.add_lora(ResnetGenerator(width=4, blocks=1), where=["hea"])


def test_layers_with_groups_are_left_alone():
    network = AnimeGANGenerator(width=4)
    grouped = {name for name, m in network.named_modules() if getattr(m, "groups", 1) > 1}
    lora.add_lora(network)
    assert grouped and not grouped & set(lora._adapters(network))


def test_what_cannot_have_an_adapter_is_told(base):
    lora.add_lora(base)
    with pytest.raises(ConfigError, match="has an adapter already"):
        lora.add_lora(base)
    with pytest.raises(ConfigError, match="allowed: 1 to 1024"):
        lora.add_lora(ResnetGenerator(width=4), rank=0)
    with pytest.raises(ConfigError, match="No layer here"):
        lora.add_lora(PatchDiscriminator(width=4, norm="none", spectral_norm=True))


def test_a_network_with_an_adapter_is_not_saved_by_accident(base, picture, tmp_path):
    lora.add_lora(base)
    taught(base)
    for network in (base, copy.deepcopy(base)):
        with pytest.raises(ConfigError, match="Save merge"):
            network.save_pretrained(tmp_path / "style")
        with pytest.raises(ConfigError, match="Save merge"):
            network.push_to_hub("org/rain")
    assert not (tmp_path / "style").exists()
    lora.merge(base).save_pretrained(tmp_path / "style")
    again = StylePipeline.from_pretrained(tmp_path / "style").model
    torch.testing.assert_close(again(picture), base(picture), atol=1e-6, rtol=0)


def test_saved_and_loaded_it_is_the_same(saved, picture):
    base, network, folder = saved
    loaded = lora.load_adapter(copy.deepcopy(base), folder)
    assert torch.equal(loaded(picture), network(picture))
    facts = json.loads((folder / "adapter.json").read_text())
    assert facts["base"] == {"name": "org/rain", "revision": "1", "sha256": lora.base_digest(base)}
    assert (facts["architecture"], facts["rank"], facts["alpha"]) == ("ResnetGenerator", 2, 3.0)
    assert sorted(p.name for p in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_strength_scales_what_is_added(saved):
    base, network, folder = saved
    weight = base.head.weight
    full = network.head.weight - weight
    for strength in (0.0, 0.5, 2.0):
        loaded = lora.load_adapter(copy.deepcopy(base), folder, strength)
        torch.testing.assert_close(loaded.head.weight - weight, strength * full, atol=1e-6, rtol=1e-4)
    with pytest.raises(ConfigError, match="strength"):
        lora.load_adapter(base, folder, float("nan"))


def test_it_fits_only_the_base_that_it_was_made_for(saved):
    base, _, folder = saved
    with pytest.raises(WeightsMismatch, match=r"other weights.*'org/rain', revision 1"):
        lora.load_adapter(ResnetGenerator(width=4, blocks=2), folder)
    with pytest.raises(WeightsMismatch, match="another architecture.*ResnetGenerator.*MicroASTGenerator"):
        lora.load_adapter(MicroASTGenerator(width=4), folder)
    changed = copy.deepcopy(base)
    with torch.no_grad():
        changed.head.bias[0] += 1e-6
    with pytest.raises(WeightsMismatch, match="other weights"):
        lora.load_adapter(changed, folder)
    assert not lora._adapters(changed)


def test_the_digest_is_that_of_the_base(base):
    before = lora.base_digest(base)
    lora.add_lora(base)
    assert lora.base_digest(taught(base)) == before != lora.base_digest(lora.merge(base))


def facts_with(folder, **changes):
    path = folder / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tensors_with(folder, **changes):
    path = folder / "adapter.safetensors"
    tensors = {k: v for k, v in {**weights.read(path), **changes}.items() if v is not None}
    path.write_bytes(safetensors.torch.save(tensors))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda f: (f / "adapter.json").unlink(), NotAStyle),
        (lambda f: (f / "adapter.safetensors").unlink(), NotAStyle),
        (lambda f: (f / "adapter.json").write_text("{"), CorruptFileError),
        (lambda f: (f / "adapter.json").write_text("[" * 10**5), CorruptFileError),
        (lambda f: facts_with(f, rank=10**9), CorruptFileError),
        (lambda f: facts_with(f, alpha="3"), CorruptFileError),
        (lambda f: facts_with(f, base=None), CorruptFileError),
        (lambda f: facts_with(f, rank=3), WeightsMismatch),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"x" * 100), CorruptFileError),
        (lambda f: tensors_with(f, **{"head.up": None}), WeightsMismatch),
        (lambda f: tensors_with(f, **{"feet.up": torch.zeros(2, 2)}), WeightsMismatch),
        (lambda f: tensors_with(f, **{"head.up": torch.full((3, 2), torch.nan)}), NonFiniteWeights),
    ],
)
def test_damaged_adapters_are_refused_and_leave_the_network_alone(saved, damage, error):
    base, _, folder = saved
    damage(folder)
    with pytest.raises(error):
        lora.load_adapter(base, folder)
    assert not lora._adapters(base) and all(p.requires_grad for p in base.parameters())
