"""The noise GAN's two players, what its networks are made of, and the discriminator that looks at several scales."""

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from styleforge import methods, rng
from styleforge.errors import ConfigError
from styleforge.methods.base import Batch
from styleforge.models import DCGANDiscriminator, DCGANGenerator, MultiScaleDiscriminator, PatchDiscriminator

SMALL = {"size": 32, "width": 4, "discriminator_width": 4, "noise_size": 6, "discriminator_dropout": 0.0}
REAL = golden.hashed_picture("real", 4, 3, 32, 32)


def build(**changes):
    torch.manual_seed(0)
    return methods.build("dcgan", {**SMALL, "augment": "", **changes}).double().train()


def batch(turn=0):
    return Batch({"target": REAL}, 0, turn, 0)


def seen_by(network):
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


# -- two players --


def test_the_discriminator_sees_both_classes_each_in_a_batch_of_its_own():
    method, turn = build(), batch()
    seen = seen_by(method.discriminator)
    loss = method.discriminator_terms(turn)["real_fake"]
    fake = turn["fake"]
    assert len(seen) == 2
    assert torch.equal(seen[0], fake) and torch.equal(seen[1], REAL)
    # Cross-entropy of both, and neither alone.
    real_logits, fake_logits = method.discriminator(REAL), method.discriminator(fake)
    expected = (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    weights = list(method.discriminator.parameters())
    found = torch.autograd.grad(loss, weights)
    of_real = torch.autograd.grad(F.softplus(-real_logits).mean() / 2, weights)
    of_fake = torch.autograd.grad(F.softplus(fake_logits).mean() / 2, weights)
    for all_, real, fake in zip(found, of_real, of_fake, strict=True):
        assert real.any() and fake.any() and torch.allclose(all_, real + fake, rtol=1e-9, atol=1e-15)


def test_the_gradient_of_the_generator_is_that_of_fooling_the_discriminator():
    method, turn = build(), batch()
    terms = method.generator_terms(turn)
    assert terms.keys() == {"fool"}
    weights = list(method.generator.parameters())
    found = torch.autograd.grad(terms["fool"], weights, retain_graph=True)
    expected = torch.autograd.grad(F.softplus(-method.discriminator(turn["fake"])).mean(), weights)
    assert all(f.any() and torch.allclose(f, e, rtol=1e-9, atol=1e-15) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("adversarial", ["vanilla", "lsgan", "hinge", "wgan"])
def test_a_step_of_each_helps_that_player(adversarial):
    method, turn = build(adversarial=adversarial), batch()
    discriminator, generator = method.players()

    def advance(player):
        gradients = torch.autograd.grad(sum(player.loss(turn).values()), player.parameters(), retain_graph=True)
        for parameter, gradient in zip(player.parameters(), gradients, strict=True):
            parameter.data -= 1e-4 * gradient / gradient.norm()

    def margin():
        return (method.discriminator(REAL) - method.discriminator(turn["fake"])).mean().item()

    method.discriminator_terms(turn)  # draws the fakes
    before = margin()
    advance(discriminator)
    assert margin() > before
    before = margin()
    advance(generator)
    del turn["fake"]
    method._fake(turn)  # the same noise once more
    assert margin() < before


def test_one_forward_pass_of_the_generator_serves_both():
    method, turn = build(), batch()
    seen = seen_by(method.generator)
    for player in method.players():
        player.loss(turn)
    assert len(seen) == 1


def test_noise_is_that_of_the_turn():
    method = build()
    fakes = [method._fake(batch(turn)) for turn in (0, 0, 1)]
    assert torch.equal(fakes[0], fakes[1])  # after a restart, too
    assert not torch.allclose(fakes[0], fakes[2])
    assert not torch.allclose(fakes[0][0], fakes[0][1])


def test_stabilisers_reach_the_players():
    settings = {"adversarial": "wgan", "penalty": "wgan-gp", "n_critic": 5, "discriminator_lr": 1e-4}
    method = build(**settings)
    critic, generator = method.players()
    assert (critic.turns, critic.lr, generator.turns, generator.lr) == (5, 1e-4, 1, 2e-4)
    assert critic.loss(batch()).keys() == {"real_fake", "real_fake_penalty"}
    defaults = methods.settings("dcgan")
    assert (defaults["adversarial"], defaults["augment"]) == ("vanilla", "color,translation,cutout")
    changed = build(augment=defaults["augment"])
    seen = seen_by(changed.discriminator)
    changed.discriminator_terms(batch())
    assert not any(torch.equal(x, REAL) for x in seen)


@pytest.mark.parametrize(
    ("settings", "norms", "spectral"),
    [({}, 2, 0), ({"penalty": "r1"}, 0, 0), ({"penalty": "wgan-gp"}, 0, 0), ({"spectral_norm": True}, 0, 4)],
)
def test_batch_norm_is_left_out_where_pictures_are_judged_apart(settings, norms, spectral):
    modules = list(build(**settings).discriminator.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in modules) == norms
    assert sum(hasattr(m, "parametrizations") for m in modules) == spectral


def test_preview_is_a_real_picture_and_others():
    method = golden.fill(build()).float().eval()
    shown = method.preview({"target": REAL[:1].float()}, method.styles(), rng.generator("row"))
    assert list(shown) == ["target", "sample 1", "sample 2", "sample 3", "sample 4"]
    assert torch.equal(shown["target"], REAL[:1].float())
    samples = torch.cat(list(shown.values())[1:])
    assert all((a - b).abs().mean() > 1e-3 for i, a in enumerate(samples) for b in samples[:i])


def test_sizes_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match="'size' cannot be used.*48.*64 or 128"):
        methods.build("dcgan", {"size": 48})


# -- networks --


def test_sizes_are_those_of_the_papers():
    def count(network):
        return sum(p.numel() for p in network.parameters())

    assert count(DCGANGenerator(size=64)) == 3_576_704  # pytorch/examples
    assert count(DCGANDiscriminator(size=64)) == 2_765_568
    assert count(DCGANGenerator()) == 12_786_560
    dense = DCGANGenerator(kind="dense")
    assert dense.layers[0].weight.shape == (128 * 16 * 16, 100)  # an eighth of 128 px
    assert {m.out_channels for m in dense.modules() if isinstance(m, nn.Conv2d)} == {128, 64, 3}


def test_the_first_weights_are_those_of_the_paper():
    torch.manual_seed(0)
    for network in (DCGANGenerator(size=32), DCGANGenerator(size=32, kind="dense"), DCGANDiscriminator(size=32)):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)


def test_dropout_leaves_out_whole_channels_after_every_step():
    network = DCGANDiscriminator(size=32, width=8, dropout=0.3).train()
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout2d)]
    assert len(drops) == 3 and all(m.p == 0.3 for m in drops)
    maps = []
    drops[0].register_forward_hook(lambda module, inputs, output: maps.append((inputs[0], output)))
    network(REAL.float())
    before, after = maps[0]
    dropped = (after == 0).flatten(2).all(2)
    assert 0 < dropped.float().mean() < 0.7
    assert torch.allclose(after[~dropped], before[~dropped] / 0.7)


# -- several scales --


def test_each_scale_sees_the_mean_of_the_one_before():
    network = golden.fill(MultiScaleDiscriminator(scales=3, width=2, layers=1)).eval()
    seen = [seen_by(scale) for scale in network.scales]
    x = golden.hashed_picture("x", 2, 3, 27, 32)
    logits = network.judge(x)
    first, second, third = (pictures[0] for pictures in seen)
    assert first is x
    # The mean of three by three around every second pixel; at the edges of those that are there.
    assert second.shape[2:] == (14, 16) and third.shape[2:] == (7, 8)
    assert torch.allclose(second[:, :, 3, 5], x[:, :, 5:8, 9:12].mean((2, 3)))
    assert torch.allclose(second[:, :, 0, 0], x[:, :, :2, :2].mean((2, 3)))
    assert torch.allclose(third[:, :, 6, 7], second[:, :, 11:14, 13:16].mean((2, 3)))
    expected = [scale(pictures[0]) for scale, pictures in zip(network.scales, seen, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert torch.equal(network(x), torch.cat([scale.flatten(1) for scale in logits], 1))


def test_features_are_those_on_the_way_to_the_logits():
    network = golden.fill(MultiScaleDiscriminator(scales=2, width=2, layers=2)).eval()
    x = golden.hashed_picture("x", 1, 3, 32, 32)
    features = network.features(x)
    assert [tuple(f.shape[1:3]) for f in features] == [(2, 16), (4, 8), (8, 7), (2, 8), (4, 4), (8, 3)]
    for logits, feature, scale in zip(network.judge(x), (features[2], features[5]), network.scales, strict=True):
        assert torch.equal(scale.layers[-1](feature), logits)
    assert all((f < 0).any() and (f > 0).any() for f in features)


def test_scales_do_not_share_weights():
    network = MultiScaleDiscriminator(scales=3, width=2, layers=1)
    assert len(set(map(id, network.parameters()))) == 3 * len(list(PatchDiscriminator(width=2, layers=1).parameters()))
    first, second = network.scales[0].layers[0].weight, network.scales[1].layers[0].weight
    assert not torch.equal(first, second)
