"""How discriminators are kept in check: every switch does what it says, wherever a method has a discriminator."""

import itertools

import pytest
import safetensors.torch
import tiny
import torch
from torch import nn

from styleforge import configs, methods
from styleforge.augment import CHANGES, MEMORY, AdaptiveAugment, diff_augment
from styleforge.configs import Options
from styleforge.errors import ConfigError
from styleforge.losses import discriminator_loss, generator_loss, gradient_penalty, r1_penalty
from styleforge.methods.base import Adversary, Batch
from styleforge.rng import generator

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
    with pytest.raises(ConfigError, match="colors"):
        methods.build("cyclegan", {"augment": "colors"})


ADVERSARIAL = [name for name in methods.METHODS if "n_critic" in methods.settings(name)]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_every_method_with_discriminators_has_every_switch(name):
    assert {*configs.schema(Adversary.__init__)} <= {*methods.settings(name)}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_every_method_with_discriminators_may_have_a_projected_one_of_target_pictures(name):
    torch.manual_seed(0)
    side = max(32, tiny.SIZE_OF.get(name, 32))
    size = {"size": side} if "size" in methods.settings(name) else {}
    known = {**tiny.settings(name), **size, "features": "random-16x", "augment": ""}
    method = methods.build(name, {**known, "projected": 3.0})
    images = {key: torch.rand(2, 3, side, side) * 2 - 1 for key in ("source", "target")}
    batch = Batch(images, 0, 1, 0)
    found, seen = {}, []
    method.adversary.projection.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for player in method.players():
        terms = player.loss(batch)
        heads = {id(p) for p in method.adversary.projection.parameters()} & {id(p) for p in player.parameters()}
        assert bool(heads) == ("projected" in terms)
        assert not ("projected" in terms and "fool_projected" in terms)
        found |= terms
    assert {"projected", "fool_projected"} <= {*found}
    assert any(torch.equal(pictures, images["target"]) for pictures in seen)
    made = method.adversary.projection.moved(batch.get("fake", seen[-1]), batch.generator("projected"))
    if "fake" in batch:
        expected = -3 * sum(x.mean().item() for x in made) / 4
        assert found["fool_projected"].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    plain = methods.build(name, known)
    assert plain.adversary.projection is None and plain.adversary.heads == ()


def test_the_players_of_discriminators():
    small = {"width": 4, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1}
    plain = methods.build("cyclegan", small)
    assert {(p.lr, p.turns) for p in plain.players()} == {(2e-4, 1)}
    changed = methods.build("cyclegan", {**small, "n_critic": 5, "discriminator_lr": 4e-4, "spectral_norm": True})
    assert [(p.lr, p.turns) for p in changed.players()] == [(2e-4, 1), (4e-4, 5), (4e-4, 5)]
    for network in (changed.target_discriminator, changed.source_discriminator):
        assert network.config["spectral_norm"] and network.config["norm"] == "none"
    assert not plain.target_discriminator.config["spectral_norm"]


# -- adaptive augmentation --


def adaptive(probability=0.0, policy="color", target=0.6, images=1000):
    ada = AdaptiveAugment(policy, target, images)
    ada.probability.fill_(probability)
    return ada


def test_without_a_target_nothing_adapts_and_nothing_is_stored():
    assert Adversary(augment="color").state_dict() == {}
    method = methods.build("cyclegan", tiny.settings("cyclegan"))
    assert not [key for key in method.state_dict() if key.startswith("adversary")]
    assert {player.after for player in method.players()} == {None}


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.9, 1.0])
def test_each_picture_is_changed_with_that_probability(probability):
    pictures = torch.rand(4000, 3, 4, 4, generator=generator("x"))
    seen = adaptive(probability)(pictures, generator("y"))
    changed = (seen != pictures).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(probability, abs=0.03 * (0 < probability < 1))
    draws = generator("y")
    chosen = torch.rand(4000, generator=draws) < probability
    everything = diff_augment(pictures, "color", draws)
    assert torch.equal(seen, torch.where(chosen[:, None, None, None], everything, pictures))


def test_words_are_those_of_augment_or_all():
    assert Adversary(ada_target=0.6).ada.policy == ",".join(CHANGES)
    assert Adversary(ada_target=0.6, augment="cutout").ada.policy == "cutout"


def turn(adversary, real_logit, number, count=4):
    """A turn in which all real pictures are judged alike."""
    real, fake = torch.ones(count, 3, 4, 4), torch.zeros(count, 3, 4, 4)

    def judge(images):
        return torch.full((count, 1, 2, 2), real_logit)

    adversary.discriminator_terms(judge, real, fake, Batch({}, 0, number, 0))
    adversary.player("d", (), lambda batch: {}, 1e-4).after()
    return adversary.ada.probability.item()


def test_the_probability_follows_overfitting_up_and_down():
    adversary, overfitting, expected = Adversary(adversarial="hinge", ada_target=0.6, ada_images=400), 0.0, 0.0
    found, wanted = [], []
    for number in range(400):
        logit = 3.0 if number < 200 else -0.1
        found.append(turn(adversary, logit, number))
        overfitting += (4 / MEMORY) * ((1 if logit > 0 else -1) - overfitting)
        expected = min(1.0, max(0.0, expected + (4 / 400) * (1 if overfitting > 0.6 else -1)))
        wanted.append(expected)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert found[0] == 0 and max(found) == 1 and found[-1] == 0
    assert {round(abs(b - a) * 100) for a, b in itertools.pairwise(found)} == {0, 1}  # 4 of 400 pictures


@pytest.mark.parametrize(
    ("settings", "below", "above"),
    [
        ({}, 0.49, 0.51),
        ({"smooth": 0.2}, 0.39, 0.41),
        ({"adversarial": "hinge", "smooth": 0.2}, -0.01, 0.01),
        ({"adversarial": "vanilla"}, -0.01, 0.01),
        ({"adversarial": "nonsaturating", "smooth": 0.2}, -0.42, -0.4),
    ],
)
def test_the_middle_is_what_tells_nothing(settings, below, above):
    for logit, sign in ((below, -1), (above, 1)):
        adversary = Adversary(ada_target=0.6, **settings)
        turn(adversary, logit, 0)
        assert adversary.ada.overfitting.item() == pytest.approx(sign * 4 / MEMORY)


def test_a_critic_has_no_middle():
    with pytest.raises(ConfigError, match="Leave out ada_target"):
        methods.build("cyclegan", {"adversarial": "wgan", "ada_target": 0.6})


def test_scales_count_alike_and_nothing_is_lost_to_a_bad_logit():
    ada = adaptive()
    ada.watch([torch.ones(2, 1, 8, 8), -torch.ones(2, 1, 1, 1), torch.full((2, 1), torch.nan)], 0.0, 2)
    assert ada.tally.tolist() == [0, 2, 2]


def test_a_gradient_reaches_the_generator_through_it():
    fake = torch.rand(64, 3, 8, 8, generator=generator("x"), dtype=torch.float64).requires_grad_()
    adversary = Adversary(ada_target=0.6, augment="cutout")
    adversary.ada.probability.fill_(0.5)
    adversary.generator_loss(JUDGE, fake, Batch({}, 0, 0, 0)).backward()
    whole = (fake.grad != 0).flatten(1).all(1)
    assert 0.3 < whole.float().mean() < 0.7 and (fake.grad != 0).flatten(1).any(1).all()  # some are cut
    small = torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=generator("x")).requires_grad_()
    ada = adaptive(0.5, "color,translation")
    assert torch.autograd.gradcheck(lambda x: ada(x, generator("a")), small, fast_mode=True)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_all_discriminators_share_one_probability_that_moves_by_pictures(name):
    torch.manual_seed(0)
    side = tiny.SIZE_OF.get(name, 32)
    size = {"size": side} if "size" in methods.settings(name) else {}
    settings = {**tiny.settings(name), **size, "ada_target": 0.6, "ada_images": 100}
    method = methods.build(name, settings).train()
    ada = method.adversary.ada
    assert [key for key in method.state_dict() if "probability" in key] == ["adversary.ada.probability"]
    ada.overfitting.fill_(1.0)  # so that it is above its target for a while
    for number in range(3):
        tensors = {domain: torch.rand(2, 3, side, side) for domain in ("source", "target")}
        batch = Batch(tensors, 0, number, 0)
        for player in method.players():
            player.loss(batch)
            if player.after:
                player.after()
        assert ada.probability.item() == pytest.approx(0.02 * (number + 1))
        assert not ada.tally.any()


def test_a_stopped_run_goes_on_with_the_same_probability():
    def new():
        return Adversary(adversarial="hinge", ada_target=0.3, ada_images=300)

    logits = [2.0, -1.0, 2.0, 2.0, 2.0] * 30
    whole, first, second = new(), new(), new()
    expected = [turn(whole, logit, number) for number, logit in enumerate(logits)]
    assert 0 < expected[99] != expected[-1]
    found = [turn(first, logit, number) for number, logit in enumerate(logits[:100])]
    second.load_state_dict(safetensors.torch.load(safetensors.torch.save(first.state_dict())))
    found += [turn(second, logit, 100 + number) for number, logit in enumerate(logits[100:])]
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))


def test_what_is_drawn_depends_on_the_turn_alone():
    seen = []

    def judge(x):
        seen.append(x.detach())
        return JUDGE(x)

    for number in (0, 0, 1):
        adversary = Adversary(ada_target=0.6)
        adversary.ada.probability.fill_(0.5)
        real = torch.rand(8, 3, 8, 8, dtype=torch.float64, generator=generator("x"))
        adversary.discriminator_terms(judge, real, real, Batch({}, 0, number, 0))
    first, again, other = torch.stack(seen).unflatten(0, (3, 2)).unbind(0)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])  # fakes are changed in their own way


def test_processes_move_as_one_with_the_joint_batch(monkeypatch):
    halves, joint = [adaptive(target=0.2), adaptive(target=0.2)], adaptive(target=0.2)
    for number in range(50):
        logits = torch.randn(8, 1, 4, 4, generator=generator(number)) + 0.5
        joint.watch([logits], 0.0, 8)
        for ada, part in zip(halves, logits.split(4), strict=True):
            ada.watch([part], 0.0, 4)
        total = halves[0].tally + halves[1].tally
        joint.move()
        with monkeypatch.context() as patch:
            patch.setattr("torch.distributed.is_initialized", lambda: True)
            patch.setattr("torch.distributed.all_reduce", lambda tally, total=total: tally.copy_(total))
            for ada in halves:
                ada.move()
        for a, b, c in zip(*(ada.buffers() for ada in (*halves, joint)), strict=True):
            assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-6)
    assert joint.probability > 0


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
