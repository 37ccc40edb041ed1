"""The watch: silent on all that is healthy, and on every fault one sentence that says which."""

import json
import math
import random
import re

import pytest
import torch
import torch.nn.functional as F

from styleforge import configs, methods
from styleforge.losses import gray
from styleforge.train import TrainConfig
from styleforge.watch import COLLAPSED, COPIED, INVERTED, LOOKS, Detectors, Watch

# -- figures --


def series(*names, steps=100, value=lambda step: 2.0):
    return [{name: value(step) for name in names} for step in range(steps)]


def first_complaint(steps, watch=None):
    watch = watch or Watch()
    return next((complaint for values in steps if (complaint := watch.judge(values))), None)


def noisy(step):
    return {"g/fool": math.exp(random.gauss(0, 1)), "g/gradient_norm": math.exp(random.gauss(0, 1.5))}


def lazily_penalized(step):
    penalty = {"d/real_fake_penalty": random.random()} if step % 16 == 0 else {}
    return {"d/real_fake": random.random(), "d/gradient_norm": 300.0 if penalty else random.random(), **penalty}


def wandering(step):
    return {"d/real_fake": 40 * math.sin(step / 20) + random.gauss(0, 1), "g/fool": -5.0 * step}


def coming_late(step):
    return {"g/content": 1.0} if step < 200 else {"g/content": 1.0, "g/fool": 1e4, "d/gradient_norm": 1e5}


def waking(step):
    return {"d/real_fake": 1e-9 if step < 200 else 8.0, "d/gradient_norm": 1e-9 if step < 200 else 500.0}


def growing(step):
    return {"g/fool": 1.1**step, "g/gradient_norm": 1.1**step}


@pytest.mark.parametrize("healthy", [noisy, lazily_penalized, wandering, coming_late, waking, growing])
def test_healthy_figures_are_no_alarm(healthy):
    random.seed(0)
    assert first_complaint(healthy(step) for step in range(400)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("after", [0, 100])
def test_what_is_not_finite_is_an_alarm_from_the_first_step_on(value, after):
    steps = [*series("g/cycle", steps=after), {"g/cycle": value}]
    assert first_complaint(steps) == f"g/cycle is not finite ({value})"


@pytest.mark.parametrize(
    ("name", "usual", "limit"),
    [
        ("d/gradient_norm", 2.0, 2000.0),
        ("d/gradient_norm", 1e-6, 1000.0),
        ("g/fool", 2.0, 20_000.0),
        ("g/fool", -2.0, 20_000.0),
        ("g/fool", 0.0, 10_000.0),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_explosions(name, usual, limit, sign):
    steps = series(name, value=lambda step: usual)
    assert first_complaint([*steps, {name: sign * limit}]) is None
    found = first_complaint([*steps, {name: sign * 1.25 * limit}])
    assert found == f"{name} = {sign * 1.25 * limit:.3g}, {1.25 * limit / max(abs(usual), 1):.0f} times what is usual"


def test_an_explosion_over_several_steps_is_one():
    assert "times what is usual" in first_complaint(series("d/gradient_norm", value=lambda step: 1.5**step))


def test_few_figures_are_not_judged():
    steps = series("d/gradient_norm", steps=15)
    assert first_complaint([*steps, {"d/gradient_norm": 1e9}]) is None
    assert first_complaint([*steps, *steps[:1], {"d/gradient_norm": 1e9}])


def test_what_is_usual_is_that_of_the_window():
    steps = series("d/gradient_norm", value=lambda step: 1.0 if step < 50 else 900.0)
    last = {"d/gradient_norm": 1e5}
    assert first_complaint([*steps, last], Watch(window=32)) is None
    assert first_complaint([*steps[:60], last], Watch(window=64))


def test_an_unhealthy_step_is_not_remembered():
    watch = Watch()
    assert first_complaint(series("d/gradient_norm", "g/fool"), watch) is None
    before = watch.state()
    for bad in ({"g/fool": 1.0, "d/gradient_norm": 1e7}, {"d/gradient_norm": 1.0, "g/fool": math.nan}):
        assert watch.judge(bad)
    assert watch.state() == before


def test_a_watch_goes_on_where_it_was():
    random.seed(1)
    steps = [noisy(step) for step in range(150)]
    whole, first, second = Watch(), Watch(), Watch()
    assert first_complaint(steps, whole) is first_complaint(steps[:70], first) is None
    state = first.state()
    saved = json.dumps(state)
    second.restore(state)
    assert first_complaint(steps[70:], first) is first_complaint(steps[70:], second) is None
    assert json.loads(saved) == state  # a run may be rolled back to it again
    assert second.state() == whole.state()
    spike = {"g/gradient_norm": 1001 * max(1.0, sorted(abs(s["g/gradient_norm"]) for s in steps[-64:])[32])}
    assert second.judge(spike) == whole.judge(spike) is not None


# -- pictures --

STEPS = 10_000


def pictures(seed):
    """(8, 3, 32, 32): colored clouds."""
    places = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(places, 32, mode="bicubic").mul(0.3).clamp(-1, 1)


def waves(direction):
    """(8, 3, 32, 32), gray: dark to bright along a direction, which knows nothing of the other one."""
    wave = torch.linspace(-0.5, 0.5, 32).expand(8, 3, 32, 32)
    return wave if direction == "x" else wave.transpose(2, 3)


SOURCE, TARGET = pictures(0), pictures(1)
STYLED = 0.7 * SOURCE + 0.1 * TARGET + 0.1  # it resembles its source, and is another picture
GRAY = gray(SOURCE).expand_as(SOURCE)
CONSTANT = TARGET[:1].expand_as(TARGET)
TINT = torch.tensor([1.0, -0.299 / 0.587, 0.0])[:, None, None]  # a color without luma


def looks(styled, target=TARGET, source=SOURCE, *, paired=False, step=STEPS // 2, steps=STEPS, times=LOOKS, by=None):
    """What some looks at the same pictures find: sentences by name."""
    detectors = by or Detectors(paired=paired, adversarial="lsgan")
    found = [detectors.look(step, steps, styled, target, source) for _ in range(times)]
    assert not any(found[: LOOKS - 1])
    return {finding.name: finding.sentence for some in found for finding in some}


def saturated(value, *, steps=1000, kind="lsgan", name="target_d/real_fake"):
    """Detectors that saw some steps with a loss, a number or a function of the step."""
    detectors = Detectors(paired=False, adversarial=kind)
    for step in range(steps):
        detectors.saw(step, {name: value(step) if callable(value) else value, "generator/fool": 0.0})
    return detectors


HEALTHY = {
    "translation": (STYLED, TARGET, SOURCE, False),
    "from noise": (STYLED, TARGET, None, False),
    "pairs": (0.3 * SOURCE + 0.6 * TARGET, TARGET, SOURCE, True),
    "pairs of negatives": (0.7 * TARGET + 0.1, TARGET, -TARGET, True),
    "pairs whose sources have no color": (2 * GRAY - SOURCE, SOURCE, GRAY, True),
    "pairs that hardly differ": (SOURCE, SOURCE + 0.01, SOURCE, True),
    "black and white": (0.8 * GRAY, TARGET, SOURCE, False),
    "colors from black and white": (STYLED, TARGET, GRAY, False),
    "paler": (0.3 * SOURCE + 0.3, TARGET, SOURCE, False),
    "sepia": (GRAY * torch.tensor([0.9, 0.6, 0.3])[:, None, None] + 0.1, TARGET, SOURCE, False),
    "alike because sources are": (0.1 * STYLED + 0.2, TARGET, 0.1 * SOURCE, False),
    "alike because targets are": (0.1 * STYLED, 0.1 * TARGET, SOURCE, False),
    "a single style": (STYLED, TARGET[:1], SOURCE, False),
    "a single source": (STYLED[:1], TARGET, SOURCE[:1], False),
    "one picture at a time": (STYLED[:1], TARGET, None, False),
    "not finite": (STYLED * math.nan, TARGET, SOURCE, False),
}


@pytest.mark.parametrize("case", HEALTHY)
@pytest.mark.parametrize("step", [0, 60, 300, STEPS])
def test_healthy_pictures_are_no_alarm(case, step):
    styled, target, source, paired = HEALTHY[case]
    assert looks(styled, target, source, paired=paired, step=step, times=9) == {}


FAULTS = {
    "constant": (CONSTANT, TARGET, SOURCE, False, {"mode collapse": "0.0% as much from each other as targets"}),
    "constant, from noise": (CONSTANT, TARGET, None, False, {"mode collapse": "targets"}),
    "constant, in one style": (CONSTANT, TARGET[:1], SOURCE, False, {"mode collapse": "sources"}),
    "copies": (SOURCE, TARGET, SOURCE, False, {"copying": "106 dB"}),
    "copies of pairs": (SOURCE, TARGET, SOURCE, True, {"copying": "0.0% as far from them as the targets"}),
    "negatives": (-STYLED, TARGET, SOURCE, False, {"luminance inversion": "-0.9"}),
    "dark and light": (SOURCE - 2 * GRAY, TARGET, SOURCE, False, {"luminance inversion": "-1.00"}),
    "negatives of pairs": (-STYLED, STYLED, SOURCE, True, {"luminance inversion": "-0.9"}),
    "wrong colors of pairs": (2 * GRAY - SOURCE, STYLED, SOURCE, True, {"color inversion": "-1.00"}),
    "wrong colors": (2 * GRAY - SOURCE, TARGET, SOURCE, False, {"color inversion": "-1.00"}),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_told(case):
    styled, target, source, paired, expected = FAULTS[case]
    found = looks(styled, target, source, paired=paired)
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert words in found[name]


@pytest.mark.parametrize(("share", "told"), [(COLLAPSED - 0.01, True), (COLLAPSED + 0.01, False)])
def test_limit_of_mode_collapse(share, told):
    assert ("mode collapse" in looks(share * TARGET, TARGET, None)) == told
    assert ("mode collapse" in looks(share * SOURCE, 3 * TARGET, SOURCE)) == told  # the least diverse counts


@pytest.mark.parametrize(("decibels", "told"), [(COPIED + 0.5, True), (COPIED - 0.5, False)])
def test_limit_of_copying(decibels, told):
    noise = torch.randn(SOURCE.shape, generator=torch.Generator().manual_seed(2))
    noise *= 2 / 10 ** (decibels / 20) / noise.square().mean().sqrt()
    assert ("copying" in looks(SOURCE + noise)) == told


@pytest.mark.parametrize(("way", "told"), [(0.09, True), (0.11, False)])
def test_limit_of_copying_pairs(way, told):
    assert ("copying" in looks(torch.lerp(SOURCE, TARGET, way), paired=True)) == told


@pytest.mark.parametrize(("correlation", "told"), [(INVERTED - 0.01, True), (INVERTED + 0.01, False)])
def test_limits_of_inversion(correlation, told):
    mixed = correlation * waves("x") + (1 - correlation**2) ** 0.5 * waves("y")
    assert ("luminance inversion" in looks(mixed, source=waves("x"))) == told
    colored, source = waves("x") + TINT * mixed, waves("x") + TINT * waves("x")
    assert ("color inversion" in looks(colored, source=source)) == told
    unlike = colored - 1.3 * waves("x") + waves("y")  # light does not follow the source, so neither need colors
    assert "color inversion" not in looks(unlike, source=source)


def test_what_hardly_varies_is_not_inverted():
    assert "luminance inversion" not in looks(-0.01 * SOURCE)
    assert "color inversion" not in looks(2 * GRAY - (GRAY + 0.05 * (SOURCE - GRAY)))


def test_outputs_of_random_weights_are_not_judged():
    for steps, begin in ((1000, 200), (STEPS, 200), (50_000, 1000)):
        assert looks(CONSTANT, step=begin - 1, steps=steps) == {}
        assert looks(CONSTANT, step=begin, steps=steps)
    for steps, begin in ((100, 50), (STEPS, 1000)):
        assert looks(SOURCE, step=begin - 1, steps=steps) == {}
        assert looks(SOURCE, step=begin, steps=steps)
    assert looks(-STYLED, step=49) == {}
    assert looks(-STYLED, step=50)


def test_swapped_light_is_told_in_the_first_steps():
    detectors = Detectors(paired=False, adversarial="lsgan")
    told = [step for step in range(0, STEPS // 20, 25) if detectors.look(step, STEPS, -STYLED, TARGET, SOURCE)]
    assert told == [STEPS // 100]


# -- discriminators --


@pytest.mark.parametrize(
    ("kind", "chance"), [("lsgan", 0.25), ("vanilla", 0.693), ("nonsaturating", 0.693), ("hinge", 1.0)]
)
def test_discriminators_that_have_won(kind, chance):
    found = looks(STYLED, by=saturated(0.03 * chance, kind=kind))
    assert found.keys() == {"discriminator saturation"}
    assert re.match(r"target_d/real_fake has been low since step 38\d and is [\d.]+, 3.0% of", *found.values())
    assert looks(STYLED, by=saturated(0.06 * chance, kind=kind)) == {}


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 290},
        {"kind": "wgan"},
        {"kind": None},
        {"name": "d/real_fake_penalty"},
        {"value": lambda step: 0.25 * (step % 10 == 0)},
        {"value": lambda step: 0.0 if step < 990 else 0.25},
    ],
)
def test_discriminators_that_have_not_won(other):
    assert looks(STYLED, by=saturated(**{"value": 0.0, **other})) == {}


def test_a_step_at_chance_now_and_then_does_not_hide_it():
    assert looks(STYLED, by=saturated(lambda step: 0.25 * (step % 50 == 0)))


def test_one_discriminator_of_two_is_enough():
    detectors = Detectors(paired=False, adversarial="lsgan")
    for step in range(1000):
        detectors.saw(step, {"target_d/real_fake": 0.2, "source_d/real_fake": 0.001})
    assert looks(STYLED, by=detectors)["discriminator saturation"].startswith("source_d/real_fake")


# -- persistence --


def history(pattern, detectors=None):
    """Where in a series of looks, "x" at a fault and "." at none, something is told."""
    detectors = detectors or Detectors(paired=False, adversarial="lsgan")
    shown = {"x": CONSTANT, ".": STYLED}
    return "".join("!" if detectors.look(5000, STEPS, shown[look], TARGET, SOURCE) else " " for look in pattern)


def test_a_fault_is_told_once_when_it_stays_and_again_when_it_comes_back():
    assert LOOKS == 3
    assert history("x.xx.xx.") == "        "
    assert history("xxxxxxxxx") == "  !      "
    assert history("xxx.xx..xxx") == "  !        "
    assert history("xxx...xxxx") == "  !     ! "


def test_detectors_go_on_where_they_were():
    pattern = "..xxx.x...xx.xxx...xxxx"
    whole = history(pattern)
    assert whole.count("!") == 3
    for cut in range(1, len(pattern), 4):
        first, second = (saturated(0.005, steps=400) for _ in range(2))
        head = history(pattern[:cut], first)
        state = first.state()
        saved = json.dumps(state)
        second.restore(state)
        assert head + history(pattern[cut:], second) == history(pattern, saturated(0.005, steps=400))
        for detectors in (first, second):
            for step in range(400, 410):
                detectors.saw(step, {"target_d/real_fake": 0.25})
            history("xxx...", detectors)
        assert json.loads(saved) == state  # a run may be rolled back to it again


def test_the_memory_of_losses_is_exact():
    losses = [random.Random(step).random() / 50 for step in range(700)]
    whole = saturated(losses.__getitem__, steps=700)
    second = Detectors(paired=False, adversarial="lsgan")
    second.restore(json.loads(json.dumps(saturated(losses.__getitem__, steps=350).state())))
    for step in range(350, 700):
        second.saw(step, {"target_d/real_fake": losses[step], "generator/fool": 0.0})
    assert second.state() == whole.state()
    assert whole.state()["low_since"]


def test_every_knob_is_an_option():
    known = {"seed"} & configs.schema(TrainConfig.__init__).keys()
    for name in methods.METHODS:
        known |= methods.settings(name).keys()
    sentences = [s for *case, paired, _ in FAULTS.values() for s in looks(*case, paired=paired).values()]
    sentences += looks(STYLED, by=saturated(0.0)).values()
    sentences += looks(CONSTANT, by=Detectors(paired=False, adversarial=None)).values()
    assert "--content" in sentences[-1]  # there is no discriminator to slow down
    for sentence in sentences:
        knobs = re.findall(r"--([a-z0-9-]+)", sentence)
        assert knobs and {knob.replace("-", "_") for knob in knobs} <= known, sentence
        assert sentence.endswith("usually helps.")
