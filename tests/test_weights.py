"""What a stranger's safetensors file may cost, and what is refused in it."""

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from effort import effort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from styleforge import weights
from styleforge.errors import CorruptFileError, NonFiniteWeights, StyleforgeError, UnsafeFileError, WeightsError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, -2.0])}
GOOD = safetensors.torch.save(TENSORS, {"format": "pt"})
LENGTH = 8 + int.from_bytes(GOOD[:8], "little")  # of its header with the number in front
FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def made(header: Any, data: bytes = b"") -> bytes:
    """A file with this header, given as JSON text or as what becomes it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def many(count: int) -> bytes:
    return made({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)})


CORRUPT = {
    "empty": b"",
    "seven bytes": GOOD[:7],
    "cut in the header": GOOD[: LENGTH - 5],
    "cut at the header": GOOD[:LENGTH],
    "cut in the data": GOOD[:-1],
    "extra bytes": GOOD + b"\0",
    "garbage header": GOOD[:8] + os.urandom(LENGTH - 8) + GOOD[LENGTH:],
    "header of 2**63": struct.pack("<Q", 2**63) + GOOD[8:],
    "header too long": made(json.dumps({"a": FLOAT}).encode() + b" " * (5 * 2**20), bytes(4)),
    "not JSON": made(b"{"),
    "not UTF-8": made(b'{"\xff": 1}'),
    "a list": made([FLOAT]),
    "a text": made("x"),
    "a number": made(b"1"),
    "null": made(b"null"),
    "deep": made(b"[" * 100_000),
    "deep object": made(b'{"a":' * 100_000),
    "a key twice": made(b'{"a": %b, "a": %b}' % ((json.dumps(FLOAT).encode(),) * 2), bytes(4)),
    "a key twice inside": made(
        b'{"a": {"dtype": "F32", "dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)
    ),
    "tensor is a list": made({"a": [1]}),
    "tensor is null": made({"a": None}),
    "no dtype": made({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "no shape": made({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "no offsets": made({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "one offset": made({"a": {**FLOAT, "data_offsets": [0]}}, bytes(4)),
    "shape is a number": made({"a": {**FLOAT, "shape": 1}}, bytes(4)),
    "shape is infinite": made(b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', bytes(4)),
    "shape is NaN": made(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', bytes(4)),
    "offset is infinite": made(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}', bytes(4)),
    "negative shape": made({"a": {**FLOAT, "shape": [-1]}}, bytes(4)),
    "nine dimensions": made({"a": {**FLOAT, "shape": [1] * 9}}, bytes(4)),
    "float8": made({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
    "complex": made({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "unknown dtype": made({"a": {**FLOAT, "dtype": "F31"}}, bytes(4)),
    "5000 tensors": many(5000),
}
# What the header's reader lets through and the library refuses.
INCONSISTENT = {
    "overlap": made({"a": FLOAT, "b": {**FLOAT, "data_offsets": [2, 6]}}, bytes(6)),
    "hole": made({"a": FLOAT, "b": {**FLOAT, "data_offsets": [8, 12]}}, bytes(12)),
    "shape against offsets": made({"a": {**FLOAT, "shape": [2]}}, bytes(4)),
    "shape is a text": made({"a": {**FLOAT, "shape": "1"}}, bytes(4)),
    "shape overflows": made({"a": {**FLOAT, "shape": [2**62, 2**62]}}, bytes(4)),
    "begin after end": made({"a": {**FLOAT, "data_offsets": [8, 4]}}, bytes(4)),
    "metadata is a number": made({"__metadata__": {"a": 1}, "a": FLOAT}, bytes(4)),
}
UNSAFE = ["../../etc/passwd", "/abs", "a b", "", "a\0b", "a\nb", "x" * 257, "a\x1b[31m", "a;b", "$(a)", "a\\b"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_good_file(path):
    path.write_bytes(GOOD)
    assert weights.read_header(path) == {"a.weight": ("F32", (2, 3)), "a.bias": ("F32", (2,))}
    tensors = weights.read(path)
    assert set(tensors) == set(TENSORS) and all(tensors[name].equal(TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("name", [*CORRUPT, *INCONSISTENT])
def test_corrupt(path, name):
    path.write_bytes({**CORRUPT, **INCONSISTENT}[name])
    with effort() as spent, pytest.raises(CorruptFileError) as caught:
        weights.read(path)
    assert spent.calls < 100_000 and spent.memory < 50e6
    assert str(path) in str(caught.value) and "force_download" in str(caught.value) and len(str(caught.value)) < 1000
    if name in CORRUPT:
        with pytest.raises(CorruptFileError):
            weights.read_header(path)


@pytest.mark.parametrize("name", UNSAFE, ids=repr)
def test_names_that_no_network_has(path, name):
    path.write_bytes(made({name: FLOAT}, bytes(4)))
    with pytest.raises(UnsafeFileError, match="name that no network has") as caught:
        weights.read_header(path)
    assert "\x1b" not in str(caught.value) and "\0" not in str(caught.value)


def test_limits_are_not_too_narrow(path):
    """A header with 4096 tensors, 8 dimensions, and the longest name is read."""
    path.write_bytes(many(weights.MAX_TENSORS))
    assert len(weights.read_header(path)) == weights.MAX_TENSORS
    path.write_bytes(made({"x" * 256: {**FLOAT, "shape": [1] * 8}}, bytes(4)))
    assert weights.read(path)["x" * 256].shape == (1,) * 8


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
def test_mutants_raise_ours_or_load(tmp_path, edits, cut):
    mutant = bytearray(GOOD)
    for place, value in edits:
        mutant[place] = value
    path = tmp_path / "mutant"
    path.write_bytes(mutant[: len(mutant) - cut] if cut < 20 else mutant)
    try:
        tensors = weights.read(path)
        weights.check_finite(tensors, where=path)
    except StyleforgeError as error:
        assert isinstance(error, (CorruptFileError, UnsafeFileError, NonFiniteWeights))


@pytest.mark.parametrize("dtype", weights.DTYPES.values(), ids=str)
def test_write_and_read_every_type(path, dtype):
    tensor = torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype)
    weights.write(
        path, {"a": tensor, "scalar": tensor[0, 0].clone(), "empty": torch.empty(0, 3, dtype=dtype)}, {"k": "v"}
    )
    again = weights.read(path)
    assert again["a"].dtype == dtype and again["a"].equal(tensor)
    assert again["scalar"].shape == () and again["empty"].shape == (0, 3)
    name = next(name for name, value in weights.DTYPES.items() if value == dtype)
    assert weights.read_header(path)["a"] == (name, (3, 2))


def test_layouts_do_not_matter(path):
    image = torch.randn(2, 3, 4, 5)
    tensors = {
        "channels_last": image.to(memory_format=torch.channels_last),
        "transposed": image.transpose(1, 3),
        "expanded": torch.ones(3, 1).expand(3, 4),
        "slice": image[:, 1],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    weights.write(path, tensors, {})
    again = weights.read(path)
    assert all(again[name].equal(tensor) and again[name].is_contiguous() for name, tensor in tensors.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nothing_that_is_not_finite_is_written(path, value, dtype):
    weights.write(path, TENSORS, {})
    bad = torch.ones(3, 4, dtype=dtype)
    bad[1, 2] = value
    with pytest.raises(NonFiniteWeights, match=r"1 tensors, the first 'b'"):
        weights.write(path, {"a": torch.ones(2, dtype=dtype), "b": bad}, {})
    assert set(weights.read(path)) == set(TENSORS)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("complex", torch.ones(2, dtype=torch.complex64)),
        ("half_int", torch.ones(2, dtype=torch.int16)),
        ("float8", torch.ones(2).to(torch.float8_e4m3fn)),
        ("a b", torch.ones(2)),
        ("", torch.ones(2)),
        ("x" * 257, torch.ones(2)),
    ],
)
def test_nothing_is_written_that_could_not_be_read(path, name, tensor):
    with pytest.raises(WeightsError, match="cannot be stored"):
        weights.write(path, {name: tensor}, {})
    assert os.listdir(path.parent) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_file_is_not_left_mapped(path):
    """Another process may truncate it, and a mapped one would then kill us; or overwrite it, and change us."""
    weights.write(path, {"a": torch.arange(1e6)}, {})
    tensors = weights.read(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    with open(path, "r+b") as file:
        file.seek(LENGTH)
        file.write(bytes(10_000))
        file.truncate(20_000)
    assert tensors["a"].equal(torch.arange(1e6))
