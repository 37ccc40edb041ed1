"""AdaIN and MicroAST: what is special about networks that take any style, and about their training."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from styleforge import features, methods
from styleforge.errors import WeightsMismatch
from styleforge.layers import mean_std
from styleforge.methods.adain import LAYERS, distances
from styleforge.methods.base import Batch
from styleforge.methods.microast import signal_contrast
from styleforge.models import AdaINGenerator, MicroASTGenerator

SMALL = {
    "adain": {"backbone": "vgg19-16x", "features": "random-16x"},
    "microast": {"width": 4, "features": "random-16x"},
}
each = pytest.mark.parametrize("name", SMALL)


def network(name):
    """With hashed weights, in float64 and evaluation mode."""
    made = AdaINGenerator(backbone="vgg19-16x") if name == "adain" else MicroASTGenerator(width=4)
    return golden.fill(made).eval()


def pictures(batch=1, content=(32, 48), style=(24, 40)):
    return [golden.hashed_picture(key, batch, 3, *size) for key, size in (("content", content), ("style", style))]


# -- networks --


@each
def test_one_style_for_many_pictures(name):
    made, (content, _), (_, style) = network(name), pictures(batch=2), pictures()
    single = torch.cat([made(one[None], style) for one in content])
    assert torch.allclose(made(content, style), single, rtol=1e-12, atol=1e-12)


@each
def test_strength(name):
    made, (content, style), (_, other) = network(name), pictures(), pictures(style=(16, 16))
    full, none = made(content, style), made(content, style, 0.0)
    assert torch.equal(full, made(content, style, 1.0)) and not torch.allclose(full, none)
    assert torch.equal(none, made(content, other, 0.0))  # the style has no say


@each
def test_only_evaluation_cuts_off(name):
    made, (content, style) = network(name), pictures()
    with torch.no_grad():
        next(p for key, p in reversed(list(made.named_parameters())) if key.endswith("weight")).mul_(100)
    bounded, free = made(content, style), made.train()(content, style)
    assert free.abs().max() > 1 and torch.equal(bounded, free.clamp(-1, 1))


def test_mixed_features_have_the_statistics_of_the_style():
    made, (content, style) = network("adain"), pictures(batch=2)
    wanted = mean_std(made.encoder(style, ["relu4_1"])["relu4_1"])
    stds = wanted[1], mean_std(made.encoder(content, ["relu4_1"])["relu4_1"])[1]
    alive = torch.minimum(*stds) > 0.05  # the constant beside the variance is felt where there is next to none
    assert alive.float().mean() > 0.2
    for found, expected in zip(mean_std(made.mix(content, style)), wanted, strict=True):
        assert torch.allclose(found[alive], expected[alive], rtol=5e-3)
    half = (made.mix(content, style) + made.mix(content, style, 0.0)) / 2
    assert torch.allclose(made.mix(content, style, 0.5), half, rtol=1e-12)
    assert torch.equal(made.mix(content, style, 0.0), made.encoder(content, ["relu4_1"])["relu4_1"])


def test_styles_in_between():
    made, (content, style), (_, other) = network("adain"), pictures(), pictures(style=(32, 16))
    assert torch.allclose(made(content, [(style, 1.0), (other, 0.0)]), made(content, style), rtol=1e-12)
    mixed = (made.mix(content, style) + made.mix(content, other)) / 2
    assert torch.allclose(made(content, [(style, 0.5), (other, 0.5)]), made.paint(mixed), rtol=1e-12)


def test_the_encoder_is_stored_and_stays_frozen(tmp_path):
    made = network("adain")
    made.save_pretrained(tmp_path)
    loaded = AdaINGenerator.from_pretrained(tmp_path)
    frozen = {key for key, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == {key for key, _ in loaded.named_parameters() if key.startswith("encoder.")} != set()
    assert all(torch.equal(t, made.state_dict()[key]) for key, t in loaded.state_dict().items())


@pytest.mark.parametrize(("backbone", "trained"), [("vgg19", 3_505_219), ("vgg19-16x", 219_667)])
def test_size_of_adain(backbone, trained):
    made = AdaINGenerator(backbone=backbone)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == trained


def test_size_of_microast():
    assert sum(p.numel() for p in MicroASTGenerator().parameters()) == 471_987  # the paper says 0.472 M


def test_signals_are_all_of_a_style():
    made, (content, style), (_, other) = network("microast"), pictures(), pictures(style=(16, 8))
    signals = made.signals(style)
    assert signals.shape == (1, 2, 4, 16)
    assert torch.allclose(made(content, style, 0.0), made(content, content), rtol=1e-12)
    assert torch.equal(made.paint(content, signals), made(content, style))
    between = made.paint(content, (signals + made.signals(other)) / 2)
    assert not torch.allclose(between, made(content, style)) and not torch.allclose(between, made(content, other))
    # Each of the four kinds matters, in both blocks.
    for level in range(2):
        for kind in range(4):
            changed = signals.clone()
            changed[:, level, kind] += 0.1
            assert not torch.allclose(made.paint(content, changed), made(content, style))


# -- training --


@pytest.mark.parametrize("backbone", ["vgg19-16x", "vgg19"])
def test_the_encoder_is_filled_from_a_file(backbone, tmp_path):
    theirs = features.build("vgg19-16x", last="relu4_1").state_dict()
    names = features.PRESETS["vgg19-16x"][2]
    save_file({names[key]: t for key, t in theirs.items()}, tmp_path / "vgg.safetensors")
    settings = {"backbone": backbone, "features": str(tmp_path / "vgg.safetensors")}
    if backbone == "vgg19":
        with pytest.raises(WeightsMismatch, match=r"Choose the backbone 'vgg19-16x' \(--backbone\)"):
            methods.build("adain", settings)
    else:
        found = methods.build("adain", settings).model.encoder.state_dict()
        assert all(torch.equal(t, found[key]) for key, t in theirs.items())


def test_layers_count_alike_however_large():
    torch.manual_seed(0)
    found, style = ({layer: torch.rand(2, 3, 4, 4).double() for layer in LAYERS} for _ in range(2))
    content = torch.rand(2, 3, 4, 4).double()
    larger = {layer: 10.0**n for n, layer in enumerate(LAYERS)}
    scaled = [{layer: larger[layer] * x for layer, x in one.items()} for one in (found, style)]
    for normalize in (True, False):
        plain = distances(found, content, style, normalize)
        changed = distances(scaled[0], larger["relu4_1"] * content, scaled[1], normalize)
        for ours, theirs in zip(plain, changed, strict=True):  # but for the constant beside the variance
            assert (abs(theirs / ours - 1) < 1e-3) == normalize


def test_contrast_is_the_share_of_the_own_style():
    torch.manual_seed(0)
    found, wanted = torch.rand(2, 3, 2, 4, 5).double()
    expected = 0.0
    for i in range(3):
        others = sum((found[i] - wanted[j]).square().sum() for j in range(3) if j != i)
        expected += (found[i] - wanted[i]).square().sum() / others
    assert signal_contrast(found, wanted).item() == pytest.approx(expected.item(), rel=1e-12)
    assert signal_contrast(wanted, wanted) == 0


@pytest.mark.parametrize(("batch", "weight", "there"), [(2, 3.0, True), (1, 3.0, False), (2, 0.0, False)])
def test_contrast_needs_others(batch, weight, there):
    method = methods.build("microast", {**SMALL["microast"], "contrast": weight}).double()
    content, style = pictures(batch, style=(32, 48))
    assert ("contrast" in method.terms(Batch({"source": content, "target": style}, 0, 0, 0))) == there


@pytest.mark.parametrize(("name", "lr"), [("adain", 1e-3), ("microast", 2e-3)])
def test_it_learns(name, lr):
    torch.manual_seed(0)
    method = methods.build(name, {**SMALL[name], "lr": lr}).train()
    judge = method.model.encoder if name == "adain" else method.features
    for conv in judge.convs.values():  # torch's own weights make all features of random networks alike
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    coarse = pictures(2, (4, 4), (4, 4))
    content, style = (F.interpolate(x.float(), scale_factor=8, mode="bilinear") for x in coarse)
    (player,), batch, losses = method.players(), Batch({"source": content, "target": style}, 0, 0, 0), []
    optimizer = player.optimizer()
    for _ in range(50):
        loss = sum(player.loss(batch).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.4 * losses[0]  # 0.16 and 0.03
