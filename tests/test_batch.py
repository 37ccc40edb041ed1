"""Many pictures: names stay, nothing is made twice, and what is broken stops nobody else."""

import errno
import io
import os
import shutil
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from heic import HEIC
from PIL import Image

from styleforge import ResnetGenerator, StylePipeline, batch, files, images
from styleforge.batch import find_pictures, stylize_many, stylize_with_ray
from styleforge.errors import ConfigError, DataError, ImageError, ImageUnreadable, MissingExtra


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return StylePipeline(ResnetGenerator(width=2, blocks=0))


def paint(path, seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(mode)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, bands), np.uint8), mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for seed, name in enumerate(("b.png", "a.png", "trip/c.png", "trip/far/d.png")):
        paint(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def made(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


ALL = ["a-styled.png", "b-styled.png", "trip/c-styled.png", "trip/far/d-styled.png"]


def test_files_folders_and_globs_keep_their_place(photos):
    def names(*inputs):
        return [relative.as_posix() for _, relative in find_pictures(inputs)]

    assert names(photos) == ["a.png", "b.png", "trip/c.png", "trip/far/d.png"]
    assert names(photos / "trip" / "c.png", photos / "trip") == ["c.png", "c.png", "far/d.png"]
    assert names(f"{photos}/**/[cd].png") == ["trip/c.png", "trip/far/d.png"]
    assert names(f"{photos}/*.png") == ["a.png", "b.png"]
    odd = paint(photos / "x[1].png")
    assert find_pictures([odd]) == [(odd, odd.relative_to(photos))]


def test_what_a_phone_made_is_listed_where_nothing_reads_it(pipe, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (photos / "IMG_1.HEIC").write_bytes(HEIC)
    for given, done in ((photos, 4), (photos / "*", 2)):
        summary = stylize_many(pipe, [given], tmp_path / str(done))
        assert summary.done == done
        ((file, reason),) = summary.failed
        assert file.name == "IMG_1.HEIC" and "found HEIC" in reason and "styleforge[heif]" in reason


@pytest.mark.parametrize(("given", "message"), [("photo", "No such folder"), ("*.gif", "No pictures match")])
def test_nothing_to_style(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        find_pictures([tmp_path / given])


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_those_of_the_pipeline_and_in_order(pipe, photos, tmp_path, workers):
    items = []
    summary = stylize_many(pipe, [photos], tmp_path / "out", workers=workers, on_item=items.append, strength=0.5)
    assert (summary.done, summary.skipped, summary.failed) == (4, 0, []) and summary.seconds > 0
    assert made(tmp_path / "out") == ALL
    assert [item.target.relative_to(tmp_path / "out").as_posix() for item in items] == ALL
    for item in items:
        assert images.read(item.target).rgb.tobytes() == np.array(pipe(item.source, strength=0.5)).tobytes()


def test_run_again_makes_only_what_is_missing_broken_or_old(pipe, photos, tmp_path):
    out = tmp_path / "out"
    assert stylize_many(pipe, [photos], out).done == 4
    assert stylize_many(pipe, [photos], out).skipped == 4
    (out / "a-styled.png").unlink()
    whole = (out / "b-styled.png").read_bytes()
    (out / "b-styled.png").write_bytes(whole[: len(whole) // 2])
    later = (out / "trip/c-styled.png").stat().st_mtime + 5
    os.utime(photos / "trip/c.png", (later, later))
    states = {}
    stylize_many(pipe, [photos], out, on_item=lambda item: states.update({item.source.name: item.state}))
    assert states == {"a.png": "done", "b.png": "done", "c.png": "done", "d.png": "skipped"}
    assert (out / "b-styled.png").read_bytes() == whole


def test_other_options_are_not_taken_for_done(pipe, photos, tmp_path):
    stylize_many(pipe, [photos], tmp_path, strength=0.5)
    before = (tmp_path / "a-styled.png").read_bytes()
    for other in (pipe, StylePipeline(ResnetGenerator(width=2, blocks=0))):
        with pytest.raises(ConfigError, match="another style or other options"):
            stylize_many(other, [photos], tmp_path, strength=1.0)
    assert (tmp_path / "a-styled.png").read_bytes() == before
    assert stylize_many(pipe, [photos], tmp_path, strength=0.5).skipped == 4
    assert stylize_many(pipe, [photos], tmp_path, strength=1.0, overwrite=True).done == 4
    assert (tmp_path / "a-styled.png").read_bytes() != before


def test_pictures_of_another_style_do_not_join_those_that_are_there(pipe, photos, tmp_path):
    out = tmp_path / "out"
    stylize_many(pipe, [photos / "a.png"], out, strength=0.5)
    before = (out / "a-styled.png").read_bytes()
    with pytest.raises(ConfigError, match=r"another style.*a-styled\.png"):  # else the next run would replace a
        stylize_many(pipe, [photos / "b.png"], out, strength=1.0)
    assert stylize_many(pipe, [photos], out, strength=0.5).skipped == 1
    assert (out / "a-styled.png").read_bytes() == before


def test_an_overwriting_run_that_stopped_goes_on_without_old_results(pipe, photos, tmp_path):
    stylize_many(pipe, [photos], tmp_path, strength=0.5)
    for path in tmp_path.glob("**/*-styled.png"):
        os.utime(path, (path.stat().st_mtime - 10,) * 2)

    def stop(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_many(pipe, [photos], tmp_path, overwrite=True, on_item=stop)
    assert stylize_many(pipe, [photos], tmp_path).done >= 1
    for source, relative in find_pictures([photos]):
        target = tmp_path / relative.with_name(f"{relative.stem}-styled.png")
        assert images.read(target).rgb.tobytes() == np.array(pipe(source)).tobytes()


def test_broken_pictures_are_listed_and_stop_nobody(pipe, photos, tmp_path):
    (photos / "aa.jpg").write_bytes(b"no picture")
    whole = (photos / "b.png").read_bytes()
    (photos / "bb.png").write_bytes(whole[: len(whole) // 2])
    missing = photos / "gone.png"
    summary = stylize_many(pipe, [missing, photos], tmp_path / "out", workers=2)
    assert summary.done == 4 and [path.name for path, _ in summary.failed] == ["gone.png", "aa.jpg", "bb.png"]
    assert all(str(path) in sentence and sentence.endswith("viewer.") for path, sentence in summary.failed)
    assert made(tmp_path / "out") == ALL


def test_a_setting_that_is_wrong_for_all_stops_at_once(pipe, photos, tmp_path):
    with pytest.raises(ConfigError, match="strength"):
        stylize_many(pipe, [photos], tmp_path / "out", strength=7)
    assert made(tmp_path / "out") == []


def test_two_pictures_never_become_one_file(pipe, photos, tmp_path):
    paint(photos / "a.bmp")
    with pytest.raises(DataError, match=r"one file.*a\.bmp and .*a\.png"):
        stylize_many(pipe, [photos], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert stylize_many(pipe, [photos / "a.png", photos / "a.png"], tmp_path / "out").done == 1  # one, named twice


def test_results_beside_their_pictures_are_not_styled_again(pipe, photos):
    for out in (photos, photos / "styled"):
        assert stylize_many(pipe, [photos], out, overwrite=True).done == 4 + (out != photos) * 4
        assert stylize_many(pipe, [photos], out).done == 0
    with pytest.raises(DataError, match="its own result"):
        stylize_many(pipe, [photos], photos, suffix="")


def test_results_of_other_runs_below_are_not_styled_again(pipe, photos):
    assert stylize_many(pipe, [photos], photos / "one").done == 4
    assert stylize_many(pipe, [photos], photos / "two", strength=0.5).done == 4
    assert stylize_many(pipe, [f"{photos}/**/*.png"], photos / "three", strength=0.2).done == 4
    for format in ("png", "webp"):
        assert stylize_many(pipe, [photos / "trip"], photos / "trip", format=format).done == 2
    for named, count in ((photos / "one" / "a-styled.png", 1), (photos / "one", 3)):  # on purpose
        assert stylize_many(pipe, [named], photos / "again").done == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"format": "gif"}, "format"), ({"suffix": "/x"}, "suffix"), ({"workers": 0}, "workers")],
)
def test_settings_that_cannot_be_used(pipe, photos, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        stylize_many(pipe, [photos], tmp_path / "out", **settings)


def test_an_output_that_is_a_file(pipe, photos, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="Cannot write into the output folder"):
        stylize_many(pipe, [photos], tmp_path / "out")


def test_transparency_fails_in_a_jpeg_alone(pipe, photos, tmp_path):
    paint(photos / "e.png", mode="RGBA")
    summary = stylize_many(pipe, [photos], tmp_path / "out", format="jpg")
    assert summary.done == 4 and "transparency" in summary.failed[0][1]


def test_a_full_disk_stops_and_keeps_what_is_done(pipe, photos, tmp_path, monkeypatch):
    write, calls = files.write_bytes, []

    def full(path, data):
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(images, "write_bytes", full)
    with pytest.raises(ImageError, match=r"takes no more.*No space left.*goes on"):
        stylize_many(pipe, [photos], tmp_path / "out")
    assert made(tmp_path / "out") == ALL[:2]
    monkeypatch.undo()
    summary = stylize_many(pipe, [photos], tmp_path / "out")
    assert (summary.done, summary.skipped) == (2, 2)


def test_ctrl_c_leaves_whole_files_only(pipe, photos, tmp_path):
    def stop(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_many(pipe, [photos], tmp_path / "out", workers=2, on_item=stop)
    left = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != batch.MANIFEST]
    assert left and all(images.read(path).size == (12, 9) for path in left)
    assert len(left) < 4 and threading.active_count() < 50


def test_the_style_picture_is_read_once_and_first(pipe, photos, tmp_path):
    with pytest.raises(ImageUnreadable, match=r"style\.png"):
        stylize_many(pipe, [photos], tmp_path / "out", style=tmp_path / "style.png")
    assert not (tmp_path / "out").exists()


def test_the_digest_tells_options_apart(pipe):
    mask = np.zeros((3, 4), np.uint8)
    other = mask.copy()
    other[0, 0] = 1
    values = [mask, other, Image.fromarray(mask), torch.ones(3), images.read(mask), images.read(other), "sky", print]
    values += [np.float32(0.5), np.float32(0.7), b"a", b"b"]
    values += [lambda x: np.ones(x.size), lambda x: np.zeros(x.size), lambda x: [i in {"a", "b"} for i in x]]
    values += [lambda x: [i in {"a", "c"} for i in x], lambda x: lambda: 1, lambda x: lambda: 2]
    digests = [batch.digest(pipe, {"mask": value}) for value in values]
    assert len(set(digests)) == len(values) - 1  # a picture of the same pixels as an array, an array
    assert digests == [batch.digest(pipe, {"mask": value}) for value in values]
    usual = {"strength": 1.0, "mask": None, "mask_fit": False, "statistics": "exact"}
    assert batch.digest(pipe, {"mask": mask} | usual) == batch.digest(pipe, {}) != batch.digest(pipe, {"strength": 0.5})
    exact = StylePipeline(pipe.model, fast=not pipe.fast)
    assert batch.digest(pipe, {}) != batch.digest(exact, {})


def test_what_is_done_is_made_with_this_mask_style_and_segmenter(pipe, photos, tmp_path):
    def run(**options):
        return stylize_many(pipe, [photos], tmp_path / "out", **options)

    def all_of_it(picture):
        return {"sky": np.ones((9, 12), bool)}

    def nothing(picture):
        return {"sky": np.zeros((9, 12), bool)}

    mask = paint(tmp_path / "mask.png", 5)
    for before, after in (
        ({"mask": mask}, lambda: paint(mask, 6) and {"mask": mask}),
        ({"mask": mask.read_bytes()}, lambda: {"mask": mask.read_bytes()}),
        ({"mask": "sky", "segmenter": all_of_it}, lambda: {"mask": "sky", "segmenter": nothing}),
    ):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert run(**before).done == 4 and run(**before).skipped == 4
        with pytest.raises(ConfigError, match="another style or other options"):
            run(**after())
    styles = [paint(tmp_path / f"{n}.png", n) for n in range(2)]
    for read in (bytes, io.BytesIO):
        options = [batch.read_options({"style": read(style.read_bytes())}, pipe.policy) for style in styles]
        assert batch.digest(pipe, options[0]) != batch.digest(pipe, options[1])


def test_one_picture_without_the_region_or_of_another_size_stops_nobody(pipe, photos, tmp_path):
    odd = photos / "aa.png"
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(odd)

    def segmenter(picture):
        return {"sky" if picture.height == 9 else "sea": np.ones(picture.size[::-1], bool)}

    for number, options in enumerate(({"mask": "sky", "segmenter": segmenter}, {"mask": np.ones((9, 12), bool)})):
        summary = stylize_many(pipe, [photos], tmp_path / f"{number}", **options)
        assert summary.done == 4 and [path for path, _ in summary.failed] == [odd]
        assert str(odd) in summary.failed[0][1]
    with pytest.raises(ConfigError, match="only 0 and 1"):
        stylize_many(pipe, [photos], tmp_path / "2", mask=np.ones((9, 12), np.uint8))


@pytest.mark.slow  # processes have to start
def test_ray_styles_many_and_lists_the_broken(pipe, tmp_path):
    ray = pytest.importorskip("ray")
    for number in range(197):
        paint(tmp_path / "in" / f"{number % 5}" / f"{number}.png", number)
    for name in ("x.png", "y.jpg", "z.webp"):
        (tmp_path / "in" / name).write_bytes(b"broken")
    stop, stops = signal.signal(signal.SIGTERM, lambda number, frame: None), set()
    try:
        mine = signal.getsignal(signal.SIGTERM)
        look = lambda item: stops.add(signal.getsignal(signal.SIGTERM))  # noqa: E731
        summary = stylize_with_ray(pipe, [tmp_path / "in"], tmp_path / "out", actors=2, on_item=look)
    finally:
        signal.signal(signal.SIGTERM, stop)
    assert stops == {mine}  # Ray's own aborts the process with a dump
    assert summary.done == 197 and sorted(path.name for path, _ in summary.failed) == ["x.png", "y.jpg", "z.webp"]
    one = tmp_path / "in" / "3" / "3.png"
    assert images.read(tmp_path / "out" / "3" / "3-styled.png").rgb.tobytes() == np.array(pipe(one)).tobytes()
    again = stylize_many(pipe, [tmp_path / "in"], tmp_path / "out")  # both engines agree on what is done
    assert (again.done, again.skipped, len(again.failed)) == (0, 197, 3)
    assert not ray.is_initialized()


@pytest.mark.slow  # processes have to start, and to start again
def test_ray_goes_past_a_picture_that_kills_and_an_actor_that_finds_no_room(pipe, tmp_path):
    ray = pytest.importorskip("ray")
    for number in range(4):
        paint(tmp_path / "in" / f"{number}.png", number)
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "1-deadly.png")

    def segmenter(picture):
        if picture.size == (64, 48):
            os._exit(7)
        return {"sky": np.ones(picture.size[::-1], bool)}

    ray.init(num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        options = {"actors": 2, "mask": "sky", "segmenter": segmenter}
        summary = stylize_with_ray(pipe, [tmp_path / "in"], tmp_path / "out", **options)
        assert ray.is_initialized()  # the caller's stays
    finally:
        ray.shutdown()
    assert summary.done == 4 and [path.name for path, _ in summary.failed] == ["1-deadly.png"]
    assert "process that styled this picture died" in summary.failed[0][1]


@pytest.mark.slow  # processes have to start
def test_ray_whose_actors_cannot_begin(pipe, photos, tmp_path):
    pytest.importorskip("ray")
    for gpus in (-1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="gpus cannot be used"):
            stylize_with_ray(pipe, [photos], tmp_path / "out", actors=1, gpus=gpus)
    with pytest.raises(ConfigError, match="No actor would ever begin.*GPUs"):
        stylize_with_ray(pipe, [photos], tmp_path / "out", actors=1, gpus=64)

    class OnlyHere:  # as a function of a module that the nodes have not
        def __reduce__(self):
            return int, ("sky",)

    with pytest.raises(ConfigError, match="cannot begin.*invalid literal.*'sky'"):
        stylize_with_ray(pipe, [photos], tmp_path / "out", actors=1, mask="sky", segmenter=OnlyHere(), overwrite=True)


def test_ray_that_is_not_there(pipe, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"styleforge\[ray\]"):
        stylize_with_ray(pipe, [photos], tmp_path / "out", actors=1)
