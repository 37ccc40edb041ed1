"""A constructor's signature is the schema of its configuration.

Models and methods take keyword-only arguments with plain JSON values, annotated with what is allowed::

    def __init__(self, *, width: Annotated[int, Range(1, 1024)] = 64, norm: Literal["instance", "batch"] = "instance")

:func:`check` compares given values with those annotations before anything is built, so a hostile or mistyped
`config.json` costs microseconds and gives one sentence, whatever it asks for.
"""

from __future__ import annotations

import inspect
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from .errors import ConfigError, nearest


class Range(NamedTuple):
    """Closed interval of allowed numbers."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


class Options(NamedTuple):
    """Marks `**options: Annotated[Any, Options(Group)]`: whatever the constructor of `Group` takes is taken here.

    An argument that the signature itself names, too, is the one that counts: so it can have another default.
    """

    group: type


# Annotations that several models share. The bounds are generous: the largest networks in the field's
# checkpoints use a quarter of them.
Channels = Annotated[int, Range(1, 64)]
Width = Annotated[int, Range(1, 1024)]
Weight = Annotated[float, Range(0, 1e6)]


@lru_cache(maxsize=256)
def schema(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword parameters of `function` with resolved annotations, in order."""
    hints = typing.get_type_hints(function, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            found[name] = parameter.replace(annotation=hints.get(name, Any))
    for group in groups(function):
        found |= {name: parameter for name, parameter in schema(group.__init__).items() if name not in found}
    return found


def groups(function: Callable[..., Any]) -> list[type]:
    """The classes whose arguments `function` takes beside its own; see :class:`Options`."""
    hints = typing.get_type_hints(function, include_extras=True)
    variable = [p for p in inspect.signature(function).parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    marks = [mark for p in variable for mark in getattr(hints.get(p.name), "__metadata__", ())]
    return [mark.group for mark in marks if isinstance(mark, Options)]


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of `function` that have a default, with it."""
    return {n: p.default for n, p in schema(function).items() if p.default is not inspect.Parameter.empty}


def check(function: Callable[..., Any], values: Mapping[str, Any], where: object) -> None:
    """Raise :class:`ConfigError` unless every value has a known key, the right type and an allowed size."""
    parameters = schema(function)
    for key, value in values.items():
        if key not in parameters:
            raise ConfigError(
                f"Unknown setting {_short(key)}",
                where=where,
                allowed=", ".join(parameters) or "none",
                todo=f"{nearest(key, parameters)}Remove or rename it.",
            )
        annotation = parameters[key].annotation
        if not _fits(annotation, value):
            raise ConfigError(
                f"Setting '{key}' cannot be used",
                where=where,
                found=_short(value),
                allowed=describe(annotation),
                todo="Change it to an allowed value.",
            )


def describe(annotation: Any) -> str:
    """What an annotation allows, in words."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return f"{describe(args[0])} from {next(a for a in args[1:] if isinstance(a, Range))}"
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin in (list, tuple):
        return f"a list of {describe(args[0])}"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
    }
    return names.get(annotation, str(annotation))


def _fits(annotation: Any, value: Any) -> bool:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        limits = next(a for a in args[1:] if isinstance(a, Range))
        return _fits(args[0], value) and limits.low <= value <= limits.high
    if origin is Literal:
        return any(type(value) is type(a) and value == a for a in args)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(a, value) for a in args)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and len(value) <= 64 and all(_fits(args[0], v) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if annotation is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max  # neither NaN nor infinity; holds for any integer
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _short(value: Any) -> str:
    return reprlib.repr(value)[:200]  # of a stranger's file: neither deep nor long
