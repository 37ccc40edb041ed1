"""What a configuration tells of a training, in the words of a card."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .. import card, methods
from ..adaptation import Adaptation
from ..configs import defaults
from ..data import list_pictures
from ..errors import StyleforgeError, UnknownName
from ..hub import bundled_styles
from ..runs import TrainConfig, run_defaults


def facts(
    config: Mapping[str, Any],
    *,
    steps: int | str | None = None,
    joint_batch: int | None = None,
    seconds: float | None = None,
    device: str | None = None,
    precision: str | None = None,
    pictures: str | None = None,
) -> dict[str, Any]:
    """What a card tells of a training, for :func:`styleforge.card.render`.

    Args:
        config: what `train.json` holds; what is missing is left out.
        steps: how many were done; those of the configuration when None.
        joint_batch: pictures per step in all processes together; that of one when None.
        seconds: how long they took.
        device: what they were computed on.
        precision: what they were computed in.
        pictures: how many of each kind; counted in the folders, where they are still there, when None.
    """
    method, adapt = str(config.get("method")), config.get("adapt") or {}
    precision = precision or config.get("precision")
    pictures = pictures or _pictures(config)
    table = {
        "Method": _method(method),
        "Adapted from": _base(adapt),
        "Steps": f"{steps or config.get('steps')} of {joint_batch or config.get('batch_size')} pictures",
        "Pictures": pictures,
        "Size": f"{config.get('size')} px",
        "Precision": None if precision == "auto" else precision,
        "Device": device,
        "Time": None if seconds is None else _time(seconds),
        "Seed": config.get("seed"),
    }
    found = {
        "name": Path(config["output"]).name if config.get("output") else None,
        "license": config.get("license"),
        "tags": [method],
        "base_model": adapt.get("base") if _is_published(adapt.get("base")) else None,
        "training": {key: value for key, value in table.items() if value is not None and value != ""},
        "command": command(config) if config.get("output") else None,
        "data": f"Trained on {pictures}, which are not in this repository. {card.UNSAID}" if pictures else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def command(config: Mapping[str, Any]) -> str:
    """What to type for a run; of folders on the author's machine only the last name."""
    method, adapt = str(config.get("method")), dict(config.get("adapt") or {})
    known = method in methods.METHODS
    usual = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(TrainConfig)}
    usual |= run_defaults(method) if known else {}
    usual |= dict.fromkeys(("steps", "size", "save_every")) if adapt else {}  # other ones there
    words = ["styleforge", "train", method]
    if adapt:
        revision = ["--revision", adapt.pop("revision")] if adapt.get("revision") else []
        words = ["styleforge", "adapt", "--method", method, *revision, _bare(adapt.pop("base"))]
        usual_there = defaults(Adaptation.__init__)
        adapt = {key: value for key, value in adapt.items() if value != usual_there.get(key)}
    given = {key: config[key] for key in usual if key in config and config[key] != usual[key]}
    for key in ("method", "settings", "adapt"):
        given.pop(key, None)
    given |= {**(config.get("settings") or {}), **adapt}
    lines = [shlex.join(words)]
    for option in (_option(key, value) for key, value in given.items()):
        if len(lines[-1]) + len(option) > 96:
            lines.append(f"    {option}")
        else:
            lines[-1] += f" {option}"
    return " \\\n".join(lines)


def _method(name: str) -> str:
    try:
        return f"[{name}]({methods.find(name).paper})" if methods.find(name).paper else name
    except UnknownName:  # of another version
        return name


def _is_published(base: Any) -> bool:
    """Whether others can get it by this name."""
    return isinstance(base, str) and (base in bundled_styles() or (base.count("/") == 1 and not _is_path(base)))


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or "\\" in text or os.path.exists(text)


def _base(adapt: Mapping[str, Any]) -> str | None:
    base = adapt.get("base")
    if not isinstance(base, str):
        return None
    name = f"`{base}`" if _is_published(base) else f"`{Path(base).name}`, a style that is not published"
    revision, rank = adapt.get("revision"), adapt.get("lora")
    return f"{name}{f' at {revision}' if revision else ''}{f', with an adapter of rank {rank}' if rank else ''}"


def _pictures(config: Mapping[str, Any]) -> str:
    found = []
    for place in (config.get(key) for key in ("source", "target")):
        if not isinstance(place, str):
            continue
        try:
            found.append(f"`{Path(place).name}` ({len(list_pictures(place))} pictures)")
        except (StyleforgeError, OSError):  # not there any more
            found.append(f"`{Path(place).name}`")
    return " and ".join(found)


def _option(key: str, value: Any) -> str:
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return shlex.join([flag, _bare(value)])


def _bare(value: Any) -> str:
    """Of an absolute path the last name: the rest is the author's machine."""
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else str(value)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" + (f" ({seconds / 3600:.2f} h)" if seconds >= 600 else "")
