"""Damage on purpose, and a network that learns to undo it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from styleforge import data, methods, rng, samples
from styleforge.damage import HOLE, KINDS, damage
from styleforge.errors import ConfigError
from styleforge.methods.base import Batch
from styleforge.models import RestorationUNet
from styleforge.quality import Quality
from styleforge.runs import TrainConfig
from styleforge.train import train

SKY = torch.linspace(-0.8, 0.8, 32).expand(2, 3, 32, 32).clone()


def rough(image: torch.Tensor) -> float:
    return float(image.diff(dim=2).abs().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage_changes_each_picture_in_its_own_way(kind):
    made = damage(SKY, [kind], rng.generator(0))
    assert made.shape == SKY.shape and made.abs().max() <= 1
    assert torch.equal(made, damage(SKY, [kind], rng.generator(0)))
    if kind != "low_resolution":  # which is not by chance
        assert not torch.equal(made[0], made[1])
    edges = torch.zeros(1, 3, 32, 32)
    edges[..., 7:19, 9:22] = 1
    assert (damage(edges, [kind], rng.generator(1)) - edges).abs().mean() > 0.003


def test_what_each_damage_does():
    assert damage(SKY, ["dark"], rng.generator(0)).mean() < SKY.mean() - 0.2
    assert rough(damage(SKY, ["noise"], rng.generator(0))) > 2 * rough(SKY)
    checks = (torch.arange(32) // 2 % 2 * 2.0 - 1).view(1, 1, 32, 1).expand(1, 3, 32, 32)
    assert rough(damage(checks, ["blur"], rng.generator(0))) < 0.8 * rough(checks)
    for kind, least, most in (("hole", 0.02, 0.7), ("scratch", 0.005, 0.25)):
        holes = damage(SKY, [kind], rng.generator(0))
        missing = (holes == torch.tensor(HOLE).view(1, 3, 1, 1)).all(1, keepdim=True).expand_as(SKY)
        assert least < missing.float().mean() < most and torch.equal(holes[~missing], SKY[~missing])


def test_the_order_of_words_is_not_that_of_damage():
    a, b = (damage(SKY, kinds, rng.generator(0)) for kinds in (["noise", "dark"], ["dark", "noise"]))
    assert torch.equal(a, b)


@pytest.mark.parametrize(("kinds", "text"), [(["nois"], "noise"), ([], "nothing to restore")])
def test_kinds_that_cannot_be(kinds, text):
    with pytest.raises(ConfigError, match=text):
        methods.build("restore", {"kinds": kinds})


def test_a_residual_network_begins_with_the_picture():
    torch.manual_seed(0)
    network = RestorationUNet(width=4, levels=1, blocks=1).eval()
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert (network(image) - image).abs().mean() < 0.1
    assert network(image + 5).max() <= 1 < network.train()(image + 5).max(), "clamped in use, not in training"
    assert torch.allclose(network(image / 2), network(image) / 2, atol=1e-6), "without biases it scales"


@pytest.fixture
def clean(tmp_path):
    """Soft shapes, in which noise is foreign."""
    folder = tmp_path / "clean"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(generator.integers(0, 255, (5, 5, 3), np.uint8))
        small.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_training_removes_noise(clean, tmp_path):
    """As the run measures it by itself, on pictures that are damaged the same at every look."""
    config = TrainConfig(
        method="restore",
        target=str(clean),
        output=str(tmp_path / "run"),
        settings={"width": 8, "levels": 1, "blocks": 1, "lr": 3e-3},
        test_target=str(clean),
        size=32,
        batch_size=4,
        steps=120,
        judge_every=120,
        ema=0.0,
    )
    train(config, on_step=lambda progress: None)
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = (entry for entry in log if "ssim" in entry)
    held = data.Images(None, clean, data.RandomCrop(32, (1.0, 1.0), flip=False)).domains
    squares = samples.squares(methods.build("restore", {}), held, 32, 64)
    unstyled = Quality(pictures=squares, paired=True).unstyled
    assert measured["l1"] < 0.8 * unstyled["l1"]
    assert measured["ssim"] > unstyled["ssim"] + 0.1


def test_with_a_discriminator_there_are_two_players():
    method = methods.build("restore", {"gan": 1.0, "width": 4, "levels": 1, "discriminator_width": 4})
    assert [player.name for player in method.players()] == ["d", "generator"]
    batch = Batch(method.prepare({"target": torch.rand(2, 3, 32, 32) * 2 - 1}, rng.generator(0)), 0, 0, 0)
    judged, made = (player.loss(batch) for player in method.players())
    assert judged.keys() == {"real_fake"} and made.keys() == {"l1", "frequency", "fool"}


def test_a_projected_discriminator_needs_another_one():
    with pytest.raises(ConfigError, match=r"projected = 1 without gan.*--gan 1"):
        methods.build("restore", {"width": 4, "projected": 1.0, "features": "random-16x"})
