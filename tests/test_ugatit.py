"""U-GAT-IT: what its numbers against the field's code (test_golden_ugatit.py) do not say."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

from styleforge import methods
from styleforge.errors import ConfigError, ImageError
from styleforge.losses import style_perceptual
from styleforge.methods.base import Batch
from styleforge.methods.ugatit import STYLE_LAYERS
from styleforge.models import UGATITDiscriminator, UGATITGenerator
from styleforge.models.ugatit import draw_heatmap, instance_layer_norm

SMALL = {"width": 4, "blocks": 1, "discriminator_width": 4, "global_layers": 4, "local_layers": 3}


def build(**changes):
    torch.manual_seed(0)
    return methods.build("ugatit", {**SMALL, **changes}).train()


def pictures(size=32, batch=1):
    domains = ("source", "target")
    return Batch({d: golden.hashed_picture(d, batch, 3, size, size).float() for d in domains}, 0, 0, 0)


# -- networks --


@pytest.mark.parametrize(("rho", "dims"), [(1.0, (2, 3)), (0.0, (1, 2, 3))])
def test_the_ends_of_the_mixture_are_instance_and_layer_norm(rho, dims):
    x = golden.hashed_picture("x", 2, 5, 4, 7) + torch.arange(5).view(5, 1, 1)
    variance, mean = torch.var_mean(x, dims, keepdim=True)
    by_hand = 3 * (x - mean) / (variance + 1e-5).sqrt() - 2
    found = instance_layer_norm(x, *torch.tensor([rho, 3.0, -2.0], dtype=torch.float64))
    assert torch.allclose(found, by_hand, rtol=1e-12, atol=1e-12)


def test_statistics_of_half_precision_are_those_of_float32():
    # Far from zero: in bf16 itself, mean and square would have two digits.
    x = (100 + golden.hashed_picture("x", 1, 4, 16, 16)).bfloat16()
    numbers = torch.tensor([0.5, 1.0, 0.0])
    found = instance_layer_norm(x, *numbers)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, instance_layer_norm(x.double(), *numbers.double()).bfloat16())


def test_translate():
    network = golden.fill(UGATITGenerator(width=4, blocks=1))
    x = golden.hashed_picture("x", 2, 3, 16, 24)
    image, logits, heatmap = network.translate(x)
    assert torch.equal(network(x), image)
    assert logits.shape == (2, 2) and heatmap.shape == (2, 1, 4, 6) and heatmap.min() >= 0


def test_the_heatmap_is_that_of_weighted_features():
    network = golden.fill(UGATITGenerator(width=4, blocks=1)).attention
    x = golden.hashed_picture("x", 1, 16, 4, 6)
    weighted = torch.cat([x * layer.weight[..., None, None] for layer in (network.average, network.maximum)], 1)
    assert torch.allclose(network(x)[0], F.relu(network.mix(weighted)), rtol=1e-12, atol=1e-12)


def test_a_full_generator_takes_other_sizes():
    network = golden.fill(UGATITGenerator(width=4, blocks=1, light=False, size=16))
    assert network.style[0].in_features == 4 * 4 * 16
    seen = {}
    for name in ("attention", "style"):
        getattr(network, name).register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given, out)}))
    for times in (1, 3):
        x = golden.hashed_picture("x", 1, 3, 16, 16 * times)
        assert network(x).shape == x.shape
        (looked, _), ((given,), _) = seen["attention"][1], seen["style"]
        assert torch.allclose(given, F.avg_pool2d(looked, (1, times)).flatten(1), rtol=1e-12)
    with pytest.raises(ConfigError, match=r"size = 18.*Take 16"):
        UGATITGenerator(light=False, size=18)


def test_fusion_begins_as_the_paper_and_ends_where_attention_does():
    plain, fused = (golden.fill(UGATITGenerator(width=4, blocks=1, fusion=fusion)) for fusion in ("none", "pyramid"))
    assert not any(lateral.weight.any() for lateral in UGATITGenerator(width=4, fusion="pyramid").laterals)
    x = golden.hashed_picture("x", 1, 3, 32, 32)
    seen = {}
    for index, lateral in enumerate(fused.laterals):
        lateral.register_forward_hook(lambda module, inputs, output, index=index: seen.update({index: inputs[0].shape}))
    assert not torch.allclose(fused(x), plain(x))
    assert seen == {0: (1, 8, 16, 16), 1: (1, 4, 32, 32)}
    with torch.no_grad():
        fused.attention.mix.weight.zero_()
        fused.attention.mix.bias.fill_(-1)  # looks nowhere
        plain.attention.load_state_dict(fused.attention.state_dict())
    assert torch.equal(fused(x), plain(x))


def test_discriminators_attend_by_the_weight_before_its_norm():
    network = UGATITDiscriminator(width=4, layers=4).double().eval()
    x = golden.hashed_picture("x", 1, 3, 32, 32)
    before = network.judge(x)
    with torch.no_grad():
        network.attention.average.parametrizations.weight.original.mul_(3)
    after = network.judge(x)
    assert torch.allclose(after[1], before[1]) and not torch.allclose(after[0], before[0])


@pytest.mark.parametrize(("layers", "field"), [(5, 70), (6, 142), (7, 286)])
def test_patches_are_as_wide_as_they_say(layers, field):
    reach = 1
    for step in reversed([m for m in UGATITDiscriminator(width=1, layers=layers).modules() if hasattr(m, "stride")]):
        if step.kernel_size == (4, 4):
            reach = (reach - 1) * step.stride[0] + 4
    assert reach == field


def test_heatmaps_are_drawn_from_black_to_white():
    heat = torch.tensor([[1.0, 3.0], [2.0, 5.0]])[None, None]
    drawn = draw_heatmap(heat, (2, 2))
    assert drawn.shape == (1, 3, 2, 2) and drawn[0, 1].flatten().tolist() == [-1, 0, -0.5, 1]
    assert torch.equal(draw_heatmap(torch.full((1, 1, 2, 2), 7.0), (4, 6)), -torch.ones(1, 3, 4, 6))


# -- method --


def test_pictures_too_small_for_the_global_discriminators():
    method = build(global_layers=7)
    with pytest.raises(ImageError, match=r"found 32x32.*at least 96"):
        method.discriminator_terms(pictures())


def test_one_pass_serves_both_players():
    method, batch, calls = build(), pictures(), []
    for domain, generator in method.generators.items():
        generator.head.register_forward_hook(
            lambda module, inputs, output, domain=domain: calls.append((domain, len(output)))
        )
    for player in method.players():
        player.loss(batch)
    assert calls == [("target", 2), ("source", 2), ("source", 1), ("target", 1)]  # both domains, then back


def test_shares_stay_in_bounds():
    method = build()
    (player,) = (p for p in method.players() if p.after)
    for value, nearest in ((2.0, 1.0), (-2.0, 0.0), (0.3, 0.3)):
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.fill_(value)
        player.after()
        for name, parameter in method.named_parameters():
            share = name.startswith("generators") and name.endswith("rho")
            assert torch.equal(parameter, torch.full_like(parameter, nearest if share else value)), name


@pytest.mark.parametrize("kind", ["statistics", "gram", "l1"])
def test_style_term(kind):
    method, batch = build(style=3.0, style_kind=kind, features="random-16x"), pictures(batch=2)
    terms = method.generator_terms(batch)
    fake, target = (method.features(x, STYLE_LAYERS) for x in (batch["fake_target"], batch["target"]))
    assert terms["style"].item() == pytest.approx(3 * style_perceptual(fake, target, kind).item())
    terms["style"].backward()
    moved = {name.split(".")[1] for name, p in method.named_parameters() if p.grad is not None}
    assert moved == {"target"} and all(p.grad is None for p in method.discriminators.parameters())
    assert not any(key.startswith("features") for key in method.state_dict())
    assert not any("style" in term for term in method.discriminator_terms(batch))


def test_features_are_loaded_for_the_style_term_only():
    assert build(features="no such file").features is None
    with pytest.raises(Exception, match="No such feature network"):
        build(features="no such file", style=1.0)


@pytest.mark.parametrize("penalty", ["r1", "wgan-gp"])
def test_penalties(penalty):
    method, batch = build(penalty=penalty, spectral_norm=False), pictures()
    terms = method.discriminator_terms(batch)
    assert set(terms) == {f"{name}{end}" for name in method.discriminators for end in ("", "_penalty")}
    sum(terms.values()).backward()
    # Both of the attention's classifiers are judged by, so the penalty reaches them.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.discriminators.parameters())


def test_losses_under_autocast_are_in_float32():
    method = build(style=10.0, features="random-16x")
    twins = {}
    for enabled in (False, True):
        batch = pictures(64)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            method.eval()  # the same step of the power iteration
            twins[enabled] = method.discriminator_terms(batch) | {
                f"generator/{name}": term for name, term in method.generator_terms(batch).items()
            }
    for name, exact in twins[False].items():
        rough = twins[True][name]
        assert rough.dtype == torch.float32, name
        assert rough.item() == pytest.approx(exact.item(), rel=0.02), name


def test_preview_shows_attention():
    method = build().eval()
    images = pictures(24)
    shown = method.preview(images, method.styles(), torch.Generator())
    assert list(shown) == ["source", "styled", "attention"]
    assert torch.equal(shown["styled"], method.generators["target"](images["source"]))
    attention = shown["attention"]
    assert torch.equal(attention, attention[:, :1].expand_as(attention)) and attention.std() > 0.1
