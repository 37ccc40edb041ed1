"""What methods add to the papers, and why it works."""

import copy

import pytest
import torch
from torch import nn

from styleforge import ResnetGenerator, checkpoint, methods
from styleforge.errors import ConfigError
from styleforge.methods.base import Batch, Player, unsteadiness

SMALL = {"width": 4, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1, "nce_blocks": [0], "patches": 8}


@pytest.mark.parametrize("upsample", ["resize", "blur"])
@pytest.mark.parametrize("downsample", ["stride", "blur"])
def test_reflected_borders_do_not_tell_where_they_are(downsample, upsample):
    """A picture of one color stays one color up to its edge; with zero padding the edge shows.

    Batch norm with running statistics, because an instance norm makes zeros of any constant.
    """
    torch.manual_seed(0)
    image = torch.full((1, 3, 32, 32), 0.3, dtype=torch.float64)

    def spread(border):
        options = {"width": 4, "blocks": 1, "norm": "batch", "downsample": downsample, "upsample": upsample}
        network = ResnetGenerator(**options, border=border).double().eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        output = network(image).detach()
        return float((output - output.mean((2, 3), keepdim=True)).abs().max())

    assert spread("reflect") < 1e-12
    assert spread("zero") > 1e-3


@pytest.mark.parametrize("flipped", [False, True])
def test_identity_l1_is_the_distance_of_targets_to_their_translation(flipped, monkeypatch):
    method = methods.build("fastcut", {**SMALL, "identity_l1": 3.0})
    monkeypatch.setattr(method, "_flipped", lambda batch: flipped)
    batch = Batch({"source": torch.rand(2, 3, 32, 32), "target": torch.rand(2, 3, 32, 32)}, 0, 0)
    terms = method.generator_terms(batch)
    seen = batch["target"].flip(3) if flipped else batch["target"]
    expected = 3 * (method.generator(seen) - seen).abs().mean()
    assert terms["identity"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert "nce_identity" not in terms


def test_without_identity_targets_are_not_translated():
    method = methods.build("fastcut", SMALL)
    sizes = []
    method.generator.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    method.generator_terms(Batch({"source": torch.rand(2, 3, 32, 32), "target": torch.rand(2, 3, 32, 32)}, 0, 0))
    assert sizes == [2]


def test_unsteadiness_tells_a_pattern_that_stays_from_one_that_moves():
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stripes = (torch.arange(32) % 4 < 2).float() - 0.5
    for network, least, most in ((torch.tanh, 0.0, 1e-6), (lambda x: x / 2 + stripes, 0.3, 2.0)):
        turns = [Batch({}, 0, turn, 0) for turn in range(4)]
        assert least <= max(float(unsteadiness(network, image, network(image), batch)) for batch in turns) <= most


@pytest.mark.parametrize("flip", [False, True])
def test_shift_equivariance_is_a_term_of_cut(flip):
    settings = {**SMALL, "shift_equivariance": 2.0, "flip_equivariance": flip, "discriminator_layers": 1}
    images = {name: torch.rand(1, 3, 32, 32) * 2 - 1 for name in ("source", "target")}
    terms = [methods.build("cut", settings).generator_terms(Batch(images, 0, turn, 0)) for turn in range(3)]
    assert all(0 < found["shift"] < 2 for found in terms)


PROJECTED = {**SMALL, "projected": 2.0, "features": "random-16x"}


def pictures(size=40):
    draws = torch.Generator().manual_seed(0)
    return {name: torch.rand(2, 3, size, size, generator=draws) * 2 - 1 for name in ("source", "target")}


def test_a_projected_discriminator_has_its_say_and_leaves_the_other_losses_alone():
    torch.manual_seed(0)
    method = methods.build("fastcut", PROJECTED)
    for own in (pictures(), pictures(64)):
        batch = Batch(own, 0, 0)
        judged, made = method.discriminator_terms(batch), method.generator_terms(batch)
        assert set(judged) == {"real_fake", "projected"} and set(made) == {"fool", "nce", "fool_projected"}
        logits = method.adversary.projection.moved(batch["fake"], batch.generator("projected"))
        assert made["fool_projected"].item() == pytest.approx(-2 * sum(x.mean().item() for x in logits) / 4, rel=1e-4)
    method.adversary.projected = 4.0
    assert method.generator_terms(batch)["fool_projected"].item() == pytest.approx(2 * made["fool_projected"].item())


def test_a_projected_discriminator_sees_what_the_other_one_sees():
    torch.manual_seed(0)
    given = {"size": 32, "width": 4, "discriminator_width": 4, "projected": 3.0, "features": "random-16x"}
    method = methods.build("dcgan", given)
    batch = Batch({"target": pictures(32)["target"]}, 0, 1)
    terms = method.generator_terms(batch)
    seen = method.adversary.seen(batch["fake"], batch, "projected generator")
    assert not torch.equal(seen, batch["fake"]), "augmented"
    logits = method.adversary.projection.moved(seen, batch.generator("projected"))
    assert terms["fool_projected"].item() == pytest.approx(-3 * sum(x.mean().item() for x in logits) / 4, rel=1e-4)


def test_a_projected_discriminator_wants_pictures_of_some_size():
    with pytest.raises(ConfigError, match=r"28 x 28 pixels.*leave out --projected"):
        methods.build("fastcut", PROJECTED).generator_terms(Batch(pictures(28), 0, 0))


def test_a_projected_discriminator_learns_in_some_steps_and_its_frozen_eyes_do_not():
    torch.manual_seed(0)
    method = methods.build("fastcut", {**PROJECTED, "lr": 2e-3})
    judge = method.players()[0]
    frozen = [buffer.clone() for buffer in method.adversary.projection.features.buffers()]
    learnt = {name for name in method.state_dict() if name.startswith("adversary.projection.")}
    assert learnt and all(name.startswith("adversary.projection.heads.") for name in learnt)
    optimizer, losses = judge.optimizer(), []
    for turn in range(40):
        own = pictures(32)
        own["target"] = own["target"].round()  # another grain
        terms = judge.loss(Batch(own, 0, turn))
        optimizer.zero_grad()
        terms["projected"].backward()
        optimizer.step()
        losses.append(terms["projected"].item())
    assert losses[-1] < 0.5 * losses[0]
    assert same(frozen, list(method.adversary.projection.features.buffers()))
    assert all(p.grad is None for p in method.generator.parameters())  # the judge's turn


def test_a_spectrum_is_a_term_of_cut():
    terms = []
    for weight in (0.0, 0.3, 0.6):
        torch.manual_seed(0)
        method = methods.build("fastcut", {**SMALL, "spectrum": weight})
        terms.append(method.generator_terms(Batch(pictures(), 0, 0)))
    assert "spectrum" not in terms[0] and terms[1]["spectrum"].item() == pytest.approx(942.3, rel=1e-2)
    assert terms[2]["spectrum"].item() == pytest.approx(2 * terms[1]["spectrum"].item(), rel=1e-3)


def test_fastcut_is_cut_with_the_papers_quick_settings():
    fast, cut = methods.settings("fastcut"), methods.settings("cut")
    assert {k: fast[k] for k in fast if fast[k] != cut[k]} == {
        "nce": 10.0,
        "identity": False,
        "flip_equivariance": True,
    }
    assert methods.find("fastcut") is methods.find("cut")


# -- optimizers --

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}


def player(**changes):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return Player("p", (network,), lambda batch: {}, **{"lr": 0.01, "betas": (0.5, 0.99), **changes})


def learn(player, optimizer, steps=5, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        player.networks[0](x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in player.networks[0].parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_optimizers_are_those_of_torch(decay):
    options = {"lr": 0.01, "weight_decay": decay}
    expected = {
        "adam": {**options, "betas": (0.5, 0.99)},
        "adamw": {**options, "betas": (0.5, 0.99), "weight_decay": decay or 0.01},
        "rmsprop": {**options, "alpha": 0.99},
    }
    found = {}
    for kind, cls in KINDS.items():
        ours, theirs = player(weight_decay=decay), player()
        found[kind] = learn(ours, ours.optimizer(kind))
        assert type(ours.optimizer(kind)) is cls
        assert same(found[kind], learn(theirs, cls(theirs.parameters(), **expected[kind])))
    default = player(weight_decay=decay)
    assert same(learn(default, default.optimizer()), found["adam"])
    assert not same(found["adam"], found["adamw"]) and not same(found["adam"], found["rmsprop"])


@pytest.mark.parametrize("kind", KINDS)
def test_groups_have_a_learning_rate_of_their_own(kind):
    plain, grouped = player(), player()
    first, second = grouped.networks[0]
    second.bias.requires_grad_(False)
    grouped = Player(
        "p", grouped.networks, grouped.loss, 0.01, groups=(((first.weight,), 0.25), ((second.weight, second.bias), 1.0))
    )
    assert [id(p) for p in grouped.parameters()] == [id(first.weight), id(second.weight)]
    optimizer = grouped.optimizer(kind)
    assert [(group["factor"], group["lr"]) for group in optimizer.param_groups] == [(0.25, 0.0025), (1.0, 0.01)]
    before = [p.detach().clone() for p in plain.networks[0].parameters()]
    alike = learn(plain, plain.optimizer(kind), steps=1)
    slower = learn(grouped, optimizer, steps=1)
    moved, moved_slower = ([a - b for a, b in zip(after, before, strict=True)] for after in (alike, slower))
    assert torch.allclose(moved_slower[0], moved[0] / 4, rtol=1e-3, atol=1e-6) and moved[0].abs().min() > 1e-3
    assert torch.allclose(moved_slower[2], moved[2], rtol=1e-4)
    assert not moved_slower[1].any() and not moved_slower[3].any()  # neither named nor free


@pytest.mark.parametrize("kind", KINDS)
def test_optimizers_go_on_from_a_checkpoint(kind):
    whole, first = player(), player()
    learn(whole, whole.optimizer(kind), steps=6)
    optimizer = first.optimizer(kind)
    learn(first, optimizer, steps=3)
    second = copy.deepcopy(first)
    again = second.optimizer(kind)
    checkpoint.unpack(again, checkpoint.pack(optimizer, "x"), "x")
    assert again.param_groups[0]["factor"] == 1
    learn(second, again, steps=3, first=3)
    assert same(whole.parameters(), second.parameters())
