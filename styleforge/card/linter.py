"""What is wrong with a card: read as text, beside the files it names; nothing is asked of a network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError, nearest
from .front import Front, parse
from .page import SOMEWHERE, UNSAID, UNTRIED

MAX_CHARACTERS = 256 * 1024
# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other
    """.split()  # noqa: SIM905 -- a list would take a line for each
)
GIVE = (
    "Write `license: apache-2.0` into the front matter, or give `styleforge card ... --license apache-2.0`; "
    "https://huggingface.co/docs/hub/repositories-licenses lists the names."
)
TASKS = ("image-to-image", "unconditional-image-generation")
RELATIONS = ("finetune", "adapter", "quantized", "merge")
TEXT = {"license_name", "license_link", "library_name", "pipeline_tag", "base_model_relation", "thumbnail"}
TEXTS = {"license", "language", "datasets", "metrics", "base_model"}  # one, or a list of them
ELSE = frozenset(
    """
    tags model-index inference widget new_version co2_eq_emissions extra_gated_prompt extra_gated_fields
    extra_gated_heading extra_gated_description extra_gated_button_content
    """.split()  # noqa: SIM905 -- a list would take a line for each
)
KEYS = TEXT | TEXTS | ELSE
HEADINGS = {
    "how to use it": r"\b(use|usage)\b",
    "how it was trained": r"\b(training|trained)\b",
    "what data it comes from": r"\bdata",
    "its limits": r"\b(limits?|limitations?|bias|risks?)\b",
}
REPOSITORY = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}")
SECRETS = re.compile(
    r"\b(?:hf_\w{20,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[bap]-[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bhttps?://[^\s/:@]+:[^\s/@]+@"
)
PLACES = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|Volumes|root|work|workspace|mnt|media|tmp|var|opt|srv|data|scratch|content|kaggle)"
    r"/[^\s)`'\"|<>]+|\b[A-Za-z]:\\[^\s)`'\"|<>]+|\bfile://\S+"
)
LEFT = {
    re.escape(SOMEWHERE): f"`{SOMEWHERE}` stands where the name of the repository belongs; give --repo",
    r"\[More Information Needed\]|\bTODO\b|\bFIXME\b": "something is still to be written",
    r"\{\{|\{%": "a placeholder of a template",
}
UNWRITTEN = {
    UNSAID: "Say where the pictures come from and under which licenses: in the section, or with --data",
    UNTRIED: "Say what the style does badly: in the section, or with --limits",
}
PICTURES = ("samples", "images")
PICTURE = re.compile(rf"(?:{'|'.join(PICTURES)})/[\w\- ][\w\-. ]{{0,99}}\.(?:png|jpe?g|webp)")  # no other is pushed
# Bounded, so that no line takes long.
IMAGES = re.compile(
    r"!\[([^\]]{0,500})\]\(\s{0,9}(<[^>]{1,500}>|[^)\s>]{1,500})(?:\s[^)]{0,500})?\)|<img\b([^>]{0,500})>", re.I
)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a card.

    Attributes:
        rule: which of the rules, a word.
        text: what is wrong, and what to do.
        severity: a card with an error is not pushed.
        line: of the card, from 1; None for what is missing.
    """

    rule: str
    text: str
    severity: Literal["error", "warning"]
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.severity}: {self.text} [{self.rule}]"


def lint(text: str, *, folder: Path | None = None, pushing: bool = False) -> list[Problem]:
    """Find what is wrong with a card.

    Args:
        text: the card, as it will be on the Hub.
        folder: where it lies; when given, the pictures that the card shows must be there.
        pushing: a card without a licence, or without the name of its repository, is then an error.

    Returns:
        Problems in the order of their lines; what is missing comes first.
    """
    if len(text) > MAX_CHARACTERS:
        words = f"The card has {len(text)} characters, more than {MAX_CHARACTERS}; put tables and logs into files."
        return [Problem("size", words, "error")]
    strict: Literal["error", "warning"] = "error" if pushing else "warning"
    front = parse(text)
    found = [*_everywhere(text, strict), *_body(text, front, folder)]
    if front.problem:
        line, words = front.problem
        found.append(Problem("front-matter", f"{words} The Hub needs it to list the style.", "error", line))
    else:
        found += _front(front, folder, strict)
    return sorted(found, key=lambda problem: problem.line or 0)


def known_license(name: str) -> str:
    """The name of a license as the Hub writes it.

    Raises:
        ConfigError: the Hub does not know it.
    """
    if name.lower() not in LICENSES:  # SPDX writes capitals, the Hub does not
        raise ConfigError(
            "The Hub knows no such license",
            found=repr(name),
            allowed="those of https://huggingface.co/docs/hub/repositories-licenses",
            todo=f"{nearest(name, LICENSES)}For any other give 'other', with its name and a link.",
        )
    return name.lower()


# -- the whole text --


def _everywhere(text: str, strict: Literal["error", "warning"]) -> Iterator[Problem]:
    for number, line in enumerate(text.splitlines(), 1):
        for match in SECRETS.finditer(line):
            words = f"'{match[0][:6]}...' looks like a secret; remove it, and have it replaced where it is from."
            yield Problem("secret", words, "error", number)
        for match in PLACES.finditer(line):
            words = f"'{match[0][:60]}' is a place on your machine, which is nobody's business; write the name alone."
            yield Problem("path", words, "error", number)
        for pattern, words in LEFT.items():
            if re.search(pattern, line):
                severity = strict if SOMEWHERE in line else "warning"
                yield Problem("placeholder", f"{words}.", severity, number)


# -- the page --


def _body(text: str, front: Front, folder: Path | None) -> Iterator[Problem]:
    before = text[: len(text) - len(front.body)].count("\n")
    lines = _without_code(front.body).splitlines()
    headings = " / ".join(line for line in lines if line.startswith("#")).lower()
    for what, pattern in HEADINGS.items():
        if not re.search(pattern, headings):
            yield Problem("section", f"No heading says {what}; write a section, however short.", "warning")
    words = front.body.lower()
    if not re.search(r"out[- ]of[- ]scope|not meant for|not intended", words):
        yield Problem("section", "Nothing says what the style is not meant for (out-of-scope use).", "warning")
    if "ai-generated" not in words:
        yield Problem("section", "Nothing says that what the style makes is AI-generated.", "warning")
    shown = [(number, match) for number, line in enumerate(lines, before + 1) for match in IMAGES.finditer(line)]
    if not shown:
        todo = "`styleforge card ... --picture photo.jpg` draws one."
        yield Problem("picture", f"No picture shows what the style does; {todo}", "warning")
    for number, match in shown:
        yield from _picture(match, folder, number)
    for number, line in enumerate(lines, before + 1):
        for left, words in UNWRITTEN.items():
            if left in line:
                yield Problem("section", f"{words}.", "warning", number)


def _without_code(body: str) -> str:
    """The same lines; those of code, and what is code within one, are empty."""

    def emptied(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    body = re.sub(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", emptied, body, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", body)


def _picture(match: re.Match[str], folder: Path | None, line: int) -> Iterator[Problem]:
    text, address, attributes = match.groups()
    if attributes is not None:
        named = {name: re.search(rf"\b{name}\s*=\s*[\"']([^\"']*)", attributes, re.I) for name in ("src", "alt")}
        address, text = (found[1] if found else "" for found in named.values())
    if not text.strip():
        yield Problem("picture", "Say in words what the picture shows, for those who do not see it.", "warning", line)
    words = _trouble(address.strip("<>"), folder)
    if words:
        yield Problem("picture", f"'{address[:80]}' {words}", "error", line)


def _trouble(address: str, folder: Path | None) -> str:
    """What is wrong with the address of a picture."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "is no address."
    if parts.scheme or parts.netloc:
        return "" if parts.scheme == "https" else "is no https address."
    path = unquote(parts.path)
    if not path or path.startswith("/") or ".." in path.split("/"):
        return "must be a path inside the folder of the card."
    if folder is not None and not (folder / path).is_file():
        return "is not there; put it beside the card, or remove it from the text."
    return ""


# -- the front matter --


def _front(front: Front, folder: Path | None, strict: Literal["error", "warning"]) -> Iterator[Problem]:
    def wrong(rule: str, words: str, key: str, severity: Literal["error", "warning"] = "error") -> Problem:
        return Problem(rule, words, severity, front.lines.get(key))

    yield from _types(front.data, wrong)
    yield from _license(front.data, folder, strict, wrong)
    data = {key: value for key, value in front.data.items() if isinstance(value, (str, list))}
    if data.get("library_name") != "styleforge":
        words = "The Hub finds the style by `library_name: styleforge`."
        yield wrong("library", words, "library_name")
    if data.get("pipeline_tag") not in TASKS:
        yield wrong("task", f"`pipeline_tag` is {' or '.join(TASKS)}.", "pipeline_tag")
    if "styleforge" not in data.get("tags", []):
        yield wrong("tags", "`tags` lacks styleforge, by which `styleforge styles --hub` finds it.", "tags", "warning")
    yield from _base(data, wrong)
    if "model-index" in front.data:
        for words in _index(front.data["model-index"]):
            yield wrong("model-index", words, "model-index")


Wrong = Callable[..., Problem]


def _types(data: dict[str, Any], wrong: Wrong) -> Iterator[Problem]:
    for key, value in data.items():
        if key not in KEYS:
            words = f"The Hub knows no key '{key}'. {nearest(str(key), KEYS)}Rename or remove it."
            yield wrong("key", words, str(key), "warning")
            continue
        if isinstance(value, list) and key in TEXTS | {"tags"}:
            for item in value:
                if not isinstance(item, str):
                    yield wrong("type", f"`{key}` holds {item!r}, which is no text; put it in quotes.", key)
        elif key == "tags" or (key in TEXT | TEXTS and not isinstance(value, str)):
            kind = "a list of texts" if key == "tags" else "a text"
            yield wrong("type", f"`{key}` is {value!r}, not {kind}; in doubt put it in quotes.", key)
    for key in ("datasets", "base_model"):
        for name in _several(data.get(key)):
            if not REPOSITORY.fullmatch(name):
                yield wrong("repository", f"`{key}`: '{name[:80]}' is no name of a repository on the Hub.", key)


def _license(
    data: dict[str, Any], folder: Path | None, strict: Literal["error", "warning"], wrong: Wrong
) -> Iterator[Problem]:
    names = _several(data.get("license"))
    if not names or names == ["unknown"]:
        words = f"No license of the weights: without one nobody may use them. {GIVE}"
        yield wrong("license", words, "license", strict)
    for name in names:
        if name not in LICENSES:
            words = f"The Hub knows no license '{name[:60]}'. {nearest(name, LICENSES)}{GIVE} For any other: license: "
            yield wrong("license", f"{words}other, with license_name and license_link.", "license")
    if "other" in names:
        for key in ("license_name", "license_link"):
            if not isinstance(data.get(key), str):
                yield wrong("license", f"`license: other` needs `{key}`.", "license")
    link = data.get("license_link")
    if isinstance(link, str) and folder is not None and "://" not in link and not (folder / link).is_file():
        yield wrong("license", f"`license_link`: there is no file '{link[:80]}' beside the card.", "license_link")


def _base(data: dict[str, Any], wrong: Wrong) -> Iterator[Problem]:
    relation = data.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        yield wrong("base-model", f"`base_model_relation` is one of {', '.join(RELATIONS)}.", "base_model_relation")
    if relation is not None and "base_model" not in data:
        yield wrong("base-model", "`base_model_relation` without `base_model` says nothing.", "base_model_relation")
    if relation is None and "base_model" in data:
        words = f"Say with `base_model_relation` how it was made of its base: {', '.join(RELATIONS)}."
        yield wrong("base-model", words, "base_model", "warning")


def _index(index: Any) -> Iterator[str]:
    """Words on what is wrong with `model-index`; see https://github.com/huggingface/hub-docs/blob/main/modelcard.md."""
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        yield "`model-index` is a list of tables with name and results."
        return
    for entry in index:
        results = entry.get("results")
        if not isinstance(entry.get("name"), str) or not isinstance(results, list) or not results:
            yield "An entry of `model-index` needs a name and a list of results."
            continue
        for result in results:
            yield from _result(result)


def _result(result: Any) -> Iterator[str]:
    for path in ("task.type", "dataset.type", "dataset.name"):
        value = result
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str):
            yield f"A result of `model-index` needs {path}."
    metrics = result.get("metrics") if isinstance(result, dict) else None
    if not isinstance(metrics, list) or not metrics:
        yield "A result of `model-index` needs a list of metrics."
        return
    for metric in metrics:
        metric = metric if isinstance(metric, dict) else {}
        name, value, arguments = metric.get("type"), metric.get("value"), metric.get("args")
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (int, float)):
            yield "A metric of `model-index` needs a type, and a number as its value."
        elif not math.isfinite(value):
            yield f"The value of {name} is not finite."
        size = arguments.get("n") if isinstance(arguments, dict) else None
        if not isinstance(size, int) or size < 1:
            yield f"{name} tells no sample size: write `args: {{n: ...}}`, the number of pictures, beside its value."


def _several(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
