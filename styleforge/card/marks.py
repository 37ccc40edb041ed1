"""Sections of a card that are generated, between marks that no reader sees: they can be written anew, the rest stays.

```
<!-- styleforge:training 1f4a90cc -->
...
<!-- /styleforge:training -->
```
The digits are a checksum. A section that does not fit its own has been edited, and is its author's from then on; so is
one whose marks are gone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from ..errors import ConfigError
from .front import dump, parse

# None holds the beginning of another, so that what has no end is nothing, and found out soon.
_SECTION = re.compile(
    r"<!-- styleforge:(\w{1,40}) (\w{8}) -->\n((?:(?!<!-- styleforge:).)*?)\n?<!-- /styleforge:\1 -->", re.S
)
# Names of repositories: a push writes the real one into the example of a card, which is no edit.
_REPOSITORY = re.compile(r'(?<=from_pretrained\(")[^"\n]*|(?<=--style )\S+')


class Refreshed(NamedTuple):
    """A card that was brought up to date.

    Attributes:
        text: the card.
        renewed: names of the sections that were written anew, "front matter" among them.
        kept: names of the sections that are the author's.
    """

    text: str
    renewed: list[str]
    kept: list[str]


def mark(name: str, text: str) -> str:
    """A generated section with its marks."""
    return f"<!-- styleforge:{name} {_checksum(text)} -->\n{text}\n<!-- /styleforge:{name} -->\n"


def sections(text: str) -> dict[str, str]:
    """What stands between marks, by name."""
    return {name: inside for name, _, inside in _SECTION.findall(text)}


def refresh(old: str, new: str, *, ours: Collection[str] = (), stay: Collection[str] = ()) -> Refreshed:
    """Bring a card up to date, and keep what its author wrote.

    Generated sections that nobody has touched become those of `new`. Everything else stays; of the front matter, too:
    keys are added and tags united, but only those in `ours` are changed.

    Args:
        old: the card as it is.
        new: the card as :func:`styleforge.card.render` would write it.
        ours: keys of the front matter whose new value counts; those that have none any more are taken out.
        stay: sections to leave as they are.

    Raises:
        ConfigError: the front matter cannot be read.
    """
    text = old.replace("\r\n", "\n")
    front, fresh = parse(text), parse(new)
    if front.problem and text.lstrip().startswith("---"):  # without any, it gets ours
        line, words = front.problem
        todo = "Repair it, or remove the card to have it written anew."
        raise ConfigError(words.rstrip("."), where=f"line {line} of the card", todo=todo)
    merged = _merge(front.data, fresh.data, ours)
    unchanged = merged == front.data
    head = text[: len(text) - len(front.body)] if unchanged else dump(merged)
    body, renewed, kept = _refresh_body(front.body, fresh.body, stay)
    return Refreshed(head + body, renewed if unchanged else ["front matter", *renewed], kept)


def _refresh_body(old: str, new: str, stay: Collection[str]) -> tuple[str, list[str], list[str]]:
    fresh = {match[1]: match[0] for match in _SECTION.finditer(new)}
    renewed, kept = [], []

    def choose(match: re.Match[str]) -> str:
        name, checksum, inside = match.groups()
        if checksum != _checksum(inside):
            kept.append(name)
            return match[0]
        if name not in fresh or name in stay or sections(fresh[name])[name] == inside:
            return match[0]
        renewed.append(name)
        return fresh[name]

    return _SECTION.sub(choose, old), renewed, kept


def _merge(old: dict[str, Any], fresh: dict[str, Any], ours: Collection[str]) -> dict[str, Any]:
    merged = {**old, **{key: value for key, value in fresh.items() if key in ours or key not in old}}
    merged = {key: value for key, value in merged.items() if key in fresh or key not in ours}
    if isinstance(old.get("tags"), list):
        merged["tags"] = [*old["tags"], *(tag for tag in fresh.get("tags", []) if tag not in old["tags"])]
    if "license" in ours and merged.get("license") != "other":
        merged = {key: value for key, value in merged.items() if key not in ("license_name", "license_link")}
    return merged


def _checksum(text: str) -> str:
    """Of the words: not of line ends, of blank space at them, and of where the style lives."""
    lines = [line.rstrip() for line in _REPOSITORY.sub("", text).strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]
