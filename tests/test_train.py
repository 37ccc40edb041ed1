"""The loop: what it writes, that it goes on where it was, and that it stops in good order."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from styleforge import StylePipeline, checkpoint, methods
from styleforge.errors import CheckpointError, ConfigError, DataError, MissingExtra, TrainingDiverged, UnknownName
from styleforge.methods.base import Batch, Method, Player
from styleforge.train import TrainConfig, _under, learning_rate, train

ROOT = Path(__file__).parents[1]
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
    source = None if kind == "images" else folders[0]
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
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        "latest.jpg",
        "step-00000003.jpg",
        "step-00000006.jpg",
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
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
        "cut": {**SMALL, "nce_blocks": [0], "patches": 16, "flip_equivariance": True},
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
    state = _under(checkpoint.newest(tmp_path / "first" / "checkpoints")[0], "method.generator.")
    assert same(weights(train(begun, quiet)), state)
    with pytest.raises(ConfigError, match="other settings"):
        train(config(settings={**SMALL, "width": 8}, init=str(tmp_path / "first"), output=str(tmp_path / "x")), quiet)
    with pytest.raises(CheckpointError, match="no run to start from"):
        train(config(init=str(tmp_path / "nowhere"), output=str(tmp_path / "x")), quiet)
    assert not (tmp_path / "x").exists()


def test_a_finished_run_again_changes_nothing(config):
    style = train(config(), quiet)
    before = weights(style)
    (style / "README.md").write_text("my own words")
    assert same(before, weights(train(config(), quiet)))
    assert (style / "README.md").read_text() == "my own words"


def test_time_limit_stops_with_a_checkpoint(config):
    style = train(config(steps=10_000, max_seconds=0.01), quiet)
    steps = [p.name for p in (style.parent / "checkpoints").iterdir()]
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
        patch.setattr("styleforge.train._sheet", lambda *a: None)
        train(config(steps=2, ema=0.0), quiet)
    assert [name for name, _ in seen] == ["a", "b", "a", "a"] * 2
    assert len({pictures for name, pictures in seen if name == "a"}) == 6


def test_learning_rate_falls_linearly_at_the_end():
    assert [learning_rate(s, 10, 0.4) for s in range(10)] == pytest.approx([1] * 6 + [1, 0.75, 0.5, 0.25])
    assert learning_rate(9, 10, 0.0) == 1
    assert learning_rate(0, 10, 1.0) == 1


def test_averages_follow_slowly(config, tmp_path):
    averaged = weights(train(config(ema=0.9, output=str(tmp_path / "averaged")), quiet))
    last = weights(train(config(ema=0.0, output=str(tmp_path / "last")), quiet))
    assert not same(averaged, last)


# -- what goes wrong --


def test_losses_that_are_not_finite_stop_the_run(config, monkeypatch):
    original = methods.find("cyclegan").generator_terms

    def broken(self, batch: Batch):
        terms = original(self, batch)
        return {**terms, "target": terms["target"] * float("nan")} if batch.key[1] == 4 else terms

    monkeypatch.setattr(methods.find("cyclegan"), "generator_terms", broken)
    with pytest.raises(TrainingDiverged, match=r"step 5.*generator/target = nan.*checkpoint"):
        train(config(), quiet)
    found = checkpoint.newest(Path(config().output) / "checkpoints")
    assert found[1]["step"] == 3


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


def test_previews_are_chosen_for_unpaired_methods_only(config, folders, tmp_path):
    style = train(config(preview=folders[1], steps=1, sample_every=1), quiet)
    with Image.open(style.parent / "samples" / "step-00000001.jpg") as sheet:
        assert sheet.size == (2 * 256, 5 * 256)  # source and styled, a row for each of the five pictures
    paired = {"method": "pix2pix", "target": folders[0], "output": str(tmp_path / "paired")}
    settings = {"width": 4, "downs": 5, "discriminator_width": 4, "discriminator_layers": 1}
    with pytest.raises(ConfigError, match="Leave out --preview"):
        train(config(**paired, settings=settings, preview=folders[1]), quiet)
    assert not (tmp_path / "paired").exists()


def test_missing_folders_leave_nothing_behind(config, tmp_path):
    with pytest.raises(DataError, match="No such folder"):
        train(config(source=str(tmp_path / "nowhere")), quiet)
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_same_folder_is_refused(config):
    train(config(steps=2), quiet)
    with pytest.raises(ConfigError, match=r"width = 8; allowed: 4.*another --output"):
        train(config(steps=2, settings={**SMALL, "width": 8}), quiet)
    with pytest.raises(ConfigError, match=r"seed = 1; allowed: 0"):
        train(config(steps=2, seed=1), quiet)
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


def test_no_usable_checkpoint_says_why(config):
    style = train(config(), quiet)
    for folder in (style.parent / "checkpoints").iterdir():
        (folder / checkpoint.MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match=r"step-00000006.*step-00000003.*--output"):
        train(config(), quiet)


def test_a_full_disk_at_a_save_keeps_the_checkpoint_before(config, monkeypatch):
    train(config(steps=3), quiet)
    root = Path(config().output) / "checkpoints"
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("styleforge.weights.replacing", full)
        with pytest.raises(OSError, match="No space"):
            train(config(), quiet)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_without_accelerate_it_says_how_to_get_it(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtra, match="pip install accelerate"):
        train(config(), quiet)


def test_two_processes_that_do_not_know_of_each_other_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        train(config(), quiet)


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
