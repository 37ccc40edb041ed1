"""A small network learns what a large one does, and is small."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from styleforge import data, engine, methods, rng, samples
from styleforge.adaptation import save_training, settings_for
from styleforge.errors import ConfigError, RepoNotFound
from styleforge.hub import WEIGHTS_NAME, PretrainedMixin
from styleforge.methods.base import Batch
from styleforge.models import DCGANGenerator, MicroASTGenerator, ResnetGenerator
from styleforge.quality import Quality
from styleforge.runs import TrainConfig
from styleforge.train import train

STUDENT = {"width": 8, "blocks": 1, "features": "random-16x"}


@pytest.fixture
def teacher(tmp_path):
    """A style that turns colors round and sharpens, with dropout, which only a network in training has."""
    torch.manual_seed(0)
    network = ResnetGenerator(width=4, blocks=1, dropout=True, downsample="blur", upsample="blur", border="reflect")
    torch.nn.init.normal_(network.head.weight, 0.0, 0.1)
    return str(network.save_pretrained(tmp_path / "teacher"))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(generator.integers(0, 255, (7, 7, 3), np.uint8))
        small.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def build(teacher, **changes):
    return methods.build("distill", {**STUDENT, "teacher": teacher, **changes})


def test_each_picture_is_answered_by_the_teacher_as_it_is_used(teacher):
    """But for where the grid of its steps, of 4 pixels, lies."""
    photos, network, method = torch.rand(2, 3, 16, 16) * 2 - 1, PretrainedMixin.from_pretrained(teacher), build(teacher)
    answers, seen = {}, set()
    for move in ((y, x) for y in range(4) for x in range(4)):
        answers[move] = engine.run(network, photos[:1].roll(move, (2, 3))).roll([-n for n in move], (2, 3))
    for turn in range(20):
        made = method.train().prepare({"target": photos}, rng.generator(turn))
        assert torch.equal(made["source"], photos) and not made["target"].requires_grad
        seen |= {move for move, answer in answers.items() if torch.equal(made["target"][:1], answer)}
    assert len(seen) > 8


def test_the_teacher_is_no_part_of_what_is_trained_stored_and_published(teacher, tmp_path):
    method = build(teacher)
    count = sum(parameter.numel() for parameter in method.generator.parameters())
    assert sum(parameter.numel() for parameter in method.parameters()) == count
    assert method.state_dict().keys() == {f"generator.{name}" for name in method.generator.state_dict()}
    told = {"method": "distill", "settings": {**STUDENT, "teacher": teacher}}
    training = save_training(method, method.generator.save_pretrained(tmp_path / "mini"), told)
    assert (training / "networks.safetensors").stat().st_size < 100
    assert json.loads((training / "train.json").read_text())["settings"]["teacher"] == "teacher"  # without its path


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (MicroASTGenerator(width=4), "takes image and style"),
        (DCGANGenerator(size=32, width=4, noise_size=8), "takes noise"),
        (ResnetGenerator(width=4, blocks=0, in_channels=1), "color picture"),
    ],
)
def test_who_cannot_teach(network, text, tmp_path):
    with pytest.raises(ConfigError, match=text):
        build(str(network.save_pretrained(tmp_path / "style")))


def test_a_teacher_that_does_not_exist():
    with pytest.raises(RepoNotFound, match="fastcut-monet.*--teacher"):
        build("fastcut-mone")


def test_a_run_teaches_as_its_style_does(teacher, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "teacher").rename(tmp_path / "run" / "style")
    photos = {"target": torch.rand(1, 3, 16, 16) * 2 - 1}
    made = [build(str(name)).prepare(photos, rng.generator(0)) for name in (tmp_path / "run", tmp_path / "run/style")]
    assert torch.equal(made[0]["target"], made[1]["target"])


def test_a_distilled_style_is_trained_on_when_its_teacher_is_named(teacher, tmp_path):
    """It does not tell in which folder the teacher was."""
    style = build(teacher).generator.save_pretrained(tmp_path / "mini")
    save_training(build(teacher), style, {"method": "distill", "settings": {**STUDENT, "teacher": teacher}})
    settings = settings_for(style)[1]
    with pytest.raises(RepoNotFound, match=r"teacher is not there \(teacher\).*--teacher"):
        build(**settings)
    assert build(**{**settings, "teacher": teacher})


def test_training_comes_near_to_the_teacher(teacher, photos, tmp_path):
    """As the run measures it by itself: SSIM and distance to what the teacher makes of pictures."""
    config = TrainConfig(
        method="distill",
        target=str(photos),
        output=str(tmp_path / "run"),
        settings={**STUDENT, "teacher": teacher},
        test_target=str(photos),
        size=32,
        steps=60,
        judge_every=60,
        ema=0.0,
    )
    train(config, on_step=lambda progress: None)
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = (entry for entry in log if "ssim" in entry)
    held = data.Images(None, photos, data.RandomCrop(32, (1.0, 1.0), flip=False)).domains
    pictures = samples.squares(build(teacher), held, 32, 64)
    begin = Quality(pictures=pictures, paired=True).unstyled
    assert measured["l1"] < 0.7 * begin["l1"] and measured["ssim"] > begin["ssim"] + 0.1


def test_every_weight_of_the_loss_counts(teacher):
    photos = {"target": torch.rand(1, 3, 32, 32) * 2 - 1}
    method = build(teacher, l1=2.0, content=0.0)
    other = build(teacher)
    other.load_state_dict(method.state_dict())
    terms, plain = (m.terms(Batch(m.prepare(photos, rng.generator(0)), 0, 0)) for m in (method, other))
    assert terms["l1"] == 2 * plain["l1"] and terms["content"] == 0 < plain["content"]


def test_the_student_has_a_megabyte_and_a_tenth_of_the_bundled_teachers_work(tmp_path):
    student = methods.build("distill", {"features": "random-16x"}).generator.eval()
    assert (student.save_pretrained(tmp_path / "mini") / WEIGHTS_NAME).stat().st_size <= 1e6

    def work(network):
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            network.to("meta")(torch.zeros(1, 3, 256, 256))
        return counter.get_total_flops()

    assert work(PretrainedMixin.from_pretrained("fastcut-monet", dtype=torch.float32)) > 15 * work(student)


def test_a_student_is_told_to_follow_a_picture_that_moves(teacher):
    photos = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    terms = []
    for weight in (0.0, 2.0, 4.0):
        torch.manual_seed(0)
        terms.append(build(teacher, shift_equivariance=weight).terms(Batch({"source": photos, "target": photos}, 0, 0)))
    assert "shift" not in terms[0] and 0 < terms[1]["shift"] < 8  # at most twice 2 times the range
    assert terms[2]["shift"].item() == pytest.approx(2 * terms[1]["shift"].item(), rel=1e-5)
    terms[1]["shift"].backward()
