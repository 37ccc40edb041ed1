"""Cards of runs and styles: what their folders know, put on the page; see :mod:`styleforge.card`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .. import card, checkpoint, images
from ..adaptation import RECIPE, TRAINING
from ..card.linter import PICTURE
from ..card.measured import METRICS, read_metrics, read_text
from ..errors import ConfigError, CorruptFileError, NotAStyle, RepoNotFound
from ..files import write_text
from ..hub import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, PretrainedMixin
from ..pipeline import StylePipeline
from .strip import draw
from .told import facts

__all__ = ["check", "facts", "publish_card", "read_metrics", "write_card"]

STRIP = "samples/before-after.jpg"
SHOWN = 6
SAID = {"summary": "head", "data": "data", "limits": "limits"}  # sections whose words may be given
STRIPS = {
    ("image",): "A picture before and after",
    ("image", "style"): "A picture, a picture of a style, and the first in the style of the second",
    ("noise",): "Pictures that the style made out of noise",
}
PLACES = ("style", "best")  # where a run publishes


def write_card(
    place: str | os.PathLike[str],
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    name: str | None = None,
    repo: str | None = None,
    summary: str | None = None,
    data: str | None = None,
    datasets: Sequence[str] | None = None,
    limits: str | None = None,
    base_model: str | None = None,
    picture: Any = None,
    reference: Any = None,
    credit: str | None = None,
    say: Callable[[str], Any] = lambda text: None,
) -> Path:
    """Write the card of a run or a style, or bring the one that is there up to date.

    What its author wrote stays: see :func:`styleforge.card.refresh`. What is not given is as the card has it already,
    else as the run knows it. Pictures of the training are not put on the page: they may be somebody's.

    Args:
        place: folder of a run (the card is that of its `style/`) or of a style.
        license: licence of the weights, as the Hub names it.
        license_name: name of a license that is "other".
        license_link: where to read it: an address, or a file beside the card.
        name: title.
        repo: `organisation/name` where the style will live.
        summary: a sentence or two on what the style does.
        data: what it was trained on, from where, and under which licences.
        datasets: the same as names of data sets on the Hub.
        limits: what it does badly.
        base_model: style on the Hub that it was adapted from.
        picture: photograph for the strip of before and after, in any form that :func:`styleforge.images.read` takes;
            networks that start from noise need none.
        reference: picture of a style, for networks that take any.
        credit: who made the picture, and under which licence; stands below it.
        say: is told what was renewed, and what was kept.

    Returns:
        The card.

    Raises:
        RepoError, WeightsError: no style that works.
        ConfigError: a license that the Hub does not know, a picture that does not fit the style, or a card whose front
            matter cannot be read.
        CorruptFileError: a card or `metrics.json` that cannot be read.
        ImageError: the picture cannot be used.
    """
    given = {
        "license": license,
        "license_name": license_name,
        "license_link": license_link,
        "name": name,
        "repo": repo,
        "summary": summary,
        "data": data,
        "datasets": datasets,
        "limits": limits,
        "base_model": base_model,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if license is not None:
        given["license"] = card.known_license(license)
    folder, run = _places(Path(place))
    if not folder.is_dir():  # the name of a bundled style is no folder, and its card is not here
        raise RepoNotFound("No such folder", where=folder, todo="Give the folder of a run or of a style.")
    pipe = StylePipeline.from_pretrained(folder, device="cpu")
    noise = pipe.model.capabilities.inputs == ("noise",)
    wanted = picture is not None or (noise and not (folder / STRIP).exists())
    drawn = draw(pipe, picture, reference) if wanted else None
    written = _write(folder, pipe.model, _known(folder, run), given, drawn, credit, say)
    for inner in sorted(folder.glob(f"*/{CONFIG_NAME}")):  # as the way back of a CycleGAN
        if (inner.parent / WEIGHTS_NAME).exists():
            model = PretrainedMixin.from_pretrained(inner.parent)
            told = {**given, "subfolder": inner.parent.name}
            _write(inner.parent, model, _known(inner.parent, run), told, None, None, say)
    return written


def publish_card(
    folder: Path, network: PretrainedMixin, known: Mapping[str, Any], say: Callable[[str], Any] = lambda text: None
) -> Path:
    """Write the card of a style that a run has just saved, or bring it up to date.

    As :func:`write_card`, but figures of weights that are no more are taken out, and a card that cannot be read is left
    alone: no run ends for one.

    Args:
        folder: of the style.
        network: the style.
        known: what :func:`facts` made of the run, and `subfolder`.
        say: is told what was kept.
    """
    given = {key: known[key] for key in ("license", "subfolder") if known.get(key)}
    (folder / METRICS).unlink(missing_ok=True)
    try:
        return _write(folder, network, known, {**given, "metrics": None}, None, None, say)
    except (ConfigError, CorruptFileError) as error:
        say(f"{folder / CARD_NAME} stays as it is: {error}")
        return folder / CARD_NAME


def check(place: str | os.PathLike[str], *, pushing: bool = False) -> list[card.Problem]:
    """Find what is wrong with a card; see :func:`styleforge.card.lint`.

    Args:
        place: folder of a run or of a style, or the file of a card.
        pushing: as for :func:`styleforge.card.lint`.

    Raises:
        NotAStyle: there is no card.
        CorruptFileError: it is no text, or far too long.
    """
    path = Path(place)
    if path.suffix != ".md":
        path = _places(path)[0] / CARD_NAME
    if not path.is_file():
        raise NotAStyle("There is no card", where=path, todo=f"`styleforge card {place}` writes one.")
    return card.lint(read_text(path), folder=path.parent, pushing=pushing)


# -- one card --


def _write(
    folder: Path,
    network: PretrainedMixin,
    known: Mapping[str, Any],
    given: Mapping[str, Any],
    drawn: Image.Image | None,
    credit: str | None,
    say: Callable[[str], Any],
) -> Path:
    path = folder / CARD_NAME
    old = read_text(path) if path.exists() else ""
    inputs = network.capabilities.inputs
    if credit is None:
        credit = "" if drawn else _credit(old, inputs)
    told = {
        "samples": _samples(folder, inputs, credit, drawn is not None),
        "parameters": _parameters(network),
        **({"metrics": read_metrics(folder / METRICS)} if (folder / METRICS).exists() else {}),
        **known,
        **_remembered(old, given),
        **given,
    }
    new = str(network.generate_model_card(**told))
    ours = {*given, *(["model-index"] if "metrics" in told else [])}
    stay = set() if "training" in known else {"training", "data"} - given.keys()
    made = card.refresh(old, new, ours=ours, stay=stay) if old else None
    if drawn:
        images.save(drawn, folder / STRIP, quality=88)
    if not made:
        say(f"{path}: written.")
        return write_text(path, new)
    for what, names in (("renewed", made.renewed), ("left as its author wrote it", made.kept)):
        if names:
            say(f"{path}: {what}: {', '.join(names)}.")
    if not card.sections(old):
        say(f"{path}: nothing in its text is marked as generated, so all of it stays. Rename it to get a new one.")
    return path if made.text == old else write_text(path, made.text)


def _places(place: Path) -> tuple[Path, Path | None]:
    """The folder of a style, and that of its run where there is one."""
    if (place / "train.json").is_file() and not (place / CONFIG_NAME).exists():
        return place / PLACES[0], place
    whole = place.resolve()
    for run in whole.parents[:2]:
        if (run / "train.json").is_file() and whole.relative_to(run).parts[0] in PLACES:
            return place, run
    return place, None


def _known(folder: Path, run: Path | None) -> dict[str, Any]:
    """What a run, or else the recipe beside a style, tells of its training."""
    if run is not None:
        config = _located(_table(run / "train.json"), run)
        manifest = next(checkpoint.manifests(run / "checkpoints"), {})
        steps = manifest.get("step")
        if PLACES[1] in folder.resolve().relative_to(run.resolve()).parts:
            steps = f"the best measured of {steps or config.get('steps')}"
        told = {key: manifest.get(key) for key in ("seconds", "device", "precision", "pictures", "joint_batch")}
        return facts(config, steps=steps, **told)
    recipe = folder / TRAINING / RECIPE
    told = recipe.exists() and not (folder / CARD_NAME).exists()  # a card was written by who knew more
    return {"name": folder.resolve().name, **(facts(_table(recipe)) if told else {})}


def _located(config: dict[str, Any], run: Path) -> dict[str, Any]:
    """With a base that is a folder as such: `runs/mine`, seen from elsewhere, looks like a repository."""
    adapt = config.get("adapt") or {}
    base = str(adapt.get("base"))
    seen = (up / base for up in run.resolve().parents if "/" in base)
    found = next((place for place in seen if place.is_dir()), None)
    return config if found is None else {**config, "adapt": {**adapt, "base": str(found)}}


def _remembered(old: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given when the card was written, so that it need not be given again."""
    front, parts = card.parse(old), card.sections(old)
    found = {key: front.data.get(key) for key in ("license", "license_name", "license_link", "base_model")}
    found = {key: value for key, value in found.items() if isinstance(value, str)}
    if "license" in given:
        found = {key: value for key, value in found.items() if not key.startswith("license")}
    if isinstance(front.data.get("datasets"), list):
        found["datasets"] = front.data["datasets"]
    title = re.search(r"^# (.+)$", front.body, re.M)
    words = {
        "name": title and title[1],
        "repo": card.home(old),
        **{key: parts.get(section, "").partition("\n\n")[2] for key, section in SAID.items()},
    }
    return found | {
        key: text for key, text in words.items() if text and card.UNSAID not in text and card.UNTRIED not in text
    }


def _samples(folder: Path, inputs: tuple[str, ...], credit: str, drawn: bool) -> list[dict[str, str]]:
    shown = []
    if drawn or (folder / STRIP).exists():
        text = STRIPS[inputs]
        shown.append({"file": STRIP, "text": text, "caption": f"{text}. {credit}" if credit else text})
    others = {f"{path.parent.name}/{path.name}": path for path in sorted((folder / STRIP).parent.glob("*"))}
    others = [(name, path) for name, path in others.items() if PICTURE.fullmatch(name) and name != STRIP]
    return shown + [{"file": name, "text": f"Sample: {path.stem}"} for name, path in others[:SHOWN]]


def _credit(old: str, inputs: tuple[str, ...]) -> str:
    pattern = rf"^\*{re.escape(STRIPS[inputs])}\. (.+)\*$"
    found = re.search(pattern, card.sections(old).get("pictures", ""), re.M)
    return found[1] if found else ""


def _parameters(network: PretrainedMixin) -> str:
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count / 1e6:.2f} million" if count >= 1e5 else f"{count:,}"


# -- files --


def _table(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError("This file cannot be read", where=path, found=error, todo="Repair or remove it.") from error
