"""Options that several commands share, and options that come from signatures."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import click

from .. import configs

Decorator = Callable[[Any], Any]
ANY_STYLE = "Bundled name, folder, or organisation/name on the Hub."


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, listed in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


REVISION = click.option("--revision", help="Branch, tag or commit on the Hub.")
SUBFOLDER = click.option("--subfolder", default="", help="Folder inside the repository.")
DEVICE = click.option("--device", help="Where to compute, e.g. cpu, cuda, mps; by default cuda, where torch has it.")
OFFLINE = click.option("--offline", is_flag=True, help="Never ask the network.")
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON value on standard output.")
REFERENCE = click.option(
    "--reference",
    multiple=True,
    help="Where the network asks: picture to take the style from, or several, each by one option, with their shares "
    "as PATH=0.7; or of several learnt styles the number of one, or a weight for each: 0.7,0.3.",
)
STRENGTH = click.option(
    "--strength", type=float, default=1.0, show_default=True, help="0 the picture, 1 the style, up to 1.5."
)
PRESERVE_COLOR = click.option(
    "--preserve-color", type=click.Choice(["luma", "histogram"]), help="Keep colors: each place's, or all."
)
STYLE_SCALE = click.option(
    "--style-scale", type=float, default=1.0, show_default=True, help="Size of the brush, 0.25 to 8."
)
MAX_MEMORY = click.option(
    "--max-memory", type=click.FloatRange(0.01), help="GiB that computing may take; half of what is free."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Make again what is there already.")


def style_option(text: str = ANY_STYLE, *, needed: bool = True) -> Decorator:
    """`--style`, and how it is loaded; :func:`load` takes what comes of it."""
    style = click.option("--style", "-s", required=needed, help=text)  # with a default, even None, nothing is missing
    return together(style, REVISION, SUBFOLDER, DEVICE, OFFLINE)


def output_option(text: str) -> Decorator:
    """`--output`, which must be given."""
    return click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help=text)


def load(style: str, revision: str | None, subfolder: str, device: str | None, offline: bool) -> Any:
    """The pipeline that :func:`style_option` describes."""
    from ..pipeline import StylePipeline

    return StylePipeline.from_pretrained(
        style, revision=revision, subfolder=subfolder, device=device, local_files_only=offline
    )


@contextlib.contextmanager
def progress_bar(unit: str, delay: float = 0) -> Iterator[Callable[[int, int], None]]:
    """Shows how many of how many are done, if that takes longer than `delay` seconds; gone at the end."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, delay=delay, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def reference_of(texts: Sequence[str]) -> Any:
    """A picture of the style, several with shares, the number of a learnt one, or weights of all learnt ones."""
    if len(texts) == 1:
        (text,) = texts
        if text.isdecimal():
            return int(text)
        with contextlib.suppress(ValueError):
            return [float(part) for part in text.split(",")]
        return text
    return [_shared(text) for text in texts] or None


def _shared(text: str) -> tuple[str, float]:
    """A path or URL, or `PATH=SHARE`; in `https://host/picture?width=512` there is no share."""
    path, _, share = text.rpartition("=")
    in_query = "://" in path and re.search(r"[?&][^=&]*$", path)
    with contextlib.suppress(ValueError):
        return (path, float(share)) if path and not in_query else (text, 1.0)
    return text, 1.0


class Numbers(click.ParamType):
    """Several numbers in one option, separated by commas: `--zoom 1.12,1.5`."""

    name = "numbers"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Text to a list of numbers."""
        if isinstance(value, list):
            return value
        try:
            return [self.kind(part) for part in str(value).split(",") if part.strip()]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 1,2", param, ctx)


def from_signature(
    parameters: dict[str, inspect.Parameter], documented: type, defaults: dict[str, Any]
) -> Iterator[click.Option]:
    """Command-line options from a signature, with the words of its docstring."""
    words = {}
    for described in (*configs.groups(documented.__init__), documented):
        words |= _argument_words(described.__doc__ or "")
    fallbacks = {f.name: f.default_factory() for f in _factories(documented)}
    for key, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = defaults.get(key, fallbacks.get(key, None if required else parameter.default))
        kind = _click_type(parameter.annotation)
        flag = f"--{key.replace('_', '-')}"
        if kind is bool:
            flag += f"/--no-{key.replace('_', '-')}"
        if isinstance(default, (list, tuple)):
            default = ",".join(map(str, default))
        given = {"required": True} if required else {"default": default, "show_default": default is not None}
        yield click.Option([flag], type=None if kind is bool else kind, help=words.get(key), **given)


def plain_value(value: Any) -> Any:
    """A default as JSON would have it."""
    return list(value) if isinstance(value, tuple) else value


def _factories(cls: type) -> list[Any]:
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return [field for field in fields if field.default_factory is not dataclasses.MISSING]


def _click_type(annotation: Any) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _click_type(args[0])
    if origin is Literal:
        return click.Choice([str(a) for a in args])
    if origin in (list, tuple):
        return Numbers(args[0])
    if args:  # a union with None
        return _click_type(next(a for a in args if a is not type(None)))
    return annotation


def _argument_words(docstring: str) -> dict[str, str]:
    """What the `Args:` or `Attributes:` of a docstring say, by name."""
    section = re.split(r"\n\s*(?:Args|Attributes):\n", inspect.cleandoc(docstring) + "\n", maxsplit=1)
    text = re.split(r"\n\S", section[1], maxsplit=1)[0] if len(section) > 1 else ""
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", text, re.M)
    return {name: _plain(words) for name, words in found}


def _plain(words: str) -> str:
    """reStructuredText to what a terminal shows."""
    words = re.sub(r":(?:class|func|meth|mod):`~?[\w.]*?(\w+)`", r"\1", words)
    return re.sub(r"\s+", " ", words).replace("`", "'")
