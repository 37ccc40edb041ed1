"""What is said about folders of pictures before training: what is found, what is not, and in which words."""

import json
import shutil
import time
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from styleforge import datacheck
from styleforge.datacheck import check
from styleforge.errors import DataError


@cache
def scene(seed, size=(160, 120)):
    """A picture that has large and small forms as photographs have, and no other seed has alike."""
    rng = np.random.default_rng(seed)
    layers = []
    for octave in range(6):
        cells = rng.integers(0, 256, (3 * 2**octave, 4 * 2**octave, 3), np.uint8)
        layers.append(np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC), np.float32) / 2**octave)
    return Image.fromarray((sum(layers) / sum(0.5**octave for octave in range(6))).astype(np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def scenes(tmp_path):
    for seed in range(12):
        save(scene(seed), tmp_path / "a" / f"{seed:02}.png")
    return tmp_path / "a"


def kinds(report):
    return [(row.kind, row.file.name, row.related and row.related.name) for row in report.rows]


def test_different_pictures_are_fine(scenes):
    report = check([scenes], size=64)
    assert report.ok and report.rows == []
    assert report.summary == (
        f"{scenes}: 12 pictures, 12 of use; too few for a GAN, which learns them by heart; as pictures of a style they "
        "do for fast_style and adain.\nNothing wrong was found."
    )


COPIES = {
    "re-encoded": (lambda image: image, ""),
    "reduced": (lambda image: image.resize((70, 50), Image.Resampling.BICUBIC), ""),
    "cropped": (lambda image: image.crop((2, 5, 154, 119)), ""),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), ""),
    "gray": (lambda image: image.convert("L"), ""),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ", mirrored"),
    "upside down": (lambda image: image.transpose(Image.Transpose.ROTATE_180), ", turned by 180 degrees"),
    "on its side": (lambda image: image.transpose(Image.Transpose.TRANSPOSE), ", mirrored and turned by "),
    "mirrored, cropped": (
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((0, 0, 155, 114)),
        ", mirrored",
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_changed_copies_are_found(scenes, name):
    change, words = COPIES[name]
    for seed in (3, 8):
        save(change(scene(seed)), scenes / f"copy of {seed}.jpg", quality=60)
    report = check([scenes], size=40)
    rows = [row for row in report.rows if row.kind != "gray"]
    assert not report.ok
    assert [(r.kind, r.file.name, r.related.name) for r in rows] == [
        ("near", "copy of 3.jpg", "03.png"),
        ("near", "copy of 8.jpg", "08.png"),
    ]
    for row in rows:
        assert f"nearly the same picture as {row.related}{words}" in row.sentence
        assert 0.85 <= float(row.sentence[-5:-1]) <= 1
    assert "14 pictures, 12 of use" in report.summary and "2 near" in report.summary


def test_what_is_left_after_a_cut_must_be_most_of_it(scenes):
    save(scene(3).crop((0, 0, 110, 90)), scenes / "quarter.png")
    assert check([scenes], size=64).ok


def test_of_several_the_most_alike_is_named(scenes):
    save(scene(3).crop((0, 0, 152, 114)), scenes / "cut.png")
    save(scene(3), scenes / "encoded.jpg")
    assert kinds(check([scenes], size=64)) == [("near", "cut.png", "03.png"), ("near", "encoded.jpg", "03.png")]


def test_same_pixels_are_one_picture_whatever_the_file(scenes):
    shutil.copy(scenes / "03.png", scenes / "13.png")
    save(scene(3), scenes / "14.bmp")
    report = check([scenes], size=64)
    assert kinds(report) == [("duplicate", "13.png", "03.png"), ("duplicate", "14.bmp", "03.png")]
    assert report.rows[0].sentence == f"is the same picture as {scenes / '03.png'}"
    # The same bytes in another shape are another picture.
    flat = np.asarray(scene(3))
    save(Image.fromarray(flat.reshape(60, 320, 3)), scenes / "15.png")
    assert kinds(check([scenes], size=16)) == [*kinds(report), ("narrow", "15.png", None)]


def test_transparent_pictures_are_judged_by_what_is_seen(scenes):
    lines = np.zeros((120, 160, 4), np.uint8)
    lines[:, ::8, 3] = lines[::8, :, 3] = 255
    save(Image.fromarray(lines), scenes / "black lines.png")
    assert [row.kind for row in check([scenes], size=64).rows] == ["gray"]


def test_pictures_in_two_folders_are_leaks(scenes, tmp_path):
    save(scene(3), tmp_path / "b" / "same.png")
    save(scene(4), tmp_path / "b" / "alike.jpg")
    save(scene(99), tmp_path / "b" / "other.png")
    report = check([scenes, tmp_path / "b"], size=64)
    assert kinds(report) == [("leak", "alike.jpg", "04.png"), ("leak", "same.png", "03.png")] and not report.ok
    assert "3 pictures, 3 of use" in report.summary  # in that folder it is no less of a picture
    assert "those of the smaller one come 4 times" in report.summary
    # A picture that is twice in its own folder, too, is told both.
    save(scene(4), tmp_path / "b" / "again.jpg", quality=50)
    found = kinds(check([scenes, tmp_path / "b"], size=64))
    assert found[0] == ("near", "alike.jpg", "again.jpg")
    assert [row for row in found if row[0] == "leak"] == [
        ("leak", "again.jpg", "04.png"),
        ("leak", "alike.jpg", "04.png"),
        ("leak", "same.png", "03.png"),
    ]


def test_halves_of_pairs_may_be_alike(scenes, tmp_path):
    for file in scenes.iterdir():
        save(Image.open(file).convert("L"), tmp_path / "b" / f"{file.stem}.jpg")
    assert check([scenes, tmp_path / "b"], size=64).ok
    save(scene(5), tmp_path / "b" / "xx.jpg")  # of another name
    save(scene(6), tmp_path / "b" / "06.jpg").rename(tmp_path / "b" / "06.png")
    shutil.copy(scenes / "07.png", tmp_path / "b" / "07.jpg")  # the same pixels: nothing to learn
    found = kinds(check([scenes, tmp_path / "b"], size=64))
    assert ("leak", "xx.jpg", "05.png") in found and ("leak", "07.jpg", "07.png") in found
    assert ("leak", "06.png", "06.png") not in found


def test_oddities_are_named_with_their_figures(scenes):
    save(Image.new("RGB", (90, 90), (200, 10, 10)), scenes / "flat.png")
    save(scene(20, (30, 90)), scenes / "small.png")
    save(scene(21, (400, 100)), scenes / "strip.png")
    save(scene(22).convert("L"), scenes / "gray.png")
    report = check([scenes], size=80)
    assert [(row.kind, row.file.name, row.sentence) for row in report.rows] == [
        ("uniform", "flat.png", "is almost of one color (standard deviation 0.0 of 255)"),
        ("tiny", "small.png", "has 30 pixels on its short side, which are enlarged to 80"),
        ("narrow", "strip.png", "is 4.0 times as long as wide: a square sees 25%"),
        ("gray", "gray.png", "is gray, and most pictures of its folder are not"),
    ]
    assert report.summary.endswith("Found: 1 uniform, 1 tiny, 1 narrow, 1 gray.")
    (scenes / "flat.png").unlink()
    assert check([scenes], size=80).ok, "remarks only"


def test_gray_pictures_among_their_like_are_fine(tmp_path):
    for seed in range(4):
        save(scene(seed).convert("L" if seed else "RGB"), tmp_path / f"{seed}.png")
    assert check([tmp_path], size=64).rows == []


def test_fine_texture_is_not_one_color(tmp_path):
    noise = np.random.default_rng(0).integers(100, 156, (300, 300, 3), np.uint8)
    save(Image.fromarray(noise), tmp_path / "noise.png")
    assert check([tmp_path]).ok


def test_rotten_files_are_named_with_the_reason(scenes):
    (scenes / "bad.jpg").write_bytes(b"not a picture")
    whole = (scenes / "03.png").read_bytes()
    (scenes / "half.png").write_bytes(whole[: len(whole) // 2])
    report = check([scenes], size=64)
    assert kinds(report) == [("rotten", "bad.jpg", None), ("rotten", "half.png", None)] and not report.ok
    assert "begins like this" in report.rows[0].sentence and "truncated" in report.rows[1].sentence
    assert "14 pictures, 12 of use" in report.summary and "refuses" not in report.summary
    for i in range(3):
        (scenes / f"worse{i}.jpg").write_bytes(b"")
    assert "more than 20% cannot be used; training refuses that." in check([scenes], size=64).summary


def test_a_folder_of_nothing_but_rotten_files_is_reported(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    assert kinds(check([tmp_path])) == [("rotten", "bad.jpg", None)]
    with pytest.raises(DataError, match="No such folder"):
        check([tmp_path, tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("count", "words"), [(3, "too few"), (50, "few: train with"), (300, "enough for"), (2000, "as many as papers")]
)
def test_what_to_expect_of_so_many(tmp_path, monkeypatch, count, words):
    files = [tmp_path / f"{i}.png" for i in range(count)]
    monkeypatch.setattr(datacheck, "list_pictures", lambda folder: files)
    look = datacheck._look(save(scene(0), tmp_path / "one.png"))
    monkeypatch.setattr(
        datacheck, "_look", lambda file: datacheck._Look(**{**vars(look), "digest": file.name.encode(), "deviation": 0})
    )
    monkeypatch.setattr(datacheck, "UNIFORM", 0)
    monkeypatch.setattr(datacheck, "_similar", lambda thumbs: [])
    assert f"{count} of use; {words}" in check([tmp_path], size=16).summary


def test_progress_and_json(scenes):
    (scenes / "bad.jpg").write_bytes(b"")
    shutil.copy(scenes / "03.png", scenes / "13.png")
    seen = []
    report = check([str(scenes)], size=64, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(i, 14) for i in range(1, 15)]
    plain = json.loads(json.dumps(report.as_json()))
    assert plain == report.as_json() and plain["ok"] is False and plain["summary"] == report.summary
    assert [row["related"] for row in plain["rows"]] == [None, str(scenes / "03.png")]
    assert all(Path(row["file"]).is_file() and row["sentence"] and row["kind"] for row in plain["rows"])


def test_an_interrupt_does_not_wait_for_the_rest(scenes, monkeypatch):
    begun, look = [], datacheck._look
    monkeypatch.setattr(datacheck, "_look", lambda file: (begun.append(file), time.sleep(0.02), look(file))[-1])
    monkeypatch.setattr(datacheck.os, "cpu_count", lambda: 1)

    def interrupt(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check([scenes], progress=interrupt)
    assert len(begun) < 12


def test_a_file_that_is_in_two_folders_is_a_leak_and_no_double(scenes):
    for second, names in ((scenes / "03.png", ["03.png"]), (scenes, [f"{n:02}.png" for n in range(12)])):
        report = check([scenes, second], size=64)
        assert kinds(report) == [("leak", name, None) for name in names]
        assert report.rows[0].sentence == f"is in {scenes} and in {second}"
        assert f"{second}: {len(names)} pictures, {len(names)} of use" in report.summary
    save(scene(0), scenes / "test" / "copy.png")  # in both folders, and a double in one
    report = check([scenes, scenes / "test"], size=64)
    assert kinds(report) == [("duplicate", "copy.png", "00.png"), ("leak", "copy.png", None)]


# ------------------------------------------------------------------------------------------ real pictures


def test_hostile_files_are_judged_one_by_one(shared, tmp_path):
    for file in (shared / "data" / "hostile" / "made").glob("*.*"):
        if "200mpx" not in file.name:  # legal, and takes seconds
            shutil.copy(file, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken EXIF and the like, which pictures survive
        report = check([tmp_path])
    by_kind = {kind: {row.file.name for row in report.rows if row.kind == kind} for kind in datacheck.HARMFUL}
    assert by_kind["rotten"] >= {
        "bad_crc.png",
        "truncated_half.png",
        "html_named.jpg",
        "one_byte.jpg",
        "zero_width.png",
    }
    assert by_kind["uniform"] >= {"flat_black_256.png", "one_by_one.png"}
    assert "exif_orientation_bad9.jpg" in by_kind["duplicate"] and "exif_orientation_6.webp" in by_kind["near"]


def test_real_pictures_are_told_apart_and_their_copies_found(shared, tmp_path):
    photos, paintings = (shared / "data" / "mini128" / name for name in ("trainA", "trainB"))
    files = sorted(photos.iterdir())[::8]
    for n, file in enumerate(files):
        image = Image.open(file)
        width, height = image.size
        cut = image.crop((width // 25, 0, width, height - height // 25)).resize((width // 2, height // 2))
        save(cut if n % 2 else cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), tmp_path / f"{n}.jpg", quality=70)
    report = check([photos, paintings, tmp_path], size=16)
    leaks = {row.file.name: row.related for row in report.rows if row.kind == "leak"}
    assert leaks == {f"{n}.jpg": file for n, file in enumerate(files)}
    assert Counter(row.kind for row in report.rows if row.kind in datacheck.HARMFUL) == {"leak": len(files)}


def test_two_hills_below_a_sky_are_two_pictures(shared):
    folder = shared / "data" / "photo2classic" / "trainA"
    hills = [datacheck._look(folder / name).thumb for name in ("el-julia-craice.jpg", "es-mountain21-harro.jpg")]
    a, b = (datacheck._signs(thumb[None])[0] for thumb in hills)
    assert int((a != b).sum()) <= datacheck.BITS and list(datacheck._similar(hills)) == []
