"""How discriminators are kept in check: every switch does what it says, wherever a method has a discriminator."""

import pytest
import torch
from torch import nn

from styleforge import configs, methods
from styleforge.configs import Options
from styleforge.errors import ConfigError
from styleforge.losses import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from styleforge.methods.base import Adversary, Batch

REAL, FAKE = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
JUDGE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 1)).double()


def terms(turn=0, judge=JUDGE, **settings):
    return Adversary(**settings).discriminator_terms(judge, REAL, FAKE, Batch({}, 0, turn, 0))


def test_plain_it_is_the_loss():
    assert terms().keys() == {"real_fake"}
    for kind in ("lsgan", "vanilla", "hinge", "wgan"):
        expected = discriminator_loss(JUDGE(REAL), JUDGE(FAKE), kind)
        assert torch.equal(terms(adversarial=kind)["real_fake"], expected)
        fool = Adversary(adversarial=kind).generator_loss(JUDGE, FAKE, Batch({}, 0, 0, 0))
        assert torch.equal(fool, generator_loss(JUDGE(FAKE), kind))
    assert torch.equal(terms(smooth=0.1)["real_fake"], discriminator_loss(JUDGE(REAL), JUDGE(FAKE), smooth=0.1))


def test_losses_of_several_scales_add_up():
    double = terms(judge=lambda x: [JUDGE(x), JUDGE(x)])["real_fake"]
    assert double.item() == pytest.approx(2 * terms()["real_fake"].item())


def test_fakes_are_cut_off():
    fake = FAKE.clone().requires_grad_()
    for settings in ({}, {"penalty": "r1"}, {"penalty": "wgan-gp"}, {"augment": "color"}):
        found = Adversary(**settings).discriminator_terms(JUDGE, REAL, fake, Batch({}, 0, 0, 0))
        assert torch.autograd.grad(sum(found.values()), fake, allow_unused=True) == (None,)


def test_penalties_are_weighted_and_lazy():
    generator = Batch({}, 0, 0, 0).generator("real_fake mixture")
    expected = {
        "r1": r1_penalty(JUDGE, REAL),
        "wgan-gp": gradient_penalty(JUDGE, REAL, FAKE, generator),
    }
    for kind, value in expected.items():
        found = terms(penalty=kind, penalty_weight=3.0)["real_fake_penalty"]
        assert found.item() == pytest.approx(3 * value.item())
        lazy = [terms(turn, penalty=kind, penalty_weight=3.0, penalty_every=4) for turn in range(8)]
        assert ["real_fake_penalty" in t for t in lazy] == [turn % 4 == 0 for turn in range(8)]
        mean = sum(t["real_fake_penalty"].item() for t in lazy if len(t) == 2) / 8
        assert kind != "r1" or mean == pytest.approx(3 * value.item())  # the same weight in the mean


def test_penalties_reach_the_weights_under_bf16():
    judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = Adversary(penalty="r1").discriminator_terms(judge, REAL.float(), FAKE.float(), Batch({}, 0, 0, 0))
    assert found["real_fake_penalty"].dtype == torch.float32
    gradients = torch.autograd.grad(found["real_fake_penalty"], [judge[0].weight, judge[2].weight])
    assert all(g.abs().sum() > 0 for g in gradients)


def test_what_a_discriminator_sees_is_changed_for_everybody_and_again_the_same_after_a_restart():
    seen = []

    def judge(x):
        seen.append(x.detach().clone())
        return JUDGE(x)

    for settings in ({"augment": "color,translation"}, {"instance_noise": 0.1}):
        seen.clear()
        for turn in (0, 0, 1):
            batch = Batch({}, 0, turn, 0)
            adversary = Adversary(**settings)
            adversary.discriminator_terms(judge, REAL, FAKE, batch)
            adversary.generator_loss(judge, FAKE, batch)
        pictures = torch.stack(seen).unflatten(0, (3, 3))
        assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
        assert not torch.allclose(pictures[0, 0], FAKE) and not torch.allclose(pictures[0, 0], pictures[0, 2])
    # The generator's gradient goes through the augmentation.
    fake = FAKE.clone().requires_grad_()
    Adversary(augment="color,translation,cutout").generator_loss(JUDGE, fake, Batch({}, 0, 0, 0)).backward()
    assert fake.grad.abs().sum() > 0


def test_unknown_augmentation_is_an_error_before_anything_runs():
    with pytest.raises(ConfigError, match="colour"):
        methods.build("cyclegan", {"augment": "colour"})


ADVERSARIAL = [name for name in methods.METHODS if "n_critic" in methods.settings(name)]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_every_method_with_discriminators_has_every_switch(name):
    assert {*configs.schema(Adversary.__init__)} <= {*methods.settings(name)}


def test_the_players_of_discriminators():
    small = {"width": 4, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1}
    plain = methods.build("cyclegan", small)
    assert {(p.lr, p.turns) for p in plain.players()} == {(2e-4, 1)}
    changed = methods.build("cyclegan", {**small, "n_critic": 5, "discriminator_lr": 4e-4, "spectral_norm": True})
    assert [(p.lr, p.turns) for p in changed.players()] == [(2e-4, 1), (4e-4, 5), (4e-4, 5)]
    for network in (changed.target_discriminator, changed.source_discriminator):
        assert network.config["spectral_norm"] and network.config["norm"] == "none"
    assert not plain.target_discriminator.config["spectral_norm"]


def test_groups_of_settings_are_part_of_the_schema():
    from typing import Annotated, Any

    class Group:
        def __init__(self, *, a: int = 1, b: str = "x") -> None: ...

    def function(*, c: float = 2.0, b: str = "other", **group: Annotated[Any, Options(Group)]) -> None: ...

    assert configs.defaults(function) == {"c": 2.0, "b": "other", "a": 1}
    assert configs.groups(function) == [Group]
    with pytest.raises(ConfigError, match="Did you mean 'a'"):
        configs.check(function, {"aa": 1}, where="here")
    with pytest.raises(ConfigError, match="'a' cannot be used"):
        configs.check(function, {"a": "one"}, where="here")
