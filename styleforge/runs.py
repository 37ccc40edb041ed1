"""What a training run is: its configuration, and the folder that it fills."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml

from . import __version__, configs, data, methods
from .configs import Range
from .errors import ConfigError, nearest
from .files import write_text

Steps = Annotated[int, Range(0, 10**9)]
Share = Annotated[float, Range(0, 1)]
NOT_SETTINGS = ("styleforge",)  # what train.json holds beside the configuration


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that determines a run; written to `train.json`, from which the run can be repeated.

    Attributes:
        method: word of the method, see `styleforge train --help`.
        source: folder of pictures to start from; none for methods that make pictures from noise.
        target: folder of pictures to resemble, or a single one.
        output: folder of the run. A run that is there goes on. It may lie below pictures, which leave it out.
        size: side of the training squares, in pixels; what suits the method when null.
        zoom: lowest and highest factor between `size` and the short side that squares are cut from.
        flip: mirror half of the pictures.
        color_jitter: change brightness, contrast and saturation of the pictures at random, by up to this share.
        source_weights: CSV of file and weight: how often each source picture (or pair) comes, relative to others.
        target_weights: the same for the target pictures.
        held_out: share of the pictures that is kept from the training, to measure the style by.
        test_source: folder of source pictures to measure the style by, in place of held-out ones.
        test_target: folder of target pictures to compare it with; see `test_source`.
        workers: threads that prepare pictures; has no influence on the result.
        batch_size: pictures per step and process; what suits the method when null.
        accumulate: pieces that a batch is computed in, one after the other, to save memory.
        recompute: compute the inner layers again for the gradients instead of keeping them, to save memory.
        steps: steps in all.
        optimizer: of every player.
        schedule: of the learning rates: "linear" is constant and falls to 0 at the end, see `decay`; "cosine" falls
            along half a wave; "step" falls to a tenth after each third of the run; "plateau" halves when nothing
            better was measured half of `patience` times (3 without).
        decay: share of the steps, at the end, in which "linear" and "cosine" fall.
        lr_warmup: steps in which the learning rate rises from 0.
        ema: weight of the past in the averaged generator that is published; 0 publishes the last one.
        clip: largest norm of a player's gradient; 0 does not clip.
        clip_value: largest value in a gradient; 0 does not clip.
        precision: "auto" takes bf16 where the processor computes with it, and fp32 elsewhere.
        seed: of everything random.
        rollbacks: how often a step that went wrong (not finite, or exploding) is taken back, to go on without its
            batch and at half the learning rate, before the run gives up.
        save_every: steps between checkpoints.
        sample_every: steps between sheets of samples; 0 for none.
        log_every: steps between lines in `metrics.jsonl`.
        judge_every: steps between measurements on held-out pictures; 0 for none.
        judge: feature network that KID is measured with: "vgg19" from the Hub, or a local file; better not the one
            that a loss uses. Without any only structure and, for pairs, likeness are measured.
        patience: measurements without improvement after which the run stops; 0 never stops.
        tracker: where figures go beside `metrics.jsonl`.
        init: folder of another run whose networks this one starts from; they must have the same shapes.
        preview: folder of pictures for the sheets, in place of some of the source; not for pairs.
        max_seconds: stop (and save) after this time; 0 for no limit.
        license: licence of the weights for the card, as the Hub names it.
        settings: settings of the method that differ from its defaults.
        adapt: start from a published style; see :class:`styleforge.adaptation.Adaptation`.
    """

    method: str
    source: str | None = None
    target: str
    output: str
    size: Annotated[int, Range(16, 2048)] | None = None
    zoom: list[float] = field(default_factory=lambda: [1.12, 1.12])
    flip: bool = True
    color_jitter: Share = 0.0
    source_weights: str | None = None
    target_weights: str | None = None
    held_out: Annotated[float, Range(0, 0.5)] = 0.0
    test_source: str | None = None
    test_target: str | None = None
    workers: Annotated[int, Range(1, 64)] = 1
    batch_size: Annotated[int, Range(1, 4096)] | None = None
    accumulate: Annotated[int, Range(1, 4096)] = 1
    recompute: bool = False
    steps: Steps = 100_000
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adam"
    schedule: Literal["linear", "constant", "cosine", "step", "plateau"] = "linear"
    decay: Share = 0.5
    lr_warmup: Steps = 0
    ema: Annotated[float, Range(0, 0.99999)] = 0.999
    clip: Annotated[float, Range(0, 1e9)] = 0.0
    clip_value: Annotated[float, Range(0, 1e9)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Range(0, 2**31)] = 0
    rollbacks: Annotated[int, Range(0, 100)] = 3
    save_every: Annotated[int, Range(1, 10**9)] = 1000
    sample_every: Steps = 1000
    log_every: Annotated[int, Range(1, 10**9)] = 50
    judge_every: Steps = 1000
    judge: str | None = None
    patience: Annotated[int, Range(0, 1000)] = 0
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    init: str | None = None
    preview: str | None = None
    max_seconds: Annotated[float, Range(0, 1e9)] = 0.0
    license: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    adapt: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        configs.check(type(self).__init__, {f.name: getattr(self, f.name) for f in fields(self)}, "training")
        for name, value in run_defaults(self.method).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for problem in _problems(self):
            raise problem

    @classmethod
    def read(cls, path: str | os.PathLike[str], **changes: Any) -> Self:
        """The configuration in a file, with some changes.

        Args:
            path: a run's `train.json`, or a file like it, JSON or YAML.
            changes: what is different.

        Raises:
            ConfigError: the file is missing or damaged, or holds something unknown; the nearest name is told.
        """
        return cls(**{**read_table(path), **changes})

    def settings_with_size(self) -> dict[str, Any]:
        """The method's settings; networks that are made for one size are made for the size of the run."""
        return {**self.settings, **({"size": self.size} if "size" in methods.settings(self.method) else {})}

    def every_setting(self) -> dict[str, Any]:
        """The settings of the method, whether given or by default."""
        return {**methods.settings(self.method), **self.settings}


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The keys and values of a configuration file, all known; see :meth:`TrainConfig.read`."""
    try:
        table = _parsed(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError("The configuration cannot be read", where=path, found=error, todo="Check it.") from error
    if not isinstance(table, dict):
        raise ConfigError("No configuration", where=path, found=type(table).__name__, todo="Give a train.json.")
    known = [f.name for f in fields(TrainConfig)]
    for key in table:
        if key not in known and key not in NOT_SETTINGS:
            raise ConfigError(
                f"Unknown setting '{key}'",
                where=path,
                allowed=", ".join(known),
                todo=f"{nearest(str(key), known)}Remove or rename it; settings of a method are under 'settings'.",
            )
    return {key: value for key, value in table.items() if key in known}


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as people and JSON write it; by YAML 1.1 it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return yaml.load(text, _Loader)


def run_defaults(method: str) -> dict[str, int]:
    """Size and batch size that suit a method, for :class:`TrainConfig`."""
    return {"size": methods.settings(method).get("size", 256), "batch_size": methods.find(method).batch_size}


def remember(config: TrainConfig, run: Path) -> None:
    """Write `train.json`."""
    write_text(run / "train.json", json.dumps({**asdict(config), "styleforge": __version__}, indent=2) + "\n")


def refuse_other(config: TrainConfig, run: Path) -> None:
    """A run that is there must be the same in all that shapes the networks, and in what it is measured by: pictures
    that it has learnt from cannot be held out later.

    Raises:
        ConfigError: it is another one, or its `train.json` is damaged.
    """
    path = run / "train.json"
    if not path.exists():
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError("train.json is damaged", where=path, found=error, todo="Repair or remove it.") from error
    now = asdict(config)
    for table in (before, now):  # what is set, whether by hand or by default
        table["settings"] = {**methods.settings(config.method), **table.get("settings", {})}
    before, now = json.loads(json.dumps([before, now]))
    for key in ("method", "settings", "seed", "batch_size", "size", "ema", "optimizer", "held_out", "adapt"):
        if before.get(key, now[key]) != now[key]:
            was, wanted = before[key], now[key]
            if key == "settings":
                key = next(k for k in {**wanted, **was} if was.get(k) != wanted.get(k))
                was, wanted = was.get(key), wanted.get(key)
            raise ConfigError(
                "This folder holds a run with other settings",
                where=run,
                found=f"{key} = {wanted!r}",
                allowed=f"{was!r}, as it was begun",
                todo="Give another --output, or the same settings.",
            )


def log(run: Path, entry: dict[str, Any]) -> None:
    """Add a line to `metrics.jsonl`; figures are rounded."""
    rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")


def _problems(config: TrainConfig) -> list[ConfigError]:
    """What is wrong with settings that are each allowed by themselves."""
    found = []

    def wrong(text: str, where: str, todo: str, **facts: Any) -> None:
        found.append(ConfigError(text, where=where, todo=todo, **{"found": getattr(config, where, None), **facts}))

    if "size" in config.settings:
        text = "The size belongs to the run, not to the settings of the method"
        wrong(text, "settings", "Give TrainConfig(size=...).", found=config.settings["size"])
    found_data = methods.find(config.method).data
    alone = "source" not in data.KINDS[found_data].folders
    if alone and config.source is not None:
        how = "makes pictures from noise" if found_data == "images" else "damages its target pictures itself"
        wrong(f"{config.method} {how}", "source", "Leave out --source.")
    if not alone and config.source is None:
        wrong(f"{config.method} needs a folder of pictures to start from", "source", "Give --source.")
    for name in ("source", "target", "test_source", "test_target", "preview"):
        if (folder := getattr(config, name)) is not None and Path(folder).resolve() == Path(config.output).resolve():
            wrong("A run has a folder of its own, beside pictures or below", name, "Give another --output.")
    if len(config.zoom) != 2 or not 1 <= config.zoom[0] <= config.zoom[1] <= 16:
        todo = "Give for example --zoom 1.12,1.12, as CycleGAN has it."
        wrong("zoom is no interval", "zoom", todo, allowed="two numbers, 1 <= low <= high <= 16")
    if config.batch_size % config.accumulate:
        todo = f"Give a divisor of {config.batch_size}, or another --batch-size."
        wrong("A batch cannot be computed in so many equal pieces", "accumulate", todo)
    tests = [config.test_target] if alone else [config.test_source, config.test_target]
    if any(tests) and not all(tests):
        wrong("Tests need pictures of both sides", "test_source", "Give --test-source and --test-target.")
    measured = config.judge_every and (config.held_out or any(tests))
    if (config.patience or config.schedule == "plateau") and not measured:
        name = "patience" if config.patience else "schedule"
        todo = "Give --held-out 0.1, or --test-source and --test-target, and --judge-every."
        wrong("Nothing is measured that could stop improving", name, todo)
    return found
