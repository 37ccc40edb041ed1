"""Measures of sets of pictures: known answers, and that batches, blocks and precision do not matter."""

from __future__ import annotations

import sys

import pytest
import torch

from styleforge import features, images, rng
from styleforge.data import list_pictures
from styleforge.errors import ConfigError, UnknownName
from styleforge.metrics import KID
from styleforge.metrics.kid import DEFAULT_LAYERS, estimate, kid, look, pool


def rows(count, *purpose, shift=0.0):
    return torch.randn(count, 12, generator=rng.generator(*purpose), dtype=torch.float64) + shift


def pictures(count, purpose, size=32):
    return torch.rand(count, 3, size, size, generator=rng.generator(purpose)) * 2 - 1


@pytest.fixture(scope="module")
def network():
    return features.load("random-16x")


# -- the number --


def test_the_formula_term_by_term():
    def k(a, b):
        return ((a @ b).item() / 12 + 1) ** 3

    def within(z):
        n = len(z)
        return sum(k(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    x, y = rows(5, "x"), rows(4, "y", shift=0.5)
    between = sum(k(a, b) for a in x for b in y) / 20
    assert kid(x, y) == pytest.approx(within(x) + within(y) - 2 * between, rel=1e-12)
    assert kid(y, x) == pytest.approx(kid(x, y), rel=1e-12)
    assert kid(x.float(), y.float()) == kid(x.float().double(), y.float().double())


def test_zero_for_one_distribution_on_either_side_and_more_for_a_farther_one():
    same = [kid(rows(20, "a", n), rows(30, "b", n)) for n in range(200)]
    mean, error = torch.tensor(same).mean().item(), torch.tensor(same).std().item() / 200**0.5
    assert abs(mean) < 3 * error and min(same) < 0 < max(same)
    near, far = (kid(rows(50, "a"), rows(50, "b", shift=shift)) for shift in (0.5, 1.0))
    assert max(same) < near < far


def test_matrices_in_blocks(monkeypatch):
    x, y = rows(20, "x"), rows(15, "y")
    whole = estimate(x, y)
    monkeypatch.setattr(sys.modules["styleforge.metrics.kid"], "ROWS", 7)
    assert estimate(x, y) == pytest.approx(whole, rel=1e-10)


def test_the_error_is_the_jackknife_of_both_sets():
    x, y = rows(9, "x"), rows(7, "y", shift=0.3)

    def variance(n, without):
        values = torch.tensor([without([j for j in range(n) if j != i]) for i in range(n)], dtype=torch.float64)
        return (n - 1) / n * (values - values.mean()).square().sum().item()

    expected = variance(9, lambda keep: kid(x[keep], y)) + variance(7, lambda keep: kid(x, y[keep]))
    assert estimate(x, y)[1] == pytest.approx(expected**0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("count", "shift", "low", "high"), [(20, 0.5, 0.85, 1.2), (80, 0.5, 0.85, 1.2), (40, 0, 1, 1.7)]
)
def test_the_error_is_honest(count, shift, low, high):
    """Against the deviation of many draws: right for sets that differ, too large for those that do not."""
    drawn = [estimate(rows(count, "a", n, shift=shift), rows(count, "b", n)) for n in range(200)]
    values, errors = torch.tensor(drawn, dtype=torch.float64).T
    assert low < errors.mean() / values.std() < high


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (rows(2, "x"), rows(9, "y"), r"found 2 and 9 pictures; allowed: at least 3"),
        (rows(9, "x"), rows(9, "y")[:, :5], r"found \(9, 12\) and \(9, 5\).*one layer"),
        (rows(9, "x"), rows(9, "y") * torch.nan, r"found NaN or infinity"),
        (rows(9, "x") / 0, rows(9, "y"), r"found NaN or infinity"),
    ],
    ids=["few", "widths", "nan", "infinity"],
)
def test_features_that_have_no_kid(x, y, message):
    with pytest.raises(ConfigError, match=message):
        kid(x, y)


# -- of pictures --


def test_rows_have_no_unit():
    x = torch.rand(4, 6, 3, 5, generator=rng.generator("x"))
    pooled = pool(x)
    assert pooled.dtype == torch.float64 and torch.allclose(pooled.square().mean(1), torch.ones(4).double())
    assert torch.allclose(pool(x * 1000), pooled)
    means = x.double().mean((2, 3))
    assert torch.allclose(pooled / pooled[:, :1], means / means[:, :1])
    assert torch.equal(pool(torch.zeros(2, 6, 3, 5)), torch.zeros(2, 6).double())


def test_batches_do_not_matter(network):
    real, fake = pictures(10, "real"), pictures(7, "fake") * 0.5
    results = []
    for size in (10, 3, 1):
        metric = KID(network, layer="relu2_1", subsets=5)
        for batch in real.split(size):
            metric.update(real=batch)
        for batch in fake.split(size):
            metric.update(fake=batch)
        results.append(metric.compute())
    assert results[0].keys() == {"kid", "kid_std", "kid_unbiased", "kid_error"}
    assert all(type(value) is float for value in results[0].values())
    assert results[1] == pytest.approx(results[0], rel=1e-4) and results[2] == pytest.approx(results[0], rel=1e-4)
    expected = estimate(*(pool(look(network, batch, ["relu2_1"])["relu2_1"]) for batch in (real, fake)))
    assert (results[0]["kid_unbiased"], results[0]["kid_error"]) == pytest.approx(expected, rel=1e-4)


def test_subsets_are_of_half_the_pictures_and_drawn_by_the_seed(network):
    real, fake = pictures(12, "real"), pictures(8, "fake") * 0.5

    def compute(**options):
        metric = KID(network, layer="relu2_1", **{"subsets": 30, **options})
        metric.update(real, fake)
        return metric.compute()

    half = compute()
    assert half == compute(subset_size=4) and half != compute(subset_size=3) and half != compute(seed=1)
    assert half["kid_unbiased"] == compute(subset_size=3)["kid_unbiased"] != compute(seed=1)["kid"]
    # Unbiased, so many subsets come to what all pictures have; their deviation is about its error.
    assert abs(half["kid"] - half["kid_unbiased"]) < 3 * half["kid_std"] / 30**0.5
    assert 0.5 < half["kid_std"] / half["kid_error"] < 2
    assert compute(subsets=1)["kid_std"] == 0


def test_the_network_sees_in_full_precision_whatever_surrounds_it(network):
    x = pictures(2, "x")
    expected = look(network, x, ["relu2_1"])["relu2_1"]
    with torch.autocast("cpu", torch.bfloat16):
        seen = look(network, x, ["relu2_1"])["relu2_1"]
    assert seen.dtype == torch.float32 and torch.equal(seen, expected) and not seen.requires_grad


def test_layers_unless_told():
    for network in (features.load("random-16x"), features.SqueezeNet()):
        metric = KID(network, subsets=1)
        metric.update(pictures(3, "real", 64), pictures(3, "fake", 64))
        assert metric.layer == DEFAULT_LAYERS[type(network)] and metric.compute()["kid_error"] >= 0


def test_settings_and_layers_that_do_not_exist(network):
    with pytest.raises(ConfigError, match="'subset_size'.*found 2"):
        KID(network, subset_size=2)
    metric = KID(network, layer="fire9")
    with pytest.raises(UnknownName, match="fire9"):
        metric.update(real=pictures(1, "x"))
    with pytest.raises(ConfigError, match="found 0 and 0 pictures"):
        metric.compute()


def test_paintings_are_nearer_to_paintings_than_photographs_are(shared):
    squeeze = features.load(shared / "weights" / "squeezenet1_0_caffe.safetensors")
    folders = {"photos": "trainA", "paintings": "trainB", "others": "testB"}
    seen = {}
    for name, folder in folders.items():
        files = list_pictures(shared / "data" / "mini128" / folder)[:11]
        seen[name] = torch.cat([images.square(images.read(file), 128) for file in files])
    values = {}
    for name in ("photos", "others"):
        metric = KID(squeeze, subsets=1)
        metric.update(real=seen["paintings"], fake=seen[name])
        values[name] = metric.compute()
    gap = values["photos"]["kid_unbiased"] - values["others"]["kid_unbiased"]
    assert gap > values["photos"]["kid_error"]
