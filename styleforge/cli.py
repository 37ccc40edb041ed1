"""The command line: what Python can do, from a terminal.

Nothing heavy is imported before a command runs, so that `--help` answers at once. Options of `train` come from
the same signatures that check a configuration: what a method accepts, the command line offers.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import time
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import click

from . import __version__, configs, methods
from .errors import ConfigError, StyleforgeError, UnknownName


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


class Methods(click.Group):
    """`styleforge train METHOD`; a method's options are made when it is chosen."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A configuration file names its method itself."""
        if args and args[0].startswith("--config"):
            file = args[0].partition("=")[2] or "".join(args[1:2])
            from .runs import read_table

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
    """`styleforge adapt STYLE`; the options are those of the method that the style is trained on with."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The bundled styles."""
        from .hub import bundled_styles

        return list(bundled_styles())

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command that adapts one style: a bundled one, a folder, or one on the Hub."""
        return _adapt_command(name, **ctx.params)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The styles at hand, without loading any."""
        with formatter.section("Styles"):
            rows = [(name, "bundled") for name in self.list_commands(ctx)]
            formatter.write_dl([*rows, ("FOLDER", "of a style or a run"), ("ORGANISATION/NAME", "on the Hub")])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="styleforge")
def cli() -> None:
    """Image styles from GANs: use them, train them, share them."""


@cli.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--style", "-s", default=None, help="Bundled name, folder, or organisation/name on the Hub.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="File for one picture, folder for several; beside the picture by default.",
)
@click.option(
    "--reference", help="Picture to take the style from, or number of a learnt style, where the network asks."
)
@click.option("--strength", type=float, default=1.0, show_default=True, help="0 the picture, 1 the style, up to 1.5.")
@click.option("--mask", help="Picture that is white where to style, or name of a region for --segmenter.")
@click.option("--mask-fit", is_flag=True, help="Resize a mask of another size.")
@click.option("--feather", type=float, default=0.0, show_default=True, help="Pixels of soft edge inside the mask.")
@click.option("--segmenter", help="Image-segmentation model on the Hub that finds regions (extra 'segment').")
@click.option("--preserve-color", type=click.Choice(["luma", "histogram"]), help="Keep colors: each place's, or all.")
@click.option("--style-scale", type=float, default=1.0, show_default=True, help="Size of the brush, 0.25 to 8.")
@click.option("--max-memory", type=click.FloatRange(0.01), help="GiB that computing may take; half of what is free.")
@click.option("--float32", is_flag=True, help="Not in bfloat16, where the processor has it.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads that read and write.")
@click.option("--overwrite", is_flag=True, help="Style again what an output folder has already.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--subfolder", default="", help="Folder inside the repository.")
@click.option("--device", help="Where to compute, e.g. cpu or cuda; the best there is by default.")
@click.option("--offline", is_flag=True, help="Never ask the network.")
def stylize(
    pictures: tuple[Path, ...],
    style: str | None,
    output: Path | None,
    reference: str | None,
    strength: float,
    mask: str | None,
    mask_fit: bool,
    feather: float,
    segmenter: str | None,
    preserve_color: Literal["luma", "histogram"] | None,
    style_scale: float,
    max_memory: float | None,
    float32: bool,
    workers: int,
    overwrite: bool,
    revision: str | None,
    subfolder: str,
    device: str | None,
    offline: bool,
) -> None:
    """Style PICTURES: files, or folders with --output. Names are kept, with -styled added, and become PNG."""
    from . import images
    from .hub import bundled_styles
    from .pipeline import StylePipeline

    style = style or next(iter(bundled_styles()), None)
    if style is None:
        raise ConfigError("No style is bundled with this build", todo="Name one with --style.")
    several = len(pictures) > 1 or (output is not None and (output.is_dir() or not output.suffix))
    if output is None and any(picture.is_dir() for picture in pictures):
        raise ConfigError("A folder of pictures needs one for the results", todo="Name it with --output.")
    if len(pictures) > 1 and output is not None and output.suffix:
        raise ConfigError("One file cannot hold several pictures", where=output, todo="Give a folder to --output.")
    pipe = StylePipeline.from_pretrained(
        style, revision=revision, subfolder=subfolder, device=device, local_files_only=offline
    )
    pipe.fast = not float32
    wanted = int(reference) if reference is not None and reference.isdecimal() else reference
    control = {"strength": strength, "mask": mask, "mask_fit": mask_fit, "feather": feather, "segmenter": segmenter}
    control |= {"preserve_color": preserve_color, "style_scale": style_scale, "max_memory": max_memory}
    if several and output:
        _batch(pipe, pictures, output, workers=workers, overwrite=overwrite, style=wanted, **control)
        return
    failed = 0
    for picture in pictures:
        target = output or picture.with_name(f"{picture.stem}-styled.png")
        begin = time.perf_counter()
        try:
            images.save(pipe(picture, style=wanted, **control), target)
        except StyleforgeError as error:
            failed += 1
            click.echo(f"Error: {error}", err=True)
            continue
        click.echo(f"{target}  ({time.perf_counter() - begin:.1f} s)")
    if failed:
        raise SystemExit(1)


@cli.command()
@click.argument("pictures", nargs=-1, required=True)
@click.option("--style", "-s", required=True, help="Bundled name, folder, or organisation/name on the Hub.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads, or actors of Ray.")
@click.option("--gpus", type=float, default=0.0, show_default=True, help="GPUs for each actor of Ray.")
@click.option("--format", type=click.Choice(["png", "jpg", "webp"]), default="png", show_default=True)
@click.option("--overwrite", is_flag=True, help="Style again what is done.")
@click.option("--reference", help="Picture to take the style from, where the network asks.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="0 the picture, 1 the style, up to 1.5.")
@click.option("--preserve-color", type=click.Choice(["luma", "histogram"]), help="Keep colors: each place's, or all.")
@click.option("--style-scale", type=float, default=1.0, show_default=True, help="Size of the brush, 0.25 to 8.")
def batch(
    pictures: tuple[str, ...],
    style: str,
    output: Path,
    engine: Literal["local", "ray"],
    workers: int,
    gpus: float,
    reference: str | None,
    **options: Any,
) -> None:
    """Style files, folders and globs in PICTURES; what is done already is skipped, broken ones are listed."""
    from .pipeline import StylePipeline

    pipe = StylePipeline.from_pretrained(style)
    if engine == "ray":
        options |= {"actors": workers, "gpus": gpus}
    else:
        options["workers"] = workers
    _batch(pipe, pictures, output, engine, style=reference, **options)


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--style", "-s", required=True, help="Bundled name, folder, or organisation/name on the Hub.")
@click.option("--smooth", type=float, default=0.8, show_default=True, help="How steady: 0 styles frame by frame.")
@click.option(
    "--blend", type=float, default=0.0, show_default=True, help="Share of the frame before where little moves."
)
@click.option("--overwrite", is_flag=True, help="Replace TARGET.")
@click.option("--reference", help="Picture to take the style from, where the network asks.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="0 the film, 1 the style, up to 1.5.")
@click.option("--preserve-color", type=click.Choice(["luma", "histogram"]), help="Keep colors: each place's, or all.")
def video(source: Path, target: Path, style: str, reference: str | None, **options: Any) -> None:
    """Style the film SOURCE into TARGET; sound and frame times stay. The same command goes on with a stopped one."""
    from tqdm import tqdm

    from .pipeline import StylePipeline
    from .video import stylize_video

    pipe = StylePipeline.from_pretrained(style)
    with tqdm(unit="frame", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = stylize_video(pipe, source, target, style=reference, on_frame=show, **options)
    click.echo(
        f"{target}  ({made.frames} frames in {made.seconds:.1f} s, {made.cuts} cuts, "
        f"flicker {made.flicker:.2f}, warping error {made.warping_error:.4f})"
    )


@cli.command()
@click.option("--style", "-s", required=True, help="Folder, bundled name, or organisation/name on the Hub.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder for the pictures.")
@click.option("--count", "-n", type=click.IntRange(1), default=8, show_default=True, help="How many pictures.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same pictures.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--subfolder", default="", help="Folder inside the repository.")
@click.option("--device", help="Where to compute, e.g. cpu or cuda; the best there is by default.")
@click.option("--offline", is_flag=True, help="Never ask the network.")
def generate(
    style: str,
    output: Path,
    count: int,
    seed: int,
    revision: str | None,
    subfolder: str,
    device: str | None,
    offline: bool,
) -> None:
    """Make new pictures from noise, with a style that starts from noise."""
    from . import images
    from .pipeline import StylePipeline

    pipe = StylePipeline.from_pretrained(
        style, revision=revision, subfolder=subfolder, device=device, local_files_only=offline
    )
    for number, picture in enumerate(pipe.generate(count, seed=seed)):
        click.echo(images.save(picture, output / f"{seed}-{number:04d}.png"))


@cli.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--style", "-s", required=True, help="A StyleGAN2: folder, or organisation/name on the Hub.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder for what is found.")
@click.option("--space", type=click.Choice(["w+", "w"]), default="w+", show_default=True, help="w stays better to mix.")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Steps of the search.")
@click.option("--features", help="Feature network that has to agree too: vgg19, or a local file.")
@click.option("--from-scale", type=int, help="With two pictures: from this scale on (4, 8, ...) as the second one.")
@click.option("--between", type=click.IntRange(2), help="With two pictures: so many on the way from one to the other.")
@click.option("--device", help="Where to compute, e.g. cpu or cuda; the best there is by default.")
def invert(
    pictures: tuple[Path, ...],
    style: str,
    output: Path,
    space: Literal["w+", "w"],
    steps: int,
    features: str | None,
    from_scale: int | None,
    between: int | None,
    device: str | None,
) -> None:
    """Find PICTURES in the codes of a StyleGAN2, and mix two of them (Image2StyleGAN).

    Writes what the generator makes of each picture, the codes (codes.safetensors), and mixtures.
    """
    import torch

    from . import features as feature_networks
    from . import images, weights
    from . import invert as inversion
    from .models import StyleGAN2Generator
    from .pipeline import StylePipeline

    if (from_scale or between) and len(pictures) != 2:
        raise ConfigError("Mixtures are of two pictures", found=len(pictures), todo="Name two.")
    generator = StylePipeline.from_pretrained(style, device=device).model
    if not isinstance(generator, StyleGAN2Generator):
        raise ConfigError(
            "Only the pictures of a StyleGAN2 have codes",
            where=style,
            found=type(generator).__name__,
            todo="Train one with `styleforge train stylegan2`.",
        )
    seen = feature_networks.load(features, last=inversion.LAYERS[-1]).to(generator.device) if features else None
    wanted = torch.cat([images.square(images.read(p), generator.config["size"]) for p in pictures]).to(generator.device)
    codes = inversion.invert(generator, wanted, space=space, steps=steps, features=seen)
    named = dict(zip([f"{n}-{p.stem}" for n, p in enumerate(pictures)], codes.split(1), strict=True))
    if from_scale:
        named["mixed"] = inversion.mix(codes[:1], codes[1:], from_scale)
    for n in range(between or 0):
        named[f"between-{n}"] = inversion.interpolate(codes[:1], codes[1:], n / (between - 1))
    weights.write(output / "codes.safetensors", {"codes": codes})
    for name, code in named.items():
        with torch.no_grad():
            made = generator.synthesize(code).clamp(-1, 1)
        file = images.save(images.to_pil(made), output / f"{name}.png")
        number = name.partition("-")[0]
        error = (made - wanted[int(number)]).square().mean() / 4 if number.isdecimal() else None
        click.echo(f"{file}" if error is None else f"{file}  (PSNR {-10 * error.log10():.1f} dB)")


@cli.command()
@click.argument("style")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="File, for example style.onnx.")
@click.option("--license", default="", help="Licence of the weights, to be written into the file.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--subfolder", default="", help="Folder inside the repository.")
def export(style: str, output: Path, license: str, revision: str | None, subfolder: str) -> None:
    """Write STYLE as one ONNX graph for pictures of any size, compared with PyTorch before the file is kept."""
    from .export import export_onnx
    from .pipeline import StylePipeline

    pipe = StylePipeline.from_pretrained(style, revision=revision, subfolder=subfolder, device="cpu")
    made = export_onnx(pipe, output, name=Path(style).name, license=license)
    difference = max(made.differences.values())
    click.echo(
        f"{made.file}  ({made.bytes / 1e6:.1f} MB, at most {difference:.1e} from PyTorch, "
        f"{made.latency_ratio:.2f} times its time)"
    )


@cli.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--style", "-s", required=True, help="Folder, bundled name, or organisation/name on the Hub.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder for the maps.")
@click.option("--reference", help="Picture to take the style from, where the network asks.")
@click.option("--discriminator", help="A style whose training/ holds some; the style itself where it has one.")
@click.option("--device", help="Where to compute, e.g. cpu or cuda; the best there is by default.")
def explain(
    picture: Path, style: str, output: Path, reference: str | None, discriminator: str | None, device: str | None
) -> None:
    """Show where and how much a style changes PICTURE, and what its networks look at."""
    from .explain import explain as look
    from .pipeline import StylePipeline

    if discriminator is None and (Path(style) / "training").is_dir():
        discriminator = style
    pipe = StylePipeline.from_pretrained(style, device=device)
    found = look(pipe, picture, reference=reference, discriminator=discriminator)
    found.save(output)
    click.echo(f"{output}: {', '.join(found.maps)}")


@cli.group(cls=Methods)
def train() -> None:
    """Train a style with METHOD from folders of pictures; the same command goes on with a stopped run.

    `styleforge train --config runs/mine/train.json --output runs/again` repeats a run, with changes.
    """


@cli.group(cls=Styles)
@click.option("--method", type=click.Choice(list(methods.METHODS)), help="Where the style does not say it itself.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
def adapt(method: str | None, revision: str | None) -> None:
    """Go on from STYLE with other pictures: a few of them, and a few steps, are enough.

    `styleforge adapt STYLE --help` shows the options: those of training, and how much of the style stays.
    """


@cli.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
def report(run: Path) -> None:
    """Write report.html of RUN anew: curves, pictures over time, what was noticed."""
    from .report import write_report

    click.echo(write_report(run))


@cli.group()
def data() -> None:
    """Look at pictures before training on them."""


@data.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(16, 2048), default=256, show_default=True, help="Side of the squares.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def check(folders: tuple[Path, ...], size: int, as_json: bool) -> None:
    """Find rotten, doubled, tiny and odd pictures in FOLDERS that belong together, such as source and target.

    Exit code 1 when something should be put right before training.
    """
    from tqdm import tqdm

    from .datacheck import check as look

    with tqdm(unit="picture", disable=None, leave=False) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update()

        found = look(folders, size=size, progress=show)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        for row in found.rows:
            click.echo(f"{row.file} {row.sentence}")
        click.echo(found.summary)
    if not found.ok:
        raise SystemExit(1)


@cli.command()
@click.argument("style", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private/--public", default=None, help="For a repository that does not exist yet.")
@click.option("--revision", help="Branch to push to.")
@click.option("--create-pr", is_flag=True, help="Propose it as a pull request.")
@click.option("--message", help="Message of the commit.")
def push(
    style: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str | None,
) -> None:
    """Upload STYLE (a folder, or a run's folder) to REPO_ID on the Hub, for example me/my-style."""
    from .hub import push_folder

    folder = style / "style" if (style / "style").is_dir() else style
    url = push_folder(folder, repo_id, private=private, revision=revision, create_pr=create_pr, commit_message=message)
    click.echo(url)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def styles(as_json: bool) -> None:
    """List the styles that come with the package."""
    from .hub import BUNDLED, CONFIG_NAME, WEIGHTS_NAME, bundled_styles

    rows = [
        {
            "name": name,
            "architecture": json.loads((BUNDLED / name / CONFIG_NAME).read_text())["_class_name"],
            "bytes": (BUNDLED / name / WEIGHTS_NAME).stat().st_size,
        }
        for name in bundled_styles()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:24} {row['architecture']}, {row['bytes'] / 1e6:.1f} MB")


def _train_command(name: str) -> click.Command:
    method = methods.find(name)  # loads torch
    from .runs import TrainConfig, run_defaults

    run, method_settings = _run_parameters(name), dict(configs.schema(method.__init__))
    defaults = methods.settings(name)
    method_settings.pop("size", None)  # is that of the run

    def callback(fit: bool, max_memory: float | None, **values: Any) -> None:
        chosen = {k: v for k, v in values.items() if k in method_settings and v != _plain_value(defaults.get(k))}
        plain = {k: v for k, v in values.items() if k in run}
        told = click.get_current_context().default_map or {}  # by --config
        _start(TrainConfig(method=name, settings=chosen, adapt=told.get("adapt"), **plain), fit, max_memory)

    options = [
        _config_option(name),
        *_options(run, TrainConfig, run_defaults(name)),
        *_fit_options(),
        *_options(method_settings, method, defaults),
    ]
    description = f"{methods.METHODS[name].purpose[0].upper()}{methods.METHODS[name].purpose[1:]}. {method.paper}"
    return click.Command(name, callback=callback, params=options, help=description)


def _batch(
    pipe: Any, pictures: Sequence[str | Path], output: Path, engine: Literal["local", "ray"] = "local", **options: Any
) -> None:
    """Style many pictures, a line each; exit code 1 when some could not be."""
    from .batch import Item, stylize_many, stylize_with_ray

    def show(item: Item) -> None:
        if item.state == "failed":
            click.echo(f"Error: {item.reason}", err=True)
        else:
            click.echo(item.target if item.state == "done" else f"{item.target}  (done before)")

    run = stylize_many if engine == "local" else stylize_with_ray
    made = run(pipe, pictures, output, on_item=show, **options)
    click.echo(
        f"{made.done} styled, {made.skipped} done before, {len(made.failed)} failed, {made.seconds:.1f} s", err=True
    )
    if made.failed:
        raise SystemExit(1)


def _adapt_command(style: str, method: str | None, revision: str | None) -> click.Command:
    from .adaptation import Adaptation, settings_for
    from .runs import TrainConfig, run_defaults

    name, known = settings_for(style, revision, method)
    found = methods.find(name)
    run = {k: p for k, p in _run_parameters(name).items() if k != "init"}
    own = {k: p for k, p in configs.schema(found.__init__).items() if k != "size"}
    adaptation = {k: p for k, p in configs.schema(Adaptation.__init__).items() if k not in ("base", "revision")}
    defaults = {**methods.settings(name), **known}
    size = known.pop("size", None)

    def callback(**values: Any) -> None:
        usual = methods.settings(name)
        settings = {k: values[k] for k in own if values[k] != _plain_value(usual.get(k))}
        chosen = {k: values[k] for k in adaptation if values[k] != configs.defaults(Adaptation.__init__)[k]}
        start = {"base": style, "revision": revision, **chosen}
        config = TrainConfig(method=name, settings=settings, adapt=start, **{k: values[k] for k in run})
        _start(config, values["fit"], values["max_memory"])

    few = {**run_defaults(name), **({"size": size} if size else {}), "steps": 2000, "save_every": 200}
    options = [
        *_options(run, TrainConfig, few),
        *_fit_options(),
        *_options(adaptation, Adaptation, {}),
        *_options({k: p for k, p in own.items() if k not in adaptation}, found, defaults),
    ]
    words = f"Go on from {style} with {name}. {found.paper}"
    return click.Command(style, callback=callback, params=options, help=words)


def _run_parameters(name: str) -> dict[str, inspect.Parameter]:
    """What a run of a method takes on the command line."""
    from .data import KINDS
    from .runs import TrainConfig

    run = {k: p for k, p in configs.schema(TrainConfig.__init__).items() if k not in ("method", "settings", "adapt")}
    if "source" not in KINDS[methods.find(name).data].folders:
        del run["source"]
    else:
        run["source"] = run["source"].replace(default=inspect.Parameter.empty)
    return run


def _start(config: Any, fit: bool, max_memory: float | None) -> None:
    from .train import train

    if fit:
        from . import memory
        from .fit import fit as make_fit

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
        from .runs import read_table

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


def _options(
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


def _plain_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _factories(cls: type) -> list[Any]:
    import dataclasses

    if not dataclasses.is_dataclass(cls):
        return []
    return [f for f in dataclasses.fields(cls) if f.default_factory is not dataclasses.MISSING]


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


def main() -> None:
    """Run the command line; errors of ours become one sentence and exit code 1."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StyleforgeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
