"""Which styles there are, with and without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer, Refusal

from styleforge import PretrainedMixin, ResnetGenerator, UNetGenerator, repos
from styleforge.discover import StyleRow, styles
from styleforge.errors import CorruptFileError


@pytest.fixture(autouse=True)
def fresh(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub with three styles and two other repositories, an empty cache, and one bundled style."""
    hub.reset()
    hub.lfs = True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(repos, "BUNDLED", tmp_path / "styles")
    ResnetGenerator(width=2, blocks=1).save_pretrained(tmp_path / "styles/rain-monet")
    publish("org/rain")
    publish("org/Snow", UNetGenerator(width=2, downs=4))
    publish("someone/rainbow", hub=hub)
    hub.add("org/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x", "README.md": b"x"})
    hub.add("org/empty", {"README.md": b"---\ntags: [styleforge]\n---\n"})


def publish(repo: str, network: PretrainedMixin | None = None, hub: HubServer | None = None) -> None:
    network = network or ResnetGenerator(width=2, blocks=1)
    network.push_to_hub("org/rain" if hub else repo)
    if hub:
        hub.add(repo, hub.files("org/rain"))


def facts(rows: list[StyleRow]) -> list[tuple[str, str, str | None]]:
    return sorted((row.name, row.where, row.architecture) for row in rows)


BUNDLED = ("rain-monet", "bundled", "ResnetGenerator")
RAIN, SNOW = ("org/rain", "hub", "ResnetGenerator"), ("org/Snow", "hub", "UNetGenerator")


def test_nobody_is_asked_without_need(hub, tmp_path):
    hub.log.clear()
    assert facts(rows := styles()) == [BUNDLED] and not hub.log and not rows.missing
    weights = tmp_path / "styles/rain-monet/model.safetensors"
    assert rows[0].as_json() == {
        "name": "rain-monet",
        "architecture": "ResnetGenerator",
        "where": "bundled",
        "commit": None,
        "bytes": weights.stat().st_size,
    }


def test_what_is_in_the_cache(hub, tmp_path):
    commit = hub.repo("org/rain").branches["main"]
    ResnetGenerator.from_pretrained("org/rain")
    huggingface_hub.hf_hub_download("org/Snow", "config.json")  # half of it
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("org/bert", name)
    hub.log.clear()
    for rows in (styles(), styles(cache_dir=tmp_path / "cache")):
        assert facts(rows) == [("org/rain", "cache", "ResnetGenerator"), BUNDLED] and not rows.missing
        assert rows[1].commit == commit and rows[1].bytes == len(hub.files("org/rain")["model.safetensors"])
    assert not hub.log and facts(styles(cache_dir=tmp_path / "nothing")) == [BUNDLED]


def test_the_revision_that_would_be_used_offline(hub):
    first = hub.repo("org/rain").branches["main"]
    ResnetGenerator.from_pretrained("org/rain")
    torch.manual_seed(1)
    publish("org/rain")
    ResnetGenerator.from_pretrained("org/rain", revision=hub.repo("org/rain").branches["main"])  # `main` stays
    assert styles()[1].commit == first
    second = hub.repo("org/rain").branches["main"]
    ResnetGenerator.from_pretrained("org/rain")
    assert styles()[1].commit == second


def test_what_is_on_the_hub(hub):
    rows = styles(hub=True)
    assert facts(rows) == sorted([BUNDLED, RAIN, SNOW, ("someone/rainbow", "hub", "ResnetGenerator"), EMPTY])
    [rain] = [row for row in rows if row.name == "org/rain"]
    assert rain.commit == hub.repo("org/rain").branches["main"]
    tensors = ResnetGenerator.from_pretrained("org/rain").state_dict().values()
    assert rain.bytes == sum(tensor.nbytes for tensor in tensors)
    ResnetGenerator.from_pretrained("org/rain")
    assert [row.where for row in styles(hub=True) if row.name == "org/rain"] == ["cache"]
    hub.add("org/rain", {"notes.txt": b"x"})
    assert [row.where for row in styles(hub=True) if row.name == "org/rain"] == ["cache", "hub"]


EMPTY = ("org/empty", "hub", None)


def test_search(hub):
    assert facts(styles("RAIN", hub=True)) == sorted([BUNDLED, RAIN, ("someone/rainbow", "hub", "ResnetGenerator")])
    assert facts(styles("snow", hub=True)) == [SNOW]
    assert facts(styles("hail", hub=True)) == []


def test_more_than_a_page(hub):
    hub.page = 1
    assert len(styles(hub=True)) == 5
    assert len([request for request in hub.log if request.path == "/api/models"]) == 4


def test_private_ones_are_their_owners(hub):
    hub.add("org/rain", {}, private=True)
    assert RAIN in facts(styles(hub=True)) and RAIN not in facts(styles(hub=True, token=False))


def test_without_a_network(hub):
    ResnetGenerator.from_pretrained("org/rain")
    with hub.down():
        rows = styles(hub=True)
    assert facts(rows) == [("org/rain", "cache", "ResnetGenerator"), BUNDLED]
    [words] = rows.missing
    assert "The Hub cannot be reached (its styles)" in words and "list again" in words and "cache" not in words


def test_the_hub_says_no(hub):
    hub.expired.add("hf_of_the_tests")
    assert "hf auth whoami" in styles(hub=True).missing[0]
    hub.expired.clear()

    def refuse(request):
        raise Refusal(403, "", "not you")

    hub.before = refuse
    rows = styles(hub=True)
    assert facts(rows) == [BUNDLED] and "not you" in rows.missing[0]


def test_offline_mode(hub, tmp_path):
    """HF_HUB_OFFLINE is read at import, so by another process."""
    ResnetGenerator.from_pretrained("org/rain")
    code = (
        "from styleforge.discover import styles\n"
        "rows = styles('rain', hub=True)\n"
        "print([row.where for row in rows], rows.missing)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    place = Path(__file__).parents[1]
    hub.log.clear()
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=place)
    assert out.stdout.startswith("['cache'] [") and "offline mode" in out.stdout, out.stderr
    assert not hub.log


def test_a_cache_that_is_a_file_is_told(hub, tmp_path):
    (tmp_path / "file").touch()
    rows = styles(cache_dir=tmp_path / "file")
    assert facts(rows) == [BUNDLED] and "cache of the Hub cannot be looked at" in rows.missing[0]


@pytest.mark.parametrize("name", ["\x1b]0;mine\x07\x1b[2J", ["ResnetGenerator"], None, "Resnet"])
def test_a_class_that_is_none_of_ours_is_not_repeated(hub, name):
    config = json.loads(hub.files("org/rain")["config.json"])
    hub.add("org/rain", {"config.json": json.dumps({**config, "_class_name": name}).encode()})
    for file in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("org/rain", file)
    assert facts(styles()) == sorted([("org/rain", "cache", None), BUNDLED])


def test_a_damaged_configuration_in_the_cache_is_told(hub, tmp_path):
    for name in ("org/rain", "org/Snow"):
        PretrainedMixin.from_pretrained(name)
    [path] = (tmp_path / "cache/models--org--rain/snapshots").glob("*/config.json")
    path.write_bytes(path.read_bytes().replace(b'"width": 2', b'"width": 3'))
    rows = styles()
    assert facts(rows) == [("org/Snow", "cache", "UNetGenerator"), BUNDLED]
    [words] = rows.missing
    assert "config.json was damaged" in words and "org/rain@" in words
    with pytest.raises(CorruptFileError, match="git hash"):
        ResnetGenerator.from_pretrained("org/rain", local_files_only=True)
