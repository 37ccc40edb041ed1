"""StyleGAN2 beside its reference numbers: what its parts are for, and how its method plays."""

import golden
import pytest
import torch

from styleforge import methods, rng
from styleforge.errors import ConfigError
from styleforge.losses import gradient_penalty, r1_penalty
from styleforge.methods import stylegan2
from styleforge.methods.base import Batch
from styleforge.models import StyleGAN2Discriminator, StyleGAN2Generator
from styleforge.models import stylegan2 as stylegan2_model

SMALL = {"width": 4, "max_width": 8, "noise_size": 6, "style_size": 5, "mapping_layers": 2}
NETWORK = {"size": 16, **SMALL}
METHOD = {**NETWORK, "discriminator_width": 4, "augment": ""}


def network(**changes):
    """With hashed weights, so that noise and biases take part."""
    return golden.fill(StyleGAN2Generator(**{**NETWORK, **changes})).eval()


def noise(count=3):
    return golden.hashed("noise", (count, 6)).double() * 3


def build(**changes):
    return golden.fill(methods.build("stylegan2", {**METHOD, **changes})).train()


def batch(turn=0, count=4):
    return Batch({"target": golden.hashed_picture("real", count, 3, 16, 16)}, 0, turn, 0)


# -- networks --


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (32, [512, 512, 256, 128, 64, 32, 16]),
        (64, [512, 512, 512, 256, 128, 64, 32]),
        (256, [512, 512, 512, 512, 512, 256, 128]),
    ],
)
def test_channels_are_those_of_the_table(width, channels):
    assert stylegan2_model._widths(256, width, 512) == channels[::-1]
    row = f"{width:<8}" + "".join(f"{c:<6}" for c in channels)
    assert row.strip() in StyleGAN2Generator.__doc__


def test_both_networks_have_these_channels():
    generator = StyleGAN2Generator(**{**NETWORK, "size": 64, "width": 2, "max_width": 10})
    discriminator = StyleGAN2Discriminator(size=64, width=1, max_width=10)
    assert [conv.weight.shape[1] for conv in generator.to_rgb] == [10, 10, 10, 8, 4]
    assert [block.conv1.weight.shape[0] for block in discriminator.blocks] == [2, 4, 8, 10]


def test_mean_code_is_followed_in_training_only():
    generator = network()
    generator.w_mean.zero_()
    codes = generator.codes(noise())
    assert not generator.w_mean.any()
    generator.train()
    for _ in range(5):
        generator.codes(noise())
    assert torch.allclose(generator.w_mean, (1 - 0.995**5) * codes[:, 0].mean(0))
    assert not generator.w_mean.requires_grad


def test_truncation_draws_to_the_mean_code():
    generator = network()
    full, half, none = (generator.codes(noise(), truncation) for truncation in (1.0, 0.5, 0.0))
    assert torch.allclose(none, generator.w_mean.expand_as(none))
    assert torch.allclose(half, (full + none) / 2)
    pictures = generator(noise(), truncation=0.0)
    assert torch.allclose(pictures[0], pictures[1]) and not torch.allclose(*generator(noise())[:2])


def test_noise_is_kept_and_can_be_fresh():
    generator = network()
    codes = generator.codes(noise())
    kept, again = generator.synthesize(codes), generator.train().synthesize(codes)
    assert torch.equal(kept, again)
    fresh = generator.fresh_noises(3, rng.generator("noise"))
    assert [x.shape for x in fresh] == [(3, *x.shape[1:]) for x in generator.noises]
    assert all(x.dtype == torch.float64 and not torch.equal(x[0], x[1]) for x in fresh)
    drawn = [generator.synthesize(codes, generator.fresh_noises(3, rng.generator("noise", n))) for n in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2]) and not torch.allclose(drawn[0], kept)


def test_pictures_are_confined_by_forward_alone():
    generator = network()
    with torch.no_grad():
        generator.to_rgb[0].bias += 3
    raw = generator.synthesize(generator.codes(noise()))
    assert raw.max() > 1
    assert torch.equal(generator(noise()), raw.clamp(-1, 1))


def test_discriminator_sees_how_alike_pictures_are():
    discriminator = golden.fill(StyleGAN2Discriminator(size=16, width=4, max_width=8, group=2))
    x = golden.hashed_picture("x", 4, 3, 16, 16)
    # Groups are pictures 0 and 2, and 1 and 3.
    other = torch.cat([x[:2], golden.hashed_picture("y", 1, 3, 16, 16), x[3:]])
    before, after = discriminator(x), discriminator(other)
    changed = (before - after).abs().flatten() > 1e-9
    assert changed.tolist() == [True, False, True, False]
    features = torch.stack([torch.full((2, 4, 4), value) for value in (1.0, 5.0, 4.0, 5.0)])
    deviation = discriminator._deviation(features)
    assert deviation.shape == (4, 1, 4, 4)
    assert deviation[:, 0, 0, 0].tolist() == pytest.approx([1.5, 1e-4, 1.5, 1e-4], rel=1e-5)


@pytest.mark.parametrize(("count", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4)])
def test_any_number_of_pictures_can_be_grouped(count, group):
    discriminator = StyleGAN2Discriminator(size=8, width=4, max_width=8)
    x = torch.rand(count, 3, 8, 8)
    assert discriminator(x).shape == (count, 1)
    # The pictures of the first one's group are those that move its logit.
    x.requires_grad_()
    discriminator(x)[0].backward()
    assert int((x.grad.flatten(1).abs().sum(1) > 0).sum()) == group


# -- method --


def test_r1_goes_by_size_and_batch():
    method = build()
    terms = method.discriminator_terms(batch())
    expected = 16 * 1e-4 * 16**2 / 4 * r1_penalty(method.discriminator, batch()["target"])
    assert terms["real_fake_penalty"].item() == pytest.approx(expected.item(), rel=1e-9)
    given = build(penalty_weight=3.0).discriminator_terms(batch())["real_fake_penalty"]
    assert given.item() == pytest.approx(expected.item() * 3 / (1e-4 * 16**2 / 4), rel=1e-9)


def test_another_penalty_has_its_usual_weight():
    method, turn = build(penalty="wgan-gp", penalty_every=1), batch()
    found = method.discriminator_terms(turn)["real_fake_penalty"]
    mixture = turn.generator("real_fake mixture")
    expected = 10 * gradient_penalty(method.discriminator, turn["target"], turn["fake"], mixture)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("n_critic", [1, 2])
def test_penalties_are_lazy(n_critic):
    method = build(n_critic=n_critic, path_every=3, penalty_every=4)
    paths, penalties = [], []
    for turn in range(0, 12 * n_critic, n_critic):  # those in which the generator plays
        paths += [turn // n_critic] if "path_length" in method.generator_terms(batch(turn)) else []
    for turn in range(9):
        penalties += [turn] if "real_fake_penalty" in method.discriminator_terms(batch(turn)) else []
    assert paths == [0, 3, 6, 9]
    assert penalties == [0, 4, 8]


def test_path_length_is_measured_in_full_precision_and_remembered(monkeypatch):
    method, seen = build(path_length=2.0, path_every=4).float(), []

    def spy(images, codes, mean, generator):
        seen.append((images.dtype, codes.dtype, tuple(codes.shape), mean.item()))
        return codes.square().mean(), mean + 1

    monkeypatch.setattr(stylegan2, "path_length", spy)
    turn = batch()
    turn["target"] = turn["target"].float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.generator_terms(turn)
        method.generator_terms(turn)
        assert turn["fake"].dtype == torch.bfloat16
    full = (torch.float32, torch.float32, (2, method.generator.layers, 5))  # of half the pictures
    assert [entry[:3] for entry in seen] == [full, full]
    assert seen[1][3] == pytest.approx(seen[0][3] + 1)
    assert "path_mean" in method.state_dict() and terms["path_length"].requires_grad


def test_without_path_length_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(stylegan2, "path_length", None)
    assert build(path_length=0.0).generator_terms(batch()).keys() == {"fool"}


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_mixed_codes_are_coarse_of_one_and_fine_of_another(mixing):
    method = build(mixing=mixing, size=8)
    _, codes = method._draw(batch(), "fake", 200)
    first, last = codes[:, :1], codes[:, -1:]
    assert all(((code == first) | (code == last)).all() for code in codes.split(1, 1))
    coarse = (codes == first).all(2)
    assert (coarse.int().diff(dim=1) <= 0).all()  # having crossed, it stays
    mixed = ~coarse.all(1)
    assert mixed.float().mean().item() == pytest.approx(mixing, abs=0.1 * (0 < mixing < 1))
    assert set(coarse.sum(1)[mixed].tolist()) == (set(range(1, method.generator.layers)) if mixing else set())


def test_spectral_norm_is_refused():
    with pytest.raises(ConfigError, match="R1"):
        build(spectral_norm=True)


def test_it_learns_a_color():
    torch.manual_seed(0)
    method = methods.build("stylegan2", {**METHOD, "size": 8, "augment": "translation", "lr": 1e-2}).train()
    color = torch.tensor([0.6, -0.2, -0.7])[:, None, None]

    def distance():
        made = method.generator(torch.randn(64, 6, generator=rng.generator("look")))
        return (made.mean((0, 2, 3)) - color.flatten()).abs().max().item()

    before = distance()
    players = method.players()
    optimizers = [player.optimizer() for player in players]
    for step in range(60):
        turn = Batch({"target": color.expand(4, 3, 8, 8)}, 0, step, 0)
        for player, optimizer in zip(players, optimizers, strict=True):
            optimizer.zero_grad()
            sum(player.loss(turn).values()).backward(inputs=player.parameters())
            optimizer.step()
    assert distance() < 0.2 and before > 0.8
