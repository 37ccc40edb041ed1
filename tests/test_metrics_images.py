"""Measures of pictures and pairs: known answers, what must hold of any pictures, and that batches do not matter."""

from __future__ import annotations

import hashlib
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from styleforge import images, metrics, rng, weights
from styleforge.control import preserve_color
from styleforge.data import list_pictures
from styleforge.errors import ConfigError, HubUnavailable, ImageError, WeightsMismatch
from styleforge.metrics import bootstrap, lpips
from styleforge.metrics.checkerboard import checkerboard
from styleforge.metrics.color import color_distance, color_shift, delta_e, lab, moments
from styleforge.metrics.content import edges, structure
from styleforge.metrics.pictures import Rows
from styleforge.metrics.psnr import psnr
from styleforge.metrics.ssim import ms_ssim, ssim
from styleforge.metrics.temporal import warping_error
from styleforge.metrics.texture import FLOOR, spectrum, texture
from styleforge.video import find_shift

SIZE = 176
# Measure, the side it needs, its value for equal pictures, and whether more is nearer.
PAIRS = {
    "psnr": (psnr, 1, math.inf, True),
    "ssim": (ssim, 11, 1, True),
    "ms_ssim": (ms_ssim, 176, 1, True),
    "edges": (edges, 13, 1, True),
    "structure": (structure, 11, 1, True),
    "color_shift": (color_shift, 1, 0, False),
}
SINGLE = {"checkerboard": (checkerboard, 64), "spectrum": (spectrum, 8), "moments": (moments, 1)}
CLASSES = [
    metrics.PSNR,
    metrics.SSIM,
    metrics.MSSSIM,
    metrics.Content,
    metrics.ColorShift,
    metrics.ColorDistance,
    metrics.Texture,
    metrics.Checkerboard,
    metrics.WarpingError,
]
pairs = pytest.mark.parametrize("name", PAIRS)
classes = pytest.mark.parametrize("metric", CLASSES, ids=lambda metric: metric.__name__)
few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**31)


def scene(*key, count=1, size=SIZE):
    """Pictures of soft patches with some grain, (count, 3, size, size) in [-1, 1]."""
    generator = rng.generator("scene", *key)
    patches = torch.rand(count, 3, size // 8, size // 8, generator=generator) * 1.6 - 0.8
    soft = F.interpolate(patches, (size, size), mode="bicubic", align_corners=False)
    return (soft + 0.05 * torch.randn(soft.shape, generator=generator)).clamp(-1, 1)


def noised(x, amount, *key):
    return (x + amount * torch.randn(x.shape, generator=rng.generator("noise", *key))).clamp(-1, 1)


def pattern(period, size=64, rows=True, columns=True):
    """Ones and minus ones in stripes or a checkerboard, (size, size)."""
    half = (torch.arange(size) % period < period // 2).double() * 2 - 1
    return torch.outer(half if rows else torch.ones(size), half if columns else torch.ones(size))


# -- what holds of all pairs --


@pairs
@few
@given(seed=seeds, amount=st.floats(0.02, 0.3))
def test_equal_pictures_symmetry_and_more_noise(name, seed, amount):
    measure, _, same, rises = PAIRS[name]
    x = scene(seed)
    assert measure(x, x).item() == pytest.approx(same, abs=1e-12)
    near, far = (measure(x, noised(x, level, seed)).item() for level in (amount, 2 * amount))
    assert near > far if rises else near < far
    assert measure(noised(x, amount, seed), x).item() == pytest.approx(near, rel=1e-9)


@pairs
def test_a_pair_knows_nothing_of_its_batch_nor_of_precision(name):
    measure = PAIRS[name][0]
    x = scene("x", count=3)
    y = noised(x, 0.2, "y")
    together = measure(x, y)
    assert together.shape == (3,) and together.dtype == torch.float64 and not together.requires_grad
    assert torch.equal(together, torch.cat([measure(*pair) for pair in zip(x.split(1), y.split(1), strict=True)]))
    assert torch.equal(together, measure(x.double(), y.double()))
    half = measure(x.half(), y.half())
    assert torch.equal(half, measure(x.half().float(), y.half().float()))


@pairs
def test_pictures_that_are_too_small(name):
    measure, smallest, *_ = PAIRS[name]
    wide = torch.zeros(1, 3, smallest, 200)
    measure(wide, wide)
    with pytest.raises(ImageError, match=rf"at least {smallest} pixels"):
        measure(wide[:, :, 1:], wide[:, :, 1:])


@pytest.mark.parametrize("name", SINGLE)
def test_single_pictures_know_nothing_of_their_batch(name):
    measure, smallest = SINGLE[name]
    x = scene("x", count=3, size=72)
    alone = torch.cat([measure(one) for one in x.split(1)])
    assert alone.dtype == torch.float64 and torch.allclose(measure(x), alone, rtol=1e-12, atol=0)
    with pytest.raises(ImageError, match=f"at least {smallest} pixels"):
        measure(x[:, :, : smallest - 1])


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (torch.zeros(1, 3, 8, 9), r"found \(1, 3, 8, 8\) and \(1, 3, 8, 9\); allowed: the same shape"),
        (torch.zeros(2, 3, 8, 8), r"the same shape"),
        (torch.zeros(1, 1, 8, 8), r"found \(1, 1, 8, 8\).*\(B, 3, H, W\) of floats"),
        (torch.zeros(3, 8, 8), r"Stack"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"torch\.uint8"),
        (torch.full((1, 3, 8, 8), torch.nan), r"found NaN or infinity"),
        (torch.full((1, 3, 8, 8), 1.01), r"found values up to 1\.01; allowed: -1 to 1"),
        (torch.full((1, 3, 8, 8), -255.0), r"found values up to 255"),
    ],
    ids=["size", "batch", "channels", "no-batch", "uint8", "nan", "range", "levels"],
)
def test_what_is_no_pair(fake, message):
    metric = metrics.PSNR()
    with pytest.raises(ImageError, match=message):
        metric.update(real=torch.zeros(1, 3, 8, 8), fake=fake)
    with pytest.raises(ConfigError, match="no psnr"):
        metric.compute()


# -- what holds of all classes --


def filled(metric, size, x, y):
    metric = metric()
    for real, fake in zip(x.split(size), y.split(size), strict=True):
        metric.update(real=real, fake=fake)
    return metric


@classes
def test_batches_do_not_matter(metric):
    x = scene("x", count=5)
    x[1:4] = torch.stack([x[0].roll((n, n), (1, 2)) for n in (1, 2, 3)])  # for those who look at films
    y = noised(x, 0.1, "y")
    whole, parts = (filled(metric, size, x, y).compute() for size in (5, 2))
    assert all(type(value) is float and math.isfinite(value) for value in whole.values())
    assert whole == pytest.approx(parts, rel=1e-12)


@classes
def test_without_pictures_there_is_no_figure(metric):
    with pytest.raises(ConfigError, match=r"update\(\)"):
        metric().compute()


@classes
def test_several_processes_come_to_what_one_does(metric):
    """Two threads in place of processes; one of them has seen fewer pictures."""
    x = torch.stack([scene("x")[0].roll((n, n), (1, 2)) for n in range(7)])
    y = noised(x, 0.1, "y")
    alone = filled(metric, 4, x, y).compute()
    first = 4 if metric is not metrics.WarpingError else 3  # there the frame between must be seen by both
    shares = [filled(metric, 4, x[:4], y[:4]), filled(metric, 4, x[first:], y[first:])]
    accelerator = Together(len(shares))
    threads = [threading.Thread(target=share.gather, args=(accelerator,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone.pop("texture_error", None)  # of random draws, which know in which order pictures came
    for share in shares:
        assert alone == pytest.approx({name: share.compute()[name] for name in alone}, rel=1e-9)


class Together:
    """What measures ask of an Accelerator."""

    device = torch.device("cpu")

    def __init__(self, processes):
        self._barrier, self._given = threading.Barrier(processes, timeout=20), {}

    def _all(self, tensor):
        self._given[threading.get_ident()] = tensor
        self._barrier.wait()
        found = [self._given[key] for key in sorted(self._given)]
        self._barrier.wait()
        return found

    def pad_across_processes(self, tensor):
        return F.pad(tensor, (0, 0, 0, max(map(len, self._all(tensor))) - len(tensor)))

    def gather(self, tensor):
        return torch.cat(self._all(tensor))


def test_a_process_without_pictures_gets_those_of_the_others():
    shares = [Rows(["a"], 2), Rows(["a"], 2)]
    shares[0]._take("a", torch.tensor([[0.0, 1.0]]).double())
    accelerator = Together(2)
    threads = [threading.Thread(target=share.gather, args=(accelerator,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [share._known("a").tolist() for share in shares] == [[[0.0, 1.0]]] * 2


def test_means_and_their_errors():
    x = scene("x", count=4, size=16)
    y = torch.cat([noised(one, 0.1 * n, "y") for n, one in enumerate(x.split(1), 1)])
    metric = metrics.PSNR()
    metric.update(real=x[:1], fake=y[:1])
    assert metric.compute() == {"psnr": psnr(x[:1], y[:1]).item(), "psnr_error": 0.0}
    metric.update(real=x[1:], fake=y[1:])
    values = psnr(x, y)
    expected = {"psnr": values.mean().item(), "psnr_error": values.std().item() / 2}
    assert metric.compute() == pytest.approx(expected, rel=1e-12)


# -- fidelity --


@given(difference=st.floats(1e-3, 0.5))
def test_psnr_of_a_known_difference(difference):
    x = torch.zeros(1, 3, 4, 5, dtype=torch.float64)
    assert psnr(x, x + difference).item() == pytest.approx(20 * math.log10(2 / difference), rel=1e-9)


def test_ms_ssim_sees_coarse_structure_where_ssim_does_not():
    x = scene("x")
    fine = noised(x, 0.3, "y")
    assert ms_ssim(x, fine) > ssim(x, fine) + 0.2
    assert 0 <= ms_ssim(x, -x).item() < 0.01 and ssim(x, -x) < 0


# -- content --


@few
@given(seed=seeds, contrast=st.floats(0.1, 1), light=st.floats(-0.2, 0.2))
def test_edges_are_the_same_in_another_light_and_in_the_negative(seed, contrast, light):
    x = scene(seed, size=48) * 0.7
    assert edges(x, contrast * x * 0.8 + light).item() == pytest.approx(1, abs=1e-4)
    assert edges(x, -x).item() == pytest.approx(1, abs=1e-6)
    assert structure(x, -x).item() < 0


def test_edges_of_other_scenes_and_of_nothing():
    x, plain = scene("x", count=8, size=96), torch.zeros(8, 3, 96, 96)
    assert edges(x, scene("y", count=8, size=96)).mean().abs() < 0.1
    assert edges(x, plain).tolist() == [0] * 8 == edges(plain, x).tolist()
    assert edges(plain, plain + 0.5).tolist() == [1] * 8
    assert 0.2 < edges(x, x.roll(3, 3)).mean() < 0.9 < edges(x, noised(x, 0.05, "y")).mean()


# -- color --

# L*, a*, b* of two colors and their difference: Sharma, Wu and Dalal, 2005, table 1.
SHARMA = """
50 2.6772 -79.7751  50 0 -82.7485  2.0425   50 3.1571 -77.2803  50 0 -82.7485  2.8615
50 2.8361 -74.0200  50 0 -82.7485  3.4412   50 -1.3802 -84.2814  50 0 -82.7485  1.0000
50 -1.1848 -84.8006  50 0 -82.7485  1.0000  50 -0.9009 -85.5211  50 0 -82.7485  1.0000
50 0 0  50 -1 2  2.3669                     50 -1 2  50 0 0  2.3669
50 2.49 -0.001  50 -2.49 0.0009  7.1792     50 2.49 -0.001  50 -2.49 0.0010  7.1792
50 2.49 -0.001  50 -2.49 0.0011  7.2195     50 2.49 -0.001  50 -2.49 0.0012  7.2195
50 -0.001 2.49  50 0.0009 -2.49  4.8045     50 -0.001 2.49  50 0.0010 -2.49  4.8045
50 -0.001 2.49  50 0.0011 -2.49  4.7461     50 2.5 0  50 0 -2.5  4.3065
50 2.5 0  73 25 -18  27.1492                50 2.5 0  61 -5 29  22.8977
50 2.5 0  56 -27 -3  31.9030                50 2.5 0  58 24 15  19.4535
50 2.5 0  50 3.1736 0.5854  1.0000          50 2.5 0  50 3.2972 0  1.0000
50 2.5 0  50 1.8634 0.5757  1.0000          50 2.5 0  50 3.2592 0.3350  1.0000
60.2574 -34.0099 36.2677  60.4626 -34.1751 39.4387  1.2644
63.0109 -31.0961 -5.8663  62.8187 -29.7946 -4.0864  1.2630
61.2901 3.7196 -5.3901  61.4292 2.2480 -4.9620  1.8731
35.0831 -44.1164 3.7933  35.0232 -40.0716 1.5901  1.8645
22.7233 20.0904 -46.6940  23.0331 14.9730 -42.5619  2.0373
36.4612 47.8580 18.3852  36.2715 50.5065 21.2231  1.4146
90.8027 -2.0831 1.4410  91.1528 -1.6435 0.0447  1.4441
90.9257 -0.5406 -0.9208  88.6381 -0.8985 -0.7239  1.5381
6.7747 -0.2908 -2.4247  5.8714 -0.0985 -2.2286  0.6377
2.0776 0.0795 -1.1350  0.9033 -0.0636 -0.5514  0.9082
"""


def test_delta_e_of_the_published_pairs():
    table = torch.tensor([float(number) for number in SHARMA.split()], dtype=torch.float64).view(34, 7)
    one, two, expected = table[:, :3], table[:, 3:6], table[:, 6]
    assert (delta_e(one, two) - expected).abs().max() < 5e-5
    assert (delta_e(two, one) - expected).abs().max() < 5e-5


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((-1, -1, -1), (0, 0, 0)),
        ((1, -1, -1), (53.24, 80.09, 67.20)),
        ((-1, 1, -1), (87.73, -86.18, 83.18)),
        ((-1, -1, 1), (32.30, 79.19, -107.86)),
    ],
    ids=["white", "black", "red", "green", "blue"],
)
def test_lab_of_known_colors(rgb, expected):
    x = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)
    assert lab(x).flatten().tolist() == pytest.approx(expected, abs=0.01)


def test_lab_of_grays_has_no_color_and_no_jump():
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    light, *color = lab(x)[0, :, 0]
    assert light.diff().min() > 0 and light.diff().max() < 3 * light.diff().min()
    assert max(c.abs().max() for c in color) < 1e-12
    assert color_shift(x, x.flip(3).contiguous()).item() > 30


def test_color_distance_is_by_how_much_colors_move_and_of_any_shapes():
    x = scene("x", count=3, size=32)
    rows, moved = moments(x), lab(x.double()).flatten(2) + torch.tensor([3.0, 4.0, 0.0]).double()[:, None]
    moved = torch.cat([moved.mean(2), (moved @ moved.mT / moved.shape[2]).flatten(1)], 1)
    assert color_distance(rows, moved) == pytest.approx(5, rel=1e-9)
    assert color_distance(rows, rows) == pytest.approx(0, abs=1e-5)
    metric = metrics.ColorDistance()
    metric.update(real=x)
    metric.update(fake=F.interpolate(x, scale_factor=2))  # the same colors
    assert metric.compute()["color_distance"] == pytest.approx(0, abs=1e-5)
    metric.update(fake=torch.ones(1, 3, 5, 7))
    assert metric.compute()["color_distance"] > 5


# -- texture --


def test_spectrum_of_one_frequency():
    places = torch.arange(24, dtype=torch.float64) % 8 + 0.5
    wave = torch.outer(torch.cos(torch.pi / 8 * 3 * places), torch.cos(torch.pi / 8 * 5 * places))
    power = spectrum((wave / 127.5).expand(1, 3, 24, 24)).exp().view(3, 8, 8) - FLOOR
    expected = torch.zeros(3, 8, 8).double()
    expected[0, 3, 5] = 16  # 4 squared: of the orthonormal wave, whose largest value is a quarter
    expected[0, 0, 0] = power[0, 0, 0]
    assert torch.allclose(power, expected, atol=1e-6)
    assert power[0, 0, 0].item() == pytest.approx((8 * 127.5) ** 2, rel=1e-6)


def test_texture_term_by_term():
    real, fake = (torch.randn(n, 6, generator=rng.generator("rows", n), dtype=torch.float64) for n in (5, 4))
    a, b = ((rows - real.mean(0)) / real.std(0) for rows in (real, fake))
    width = sorted((a[i] - a[j]).norm().item() for i in range(5) for j in range(i))[4]

    def k(x, y):
        return math.exp(-(((x - y).norm().item() / width) ** 2) / 2)

    def within(z):
        return sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))

    between = sum(k(x, y) for x in a for y in b) / 20
    assert texture(real, fake) == pytest.approx(within(a) + within(b) - 2 * between, rel=1e-9)
    with pytest.raises(ConfigError, match="texture distance.*2 and 4 pictures"):
        texture(real[:2], fake)


def test_one_frequency_that_is_far_off_does_not_decide_alone():
    real, fake = torch.randn(2, 20, 192, generator=rng.generator("rows"), dtype=torch.float64)
    fake[:, 5] += 1e6
    assert 0.02 < texture(real, fake) < 0.3


def test_texture_of_one_kind_and_of_others():
    def rows(*key, change=lambda x: x):
        return spectrum(change(scene(*key, count=16, size=32)))

    same = [texture(rows("a", n), rows("b", n)) for n in range(12)]
    assert min(same) < 0 < max(same) and abs(sum(same)) / 12 < 0.02
    blurred, grainy = (
        [texture(rows("a"), rows("b", change=change(amount))) for amount in amounts]
        for change, amounts in (
            (lambda size: lambda x: F.avg_pool2d(x, size, 1, size // 2), (3, 5)),
            (lambda amount: lambda x: noised(x, amount, "grain"), (0.02, 0.1)),
        )
    )
    assert max(same) < blurred[0] <= blurred[1] + 0.05 and max(same) < grainy[0] < grainy[1]


def test_the_error_of_texture_is_that_of_draws():
    metric = metrics.Texture(draws=30)
    metric.update(real=scene("a", count=12, size=32), fake=noised(scene("b", count=9, size=32), 0.05, "n"))
    found = metric.compute()
    assert found == metric.compute() and 0 < found["texture_error"] < found["texture"]
    assert len(bootstrap.draws(3, 30, "texture", 0)) == 31


# -- checkerboards --


def test_no_grid_in_plain_pictures_noise_lines_and_gradients():
    ramp = torch.linspace(-1, 1, 96).expand(1, 3, 80, 96)
    step = (torch.arange(96) < 37).float().expand(1, 3, 80, 96)
    assert checkerboard(torch.full((1, 3, 70, 90), 0.3)).abs().item() < 1e-9
    for name, x in {"ramp": ramp, "step": step, "steps": step.transpose(2, 3).contiguous()}.items():
        assert checkerboard(x).item() < 1, name
    grainy = noised(torch.zeros(12, 3, 96, 96), 0.3, "x")
    assert checkerboard(grainy).mean().abs() < 1.5 and checkerboard(scene("x", count=12)).mean().abs() < 1.5


@pytest.mark.parametrize("period", [2, 4])
@pytest.mark.parametrize(("rows", "columns"), [(True, True), (True, False), (False, True)])
def test_a_grid_shows_wherever_it_begins_and_the_more_the_stronger_it_is(period, rows, columns):
    x, grid = scene("x", size=128).double() * 0.8, pattern(period, 128, rows, columns)
    values = [checkerboard(x + levels / 127.5 * grid).item() for levels in (0, 4, 8, 16)]
    assert values == sorted(values) and values[0] < 1.5 and values[1] > 6
    moved = checkerboard(x + 16 / 127.5 * grid.roll((1, 1), (0, 1))).item()
    assert moved == pytest.approx(values[-1], abs=1)


def test_other_periods_are_no_checkerboard():
    x = scene("x", size=120).double() * 0.8
    for period in (3, 5, 6, 10):
        wave = torch.sin(2 * torch.pi / period * torch.arange(120)).expand(120, 120)
        assert checkerboard(x + 16 / 127.5 * wave).item() < 1.5, period


def test_transposed_convolutions_leave_one_and_resizing_does_not():
    x = torch.rand(8, 3, 48, 48, generator=rng.generator("x"))
    kernel = torch.rand(3, 3, 3, 3, generator=rng.generator("kernel"))
    grid = F.conv_transpose2d(x, kernel, stride=2, padding=1, output_padding=1)
    clean = F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), kernel, padding=1)
    grid, clean = (checkerboard(y / y.max()).mean().item() for y in (grid, clean))
    assert grid > clean + 3 and clean < 1


def test_real_pictures_stand_beside_the_fakes():
    metric = metrics.Checkerboard()
    metric.update(fake=scene("x", count=2, size=64))
    assert metric.compute().keys() == {"checkerboard", "checkerboard_error"}
    metric.update(real=scene("y", size=80))
    assert metric.compute()["checkerboard_real"] == checkerboard(scene("y", size=80)).item()


# -- films --


def pan(count, step, *key):
    """A camera over a still scene, (count, 3, 64, 64)."""
    wide = scene("pan", *key, size=160)[0]
    return torch.stack([wide[:, 40 + n * step[0] :, 40 + n * step[1] :][:, :64, :64] for n in range(count)])


@pytest.mark.parametrize("step", [(0, 0), (0, 3), (2, -1)])
def test_films_that_only_move_are_steady_and_flicker_shows(step):
    x = pan(6, step)
    steady, shaky = (filled(metrics.WarpingError, 4, x, y).compute() for y in (x * 0.5, noised(x * 0.5, 0.1, "y")))
    assert steady["warping_error"] == pytest.approx(0, abs=1e-7) == steady["warping_error_real"]
    assert steady["flicker"] == (pytest.approx(0.5) if any(step) else 0)
    assert shaky["warping_error"] == pytest.approx(2 / math.pi**0.5 * 0.05, rel=0.05)  # two draws of N(0, 0.05)
    y = noised(x * 0.5, 0.1, "y")
    assert shaky["warping_error"] == pytest.approx(warping_error((y + 1) / 2, step), rel=1e-6)
    assert find_shift(x[1], x[0]) == step


def test_cuts_and_other_films_are_not_compared():
    first, second = pan(3, (0, 2), "a"), pan(3, (0, 2), "b") * 0.3 + 0.6
    cut = filled(metrics.WarpingError, 2, torch.cat([first, second]), torch.cat([first, second])).compute()
    assert cut["warping_error"] == pytest.approx(0, abs=1e-7)
    metric = metrics.WarpingError()
    metric.update(first, first)
    metric.begin()
    metric.update(first, -first)
    assert metric.compute()["warping_error"] == pytest.approx(0, abs=1e-7)
    metric.update(first[-1:], first[-1:])
    assert metric.compute()["warping_error"] > 0.01


# -- LPIPS --


@pytest.fixture
def lpips_files(tmp_path, monkeypatch):
    """Files with an AlexNet that begins as the real one does, and with heads that count as the real ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = lpips.Backbone("alex").state_dict()
    first = state["0.weight"].view(-1)
    for place, number in lpips.FIRST["alex"].items():
        first[place] = number
    heads = [torch.rand(1, state[f"{n}.weight"].shape[0], 1, 1, generator=rng.generator(n)) for n in (0, 3, 6, 8, 10)]
    digest = hashlib.sha256(b"".join(head.numpy().tobytes() for head in heads)).hexdigest()
    monkeypatch.setattr(lpips, "HEADS", {"alex": digest, "vgg": "another"})
    weights.write(tmp_path / "heads.safetensors", {f"alex.lin{n}.model.1.weight": h for n, h in enumerate(heads)})
    weights.write(tmp_path / "alex.safetensors", {f"features.{name}": tensor for name, tensor in state.items()})
    return tmp_path / "heads.safetensors", tmp_path / "alex.safetensors"


def test_lpips(lpips_files):
    heads, backbone = lpips_files
    metric = metrics.LPIPS(heads, net="alex", backbone=backbone)
    x = scene("x", count=3, size=64)
    values = []
    for amount in (0, 0.1, 0.3):
        metric = metrics.LPIPS(heads, net="alex", backbone=backbone)
        for real, fake in zip(x.split(2), noised(x, amount, "y").split(2), strict=True):
            metric.update(real=real, fake=fake)
        assert metric.compute().keys() == {"lpips_alex", "lpips_alex_error"}
        values.append(metric.compute()["lpips_alex"])
    assert values[0] == 0 < values[1] < values[2]
    with torch.autocast("cpu", torch.bfloat16):
        metric = metrics.LPIPS(heads, net="alex", backbone=backbone)
        metric.update(real=x, fake=noised(x, 0.3, "y"))
    assert metric.compute()["lpips_alex"] == pytest.approx(values[2], rel=1e-5)
    with pytest.raises(ImageError, match="at least 32"):
        metric.update(real=x[:, :, :31], fake=x[:, :, :31])


@pytest.mark.parametrize("change", ["weights", "shape", "missing"])
def test_another_backbone_is_refused(lpips_files, tmp_path, change):
    heads, backbone = lpips_files
    tensors = weights.read(backbone)
    if change == "weights":
        tensors["features.0.weight"] += 1e-3
    elif change == "shape":
        tensors["features.3.bias"] = torch.zeros(7)
    else:
        del tensors["features.10.bias"]
    other = weights.write(tmp_path / "other.safetensors", tensors)
    with pytest.raises(WeightsMismatch, match="the figure would not be LPIPS.*other.safetensors"):
        metrics.LPIPS(heads, net="alex", backbone=other)


def test_other_heads_are_refused_and_every_digit_counts(lpips_files, tmp_path):
    heads, backbone = lpips_files
    tensors = weights.read(heads)
    tensors["alex.lin4.model.1.weight"][0, 7] += 1e-6
    with pytest.raises(WeightsMismatch, match="not the heads of LPIPS"):
        metrics.LPIPS(weights.write(tmp_path / "other.safetensors", tensors), net="alex", backbone=backbone)
    with pytest.raises(WeightsMismatch, match="v0.1 for vgg"):
        metrics.LPIPS(heads, net="vgg", backbone=backbone)
    with pytest.raises(ConfigError, match="'net'.*'squeeze'.*'alex' or 'vgg'"):
        metrics.LPIPS(heads, net="squeeze", backbone=backbone)


def test_networks_of_this_library_are_no_backbone_of_lpips(shared):
    heads = shared / "weights" / "lpips_lin_v0.1.safetensors"
    for net in ("alex", "vgg"):
        assert [len(head) for head in lpips.read_heads(heads, net)] == (
            [64, 192, 384, 256, 256] if net == "alex" else [64, 128, 256, 512, 512]
        )
        with pytest.raises(WeightsMismatch, match="tensors of other names or shapes"):
            metrics.LPIPS(heads, net=net, backbone=shared / "weights" / "squeezenet1_0_caffe.safetensors")


def test_the_pin_of_the_backbone(monkeypatch):
    asked = []

    def fetch(repo, name, *, commit, digest):
        asked.append((repo, name, len(commit), len(digest)))
        raise HubUnavailable("No network")

    monkeypatch.setattr(lpips.hub, "fetch_file", fetch)
    monkeypatch.setattr(lpips, "read_heads", lambda path, net: [])
    with pytest.raises(HubUnavailable, match=r"network of LPIPS \(timm/vgg16\.tv_in1k\).*torchvision's weights"):
        metrics.LPIPS("heads.safetensors")
    assert asked == [("timm/vgg16.tv_in1k", "model.safetensors", 40, 64)]
    with pytest.raises(ConfigError, match="no AlexNet"):
        metrics.LPIPS("heads.safetensors", net="alex")


# -- real pictures --


def test_controls_on_photographs(shared):
    """What blur, noise and a transfer of colors do to each measure, and what they leave alone."""
    folder = shared / "data" / "photo2classic"
    photos, paintings = (
        torch.cat([images.square(images.read(file), 192) for file in list_pictures(folder / name)[:6]])
        for name in ("testA", "testB")
    )
    controls = {
        "blurred": F.avg_pool2d(photos, 5, 1, 2, count_include_pad=False),
        "noised": noised(photos, 0.2, "x"),
        "colored": torch.cat(
            [
                preserve_color(target, photo, "histogram")
                for photo, target in zip(*(x.split(1) for x in (photos, paintings)), strict=True)
            ]
        ),
    }
    found = {}
    for name, fake in controls.items():
        found[name] = {}
        for metric in (metrics.MSSSIM(), metrics.Content(), metrics.ColorShift()):
            metric.update(real=photos, fake=fake)
            found[name] |= metric.compute()
        for metric in (metrics.ColorDistance(), metrics.Texture(draws=2), metrics.Checkerboard()):
            metric.update(real=paintings, fake=fake)
            found[name] |= metric.compute()
    colored = found.pop("colored")
    for other in found.values():
        assert colored["color_distance"] < other["color_distance"] / 2 and colored["color_shift"] > 5
        assert colored["texture"] < other["texture"]
    for values in (colored, *found.values()):
        assert values["edges"] > 0.9 and abs(values["checkerboard"]) < 1.5
    assert edges(photos, photos.roll(1, 0)).mean() < 0.3
