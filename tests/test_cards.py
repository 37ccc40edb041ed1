"""Cards of runs and styles: what their folders know comes onto the page, and what somebody wrote stays there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_card import METRICS, front

from styleforge import card, cards
from styleforge.cards.told import command, facts
from styleforge.errors import ConfigError, CorruptFileError, NotAStyle, RepoNotFound
from styleforge.models import AdaINGenerator, DCGANGenerator, ResnetGenerator, TransformerNet
from styleforge.runs import TrainConfig

PHOTO = Image.radial_gradient("L").resize((60, 40)).convert("RGB")


def resnet() -> ResnetGenerator:
    return ResnetGenerator(width=2, blocks=0)


@pytest.fixture
def style(tmp_path) -> Path:
    """A style without a card."""
    folder = resnet().save_pretrained(tmp_path / "rain")
    (folder / "README.md").unlink()
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """What a run leaves, as far as a card asks for it."""
    run = tmp_path / "one"
    for inner in ("style", "best"):
        (resnet().save_pretrained(run / inner) / "README.md").unlink()
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        PHOTO.save(photos / f"{number}.png")
    config = {
        "method": "cut",
        "source": str(photos),
        "target": "/gone/paintings",
        "output": str(run),
        "size": 128,
        "batch_size": 2,
        "steps": 1000,
        "flip": False,
        "license": "mit",
        "settings": {"width": 2, "nce_blocks": [0, 1]},
    }
    (run / "train.json").write_text(json.dumps(TrainConfig(**config).__dict__))
    checkpoint = run / "checkpoints" / "step-00000900"
    checkpoint.mkdir(parents=True)
    manifest = {"step": 900, "seconds": 1234.5, "device": "2 CPU threads", "precision": "bf16"}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return run


def table(text: str) -> dict[str, str]:
    """The rows of the training."""
    rows = card.sections(text)["training"].split("|---|---|\n")[1].split("\n\n")[0].splitlines()
    return dict(row.strip("| ").split(" | ", 1) for row in rows)


def test_a_run_knows_most_of_its_card(run):
    path = cards.write_card(run)
    text = path.read_text()
    assert path == run / "style/README.md"
    assert front(text)["license"] == "mit" and front(text)["tags"][-1] == "cut" and "base_model" not in front(text)
    assert "# one" in text.splitlines()
    assert table(text) == {
        "Method": "[cut](https://arxiv.org/abs/2007.15651)",
        "Steps": "900 of 2 pictures",
        "Pictures": "`photos` (3 pictures) and `paintings`",
        "Size": "128 px",
        "Precision": "bf16",
        "Device": "2 CPU threads",
        "Time": "1234 s (0.34 h)",
        "Seed": "0",
    }
    assert (
        "styleforge train cut --source photos --target paintings --output one --size 128 --no-flip \\\n"
        "    --batch-size 2 --steps 1000 --license mit --width 2 --nce-blocks 0,1" in text
    )
    assert f"Trained on `photos` (3 pictures) and `paintings`, which are not in this repository. {card.UNSAID}" in text
    assert str(run.parent) not in text and "/gone" not in text
    assert {problem.rule for problem in cards.check(run)} == {"section", "picture", "placeholder"}


def test_the_best_of_a_run_says_so(run):
    text = cards.write_card(run / "best").read_text()
    assert table(text)["Steps"] == "the best measured of 900 of 2 pictures"
    assert not (run / "style/README.md").exists()


@pytest.mark.parametrize(
    ("adapt", "base", "row"),
    [
        ({"base": "fastcut-monet", "revision": None}, "fastcut-monet", "`fastcut-monet`"),
        (
            {"base": "me/monet", "revision": "v1", "lora": 8},
            "me/monet",
            "`me/monet` at v1, with an adapter of rank 8",
        ),
        ({"base": "/home/me/secret/style-a"}, None, "`style-a`, a style that is not published"),
        ({"base": "./style-a"}, None, "`style-a`, a style that is not published"),
        ({"base": "one/style"}, None, "`style`, a style that is not published"),  # seen from elsewhere
    ],
)
def test_an_adapted_style_names_its_base(run, adapt, base, row):
    (run.parent / "fastcut-monet").mkdir()  # the run of the bundled style, perhaps
    config = json.loads((run / "train.json").read_text())
    (run / "train.json").write_text(json.dumps({**config, "adapt": adapt}))
    text = cards.write_card(run).read_text()
    assert front(text).get("base_model") == base and table(text)["Adapted from"] == row
    assert front(text).get("base_model_relation") == ("finetune" if base else None)
    revision = "--revision v1 " if adapt.get("revision") else ""
    assert f"styleforge adapt --method cut {revision}{base or row.split('`')[1]} " in text.replace("./", "")
    assert ("--lora 8" in text) == ("lora" in adapt) and "secret" not in text


def test_a_published_style_has_its_recipe_only(style):
    (style / "training").mkdir()
    recipe = {"method": "cut", "size": 64, "batch_size": 2, "steps": 10, "seed": 5, "settings": {}}
    (style / "training/train.json").write_text(json.dumps(recipe))
    text = cards.write_card(style).read_text()
    assert table(text)["Steps"] == "10 of 2 pictures" and table(text)["Seed"] == "5"
    assert "styleforge train" not in text and "# rain" in text.splitlines()


def test_a_method_of_another_version_is_named():
    assert facts({"method": "later", "steps": 3, "batch_size": 1, "output": "x"})["training"]["Method"] == "later"
    assert (
        command({"method": "later", "output": "x", "settings": {"a": 1}}) == "styleforge train later --output x --a 1"
    )


def test_a_second_time_nothing_is_written(run):
    path, heard = cards.write_card(run), []
    before = path.stat()
    assert cards.write_card(run, say=heard.append) == path
    assert not heard and path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino


def test_what_was_given_or_written_stays(run):
    given = {
        "name": "Rain",
        "summary": "Rains.",
        "repo": "me/rain",
        "data": "CC0.",
        "limits": "Cats.",
        "license": "isc",
    }
    path = cards.write_card(run, **given, picture=PHOTO, credit="Me, CC0", datasets=["me/photos"])
    first = path.read_text()
    assert "*A picture before and after. Me, CC0*" in first.splitlines()
    path.write_text(first.replace("## Use", "## Use\n\nMy words.") + "\n## Thanks\n")
    (path.parent / "metrics.json").write_text(json.dumps(METRICS))
    heard = []
    second = cards.write_card(run, say=heard.append).read_text()
    assert heard == [
        f"{path}: renewed: front matter, results.",
        f"{path}: left as its author wrote it: use.",
    ]
    assert "My words." in second and second.endswith("\n## Thanks\n") and "| KID, lower is better | 60 |" in second
    assert front(second)["model-index"][0]["name"] == "Rain" and front(second)["license"] == "isc"
    assert {name for name, text in card.sections(second).items() if text != card.sections(first)[name]} == {
        "results",
        "use",
    }
    third = cards.write_card(run, license="MIT", data="My own.").read_text()  # as SPDX writes it
    assert front(third)["license"] == "mit" and "The weights: mit." in third and "My own." in third
    assert "Cats." in third and "My words." in third
    assert cards.check(run, pushing=True) == []


def test_a_style_away_from_its_run_keeps_what_is_told_of_it(run, tmp_path):
    before = cards.write_card(run).read_text()
    shutil.move(run / "style", tmp_path / "moved")
    (tmp_path / "moved/training").mkdir()
    shutil.copy(run / "train.json", tmp_path / "moved/training")
    text = cards.write_card(tmp_path / "moved", license="apache-2.0").read_text()
    assert front(text)["license"] == "apache-2.0"
    told, known = card.sections(text), card.sections(before)
    assert {name for name in told if told[name] != known[name]} == {"license"}


def test_a_card_written_by_hand_gets_front_matter_only(style):
    (style / "README.md").write_text("# My rain\n\nWords.\n")
    heard = []
    text = cards.write_card(style, license="mit", say=heard.append).read_text()
    assert text.endswith("---\n# My rain\n\nWords.\n") and front(text)["license"] == "mit"
    assert "renewed: front matter." in heard[0] and "all of it stays" in heard[1]


def test_both_ways_of_a_cyclegan_have_a_card(run):
    (resnet().save_pretrained(run / "style/reverse") / "README.md").unlink()
    cards.write_card(run, repo="me/rain", license="isc")
    reverse = (run / "style/reverse/README.md").read_text()
    assert 'from_pretrained("me/rain", subfolder="reverse")' in reverse and front(reverse)["license"] == "isc"


@pytest.mark.parametrize(
    ("network", "given", "size", "caption"),
    [
        (resnet, {"picture": PHOTO}, (126, 40), "A picture before and after"),
        (
            lambda: AdaINGenerator(backbone="vgg19-16x"),
            {"picture": PHOTO, "reference": PHOTO},
            (192, 40),
            "of the second",
        ),
        (lambda: TransformerNet(width=2, blocks=0, styles=2), {"picture": PHOTO}, (192, 40), "before and after"),
        (lambda: DCGANGenerator(size=32, noise_size=4, width=2), {}, (4 * 32 + 18, 32), "out of noise"),
    ],
    ids=["image", "style", "several", "noise"],
)
def test_the_strip_shows_what_each_kind_does(tmp_path, network, given, size, caption):
    style = network().save_pretrained(tmp_path / "style")
    (style / "README.md").unlink()
    text = cards.write_card(style, **given).read_text()
    shown = Image.open(style / "samples/before-after.jpg")
    assert shown.size == size and f"{caption}](samples/before-after.jpg)" in text
    if given:
        before = np.asarray(shown, np.float32)[:, :60]
        assert np.abs(before - np.asarray(PHOTO)).mean() < 3
    assert "picture" not in {problem.rule for problem in cards.check(style)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"license": "mti"}, r"no such license: found 'mti'.*Did you mean 'mit'\?"),
        ({"picture": PHOTO, "reference": PHOTO}, r"takes no reference.*Leave out --reference"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(style, given, words):
    with pytest.raises(ConfigError, match=words):
        cards.write_card(style, **given)
    assert sorted(path.name for path in style.iterdir()) == ["config.json", "model.safetensors"]


def test_samples_on_the_card_are_those_that_a_push_sends(style):
    (style / "samples").mkdir()
    for name in ("my photo.png", "наш.jpg", "photo (1).png", "a[b].png", "a#b.png", "x.bmp", "x.gif", "X.PNG"):
        PHOTO.save(style / "samples" / name)
    text = cards.write_card(style, license="mit", repo="me/rain", name="Rain").read_text()
    shown = [name for name in ("my%20photo.png", "%D0%BD%D0%B0%D1%88.jpg") if f"](samples/{name})" in text]
    assert len(shown) == text.count("![") == 2
    assert not [problem for problem in cards.check(style, pushing=True) if problem.severity == "error"]


def test_a_style_that_needs_a_reference_says_so(tmp_path):
    style = AdaINGenerator(backbone="vgg19-16x").save_pretrained(tmp_path / "style")
    with pytest.raises(ConfigError, match=r"needs a reference.*--reference FILE"):
        cards.write_card(style, picture=PHOTO)


def test_a_broken_card_is_left_alone(style):
    (style / "README.md").write_text("---\nlicense: [mit\n---\nWords\n")
    with pytest.raises(ConfigError, match=r"line 2 of the card"):
        cards.write_card(style, license="mit", picture=PHOTO)
    assert (style / "README.md").read_text() == "---\nlicense: [mit\n---\nWords\n"
    assert not (style / "samples").exists()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * 300_000])
def test_a_card_that_is_no_text(style, data):
    (style / "README.md").write_bytes(data)
    for use in (cards.check, cards.write_card):
        with pytest.raises(CorruptFileError, match=r"README\.md"):
            use(style)


def test_places_without_a_style_or_a_card(tmp_path, style):
    with pytest.raises(NotAStyle, match=r"no card.*`styleforge card"):
        cards.check(style)
    with pytest.raises(NotAStyle):
        cards.write_card(tmp_path)
    with pytest.raises(RepoNotFound, match="No such folder"):
        cards.write_card("fastcut-monet")
    assert not Path("fastcut-monet").exists()


def test_a_card_can_be_checked_by_its_own_name(style):
    path = cards.write_card(style)
    assert cards.check(path) == cards.check(style) != []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.pop("protocol"), "protocol"),
        (lambda table: table["protocol"].pop("n_source"), "n_source"),
        (lambda table: table["metrics"]["KID"].pop("n"), "KID"),
        (lambda table: table["metrics"]["KID"].update(n=0), "KID"),
        (lambda table: table["metrics"]["KID"].update(n=True), "KID"),
        (lambda table: table["metrics"]["KID"].update(value="1"), "KID"),
        (lambda table: table["metrics"]["KID"].update(better="left"), "KID"),
        (lambda table: table.update(metrics=[1]), "metrics"),
        (lambda table: table.update(controls={"identity": {"FID": None}}), "identity"),
    ],
    ids=range(9),
)
def test_measurements_that_say_too_little_are_refused(style, change, words):
    broken = json.loads(json.dumps(METRICS))
    change(broken)
    (style / "metrics.json").write_text(json.dumps(broken))
    with pytest.raises(CorruptFileError, match=r"metrics\.json.*styleforge evaluate"):
        cards.write_card(style)
    assert not (style / "README.md").exists()


def test_measurements_that_are_no_json_are_refused(style):
    for text in ("{", "[]", '{"metrics": {}, "metrics": {}}', "[" * 10_000):
        (style / "metrics.json").write_text(text)
        with pytest.raises(CorruptFileError, match="measurements"):
            cards.write_card(style)


def test_a_run_that_goes_on_keeps_what_somebody_wrote(run):
    """And tells no figures of weights that are no more."""
    style, network = run / "style", resnet()
    (style / "metrics.json").write_text(json.dumps(METRICS))
    path = cards.write_card(run, name="Rain", data="CC0.", license="isc")
    path.write_text(path.read_text().replace("Its author has not", "Nobody has"))
    config, heard = json.loads((run / "train.json").read_text()), []
    known = facts({**config, "license": "mit"}, steps=950, device="cuda", pictures="3 source, 4 target")
    assert cards.publish_card(style, network, {**known, "subfolder": ""}, heard.append) == path
    text = path.read_text()
    assert heard == [
        f"{path}: renewed: front matter, results, training, license.",
        f"{path}: left as its author wrote it: limits.",
    ]
    assert table(text)["Steps"] == "950 of 2 pictures" and table(text)["Pictures"] == "3 source, 4 target"
    assert "# Rain" in text.splitlines() and "CC0." in text and "Nobody has" in text
    assert "model-index" not in front(text) and "Not measured." in text and not (style / "metrics.json").exists()
    assert front(text)["license"] == "mit"


def test_no_run_ends_for_a_card(run):
    path, heard = run / "style/README.md", []
    path.write_text("---\nlicense: [mit\n---\n")
    cards.publish_card(run / "style", resnet(), {"name": "one"}, heard.append)
    assert path.read_text() == "---\nlicense: [mit\n---\n" and "stays as it is" in heard[0]
    path.unlink()
    cards.publish_card(run / "style", resnet(), facts({"method": "cut", "output": "one"}))
    assert "# one" in path.read_text().splitlines()
