"""DiffAugment by hand, and what must hold of it."""

from __future__ import annotations

import itertools

import golden
import pytest
import torch

from styleforge.augment import CHANGES, check_policy, diff_augment
from styleforge.errors import ConfigError
from styleforge.rng import generator

POLICIES = [",".join(words) for n in range(1, 4) for words in itertools.combinations(CHANGES, n)]
policies = pytest.mark.parametrize("policy", POLICIES)


def picture(*shape):
    return golden.hashed_picture("x", *shape)


def augment(image, policy, key="augment"):
    return diff_augment(image, policy, generator(key))


def test_words_are_those_of_the_paper():
    assert list(CHANGES) == ["color", "translation", "cutout"]
    assert check_policy("color,translation,cutout") == list(CHANGES)
    assert check_policy("cutout, color") == ["cutout", "color"]
    assert check_policy("") == []


@pytest.mark.parametrize(
    ("policy", "word", "hint"),
    [
        ("colors", "colors", "Did you mean 'color'?"),
        ("cutout,Translate", "Translate", "Did you mean 'translation'?"),
        ("color;cutout", "color;cutout", "Separate several by commas."),
        ("color,", "", "Separate several by commas."),
        ("none", "none", "Separate several by commas."),
    ],
)
def test_unknown_words_are_named(policy, word, hint):
    with pytest.raises(ConfigError) as error:
        check_policy(policy)
    message = str(error.value)
    assert f"found {word!r}; allowed: color, translation, cutout." in message and hint in message
    with pytest.raises(ConfigError):
        augment(picture(1, 3, 8, 8), policy)


def test_no_policy_changes_nothing():
    x = picture(2, 3, 8, 8)
    assert augment(x, "") is x


@policies
def test_depends_on_the_generator_only(policy):
    x = picture(4, 3, 16, 12)
    before = x.clone()
    torch.manual_seed(1)
    first = augment(x, policy)
    torch.manual_seed(2)
    assert torch.equal(augment(x, policy), first)
    assert not torch.equal(augment(x, policy, "another"), first)
    assert torch.equal(x, before)


@policies
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 9, 7), (2, 3, 16, 13), (3, 6, 8, 8), (2, 4, 10, 10)])
def test_keeps_shape_and_type(policy, dtype, shape):
    y = augment(picture(*shape).to(dtype), policy)
    assert y.shape == shape and y.dtype == dtype and y.isfinite().all()


@policies
def test_each_picture_in_its_own_way(policy):
    one = picture(1, 3, 16, 16)
    y = augment(one.expand(6, 3, 16, 16), policy)
    assert len({tuple(x.flatten().tolist()) for x in y}) > 1


@policies
def test_gradients_reach_the_picture(policy):
    x = picture(2, 3, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, policy), x, fast_mode=True)
    weight = picture(2, 3, 6, 6) + 2
    (gradient,) = torch.autograd.grad((augment(x, policy) * weight).sum(), x)
    assert (gradient != 0).float().mean() > 0.3


# -- color --


def test_color_by_hand():
    x = picture(5, 3, 4, 6)
    draws = torch.rand(3, 5, generator=generator("augment"))
    for image, changed, (b, s, c) in zip(x, augment(x, "color"), draws.T.double(), strict=True):
        image = image + b - 0.5
        image = image.mean(0) + 2 * s * (image - image.mean(0))
        image = image.mean() + (0.5 + c) * (image - image.mean())
        assert torch.allclose(changed, image, rtol=0, atol=1e-12)


def test_color_stays_within_its_ranges():
    gray = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4).expand(500, 3, 4, 4)
    y = augment(gray, "color")
    assert torch.allclose(y, y[:, :1])  # grays stay gray
    brightness = y.mean((1, 2, 3))
    contrast = y[:, 0].flatten(1).std(1) / gray[:, 0].flatten(1).std(1)
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5)):
        assert low <= values.min() < low + 0.02 and high - 0.02 < values.max() <= high
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[:, None, None].expand(500, 3, 4, 4)
    y = augment(red, "color")  # without contrast: its own mean is that of its only color
    saturation = (y[:, 0] - y[:, 1])[:, 0, 0] / contrast
    assert 0 <= saturation.min() < 0.02 and 1.98 < saturation.max() <= 2


# -- places --


def test_translation_by_hand():
    x = picture(40, 3, 16, 24) + 5  # nowhere 0
    y = augment(x, "translation")
    found = set()
    for image, moved in zip(x, y, strict=True):
        down, right = (range(-2, 3), range(-3, 4))
        matches = []
        for dy, dx in itertools.product(down, right):
            expected = torch.zeros_like(image)
            to = slice(max(dy, 0), 16 + min(dy, 0)), slice(max(dx, 0), 24 + min(dx, 0))
            of = slice(max(-dy, 0), 16 + min(-dy, 0)), slice(max(-dx, 0), 24 + min(-dx, 0))
            expected[:, to[0], to[1]] = image[:, of[0], of[1]]
            if torch.equal(moved, expected):
                matches.append((dy, dx))
        assert len(matches) == 1
        found |= set(matches)
    assert {dy for dy, _ in found} == set(range(-2, 3)) and {dx for _, dx in found} == set(range(-3, 4))


def test_cutout_by_hand():
    x = picture(300, 3, 8, 10) + 5
    y = augment(x, "cutout")
    cut = (y == 0).all(1)
    assert torch.equal(y, x * ~cut[:, None])
    rows, columns = cut.any(2), cut.any(1)
    assert torch.equal(cut, rows[:, :, None] & columns[:, None, :])  # boxes
    for size, places in ((4, rows), (5, columns)):
        lengths = places.sum(1)
        assert lengths.max() == size and lengths.min() == (size + 1) // 2  # the center is never outside
        assert places[lengths == lengths.min()][:, [0, -1]].any(0).all()  # and reaches both borders
        assert ((places & ~places.roll(1, 1)).sum(1) == 1).all()  # in one piece
        assert places.any(0).all()  # that may be anywhere


# -- pairs --


def test_both_pictures_of_a_pair_change_alike():
    x = picture(3, 3, 16, 16) * 0.4
    for policy in POLICIES:
        pair = augment(torch.cat([x, x * 0.5], 1), policy)
        alone = augment(x, policy)
        assert torch.equal(pair[:, :3], alone)  # what is beside it does not matter
        assert torch.equal(pair[:, 3:], augment(x * 0.5, policy))
