"""What the doctor says of a machine, healthy or not."""

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest

from styleforge import doctor


def test_it_names_what_is_needed_and_what_is_here():
    found = {finding.topic: finding for finding in doctor.examine()}
    assert set(doctor.NEEDED) | set(doctor.EXTRAS) | {"cpu", "memory", "cache", "styleforge"} <= found.keys()
    assert found["torch"].text == importlib.metadata.version("torch") or found["torch"].state == "note"
    assert found["train"].state == "ok" and "accelerate" in found["train"].text


def test_every_extra_is_looked_for():
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert doctor.EXTRAS.keys() | {"all", "dev"} == declared["optional-dependencies"].keys()


def test_a_missing_package_and_a_missing_extra(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "EXTRAS", {"film": ("no_such_module",)})
    found = {finding.topic: finding for finding in doctor.examine()}
    assert found["no-such-package"].state == "wrong" and "pip install no-such-package" in found["no-such-package"].text
    assert found["film"].state == "note" and "styleforge[film]" in found["film"].text


def test_a_folder_named_as_an_extra_is_none_and_a_file_of_no_package_has_no_version(monkeypatch, tmp_path):
    (tmp_path / "only_a_folder").mkdir()
    (tmp_path / "only_a_file.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "EXTRAS", {"tracks": ("only_a_folder",), "film": ("only_a_file",)})
    found = {finding.topic: finding for finding in doctor.examine()}
    assert found["tracks"].state == "note" and "not installed (only_a_folder)" in found["tracks"].text
    assert found["film"] == doctor.Finding("film", "only_a_file of no package")


@pytest.mark.parametrize(("version", "wrong"), [("12.9.1", False), ("13.0", True), ("13.5.2", True), ("14.0.1", False)])
def test_versions_that_are_known_to_break(monkeypatch, version, wrong):
    monkeypatch.setattr(doctor, "KNOWN_BAD", (("pillow", (13,), (14,), "wrong", "no demo"),))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert bool(doctor._versions()) == wrong


def test_a_cache_that_cannot_be_written_is_told(monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    finding = doctor._cache()
    assert finding.state == "wrong" and "HF_HOME" in finding.text


def test_text_and_json_say_the_same(monkeypatch):
    found = [doctor.Finding("a", "fine"), doctor.Finding("b", "gone", "wrong")]
    assert doctor.as_text(found).splitlines() == [f"  {'a':16} fine", f"! {'b':16} gone"]
    assert json.loads(json.dumps([vars(finding) for finding in found]))[1]["state"] == "wrong"
