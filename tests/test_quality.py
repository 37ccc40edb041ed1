"""Quality while training: what is measured with what, which step is best, when there is no more to gain, in words."""

from __future__ import annotations

import json

import pytest
import torch

from styleforge import features, images, rng
from styleforge.data import list_pictures
from styleforge.errors import ConfigError, DataError, TrainingDiverged
from styleforge.losses import gray, ssim
from styleforge.metrics.kid import DEFAULT_LAYERS, estimate, look, pool
from styleforge.quality import BATCH, CONTENT_LAYERS, Quality


def pictures(count, purpose, size=32):
    """Smooth ones: noise resembles nothing, itself a little brighter included."""
    small = torch.rand(count, 3, 6, 6, generator=rng.generator(purpose)) * 2 - 1
    return torch.nn.functional.interpolate(small, (size, size), mode="bilinear")


SOURCE, TARGET = pictures(11, "source"), pictures(9, "target") * 0.6


@pytest.fixture(scope="module")
def weights():
    return features.load("random-16x")


@pytest.fixture
def network(weights, monkeypatch):
    """Random weights see little, and the deeper the less: layers close to the picture."""
    monkeypatch.setitem(DEFAULT_LAYERS, features.VGG19, "relu2_1")
    monkeypatch.setitem(CONTENT_LAYERS, features.VGG19, "relu1_2")
    return weights


def unpaired(network=None, **options):
    domains = {"source": SOURCE, "target": TARGET}
    return Quality(**{"network": network, "network_name": "tiny", "pictures": domains, "paired": False, **options})


def paired(**options):
    return Quality(**{"pictures": {"source": SOURCE[:9], "target": TARGET}, "paired": True, **options})


def noise(network=None):
    return Quality(network=network, network_name="tiny", pictures={"target": TARGET}, paired=False)


def darker(sources, count, generator):
    return sources * 0.6


def same(sources, count, generator):
    return sources


# -- what is measured --


def test_pairs_without_a_network():
    quality, target = paired(), iter(TARGET.split(BATCH))
    assert quality.measure(5, lambda *_: next(target)) == {
        "structure": pytest.approx(ssim(gray(TARGET), gray(SOURCE[:9])).item(), rel=1e-5),
        "ssim": pytest.approx(1, rel=1e-6),
        "ssim_error": pytest.approx(0, abs=1e-6),
        "l1": pytest.approx(0, abs=1e-7),
    }
    measured = quality.measure(6, same)
    each = torch.stack([ssim(a[None], b[None]) for a, b in zip(SOURCE[:9], TARGET, strict=True)])
    assert measured["structure"] == pytest.approx(1, rel=1e-6)
    assert measured["ssim"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert measured["ssim_error"] == pytest.approx(each.std().item() / 3, rel=1e-5)
    assert measured["l1"] == pytest.approx((SOURCE[:9] - TARGET).abs().mean().item() / 2, rel=1e-5)
    assert measured == quality.unstyled and quality.decides == "ssim"
    assert quality.best == {"step": 5, "value": quality.history[0]["ssim"], "name": "ssim"} and not quality.improved
    assert "SSIM to the target tells which step is best" in quality.note and "--judge FILE" in quality.note


def test_unpaired_without_a_network_nothing_decides_and_the_note_says_what_to_do():
    quality = unpaired(patience=1)
    assert [set(quality.measure(step, darker)) for step in (1, 2, 3)] == [{"structure"}] * 3
    assert quality.best is None and not quality.improved and not quality.plateau
    assert "nothing tells which step is best or when to stop" in quality.note
    assert "give --judge FILE, for example" in quality.note


def test_with_a_network(network):
    quality = unpaired(network)
    measured = quality.measure(1, darker)
    assert measured.keys() == {"kid", "kid_error", "content", "structure"}
    assert all(type(value) is float for value in measured.values())
    seen = {
        name: look(network, x, ["relu2_1", "relu1_2"])
        for name, x in {"s": SOURCE, "t": TARGET, "m": SOURCE * 0.6}.items()
    }
    rows = {name: pool(x["relu2_1"]) for name, x in seen.items()}
    expected = estimate(rows["m"], rows["t"])
    assert (measured["kid"], measured["kid_error"]) == pytest.approx(expected, rel=1e-4)
    cosine = torch.cosine_similarity(seen["m"]["relu1_2"], seen["s"]["relu1_2"]).mean().item()
    assert measured["content"] == pytest.approx(1 - cosine, rel=1e-3)
    assert quality.unstyled["kid"] == pytest.approx(kid_of_sources := estimate(rows["s"], rows["t"])[0], rel=1e-4)
    assert (
        f"unstyled have {kid_of_sources:.3g} ±" in quality.note
        and "relu2_1 of tiny, 11 source and 9 target" in quality.note
    )
    assert quality.measure(2, same) == quality.unstyled and quality.unstyled["content"] == 0
    assert quality.best == {"step": 1, "value": measured["kid"], "name": "kid"}


def test_pairs_with_a_network_are_judged_by_it(network):
    quality = paired(network=network, network_name="tiny")
    measured = quality.measure(1, darker)
    assert measured.keys() == {"kid", "kid_error", "content", "structure", "ssim", "ssim_error", "l1"}
    assert quality.best["name"] == "kid"


@pytest.mark.parametrize("judged", [False, True])
def test_pictures_from_noise(network, judged):
    quality, asked = noise(network if judged else None), []

    def make(sources, count, generator):
        asked.append((sources, count))
        return torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1

    first, again = quality.measure(1, make), quality.measure(2, make)
    assert asked == [(None, 8), (None, 1)] * 2 and first == again
    assert first.keys() == ({"kid", "kid_error", "diversity"} if judged else {"diversity"})
    assert quality.decides == ("kid" if judged else None) and quality.unstyled == {}
    assert quality.measure(3, lambda s, n, g: TARGET[:1].expand(n, -1, -1, -1))["diversity"] == pytest.approx(
        0, abs=1e-6
    )
    copies = iter(TARGET.split(8))
    assert quality.measure(4, lambda s, n, g: next(copies))["diversity"] == pytest.approx(1, rel=1e-5)


def test_noise_is_another_for_each_batch_and_disturbs_no_other_draw():
    drawn = []

    def make(sources, count, generator):
        drawn.append(torch.rand(count, 1, 32, 32, generator=generator))
        assert not torch.is_grad_enabled()
        return drawn[-1]  # one channel: a gray picture

    torch.manual_seed(1)
    noise().measure(1, make)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after) and not torch.equal(drawn[0][:1], drawn[1])


@pytest.mark.parametrize("size", [1, 3, 64])
def test_batches_do_not_matter(network, monkeypatch, size):
    options = {"network": network, "network_name": "tiny"}
    expected = [quality.measure(1, darker) for quality in (unpaired(**options), paired(**options))]
    monkeypatch.setattr("styleforge.quality.BATCH", size)
    for quality, values in zip((unpaired(**options), paired(**options)), expected, strict=True):
        assert quality.measure(1, darker) == pytest.approx(values, rel=1e-4, abs=1e-7)


def test_real_pictures_are_looked_at_once(network):
    looks = []
    hook = network.register_forward_pre_hook(lambda module, args: looks.append(len(args[0])))
    try:
        quality = unpaired(network)
        assert sum(looks) == 20
        quality.measure(1, darker)
        assert sum(looks) == 31
    finally:
        hook.remove()


def test_pictures_of_8_bit_floats_and_lists():
    bits = {name: ((x + 1) * 127.5).round().to(torch.uint8) for name, x in (("source", SOURCE), ("target", TARGET))}
    floats = {name: x.float() / 127.5 - 1 for name, x in bits.items()}
    lists = {name: list(x) for name, x in bits.items()}
    results = [unpaired(pictures=domains).measure(1, darker) for domains in (bits, floats, lists)]
    assert results[0] == results[1] == results[2]


def test_pictures_count_as_they_are_published():
    clipped = paired().measure(1, lambda sources, *_: (sources * 3).clamp(-1, 1))
    assert paired().measure(1, lambda sources, *_: (sources * 3).double()) == pytest.approx(clipped, rel=1e-5)


# -- what cannot be measured --


@pytest.mark.parametrize("of", ["source", "target"])
def test_too_few_pictures_for_kid(network, of):
    domains = {"source": SOURCE, "target": TARGET} | {of: {"source": SOURCE, "target": TARGET}[of][:7]}
    quality = unpaired(network, pictures=domains)
    assert quality.measure(1, darker).keys() == {"content", "structure"} and quality.best is None
    assert f"7 {of}" in quality.note and "too few for KID, so nothing tells" in quality.note
    assert "hold out at least 8 of each" in quality.note
    pairs = paired(network=network, pictures={"source": SOURCE[:1], "target": TARGET[:1]})
    assert pairs.measure(1, darker)["ssim_error"] == 0 and pairs.best["name"] == "ssim"
    assert "too few for KID, so SSIM to the target tells" in pairs.note


@pytest.mark.parametrize(
    ("domains", "paired", "found"),
    [
        ({"source": SOURCE[:0], "target": TARGET}, False, "0 source, 9 target"),
        ({"target": []}, False, "0 target"),
        ({"source": SOURCE, "target": TARGET}, True, "11 source, 9 target; allowed: as many of both"),
    ],
)
def test_pictures_that_are_missing(domains, paired, found):
    with pytest.raises(DataError, match=f"{found}.*Hold out more"):
        Quality(pictures=domains, paired=paired)


@pytest.mark.parametrize("judged", [False, True])
def test_pictures_that_are_not_finite(network, judged):
    quality = unpaired(network if judged else None)
    with pytest.raises(TrainingDiverged, match="after step 70"):
        quality.measure(70, lambda sources, *_: sources / 0)
    assert quality.history == []


def test_a_network_that_ends_too_early():
    short = features.load("random-16x", last="relu4_1")
    with pytest.raises(ConfigError, match=r"before the layers that judge \(tiny\): found no relu5_1.*complete file"):
        unpaired(short)


# -- state --


def test_a_resumed_run_remembers_everything(network):
    def make(sources, count, generator):
        return sources * (0.5 + 0.5 * torch.rand(1, generator=generator))

    whole = unpaired(network, patience=2)
    first = unpaired(network, patience=2)
    for step in range(4):
        whole.measure(step, make if step else same)
    for step in range(2):
        first.measure(step, make if step else same)
    second = unpaired(network, patience=2)
    state = json.loads(json.dumps(first.state()))
    second.restore(state)
    assert second.state() == state
    first.measure(9, darker)
    state["history"].clear()  # neither the state nor the other run is shared
    assert len(second.history) == 2
    for step in range(2, 4):
        second.measure(step, make)
    assert second.state() == whole.state() and second.best == whole.best and second.plateau == whole.plateau
    assert second.status(1, 9) == whole.status(1, 9)


def test_another_judge_begins_anew(network):
    quality = unpaired(network)
    quality.measure(1, darker)
    for other in (unpaired(), unpaired(network, network_name="other"), paired(network=network, network_name="tiny")):
        other.restore(quality.state())
        assert other.history == [] and other.best is None


# -- deciding, and words --


@pytest.fixture
def judged(network):
    """KID by step; the sources have 0.5, and every error is 0.1, so a gain is more than 0.02."""

    def make(*values, patience=3, unstyled=0.5):
        quality = unpaired(network, patience=patience)
        quality.unstyled["kid"] = unstyled
        quality.history = [{"step": 100 * n, "kid": kid, "kid_error": 0.1} for n, kid in enumerate(values, 1)]
        return quality

    return make


@pytest.mark.parametrize(
    ("values", "plateau"),
    [
        ([], False),
        ([0.4, 0.4, 0.4], False),
        ([0.4, 0.4, 0.4, 0.4], True),
        ([0.4, 0.39, 0.45, 0.385], True),  # better, but not by a gain
        ([0.4, 0.39, 0.385, 0.379], False),  # many small steps are one
        ([0.4, 0.4, 0.4, 0.4, 0.3], False),
        ([0.4, 0.3, 0.4, 0.35, 0.3], True),
        ([0.01, 0.0, -0.005, 0.005], True),  # nothing is left to gain
        ([0.7, 0.7, 0.7, 0.7, 0.49, 0.6], False),  # further away than the sources: on its way
        ([0.7, 0.45, 0.7, 0.7, 0.7], True),
    ],
    ids=str,
)
def test_plateau(judged, values, plateau):
    assert judged(*values).plateau is plateau
    assert not judged(*values, patience=0).plateau


def test_plateau_of_similarities_to_the_target():
    quality = paired(patience=2)
    low = quality.unstyled["ssim"] - 0.2  # not even as near as the sources: pairs are learnt from there, too
    for step, value in enumerate((low, low + 0.01, low + 0.1, low + 0.101, low + 0.1)):
        assert not quality.plateau
        quality.history.append({"step": step, "ssim": value, "ssim_error": 0.1})
    assert quality.plateau and quality.best["step"] == 3


def test_the_best_is_the_first_of_equals(judged):
    quality = judged(0.4, 0.3, 0.3)
    assert quality.best == {"step": 200, "value": 0.3, "name": "kid"} and not quality.improved
    assert judged(0.4, 0.3, 0.2999).improved and judged(0.4).improved and not judged().improved


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "not measured yet"),
        ([0.4], "first measurement: KID 0.4"),
        ([0.055, 0.0411], "still improving (KID 0.0411, was 0.055)"),
        ([0.4, 0.3, 0.3333], "no better since step 200 (KID 0.3 there, 0.333 now)"),
        ([0.4, 0.4, 0.41, 0.39], "no gain in the last 3 measurements, best at step 400 (KID 0.39)"),
        (
            [0.7, 0.6],
            "still improving (KID 0.6, was 0.7); not yet closer to the target than the pictures unstyled (KID 0.5)",
        ),
    ],
    ids=str,
)
def test_status(judged, values, words):
    quality, steps = judged(*values), 1000
    left = steps - 100 * len(values)
    assert quality.status(2400 / left, steps) == f"{words}; about 40 min left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "about a minute left"),
        (89 * 60, "about 89 min left"),
        (2.26 * 3600, "about 2.3 h left"),
        (50 * 3600, "about 2 days left"),
    ],
)
def test_time_left(judged, seconds, words):
    assert judged(0.4).status(seconds / 50, 150) == f"first measurement: KID 0.4; {words}"


def test_status_at_the_end_and_without_a_judge(judged):
    assert judged(0.4).status(1, 100) == "first measurement: KID 0.4; all steps are done"
    quality = unpaired()
    quality.measure(10, same)
    assert quality.status(60, 20) == (
        "nothing tells which step is best or when to stop, structure kept: 1.00 of 1; about 10 min left"
    )
    quality = paired()
    quality.history = [{"step": 1, "ssim": 0.61234, "ssim_error": 0.1}, {"step": 2, "ssim": 0.7, "ssim_error": 0.1}]
    assert quality.status(60, 12).startswith("still improving (SSIM 0.7, was 0.612)")
    assert "not yet closer" not in quality.status(60, 12)


# -- on real pictures --


def test_real_weights_see_painting_and_content(shared):
    squeeze = features.load(shared / "weights" / "squeezenet1_0_caffe.safetensors")
    read = {}
    for domain, folder in {"photos": "trainA", "paintings": "trainB"}.items():
        files = list_pictures(shared / "data" / "mini128" / folder)[:20]
        read[domain] = torch.cat([images.square(images.read(file), 128) for file in files])
    photos, paintings = read["photos"][:10], read["paintings"][:10]
    quality = Quality(
        network=squeeze, network_name="squeezenet", pictures={"source": photos, "target": paintings}, paired=False
    )

    def measure(made):
        parts = iter(made.split(BATCH))
        return quality.measure(1, lambda *_: next(parts))

    painted, colored = measure(read["paintings"][10:]), measure(photos.flip(1))
    assert painted["kid"] < 0.5 * quality.unstyled["kid"]
    assert colored["content"] < 0.5 * painted["content"] and colored["kid"] > painted["kid"]
    assert quality.best["value"] == painted["kid"]
