"""Every network: shapes, ranges, gradients, precision, determinism, and numbers that must not move.

The numbers in fixtures/models.json are our own, on hashed weights: `PYTHONPATH=. python tests/test_models.py` writes
them anew, with `--add` only those that are missing. Those of the field's own code are in test_golden_models.py.
"""

from __future__ import annotations

import itertools
import json
import math
import sys

import golden
import pytest
import torch
from variants import VARIANTS

from styleforge import configs
from styleforge.errors import ConfigError, ImageError
from styleforge.models import MODELS, PatchDiscriminator, PixelDiscriminator, ResnetGenerator, UNetGenerator

PINS = golden.FIXTURES / "models.json"


def name_of(variant):
    cls, config = variant
    return " ".join([cls.__name__, *(f"{key}={value}" for key, value in config.items())])


every = pytest.mark.parametrize("variant", VARIANTS, ids=name_of)


def capabilities(variant):
    with torch.device("meta"):
        return build(variant).capabilities


def takes_pictures(variant):
    return "image" in capabilities(variant).inputs


SMALL = {"width": 4, "blocks": 2, "downs": 5}


def build(variant, **changes):
    cls, config = variant
    takes = configs.schema(cls.__init__)
    small = {key: value for key, value in SMALL.items() if key in takes}
    torch.manual_seed(0)
    return cls(**{**small, **config, **changes})


def answer(network, x):
    """What `network` makes of `x`, which is noise for those that start from noise; the style is always the same."""
    if "style" in network.capabilities.inputs:
        side = max(network.capabilities.smallest, 32 // network.capabilities.multiple * network.capabilities.multiple)
        return network(x, golden.hashed_picture("style", 1, 3, side, side).expand(len(x), -1, -1, -1).to(x))
    return network(x)


def image(network, height=None, width=None, batch=1, dtype=torch.float32, key="x"):
    can = network.capabilities
    if can.inputs == ("noise",):
        size = network.config["noise_size"]
        return golden.hashed(key, (batch, size)).to(dtype)
    height = height or -(-max(can.smallest, 24) // can.multiple) * can.multiple
    width = width or height + can.multiple
    return golden.hashed_picture(key, batch, network.config.get("in_channels", 3), height, width).to(dtype)


def out_shape(network, x):
    """What the capabilities promise, and for patches the arithmetic of their convolutions; None for others."""
    batch, (height, width) = len(x), x.shape[2:] if x.ndim == 4 else [network.config["size"]] * 2
    if network.capabilities.output == "image":
        return batch, network.config.get("out_channels", 3), height, width
    if not isinstance(network, (PatchDiscriminator, PixelDiscriminator)):
        return None
    if isinstance(network, PatchDiscriminator):
        blur = network.config["downsample"] == "blur"
        for _ in range(network.config["layers"]):
            height, width = (math.ceil((n - 1) / 2) if blur else n // 2 for n in (height, width))
        if network.config["ending"] == "two":
            height, width = height - 2, width - 2
    return batch, 1, height, width


def test_every_model_is_tried():
    assert {cls for cls, _ in VARIANTS} == set(MODELS)


def hashed(variant):
    """In evaluation mode and float64, with hashed weights; the vectors of spectral norms are found by iteration."""
    network = build(variant)
    if not network.config.get("spectral_norm"):
        return golden.fill(network).eval()
    network.double().train()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            parameter.copy_(golden.hashed(key, tuple(parameter.shape)))
        for module in network.modules():
            if hasattr(module, "kernel_size"):
                for _ in range(500):
                    _ = module.weight
    return network.eval()


# -- numbers --


def pin(variant):
    """A dozen numbers of output and gradients, in float64."""
    network = hashed(variant)
    x = image(network, batch=2, dtype=torch.float64).requires_grad_()
    y = answer(network, x)
    y.square().mean().backward()
    grads = [p.grad.norm().item() for p in network.parameters() if p.requires_grad]
    flat = y.detach().flatten()
    return {
        "shape": list(y.shape),
        "outputs": flat[torch.linspace(0, len(flat) - 1, 6).long()].tolist(),
        "mean": flat.mean().item(),
        "rms": flat.square().mean().sqrt().item(),
        "input_grad": x.grad.norm().item(),
        "grads": [grads[0], grads[len(grads) // 2], grads[-1], math.hypot(*grads)],
    }


@every
def test_pinned_numbers(variant):
    found, pinned = pin(variant), json.loads(PINS.read_text())[name_of(variant)]
    config, tolerance = variant[1], 1e-9
    if config.get("spectral_norm"):
        tolerance = 1e-6  # found by iteration
    elif config.get("backbone") == "vgg19":
        tolerance = 1e-8  # processors add up its wide layers in different orders: 3e-9 was seen
    assert found.pop("shape") == pinned.pop("shape")
    assert found.keys() == pinned.keys()
    for key in pinned:
        assert found[key] == pytest.approx(pinned[key], rel=tolerance, abs=tolerance * pinned["rms"]), key
    assert pinned["rms"] > 0.01


# -- what every network keeps to --


@every
@pytest.mark.parametrize("extra", [(0, 0), (1, 0), (2, 3)])
def test_sizes(variant, extra):
    network = build(variant).eval()
    can = network.capabilities
    smallest = -(-can.smallest // can.multiple) * can.multiple
    assert smallest == can.smallest  # both can be had at once
    x = image(network, *(smallest + n * can.multiple for n in extra))
    y = answer(network, x)
    assert len(y) == len(x) and tuple(y.shape) == (out_shape(network, x) or tuple(y.shape))
    assert y.isfinite().all() and y.any()
    if can.output == "image":
        assert y.min() >= -1 and y.max() <= 1


@pytest.mark.parametrize("variant", [v for v in VARIANTS if takes_pictures(v)], ids=name_of)
def test_pictures_that_do_not_fit_are_errors(variant):
    network = build(variant).eval()
    can, channels = network.capabilities, network.config.get("in_channels", 3)
    good = -(-64 // can.multiple) * can.multiple
    sizes = [(can.smallest - can.multiple, good), (good, can.smallest - can.multiple)]
    sizes += [(good + 1, good), (good, good + 1)] if can.multiple > 1 else []
    for height, width in sizes:
        with pytest.raises(
            ImageError, match=rf"found {width}x{height}.*at least {can.smallest}.*of {can.multiple}\..* Pad"
        ):
            answer(network, torch.zeros(1, channels, height, width))
    for shape in ((1, channels + 1, good, good), (channels, good, good)):
        with pytest.raises(ImageError, match=rf"allowed: \(B, {channels}, H, W\)"):
            answer(network, torch.zeros(shape))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not takes_pictures(v)], ids=name_of)
def test_noise_of_another_size_is_an_error(variant):
    network = build(variant).eval()
    for shape in ((1, network.config["noise_size"] + 1), (network.config["noise_size"],)):
        with pytest.raises(ConfigError, match=r"torch\.randn"):
            network(torch.zeros(shape))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "style" in capabilities(v).inputs], ids=name_of)
def test_a_missing_style_is_an_error(variant):
    network = build(variant).eval()
    with pytest.raises(ConfigError, match="needs a style"):
        network(image(network))


def test_one_pixel_has_no_instance_norm():
    with pytest.raises(ImageError, match="at least 2"):
        PixelDiscriminator(width=4)(torch.zeros(1, 3, 1, 1))
    assert PixelDiscriminator(width=4, norm="none")(torch.zeros(1, 3, 1, 1)).shape == (1, 1, 1, 1)


@every
@pytest.mark.parametrize("training", [True, False])
def test_every_parameter_gets_a_gradient(variant, training):
    network = build(variant).train(training)
    for parameter in network.parameters():
        if parameter.ndim == 4 and not parameter.any():  # what begins without effect hides what lies in front of it
            torch.nn.init.normal_(parameter)
    answer(network, image(network, batch=2)).square().mean().backward()
    for key, parameter in network.named_parameters():
        if not parameter.requires_grad:  # a frozen encoder
            assert parameter.grad is None, key
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        # Of a kernel over few pixels, only the middle takes part; between ReLUs, about a quarter.
        assert (parameter.grad != 0).float().mean() > 0.15, key


@every
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bf16_is_close(variant, how):
    network = build(variant).eval()
    x = image(network, batch=2)
    with torch.no_grad():
        exact = answer(network, x)
        if how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                rough = answer(network, x)
        else:
            rough = answer(network.bfloat16(), x.bfloat16())
            assert rough.dtype == torch.bfloat16
    difference = (rough.float() - exact).square().mean().sqrt() / exact.std()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v[1].get("statistics") != "batch"], ids=name_of)
def test_pictures_do_not_see_each_other(variant):
    network = hashed(variant)
    x = image(network, batch=2, dtype=torch.float64)
    both, singles = answer(network, x), torch.cat([answer(network, x[:1]), answer(network, x[1:])])
    assert torch.allclose(both, singles, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(both[0], both[1])


def test_statistics_of_the_batch_do_mix():
    network = hashed((UNetGenerator, {"statistics": "batch"}))
    x = image(network, batch=2, dtype=torch.float64)
    assert not torch.allclose(answer(network, x)[:1], answer(network, x[:1]), atol=1e-3)


@every
def test_the_same_every_time(variant):
    network = build(variant).eval()
    x = image(network)
    before = {key: t.clone() for key, t in network.state_dict().items()}
    untouched = x.clone()
    with torch.no_grad():
        first, second = answer(network, x), answer(network, x)
    assert torch.equal(first, second)
    assert torch.equal(x, untouched)
    assert all(torch.equal(t, before[key]) for key, t in network.state_dict().items())
    # The same seed builds the same network.
    again = build(variant).state_dict()
    assert again.keys() == before.keys() and all(torch.equal(t, before[key]) for key, t in again.items())


@every
def test_with_and_without_gradients_alike(variant):
    network = hashed(variant)
    x = image(network, dtype=torch.float64)
    with torch.no_grad():
        quiet = answer(network, x)
    with torch.inference_mode():
        inferred = answer(network, x)
    assert torch.equal(quiet, inferred)
    assert torch.allclose(answer(network, x), quiet, rtol=1e-12, atol=1e-12)


@every
def test_config_is_json_and_builds_the_same(variant):
    network = build(variant)
    config = json.loads(json.dumps(network.config))
    assert config == network.config
    assert config.items() >= variant[1].items()
    other = variant[0](**config)
    assert other.config == config and other.capabilities == network.capabilities
    other.load_state_dict(network.state_dict(), strict=True)
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in variant[0](**config).state_dict().items()}
    assert shapes == {key: t.shape for key, t in network.state_dict().items()}


@every
def test_a_saved_network_answers_the_same(variant, tmp_path):
    network = build(variant)
    answer(network, image(network, batch=2))  # moves statistics and spectral vectors from where they begin
    network.eval().save_pretrained(tmp_path)
    other = variant[0].from_pretrained(tmp_path)
    x = image(network)
    assert torch.equal(answer(network, x), answer(other, x))


@every
def test_unknown_settings_are_refused(variant):
    for name in configs.schema(variant[0].__init__):
        with pytest.raises(ConfigError, match=f"Did you mean '{name}'"):
            variant[0](**{f"{name}z": 4})
        with pytest.raises(ConfigError, match=f"'{name}' cannot be used"):
            variant[0](**{name: {}})


# -- of one network --


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_patches_are_as_wide_as_they_say(layers, field):
    network = golden.fill(PatchDiscriminator(width=2, layers=layers, norm="none"))
    side = 2 * field
    x = image(network, side, side, dtype=torch.float64).requires_grad_()
    y = network(x)
    middle = y.shape[2] // 2
    y[0, 0, middle, middle].backward()
    seen = x.grad[0].abs().sum(0) > 0
    for axis in (0, 1):
        where = seen.any(axis).nonzero().flatten()
        assert where[-1] - where[0] + 1 == field == len(where)
        assert where[0] > 0 and where[-1] < side - 1


def test_pixels_are_judged_alone():
    network = golden.fill(PixelDiscriminator(width=4, norm="none"))
    x = image(network, 5, 6, dtype=torch.float64).requires_grad_()
    network(x)[0, 0, 2, 3].backward()
    assert x.grad[0].abs().sum(0).nonzero().tolist() == [[2, 3]]


def test_dropout_is_for_training_only():
    for cls, count in ((ResnetGenerator, 2), (UNetGenerator, 2)):
        network = build((cls, {"dropout": True, **({"downs": 7} if cls is UNetGenerator else {})}))
        drops = [m for m in network.modules() if isinstance(m, torch.nn.Dropout)]
        assert len(drops) == count and all(m.p == 0.5 for m in drops)
        x = image(network)
        network.train()
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


def test_skips_of_the_unet_carry_what_the_next_level_sees():
    # What crosses has gone through the LeakyReLU of the next level: with the inner levels cut off, a negative
    # feature of the first level still does nothing (ReLU of the way up), a positive one goes through as it is.
    network = UNetGenerator(width=2, downs=2, norm="instance").double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.down[0].weight[0, 0, 1, 1] = 1.0  # the first feature is the picture, the second its negative
        network.down[0].weight[1, 0, 1, 1] = -1.0
        network.up[0].weight[0, 0, 1, 1] = 0.5
        network.up[0].weight[1, 1, 1, 1] = 0.25
    x = image(network, 8, 8, dtype=torch.float64)
    seen = x[0, 0, ::2, ::2]
    y = network(x)[0, :, ::2, ::2]
    assert torch.allclose(y[0], (0.5 * seen.relu()).tanh())
    assert torch.allclose(y[1], (0.25 * (-seen).relu()).tanh())
    assert not y[2].any()


def test_features_are_those_on_the_way():
    network = golden.fill(build((ResnetGenerator, {"blocks": 3, "downsample": "blur"}))).eval()
    x = image(network, 32, 24, dtype=torch.float64)
    seen = {}
    for key, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, key=key: seen.update({key: output.clone()}))
    network(x)
    taps = network.features(x, (0, 2))
    expected = ["down.0.conv", "down.1.conv", "blocks.0", "blocks.2"]
    assert len(taps) == 5
    assert all(torch.equal(tap, seen[key]) for tap, key in zip(taps[1:], expected, strict=True))
    assert taps[0].shape == (1, 3, 38, 30) and torch.equal(taps[0][..., 3:-3, 3:-3], x)
    assert [tuple(t.shape[1:]) for t in taps[1:]] == [(8, 32, 24), (16, 16, 12), (16, 8, 6), (16, 8, 6)]
    # Nothing later is computed, and the taps are not written over.
    seen.clear()
    network.features(x, (0,))
    assert "blocks.0" in seen and "blocks.1" not in seen and "head" not in seen
    assert len(network.features(x, ())) == 3


def test_spectral_norm_bounds_the_gain():
    network = build((PatchDiscriminator, {"norm": "none", "spectral_norm": True})).train()
    x = image(network, batch=2)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.parametrizations.weight.original.mul_(50)
        for _ in range(60):  # each look makes one step of the power iteration
            network(x)
    gains = [
        torch.linalg.matrix_norm(m.weight.flatten(1), 2).item()
        for m in network.eval().modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    assert len(gains) == 5 and gains == pytest.approx([1] * 5, rel=0.02)


def test_convolutions_have_a_bias_only_where_no_norm_takes_it_away():
    # test_golden_models.py shows that the field's biases in front of norms get no gradient.
    of_the_spine = (ResnetGenerator, UNetGenerator, PatchDiscriminator, PixelDiscriminator)
    for variant in [v for v in VARIANTS if v[0] in of_the_spine]:
        network = build(variant)
        norm = variant[1].get("norm", "batch" if variant[0] is UNetGenerator else "instance")
        convolutions = {k: m for k, m in network.named_modules() if hasattr(m, "kernel_size")}
        biased = sorted(key for key, m in convolutions.items() if m.bias is not None)
        first, last = next(iter(convolutions)), list(convolutions)[-1]
        if variant[0] is ResnetGenerator:
            assert biased == [*(["detail.conv1", "detail.conv2"] if network.detail else []), "head"]
        elif variant[0] is UNetGenerator:
            inner = len(network.down) - 1
            assert biased == (["down.0", f"down.{inner}", "up.0"] if norm == "instance" else ["up.0"])
        elif norm == "none":
            assert variant[0] is PixelDiscriminator or biased == sorted(convolutions)
        elif variant[0] is PatchDiscriminator:
            assert biased == sorted([first, last])
        else:
            assert biased == sorted([first, last] if norm == "instance" else [first])


def test_the_first_weights_are_those_of_the_papers():
    torch.manual_seed(0)
    for network in (ResnetGenerator(width=16), UNetGenerator(width=8), PatchDiscriminator(width=16, norm="batch")):
        for module in network.modules():
            if hasattr(module, "kernel_size"):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
                assert abs(module.weight.mean().item()) < 0.02 / math.sqrt(module.weight.numel()) * 5
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, torch.nn.BatchNorm2d):
                assert 0.9 < module.weight.mean().item() < 1.1 and module.weight.std() > 0
                assert not module.bias.any()


def test_sizes_are_those_of_the_papers():
    counts = {
        ResnetGenerator(): 11_378_179,  # 9 blocks, with upstream's biases
        PatchDiscriminator(): 2_764_737,
        UNetGenerator(): 54_413_955,
    }
    for network, known in counts.items():
        count = sum(p.numel() for p in network.parameters())
        without = itertools.chain.from_iterable(
            [m.out_channels] for m in network.modules() if hasattr(m, "kernel_size") and m.bias is None
        )
        batch = isinstance(network, UNetGenerator)  # batch norm: upstream has none of them either
        assert count + (0 if batch else sum(without)) == known


if __name__ == "__main__":
    kept = json.loads(PINS.read_text()) if "--add" in sys.argv else {}  # only those that are missing
    pins = {name_of(variant): kept.get(name_of(variant)) or pin(variant) for variant in VARIANTS}
    PINS.write_text(json.dumps(pins, indent=1) + "\n")
