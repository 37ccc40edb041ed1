"""Signatures are the schema: what they allow passes, all else gives one sentence at no cost."""

import inspect
from typing import Annotated, Any, Literal

import pytest
from effort import effort

from styleforge import configs
from styleforge.configs import Range, check, defaults, describe, schema
from styleforge.errors import ConfigError
from styleforge.models import MODELS


def example(
    self,
    positional=None,
    *,
    number: Annotated[int, Range(1, 8)] = 2,
    ratio: float = 0.5,
    weight: configs.Weight = 1.0,
    flag: bool = False,
    word: str = "x",
    kind: Literal["a", "b", 3] = "a",
    maybe: Annotated[int, Range(0, 9)] | None = None,
    many: list[int] | tuple[int, ...] = (),
    table: dict[str, Any] | None = None,
    anything: Any = None,
    needed: int,
):
    pass


def test_schema_holds_the_keyword_arguments_only():
    assert list(schema(example)) == [
        "number", "ratio", "weight", "flag", "word", "kind", "maybe", "many", "table", "anything", "needed",
    ]  # fmt: skip
    assert "needed" not in defaults(example) and "positional" not in defaults(example)
    assert defaults(example)["number"] == 2


GOOD = {
    "number": [1, 8],
    "ratio": [0, -1.5, 1e300, 2**70],
    "weight": [0, 0.0, 1e6],
    "flag": [True, False],
    "word": ["", "long" * 100],
    "kind": ["a", "b", 3],
    "maybe": [None, 0, 9],
    "many": [[], [1, 2], (3,)],
    "table": [None, {}, {"a": 1}],
    "anything": [None, object(), float("nan")],
    "needed": [-(10**30)],
}
BAD = {
    "number": [0, 9, 1.0, True, "8", None, [8], 10**400, float("nan")],
    "ratio": ["0.5", True, None, float("nan"), float("inf"), float("-inf"), 10**400, -(10**400), [0.5]],
    "weight": [-1, 1e6 + 1, float("inf"), 10**400, False],
    "flag": [0, 1, "true", None],
    "word": [1, None, ["x"]],
    "kind": ["c", 3.0, True, None, ["a"], {"a": 1}],
    "maybe": [10, -1, True, "None"],
    "many": ["12", [1, "2"], [True], list(range(65)), {"1": 1}],
    "table": [{1: 1}, [], "x"],
    "needed": [1.0, False],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in GOOD for value in GOOD[key]])
def test_allowed(key, value):
    check(example, {key: value}, "a test")


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in BAD for value in BAD[key]], ids=lambda v: str(v)[:20]
)
def test_refused(key, value):
    with pytest.raises(ConfigError) as caught:
        check(example, {key: value}, "a test")
    message = str(caught.value)
    assert f"'{key}'" in message and "a test" in message and describe(schema(example)[key].annotation) in message
    assert len(message) < 1000


def test_messages_name_what_is_allowed_and_the_nearest():
    with pytest.raises(ConfigError, match=r"'number'.*found 9; allowed: a whole number from 1 to 8"):
        check(example, {"number": 9}, "x")
    with pytest.raises(ConfigError, match=r"'kind'.*found 'c'; allowed: 'a' or 'b' or 3"):
        check(example, {"kind": "c"}, "x")
    with pytest.raises(ConfigError, match=r"Unknown setting 'nubmer'.*Did you mean 'number'\?"):
        check(example, {"nubmer": 9}, "x")
    with pytest.raises(ConfigError, match="allowed: none"):
        check(lambda: None, {"x": 1}, "x")
    assert describe(configs.Weight) == "a number from 0 to 1e+06"
    assert describe(schema(example)["maybe"].annotation) == "a whole number from 0 to 9 or null"
    assert describe(schema(example)["many"].annotation).startswith("a list of a whole number")
    assert describe(bool) == "true or false" and describe(str) == "text"


@pytest.mark.parametrize(
    "key", ["strict", "map_location", "token", "self", "args", "__class__", "_x", "", "x" * 60_000]
)
def test_no_foreign_key_gets_in(key):
    """A mixin whose constructor takes **kwargs would hand `strict` and `map_location` to its loader."""
    for cls in MODELS:
        with pytest.raises(ConfigError) as caught:
            check(cls.__init__, {key: True}, "x")
        assert len(str(caught.value)) < 1000


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 60_000, list(range(30_000)), {str(i): i for i in range(9000)}, nested(20_000)])
def test_a_message_stays_short(value):
    with pytest.raises(ConfigError) as caught:
        check(example, {"number": value}, "x")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_bounds_of_the_networks(cls):
    """Every number in a constructor has bounds, and crossing them costs nothing."""
    for name, parameter in schema(cls.__init__).items():
        assert parameter.default is not inspect.Parameter.empty, name
        check(cls.__init__, {name: parameter.default}, "x")
        if describe(parameter.annotation).startswith(("a whole number", "a number")):
            with effort() as spent:
                for value in (10**6, -1, 10**400):
                    with pytest.raises(ConfigError):
                        cls(**{name: value})
            assert spent.calls < 2_000 and spent.memory < 1e6
