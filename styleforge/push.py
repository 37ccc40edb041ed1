"""Publishing a run or a style: one commit on the Hub, of what belongs there, checked before it leaves the machine.

What goes up is first put together in a temporary folder, so that what is checked is what is sent, even while a training
writes on. Beside it goes a list of what a push put there: by it the next one knows which files it may remove, and
whether the card has been edited on the Hub since.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from PIL import ExifTags, Image

from . import card, images, weights
from .adaptation import ADAPTER, MANIFEST, NETWORKS, RECIPE, TRAINING, find
from .card.linter import PICTURE, PICTURES, PLACES, SECRETS
from .card.measured import METRICS, read_metrics
from .errors import (
    ConfigError,
    CorruptFileError,
    NotAStyle,
    PushConflict,
    PushRefused,
    StyleforgeError,
    UnsafeFileError,
)
from .export import export_onnx
from .files import write_text
from .hub import PretrainedMixin
from .lora import FACTORS, FACTS
from .repos import (
    CARD_NAME,
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    WEIGHTS_NAME,
    Remote,
    blob_name,
    fetch_file,
    local,
    look,
    make,
    send,
    style_of,
)

PUSHED = ".styleforge.json"
ONNX = "onnx/model.onnx"
REPORT = "report.html"  # only from the folder of the style: that of a run shows pictures of the training
TEXTS = (".json", ".html")
EMBEDDED = re.compile(r";base64,[\w+/=]+")  # pictures of a report
PLACES_OUTSIDE = re.compile(rf"(?P<embedded>{EMBEDDED.pattern})|{PLACES.pattern}")
NETWORK_FILES = "|".join(re.escape(name) for name in (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME))
# All that is ever sent or removed; one folder down lie further networks of the method.
ALLOWED = re.compile(
    rf"(?:[a-z][\w-]{{0,31}}/)?(?:{NETWORK_FILES})"
    rf"|{TRAINING}/(?:{'|'.join(map(re.escape, (NETWORKS, RECIPE, MANIFEST)))})"
    rf"|{ADAPTER}/(?:{re.escape(FACTORS)}|{re.escape(FACTS)})"
    rf"|{PICTURE.pattern}|{re.escape(METRICS)}|{re.escape(REPORT)}|LICENSE(?:\.txt|\.md)?|{re.escape(ONNX)}"
)


@dataclass(frozen=True)
class Change:
    """What a push does with one file.

    Attributes:
        path: in the repository.
        bytes: that it holds; 0 for one that is removed.
        what: happens to it.
    """

    path: str
    bytes: int
    what: Literal["created", "updated", "unchanged", "removed"]


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        repo_id: `organisation/name`.
        url: of the commit or the pull request; of a dry run, None.
        commit: the commit; the one that was there when nothing has changed, None for a dry run to a new repository.
        changes: by path.
        left_out: files of the style's folder that are no part of a style, and stay here.
        notes: what to know: edits on the Hub that were kept, and what the card lacks.
        dry_run: whether nothing was sent.
    """

    repo_id: str
    url: str | None
    commit: str | None
    changes: tuple[Change, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def upload(self) -> int:
        """Bytes that are new to the repository."""
        return sum(change.bytes for change in self.changes if change.what in ("created", "updated"))

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "upload": self.upload}


def push(
    run_or_folder: str | os.PathLike[str],
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
    onnx: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Publish the style of a run, or of a folder, in one commit; the repository is made when there is none.

    Sent are the networks with their cards, `training/`, `adapter/`, `samples/`, `images/`, `metrics.json`,
    `report.html` and a license, and nothing else; of a run its folder `style/`, and what was measured. Of what earlier
    pushes put there, what is gone here is removed; other files on the Hub stay. A card that was edited on the Hub keeps
    its edits: only sections that are generated and untouched are brought up to date. Places on this machine are cut
    down to their last name in what is sent.

    A failure on the way leaves the repository as it was; one that was made for this push is then empty.

    Args:
        run_or_folder: the folder of a run, or of a style.
        repo_id: `organisation/name`, or a name of one's own.
        license: licence of the weights, as the Hub names it; that of the card when None.
        private: whether only its owners see the repository; as it is, or public, when None.
        revision: branch to push to.
        create_pr: propose it as a pull request, which anybody may do.
        commit_message: first line of the commit.
        token: Hub token; the saved one when None.
        onnx: also export the style as `onnx/model.onnx`.
        dry_run: look at all, send nothing.

    Raises:
        NotAStyle, RepoNotFound: no style there.
        WeightsError, ConfigError, CorruptFileError, ImageError: files that nobody could use.
        UnsafeFileError: a link that leads out of the folder.
        PushRefused: no license, a card with errors, what looks like a secret; or the Hub says no.
        PushConflict: somebody else pushed in the meantime; nothing of this push arrives.
        RevisionNotFound, GatedRepo, HubUnavailable: as everywhere.
        MissingExtra: `onnx` without the extra.
    """
    style, run = _find(Path(run_or_folder))
    where: dict[str, Any] = {"revision": revision, "private": private, "create_pr": create_pr}
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="styleforge-push-") as temporary:
        stage = Path(temporary).resolve()
        left_out = _gather(style, run, stage)
        networks = _check(stage, style)
        there = look(api, repo_id, **where)
        before = _before(there, token)
        notes = _finish(stage, networks, _Cards(stage, there, before, license, token), onnx)
        changes = _changes(stage, there, before)
        told: dict[str, Any] = {"changes": tuple(changes), "left_out": tuple(left_out), "notes": tuple(notes)}
        if dry_run:
            return Pushed(there.id, None, there.commit, dry_run=True, **told)
        if there.commit is None:
            there = make(api, repo_id, **where)
            _refuse_overtaken(there)
        operations = list(_operations(stage, changes))
        if not operations:
            return Pushed(there.id, f"{api.endpoint}/{there.id}/commit/{there.commit}", there.commit, **told)
        url, commit = send(api, there, operations, message=commit_message, revision=revision, create_pr=create_pr)
        return Pushed(there.id, url, commit, **told)


# -- what belongs to a style --


def _find(place: Path) -> tuple[Path, Path | None]:
    """The folders of the style and, if that is what was given, of its run."""
    style = Path(style_of(place))
    if style != place:
        return style, place
    if (place / "train.json").is_file() and not (place / CONFIG_NAME).exists():
        raise NotAStyle(
            "This run has not published a style yet", where=place, todo="Let it finish, or stop it with Ctrl-C."
        )
    local(place, str(place))
    return place, None


def _gather(style: Path, run: Path | None, stage: Path) -> list[str]:
    """Copy what belongs to a style to `stage`; returns what does not."""
    left_out = []
    for path in sorted(style.rglob("*")):
        name = path.relative_to(style).as_posix()
        if not path.is_file() or name.startswith(".git/"):
            continue
        if ALLOWED.fullmatch(name) and name != ONNX and _is_of_a_network(path):
            _copy(path, stage / name, style)
        else:
            left_out.append(name)
    if run and (run / METRICS).is_file() and not (stage / METRICS).exists():
        _copy(run / METRICS, stage / METRICS, run)
    return left_out


def _is_of_a_network(path: Path) -> bool:
    """A configuration, a card or weights alone are something else."""
    names = (CONFIG_NAME, WEIGHTS_NAME)
    return path.name not in (*names, CARD_NAME) or all(path.with_name(name).is_file() for name in names)


def _copy(source: Path, target: Path, root: Path) -> None:
    if not source.resolve().is_relative_to(root.resolve()):
        raise UnsafeFileError(
            "A link leads out of the folder of the style",
            where=source,
            found=source.resolve(),
            todo="Put the file itself there, or remove the link.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _names(stage: Path) -> list[str]:
    return sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())


# -- whether it can be used, and may be seen --


def _check(stage: Path, style: Path) -> dict[str, PretrainedMixin]:
    """Look at all files as a stranger would; returns the networks by subfolder."""
    with _called(stage, style):
        folders = sorted(path.parent for path in stage.rglob(CONFIG_NAME))
        networks = {
            "" if folder == stage else folder.name: PretrainedMixin.from_files(local(folder, str(folder)))
            for folder in folders
        }
        _check_beside(stage)
        for path in (stage / name for name in _names(stage)):
            if path.suffix in TEXTS:
                _clean(path, shorten=path.parent.name != TRAINING)
            elif path.parent.name in PICTURES:
                _check_picture(path)
        if (stage / METRICS).is_file():  # of the style, or of its run
            read_metrics(stage / METRICS)
    return networks


def _check_beside(stage: Path) -> None:
    """What further training needs, as its manifest has it, and what is added to the weights."""
    tensors = [stage / ADAPTER / FACTORS, stage / TRAINING / NETWORKS]
    if (stage / TRAINING).is_dir():
        found = find(stage)
        if not all(found.training(name) for name in (RECIPE, NETWORKS)):
            raise CorruptFileError(f"{TRAINING}/ has no {MANIFEST}", where=stage, todo=f"Remove {TRAINING}/.")
    for path in tensors:
        if path.is_file():
            weights.check_finite(weights.read(path), where=path)


@contextmanager
def _called(stage: Path, style: Path) -> Iterator[None]:
    """Errors name the user's folder, not ours."""
    try:
        yield
    except StyleforgeError as error:
        raise type(error)(str(error).replace(str(stage), str(style))) from error


def _clean(path: Path, shorten: bool) -> None:
    """Cut places on this machine down to their last name; refuse what looks like a secret."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if match := SECRETS.search(EMBEDDED.sub("", text)):
        raise PushRefused(
            "This file holds what looks like a secret",
            where=path.name,
            found=f"'{match[0][:6]}...'",
            todo="Remove it, and have the secret replaced where it is from.",
        )
    shortened = PLACES_OUTSIDE.sub(_last_name, text) if shorten else text
    if shortened != text:
        write_text(path, shortened)


def _last_name(place: re.Match[str]) -> str:
    return place["embedded"] or PurePath(place[0].replace("\\", "/")).name


def _check_picture(path: Path) -> None:
    """Refuse a file that is no picture, and a photograph that tells where it was taken."""
    images.read(path)
    with Image.open(path) as picture:
        if picture.getexif().get_ifd(ExifTags.IFD.GPSInfo):
            raise PushRefused(
                "This picture tells where it was taken", where=path, todo="Save it without its EXIF data."
            )


# -- what is there, and what comes of it --


def _finish(stage: Path, networks: Mapping[str, PretrainedMixin], cards: _Cards, onnx: bool) -> list[str]:
    """Write what depends on the Hub: cards, the graph with the license, the list of all; returns what to know."""
    for subfolder, network in networks.items():
        cards.write(subfolder, network)
    license, notes = _lint((stage / CARD_NAME).read_text(encoding="utf-8"), stage)
    if onnx:
        export_onnx(networks[""], stage / ONNX, name=cards.there.id, license=license)
    digests = {name: "" if name in cards.merged else blob_name(stage / name, 64) for name in _names(stage)}
    write_text(stage / PUSHED, json.dumps({"sha256": digests}, indent=2) + "\n")
    return [*cards.notes, *notes]


def _lint(text: str, stage: Path) -> tuple[str, list[str]]:
    """The license of the card, and what the card lacks; raises where it may not be pushed like that."""
    front = card.parse(text)
    license = str(front.data.get("license") or "")
    if not front.problem and not license:
        raise PushRefused(
            "A style without a license is not pushed",
            where=CARD_NAME,
            todo="Give one, for example --license cc-by-4.0 (license= in Python), or write `license:` into the front "
            "matter of the card; https://huggingface.co/docs/hub/repositories-licenses lists the names.",
        )
    problems = card.lint(text, folder=stage, pushing=True)
    if errors := [str(problem) for problem in problems if problem.severity == "error"]:
        todo = "Repair it, and push again."
        raise PushRefused("The card has errors", where=CARD_NAME, found=" ".join(errors), todo=todo)
    return license, [f"{CARD_NAME}: {problem.text}" for problem in problems]


def _before(there: Remote, token: str | bool | None) -> dict[str, str]:
    """What the last push put there: SHA-256 by path; of a card with edits of the Hub an empty one."""
    if PUSHED not in there.files or there.files[PUSHED].size > MAX_CONFIG_BYTES:
        return {}
    try:
        table = json.loads(_read(there, PUSHED, token))["sha256"]
        return {str(name): str(digest) for name, digest in table.items() if ALLOWED.fullmatch(name)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # edited by hand: then we know nothing
        return {}


def _read(there: Remote, name: str, token: str | bool | None) -> str:
    path = fetch_file(there.id, name, commit=str(there.commit), digest="", token=token)
    return path.read_text(encoding="utf-8", errors="replace")


@dataclass
class _Cards:
    """Writes the cards of a push.

    Attributes:
        stage: folder of what is pushed.
        there: what is on the Hub.
        before: what the last push put there.
        license: what was asked for.
        token: of the Hub.
        merged: paths of cards that hold edits made on the Hub.
        notes: on them.
    """

    stage: Path
    there: Remote
    before: Mapping[str, str]
    license: str | None
    token: str | bool | None
    merged: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def write(self, subfolder: str, network: PretrainedMixin) -> None:
        """Write the card of one network: ours, with what was edited on the Hub."""
        path = self.stage / subfolder / CARD_NAME
        name = path.relative_to(self.stage).as_posix()
        ours = self._ours(path, subfolder, network)
        theirs = _read(self.there, name, self.token) if name in self.there.files else ours
        if theirs != ours and hashlib.sha256(theirs.encode()).hexdigest() != self.before.get(name):
            ours = self._merge(name, theirs, ours)
        write_text(path, ours)

    def _ours(self, path: Path, subfolder: str, network: PretrainedMixin) -> str:
        fresh = str(network.generate_model_card(license=self.license, subfolder=subfolder))
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else fresh
        if self.license:
            new = f"---\nlicense: {json.dumps(self.license)}\n---\n{card.parse(fresh).body}"
            text = card.refresh(text, new, ours=("license",), stay=card.sections(new).keys() - {"license"}).text
        return text.replace(card.SOMEWHERE, self.there.id)

    def _merge(self, name: str, theirs: str, ours: str) -> str:
        try:
            merged = card.refresh(theirs, ours, ours=("license",) if self.license else ())
        except ConfigError as error:
            raise PushRefused(
                "The card on the Hub cannot be read",
                where=f"{name} of {self.there.id}",
                found=error,
                todo="Repair it there.",
            ) from error
        self.merged.add(name)
        what = f"its {', '.join(merged.renewed)} brought up to date" if merged.renewed else "as it is"
        self.notes.append(f"{name} was edited on the Hub and stays, {what}; edits of the one here are not sent.")
        return merged.text


def _changes(stage: Path, there: Remote, before: Mapping[str, str]) -> list[Change]:
    changes = {name: Change(name, (stage / name).stat().st_size, _what(stage, name, there)) for name in _names(stage)}
    gone = (before.keys() & there.files.keys()) - changes.keys()
    return [change for _, change in sorted((changes | {name: Change(name, 0, "removed") for name in gone}).items())]


def _what(stage: Path, name: str, there: Remote) -> Literal["created", "updated", "unchanged"]:
    if (old := there.files.get(name)) is None:
        return "created"
    known = old.lfs.sha256 if old.lfs else old.blob_id
    return "unchanged" if blob_name(stage / name, len(known)) == known else "updated"


def _operations(stage: Path, changes: list[Change]) -> Iterator[CommitOperationAdd | CommitOperationDelete]:
    for change in changes:
        if change.what == "removed":
            yield CommitOperationDelete(change.path)
        elif change.what != "unchanged":
            yield CommitOperationAdd(change.path, stage / change.path)


def _refuse_overtaken(there: Remote) -> None:
    """A repository that was not there a moment ago holds what the Hub itself puts there, or somebody was quicker."""
    if there.files.keys() - {".gitattributes"}:
        raise PushConflict(
            "Somebody else has just made this repository, and pushed",
            where=there.id,
            todo="Look at what is there, and push again.",
        )
