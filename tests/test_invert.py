"""Pictures to codes and back, and what is done with codes."""

import golden
import pytest
import torch

from styleforge import features
from styleforge.errors import ConfigError, ImageError
from styleforge.invert import interpolate, invert, mix
from styleforge.models import StyleGAN2Generator

SMALL = {"size": 16, "width": 4, "max_width": 16, "noise_size": 8, "style_size": 16, "mapping_layers": 2}


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return StyleGAN2Generator(**SMALL)


def own(generator, count=2):
    """Pictures that it can make, and their codes."""
    codes = generator.eval().codes(golden.hashed("own", (count, 8)).float() * 3).detach()
    return generator.synthesize(codes).detach(), codes


def psnr(a, b):
    return -10 * ((a - b).square().flatten(1).mean(1) / 4).log10()


@pytest.mark.parametrize("space", ["w", "w+"])
def test_own_pictures_are_found_again(generator, space):
    image, _ = own(generator)
    codes = invert(generator, image, space=space, steps=150)
    assert codes.shape == (2, generator.layers, 16) and not codes.requires_grad
    start = generator.synthesize(invert(generator, image, space=space, steps=0))
    gain = psnr(generator.synthesize(codes), image) - psnr(start, image)
    assert gain.min() > {"w": 40, "w+": 15}[space]  # in W there is one way only; few weights make W+ bumpy
    assert (codes == codes[:, :1]).all() == (space == "w")


def test_with_a_code_for_each_layer_foreign_pictures_come_nearer(generator):
    image = golden.hashed_picture("foreign", 1, 3, 16, 16).float() / 2
    found = (invert(generator, image, space=space, steps=60) for space in ("w+", "w"))
    wide, narrow = (psnr(generator.synthesize(codes), image) for codes in found)
    assert wide > narrow + 1


def test_features_have_to_agree_too(generator):
    image, _ = own(generator)
    network = features.load("random-16x", last="relu4_2")
    losses = {}
    for name, chosen in (("with", network), ("without", None)):
        told = losses[name] = []
        invert(generator, image, steps=8, features=chosen, progress=lambda *report, told=told: told.append(report))
        assert [step for step, _ in told] == list(range(1, 9))
        assert told[-1][1] < told[0][1]
    start = generator.synthesize(invert(generator, image, steps=0))
    layers = ("relu1_1", "relu1_2", "relu3_2", "relu4_2")
    pairs = zip(network(start, layers).values(), network(image, layers).values(), strict=True)
    difference = losses["with"][0][1] - losses["without"][0][1]
    assert difference == pytest.approx(sum((a - b).square().mean().item() for a, b in pairs), rel=1e-3)


def test_pictures_are_independent_and_the_generator_stays(generator):
    image, _ = own(generator)
    double = StyleGAN2Generator(**SMALL).double().train()
    double.load_state_dict(generator.state_dict())
    before = {key: t.clone() for key, t in double.state_dict().items()}
    both = invert(double, image.double(), steps=5)
    assert torch.allclose(both[1:], invert(double, image[1:].double(), steps=5), rtol=1e-6)
    assert torch.equal(both, invert(double, image.double(), steps=5))
    assert not torch.allclose(both, invert(double, image.double(), steps=5, seed=1))
    assert all(torch.equal(t, before[key]) for key, t in double.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in double.parameters())


def test_what_does_not_fit_is_an_error(generator):
    for shape in ((1, 3, 16, 8), (1, 1, 16, 16), (3, 16, 16), (1, 3, 32, 32)):
        with pytest.raises(ImageError, match="Crop and resize"):
            invert(generator, torch.zeros(shape))
    with pytest.raises(ConfigError, match=r"'w\+', 'w'"):
        invert(generator, torch.zeros(1, 3, 16, 16), space="z")


@pytest.mark.parametrize(("scale", "unchanged"), [(4, 0), (8, 1), (16, 3)])
def test_mixing_changes_features_from_its_scale_on(generator, scale, unchanged):
    _, codes = own(generator)
    content, style = codes[:1], codes[1:]
    mixed = mix(content, style, from_scale=scale)
    assert torch.equal(mixed[:, :unchanged], content[:, :unchanged])
    assert torch.equal(mixed[:, unchanged:], style[:, unchanged:])
    seen = []
    hooks = [conv.register_forward_hook(lambda module, inputs, output: seen.append(output)) for conv in generator.convs]
    for chosen in (content, mixed):
        generator.synthesize(chosen)
    for hook in hooks:
        hook.remove()
    half = len(generator.convs)
    for before, after in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(before, after) == (before.shape[2] < scale)


@pytest.mark.parametrize("scale", [2, 5, 32])
def test_scales_that_are_not_there(generator, scale):
    _, codes = own(generator)
    with pytest.raises(ConfigError, match="4, 8, 16"):
        mix(codes[:1], codes[1:], from_scale=scale)


def test_interpolation(generator):
    _, codes = own(generator)
    a, b = codes[:1], codes[1:]
    assert torch.equal(interpolate(a, b, 0), a)
    assert torch.allclose(interpolate(a, b, 1), b)
    assert torch.allclose(interpolate(a, b, 0.25), 0.75 * a + 0.25 * b)
    assert torch.allclose(interpolate(a, b, 2) - b, b - a, atol=1e-6)
