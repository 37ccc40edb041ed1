"""Writing a card from facts; the words are in `templates/card.md`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from .front import dump
from .marks import mark

SOMEWHERE = "organisation/name"
UNSAID = "Where they come from and under which licenses, its author has not written down yet."
UNTRIED = "Its author has not written down yet what it does badly: look at your own pictures before you rely on it."
SUMMARIES = {
    ("image",): "An image style: a picture goes in, a styled picture of the same size comes out.",
    (
        "image",
        "style",
    ): "Any image style: a picture and a picture of the style go in, the first in the style of the second comes out.",
    ("noise",): "New pictures of one kind, out of noise. They show no picture that went in: there is none.",
}


def render(
    config: Mapping[str, Any],
    *,
    inputs: Sequence[str] = ("image",),
    name: str | None = None,
    repo: str = SOMEWHERE,
    subfolder: str = "",
    summary: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    datasets: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    base_model: str | None = None,
    samples: Sequence[Mapping[str, str]] | None = None,
    training: Mapping[str, Any] | None = None,
    command: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    data: str | None = None,
    limits: str | None = None,
    parameters: str | None = None,
) -> str:
    """The text of a `README.md`, in sections that :func:`styleforge.card.refresh` can bring up to date.

    Args:
        config: what `config.json` holds.
        inputs: what the network takes, see :class:`styleforge.hub.Capabilities`.
        name: title of the style.
        repo: what a user writes in `from_pretrained`; a push puts its repository in the place of the default.
        subfolder: folder of this style in the repository.
        summary: a sentence or two on what the style does.
        license: licence of the weights, as the Hub names it; a card without one says so.
        license_name: name of a license that is "other".
        license_link: where to read it.
        datasets: Hub data sets it was trained on.
        tags: further tags.
        base_model: style on the Hub that this one was adapted from.
        samples: pictures, each with `file` (path in the repository), `text` for those who do not see it and, as it
            may be, a `caption`.
        training: facts of the training, in the order to show them.
        command: what was typed to train it.
        metrics: what `styleforge evaluate` measured, see :func:`styleforge.cards.read_metrics`.
        data: what it was trained on, and under which licences.
        limits: what it does badly.
        parameters: how many there are.
    """
    import jinja2  # tens of milliseconds, and loading a style needs no card

    class_name = config.get("_class_name", "unknown")
    name = name or "A style made with styleforge"
    front: dict[str, Any] = {
        "library_name": "styleforge",
        "pipeline_tag": "unconditional-image-generation" if "noise" in inputs else "image-to-image",
        "license": license,
        "license_name": license_name,
        "license_link": license_link,
        "tags": list(dict.fromkeys(["styleforge", "style-transfer", class_name, *(tags or ())])),
        "datasets": list(datasets or ()),
        "base_model": base_model,
        "base_model_relation": "finetune" if base_model else None,
        "inference": False,
    }
    if metrics:
        front["model-index"] = _model_index(name, front["pipeline_tag"], metrics, front["datasets"])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("styleforge"), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    template = environment.get_template("card.md")
    context = template.new_context(
        {
            "name": name,
            "repo": repo,
            "subfolder": subfolder,
            "license": f"[{license_name}]({license_link})" if license_name and license_link else license,
            "inputs": inputs,
            "summary": summary or SUMMARIES[tuple(inputs)],
            "samples": samples or (),
            "class_name": class_name,
            "config": {key: value for key, value in config.items() if not key.startswith("_")},
            "parameters": parameters,
            "training": training,
            "command": command,
            "data": data or f"Trained on pictures that are not in this repository. {UNSAID}",
            "limits": limits or UNTRIED,
            **(_results(metrics) if metrics else {}),
        }
    )
    page = [mark(section, "".join(block(context)).strip()) for section, block in template.blocks.items()]
    given = {key: value for key, value in front.items() if value is not None and value != []}
    return "\n".join([dump(given), *page])


def home(text: str) -> str | None:
    """The repository that a card names in its example."""
    found = re.search(r'from_pretrained\("([^"\n]+)"', text)
    return found[1] if found else None


def _model_index(name: str, task: str, metrics: Mapping[str, Any], datasets: Sequence[str]) -> list[dict[str, Any]]:
    """What the Hub shows beside the page. Values without a sample size say little, so names carry it, too."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    protocol = metrics["protocol"]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=datasets[0] if datasets else "image-folder",
            dataset_name=datasets[0] if datasets else "Pictures of the author",
            dataset_split=protocol["split"],
            dataset_args={key: protocol[key] for key in ("n_source", "n_target", "size", "seed") if key in protocol},
            metric_type=kind,
            metric_name=f"{kind}, {measured['n']} pictures",
            metric_value=_rounded(measured["value"]),
            metric_args={
                "n": measured["n"],
                "low": _rounded(measured["low"]),
                "high": _rounded(measured["high"]),
                "better": measured["better"],
                "feature_network": _network(protocol),
            },
        )
        for kind, measured in metrics["metrics"].items()
        if math.isfinite(measured["value"])
    ]
    return eval_results_to_model_index(name, results) if results else []


def _results(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the template says of measurements."""
    controls, protocol = metrics["controls"], metrics["protocol"]
    rows = [
        {
            "name": f"{kind}, {measured['better']} is better",
            "n": measured["n"],
            "values": [
                f"{_short(measured['value'])} ({_short(measured['low'])} to {_short(measured['high'])})",
                *(_short(table[kind]["value"]) if kind in table else "" for table in controls.values()),
            ],
        }
        for kind, measured in metrics["metrics"].items()
    ]
    seen = f", as {_network(protocol)} sees them (SHA-256 {protocol['feature_sha256'][:16]})"
    text = (
        f"In brackets: 95 % of what other pictures would give. Measured on {protocol['split']}, {protocol['n_source']} "
        f"and {protocol['n_target']} pictures at {protocol['size']} px ({protocol['resize']}), seed {protocol['seed']}"
        f"{seen if protocol['feature_sha256'] else ''}. Figures under another protocol cannot be compared with these."
    )
    return {"results": rows, "columns": ["this style", *controls], "protocol": text, "warnings": metrics["warnings"]}


def _network(protocol: Mapping[str, Any]) -> str:
    return PurePath(protocol["feature_network"]).name  # a path on the author's machine is nobody's business


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _cell(value: object) -> str:
    """Text that does not break a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
