"""FID, precision and recall, diversity, intervals and the cache: against other formulas and known answers."""

from __future__ import annotations

import golden
import pytest
import torch
from test_metrics import pictures, rows

from styleforge import features, rng
from styleforge.errors import ConfigError, ImageError, UnknownName
from styleforge.metrics import FID, KID, Diversity, PrecisionRecall, bootstrap, cache
from styleforge.metrics.artfid import artfid, content_distance
from styleforge.metrics.diversity import doubled, spread
from styleforge.metrics.fid import fid, frechet
from styleforge.metrics.fid import resampled as fids
from styleforge.metrics.kid import kid
from styleforge.metrics.kid import resampled as kids
from styleforge.metrics.looks import eye, fingerprint, look, pool
from styleforge.metrics.precision_recall import shares

SETS = {"few": (7, 5), "many": (40, 60), "either": (5, 60)}  # below and above the width of 12


def once(*sets):
    return [torch.ones(1, len(x), dtype=torch.float64) for x in sets]


@pytest.fixture(scope="module")
def network():
    return features.load("random-16x")


# -- FID --


@pytest.mark.parametrize("counts", SETS.values(), ids=SETS)
def test_fid_by_the_root_of_the_product(counts):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = rows(counts[0], "x"), rows(counts[1], "y", shift=0.3) * 1.5
    (mean_x, cov_x), (mean_y, cov_y) = ((z.mean(0), z.T.cov()) for z in (x, y))
    root = torch.from_numpy(linalg.sqrtm((cov_x @ cov_y).numpy()).real)
    expected = ((mean_x - mean_y).square().sum() + (cov_x + cov_y - 2 * root).trace()).item()
    full = min(counts) > 12  # else the root is only nearly right
    assert fid(x, y) == pytest.approx(expected, rel=1e-10 if full else 1e-3)
    assert frechet(mean_x, cov_x, mean_y, cov_y) == pytest.approx(fid(x, y), rel=1e-6)


def test_fid_of_known_distributions():
    x = rows(30, "x")
    assert fid(x, x) == pytest.approx(0, abs=1e-12)
    assert fid(x, x + 2) == pytest.approx(4 * 12, rel=1e-12)  # only the mean has moved
    assert fid(x, 3 * x) == pytest.approx(4 * (x.mean(0).square().sum() + x.T.cov().trace()).item(), rel=1e-10)
    assert fid(x, x.flip(0).float()) < 1e-9 < fid(x, rows(30, "y")) == pytest.approx(fid(rows(30, "y"), x))


@golden.needs_golden
def test_fid_of_pytorch_fid_and_clean_fid():
    io, values = golden.tensors("metrics_fid_kid"), golden.meta("metrics_fid_kid")["values_float64"]
    x, y = io["feats1"], io["feats2"]
    for name in ("fid_pytorch_fid", "fid_clean_fid", "fid_eigenvalue_formula"):
        assert fid(x, y) == pytest.approx(values[name], rel=1e-10), name
        assert frechet(io["mu1"], io["sigma1"], io["mu2"], io["sigma2"]) == pytest.approx(values[name], rel=1e-10)
    few = fid(x[:12], y[:12])
    assert few == pytest.approx(values["fid_rank_deficient_eigenvalue_formula"], rel=1e-7)
    assert few == pytest.approx(values["fid_rank_deficient_pytorch_fid (first D//2 rows of each)"], rel=1e-3)


def test_a_draw_of_one_picture_alone_spoils_no_interval():
    """Of 8 pictures one in 2 million draws is so, of 1000 draws of two sets one in a thousand has one."""
    x, y = rows(8, "x"), rows(8, "y", shift=0.5)
    times = [bootstrap.draws(8, 50, name) for name in "xy"]
    expected = bootstrap.estimate(kids(x, y, *times))
    alone = torch.nn.functional.one_hot(torch.tensor([3]), 8) * 8.0
    found = bootstrap.estimate(kids(x, y, *(torch.cat([each, alone]) for each in times)))
    assert found == expected
    never_negative = torch.tensor([0.01] + [0.0, 0.02, 0.05, 0.06, 0.1, 0.0, 0.0, 0.3] * 10, dtype=torch.float64)
    expected = bootstrap.estimate(never_negative)
    assert expected.low == 0 and bootstrap.estimate(torch.cat([never_negative, torch.tensor([torch.nan])])) == expected


def test_the_fid_of_a_set_and_itself_is_not_negative_nor_is_its_interval():
    """Rounding left some of them below 0 by 1e-14, so their intervals, which are moved back, did not end at 0."""
    for count, width in ((12, 16), (40, 12), (10, 64)):
        for seed in range(4):
            x = torch.randn(count, width, dtype=torch.float64, generator=rng.generator(seed))
            times = (bootstrap.draws(count, 100, name) for name in "xy")
            found = bootstrap.estimate(fids(x, x.flip(0), *times))
            assert 0 <= found.low <= found.value < 1e-12 < found.high


def test_the_fid_of_pictures_bears_the_name_of_its_network(network):
    real, fake = pictures(40, "real"), pictures(30, "fake") * 0.5
    expected = fid(*(pool(look(network, batch, ["relu2_1"])["relu2_1"]) for batch in (real, fake)))
    for size in (40, 7):
        metric = FID(network, layer="relu2_1")
        for batch in real.split(size):
            metric.update(real=batch)
        for batch in fake.split(size):
            metric.update(fake=batch)
        assert metric.compute() == {"FID (vgg19 relu2_1)": pytest.approx(expected, rel=1e-4)}
    assert FID(network).name == f"FID ({eye(network)})" == "FID (vgg19 relu5_1)"


def test_an_fid_keeps_as_much_for_a_thousand_pictures_as_for_one(network):
    metric = FID(network, layer="relu1_1")
    metric.update(real=pictures(1, "one"))
    before = metric._rows["real"].numel()
    metric.update(real=pictures(50, "many"))
    assert metric._rows["real"].numel() == before == 1 + 16 + 16 * 16


def test_the_fid_of_moments_is_that_of_rows(network):
    metric = FID(network, layer="relu1_1")
    x, y = (torch.randn(count, 16, dtype=torch.float64, generator=rng.generator(count)) for count in (30, 9))
    for part in x.split(8):
        metric._take("real", part)
    metric._take("fake", y + 0.5)
    assert metric.compute()[metric.name] == pytest.approx(fid(x, y + 0.5), rel=1e-6)


@pytest.mark.parametrize("metric", [FID, PrecisionRecall, Diversity, KID])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((2, 3, 32, 32), 255.0), "values up to 255"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "uint8"),
        (torch.full((2, 3, 32, 32), torch.nan), "NaN"),
        (torch.zeros(2, 1, 32, 32), r"\(2, 1, 32, 32\)"),
        (torch.zeros(3, 32, 32), r"\(3, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), r"\(0, 3, 32, 32\).*Stack"),
    ],
)
def test_no_network_looks_at_what_is_no_picture_and_neither_set_grows(metric, images, words, network):
    seen = metric(network, layer="relu1_1")
    before = {name: rows.clone() for name, rows in seen._rows.items()}
    with pytest.raises(ImageError, match=f"cannot be measured.*{words}"):
        seen.update(real=pictures(2, "real"), fake=images)
    assert all(torch.equal(rows, before[name]) for name, rows in seen._rows.items())


@pytest.mark.parametrize("metric", [FID, PrecisionRecall, Diversity, KID])
def test_processes_that_saw_a_half_each_know_all(metric, network):
    real, fake = pictures(12, "real"), pictures(13, "fake") * 0.5
    whole, here, there = (metric(network, layer="relu2_1") for _ in range(3))
    whole.update(real, fake), here.update(real[:7], fake[:6]), there.update(real[7:], fake[6:])
    others = [torch.nn.functional.pad(rows, (0, 1), value=1.0) for rows in there._rows.values()]

    class Accelerator:
        device = torch.device("cpu")

        def pad_across_processes(self, rows):
            return rows

        def gather(self, rows):
            return torch.cat([rows, others.pop(0)])

    here.gather(Accelerator())
    assert here.compute() == pytest.approx(whole.compute(), rel=1e-4)


@pytest.mark.parametrize("metric", [FID, PrecisionRecall, Diversity, KID])
def test_what_cannot_be_measured(metric, network):
    with pytest.raises(UnknownName, match="fire9"):
        metric(network, layer="fire9").update(real=pictures(1, "x"))
    with pytest.raises(ConfigError, match="found 0 and 0 pictures; allowed: at least"):
        metric(network).compute()
    broken = metric(network, layer="relu1_1")
    broken.update(real=pictures(6, "x"), fake=pictures(6, "y"))
    broken._rows["fake"] = broken._rows["fake"].clone()
    broken._rows["fake"][-1, -1] = torch.nan
    with pytest.raises(ConfigError, match="found NaN or infinity"):
        broken.compute()


# -- precision, recall, density, coverage --


def test_the_four_shares_picture_by_picture():
    neighbors = pytest.importorskip("sklearn.neighbors")
    real, fake = rows(30, "real"), torch.cat([rows(9, "fake") * 0.7, rows(6, "far", shift=4)])

    def balls(x, k):
        found = neighbors.NearestNeighbors(n_neighbors=k + 1).fit(x.numpy()).kneighbors(x.numpy())[0]
        return torch.from_numpy(found[:, k])

    def inside(points, centers, radii):
        return torch.stack([(points - c).norm(dim=1) <= r for c, r in zip(centers, radii, strict=True)])

    found = shares(real, fake, neighbors=3, dense=5)
    assert torch.equal(found["precision"], inside(fake, real, balls(real, 3)).any(0).double())
    assert torch.equal(found["recall"], inside(real, fake, balls(fake, 3)).any(0).double())
    dense = inside(fake, real, balls(real, 5))
    assert torch.equal(found["density"], dense.sum(0).double() / 5)
    assert torch.equal(found["coverage"], dense.any(1).double())
    assert 0 < found["precision"].mean() < 1 and 0 < found["coverage"].mean() < 1


def test_shares_of_known_sets():
    def means(real, fake):
        return {name: each.mean().item() for name, each in shares(real, fake).items()}

    real = rows(40, "real")
    same = means(real, real)
    assert same["precision"] == same["recall"] == same["coverage"] == 1 and same["density"] > 1
    assert set(means(real, real + 100).values()) == {0}
    collapsed = means(real, real[:1] + 1e-3 * rows(40, "near"))
    assert collapsed["precision"] == 1 and collapsed["recall"] < 0.1 and collapsed["coverage"] < 0.5
    scattered = means(real, rows(40, "fake") * 30)  # a few wild ones swallow the real ones whole, and cover nothing
    assert scattered["recall"] > 0.9 and scattered["precision"] == scattered["coverage"] == 0


def test_shares_in_blocks(monkeypatch):
    real, fake = rows(20, "real"), rows(15, "fake") * 0.8
    whole = shares(real, fake)
    monkeypatch.setattr("styleforge.metrics.precision_recall.ROWS", 7)
    assert all(torch.equal(each, whole[name]) for name, each in shares(real, fake).items())


def test_precision_recall_of_pictures(network):
    metric = PrecisionRecall(network, layer="relu2_1", neighbors=2)
    real, fake = pictures(9, "real"), pictures(8, "fake") * 0.5
    for part in (slice(0, 5), slice(5, None)):
        metric.update(real[part], fake[part])
    seen = [pool(look(network, batch, ["relu2_1"])["relu2_1"]) for batch in (real, fake)]
    expected = {name: each.mean().item() for name, each in shares(*seen, neighbors=2).items()}
    assert metric.compute() == pytest.approx(expected)
    with pytest.raises(ConfigError, match="'neighbors'.*found 0"):
        PrecisionRecall(network, neighbors=0)
    with pytest.raises(ConfigError, match="found 5 and 9 pictures; allowed: at least 6"):
        shares(rows(5, "x"), rows(9, "y"))


# -- diversity, and content with style --


def test_diversity_is_that_of_the_real_ones():
    real, fake = rows(20, "real"), rows(15, "fake")
    usual = torch.pdist(real).mean()
    assert spread(real, fake, *once(real, fake)).item() == pytest.approx((torch.pdist(fake).mean() / usual).item())
    assert spread(real, 0.2 * real, *once(real, real)).item() == pytest.approx(0.2)
    assert spread(real, fake[:1].expand(15, -1), *once(real, fake)).item() == 0


def test_twins_are_found_and_neighbors_are_none():
    real, fake = rows(20, "real"), rows(15, "fake")
    assert doubled(real, fake).sum() == 0
    twins = torch.cat([fake, fake[3:5] + 0.01])
    assert doubled(real, twins).nonzero().flatten().tolist() == [3, 4, 15, 16]
    assert doubled(real, fake[:1].expand(15, -1)).mean() == 1


def test_diversity_of_pictures_that_are_all_one(network):
    metric = Diversity(network, layer="relu2_1")
    metric.update(real=pictures(6, "real"), fake=pictures(1, "fake").expand(4, -1, -1, -1))
    values = metric.compute()
    assert values == {"diversity": pytest.approx(0, abs=1e-3), "near_duplicates": 1.0}


def test_content_and_style():
    a = torch.eye(4)[None, :, :2, None].expand(3, -1, -1, 5)  # (3, 4, 2, 5)
    b = torch.eye(4)[None, :, 2:, None].expand(3, -1, -1, 5)
    assert content_distance(a, 7 * a).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert content_distance(a, b).tolist() == [1, 1, 1]
    assert content_distance(a, a + b)[0].item() == pytest.approx(1 - 0.5**0.5)
    assert artfid(0.0, 5.0) == 6 and artfid(0.5, 0.0) == 1.5 and artfid(0.5, 5.0) == 9


# -- intervals --


def test_draws_are_of_as_many_pictures_and_the_first_is_of_each():
    times = bootstrap.draws(9, 50, 3, "source")
    assert times.shape == (51, 9) and torch.equal(times[0], torch.ones(9).double())
    assert (times.sum(1) == 9).all() and (times[1:].var(1) > 0).all()
    assert torch.equal(times, bootstrap.draws(9, 50, 3, "source"))
    assert not torch.equal(times, bootstrap.draws(9, 50, 4, "source"))


def test_figures_under_draws_are_figures_of_the_pictures_drawn():
    x, y = rows(9, "x"), rows(7, "y", shift=0.5)
    times_x, times_y = bootstrap.draws(9, 3, "x"), bootstrap.draws(7, 3, "y")
    drawn = [[z.repeat_interleave(t.long(), 0) for t in times] for z, times in ((x, times_x), (y, times_y))]
    assert fids(x, y, times_x, times_y).tolist() == pytest.approx([fid(a, b) for a, b in zip(*drawn, strict=True)])
    means = [each.mean(0)[0].item() for each in drawn[0]]
    assert bootstrap.mean(x[:, 0], times_x).tolist() == pytest.approx(means)
    assert kids(x, y, times_x, times_y)[0].item() == pytest.approx(kid(x, y), rel=1e-10)


def test_a_picture_drawn_twice_is_no_pair(monkeypatch):
    x, times = rows(9, "x"), bootstrap.draws(9, 4, "x")
    found = bootstrap.within(torch.cdist, x, times)
    for value, counts in zip(found.tolist(), times.tolist(), strict=True):
        pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
        total = sum(counts[i] * counts[j] for i, j in pairs)
        gaps = sum(counts[i] * counts[j] * (x[i] - x[j]).norm().item() for i, j in pairs)
        assert value == pytest.approx(gaps / total, rel=1e-6)
    monkeypatch.setattr(bootstrap, "ROWS", 4)
    assert bootstrap.within(torch.cdist, x, times).tolist() == pytest.approx(found.tolist())


@pytest.mark.parametrize("measure", ["mean", "kid"])
def test_intervals_hold_the_truth_as_often_as_they_say(measure):
    """Of 150 sets of 30 pictures: 95 % less what chance takes, and little more than 95 %."""
    held, truth = 0, 0.5 if measure == "mean" else kid(rows(1500, "a", shift=0.5), rows(1500, "b"))
    times = bootstrap.draws(30, 300, "x"), bootstrap.draws(30, 300, "y")
    for n in range(150):
        x, y = rows(30, "x", n, shift=0.5), rows(30, "y", n)
        values = bootstrap.mean(x[:, 0], times[0]) if measure == "mean" else kids(x, y, *times)
        found = bootstrap.estimate(values)
        held += found.low <= truth <= found.high
    assert 0.87 < held / 150 < 0.995


def test_intervals_of_an_fid_lie_around_it_although_draws_are_biased():
    x, y = rows(40, "x"), rows(40, "y", shift=0.2)
    values = fids(x, y, bootstrap.draws(40, 100, "x"), bootstrap.draws(40, 100, "y"))
    assert values[1:].min() > values[0] or values[1:].quantile(0.2) > values[0]
    found = bootstrap.estimate(values)
    assert found.value == values[0].item() and found.low < found.value < found.high
    middle = (found.low + found.high) / 2
    assert abs(middle - found.value) < 0.3 * (found.high - found.low)


def test_what_is_never_negative_stays_so():
    x = rows(6, "x")
    values = fids(x, x, bootstrap.draws(6, 50, "x"), bootstrap.draws(6, 50, "y"))
    found = bootstrap.estimate(values.clamp_min(0))
    assert found.low == 0 == pytest.approx(found.value, abs=1e-9) and found.high > 0


def test_shares_stay_shares():
    each = torch.tensor([1.0] * 11 + [0.0])
    found = bootstrap.estimate(bootstrap.mean(each, bootstrap.draws(12, 1000, "x")))
    assert 0 <= found.low < found.value == pytest.approx(11 / 12) and found.high == 1


# -- whose figures, and kept where --


def test_the_fingerprint_is_of_the_weights(network):
    assert fingerprint(network) == fingerprint(features.load("random-16x"))
    assert fingerprint(network) != fingerprint(features.load("random-16x", last="relu4_1"))
    other = features.load("random-16x")
    other.convs["conv1_1"].bias[0] += 1e-6
    assert fingerprint(other) != fingerprint(network)


def test_the_cache_knows_pictures_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(b"one"), b.write_bytes(b"two")
    key = cache.digest([a, b], "network", 256)
    assert cache.read(key) is None
    cache.write(key, {"seen": rows(2, "x")})
    assert torch.equal(cache.read(key)["seen"], rows(2, "x"))
    assert [path.suffix for path in cache.folder().iterdir()] == [".safetensors"]
    b.rename(tmp_path / "c.png")
    assert cache.digest([a, tmp_path / "c.png"], "network", 256) == key
    others = [cache.digest([tmp_path / "c.png", a], "network", 256), cache.digest([a], "network", 256)]
    others += [cache.digest([a, tmp_path / "c.png"], "network", 128)]
    a.write_bytes(b"new")
    others += [cache.digest([a, tmp_path / "c.png"], "network", 256)]
    assert len({key, *others}) == 5


def test_a_damaged_or_impossible_cache_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.write("k", {"seen": rows(2, "x")})
    path = next(cache.folder().iterdir())
    path.write_bytes(path.read_bytes()[:-8])
    assert cache.read("k") is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    cache.write("k", {"seen": rows(2, "x")})
    assert cache.read("k") is None
