"""Folders of pictures to batches: any names, unequal counts, orders that have nothing to do with each other."""

import threading
import time
import warnings
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
import torch
from heic import HEIC
from PIL import Image

from styleforge import data
from styleforge.errors import DataError


def picture(path, size=(48, 40), color=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if color is None:
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))
    else:
        image = Image.new("RGB", size, color)
    image.save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    for i in range(7):
        picture(tmp_path / "a" / f"photo {i}.png", color=(i * 10, 0, 0))
    for i in range(5):
        picture(tmp_path / "b" / "deep" / f"ü{i}.JPG", size=(30 + i, 64), color=(0, 0, 20 * i + 100))
    return tmp_path / "a", tmp_path / "b"


def shade(sample, name):
    channel = {"source": 0, "target": 2}[name]
    return round(float((sample[name][channel].mean() + 1) * 127.5))


def test_every_epoch_shows_every_picture_once(folders):
    unpaired = data.Unpaired(*folders, data.RandomCrop(16))
    for epoch in range(3):
        seen = sorted(shade(unpaired[epoch * 7 + i], "source") for i in range(7))
        assert seen == [0, 10, 20, 30, 40, 50, 60]
    orders = [[shade(unpaired[e * 7 + i], "source") for i in range(7)] for e in range(4)]
    assert len({tuple(o) for o in orders}) > 1


def test_domains_of_equal_length_are_not_paired(tmp_path):
    for domain in "ab":
        for i in range(20):
            picture(tmp_path / domain / f"{i}.png", color=(i, 0, i))
    unpaired = data.Unpaired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16))
    same = sum(shade(unpaired[i], "source") == shade(unpaired[i], "target") for i in range(400))
    # By chance 1 in 20 meets its own number: 20 of 400. Sharing an order would make it 400.
    assert 5 <= same <= 45


def test_samples_depend_on_seed_and_index_only(folders):
    crop = data.RandomCrop(16, (1.0, 1.5))
    one, two = data.Unpaired(*folders, crop, seed=3), data.Unpaired(*folders, crop, seed=3)
    for index in (11, 2, 30):  # in any order
        for name in ("source", "target"):
            assert torch.equal(one[index][name], two[index][name])
    other = data.Unpaired(*folders, crop, seed=4)
    assert any(shade(one[i], "source") != shade(other[i], "source") for i in range(7))


def test_crop_is_a_square_in_range_and_flips_half(tmp_path):
    gradient = np.zeros((64, 96, 3), np.uint8)
    gradient[:, :, 0] = np.linspace(0, 255, 96, dtype=np.uint8)
    crop = data.RandomCrop(32, (1.0, 1.0))
    results = [crop(gradient, i) for i in range(200)]
    assert all(r.shape == (3, 32, 32) and r.dtype == torch.float32 and r.abs().max() <= 1 for r in results)
    mirrored = sum(bool(r[0, 0, 0] > r[0, 0, -1]) for r in results)
    assert 70 <= mirrored <= 130
    assert not any(
        bool(r[0, 0, 0] > r[0, 0, -1]) for r in (data.RandomCrop(32, (1.0, 1.0), False)(gradient, i) for i in range(20))
    )


def test_zoom_sets_how_much_is_seen():
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0] = np.arange(100, dtype=np.uint8)[None] * 2
    seen = {z: data.RandomCrop(50, (z, z), False)(ramp, 0)[0].add(1).mul(127.5) for z in (1.0, 2.0)}
    spans = {z: float(x.max() - x.min()) for z, x in seen.items()}
    assert spans[1.0] == pytest.approx(198, abs=4)
    assert spans[2.0] == pytest.approx(98, abs=6)


def test_a_crop_as_large_as_the_result_is_not_interpolated():
    """Else networks learn pictures whose finest detail is softer than that of those which they are measured by."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8)
    crop = data.RandomCrop(32, (2.0, 2.0), flip=False)
    known = {noise[top : top + 32, left : left + 32].tobytes() for top in range(49) for left in range(33)}
    taken = [crop(noise, i).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy().tobytes() for i in range(50)]
    assert known.issuperset(taken) and len(set(taken)) > 45


def test_tiny_pictures_are_enlarged(tmp_path):
    for name in "ab":
        picture(tmp_path / name / "x.png", size=(3, 2))
    sample = data.Unpaired(tmp_path / "a", tmp_path / "b", data.RandomCrop(32))[0]
    assert sample["source"].shape == (3, 32, 32)


def test_large_pictures_are_kept_small(tmp_path):
    picture(tmp_path / "x.png", size=(300, 200))
    array = data.Pictures([tmp_path / "x.png"], short_side=50)[0]
    assert array.shape == (50, 75, 3)


def test_what_is_transparent_is_white_whatever_lies_below(tmp_path):
    drawing = np.zeros((40, 40, 4), np.uint8)
    drawing[10:20, :, 3], drawing[20:30, :, 3] = 255, 51
    Image.fromarray(drawing).save(tmp_path / "x.png")
    array = data.Pictures([tmp_path / "x.png"], short_side=40)[0]
    assert [int(array[row, 0, 0]) for row in (5, 15, 25, 35)] == [255, 0, 204, 255]


def test_what_memory_does_not_hold_is_read_again(tmp_path):
    files = [picture(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    plenty, little = data.Pictures(files, 40), data.Pictures(files, 40, memory=2 * 48 * 40 * 3)
    assert len(little._kept) == 2 and len(plenty._kept) == 4
    assert all(np.array_equal(plenty[i], little[i]) for i in range(4))
    files[3].write_bytes(b"gone")
    with pytest.raises(DataError, match=r"3\.png.*goes on"):
        little[3]


def test_pairs_share_crop_and_mirror(tmp_path):
    for i in range(4):
        picture(tmp_path / "a" / "sub" / f"{i}.png", seed=i)
        (tmp_path / "b" / "sub").mkdir(parents=True, exist_ok=True)
        Image.open(tmp_path / "a" / "sub" / f"{i}.png").save(tmp_path / "b" / "sub" / f"{i}.bmp")
    paired = data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16, (1.0, 1.6)))
    assert len(paired) == 4
    for i in range(12):
        assert torch.equal(paired[i]["source"], paired[i]["target"])


def test_pairs_of_another_size_but_one_shape_are_fine_and_others_not(tmp_path):
    picture(tmp_path / "a" / "x.png", size=(40, 30))
    picture(tmp_path / "b" / "x.png", size=(80, 60))
    assert len(data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16))) == 1
    picture(tmp_path / "b" / "x.png", size=(60, 80))
    with pytest.raises(DataError, match=r"= 1\.33 and 0\.75"):
        data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16))


def test_unpaired_folders_given_as_pairs(folders):
    with pytest.raises(DataError, match=r"No two files belong together.*photo 0.*cyclegan"):
        data.Paired(*folders, data.RandomCrop(16))


def test_halves_without_counterpart_are_left_out_with_a_warning(tmp_path):
    for domain, names in (("a", "123"), ("b", "234")):
        for name in names:
            picture(tmp_path / domain / f"{name}.png")
    with pytest.warns(UserWarning, match="2 pictures have no counterpart"):
        assert len(data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16))) == 2


def test_a_rotten_half_takes_its_pair_along(tmp_path):
    for domain in "ab":
        for i in range(6):
            picture(tmp_path / domain / f"{i}.png", color=(i, i, i))
    (tmp_path / "b" / "2.png").write_bytes(b"\x89PNG no")
    with pytest.warns(UserWarning, match=r"2\.png"):
        paired = data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16))
    assert len(paired) == 5
    for i in range(10):
        assert torch.equal(paired[i]["source"], paired[i]["target"])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, "No such folder"),
        (lambda d: d.mkdir(), r"no pictures.*no files"),
        (lambda d: (d.mkdir(), (d / "notes.txt").write_text("x")), r"no pictures.*1 files \(\.txt\)"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, prepare, message):
    prepare(tmp_path / "x")
    with pytest.raises(DataError, match=message):
        data.list_pictures(tmp_path / "x")


@pytest.mark.parametrize("suffix", sorted(data.SUFFIXES | {".avif"}))
def test_every_kind_of_picture_that_is_read_is_found_in_a_folder(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    if suffix in (".heic", ".heif"):
        pytest.importorskip("pi_heif", reason="pip install styleforge[heif]")
        file.write_bytes(HEIC)
    else:
        picture(file)
    with warnings.catch_warnings(action="error"):
        assert len(data.Pictures(data.list_pictures(tmp_path), 32)) == 1


def test_some_rotten_files_are_named_and_left_out(tmp_path):
    for i in range(9):
        picture(tmp_path / f"{i}.png")
    (tmp_path / "rotten.jpg").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"rotten\.jpg"):
        assert len(data.Pictures(data.list_pictures(tmp_path), 32)) == 9


def test_many_rotten_files_stop(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
        (tmp_path / f"rotten{i}.jpg").write_bytes(b"not a picture")
    with pytest.warns(UserWarning), pytest.raises(DataError, match=r"3 of 6.*20%"):
        data.Pictures(data.list_pictures(tmp_path), 32)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    folder = tmp_path / ".mine"  # named by its owner, so not hidden from us
    for name in ("a.png", "._a.png", ".thumbnails/b.png", "trip/.trash/old/c.png"):
        picture(folder / name)
    assert [p.name for p in data.list_pictures(folder)] == ["a.png"]


def test_what_a_run_has_made_is_left_out(tmp_path):
    for name in ("a.png", "runs/x/samples/b.jpg", "faces/c.png"):
        picture(tmp_path / name)
    (tmp_path / "runs/x/train.json").write_text('{"method": "cut", "styleforge": "1.0"}')
    (tmp_path / "faces/train.json").write_text('{"labels": []}')  # of a data set
    assert [p.name for p in data.list_pictures(tmp_path)] == ["a.png", "c.png"]
    assert [p.name for p in data.list_pictures(tmp_path / "runs/x")] == ["b.jpg"]  # named by its owner


def test_processes_share_the_joint_batch(folders):
    unpaired = data.Unpaired(*folders, data.RandomCrop(16))
    joint = list(data.batches(unpaired, 4, range(2, 5)))
    parts = [list(data.batches(unpaired, 2, range(2, 5), rank=rank, processes=2)) for rank in (0, 1)]
    for turn in range(3):
        for name in ("source", "target"):
            both = torch.cat([parts[0][turn][name], parts[1][turn][name]])
            assert torch.equal(joint[turn][name], both)


def test_an_error_while_preparing_reaches_the_reader():
    class Broken:
        def __getitem__(self, index):
            raise DataError("gone")

    with pytest.raises(DataError, match="gone"):
        next(data.batches(Broken(), 1, range(3)))


def test_one_picture_stands_for_a_folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "style.png")
    assert data.list_pictures(tmp_path / "style.png") == [tmp_path / "style.png"]
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="No such folder"):
        data.list_pictures(tmp_path / "notes.txt")


def test_pictures_alone_come_in_new_orders(tmp_path):
    for i in range(5):
        Image.new("RGB", (40, 40), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    pictures = data.Images(None, tmp_path, data.RandomCrop(16, (1.0, 1.0)), seed=3)
    assert len(pictures) == 5 and pictures.describe() == "5 pictures"
    samples = [pictures[i] for i in range(10)]
    assert all(set(s) == {"target"} and s["target"].shape == (3, 16, 16) for s in samples)
    reds = [round(float(s["target"][0].mean() + 1) * 127.5) for s in samples]
    assert sorted(reds[:5]) == sorted(reds[5:]) == [0, 50, 100, 150, 200] and reds[:5] != reds[5:]


def test_styles_are_whole_unmirrored_and_in_turn(tmp_path):
    for name in ("photos", "styles"):
        (tmp_path / name).mkdir()
    ramp = np.linspace(0, 255, 60).astype(np.uint8)
    for i in range(3):
        Image.new("RGB", (50, 40), (i, i, i)).save(tmp_path / "photos" / f"{i}.png")
        array = np.zeros((40, 60, 3), np.uint8)
        array[..., 0], array[..., 2] = ramp, 80 * i
        Image.fromarray(array).save(tmp_path / "styles" / f"{i}.png")
    styles = data.Styles(tmp_path / "photos", tmp_path / "styles", data.RandomCrop(20, (2.0, 2.0)), seed=0)
    assert len(styles.domains["target"]) == 3 and styles.describe() == "3 pictures, 3 styles"
    batch = next(data.batches(styles, 6, range(1)))
    assert batch["style_index"].tolist() == [0, 1, 2, 0, 1, 2]
    blues = ((batch["target"][:, 2].mean((1, 2)) + 1) * 127.5).round().tolist()
    assert blues == [0, 80, 160, 0, 80, 160]
    reds = batch["target"][:, 0].mean(1)  # rises by two thirds of its range: the largest square, never mirrored
    assert (reds.diff(dim=1) > 0).all()
    assert torch.allclose(reds[:, -1] - reds[:, 0], torch.full((6,), 2 * 40 / 60), atol=0.12)


# ---------------------------------------------------------------------------------------- orders, weights


def pictures_of(tmp_path, count, weights=None):
    files = [picture(tmp_path / f"{i}.png", size=(4, 4), seed=i) for i in range(count)]
    return data.Pictures(files, 4, weights=weights)


ORDER = [5, 1, 4, 3, 2, 0, 6, 3, 0, 4, 1, 6, 2, 5, 2, 0, 4, 1, 6, 5, 3]


@pytest.mark.parametrize("weight", [None, 1.0, 0.3, 7.7e-300])
def test_equal_weights_give_the_orders_that_runs_have_always_had(tmp_path, weight):
    pictures = pictures_of(tmp_path, 7, weight and [weight] * 7)
    assert [pictures.at(3, "source", i) for i in range(21)] == ORDER


def test_crops_are_those_that_runs_have_always_had():
    y, x = np.mgrid[:60, :90]
    array = np.stack([x * 2, y * 4, x * y % 256], 2).astype(np.uint8)
    for color in (0.0, 1e-12):  # the changes of color are draws of their own
        crop = data.RandomCrop(16, (1.0, 1.5), color=color)
        seen = [((crop(array, 5, "source", i)[:2, ::15, 0] + 1) * 127.5).round().int().tolist() for i in range(3)]
        assert seen == [[[14, 14], [25, 224]], [[124, 124], [38, 230]], [[53, 53], [22, 216]]]


def test_a_picture_comes_as_often_as_its_weight_says(tmp_path):
    pictures = pictures_of(tmp_path, 4, [2, 1, 0.5, 0.5])
    epochs = [[pictures.at(0, "source", 4 * e + i) for i in range(4)] for e in range(400)]
    counts = [Counter(epoch) for epoch in epochs]
    assert all(c[0] == 2 and c[1] == 1 and c[2] + c[3] == 1 for c in counts)
    assert 160 < sum(c[2] for c in counts) < 240
    assert len({tuple(epoch) for epoch in epochs}) == 24  # all orders of both kinds of epoch


def test_uneven_weights_are_rounded_both_ways_and_right_on_average(tmp_path):
    weights = [0.1, 1.3, 2.9, 0.4, 1.0]
    pictures = pictures_of(tmp_path, 5, weights)
    counts = np.array(
        [np.bincount([pictures.at(1, "x", 5 * e + i) for i in range(5)], minlength=5) for e in range(500)]
    )
    expected = 5 * np.array(weights) / sum(weights)
    assert (counts >= np.floor(expected)).all() and (counts <= np.ceil(expected)).all()
    assert np.abs(counts.mean(0) - expected).max() < 0.07


def test_draws_with_weights_depend_on_seed_domain_and_index_only(tmp_path):
    one, two = (pictures_of(tmp_path, 5, [3, 1, 1, 1, 1]) for _ in range(2))
    forth = [one.at(0, "source", i) for i in range(40)]
    assert forth == [two.at(0, "source", i) for i in reversed(range(40))][::-1]
    assert forth != [two.at(0, "target", i) for i in range(40)] and forth != [two.at(1, "source", i) for i in range(40)]


def test_a_part_has_orders_of_its_own(tmp_path):
    pictures = pictures_of(tmp_path, 7)
    assert [pictures.at(3, "source", i) for i in range(7)] == ORDER[:7]
    part = pictures.part([4, 1, 2])
    assert [file.stem for file in part.files] == ["4", "1", "2"]
    assert all(np.array_equal(part[i], pictures[j]) for i, j in enumerate([4, 1, 2]))
    assert sorted(part.at(3, "source", i) for i in range(3)) == [0, 1, 2]


@pytest.fixture
def nested(tmp_path):
    files = [picture(tmp_path / "x" / name, size=(4, 4)) for name in ("a.png", "a.jpg", "b.c.png", "sub/ü, 1.png")]
    return tmp_path / "x", sorted(files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1, 1, 1, 1]),
        ("a.png,3\n", [1, 3, 1, 1]),
        ("\ufefffile,Weight\r\na,2\r\n\r\n", [2, 2, 1, 1]),
        ('b.c,.5\n"sub/ü, 1.png", 1e1', [1, 1, 0.5, 10]),
        ("a.jpg,0\nb.c.png,0", [None, 1, None, 1]),
    ],
)
def test_weights_from_a_file(nested, tmp_path, text, expected):
    folder, files = nested
    (tmp_path / "w.csv").write_text(text)
    weights = data.read_weights(tmp_path / "w.csv", folder, files)
    assert [weights.get(file) for file in files] == expected
    assert list(weights) == [file for file in files if file in weights]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\nsab/x.png,2", r"w\.csv, line 2\).*'sab/x\.png'.*Correct the name"),
        ("b.c.pgn,2", r"Did you mean 'b\.c\.png'"),
        ("a.png,-1", r"line 1, a\.png\): found '-1'"),
        ("\na.png,inf", r"line 2, a\.png.*'inf'"),
        ("a.png,nan", "'nan'"),
        ("file,weight\na.png,much", r"line 2, a\.png.*'much'"),
        ("name,number\na.png,1", "line 1.*'name'"),
        ("a.png;2", r"No file and weight.*'a\.png;2'"),
        ("a.png,2,3", r"No file and weight"),
        ("a.png,2\na,3", r"second weight.*line 2\): found a"),
        ("a,0\nb.c,0\nsub/ü,0", r"not there"),
        ('a,0\nb.c,0\n"sub/ü, 1",0', r"No picture has a weight above 0 .*w\.csv"),
    ],
)
def test_weights_that_cannot_be_used(nested, tmp_path, text, message):
    (tmp_path / "w.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        data.read_weights(tmp_path / "w.csv", *nested)


@pytest.mark.parametrize("content", [None, b"\xff\xfe1\x002\x00"])
def test_weights_that_cannot_be_read(nested, tmp_path, content):
    if content:
        (tmp_path / "w.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"Cannot read the weights.*w\.csv"):
        data.read_weights(tmp_path / "w.csv", *nested)


def test_weights_from_a_function(nested):
    folder, files = nested
    assert data.read_weights(lambda file: 2 * (file.suffix == ".jpg"), folder, files) == {files[0]: 2}
    for bad, found in ((-1, "-1"), (None, "None"), (float("nan"), "nan")):
        with pytest.raises(DataError, match=rf"a\.jpg\): found {found}"):
            data.read_weights(lambda file, bad=bad: bad, folder, files)
    with pytest.raises(DataError, match=r"No picture has a weight above 0 .*x\)"):
        data.read_weights(lambda file: 0, folder, files)


def test_weights_by_domain(folders, tmp_path):
    (tmp_path / "w.csv").write_text("photo 1,0\nphoto 2.png,5\n")
    weights = {"source": tmp_path / "w.csv", "target": lambda file: 1 + 5 * (file.stem == "ü3")}
    unpaired = data.Unpaired(*folders, data.RandomCrop(16), weights=weights)
    seen = Counter(shade(unpaired[i], "source") for i in range(6 * 10))  # six pictures are left, with a sum of 10
    assert 10 not in seen and seen[20] == 30 and len(seen) == 6
    seen = Counter(shade(unpaired[i], "target") for i in range(5 * 6))
    assert seen[160] == 18
    images = data.Images(None, folders[1], data.RandomCrop(16), weights={"target": lambda file: file.stem == "ü0"})
    assert len(images) == 1
    for kind, domain in (("images", "source"), ("paired", "target"), ("styles", "target"), ("unpaired", "sources")):
        with pytest.raises(DataError, match=f"no weights of their own.*'{domain}'"):
            data.KINDS[kind](*folders, data.RandomCrop(16), weights={domain: lambda file: 1})


# --------------------------------------------------------------------------------------------- held out


def test_held_out_files_stay_so_whatever_is_added():
    names = [f"picture {i}" for i in range(400)]
    kept, held = data.hold_out(names, 0.2, seed=1)
    assert 55 < len(held) < 105 and sorted(kept + held) == sorted(names)
    for count in range(2, 100):
        fewer_kept, fewer_held = data.hold_out(names[:count], 0.2, seed=1)
        more_held = data.hold_out(names[: count + 1], 0.2, seed=1)[1]
        assert fewer_kept and fewer_held
        assert not set(more_held) & set(fewer_kept), "was trained with, and would now be measured on"
    assert data.hold_out(names, 0.2, seed=2)[1] != held
    assert data.hold_out(names, 0.0, seed=1) == (names, []) and len(data.hold_out(names, 1.0, seed=1)[0]) == 1
    assert data.hold_out(["one"], 0.9, seed=1) == (["one"], [])


@pytest.mark.parametrize("kind", ["unpaired", "images"])
def test_held_out_pictures_take_no_part(folders, kind):
    everything = data.KINDS[kind](*folders, data.RandomCrop(16))
    assert everything.held == {}
    pictures = data.KINDS[kind](*folders, data.RandomCrop(16), held_out=0.3)
    assert pictures.held.keys() == pictures.domains.keys()
    for name, kept in pictures.domains.items():
        held = pictures.held[name]
        assert held.files and kept.files and not set(held.files) & set(kept.files)
        assert sorted(held.files + kept.files) == everything.domains[name].files
        assert all(len(x.files) == len(x.ratios) == len(x.weights) for x in (held, kept))
        other = everything.domains[name]
        assert all(np.array_equal(held[i], other[other.files.index(file)]) for i, file in enumerate(held.files))
        drawn = {kept.files[kept.at(0, name, i)] for i in range(len(kept))}
        assert drawn == set(kept.files)


def test_what_is_held_out_does_not_depend_on_where_the_folder_is(folders, tmp_path):
    before = data.Unpaired(*folders, data.RandomCrop(16), held_out=0.3).held
    moved = [folder.rename(tmp_path / f"moved {folder.name}") for folder in folders]
    after = data.Unpaired(*moved, data.RandomCrop(16), held_out=0.3).held
    assert {d: [f.name for f in p.files] for d, p in before.items()} == {
        d: [f.name for f in p.files] for d, p in after.items()
    }


def test_pairs_are_held_out_together_and_weigh_as_their_source(tmp_path):
    for i in range(12):
        picture(tmp_path / "a" / f"{i}.png", seed=i)
        Image.open(tmp_path / "a" / f"{i}.png").save(tmp_path / f"{i}.bmp")
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / f"{i}.bmp").rename(tmp_path / "b" / f"{i}.bmp")
    weights = {"source": lambda file: {"0": 0, "1": 9}.get(file.stem, 1)}
    with pytest.warns(UserWarning, match="1 pictures have no counterpart with a weight above 0"):
        paired = data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(16), weights=weights, held_out=0.3)
    for part in (paired.domains, paired.held):
        stems = [[file.stem for file in part[d].files] for d in ("source", "target")]
        assert stems[0] == stems[1] and stems[0] and "0" not in stems[0]
        for i in range(len(part["source"])):
            assert np.array_equal(part["source"][i], part["target"][i])
    assert len(paired) + len(paired.held["source"]) == 11
    drawn = Counter(paired.domains["source"].at(0, "pair", i) for i in range(len(paired) * 4))
    assert drawn.most_common(1)[0][0] == paired.domains["source"].weights.index(9)
    assert all(torch.equal(paired[i]["source"], paired[i]["target"]) for i in range(9))


def test_styles_are_all_learnt_and_all_measured(folders):
    styles = data.Styles(*folders, data.RandomCrop(16), held_out=0.3, weights={"source": lambda file: 1})
    assert len(styles.domains["target"]) == 5 and styles.held["target"] is styles.domains["target"]
    assert len(styles.domains["source"]) + len(styles.held["source"]) == 7


def test_one_picture_cannot_be_held_out(tmp_path):
    picture(tmp_path / "one.png")
    with pytest.raises(DataError, match="Too few pictures to hold some out"):
        data.Images(None, tmp_path / "one.png", data.RandomCrop(16), held_out=0.1)


@pytest.mark.filterwarnings("ignore:Left out")
def test_rotten_files_count_among_all_pictures_of_a_domain_held_out_or_not(tmp_path):
    names = [f"{i:02}" for i in range(20)]
    held = data.hold_out(names, 0.2, seed=0)[1]
    for name in names:
        if name in held[:3]:
            (tmp_path / f"{name}.png").write_bytes(b"rotten")
        else:
            picture(tmp_path / f"{name}.png", size=(4, 4))
    with pytest.warns(UserWarning, match=f"{held[0]}.png"):
        pictures = data.Images(None, tmp_path, data.RandomCrop(4), held_out=0.2)
    assert [file.stem for file in pictures.held["target"].files] == held[3:]
    assert len(pictures) == 20 - len(held)
    (tmp_path / "weights.csv").write_text("".join(f"{name},0\n" for name in names[:10] if name not in held[:3]))
    with pytest.warns(UserWarning), pytest.raises(DataError, match="3 of 1[0-3]"):  # of those that take part
        data.Images(None, tmp_path, data.RandomCrop(4), weights={"target": tmp_path / "weights.csv"})
    rotten = {file for file in tmp_path.glob("*.png") if file.stem in held[:3]}
    assert len(data.Images(None, tmp_path, data.RandomCrop(4), weights={"target": lambda f: f not in rotten})) == 17


# ------------------------------------------------------------------------------------------------ color


def test_color_changes_by_key_and_within_range():
    array = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    plain, jittered = data.RandomCrop(16), data.RandomCrop(16, color=0.4)
    for i in range(20):
        one = jittered(array, 0, i)
        assert torch.equal(one, jittered(array.copy(), 0, i)) and not torch.equal(one, plain(array, 0, i))
        assert one.abs().max() <= 1 and one.dtype == torch.float32
    changes = [float((jittered(array, 0, i) - plain(array, 0, i)).mean()) for i in range(50)]
    assert len(set(changes)) == 50 and min(changes) < -0.1 and max(changes) > 0.1


def test_both_halves_of_a_pair_change_color_by_one_rule(tmp_path):
    for domain, right in (("a", 0), ("b", 255)):  # alike on the left only
        array = np.full((20, 40, 3), (60, 90, 120), np.uint8)
        array[:, 35:] = right
        (tmp_path / domain).mkdir()
        Image.fromarray(array).save(tmp_path / domain / "x.png")
    plain, jittered = (
        data.Paired(tmp_path / "a", tmp_path / "b", data.RandomCrop(20, (1.0, 1.0), color=color)) for color in (0, 0.3)
    )
    for i in range(20):
        alike = plain[i]["source"] == plain[i]["target"]
        assert torch.equal(jittered[i]["source"][alike], jittered[i]["target"][alike])
        assert alike.any() and not torch.equal(jittered[i]["source"], plain[i]["source"])


def test_grays_stay_gray_and_each_change_is_bounded():
    ramp = np.repeat(np.arange(64, 192, 2, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    for i in range(30):
        plain, changed = (data.RandomCrop(32, (1.0, 1.0), color=color)(ramp, i) for color in (0.0, 0.2))
        assert torch.allclose(changed[0], changed[1], atol=1e-6) and torch.allclose(changed[0], changed[2], atol=1e-6)
        slope = (changed[0, 0, -1] - changed[0, 0, 0]) / (plain[0, 0, -1] - plain[0, 0, 0])
        assert 0.8**2 - 1e-3 <= slope <= 1.2**2 + 1e-3


# ---------------------------------------------------------------------------------------------- batches


def test_workers_change_nothing(folders):
    crop = data.RandomCrop(16, (1.0, 1.5), color=0.2)
    unpaired = data.Unpaired(*folders, crop, weights={"source": lambda file: 1 + len(file.stem) % 2})
    alone = list(data.batches(unpaired, 3, range(5, 17)))
    for workers in (2, 5):
        several = list(data.batches(unpaired, 3, range(5, 17), workers=workers))
        assert len(several) == len(alone) == 12
        assert all(torch.equal(a[name], b[name]) for a, b in zip(alone, several, strict=True) for name in a)


class Slow:
    """Samples that take time, and count how many are being made or wait to be fetched."""

    def __init__(self, seconds):
        self.seconds, self.made, self.lock = seconds, [], threading.Lock()

    def __getitem__(self, index):
        time.sleep(self.seconds * (index % 3))  # later ones may be done earlier
        with self.lock:
            self.made.append(index)
        return {"target": torch.tensor(index)}


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_and_no_more_are_prepared_than_there_are_workers(workers):
    slow = Slow(0.003)
    with closing(data.batches(slow, 1, range(20), workers=workers)) as batches:
        for turn in range(6):
            assert next(batches)["target"].tolist() == [turn]
            give_up = time.monotonic() + 5
            while len(slow.made) < turn + 1 + workers and time.monotonic() < give_up:
                time.sleep(0.001)
            time.sleep(0.02)
            assert sorted(slow.made) == list(range(turn + 1 + workers))


def test_waiting_is_measured():
    batches, slow = (data.batches(Slow(0.05), 1, range(first, 9, 3)) for first in (0, 2))
    assert batches.waited == slow.waited == 0
    assert len(list(batches)) == len(list(slow)) == 3
    assert batches.waited < 0.2 and slow.waited >= 0.3 - 0.01


def test_closed_batches_are_over_and_leave_no_threads():
    before = threading.active_count()
    batches = data.batches(Slow(0.001), 2, range(100), workers=2)
    next(batches)
    batches.close()
    assert list(batches) == [] and threading.active_count() == before
    everything = data.batches(Slow(0), 1, range(3), workers=2)
    assert len(list(everything)) == 3 and threading.active_count() == before


def test_after_an_error_nothing_comes():
    class Broken(Slow):
        def __getitem__(self, index):
            if index == 1:
                raise DataError("gone")
            return super().__getitem__(index)

    batches = data.batches(Broken(0), 1, range(9), workers=3)
    next(batches)
    with pytest.raises(DataError, match="gone"):
        next(batches)
    assert list(batches) == []
