"""The loop: what it writes, that it goes on where it was, and that it stops in good order."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from styleforge import StylePipeline, checkpoint, data, methods, processes
from styleforge.errors import CheckpointError, ConfigError, DataError, MissingExtra, TrainingDiverged, UnknownName
from styleforge.methods.base import Batch, Method, Player
from styleforge.runs import TrainConfig, read_table
from styleforge.state import under
from styleforge.train import _is_look, _pieces, play, train
from styleforge.watch import Finding

ROOT = Path(__file__).parents[1]
SCORED = {
    "cyclegan",
    "cut",
    "fastcut",
    "ugatit",
    "multiscale",
    "animegan",
}  # with a map of scores of pictures by themselves
SMALL = {"width": 4, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for domain, count in (("source", 7), ("target", 5)):
        (root / domain).mkdir()
        for i in range(count):
            array = generator.integers(0, 255, (40, 50 + i, 3), np.uint8)
            Image.fromarray(array).save(root / domain / f"{i}.png")
    return str(root / "source"), str(root / "target")


@pytest.fixture
def config(folders, tmp_path):
    def make(**changes):
        values = {
            "method": "cyclegan",
            "source": folders[0],
            "target": folders[1],
            "output": str(tmp_path / "run"),
            "size": 32,
            "steps": 6,
            "save_every": 3,
            "sample_every": 3,
            "log_every": 2,
            "precision": "fp32",
            "settings": SMALL,
        }
        return TrainConfig(**{**values, **changes})

    return make


def quiet(progress):
    pass


def weights(style):
    return StylePipeline.from_pretrained(style).model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_run_leaves_a_style_a_log_samples_and_a_checkpoint(config, folders, method):
    settings, size = tiny.settings(method), tiny.SIZE_OF.get(method, 32)
    kind = methods.find(method).data
    source = folders[0] if "source" in data.KINDS[kind].folders else None
    target = {"paired": folders[0], "styles": f"{folders[1]}/0.png"}.get(kind, folders[1])
    changes = {"source": source, "target": target, "size": size, "batch_size": 2, "settings": settings}
    style = train(config(method=method, **changes), quiet)
    run, picture, pipe = style.parent, Image.new("RGB", (30, 20)), StylePipeline.from_pretrained(style)
    inputs = pipe.model.capabilities.inputs
    if inputs == ("noise",):
        assert pipe.generate(1)[0].size == (size, size)
    else:
        assert pipe(picture, style=Image.new("RGB", (40, 40)) if "style" in inputs else None).size == (30, 20)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(np.isfinite(v) for line in lines for v in line.values())
    assert any(name.endswith("/gradient_norm") for name in lines[0])
    sheets = {p.name for p in (run / "samples").iterdir()}
    assert {s for s in sheets if "scores" not in s} == {"latest.jpg", "step-00000003.jpg", "step-00000006.jpg"}
    assert ("scores-00000006.jpg" in sheets) == (method in SCORED)
    assert (run / "report.html").stat().st_size > 5000
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*")) == ["step-00000003", "step-00000006"]
    assert json.loads((run / "train.json").read_text())["settings"] == settings
    card = (style / "README.md").read_text()
    assert "6 of 2 pictures" in card
    assert ("pipe.generate(8" in card) == (inputs == ("noise",)) and ('style="painting' in card) == ("style" in inputs)
    assert not [p for p in run.rglob("*") if ".tmp" in p.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, r"cyclegan needs a folder.*--source"),
        ({"method": "dcgan"}, r"dcgan makes pictures from noise.*Leave out --source"),
        ({"settings": {"size": 64}, "method": "dcgan", "source": None}, r"size belongs to the run"),
        ({"method": "dcgan", "source": None, "size": 48, "settings": {}}, r"'size' cannot be used.*found 48"),
        (
            {"method": "fast_style", "settings": {"features": "random-16x", "styles": 2}},
            r"found 5; allowed: 2.*--styles 5",
        ),
        ({"method": "dcgan", "source": None, "size": 64, "settings": {}, "preview": "x"}, r"Leave out --preview"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_data_that_does_not_fit_the_method(config, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(config(**changes), quiet)
    assert not (tmp_path / "run").exists()


def test_size_and_batch_are_those_of_the_method_unless_given(config):
    assert (config(size=None).size, config(batch_size=None).batch_size) == (256, 1)
    noise = config(method="dcgan", source=None, size=None, batch_size=None)
    assert (noise.size, noise.batch_size) == (128, 32)


def test_cyclegan_publishes_the_way_back_too(config):
    style = train(config(), quiet)
    forth, back = weights(style), StylePipeline.from_pretrained(style, subfolder="reverse").model.state_dict()
    assert not same(forth, back)


@pytest.mark.parametrize("method", ["cyclegan", "cut", "pix2pix"])
def test_a_stopped_run_goes_on_to_the_same_weights(config, folders, tmp_path, method):
    """Randomness is a function of the step, so a stop is invisible afterwards (CPU, one process)."""
    settings = {
        "cyclegan": {**SMALL, "history": 2},
        "cut": {
            **SMALL,
            "nce_blocks": [0],
            "patches": 16,
            "flip_equivariance": True,
            "projected": 1.0,
            "features": "random-16x",
        },
        "pix2pix": {"width": 4, "downs": 5, "discriminator_width": 4, "discriminator_layers": 1, "dropout": True},
    }[method]
    target = folders[0] if method == "pix2pix" else folders[1]
    whole = train(config(method=method, target=target, settings=settings, output=str(tmp_path / "whole")), quiet)

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.step == 5:  # two steps after the checkpoint: they are made again
            raise Stop

    halves = config(method=method, target=target, settings=settings, output=str(tmp_path / "halves"))
    with pytest.raises(Stop):
        train(halves, stop)
    assert same(weights(whole), weights(train(halves, quiet)))


def test_a_finished_run_can_be_prolonged(config):
    train(config(decay=0.0), quiet)
    style = train(config(steps=8, decay=0.0), quiet)
    assert json.loads((style.parent / "checkpoints" / "step-00000008" / "manifest.json").read_text())["step"] == 8
    assert "8 of 1 pictures" in (style / "README.md").read_text()


def test_a_run_may_start_from_the_networks_of_another(config, tmp_path):
    settings = {**SMALL, "nce_blocks": [0], "patches": 16}
    train(config(method="fastcut", settings=settings, output=str(tmp_path / "first")), quiet)
    begun = config(
        method="cut", settings=settings, init=str(tmp_path / "first"), steps=0, output=str(tmp_path / "second")
    )
    state = under(checkpoint.newest(tmp_path / "first" / "checkpoints")[0], "method.generator.")
    assert same(weights(train(begun, quiet)), state)
    more = {**settings, "projected": 1.0, "features": "random-16x"}  # a second discriminator may join
    joined = replace(begun, settings=more, output=str(tmp_path / "third"))
    assert same(weights(train(joined, quiet)), state)
    spectral = {**settings, "spectrum": 1.0}  # and so may what remembers spectra, and leave
    train(config(method="cut", settings=spectral, output=str(tmp_path / "spectral")), quiet)
    for given, first in ((spectral, "first"), (settings, "spectral"), (spectral, "spectral")):
        begun = replace(
            begun, settings=given, init=str(tmp_path / first), output=str(tmp_path / f"{first}{len(given)}")
        )
        state = under(checkpoint.newest(tmp_path / first / "checkpoints")[0], "method.generator.")
        assert same(weights(train(begun, quiet)), state)
    with pytest.raises(ConfigError, match="other settings"):
        train(config(settings={**SMALL, "width": 8}, init=str(tmp_path / "first"), output=str(tmp_path / "x")), quiet)
    with pytest.raises(CheckpointError, match="no run to start from"):
        train(config(init=str(tmp_path / "nowhere"), output=str(tmp_path / "x")), quiet)
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_without_the_one_that_it_started_from(config, tmp_path):
    first = train(config(output=str(tmp_path / "first"), steps=1), quiet).parent
    begun = config(init=str(first), steps=1)
    train(begun, quiet)
    shutil.rmtree(first)
    assert "2 of 1 pictures" in (train(replace(begun, steps=2), quiet) / "README.md").read_text()


def test_a_finished_run_again_changes_nothing(config):
    style = train(config(), quiet)
    before = weights(style)
    (style / "README.md").write_text("my own words")
    assert same(before, weights(train(config(), quiet)))
    assert (style / "README.md").read_text() == "my own words"


def test_time_limit_stops_with_a_checkpoint(config):
    style = train(config(steps=10_000, max_seconds=0.01), quiet)
    steps = [p.name for p in (style.parent / "checkpoints").glob("step-*")]
    assert steps == ["step-00000001"]


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]
)
def test_signals_finish_the_step_and_save(config, number, error, code):
    def interrupt(progress):
        if progress.step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(error) as caught:
        train(config(steps=1000, save_every=1000), interrupt)
    if code:
        assert caught.value.code == code
    assert signal.getsignal(number) == before
    found = checkpoint.newest(Path(config().output) / "checkpoints")
    assert found is not None and 2 <= found[1]["step"] <= 3
    assert StylePipeline.from_pretrained(Path(config().output) / "style")  # what there is so far


def test_training_outside_the_main_thread(config):
    result = []
    thread = threading.Thread(target=lambda: result.append(train(config(), quiet)))
    thread.start()
    thread.join()
    assert result and result[0].is_dir()


def test_bf16_trains_too(config):
    style = train(config(precision="bf16"), quiet)
    assert weights(style)["stem.weight"].dtype == torch.float32


def test_turns_give_a_player_several_steps(config, monkeypatch):
    """n_critic: a player with three turns makes three steps, each on pictures of its own."""
    seen = []

    class Counting(Method):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

        def players(self):
            return [
                Player("a", (self.a,), lambda batch: self.note("a", batch, self.a), turns=3),
                Player("b", (self.b,), lambda batch: self.note("b", batch, self.b)),
            ]

        def note(self, name, batch, network):
            seen.append((name, float(batch["source"].sum())))
            return {"loss": network.weight.square().sum() + network.bias.sum() * 0}

        def styles(self):
            return {}

    monkeypatch.setattr(methods, "build", lambda name, settings: Counting())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sheet", "score_sheet"):
            patch.setattr(f"styleforge.samples.{name}", lambda *a: None)
        patch.setattr("styleforge.train._look", lambda *a: [])
        train(config(steps=2, ema=0.0), quiet)
    assert [name for name, _ in seen] == ["a", "b", "a", "a"] * 2
    assert len({pictures for name, pictures in seen if name == "a"}) == 6


@pytest.mark.parametrize("method", ["cyclegan", "pix2pix"])
def test_pieces_of_a_batch_make_the_same_step(config, folders, method):
    """In float64; discriminator first or generator first, the gradient is that of the whole batch."""
    settings = {
        **tiny.settings(method),
        "history": 0,
        "norm": "instance",
        "dropout": False,
        "identity": 0.5,
        "patches": 4096,
    }
    settings |= {"discriminator_norm": "instance"}
    known = methods.settings(method)
    pictures = {name: torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1 for name in ("source", "target")}
    found = []
    for count in (1, 2, 4):
        torch.manual_seed(0)
        built = methods.build(method, {k: v for k, v in settings.items() if k in known}).double().train()
        for step in range(2):
            pieces = _pieces(pictures, count, 0, step, 0)
            terms = {}
            for player in built.players():
                optimizer = torch.optim.SGD(player.parameters(), 1.0)
                terms |= play(player, optimizer, pieces, processes.join(), rate=1e-3 / player.lr)
        found.append((terms, {k: v for k, v in built.state_dict().items() if v.is_floating_point()}))
    for terms, state in found[1:]:
        assert terms == pytest.approx(found[0][0], rel=1e-6)
        for key, tensor in state.items():
            assert torch.allclose(tensor, found[0][1][key], rtol=1e-7, atol=1e-9), key


def test_gradients_are_clipped_by_norm_or_value(config):
    layer = torch.nn.Linear(4, 1, bias=False)
    player = Player("p", (layer,), lambda batch: {"loss": 100 * layer.weight.sum()}, lr=1.0)

    def moved(**clips):
        torch.nn.init.zeros_(layer.weight)
        terms = play(player, torch.optim.SGD(layer.parameters(), 1.0), [Batch({}, 0, 0, 0)], processes.join(), **clips)
        return layer.weight.norm().item(), layer.weight.abs().max().item(), terms["p/gradient_norm"]

    assert moved() == pytest.approx((200, 100, 200))
    assert moved(clip=3.0) == pytest.approx((3, 1.5, 200))
    assert moved(clip_value=2.0) == pytest.approx((4, 2, 200))


def test_averages_follow_slowly(config, tmp_path):
    averaged = weights(train(config(ema=0.9, output=str(tmp_path / "averaged")), quiet))
    last = weights(train(config(ema=0.0, output=str(tmp_path / "last")), quiet))
    assert not same(averaged, last)


# -- what goes wrong --


def faulty(monkeypatch, wrong, value=float("nan")):
    """CycleGAN whose generator has a loss of `value` times what it was, in the steps (from 0) that `wrong` says."""
    original = methods.find("cyclegan").generator_terms

    def broken(self, batch: Batch):
        terms = original(self, batch)
        return {**terms, "target": terms["target"] * value} if wrong(batch.turn) else terms

    monkeypatch.setattr(methods.find("cyclegan"), "generator_terms", broken)


def events(config, kind):
    lines = map(json.loads, (Path(config.output) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == kind]


def test_a_step_that_went_wrong_is_taken_back_and_left_out(config, monkeypatch):
    seen = []
    faulty(monkeypatch, lambda turn: seen.append(turn) or turn == 4)
    style = train(config(log_every=1), quiet)
    assert seen == [0, 1, 2, 3, 4, 3, 5]  # back to the checkpoint of step 3, and on without the batch of step 4
    assert all(tensor.isfinite().all() for tensor in weights(style).values())
    (event,) = events(config(), "rollback")
    assert event["step"] == 5 and "generator/target is not finite" in event["text"]
    assert "Back to step 3" in event["text"] and "in the gradient of ResnetGenerator." in event["text"]
    rates = [
        json.loads(line)["lr_factor"]
        for line in (style.parent / "metrics.jsonl").read_text().splitlines()
        if "lr" in line
    ]
    assert rates[-1] == pytest.approx(0.5 * 1 / 3, rel=1e-5)  # of the linear schedule's last step


def test_a_rollback_works_before_the_first_checkpoint(config, monkeypatch):
    seen = []
    faulty(monkeypatch, lambda turn: seen.append(turn) or turn in (0, 1))
    style = train(config(steps=3, save_every=10), quiet)
    assert seen == [0, 1, 2] and [e["step"] for e in events(config(), "rollback")] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in weights(style).values())


def test_an_exploding_step_is_taken_back(config, monkeypatch):
    faulty(monkeypatch, lambda turn: turn == 25, 1e8)
    train(config(steps=30, save_every=10, sample_every=0), quiet)
    (event,) = events(config(), "rollback")
    assert event["step"] == 26 and "Back to step 20" in event["text"]


def test_a_run_that_went_wrong_goes_on_after_a_kill_as_if_nothing_had_happened(config, monkeypatch, tmp_path):
    faulty(monkeypatch, lambda turn: turn == 4)
    straight = weights(train(config(steps=9, sample_every=0), quiet))

    def kill(progress):
        if progress.step == 8:
            raise RuntimeError("killed")

    broken = config(steps=9, sample_every=0, output=str(tmp_path / "killed"))
    with pytest.raises(RuntimeError):
        train(broken, kill)
    assert same(weights(train(broken, quiet)), straight)
    assert len(events(broken, "rollback")) == 1


def test_a_run_gives_up_in_the_end(config, monkeypatch):
    faulty(monkeypatch, lambda turn: turn >= 4)
    expected = r"more than 2 times \(step 7 of .*generator/target is not finite.*gradient of Resnet.*Step 6 is saved"
    with pytest.raises(TrainingDiverged, match=expected):
        train(config(rollbacks=2, steps=9), quiet)
    found = checkpoint.newest(Path(config().output) / "checkpoints")
    assert found[1]["step"] == 6 and len(events(config(), "rollback")) == 2


def test_what_diverges_at_once_leaves_a_checkpoint_of_the_beginning(config, monkeypatch):
    faulty(monkeypatch, lambda turn: True)
    with pytest.raises(TrainingDiverged, match=r"went wrong \(step 1 of .*Step 0 is saved"):
        train(config(rollbacks=0), quiet)
    assert checkpoint.newest(Path(config().output) / "checkpoints")[1]["step"] == 0


def test_a_finding_is_said_and_written_down(config, monkeypatch, capsys):
    monkeypatch.setattr("styleforge.train._is_look", lambda step, steps: step % 2 == 0)
    monkeypatch.setattr(
        "styleforge.train._look", lambda d, step, *rest: [Finding("x", "Try --identity 5.")] * (step == 4)
    )
    train(config(), quiet)
    assert [(e["step"], e["text"]) for e in events(config(), "finding")] == [(4, "Try --identity 5.")]
    assert "Step 4: Try --identity 5." in capsys.readouterr().err


def test_unknown_method_and_settings(config):
    with pytest.raises(UnknownName, match="Did you mean 'cyclegan'"):
        train(config(method="cyclgan"), quiet)
    with pytest.raises(ConfigError, match=r"'widht'.*Did you mean 'width'"):
        train(config(settings={"widht": 4}), quiet)
    with pytest.raises(ConfigError, match=r"'blocks'.*0 to 64"):
        train(config(settings={"blocks": 10**6}), quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "16 to 2048"),
        ({"zoom": [2.0, 1.0]}, "low <= high"),
        ({"zoom": [2.0]}, r"--zoom 1\.12,1\.12"),
        ({"precision": "fp8"}, "'bf16'"),
        ({"steps": -1}, "steps"),
    ],
)
def test_settings_of_the_run_are_checked(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_a_size_that_the_network_cannot_take(config, folders):
    settings = {"width": 4, "downs": 5, "discriminator_width": 4}
    with pytest.raises(ConfigError, match=r"size = 48.*multiples of 32.*--downs"):
        train(config(method="pix2pix", target=folders[0], size=48, settings=settings), quiet)
    with pytest.raises(ConfigError, match=r"size = 64; allowed: from 96 on"):
        train(config(method="ugatit", size=64, settings={"width": 4}), quiet)


def test_pictures_that_are_compared_are_not_computed_one_by_one(config, tmp_path):
    settings = {"width": 4, "features": "random-16x"}
    for changes in ({"batch_size": 1}, {"batch_size": 4, "accumulate": 4}):
        with pytest.raises(ConfigError, match=r"microast compares.*found 1; allowed: at least 2.*--contrast 0"):
            train(config(method="microast", settings=settings, **changes), quiet)
    assert not (tmp_path / "run").exists()
    train(config(method="microast", settings=settings, batch_size=4, accumulate=2, steps=1, log_every=1), quiet)
    assert "generator/contrast" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_previews_are_chosen_for_unpaired_methods_only(config, folders, tmp_path):
    style = train(config(preview=folders[1], steps=1, sample_every=1), quiet)
    with Image.open(style.parent / "samples" / "step-00000001.jpg") as sheet:
        assert sheet.size == (2 * 256, 5 * 256)  # source and styled, a row for each of the five pictures
    paired = {"method": "pix2pix", "target": folders[0], "output": str(tmp_path / "paired")}
    settings = {"width": 4, "downs": 5, "discriminator_width": 4, "discriminator_layers": 1}
    with pytest.raises(ConfigError, match="Leave out --preview"):
        train(config(**paired, settings=settings, preview=folders[1]), quiet)
    assert not (tmp_path / "paired").exists()


def test_a_run_among_its_pictures_goes_on_with_the_same_ones(config, folders, tmp_path):
    pictures = shutil.copytree(folders[0], tmp_path / "pictures")
    run = config(source=str(pictures), output=str(pictures / "run"), steps=2, sample_every=1)
    for steps in (2, 3):
        style = train(replace(run, steps=steps), quiet)
        newest = checkpoint.newest(style.parent / "checkpoints")[1]
        assert newest["pictures"] == "7 source, 5 target"


def test_an_output_that_is_a_file_is_told_before_all_else(config, monkeypatch):
    monkeypatch.setattr(methods, "build", None)
    with pytest.raises(ConfigError, match=r"test_train\.py is no folder"):
        train(config(output=f"{__file__}/run"), quiet)


def test_missing_folders_leave_nothing_behind(config, tmp_path):
    with pytest.raises(DataError, match="No such folder"):
        train(config(source=str(tmp_path / "nowhere")), quiet)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_missing_is_told_before_the_run_is_written(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match="wandb"):
        train(config(tracker="wandb"), quiet)
    assert not list((tmp_path / "run").iterdir())


def test_another_run_in_the_same_folder_is_refused(config):
    train(config(steps=2), quiet)
    with pytest.raises(ConfigError, match=r"width = 8; allowed: 4.*another --output"):
        train(config(steps=2, settings={**SMALL, "width": 8}), quiet)
    with pytest.raises(ConfigError, match=r"seed = 1; allowed: 0"):
        train(config(steps=2, seed=1), quiet)
    with pytest.raises(ConfigError, match=r"held_out = 0\.3; allowed: 0\.0"):
        train(config(steps=3, held_out=0.3), quiet)  # of pictures that it has learnt from
    train(config(steps=3, settings={**SMALL, "cycle": 10.0}), quiet)  # a default, said aloud


@pytest.mark.parametrize("text", ["{", "7", "[1]"])
def test_a_damaged_train_json_is_named(config, tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.json").write_text(text)
    with pytest.raises(ConfigError, match=r"train\.json is damaged"):
        train(config(), quiet)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(config):
    style = train(config(), quiet)
    newest = style.parent / "checkpoints" / "step-00000006" / checkpoint.STATE
    data = bytearray(newest.read_bytes())
    data[-100] ^= 1
    newest.write_bytes(data)
    assert checkpoint.newest(style.parent / "checkpoints")[1]["step"] == 3
    before = weights(style)
    assert same(before, weights(train(config(), quiet)))  # steps 4 to 6 are made again
    assert checkpoint.newest(style.parent / "checkpoints")[1]["step"] == 6


def test_a_run_that_was_killed_while_it_removed_old_checkpoints_removes_them_when_it_goes_on(config):
    style = train(config(), quiet)
    checkpoints = style.parent / "checkpoints"
    shutil.copytree(checkpoints / "step-00000003", checkpoints / "step-00000001")
    train(config(), quiet)  # at its end, so that it saves none
    assert sorted(path.name for path in checkpoints.glob("step-*")) == ["step-00000003", "step-00000006"]


def test_no_usable_checkpoint_says_why(config):
    style = train(config(), quiet)
    for folder in (style.parent / "checkpoints").glob("step-*"):
        (folder / checkpoint.MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match=r"step-00000006.*step-00000003.*--output"):
        train(config(), quiet)


def test_a_full_disk_at_a_save_keeps_the_checkpoint_before_and_the_run_going(config, monkeypatch, capsys):
    original, root = checkpoint.save, Path(config().output) / "checkpoints"

    def full(folder, step, *rest):
        if step == 6:
            monkeypatch.setattr(
                "styleforge.weights.replacing", lambda path: (_ for _ in ()).throw(OSError(28, "No space"))
            )
        try:
            return original(folder, step, *rest)
        finally:
            monkeypatch.undo()
            if step < 6:
                monkeypatch.setattr("styleforge.checkpoint.save", full)
            else:
                assert [p.name for p in root.glob("step-*")] == ["step-00000003"]

    monkeypatch.setattr("styleforge.checkpoint.save", full)
    straight = weights(train(config(steps=9), quiet))
    assert "No checkpoint of step 6 ([Errno 28] No space" in capsys.readouterr().err
    assert sorted(p.name for p in root.glob("step-*")) == ["step-00000003", "step-00000009"]
    assert same(straight, weights(train(config(steps=9, output=f"{config().output}-again"), quiet)))


def test_a_run_whose_end_cannot_be_saved_says_so(config, monkeypatch):
    train(config(steps=3), quiet)
    monkeypatch.setattr("styleforge.checkpoint.save", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(CheckpointError, match=r"could not be saved.*No space left.*Make room"):
        train(config(), quiet)


def test_without_accelerate_it_says_how_to_get_it(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtra, match="pip install accelerate"):
        train(config(), quiet)


def test_two_runs_in_one_folder_are_refused_until_one_is_gone(config, folders, tmp_path):
    run = config(steps=2)
    code = (
        "import sys, json, time\n"
        "from styleforge.train import TrainConfig, train\n"
        "train(TrainConfig(**json.loads(sys.argv[1])), lambda p: print(p.step, flush=True) or time.sleep(300))\n"
    )
    words = [sys.executable, "-c", code, json.dumps(asdict(run))]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(ConfigError, match=rf"Another process.*process {other.pid}\..*another --output"):
            train(run, quiet)
        other.kill()
    marks = list((tmp_path / "run").glob(".running*"))
    assert len(marks) == 1  # nobody was there to remove it
    marks[0].with_name(f".running-{os.getpid()}-7").touch()  # of a container, where numbers come again
    train(run, quiet)
    assert not list((tmp_path / "run").glob(".running*"))


def test_two_processes_that_do_not_know_of_each_other_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        train(config(), quiet)


def test_a_launch_of_several_processes_that_started_one_is_refused(config, tmp_path):
    """What `accelerate launch` does on CPUs, without a word."""
    script = tmp_path / "run.py"
    script.write_text("from styleforge import processes; processes.join(); print('alone')")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--mixed_precision",
        "no",
        "--num_machines",
        "1",
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR")}
    environment |= {"PYTHONPATH": str(ROOT)}
    for count, message in (("2", "asked for several processes and started one"), ("1", "alone")):
        words = [*launch, "--num_processes", count, str(script)]
        result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        assert message in result.stdout + result.stderr


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joint_batch(config, tmp_path, folders):
    """Gradients are averaged in one flat reduction; only rounding may differ."""
    code = (
        "import sys, json, torch; torch.set_num_threads(1)\n"
        "from styleforge.train import TrainConfig, train\n"
        "train(TrainConfig(**json.loads(sys.argv[1])), lambda p: None)\n"
    )
    values = {
        "method": "cyclegan", "source": folders[0], "target": folders[1], "size": 32, "steps": 4,
        "precision": "fp32", "settings": {**SMALL, "history": 0}, "sample_every": 0,
    }  # fmt: skip
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    two = json.dumps({**values, "batch_size": 1, "output": str(tmp_path / "two")})
    one = json.dumps({**values, "batch_size": 2, "output": str(tmp_path / "one")})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    subprocess.run([*launcher, str(script), two], check=True, env=environment, capture_output=True, timeout=120)
    subprocess.run([sys.executable, str(script), one], check=True, env=environment, capture_output=True, timeout=120)
    a, b = weights(tmp_path / "two" / "style"), weights(tmp_path / "one" / "style")
    for key in a:
        assert torch.allclose(a[key], b[key], atol=2e-5), key


def test_a_run_does_not_slow_down_or_hang_on_exit(config):
    """The thread that prepares batches ends with the loop, also after an error."""
    before = threading.active_count()
    with pytest.raises(RuntimeError), warnings.catch_warnings():
        train(config(), lambda progress: (_ for _ in ()).throw(RuntimeError("stop")))
    for _ in range(50):
        if threading.active_count() <= before:
            break
        time.sleep(0.1)
    assert threading.active_count() <= before


# -- what is measured --


def test_quality_is_measured_on_pictures_that_are_held_out(config, folders, tmp_path):
    """Pairs are compared by SSIM; the best step is kept, its figures are in the log, and words say how it goes."""
    settings = tiny.settings("pix2pix")
    changes = {"method": "pix2pix", "target": folders[0], "settings": settings, "held_out": 0.3, "judge_every": 2}
    style = train(config(**changes), quiet)
    lines = [json.loads(line) for line in (style.parent / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "ssim" in line]
    assert [line["step"] for line in measured] == [2, 4, 6] and all("l1" in line for line in measured)
    assert [e["step"] for e in events(config(**changes), "status")] == [2, 4, 6]
    best = max(measured, key=lambda line: line["ssim"])["step"]
    assert f"{best} of 1 pictures" in (style.parent / "best" / "README.md").read_text()
    assert StylePipeline.from_pretrained(style.parent / "best")(Image.new("RGB", (20, 30))).size == (20, 30)
    tests = {**changes, "held_out": 0.0, "test_source": folders[0], "test_target": folders[0]}
    other = train(config(**tests, output=str(tmp_path / "tests")), quiet)
    assert (other.parent / "best").is_dir()


def test_a_run_stops_when_nothing_is_gained(config, folders, monkeypatch):
    monkeypatch.setattr("styleforge.quality.Quality.plateau", property(lambda self: len(self.history) >= 2))
    settings = tiny.settings("pix2pix")
    changes = {"method": "pix2pix", "target": folders[0], "settings": settings, "held_out": 0.3}
    run = config(**changes, judge_every=2, patience=2, steps=20, schedule="plateau")
    style = train(run, quiet)
    assert checkpoint.newest(style.parent / "checkpoints")[1]["step"] == 4
    assert "nothing better in 2 measurements" in events(run, "status")[-1]["text"]
    train(run, lambda progress: pytest.fail("went on"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 3}, r"could stop improving.*--held-out"),
        ({"schedule": "plateau"}, r"could stop improving.*--held-out"),
        ({"test_source": "x"}, r"pictures of both sides.*--test-target"),
        ({"accumulate": 2}, r"equal pieces.*found 2.*divisor of 1"),
        ({"source": "x", "output": "y/../x"}, r"folder of its own.*\(source\).*found x.*--output"),
        ({"preview": "x", "output": "x"}, r"folder of its own.*\(preview\)"),
    ],
)
def test_settings_that_do_not_go_together(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


# -- configuration files --


def test_a_run_is_repeated_from_its_train_json(config, tmp_path):
    first = train(config(steps=2, color_jitter=0.2), quiet)
    again = TrainConfig.read(first.parent / "train.json", output=str(tmp_path / "again"))
    assert again == config(steps=2, color_jitter=0.2, output=str(tmp_path / "again"))
    assert same(weights(first), weights(train(again, quiet)))


@pytest.mark.parametrize("number", ["1e-05", "1E5", "2.e-3", "-1.5e+3", ".5e2"])
def test_small_and_large_numbers_are_read_as_they_are_written(tmp_path, number):
    (tmp_path / "it.yaml").write_text(f"settings: {{lr: {number}}}\ninit: 1e-5 of another")
    table = read_table(tmp_path / "it.yaml")
    assert table == {"settings": {"lr": float(number)}, "init": "1e-5 of another"}


def test_a_train_json_is_read_as_json(config, tmp_path):
    run = config(steps=0, license="\N{ARTIST PALETTE}", settings={**SMALL, "lr": 1e-5})
    train(run, quiet)
    assert TrainConfig.read(tmp_path / "run" / "train.json") == run


def test_configuration_files_may_be_yaml_and_are_checked(config, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("method: cut\nsource: a\ntarget: b\noutput: c\nzoom: [1.0, 2.0]\nsettings: {width: 8}\n")
    found = TrainConfig.read(path, steps=7)
    assert (found.method, found.zoom, found.settings, found.steps) == ("cut", [1.0, 2.0], {"width": 8}, 7)
    path.write_text("method: cut\nsteps_: 3\n")
    with pytest.raises(ConfigError, match=r"'steps_' \(.*run.yaml\).*Did you mean 'steps'"):
        TrainConfig.read(path)
    for text, message in (("[1]", "No configuration"), ("a: [", "cannot be read"), ("a: \x00", "cannot be read")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            TrainConfig.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        TrainConfig.read(tmp_path / "nowhere.json")


def test_looks_are_frequent_at_first():
    for steps in (200, 10_000, 100_000):
        looks = [step for step in range(1, steps + 1) if _is_look(step, steps)]
        early = [step for step in looks if step <= max(100, steps // 50)]
        assert len(early) >= 8 and len(looks) < steps / 100 + 20
