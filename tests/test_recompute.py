"""Memory for time: less is kept, and everything that comes out is the same to the last bit."""

from __future__ import annotations

import copy
import json

import pytest
import tiny
import torch
from test_models import answer, build, image, name_of
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torch.profiler import profile
from variants import VARIANTS

from styleforge import methods
from styleforge.hub import PretrainedMixin
from styleforge.methods.base import Batch
from styleforge.models import PatchDiscriminator, ResnetGenerator, StyleGAN2Discriminator, UNetGenerator
from styleforge.recompute import recompute

every = pytest.mark.parametrize("variant", [*VARIANTS, (ResnetGenerator, {"dropout": True})], ids=name_of)


def trained(network, x):
    """What comes out of a pass forward and one back, and what is left in the network."""
    network.zero_grad()
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    y = answer(network, x)
    y.square().mean().backward()
    gradients = [p.grad.clone() for p in network.parameters() if p.requires_grad]
    return [y.detach(), x.grad, *gradients, *(b.clone() for b in network.buffers()), torch.rand(1)]


@every
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_are_the_same_to_the_last_bit(variant, batch):
    plain = build(variant).train()
    again = copy.deepcopy(plain)
    recompute(again)
    x = image(plain, batch=batch)
    for a, b in zip(trained(plain, x), trained(again, x), strict=True):
        assert torch.equal(a, b)


# All that are made of blocks, and none of whose blocks would be changed by a second pass.
BLOCKS = {
    "AnimeGANGenerator": 16,
    "AttentionGenerator backbone=vgg19-16x": 3,
    "MicroASTGenerator": 2,
    "MultiScaleGenerator": 14,
    "ResnetGenerator": 6,
    "StyleGAN2Generator size=32 noise_size=8 style_size=12 mapping_layers=2": 11,
    "TransformerNet": 7,
    "UGATITGenerator": 8,
    "StyleGAN2Discriminator size=16 group=1": 2,
    "ResnetGenerator norm=batch dropout=True blocks=1 out_channels=1": 0,
    "UNetGenerator": 0,
    "PatchDiscriminator layers=2 norm=none spectral_norm=True": 0,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_whatever_the_network(name):
    network = build(next(variant for variant in VARIANTS if name_of(variant) == name))
    assert recompute(network) == BLOCKS[name]
    assert recompute(network) == BLOCKS[name]  # a second time changes nothing


def kept(network, x):
    """Bytes that are there after a pass forward, and were not before."""
    with profile(profile_memory=True) as profiler:
        y = answer(network, x)
    assert y.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


def test_less_is_kept():
    network = ResnetGenerator(width=8, blocks=6, upsample="resize").train()
    x = torch.rand(1, 3, 64, 64)
    before = kept(network, x)
    recompute(network)
    assert before > 2e6 and kept(network, x) < 0.45 * before


def test_nothing_is_computed_twice_without_gradients_or_in_evaluation():
    network, passes = ResnetGenerator(width=4, blocks=1), []
    recompute(network)
    network.blocks[0].conv1.register_forward_hook(lambda *_: passes.append(0))
    x = torch.rand(1, 3, 16, 16)

    def count(run):
        passes.clear()
        run()
        return len(passes)

    assert count(lambda: network.train()(x).mean().backward()) == 2
    assert count(lambda: network.eval()(x).mean().backward()) == 1
    with torch.no_grad():
        assert count(lambda: network.train()(x)) == 1


def test_copies_compute_with_their_own_weights():
    network = ResnetGenerator(width=4, blocks=1).train()
    recompute(network)
    average, x = copy.deepcopy(network), torch.rand(1, 3, 16, 16)
    before = average(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    assert torch.equal(average(x), before) and not torch.equal(network(x), before)
    average(x).mean().backward()
    assert all(p.grad is not None for p in average.parameters())
    assert all(p.grad is None for p in network.parameters())


def test_what_is_saved_is_the_same(tmp_path):
    network = ResnetGenerator(width=4, blocks=1)
    plain = network.save_pretrained(tmp_path / "plain")
    names = list(network.state_dict())
    recompute(network)
    assert list(network.state_dict()) == names
    again = network.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (plain / file).read_bytes() == (again / file).read_bytes()
    loaded = PretrainedMixin.from_pretrained(again)
    assert json.loads((again / "config.json").read_text())["blocks"] == 1 and type(loaded) is ResnetGenerator


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, weight):
        return weight * self.factor


def test_a_layer_with_an_adapter_is_still_a_single_layer():
    network = UNetGenerator(width=4, downs=2, norm="instance")
    for conv in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
        register_parametrization(conv, "weight", Slope())
    assert recompute(network) == 0


def test_the_networks_of_a_method_are_not_blocks_themselves():
    discriminators = nn.ModuleList([PatchDiscriminator(width=4), StyleGAN2Discriminator(size=16, width=4)])
    assert recompute(discriminators) == 2
    assert "forward" not in vars(discriminators[0]) and "forward" not in vars(discriminators[1])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["cyclegan", "cut", "ugatit", "multiscale", "stylegan2"])
def test_methods_learn_the_same(name, kind):
    """Players that share fakes, features that are looked at inside, gradients of gradients, autocast."""
    torch.manual_seed(0)
    side = tiny.SIZE_OF.get(name, 32)
    size = {"size": side} if "size" in methods.settings(name) else {}
    plain = methods.build(name, {**tiny.settings(name), **size}).train()
    again = copy.deepcopy(plain)
    assert recompute(again) > 0
    tensors = {domain: torch.rand(2, 3, side, side) * 2 - 1 for domain in ("source", "target")}
    found = []
    for method in (plain, again):
        batch = Batch(dict(tensors), 0, 0, 0)
        for player in method.players():
            with torch.autocast("cpu", kind, enabled=kind != torch.float32):
                terms = player.loss(batch)
            sum(terms.values()).backward(inputs=player.parameters())
        found.append([p.grad for p in method.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
