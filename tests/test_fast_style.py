"""TransformerNet and fast style: what their numbers against the field's code do not say."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

from styleforge import features, methods, rng
from styleforge.errors import ConfigError, UnknownName
from styleforge.losses import total_variation
from styleforge.methods import projected
from styleforge.methods.base import Batch
from styleforge.models import TransformerNet
from styleforge.models.transformer import HEAD_UNIT, from_bytes

LAYERS = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]


def network(**changes):
    return golden.fill(TransformerNet(**{"width": 4, "blocks": 2, **changes}))


def picture(key="x", batch=1, size=32):
    return golden.hashed_picture(key, batch, 3, size, size)


def method(**changes):
    built = methods.build("fast_style", {"width": 4, "blocks": 1, "features": "random-16x", **changes})
    return golden.fill(built).train()


def batch(*styles):
    tensors = {domain: picture(domain, len(styles)) for domain in ("source", "target")}
    return Batch({**tensors, "style_index": torch.tensor(styles)}, 0, 0, 0)


# -- the network --


def test_one_row_of_weights_is_a_network_of_one_style():
    many, x = network(styles=3), picture(batch=2)
    for style in range(3):
        single = TransformerNet(width=4, blocks=2).double()
        rows = {k: t[style : style + 1] if ".norm." in k else t for k, t in many.state_dict().items()}
        single.load_state_dict(rows)
        one = F.one_hot(torch.tensor([style, style]), 3)
        assert torch.allclose(many(x, one), single(x), rtol=1e-12, atol=1e-12)
        assert torch.equal(many(x), many(x, one)) == (style == 0)  # without weights it is the first


def test_mixtures_are_those_of_gains_and_offsets():
    many, x = network(styles=2), picture(batch=2)
    mixed = TransformerNet(width=4, blocks=2).double()
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    rows = {k: weights[:1] @ t if ".norm." in k else t for k, t in many.state_dict().items()}
    mixed.load_state_dict(rows)
    y = many(x, weights)
    assert torch.allclose(y[:1], mixed(x[:1]), rtol=1e-12, atol=1e-12)
    assert torch.allclose(y[1:], many(x[1:]), rtol=1e-12, atol=1e-12)  # each picture has its own


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 3)])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(ConfigError, match=r"allowed: \(2, 2\).*one row"):
        network(styles=2)(picture(batch=2), torch.ones(shape))


def test_both_ways_to_stay_in_range():
    x = 3 * picture()
    for output, bound in (("tanh", torch.tanh), ("clamp", lambda y: y.clamp(-1, 1))):
        bounded = network(output=output)
        with torch.no_grad():
            bounded.head.weight *= 40
            y = bounded.unbounded(x)
            assert y.abs().max() > 1 and torch.equal(bounded(x), bound(y))


def test_weights_for_bytes_become_ours():
    theirs = network()
    x = (picture() + 1) * 127.5
    theirs.head.weight.data *= HEAD_UNIT  # so that it gives what its last convolution gives
    theirs.head.bias.data *= HEAD_UNIT
    expected = theirs.unbounded(x)
    state = theirs.state_dict()
    state = {k: t / HEAD_UNIT if k.startswith("head") else t for k, t in state.items()}
    ours = TransformerNet(width=4, blocks=2).double()
    ours.load_state_dict(from_bytes(state))
    assert torch.allclose((ours.unbounded(x / 127.5 - 1) + 1) * 127.5, expected, rtol=1e-12, atol=1e-12)


# -- the method --


def relative(a, b):
    return ((a - b).square().sum() / b.square().sum()).item()


def test_terms_are_shares_of_what_they_are_compared_with(monkeypatch):
    monkeypatch.setattr(projected, "JITTER", 1)  # none
    built, turn, styled = method(styles=2, content=3.0, style=7.0, tv=11.0), batch(0, 1), picture("styled", 2)
    monkeypatch.setattr(built.generator, "forward", lambda image, weights: styled)
    terms = built.terms(turn)
    see = features.load("random-16x").double()
    content = relative(*(see(x, ["relu2_2"])["relu2_2"] for x in (styled, turn["source"])))
    distances = []
    for layer in LAYERS:
        seen, wanted = (see(x, [layer])[layer].flatten(2) for x in (styled, turn["target"]))
        distances += [relative(a @ a.T, b @ b.T) for a, b in zip(seen, wanted, strict=True)]
    assert terms["content"].item() == pytest.approx(3 * content, rel=1e-9)
    assert terms["style"].item() == pytest.approx(7 * sum(distances) / 8, rel=1e-9)
    assert terms["tv"].item() == pytest.approx(11 * total_variation(styled).item(), rel=1e-9)
    assert terms.keys() == {"content", "style", "tv"}


def test_where_the_frozen_network_begins_to_look_is_left_to_chance():
    built, same = method(styles=2), batch(0, 1)
    found = {float(built.terms(Batch(dict(same), 0, turn, 0))["style"].detach()) for turn in range(4)}
    assert len(found) == 4


def test_shift_equivariance_is_a_term_when_wanted():
    assert 0 < method(styles=2, shift_equivariance=3.0).terms(batch(0, 1))["shift"] < 6


def test_each_style_learns_its_own_gains_only():
    built = method(styles=3)
    sum(built.terms(batch(1, 1)).values()).backward()
    for key, parameter in built.generator.named_parameters():
        if ".norm." in key:
            assert parameter.grad[1].any() and not parameter.grad[[0, 2]].any(), key


def test_as_many_targets_as_styles():
    assert method().targets == 1
    assert method(styles=5).targets == method(styles=5).generator.capabilities.styles == 5


def test_the_sheet_shows_each_style():
    built = method(styles=3)
    x = picture("source")
    shown = built.preview({"source": x, "target": picture("target")}, built.styles(), rng.generator("row"))
    assert list(shown) == ["source", "style 0", "style 1", "style 2"]
    for style in range(3):
        assert torch.equal(shown[f"style {style}"], built.generator(x, F.one_hot(torch.tensor([style]), 3)))


@pytest.mark.parametrize("changes", [{"content_layer": "relu2_9"}, {"style_layers": ["relu1_1", "relu9_1"]}])
def test_a_layer_that_is_not_there(changes):
    with pytest.raises(UnknownName, match="Did you mean"):
        method(**changes).terms(batch(0))
