"""Checkpoints of other projects as styles of this one.

:mod:`.reading` reads a stranger's file without running what it says, and :mod:`.unwrap` finds the networks in it.
Each of the other modules knows the networks of one project; :mod:`.recognize` tries them all, by names and shapes
alone. :mod:`.wholes` puts together what projects save in parts, and :mod:`.training` keeps discriminators.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .. import weights
from ..card import known_license
from ..errors import ConfigError, CorruptFileError, NotAStyle, WeightsMismatch
from ..files import new_or_empty, replacing_folder, write_text
from ..hub import CARD_NAME, CONFIG_NAME, PretrainedMixin
from ..layers import BatchNorm
from .family import Family, Fit, Statistics, Tensors
from .reading import Checkpoint, read_checkpoint
from .recognize import FAMILIES, find_family, is_near, plain, recognize
from .stylegan2 import MEAN
from .training import Plan, plan, write_training
from .unwrap import unwrap
from .wholes import WHOLES, assemble, lacking, whole_of

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".model", ".safetensors")
MAX_FILES = 16
REVERSE = "reverse"
STATISTICS = {"running": "running statistics", "batch": "statistics of the picture"}
ORIGIN = "_converted_from"  # in config.json; what begins with "_" is no argument

__all__ = ["FAMILIES", "WHOLES", "Converted", "convert_checkpoint"]


@dataclass(frozen=True)
class Converted:
    """What became of a checkpoint.

    Attributes:
        networks: by role: "generator", "generator_b" for the way back, "discriminator" and so on, in float32 and
            evaluation mode. Parts of a whole that is not complete are under roles of their own.
        family: what it was recognised as.
        config: class and arguments of the first network.
        provenance: SHA-256 by the name of each source file; family, project and the licence that was given.
        notes: what a user must know.
        name: title of its card.
        training: how its other networks can be trained on; None when there are none, or no method has such.
    """

    networks: dict[str, nn.Module]
    family: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    name: str | None = None
    training: Plan | None = None

    def save(self, output: str | os.PathLike[str]) -> Path:
        """Write a folder that `from_pretrained` reads; all of it or nothing.

        The way back goes into `reverse/`. Discriminators go into `training/` where a method of ours has the same;
        where none has, the card says so. A discriminator alone becomes a folder of its own.

        Args:
            output: the folder; new, or empty.

        Raises:
            ConfigError: the folder holds something.
            NotAStyle: this is only a part of a network, or several and no generator.
        """
        main, *others = self.networks.values()
        if not isinstance(main, PretrainedMixin) or ("generator" not in self.networks and others):
            raise NotAStyle(
                "There is no whole style in it",
                where=", ".join(self.provenance["files"]),
                found=", ".join(self.networks),
                todo=" ".join(self.notes) or "Say which one to take: network=, or --network.",
            )
        folder = new_or_empty(output)
        with replacing_folder(folder, last=(CONFIG_NAME,)) as temporary:
            self._write(main, temporary, "")
            if "generator_b" in self.networks:
                self._write(self.networks["generator_b"], temporary, REVERSE)
            if self.training:
                write_training(self.training, temporary)
        return folder

    def _write(self, network: PretrainedMixin, folder: Path, subfolder: str) -> None:
        facts = {"name": self.name, "license": self.provenance.get("license"), "subfolder": subfolder}
        network.save_pretrained(folder / subfolder, card_facts=facts)
        config, card = folder / subfolder / CONFIG_NAME, folder / subfolder / CARD_NAME
        told = json.loads(config.read_text(encoding="utf-8")) | {ORIGIN: self.provenance}
        write_text(config, json.dumps(told, indent=2) + "\n")
        write_text(card, card.read_text(encoding="utf-8").rstrip("\n") + "\n\n" + _origin(self.provenance, self.notes))


def convert_checkpoint(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    license: str | None = None,
    family: str | None = None,
    norm_statistics: Statistics | None = None,
    name: str | None = None,
    network: str | None = None,
    ema: bool = True,
) -> Converted:
    """Make a style of another project's checkpoint. Its family is recognised by names and shapes of its tensors.

    Args:
        path: the file; or a folder of files that belong together, such as `latest_net_G_A.pth` and its like, or a
            decoder and its encoder.
        output: where to write the style, see :meth:`Converted.save`; nowhere when None.
        license: of the weights, as the Hub names it.
        family: the only one that the networks may be of; see :data:`FAMILIES`.
        norm_statistics: of batch norms, when the style is used: "running", or those of the picture ("batch"). When
            None, "batch" for pix2pix's and CycleGAN's, whose test script calls no `eval()`, and "running" for DCGAN's,
            whose pictures would depend on what else is made with them.
        name: title of the style.
        network: the only one to take, by its name in the file.
        ema: take averaged weights where there are both, or else the raw ones.

    Raises:
        RepoNotFound, UnsafeFileError, CorruptFileError, NonFiniteWeights: see :func:`.reading.read_checkpoint`.
        WeightsMismatch: a network is of no family that we know; the nearest is named and the difference shown.
        ConfigError: two networks for one role, no network of that name, statistics where no batch norm is, or a license
            that the Hub does not know.
        UnknownName: there is no such family.
    """
    license = license and known_license(license)
    families = FAMILIES if family is None else (find_family(family),)
    checkpoints = [read_checkpoint(file) for file in _files(Path(path))]
    notes = [note for checkpoint in checkpoints for note in checkpoint.notes]
    states = _networks(checkpoints, ema, notes)
    if network is not None:
        states = _only(network, states, path)
    fits = _with_statistics(_fits(states, families, path, notes), norm_statistics, path, notes)
    for role, (fit, _) in fits.items():
        notes += fit.family.notes(fit.config, fit.shapes) if role.startswith("generator") else []
    networks, word, project = _built(fits, path, notes)
    main = next(iter(networks.values()))
    told = {"_class_name": type(main).__name__, **main.config} if isinstance(main, PretrainedMixin) else {}
    provenance = {"files": {c.file: c.sha256 for c in checkpoints}, "family": word, "project": project}
    provenance |= {"license": license} if license else {}
    training = plan(networks, notes) if "generator" in networks else None
    converted = Converted(networks, word, told, provenance, tuple(dict.fromkeys(notes)), name, training)
    if output is not None:
        converted.save(output)
    return converted


def _files(path: Path) -> list[Path]:
    """The file, or those in a folder that may be checkpoints."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not 0 < len(files) <= MAX_FILES:
        raise NotAStyle(
            "This folder holds no single network",
            where=path,
            found=f"{len(files)} files of the kinds {', '.join(SUFFIXES)}",
            allowed=f"1 to {MAX_FILES}, which belong together",
            todo="Name one file, or put those of one network into a folder.",
        )
    return files


def _networks(checkpoints: Sequence[Checkpoint], ema: bool, notes: list[str]) -> dict[str, Tensors]:
    """The tensors of every network, by its name in the file or that of the file."""
    states: dict[str, Tensors] = {}
    for checkpoint in checkpoints:
        found, stem = unwrap(checkpoint.tree, ema=ema), Path(checkpoint.file).stem
        notes += found.notes
        if not found:
            raise CorruptFileError(
                "There is no network in this file", where=checkpoint.file, todo="Take the file with the weights."
            )
        for key, tensors in found.items():
            within = f"{stem}/{key}" if len(checkpoints) > 1 else key
            name = within if key else stem
            if name in states:
                raise _same("name", name, name, checkpoint.file, states)
            states[name] = tensors | _beside(checkpoint.tree, tensors)
    return states


def _beside(tree: Any, tensors: Tensors) -> Tensors:
    """The mean of style codes, which StyleGAN2's files hold beside its networks."""
    mean = tree.get(MEAN) if isinstance(tree, Mapping) and "style.1.weight" in tensors else None
    return {MEAN: mean} if isinstance(mean, Tensor) else {}


def _only(name: str, states: Mapping[str, Tensors], where: object) -> dict[str, Tensors]:
    if name not in states:
        raise ConfigError(
            "There is no such network",
            where=where,
            found=repr(name),
            allowed=_listed(states),
            todo="Name one of these.",
        )
    return {name: states[name]}


def _fits(
    states: Mapping[str, Tensors], families: Sequence[Family], where: object, notes: list[str]
) -> dict[str, tuple[Fit, Tensors]]:
    """By role what each network is, and its tensors; generators first.

    What resembles nothing, beside networks that are known, is left out; what is nearly a known one is an error.
    """
    fits: dict[str, tuple[Fit, Tensors]] = {}
    names: dict[str, str] = {}
    for name, tensors in states.items():
        try:
            fit = recognize(tensors, _place(where, name, states), families)
        except WeightsMismatch:
            if len(states) == 1 or is_near(tensors, families):
                raise
            notes.append(f"'{plain(name)}' is no network that we know, and left out.")
            continue
        role = fit.family.role_of(name)
        if role in fits:
            raise _same(f"role, {role}", names[role], name, where, states)
        fits[role], names[role] = (fit, tensors), name
    if not fits:
        first = next(iter(states))
        recognize(states[first], _place(where, first, states), families)
    if len(fits) == 1:
        fits = {role.removesuffix("_b"): found for role, found in fits.items()}
    elif "generator" not in fits and "generator_b" in fits:  # the way back alone is a way
        fits = {_turned(role): found for role, found in fits.items()}
    return dict(sorted(fits.items(), key=lambda item: (not item[0].startswith("generator"), item[0])))


def _turned(role: str) -> str:
    """The same role in the other way; what belongs to none stays."""
    if role.endswith("_b"):
        return role.removesuffix("_b")
    return f"{role}_b" if role.startswith("discriminator") else role


def _same(what: str, one: str, other: str, where: object, states: Mapping[str, Tensors]) -> ConfigError:
    return ConfigError(
        f"Two networks have the same {what}",
        where=where,
        found=f"'{plain(one)}' and '{plain(other)}'",
        allowed=f"one of {_listed(states)}",
        todo="Say which one to take (network=, or --network), or name its file alone.",
    )


def _listed(states: Mapping[str, Tensors]) -> str:
    return ", ".join(plain(name) for name in list(states)[:MAX_FILES])


def _place(where: object, name: str, states: Mapping[str, Tensors]) -> str:
    return f"{where}: {plain(name)}" if len(states) > 1 else str(where)


def _with_statistics(
    fits: Mapping[str, tuple[Fit, Tensors]], asked: Statistics | None, where: object, notes: list[str]
) -> dict[str, tuple[Fit, Tensors]]:
    """The same with the statistics of batch norms chosen."""
    chosen, changed = dict(fits), False
    for role, (fit, tensors) in fits.items():
        can = isinstance(fit.network, PretrainedMixin) and "statistics" in fit.network.config
        if can and any(isinstance(module, BatchNorm) for module in fit.network.modules()):
            statistics = asked or fit.family.statistics
            chosen[role], changed = (fit.refit(statistics=statistics), tensors), True
            why = "as asked for" if asked else "the default of this family"
            notes.append(f"Batch norms use {STATISTICS[statistics]}, {why}.")
    if asked and not changed:
        raise ConfigError(
            "These networks have no batch norm whose statistics could be chosen",
            where=where,
            found=f"norm_statistics={asked!r}",
            todo="Leave it out.",
        )
    return chosen


def _built(
    fits: Mapping[str, tuple[Fit, Tensors]], where: object, notes: list[str]
) -> tuple[dict[str, nn.Module], str, str]:
    """Our networks by role, with family and project; parts are put together where all are there."""
    networks = {role: fit.convert(tensors) for role, (fit, tensors) in fits.items()}
    for network in networks.values():  # doubles may be too large for floats
        weights.check_finite(network.state_dict(), where=where)
    known = {role: fit for role, (fit, _) in fits.items()}
    if whole := whole_of(known):
        return {"generator": assemble(whole, known, networks, where)}, whole.name, whole.project
    if missing := lacking(known):
        parts = " and ".join(f"the {role} ({name})" for role, name in missing.items())
        notes.append(f"It lacks {parts}: put the files of all parts into one folder, and convert that.")
    first = next(iter(known.values())).family
    return networks, first.name, first.project


def _origin(provenance: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The section of the card that says where the weights come from."""
    files = [f"- `{plain(name, 80)}`, SHA-256 `{digest}`" for name, digest in provenance["files"].items()]
    told = [f"- {plain(note, 240)}" for note in notes]
    given = provenance.get("license", "not named by whoever converted it")
    lines = [
        f"- Recognised as `{provenance['family']}` of {provenance['project']}",
        f"- License of the original: {given}",
    ]
    return "\n".join(["## Origin", "", "Converted from", "", *files, *lines, *told, ""])
