"""Which styles there are: in the package, in the cache of the Hub on this machine, and on the Hub."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from huggingface_hub import CachedRepoInfo, CacheNotFound, HfApi, ModelInfo, constants, get_session, scan_cache_dir

from . import repos
from .errors import StyleforgeError
from .models import PretrainedMixin
from .repos import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    WEIGHTS_NAME,
    bundled_styles,
    check_digest,
    first_line,
    local,
    plain_errors,
    read_config,
)
from .weights import DTYPES

TAG = "styleforge"  # of every card that we write
MARK = b"_styleforge_version"  # of every configuration that we write
PATIENCE = 5.0  # seconds that the Hub has to answer at all; its client would try for 23
MOST = 200  # of the Hub's, newest first


@dataclass(frozen=True)
class StyleRow:
    """One style.

    Attributes:
        name: what `from_pretrained` takes.
        architecture: class of its network; None when it is not told, or none of ours.
        bytes: of its weights: of the file, on the Hub of the tensors, which is some kB less; None when not told.
        where: it was found.
        commit: that is there; None for bundled ones.
    """

    name: str
    architecture: str | None
    bytes: int | None
    where: Literal["bundled", "cache", "hub"]
    commit: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


class StyleList(list[StyleRow]):
    """Styles, and in words what could not be listed.

    Attributes:
        missing: one sentence for each place that could not be looked at, and each style that is damaged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[str] = []


def styles(
    search: str | None = None,
    *,
    hub: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> StyleList:
    """List the styles at hand: the bundled ones, those in the cache and, if wanted, those on the Hub.

    Without `hub` nobody is asked. A style on the Hub that the cache holds at the same commit is listed once; one of
    which the Hub has another commit, twice.

    Args:
        search: text that the name holds, in letters of any case.
        hub: ask the Hub as well; if it does not answer, `missing` says so.
        token: Hub token; the saved one when None.
        cache_dir: Hub cache; the usual one when None.
    """
    found = StyleList()
    found += [row for row in _bundled() if _matches(row, search)]
    found += [row for row in _cached(cache_dir, found.missing) if _matches(row, search)]
    if hub:
        cached = {(row.name, row.commit) for row in found}
        try:
            found += [row for row in _on_the_hub(search, token) if (row.name, row.commit) not in cached]
        except StyleforgeError as error:
            found.missing.append(str(error))
    return found


def _matches(row: StyleRow, search: str | None) -> bool:
    return (search or "").lower() in row.name.lower()


def _bundled() -> Iterator[StyleRow]:
    for name in bundled_styles():
        files = local(repos.BUNDLED / name, name)
        yield StyleRow(name, files.config.get("_class_name"), files.weights.stat().st_size, "bundled")


def _cached(cache_dir: str | os.PathLike[str] | None, missing: list[str]) -> Iterator[StyleRow]:
    try:
        cached = scan_cache_dir(cache_dir or constants.HF_HUB_CACHE).repos
    except CacheNotFound:  # nothing was ever downloaded
        return
    except (ValueError, OSError) as error:  # a file, or not ours to read
        missing.append(f"The cache of the Hub cannot be looked at: {first_line(error)}")
        return
    for repo in sorted(cached, key=lambda repo: repo.repo_id):
        if repo.repo_type == "model":
            try:
                yield from _cached_style(repo)
            except StyleforgeError as error:
                missing.append(str(error))


def _cached_style(repo: CachedRepoInfo) -> Iterator[StyleRow]:
    """The revision of a cached repository that would be used offline: `main`, or the newest that is whole."""
    by_age = sorted(
        repo.revisions, key=lambda revision: ("main" in revision.refs, revision.last_modified), reverse=True
    )
    for revision in by_age:
        files = {file.file_path.relative_to(revision.snapshot_path).as_posix(): file for file in revision.files}
        if not {CONFIG_NAME, WEIGHTS_NAME} <= files.keys():
            continue
        path, where = files[CONFIG_NAME].file_path, f"{repo.repo_id}@{revision.commit_hash[:8]}"
        if files[CONFIG_NAME].size_on_disk > MAX_CONFIG_BYTES or MARK not in path.read_bytes():
            return  # another kind of model
        check_digest(path, where)
        name, size = read_config(path, where).get("_class_name"), files[WEIGHTS_NAME].size_on_disk
        yield StyleRow(repo.repo_id, _known([str(name)]), size, "cache", revision.commit_hash)
        return


def _on_the_hub(search: str | None, token: str | bool | None) -> Iterator[StyleRow]:
    api = HfApi(token=token)
    with plain_errors("its styles", None, purpose="list"):
        get_session().head(api.endpoint, timeout=PATIENCE)
        expand = ["sha", "tags", "safetensors"]
        for info in api.list_models(filter=TAG, search=search, sort="last_modified", limit=MOST, expand=expand):
            yield StyleRow(info.id, _known(info.tags or []), _bytes(info), "hub", info.sha)


def _known(names: Iterable[str]) -> str | None:
    """The class among words of strangers, which may hold anything, as what a terminal obeys."""
    return next((name for name in names if name in PretrainedMixin.architectures), None)


def _bytes(info: ModelInfo) -> int | None:
    counts = info.safetensors.parameters if info.safetensors else {}
    if not counts or not counts.keys() <= DTYPES.keys():
        return None
    return sum(math.ceil(count * DTYPES[kind].itemsize) for kind, count in counts.items())
