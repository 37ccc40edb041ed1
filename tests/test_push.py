"""Pushing: one commit of what belongs to a style, checked before it leaves, and nobody's work is lost."""

import copy
import itertools
import json
import os
import threading
from pathlib import Path

import huggingface_hub
import pytest
import tiny
import torch
from hub_server import HubServer, Refusal, Request
from PIL import Image
from test_card import METRICS

from styleforge import PretrainedMixin, ResnetGenerator, adaptation, card, methods
from styleforge.errors import (
    ConfigError,
    CorruptFileError,
    GatedRepo,
    HubUnavailable,
    ImageUnreadable,
    NonFiniteWeights,
    NotAStyle,
    PushConflict,
    PushRefused,
    RepoNotFound,
    RevisionNotFound,
    UnsafeFileError,
    WeightsMismatch,
)
from styleforge.lora import FACTORS, FACTS
from styleforge.push import PUSHED, push

REPO = "org/rain"
TOKEN = "hf_" + "aB3" * 10
CORE = {"README.md", "config.json", "model.safetensors", PUSHED}


@pytest.fixture(autouse=True)
def fresh(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub without repositories, an empty cache, and a client that does not wait before it tries again."""
    hub.reset()
    hub.lfs = True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """A style in a folder, with a licence."""
    return save(tmp_path / "style")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with all that runs have, and litter."""
    run, method = tmp_path / "run", methods.find("cyclegan")(**tiny.settings("cyclegan"))
    for part, network in method.styles().items():
        network.save_pretrained(run / "style" / part, card_facts={"license": "mit", "subfolder": part})
    adaptation.save_training(method, run / "style", {"method": "cyclegan", "settings": tiny.settings("cyclegan")})
    write(run / "train.json", json.dumps({"source": "/home/me/photos"}))
    write(run / "metrics.json", json.dumps(METRICS))
    for name in ("metrics.jsonl", "report.html", "checkpoints/step-00000001/state.safetensors", "samples/latest.jpg"):
        write(run / name, "x")
    picture(run / "style/samples/before-after.jpg")
    for name in (
        ".env",
        ".git/config",
        "notes.txt",
        "optimizer.pt",
        "samples/a.txt",
        "other/config.json",
        "model.onnx",
        "x.safetensors",
    ):
        write(run / "style" / name, TOKEN)
    return run


def save(folder: Path, seed: int = 0, **facts: object) -> Path:
    torch.manual_seed(seed)
    return ResnetGenerator(width=2, blocks=1).save_pretrained(folder, card_facts={"license": "mit", **facts})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def picture(path: Path, color: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)


def whats(pushed) -> dict[str, str]:
    return {change.path: change.what for change in pushed.changes}


def state(hub: HubServer) -> dict[str, bytes]:
    """All that is on the Hub, by repository and path."""
    return {
        f"{repo.id}@{branch}/{path}": blob.data
        for repo in hub.repos.values()
        for branch in repo.branches
        for path, blob in repo.find(branch).tree.items()
    }


def read(hub: HubServer, name: str = "README.md") -> str:
    return hub.files(REPO)[name].decode()


def edit(hub: HubServer, old: str, new: str, name: str = "README.md") -> None:
    text = read(hub, name)
    assert old in text
    hub.add(REPO, {name: text.replace(old, new).encode()})


def writes(hub: HubServer) -> list[Request]:
    return [request for request in hub.log if request.method not in ("GET", "HEAD")]


# -- what goes up --


def test_a_run_goes_up_in_one_commit(hub, run):
    pushed = push(run, REPO, commit_message="first")
    assert set(hub.files(REPO)) == {
        *CORE,
        ".gitattributes",
        "metrics.json",
        "samples/before-after.jpg",
        *(f"reverse/{name}" for name in ("README.md", "config.json", "model.safetensors")),
        *(f"training/{name}" for name in ("manifest.json", "networks.safetensors", "train.json")),
    }
    newest, first = hub.history(REPO)
    assert newest.title == "first" and set(first.tree) == {".gitattributes"}
    assert pushed.commit == newest.oid and pushed.url == f"{hub.url}/{REPO}/commit/{newest.oid}"
    assert set(whats(pushed)) == set(hub.files(REPO)) - {".gitattributes"} and set(whats(pushed).values()) == {
        "created"
    }
    assert pushed.upload == sum(len(data) for name, data in hub.files(REPO).items() if name != ".gitattributes")
    assert pushed.left_out == (
        ".env",
        "model.onnx",
        "notes.txt",
        "optimizer.pt",
        "other/config.json",
        "samples/a.txt",
        "x.safetensors",
    )
    assert read(hub, "metrics.json") == json.dumps(METRICS).replace("/home/me/", "")
    assert f'from_pretrained("{REPO}")' in read(hub) and TOKEN not in str(hub.files(REPO))


def test_what_went_up_comes_down(hub, run):
    push(run, REPO)
    for part in ("", "reverse"):
        here, there = (PretrainedMixin.from_pretrained(place, subfolder=part) for place in (run / "style", REPO))
        assert all(a.equal(b) for a, b in zip(here.state_dict().values(), there.state_dict().values(), strict=True))
    torch.manual_seed(1)
    assert adaptation.load_training(methods.find("cyclegan")(**tiny.settings("cyclegan")), REPO)


def test_an_adapter_and_a_license_go_with_the_style(hub, style):
    write(style / "LICENSE", "Do what you like.")
    write(style / "adapter" / FACTS, "{}")
    (style / "adapter" / FACTORS).write_bytes((style / "model.safetensors").read_bytes())
    push(style, REPO)
    assert set(hub.files(REPO)) >= {"LICENSE", f"adapter/{FACTS}", f"adapter/{FACTORS}"}


def test_a_style_without_a_card_gets_one(hub, style):
    (style / "README.md").unlink()
    push(style, REPO, license="cc0-1.0")
    assert card.parse(read(hub)).data["license"] == "cc0-1.0"
    assert not (style / "README.md").exists()


def test_a_name_alone_is_ours(hub, style):
    assert push(style, "rain", private=True).repo_id == "tester/rain"
    assert hub.repo("tester/rain").private


def test_nothing_new_is_no_commit(hub, run):
    first = push(run, REPO)
    again = push(run, REPO)
    assert len(hub.history(REPO)) == 2 and (again.commit, again.url) == (first.commit, first.url)
    assert set(whats(again).values()) == {"unchanged"} and again.upload == 0
    assert push(run, REPO, create_pr=True).url == first.url and not hub.repo(REPO).pulls


def test_what_is_gone_here_goes_there(hub, style):
    for name in ("a.png", "b.png"):
        picture(style / "samples" / name)
    push(style, REPO)
    hub.add(REPO, {"samples/theirs.png": b"x", "notes.txt": b"x"})
    (style / "samples/a.png").unlink()
    picture(style / "samples/b.png", "blue")
    picture(style / "samples/c.png")
    pushed = push(style, REPO)
    assert whats(pushed) == {
        **dict.fromkeys(("README.md", "config.json", "model.safetensors"), "unchanged"),
        "samples/a.png": "removed",
        "samples/b.png": "updated",
        "samples/c.png": "created",
        PUSHED: "updated",
    }
    assert set(hub.files(REPO)) == {
        *(*CORE, ".gitattributes", "notes.txt"),
        *(f"samples/{name}.png" for name in ("b", "c", "theirs")),
    }
    hub.add(REPO, {"samples/b.png": None})  # by hand: there is nothing to remove
    (style / "samples/b.png").unlink()
    assert whats(push(style, REPO))[PUSHED] == "updated"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"sha256": []}', '{"sha256": {"notes.txt": "", ".gitattributes": "", "../x": 1}}', "[" * 9999],
    ids=lambda text: text[:20],
)
def test_a_list_of_the_last_push_that_is_none(hub, style, text):
    hub.add(REPO, {PUSHED: text.encode(), "notes.txt": b"x", ".gitattributes": b"x"})
    assert "removed" not in whats(push(style, REPO)).values()
    assert set(hub.files(REPO)) == {*CORE, "notes.txt", ".gitattributes"}


def test_dry_run(hub, style, run):
    assert (would := push(style, REPO, dry_run=True)).dry_run and would.url is None and would.commit is None
    assert not writes(hub) and not hub.repos
    assert whats(push(style, REPO)) == whats(would)
    edit(hub, "## Limits", "My words.")
    before = state(hub)
    hub.log.clear()
    would = push(run, REPO, dry_run=True)
    assert not writes(hub) and state(hub) == before and would.commit == hub.history(REPO)[0].oid
    done = push(run, REPO)
    assert done.changes == would.changes and done.notes == would.notes and done.left_out == would.left_out
    assert would.upload == done.upload == json.loads(json.dumps(would.as_json()))["upload"] > 0


def test_onnx(hub, style):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    push(style, REPO, onnx=True)
    graph = onnx.load_from_string(hub.files(REPO)["onnx/model.onnx"])
    assert {entry.key: entry.value for entry in graph.metadata_props}.items() >= {
        "name": REPO,
        "license": "mit",
    }.items()
    assert set(whats(push(style, REPO, onnx=True)).values()) == {"unchanged"}
    assert whats(push(style, REPO))["onnx/model.onnx"] == "removed"  # it would not be that of the next weights


# -- what does not --


def test_no_license_no_push(hub, tmp_path):
    style = save(tmp_path / "bare", license=None)
    with pytest.raises(PushRefused, match=r"without a license.*--license.*license=.*front\s+matter"):
        push(style, REPO)
    assert not writes(hub)
    push(style, REPO, license="cc-by-4.0")
    assert card.parse(read(hub)).data["license"] == "cc-by-4.0" and "None is named" not in read(hub)
    push(style, REPO, license="mit")
    assert card.parse(read(hub)).data["license"] == "mit" and "The weights: mit." in read(hub)


@pytest.mark.parametrize("license", ["Apache", "my own", "\n"])
def test_a_license_that_is_none(hub, style, license):
    with pytest.raises(PushRefused, match="card has errors.*license"):
        push(style, REPO, license=license)
    assert not writes(hub)


def change_weights(path: Path, **changes: object) -> None:
    from safetensors.torch import load_file, save_file

    save_file({**load_file(path, backend="pread"), **changes}, path)


def not_finite(run: Path) -> None:
    change_weights(run / "style/reverse/model.safetensors", **{"head.bias": torch.full((3,), torch.nan)})


def adapter_not_finite(run: Path) -> None:
    from safetensors.torch import save_file

    (run / "style/adapter").mkdir()
    save_file({"up": torch.full((3,), torch.nan)}, run / "style/adapter" / FACTORS)


def misfit(run: Path) -> None:
    change_weights(run / "style/model.safetensors", extra=torch.ones(2))


def cut_off(run: Path) -> None:
    os.truncate(run / "style/model.safetensors", 500)


def other_training(run: Path) -> None:
    write(run / "style/training/train.json", "{}")


def no_manifest(run: Path) -> None:
    (run / "style/training/manifest.json").unlink()


def bad_config(run: Path) -> None:
    write(run / "style/config.json", '{"_class_name": "ResnetGenerator", "widht": 2}')


def secret(run: Path) -> None:
    write(run / "metrics.json", json.dumps({"note": TOKEN}))


def no_metrics(run: Path) -> None:
    write(run / "metrics.json", '{"metrics": {"KID": 3}}')


def secret_in_card(run: Path) -> None:
    write(run / "style/README.md", (run / "style/README.md").read_text() + f"\nUse {TOKEN}\n")


def place_in_card(run: Path) -> None:
    write(run / "style/README.md", (run / "style/README.md").read_text() + "\nTrained on /home/me/photos\n")


def picture_missing(run: Path) -> None:
    write(run / "style/README.md", (run / "style/README.md").read_text() + "\n![A house](samples/house.png)\n")


def broken_yaml(run: Path) -> None:
    text = (run / "style/README.md").read_text()
    write(run / "style/README.md", text.replace("tags:", "tags: [a, 'b"))


def link(run: Path) -> None:
    picture(run.parent / "private.png")
    (run / "style/samples/x.png").symlink_to(run.parent / "private.png")


def no_picture(run: Path) -> None:
    write(run / "style/samples/x.png", "not one")


def with_place(run: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    Image.new("RGB", (8, 8)).save(run / "style/samples/x.jpg", exif=exif)


def unfinished(run: Path) -> None:
    (run / "style").rename(run.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (not_finite, NonFiniteWeights, r"run/style/reverse.*head\.bias"),
        (adapter_not_finite, NonFiniteWeights, r"style/adapter.*'up'"),
        (misfit, WeightsMismatch, r"run/style.*extra"),
        (cut_off, CorruptFileError, r"run/style/model\.safetensors"),
        (other_training, CorruptFileError, r"training/train\.json"),
        (no_manifest, CorruptFileError, r"no manifest\.json"),
        (bad_config, ConfigError, "'widht'"),
        (secret, PushRefused, r"metrics\.json.*secret|secret.*metrics\.json"),
        (no_metrics, CorruptFileError, r"run/style/metrics\.json.*found KeyError: 'protocol'"),
        (secret_in_card, PushRefused, "secret"),
        (place_in_card, PushRefused, "/home/me/photos"),
        (picture_missing, PushRefused, r"samples/house\.png"),
        (broken_yaml, PushRefused, "YAML"),
        (no_picture, ImageUnreadable, r"run/style/samples/x\.png"),
        (with_place, PushRefused, r"samples/x\.jpg.*EXIF"),
        (link, UnsafeFileError, r"private\.png"),
        (unfinished, NotAStyle, "not published a style yet"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_leaves_the_machine_that_should_not(hub, run, damage, error, words):
    damage(run)
    with pytest.raises(error, match=words) as caught:
        push(run, REPO)
    assert not writes(hub) and not hub.repos and "styleforge-push" not in str(caught.value)


def test_no_style_there(hub, tmp_path):
    with pytest.raises(RepoNotFound, match="No such folder"):
        push(tmp_path / "nothing", REPO)
    with pytest.raises(NotAStyle):
        push(tmp_path, REPO)
    assert not hub.log


def test_a_report_is_sent_from_the_folder_of_the_style_without_places(hub, style):
    photo = "data:image/jpeg;base64,/9j/" + "A" * 99 + "+/tmp/+AIza" + "B" * 99
    write(
        style / "report.html", f'<img src="{photo}"><code>&#34;/home/me/photos/monet&#34;, C:\\Users\\me\\nets</code>'
    )
    push(style, REPO)
    assert read(hub, "report.html") == f'<img src="{photo}"><code>&#34;monet&#34;, nets</code>'


# -- the card on the Hub --


def test_a_card_that_nobody_edited_becomes_ours(hub, style):
    push(style, REPO)
    text = (style / "README.md").read_text()
    write(style / "README.md", text.replace("# A style made with styleforge", "# Rain"))
    assert push(style, REPO).notes == push(style, REPO).notes
    assert "# Rain" in read(hub)


def test_what_was_edited_on_the_hub_stays(hub, style):
    push(style, REPO)
    edit(hub, "# A style made with styleforge", "# Rain on glass")  # in a generated section
    edit(hub, "## Architecture", "## Architecture\n\nNine blocks.")
    edit(hub, "license: mit", "license: cc-by-4.0\nlanguage: en")
    hub.add(REPO, {"README.md": hub.files(REPO)["README.md"] + b"\nAlso my words.\n"})
    for seed in (1, 2):  # twice: what was merged is not taken for ours
        save(style.with_name(f"style-{seed}"), seed, limits=f"Limits of {seed}.")
        pushed = push(style.with_name(f"style-{seed}"), REPO)
        text = read(hub)
        for words in ("# Rain on glass", "Nine blocks.", "Also my words.", "license: cc-by-4.0", "language: en"):
            assert words in text, words
        assert f"Limits of {seed}." in text  # generated, and untouched
        assert whats(pushed)["model.safetensors"] == "updated"
        assert any("edited on the Hub and stays" in note and "limits" in note for note in pushed.notes)
    push(style, REPO, license="mit")  # said aloud
    assert card.parse(read(hub)).data["license"] == "mit" and "Nine blocks." in read(hub)


def test_a_card_written_by_hand_before_the_first_push_stays(hub, style):
    hub.add(REPO, {"README.md": b"---\nlicense: mit\n---\n# Mine\n\nAll my own.\n"})
    push(style, REPO)
    assert "# Mine\n\nAll my own." in read(hub) and card.parse(read(hub)).data["library_name"] == "styleforge"


def test_a_card_on_the_hub_without_a_license_or_broken(hub, style):
    push(style, REPO)
    before = state(hub)
    edit(hub, "license: mit", "license: [mit")
    with pytest.raises(PushRefused, match=r"on the Hub cannot be read.*README\.md of org/rain.*Repair"):
        push(save(style, 1), REPO)
    assert state(hub).keys() == before.keys() and "license: [mit" in read(hub)


# -- two at once --


def test_of_two_pushes_at_once_one_wins(hub, style, tmp_path):
    push(style, REPO)
    for turn in range(3):
        rivals = [save(tmp_path / f"{turn}-{number}", 2 * turn + number + 1) for number in range(2)]
        barrier, results = threading.Barrier(2, timeout=60), []

        def wait(request, barrier=barrier):
            if request.method == "POST" and "/commit/" in request.path:
                barrier.wait()

        def go(folder, results=results):
            try:
                results.append((folder, push(folder, REPO)))
            except Exception as error:
                results.append((folder, error))

        hub.before = wait
        threads = [threading.Thread(target=go, args=(folder,)) for folder in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [(_, lost)] = [r for r in results if isinstance(r[1], Exception)]
        [winner] = [folder for folder, result in results if not isinstance(result, Exception)]
        assert type(lost) is PushConflict and "Somebody else" in str(lost) and "push again" in str(lost)
        assert hub.files(REPO)["model.safetensors"] == (winner / "model.safetensors").read_bytes()
        assert len(hub.history(REPO)) == turn + 3


def test_a_repository_that_somebody_else_has_just_made(hub, style):
    def overtake(request):
        if request.path == "/api/repos/create":
            hub.before = None
            hub.add(REPO, {"config.json": b"theirs"})

    hub.before = overtake
    with pytest.raises(PushConflict, match="just made this repository"):
        push(style, REPO)
    assert hub.files(REPO) == {"config.json": b"theirs"}


# -- whose it is --


def test_a_pull_request(hub, style):
    push(style, REPO)
    before = hub.files(REPO)
    pushed = push(save(style, 1), REPO, create_pr=True)
    assert pushed.url == f"{hub.url}/{REPO}/discussions/1" and hub.files(REPO) == before
    assert hub.files(REPO, "refs/pr/1")["model.safetensors"] == (style / "model.safetensors").read_bytes()
    with pytest.raises(PushRefused, match="main branch"):
        push(style, REPO, create_pr=True, revision="v1")


def test_a_repository_of_somebody_else(hub, style):
    hub.add("someone/rain", {"x": b"1"})
    before = state(hub)
    with pytest.raises(PushRefused, match=r"refused the push.*someone/rain.*check that the name is yours.*--create-pr"):
        push(style, "someone/rain")
    with pytest.raises(PushRefused, match="check that the name is yours"):
        push(style, "someone/new")
    assert state(hub) == before
    assert push(style, "someone/rain", create_pr=True).url.endswith("/someone/rain/discussions/1")
    assert hub.files("someone/rain") == {"x": b"1"}


def test_private(hub, style):
    push(style, REPO, private=True)
    assert hub.repo(REPO).private
    push(save(style, 1), REPO)
    assert hub.repo(REPO).private  # as it was
    hub.add("org/open", {"x": b"1"})
    with pytest.raises(PushRefused, match="public"):
        push(style, "org/open", private=True)
    hub.add("someone/hidden", {"x": b"1"}, private=True)
    with pytest.raises(PushRefused, match="refused"):
        push(style, "someone/hidden")
    assert set(hub.files("org/open")) == set(hub.files("someone/hidden")) == {"x"}


def test_a_token_that_has_expired(hub, style):
    hub.expired.add("hf_of_the_tests")
    for exists in (False, True):
        with pytest.raises(PushRefused, match=r"may have expired.*hf auth login"):
            push(style, REPO)
        if not exists:
            hub.add(REPO, {"x": b"1"})
    assert set(hub.files(REPO)) == {"x"}


def test_no_token(hub, style):
    with pytest.raises(PushRefused, match="hf auth login"):
        push(style, REPO, token=False)
    assert not hub.repos


def test_too_many_requests(hub, style):
    hub.add(REPO, {"x": b"1"})

    def refuse(request):
        if "/commit/" in request.path:
            raise Refusal(429, "", "slow down", RateLimit='"api";r=0;t=42')

    hub.before = refuse
    with pytest.raises(HubUnavailable, match=r"asks to wait.*42 seconds"):
        push(style, REPO)
    assert set(hub.files(REPO)) == {"x"}


def test_a_large_file_that_is_refused(hub, style):
    """The client raises a RuntimeError then, and keeps the Hub's answer as its cause."""

    def refuse(request):
        if request.method == "PUT":
            raise Refusal(403, "", "storage is full")

    hub.before = refuse
    with pytest.raises(PushRefused, match="storage is full"):
        push(style, REPO)


def test_a_gated_repository_whose_terms_nobody_accepted(hub, style):
    hub.add("someone/rain", {"README.md": b"x"}, gated=True)
    with pytest.raises(GatedRepo, match="Accept its terms"):
        push(style, "someone/rain", create_pr=True)


def test_a_branch_that_is_not_there(hub, style):
    push(style, REPO)
    for dry in (True, False):
        with pytest.raises(RevisionNotFound, match="no other branch than main"):
            push(style, "org/new", revision="v9", dry_run=dry)
    assert ("model", "org/new") not in hub.repos
    with pytest.raises(RevisionNotFound, match="'v9'"):
        push(style, REPO, revision="v9")
    hub.repo(REPO).branches["v2"] = hub.repo(REPO).branches["main"]
    push(save(style, 1), REPO, revision="v2")
    assert hub.files(REPO, "v2")["model.safetensors"] != hub.files(REPO)["model.safetensors"]


def test_no_name_of_a_repository(hub, style):
    with pytest.raises(RepoNotFound, match="no name of a repository"):
        push(style, "org/not a name")


# -- the network --


def test_no_network(hub, style):
    for dry_run in (True, False):
        with hub.down(), pytest.raises(HubUnavailable, match="push again"):
            push(style, REPO, dry_run=dry_run)


@pytest.mark.parametrize("answer", [-1, 0], ids=["request lost", "answer lost"])
def test_the_network_goes_away_at_any_request(hub, style, tmp_path, answer):
    """And stays away: what is on the Hub is what was there or, when only the answer was lost, all that was to come."""
    new = save(tmp_path / "new", 1)
    picture(new / "samples/a.png")

    push(style, REPO)
    base, before = copy.deepcopy(hub.repos), state(hub)

    def again() -> None:
        hub.repos, hub.objects = copy.deepcopy(base), {}
        hub.log.clear()

    for _ in range(2):  # the second time with a full cache, as in all that follow
        again()
        push(new, REPO)
    after, requests, arrived = state(hub), len(hub.log), 0
    assert requests > 5 and before != after
    for number in range(requests):
        again()
        seen = itertools.count()
        hub.cut = lambda request, seen=seen, number=number: answer if next(seen) >= number else None
        with pytest.raises(HubUnavailable, match="push again"):
            push(new, REPO)
        hub.cut = lambda request: None
        assert state(hub) in (before, after)
        arrived += state(hub) == after
    assert arrived == (1 if answer == 0 else 0)
    push(new, REPO)
    assert state(hub) == after and len(hub.history(REPO)) == 3


def test_a_slow_network(hub, style):
    hub.pace = 0.001
    push(style, REPO)
    assert PretrainedMixin.from_pretrained(REPO).config["width"] == 2
