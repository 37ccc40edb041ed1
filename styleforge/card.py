"""The model card of a style: front matter that the Hub reads, and a page that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SOMEWHERE = "organisation/name"
SUMMARIES = {
    ("image",): "An image style: a picture goes in, a styled picture of the same size comes out.",
    (
        "image",
        "style",
    ): "Any image style: a picture and a picture of the style go in, the first in the style of the second comes out.",
    ("noise",): "New pictures of one kind, out of noise. They show no picture that went in: there is none.",
}
TEMPLATE = """\
---
{{ front_matter }}
---

# {{ name }}

{{ summary }}
{% for sample in samples %}

![{{ sample.text }}]({{ sample.file }})
{% endfor %}

## Use

```python
from styleforge import StylePipeline

pipe = StylePipeline.from_pretrained("{{ repo }}"{% if subfolder %}, subfolder="{{ subfolder }}"{% endif %})
{% if "noise" in inputs %}
for number, picture in enumerate(pipe.generate(8, seed=0)):
    picture.save(f"{number}.png")
{% elif "style" in inputs %}
pipe("photo.jpg", style="painting.jpg").save("styled.png")
{% else %}
pipe("photo.jpg").save("styled.png")
{% endif %}
```

{% if "noise" in inputs %}
The same seed makes the same pictures.
{% else %}
The picture that comes out has the size of the one that goes in, whatever it is.
{% endif %}

## Architecture

`{{ class_name }}` with

{% for key, value in config.items() %}
- `{{ key }}`: {{ value }}
{% endfor %}

{% if training %}
## Training

| | |
|---|---|
{% for key, value in training.items() %}
| {{ key }} | {{ value }} |
{% endfor %}

{% endif %}
{% if data %}
## Data

{{ data }}

{% endif %}
## Limits

{{ limits or "Not evaluated yet: look at your own pictures before you rely on it." }}

Not meant for: passing pictures off as made by a person, and for evidence, medical or other uses where what a
picture shows must be true. Pictures made with it are AI-generated; say so where you show them.
{% if not license %}

## License

None is named. Ask the author before you use or change the weights.
{% endif %}
"""


def render(
    config: Mapping[str, Any],
    *,
    inputs: Sequence[str] = ("image",),
    name: str | None = None,
    repo: str = SOMEWHERE,
    subfolder: str = "",
    summary: str | None = None,
    license: str | None = None,
    datasets: list[str] | None = None,
    tags: list[str] | None = None,
    base_model: str | None = None,
    samples: list[Mapping[str, str]] | None = None,
    training: Mapping[str, Any] | None = None,
    data: str | None = None,
    limits: str | None = None,
) -> str:
    """The text of a `README.md`.

    Args:
        config: what `config.json` holds.
        inputs: what the network takes, see :class:`styleforge.hub.Capabilities`.
        name: title of the style.
        repo: what a user writes in `from_pretrained`; a push puts its repository in the place of the default.
        subfolder: folder of this style in the repository.
        summary: a sentence or two on what the style does.
        license: licence of the weights, as the Hub names it; a card without one says so.
        datasets: Hub data sets it was trained on.
        tags: further tags.
        base_model: style that this one was adapted from.
        samples: pictures, each with `file` (path in the repository) and `text`.
        training: facts of the training, in the order to show them.
        data: what it was trained on, and under which licences.
        limits: what it does badly.
    """
    import jinja2  # tens of milliseconds, and loading a style needs no card
    import yaml

    class_name = config.get("_class_name", "unknown")
    front: dict[str, Any] = {
        "library_name": "styleforge",
        "pipeline_tag": "unconditional-image-generation" if "noise" in inputs else "image-to-image",
        "tags": list(dict.fromkeys(["styleforge", "style-transfer", class_name, *(tags or [])])),
        "inference": False,
    }
    for key, value in (("license", license), ("datasets", datasets), ("base_model", base_model)):
        if value:
            front[key] = value
    if base_model:
        front["base_model_relation"] = "finetune"
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE).render(
        front_matter=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        name=name or "A style made with styleforge",
        repo=repo,
        subfolder=subfolder,
        license=license,
        inputs=inputs,
        summary=summary or SUMMARIES[tuple(inputs)],
        samples=samples or [],
        class_name=class_name,
        config={k: v for k, v in config.items() if not k.startswith("_")},
        training=training,
        data=data,
        limits=limits,
    )
