"""MicroAST with its published weights against a second implementation, ../shared/weights/reference_nets.py.

Its pictures are in [0, 1] and not bounded.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType

import golden
import pytest
import torch
from torch import Tensor

from styleforge import images
from styleforge.layers import adaptive_instance_norm, from_unit_range, mean_std
from styleforge.models import MicroASTGenerator

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
ENCODERS = {"content_encoder": "c", "style_encoder": "s"}  # ours: its


def names() -> dict[str, str]:
    """Our modules: its part, and the name there."""
    encoder = golden.names("microast-encoder").items()
    found = {f"{ours}.{name}": f"{part}.{theirs}" for ours, part in ENCODERS.items() for name, theirs in encoder}
    for ours, part in (("decoder", "d"), ("modulator", "m")):
        prefix = "modulators" if part == "m" else ours
        for name, theirs in golden.names(f"microast-{ours}").items():
            found[f"{prefix}.{name}"] = f"{part}.{theirs}"
    return found


@pytest.fixture(scope="module")
def reference(shared) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_nets", shared / "weights" / "reference_nets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # It adds its constant to the deviation; upstream, and ours, to the variance.
    module.adain = lambda content, style: adaptive_instance_norm(content, *mean_std(style))
    return module


@pytest.fixture(scope="module")
def theirs(reference):
    network = reference.MicroAST()
    for part in "csmd":
        setattr(network, part, {key: t.double() for key, t in getattr(network, part).items()})
    return network


@pytest.fixture(scope="module")
def network(theirs) -> MicroASTGenerator:
    """Ours with the published weights; left in training mode, where outputs are not cut off."""
    weights = {f"{part}.{key}": t for part in "csmd" for key, t in getattr(theirs, part).items()}
    ours = golden.adopt(MicroASTGenerator(), weights, names())
    first = [f"{encoder}.down.0" for encoder in ENCODERS]
    ours.load_state_dict(from_unit_range(ours.state_dict(), first=first, last="decoder.up.10"))
    return ours


@pytest.fixture(scope="module")
def pictures(shared) -> list[Tensor]:
    """A photograph and a painting in [0, 1], of different sizes."""
    demo, found = shared / "data" / "demo", []
    for folder, (height, width) in (("content", (96, 128)), ("style", (120, 88))):
        array = images.to_8_bit(images.read(min((demo / folder).glob("*.jpg"))).rgb)[200:, 200:][:height, :width]
        found.append(torch.from_numpy(array.copy()).permute(2, 0, 1)[None].double() / 255)
    return found


def test_published_weights(network, theirs, pictures):
    content, style = pictures
    expected = theirs(content, style)
    found = (network(content * 2 - 1, style * 2 - 1) + 1) / 2
    assert found.shape == expected.shape == content.shape
    assert (found - expected).abs().max() < TOLERANCE
    assert (expected - content).abs().mean() > 0.05  # it does something


def test_published_weights_in_float32(reference, network, theirs, pictures):
    content, style = pictures
    expected, rough = theirs(content, style), reference.MicroAST()(content.float(), style.float())
    single = MicroASTGenerator()
    single.load_state_dict(network.state_dict())
    found = (single(content.float() * 2 - 1, style.float() * 2 - 1).double() + 1) / 2
    assert (found - expected).abs().max() < 5 * (rough.double() - expected).abs().max()


def test_strength_is_not_upstreams(network, theirs, pictures):
    content, style = pictures
    assert theirs(content, style, 0.5).abs().max() > 5  # of [0, 1]
    outputs = [(network(content * 2 - 1, style * 2 - 1, s) + 1) / 2 for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(x.min() > -0.5 and x.max() < 1.5 for x in outputs)
    from_content = [(x - content).abs().mean().item() for x in outputs]
    from_style = [(x - outputs[-1]).abs().mean().item() for x in outputs]
    assert sorted(from_content) == from_content and from_content[0] < 0.6 * from_content[-1]
    assert sorted(from_style, reverse=True) == from_style


def test_odd_sizes(network, theirs, pictures):
    # Upstream rounds up to the next multiple of 4; `__call__` wants such sizes.
    content, style = (picture[:, :, :-3, :-1] for picture in pictures)
    expected = theirs(content, style)
    found = (network.forward(content * 2 - 1, style * 2 - 1) + 1) / 2
    assert found.shape == expected.shape == (1, 3, 96, 128)
    assert (found - expected).abs().max() < TOLERANCE
