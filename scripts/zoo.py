"""The styles that we publish, from finished runs to cards, gallery and the Hub; `model_cards/zoo.toml` lists them.

    python scripts/zoo.py build NAME [RUN]   # half-precision weights, evaluation and card of a style
    python scripts/zoo.py gallery            # pictures for the README
    python scripts/zoo.py table              # and its table, speeds measured in turns
    python scripts/zoo.py push ORGANISATION [NAME ...]

`model_cards/NAME/` holds card, measurements and pictures of a style, and its weights unless the package carries them
(`bundled = true`), in `styleforge/styles/NAME/`. `push` puts the two together, as a repository on the Hub has them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from styleforge import PretrainedMixin, StylePipeline, cards, images, models  # noqa: F401 -- fills the table
from styleforge.damage import damage
from styleforge.evaluate import evaluate
from styleforge.hub import BUNDLED, CARD_NAME, WEIGHTS_NAME
from styleforge.push import push
from styleforge.rng import generator

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
SHARED = Path(os.environ.get("SHARED", ROOT.parent / "shared"))
JUDGE = SHARED / "weights" / "squeezenet1_0_caffe.safetensors"
PHOTO = "Photograph by danielbuechele, CC BY 2.0, from scikit-learn."
SIDE = 512  # pixels of the pictures whose speed is measured


def zoo() -> dict[str, dict[str, Any]]:
    """What is published, by name, in the order of the README."""
    styles = tomllib.loads((CARDS / "zoo.toml").read_text(encoding="utf-8"))["style"]
    return {style.pop("name"): style for style in styles}


def weights_of(name: str, style: dict[str, Any]) -> Path:
    return BUNDLED / name if style.get("bundled") else CARDS / name


def photo() -> Image.Image:
    """Scikit-learn's Summer Palace: a photograph that may be shown."""
    import sklearn.datasets

    return Image.open(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").convert("RGB")


def shown(style: dict[str, Any]) -> Image.Image | None:
    """The picture that goes in on the card."""
    if style.get("noise"):
        return None
    if kinds := style.get("damage"):
        picture = photo()
        picture.thumbnail((style.get("shown_width", picture.width),) * 2)
        return images.to_pil(damage(images.read(picture).tensor(), kinds, generator("card", *kinds)))
    if drawn_by := style.get("drawn_by"):
        return pipeline(drawn_by)(photo())
    return photo()


def pipeline(name: str) -> StylePipeline:
    return StylePipeline.from_pretrained(weights_of(name, zoo()[name]))


def build(name: str, style: dict[str, Any], run: Path) -> None:
    """Copy the weights of a run in half precision, measure the copy, and write its card, unless a person wrote that."""
    folder = CARDS / name
    made = PretrainedMixin.from_pretrained(run / style.get("which", "style")).half()
    target = made.save_pretrained(weights_of(name, style))
    if style.get("bundled"):
        (target / CARD_NAME).unlink(missing_ok=True)
    elif not (folder / CARD_NAME).exists():
        raise SystemExit(f"{folder}: no card was written")
    if style.get("own_card"):
        return
    if measured := style.get("evaluate"):
        with tempfile.TemporaryDirectory() as report, tempfile.TemporaryDirectory() as crops:
            evaluate(str(target), **asked(dict(measured), Path(crops)), output=report, judge=str(JUDGE))
            kept = ROOT / "runs" / "evaluation" / name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(report, kept)
            folder.mkdir(exist_ok=True)
            shutil.copy(Path(report) / "metrics.json", folder / "metrics.json")
    write_card(name, style, run)


def asked(measured: dict[str, Any], crops: Path) -> dict[str, Any]:
    """What `evaluate` is called with.

    A `painting` is compared with as twelve crops; what is listed in `learnt` is left out of the target; and of
    `quarters`, source and target are cut into four: a texture is a part of a painting.
    """
    if painting := measured.pop("painting", None):
        whole = Image.open(SHARED / "data" / painting).convert("RGB")
        side = whole.height // 2
        for number, (x, y) in enumerate((x, y) for y in range(3) for x in range(4)):
            corner = x * (whole.width - side) // 3, y * (whole.height - side) // 2
            whole.crop((*corner, corner[0] + side, corner[1] + side)).save(crops / f"{number}.png")
        return {"source": SHARED / "data/photo2classic/testA", "target": crops, **measured}
    if names := measured.pop("learnt", None):
        learnt = (ROOT / "scripts" / "recipes" / names).read_text(encoding="utf-8").split()
        for file in (SHARED / "data" / measured.pop("target")).iterdir():
            if file.name not in learnt:
                (crops / file.name).symlink_to(file.resolve())
        measured["target"] = crops  # an absolute place
    if measured.pop("quarters", False):
        for key in ("source", "target"):
            quarter(SHARED / "data" / measured[key], crops / key)
            measured[key] = crops / key
    places = {key: SHARED / "data" / measured[key] for key in ("source", "target") if key in measured}
    return {**measured, **places}


def quarter(folder: Path, output: Path) -> None:
    """Write the four quarters of each picture."""
    output.mkdir()
    for file in sorted(folder.iterdir()):
        whole = Image.open(file).convert("RGB")
        width, height = whole.width // 2, whole.height // 2
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            part = whole.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            part.save(output / f"{file.stem}-{x}{y}.png")


def write_card(name: str, style: dict[str, Any], run: Path) -> None:
    """The card as `styleforge card` writes it, from the run and what we say about it."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(run / "train.json", place)
        if (run / "checkpoints").exists():
            newest = max((run / "checkpoints").glob("step-*"))
            (Path(place) / "checkpoints" / newest.name).mkdir(parents=True)
            shutil.copy(newest / "manifest.json", Path(place) / "checkpoints" / newest.name)
        whole = Path(place) / "style"
        assemble(name, style, whole)
        reference = SHARED / "data" / style["reference"] if "reference" in style else None
        cards.write_card(
            place,
            license="apache-2.0",
            name=name,
            repo=name if style.get("bundled") else None,
            summary=style["summary"],
            data=style["data"],
            limits=style["limits"],
            picture=shown(style),
            reference=reference,
            credit=style.get("credit", "" if style.get("noise") else PHOTO),
        )
        shutil.copy(whole / CARD_NAME, CARDS / name / CARD_NAME)
        shutil.copytree(whole / "samples", CARDS / name / "samples", dirs_exist_ok=True)


def assemble(name: str, style: dict[str, Any], folder: Path) -> None:
    """A style as its repository has it."""
    shutil.copytree(CARDS / name, folder, dirs_exist_ok=True)
    if style.get("bundled"):
        shutil.copytree(BUNDLED / name, folder, dirs_exist_ok=True)


def gallery() -> None:
    """Draw `model_cards/gallery.jpg`."""
    styles = zoo()
    tiles, ratio = [], photo().width / photo().height
    for name, style in styles.items():
        if style.get("noise"):
            tiles.append(mosaic(pipeline(name).generate(6, seed=3, first=6)))
            continue
        strip = Image.open(CARDS / name / "samples" / "before-after.jpg")
        last = strip.width - round(strip.height * ratio)
        tiles.append(ImageOps.fit(strip.crop((last, 0, strip.width, strip.height)), (384, 256)))
    tiles.insert(0, ImageOps.fit(photo(), (384, 256)))
    columns = 3
    sheet = Image.new("RGB", (columns * 390 - 6, -(-len(tiles) // columns) * 262 - 6), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, ((number % columns) * 390, (number // columns) * 262))
    sheet.save(CARDS / "gallery.jpg", quality=86)


def mosaic(made: list[Image.Image]) -> Image.Image:
    """Two rows of three pictures."""
    tile = Image.new("RGB", (384, 256))
    for number, picture in enumerate(made):
        tile.paste(picture.resize((128, 128)), (number % 3 * 128, number // 3 * 128))
    return tile


def table() -> None:
    """Print the table of the README."""
    styles = zoo()
    speeds = faster_than_stock(list(styles))
    print("| style | method | weights | speed | card |\n|---|---|---|---|---|")
    for name, style in styles.items():
        size = (weights_of(name, style) / WEIGHTS_NAME).stat().st_size / 1e6
        where = "bundled" if style.get("bundled") else "in the repository"
        speed = f"{speeds[name]:.1f}x" if name in speeds else "-"
        print(f"| `{name}` | {style['method']} | {size:.1f} MB, {where} | {speed} | [card](model_cards/{name}/) |")


def faster_than_stock(names: list[str], rounds: int = 5) -> dict[str, float]:
    """How many times faster than a stock float32 ResNet-9 of full width each is, PIL to PIL, in turns."""
    from benchmark import stock_generator

    picture = photo().resize((SIDE, SIDE))
    stock = stock_generator(64, 9).eval()

    def by_stock() -> None:
        with torch.inference_mode():
            images.to_pil(stock(images.read(picture).tensor()))

    turns = {"": by_stock}
    for name in names:
        pipe = pipeline(name)
        if pipe.model.capabilities.inputs == ("noise",):
            continue
        more = {"style": picture} if "style" in pipe.model.capabilities.inputs else {}
        turns[name] = lambda pipe=pipe, more=more: pipe(picture, **more)
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, work in turns.items():
            begin = time.perf_counter()
            work()
            if turn:  # the first warms up
                taken[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {name: middle[""] / seconds for name, seconds in middle.items() if name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "card", "gallery", "table", "push"))
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    styles = zoo()
    if arguments.what in ("gallery", "table"):
        {"gallery": gallery, "table": table}[arguments.what]()
    elif arguments.what == "push":
        organisation, *names = arguments.words or sys.exit("Name the organisation.")
        for name in names or styles:
            with tempfile.TemporaryDirectory() as place:
                assemble(name, styles[name], Path(place) / name)
                print(push(Path(place) / name, f"{organisation}/{name}", license="apache-2.0"))
    else:
        name, *rest = arguments.words or sys.exit(f"Name a style: {', '.join(styles)}.")
        run = Path(rest[0]) if rest else ROOT / "runs" / "zoo" / styles[name].get("run", name)
        (build if arguments.what == "build" else write_card)(name, styles[name], run)


if __name__ == "__main__":
    main()
