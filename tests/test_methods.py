"""What methods add to the papers, and why it works."""

import pytest
import torch

from styleforge import ResnetGenerator, methods
from styleforge.methods.base import Batch

SMALL = {"width": 4, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1, "nce_blocks": [0], "patches": 8}


@pytest.mark.parametrize("upsample", ["resize", "blur"])
@pytest.mark.parametrize("downsample", ["stride", "blur"])
def test_reflected_borders_do_not_tell_where_they_are(downsample, upsample):
    """A picture of one colour stays one colour up to its edge; with zero padding the edge shows.

    Batch norm with running statistics, because an instance norm makes zeros of any constant.
    """
    torch.manual_seed(0)
    image = torch.full((1, 3, 32, 32), 0.3, dtype=torch.float64)

    def spread(border):
        options = {"width": 4, "blocks": 1, "norm": "batch", "downsample": downsample, "upsample": upsample}
        network = ResnetGenerator(**options, border=border).double().eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        output = network(image).detach()
        return float((output - output.mean((2, 3), keepdim=True)).abs().max())

    assert spread("reflect") < 1e-12
    assert spread("zero") > 1e-3


@pytest.mark.parametrize("flipped", [False, True])
def test_identity_l1_is_the_distance_of_targets_to_their_translation(flipped, monkeypatch):
    method = methods.build("fastcut", {**SMALL, "identity_l1": 3.0})
    monkeypatch.setattr(method, "_flipped", lambda batch: flipped)
    batch = Batch({"source": torch.rand(2, 3, 32, 32), "target": torch.rand(2, 3, 32, 32)}, 0, 0)
    terms = method.generator_terms(batch)
    seen = batch["target"].flip(3) if flipped else batch["target"]
    expected = 3 * (method.generator(seen) - seen).abs().mean()
    assert terms["identity"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert "nce_identity" not in terms


def test_without_identity_targets_are_not_translated():
    method = methods.build("fastcut", SMALL)
    sizes = []
    method.generator.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    method.generator_terms(Batch({"source": torch.rand(2, 3, 32, 32), "target": torch.rand(2, 3, 32, 32)}, 0, 0))
    assert sizes == [2]


def test_fastcut_is_cut_with_the_papers_quick_settings():
    fast, cut = methods.settings("fastcut"), methods.settings("cut")
    assert {k: fast[k] for k in fast if fast[k] != cut[k]} == {
        "nce": 10.0,
        "identity": False,
        "flip_equivariance": True,
    }
    assert methods.find("fastcut") is methods.find("cut")
