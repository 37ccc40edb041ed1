"""--fit auto: what is measured, and what is chosen from it."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from styleforge import fit as fitting
from styleforge import memory, runs
from styleforge.errors import ConfigError
from styleforge.fit import Trial, fit
from styleforge.runs import TrainConfig

MIB = 2**20


@pytest.fixture
def config(tmp_path):
    for domain in ("source", "target"):
        (tmp_path / domain).mkdir()
        for n in range(3):
            Image.fromarray(np.full((300, 400, 3), 40 * n, np.uint8)).save(tmp_path / domain / f"{n}.png")
    return TrainConfig(
        method="cyclegan",
        source=str(tmp_path / "source"),
        target=str(tmp_path / "target"),
        output=str(tmp_path / "run"),
        batch_size=8,
        size=256,
        settings={"width": 4, "blocks": 1, "discriminator_width": 4, "discriminator_layers": 1},
    )


def machine(monkeypatch, base=100, per_picture=50, recomputed=20):
    """Instead of dry steps, what they would find: MiB in all, and for each picture of 256 px at once."""
    asked = []

    def measure(config, size, pictures, again, room):
        asked.append((size, pictures, again))
        taken = (base + pictures * (recomputed if again else per_picture) * (size / 256) ** 2) * MIB
        return Trial(size, pictures, again, int(taken) if taken <= room else None, 0.5)

    monkeypatch.setattr(fitting, "measure", measure)
    return asked


@pytest.mark.parametrize(
    ("limit", "size", "pieces", "again"),
    [
        (600, 256, 1, False),  # 8 at once: 500
        (400, 256, 2, False),  # 4 at once: 300
        (210, 256, 4, False),  # 2 at once: 200
        (160, 256, 8, False),  # 1 at once: 150
        (125, 256, 8, True),  # 1 at once: 120
        (112, 192, 8, True),  # and smaller: 111
    ],
)
def test_the_mildest_that_fits_is_chosen(config, monkeypatch, limit, size, pieces, again):
    asked = machine(monkeypatch)
    limit = limit * MIB + fitting._pixels(config)
    plan = fit(config, limit)
    assert (plan.config.size, plan.config.accumulate, plan.config.recompute) == (size, pieces, again)
    assert plan.config == replace(config, size=size, accumulate=pieces, recompute=again)  # and the batch is as it was
    assert len(asked) == len(set(asked)) <= 6
    assert f"8 pictures of {size} px" in plan.text and ("not 256" in plan.text) == (size < 256)


def test_pictures_that_are_compared_stay_together(config, monkeypatch):
    asked = machine(monkeypatch)
    compared = replace(config, method="microast", settings={"width": 4, "features": "random-16x"})
    plan = fit(compared, 210 * MIB + fitting._pixels(config))
    assert plan.config.accumulate == 4 and all(pictures > 1 for _, pictures, _ in asked)
    apart = replace(compared, settings={**compared.settings, "contrast": 0.0})
    assert fit(apart, 160 * MIB + fitting._pixels(config)).config.accumulate == 8


def test_an_output_that_is_a_file_is_told_before_trials(config, monkeypatch):
    asked = machine(monkeypatch)
    with pytest.raises(ConfigError, match="is no folder"):
        fit(replace(config, output=__file__))
    assert asked == []


def test_what_does_not_fit_at_all(config, monkeypatch):
    machine(monkeypatch)
    with pytest.raises(ConfigError, match=r"however it is cut.*--width"):
        fit(config, 90 * MIB)


def test_a_run_that_was_begun_keeps_its_plan(config, monkeypatch):
    asked = machine(monkeypatch)
    runs.remember(replace(config, accumulate=4, recompute=True), Path(config.output))
    plan = fit(config)
    assert (plan.config.accumulate, plan.config.recompute, asked) == (4, True, [])


def test_pixels_are_counted_from_headers(config):
    assert fitting._pixels(config) == pytest.approx(6 * 3 * 287 * 287 * 4 / 3, rel=0.01)  # reduced to 1.12 * 256


@pytest.mark.slow
def test_dry_steps_are_the_real_loop(config, tmp_path):
    """In a process of its own; nothing is left behind, and more pictures take more."""
    heavy = replace(config, settings={**config.settings, "width": 16}, size=128)
    one, many = (fitting.measure(heavy, 128, n, False, 3 * memory.GIB) for n in (1, 8))
    assert 150 * MIB < one.bytes < many.bytes < 3 * memory.GIB and 0 < one.seconds < many.seconds
    assert fitting.measure(heavy, 128, 8, False, one.bytes // 2).bytes is None
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]
    broken = replace(config, settings={**config.settings, "downs": 2}, adapt={"base": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"cannot be tried.*--fit"):
        fitting.measure(broken, 128, 1, False, memory.GIB)


def test_full_memory_is_told_otherwise_on_windows(config, monkeypatch):
    said = "RuntimeError: [enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried ..."
    child = SimpleNamespace(returncode=1, stdout="", stderr=said)
    monkeypatch.setattr(fitting.subprocess, "run", lambda *args, **kwargs: child)
    assert fitting.measure(config, 128, 1, False, memory.GIB).bytes is None


def test_memory_is_what_the_system_says():
    free, before = memory.available(), memory.peak()
    block = torch.ones(before + 64 * MIB, dtype=torch.uint8)  # more than there ever was
    assert memory.peak() >= len(block)  # though freed memory, which is kept, serves a part of it
    assert memory.available() < free + len(block)


def test_systems_without_proc_tell_their_free_memory(monkeypatch):
    """As macOS and Windows; a container may have less."""

    def missing(path, *args, **kwargs):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * MIB))
    assert memory.available() == 7 * MIB
    assert memory.peak() > MIB
    container = {"memory.max": "9000000", "memory.current": "8000000"}
    monkeypatch.setattr(Path, "read_text", lambda path: container.get(path.name) or missing(path))
    assert memory.available() == 1_000_000
