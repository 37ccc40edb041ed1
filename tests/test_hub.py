"""Styles in folders and on the Hub: strict, from one commit, without code, and with errors in plain words."""

import copy
import errno
import functools
import itertools
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import huggingface_hub
import pytest
import safetensors.torch
import torch
from effort import growth, resident, seconds
from hub_server import HubServer
from torch import nn

from styleforge import card, configs, files, repos
from styleforge import hub as styleforge_hub
from styleforge.configs import Range
from styleforge.errors import (
    ConfigError,
    CorruptFileError,
    GatedRepo,
    HubUnavailable,
    NonFiniteWeights,
    NotAStyle,
    PushConflict,
    PushRefused,
    RepoNotFound,
    RevisionNotFound,
    UnknownName,
    UnsafeFileError,
    WeightsError,
    WeightsMismatch,
)
from styleforge.hub import PretrainedMixin, bundled_styles, push_folder
from styleforge.models import MODELS, PatchDiscriminator, ResnetGenerator, UNetGenerator

REPO = "org/rain"
NAMES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture(autouse=True)
def fresh(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub without repositories, an empty cache, and a table of classes that forgets those of a test."""
    hub.reset()
    hub.lfs = True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PretrainedMixin, "architectures", dict(PretrainedMixin.architectures))


@pytest.fixture
def network() -> ResnetGenerator:
    return tiny()


@pytest.fixture
def style(network: ResnetGenerator, tmp_path: Path) -> Path:
    """A style in a folder."""
    return network.save_pretrained(tmp_path / "style")


def tiny(seed: int = 0, **config: Any) -> ResnetGenerator:
    torch.manual_seed(seed)
    return ResnetGenerator(**{"width": 2, "blocks": 1, **config})


def bits(network: nn.Module) -> bytes:
    """All tensors with names, types and shapes."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def files_of(network: PretrainedMixin, folder: Path) -> dict[str, bytes]:
    return bytes_of(network.save_pretrained(folder))


def change_config(style: Path, **changes: Any) -> None:
    path = style / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(style: Path, change: Any) -> None:
    path = style / "model.safetensors"
    path.write_bytes(safetensors.torch.save(change(safetensors.torch.load_file(path, backend="pread"))))


def commit_named_in(address: str) -> str:
    return address.rsplit("/", 1)[1]


# -- push and pull --


def test_push_and_pull(hub, network):
    with torch.no_grad():
        network.head.bias.fill_(-0.0)
    address = network.push_to_hub(REPO)
    assert address == f"{hub.url}/{REPO}/commit/{hub.repo(REPO).branches['main']}"
    assert set(hub.files(REPO)) == {*NAMES, ".gitattributes"}
    again = ResnetGenerator.from_pretrained(REPO)
    assert again.config == network.config and bits(again) == bits(network)
    assert not again.training and all(p.requires_grad for p in again.parameters())
    assert not hub.repo(REPO).private
    again.train()(torch.rand(1, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_no_token_goes_to_the_storage(hub, network):
    """On the real Hub large files lie on other hosts."""
    network.push_to_hub(REPO)
    ResnetGenerator.from_pretrained(REPO)
    hosts = {(request.host, request.token) for request in hub.log if request.method in ("GET", "HEAD")}
    assert ("localhost", None) in hosts and ("127.0.0.1", "hf_of_the_tests") in hosts
    assert {token for host, token in hosts if host == "localhost"} == {None}


def test_push_and_pull_without_lfs_and_with_the_uploader_of_xet(hub, network, monkeypatch):
    hub.lfs = False
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    network.push_to_hub(REPO)
    assert len(hub.history(REPO)) == 2
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
    assert tiny(1).push_to_hub(REPO, create_pr=True) == f"{hub.url}/{REPO}/discussions/1"
    assert bits(ResnetGenerator.from_pretrained(REPO, revision="refs/pr/1")) == bits(tiny(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_types_stay_unless_asked(network, dtype):
    network.to(dtype).push_to_hub(REPO)
    again = ResnetGenerator.from_pretrained(REPO)
    assert again.dtype == dtype and bits(again) == bits(network)
    single = ResnetGenerator.from_pretrained(REPO, dtype=torch.float32)
    assert single.dtype == torch.float32 and bits(single) == bits(network.float())


@pytest.mark.parametrize("dtype", ["float16", torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_types_that_nothing_is_computed_in(style, dtype):
    with pytest.raises(ConfigError, match=r"dtype: found .*allowed: torch\.float16"):
        PretrainedMixin.from_pretrained(style, dtype=dtype)


def test_the_table_of_classes_finds_the_class(style, network):
    assert type(PretrainedMixin.from_pretrained(style)) is ResnetGenerator
    assert bits(PretrainedMixin.from_pretrained(str(style))) == bits(network)


def test_one_commit_for_each_push(hub, network):
    for count, seed in enumerate(range(3), start=2):
        tiny(seed).push_to_hub(REPO, commit_message=f"push {seed}")
        assert len(hub.history(REPO)) == count and hub.history(REPO)[0].title == f"push {seed}"
    tiny(2).push_to_hub(REPO)
    assert len(hub.history(REPO)) == 4  # nothing new, no commit


def test_a_card_edited_on_the_hub_stays(hub, network):
    network.push_to_hub(REPO)
    hub.add(REPO, {"README.md": b"---\nlicense: mit\n---\nMy words"})
    tiny(1).push_to_hub(REPO)
    assert hub.files(REPO)["README.md"] == b"---\nlicense: mit\n---\nMy words"
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(tiny(1))


def test_a_card_on_another_branch_does_not_count(hub, network):
    hub.add(REPO, {"x": b"1"})
    hub.repo(REPO).branches["v2"] = hub.repo(REPO).branches["main"]
    hub.add(REPO, {"README.md": b"only on main"})
    network.push_to_hub(REPO, revision="v2")
    assert b"styleforge" in hub.files(REPO, "v2")["README.md"]
    assert set(hub.files(REPO)) == {"x", "README.md"}


def test_the_card_names_the_repository(hub, network):
    network.push_to_hub(REPO, card_facts={"license": "mit"})
    text = hub.files(REPO)["README.md"].decode()
    assert f'StylePipeline.from_pretrained("{REPO}")' in text and "license: mit" in text
    found = huggingface_hub.HfApi().list_models(filter=["styleforge", "ResnetGenerator"])
    assert [model.id for model in found] == [REPO]


def test_push_leaves_out_what_is_no_part_of_a_style(hub, style):
    for name in (".secret", "x.tmp", "optimizer.pt", "old.ckpt", "deep/model.bin", "deep/.env", "deep/a.pkl"):
        files.write_text(style / name, "x")
    files.write_text(style / "samples/a.txt", "a sample")
    push_folder(style, REPO)
    assert set(hub.files(REPO)) == {*NAMES, ".gitattributes", "samples/a.txt"}


def test_push_of_what_is_no_style(hub, tmp_path, style):
    with pytest.raises(RepoNotFound, match="No such folder"):
        push_folder(tmp_path / "nothing", REPO)
    (style / "model.safetensors").unlink()
    with pytest.raises(NotAStyle):
        push_folder(style, REPO)
    assert not hub.log


def test_pull_request(hub, network):
    network.push_to_hub(REPO)
    address = tiny(1).push_to_hub(REPO, create_pr=True)
    assert address == f"{hub.url}/{REPO}/discussions/1"
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
    assert bits(ResnetGenerator.from_pretrained(REPO, revision="refs/pr/1")) == bits(tiny(1))
    with pytest.raises(PushRefused, match="create_pr"):
        tiny(1).push_to_hub(REPO, create_pr=True, revision="v1")


def test_of_two_pushes_at_once_the_second_is_refused(hub, network):
    network.push_to_hub(REPO)

    def overtake(request):
        if request.method == "POST" and "/commit/" in request.path:
            hub.before = None
            hub.add(REPO, {"x": b"overtaken"})

    hub.before = overtake
    with pytest.raises(PushConflict, match="Somebody else"):
        tiny(1).push_to_hub(REPO)
    assert hub.before is None
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)


def test_a_card_of_a_run_learns_where_it_lives(hub, network, tmp_path):
    folder = network.save_pretrained(tmp_path / "style")
    before = (folder / "README.md").read_text()
    assert '"organisation/name"' in before
    push_folder(folder, REPO)
    assert f'from_pretrained("{REPO}")' in hub.files(REPO)["README.md"].decode()
    assert (folder / "README.md").read_text() == before


def test_private(hub, network):
    network.push_to_hub(REPO, private=True)
    assert hub.repo(REPO).private
    with pytest.raises(RepoNotFound, match="private one needs token="):
        ResnetGenerator.from_pretrained(REPO, token=False)
    hub.log.clear()
    assert bits(ResnetGenerator.from_pretrained(REPO, token="hf_mine")) == bits(network)
    assert {request.token for request in hub.log if request.host == "127.0.0.1"} == {"hf_mine"}


def test_private_weights_do_not_go_to_a_public_repository(hub, network):
    hub.add(REPO, {"README.md": b"public"})
    with pytest.raises(PushRefused, match="public"):
        network.push_to_hub(REPO, private=True)
    assert set(hub.files(REPO)) == {"README.md"}


@pytest.mark.parametrize(
    ("repo", "options", "error", "words"),
    [
        ("someone/rain", {}, PushRefused, "don't have the rights"),
        (REPO, {"token": False}, PushRefused, "hf auth login"),
        (REPO, {"revision": "v9"}, RevisionNotFound, "'v9'"),
        ("org/not a name", {}, RepoNotFound, "no name of a repository"),
    ],
)
def test_refused_pushes(hub, network, repo, options, error, words):
    hub.add(REPO, {"x": b"1"})
    with pytest.raises(error, match=words):
        network.push_to_hub(repo, **options)
    assert set(hub.files(REPO)) == {"x"}


# -- which commit --


def test_both_files_come_from_one_commit(hub, network, tmp_path):
    """Somebody pushes another network between our two downloads."""
    hub.add(REPO, files_of(network, tmp_path / "old"))
    new = files_of(tiny(1), tmp_path / "new")

    def push(request):
        if request.method == "GET" and request.path.endswith("config.json"):
            hub.before = None
            hub.add(REPO, new)

    hub.before = push
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
    assert hub.before is None
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(tiny(1))
    found = styleforge_hub.fetch(REPO)
    assert found.commit == hub.repo(REPO).branches["main"] and found.where == f"{REPO}@{found.commit[:8]}"


def test_branch_tag_and_commit(hub, network):
    first = commit_named_in(network.push_to_hub(REPO))
    hub.repo(REPO).tags["v1"] = first
    hub.repo(REPO).branches["wip"] = first
    tiny(1).push_to_hub(REPO)
    tiny(2).push_to_hub(REPO, revision="wip")
    for revision, seed in ((first, 0), (first[:10], 0), ("v1", 0), ("main", 1), (None, 1), ("wip", 2)):
        assert bits(ResnetGenerator.from_pretrained(REPO, revision=revision)) == bits(tiny(seed)), revision
    for revision in ("v2", "0" * 40, "x y"):
        with pytest.raises(RevisionNotFound, match=revision):
            ResnetGenerator.from_pretrained(REPO, revision=revision)


def test_subfolder(hub, network, style, tmp_path):
    folder = {f"reverse/deep/{name}": data for name, data in files_of(tiny(1), tmp_path / "new").items()}
    hub.add(REPO, {**bytes_of(style), **folder})
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
    assert bits(ResnetGenerator.from_pretrained(REPO, subfolder="reverse/deep")) == bits(tiny(1))
    for place in (style, REPO):
        assert bits(ResnetGenerator.from_pretrained(place, subfolder=None)) == bits(network)
    tiny(1).save_pretrained(style / "reverse")
    assert bits(ResnetGenerator.from_pretrained(style, subfolder="reverse")) == bits(tiny(1))
    with pytest.raises(NotAStyle, match=r"deep/config\.json"):
        ResnetGenerator.from_pretrained(REPO, subfolder="reverse")
    hub.add(REPO, {"old/model.pth": b"x"})
    with pytest.raises(UnsafeFileError, match=r"/old: model\.pth"):
        ResnetGenerator.from_pretrained(REPO, subfolder="old")
    with pytest.raises(RepoNotFound, match="No such folder"):
        ResnetGenerator.from_pretrained(style, subfolder="nothing")


@pytest.mark.parametrize(
    "subfolder", ["..", "../style", "a/../../style", "/etc", "C:\\", "C:x", "a\\..\\..\\b", "\\\\host\\x"]
)
def test_a_subfolder_lies_inside(hub, style, subfolder):
    hub.add(REPO, bytes_of(style))
    for name in (style, REPO):
        with pytest.raises(UnsafeFileError, match="inside"):
            ResnetGenerator.from_pretrained(name, subfolder=subfolder)
    assert not hub.log


# -- names --


@pytest.mark.parametrize(
    "name",
    [
        *("no-such-style", "", "../x", "./org/x", "/org/x", "~/x", "a/b/c", "org/", "https://hub/x", "C:\\x"),
        *("a\0b", "x" * 5000, "model.pth", "../models", Path("org/rain")),
    ],
    ids=lambda name: repr(name)[:20],
)
def test_no_such_name(hub, style, name):
    hub.add(REPO, bytes_of(style))
    with pytest.raises(RepoNotFound) as caught:
        ResnetGenerator.from_pretrained(name)
    assert len(str(caught.value)) < 1000
    assert not hub.log  # no name of a repository, so nobody is asked


@pytest.mark.parametrize(
    ("name", "error"),
    [("style.pth", UnsafeFileError), ("STYLE.CKPT", UnsafeFileError), ("x.safetensors", NotAStyle), ("x", NotAStyle)],
)
def test_a_file_is_no_style(tmp_path, name, error):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(error, match=r"config\.json"):
        ResnetGenerator.from_pretrained(tmp_path / name)


def test_a_folder_comes_first(hub, tmp_path, monkeypatch):
    hub.add(REPO, files_of(tiny(0), tmp_path / "hub"))
    tiny(1).save_pretrained(tmp_path / REPO)
    monkeypatch.chdir(tmp_path)
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(tiny(1))
    assert not hub.log


def test_bundled_styles(hub, tmp_path, monkeypatch):
    tiny(1).save_pretrained(tmp_path / "styles/rain-monet")
    monkeypatch.setattr(repos, "BUNDLED", tmp_path / "styles")
    assert bundled_styles() == ["rain-monet"]
    assert bits(ResnetGenerator.from_pretrained("rain-monet")) == bits(tiny(1))
    with pytest.raises(RepoNotFound, match=r"bundled rain-monet\. Did you mean 'rain-monet'\?"):
        ResnetGenerator.from_pretrained("rain_monet")
    with hub.down(), pytest.raises(HubUnavailable, match="bundled style: rain-monet"):
        ResnetGenerator.from_pretrained(REPO)


def test_no_such_repository(hub):
    with pytest.raises(RepoNotFound, match="org/rain"):
        ResnetGenerator.from_pretrained(REPO)
    with pytest.raises(RepoNotFound, match="org/rain"):
        ResnetGenerator.from_pretrained(REPO, token=False)


def test_gated(hub, style):
    hub.add(REPO, bytes_of(style), gated=True)
    for token in (None, False):
        with pytest.raises(GatedRepo, match="Accept its terms"):
            ResnetGenerator.from_pretrained(REPO, token=token)


def test_access_refused(hub, style):
    from hub_server import Refusal

    hub.add(REPO, bytes_of(style))

    def refuse(request):
        raise Refusal(401, "", "Invalid credentials in Authorization header")

    hub.before = refuse
    with pytest.raises(GatedRepo, match="hf auth whoami"):
        ResnetGenerator.from_pretrained(REPO)


# -- offline --


def test_from_the_cache(hub, network):
    commit = commit_named_in(network.push_to_hub(REPO))
    with hub.down(), pytest.raises(HubUnavailable):
        ResnetGenerator.from_pretrained(REPO)
    with pytest.raises(HubUnavailable):
        ResnetGenerator.from_pretrained(REPO, local_files_only=True)
    ResnetGenerator.from_pretrained(REPO)
    tiny(1).push_to_hub(REPO)
    hub.log.clear()
    for revision in (None, "main", commit):
        again = ResnetGenerator.from_pretrained(REPO, local_files_only=True, revision=revision)
        assert bits(again) == bits(network)
    assert not hub.log
    with hub.down():
        assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
        with pytest.raises(HubUnavailable, match="refused"):
            ResnetGenerator.from_pretrained(REPO, force_download=True)
        with pytest.raises(HubUnavailable):
            ResnetGenerator.from_pretrained(REPO, local_files_only=True, revision="v9")
        with pytest.raises(HubUnavailable):
            ResnetGenerator.from_pretrained(REPO, local_files_only=True, subfolder="x")
    with pytest.raises(HubUnavailable, match="at the same time"):
        ResnetGenerator.from_pretrained(REPO, local_files_only=True, force_download=True)
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(tiny(1))


def test_a_pinned_commit_in_the_cache_asks_nobody(hub, network):
    commit = commit_named_in(network.push_to_hub(REPO))
    ResnetGenerator.from_pretrained(REPO, revision=commit)
    hub.log.clear()
    ResnetGenerator.from_pretrained(REPO, revision=commit)
    assert not hub.log


def test_cache_dir(hub, network, tmp_path):
    network.push_to_hub(REPO)
    ResnetGenerator.from_pretrained(REPO, cache_dir=tmp_path / "elsewhere")
    assert not (tmp_path / "cache").exists()
    with hub.down():
        assert bits(ResnetGenerator.from_pretrained(REPO, cache_dir=tmp_path / "elsewhere")) == bits(network)


def test_push_without_a_hub(hub, network):
    with hub.down(), pytest.raises(HubUnavailable, match="push again"):
        network.push_to_hub(REPO)


def test_offline_mode(hub, network, tmp_path):
    """HF_HUB_OFFLINE is read at import, so by another process; its Hub is one that does not answer.

    That process also shows that loading a network does not load torch's compiler, which takes most of a second.
    """
    network.push_to_hub(REPO)
    ResnetGenerator.from_pretrained(REPO)
    code = (
        "import sys\n"
        "from styleforge.models import ResnetGenerator\n"
        "from styleforge.errors import HubUnavailable\n"
        f"print(ResnetGenerator.from_pretrained('{REPO}').config['width'], 'torch._dynamo' in sys.modules)\n"
        "for act in (lambda: ResnetGenerator.from_pretrained('org/other'),\n"
        f"            lambda: ResnetGenerator(width=2, blocks=0).push_to_hub('{REPO}')):\n"
        "    try: act()\n"
        "    except HubUnavailable as error: print(error)\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    hub.log.clear()
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert result.returncode == 0, result.stderr
    loaded, missing, push = result.stdout.splitlines()
    assert loaded == "2 False" and "org/other" in missing and "HF_HUB_OFFLINE" in missing and "offline mode" in push
    assert not hub.log


# -- damage on the way --


def test_a_flipped_bit_is_found(hub, network):
    """The length is right, the tensors are finite: only the hash tells."""
    network.push_to_hub(REPO)
    hub.damage["model.safetensors"] = lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
    for _ in range(2):  # the second time from the cache
        with pytest.raises(CorruptFileError, match=r"SHA-256.*force_download=True"):
            ResnetGenerator.from_pretrained(REPO)
    hub.damage.clear()
    assert bits(ResnetGenerator.from_pretrained(REPO, force_download=True)) == bits(network)
    assert bits(ResnetGenerator.from_pretrained(REPO, local_files_only=True)) == bits(network)


def test_the_cache_may_share_files_between_repositories(hub, network, tmp_path):
    """With Xet, the client moves a file into a store, under Xet's hash, and leaves a link."""
    network.push_to_hub(REPO)
    ResnetGenerator.from_pretrained(REPO)
    [blob] = large_blobs(tmp_path)
    store = tmp_path / "cache" / ("0123456789abcdef" * 4)
    blob.rename(store)
    blob.symlink_to(store)
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
    data = bytearray(store.read_bytes())
    data[-2] ^= 1
    store.write_bytes(data)
    with pytest.raises(CorruptFileError, match="SHA-256"):
        ResnetGenerator.from_pretrained(REPO)


def large_blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("blobs/*") if len(path.name) == 64]


def test_a_download_cut_short(hub, network):
    network.push_to_hub(REPO)
    for name in ("config.json", "model.safetensors"):
        hub.damage = {name: lambda data: data[:-100]}
        with pytest.raises(HubUnavailable, match="Consistency check failed"):
            ResnetGenerator.from_pretrained(REPO)
    hub.damage = {}
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)


def test_a_file_cut_in_the_cache(hub, network, tmp_path):
    network.push_to_hub(REPO)
    ResnetGenerator.from_pretrained(REPO)
    [blob] = large_blobs(tmp_path)
    os.truncate(blob, 1000)
    with pytest.raises(CorruptFileError, match="force_download=True"):
        ResnetGenerator.from_pretrained(REPO)
    assert bits(ResnetGenerator.from_pretrained(REPO, force_download=True)) == bits(network)


CACHED = ("config.json", "model.safetensors", *(f"training/{n}" for n in ("manifest.json", "networks.safetensors")))


@pytest.mark.parametrize("name", CACHED)
def test_a_flipped_bit_in_any_file_of_the_cache_is_found(hub, style, tmp_path, name):
    """Small files are known by git's hash, large ones by their SHA-256; which bit it is does not matter."""
    files.write_text(style / "training/manifest.json", json.dumps({"note": "x"}))
    (style / "training/networks.safetensors").write_bytes(b"others" * 99)
    hub.add(REPO, bytes_of(style))
    commit = hub.repo(REPO).branches["main"]

    def load() -> None:
        styleforge_hub.fetch(REPO)
        for beside in CACHED[2:]:
            styleforge_hub.fetch_file(REPO, beside, commit=commit, digest="")

    load()
    [path] = (tmp_path / "cache").glob(f"models--*/snapshots/*/{name}")
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 7)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=rf"{Path(name).name} was damaged.*force_download=True"):
            load()
    path.write_bytes(whole)
    load()


def test_a_flipped_bit_in_a_small_file_on_its_way(hub, network):
    network.push_to_hub(REPO)
    hub.damage["config.json"] = lambda data: data.replace(b'"width": 2', b'"width": 3')
    for _ in range(2):  # the second time from the cache
        with pytest.raises(CorruptFileError, match=r"config\.json was damaged.*git hash.*force_download=True"):
            ResnetGenerator.from_pretrained(REPO)
    hub.damage.clear()
    assert bits(ResnetGenerator.from_pretrained(REPO, force_download=True)) == bits(network)


def cutting(name: str, after: int) -> Callable[[Any], int | None]:
    """Every download of a file breaks off after so many bytes."""
    return lambda request: after if request.method == "GET" and request.path.endswith(name) else None


def large_name(hub: HubServer) -> str:
    return hub.repo(REPO).find("main").tree["model.safetensors"].sha256


@pytest.fixture
def impatient(monkeypatch):
    """The client does not wait before it tries again, and keeps every kilobyte."""
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)


def test_a_transfer_that_breaks_off_again_and_again_goes_on_where_it_was(hub, network, impatient):
    network.push_to_hub(REPO)
    hub.cut = cutting(large_name(hub), 9000)
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)
    assert (
        len([r for r in hub.log if r.range and "/lfs/" in r.path]) == len(hub.files(REPO)["model.safetensors"]) // 9000
    )


def test_a_transfer_without_end_says_which_cached_revision_could_be_used(hub, network, impatient):
    first = commit_named_in(network.push_to_hub(REPO))
    hub.cut = cutting(large_name(hub), 0)
    with pytest.raises(HubUnavailable, match="the cache does not hold this style") as caught:
        ResnetGenerator.from_pretrained(REPO)
    assert "revision=" not in str(caught.value)
    hub.cut = lambda request: None
    ResnetGenerator.from_pretrained(REPO)
    second = commit_named_in(tiny(1).push_to_hub(REPO))
    for name in (large_name(hub), "config.json"):
        hub.cut = cutting(name, 0)
        if name == "config.json":
            change = {"config.json": b'{"_class_name": "ResnetGenerator", "width": 2, "blocks": 1, "dropout": false}'}
            hub.add(REPO, change)
        with pytest.raises(HubUnavailable, match=f"use what the cache holds whole: revision='{first}'") as caught:
            ResnetGenerator.from_pretrained(REPO)
        assert "the cache does not hold" not in str(caught.value)
    with hub.down():
        with pytest.raises(HubUnavailable, match=first):  # `main` is now the one that is not whole
            ResnetGenerator.from_pretrained(REPO)
        assert bits(ResnetGenerator.from_pretrained(REPO, revision=first)) == bits(network)
    hub.cut = lambda request: None
    assert bits(ResnetGenerator.from_pretrained(REPO, revision=second)) == bits(tiny(1))


def test_a_cached_revision_that_is_damaged_is_not_recommended(hub, network, tmp_path, impatient):
    network.push_to_hub(REPO)
    ResnetGenerator.from_pretrained(REPO)
    [blob] = large_blobs(tmp_path)
    os.truncate(blob, 1000)
    with hub.down(), pytest.raises(HubUnavailable, match="the cache does not hold this style"):
        ResnetGenerator.from_pretrained(REPO, force_download=True)


def test_a_slow_transfer_arrives(hub, network):
    network.push_to_hub(REPO)
    hub.pace = 0.01
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)


@pytest.mark.parametrize(
    ("headers", "words"), [({"RateLimit": '"api";r=0;t=42'}, "in 42 seconds"), ({}, "in some minutes")]
)
def test_too_many_requests(hub, network, headers, words):
    from hub_server import Refusal

    network.push_to_hub(REPO)

    def refuse(request):
        raise Refusal(429, "", "slow down", **headers)

    hub.before = refuse
    with pytest.raises(HubUnavailable, match=f"asks to wait.*{words}"):
        ResnetGenerator.from_pretrained(REPO)


def test_the_hub_goes_away_between_two_files(hub, network):
    network.push_to_hub(REPO)

    def leave(request):
        if request.path.endswith("model.safetensors"):
            hub.before = None
            hub.stop()

    hub.before = leave
    try:
        with pytest.raises(HubUnavailable, match="org/rain"):
            ResnetGenerator.from_pretrained(REPO)
        with pytest.raises(HubUnavailable, match="org/rain"):
            ResnetGenerator.from_pretrained(REPO, local_files_only=True)
    finally:
        hub.start()
    assert bits(ResnetGenerator.from_pretrained(REPO)) == bits(network)


# -- files that cannot be used --


DAMAGE = {
    "cut": (lambda data: data[:-1], CorruptFileError),
    "empty": (lambda data: b"", CorruptFileError),
    "garbage": (lambda data: data[:8] + b"\xff" * 200 + data[208:], CorruptFileError),
    "longer": (lambda data: data + b"x", CorruptFileError),
    "html": (lambda data: b"<html>Not found</html>", CorruptFileError),
    "pickle": (lambda data: pickle.dumps({"a": 1}), CorruptFileError),
    "odd name": (lambda data: data.replace(b"head.bias", b"../../ias"), UnsafeFileError),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_weights(style, name):
    change, error = DAMAGE[name]
    path = style / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(error, match=r"model\.safetensors"):
        ResnetGenerator.from_pretrained(style)


MISFITS = {
    "missing": (lambda t: {k: v for k, v in t.items() if k != "head.bias"}, r"1 missing \(head\.bias\)"),
    "unexpected": (lambda t: {**t, "extra": torch.ones(2)}, r"1 unexpected \(extra\)"),
    "misshapen": (lambda t: {**t, "head.bias": torch.ones(4)}, r"1 misfit \(head\.bias \(4,\) instead of \(3,\)\)"),
    "transposed": (
        lambda t: {**t, "head.weight": t["head.weight"].transpose(0, 1).contiguous()},
        r"misfit \(head\.weight",
    ),
    "renamed": (lambda t: {k.replace("head.", "tail."): v for k, v in t.items()}, r"2 missing .* and 2 unexpected"),
    "mistyped": (
        lambda t: {**t, "head.bias": torch.ones(3, dtype=torch.int64)},
        r"1 mistyped \(head\.bias of type I64",
    ),
    "nothing": (lambda t: {}, r"missing \(.*, \.\.\.\)"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit(style, name):
    change, words = MISFITS[name]
    change_weights(style, change)
    with pytest.raises(WeightsMismatch, match=words):
        ResnetGenerator.from_pretrained(style)


def test_counters_keep_their_type(tmp_path):
    style = tiny(norm="batch").save_pretrained(tmp_path)
    change_weights(style, lambda t: {**t, "stem_norm.num_batches_tracked": torch.tensor(True)})
    with pytest.raises(WeightsMismatch, match=r"stem_norm\.num_batches_tracked of type BOOL"):
        ResnetGenerator.from_pretrained(style)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(style, network, value, tmp_path):
    def change(tensors):
        tensors["head.bias"][1] = value
        return tensors

    change_weights(style, change)
    with pytest.raises(NonFiniteWeights, match=r"head\.bias"):
        ResnetGenerator.from_pretrained(style)
    with torch.no_grad():
        network.head.bias[1] = value
    with pytest.raises(NonFiniteWeights, match=r"head\.bias"):
        network.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_half_a_style(hub, style, name):
    (style / name).unlink()
    hub.add(REPO, bytes_of(style))
    for place in (style, REPO):
        with pytest.raises(NotAStyle, match=r"README\.md"):
            ResnetGenerator.from_pretrained(place)


class Trap:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "style.pth", "latest_net_G.PT"])
def test_pickles_are_not_read(hub, style, tmp_path, name, with_config):
    mark = tmp_path / "mark"
    (style / name).write_bytes(pickle.dumps(Trap(mark)))
    pickle.loads((style / name).read_bytes())
    assert mark.is_dir()  # the trap works
    mark.rmdir()
    (style / "model.safetensors").unlink()
    if not with_config:
        (style / "config.json").unlink()
    hub.add(REPO, bytes_of(style))
    for place in (style, REPO):
        with pytest.raises(UnsafeFileError, match=name):
            ResnetGenerator.from_pretrained(place)
    assert not mark.exists()
    assert not [request for request in hub.log if request.path.endswith(name)]


def test_a_pickle_beside_the_weights_is_ignored(style, network):
    (style / "pytorch_model.bin").write_bytes(b"x")
    assert bits(ResnetGenerator.from_pretrained(style)) == bits(network)


# -- configurations that cannot be used --


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", CorruptFileError),
        (b"{", CorruptFileError),
        (b"\xff\xfe", CorruptFileError),
        (b"[]", CorruptFileError),
        (b'"x"', CorruptFileError),
        (b"null", CorruptFileError),
        (b'{"width": 2, "width": 4}', CorruptFileError),
        (b"[" * 30_000, CorruptFileError),
        (b'{"a":' * 10_000, CorruptFileError),
        (b'{"width": ' + b"9" * 5000 + b"}", CorruptFileError),
        (b"{}", NotAStyle),
        (b'{"_class_name": null}', NotAStyle),
        (b'{"_class_name": [' + b"1," * 20_000 + b"1]}", NotAStyle),
        (b'{"_class_name": ["ResnetGenerator"]}', NotAStyle),
        (b'{"model_type": "bert"}', NotAStyle),
    ],
    ids=lambda value: str(value)[:24],
)
def test_configs_that_are_none(hub, style, text, error):
    (style / "config.json").write_bytes(text)
    hub.add(REPO, bytes_of(style))
    for place in (style, REPO):
        with pytest.raises(error, match=r"config\.json") as caught:
            ResnetGenerator.from_pretrained(place)
        assert len(str(caught.value)) < 1000


def test_a_config_of_100_kilobytes(style):
    """Nothing is wrong with it but its size."""
    path = style / "config.json"
    path.write_bytes(path.read_bytes() + b" " * 100_000)
    with pytest.raises(ConfigError, match=r"config\.json is too large"):
        ResnetGenerator.from_pretrained(style)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("widht", 2, r"'widht'.*Did you mean 'width'\?"),
        ("strict", False, "'strict'"),
        ("map_location", "meta", "'map_location'"),
        ("token", "hf_x", "'token'"),
        ("self", 1, "'self'"),
        ("trust_remote_code", True, "'trust_remot"),
        ("dropout", 1, "'dropout'.*true or false"),
        ("blocks", True, "'blocks'.*a whole number"),
        ("blocks", "8", "'blocks'.*found '8'"),
        ("blocks", 1.0, "'blocks'"),
        ("blocks", None, "'blocks'"),
        ("blocks", float("nan"), "'blocks'.*found nan"),
        ("width", float("inf"), "'width'.*found inf"),
        ("width", 0, "'width'.*1 to 1024"),
        ("width", 1025, "'width'.*1 to 1024"),
        ("blocks", 10**6, "'blocks'.*0 to 64"),
        ("norm", "layer", "'norm'.*'instance'.*'batch'"),
        ("norm", ["instance"], "'norm'"),
        ("_class_name", "ResnetGenrator", r"Did you mean 'ResnetGenerator'\?"),
        ("_class_name", "", "Unknown architecture"),
    ],
)
def test_configs_that_are_refused(style, key, value, words):
    change_config(style, **{key: value})
    with pytest.raises(ConfigError, match=words) as caught:
        ResnetGenerator.from_pretrained(style)
    assert str(style) in str(caught.value)


def test_1e400_is_no_number(style):
    path = style / "config.json"
    path.write_text(path.read_text().replace('"width": 2', '"width": 1e400'))
    with pytest.raises(ConfigError, match=r"'width'.*found inf"):
        ResnetGenerator.from_pretrained(style)


def test_private_keys_of_other_libraries_steer_nothing(style, network):
    change_config(style, _attn_implementation="evil/kernel", _anything=[1], _styleforge_version="99")
    assert ResnetGenerator.from_pretrained(style).config == network.config


def test_a_missing_setting_takes_its_default(style, network):
    """So a new version may add one."""
    path = style / "config.json"
    config = json.loads(path.read_text())
    del config["dropout"], config["norm"]
    path.write_text(json.dumps(config))
    assert bits(ResnetGenerator.from_pretrained(style)) == bits(network)


def test_the_wrong_class(style):
    with pytest.raises(
        ConfigError, match=r"not a UNetGenerator.*found ResnetGenerator.*ResnetGenerator\.from_pretrained"
    ):
        UNetGenerator.from_pretrained(style)


AUDIT: list[str] | None = None


@pytest.fixture
def audit():
    """What the interpreter imports, runs or opens on the network, as it tells its auditors."""
    global AUDIT
    add_listener()
    AUDIT = []
    yield AUDIT
    AUDIT = None


@functools.cache
def add_listener() -> None:
    sys.addaudithook(listen)  # for good: there is no way to take it off


def listen(event: str, arguments: tuple) -> None:
    if AUDIT is not None and event in ("import", "exec", "subprocess.Popen", "os.system", "socket.connect", "compile"):
        AUDIT.append(f"{event} {arguments[0] if arguments else ''}")


@pytest.mark.parametrize(
    "name",
    [
        "antigravity.ResnetGenerator",
        "antigravity",
        "os.system",
        "styleforge.train.TrainConfig",
        "__main__.X",
        "../x.py",
    ],
)
def test_no_module_is_imported_by_name(style, audit, name):
    ResnetGenerator.from_pretrained(style)  # so that all of our own is loaded
    change_config(style, _class_name=name, auto_map={"AutoModel": "antigravity.X"})
    before = set(sys.modules)
    audit.clear()
    with pytest.raises(UnknownName, match="Unknown architecture"):
        PretrainedMixin.from_pretrained(style)
    assert set(sys.modules) == before and not audit, audit
    compile("1", "x", "eval")
    assert audit  # it does listen


def test_loading_runs_nothing(style, audit):
    ResnetGenerator.from_pretrained(style)
    audit.clear()
    ResnetGenerator.from_pretrained(style)
    assert not audit, audit


BOMBS = [
    (ResnetGenerator, {"width": 1024, "blocks": 64, "in_channels": 64, "out_channels": 64}),
    (UNetGenerator, {"width": 1024, "downs": 10}),
    (PatchDiscriminator, {"width": 1024, "layers": 8, "spectral_norm": True}),
]


@resident
@pytest.mark.parametrize(("cls", "config"), BOMBS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_largest_configuration_costs_nothing(tmp_path, cls, config):
    """Networks of gigabytes that a config may ask for, with a file that does not hold them."""
    style = tiny().save_pretrained(tmp_path)

    def refuse(config):
        (style / "config.json").write_text(json.dumps({"_class_name": cls.__name__, **config}))
        with pytest.raises(WeightsMismatch):
            cls.from_pretrained(style)

    refuse({**config, "width": 1})  # imports what torch needs for this
    assert growth(lambda: refuse(config)) < 50e6
    assert seconds(lambda: refuse(config)) < 3 * seconds(lambda: refuse({**config, "width": 1}))


# -- saving --


def test_config_holds_every_argument(style, network):
    assert json.loads((style / "config.json").read_text()) == {
        "_class_name": "ResnetGenerator",
        "_styleforge_version": styleforge_hub.__version__,
        **configs.defaults(ResnetGenerator.__init__),
        "width": 2,
        "blocks": 1,
    }
    with safetensors.safe_open(style / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_same_network_gives_the_same_files(network, tmp_path):
    """So a push of nothing new is no commit, and a training can be compared by its hashes."""
    first = bytes_of(network.save_pretrained(tmp_path / "0"))
    for count in range(1, 8):
        assert bytes_of(copy.deepcopy(network).save_pretrained(tmp_path / str(count))) == first


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_file_modes_follow_the_umask(tmp_path, network, umask, mode):
    before = os.umask(umask)
    try:
        style = network.save_pretrained(tmp_path / "style")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in style.iterdir()} == {mode}


def test_a_second_save_keeps_card_and_other_files(style):
    (style / "README.md").write_text("mine")
    (style / "samples").mkdir()
    tiny(1, blocks=2).save_pretrained(style, card_facts={"name": "other"})
    assert (style / "README.md").read_text() == "mine" and (style / "samples").is_dir()
    assert bits(ResnetGenerator.from_pretrained(style)) == bits(tiny(1, blocks=2))


def test_saving_into_the_folder_that_is_here(tmp_path, network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network.save_pretrained(".")
    assert bits(ResnetGenerator.from_pretrained(".")) == bits(network)
    assert set(os.listdir(tmp_path)) == NAMES


FAULTS = [
    (Path, "write_bytes"),
    (Path, "mkdir"),
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "link"),
    (safetensors.torch, "save_file"),
    (card, "render"),
]


def fails_once(function: Callable, number: int) -> Callable:
    """`function`, but its call of this number (the first is 0) finds the disk full, after half of the data."""
    calls = itertools.count()

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) != number:
            return function(*arguments, **options)
        if function is WRITE_BYTES:
            function(arguments[0], arguments[1][: len(arguments[1]) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    return failing


WRITE_BYTES = Path.write_bytes


@pytest.mark.parametrize("exists", [True, False], ids=["over a style", "new"])
@pytest.mark.parametrize(("place", "name"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_disk_that_is_full_at_any_moment(tmp_path, monkeypatch, place, name, exists):
    """Whichever call fails: the folder holds exactly the old style or, when all was in place, the new one."""
    old, new = tiny(0, norm="batch"), tiny(1, norm="batch", dropout=True, upsample="blur")
    for number in itertools.count():
        parent = tmp_path / str(number)
        folder = parent / "style"
        parent.mkdir()
        if exists:
            old.save_pretrained(folder)
            (folder / "README.md").unlink()  # so that one file is new
        before = bytes_of(parent)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fails_once(getattr(place, name), number))
            try:
                new.save_pretrained(folder)
                failed = False
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failed = True
        if failed and bytes_of(parent) == before:
            assert os.listdir(parent) == (["style"] if exists else [])  # no empty folders either
            assert not exists or bits(ResnetGenerator.from_pretrained(folder)) == bits(old)
            continue
        assert not failed or name == "fsync"  # the last, of the folder
        assert bits(ResnetGenerator.from_pretrained(folder)) == bits(new)
        assert ResnetGenerator.from_pretrained(folder).config == new.config
        assert set(os.listdir(folder)) == NAMES and os.listdir(parent) == ["style"]
        if not failed:
            assert number or name in ("rename", "link")  # there is another way when these fail
            break


def test_readers_while_a_writer_saves(tmp_path):
    """They see one or the other of two networks, never something between."""
    networks = [tiny(0), tiny(1)]
    allowed = {bits(network) for network in networks}
    networks[0].save_pretrained(tmp_path / "style")
    seen, problems, done = set(), [], threading.Event()

    def read():
        try:
            while not done.is_set():
                seen.add(bits(ResnetGenerator.from_pretrained(tmp_path / "style")))
        except Exception as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for count in range(12):
        networks[count % 2].save_pretrained(tmp_path / "style")
    done.set()
    for reader in readers:
        reader.join()
    assert not problems and seen == allowed
    assert set(os.listdir(tmp_path / "style")) == NAMES


# -- networks of all kinds --


def changed(cls: type[PretrainedMixin]) -> dict[str, Any]:
    """A configuration of which every value differs from its default, and small."""
    config = {}
    for name, parameter in configs.schema(cls.__init__).items():
        kind, default = parameter.annotation, parameter.default
        if kind is bool:
            config[name] = not default
        elif get_origin(kind) is Literal:
            config[name] = next(value for value in get_args(kind) if value != default)
        elif name == "size":
            config[name] = 16
        else:
            bounds = next(part for part in get_args(kind) if isinstance(part, Range))
            if get_args(kind)[0] is float:
                config[name] = (bounds.low + bounds.high) / 2
            else:
                config[name] = int(bounds.low) + (1 if int(bounds.low) + 1 != default else 2)
    return config


def small(cls: type[PretrainedMixin]) -> dict[str, Any]:
    """The defaults, but for the numbers that make a network large."""
    parameters = configs.schema(cls.__init__)
    names = [name for name in ("width", "blocks", "downs", "layers") if name in parameters]
    bounds = {n: next(p for p in get_args(parameters[n].annotation) if isinstance(p, Range)) for n in names}
    return {name: max(2, int(bounds[name].low)) for name in names}


def inputs(network: PretrainedMixin) -> tuple[torch.Tensor, ...]:
    """What `network` takes."""
    can, channels = network.capabilities, network.config.get("in_channels", 3)
    if can.inputs == ("noise",):
        return (torch.randn(2, network.config["noise_size"]),)
    side = -(-max(32, can.smallest) // can.multiple) * can.multiple
    return tuple(torch.rand(2, channels, side, side) for _ in can.inputs)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("kind", ["default", "changed"])
def test_every_network_round_trips(tmp_path, cls, kind):
    config = changed(cls) if kind == "changed" else small(cls)
    if kind == "changed":
        assert not {name for name, value in config.items() if value == configs.defaults(cls.__init__)[name]}
    network = cls(**config)
    given = inputs(network)
    network.train()(*given)  # moves running statistics and the vectors of spectral norm
    style = network.eval().save_pretrained(tmp_path / "style")
    stored = json.loads((style / "config.json").read_text())
    assert set(stored) - {"_class_name", "_styleforge_version"} == set(configs.schema(cls.__init__))
    assert {name: stored[name] for name in config} == config
    random = torch.get_rng_state()
    again = PretrainedMixin.from_pretrained(style)
    assert torch.equal(torch.get_rng_state(), random)  # nothing was drawn
    assert type(again) is cls and again.config == network.config and bits(again) == bits(network)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    assert [name for name, _ in again.named_modules()] == [name for name, _ in network.named_modules()]
    with torch.no_grad():
        assert again(*given).equal(network(*given))
    twin = copy.deepcopy(again)
    assert bits(twin) == bits(network) and twin.config == network.config and type(twin) is cls
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in again.parameters()}
    twin.save_pretrained(tmp_path / "twin")
    assert (tmp_path / "twin/model.safetensors").read_bytes() == (style / "model.safetensors").read_bytes()
    if not network.config.get("spectral_norm"):  # torch does not pickle parametrised modules
        again = pickle.loads(pickle.dumps(network))
        assert bits(again) == bits(network) and again.config == network.config


def test_spectral_norm_keeps_its_vectors(tmp_path):
    network = PatchDiscriminator(width=2, layers=1, norm="none", spectral_norm=True)
    network.train()(torch.rand(1, 3, 16, 16))
    buffers = {name for name, _ in network.named_buffers()}
    assert any(name.endswith("_u") for name in buffers) and buffers <= set(network.state_dict())
    again = PatchDiscriminator.from_pretrained(network.save_pretrained(tmp_path))
    assert bits(again) == bits(network)
    image = torch.rand(1, 3, 16, 16)
    assert again(image).equal(network.eval()(image))
    assert again.train()(image).equal(network.train()(image)) and bits(again) == bits(network)


def test_half_precision_of_a_batch_norm(tmp_path):
    network = tiny(norm="batch").half()
    again = ResnetGenerator.from_pretrained(network.save_pretrained(tmp_path))
    assert again.stem_norm.num_batches_tracked.dtype == torch.int64 and bits(again) == bits(network)


def test_an_attribute_named_module_survives(tmp_path):
    class WithModule(PretrainedMixin):
        def __init__(self, *, size: Annotated[int, Range(1, 9)] = 2) -> None:
            super().__init__()
            self.module = nn.Linear(size, size)
            self.other = nn.Linear(size, 1)

    network = WithModule(size=3)
    again = WithModule.from_pretrained(network.save_pretrained(tmp_path))
    assert set(again.state_dict()) == {"module.weight", "module.bias", "other.weight", "other.bias"}
    assert bits(again) == bits(network)


def test_buffers_that_are_not_stored_are_real(tmp_path):
    class WithBuffer(PretrainedMixin):
        def __init__(self, *, scale: Annotated[float, Range(0, 9)] = 2.0) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("mean", torch.tensor([0.5, scale], device="cpu"), persistent=False)
            self.register_buffer("noise", torch.zeros(9, device="cpu").uniform_(1, 2), persistent=False)

    network = WithBuffer(scale=3.0)
    again = WithBuffer.from_pretrained(network.save_pretrained(tmp_path), dtype=torch.float64)
    assert again.mean.tolist() == [0.5, 3.0] and again.mean.dtype == torch.float64
    assert again.noise.min() >= 1  # drawn, unlike the weights


def test_frozen_stays_frozen(tmp_path):
    class HalfFrozen(PretrainedMixin):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(2, 2).requires_grad_(False)
            self.decoder = nn.Linear(2, 2)

    again = HalfFrozen.from_pretrained(HalfFrozen().save_pretrained(tmp_path))
    assert not again.encoder.weight.requires_grad and again.decoder.weight.requires_grad


def test_a_required_argument_that_is_missing(tmp_path):
    class Demanding(PretrainedMixin):
        def __init__(self, *, size: Annotated[int, Range(1, 9)]) -> None:
            super().__init__()
            if size == 7:
                raise ValueError("seven is unlucky")
            self.linear = nn.Linear(size, size)

    style = Demanding(size=2).save_pretrained(tmp_path)
    assert Demanding.from_pretrained(style).config == {"size": 2}
    assert copy.deepcopy(Demanding(size=3)).config == {"size": 3}
    change_config(style, size=7)
    with pytest.raises(ConfigError, match="seven is unlucky"):
        Demanding.from_pretrained(style)
    (style / "config.json").write_text('{"_class_name": "Demanding"}')
    with pytest.raises(ConfigError, match=r"does not build a network.*'size'"):
        Demanding.from_pretrained(style)


@pytest.mark.parametrize("kind", ["same", "view", "overlap"])
def test_tied_weights_are_refused(tmp_path, kind):
    class Tied(PretrainedMixin):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            weight = self.first.weight
            other = {"same": lambda: weight, "view": lambda: weight.T, "overlap": lambda: weight[1:]}[kind]()
            self.second.weight = nn.Parameter(other.detach()) if kind != "same" else weight

    with pytest.raises(WeightsError, match=r"'first\.weight' and 'second\.weight'"):
        Tied().save_pretrained(tmp_path / "style")
    assert not os.listdir(tmp_path)


def test_slices_of_one_memory_are_not_tied(tmp_path):
    """As after flattening all parameters into one, which some optimisers do."""
    network = tiny()
    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    offset = 0
    for parameter in network.parameters():
        parameter.data = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    assert bits(ResnetGenerator.from_pretrained(network.save_pretrained(tmp_path))) == bits(tiny())


def test_a_class_of_a_test_is_forgotten():
    assert {"WithModule", "WithBuffer", "Tied", "Demanding", "HalfFrozen"}.isdisjoint(PretrainedMixin.architectures)


def test_devices(style):
    assert ResnetGenerator.from_pretrained(style, device="cpu").device == torch.device("cpu")
    assert ResnetGenerator.from_pretrained(style, device="meta").device == torch.device("meta")
    with pytest.raises(ConfigError, match="device.*'gpu'"):  # and not that the file is corrupt
        ResnetGenerator.from_pretrained(style, device="gpu")


def test_loading_takes_no_longer_than_reading(tmp_path):
    """A ResNet-9 of full size: what we add to safetensors is small, because nothing is initialised."""
    with torch.device("meta"):
        network = ResnetGenerator()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    style = network.save_pretrained(tmp_path)

    plain = seconds(lambda: safetensors.torch.load_file(style / "model.safetensors", backend="pread"), times=4)
    ours = seconds(lambda: ResnetGenerator.from_pretrained(style), times=4)
    building = seconds(ResnetGenerator, times=1)
    assert ours < 3 * plain + building / 2
