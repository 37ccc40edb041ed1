"""Training methods. `METHODS` is the list of what can be trained; a new method is one file and one line here.

Importing this module loads no torch, so that the command line can list the names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import configs
from ..errors import UnknownName, nearest

if TYPE_CHECKING:
    from .base import Method


class Entry(NamedTuple):
    """Where a method lives, the settings in which it differs from its class, and one line on it."""

    module: str
    class_name: str
    settings: dict[str, Any]
    purpose: str


METHODS: dict[str, Entry] = {
    "cyclegan": Entry("cyclegan", "CycleGAN", {}, "unpaired pictures, there and back"),
    "pix2pix": Entry("pix2pix", "Pix2Pix", {}, "pairs of pictures with the same file name"),
    "dcgan": Entry("dcgan", "DCGAN", {}, "new pictures like the given ones, out of noise"),
    "cut": Entry("cut", "CUT", {}, "unpaired pictures, one way, calm colors"),
    "fastcut": Entry(
        "cut",
        "CUT",
        {"nce": 10.0, "identity": False, "flip_equivariance": True},
        "unpaired pictures, one way, the quickest",
    ),
    "ugatit": Entry("ugatit", "UGATIT", {}, "unpaired pictures, there and back, for styles that change shapes"),
    "adain": Entry("adain", "AdaIN", {}, "any style, by the statistics of a VGG's features"),
    "attention": Entry("attention", "Attention", {}, "any style, each place from where the style resembles it"),
    "sanet": Entry(
        "attention",
        "SANet",
        {
            "attention": "sanet",
            "shallow": False,
            "skip": False,
            "content": 1.0,
            "style": 3.0,
            "local": 0.0,
            "identity": 50.0,
            "identity_features": 1.0,
        },
        "any style, its features on top of the picture's",
    ),
    "microast": Entry("microast", "MicroAST", {}, "any style, half a million weights"),
    "fast_style": Entry("fast_style", "FastStyle", {}, "pictures, and one or several pictures of a style"),
    "multiscale": Entry("multiscale", "MultiScale", {}, "unpaired pictures, into abstract art"),
    "animegan": Entry("animegan", "AnimeGAN", {}, "unpaired photographs and drawings, for clear edges"),
    "restore": Entry("restore", "Restore", {}, "clean pictures, to undo noise, blur, darkness, holes"),
    "distill": Entry("distill", "Distill", {}, "pictures, and a style that a small network learns to imitate"),
    "stylegan2": Entry("stylegan2", "StyleGAN2", {}, "new pictures from noise, whose coarse and fine can be mixed"),
}

__all__ = ["METHODS", "Entry", "build", "find", "settings"]


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
    entry = METHODS[name]
    return getattr(importlib.import_module(f".{entry.module}", __name__), entry.class_name)


def settings(name: str) -> dict[str, Any]:
    """The default settings of a method."""
    return {**configs.defaults(find(name).__init__), **METHODS[name].settings}


def build(name: str, changes: dict[str, Any]) -> Method:
    """Make a method; `changes` are the settings that differ from :func:`settings`.

    Raises:
        UnknownName: as :func:`find`.
        ConfigError: a setting that the method does not have, or a value that it does not allow.
    """
    cls = find(name)
    configs.check(cls.__init__, changes, where=f"method {name}")
    return cls(**{**settings(name), **changes})
