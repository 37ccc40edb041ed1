"""Going on from a published style: what is taken from it, what stays, what is told to others."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import tiny
import torch
from hub_server import HubServer

from styleforge import ResnetGenerator, hub, lora, methods, weights
from styleforge.adaptation import (
    ENCODERS,
    MANIFEST,
    NETWORKS,
    RECIPE,
    TRAINED_BY,
    WARMUP,
    Adaptation,
    load_training,
    save_training,
    settings_for,
)
from styleforge.errors import ConfigError, CorruptFileError, NonFiniteWeights, RepoNotFound, WeightsMismatch
from styleforge.methods.base import Batch

REPO = "org/rain"


def build(name, changes=None, seed=0):
    """A tiny method with weights of its own."""
    torch.manual_seed(seed)
    sizes = {"size": tiny.SIZE_OF[name]} if name in tiny.SIZE_OF else {}
    return methods.build(name, {**tiny.settings(name), **sizes, **(changes or {})})


def batch_for(method, turn=0, count=2):
    """Random pictures, the same for the same turn."""
    network = method.styles()[""]
    side = max(32, network.config.get("size", 0) if network.capabilities.inputs == ("noise",) else 0)
    generator = torch.Generator().manual_seed(turn)
    names = ["target"] if method.data == "images" else ["source", "target"]
    batch = {name: torch.rand(count, 3, side, side, generator=generator) * 2 - 1 for name in names}
    return Batch(
        batch | ({"style_index": torch.zeros(count, dtype=torch.long)} if method.data == "styles" else {}), 0, turn
    )


def publish(method, folder, name=None, told=None):
    """The style of a method as a folder, with `training/` if the method's name is given."""
    for part, network in method.styles().items():
        network.save_pretrained(folder / part)
    if name:
        save_training(method, folder, {"method": name, "settings": tiny.settings(name), **(told or {})})
    return str(folder)


def play(method, optimizers, turn):
    """One turn of all players; their terms by player."""
    batch, found = batch_for(method, turn), {}
    for player in method.players():
        found[player.name] = terms = player.loss(batch)
        if terms:
            optimizers[player.name].zero_grad()
            torch.autograd.backward(sum(terms.values()), inputs=player.parameters())
            optimizers[player.name].step()
    return found


def optimizers_of(method):
    return {player.name: player.optimizer() for player in method.players()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def clone(state):
    return {key: tensor.clone() for key, tensor in state.items()}


@pytest.fixture(params=methods.METHODS)
def name(request):
    return request.param


@pytest.fixture
def cut(tmp_path):
    """A published style with `training/`, and the method that made it."""
    method = build("cut", seed=1)
    return publish(method, tmp_path / "cut", "cut", {"size": 64, "source": "/home/me/photos"}), method


# -- what is taken --


def test_every_method_goes_on_from_its_own_style(name, tmp_path):
    """Also with every option that applies, and under the settings that the style itself tells."""
    old = build(name, seed=1)
    base = publish(old, tmp_path / "style", name)
    word, settings = settings_for(base)
    assert word == name and settings == tiny.settings(name)
    new = build(name, settings)
    adapted = Adaptation(base=base, l2_start=1.0, style_perceptual=1.0, features="random-16x").apply(new)
    for part, network in adapted.styles().items():
        assert same(network.state_dict(), old.styles()[part].state_dict())
    assert adapted.adaptation.discriminator_warmup == 0
    optimizers = optimizers_of(adapted)
    for turn in range(2):
        found = play(adapted, optimizers, turn)
        assert all(torch.isfinite(term) for terms in found.values() for term in terms.values())
    terms = next(found[player.name] for player in adapted.players() if not player.judges)
    assert terms["l2_start"] > 0 and terms["style_perceptual"] > 0


def test_without_a_recipe_the_configuration_tells_the_settings(name, tmp_path):
    old = build(name, seed=1)
    base = publish(old, tmp_path / "style")
    word, settings = settings_for(base, method=name)
    small = {key: value for key, value in tiny.settings(name).items() if key not in old.styles()[""].config}
    adapted = Adaptation(base=base).apply(methods.build(word, {**small, **settings}))
    assert same(adapted.styles()[""].state_dict(), old.styles()[""].state_dict())
    judged = any(player.judges for player in adapted.players())
    assert adapted.adaptation.discriminator_warmup == (WARMUP if judged else 0)


def test_the_table_of_methods_is_right(name):
    kind = type(build(name).styles()[""]).__name__
    assert name in TRAINED_BY[kind]
    assert set().union(*TRAINED_BY.values()) == set(methods.METHODS)


def test_the_bundled_style_names_its_method_itself():
    word, settings = settings_for("fastcut-monet")
    assert word == "fastcut" and (settings["width"], settings["blocks"]) == (32, 6)
    assert settings.pop("size") == 128  # which belongs to the run
    adapted = Adaptation(base="fastcut-monet").apply(methods.build(word, settings))
    assert adapted.adaptation.state() == {"commit": None, "discriminator_warmup": 0}  # it brings its discriminators


def test_a_method_must_be_named_where_several_could(tmp_path):
    base = publish(build("cut"), tmp_path / "style")
    with pytest.raises(ConfigError, match="Several methods.*cut, fastcut, cyclegan, pix2pix.*--method"):
        settings_for(base)
    with pytest.raises(ConfigError, match="ugatit does not train this style.*ResnetGenerator"):
        settings_for(base, method="ugatit")
    assert settings_for(base, method="pix2pix")[1]["generator"] == "resnet"


def test_the_recipe_tells_settings_and_size_but_no_folders(cut):
    base, _ = cut
    word, settings = settings_for(base)
    assert word == "cut" and settings.pop("size") == 64 and settings == tiny.settings("cut")
    assert "/home" not in (Path(base) / "training" / "train.json").read_text()


def test_a_feature_network_of_this_machine_is_not_told(tmp_path):
    base = publish(
        build("ugatit"), tmp_path / "style", "ugatit", {"settings": {"features": "/home/me/vgg", "blocks": 2}}
    )
    assert settings_for(base) == ("ugatit", {"blocks": 2})


def test_animegan_does_not_paint_photographs_again(tmp_path):
    base = publish(build("animegan"), tmp_path / "style", "animegan")
    assert settings_for(base)[1]["warmup"] == 0


def test_discriminators_heads_and_whatever_else_come_along(name, tmp_path):
    old, new = build(name, seed=1), build(name, seed=2)
    folder = tmp_path / "style"
    publish(old, folder, name)
    stored = weights.read(folder / "training" / "networks.safetensors")
    assert load_training(new, folder)
    state = new.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in stored.items())
    rest = set(old.state_dict()) - set(stored)
    styles = [key for style in old.styles().values() for key in style.state_dict()]
    others = [key for key in rest if "history" in key or "adversary" in key]
    assert len(rest) == len(styles) + len(others)


def test_pictures_of_the_old_domain_do_not_come_along(tmp_path):
    method = build("cyclegan")
    play(method, optimizers_of(method), 0)
    assert method.target_history.images.numel()
    publish(method, tmp_path / "style", "cyclegan")
    assert not [k for k in weights.read(tmp_path / "style" / "training" / "networks.safetensors") if "history" in k]


def test_a_run_stands_for_its_style(cut, tmp_path):
    base, old = cut
    (tmp_path / "run").mkdir()
    shutil.move(base, tmp_path / "run" / "style")
    new = build("cut", seed=2)
    adapted = Adaptation(base=str(tmp_path / "run")).apply(new)
    assert same(new.state_dict(), old.state_dict()) and adapted.adaptation.discriminator_warmup == 0


def test_a_style_may_get_detail_and_is_at_first_what_it_was(tmp_path):
    old = build("cut")
    base = publish(old, tmp_path / "s")
    grown = build("cut", {"detail": True}, seed=2)
    adapted = Adaptation(base=base).apply(grown)
    image = batch_for(grown)["source"]
    with torch.no_grad():
        assert torch.equal(grown.generator(image), old.generator(image))
    optimizers, before = optimizers_of(adapted), grown.generator.detail.conv2.weight.clone()
    for turn in (WARMUP, WARMUP + 1):
        play(adapted, optimizers, turn)
    assert not torch.equal(grown.generator.detail.conv2.weight, before)

    again = build("cut", {"detail": True}, seed=3)  # what has it keeps what it learnt
    Adaptation(base=publish(grown, tmp_path / "t")).apply(again)
    assert same(again.generator.state_dict(), grown.generator.state_dict())
    with pytest.raises(ConfigError, match="detail = True"):
        Adaptation(base=str(tmp_path / "t")).apply(build("cut"))


def test_training_of_another_method_is_left_aside(tmp_path):
    base = publish(
        build("cyclegan", {"upsample": "blur", "downsample": "blur", "border": "reflect"}), tmp_path / "s", "cyclegan"
    )
    adapted = Adaptation(base=base).apply(build("cut"))
    assert adapted.adaptation.discriminator_warmup == WARMUP


def sign(base):
    """Let the manifest agree with what is there now."""
    folder = Path(base) / "training"
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (NETWORKS, RECIPE)}
    (folder / MANIFEST).write_text(json.dumps({"sha256": digests}))


def test_a_recipe_of_a_later_version_is_left_aside(cut):
    base, _ = cut
    (Path(base) / "training" / "train.json").write_text('{"method": "later"}')
    sign(base)
    assert Adaptation(base=base).apply(build("cut")).adaptation.discriminator_warmup == WARMUP


@pytest.fixture
def fresh(hub: HubServer, tmp_path, monkeypatch):
    hub.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub


def test_from_the_hub_all_comes_from_one_commit(fresh, cut, tmp_path):
    base, old = cut
    hub.push_folder(base, REPO)
    assert settings_for(REPO) == settings_for(base)
    new = build("cut", seed=2)
    adaptation = Adaptation(base=REPO)
    adaptation.apply(new)
    assert same(new.state_dict(), old.state_dict())
    assert adaptation.state()["commit"] == huggingface_hub.HfApi().repo_info(REPO).sha


def test_a_revision_holds_for_all_networks(fresh, tmp_path):
    old, newer = build("cyclegan", seed=1), build("cyclegan", seed=2)
    hub.push_folder(publish(old, tmp_path / "old", "cyclegan"), REPO)
    commit = huggingface_hub.HfApi().repo_info(REPO).sha
    hub.push_folder(publish(newer, tmp_path / "newer", "cyclegan"), REPO)
    method = build("cyclegan", seed=3)
    adaptation = Adaptation(base=REPO, revision=commit)
    adaptation.apply(method)
    assert same(method.state_dict(), old.state_dict()) and adaptation.commit == commit


def test_from_the_hub_without_training(fresh, tmp_path):
    old = build("cyclegan", seed=1)
    hub.push_folder(publish(old, tmp_path / "style"), REPO)
    new = build("cyclegan", seed=2)
    adapted = Adaptation(base=REPO).apply(new)
    assert adapted.adaptation.discriminator_warmup == WARMUP
    assert same(new.to_source.state_dict(), old.to_source.state_dict())


# -- bad input --


def test_a_style_of_another_architecture(tmp_path):
    base = publish(build("ugatit"), tmp_path / "style")
    with pytest.raises(ConfigError, match="another architecture.*UGATITGenerator.*ResnetGenerator.*with ugatit"):
        Adaptation(base=base).apply(build("cut"))
    base = publish(build("cut", {"blocks": 3}), tmp_path / "three")
    with pytest.raises(ConfigError, match=r"another architecture.*blocks = 3.*allowed: 2.*Set blocks"):
        Adaptation(base=base).apply(build("cut"))


def test_a_style_without_a_way_back(tmp_path):
    ResnetGenerator(width=4, blocks=2, upsample="resize").save_pretrained(tmp_path / "style")
    with pytest.raises(ConfigError, match="'reverse', which this style does not have"):
        Adaptation(base=str(tmp_path / "style")).apply(build("cyclegan"))


def test_discriminators_of_other_settings(cut):
    with pytest.raises(WeightsMismatch, match=r"do not fit the settings.*discriminator.*training/train.json"):
        Adaptation(base=cut[0]).apply(build("cut", {"discriminator_width": 8}))


@pytest.mark.parametrize("file", ["networks.safetensors", "train.json"])
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1] + b" ")])
def test_damaged_training(cut, file, damage):
    damage(Path(cut[0]) / "training" / file)
    with pytest.raises(CorruptFileError, match=file):
        Adaptation(base=cut[0]).apply(build("cut"))


def test_discriminators_that_are_not_finite(cut):
    path = Path(cut[0]) / "training" / NETWORKS
    tensors = weights.read(path)
    tensors["discriminator.layers.0.bias"][0] = torch.inf
    path.write_bytes(safetensors.torch.save(tensors))
    sign(cut[0])
    with pytest.raises(NonFiniteWeights, match="discriminator"):
        Adaptation(base=cut[0]).apply(build("cut"))


def test_a_manifest_that_says_nothing(cut):
    (Path(cut[0]) / "training" / "manifest.json").write_text("[]")
    with pytest.raises(CorruptFileError, match=r"train.json"):
        Adaptation(base=cut[0]).apply(build("cut"))


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="Did you mean 'freeze_d'"):
        Adaptation(base="x", freezed=1)
    with pytest.raises(ConfigError, match="lora with l2_start, early_lr"):
        Adaptation(base="x", lora=4, l2_start=1.0, early_lr=0.5)
    with pytest.raises(RepoNotFound):
        Adaptation(base="no-such-style").apply(build("cut"))


def test_nothing_is_written_when_weights_are_not_finite(tmp_path):
    method = build("cut")
    with torch.no_grad():
        method.discriminator.layers[0].weight[0] = torch.nan
    with pytest.raises(NonFiniteWeights):
        save_training(method, tmp_path / "style", {"method": "cut"})
    assert not (tmp_path / "style" / "training").exists()


# -- what stays --


@pytest.mark.parametrize(
    "name", ["cut", "cyclegan", "ugatit", "pix2pix", "dcgan", "stylegan2", "animegan", "multiscale"]
)
def test_new_discriminators_learn_alone_at_first(name, tmp_path):
    adapted = Adaptation(base=publish(build(name, seed=1), tmp_path / "s"), discriminator_warmup=2, l2_start=1.0).apply(
        build(name)
    )
    optimizers, before = optimizers_of(adapted), clone(adapted.state_dict())
    for turn in range(3):
        found = play(adapted, optimizers, turn)
        for player in adapted.players():
            assert bool(found[player.name]) == (player.judges or turn == 2)
        if turn == 1:
            for style in adapted.styles().values():
                assert not any(p.grad is not None and p.grad.abs().sum() > 0 for p in style.parameters())
    after = adapted.state_dict()
    assert any(not torch.equal(after[k], before[k]) for k in after if "start_" not in k)


def test_a_frozen_encoder_stays(name, tmp_path):
    old = build(name, seed=1)
    base, kind = publish(old, tmp_path / "style"), type(old.styles()[""]).__name__
    adaptation = Adaptation(base=base, freeze="encoder", discriminator_warmup=0, lr_scale=10.0)
    if kind not in ENCODERS:
        with pytest.raises(ConfigError, match="no encoder"):
            adaptation.apply(build(name))
        return
    adapted = adaptation.apply(build(name))
    parts = tuple(f"{part}." for part in ENCODERS[kind])
    before = [{k: p.clone() for k, p in style.named_parameters()} for style in adapted.styles().values()]
    play(adapted, optimizers_of(adapted), 0)
    for style, was in zip(adapted.styles().values(), before, strict=True):
        moved = {k for k, p in style.named_parameters() if not torch.equal(p, was[k])}
        assert moved and not [k for k in moved if k.startswith(parts)]
        assert any(k.startswith(parts) for k in was)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_lowest_layers_of_discriminators_stay(tmp_path, spectral_norm):
    changes = {"spectral_norm": spectral_norm}
    base = publish(build("cyclegan", changes, seed=1), tmp_path / "style")
    adapted = Adaptation(base=base, freeze_d=2, lr_scale=10.0).apply(build("cyclegan", changes))
    for d in (adapted.method.target_discriminator, adapted.method.source_discriminator):
        convs = [m for m in d.layers if isinstance(m, torch.nn.Conv2d)]
        frozen = [not any(p.requires_grad for p in conv.parameters()) for conv in convs]
        assert frozen == [True, True, *[False] * (len(convs) - 2)]
    with pytest.raises(ConfigError, match="leaves nothing"):
        Adaptation(base=base, freeze_d=4).apply(build("cyclegan", changes))


@pytest.mark.parametrize("name", ["ugatit", "stylegan2", "dcgan", "multiscale", "animegan"])
def test_lowest_layers_can_be_frozen_everywhere(name, tmp_path):
    base = publish(build(name), tmp_path / "style")
    adapted = Adaptation(base=base, freeze_d=1).apply(build(name))
    for player in adapted.players():
        trained, total = (
            sum(p.numel() for p in found)
            for found in (player.parameters(), [p for n in player.networks for p in n.parameters()])
        )
        assert (0 < trained < total) if player.judges else trained > 0


def test_the_distance_from_the_start(tmp_path):
    base = publish(build("cut", seed=1), tmp_path / "style")
    adapted = Adaptation(base=base, l2_start=3.0, discriminator_warmup=0).apply(build("cut"))
    generator = adapted.method.generator
    (player,) = [p for p in adapted.players() if not p.judges]
    assert player.loss(batch_for(adapted))["l2_start"] == 0
    with torch.no_grad():
        generator.head.weight += 0.1
    term = player.loss(batch_for(adapted))["l2_start"]
    assert term.item() == pytest.approx(3 / 2 * 0.01 * generator.head.weight.numel(), rel=1e-4)
    (gradient,) = torch.autograd.grad(term, generator.head.weight)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.3))


def test_important_parameters_are_held_harder(tmp_path):
    base = publish(build("cut", seed=1), tmp_path / "style")
    adapted = Adaptation(base=base, ewc=2.0, discriminator_warmup=0).apply(build("cut"))
    (player,) = [p for p in adapted.players() if not p.judges]
    assert player.loss(batch_for(adapted))["ewc"].isnan()  # not to be forgotten
    parameters = list(adapted.method.generator.parameters())
    gradients = []
    for turn in range(2):
        loss = sum(adapted.method.generator_terms(batch_for(adapted, turn)).values())
        gradients.append(torch.autograd.grad(loss, parameters))
    adapted.estimate(batch_for(adapted, turn) for turn in range(2))
    squares = [(a.square() + b.square()) for a, b in zip(*gradients, strict=True)]
    mean = torch.cat([s.flatten() for s in squares]).mean()
    found = [adapted.get_buffer(f"importance_{i}") for i in range(len(parameters))]
    for square, importance in zip(squares, found, strict=True):
        torch.testing.assert_close(importance, square / mean, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        parameters[-1] += 0.5
    term = player.loss(batch_for(adapted))["ewc"].item()
    assert term == pytest.approx(0.25 * found[-1].sum().item(), rel=1e-4)


def test_halves_learn_at_rates_of_their_own(cut):
    base, _ = cut
    adapted = Adaptation(base=base, lr_scale=0.5, early_lr=0.1).apply(build("cut"))
    judge, player = adapted.players()
    assert (judge.lr, player.lr) == (1e-4, 1e-4) and judge.groups is None
    (early, slow), (_, full) = player.groups
    assert (slow, full) == (0.1, 1.0)
    generator = list(adapted.method.generator.parameters())
    assert [id(p) for p in early] == [id(p) for p in generator[: len(early)]]
    assert 0.25 < sum(p.numel() for p in early) / sum(p.numel() for p in generator) <= 0.5
    plain = next(p for p in adapted.method.players() if not p.judges)
    assert {id(p) for p in player.parameters()} == {id(p) for p in plain.parameters()}
    assert [group["lr"] for group in player.optimizer().param_groups] == pytest.approx([1e-5, 1e-4])


@pytest.mark.parametrize(
    ("name", "changes", "passes"), [("cut", {"identity": False}, 1), ("cyclegan", {"identity": 0}, 3)]
)
def test_the_style_term_takes_the_pictures_that_are_there(name, changes, passes, tmp_path):
    """CycleGAN goes there, and back from the other side; and once more, because it leaves fakes without their graph."""
    base = publish(build(name, seed=1), tmp_path / "style")
    method = build(name, changes)
    options = {"style_perceptual": 2.0, "features": "random-16x", "discriminator_warmup": 0}
    adapted, seen = Adaptation(base=base, **options).apply(method), []
    method.styles()[""].register_forward_hook(lambda *_: seen.append(1))
    (player,) = [p for p in adapted.players() if not p.judges]
    terms = player.loss(batch_for(adapted))
    assert len(seen) == passes
    (gradient,) = torch.autograd.grad(terms["style_perceptual"], method.styles()[""].head.weight)
    assert gradient.abs().sum() > 0


def test_a_style_of_ugatit_with_fused_scales(tmp_path):
    base = publish(build("ugatit", {"fusion": "pyramid"}, seed=1), tmp_path / "style")
    word, settings = settings_for(base)
    assert settings["fusion"] == "pyramid"
    changes = {**tiny.settings("ugatit"), **settings, "size": 32, "style": 1.0}
    adapted = Adaptation(base=base).apply(methods.build(word, changes))
    assert "style" in play(adapted, optimizers_of(adapted), WARMUP)["generator"]


# -- adapters --


@pytest.mark.parametrize("name", ["cut", "cyclegan", "adain", "fast_style"])
def test_an_adapter_learns_in_place_of_the_style(name, tmp_path):
    old = build(name, seed=1)
    base = publish(old, tmp_path / "style")
    adapted = Adaptation(base=base, lora=2, discriminator_warmup=0, lr_scale=10.0).apply(build(name))
    play(adapted, optimizers_of(adapted), 0)
    play(adapted, optimizers_of(adapted), 1)
    adapted.save_adapters(adapted.styles(), tmp_path / "new")
    for part, network in adapted.styles().items():
        original = hub.PretrainedMixin.from_pretrained(base, subfolder=part)
        loaded = lora.merge(lora.load_adapter(original, tmp_path / "new" / part / "adapter"))
        assert same(loaded.state_dict(), lora.merge(network).state_dict())
        assert not same(loaded.state_dict(), old.styles()[part].state_dict())
    facts = json.loads((tmp_path / "new" / "adapter" / "adapter.json").read_text())
    assert facts["base"]["name"] == base


def test_without_lora_no_adapters_are_written(cut, tmp_path):
    adapted = Adaptation(base=cut[0]).apply(build("cut"))
    adapted.save_adapters(adapted.styles(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- killed and resumed --


@pytest.mark.parametrize(
    "options",
    [{"l2_start": 1.0, "ewc": 1.0, "discriminator_warmup": 2}, {"lora": 2}, {"freeze": "encoder", "early_lr": 0.5}],
)
def test_a_run_goes_on_exactly_although_the_style_is_gone(cut, options):
    base, _ = cut

    def begin():
        adapted = Adaptation(base=base, lr_scale=10.0, **options).apply(build("cut"))
        if adapted.adaptation.ewc:
            adapted.estimate(batch_for(adapted, turn) for turn in range(2))
        return adapted

    straight = begin()
    optimizers = optimizers_of(straight)
    for turn in range(5):
        play(straight, optimizers, turn)
        if turn == 2:
            state, facts = clone(straight.state_dict()), json.loads(json.dumps(straight.adaptation.state()))
            moments = copy.deepcopy({name: optimizer.state_dict() for name, optimizer in optimizers.items()})
    shutil.rmtree(base)
    resumed = Adaptation(base=base, lr_scale=10.0, **options).apply(build("cut", seed=5), resume=True)
    resumed.load_state_dict(state)
    resumed.adaptation.restore(facts)
    optimizers = optimizers_of(resumed)
    for key, optimizer in optimizers.items():
        optimizer.load_state_dict(moments[key])
    for turn in range(3, 5):
        play(resumed, optimizers, turn)
    assert same(resumed.state_dict(), straight.state_dict())
    assert resumed.adaptation.state() == straight.adaptation.state()


def test_training_of_an_adapted_run_is_that_of_its_method(cut, tmp_path):
    """Anchors and adapters are not published, so that the next one can go on from there as from any style."""
    adapted = Adaptation(base=cut[0], l2_start=1.0).apply(build("cut"))
    play(adapted, optimizers_of(adapted), 0)
    publish(adapted, tmp_path / "next", "cut")
    again = build("cut", seed=3)
    assert load_training(again, tmp_path / "next")
    assert same(again.discriminator.state_dict(), adapted.method.discriminator.state_dict())
    assert again.heads[0][0].weight.equal(adapted.method.heads[0][0].weight)
    assert weights.read(tmp_path / "next" / "training" / "networks.safetensors").keys() == {
        k for k in again.state_dict() if not k.startswith("generator.")
    }
