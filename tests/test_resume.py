"""A run that is killed, or whose disk is full or damaged, loses nothing: scripts/kill_resume.py, and below it."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from styleforge import checkpoint, files, methods
from styleforge.errors import CheckpointError, ConfigError
from styleforge.methods.base import History
from styleforge.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import kill_resume
from kill_resume import SAVE, Kill, Proof, contents, differences, disk_calls, tiny_run

FACTS = {"method": "cyclegan", "seconds": 0.1 + 0.2, "memories": {"watch": {"usual": [1e-300, 3.14, None]}}}
FORGOTTEN = {
    "optimizer": mock.patch.object(checkpoint, "unpack", lambda *_: None),
    "history": mock.patch.object(History, "_load_from_state_dict", lambda *_: None),
    "log": mock.patch.object(checkpoint, "rewind", lambda *_: None),
    "leftovers": mock.patch.object(files, "_elsewhere", lambda _: True),
}


def run_of(method: str, folder: Path, **changes):
    return tiny_run(method, *kill_resume.draw_pictures(folder / "pictures", methods.find(method).data), **changes)


def prove(method: str, folder: Path, kills: int, in_save: int) -> Proof:
    return kill_resume.prove(run_of(method, folder), folder, kills, in_save)


def prove_forgetful(what: str, folder: Path) -> Proof:
    """Killed in the middle of its second save, and right after the third; `what` is not brought back."""
    plan = mock.patch.object(kill_resume, "kills_of", lambda board, *_: [Kill(SAVE, board.calls[SAVE]), Kill(SAVE, 12)])
    with plan, FORGOTTEN[what]:
        return kill_resume.prove(run_of("cyclegan", folder), folder, 2, 2)


@pytest.fixture(scope="module")
def apart():
    """Another process for work that forks: this one has threads by now, and a fork of it might wait for them."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), kill_resume.prepare) as pool:
        yield lambda work, *arguments: pool.submit(work, *arguments).result()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cyclegan", "fast_style"])
def test_a_run_that_is_killed_at_any_moment_ends_the_same_to_the_bit(apart, tmp_path, method):
    proof = apart(prove, method, tmp_path, 22, 8)
    assert {run: names for run, names in proof.different.items() if names} == {}
    phases = [death.phase for death in proof.deaths]
    assert len(phases) == 22 and phases.count("save") >= 8 and len(set(phases)) >= 3  # most moments are random
    assert {"open", "write", "fsync"} & {death.call.split()[-1] for death in proof.deaths if death.call}


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("optimizer", "state.safetensors: optimizer.generator.0.exp_avg differs"),
        ("history", "state.safetensors: method.source_history.images differs"),
        ("log", "metrics.jsonl: line 13 is too much"),
        ("leftovers", ".tmp"),
    ],
    ids=list(FORGOTTEN),
)
def test_the_proof_finds_what_is_not_brought_back(apart, tmp_path, what, found):
    proof = apart(prove_forgetful, what, tmp_path)
    assert any(found in name for names in proof.different.values() for name in names)


def test_what_is_compared(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for run, zero in ((a, 0.0), (b, -0.0)):
        checkpoint.save(run / "checkpoints", 1, {"x": torch.tensor([zero, 1.0])}, {"seconds": zero, "kept": 1})
        files.write_text(run / "metrics.jsonl", f'{{"step": 1, "images_per_second": {zero}}}\n')
        files.write_text(run / "style/README.md", f"| Time | {zero} h |\nSteps\n")
    tensor = "checkpoints/step-00000001/state.safetensors: x"
    manifest = "checkpoints/step-00000001/manifest.json"
    assert differences(contents(a), contents(b)) == [f"{manifest} differs", f"{tensor} differs"]  # its hash, and it
    files.write_text(b / "metrics.jsonl", '{"step": 1}\n{"st')
    files.write_text(b / ".x-1-00000000.tmp", "")
    (b / "style/README.md").unlink()
    found = differences(contents(a), contents(b))
    assert found[0] == "style/README.md is missing" and set(found[1:3]) == {
        ".x-1-00000000.tmp is too much",
        "metrics.jsonl: line 2 is too much",
    }


# -- checkpoints --


def save(root: Path, step: int, **options) -> dict[str, torch.Tensor]:
    tensors = {"a": torch.full((3, 5), float(step)), "b": torch.arange(step)}
    checkpoint.save(root, step, tensors, FACTS, **options)
    return tensors


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    assert checkpoint.newest(tmp_path / "none") is None
    for step in (3, 6, 9):
        wanted = save(tmp_path, step)
    tensors, manifest = checkpoint.newest(tmp_path)
    assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[key], wanted[key]) for key in wanted)
    assert manifest["step"] == 9 and {key: manifest[key] for key in FACTS} == FACTS
    assert names(tmp_path) == ["step-00000006", "step-00000009"]
    save(tmp_path, 12, keep=1)
    assert names(tmp_path) == ["step-00000012"]


def test_what_bears_the_name_of_a_checkpoint_is_whole_at_any_moment(tmp_path):
    calls = []

    def look(call):
        calls.append(call)
        for name in names(tmp_path):
            assert name.startswith(".") or names(tmp_path / name) == [checkpoint.MANIFEST, checkpoint.STATE]

    for step in (3, 6, 9):
        with disk_calls(look):
            save(tmp_path, step)
    assert names(tmp_path) == ["step-00000006", "step-00000009"]
    assert calls[-4:] == ["rename", "unlink", "unlink", "rmdir"]


def manifest_with(**changes):
    def change(folder):
        manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
        del manifest[checkpoint.SEAL]  # else that alone would tell
        (folder / checkpoint.MANIFEST).write_text(json.dumps({**manifest, **changes}))

    return change


def replaced(file, old, new):
    def change(folder):
        data = (folder / file).read_bytes()
        assert old in data
        (folder / file).write_bytes(data.replace(old, new))

    return change


def state_of(write):
    """A state that fits its hash and is none."""

    def change(folder):
        write(folder / checkpoint.STATE)
        manifest_with(sha256=files.sha256(folder / checkpoint.STATE))(folder)

    return change


def not_a_number(path):
    from safetensors.torch import save_file

    save_file({"a": torch.tensor([1.0, float("nan")])}, path)


DAMAGES = {
    "a bit of the state": (replaced(checkpoint.STATE, b"\0\0\xc0\x40", b"\0\0\xc0\x41"), "state.safetensors has been"),
    "a cut state": (lambda f: os.truncate(f / checkpoint.STATE, 100), "state.safetensors has been"),
    "no state": (lambda f: (f / checkpoint.STATE).unlink(), "No such file"),
    "no manifest": (lambda f: (f / checkpoint.MANIFEST).unlink(), "No such file"),
    "half a manifest": (lambda f: os.truncate(f / checkpoint.MANIFEST, 40), "Unterminated|Expecting"),
    "a digit of the manifest": (replaced(checkpoint.MANIFEST, b'"step": 6', b'"step": 7'), "manifest.json has been"),
    "a list": (lambda f: (f / checkpoint.MANIFEST).write_text("[6]"), "tells no step"),
    "no text": (lambda f: (f / checkpoint.MANIFEST).write_bytes(b"\xff\xfe"), "decode"),
    "a deep nest": (lambda f: (f / checkpoint.MANIFEST).write_text("[" * 10**5), "recursion"),
    "a step in words": (manifest_with(step="six"), "tells no step"),
    "no step": (manifest_with(step=None), "tells no step"),
    "another hash": (manifest_with(sha256="0" * 64), "state.safetensors has been"),
    "no hash": (manifest_with(sha256=None), "state.safetensors has been"),
    "not a number": (state_of(not_a_number), "NaN"),
    "no safetensors": (state_of(lambda path: path.write_bytes(b"none" * 50)), "header"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, damage):
    change, reason = DAMAGES[damage]
    before = save(tmp_path, 3)
    save(tmp_path, 6)
    change(tmp_path / "step-00000006")
    with pytest.warns(UserWarning, match=rf"(?s)Damaged.*step-00000006: .*{reason}.*going on from step-00000003"):
        tensors, manifest = checkpoint.newest(tmp_path)
    assert manifest["step"] == 3 and torch.equal(tensors["a"], before["a"])
    change_older = DAMAGES["no manifest"][0]
    change_older(tmp_path / "step-00000003")
    with pytest.raises(
        CheckpointError, match=rf"(?s)step-00000006: .*{reason}.*step-00000003: .*No such file.*--output"
    ):
        checkpoint.newest(tmp_path)


def test_damaged_checkpoints_go_when_a_new_one_is_there(tmp_path, recwarn):
    for step in (3, 6):
        save(tmp_path, step)
    DAMAGES["no manifest"][0](tmp_path / "step-00000006")
    save(tmp_path, 5)
    assert names(tmp_path) == ["step-00000003", "step-00000005"]
    assert checkpoint.newest(tmp_path)[1]["step"] == 5 and not recwarn


def test_checkpoints_of_another_method(tmp_path):
    style = train(run_of("cyclegan", tmp_path, output=str(tmp_path / "run"), steps=1), lambda progress: None)
    (style.parent / "train.json").unlink()
    other = run_of("cut", tmp_path / "other", output=str(tmp_path / "run"), steps=1)
    with pytest.raises(ConfigError, match=r"another method"):
        train(other, lambda progress: None)


# -- the log --


@pytest.mark.parametrize(
    ("step", "left"),
    [(9, ["a", "b", "c", "d"]), (3, ["a", "b", "c"]), (2, ["a", "b"]), (0, [])],
)
def test_a_log_is_rewound(tmp_path, step, left):
    log = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": n, "name": name}) for n, name in ((1, "a"), (2, "b"), (3, "c"), (4, "d"))]
    log.write_text("\n".join([lines[0], '{"step": 1, "na', *lines[1:], "7", '{"step": 5, "n']))
    checkpoint.rewind(log, step)
    assert [json.loads(line)["name"] for line in log.read_text().splitlines()] == left
    assert not left or log.read_text().endswith("\n")


def test_a_log_that_is_right_is_left_alone(tmp_path):
    log = tmp_path / "metrics.jsonl"
    checkpoint.rewind(log, 3)
    assert not log.exists()
    log.write_text('{"step": 3}\n')
    before = log.stat().st_ino
    checkpoint.rewind(log, 3)
    assert log.stat().st_ino == before


# -- a full disk --


def test_a_disk_that_is_full_at_any_call_of_a_save(tmp_path):
    calls = []
    with disk_calls(calls.append):
        save(tmp_path / "counted", 6)
    for number, name in enumerate(calls):
        if name in ("unlink", "rmdir"):  # make room
            continue
        root, left = tmp_path / str(number), iter(range(number, -1, -1))
        save(root, 3)

        def full(call, left=left):
            if next(left, None) == 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        try:
            with disk_calls(full):
                save(root, 6)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            done = names(root) == ["step-00000003", "step-00000006"]
            assert names(root) == ["step-00000003"] or (done and name == "fsync")  # of a folder, all else is done
            assert checkpoint.newest(root)[1]["step"] == (6 if done else 3)
        else:
            assert name == "mkdir"  # of a folder that is there
        save(root, 9)
        assert checkpoint.newest(root)[1]["step"] == 9 and len(names(root)) == 2


@pytest.fixture
def small_disk(tmp_path):
    """The root of a disk of 2 MB."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(root)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted here")
    yield root
    subprocess.run(["umount", str(root)], check=True)


def test_a_real_full_disk(small_disk):
    tensors = {"a": torch.ones(200_000)}
    checkpoint.save(small_disk, 1, tensors, FACTS)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(small_disk, 2, tensors, FACTS)
    assert names(small_disk) == ["ballast", "step-00000001"]
    assert checkpoint.newest(small_disk)[1]["step"] == 1
    ballast.unlink()
    checkpoint.save(small_disk, 2, tensors, FACTS)
    assert checkpoint.newest(small_disk)[1]["step"] == 2


def test_training_goes_on_while_the_disk_is_full(tmp_path, small_disk, capsys):
    """For real, from step 4 to step 8: checkpoint and sheet of step 6 cannot be written."""
    config = run_of("fast_style", tmp_path, sample_every=6, output=str(tmp_path / "run"))
    whole = train(config, lambda progress: None).parent
    ballast = small_disk / "ballast"

    def fill(progress):
        if progress.step == 4:
            with open(ballast, "wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
        elif progress.step == 8:
            ballast.unlink()

    run = train(replace(config, output=str(small_disk / "run")), fill).parent
    assert "step 6" in capsys.readouterr().err
    found = differences(contents(whole), contents(run))
    assert not [name for name in found if not name.startswith(("metrics", "samples/step-00000006", "style/README"))]
