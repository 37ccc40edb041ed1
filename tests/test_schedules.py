"""Learning rates: the field's schedules, and what ours add."""

from __future__ import annotations

import json

import golden
import pytest

from styleforge.schedules import Plateau, learning_rate


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.3, 0.5, 1.0])
def test_linear_is_constant_and_then_falls_to_0(decay):
    for steps in (1, 7, 100):
        falling = max(1, round(decay * steps))
        expected = [min(1.0, (steps - step) / falling) if decay else 1.0 for step in range(steps + 1)]
        assert [learning_rate("linear", step, steps, decay=decay) for step in range(steps + 1)] == expected


def upstream(name):
    table = json.loads((golden.GOLDEN / "lr_schedules" / "values.json").read_text())[name]
    return table["options"], [rate / 2e-4 for rate in table["lr_after_k_scheduler_steps"]]


@golden.needs_golden
@pytest.mark.parametrize("name", ["linear", "linear_resume"])
def test_linear_upstream(name):
    options, expected = upstream(name)
    constant, falling, begun = options["n_epochs"], options["n_epochs_decay"], options["epoch_count"] - 1
    steps = constant + falling
    # Upstream divides by one more, so that it reaches 0 after the last epoch; afterwards its factor is negative.
    expected = expected[: steps - begun + 1]
    ours = [learning_rate("linear", begun + k, steps, decay=(falling + 1) / steps) for k in range(len(expected))]
    assert len(ours) > 100 and ours == pytest.approx(expected, rel=1e-12, abs=1e-15)


@golden.needs_golden
def test_step_upstream():
    options, expected = upstream("step")
    every = options["lr_decay_iters"]
    ours = [learning_rate("step", k, 3 * every) for k in range(len(expected))]
    assert len(ours) == 201 and ours == pytest.approx(expected, rel=1e-12)


@golden.needs_golden
def test_cosine_upstream():
    options, expected = upstream("cosine")
    steps = options["n_epochs"]
    ours = [learning_rate("cosine", k, steps, decay=1.0) for k in range(steps + 1)]
    assert ours == pytest.approx(expected[: steps + 1], rel=1e-9, abs=1e-15)  # upstream's is a recursion


def test_cosine_falls_in_the_last_share_only():
    found = [learning_rate("cosine", step, 100, decay=0.4) for step in range(101)]
    assert found[:61] == [1.0] * 61 and found[100] == 0
    assert found[80] == pytest.approx(0.5) and found[70] + found[90] == pytest.approx(1)
    assert found[60:] == sorted(found[60:], reverse=True)
    assert learning_rate("cosine", 99, 100, decay=0.0) == 1


def test_step_falls_after_each_third():
    thirds = [learning_rate("step", step, 9) for step in range(9)]
    assert thirds == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step", "plateau"])
def test_warmup_rises_to_what_it_would_be(schedule):
    plain = [learning_rate(schedule, step, 50) for step in range(50)]
    warm = [learning_rate(schedule, step, 50, warmup=5) for step in range(50)]
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and warm[5:] == plain[5:]
    assert min(plain) > 0 and max(plain) == 1
    assert (set(plain) == {1.0}) == (schedule in ("constant", "plateau"))


def test_plateau_waits_and_falls_and_stops_falling():
    plateau = Plateau(2)
    found = []
    for improved in (True, False, True, False, False, False, False, False, False):
        plateau.update(improved)
        found.append(plateau.factor)
    assert found == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    for _ in range(20):
        plateau.update(False)
    assert plateau.factor == 0.01


def test_plateau_without_patience_leaves_the_rate_alone():
    plateau = Plateau(0)
    for _ in range(10):
        plateau.update(False)
    assert plateau.factor == 1


@pytest.mark.parametrize("stop", range(1, 8))
def test_plateau_goes_on(stop):
    measured = [False, False, True, False, False, False, False, False]
    whole, first, second = Plateau(3), Plateau(3), Plateau(3)
    for improved in measured:
        whole.update(improved)
    for improved in measured[:stop]:
        first.update(improved)
    second.restore(json.loads(json.dumps(first.state())))
    for improved in measured[stop:]:
        second.update(improved)
    assert whole.factor == second.factor == 0.5 and whole.state() == second.state()
