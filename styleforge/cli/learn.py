"""Commands that make styles: train, adapt, report, data.

Options of training come from the same signatures that check a configuration: what a method accepts, the command line
offers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import configs, methods
from ..errors import ConfigError, UnknownName
from .options import JSON, REVISION, Numbers, from_signature, output_option, plain_value, progress_bar

if TYPE_CHECKING:
    from ..methods.base import Method


class Methods(click.Group):
    """`styleforge train METHOD`; a method's options are made when it is chosen."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A configuration file names its method itself."""
        at = next((n for n, word in enumerate(args) if word.partition("=")[0] == "--config"), None)
        if at is not None and args[0].startswith("-"):
            file = args[at].partition("=")[2] or "".join(args[at + 1 : at + 2])
            from ..runs import read_table

            args = [str(read_table(file).get("method", "")), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The words of all methods."""
        return list(methods.METHODS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command that trains one method.

        Raises:
            click.UsageError: there is no such method; the nearest one is named.
        """
        try:
            return _train_command(name)
        except UnknownName as error:
            raise click.UsageError(str(error), ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of methods, without loading any."""
        with formatter.section("Methods"):
            formatter.write_dl([(name, entry.purpose) for name, entry in methods.METHODS.items()])


class Styles(click.Group):
    """`styleforge adapt STYLE` and `styleforge distill STYLE`; options are those of the method behind."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The bundled styles."""
        from ..hub import bundled_styles

        return list(bundled_styles())

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command that begins with one style: a bundled one, a folder, or one on the Hub."""
        return (_distill_command if self.name == "distill" else _adapt_command)(name, **ctx.params)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The styles at hand, without loading any."""
        with formatter.section("Styles"):
            rows = [(name, "bundled") for name in self.list_commands(ctx)]
            formatter.write_dl([*rows, ("FOLDER", "of a style or a run"), ("ORGANISATION/NAME", "on the Hub")])


@click.group(cls=Methods)
def train() -> None:
    """Train a style with METHOD from folders of pictures; the same command goes on with a stopped run.

    `styleforge train --config runs/mine/train.json --output runs/again` repeats a run, with changes.
    """


@click.group(cls=Styles)
@click.option("--method", type=click.Choice(list(methods.METHODS)), help="Where the style does not say it itself.")
@REVISION
def adapt(method: str | None, revision: str | None) -> None:
    """Go on from STYLE with other pictures: a few of them, and a few steps, are enough.

    `styleforge adapt STYLE --help` shows the options: those of training, and how much of the style stays.
    """


@click.group(cls=Styles)
@REVISION
def distill(revision: str | None) -> None:
    """Train a small, fast network to do what STYLE does, on any folder of pictures.

    `styleforge distill STYLE --help` shows the options. The same as `styleforge train distill --teacher STYLE`.
    """


@click.command()
@click.argument("style", type=click.Path())
@click.option("--source", type=click.Path(path_type=Path), required=True, help="Folder of pictures to be styled.")
@click.option(
    "--target", type=click.Path(path_type=Path), required=True, help="Folder of the pictures that it learnt from."
)
@output_option("Folder for the style; new, or empty.")
@click.option("--strength", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of its effect.")
@click.option("--size", type=click.IntRange(32, 4096), default=256, show_default=True, help="Side of the squares.")
@click.option("--limit", type=click.IntRange(3), default=60, show_default=True, help="Most pictures of the source.")
@REVISION
def equalize(style: str, output: Path, **options: Any) -> None:
    """Give STYLE a filter with which its pictures have detail as strong as those of --target; half a minute.

    For styles of cut, fastcut, cyclegan and pix2pix with a ResNet. Take the pictures that it was trained with: what
    `styleforge evaluate` then says of others is honest.
    """
    from ..equalize import equalize as fit

    with progress_bar("picture") as show:
        made = fit(style, output=output, progress=show, **options)
    click.echo(
        f"{output}  (texture distance of these pictures {made.before:.2f}, now {made.after:.2f}; "
        f"photographs {made.photographs:.2f})"
    )


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
def report(run: Path) -> None:
    """Write report.html of RUN anew: curves, pictures over time, what was noticed."""
    from ..report import write_report

    click.echo(write_report(run))


@click.command()
@click.argument("style", type=click.Path())
@click.option("--source", type=click.Path(path_type=Path), help="Folder of pictures to be styled.")
@click.option(
    "--target",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of pictures of the style, or right answers.",
)
@click.option(
    "--pairs/--no-pairs", default=False, help="Each picture of --source has its right answer, of its name, in --target."
)
@click.option(
    "--damage",
    type=Numbers(str),
    metavar="KINDS",
    help="Make the source from the target by damage, such as noise or blur,jpeg: what a restoration is to undo.",
)
@output_option("Folder for metrics.json and report.html (evaluation.html in that of a run).")
@click.option("--against", type=click.Path(), help="Another style, compared on the same pictures.")
@click.option("--judge", help="Feature network that measures: a file of weights, best one that no training used.")
@click.option("--size", type=click.IntRange(64, 2048), default=256, show_default=True, help="Side of the squares.")
@click.option("--limit", type=click.IntRange(2), help="Take so many pictures of each folder at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws behind intervals.")
@JSON
def evaluate(style: str, output: Path, as_json: bool, **options: Any) -> None:
    """Measure STYLE (a style, a run, or a folder of ready pictures) beside what no style made.

    Each figure has a 95 % interval; the photographs as they are, with a painting's colors, blurred and with noise stand
    beside it. With --pairs or --damage it is measured how near each picture comes to its right answer (PSNR, SSIM), and
    how much nearer than the input.
    """
    from ..evaluate import evaluate as measure

    with progress_bar("picture") as show:
        found = measure(style, output=output, progress=show, **options)
    if as_json:
        click.echo((output / "metrics.json").read_text(encoding="utf-8"))
        return
    other = [(found.against["style"], found.against["metrics"])] if found.against else []
    for line in _table([("style", found.metrics), *other, *found.controls.items()]):
        click.echo(line)
    for warning in found.warnings:
        click.echo(f"Note: {warning}", err=True)
    click.echo(found.page)


def _table(columns: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Lines with the figures of the first column, and what the others have of them."""
    figures = columns[0][1]
    wide = max(map(len, figures), default=0)
    widths = [max(16, len(name) + 2) for name, _ in columns]
    for figure in (None, *figures):
        texts = (name if figure is None else _number(made.get(figure)) for name, made in columns)
        yield f"{figure or '':{wide}}" + "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def _number(figure: dict[str, Any] | None) -> str:
    return f"{figure['value']:.3g}" if figure else "-"


@click.group()
def data() -> None:
    """Look at pictures before training on them."""


@data.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(16, 2048), default=256, show_default=True, help="Side of the squares.")
@JSON
def check(folders: tuple[Path, ...], size: int, as_json: bool) -> None:
    """Find rotten, doubled, tiny and odd pictures in FOLDERS that belong together, such as source and target.

    Exit code 1 when something should be put right before training.
    """
    from ..datacheck import check as look

    with progress_bar("picture") as show:
        found = look(folders, size=size, progress=show)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        for row in found.rows:
            click.echo(f"{row.file} {row.sentence}")
        click.echo(found.summary)
    if not found.ok:
        raise SystemExit(1)


def _train_command(name: str) -> click.Command:
    method = methods.find(name)  # loads torch
    from ..runs import TrainConfig, run_defaults

    run, own, usual = _run_parameters(name), _own_parameters(method), methods.settings(name)

    def callback(**values: Any) -> None:
        told = click.get_current_context().default_map or {}  # by --config
        settings = _changed(values, (k for k in values if k in own), usual)  # as they were typed
        config = TrainConfig(method=name, settings=settings, adapt=told.get("adapt"), **{k: values[k] for k in run})
        _start(config, values["fit"], values["max_memory"])

    options = [
        _config_option(name),
        *from_signature(run, TrainConfig, run_defaults(name)),
        *_fit_options(),
        *from_signature(own, method, usual),
    ]
    description = f"{methods.METHODS[name].purpose[0].upper()}{methods.METHODS[name].purpose[1:]}. {method.paper}"
    return click.Command(name, callback=callback, params=options, help=description)


def _adapt_command(style: str, method: str | None, revision: str | None) -> click.Command:
    from ..adaptation import Adaptation, settings_for
    from ..runs import TrainConfig, run_defaults

    name, known = settings_for(style, revision, method)
    found = methods.find(name)
    run = {k: p for k, p in _run_parameters(name).items() if k != "init"}
    own, usual = _own_parameters(found), methods.settings(name)
    adaptation = {k: p for k, p in configs.schema(Adaptation.__init__).items() if k not in ("base", "revision")}

    def callback(**values: Any) -> None:
        settings = _changed(values, own, usual)
        changes = _changed(values, adaptation, configs.defaults(Adaptation.__init__))
        start = {"base": style, "revision": revision, **changes}
        config = TrainConfig(method=name, settings=settings, adapt=start, **{k: values[k] for k in run})
        _start(config, values["fit"], values["max_memory"])

    size = {"size": known["size"]} if known.get("size") else {}
    few = {**run_defaults(name), **size, "steps": 2000, "save_every": 200}
    options = [
        *from_signature(run, TrainConfig, few),
        *_fit_options(),
        *from_signature(adaptation, Adaptation, {}),
        *from_signature({k: p for k, p in own.items() if k not in adaptation}, found, {**usual, **known}),
    ]
    words = f"Go on from {style} with {name}. {found.paper}"
    return click.Command(style, callback=callback, params=options, help=words)


def _distill_command(style: str, revision: str | None) -> click.Command:
    command = _train_command("distill")
    command.params = [p for p in command.params if p.name not in ("config", "teacher", "teacher_revision")]
    train_it = command.callback
    command.callback = lambda **values: train_it(teacher=style, teacher_revision=revision, **values)
    command.name, command.help = style, f"Train a small network to do what {style} does."
    return command


def _run_parameters(name: str) -> dict[str, inspect.Parameter]:
    """What a run of a method takes on the command line."""
    from ..data import KINDS
    from ..runs import TrainConfig

    run = {k: p for k, p in configs.schema(TrainConfig.__init__).items() if k not in ("method", "settings", "adapt")}
    if "source" not in KINDS[methods.find(name).data].folders:
        del run["source"]
    else:
        run["source"] = run["source"].replace(default=inspect.Parameter.empty)
    return run


def _own_parameters(method: type[Method]) -> dict[str, inspect.Parameter]:
    """The settings of a method; its size is that of the run."""
    return {k: p for k, p in configs.schema(method.__init__).items() if k != "size"}


def _changed(values: dict[str, Any], parameters: Iterable[str], usual: dict[str, Any]) -> dict[str, Any]:
    """What is given for some parameters and is not the default."""
    return {k: values[k] for k in parameters if values[k] != plain_value(usual.get(k))}


def _start(config: Any, fit: bool, max_memory: float | None) -> None:
    from ..train import train

    if fit:
        from .. import memory
        from ..fit import fit as make_fit

        limit = None if max_memory is None else int(max_memory * memory.GIB)
        plan = make_fit(config, limit, lambda text: click.echo(f"  tried {text}", err=True))
        click.echo(plan.text, err=True)
        config = plan.config
    click.echo(train(config))


def _fit_options() -> list[click.Option]:
    return [
        click.Option(
            ["--fit"],
            type=click.Choice(["off", "auto"]),
            default="off",
            show_default=True,
            callback=lambda ctx, option, value: value == "auto",
            help="Measure dry steps first, and choose --accumulate, --recompute and at last --size so that they fit "
            "the memory; the pictures per step stay as they are.",
        ),
        click.Option(["--max-memory"], type=click.FloatRange(0.1), help="GiB that --fit may plan with; what is free."),
    ]


def _config_option(method: str) -> click.Option:
    def fill(ctx: click.Context, option: click.Parameter, file: str | None) -> None:
        if file is None:
            return
        from ..runs import read_table

        table = read_table(file)
        if table.get("method", method) != method:
            raise ConfigError(
                "This configuration is of another method",
                where=file,
                found=table["method"],
                allowed=method,
                todo=f"Leave out the word {method}: the file names its method.",
            )
        settings = table.pop("settings", {})
        configs.check(methods.find(method).__init__, settings, where=file)
        ctx.default_map = {**table, **settings}

    return click.Option(
        ["--config"],
        is_eager=True,
        expose_value=False,
        callback=fill,
        help="A run's train.json, or a JSON or YAML file like it: what is not given here is as there.",
    )
