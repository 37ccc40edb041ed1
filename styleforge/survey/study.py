"""A study: pictures as every competitor shows them, in one folder, and who is asked what in which order.

```
STUDY/
├── study.json     the question, competitors and pictures with their hashes; who made what is written here only
├── pictures/      PNG of one size per picture, without metadata, under names that tell nothing
└── votes.sqlite   the answers: see styleforge.survey.votes
```
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from PIL import Image

from .. import batch, data, files, images, rng
from ..errors import ConfigError, CorruptFileError, DataError, ImageError
from ..pipeline import StylePipeline
from ..repos import without_style

QUESTION = "Which picture do you like {}?"
MANIFEST, PICTURES, VOTES = "study.json", "pictures", "votes.sqlite"
SOURCE = "source"
MOST_AT_ONCE = 6  # more buttons than that do not fit beside each other on a phone
OURS = re.compile(r"[0-9a-f]{20}\.png")  # names of pictures, see _scene
RATIO_TOLERANCE = 0.02  # rounding of sides, and the crop to a multiple of 4 that many networks make

Competitor = StylePipeline | str | os.PathLike[str]


@dataclass(frozen=True)
class Scene:
    """One picture in all its versions.

    Attributes:
        name: of the picture in its folder, without suffix.
        digest: SHA-256 of its file.
        files: competitor, or "source", to the file below `pictures/`.
    """

    name: str
    digest: str
    files: dict[str, str]


@dataclass(frozen=True)
class Question:
    """What is shown at once.

    Attributes:
        number: place in the session, from 0.
        scene: the picture.
        shown: competitors from left to right.
        expected: of an attention check, the competitor that the page asks to choose; else None.
    """

    number: int
    scene: Scene
    shown: tuple[str, ...]
    expected: str | None = None


@dataclass(frozen=True)
class Study:
    """A prepared study; see :func:`prepare` and :func:`load`.

    Attributes:
        folder: where it is.
        id: hash of all that decides what is shown; votes carry it.
        question: what voters are asked.
        competitors: their names with a hash of what they are.
        size: longest side in pixels.
        seed: of the choice of pictures and of all orders.
        way: how many pictures are compared at once.
        per_session: most questions for one voter, attention checks aside.
        checks: attention checks for one voter.
        scenes: the pictures.
    """

    folder: Path
    id: str
    question: str
    competitors: dict[str, str]
    size: int
    seed: int
    way: int
    per_session: int
    checks: int
    scenes: tuple[Scene, ...]

    def plan(self, token: str) -> list[Question]:
        """The questions of one session, always the same for the same token.

        Balanced within each session, whatever chance does: each group of competitors comes with every picture once,
        the first `n` questions hold all groups equally often (give or take one), and over them each competitor of a
        group stands at each place equally often (give or take one), as in a Latin square.

        Args:
            token: of the session, any text.
        """
        chance = random.Random(rng.seed_of(self.id, token))
        asked: list[tuple[Scene, tuple[str, ...], str | None]] = []
        asked += [(*pair, None) for pair in islice(self._pairings(chance), self.per_session)]
        for check in range(self.checks):
            scene, shown, _ = chance.choice(asked)
            place = (check + 1) * len(asked) // (self.checks + 1)
            asked.insert(place, (scene, shown, chance.choice(shown)))
        return [Question(number, *question) for number, question in enumerate(asked)]

    def _pairings(self, chance: random.Random) -> Iterator[tuple[Scene, tuple[str, ...]]]:
        """Pictures and who is shown from left to right: each turn all groups, one place further."""
        groups = list(combinations(self.competitors, self.way))
        orders = [chance.sample(group, self.way) for group in groups]
        scenes = chance.sample(self.scenes, len(self.scenes))
        for turn in range(len(scenes)):
            for group in chance.sample(range(len(groups)), len(groups)):
                order, shift = orders[group], turn % self.way
                yield scenes[(turn + group) % len(scenes)], (*order[shift:], *order[:shift])

    def picture(self, scene: Scene, competitor: str) -> Path:
        """The file that shows a scene as a competitor, or "source", has it."""
        return self.folder / PICTURES / scene.files[competitor]

    @property
    def votes(self) -> Path:
        """Where its votes are kept unless told otherwise."""
        return self.folder / VOTES


def prepare(
    competitors: Sequence[Competitor] | Mapping[str, Competitor],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    size: int = 512,
    pictures: int | None = None,
    seed: int = 0,
    reference: Any = None,
    include_source: bool = False,
    question: str | None = None,
    way: int = 2,
    per_session: int = 30,
    checks: int = 0,
    on_picture: Callable[[int, int], object] | None = None,
) -> Study:
    """Style pictures with every competitor and write the folder of a study; run again, it goes on where it stopped.

    Args:
        competitors: two or more: pipelines, folders of runs or of styles, names of bundled styles or on the Hub, or
            folders of ready pictures named as those of `images` (suffix aside), for methods from elsewhere. Names are
            the keys of a mapping, or in a list `NAME=PATH`, or else the folder's.
        images: folder of the pictures to style.
        output: folder of the study.
        size: longest side in pixels of what is shown and styled. Larger pictures are shrunk before they are styled,
            ready ones afterwards to the same size; smaller ones stay.
        pictures: how many of them, chosen by `seed`; all when None.
        seed: of that choice and of every order.
        reference: picture of the style, for networks that take any.
        include_source: the unstyled picture competes too, under the name "source".
        question: what voters are asked; which they like better, or best, when None.
        way: how many are compared at once, up to 6; 2 asks for all pairs.
        per_session: most questions for one voter.
        checks: attention checks for one voter beside these: the page says which one to choose.
        on_picture: called with how many pictures are made and how many there will be.

    Returns:
        The study. `study.json` is written last: without it there is no study.

    Raises:
        ConfigError: a setting that cannot be used, equal or odd names, or a folder with another study and its votes, or
            one whose pictures would lie among those of `images`.
        DataError: no pictures, or a folder of ready pictures where one is missing or has another shape.
        RepoError, WeightsError, ImageError: a style or a picture that cannot be used.
    """
    named = _name(competitors)
    _check(len(named) + include_source, size, pictures, way, per_session, checks)
    _check_apart(Path(images), Path(output) / PICTURES)
    makers: dict[str, _Maker] = {name: _maker(given, reference) for name, given in named.items()}
    compete = [*makers, SOURCE] if include_source else list(makers)
    makers[SOURCE] = _Source()  # always there: voters may look at it
    question = question or QUESTION.format("better" if way == 2 else "best")
    settings = {"question": question, "competitors": {name: makers[name].digest for name in compete}}
    settings |= {"size": size, "seed": seed, "way": way, "per_session": per_session, "checks": checks}
    chosen = _choose(Path(images), pictures, seed)
    study = _study(Path(output), settings, [_scene(name, file, size, makers) for name, file in chosen.items()])
    _make_room(study)
    for number, scene in enumerate(study.scenes):
        source = _fit(chosen[scene.name], size)
        for competitor in scene.files:
            _make(study.picture(scene, competitor), makers[competitor], scene.name, source)
        if on_picture:
            on_picture(number + 1, len(study.scenes))
    _write(study, settings)
    return study


def load(folder: str | os.PathLike[str]) -> Study:
    """Open a study and check every picture of it.

    Raises:
        DataError: no study there, or one that was not finished.
        CorruptFileError: a damaged `study.json`, or a picture that is missing or has changed.
    """
    study, hashes = _read(Path(folder))
    for path in _damaged(study.folder, hashes):
        todo = "Prepare the study again."
        raise CorruptFileError("A picture of the study is missing or has changed", where=path, todo=todo)
    return study


# ----------------------------------------------------------------------------------------- competitors


class _Style:
    """Styles pictures with a network."""

    def __init__(self, pipe: StylePipeline, reference: Any) -> None:
        wants = "style" in pipe.model.capabilities.inputs
        self.pipe, self.options = pipe, batch.read_options({"style": reference} if wants else {}, pipe.policy)
        self.digest = batch.digest(pipe, self.options)

    def __call__(self, name: str, source: Image.Image) -> Image.Image:
        return self.pipe(source, **self.options)


class _Ready:
    """Takes pictures from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, _by_name(folder)
        listing = [(name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in self.files.items()]
        self.digest = hashlib.sha256(repr(listing).encode()).hexdigest()

    def __call__(self, name: str, source: Image.Image) -> Image.Image:
        if name not in self.files:
            todo = "Give every picture, with equal names, or fewer --images."
            raise DataError("A ready picture is missing", where=self.folder, found=f"no '{name}'", todo=todo)
        ready = _rgb(self.files[name])
        if abs(ready.width * source.height / (ready.height * source.width) - 1) > RATIO_TOLERANCE:
            raise DataError(
                "A ready picture has another shape than its source",
                where=self.files[name],
                found=f"{ready.width} x {ready.height}",
                allowed=f"the proportions of {source.width} x {source.height}, which all competitors are shown in",
                todo="Style whole pictures, or crop the sources too.",
            )
        return ready if ready.size == source.size else ready.resize(source.size, Image.Resampling.LANCZOS)


class _Source:
    """Leaves pictures as they are."""

    digest = SOURCE

    def __call__(self, name: str, source: Image.Image) -> Image.Image:
        return source


_Maker = _Style | _Ready | _Source


def _name(competitors: Sequence[Competitor] | Mapping[str, Competitor]) -> dict[str, Competitor]:
    if isinstance(competitors, Mapping):
        return _distinct(list(competitors.items()))
    return _distinct([_split(given) for given in competitors])


def _split(given: Competitor) -> tuple[str, Competitor]:
    """`NAME=PATH`, or a name from the path: that of the run rather than its folder `style`."""
    if isinstance(given, StylePipeline):
        return type(given.model).__name__, given
    name, equals, path = os.fspath(given).partition("=")
    if equals and not os.path.exists(given):
        return name.strip(), path
    parts = [part for part in Path(given).absolute().parts if part not in ("style", "best")]
    return parts[-1], given


def _distinct(named: list[tuple[str, Competitor]]) -> dict[str, Competitor]:
    names = [name for name, _ in named]
    odd = [
        name for name in names if not name or name == SOURCE or "|" in name or not name.isprintable() or len(name) > 60
    ]
    if odd or len(set(names)) < len(names):
        raise ConfigError(
            "Competitors cannot be told apart by these names",
            found=", ".join(map(repr, names)),
            allowed="different names of up to 60 printable characters without |, not 'source'",
            todo="Name them: ours=runs/a theirs=runs/b",
        )
    return dict(named)


def _maker(given: Competitor, reference: Any) -> _Maker:
    if isinstance(given, StylePipeline):
        return _Style(given, reference)
    return _Ready(Path(given)) if without_style(given) else _Style(StylePipeline.from_pretrained(given), reference)


def _check(count: int, size: int, pictures: int | None, way: int, per_session: int, checks: int) -> None:
    for what, value, low, high in (
        ("Competitors", count, 2, 100),
        ("size", size, 16, 4096),
        ("pictures", 1 if pictures is None else pictures, 1, 10_000),
        ("way", way, 2, min(count, MOST_AT_ONCE)),
        ("per_session", per_session, 1, 1000),
        ("checks", checks, 0, per_session),
    ):
        if not isinstance(value, int) or not low <= value <= high:
            allowed = f"whole numbers from {low} to {high}"
            raise ConfigError(f"{what} cannot be used", found=value, allowed=allowed, todo="Give another number.")


def _check_apart(given: Path, made: Path) -> None:
    """Pictures of a study among those that it is made of would be styled in their turn when it goes on."""
    inner, outer = given.resolve(), made.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ConfigError(
            "The pictures of a study would lie among those that it is made of",
            found=f"{made} and {given}",
            allowed="neither within the other",
            todo="Give another folder for the study (--output).",
        )


# -------------------------------------------------------------------------------------------- pictures


def _by_name(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by their name without suffix."""
    named: dict[str, Path] = {}
    for file in data.list_pictures(folder):
        other = named.setdefault(data.picture_name(file, folder), file)
        if other != file:
            raise DataError("Two pictures have one name", found=f"{other} and {file}", todo="Rename one of them.")
    return named


def _choose(folder: Path, count: int | None, seed: int) -> dict[str, Path]:
    named = _by_name(folder)
    if count is not None and count > len(named):
        todo = "Ask for fewer, or put more there."
        raise DataError("Not enough pictures", where=folder, found=len(named), allowed=f"{count} or more", todo=todo)
    kept = set(random.Random(rng.seed_of(seed, "pictures")).sample(sorted(named), count or len(named)))
    return {name: file for name, file in named.items() if name in kept}


def _rgb(file: Path) -> Image.Image:
    return Image.fromarray(images.to_8_bit(images.read(file).rgb))


def _fit(file: Path, size: int) -> Image.Image:
    """The picture with its longest side at most `size`."""
    image = _rgb(file)
    factor = size / max(image.size)
    if factor >= 1:
        return image
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)


def _make(path: Path, maker: _Maker, name: str, source: Image.Image) -> None:
    try:
        if images.read(path).size == source.size:
            return
    except ImageError:
        pass  # not there yet
    images.save(maker(name, source).convert("RGB"), path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]


def _scene(name: str, file: Path, size: int, makers: Mapping[str, _Maker]) -> Scene:
    """Files are named by a hash of all that is in them: it tells nothing, and work that is done is found again."""
    digest = _digest(file)
    return Scene(name, digest, {c: f"{_hash(name, digest, size, maker.digest)}.png" for c, maker in makers.items()})


# -------------------------------------------------------------------------------------------- manifest


def _study(folder: Path, settings: dict[str, Any], scenes: Sequence[Scene]) -> Study:
    facts = json.dumps(settings, sort_keys=True), [(scene.name, scene.digest) for scene in scenes]
    return Study(folder, _hash(*facts), scenes=tuple(scenes), **settings)


def _make_room(study: Study) -> None:
    """Refuse a folder with votes on something else, and remove what is damaged in it."""
    files.clean(study.folder)
    if not (study.folder / MANIFEST).exists():
        return
    other, hashes = _read(study.folder)
    if other.id != study.id and study.votes.exists():
        raise ConfigError(
            "This folder holds another study and its votes",
            where=study.folder,
            found="other competitors, pictures or settings",
            todo=f"Give another folder, or move {VOTES} out of it.",
        )
    for path in _damaged(study.folder, hashes):
        path.unlink(missing_ok=True)


def _damaged(folder: Path, hashes: Mapping[str, str]) -> Iterator[Path]:
    """Pictures that are missing, or not as they were written."""
    paths = [folder / PICTURES / file for file in hashes]
    return (path for path in paths if not path.is_file() or _digest(path) != hashes[path.name])


def _write(study: Study, settings: dict[str, Any]) -> None:
    folder = study.folder / PICTURES
    hashes = {file: _digest(folder / file) for scene in study.scenes for file in scene.files.values()}
    table = {"format": 1, **settings, "scenes": [asdict(scene) for scene in study.scenes], "sha256": hashes}
    files.write_text(study.folder / MANIFEST, json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    for file in folder.iterdir():
        if OURS.fullmatch(file.name) and file.name not in hashes:  # somebody may keep pictures of his own there
            file.unlink()


def _read(folder: Path) -> tuple[Study, dict[str, str]]:
    """What the manifest says, and the hashes of the pictures."""
    path = folder / MANIFEST
    if not path.is_file():
        todo = "Prepare it with `styleforge survey prepare`; run again, that goes on where it stopped."
        raise DataError("This folder holds no finished study", where=folder, todo=todo)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table.pop("format") != 1:
            raise ValueError("a format of another styleforge")
        hashes = dict(table.pop("sha256"))
        study = _study(folder, table, [Scene(**scene) for scene in table.pop("scenes")])
        _check(len(study.competitors), study.size, None, study.way, study.per_session, study.checks)
        if not study.scenes:
            raise ValueError("no pictures")
        for scene in study.scenes:
            if not {*study.competitors, SOURCE} <= set(scene.files) or not set(scene.files.values()) <= set(hashes):
                raise ValueError(f"{scene.name!r} is not complete")
        if any(Path(file).name != file for file in hashes):
            raise ValueError("a file outside of the study")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        todo = "Remove it and prepare the study again."
        raise CorruptFileError("The study cannot be read", where=path, found=repr(error), todo=todo) from error
    return study, hashes
