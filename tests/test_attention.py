"""What is special about attention to style: what is looked at, how much memory it takes, and the losses."""

import golden
import pytest
import torch

from styleforge import methods
from styleforge.errors import ImageError
from styleforge.layers import mean_std, normalize
from styleforge.methods.base import Batch
from styleforge.models import AttentionGenerator, attention

SMALL = {"backbone": "vgg19-16x"}
LAYERS = attention.LAYERS


def maps(key, *shape):
    return golden.hashed_picture(key, *shape)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AttentionGenerator(**SMALL).double().eval()


def by_hand(content, query, key, value):
    """AdaAttN's formula, with all weights at once."""
    weights = torch.einsum("bcq,bck->bqk", query.flatten(2), key.flatten(2)).softmax(2)
    mean = torch.einsum("bqk,bdk->bdq", weights, value.flatten(2))
    square = torch.einsum("bqk,bdk->bdq", weights, value.flatten(2) ** 2)
    deviation = (square - mean**2).clamp(min=0).sqrt()
    return normalize(content) * deviation.view_as(content) + mean.view_as(content)


# -- attention --


def test_queries_are_taken_some_at_a_time(monkeypatch):
    content, query = maps("content", 2, 3, 6, 5), maps("query", 2, 4, 6, 5)
    key, value = maps("key", 2, 4, 3, 3), maps("value", 2, 3, 3, 3)
    weigh, held = attention.attention_weights, []
    monkeypatch.setattr(attention, "attention_weights", lambda *x: held.append(weigh(*x)) or held[-1])
    for block, times in ((10**6, 1), (2 * 9 * 7, 5), (1, 30)):
        held.clear()
        monkeypatch.setattr(attention, "BLOCK", block)
        found = attention.adapt(content, query, key, value)
        assert torch.allclose(found, by_hand(content, query, key, value), rtol=1e-9, atol=1e-9)
        assert len(held) == times
        assert all(w.numel() <= max(block, 18) for w in held)  # not less than one query of each picture


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (16, 16), (2, 100), (1, 900), (300, 1), (33, 1000)])
def test_keys_are_thinned_to_a_regular_grid(shape):
    x = torch.stack(torch.meshgrid(*(torch.arange(float(side)) for side in shape), indexing="ij"))[None]
    found = attention.thin(x, 35)
    height, width = found.shape[2:]
    assert height * width <= 35
    if shape[0] * shape[1] <= 35:
        assert found is x
        return
    assert height * width > 35 / 3 or 1 in shape
    for axis, side in ((0, shape[0]), (1, shape[1])):  # places in order, evenly spread, as far from either end
        places = found[0, axis].select(1 - axis, 0)
        assert torch.equal(found[0, axis], places.unsqueeze(1 - axis).expand(height, width))
        if len(places) > 1:
            steps = places.diff()
            assert steps.max() - steps.min() <= 1
        assert abs(places[0] - (side - 1 - places[-1])) <= 1


def test_what_is_attended_to_is_bounded():
    network = AttentionGenerator(**SMALL, max_keys=20).eval()
    x, style = maps("x", 1, 3, 32, 32).float(), maps("style", 1, 3, 96, 64).float()
    for layer, shape in (("relu3_1", (5, 3)), ("relu4_1", (5, 3)), ("relu5_1", (5, 3))):
        assert network.attention_map(x, style, (0, 0), layer).shape == (1, 1, *shape)
    assert network.attention_map(x, style[:, :, :64], (0, 0), "relu5_1").shape == (1, 1, 4, 4)


def test_finer_and_coarser_maps_stay_aligned():
    for side, halved in ((4, 2), (5, 2), (5, 3), (9, 4), (9, 5)):
        x = torch.arange(float(halved)).expand(1, 1, halved, halved)
        expected = (torch.arange(side) // 2).clamp(max=halved - 1).float()
        assert torch.equal(attention.double(x, (side, side))[0, 0], expected.expand(side, side))


def test_flat_styles_have_gradients():
    # All values are alike, so all deviations are 0, where a root has no slope.
    method = methods.build("attention", {**SMALL, "features": "random-16x"})
    batch = Batch({"source": maps("source", 1, 3, 32, 32).float(), "target": torch.full((1, 3, 32, 32), 0.3)}, 0, 0, 0)
    sum(method.terms(batch).values()).backward()
    assert all(p.grad.isfinite().all() for player in method.players() for p in player.parameters())


# -- the network --


def test_strength_blends_with_the_picture_itself(network):
    x, style, other = (maps(key, 1, 3, 32, 40) for key in ("x", "style", "other"))
    own = network(x, style, 0.0)
    assert torch.equal(own, network(x, other, 0.0)) and torch.allclose(own, network(x, x), rtol=1e-12, atol=1e-12)
    assert torch.equal(network(x, style), network(x, style, 1.0))
    full = network(x, style)
    distances = [(network(x, style, share) - full).norm().item() for share in (0.0, 0.3, 0.7, 1.0)]
    assert distances == sorted(distances, reverse=True) and distances[-1] == 0 < distances[-2]


def test_one_style_for_many_pictures(network):
    x, style = maps("x", 2, 3, 32, 32), maps("style", 1, 3, 40, 56)
    assert torch.allclose(network(x, style, 0.6), network(x, style.expand(2, -1, -1, -1), 0.6), rtol=1e-12, atol=1e-12)


def test_a_point_looks_at_what_resembles_it():
    network = golden.fill(AttentionGenerator(**SMALL, shallow=False)).eval()
    layer = network.attention.layers["relu4_1"]
    for projection in (layer.query, layer.key):
        projection.weight.data.copy_(torch.eye(128)[:, :, None, None])
    torch.nn.init.zeros_(layer.query.bias)
    noise, x, style = maps("x", 1, 3, 64, 96), *(torch.zeros(1, 3, *size).double() for size in ((64, 96), (96, 64)))
    x[..., 48:] = noise[..., 48:]  # noise on the right, in the style below
    style[:, :, 48:] = noise.transpose(2, 3)[:, :, 48:]
    for point, below in (((32, 16), False), ((32, 80), True)):
        where = network.attention_map(x, style, point)
        assert where.shape == (1, 1, 12, 8) and where.min() >= 0
        assert where.sum().item() == pytest.approx(1)
        assert where[:, :, 6:].sum().item() == pytest.approx(float(below), abs=0.1)


@pytest.mark.parametrize("layer", LAYERS[2:])
def test_the_map_is_what_the_network_uses(network, layer, monkeypatch):
    x, style, used = maps("x", 1, 3, 48, 64), maps("style", 1, 3, 40, 32), []
    weigh = attention.attention_weights
    monkeypatch.setattr(attention, "attention_weights", lambda *a: used.append(weigh(*a)) or used[-1])
    network(x, style)
    cells = 2 ** (int(layer[4]) - 1)
    weights = next(w for w in used if w.shape[1] == 48 // cells * (64 // cells))
    found = network.attention_map(x, style, (47, 33), layer)
    row = (48 // cells - 1) * (64 // cells) + 33 // cells
    assert torch.allclose(found.flatten(), weights[0, row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("point", [(48, 0), (0, 64), (-1, 0)])
def test_points_outside_are_errors(network, point):
    with pytest.raises(ImageError, match="rows below 48, columns below 64"):
        network.attention_map(torch.zeros(1, 3, 48, 64), torch.zeros(1, 3, 32, 32), point)


# -- the methods --


def build(name, **changes):
    torch.manual_seed(0)
    return methods.build(name, {**SMALL, "features": "random-16x", "normalize": False, **changes}).double()


def batch():
    return Batch({name: maps(name, 2, 3, 32, 32) for name in ("source", "target")}, 0, 0, 0)


def mse(a, b):
    return (a - b).square().mean()


def test_terms_of_sanet():
    method, pair = build("sanet"), batch()
    terms, network = method.terms(pair), method.generator
    styled = network(pair["source"], pair["target"])
    found, content, style = (network.extract(x) for x in (styled, pair["source"], pair["target"]))
    expected = {
        "style": 3
        * sum(mse(a, b) for n in LAYERS for a, b in zip(mean_std(found[n]), mean_std(style[n]), strict=True)),
        "content": sum(mse(normalize(found[n]), normalize(content[n])) for n in ("relu4_1", "relu5_1")),
        "identity": 0.0,
        "identity_features": 0.0,
    }
    for image in pair.values():
        again = network(image, image)
        expected["identity"] += 50 * mse((again + 1) / 2, (image + 1) / 2)
        seen, own = network.extract(again), network.extract(image)
        expected["identity_features"] += sum(mse(seen[n], own[n]) for n in LAYERS)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx({k: v.item() for k, v in expected.items()}, 1e-9)


def test_terms_of_adaattn():
    method, pair = build("attention"), batch()
    terms, network = method.terms(pair), method.generator
    styled = network(pair["source"], pair["target"])
    found, content, style = (network.extract(x) for x in (styled, pair["source"], pair["target"]))
    deep = LAYERS[1:]
    local = 0
    for n in deep:
        query, key = attention.keys(content, n, True), attention.keys(style, n, True)
        local += mse(found[n], by_hand(content[n], query, key, style[n]))
    expected = {
        "style": 10 * sum(mse(a, b) for n in deep for a, b in zip(mean_std(found[n]), mean_std(style[n]), strict=True)),
        "local": 3 * local,
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx({k: v.item() for k, v in expected.items()}, 1e-9)


def test_layers_count_by_their_size_in_the_style():
    plain, scaled, pair = build("attention"), build("attention", normalize=True), batch()
    style = plain.generator.extract(pair["target"])
    whole = build("attention", normalize=True, local=0.0).terms(pair)["style"]
    parts = []
    for layer in LAYERS[1:]:
        for method in (plain, scaled):
            method.style_layers = (layer,)
        parts.append(scaled.terms(pair)["style"].item())
        assert parts[-1] == pytest.approx(plain.terms(pair)["style"].item() / style[layer].mean().item() ** 2)
    assert whole.item() == pytest.approx(sum(parts))


def test_entropy_and_variation_pull_at_attention_only():
    method, pair = build("attention", entropy=1.0, variation=1.0), batch()
    terms, layer = method.terms(pair), method.generator.attention.layers["relu4_1"]
    projections = [layer.query.weight, layer.key.weight]
    for name in ("entropy", "variation"):
        gradients = torch.autograd.grad(terms[name], projections, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)
        others = [p for p in method.players()[0].parameters() if p is not layer.query.bias]
        others = [p for p in others if all(p is not q for q in projections)]
        assert not any(
            g is not None for g in torch.autograd.grad(terms[name], others, retain_graph=True, allow_unused=True)
        )
    # Attention at one place has no entropy; attention everywhere has all.
    for scale, expected in ((1e3, 0.0), (0.0, 1.0)):
        with torch.no_grad():
            layer.key.weight.mul_(scale)
        assert method.terms(pair)["entropy"].item() == pytest.approx(expected, abs=0.02)


def test_sanet_is_attention_with_the_papers_settings():
    ours, theirs = methods.settings("attention"), methods.settings("sanet")
    assert {k: v for k, v in theirs.items() if ours[k] != v} == methods.METHODS["sanet"].settings
    assert methods.find("sanet").style_layers == LAYERS and methods.find("attention").style_layers == LAYERS[1:]
