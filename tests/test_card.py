"""The card: front matter the Hub understands, a page that says what to know, and what the linter thinks of both."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from styleforge import bundled_styles, card
from styleforge.errors import ConfigError
from styleforge.models import ResnetGenerator

ROOT = Path(__file__).parents[1]
CONFIG = {"_class_name": "ResnetGenerator", "_styleforge_version": "9", "width": 64, "upsample": "resize"}
FIGURE = {"value": 1.23456789, "low": 1.0, "high": 1.5, "n": 60, "better": "lower"}
METRICS = {
    "protocol": {
        "split": "photos against paintings",
        "n_source": 60,
        "n_target": 20,
        "size": 256,
        "resize": "bicubic",
        "feature_network": "/home/me/squeezenet",
        "feature_sha256": "ab" * 32,
        "seed": 3,
    },
    "metrics": {"KID": FIGURE, "structure": {**FIGURE, "value": float("nan"), "n": 59, "better": "higher"}},
    "controls": {"identity": {"KID": {**FIGURE, "value": 2.5}}, "blur|ry": {}},
    "warnings": ["20 paintings are few."],
}


def front(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


def good(**changes) -> str:
    """A card without a fault."""
    facts = {
        "name": "Rain",
        "repo": "me/rain",
        "license": "cc-by-4.0",
        "samples": [{"file": "samples/a.png", "text": "a house"}],
        "training": {"Steps": "1000"},
        "data": "Own photographs, CC0.",
        "limits": "Bad at faces.",
    }
    return card.render(CONFIG, **{**facts, **changes})


def rules(text: str, **options) -> set[str]:
    return {problem.rule for problem in card.lint(text, **options)}


def test_a_card_without_facts_is_whole():
    text = card.render(CONFIG)
    assert front(text) == {
        "library_name": "styleforge",
        "pipeline_tag": "image-to-image",
        "tags": ["styleforge", "style-transfer", "ResnetGenerator"],
        "inference": False,
    }
    for line in (
        "# A style made with styleforge",
        'pipe = StylePipeline.from_pretrained("organisation/name")',
        "Not measured.",
        "Nothing is recorded.",
        "- `width`: 64",
        "- `upsample`: resize",
        card.UNTRIED,
        "None is named. Ask the author before you use or change the weights.",
    ):
        assert line in text.splitlines()
    assert "_styleforge_version" not in text and "{{" not in text and "{%" not in text and "None\n" not in text
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_a_card_with_all_facts():
    text = card.render(
        CONFIG,
        name="Rain: Ölbild #1",
        repo="me/rain",
        summary="Paints {{ rain }}.",
        license="other",
        license_name="rain-1",
        license_link="LICENSE",
        datasets=["me/photos", "me/paintings"],
        tags=["painting"],
        base_model="me/monet",
        samples=[{"file": "samples/a.png", "text": "a house", "caption": "By me"}, {"file": "b.png", "text": "a tree"}],
        training={"steps": 1000, "hardware": "2 | 3\ncores"},
        command="styleforge train cut",
        data="Own photographs, CC0.",
        limits="Bad at faces.",
        parameters="2.00 million",
    )
    facts = front(text)
    assert (facts["license"], facts["license_name"], facts["license_link"]) == ("other", "rain-1", "LICENSE")
    assert facts["datasets"] == ["me/photos", "me/paintings"] and facts["tags"][-1] == "painting"
    assert facts["base_model"] == "me/monet" and facts["base_model_relation"] == "finetune"
    lines = text.splitlines()
    for line in (
        "# Rain: Ölbild #1",
        'pipe = StylePipeline.from_pretrained("me/rain")',
        "Paints {{ rain }}.",
        "*By me*",
        "styleforge train cut",
        "Own photographs, CC0.",
        "Bad at faces.",
        "`ResnetGenerator`, 2.00 million parameters, with",
        "The weights: [rain-1](LICENSE).",
    ):
        assert line in lines
    # A table is one block: its rows follow the head without a gap, and no value breaks a row.
    head = lines.index("|---|---|")
    assert lines[head - 1 : head + 3] == ["| | |", "|---|---|", "| steps | 1000 |", "| hardware | 2 \\| 3 cores |"]
    # Pictures stand in paragraphs of their own.
    place = lines.index("![a tree](b.png)")
    assert lines[place - 1] == "" and lines[place + 1].startswith("<!--")


def test_measurements_are_shown_with_their_sample_size():
    text = good(metrics=METRICS, datasets=["me/photos"])
    (index,) = front(text)["model-index"]
    (result,) = index["results"]
    assert index["name"] == "Rain" and result["task"]["type"] == "image-to-image"
    assert result["dataset"] == {
        "type": "me/photos",
        "name": "me/photos",
        "split": "photos against paintings",
        "args": {"n_source": 60, "n_target": 20, "size": 256, "seed": 3},
    }
    (metric,) = result["metrics"]  # what is not finite is no figure for the Hub
    assert metric["name"] == "KID, 60 pictures" and metric["value"] == 1.23457
    assert metric["args"] == {"n": 60, "low": 1.0, "high": 1.5, "better": "lower", "feature_network": "squeezenet"}
    lines = text.splitlines()
    head = lines.index("| | pictures | this style | identity | blur\\|ry |")
    assert lines[head + 1 : head + 4] == [
        "|---|---|---|---|---|",
        "| KID, lower is better | 60 | 1.235 (1 to 1.5) | 2.5 |  |",
        "| structure, higher is better | 59 | not finite (1 to 1.5) |  |  |",
    ]
    assert "> 20 paintings are few." in lines and "/home/me" not in text and "SHA-256 abababababababab)" in text
    assert ModelCard(text).data.eval_results[0].metric_value == 1.23457  # the Hub's own class reads it
    assert not card.lint(text, pushing=True)


def test_front_matter_cannot_be_broken_by_a_fact():
    facts = front(card.render(CONFIG, license="x\n---\nlibrary_name: evil", tags=["a: b", "- c", "---"]))
    assert facts["library_name"] == "styleforge" and facts["tags"][3:] == ["a: b", "- c", "---"]


def test_the_hubs_own_class_reads_it():
    network = ResnetGenerator(width=2, blocks=1)
    model_card = network.generate_model_card(license="mit")
    assert isinstance(model_card, ModelCard)
    assert model_card.data.library_name == "styleforge" and model_card.data.license == "mit"
    assert model_card.data.pipeline_tag == "image-to-image"
    assert "- `blocks`: 1" in model_card.text


def test_cards_show_how_each_kind_is_used():
    noise = card.render(CONFIG, inputs=("noise",))
    assert front(noise)["pipeline_tag"] == "unconditional-image-generation"
    assert "pipe.generate(8, seed=0)" in noise and "photo.jpg" not in noise
    style = card.render(CONFIG, inputs=("image", "style"))
    assert 'pipe("photo.jpg", style="painting.jpg")' in style and front(style)["pipeline_tag"] == "image-to-image"


# -- bringing a card up to date --


def test_what_nobody_has_touched_is_renewed():
    old, new = good(), good(training={"Steps": "2000"}, metrics=METRICS)
    made = card.refresh(old, new)
    assert made.text == new and made.renewed == ["front matter", "results", "training"] and not made.kept
    assert card.refresh(new, new) == (new, [], [])


def test_what_the_author_wrote_stays():
    edited = (
        good()
        .replace("Bad at faces.", "Bad at *cats*.")
        .replace("## Use", "Between the sections.\n\n## Use")
        .replace("# Rain\n", "A line before\n\n# Rain\n")
        + "\n## Thanks\n\nTo all.\n"
    )
    edited = re.sub(r"<!-- styleforge:architecture .*architecture -->\n", "", edited, flags=re.S)  # thrown out
    made = card.refresh(edited, good(training={"Steps": "2000"}))
    assert made.renewed == ["training"] and made.kept == ["head", "use", "limits"]
    assert made.text == edited.replace(*map(training_section, (edited, good(training={"Steps": "2000"}))))
    assert "2000" in made.text and "## Architecture" not in made.text


def training_section(text: str) -> str:
    return re.search(r"<!-- styleforge:training .*training -->", text, re.S)[0]


def test_a_push_and_an_editor_on_the_web_are_no_authors():
    """The first puts the name of the repository in, the second may change line ends."""
    pushed = good(repo=card.SOMEWHERE).replace(card.SOMEWHERE, "me/rain").replace("\n", "\r\n")
    made = card.refresh(pushed, good(training={"Steps": "2000"}))
    assert made.text == good(training={"Steps": "2000"}) and not made.kept


def test_a_section_stays_when_asked():
    made = card.refresh(good(), good(training={"Steps": "2000"}, limits="None."), stay=["limits"])
    assert made.renewed == ["training"] and "Bad at faces." in made.text


def test_of_the_front_matter_only_what_is_ours_changes():
    license = "license: other\nlicense_name: x\nlicense_link: y\n"
    old = f"---\n# mine\n{license}tags: [own, styleforge]\nthumbnail: t\nbase_model: a/b\n---\nText\n"
    new = good(metrics=METRICS, base_model="c/d")
    merged = front(card.refresh(old, new, ours=["model-index"]).text)
    assert merged["license"] == "other" and merged["base_model"] == "a/b" and merged["thumbnail"] == "t"
    assert merged["tags"] == ["own", "styleforge", "style-transfer", "ResnetGenerator"]
    assert merged["library_name"] == "styleforge" and merged["model-index"][0]["name"] == "Rain"
    given = front(card.refresh(old, new, ours=["license"]).text)
    assert given["license"] == "cc-by-4.0" and not {"license_name", "license_link"} & set(given)
    complete = card.refresh(old, old)
    assert complete.text == old and not complete.renewed  # not even the comment is lost


def test_a_card_without_front_matter_gets_one_and_a_broken_one_is_refused():
    made = card.refresh("# Mine\n\nMy words.\n", good())
    assert front(made.text) == front(good()) and made.text.endswith("---\n# Mine\n\nMy words.\n")
    with pytest.raises(ConfigError, match=r"line 3 of the card.*Repair it"):
        card.refresh("---\nlicense: mit\ntags: [a\n---\nText\n", good())


# -- the linter --


def test_a_good_card_has_no_problem(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/a.png").touch()
    assert card.lint(good(), folder=tmp_path, pushing=True) == []


@pytest.mark.parametrize("path", sorted((ROOT / "model_cards").glob("*/README.md")), ids=lambda path: path.parent.name)
def test_every_card_of_ours_has_no_problem(path):
    text = path.read_text(encoding="utf-8")
    pushed = text.replace("organisation/name", f"someone/{path.parent.name}")  # as a push does
    assert card.lint(pushed, folder=path.parent, pushing=True) == []
    assert front(text)["license"] == "apache-2.0"
    if path.parent.name in bundled_styles():
        assert card.home(text) == path.parent.name


def change(text: str) -> dict[str, str]:
    """The good card with other front matter."""
    old = re.match(r"---\n(.*?)---\n", good(), re.S)[1]
    return good().replace(old, text, 1)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("# Rain\n", 1, "There is no front matter"),
        ("---\nlicense: mit\n# Rain\n", 1, "has no end"),
        ("---\nlicense: mit\ntags: [a\nx: y\n---\n", 4, "no YAML"),
        ("---\nlicense: mit\nlicense: gpl\n---\n", 3, "'license' stands twice"),
        ("---\nco2_eq_emissions:\n  a: 1\n  a: 2\n---\n", 4, "'a' stands twice"),
        ("---\na: &x [1]\nb: *x\n---\n", 3, "alias"),
        ("---\na: !!python/object/apply:os.system [ls]\n---\n", 2, "could not determine a constructor"),
        ("---\na: 2024-13-45\n---\n", 2, "month must be in 1..12"),
        ("---\n- a\n---\n", 2, "no table of keys and values but a list"),
        ("---\n\n---\n", 2, "but empty"),
        ("---\na: " + "[" * 2000 + "\n---\n", 2, "no YAML"),
        ("---\na: " + "x" * 70_000 + "\n---\n", 2, "longer than 65536"),
        ("---\na: \x00\n---\n", 2, "no YAML"),
    ],
    ids=range(13),
)
def test_front_matter_that_cannot_be_read(text, line, words):
    (problem,) = [problem for problem in card.lint(text) if problem.rule == "front-matter"]
    assert problem.severity == "error" and problem.line == line and words in problem.text


@pytest.mark.parametrize(
    ("old", "new", "rule", "severity", "words"),
    [
        ("license: cc-by-4.0\n", "", "license", "error", "--license apache-2.0"),
        ("cc-by-4.0", "unknown", "license", "error", "without one nobody may use them"),
        ("cc-by-4.0", "CC-BY-4.0", "license", "error", "Did you mean 'cc-by-4.0'?"),
        ("cc-by-4.0", "other", "license", "error", "needs `license_name`"),
        ("cc-by-4.0", "other\nlicense_name: x\nlicense_link: LICENCE", "license", "error", "no file 'LICENCE'"),
        ("inference: false", "thumbnail: no", "type", "error", "`thumbnail` is False"),
        ("library_name: styleforge", "library_name: diffusers", "library", "error", "library_name: styleforge"),
        ("image-to-image", "text-generation", "task", "error", "unconditional-image-generation"),
        ("- style-transfer", "- 2024", "type", "error", "`tags` holds 2024"),
        ("- styleforge", "- painting", "tags", "warning", "lacks styleforge"),
        ("inference: false", "licence: mit", "key", "warning", "Did you mean 'license'?"),
        ("inference: false", "datasets: [me/x/y]", "repository", "error", "no name of a repository"),
        ("inference: false", "base_model: me/x", "base-model", "warning", "base_model_relation"),
        ("inference: false", "base_model_relation: child", "base-model", "error", "finetune, adapter"),
        ("samples/a.png", "samples/b.png", "picture", "error", "is not there"),
        ("samples/a.png", "../a.png", "picture", "error", "inside the folder"),
        ("samples/a.png", "http://x.org/a.png", "picture", "error", "no https"),
        ("![a house](samples/a.png)", '<img alt="x" src="nowhere.png">', "picture", "error", "nowhere.png"),
        ("![a house]", "![ ]", "picture", "warning", "Say in words"),
        ("![a house](samples/a.png)", "`![a](b.png)`", "picture", "warning", "No picture shows"),
        ("Bad at faces.", "{{ limits }}", "placeholder", "warning", "placeholder of a template"),
        ("me/rain", card.SOMEWHERE, "placeholder", "error", "--repo"),
        ("Own photographs, CC0.", card.UNSAID, "section", "warning", "--data"),
        ("Bad at faces.", card.UNTRIED, "section", "warning", "--limits"),
        ("## Limits", "Limits", "section", "warning", "its limits"),
        ("## Data", "```\n## Data\n```", "section", "warning", "what data"),
        ("Not meant for", "For", "section", "warning", "out-of-scope"),
        ("AI-generated", "pretty", "section", "warning", "AI-generated"),
        ("Bad at faces.", "See /home/me/photos/1.jpg", "path", "error", "/home/me/photos/1.jpg"),
        ("Bad at faces.", r"See C:\Users\me", "path", "error", r"C:\Users\me"),
        ("Bad at faces.", "Ask hf_" + "a" * 34, "secret", "error", "'hf_aaa...'"),
        ("Bad at faces.", "https://me:secret@x.org", "secret", "error", "looks like a secret"),
    ],
)
def test_each_fault_is_found_and_said(tmp_path, old, new, rule, severity, words):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/a.png").touch()
    assert good().count(old) >= 1
    text = good().replace(old, new)
    problems = card.lint(text, folder=tmp_path, pushing=True)
    (problem, *_) = [problem for problem in problems if problem.rule == rule and words in problem.text]
    assert problem.severity == severity and {problem.rule for problem in problems} == {rule}
    if problem.line is not None:
        shown = new.splitlines()[-1] if rule in ("path", "secret", "placeholder", "picture") else ""
        assert shown in text.splitlines()[problem.line - 1]
        assert str(problem).startswith(f"line {problem.line}: {severity}: ")


@pytest.mark.parametrize("address", ["samples/a%20b.png", "<samples/a b.png>", "<samples/c).png>"])
def test_names_of_pictures_may_have_spaces(tmp_path, address):
    (tmp_path / "samples").mkdir()
    text = good().replace("samples/a.png", address)
    assert "is not there" in str(card.lint(text, folder=tmp_path))
    for name in ("a b.png", "c).png"):
        (tmp_path / "samples" / name).touch()
    assert not card.lint(text, folder=tmp_path)


def test_only_a_push_needs_a_license_and_a_home():
    text = good(license=None, repo=card.SOMEWHERE)
    assert {problem.severity for problem in card.lint(text)} == {"warning"}
    assert {(p.rule, p.severity) for p in card.lint(text, pushing=True)} == {
        ("license", "error"),
        ("placeholder", "error"),
    }


def test_addresses_are_no_places_on_a_machine():
    text = good(data="From https://x.org/home/me/set.zip, `runs/home/x`, ~/x, /etc and and/or.")
    assert not card.lint(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index[0].pop("name"), "needs a name"),
        (lambda index: index[0]["results"].clear(), "a list of results"),
        (lambda index: index[0]["results"][0]["task"].clear(), "needs task.type"),
        (lambda index: index[0]["results"][0]["dataset"].pop("name"), "needs dataset.name"),
        (lambda index: index[0]["results"][0]["metrics"].clear(), "list of metrics"),
        (lambda index: index[0]["results"][0]["metrics"][0].update(value="good"), "a number"),
        (lambda index: index[0]["results"][0]["metrics"][0].update(value=float("nan")), "not finite"),
        (lambda index: index[0]["results"][0]["metrics"][0].pop("args"), "KID tells no sample size"),
        (lambda index: index[0]["results"][0]["metrics"][0]["args"].update(n=0), "KID tells no sample size"),
        (lambda index: index.append("x"), "list of tables"),
    ],
    ids=range(10),
)
def test_results_that_say_too_little(change, words):
    text = good(metrics=METRICS)
    facts = front(text)
    change(facts["model-index"])
    broken = f"---\n{yaml.safe_dump(facts)}---\n{card.parse(text).body}"
    (problem,) = card.lint(broken)
    assert problem.rule == "model-index" and problem.severity == "error" and words in problem.text
    assert broken.splitlines()[problem.line - 1].startswith("model-index:")


@pytest.mark.parametrize("value", ["3", "[a, [b]]", "{a: b}", "null", "2024-01-01", "[null]"])
@pytest.mark.parametrize("key", sorted(card.linter.KEYS))
def test_no_value_of_any_key_is_too_odd(key, value):
    """Strangers write front matter: the linter answers, whatever it holds."""
    problems = card.lint(f"---\n{key}: {value}\n---\n")
    assert all(problem.text for problem in problems) and "library" in {problem.rule for problem in problems}


def test_a_card_is_not_endless():
    (problem,) = card.lint("x" * 300_000)
    assert problem.rule == "size" and problem.severity == "error"


@pytest.mark.parametrize(
    "part", ["![", "![a](", "<img ", "`", "```\n", "<!-- styleforge:a 00000000 -->\n", "# ", "[", "---\n"]
)
def test_no_text_takes_the_linter_long(part):
    """Each of these would take minutes if a pattern looked through the rest of the card from each of its places."""
    text = f"{good()}\n{part * (100_000 // len(part))}"
    assert not [problem for problem in card.lint(text) if problem.rule == "size"]
    assert card.refresh(text, good()).text == text
