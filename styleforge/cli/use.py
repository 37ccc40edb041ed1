"""Commands that apply styles: to pictures, many of them, films, noise; and what shows or exports a style."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from ..errors import ConfigError, StyleforgeError
from .options import (
    ANY_STYLE,
    JSON,
    MAX_MEMORY,
    OFFLINE,
    OVERWRITE,
    PRESERVE_COLOR,
    REFERENCE,
    REVISION,
    STRENGTH,
    STYLE_SCALE,
    SUBFOLDER,
    load,
    output_option,
    progress_bar,
    reference_of,
    style_option,
)

COMPILE = click.option("--compile", is_flag=True, help="By torch.compile, for many pictures of one size.")
Show = Callable[[int, int], None]  # how many of how many are done
LOADED = ("style", "revision", "subfolder", "device", "offline")


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@style_option(f"{ANY_STYLE[:-1]}; by default the first that `styleforge styles` lists.", needed=False)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="File for one picture, folder for several; beside the picture by default.",
)
@REFERENCE
@STRENGTH
@click.option("--mask", help="Picture that is white where to style, or name of a region for --segmenter.")
@click.option("--mask-fit", is_flag=True, help="Resize a mask of another size.")
@click.option("--feather", type=float, default=0.0, show_default=True, help="Pixels of soft edge inside the mask.")
@click.option(
    "--segmenter", help="Image-segmentation model, on the Hub or a folder, that finds regions (extra 'segment')."
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    metavar="WHERE=STYLE",
    help="In place of --style and --mask, several times: a mask's file or the name of a region, and the style there.",
)
@PRESERVE_COLOR
@STYLE_SCALE
@MAX_MEMORY
@click.option(
    "--statistics",
    type=click.Choice(["exact", "thumbnail"]),
    default="exact",
    show_default=True,
    help="Of a picture in tiles: those of the whole, or of a small copy, which is quicker.",
)
@COMPILE
@click.option("--float32", is_flag=True, help="Neither in bfloat16 nor in 8 bit, where these are faster.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads that read and write.")
@click.option("--stream", is_flag=True, help="From file to file by parts, for pictures larger than memory: PNG, TIFF.")
@OVERWRITE
def stylize(
    pictures: tuple[Path, ...],
    output: Path | None,
    reference: tuple[str, ...],
    regions: tuple[str, ...],
    float32: bool,
    compile: bool,
    workers: int,
    stream: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Style PICTURES: files, or folders with --output. Names are kept, with -styled added, and become PNG."""
    from .. import images
    from ..batch import by_target
    from ..hub import bundled_styles

    if regions and (options["style"] or options["mask"]):
        raise ConfigError("--region says itself which style is where", todo="Leave out --style and --mask.")
    options["style"] = options["style"] or next(iter(bundled_styles()), None)
    if options["style"] is None and not regions:
        raise ConfigError("No style is bundled with this build", todo="Name one with --style.")
    several = _go_into_a_folder(pictures, output, overwrite)
    if output is not None and not several and not stream:
        images.encoding(output)  # a large picture takes long, and would then find that it cannot be saved
    together = several and output is not None and not stream
    sources = {} if together else by_target((picture, _target(picture, output, several)) for picture in pictures)
    if regions:
        if several:
            raise ConfigError("Regions are those of one picture", todo="Name one, and a file with --output.")
        pipe = _regional(regions, options, fast=not float32, compile=compile)
    else:
        pipe = _load(options)
        pipe.fast, pipe.compile = not float32, compile
    options["style"] = reference_of(reference)
    if together:
        _batch(pipe, pictures, output, workers=workers, overwrite=overwrite, **options)
    elif stream:
        from ..large import stylize_file

        parts = _by_parts(options, regions, pictures)
        _one_by_one(sources, lambda picture, target, show: stylize_file(pipe, picture, target, progress=show, **parts))
    else:
        _one_by_one(sources, lambda picture, target, show: images.save(pipe(picture, progress=show, **options), target))


@click.command()
@click.argument("pictures", nargs=-1, required=True)
@style_option()
@output_option("Folder for the results.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads, or actors of Ray.")
@click.option("--gpus", type=float, default=0.0, show_default=True, help="GPUs for each actor of Ray.")
@click.option("--format", type=click.Choice(["png", "jpg", "webp"]), default="png", show_default=True)
@OVERWRITE
@REFERENCE
@STRENGTH
@PRESERVE_COLOR
@STYLE_SCALE
@COMPILE
@JSON
def batch(
    pictures: tuple[str, ...],
    output: Path,
    compile: bool,
    engine: Literal["local", "ray"],
    workers: int,
    gpus: float,
    reference: tuple[str, ...],
    **options: Any,
) -> None:
    """Style files, folders and globs in PICTURES; what is done already is skipped, broken ones are listed."""
    pipe = _load(options)
    pipe.compile = compile
    options |= {"actors": workers, "gpus": gpus} if engine == "ray" else {"workers": workers}
    _batch(pipe, pictures, output, engine, style=reference_of(reference), **options)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@style_option()
@click.option("--smooth", type=float, default=0.8, show_default=True, help="How steady: 0 styles frame by frame.")
@click.option(
    "--blend", type=float, default=0.0, show_default=True, help="Share of the frame before where little moves."
)
@OVERWRITE
@REFERENCE
@STRENGTH
@PRESERVE_COLOR
def video(source: Path, target: Path, reference: tuple[str, ...], **options: Any) -> None:
    """Style the film SOURCE into TARGET; sound and frame times stay. The same command goes on with a stopped one."""
    from ..video import stylize_video

    pipe = _load(options)
    with progress_bar("frame", delay=1) as show:
        made = stylize_video(pipe, source, target, style=reference_of(reference), on_frame=show, **options)
    click.echo(
        f"{target}  ({made.frames} frames in {made.seconds:.1f} s, {made.cuts} cuts, "
        f"flicker {made.flicker:.2f}, warping error {made.warping_error:.4f})"
    )


@click.command()
@style_option("One that starts from noise: bundled name, folder, or organisation/name on the Hub.")
@output_option("Folder for the pictures.")
@click.option("--count", "-n", type=click.IntRange(1), default=8, show_default=True, help="How many pictures.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same pictures.")
@click.option(
    "--grain",
    type=click.Choice(["fresh", "kept"]),
    default="fresh",
    show_default=True,
    help="Of StyleGAN2: strokes that fall elsewhere in each picture, or those that the network keeps (for `invert`).",
)
def generate(output: Path, count: int, seed: int, grain: Literal["fresh", "kept"], **options: Any) -> None:
    """Make new pictures from noise, with a style that starts from noise."""
    from .. import images

    for number, picture in enumerate(_load(options).generate(count, seed=seed, grain=grain)):
        click.echo(images.save(picture, output / f"{seed}-{number:04d}.png"))


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@style_option("A StyleGAN2: folder, or organisation/name on the Hub.")
@output_option("Folder for what is found.")
@click.option("--space", type=click.Choice(["w+", "w"]), default="w+", show_default=True, help="w stays better to mix.")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Steps of the search.")
@click.option("--features", help="Feature network that has to agree too: vgg19, or a local file.")
@click.option("--from-scale", type=int, help="With two pictures: from this scale on (4, 8, ...) as the second one.")
@click.option("--between", type=click.IntRange(2), help="With two pictures: so many on the way from one to the other.")
def invert(
    pictures: tuple[Path, ...],
    output: Path,
    space: Literal["w+", "w"],
    steps: int,
    features: str | None,
    from_scale: int | None,
    between: int | None,
    **options: Any,
) -> None:
    """Find PICTURES in the codes of a StyleGAN2, and mix two of them (Image2StyleGAN).

    Writes what the generator makes of each picture, the codes (codes.safetensors), and mixtures.
    """
    import torch

    from .. import features as feature_networks
    from .. import images, weights
    from .. import invert as inversion
    from ..models import StyleGAN2Generator

    if (from_scale or between) and len(pictures) != 2:
        raise ConfigError("Mixtures are of two pictures", found=len(pictures), todo="Name two.")
    style, generator = options["style"], _load(options).model
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
    mixtures = {"mixed": inversion.mix(codes[:1], codes[1:], from_scale)} if from_scale else {}
    for number in range(between or 0):
        mixtures[f"between-{number}"] = inversion.interpolate(codes[:1], codes[1:], number / (between - 1))
    weights.write(output / "codes.safetensors", {"codes": codes})

    def draw(name: str, code: torch.Tensor) -> tuple[Path, torch.Tensor]:
        with torch.no_grad():
            made = generator.synthesize(code).clamp(-1, 1)
        return images.save(images.to_pil(made), output / f"{name}.png"), made

    for number, (picture, code) in enumerate(zip(pictures, codes.split(1), strict=True)):
        file, made = draw(f"{number}-{picture.stem}", code)
        error = (made - wanted[number]).square().mean() / 4
        click.echo(f"{file}  (PSNR {-10 * error.log10():.1f} dB)")
    for name, code in mixtures.items():
        click.echo(draw(name, code)[0])


@click.command()
@click.argument("picture", type=click.Path(path_type=Path))
@style_option()
@output_option("Folder for the maps.")
@REFERENCE
@click.option("--discriminator", help="A style whose training/ holds some; the style itself where it has one.")
def explain(picture: Path, output: Path, reference: tuple[str, ...], discriminator: str | None, **options: Any) -> None:
    """Show where and how much a style changes PICTURE, and what its networks look at."""
    from ..explain import explain as look
    from ..hub import style_of

    style = style_of(options["style"])
    if discriminator is None and (Path(style) / "training").is_dir():
        discriminator = style
    found = look(_load(options), picture, reference=reference_of(reference), discriminator=discriminator)
    found.save(output)
    click.echo(f"{output}: {', '.join(found.maps)}")


@click.command()
@click.argument("style")
@output_option("File: .onnx, or .safetensors for spandrel and chaiNNer.")
@click.option("--license", default="", help="Licence of the weights, to be written into the file.")
@REVISION
@SUBFOLDER
@OFFLINE
def export(style: str, output: Path, license: str, **options: Any) -> None:
    """Write STYLE for other programs, as one ONNX graph for pictures of any size or as a file for spandrel.

    A graph is compared with PyTorch at three sizes before the file is kept.
    """
    if output.suffix.lower() == ".safetensors":
        from ..bridges import spandrel

        options["local_files_only"] = options.pop("offline")
        click.echo(spandrel.save(style, output, **options))
        return
    from ..export import export_onnx

    made = export_onnx(load(style, device="cpu", **options), output, name=Path(style).name, license=license)
    difference = max(made.differences.values())
    click.echo(
        f"{made.file}  ({made.bytes / 1e6:.1f} MB, at most {difference:.1e} from PyTorch, "
        f"{made.latency_ratio:.2f} times its time)"
    )


def _go_into_a_folder(pictures: tuple[Path, ...], output: Path | None, overwrite: bool) -> bool:
    """Whether results go into a folder under names of their own; one that goes beside its picture does not.

    Raises:
        ConfigError: a folder without one for its results, several pictures for one file, or a picture for itself.
    """
    from ..data import SUFFIXES

    folders = any(picture.is_dir() for picture in pictures)
    many = folders or len(pictures) > 1
    if output is None and folders:
        raise ConfigError("A folder of pictures needs one for the results", todo="Name it with --output.")
    if output is None or output.is_dir():
        return many or output is not None
    if many and output.suffix.lower() in SUFFIXES:
        raise ConfigError("One file cannot hold several pictures", where=output, todo="Give a folder to --output.")
    if many or not output.suffix:
        return True
    if output.resolve() == pictures[0].resolve() and not overwrite:
        todo = "Name another file, or add --overwrite."
        raise ConfigError("The picture would be replaced by its own result", where=output, todo=todo)
    return False


def _target(picture: Path, output: Path | None, several: bool) -> Path:
    """Where a picture goes: into the folder or the file that is named, or beside it."""
    if output is not None and not several:
        return output
    return (output or picture.parent) / f"{picture.stem}-styled.png"


def _load(options: dict[str, Any]) -> Any:
    """The pipeline; what it takes is taken out of the options."""
    return load(**{name: options.pop(name) for name in LOADED})


def _one_by_one(sources: Mapping[Path, Path], paint: Callable[[Path, Path, Show], object]) -> None:
    """Style pictures, by target, a line each; exit code 1 when some could not be."""
    failed = 0
    for target, picture in sources.items():
        begin = time.perf_counter()
        try:
            with progress_bar("tile", delay=1) as show:
                paint(picture, target, show)
        except StyleforgeError as error:
            failed += 1
            click.echo(f"Error: {error}", err=True)
            continue
        click.echo(f"{target}  ({time.perf_counter() - begin:.1f} s)")
    if failed:
        raise SystemExit(1)


def _by_parts(options: dict[str, Any], regions: tuple[str, ...], pictures: tuple[Path, ...]) -> dict[str, Any]:
    """The options of :func:`styleforge.large.stylize_file`, of those of `stylize`."""
    usual = {"mask": None, "mask_fit": False, "feather": 0.0, "segmenter": None, "style_scale": 1.0}
    other = [name for name, value in usual.items() if options[name] != value] + ["region"] * bool(regions)
    folders = [str(picture) for picture in pictures if picture.is_dir()]
    if other or folders:
        raise ConfigError(
            "--stream styles whole pictures from file to file",
            found=", ".join([*(f"--{name.replace('_', '-')}" for name in other), *folders]),
            todo="Leave it out.",
        )
    return {name: value for name, value in options.items() if name not in usual}


def _regional(regions: Sequence[str], options: dict[str, Any], *, fast: bool, compile: bool) -> Callable[..., Any]:
    """What styles a picture by `--region`; what it takes is taken out of the options."""
    from ..pipeline import style_regions

    del options["mask"]
    how = {name: options.pop(name) for name in LOADED}
    pipes, layers = {}, []
    for region in regions:
        where, _, style = region.partition("=")
        if not where or not style:
            raise ConfigError(
                "This is no region and its style",
                found=repr(region),
                allowed="sky=STYLE or mask.png=STYLE",
                todo="Write one = between both.",
            )
        if style not in pipes:
            pipes[style] = load(**how | {"style": style})
            pipes[style].fast, pipes[style].compile = fast, compile
        layers.append((pipes[style], where))
    return lambda picture, **given: style_regions(picture, layers, **given)


def _batch(
    pipe: Any,
    pictures: Sequence[str | Path],
    output: Path,
    engine: Literal["local", "ray"] = "local",
    as_json: bool = False,
    **options: Any,
) -> None:
    """Style many pictures, a line each; exit code 1 when some could not be."""
    from ..batch import Item, stylize_many, stylize_with_ray

    items: list[dict[str, Any]] = []

    def show(item: Item) -> None:
        if as_json:
            items.append({key: value if value is None else str(value) for key, value in asdict(item).items()})
        elif item.state == "failed":
            click.echo(f"Error: {item.reason}", err=True)
        else:
            click.echo(item.target if item.state == "done" else f"{item.target}  (done before)")

    run = stylize_many if engine == "local" else stylize_with_ray
    try:
        made = run(pipe, pictures, output, on_item=show, **options)
    finally:  # a full disk ends it, and what is done is to be known
        if as_json:
            click.echo(json.dumps(items, indent=2))
    click.echo(
        f"{made.done} styled, {made.skipped} done before, {len(made.failed)} failed, {made.seconds:.1f} s", err=True
    )
    if made.failed:
        raise SystemExit(1)
