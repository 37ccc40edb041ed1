"""Strangers' checkpoints: what is read exactly, and that nothing they do reaches this process."""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import PosixPath

import golden
import hostile
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from styleforge.convert import child, reading
from styleforge.convert.reading import read_checkpoint
from styleforge.convert.unwrap import unwrap
from styleforge.errors import (
    CorruptFileError,
    NonFiniteWeights,
    RepoNotFound,
    StyleforgeError,
    UnsafeFileError,
    WeightsError,
)

TRAPS = golden.GOLDEN / "importer_traps"


@pytest.fixture
def here(monkeypatch):
    """The child's work in this process: without its limits and the second in which it imports torch."""

    def run(path, folder, memory, seconds):
        text = json.dumps(child.outcome(path.absolute(), folder, memory), default=str)
        (folder / child.RESULT).write_text(text)

    monkeypatch.setattr(child, "limit_memory", lambda budget: None)
    monkeypatch.setattr(reading, "_run", run)


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "rooms"))
    (tmp_path / "rooms").mkdir()
    return tmp_path / "rooms"


def saved(path, tree, **options):
    torch.save(tree, path, **options)
    return path


def same(ours, theirs):
    """Whether two trees are the same, with tuples as lists, parameters as tensors and any dictionary as a plain one."""
    if isinstance(theirs, torch.Tensor):
        return type(ours) is torch.Tensor and ours.dtype == theirs.dtype and torch.equal(ours, theirs.detach())
    if isinstance(theirs, dict):
        return type(ours) is dict and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list | tuple):
        return type(ours) is list and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


def network():
    return OrderedDict({"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.5, -2])})


# -- what is read --

TREE = {
    "net": network(),
    "half": torch.tensor([0.1], dtype=torch.float16),
    "brain": torch.tensor([0.1], dtype=torch.bfloat16),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "long": torch.tensor(7),
    "int": torch.tensor([7], dtype=torch.int32),
    "byte": torch.tensor([255], dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "parameter": nn.Parameter(torch.ones(2)),
    "plain": [None, True, -1, 2**40, 0.1, "ä\n", (1, [2, ()], {})],
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"params": [0], "betas": (0.5, 0.999)}]},
    None: torch.Size([1, 2]),
}


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_everything_that_checkpoints_hold_is_read_by_the_other_process(container, tmp_path, rooms):
    path = saved(tmp_path / "12:30 misnamed.tar", TREE, _use_new_zipfile_serialization=container == "zip")
    found = read_checkpoint(path)
    assert same(found.tree, TREE)
    assert (found.file, found.container) == ("12:30 misnamed.tar", container)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    kinds = ["1 tensors are of type float16", "1 tensors are of type bfloat16", "1 tensors are of type float64"]
    assert list(found.notes) == kinds
    assert not list(rooms.iterdir())


def test_safetensors_need_no_other_process(tmp_path, monkeypatch):
    monkeypatch.delattr(subprocess, "run")
    tensors = dict(network()) | {"x": torch.ones(2, dtype=torch.float64)}
    safetensors.torch.save_file(tensors, tmp_path / "a.bin")
    found = read_checkpoint(str(tmp_path / "a.bin"))
    assert found.container == "safetensors" and found.notes == ("1 tensors are of type float64",)
    assert found.tree.keys() == tensors.keys() and all(torch.equal(found.tree[k], tensors[k]) for k in tensors)


def test_what_lies_oddly_in_memory_comes_out_in_order(tmp_path, here):
    base = torch.arange(24.0)
    square = torch.arange(9.0).reshape(3, 3)
    tree = {
        "part": base[4:8],
        "other": base[:12].reshape(3, 4),
        "same": base[4:8],
        "transposed": base.reshape(4, 6).t(),
        "last": torch.arange(16.0).reshape(1, 4, 2, 2).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(8),
        "tied": square,
        "tied.t": square.t(),
        "tied.flat": square.view(-1),
    }
    found = read_checkpoint(saved(tmp_path / "odd.pt", tree))
    assert same(found.tree, tree)
    assert all(t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes for t in found.tree.values())
    parts = found.tree
    assert parts["part"].data_ptr() == parts["same"].data_ptr() != parts["other"].data_ptr()
    assert found.notes == ("6 tensors were parts of a common storage; each has its own now",)


def test_settings_beside_the_weights_are_read_without_their_classes(tmp_path, here):
    tree = {"args": Namespace(size=32, where=PosixPath("/a")), "best": np.float64(0.5), "raw": b"ab", "net": network()}
    found = read_checkpoint(saved(tmp_path / "args.pt", tree))
    assert same(found.tree, {"args": {"size": 32, "where": None}, "best": None, "raw": None, "net": network()})
    assert {note.split(" was ")[0] for note in found.notes if "only read" in note} == {
        "argparse.Namespace",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
    }
    assert "left out: bytes" in found.notes


def test_attribute_dictionaries_of_lightning_are_dictionaries(tmp_path, here):
    pickled = b"\x80\x02clightning.fabric.utilities.data\nAttributeDict\n)\x81U\x03ngfK\x02s."
    assert read_checkpoint(hostile.archive(tmp_path / "a.ckpt", pickled)).tree == {"ngf": 2}


def test_python_2_wrote_dictionaries_as_lists_of_pairs(tmp_path, here):
    pickled = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R."
    found = read_checkpoint(hostile.archive(tmp_path / "two.pth", pickled))
    assert found.tree == {"a": 1, "b": 2}


def test_tensors_of_torch_before_0_4_are_read(tmp_path, here):
    call = hostile.Call(hostile.Name("torch._utils", "_rebuild_tensor"), hostile.Storage(), 0, (2, 3), (3, 1))
    found = read_checkpoint(hostile.archive(tmp_path / "old.pth", {"a": call}, network()["0.weight"].numpy().tobytes()))
    assert same(found.tree, {"a": network()["0.weight"]})


def test_links_to_files_are_files(tmp_path, here):
    saved(tmp_path / "blob", network())
    (tmp_path / "link.pth").symlink_to(tmp_path / "blob")
    assert same(read_checkpoint(tmp_path / "link.pth").tree, network())


# -- what is refused --


@pytest.mark.parametrize("name", hostile.FILES)
def test_hostile_files_are_refused_before_torch_sees_them(name, tmp_path, here, monkeypatch):
    monkeypatch.delattr(child, "load")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pth"
    hostile.FILES[name](path)
    with pytest.raises(CorruptFileError if name in hostile.CORRUPT else UnsafeFileError) as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 600 and "weights_only" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


WATCHED = """
import json, runpy, sys
from pathlib import Path
child, folder = runpy.run_path(sys.argv[1]), Path(sys.argv[2])
seen, reading = [], [False]
def hook(event, arguments):
    if reading[0] and (event, *arguments[:2]) not in dull:
        seen.append([event, *arguments[:2]])
files = sorted(folder.iterdir())
dull = {("open", str(file), "r") for file in files}
child["outcome"](files[0], folder, 0)  # whatever Python imports at the first use
sys.addaudithook(hook)
reading[0] = True
refused = sum("refused" in child["outcome"](file, folder, 2**28) for file in files)
reading[0] = False
print(json.dumps([refused, seen, "torch" in sys.modules]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_hostile_file_makes_python_do_anything_but_read_it(tmp_path):
    for number, make in enumerate(hostile.FILES.values()):
        make(tmp_path / f"{number}.pth")
    command = [sys.executable, "-c", WATCHED, child.__file__, tmp_path]
    verdict, peak = subprocess.check_output(command, text=True, cwd=tmp_path).splitlines()
    copying = ["open", str(tmp_path / child.CLEAN), "w+"]  # of the one with a flipped bit, which only that brings out
    assert json.loads(verdict) == [len(hostile.FILES), [copying], False]
    assert int(peak) < 100 * 1024
    assert not list(tmp_path.glob("PWNED*"))


@pytest.mark.parametrize("tree", [hostile.doubled(40), hostile.circle(), hostile.nested(10_000)], ids=str.__name__)
def test_trees_without_end_are_refused(tree, tmp_path, here):
    with pytest.raises(UnsafeFileError, match="deeper"):
        read_checkpoint(hostile.archive(tmp_path / "bomb.pth", tree))


def test_text_that_repeats_without_end_is_refused(tmp_path, here):
    with pytest.raises(UnsafeFileError, match="too much text"):
        read_checkpoint(saved(tmp_path / "bomb.pth", ["x" * 10**6] * 100))


def test_pickles_without_end_are_refused(tmp_path, here, monkeypatch):
    monkeypatch.setattr(child, "MAX_OPCODES", 1000)
    pairs = hostile.pickled([["a", 1]] * 100)[2:-1]
    again = b"ccollections\nOrderedDict\nh\xff\x85R"  # the same list of pairs, over and over
    for tree in (list(range(1000)), b"\x80\x02" + pairs + b"q\xff](" + again * 50 + b"e."):
        with pytest.raises(UnsafeFileError, match="larger than that of any network.*1000 opcodes"):
            read_checkpoint(hostile.archive(tmp_path / "bomb.pth", tree))


def test_too_many_tensors_are_refused(tmp_path, here, monkeypatch):
    monkeypatch.setattr(child, "MAX_TENSORS", 2)
    with pytest.raises(UnsafeFileError, match="found 3; allowed: 2"):
        read_checkpoint(saved(tmp_path / "many.pth", [torch.ones(n) for n in (1, 2, 3)]))


def test_mutants_are_read_or_refused_with_a_sentence(tmp_path, here):
    dice, path = random.Random(0), tmp_path / "mutant.pth"
    originals = [saved(path, TREE).read_bytes(), hostile.archive(path, [network()] * 2).read_bytes()]
    originals.append(saved(path, TREE, _use_new_zipfile_serialization=False).read_bytes())
    refused = 0
    for number in range(300):
        data = bytearray(originals[number % 3])
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(min(len(data), 3000))
            data[place : place + dice.randint(0, 2)] = dice.randbytes(dice.randint(0, 2))
        path.write_bytes(data)
        try:
            read_checkpoint(path)
        except (UnsafeFileError, CorruptFileError, NonFiniteWeights):
            refused += 1
    assert 100 < refused < 300


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, here):
    tree = {"net": network() | {"1.weight": torch.tensor([0.0, torch.inf])}}
    with pytest.raises(NonFiniteWeights, match="net/1.weight"):
        read_checkpoint(saved(tmp_path / "inf.pth", tree))


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, error in {
        tmp_path / "pipe": UnsafeFileError,
        tmp_path: UnsafeFileError,
        "/dev/zero": UnsafeFileError,
        tmp_path / "loop": RepoNotFound,
        tmp_path / "none.pth": RepoNotFound,
        "a\0b": RepoNotFound,
    }.items():
        with pytest.raises(error):
            read_checkpoint(path)


# -- whatever becomes of the other process --


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces it")
@pytest.mark.parametrize("limit", [1, 20], ids=["of Python", "of torch"])
def test_the_limit_of_memory_holds(limit, tmp_path, rooms):
    path = saved(tmp_path / "large.pth", torch.zeros(6 * 2**20))
    with pytest.raises(UnsafeFileError, match=f"more memory than it may.*more than {limit} MiB.*raise max_memory"):
        read_checkpoint(path, max_memory=limit * 2**20)
    assert not list(rooms.iterdir())


def test_the_limit_of_time_holds(tmp_path, rooms):
    path = saved(tmp_path / "small.pth", torch.zeros(2))
    with pytest.raises(UnsafeFileError, match="no end after 0.01 s"):
        read_checkpoint(path, seconds=0.01)
    assert not list(rooms.iterdir())


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Have another program for the child: FOLDER is its second argument."""

    def use(code):
        (tmp_path / "other.py").write_text(f"import os, sys, json\nos.chdir(sys.argv[2])\n{code}")
        monkeypatch.setattr(child, "__file__", str(tmp_path / "other.py"))
        return saved(tmp_path / "file.pth", torch.zeros(2))

    return use


@pytest.mark.parametrize(
    "ending", ["os.kill(os.getpid(), 11)", "os.kill(os.getpid(), 9)", "os.abort()", "sys.exit(3)", "1 / 0"]
)
def test_a_process_that_dies_over_a_file_takes_nothing_along(ending, stand_in, rooms):
    path = stand_in(f"open('tensors.safetensors', 'w').write('half')\n{ending}")
    with pytest.raises(CorruptFileError, match="has died over it.*(signal (11|9|6)|exit code (3|1))"):
        read_checkpoint(path)
    assert not list(rooms.iterdir())


def test_the_other_process_knows_no_secrets(stand_in, rooms, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = stand_in(
        "facts = {'kind': 'room', 'what': 'x', 'found': ' '.join(os.environ), 'allowed': None, 'todo': 'y'}\n"
        "json.dump({'refused': facts}, open('result.json', 'w'))"
    )
    with pytest.raises(StyleforgeError, match="PATH") as caught:
        read_checkpoint(path)
    assert "TORCH" not in str(caught.value) and "TOKEN" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, os.strerror(28)),
        safetensors.SafetensorError("Error while serializing: I/O error: Der Datenträger ist voll. (os error 112)"),
    ],
    ids=["of the system", "of Rust on Windows"],
)
def test_a_full_disk_is_called_one(tmp_path, here, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StyleforgeError, match="No room for temporary files.*TMPDIR"):
        read_checkpoint(saved(tmp_path / "file.pth", torch.zeros(2)))


# -- the thirty cases --

RAW = (
    "plain plain_legacy_container module_prefix module_module_prefix orig_mod_prefix nested_state_dict "
    "nested_model_and_optim float64 parameters_not_tensors noncontiguous shared_storage half"
)
REFUSALS = {
    "nan.pth": (NonFiniteWeights, "model.1.weight"),
    "whole_module.pth": (UnsafeFileError, "models.networks.ResnetGenerator.*whole model.*state_dict"),
    "hostile.pth": (UnsafeFileError, "posix.mkdir"),
    "hostile_plain.pkl": (UnsafeFileError, "bare pickle"),
    "truncated.pth": (CorruptFileError, "damaged"),
    "empty.pth": (CorruptFileError, "empty"),
    "html_error_page.pth": (CorruptFileError, "HTML"),
    "git_lfs_pointer.pth": (CorruptFileError, "git-lfs"),
    "truncated.safetensors": (CorruptFileError, "11176 bytes"),
}


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[key].double(), theirs[key]) for key in theirs)


@golden.needs_golden
@pytest.mark.parametrize("name", RAW.split())
def test_weights_come_out_of_their_wrappings(name, here):
    found = read_checkpoint(TRAPS / f"{name}.pth")
    raw = golden.tensors("importer_traps", "raw.safetensors")
    networks = unwrap(found.tree)
    assert list(networks) == [""]
    assert equal(networks[""], {k: t.half().double() for k, t in raw.items()} if name == "half" else raw)


@golden.needs_golden
@pytest.mark.parametrize(
    ("file", "averaged", "raw", "note"),
    [
        ("basicsr_ema.pth", "", "", "'params_ema' taken, averaged weights, and not 'params'"),
        ("rosinality_like.pt", "g_ema", "g", "'g_ema' taken, averaged weights, and not 'g'"),
    ],
)
def test_averaged_weights_come_first(file, averaged, raw, note, here):
    tree = read_checkpoint(TRAPS / file).tree
    for name, ema, stored in ((averaged, True, "ema"), (raw, False, "raw")):
        networks = unwrap(tree, ema=ema)
        assert list(networks) == [name]
        assert equal(networks[name], golden.tensors("importer_traps", f"{stored}.safetensors"))
    assert unwrap(tree).notes == [note]


@golden.needs_golden
def test_several_networks_keep_their_names(here):
    raw, ema = (golden.tensors("importer_traps", f"{kind}.safetensors") for kind in ("raw", "ema"))
    bundle = unwrap(read_checkpoint(TRAPS / "cyclegan_bundle.pth").tree)
    assert list(bundle) == ["G_A", "G_B", "D_A"]
    assert equal(bundle["G_A"], raw) and equal(bundle["G_B"], ema)
    lightning = unwrap(read_checkpoint(TRAPS / "lightning.ckpt").tree)
    assert list(lightning) == ["generator"] and equal(lightning["generator"], raw)


@golden.needs_golden
def test_what_does_not_fit_is_read_as_it_is(here):
    raw = golden.tensors("importer_traps", "raw.safetensors")
    missing, extra, wrong = (
        unwrap(read_checkpoint(TRAPS / f"{name}.pth").tree)[""] for name in ("missing_key", "extra_key", "wrong_shape")
    )
    assert raw.keys() - missing.keys() == {"model.1.bias"} and extra.keys() - raw.keys() == {"model.99.weight"}
    assert [key for key in raw if wrong[key].shape != raw[key].shape] == ["model.1.weight"]


@golden.needs_golden
@pytest.mark.parametrize("file", REFUSALS)
def test_traps_are_refused(file, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error, words = REFUSALS[file]
    with pytest.raises(error, match=words):
        read_checkpoint(TRAPS / file)
    assert not list(tmp_path.iterdir())


@golden.needs_golden
def test_each_trap_has_been_tried():
    tried = {f"{name}.pth" for name in f"{RAW} missing_key extra_key wrong_shape basicsr_ema cyclegan_bundle".split()}
    tried |= {"rosinality_like.pt", "lightning.ckpt", "raw.safetensors", "ema.safetensors", *REFUSALS}
    assert tried == set(golden.meta("importer_traps")["expected"])


# -- unwrapping --


def state(*names):
    return {name: torch.ones(2) for name in names or ("0.weight", "0.bias")}


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (state(), [""]),
        (state("weight", "bias"), [""]),
        ([state(), state()], ["0", "1"]),
        ({"epoch": 3, "loss": torch.tensor(0.5), "netG": state(), "scores": {"fid": torch.tensor(1.0)}}, ["netG"]),
        ({"model": state(), "state_dict": state()}, ["model", "state_dict"]),
        ({"model": {"generator": state(), "params": state()}}, ["generator", ""]),
        ({"net_g": {"params": state(), "params_ema": state()}, "net_d": state()}, ["net_g", "net_d"]),
        ({"ema": state(), "state_dict": state(), "D": state()}, ["", "D"]),
        (state("G.0.weight", "D.0.weight", "net_G_B.0.weight"), ["G", "D", "net_G_B"]),
        (state("module.generator.0.weight", "module.generator_ema.0.weight"), ["generator_ema"]),
        (state("DownBlock.0.weight", "gamma.weight"), [""]),
        ({"pytorch-lightning_version": "2", "state_dict": state("model.1.weight")}, [""]),
        ({"pytorch-lightning_version": "2", "state_dict": state("a.0.weight", "b.0.weight")}, ["a", "b"]),
        ({"param_groups": [], "state": state()}, []),
        ({"epoch": 3}, []),
        (None, []),
    ],
)
def test_networks_are_found(tree, names):
    assert list(unwrap(tree)) == names


def test_names_are_those_within_the_network():
    assert list(unwrap(state("module.0._orig_mod.weight", "module.0.bias", "n_averaged"))[""]) == ["0.weight", "0.bias"]
    assert list(unwrap(state("module.0.weight", "n_averaged", "x"))[""]) == ["module.0.weight", "n_averaged", "x"]
    lightning = {"pytorch-lightning_version": "2", "state_dict": state("model.model.1.weight")}
    assert list(unwrap(lightning)[""]) == ["model.1.weight"]
    unsplit = {"pytorch-lightning_version": "2", "state_dict": state("model.1.weight")}
    assert list(unwrap(unsplit)[""]) == ["model.1.weight"]
    parts = unwrap(state("D.main.0.weight", "G.main.0.weight"))
    assert {name: list(part) for name, part in parts.items()} == {"D": ["main.0.weight"], "G": ["main.0.weight"]}


def test_what_is_left_out_is_said():
    found = unwrap({"net": state() | {"version": 3}, "optimizer": {"param_groups": [], "state": {}}})
    assert found.notes == ["net: left out version, no tensors", "optimizer: an optimizer, left out"]


def test_names_that_meet_are_an_error():
    with pytest.raises(WeightsError, match="one name.*0.weight"):
        unwrap({"net": state("_orig_mod.0.weight", "0.weight")})
