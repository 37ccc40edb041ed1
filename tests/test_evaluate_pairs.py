"""Evaluations where each picture has its right answer: known answers, damage that all share, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from test_evaluate import paint

from styleforge import cards, cli, evaluate, images, rng
from styleforge.card.measured import PROTOCOL
from styleforge.damage import damage
from styleforge.errors import ConfigError, DataError
from styleforge.evaluate import figures, studio, task, told
from styleforge.evaluate.measures import MOST
from styleforge.metrics.psnr import psnr
from styleforge.metrics.ssim import ssim
from styleforge.models import AdaINGenerator, DCGANGenerator, RestorationUNet
from styleforge.pipeline import StylePipeline

SIZE, COUNT = 64, 8


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Inputs, their right answers, pictures halfway, and a restoration."""
    root = tmp_path_factory.mktemp("pairs")
    paint(root / "answers", COUNT, "photos")
    for folder in ("inputs", "halfway"):
        (root / folder).mkdir()
    for number in range(COUNT):
        answer = images.read(root / "answers" / f"photos-{number}.png").tensor()
        error = 0.05 * (number + 1) * torch.randn(answer.shape, generator=rng.generator("error", number))
        error = (answer + error).clamp(-1, 1) - answer
        for folder, share in (("inputs", 1), ("halfway", 0.5)):
            images.to_pil(answer + share * error).save(root / folder / f"photos-{number}.webp", lossless=True)
    torch.manual_seed(0)
    RestorationUNet(width=4, levels=1, blocks=1).save_pretrained(root / "run" / "style")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(figures, "DRAWS", 60)


def measure(world, style, output, **options):
    given = {"source": world / "inputs", "target": world / "answers", "pairs": True, "size": SIZE}
    return evaluate.evaluate(style, output=output, **{**given, **options})


def restore(world, output, **options):
    return measure(world, world / "run", output, source=None, pairs=False, damage=["noise"], **options)


# -- known answers --


def test_half_of_the_error_is_six_decibels_for_each_picture(world, tmp_path):
    """Whatever the pictures, so the interval of the gain has no width, though that of the figure is wide."""
    found = measure(world, world / "halfway", tmp_path / "out")
    gain, value = found.metrics["PSNR gain"], found.metrics["PSNR"]
    assert gain["value"] == pytest.approx(6.02, abs=0.15) and gain["high"] - gain["low"] < 0.15
    assert value["high"] - value["low"] > 3 and value["n"] == gain["n"] == COUNT
    assert gain["value"] == pytest.approx(value["value"] - found.controls["input"]["PSNR"]["value"], abs=1e-9)
    assert found.metrics["SSIM gain"]["low"] > 0


def test_figures_are_those_of_the_parts(world, tmp_path):
    found = measure(world, world / "halfway", tmp_path / "out").controls["input"]
    pairs = [
        [images.square(images.read(world / folder / f"photos-{n}.{suffix}"), SIZE) for n in range(COUNT)]
        for folder, suffix in (("inputs", "webp"), ("answers", "png"))
    ]
    inputs, answers = map(torch.cat, pairs)
    assert found["PSNR"]["value"] == pytest.approx(psnr(answers, inputs).mean().item(), abs=1e-9)
    assert found["SSIM"]["value"] == pytest.approx(ssim(answers, inputs).mean().item(), abs=1e-9)


def test_the_right_answer_itself_is_measured_without_infinity(world, tmp_path):
    found = measure(world, world / "answers", tmp_path / "out")
    assert found.metrics["PSNR"]["value"] == MOST and found.metrics["SSIM"]["value"] == pytest.approx(1)
    assert found.metrics["color shift"]["value"] == 0
    assert found.metrics["checkerboard"] == found.controls["right answer"]["checkerboard"]
    assert list(found.controls["right answer"]) == ["checkerboard"]  # others would compare it with itself
    assert not {"PSNR gain", "SSIM gain"} & set(found.controls["input"]) and "PSNR gain" in found.controls["blur"]


def test_a_judge_sees_how_far_it_is_from_the_right_answer(world, shared, tmp_path):
    judge = shared / "weights" / "squeezenet1_0_caffe.safetensors"
    found = measure(world, world / "answers", tmp_path / "out", judge=judge)
    name = "content distance (squeezenet fire7)"
    assert found.metrics[name]["value"] < 1e-5 < found.controls["input"][name]["value"]
    assert found.protocol["feature_network"] == "squeezenet fire7" and len(found.protocol["feature_sha256"]) == 64
    assert not any(name.startswith(("KID", "texture", "edges")) for name in found.metrics)


# -- damage --


def test_damage_is_done_to_the_square_and_is_the_same_for_all(world):
    rooms = [
        studio.Studio(task.ANSWERS, None, world / "answers", size=80, seed=seed, kinds=["noise"]) for seed in (0, 0, 1)
    ]
    for room in rooms:
        room.makers |= task.ANSWERS.controls
        room.add("style", StylePipeline(RestorationUNet(width=4, levels=1, blocks=1)))
    one, again, other = (room.make(3) for room in rooms)
    clean = images.square(images.read(world / "answers" / "photos-3.png"), 80)
    assert torch.equal(one["right answer"], clean)
    assert torch.equal(one["input"], damage(clean, ["noise"], rng.generator(0, "damage", 3)))
    assert torch.equal(one["input"], again["input"]) and not torch.equal(one["input"], other["input"])


def test_what_is_written_says_how_the_inputs_were_made(world, tmp_path):
    found = restore(world, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(written) == ["protocol", "metrics", "controls", "warnings"] and written["protocol"] == found.protocol
    assert list(found.metrics) == ["PSNR", "PSNR gain", "SSIM", "SSIM gain", "checkerboard", "color shift"]
    assert list(found.controls) == ["input", "blur", "right answer"] and found.warnings == []
    protocol = found.protocol
    assert list(protocol)[: len(PROTOCOL)] == list(PROTOCOL)
    assert protocol["damage"] == ["noise"] and "damaged by noise" in protocol["split"] and "11 x 11" in protocol["ssim"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{COUNT} pictures damaged by noise, {SIZE} px</p>" in page and "Gained least" in page
    assert all(f"<th>{name}</th>" in page for name in ("input", "right answer", "blur")) and "painting" not in page


def test_the_card_has_a_table_of_them(world, tmp_path):
    restore(world, tmp_path / "out")
    style = shutil.copytree(world / "run" / "style", tmp_path / "style")
    shutil.copy(tmp_path / "out" / "metrics.json", style)
    text = cards.write_card(style, license="mit").read_text()
    assert "| | pictures | this style | input | blur | right answer |" in text
    assert "| PSNR gain, higher is better | 8 |" in text and "damaged by noise" in text
    assert "metrics.json" not in cards.check(style) and "model-index" in text


def test_against_compares_picture_by_picture(world, tmp_path):
    found = restore(world, tmp_path / "out", against=world / "run" / "style", limit=2)
    assert found.against["metrics"] == found.metrics
    assert {gap["high"] for gap in found.against["differences"].values()} == {0.0}
    found = measure(world, world / "halfway", tmp_path / "both", against=world / "inputs")
    gaps = found.against["differences"]
    assert gaps["PSNR"] == pytest.approx(gaps["PSNR gain"]) and gaps["PSNR"]["low"] > 5
    assert found.against["metrics"]["PSNR gain"]["value"] == 0
    page = (tmp_path / "both" / "report.html").read_text()
    assert "halfway less inputs" in page and "inputs comes less near" in page
    assert "halfway brings the inputs nearer to the right answers" in page


@pytest.mark.parametrize(
    ("shift", "words"), [(1, "brings the inputs nearer"), (0, "does not bring"), (-1, "takes the inputs farther")]
)
def test_more_is_better_in_the_verdict(shift, words):
    class Figures:
        task = task.ANSWERS
        drawn = torch.linspace(-0.5, 0.5, 9).double().roll(5)

        def __init__(self):
            known = dict.fromkeys(("PSNR", "PSNR gain", "SSIM", "SSIM gain"), self.drawn)
            self.values = {"style": known, "input": known, "blur": known}

        def gap(self, name, other):
            return self.drawn + shift

    assert told.verdict("mine", Figures(), "").startswith(f"mine {words}")


# -- what is refused --


def test_a_turned_photograph_has_the_shape_that_is_seen(tmp_path):
    for folder, size, turn in (("a", (40, 60), 6), ("b", (60, 40), 1)):
        (tmp_path / folder).mkdir()
        exif = Image.Exif()
        exif[studio.ORIENTATION] = turn
        Image.new("RGB", size).save(tmp_path / folder / "x.jpg", exif=exif)
    assert len(studio.matched(tmp_path / "a", tmp_path / "b")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "photos-3.webp").unlink(), "photos-3.png.*found nothing of its name in .*inputs"),
        (lambda folder: (folder / "photos-3.webp").rename(folder / "x.webp"), "x.webp.*nothing of its name"),
        (lambda folder: shutil.copy(folder / "photos-3.webp", folder / "photos-3.png"), "photos-3.png and photos-3.w"),
        (lambda folder: Image.new("RGB", (90, 60)).save(folder / "photos-3.webp"), "different shapes.*90 x 60"),
    ],
    ids=["missing", "renamed", "two", "shape"],
)
def test_pictures_that_make_no_pairs(world, tmp_path, change, message):
    folder = shutil.copytree(world / "inputs", tmp_path / "inputs")
    change(folder)
    with pytest.raises(DataError, match=message):
        measure(world, world / "run", tmp_path / "out", source=folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": None}, "Nothing comes in.*--source photos/.*--damage noise"),
        ({"damage": ["noise"]}, "not both.*Leave out damage"),
        ({"source": None, "damage": ["nois"]}, "Unknown damage.*noise"),
        ({"source": None, "damage": []}, "No damage"),
        ({"source": None, "damage": ["noise"], "style": "halfway"}, "Ready pictures were not made from"),
        ({"style": StylePipeline(DCGANGenerator(size=32, width=4, noise_size=8))}, "has a right answer.*found noise"),
        ({"style": StylePipeline(AdaINGenerator(backbone="vgg19-16x"))}, "has a right answer.*found image and style"),
    ],
    ids=["neither", "both", "unknown", "empty", "ready", "noise", "any style"],
)
def test_what_has_no_right_answer_is_refused(world, tmp_path, options, message):
    style = options.get("style", "run")
    style = world / style if isinstance(style, str) else style
    with pytest.raises(ConfigError, match=message):
        measure(world, style, tmp_path / "out", **{k: v for k, v in options.items() if k != "style"})
    assert not (tmp_path / "out").exists()


def test_the_command_line_takes_pairs_and_damage(world, tmp_path, capsys, monkeypatch):
    def call(*words):
        words = ["evaluate", world / "run", "--target", world / "answers", *words]
        monkeypatch.setattr(sys, "argv", ["styleforge", *map(str, words)])
        try:
            return cli.main()
        except SystemExit as end:
            return end.code

    there = ["-o", tmp_path / "out", "--size", SIZE, "--limit", 2]
    assert not call("--source", world / "inputs", "--pairs", *there), capsys.readouterr().err
    assert "paired with" in (tmp_path / "out" / "metrics.json").read_text() and "PSNR gain" in capsys.readouterr().out
    assert not call("--damage", "jpeg,noise", *there, "--json")
    assert json.loads(capsys.readouterr().out)["protocol"]["damage"] == ["noise", "jpeg"]
    assert call(*there) and "--damage noise" in capsys.readouterr().err
