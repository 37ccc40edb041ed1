"""Training methods. `METHODS` is the list of what can be trained; a new method is one file and one line here.

Importing this module loads no torch, so that the command line can list the names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .. import configs
from ..errors import UnknownName, nearest

if TYPE_CHECKING:
    from .base import Method

# word on the command line: (module, class, settings that differ from the class's defaults)
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cyclegan": ("cyclegan", "CycleGAN", {}),
    "pix2pix": ("pix2pix", "Pix2Pix", {}),
    "cut": ("cut", "CUT", {}),
    "fastcut": ("cut", "CUT", {"nce": 10.0, "identity": False, "flip_equivariance": True}),
}

__all__ = ["METHODS", "build", "find", "settings"]


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UnknownName: there is no such method; the nearest one is named.
    """
    if name not in METHODS:
        raise UnknownName(
            "Unknown method",
            found=repr(name),
            allowed=", ".join(METHODS),
            todo=f"{nearest(name, METHODS)}See `styleforge train --help`.",
        )
    module, class_name, _ = METHODS[name]
    return getattr(importlib.import_module(f".{module}", __name__), class_name)


def settings(name: str) -> dict[str, Any]:
    """The default settings of a method."""
    return {**configs.defaults(find(name).__init__), **METHODS[name][2]}


def build(name: str, changes: dict[str, Any]) -> Method:
    """Make a method; `changes` are the settings that differ from :func:`settings`.

    Raises:
        UnknownName: as :func:`find`.
        ConfigError: a setting that the method does not have, or a value that it does not allow.
    """
    cls = find(name)
    configs.check(cls.__init__, changes, where=f"method {name}")
    return cls(**{**settings(name), **changes})
