"""The page of a run: everything there is, nothing from elsewhere, whatever the log looks like."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from styleforge import report
from styleforge.errors import ConfigError
from styleforge.report import FRAME, Event, Scale, Series, read_log, write_report

CONFIG = {
    "method": "cyclegan",
    "source": "photos",
    "target": "paintings",
    "output": "runs/one",
    "size": 128,
    "batch_size": 2,
    "steps": 1000,
    "seed": 7,
    "ema": 0.99,
    "clip": 0.0,
    "settings": {"blocks": 4, "cycle": 10.0},
}


@pytest.fixture
def make(tmp_path):
    def run(*lines, pictures=(), **changes):
        folder = tmp_path / "one"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "train.json").write_text(json.dumps({**CONFIG, **changes}))
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "metrics.jsonl").write_text("".join(f"{text}\n" for text in texts))
        for name in pictures:
            noise = np.random.default_rng(len(name)).integers(0, 255, (192, 128, 3), np.uint8)
            Image.fromarray(noise).save(folder / "samples" / name)
        return folder

    return run


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag, **wanted):
        found = [attributes for name, attributes in self.tags if name == tag]
        return [a for a in found if all(value in a.get(key.rstrip("_"), "").split() for key, value in wanted.items())]


def points(path: str) -> np.ndarray:
    """(N, 2) of an SVG path."""
    return np.array([[float(v) for v in point.split()] for point in re.split("[MLZ]", path) if point])


def whole(steps=400, every=10):
    """Lines of a run that has everything."""
    generator, lines = np.random.default_rng(0), []
    for step in range(every, steps + 1, every):
        lines.append(
            {
                "step": step,
                "lr_factor": 1 - step / 2 / steps,
                "images_per_second": 9 + generator.random(),
                "generator/fool": math.exp(-step / steps) + 0.05 * generator.normal(),
                "generator/gradient_norm": 10 ** generator.normal(),
                "target_d/real_fake": 0.25 + 0.02 * generator.normal(),
                "target_d/gradient_norm": 10 ** generator.normal(),
            }
        )
    for step, kid in ((100, 0.09), (200, 0.04), (300, 0.06)):
        lines.append({"step": step, "kid": kid, "kid_error": 0.01, "content": 0.1})
        lines.append({"step": step, "event": "status", "text": f"status of {step}"})
    lines.append({"step": 250, "event": "rollback", "text": "Step 250 went wrong: back to step 200."})
    lines.append({"step": 300, "event": "finding", "text": "All pictures look the same; try --augment color."})
    return lines


def test_a_whole_run(make):
    pictures = [f"step-{n:08d}.jpg" for n in range(100, 1100, 100)] + ["scores-00000100.jpg", "latest.jpg"]
    run = make(*whole(), pictures=pictures)
    (run / "checkpoints" / "step-00000400").mkdir(parents=True)
    manifest = {"step": 410, "seconds": 7260.0}
    (run / "checkpoints" / "step-00000400" / "manifest.json").write_text(json.dumps(manifest))
    (run / "best").mkdir()
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    for said in (
        "cyclegan from photos to resemble paintings; 128 px, batches of 2, seed 7",
        "status of 300 Step 410 of 1,000; the sentence above is of step 300",
        "Best KID 0.04 ± 0.01 at step 200, kept in best/",
        "Time 2.0 h until the checkpoint of step 410",
        "Step 250, rollback. Step 250 went wrong: back to step 200.",
        "Step 300, finding. All pictures look the same; try --augment color.",
        "What was said before 200 status of 200 100 status of 100",
        "KID best 0.04 ± 0.01 at step 200",
        "blocks 4 9",
        "ema 0.99 0.999",
        "styleforge train --config runs/one/train.json --output runs/one-again",
    ):
        assert said in page.text, said
    assert "cycle 10.0" not in page.text  # the default, said aloud
    assert "not measured" not in page.text and "left out" not in page.text and "taken back, and" not in page.text
    titles = [figure.get("aria-label", "").split(":")[0] for figure in page.all("svg", role="img")]
    assert titles == ["KID", "Content distance", "fool", "real fake", "Gradient norms", "Learning rate", "Speed"]
    images = page.all("img")
    assert [image["alt"].split()[-1] for image in images] == ["100", "300", "400", "500", "700", "900", "1,000", "100"]
    assert [i["id"] for i in page.all("input") if "checked" in i] == ["samples-7", "scores-1"]
    assert len(page.all("path", class_="band")) == len(page.all("circle", class_="best")) == 1
    assert len(page.all("line", class_="mark")) == len(titles)


def test_the_page_needs_nothing_else(make):
    page = Page(write_report(make(*whole(), pictures=["step-00000100.jpg"])))
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in write_report(make()).read_text() and "@import" not in write_report(make()).read_text()


def test_curves_and_their_labels_stay_in_their_places(make):
    page = Page(write_report(make(*whole())))
    for curve in page.all("path", class_="line"):
        x, y = points(curve["d"]).T
        assert len(x) >= 3 and FRAME.left <= x.min() and x.max() <= FRAME.right
        assert FRAME.top <= y.min() and y.max() <= FRAME.bottom
    for label in page.all("text"):
        assert 0 <= float(label["x"]) <= 350 and 0 <= float(label["y"]) <= 182
    kid = points(page.all("path", class_="line")[0]["d"])
    assert kid[:, 1].argmax() == 1  # low values are low
    best = page.all("circle", class_="best")[0]
    assert [float(best["cx"]), float(best["cy"])] == pytest.approx(kid[1], abs=0.1)


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))
    page = Page(write_report(tmp_path))
    assert "Nothing has been logged yet" in page.text and "blocks 4 9" in page.text
    assert not page.all("svg") and not page.all("img") and not page.all("progress")


@pytest.mark.parametrize(
    ("steps", "sentence"), [(50, "50 of 1,000 steps are done"), (1000, "All 1,000 steps are done")]
)
def test_a_run_without_measurements_says_so(make, steps, sentence):
    page = Page(write_report(make({"step": steps, "lr_factor": 1.0, "d/real_fake": 0.5})))
    assert sentence in page.text and "Quality was not measured, so judge by the pictures" in page.text
    assert "No step was taken back, and nothing suspicious was reported." in page.text


def test_what_decides_is_kid_or_else_ssim_or_else_nothing(make):
    ssim = [{"step": n, "ssim": 0.1 * n, "content": 0.1 * n} for n in (1, 3, 2)]
    assert "Best SSIM 0.3 at step 3" in Page(write_report(make(*ssim))).text
    kid = [{**line, "kid": 1 / line["step"] + line["step"]} for line in ssim]
    assert "Best KID 2 at step 1" in Page(write_report(make(*kid))).text
    assert "Best" not in Page(write_report(make({"step": 1, "content": 0.1}))).text


@pytest.mark.parametrize("text", [None, "{", "7", "[1]"])
def test_a_folder_that_is_no_run(tmp_path, text):
    if text:
        (tmp_path / "train.json").write_text(text)
    with pytest.raises(ConfigError, match=r"no run to report on.*train\.json.*Give the folder"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_config_of_another_version(make):
    page = Page(write_report(make(method="from the future", settings={"magic": [1]}, steps="many")))
    assert "magic [1]" in page.text
    (make() / "train.json").write_text("{}")
    assert "Nothing has been logged yet" in Page(write_report(make())).text


def test_nothing_that_is_shown_is_taken_for_html(make):
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'"
    run = make(
        {"step": 1, "lr_factor": 1.0, f"{evil}/{evil}": 1.0, evil: 2.0},
        {"step": 1, evil: 1.0, "kid": 1.0},
        {"step": 1, "event": evil, "text": evil},
        {"step": 1, "event": "status", "text": evil},
        {"step": 2, "event": "status", "text": evil},
        method=evil,
        source=evil,
        target=evil,
        output=evil,
        steps=evil,
        settings={evil: evil},
    )
    page = Page(write_report(run))
    assert not page.all("script") and not page.all("img")
    assert page.text.count(evil.split()[0]) > 10


def test_commands_can_be_pasted(make):
    page = Page(write_report(make(output="runs/rain & snow")))
    assert "--config 'runs/rain & snow/train.json' --output 'runs/rain & snow-again'" in page.text


# -- the log --


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"step": 3, "lr_fac',
        "[1]",
        "7",
        '"text"',
        "null",
        "{}",
        '{"step": "3"}',
        '{"step": -1}',
        '{"step": 1e3}',
        '{"step": 10000000000000}',
        "\0" * 40,
        "[" * 100_000,
        "\ufffd",
    ],
    ids=lambda line: line[:12],
)
def test_damaged_lines_are_left_out_and_counted(make, line):
    run = make({"step": 1, "lr_factor": 1.0}, line, "", {"step": 2, "lr_factor": 1.0})
    log = read_log(run / "metrics.jsonl")
    assert list(log.trained) == [1, 2] and log.damaged == 1
    assert "1 damaged lines" in Page(write_report(run)).text


def test_values_that_are_not_finite_are_left_out_and_counted(make):
    run = make(
        '{"step": 1, "lr_factor": 1.0, "d/a": NaN, "d/b": -Infinity, "d/c": 1e999, "d/d": 2.0}',
        f'{{"step": 2, "lr_factor": 1.0, "d/a": {10**400}, "d/b": "1", "d/c": null, "d/d": 3.0}}',
    )
    log = read_log(run / "metrics.jsonl")
    assert log.trained == {1: {"lr_factor": 1.0, "d/d": 2.0}, 2: {"lr_factor": 1.0, "d/d": 3.0}}
    assert log.odd == 6
    assert "6 values that are not finite" in Page(write_report(run)).text


def test_bytes_that_are_no_text(make):
    run = make()
    (run / "metrics.jsonl").write_bytes(b'\xff\xfe\n{"step": 1, "kid": 0.5}\n{"step": 2, "ki')
    log = read_log(run / "metrics.jsonl")
    assert log.measured == {1: {"kid": 0.5}} and log.damaged == 2


def test_of_repeated_steps_the_later_line_counts(make):
    lines = [{"step": n, "lr_factor": 1.0, "d/loss": float(n)} for n in (1, 2, 3)]
    lines += [{"step": 2, "kid": 0.5}, {"step": 2, "event": "status", "text": "so"}]
    again = [{"step": n, "lr_factor": 0.5, "d/loss": 10.0 * n} for n in (2, 3, 4)]
    again += [{"step": 2, "kid": 0.4}, {"step": 2, "event": "status", "text": "so"}]
    log = read_log(make(*lines, *again) / "metrics.jsonl")
    assert [line["d/loss"] for line in log.trained.values()] == [1.0, 20.0, 30.0, 40.0]
    assert log.measured == {2: {"kid": 0.4}}
    assert log.events == [Event(2, "status", "so")]


def test_a_long_run_is_a_small_page(make):
    lines = (f'{{"step": {n}, "lr_factor": 1.0, "d/loss": {n % 97 / 97:.4f}}}' for n in range(1, 40_001))
    run = make(*lines)
    page = Page(write_report(run))
    assert (run / "report.html").stat().st_size < 100_000
    assert all(len(points(curve["d"])) <= report.POINTS for curve in page.all("path"))
    assert "40,000 of 1,000 steps" in page.text


# -- the curves --


def test_thinned_series_keep_their_ends_and_extremes():
    values = np.random.default_rng(0).normal(size=10_000)
    values[[1234, 8888]] = 50, -50
    series = report.thin(Series(np.arange(10_000.0), values))
    assert len(series.steps) <= report.POINTS and (np.diff(series.steps) > 0).all()
    assert {0, 1234, 8888, 9999} <= set(series.steps)
    assert (values[series.steps.astype(int)] == series.values).all()
    short = Series(np.arange(600.0), values[:600])
    assert report.thin(short) is short


def test_smoothing():
    assert (report.smooth(np.full(300, 0.25)) == 0.25).all()
    spike = np.zeros(300)
    spike[[0, 50, 150, 151, 299]] = 1000
    assert (report.smooth(spike) == 0).all()
    slope = np.arange(300.0)
    assert report.smooth(slope)[20:-20] == pytest.approx(slope[20:-20])
    noise = np.random.default_rng(0).normal(size=2000)
    assert report.smooth(noise).std() < 0.2
    few = np.array([1.0, 9.0, 2.0])
    assert (report.smooth(few) == few).all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 2550, [0, 1000, 2000]),
        (0.31, 0.52, [0.35, 0.4, 0.45, 0.5]),
        (-3, 3, [-2, 0, 2]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert report.ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_there_are_ticks_and_not_too_many(low, span):
    high = low + max(span, abs(low) * 1e-6)
    found = report.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low - 1e-6 * (high - low) <= found[0] < found[-1] <= high + 1e-6 * (high - low)


@given(st.floats(1e-30, 1e30), st.floats(1, 1e30))
def test_there_are_decades_and_they_do_not_touch(low, ratio):
    scale = Scale(low / 1.6, low * ratio * 1.6, FRAME.bottom, FRAME.top, log=True)
    places = [place for place, _ in scale.ticks()]
    assert 1 <= len(places) <= 8
    assert all(a - b > 11 for a, b in pairwise(places))
    assert all(FRAME.top - 0.1 <= place <= FRAME.bottom + 0.1 for place in places)


@pytest.mark.parametrize(
    "values", [[0.0], [3.3], [0.0, 3.3], [-2.0, -2.0], [0.0, 0.0], [1e-30, 2e-30], [-1e99, 1e99], [5, 5.0001]]
)
def test_curves_of_any_values(make, values):
    lines = [{"step": n, "lr_factor": 1.0, "d/loss": v, "d/gradient_norm": v} for n, v in enumerate(values, 1)]
    page = Page(write_report(make(*lines)))
    for curve in page.all("path", class_="line"):
        assert np.isfinite(points(curve["d"])).all()
    norms = [svg for svg in page.all("svg", role="img") if svg["aria-label"].startswith("Gradient")]
    assert len(norms) == any(v > 0 for v in values)  # nothing else is to be found on a log axis


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05, "0.05"), (250, "250"), (2500, "2.5k"), (1e6, "1M"), (1e-5, "1e-05")]
)
def test_tick_labels_are_short(value, text):
    assert report._short(value) == text


# -- the pictures --


def test_pictures_are_spread_over_the_run(make):
    run = make(pictures=[f"step-{n:08d}.jpg" for n in range(250, 20_250, 250)])
    chosen = [step for step, _ in report._spread(run / "samples", "step", 7)]
    assert len(chosen) == 7 and chosen[0] == 250 and chosen[-1] == 20_000
    assert np.diff(chosen).max() - np.diff(chosen).min() <= 250
    assert report._spread(run / "samples", "scores", 7) == []


def test_pictures_that_cannot_be_read_are_left_out(make):
    run = make(pictures=["step-00000100.jpg", "step-00000200.jpg"])
    whole = (run / "samples" / "step-00000200.jpg").read_bytes()
    (run / "samples" / "step-00000200.jpg").write_bytes(whole[: len(whole) // 2])
    (run / "samples" / "step-00000300.jpg").write_bytes(b"")
    (run / "samples" / "step-x.jpg").write_bytes(whole)
    (run / "samples" / ".step-00000400-1a2b3c4d.tmp.jpg").write_bytes(whole)
    assert [image["alt"] for image in Page(write_report(run)).all("img")] == ["Samples, step 100"]


def test_large_sheets_are_made_to_fit(make, monkeypatch):
    run = make(pictures=["step-00000100.jpg"])
    noise = np.random.default_rng(0).integers(0, 255, (1440, 960, 3), np.uint8)
    for n in (200, 300):
        Image.fromarray(noise).save(run / "samples" / f"step-{n:08d}.jpg")
    monkeypatch.setattr(report, "BYTES", 500_000)
    size = write_report(run).stat().st_size
    assert 200_000 < size < 500_000 * 4 / 3 + 20_000


def test_an_older_page_is_replaced(make):
    run = make()
    (run / "report.html").write_text("old")
    assert write_report(run).read_text().startswith("<!DOCTYPE html>")
    assert not [path for path in run.iterdir() if ".tmp" in path.name]
