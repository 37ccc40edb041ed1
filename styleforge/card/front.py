"""Front matter: the YAML at the beginning of a card, which strangers write."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

MAX_CHARACTERS = 64 * 1024
# As on the Hub (huggingface_hub.repocard says so): what stands between the first two lines of dashes.
_BLOCK = re.compile(r"\A\s*---[ \t]*(?:\r\n|\r|\n)(.*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\r|\n|\Z)", re.S)


class Front(NamedTuple):
    """A card in its two parts.

    Attributes:
        data: what the front matter says; empty when it cannot be read.
        lines: where each of its keys stands, from 1.
        body: what follows it.
        problem: line and words of what is wrong with it; None when nothing is.
    """

    data: dict[str, Any]
    lines: dict[str, int]
    body: str
    problem: tuple[int, str] | None = None


def parse(text: str) -> Front:
    """Take a card apart. Only plain values are made, no key may stand twice, and size and depth are bounded."""
    match = _BLOCK.match(text)
    if match is None:
        begun = text.lstrip().startswith("---")
        return Front({}, {}, text, (1, "The front matter has no end." if begun else "There is no front matter."))
    begin, body = text.count("\n", 0, match.start(1)) + 1, text[match.end() :]
    if len(match[1]) > MAX_CHARACTERS:
        return Front({}, {}, body, (begin, f"The front matter is longer than {MAX_CHARACTERS} characters."))
    try:
        data, lines = _load(match[1], begin)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return Front(
            {}, {}, body, (begin + (mark.line if mark else 0), f"The front matter is no YAML: {error.problem}.")
        )
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month, a number of 5000 digits
        return Front({}, {}, body, (begin, f"The front matter is no YAML: {str(error).splitlines()[0]}."))
    if not isinstance(data, dict):
        return Front({}, {}, body, (begin, f"The front matter is no table of keys and values but {_kind(data)}."))
    return Front(data, lines, body)


def dump(data: dict[str, Any]) -> str:
    """Front matter with its dashes."""
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=MAX_CHARACTERS)
    return f"---\n{text}---\n"


class _Loader(yaml.SafeLoader):
    """Safe, and strict: of keys that stand twice two readers may take different ones, and aliases can explode."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias, which no card needs", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                text = f"the key '{key.value}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(text: str, begin: int) -> tuple[Any, dict[str, int]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines = {}
        if isinstance(node, yaml.MappingNode):
            lines = {str(key.value): begin + key.start_mark.line for key, _ in node.value}
        return (None if node is None else loader.construct_document(node)), lines
    finally:
        loader.dispose()


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
