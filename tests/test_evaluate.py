"""Evaluations: known answers, the format of metrics.json, and that the same is found however the work is done."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from styleforge import control, evaluate, features, images, processes, rng
from styleforge.errors import ConfigError, DataError, RepoError
from styleforge.evaluate import figures, judge, rows, studio, task, told
from styleforge.metrics import cache, kid
from styleforge.metrics.color import color_shift
from styleforge.models import DCGANGenerator, ResnetGenerator
from styleforge.pipeline import StylePipeline

CONTROLS, MEASURES = task.PAINTINGS.controls, task.PAINTINGS.measures

SIZE = 64
FIGURE = {"value": float, "low": float, "high": float, "n": int, "better": str}
PROTOCOL = ["split", "n_source", "n_target", "size", "resize", "feature_network", "feature_sha256", "seed"]


def paint(folder, count, kind, size=(72, 68)):
    """Smooth pictures: photographs bright, paintings dark and grainy."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = torch.rand(1, 3, 6, 6, generator=rng.generator(kind, number))
        image = torch.nn.functional.interpolate(noise, size[::-1], mode="bicubic").clamp(0, 1) * 2 - 1
        if kind == "paintings":
            grain = torch.randn(image.shape, generator=rng.generator("grain", number))
            image = (image * 0.4 - 0.5 + 0.2 * grain).clamp(-1, 1)
        images.save(images.to_pil(image), folder / f"{kind}-{number}.png")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photographs, paintings, a style, and one evaluation of it."""
    root = tmp_path_factory.mktemp("evaluate")
    paint(root / "photos", 9, "photos"), paint(root / "paintings", 8, "paintings")
    torch.manual_seed(0)
    ResnetGenerator(width=4, blocks=1).save_pretrained(root / "run" / "style")
    return root


@pytest.fixture(autouse=True)
def quick(world, monkeypatch):
    """A cache of its own, and few draws."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "cache"))
    monkeypatch.setattr(figures, "DRAWS", 60)
    monkeypatch.setattr(figures, "FID_DRAWS", 12)


def measure(world, style, output, **options):
    given = {"source": world / "photos", "target": world / "paintings", "judge": "random-16x", "size": SIZE}
    return evaluate.evaluate(style, output=output, **{**given, **options})


@pytest.fixture(scope="module")
def found(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(world / "cache"))
        patch.setattr(figures, "DRAWS", 60)
        patch.setattr(figures, "FID_DRAWS", 12)
        return measure(world, world / "run", world / "out")


# -- what is written --


def test_metrics_json_is_what_others_read(world, found):
    written = json.loads((world / "out" / "metrics.json").read_text())
    assert list(written) == ["protocol", "metrics", "controls", "warnings"]
    assert list(written["protocol"]) == PROTOCOL and list(written["controls"]) == list(CONTROLS)
    for part in (written["metrics"], *written["controls"].values()):
        assert len(part) == len(MEASURES)
        for name, figure in part.items():
            assert {key: type(value) for key, value in figure.items()} == FIGURE, name
            assert figure["low"] <= figure["value"] <= figure["high"], name
            assert figure["better"] in ("lower", "higher") and figure["n"] in (8, 9)
    assert written["metrics"] == found.metrics and written["controls"] == found.controls
    assert written["warnings"] == found.warnings and written["protocol"] == found.protocol
    assert sorted(path.name for path in (world / "out").iterdir()) == ["metrics.json", "report.html"]


def test_figures_bear_the_name_of_their_network(found):
    protocol = found.protocol
    assert protocol["feature_network"] == "vgg19 relu5_1" and re.fullmatch("[0-9a-f]{64}", protocol["feature_sha256"])
    assert (protocol["n_source"], protocol["n_target"], protocol["size"], protocol["seed"]) == (9, 8, SIZE, 0)
    assert {"KID (vgg19 relu5_1)", "FID (vgg19 relu5_1)", "ArtFID-type (vgg19 relu4_1 x relu5_1)"} <= set(found.metrics)
    assert "FID" not in found.metrics
    assert any("few for an FID" in warning for warning in found.warnings)
    assert any("random weights" in warning for warning in found.warnings)


def test_one_painting_over_and_over_has_no_diversity_to_compare_with(world, tmp_path):
    (tmp_path / "copies").mkdir()
    for number in range(8):
        shutil.copy(world / "paintings" / "paintings-0.png", tmp_path / "copies" / f"{number}.png")
    found = measure(world, world / "run", tmp_path / "out", target=tmp_path / "copies")
    names = {name.split(" (")[0] for name in found.metrics}
    assert set(MEASURES) - names == {"diversity"}


def test_the_protocol_names_the_folders_that_were_given(world, tmp_path):
    """Held-out pictures are often links to those of another folder, or lie in folders of their own."""
    paint(tmp_path / "held-out" / "sea", 2, "photos")
    (tmp_path / "chosen").mkdir()
    for file in (world / "paintings").iterdir():
        (tmp_path / "chosen" / file.name).symlink_to(file)
    given = {"source": tmp_path / "held-out", "target": tmp_path / "chosen", "judge": None}
    split = measure(world, world / "run", tmp_path / "out", **given).protocol["split"]
    root = tmp_path.resolve().name
    assert re.fullmatch(rf"{root}/held-out \(\w{{12}}\) against {root}/chosen \(\w{{12}}\)", split)


def test_the_page_is_whole(world, found):
    page = (world / "out" / "report.html").read_text()
    assert all(name in page for name in found.metrics) and found.protocol["feature_sha256"] in page
    assert all(f">{control}<" in page for control in CONTROLS) and "photos-3" in page
    assert not re.search(r"<script|<link|https?://|@import|url\(", page)
    assert set(re.findall(r'src="(.{23})', page)) == {"data:image/jpeg;base64,"}


def test_names_on_the_page_are_text(world, tmp_path):
    paint(tmp_path / "photos", 8, "photos")
    (tmp_path / "photos" / "photos-0.png").rename(tmp_path / "photos" / "<b>&0.png")
    measure(world, tmp_path / "photos", tmp_path / "out", source=tmp_path / "photos")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>&0" not in page and "&lt;b&gt;&amp;0" in page


# -- known answers --


def test_photographs_are_as_good_as_themselves(world, tmp_path):
    found = measure(world, world / "photos", tmp_path / "out", against=world / "run")
    assert found.metrics == found.controls["source"]
    for name, value in (("edges", 1), ("structure", 1), ("color shift", 0)):
        assert found.metrics[name]["value"] == pytest.approx(value, abs=1e-6)
    content = found.metrics["content distance (vgg19 relu4_1)"]
    assert content["value"] == pytest.approx(0, abs=1e-5)
    assert [w for w in found.warnings if "shape" in w] == []


def test_paintings_are_nearest_to_paintings(world, tmp_path):
    """And each control does what it is there for."""
    ready = shutil.copytree(world / "paintings", tmp_path / "ready")
    for number in range(8):
        (ready / f"paintings-{number}.png").rename(ready / f"photos-{number}-styled.png")
    paint(ready / "one", 1, "paintings")
    (ready / "one" / "paintings-0.png").rename(ready / "photos-8.png")
    found = measure(world, ready, tmp_path / "out")
    makers = {"style": found.metrics, **found.controls}
    values = {name: {of: figures[name]["value"] for of, figures in makers.items()} for name in found.metrics}
    for name in ("FID (vgg19 relu5_1)", "texture distance", "palette distance"):
        assert min(values[name], key=values[name].get) == "style", name
    assert values["palette distance"]["color transfer"] < values["palette distance"]["source"] / 2
    assert values["structure"]["source"] > values["structure"]["blur"] > values["structure"]["style"]
    assert values["color shift"]["noise"] > values["color shift"]["blur"]
    assert values["precision (vgg19 relu5_1)"]["style"] == 1


def test_figures_are_those_of_the_parts(world, found):
    """Of squares made by hand, one by one."""
    pipe = StylePipeline.from_pretrained(world / "run" / "style")
    files = sorted((world / "photos").iterdir()), sorted((world / "paintings").iterdir())
    photos, paintings = ([images.square(images.read(file), SIZE) for file in each] for each in files)
    metric = kid.KID(features.load("random-16x"), subsets=1)
    for photo in photos:
        metric.update(fake=pipe((photo[0] + 1) / 2, output_type="pt")[None] * 2 - 1)
    metric.update(real=torch.cat(paintings))
    value = found.metrics["KID (vgg19 relu5_1)"]["value"]
    assert metric.compute()["kid_unbiased"] == pytest.approx(value, rel=1e-3, abs=1e-5)
    shifts = [color_shift(p, p + 0).item() for p in photos]
    assert max(shifts) == 0 and found.controls["source"]["color shift"]["value"] == 0


def test_the_color_transfer_has_the_colors_of_a_painting(world):
    room = studio.Studio(task.PAINTINGS, world / "photos", world / "paintings", size=SIZE, seed=0)
    room.makers |= CONTROLS
    made = room.make(2)
    painting, photo = room.square(room.targets[room.lenders[2]]), room.square(room.sources[2])
    assert torch.equal(made["color transfer"], control.preserve_color(painting, photo, "histogram"))
    gaps = [(made[name].mean((2, 3)) - painting.mean((2, 3))).abs().max() for name in ("color transfer", "source")]
    assert gaps[0] < 0.05 < gaps[1]
    assert (made["noise"] - made["source"]).std() == pytest.approx(0.2, rel=0.15)
    assert made["blur"].diff(dim=3).abs().mean() < made["source"].diff(dim=3).abs().mean()
    assert torch.equal(made["noise"], room.make(2)["noise"])


# -- two styles --


def test_two_styles_are_compared_picture_by_picture(world, found, tmp_path):
    both = measure(world, world / "photos", tmp_path / "out", against=world / "run")
    assert both.against["style"] == "run" and both.against["metrics"] == found.metrics
    for name, gap in both.against["differences"].items():
        expected = both.metrics[name]["value"] - found.metrics[name]["value"]
        assert gap["value"] == pytest.approx(expected, abs=1e-12), name
        assert gap["low"] <= gap["value"] <= gap["high"]
    apart = found.metrics["KID (vgg19 relu5_1)"]
    gap = both.against["differences"]["KID (vgg19 relu5_1)"]
    assert gap["high"] - gap["low"] < apart["high"] - apart["low"] + 1e-3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "photos less run" in page


def test_a_style_does_not_differ_from_itself(world, tmp_path):
    found = measure(world, world / "run", tmp_path / "out", against=world / "run" / "style")
    assert found.against["metrics"] == found.metrics
    assert {gap[end] for gap in found.against["differences"].values() for end in ("value", "low", "high")} == {0.0}


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (-1, "brings the photographs nearer to"),
        (0, "does not bring the photographs measurably nearer to"),
        (1, "takes"),
    ],
)
def test_the_verdict_goes_by_the_interval_of_the_difference(shift, words):
    class Figures:
        task = task.PAINTINGS

        def __init__(self):
            values = {"KID": torch.zeros(9), "checkerboard": torch.ones(9)}
            self.values = {"style": values, "source": values}

        def gap(self, name, other):
            return torch.linspace(-0.5, 0.5, 9).double().roll(5) + shift  # the figure itself is `shift`

    said = told.verdict("mine", Figures(), "")
    assert said.startswith(f"mine {words}") and ("leaves a grid" in said) == (shift > 0)


# -- the same, however it is done --


def test_processes_find_what_one_finds(world, found, tmp_path, monkeypatch):
    """Two threads stand for two processes, and a barrier for their reductions."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(rows, "BATCH", 4)
    judge = features.load("random-16x")  # random weights are drawn from what threads, unlike processes, share
    monkeypatch.setattr(features, "load", lambda given: judge)
    meeting, parts, results, told = threading.Barrier(2, timeout=60), {}, {}, {0: [], 1: []}

    class Accelerator:
        device, num_processes = torch.device("cpu"), 2

        def __init__(self, rank):
            self.process_index = rank

        def reduce(self, tensor, reduction):
            assert reduction == "sum"
            parts[self.process_index] = tensor
            meeting.wait()
            total = parts[0] + parts[1]
            meeting.wait()
            return total

        def wait_for_everyone(self):
            meeting.wait()

    def work(rank):
        options = {"progress": lambda done, of: told[rank].append((done, of))}
        results[rank] = measure(world, world / "run", tmp_path / f"out{rank}", **options)

    monkeypatch.setattr(processes, "join", lambda: Accelerator(int(threading.current_thread().name)))
    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in (0, 1)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert results[0].metrics == results[1].metrics and told[0][-1] == (17, 17)
    monkeypatch.delenv("WORLD_SIZE")
    alone = measure(world, world / "run", tmp_path / "alone")
    assert results[0].metrics == alone.metrics and results[0].controls == alone.controls
    assert (tmp_path / "out0" / "metrics.json").is_file() and not (tmp_path / "out1").exists()
    for name, figure in alone.metrics.items():  # in other batches
        assert found.metrics[name]["value"] == pytest.approx(figure["value"], rel=1e-2, abs=1e-4), name


def test_the_target_is_seen_once_and_again_when_it_changes(world, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paintings = shutil.copytree(world / "paintings", tmp_path / "paintings")
    seen = []
    see = judge.Judge.see
    monkeypatch.setattr(judge.Judge, "see", lambda self, batch: seen.append(len(batch)) or see(self, batch))

    def run(name):
        seen.clear()
        return measure(world, world / "photos", tmp_path / name, target=paintings), sum(seen)

    first, all_of_them = run("first")
    again, fewer = run("again")
    assert all_of_them - fewer == 8 and again.metrics == first.metrics and again.protocol == first.protocol
    Image.open(paintings / "paintings-0.png").transpose(Image.Transpose.ROTATE_180).save(paintings / "paintings-0.png")
    changed, count = run("changed")
    assert count == all_of_them and changed.metrics != first.metrics and changed.protocol != first.protocol
    measure(world, world / "photos", tmp_path / "smaller", target=paintings, size=66)
    assert len(list(cache.folder().iterdir())) == 3


def test_progress_counts_every_picture(world, tmp_path):
    told = []
    measure(world, world / "photos", tmp_path / "out", progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (17, 17) and [done for done, _ in told] == sorted({done for done, _ in told})


def test_limit_takes_pictures_from_everywhere(world, tmp_path):
    found = measure(world, world / "run", tmp_path / "out", limit=8)
    assert found.protocol["n_source"] == found.protocol["n_target"] == 8
    assert studio.chosen(range(9), 3) == [0, 3, 6]


# -- kinds of styles --


def test_networks_that_start_from_noise_have_no_photograph(world, tmp_path):
    pipe = StylePipeline(DCGANGenerator(size=32, width=4, noise_size=8))
    found = measure(world, pipe, tmp_path / "out")
    assert "KID (vgg19 relu5_1)" in found.metrics and "checkerboard" in found.metrics
    paired = {name for name in found.controls["source"] if name not in found.metrics}
    assert {name.split(" (")[0] for name in paired} == {name for name, of in MEASURES.items() if of.paired}
    assert "Content kept" not in (tmp_path / "out" / "report.html").read_text()


def test_networks_that_take_any_style_are_given_a_painting(world, tmp_path):
    from styleforge.models import AdaINGenerator

    pipe = StylePipeline(AdaINGenerator(backbone="vgg19-16x"))
    found = measure(world, pipe, tmp_path / "out", limit=8)
    assert found.metrics["structure"]["value"] < 1


def test_without_a_judge_pictures_are_measured_and_it_says_so(world, tmp_path):
    found = measure(world, world / "run", tmp_path / "out", judge=None)
    assert set(found.metrics) == {name for name, of in MEASURES.items() if not of.layers}
    assert found.warnings == [judge.NO_JUDGE] and found.protocol["feature_network"] == "none"
    assert "was not measured" in (tmp_path / "out" / "report.html").read_text()


def test_few_pictures_have_no_distances(world, tmp_path):
    found = measure(world, world / "run", tmp_path / "out", limit=5)
    assert not any(name.startswith(("KID", "FID", "texture", "precision")) for name in found.metrics)
    assert any("5 photographs and 5 paintings are too few" in warning for warning in found.warnings)


# -- ready pictures, and what is refused --


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_ready_pictures_are_found_by_name(tmp_path):
    photos = touch(tmp_path / "photos", "a.jpg", "a-1.jpg", "b.c.png", "in/a.jpg")
    ready = touch(tmp_path / "ready", "a-styled.png", "a-1_fake_B.png", "b.c.webp", "in/a.png", "ab.png", "note-1.png")
    files = [photos / name for name in ("a-1.jpg", "in/a.jpg", "a.jpg", "b.c.png")]
    names = [path.relative_to(ready).as_posix() for path in studio._match(files, photos, ready)]
    assert names == ["a-1_fake_B.png", "in/a.png", "a-styled.png", "b.c.webp"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["b.png"], "found none for a"), (["a_real_A.png", "a_fake_B.png"], "found a_fake_B.png and a_real_A.png for a")],
    ids=["missing", "two"],
)
def test_ready_pictures_that_cannot_be_told_apart(tmp_path, names, message):
    photos, ready = touch(tmp_path / "photos", "a.jpg"), touch(tmp_path / "ready", *names)
    with pytest.raises(DataError, match=message):
        studio._match([photos / "a.jpg"], photos, ready)


def test_other_shapes_and_small_pictures_are_told(world, tmp_path):
    paint(tmp_path / "ready", 9, "photos", size=(60, 60))
    found = measure(world, tmp_path / "ready", tmp_path / "out", size=70)
    assert any("9 pictures of ready have another shape" in warning for warning in found.warnings)
    assert any("9 pictures of ready were resized to 70 px" in warning for warning in found.warnings)
    assert any("17 pictures are smaller than 70 px" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 16}, ConfigError, "size cannot be used.*found 16; allowed: 64 and more"),
        ({"limit": 0}, ConfigError, "limit cannot be used.*found 0"),
        ({"style": "no-such-style"}, RepoError, "No such style"),
        ({"judge": "no-such-judge"}, ConfigError, "No such feature network"),
        ({"source": "nowhere"}, DataError, "No such folder"),
    ],
    ids=["size", "limit", "style", "judge", "source"],
)
def test_what_is_refused_leaves_nothing(world, tmp_path, options, error, message):
    options = {"style": world / "run", **options}
    with pytest.raises(error, match=message):
        measure(world, options.pop("style"), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_told_before_the_work(world):
    with pytest.raises(ConfigError, match=r"test_evaluate\.py is no folder"):
        measure(world, world / "run", Path(__file__), progress=lambda *_: pytest.fail("worked"))


def test_a_broken_photograph_ends_it_and_leaves_nothing(world, tmp_path):
    photos = shutil.copytree(world / "photos", tmp_path / "photos")
    (photos / "photos-4.png").write_bytes(b"no picture")
    with pytest.raises(images.ImageError, match="photos-4.png"):
        measure(world, world / "run", tmp_path / "out", source=photos)
    assert not (tmp_path / "out").exists()


def test_the_bundled_style_beside_the_controls(shared, tmp_path):
    """Figures carry the trained judge's name, and what is shown is changed by a style more than by other colors."""
    data = shared / "data" / "mini128"
    judge = shared / "weights" / "squeezenet1_0_caffe.safetensors"
    folders = {"source": data / "testA", "target": data / "testB", "output": tmp_path / "out"}
    found = evaluate.evaluate("fastcut-monet", **folders, judge=judge, size=80, limit=8)
    assert "KID (squeezenet fire9)" in found.metrics and not any("random" in warning for warning in found.warnings)
    values = {of: figures["content distance (squeezenet fire7)"]["value"] for of, figures in found.controls.items()}
    style = found.metrics["content distance (squeezenet fire7)"]["value"]
    assert values["source"] < 1e-5 < values["color transfer"] < style
    assert Path(tmp_path / "out" / "report.html").stat().st_size < 3e6
