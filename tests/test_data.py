"""Folders of pictures to batches: any names, unequal counts, orders that have nothing to do with each other."""

import numpy as np
import pytest
import torch
from PIL import Image

from styleforge import data
from styleforge.errors import DataError


def picture(path, size=(48, 40), colour=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if colour is None:
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))
    else:
        image = Image.new("RGB", size, colour)
    image.save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    for i in range(7):
        picture(tmp_path / "a" / f"photo {i}.png", colour=(i * 10, 0, 0))
    for i in range(5):
        picture(tmp_path / "b" / "deep" / f"ü{i}.JPG", size=(30 + i, 64), colour=(0, 0, 20 * i + 100))
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
            picture(tmp_path / domain / f"{i}.png", colour=(i, 0, i))
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


def test_tiny_pictures_are_enlarged(tmp_path):
    for name in "ab":
        picture(tmp_path / name / "x.png", size=(3, 2))
    sample = data.Unpaired(tmp_path / "a", tmp_path / "b", data.RandomCrop(32))[0]
    assert sample["source"].shape == (3, 32, 32)


def test_large_pictures_are_kept_small(tmp_path):
    picture(tmp_path / "x.png", size=(300, 200))
    array = data.Pictures([tmp_path / "x.png"], short_side=50)[0]
    assert array.shape == (50, 75, 3)


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
            picture(tmp_path / domain / f"{i}.png", colour=(i, i, i))
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


def test_hidden_files_are_left_out(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "._a.png")
    assert [p.name for p in data.list_pictures(tmp_path)] == ["a.png"]


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
