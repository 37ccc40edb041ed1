"""What is wrong with folders of pictures, before anything is trained on them.

Near-identical pictures are found in two steps. The signs of the lowest frequencies of a thumbnail (the perceptual hash
pHash, with 0 for its median) name candidates, in all eight orientations. Then the two thumbnails are compared, one of
them cut by up to a tenth: by their hashes alone, any two dark hills below a bright sky are one picture.

Of 135 photographs and paintings all copies were found that were re-encoded, reduced to an eighth, brighter, gray or
turned; 99 % of those cut by 5 % of each side, 92 % at 8 %, 67 % at 10 %; a third of those with a white label on 3 % of
the picture. Of 671 different ones none was taken for another: the nearest two have a similarity of .78.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import images
from .data import ROTTEN_SHARE, list_pictures, picture_name
from .errors import ImageError

HARMFUL = ("rotten", "duplicate", "near", "leak", "uniform")
REMARKS = ("tiny", "narrow", "gray")

THUMB, CELLS = 32, 16  # side of the thumbnails, and of the grid on which two of them are compared
CUT = 4  # fortieths of a side that may be cut off
BITS, SAME = 16, 0.85  # so many of 63 bits may differ; and from this similarity on, two pictures are one
NARROW = 3.0  # width / height or its inverse
UNIFORM = 4.0  # standard deviation of the pixels, of 255
GRAY = 4.0  # largest difference between the channels of a thumbnail, of 255

EXPECTED = (
    (1000, "as many as papers train with"),
    (300, "enough for cyclegan, cut and their like, best with --augment color,translation"),
    (50, "few: train with --augment color,translation,cutout, or adapt a style that is there"),
    (0, "too few for a GAN, which learns them by heart; as pictures of a style they do for fast_style and adain"),
)


@dataclass(frozen=True)
class Row:
    """One thing about one picture.

    Attributes:
        file: the picture.
        kind: one of :data:`HARMFUL` or :data:`REMARKS`.
        sentence: what there is, to be read after the name of the file.
        related: the other picture, where it takes two.
    """

    file: Path
    kind: str
    sentence: str
    related: Path | None = None


@dataclass(frozen=True)
class Report:
    """What :func:`check` found.

    Attributes:
        rows: by kind, and then in the order of the pictures.
        summary: a line for each folder, with what to expect of so many pictures, and lines on all of them.
    """

    rows: list[Row]
    summary: str

    @property
    def ok(self) -> bool:
        """Whether nothing harmful was found; remarks are worth a look."""
        return not any(row.kind in HARMFUL for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values; paths as text."""
        rows = [
            {"file": str(r.file), "kind": r.kind, "sentence": r.sentence, "related": r.related and str(r.related)}
            for r in self.rows
        ]
        return {"ok": self.ok, "summary": self.summary, "rows": rows}


@dataclass(frozen=True)
class _Look:
    """What is kept of a picture."""

    width: int
    height: int
    digest: bytes
    deviation: float
    chroma: float
    thumb: Tensor  # luma, (THUMB, THUMB) uint8


def check(
    folders: Sequence[str | os.PathLike[str]],
    *,
    size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at every picture of some folders.

    Args:
        folders: that belong together: source and target, training and test. A picture that is in two of them is a
            leak, unless they are pairs (most names in common): then those of one name may be alike, but not the same.
        size: side of the squares to train with.
        progress: called after each picture: how many are done, of how many.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    places: dict[Path, set[int]] = {}
    for number, folder in enumerate(folders):
        for file in list_pictures(folder):
            places.setdefault(file, set()).add(number)
    looks: dict[Path, _Look] = {}
    rows: list[Row] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, closing(pool.map(_look, places)) as found:
        for done, (file, look) in enumerate(zip(places, found, strict=True), 1):
            if isinstance(look, ImageError):
                rows.append(Row(file, "rotten", f"cannot be used: {look}"))
            else:
                looks[file] = look
            if progress:
                progress(done, len(places))
    for file in looks:
        if len(places[file]) > 1:
            rows.append(Row(file, "leak", f"is in {' and in '.join(str(folders[n]) for n in sorted(places[file]))}"))
    rows += [*_oddities(looks, places, size), *_doubles(looks, places, _pairs(places, folders))]
    order, kinds = {file: n for n, file in enumerate(places)}, (*HARMFUL, *REMARKS)
    rows.sort(key=lambda row: (kinds.index(row.kind), order[row.file]))
    return Report(rows, "\n".join(_summary(folders, places, rows)))


def _look(file: Path) -> _Look | ImageError:
    try:
        rgb = np.ascontiguousarray(images.to_8_bit(images.read(file).on_white().rgb))
    except ImageError as error:
        return error
    height, width, _ = rgb.shape
    thumb = Image.fromarray(rgb).resize((THUMB, THUMB), Image.Resampling.BOX)
    step = max(1, min(height, width) // 256)
    return _Look(
        width,
        height,
        hashlib.sha256(rgb).digest() + width.to_bytes(4),
        float(rgb[::step, ::step].std((0, 1), dtype=np.float32).max()),
        float(np.ptp(np.asarray(thumb), axis=2).max()),
        torch.from_numpy(np.array(thumb.convert("L"))),
    )


def _oddities(looks: Mapping[Path, _Look], places: Mapping[Path, set[int]], size: int) -> Iterator[Row]:
    """What is wrong with single pictures."""
    readable = Counter(number for file in looks for number in places[file])
    colored = Counter(number for file, look in looks.items() if look.chroma > GRAY for number in places[file])
    for file, look in looks.items():
        short, long = sorted((look.width, look.height))
        if look.deviation < UNIFORM:
            yield Row(file, "uniform", f"is almost of one color (standard deviation {look.deviation:.1f} of 255)")
        if short < size:
            yield Row(file, "tiny", f"has {short} pixels on its short side, which are enlarged to {size}")
        if long > NARROW * short:
            yield Row(file, "narrow", f"is {long / short:.1f} times as long as wide: a square sees {short / long:.0%}")
        if look.chroma <= GRAY and any(2 * colored[number] > readable[number] for number in places[file]):
            yield Row(file, "gray", "is gray, and most pictures of its folder are not")


def _pairs(places: Mapping[Path, set[int]], folders: Sequence[str | os.PathLike[str]]) -> set[frozenset[Path]]:
    """Files of one name, in folders that have most of their names in common."""
    named: list[dict[str, Path]] = [{} for _ in folders]
    for file, numbers in places.items():
        for number in numbers:
            named[number][picture_name(file, Path(folders[number]))] = file
    return {
        frozenset((a[name], b[name]))
        for a, b in combinations(named, 2)
        if 2 * len(common := a.keys() & b.keys()) > max(len(a), len(b))
        for name in common
    }


def _doubles(
    looks: Mapping[Path, _Look], places: Mapping[Path, set[int]], pairs: set[frozenset[Path]]
) -> Iterator[Row]:
    """Pictures that are there already: of each kind, the one that is most alike."""
    first: dict[bytes, Path] = {}
    for file, look in looks.items():
        if (other := first.setdefault(look.digest, file)) != file:
            kind = "duplicate" if places[file] & places[other] else "leak"
            yield Row(file, kind, f"is the same picture as {other}", other)
    different = [file for file in first.values() if looks[file].deviation >= UNIFORM]
    best: dict[tuple[Path, str], tuple[float, Row]] = {}
    for i, j, turn, similarity in _similar([looks[file].thumb for file in different]):
        other, file = different[i], different[j]
        if frozenset((file, other)) in pairs:
            continue
        kind = "near" if places[file] & places[other] else "leak"
        if similarity > best.get((file, kind), (0.0,))[0]:
            turned = (["mirrored"] if turn % 2 else []) + ([f"turned by {turn // 2 * 90} degrees"] if turn > 1 else [])
            how = f", {' and '.join(turned)}" if turned else ""
            sentence = f"is nearly the same picture as {other}{how} (similarity {similarity:.2f})"
            best[file, kind] = similarity, Row(file, kind, sentence, other)
    yield from (row for _, row in best.values())


def _similar(thumbs: Sequence[Tensor]) -> Iterator[tuple[int, int, int, float]]:
    """Indices i < j of pictures that are nearly the same when j is turned, the turn, and their similarity up to 1."""
    if not thumbs:
        return
    stack, count = torch.stack(list(thumbs)), len(thumbs)
    signs, block = _signs(stack), 2**24 // count + 1  # some 64 MB of products
    for turn in range(8):
        turned = (stack.flip(-1) if turn % 2 else stack).rot90(turn // 2, (-2, -1))
        others = _signs(turned)
        for begin in range(0, count, block):
            agreeing = signs[begin : begin + block] @ others[begin:].T >= signs.shape[1] - 2 * BITS
            for i, j in zip(*((begin + at).split(32) for at in agreeing.triu(1).nonzero().unbind(1)), strict=True):
                similarity = torch.maximum(_similarity(stack[i], turned[j]), _similarity(turned[j], stack[i]))
                for k in (similarity >= SAME).nonzero().flatten().tolist():
                    yield int(i[k]), int(j[k]), turn, float(similarity[k])


def _signs(thumbs: Tensor) -> Tensor:
    """Of the 63 lowest frequencies of (N, THUMB, THUMB), without their mean: (N, 63), each 1 or -1."""
    waves = torch.cos(torch.pi / THUMB * torch.arange(8)[:, None] * (torch.arange(THUMB) + 0.5))
    return torch.cat([(waves @ some.float() @ waves.T).flatten(1)[:, 1:].sign() for some in thumbs.split(4096)])


def _similarity(cut: Tensor, whole: Tensor) -> Tensor:
    """How much the best cuts of some thumbnails resemble others, pair by pair: (N, THUMB, THUMB) each to (N,).

    Compared is what differs from its surroundings; light and dark parts that most pictures share say nothing.
    """
    windows = _windows()
    cuts = _details(torch.einsum("wir,nrc,vjc->nwvij", windows, cut.float(), windows))
    wholes = _details(torch.einsum("ir,nrc,jc->nij", windows[0], whole.float(), windows[0]))
    return torch.einsum("nwvij,nij->nwv", cuts, wholes).flatten(1).amax(1)


@cache
def _windows() -> Tensor:
    """How much the cells of each cut take of each row of a thumbnail: (cuts, CELLS, THUMB), the first of all of it."""
    ends = torch.tensor([(a, 40 - b) for a in range(CUT + 1) for b in range(CUT + 1 - a)]) * THUMB / 40
    edges = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * torch.linspace(0, 1, CELLS + 1)
    return (edges[..., None] - torch.arange(THUMB)).clamp(0, 1).diff(dim=1)


def _details(grids: Tensor) -> Tensor:
    """(..., CELLS, CELLS) without the means of 5 x 5 cells around each, and of norm 1."""
    planes = grids.reshape(-1, 1, CELLS, CELLS)
    planes = planes - F.avg_pool2d(planes, 5, 1, 2, count_include_pad=False)
    return F.normalize(planes.flatten(1)).view_as(grids)


def _summary(
    folders: Sequence[str | os.PathLike[str]], places: Mapping[Path, set[int]], rows: Sequence[Row]
) -> Iterator[str]:
    harmed = {row.file for row in rows if row.kind in HARMFUL and row.kind != "leak"}
    rotten = Counter(number for row in rows if row.kind == "rotten" for number in places[row.file])
    useless = Counter(number for file in harmed for number in places[file])
    counts = Counter(number for numbers in places.values() for number in numbers)
    useful = [counts[number] - useless[number] for number in range(len(folders))]
    for number, folder in enumerate(folders):
        expected = next(words for least, words in EXPECTED if useful[number] >= least)
        yield f"{folder}: {counts[number]} pictures, {useful[number]} of use; {expected}."
        if rotten[number] > ROTTEN_SHARE * counts[number]:
            yield f"{folder}: more than {ROTTEN_SHARE:.0%} cannot be used; training refuses that."
    if len(folders) == 2 and max(useful) >= 3 * min(useful) > 0:
        times = max(useful) / min(useful)
        yield f"While the pictures of the larger folder come once, those of the smaller one come {times:.0f} times."
    kinds = Counter(row.kind for row in rows)
    yield f"Found: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}." if rows else "Nothing wrong was found."
