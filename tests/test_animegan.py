"""AnimeGAN: what its generator's numbers against the field's code do not say."""

from __future__ import annotations

import golden
import pytest
import torch
from torch import nn

from styleforge import features, methods
from styleforge.errors import ImageError
from styleforge.losses import color_loss, discriminator_loss, generator_loss, gram, gray, total_variation
from styleforge.methods.animegan import smooth_edges
from styleforge.methods.base import Batch
from styleforge.models import AnimeGANDiscriminator, AnimeGANGenerator

SMALL = {"width": 4, "discriminator_width": 2, "features": "random-16x", "spectral_norm": False, "warmup": 3}


def method(**changes):
    return golden.fill(methods.build("animegan", {**SMALL, **changes})).train()


def batch(turn=3, size=32):
    return Batch({d: golden.hashed_picture(d, 2, 3, size, size) for d in ("source", "target")}, 0, turn, 0)


# -- networks --


def test_any_size_with_aligned_corners_only():
    x = golden.hashed_picture("x", 1, 3, 37, 42)
    assert golden.fill(AnimeGANGenerator(width=4))(x).shape == x.shape
    with pytest.raises(ImageError, match="multiples of 4"):
        AnimeGANGenerator(width=4, align_corners=False)(x)


@pytest.mark.parametrize(("layers", "field"), [(1, 17), (2, 37), (3, 77)])
def test_patches_are_as_wide_as_they_say(layers, field):
    network = AnimeGANDiscriminator(width=2, layers=layers, spectral_norm=False)
    for index, module in enumerate(network.layers):
        if isinstance(module, nn.GroupNorm):  # sees everything
            network.layers[index] = nn.Identity()
    x = golden.hashed_picture("x", 1, 3, 2 * field, 2 * field).requires_grad_()
    y = golden.fill(network)(x)
    assert y.shape[2] == -(-2 * field // 2**layers)
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    seen = (x.grad[0].abs().sum((0, 1)) > 0).nonzero().flatten()
    assert seen[-1] - seen[0] + 1 == len(seen) == field


def test_spectral_norm_is_on_every_convolution_or_on_none():
    for built, wanted in ((AnimeGANDiscriminator(width=2), True), (method().discriminator, False)):
        convs = [m for m in built.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 7 and all(nn.utils.parametrize.is_parametrized(m) == wanted for m in convs)
    assert any(nn.utils.parametrize.is_parametrized(m) for m in method(spectral_norm=True).discriminator.modules())


# -- soft edges --


def halves(low, high):
    image = torch.full((1, 3, 12, 16), low, dtype=torch.float64)
    image[..., 8:] = high
    return image


def test_edges_are_smoothed_and_nothing_else():
    image = halves(-0.5, 0.5)
    smooth = smooth_edges(image)
    # Sobel sees the edge from both of its sides; dilation adds two columns to each; the blur changes those it reaches.
    row = [-0.5 + share / 16 for share in (0, 1, 5, 11, 15, 16)]
    assert torch.allclose(smooth, torch.tensor([-0.5] * 5 + row + [0.5] * 5, dtype=torch.float64).expand_as(image))


def test_edges_at_the_border():
    image = halves(-1.0, 1.0).roll(-7, 3)  # the edge is one pixel from the border
    smooth = smooth_edges(image)
    assert smooth.isfinite().all() and smooth.abs().max() <= 1 and not torch.equal(smooth[..., :1], image[..., :1])


def test_faint_slopes_are_no_edges():
    # Sobel's slope is four times the step of luma, which is half of ours.
    assert torch.equal(smooth_edges(halves(-0.14, 0.14)), halves(-0.14, 0.14))
    assert not torch.equal(smooth_edges(halves(-0.16, 0.16)), halves(-0.16, 0.16))


def test_only_pictures_with_an_edge_change():
    both = torch.cat([halves(-0.5, 0.5), halves(0.2, 0.2)])
    smooth = smooth_edges(both)
    assert torch.equal(smooth[1], both[1]) and torch.equal(smooth[:1], smooth_edges(both[:1]))


# -- the method --


def test_three_kinds_of_fakes():
    built, turn = method(gray=2.0, edges=3.0, warmup=0), batch()
    terms = built.discriminator_terms(turn)
    judge, real = built.discriminator, turn["target"]
    colorless = gray(real).expand(-1, 3, -1, -1)
    expected = {
        "real_fake": discriminator_loss(judge(real), judge(turn["fake"])).item(),
        "gray": 2 * judge(colorless).square().mean().item() / 2,
        "edges": 3 * judge(smooth_edges(real)).square().mean().item() / 2,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)
    assert method(gray=0.0, edges=0.0).discriminator_terms(batch(5)).keys() == {"real_fake"}


def test_drawings_are_judged_once():
    built, judged = method(warmup=0), []
    built.discriminator.register_forward_pre_hook(lambda module, images: judged.append(images[0]))
    turn = batch()
    built.discriminator_terms(turn)
    assert sum(torch.equal(seen, turn["target"]) for seen in judged) == 1 and len(judged) == 4


def test_the_discriminator_waits_for_the_generator():
    built = method()
    assert [bool(built.discriminator_terms(batch(turn))) for turn in range(5)] == [False] * 3 + [True] * 2


def test_the_generator_begins_with_the_photograph():
    built = method()
    keys = [built.generator_terms(batch(turn)).keys() for turn in range(5)]
    assert keys[:3] == [{"content", "photograph"}] * 3
    warm, first = method(warmup=9, color=5.0), batch(0)
    term = warm.generator_terms(first)["photograph"]
    assert term.item() == pytest.approx(5 * (first["fake"] - first["source"]).abs().mean().item())
    assert keys[3:] == [{"content", "color", "tv", "fool", "style"}] * 2


def test_terms_of_the_generator():
    built, turn = method(content=2.0, style=3.0, color=5.0, tv=7.0, gan=11.0), batch()
    terms = built.generator_terms(turn)
    fake = built.generator(turn["source"])
    assert torch.equal(turn["fake"], fake)

    def share(a, b):
        return ((a - b).abs().mean() / b.abs().mean()).item()

    network, colorless = features.load("random-16x").double(), gray(turn["target"]).expand(-1, 3, -1, -1)
    seen, shown, texture = (network(x, ["relu4_4"])["relu4_4"] for x in (fake, turn["source"], colorless))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "content": 2 * share(seen, shown),
            "color": 5 * color_loss(fake, turn["source"]).item(),
            "tv": 7 * total_variation(fake, "mean_square").item(),
            "fool": 11 * generator_loss(built.discriminator(fake)).item(),
            "style": 3 * share(gram(seen), gram(texture)),
        },
        rel=1e-9,
    )
