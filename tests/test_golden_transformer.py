"""TransformerNet against pytorch/examples' fast_neural_style, whose pictures are in [0, 255] and not bounded.

Its weights come to ours through :func:`from_bytes`. Ours have no biases in front of norms, and no offsets at the end of
blocks, which norms cancel: here upstream's gradient for these is looked at, and is nothing but rounding.
"""

import importlib.util
import re

import golden
import pytest
import torch
from torch import Tensor

from styleforge import images
from styleforge.models import TransformerNet
from styleforge.models.transformer import HEAD_UNIT, from_bytes

pytestmark = golden.NEEDS_GOLDEN
TOLERANCE = 1e-9
WIDTHS = {"fns_transformer_scaled": 4, "fns_transformer_full_formula": 32}
CANCELLED = re.compile(r"res\d\.in2\.bias")
NAMES = golden.names("fast-neural-style")
each = pytest.mark.parametrize("name", WIDTHS)


def adopt(theirs: dict[str, Tensor], width: int) -> TransformerNet:
    theirs = {key: t for key, t in theirs.items() if "running" not in key and "num_batches" not in key}
    for key in theirs:
        if re.search(r"\bin\d\.", key) and not CANCELLED.fullmatch(key):
            theirs[key] = theirs[key][None]  # the first of several styles
    network = TransformerNet(width=width, output="clamp")
    golden.adopt(network, theirs, NAMES)
    network.load_state_dict(from_bytes(network.state_dict()))
    return network.eval()


def weights(name: str, file: str = "model.safetensors") -> dict[str, Tensor]:
    if "formula" not in name:
        return golden.tensors(name, file)
    rule = golden.meta(name)["weights"]
    ours, theirs = TransformerNet(width=WIDTHS[name]).state_dict(), {}
    for key, t in ours.items():
        module, _, kind = key.rpartition(".")
        their = f"{NAMES[module]}.{kind}"
        theirs[their] = golden.hashed(their, tuple(t.squeeze(0).shape), seed=rule["seed"], gain=rule["gain"])
    return theirs


def bytes_of(network: TransformerNet, x: Tensor) -> Tensor:
    return (network.unbounded(x / 127.5 - 1) + 1) * 127.5


@each
def test_outputs(name):
    network, io = adopt(weights(name), WIDTHS[name]), golden.tensors(name)
    for case in golden.meta(name)["cases"]:  # one of them with sides that are no multiples of 4
        assert golden.error(bytes_of(network, io[f"x_{case}"]), io, f"y64_{case}") < TOLERANCE


@each
def test_gradients(name):
    network, io, grad = adopt(weights(name), WIDTHS[name]), golden.tensors(name), golden.meta(name)["grad"]
    x = io["x_a"].requires_grad_()
    loss = bytes_of(network, x).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=TOLERANCE)
    assert golden.error(x.grad, io, "gx64_a") < TOLERANCE

    expected, left = golden.rename(grad["param_grad_norms"], NAMES)
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters()}
    norms["down.0.conv.weight"] *= 127.5
    norms["head.weight"] *= HEAD_UNIT / 127.5
    norms["head.bias"] *= HEAD_UNIT / 127.5
    assert not left
    assert norms == pytest.approx({key: expected[key] for key in norms}, rel=TOLERANCE)
    assert all(expected[key] < 1e-14 * max(norms.values()) for key in expected.keys() - norms.keys())


@each
def test_what_upstream_saves(name):
    network, io = adopt(weights(name), WIDTHS[name]).float(), golden.tensors(name)
    y = network(io["x_a"].float() / 127.5 - 1)
    assert y.abs().max() <= 1
    pixels = (y[0].permute(1, 2, 0).double() + 1) * 127.5
    # It truncates to whole numbers, which rounding in float32 can move by one.
    apart = (pixels - 0.5 - io["saved_u8_a"].double()).abs()
    assert apart.max() < 0.501


@pytest.mark.parametrize("file", ["mosaic.pth", "mosaic.legacy_running.pth"])
def test_other_files_of_the_same_weights(file):
    name = "fns_transformer_scaled"
    ours, other = (adopt(weights(name, f), 4).state_dict() for f in ("model.safetensors", file))
    assert ours.keys() == other.keys() and all(torch.equal(t, other[key]) for key, t in ours.items())


@pytest.mark.parametrize("style", ["candy", "mosaic", "udnie"])
def test_published_weights(style, shared):
    path = shared / "weights" / "reference_nets.py"
    spec = importlib.util.spec_from_file_location("reference_nets", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reference = module.FNS(style)
    reference.w = {key: t.double() for key, t in reference.w.items()}
    network = adopt(reference.w, 32)

    file = shared / "data" / "demo" / "content" / "ak-moraine-lake.jpg"
    array = torch.from_numpy(images.to_8_bit(images.read(file).rgb)[:64, :96].copy())
    x = array.permute(2, 0, 1)[None].double()
    expected = reference(x)
    assert (bytes_of(network, x) - expected).abs().max() < TOLERANCE * 255
    assert ((network(x / 127.5 - 1) + 1) * 127.5 - expected.clamp(0, 255)).abs().max() < TOLERANCE * 255
    assert (expected - x).abs().mean() > 20  # it does something
