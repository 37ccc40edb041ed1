"""Which family a file is of, and what is wrong when it is of none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from torch import Tensor

from ..errors import UnknownName, WeightsMismatch, nearest
from . import adain, animegan, attention, cut, dcgan, huggan, junyanz, microast, stylegan2, transformer, ugatit
from .family import Family, Fit, Shape, Shapes, fit, shapes_of

# In the order in which they are tried.
FAMILIES: tuple[Family, ...] = (
    junyanz.Resnet(),
    cut.CutResnet(),
    huggan.HugganResnet(),
    junyanz.UNet(),
    huggan.HugganUNet(),
    ugatit.Generator(),
    animegan.Generator(),
    transformer.Transformer(),
    dcgan.Generator(),
    dcgan.HugganGenerator(),
    dcgan.DenseGenerator(),
    stylegan2.Generator(),
    junyanz.Patch(),
    junyanz.Pixel(),
    cut.CutPatch(),
    cut.Heads(),
    huggan.HugganPatch(),
    ugatit.Discriminator(),
    dcgan.Discriminator(),
    dcgan.HugganDiscriminator(),
    stylegan2.Discriminator(),
    adain.Decoder(),
    adain.Encoder(),
    attention.Transform(),
    attention.AdaTransform(),
    attention.AdaLayer(),
    attention.AdaDecoder(),
    microast.MicroEncoder(),
    microast.MicroModulator(),
    microast.MicroDecoder(),
)
ROWS = 12  # of a difference
COLUMN = 56
ALIKE = 0.5  # below it two sets of names have nothing to do with each other


def recognize(tensors: dict[str, Tensor], where: object, families: Sequence[Family] = FAMILIES) -> Fit:
    """The family that a network's names and shapes fit exactly.

    Args:
        tensors: of one network, without prefixes.
        where: file and network, for the error.
        families: that it may be of.

    Raises:
        WeightsMismatch: it fits none; the nearest one is named, and the differences are shown.
    """
    found = closest(shapes_of(tensors), families)
    if found is None or not found.exact:
        raise _unknown(found, shapes_of(tensors), where)
    _check_constants(found, tensors, where)
    return found


def closest(shapes: Shapes, families: Iterable[Family] = FAMILIES) -> Fit | None:
    """The family that names and shapes fit, or else the one they fit best; None when nothing agrees."""
    fits = []
    for family in families:
        found = fit(family, shapes)
        if found is not None and found.exact:
            return found
        fits.append(found or replace(_example(family), shapes=shapes))
    return max((f for f in fits if f.likeness > 0), key=lambda f: f.likeness, default=None)


@cache
def _example(family: Family) -> Fit:
    return fit(family, {}, family.example)


def is_near(tensors: dict[str, Tensor], families: Iterable[Family] = FAMILIES) -> bool:
    """Whether most names and shapes are those of a family."""
    found = closest(shapes_of(tensors), families)
    return found is not None and found.likeness > ALIKE


def find_family(name: str) -> Family:
    """The family of a name.

    Raises:
        UnknownName: there is none; the nearest one is named.
    """
    names = {family.name: family for family in FAMILIES}
    if name not in names:
        raise UnknownName(
            "Unknown family",
            found=repr(name),
            allowed=", ".join(names),
            todo=f"{nearest(name, names)}Leave it out: files are recognised by themselves.",
        )
    return names[name]


def difference(found: Fit) -> str:
    """What a file holds and what a network of the family would, where they differ, in two columns."""
    rows = [("-", _line(key, found.expected[key])) for key in found.missing]
    rows += [(_line(key, found.shapes[key]), "-") for key in found.unexpected]
    wanted = {**found.expected, **{key: tuple(t.shape) for key, t in found.constants.items()}}
    rows = [(_line(key, found.shapes[key]), _line(key, wanted[key])) for key in found.misshapen] + rows
    more = len(rows) - ROWS
    rows = [("this file", found.family.name), *rows[:ROWS]]
    width = max(len(left) for left, _ in rows)
    lines = [f"  {left:<{width}}  {right}" for left, right in rows]
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])


def _unknown(found: Fit | None, shapes: Shapes, where: object) -> WeightsMismatch:
    if found is None:
        some = ", ".join(plain(key, 40) for key in list(shapes)[:4])
        return WeightsMismatch(
            "No family of networks that we know has any of these tensors",
            where=where,
            found=f"{len(shapes)} tensors ({some}{', ...' if len(shapes) > 4 else ''})",
            allowed=", ".join(family.name for family in FAMILIES),
            todo="If it is one of these in other names, rename its tensors as the project has them.",
        )
    what = "This is nearly" if found.likeness > ALIKE else "No family fits; the nearest is"
    return WeightsMismatch(
        f"{what} {found.family.name} of {found.family.project}",
        where=where,
        found=f"{len(found.missing)} tensors missing, {len(found.unexpected)} unexpected, "
        f"{len(found.misshapen)} of another shape",
        todo=f"Get the file as the project saved it. Where they differ:\n{difference(found)}",
    )


def _check_constants(found: Fit, tensors: dict[str, Tensor], where: object) -> None:
    """A stored filter must be the one that ours computes."""
    for key, wanted in found.constants.items():
        if key in tensors and not tensors[key].float().allclose(wanted, rtol=1e-3, atol=1e-4):
            raise WeightsMismatch(
                f"A filter of {found.family.name} is not the usual one",
                where=where,
                found=f"{plain(key)} beginning with {tensors[key].flatten()[:4].tolist()}",
                allowed=f"{wanted.flatten()[:4].tolist()}",
                todo="Ours has no other filter; such a network cannot be converted.",
            )


def _line(key: str, shape: Shape) -> str:
    return f"{plain(key)} {shape}"[:COLUMN]


def plain(text: str, length: int = 40) -> str:
    """A stranger's name, on one line and not too long, without what a terminal or a page takes for a command."""
    text = re.sub(r"[^\x20-\x7e]|[`<>|]", "?", text)
    return text if len(text) <= length else f"{text[: length - 3]}..."
