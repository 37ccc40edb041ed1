"""scripts/benchmark.py: that what it prints is complete, not how fast anything is."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import benchmark

TINY = {
    "mini": lambda: benchmark.models.MiniGenerator(width=4, blocks=1),
    "microast": lambda: benchmark.models.MicroASTGenerator(width=4),
}


def run(capsys, *arguments):
    benchmark.main(["--part", "families", "--json", "--rounds", "1", "--sizes", "32", "64", *arguments])
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.fixture
def tiny(monkeypatch):
    """Small networks, and all sides in this process."""

    @contextlib.contextmanager
    def here(make, *arguments):
        yield make(*arguments)

    monkeypatch.setattr(benchmark, "FAMILIES", TINY)
    monkeypatch.setattr(benchmark, "elsewhere", here)
    monkeypatch.setattr(benchmark, "convolution", lambda dtype: lambda: None)


def test_each_family_and_size_has_all_sides(tiny, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found, table = run(capsys)
    assert found["machine"]["threads"] >= 1 and "stock" not in found
    assert [(row["family"], row["size"]) for row in found["families"]] == [(n, s) for n in TINY for s in (32, 64)]
    for row in found["families"]:
        assert row["seconds"].keys() == {"stock", "ours", "float32", "onnx", "conv", "conv float32"}
        assert row["gflop_per_second"]["ours"] == pytest.approx(row["gflop"] / row["seconds"]["ours"])
        assert row["stock_to"]["onnx"] == pytest.approx(row["seconds"]["stock"] / row["seconds"]["onnx"])
        assert row["share_of_conv"].keys() == {"ours", "float32"} and row["why"] == ""
        assert benchmark.line(row) in table
    small, large = (row["gflop"] for row in found["families"][:2])
    mean = 2 * 3 * 8 / 1e9  # what becomes of the mean color is as much at any size
    assert large - mean == pytest.approx(4 * (small - mean))


def test_styles_take_the_place_of_families(tiny, capsys, tmp_path):
    TINY["mini"]().save_pretrained(tmp_path / "mine")
    found, table = run(capsys, "--no-onnx", "--styles", str(tmp_path / "mine"), "mini-classic")
    assert [Path(row["family"]).name for row in found["families"]] == ["mine"] * 2 + ["mini-classic"] * 2
    assert "mini-classic" in table and str(tmp_path) not in table
    first, _, last, _ = (row["gflop"] for row in found["families"])
    assert last > 10 * first > 0


def test_compiled_networks_are_one_more_side(tiny, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.torch, "compile", lambda model, **options: model)
    found, _ = run(capsys, "--no-onnx", "--compile")
    assert ["compiled" in row["stock_to"] for row in found["families"]] == [True, True, False, False]


def test_without_onnx_the_reason_is_printed(tiny, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found, table = run(capsys)
    for row in found["families"]:
        assert "onnxruntime" in row["why"] and row["why"] in table and "onnx" not in row["seconds"]


@pytest.mark.slow
def test_sides_take_turns_in_processes_of_their_own(capsys):
    found, _ = run(capsys, "--families", "mini", "--sizes", "32", "--no-onnx", "--seconds", "0")
    assert all(seconds > 0 for row in found["families"] for seconds in row["seconds"].values())


@pytest.mark.parametrize(("quick", "again"), [(0.0, "ab"), (9.0, "aabb")])
def test_no_turn_begins_after_the_limit_and_what_is_quick_warms_up(monkeypatch, quick, again):
    monkeypatch.setattr(benchmark, "QUICK", quick)
    turns = []
    seconds = benchmark.in_turns({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 3, limit=0)
    assert "".join(turns) == "ab" + again and seconds.keys() == {"a", "b"}


def test_what_a_gpu_does(monkeypatch, capsys):
    """Here by the processor, with small networks and matrices."""
    with pytest.raises(SystemExit, match="CUDA GPU"):
        monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
        benchmark.main(["--part", "gpu", "--json"])
    capsys.readouterr()
    monkeypatch.setattr(benchmark, "MATRIX", 64)
    monkeypatch.setattr(benchmark, "stock_generator", lambda *_, make=benchmark.stock_generator: make(4, 1))
    monkeypatch.setattr(benchmark, "ResnetGenerator", lambda make=benchmark.ResnetGenerator: make(width=4, blocks=1))
    monkeypatch.setattr(benchmark.torch, "compile", lambda model, **options: model)
    row = benchmark.gpu(32, 48, 1, 0, "cpu")
    sides = {"stock", "stock fp16", "ours", "compiled"}
    assert (
        row["seconds"].keys() == row["share_of_matrix"].keys() == sides | {"matrix"} and row["stock_to"].keys() == sides
    )
    rates, seconds = row["tflop_per_second"], row["seconds"]
    assert rates["matrix"] * seconds["matrix"] == pytest.approx(2 * 64**3 / 1e12)
    assert rates["ours"] * seconds["ours"] == pytest.approx(rates["stock"] * seconds["stock"])
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(benchmark.torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(benchmark, "apart", lambda name, *arguments: {**row, "why": "no compiler"})
    benchmark.main(["--part", "gpu", "--json"])
    out, table = capsys.readouterr()
    assert len(json.loads(out)["gpu"]) == 3 and "3840 x 2160" in table and "not compiled: no compiler" in table


def test_a_large_picture_beside_a_small_one(capsys):
    arguments = ["--part", "large", "--json", "--styles", "mini-classic", "--megapixels", "2", "--max-memory", "0.2"]
    benchmark.main(arguments)
    out, table = capsys.readouterr()
    found = json.loads(out)
    row = found["large"]
    assert found.keys() == {"machine", "large"} and row["style"] == "mini-classic"
    assert row["megapixels"] == pytest.approx(2, rel=1e-3)
    assert row["seconds_per_megapixel"] == pytest.approx(row["seconds"] / row["megapixels"])
    assert row["ratio"] == pytest.approx(row["seconds_per_megapixel"] / row["seconds_of_one"])
    assert 0 <= row["gib_over_the_loaded_process"] < 0.5 and "gib over the loaded process" in table


def test_a_style_beside_another_program_waits_in_both_ways(capsys, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    seen, others = [], []
    begin = benchmark.subprocess.Popen

    def run(command, *, env, **_):
        busy = [other.poll() is None for other in others]
        seen.append((json.loads(command[-1]), env.get("GOMP_SPINCOUNT"), any(busy)))
        return SimpleNamespace(returncode=0, stdout=json.dumps({"first": 2.0, "seconds": len(seen)}))

    def popen(command, **options):
        others.append(begin([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], **options))
        return others[-1]

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    monkeypatch.setattr(benchmark.subprocess, "Popen", popen)
    benchmark.main(["--part", "beside", "--json", "--sizes", "32", "--styles", "mini-classic"])
    job = ["mini-classic", 32]
    assert seen == [(job, None, False), (job, "1000", False), (job, None, True), (job, "1000", True)]
    assert len(others) == 1 and others[0].poll() is not None
    found = {
        row["waits"]: (row["alone"]["seconds"], row["beside"]["seconds"])
        for row in json.loads(capsys.readouterr().out)["beside"]
    }
    assert found == {"by itself": (1, 3), "ours": (2, 4)}
