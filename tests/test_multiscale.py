"""The multi-scale generator: what its scales say to each other; and its method, against the faults of a description
that has been going round: 3, 1, 0 and 0 channels, sizes that miss, an adversarial term that reaches no generator, and
a discriminator that sees fakes only, which it learns to call real."""

import pytest
import torch
import torch.nn.functional as F

from styleforge import methods
from styleforge.losses import focal_frequency_loss
from styleforge.methods.base import Batch
from styleforge.models import MultiScaleGenerator
from styleforge.models.multiscale import image_pyramid

SMALL = {"width": 4, "blocks": 1, "discriminator_width": 4}


def generator(**config):
    torch.manual_seed(0)
    return MultiScaleGenerator(**{"width": 4, "blocks": 1, **config}).double()


def picture(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def method(**settings):
    torch.manual_seed(0)
    return methods.build("multiscale", {**SMALL, **settings}).double()


def batch(size=48, count=2, turn=0):
    shape = count, 3, size, size
    return Batch({"source": picture(*shape), "target": picture(*shape, seed=1).abs()}, 0, turn, 0)


# -- the network --


def test_an_image_pyramid_is_made_of_means():
    x = picture(2, 3, 16, 8)
    fine, half, quarter = image_pyramid(x, 3)
    assert fine is x and half.shape == (2, 3, 8, 4) and quarter.shape == (2, 3, 4, 2)
    assert quarter[1, 2, 3, 1].item() == pytest.approx(x[1, 2, 12:16, 4:8].mean().item())
    assert len(image_pyramid(x, 1)) == 1


@pytest.mark.parametrize("scales", [1, 2, 4, 5])
def test_channels_and_sizes_of_every_scale(scales):
    network = generator(scales=scales, out_channels=2)
    x = picture(2, 3, 32, 48)
    pictures = network.pyramid(x)
    assert [tuple(p.shape) for p in pictures] == [(2, 2, 32 >> s, 48 >> s) for s in range(scales)]
    assert torch.equal(pictures[0], network(x))
    assert [branch.weight.shape[0] for branch in network.stems] == [4, 8, 16, 32, 32][:scales]
    assert all(p.abs().max() <= 1 for p in pictures)


def effects(network):
    """For each branch of the encoder: the pictures that its own first weights can change."""
    x = picture(1, 3, 32, 32)
    rows = []
    for stem in network.stems:
        pictures = network.pyramid(x)
        grads = [
            torch.autograd.grad(p.square().mean(), stem.weight, retain_graph=True, allow_unused=True)[0]
            for p in pictures
        ]
        rows.append([g is not None and bool(g.abs().max() > 1e-12) for g in grads])
    return rows


def test_all_scales_see_all_scales():
    assert effects(generator(scales=3)) == [[True] * 3] * 3


def test_without_exchange_only_strokes_are_added_up():
    # Row: branch that changes; column: picture. A picture is the sum of the strokes of its own and coarser branches.
    assert effects(generator(scales=3, cross_scale=False)) == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_the_statistics_of_a_scale_are_the_style_of_the_next_finer_one():
    network = generator(scales=2)
    painter, x, coarser = network.painters[0], picture(1, 4, 8, 8), picture(1, 8, 4, 4, seed=1)
    (painted, _), (restyled, _) = painter(x, coarser), painter(x, coarser + 1)
    # The norm takes a constant away, so what differs comes by the code.
    deviations = [p.std((2, 3)) for p in (painted, restyled)]
    assert (deviations[0] - deviations[1]).abs().max() > 0.01
    for norm in (painter.norm, *(n for block in painter.blocks for n in (block.norm1, block.norm2))):
        torch.nn.init.zeros_(norm.style.weight)
    assert torch.allclose(painter(x, coarser)[0], painter(x, coarser + 1)[0])


def test_strokes_are_added_to_the_coarser_picture():
    network = generator(scales=2)
    x = picture(1, 3, 16, 16)
    coarse = network.pyramid(x)[1]
    for parameter in network.painters[0].head.parameters():
        torch.nn.init.zeros_(parameter)
    expected = F.interpolate(coarse.atanh(), scale_factor=2, mode="bilinear").tanh()
    assert torch.allclose(network(x), expected)


# -- the method --


def test_patches_cover_as_much_of_the_picture_at_every_scale():
    made = method(discriminator_layers=3, scales=5)
    assert [d.config["layers"] for d in made.discriminators] == [3, 2, 1, 1, 1]
    assert all(d.config["spectral_norm"] for d in made.discriminators)
    sizes = [128 >> scale for scale in range(4)]
    assert all(s >= d.capabilities.smallest for s, d in zip(sizes, made.discriminators, strict=False))
    assert {p.name: p.lr for p in made.players()} == {"d": 4e-4, "generator": 2e-4}


@pytest.mark.parametrize("kind", ["hinge", "lsgan"])
def test_every_discriminator_sees_both_classes_at_its_size(kind):
    made = method(adversarial=kind).eval()
    data = batch()
    seen = {}
    for scale, judge in enumerate(made.discriminators):
        judge.register_forward_hook(
            lambda _, inputs, output, s=scale: seen.setdefault(s, []).append((inputs[0], output))
        )
    terms = made.discriminator_terms(data)
    reals, fakes = image_pyramid(data["target"], 4), made.generator.pyramid(data["source"])
    assert list(terms) == ["scale0", "scale1", "scale2", "scale3"]
    for scale, term in enumerate(terms.values()):
        (fake, of_fake), (real, of_real) = seen[scale]
        assert torch.equal(real, reals[scale]) and torch.allclose(fake, fakes[scale])
        if kind == "hinge":
            expected = (F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()) / 2
        else:
            expected = ((of_real - 1).square().mean() + of_fake.square().mean()) / 2
        assert term.item() == pytest.approx(expected.item())


def test_the_adversarial_term_reaches_the_generator_through_every_scale():
    made = method(reconstruction_weight=0.0)
    data = batch()
    terms = made.generator_terms(data)
    grads = torch.autograd.grad(sum(terms.values()), made.generator.parameters(), retain_graph=True)
    assert all(g.isfinite().all() and g.any() for g in grads)
    fakes = [data[f"fake{scale}"] for scale in range(4)]
    assert all(g.any() for g in torch.autograd.grad(terms["fool"], fakes))
    silent = method(gan=0.0, reconstruction_weight=0.0).generator_terms(batch())
    assert sum(silent.values()).item() == 0


def test_one_pass_of_the_generator_serves_both_players():
    made = method()
    passes = []
    made.generator.stems[0].register_forward_hook(lambda *_: passes.append(1))
    data = batch()
    made.discriminator_terms(data)
    made.generator_terms(data)
    assert len(passes) == 1 and data["fake0"].shape == data["source"].shape


@pytest.mark.parametrize(("kind", "distance"), [("l1", F.l1_loss), ("l2", F.mse_loss)])
@pytest.mark.parametrize(("compared", "scales"), [("coarsest", [3]), ("all", [0, 1, 2, 3])])
def test_reconstruction_is_of_the_scales_that_are_asked_for(kind, distance, compared, scales):
    made = method(reconstruction=kind, reconstruction_scales=compared, reconstruction_weight=3.0, frequency=2.0)
    data = batch()
    terms = made.generator_terms(data)
    sources, fakes = image_pyramid(data["source"], 4), made.generator.pyramid(data["source"])
    for name, weight, loss in (("reconstruction", 3, distance), ("frequency", 2, focal_frequency_loss)):
        expected = weight * sum(loss(fakes[s], sources[s]).item() for s in scales) / len(scales)
        assert terms[name].item() == pytest.approx(expected)


def test_layout_alone_can_be_learnt():
    made = method(gan=0.0, scales=2, discriminator_layers=1)
    data = batch(16)
    optimizer = torch.optim.Adam(made.generator.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = sum(made.generator_terms(Batch(dict(data), 0, 0, 0)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_feature_network_is_loaded_only_for_those_who_use_it():
    assert method(features="no such file").features is None
    weights = {"content": 2.0, "style": 3.0, "features": "random-16x"}
    both, data = method(**weights).eval(), batch()
    assert not any("features" in key for key in both.state_dict())
    terms = both.generator_terms(data)
    seen, shown, wanted = (
        both.features(x, ["relu1_1", "relu2_1", "relu3_1", "relu4_1"])
        for x in (both.generator(data["source"]), data["source"], data["target"])
    )
    content = (seen["relu4_1"] - shown["relu4_1"]).square().mean()
    style = sum(
        (moment(seen[layer]) - moment(wanted[layer])).square().mean()
        for layer in seen
        for moment in (lambda x: x.mean((2, 3)), lambda x: (x.var((2, 3)) + 1e-5).sqrt())
    )
    assert terms["content"].item() == pytest.approx(2 * content.item())
    assert terms["style"].item() == pytest.approx(3 * style.item())
    only = method(**{**weights, "style": 0.0}).eval().generator_terms(batch())
    assert "style" not in only and only["content"].item() == pytest.approx(terms["content"].item())
