"""Trackers look on: they keep what they are given, stay one run, and never stop a training."""

import json
import sys
import warnings

import pytest
from PIL import Image

from styleforge import tracking
from styleforge.errors import MissingExtra, UnknownName
from styleforge.tracking import Tracker, open_tracker

CONFIG = {"method": "cut", "settings": {"width": 8}}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "sheet.jpg"
    Image.new("RGB", (24, 16), "orange").save(path)
    return path


def test_none_keeps_nothing(tmp_path, picture):
    tracker = open_tracker("none", tmp_path / "run", CONFIG)
    tracker.log(1, {"kid": 0.1})
    tracker.image(1, "samples", picture)
    tracker.close()
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker(tmp_path):
    with pytest.raises(
        UnknownName, match=r"'tensorbord'; allowed: none, tensorboard, wandb.*Did you mean 'tensorboard'"
    ):
        open_tracker("tensorbord", tmp_path, CONFIG)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch, kind):
    for name in ("torch.utils.tensorboard", "tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"styleforge\[{kind}\].*--tracker none"):
        open_tracker(kind, tmp_path, CONFIG)


@pytest.mark.parametrize("method", ["log", "image", "close"])
def test_a_tracker_that_fails_says_so_once(picture, method):
    class Broken(Tracker):
        calls = 0

        def fail(self, *arguments):
            self.calls += 1
            raise ConnectionError("the network is gone")

        _log = _image = _close = fail

    tracker = Broken()
    arguments = {"log": (1, {"kid": 0.1}), "image": (1, "samples", picture), "close": ()}
    with pytest.warns(UserWarning, match=r"^broken keeps nothing.*ConnectionError: the network is gone.*goes on"):
        getattr(tracker, method)(*arguments[method])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in arguments:
            getattr(tracker, name)(*arguments[name])
    assert tracker.calls == 1


def test_a_service_that_cannot_be_reached(tmp_path, monkeypatch):
    def unreachable(run, config):
        raise TimeoutError("no answer")

    monkeypatch.setitem(tracking.KINDS, "wandb", unreachable)
    with pytest.warns(UserWarning, match="wandb keeps nothing.*no answer"):
        tracker = open_tracker("wandb", tmp_path, CONFIG)
    assert type(tracker) is Tracker


def test_a_run_keeps_its_identity(tmp_path):
    first = tracking._identity(tmp_path)
    assert tracking._identity(tmp_path) == first == json.loads((tmp_path / "tracker.json").read_text())["wandb"]
    assert tracking._identity(tmp_path / "other") != first
    for damaged in ("{", "[]", '{"wandb": 7}', "{}"):
        (tmp_path / "tracker.json").write_text(damaged)
        assert tracking._identity(tmp_path) == tracking._identity(tmp_path)


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, picture):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed, other = (open_tracker("tensorboard", tmp_path / "run", CONFIG) for _ in range(2))
    for step in (10, 20, 30):  # then it is killed, never closed; its last checkpoint was of 10
        killed.log(step, {"generator/fool": step + 0.5, "kid": float("nan")})
    for step in (20, 30, 40):
        other.log(step, {"generator/fool": step + 0.25})
    other.image(40, "samples", picture)
    other.close()
    seen = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    seen.Reload()
    values = [(event.step, event.value) for event in seen.Scalars("generator/fool")]
    assert values == [(10, 10.5), (20, 20.25), (30, 30.25), (40, 40.25)]
    (image,) = seen.Images("samples")
    assert (image.step, image.width, image.height) == (40, 24, 16)
    assert image.encoded_image_string == picture.read_bytes()
    assert b'"width": 8' in seen.Tensors("train.json/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.slow
def test_wandb_offline_goes_on_with_the_same_run(tmp_path, picture, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a tracker that gave up would say so
        for step in (10, 20):
            tracker = open_tracker("wandb", run, CONFIG)
            tracker.log(step, {f"generator/term_{step}": 0.5})
            tracker.image(step, "samples", picture)
            tracker.close()
            tracker.close()
    wandb.teardown()  # waits for the process that writes
    identity = json.loads((run / "tracker.json").read_text())["wandb"]
    for step in (10, 20):
        (path,) = run.glob(f"wandb/offline-run-*-{identity}/files/media/images/samples_{step}_*.jpg")
        assert path.read_bytes() == picture.read_bytes()
        recorded = (path.parents[3] / f"run-{identity}.wandb").read_bytes()
        assert f"generator/term_{step}".encode() in recorded and b"width" in recorded
