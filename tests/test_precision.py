"""What networks compute in: nothing is lost, nothing leaks, and a run goes on exactly."""

from __future__ import annotations

import json
import threading

import pytest
import tiny
import torch
from torch import nn

from styleforge import methods, precision
from styleforge.losses import gradient_penalty, gray, r1_penalty
from styleforge.methods.base import Adversary, Batch
from styleforge.precision import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
kinds = pytest.mark.parametrize("kind", DTYPES)


def layer():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def picture(key=0):
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(key)) * 2 - 1


def play(precision, network, optimizer, factor=1.0):
    """One turn of one player."""
    optimizer.zero_grad()
    with precision.autocast():
        made = network(picture())
    precision.backward(made.float().square().mean() * factor, [*network.parameters()])
    precision.unscale(optimizer)
    gradients = [p.grad.clone() for p in network.parameters()]
    precision.step(optimizer)
    return made.dtype, gradients


@kinds
def test_products_have_that_type_and_gradients_their_true_size(kind):
    network = layer()
    dtype, gradients = play(Precision("cpu", kind), network, torch.optim.SGD(network.parameters()))
    assert dtype == DTYPES[kind]
    expected = torch.autograd.grad(layer_loss(network := layer()), [*network.parameters()])
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == torch.float32
        if kind == "fp32":
            assert torch.equal(ours, theirs)
        else:
            assert torch.allclose(ours, theirs, rtol=0, atol=0.02 * theirs.abs().max())
            assert not torch.equal(ours, theirs)


def layer_loss(network):
    return network(picture()).square().mean()


@kinds
def test_gradients_reach_the_inputs_only(kind):
    network, other = layer(), nn.Conv2d(4, 3, 1)
    precision = Precision("cpu", kind)
    with precision.autocast():
        made = other(network(picture()))
    precision.backward(made.float().mean(), [network.weight])
    precision.backward(2 * network(picture()).mean(), [network.weight])  # pieces add up
    assert network.weight.grad is not None
    assert network.bias.grad is None and other.weight.grad is None


def test_fp16_keeps_small_gradients():
    factor, found = 1e-6, {}
    for kind in ("fp32", "fp16"):
        network = layer()
        found[kind] = play(Precision("cpu", kind), network, torch.optim.SGD(network.parameters()), factor)[1][1]
    assert torch.allclose(found["fp16"], found["fp32"], rtol=0.05)
    network = layer()
    with torch.autocast("cpu", torch.float16):
        loss = network(picture()).float().square().mean() * factor
    loss.backward()
    assert not torch.allclose(network.bias.grad, found["fp32"], rtol=0.05)  # what the scale is good for


def test_a_step_that_overflows_is_left_out_and_the_scale_halves():
    precision, first, second = Precision("cpu", "fp16"), layer(), layer()
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (first, second)]
    before = first.weight.detach().clone()
    assert precision.state()["scale"] == 2.0**16
    gradients = play(precision, first, optimizers[0], factor=1e4)[1]
    assert not all(g.isfinite().all() for g in gradients)
    play(precision, second, optimizers[1])
    precision.update()
    assert torch.equal(first.weight, before) and not torch.equal(second.weight, before)
    assert precision.state()["scale"] == 2.0**15
    for _ in range(20):
        play(precision, first, optimizers[0], factor=1e4)
        precision.update()
    assert not torch.equal(first.weight, before) and first.weight.isfinite().all()
    assert precision.state()["scale"] < 2.0**14


def test_an_update_that_nobody_played_for_changes_nothing():
    for kind in DTYPES:
        precision = Precision("cpu", kind)
        before = precision.state()
        precision.update()
        assert precision.state() == before


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_fp16_goes_on_exactly(stop):
    def turns(precision, network, optimizer, factors):
        scales = []
        for factor in factors:
            play(precision, network, optimizer, factor)
            precision.update()
            scales.append(precision.state()["scale"])
        return scales

    def new(state=None):
        precision, network = Precision("cpu", "fp16"), layer()
        precision.restore(state or {**precision.state(), "growth_interval": 3})
        return precision, network, torch.optim.SGD(network.parameters(), lr=1e-6)

    factors = [1e4, 1.0, 1.0, 1e3, 1.0, 1.0, 1.0, 1.0]
    whole = new()
    scales = turns(*whole, factors)
    assert min(scales) < scales[0] and min(scales) < scales[-1]  # down and up
    first = new()
    turns(*first, factors[:stop])
    second = new(json.loads(json.dumps(first[0].state())))
    second[1].load_state_dict(first[1].state_dict())
    turns(*second, factors[stop:])
    assert whole[0].state() == second[0].state()
    assert torch.equal(whole[1].weight, second[1].weight)


def test_a_run_may_go_on_in_another_precision():
    states = {kind: Precision("cpu", kind).state() for kind in DTYPES}
    assert states["fp32"] == states["bf16"] == {}
    for kind in DTYPES:
        for state in states.values():
            precision = Precision("cpu", kind)
            precision.restore(state)
            assert precision.state() == states[kind]


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("penalty", ["r1", "wgan-gp"])
def test_penalties_are_those_of_float32(kind, penalty):
    """Neither half precision nor the scale enters the gradient whose length is penalised."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 1))
    real, fake, batch = picture(1), picture(2), Batch({}, 0, 0, 0)
    if penalty == "r1":
        plain = 10 * r1_penalty(judge, real)
    else:
        plain = 10 * gradient_penalty(judge, real, fake, batch.generator("real_fake mixture"))
    weights = [judge[0].weight, judge[2].weight]
    expected = torch.autograd.grad(plain, weights)
    precision, optimizer = Precision("cpu", kind), torch.optim.SGD(judge.parameters())
    with precision.autocast():
        terms = Adversary(penalty=penalty).discriminator_terms(judge, real, fake, batch)
    assert torch.equal(terms["real_fake_penalty"], plain)
    precision.backward(terms["real_fake_penalty"], weights)
    precision.unscale(optimizer)
    for weight, wanted in zip(weights, expected, strict=True):
        assert torch.equal(weight.grad, wanted)  # scales are powers of two


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_computes_in_fp16(name):
    """At a scale that fits, and with all penalties."""
    torch.manual_seed(0)
    side = tiny.SIZE_OF.get(name, 32)
    size = {"size": side} if "size" in methods.settings(name) else {}
    method = methods.build(name, {**tiny.settings(name), **size}).train()
    players = method.players()
    optimizers = [torch.optim.SGD(player.parameters()) for player in players]

    def gradients(precision):
        generator = torch.Generator().manual_seed(1)
        source, target = torch.rand(2, 2, 3, side, side, generator=generator).mul(2).sub(1).unbind(0)
        batch = Batch({"source": source, "target": target, "style_index": torch.tensor([0, 0])}, 0, 0, 0)
        found = []
        for player, optimizer in zip(players, optimizers, strict=True):
            optimizer.zero_grad()
            with precision.autocast():
                terms = player.loss(batch)
            assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values()), terms
            precision.backward(sum(terms.values()), player.parameters())
            precision.unscale(optimizer)
            found.append(torch.cat([p.grad.flatten() for p in player.parameters() if p.grad is not None]))
        return found

    full, precision = gradients(Precision("cpu", "fp32")), Precision("cpu", "fp16")
    precision.restore({**precision.state(), "scale": 16.0})
    for half, whole in zip(gradients(precision), full, strict=True):
        assert half.isfinite().all()
        assert torch.cosine_similarity(half.double(), whole.double(), dim=0) > 0.97


def test_a_loss_in_another_thread_leaves_the_autocast_of_this_one_alone():
    """Casts of weights are kept within one context: gradients that meet there are added before they are rounded."""
    layer, x = torch.nn.Linear(64, 64), torch.randn(8, 64)

    def gradient(disturbed):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            first = layer(x).float().square().sum()
            if disturbed:
                thread = threading.Thread(target=gray, args=(torch.rand(1, 3, 4, 4),))
                thread.start()
                thread.join()
            (first + layer(x + 1).float().square().sum()).backward()
        return layer.weight.grad.clone()

    assert torch.equal(gradient(False), gradient(True))


@pytest.mark.parametrize(("limit", "fast"), [("AVX2", False), ("avx512_core", False), ("DEFAULT", True), ("", True)])
def test_a_processor_taken_for_an_older_one_has_no_bfloat16(limit, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.bf16_is_fast(torch.device("cpu")) is fast
