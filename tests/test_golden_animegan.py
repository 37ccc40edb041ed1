"""AnimeGANGenerator against bryandlee's animegan2-pytorch. Nothing differs but the names."""

import golden
import pytest
import torch
from torch import Tensor

from styleforge.models import AnimeGANGenerator

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
WIDTHS = {"animegan2_scaled": 4, "animegan2_full_formula": 32}
each = pytest.mark.parametrize("name", WIDTHS)

NAMES = golden.names("animegan2")


def weights(name: str, file: str = "model.safetensors") -> dict[str, Tensor]:
    if "formula" not in name:
        return golden.tensors(name, file)
    rule, theirs = golden.meta(name)["weights"], {}
    for key, t in AnimeGANGenerator(width=WIDTHS[name]).state_dict().items():
        module, _, kind = key.rpartition(".")
        their = f"{NAMES[module]}.{kind}"
        theirs[their] = golden.hashed(their, tuple(t.shape), seed=rule["seed"], gain=rule["gain"])
    assert sum(t.numel() for t in theirs.values()) == rule["n_params"]
    return theirs


def build(name: str, file: str = "model.safetensors", align_corners: bool = True) -> AnimeGANGenerator:
    network = AnimeGANGenerator(width=WIDTHS[name], align_corners=align_corners)
    return golden.adopt(network, weights(name, file), NAMES).eval()


@each
def test_outputs(name):
    io, cases = golden.tensors(name), golden.meta(name)["cases"]
    assert "a" in cases and "alignFalse_a" in cases
    for case in cases:  # also of sides that are no multiples of 4
        network = build(name, align_corners="alignFalse" not in case)
        # Past the look at sizes: without aligned corners the rest of a division by 4 is lost.
        assert golden.error(network.forward(io[f"x_{case[-1]}"]), io, f"y64_{case}") < TOLERANCE


@each
def test_gradients(name):
    network, io, grad = build(name), golden.tensors(name), golden.meta(name)["grad"]
    x = io["x_a"].requires_grad_()
    loss = network(x).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=TOLERANCE)
    assert golden.error(x.grad, io, "gx64_a") < TOLERANCE
    expected, left = golden.rename(grad["param_grad_norms"], NAMES)
    assert not left
    assert {key: p.grad.norm().item() for key, p in network.named_parameters()} == pytest.approx(
        expected, rel=TOLERANCE
    )


def test_the_file_as_it_is_released():
    files = ("model.safetensors", "face_paint_512_v2.pt")
    ours, other = (build("animegan2_scaled", file).state_dict() for file in files)
    assert ours.keys() == other.keys() and all(torch.equal(t, other[key]) for key, t in ours.items())
