"""One tree of errors; each says what failed, where, and what to do."""

import ast
import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

from styleforge import errors
from styleforge.errors import ConfigError, MissingExtra, RepoNotFound, StyleforgeError, nearest

PACKAGE = Path(errors.__file__).parent
CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, StyleforgeError)]
NAMES = {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("todo", [None, "Do that.", "Did you mean 'x'?", "Do!"])
def test_every_error_pickles(cls, todo):
    error = cls("This failed", where="here", found="x", allowed="y or z", todo=todo)
    assert str(error) == "This failed (here): found x; allowed: y or z." + (f" {todo}" if todo else "")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls and str(again) == str(error)


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = re.findall(r"^(?:│   |    )*(?:[├└]── )?(\w+) *(?=  |also|$|[a-z])", errors.__doc__, re.M)
    assert set(drawn) >= NAMES
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^((?:│   |    )*)([├└]── )(\w+)", line):
            depth = len(match[1]) // 4 + 1
            assert len([base for base in getattr(errors, match[3]).__mro__ if base in CLASSES]) - 1 == depth, line
    for builtin, names in {
        OSError: ["RepoError"],
        ValueError: ["ConfigError", "ImageError"],
        ImportError: ["MissingExtra"],
    }.items():
        assert all(issubclass(getattr(errors, name), builtin) for name in names)


def test_messages_leave_out_what_is_not_given():
    assert str(StyleforgeError("This failed")) == "This failed."
    assert str(StyleforgeError("This failed.", todo="Do that.")) == "This failed. Do that."
    assert str(ConfigError("This failed", allowed="y")) == "This failed: allowed: y."
    assert str(RepoNotFound("This failed", where="here")) == "This failed (here)."  # not "[Errno ...]"
    assert str(MissingExtra("This failed", found=0)) == "This failed: found 0."


def test_nearest_name():
    assert nearest("resnetgenerator", ["ResnetGenerator", "UNetGenerator"]) == "Did you mean 'ResnetGenerator'? "
    assert nearest("widht", ["width", "blocks"]) == "Did you mean 'width'? "
    assert nearest("qqq", ["width", "blocks"]) == ""
    assert nearest("qqq", []) == ""
    assert nearest("w" * 60_000, ["width"]) == ""


def sites(path: Path) -> list[ast.Call]:
    """Where a file makes one of our errors."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func).split(".")[-1] in NAMES]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if sites(path) and path.name != "errors.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_every_error_says_what_to_do(path):
    silent = [call.lineno for call in sites(path) if "todo" not in {keyword.arg for keyword in call.keywords}]
    assert not silent, f"{path.name}: no todo= in lines {silent}"


def test_the_sites_are_found():
    assert len(sites(PACKAGE / "hub.py")) > 8 and len(sites(PACKAGE / "repos.py")) > 4
