"""Where styles lie: in folders, in the package, on the Hub and in its cache.

What is found is whole: both files come from one commit, and what the Hub names by its hash is compared with that hash.
What the Hub's client raises becomes an error of ours that says what to do.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import httpx, parse_ratelimit_headers

from . import __version__, card, weights
from .errors import (
    ConfigError,
    CorruptFileError,
    GatedRepo,
    HubUnavailable,
    NotAStyle,
    PushConflict,
    PushRefused,
    RepoError,
    RepoNotFound,
    RevisionNotFound,
    StyleforgeError,
    UnsafeFileError,
    nearest,
)

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
MAX_CONFIG_BYTES = 64 * 1024
BUNDLED = Path(__file__).with_name("styles")
DEFAULT_STYLE = "fastcut-impressionist"
_LITTER = (".tmp", ".part", ".incomplete")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class StyleFiles:
    """Where one style lies, and its configuration; weights and configuration come from one commit."""

    config: dict[str, Any]
    weights: Path
    where: str
    commit: str | None = None


def bundled_styles() -> list[str]:
    """Names of the styles that come with the package; first the one that is meant where none is named."""
    names = [path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_NAME}")]
    return sorted(names, key=lambda name: (name != DEFAULT_STYLE, name))


def style_of(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The folder of the style in that of a run; any other name as it is."""
    published = Path(name) / "style"
    return published if (published / CONFIG_NAME).is_file() and not (Path(name) / CONFIG_NAME).exists() else name


def without_style(name: str | os.PathLike[str]) -> bool:
    """Whether it is a folder here, of pictures perhaps, and neither a style nor a run with one."""
    return os.path.isdir(name) and not (Path(style_of(name)) / CONFIG_NAME).is_file()


def fetch(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = "",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    max_bytes: int | None = None,
) -> StyleFiles:
    """Find a style and its configuration; arguments as in :meth:`PretrainedMixin.from_pretrained`.

    `max_bytes` is the most that its weights on the Hub may have; larger ones are not downloaded (ConfigError).
    """
    subfolder = subfolder or ""
    inside = PureWindowsPath(subfolder)  # knows both kinds of slashes
    if ".." in inside.parts or inside.anchor:
        raise UnsafeFileError(
            "A subfolder must lie inside its repository", found=subfolder, todo="Name a plain folder."
        )
    if os.path.isdir(name):
        place = Path(name) / subfolder
        return local(place if (place / CONFIG_NAME).exists() else Path(style_of(name)) / subfolder, str(name))
    if str(name) in bundled_styles():
        return local(BUNDLED / str(name) / subfolder, str(name))
    if os.path.isfile(name):
        if Path(name).suffix.lower() in _PICKLES:
            raise _foreign_file(Path(name))
        raise NotAStyle(
            "A style is a folder, not a file",
            where=name,
            todo=f"Give the folder that holds {CONFIG_NAME}.",
        )
    repo = str(name)
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")) or not isinstance(name, str):
        raise RepoNotFound(
            "No such style",
            found=f"'{repo[:200]}', which is neither a folder here nor organisation/name on the Hub",
            allowed=f"the bundled {', '.join(bundled_styles()) or 'styles (none in this build)'}",
            todo=f"{nearest(repo, bundled_styles())}Check the spelling.",
        )
    options: dict[str, Any] = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    cached = functools.partial(cached_revisions, repo, subfolder=subfolder, cache_dir=cache_dir)
    with plain_errors(repo, revision, cached=cached):
        commit = HfApi().resolve_revision(repo, revision=revision, **options).resolved
    where = f"{repo}@{commit[:8]}" + (f"/{subfolder}" if subfolder else "")
    download = functools.partial(
        hf_hub_download,
        repo,
        subfolder=subfolder or None,
        revision=commit,
        force_download=force_download,
        **options,
    )
    missing = functools.partial(_not_a_style_there, where, repo, commit, subfolder, token)
    with plain_errors(repo, revision, missing=missing, cached=cached):
        config = Path(download(filename=CONFIG_NAME))
        if max_bytes is not None:
            _check_bytes(download(filename=WEIGHTS_NAME, dry_run=True).file_size, max_bytes, where)
        path = Path(download(filename=WEIGHTS_NAME))
        check_digest(config, where)
        check_digest(path, where)
        return StyleFiles(read_config(config, where), path, where, commit)


def _check_bytes(found: int | None, allowed: int, where: str) -> None:
    if found is None or found > allowed:
        raise ConfigError(
            "The weights of this style are larger than is allowed here",
            where=where,
            found="a size that the Hub does not tell" if found is None else f"{found / 1e6:.1f} MB",
            allowed=f"{allowed / 1e6:.1f}",
            todo="Allow more, or take a smaller style.",
        )


def cached_revisions(
    repo: str, *, subfolder: str = "", cache_dir: str | os.PathLike[str] | None = None
) -> Iterator[str]:
    """Commits of which the Hub's cache holds configuration and weights undamaged, newest first; nobody is asked."""
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=repo, repo_type="model")
    for snapshot in sorted(cache.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True):
        needed = [snapshot / subfolder / name for name in (CONFIG_NAME, WEIGHTS_NAME)]
        with suppress(OSError, CorruptFileError):
            for path in needed:
                check_digest(path, repo)
            if all(path.is_file() for path in needed):
                yield snapshot.name


def fetch_file(repo: str, filename: str, *, commit: str, digest: str, token: str | bool | None = None) -> Path:
    """One file of the Hub, or of its cache, that must be the one we know.

    Args:
        repo: `organisation/name`.
        filename: inside the repository.
        commit: of the repository.
        digest: SHA-256 of the file; when empty, what the Hub calls it counts.
        token: Hub token; the saved one when None.

    Raises:
        RepoError: not found, gated, or offline and not in the cache.
        CorruptFileError: it is another file.
    """
    with plain_errors(repo, commit):
        path = Path(hf_hub_download(repo, filename, revision=commit, token=token))
    check_digest(path, f"{filename} of {repo}", digest)
    return path


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a style folder to the Hub in one commit; the repository is made when it does not exist.

    A `README.md` that is already on the Hub is left alone: people edit it there.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        NotAStyle: the folder holds no style.
        PushRefused: no token, no right to write there, or `private` where everybody can read already.
        PushConflict: somebody else pushed in the meantime; nothing of this push arrives.
        HubUnavailable: network trouble.
    """
    folder = Path(folder)
    local(folder, str(folder))  # raises when it is not a style
    api = HfApi(token=token)
    there = make(api, repo_id, revision=revision, private=private, create_pr=create_pr)
    additions = [
        CommitOperationAdd(name, _at_home(path, there.id))
        for name, path in _publishable(folder)
        if not (name.endswith(CARD_NAME) and name in there.files)
    ]
    return send(api, there, additions, message=commit_message, revision=revision, create_pr=create_pr)[0]


@dataclass(frozen=True)
class Remote:
    """A repository on the Hub, at one commit.

    Attributes:
        id: `organisation/name`.
        commit: the head of a branch; None where there is no such repository yet.
        files: all that it holds, by path.
    """

    id: str
    commit: str | None = None
    files: dict[str, RepoFile] = field(default_factory=dict)


def look(api: HfApi, repo_id: str, *, revision: str | None, private: bool | None, create_pr: bool) -> Remote:
    """What a push would find, without changing anything.

    Raises:
        PushRefused: a pull request to another branch than main, or `private` where everybody can read.
        RevisionNotFound, GatedRepo, HubUnavailable: as everywhere.
    """
    if create_pr and revision not in (None, "main"):
        raise PushRefused(
            "A pull request goes to the main branch",
            where=repo_id,
            found=f"create_pr=True with revision={revision!r}",
            todo="Leave out one of the two.",
        )
    with plain_errors(repo_id, revision, purpose="push"):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        try:
            info = api.repo_info(repo_id, revision=revision)
        except hub_errors.GatedRepoError:
            raise
        except hub_errors.RepositoryNotFoundError:
            if revision not in (None, "main"):
                raise RevisionNotFound(
                    "A new repository has no other branch than main",
                    where=repo_id,
                    found=revision,
                    todo="Push to main first, and make the branch on the Hub.",
                ) from None
            return Remote(repo_id)
        if private and not info.private:
            raise PushRefused(
                "This repository is public",
                where=repo_id,
                found="private=True",
                todo="Make it private on its page on the Hub, or push without private=True.",
            )
        entries = api.list_repo_tree(repo_id, recursive=True, revision=info.sha)
        return Remote(info.id, info.sha, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)})


def make(api: HfApi, repo_id: str, *, revision: str | None, private: bool | None, create_pr: bool) -> Remote:
    """:func:`look` at a repository, made first where there is none.

    Raises:
        PushRefused: no token, no right to make it, or as for :func:`look`.
    """
    there = look(api, repo_id, revision=revision, private=private, create_pr=create_pr)
    if there.commit is not None:
        return there
    with plain_errors(repo_id, revision, purpose="push"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return look(api, repo_id, revision=revision, private=private, create_pr=create_pr)


def send(
    api: HfApi,
    there: Remote,
    operations: Iterable[CommitOperationAdd | CommitOperationDelete],
    *,
    message: str | None,
    revision: str | None,
    create_pr: bool,
) -> tuple[str, str]:
    """Change a repository in one commit, all or nothing, if nobody has changed it since it was looked at.

    Returns:
        The address of the commit, or of the pull request; and the commit.

    Raises:
        PushConflict: somebody else pushed in the meantime; nothing of this push arrives.
        PushRefused, HubUnavailable: as for :func:`push_folder`.
    """
    with plain_errors(there.id, revision, purpose="push"):
        done = api.create_commit(
            there.id,
            operations,
            commit_message=message or f"Upload style with styleforge {__version__}",
            revision=revision,
            create_pr=create_pr,
            parent_commit=there.commit,
        )
        return done.pr_url or done.commit_url, done.oid


def _at_home(path: Path, repo_id: str) -> Path | bytes:
    """A file to upload; a card that did not know yet where it would live now does."""
    if path.name != CARD_NAME:
        return path
    return path.read_text(encoding="utf-8").replace(card.SOMEWHERE, repo_id).encode()


def _publishable(folder: Path) -> list[tuple[str, Path]]:
    """Names in the repository and paths of what belongs to a style: no hidden or unfinished files, no pickles."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return [
        (name, path)
        for name, path in files.items()
        if not any(part.startswith(".") for part in name.split("/"))
        and path.suffix.lower() not in (*_PICKLES, *_LITTER)
    ]


def local(folder: Path, where: str) -> StyleFiles:
    """The style in a folder; `where` is how messages call it.

    Raises:
        RepoNotFound, NotAStyle, UnsafeFileError: there is none.
        ConfigError, CorruptFileError: its configuration cannot be used.
    """
    if not folder.is_dir():
        raise RepoNotFound("No such folder", where=folder, todo="Check the path and the subfolder.")
    if not (folder / CONFIG_NAME).is_file() or not (folder / WEIGHTS_NAME).is_file():
        raise _not_a_style(where, [p.name for p in folder.iterdir()])
    return StyleFiles(read_config(folder / CONFIG_NAME, where), folder / WEIGHTS_NAME, where)


def read_config(path: Path, where: str) -> dict[str, Any]:
    """A `config.json`, of whomever.

    Raises:
        ConfigError, CorruptFileError: too large, damaged, or no table.
    """
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{CONFIG_NAME} is too large",
            where=where,
            found=f"{size} bytes",
            allowed=f"up to {MAX_CONFIG_BYTES}",
            todo="This is not a configuration of styleforge.",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=weights.unique_keys)
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON, bad UTF-8 and a key that stands twice
        raise CorruptFileError(
            f"{CONFIG_NAME} is not JSON",
            where=where,
            found=error,
            todo="Download it again (force_download=True), or ask its author.",
        ) from error
    if not isinstance(config, dict):
        raise CorruptFileError(
            f"{CONFIG_NAME} is not a table of settings",
            where=where,
            found=type(config).__name__,
            todo="Ask its author.",
        )
    return config


def check_digest(path: Path, where: str, expected: str = "") -> None:
    """Compare a file of the Hub's cache with its SHA-256, or with its name there, which is a hash of what it holds.

    The Hub's client compares sizes only, so a flipped bit or a cut file would stay in the cache for good.

    Raises:
        CorruptFileError: it is another file.
        OSError: there is no such file.
    """
    # One link only: the next may lead to a store of many repositories, which names its files otherwise.
    expected = expected or (Path(os.readlink(path)).name if path.is_symlink() else "")
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):  # a cache without links
        return
    found = blob_name(path, len(expected))
    if found != expected:
        raise CorruptFileError(
            f"{path.name} was damaged on its way, or in the cache",
            where=where,
            found=f"{'SHA-256' if len(expected) == 64 else 'git hash'} {found[:8]}...",
            allowed=f"{expected[:8]}...",
            todo="Download it again (force_download=True).",
        )


def blob_name(path: Path, digits: int) -> str:
    """What the Hub calls a file: its SHA-256 where it lies in the large storage (64 digits), else git's hash (40)."""
    with open(path, "rb") as file:
        if digits == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        header = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: header).hexdigest()


def _foreign_file(path: Path | str) -> UnsafeFileError:
    return UnsafeFileError(
        "Pickle files can run code and are not loaded",
        where=path,
        allowed=f"a folder with {CONFIG_NAME} and {WEIGHTS_NAME}",
        todo="Ask its author for safetensors.",
    )


def _not_a_style(where: str, files: Iterable[str]) -> RepoError | UnsafeFileError:
    """The error for a place without our two files, after a look at what is there instead."""
    files = sorted(files)
    pickles = [file for file in files if file.lower().endswith(_PICKLES)]
    if WEIGHTS_NAME not in files and pickles:
        return _foreign_file(f"{where}: {pickles[0]}")
    return NotAStyle(
        "This is not a styleforge style",
        where=where,
        found=", ".join(files[:6]) or "no files",
        allowed=f"a place with {CONFIG_NAME} and {WEIGHTS_NAME}",
        todo="Check the name, or the subfolder.",
    )


def _not_a_style_there(where: str, repo: str, commit: str, subfolder: str, token: str | bool | None) -> Exception:
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    try:
        files = HfApi().list_repo_files(repo, revision=commit, token=token)
    except Exception:  # only used to explain another error
        files = []
    return _not_a_style(where, [file.removeprefix(prefix) for file in files if file.startswith(prefix)])


Purpose = Literal["load", "list", "push"]
_TROUBLE = (
    httpx.HTTPError,
    OSError,
    ValueError,
    RuntimeError,
    hub_errors.EntryNotFoundError,
    hub_errors.RevisionResolutionError,
)


@contextmanager
def plain_errors(
    repo: str,
    revision: str | None,
    *,
    missing: Callable[[], Exception] | None = None,
    cached: Callable[[], Iterator[str]] | None = None,
    purpose: Purpose = "load",
) -> Iterator[None]:
    """Turn what the Hub's client raises into our tree, in plain words.

    Args:
        repo: that is asked for.
        revision: of it.
        missing: makes the error for a file that the repository does not have.
        cached: what could be used while the Hub cannot be reached.
        purpose: why it is asked.
    """
    try:
        yield
    except StyleforgeError:
        raise
    except _TROUBLE as error:
        # Of a large file that did not arrive the client says so, and names the reason as the cause.
        reason = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, _TROUBLE) else error
        if found := _of_any_purpose(reason, repo, revision):
            raise found from reason
        if purpose == "push":
            raise _not_pushed(reason, repo) from reason
        raise _not_loaded(reason, repo, missing, cached, purpose) from reason


def _of_any_purpose(error: BaseException, repo: str, revision: str | None) -> RepoError | None:
    if _status(error) == 429:
        return _wait(repo, error)
    if isinstance(error, hub_errors.GatedRepoError):
        return GatedRepo(
            "This repository asks for permission",
            where=repo,
            todo="Accept its terms on its page on the Hub and pass token=, or log in with `hf auth login`.",
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return RevisionNotFound(
            "No such revision",
            where=repo,
            found=repr(revision),
            todo="Look at its branches, tags and commits on the Hub.",
        )
    if isinstance(error, hub_errors.HFValidationError):
        return RepoNotFound("This is no name of a repository", where=repo, found=error, todo="Check the name.")
    return None


def _not_loaded(
    error: BaseException,
    repo: str,
    missing: Callable[[], Exception] | None,
    cached: Callable[[], Iterator[str]] | None,
    purpose: Purpose,
) -> Exception:
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return RepoNotFound(
            "No such repository on the Hub",
            where=repo,
            todo=f"{nearest(repo, bundled_styles())}Check the name; a private one needs token= or `hf auth login`.",
        )
    if missing and isinstance(error, hub_errors.RemoteEntryNotFoundError):
        return missing()
    if _status(error) in (401, 403):
        return GatedRepo(
            "The Hub refuses access to this repository",
            where=repo,
            found=first_line(error),
            todo="Check the token: `hf auth whoami`.",
        )
    if isinstance(error, ValueError):  # the client: arguments that exclude each other, or a forced download that failed
        error = error.__cause__ or error
    return _unavailable(error, repo, purpose, cached)


def _not_pushed(error: BaseException, repo: str) -> RepoError:
    status = _status(error)
    if status == 412:
        return PushConflict(
            "Somebody else has pushed to this repository in the meantime",
            where=repo,
            todo="Look at what changed on the Hub, and push again.",
        )
    if isinstance(error, (ValueError, hub_errors.LocalTokenNotFoundError)) or status in (401, 403, 404, 409):
        todo = "Log in with `hf auth login` (a token with write access) and check that the name is yours."
        if status == 401 and not isinstance(error, hub_errors.RepositoryNotFoundError):
            todo = "The token may have expired: make one with write access and log in with `hf auth login`."
        if status == 403:
            todo += " What belongs to others can be proposed: create_pr=True, or --create-pr."
        return PushRefused("The Hub refused the push", where=repo, found=first_line(error), todo=todo)
    return _unavailable(error, repo, "push")


def first_line(error: BaseException) -> str:
    """What an error says, in one line; two where the first only announces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _answer(error: BaseException | None) -> Any:
    """What the Hub answered, if it did."""
    return getattr(error, "response", None) or getattr(getattr(error, "__cause__", None), "response", None)


def _status(error: BaseException) -> int | None:
    return getattr(_answer(error), "status_code", None)


def _wait(repo: str, error: BaseException) -> HubUnavailable:
    headers = _answer(error).headers
    limit = parse_ratelimit_headers(headers)
    seconds = limit.reset_in_seconds if limit else headers.get("Retry-After", "")
    return HubUnavailable(
        "The Hub asks to wait: too many requests from here",
        where=repo,
        todo=f"Try again in {f'{seconds} seconds' if seconds else 'some minutes'}; logged in, more are allowed.",
    )


def _unavailable(
    error: BaseException, repo: str, purpose: Purpose, cached: Callable[[], Iterator[str]] | None = None
) -> HubUnavailable:
    what, todo = "The Hub cannot be reached", "Check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), "
    if purpose != "load":
        todo += f"and {purpose} again."
    elif cached and (whole := next(cached(), None)):
        todo += f"or use what the cache holds whole: revision='{whole}'."
    else:
        what += " and the cache does not hold this style"
        todo += f"or use a bundled style: {', '.join(bundled_styles()) or 'none in this build'}."
    return HubUnavailable(what, where=repo, found=first_line(error), todo=todo)
