"""The card: front matter the Hub understands, and a page that says what to know."""

import yaml
from huggingface_hub import ModelCard

from styleforge import card
from styleforge.models import ResnetGenerator

CONFIG = {"_class_name": "ResnetGenerator", "_styleforge_version": "9", "width": 64, "upsample": "resize"}


def front(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


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
        "- `width`: 64",
        "- `upsample`: resize",
        "Not evaluated yet: look at your own pictures before you rely on it.",
        "None is named. Ask the author before you use or change the weights.",
    ):
        assert line in text.splitlines()
    assert "_styleforge_version" not in text and "## Training" not in text and "## Data" not in text
    assert "{{" not in text and "{%" not in text and "None\n" not in text and "\n\n\n" not in text
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_a_card_with_all_facts():
    text = card.render(
        CONFIG,
        name="Rain: Ölbild #1",
        repo="me/rain",
        summary="Paints {{ rain }}.",
        license="cc-by-4.0",
        datasets=["me/photos", "me/paintings"],
        tags=["painting"],
        base_model="me/monet",
        samples=[{"file": "samples/a.png", "text": "a house"}, {"file": "samples/b.png", "text": "a tree"}],
        training={"steps": 1000, "hardware": "2 cores"},
        data="Own photographs, CC0.",
        limits="Bad at faces.",
    )
    facts = front(text)
    assert facts["license"] == "cc-by-4.0" and facts["datasets"] == ["me/photos", "me/paintings"]
    assert facts["base_model"] == "me/monet" and facts["base_model_relation"] == "finetune"
    assert facts["tags"][-1] == "painting"
    lines = text.splitlines()
    for line in (
        "# Rain: Ölbild #1",
        'pipe = StylePipeline.from_pretrained("me/rain")',
        "Paints {{ rain }}.",
        "![a house](samples/a.png)",
        "| steps | 1000 |",
        "| hardware | 2 cores |",
        "Own photographs, CC0.",
        "Bad at faces.",
    ):
        assert line in lines
    # A table is one block: its rows follow the head without a gap.
    head = lines.index("|---|---|")
    assert lines[head - 1 : head + 3] == ["| | |", "|---|---|", "| steps | 1000 |", "| hardware | 2 cores |"]
    # Pictures stand in paragraphs of their own.
    place = lines.index("![a house](samples/a.png)")
    assert lines[place - 1] == "" == lines[place + 1]
    assert "Not evaluated" not in text and "## License" not in text and "\n\n\n" not in text


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
