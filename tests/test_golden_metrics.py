"""KID against the numbers of torchmetrics and clean-fid (../shared/golden), in float64."""

from __future__ import annotations

import golden
import numpy as np
import pytest

from styleforge.metrics.kid import kid

pytestmark = golden.NEEDS_GOLDEN

FIXTURE = "metrics_fid_kid"


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (150, ["kid_unbiased_all_samples"]),
        (130, ["kid_unbiased_first_130_each", "kid_torchmetrics_poly_mmd_first_130_each"]),
    ],
)
def test_kid_of_everything(rows, names):
    io, values = golden.tensors(FIXTURE), golden.meta(FIXTURE)["values_float64"]
    ours = kid(io["feats1"][:rows], io["feats2"])
    for name in names:
        assert ours == pytest.approx(values[name], rel=1e-10), name


def test_kid_of_subsets():
    """clean-fid draws with numpy, first of the second set; each of its subsets has our number."""
    io, values = golden.tensors(FIXTURE), golden.meta(FIXTURE)["values_float64"]
    draw, ours = np.random.RandomState(5), []
    for _ in range(10):
        x = io["feats2"][draw.choice(130, 50, replace=False)]
        y = io["feats1"][draw.choice(150, 50, replace=False)]
        ours.append(kid(x, y))
    name = "kid_clean_fid (num_subsets=10, max_subset_size=50, np.random.seed(5))"
    assert np.mean(ours) == pytest.approx(values[name], rel=1e-12)
