"""Starting from a published style: few pictures and few steps are enough, because most is known already.

A style may carry a folder `training/`, with which it can be trained on as if it had never stopped:

```
STYLE/training/
    networks.safetensors  discriminators, and whatever else the method has beside the style
    train.json            method and settings
    manifest.json         SHA-256 of both
```
Without it the discriminators are new, and learn for a while before the style changes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import (
    configs,
    hub,
    methods,
    models,  # noqa: F401 -- fills the table that styles are looked up in
    weights,
)
from . import features as feature_networks
from .configs import Range, Weight
from .errors import ConfigError, CorruptFileError, HubUnavailable, NotAStyle, RepoNotFound, WeightsMismatch
from .files import replacing_folder, sha256, write_text
from .hub import PretrainedMixin, StyleFiles
from .lora import add_lora, read_table, save_adapter
from .losses import ColorSpectra, style_perceptual
from .methods.base import Adversary, Batch, History, Method, Player, Terms
from .methods.ugatit import STYLE_LAYERS

TRAINING, NETWORKS, RECIPE, MANIFEST = "training", "networks.safetensors", "train.json", "manifest.json"
ADAPTER = "adapter"
# Turns that new discriminators have for themselves. At a fifth of the usual rate, the loss of a PatchGAN (34 px, two
# pictures a turn) on held-out ones was 0.34, 0.25, 0.21 and 0.21 after 50, 150, 300 and 400.
WARMUP = 300
ESTIMATES = 32  # batches for Adapted.estimate

# The methods that train a class of networks.
TRAINED_BY: dict[str, tuple[str, ...]] = {
    "AdaINGenerator": ("adain",),
    "AnimeGANGenerator": ("animegan",),
    "AttentionGenerator": ("attention", "sanet"),
    "DCGANGenerator": ("dcgan",),
    "MicroASTGenerator": ("microast",),
    "MiniGenerator": ("distill",),
    "MultiScaleGenerator": ("multiscale",),
    "ResnetGenerator": ("cut", "fastcut", "cyclegan", "pix2pix"),
    "RestorationUNet": ("restore",),
    "StyleGAN2Generator": ("stylegan2",),
    "TransformerNet": ("fast_style",),
    "UGATITGenerator": ("ugatit",),
    "UNetGenerator": ("pix2pix",),
}
# The parts of a network that look at the picture; those of any style have a frozen one as it is.
ENCODERS: dict[str, tuple[str, ...]] = {
    "AnimeGANGenerator": ("down",),
    "MicroASTGenerator": ("content_encoder", "style_encoder"),
    "MultiScaleGenerator": ("stems", "blocks", "exchanges"),
    "ResnetGenerator": ("stem", "stem_norm", "down"),
    "TransformerNet": ("down",),
    "UGATITGenerator": ("stem", "down"),
    "UNetGenerator": ("down", "down_norm"),
}
# A part of a network, and the setting that brings it. A style without it may get it: it begins without effect.
GROWN = "detail"
# A part that is fitted to a finished style and does not learn: a style that is trained on loses it.
FITTED = "equalizer"
# Settings that make sense only once: AnimeGAN's first steps paint the photograph itself.
AGAIN: dict[str, dict[str, Any]] = {"animegan": {"warmup": 0}}
# What of its `train.json` a style tells others; folders of the author's machine are none of their business.
TOLD = ("method", "size", "zoom", "flip", "batch_size", "steps", "decay", "ema", "seed", "styleforge")


class Adaptation:
    """How a method goes on from a published style; :meth:`apply` does it.

    Args:
        base: the style: name of a bundled one, folder of a style or of a run, or `organisation/name` on the Hub.
        revision: branch, tag or commit on the Hub.
        freeze: part of the generators that stays as it is; "encoder" is what looks at the picture.
        freeze_d: lowest layers of each discriminator that stay as they are (FreezeD, Mo et al., 2020). For
            discriminators that came with the style; about half of the layers is usual.
        l2_start: weight of half the squared distance of the generators' parameters from where they started (L2-SP,
            Li et al., 2018).
        ewc: the same, but parameters count by their importance, 1 on the mean (elastic weight consolidation, as Li et
            al., 2020, have it for few pictures): their squared gradient, at the start, of what the generators minimise.
        lora: rank of an adapter that is trained in place of the generators, see :func:`styleforge.lora.add_lora`;
            0 for none.
        style_perceptual: weight of the distance to the style of target pictures in frozen features.
        features: frozen network for it, loaded for no other reason: "vgg19" from the Hub, or a local file; see
            :func:`styleforge.features.read`.
        lr_scale: factor on all learning rates.
        early_lr: further factor on that of the first half of each generator's parameters.
        discriminator_warmup: turns, at the beginning, in which only the discriminators learn; when null, none for
            discriminators that came with the style, and 300 for new ones.
    """

    def __new__(cls, **values: Any) -> Self:  # noqa: D102
        configs.check(cls.__init__, values, where="adaptation")
        return super().__new__(cls)

    def __init__(
        self,
        *,
        base: str,
        revision: str | None = None,
        freeze: Literal["none", "encoder"] = "none",
        freeze_d: Annotated[int, Range(0, 64)] = 0,
        l2_start: Weight = 0.0,
        ewc: Weight = 0.0,
        lora: Annotated[int, Range(0, 1024)] = 0,
        style_perceptual: Weight = 0.0,
        features: str = "vgg19",
        lr_scale: Annotated[float, Range(0, 100)] = 0.2,
        early_lr: Annotated[float, Range(0, 100)] = 1.0,
        discriminator_warmup: Annotated[int, Range(0, 10**9)] | None = None,
    ) -> None:
        others = {"freeze": freeze != "none", "l2_start": l2_start, "ewc": ewc, "early_lr": early_lr != 1}
        if lora and any(others.values()):
            raise ConfigError(
                "With an adapter the network itself stays as it is",
                found=f"lora with {', '.join(name for name, given in others.items() if given)}",
                todo="Leave out one or the other.",
            )
        self.base, self.revision, self.freeze, self.freeze_d = base, revision, freeze, freeze_d
        self.l2_start, self.ewc, self.lora = l2_start, ewc, lora
        self.style_perceptual, self.features = style_perceptual, features
        self.lr_scale, self.early_lr = lr_scale, early_lr
        self.discriminator_warmup = discriminator_warmup
        self.commit: str | None = None

    def apply(self, method: Method, *, resume: bool = False) -> Adapted:
        """Give a new method the networks of the style, freeze what shall stay, add what shall be added.

        Args:
            method: as :func:`styleforge.methods.build` made it.
            resume: do not ask for the style, which may be gone: the checkpoint of a run that was begun with it brings
                all tensors, and :meth:`restore` the rest.

        Returns:
            The method to train in its place.

        Raises:
            ConfigError: the style is of another architecture than the method's, or has no part to be frozen.
            WeightsMismatch: its `training/` does not fit the settings of the method.
            RepoError, CorruptFileError, UnsafeFileError, WeightsError: see
                :meth:`styleforge.hub.PretrainedMixin.from_pretrained`.
        """
        if not resume:
            base = find(self.base, self.revision)
            self.commit = base.files.commit
            for name, network in method.styles().items():
                _fill(network, base.network(name))
            known = _load_networks(method, base)
            if self.discriminator_warmup is None:
                new = not known and any(player.judges for player in method.players())
                self.discriminator_warmup = WARMUP if new else 0
        if self.freeze_d:
            for network in _discriminators(method):
                _freeze_lowest(network, self.freeze_d)
        for network in method.styles().values():
            if self.freeze == "encoder":
                _freeze_encoder(network)
            if self.lora:
                add_lora(network, self.lora)
        return Adapted(method, self)

    def state(self) -> dict[str, Any]:
        """What a run must remember beside tensors: `main` may move on, and a style may get its discriminators later."""
        return {"commit": self.commit, "discriminator_warmup": self.discriminator_warmup}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.commit, self.discriminator_warmup = state["commit"], state["discriminator_warmup"]


class Adapted(Method):
    """A method that started from a published style; made by :meth:`Adaptation.apply`.

    With `l2_start` or `ewc`, where parameters started and how important they were is part of the state. A run that is
    killed goes on exactly, although the style is gone or has changed, and nothing is estimated twice; checkpoints grow
    by once or twice the size of the generators.

    Args:
        method: with the networks of the style.
        adaptation: what is different in this run.
    """

    def __init__(self, method: Method, adaptation: Adaptation) -> None:
        super().__init__()
        for name in ("data", "batch_size", "paper", "targets", "smallest"):
            setattr(self, name, getattr(method, name))
        self.method, self.adaptation, self.features = method, adaptation, None
        if adaptation.style_perceptual:
            features = feature_networks.load(adaptation.features, last=STYLE_LAYERS[-1])
            self.features = features.to(self.styles()[""].device)
        for index, parameter in enumerate(self._trained() if adaptation.l2_start or adaptation.ewc else ()):
            self.register_buffer(f"start_{index}", parameter.detach().clone())
            if adaptation.ewc:  # NaN shows at once in a run that did not estimate
                self.register_buffer(f"importance_{index}", torch.full_like(parameter, torch.nan))

    def players(self) -> list[Player]:
        """Those of the method; generators pause at first, and have more terms."""
        return [self._changed(player) for player in self.method.players()]

    def styles(self) -> dict[str, PretrainedMixin]:  # noqa: D102
        return self.method.styles()

    def prepare(self, images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:  # noqa: D102
        return self.method.prepare(images, generator)

    def preview(  # noqa: D102
        self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin], generator: torch.Generator
    ) -> dict[str, Tensor]:
        return self.method.preview(images, styles, generator)

    def estimate(self, batches: Iterable[Batch]) -> None:
        """Estimate the importance of each parameter, which `ewc` needs before the first step of a new run.

        Args:
            batches: :data:`ESTIMATES` of them, with turns from 0 on and on the device of the networks; in every
                process the same ones, so that all agree.
        """
        parameters = self._trained()
        generators = [player for player in self.method.players() if not player.judges]
        squares = [torch.zeros_like(parameter) for parameter in parameters]
        for batch in batches:
            loss = sum(term for player in generators for term in player.loss(batch).values())
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            for square, gradient in zip(squares, gradients, strict=True):
                square += gradient.square()
        mean = sum(square.sum() for square in squares) / sum(square.numel() for square in squares)
        for index, square in enumerate(squares):
            self.get_buffer(f"importance_{index}").copy_(square / mean)

    def save_adapters(self, styles: Mapping[str, PretrainedMixin], folder: Path) -> None:
        """Write adapters, where there are some, into `adapter/` beside each network, named as by :meth:`styles`."""
        for name, network in styles.items() if self.adaptation.lora else ():
            base = {"name": self.adaptation.base, "revision": self.adaptation.commit, "subfolder": name}
            save_adapter(network, folder / name / ADAPTER, base)

    def _changed(self, player: Player) -> Player:
        given = self.adaptation
        player = replace(player, lr=player.lr * given.lr_scale)
        if player.judges:
            return player

        def loss(batch: Batch) -> Terms:
            if batch.turn < (given.discriminator_warmup or 0):
                return {}
            return player.loss(batch) | self._terms(batch)

        if given.early_lr == 1:
            return replace(player, loss=loss)
        early = {id(parameter) for style in self.styles().values() for parameter in _first_half(style)}
        halves = ([], [])
        for parameter in player.parameters():
            halves[id(parameter) not in early].append(parameter)
        return replace(player, loss=loss, groups=((tuple(halves[0]), given.early_lr), (tuple(halves[1]), 1.0)))

    def _terms(self, batch: Batch) -> Terms:
        """What the generators minimise beside the method's own terms."""
        given, terms = self.adaptation, {}
        if given.l2_start:
            terms["l2_start"] = given.l2_start / 2 * self._distance()
        if given.ewc:
            terms["ewc"] = given.ewc / 2 * self._distance("importance")
        if self.features is not None:
            with torch.no_grad():
                wanted = self.features(batch["target"], STYLE_LAYERS)
            distance = style_perceptual(self.features(self._fake(batch), STYLE_LAYERS), wanted)
            terms["style_perceptual"] = given.style_perceptual * distance
        return terms

    def _distance(self, weight: str = "") -> Tensor:
        """Squared distance of the trained parameters from where they started."""
        total = 0
        for index, parameter in enumerate(self._trained()):
            square = (parameter - self.get_buffer(f"start_{index}")).square()
            total += (square * self.get_buffer(f"{weight}_{index}") if weight else square).sum()
        return total

    def _trained(self) -> list[nn.Parameter]:
        return [p for style in self.styles().values() for p in style.parameters() if p.requires_grad]

    def _fake(self, batch: Batch) -> Tensor:
        """The picture in the style: what the method has made in this turn, if its graph was kept."""
        made = next((batch[name] for name in ("fake", "fake_target", "fake0") if name in batch), None)
        if made is not None and made.requires_grad:
            return made
        style = self.styles()[""]
        return style(*(batch["target" if name == "style" else "source"] for name in style.capabilities.inputs))


@dataclass(frozen=True)
class Base:
    """A published style, and what lies beside it.

    Attributes:
        name: what :func:`styleforge.hub.fetch` finds it by.
        files: of the style itself.
    """

    name: str
    files: StyleFiles

    def network(self, subfolder: str) -> StyleFiles:
        """One of the style's networks, from the same commit.

        Raises:
            ConfigError: there is none of this name.
        """
        if not subfolder:
            return self.files
        try:
            return hub.fetch(self.name, revision=self.files.commit, subfolder=subfolder)
        except (NotAStyle, RepoNotFound) as error:
            raise ConfigError(
                f"The method trains a network '{subfolder}', which this style does not have",
                where=self.files.where,
                todo="Name a method that trains the style alone.",
            ) from error

    def recipe(self) -> dict[str, Any]:
        """What `training/train.json` says; empty when there is none."""
        path = self.training(RECIPE)
        return read_table(path) if path else {}

    def training(self, name: str) -> Path | None:
        """A file in `training/`, as its manifest has it; None when there is no such folder.

        Raises:
            CorruptFileError: it is missing, or has changed.
        """
        manifest = self._beside(MANIFEST)
        if manifest is None:
            return None
        known, path = read_table(manifest).get("sha256"), self._beside(name)
        if path is None or not isinstance(known, dict) or known.get(name) != sha256(path):
            raise CorruptFileError(
                f"{TRAINING}/{name} is not what its manifest says",
                where=self.files.where,
                found="no file" if path is None else f"SHA-256 {sha256(path)[:8]}...",
                todo=f"Get the whole folder again, or remove {TRAINING}/ to start with new discriminators.",
            )
        return path

    def _beside(self, name: str) -> Path | None:
        if self.files.commit is None:
            path = self.files.weights.parent / TRAINING / name
            return path if path.is_file() else None
        try:
            return hub.fetch_file(self.name, f"{TRAINING}/{name}", commit=self.files.commit, digest="")
        except HubUnavailable as error:
            if type(error.__cause__).__name__ == "RemoteEntryNotFoundError":  # the Hub answered: no such file
                return None
            raise


def find(base: str | os.PathLike[str], revision: str | None = None) -> Base:
    """Find a style; arguments as for :class:`Adaptation`.

    Raises:
        RepoError: there is none.
    """
    base = hub.style_of(base)
    return Base(str(base), hub.fetch(base, revision=revision))


def settings_for(
    base: str | os.PathLike[str], revision: str | None = None, method: str | None = None
) -> tuple[str, dict[str, Any]]:
    """With what a style can be trained on.

    Args:
        base: the style, see :class:`Adaptation`.
        revision: see there.
        method: word of the method; what the style says when None.

    Returns:
        The method, and the settings in which it differs from its defaults. Where it is known they hold the `size` of
        the training squares, which belongs to the run and must be taken out.

    Raises:
        ConfigError: no method trains such a network, or several do and the style does not say which.
        RepoError, CorruptFileError: there is no such style, or it is damaged.
    """
    found = find(base, revision)
    recipe = found.recipe()
    if recipe and method in (None, recipe.get("method")):
        method, settings = str(recipe.get("method")), dict(recipe.get("settings") or {})
        methods.find(method)
        settings |= {"size": recipe["size"]} if "size" in recipe else {}
    else:
        method, settings = _method_for(found, method), {}
        known = methods.settings(method)
        settings = {key: value for key, value in found.files.config.items() if key in known}
        if method == "pix2pix":
            settings["generator"] = "unet" if found.files.config["_class_name"] == "UNetGenerator" else "resnet"
    return method, settings | AGAIN.get(method, {})


def save_training(method: Method, folder: str | os.PathLike[str], train_json: Mapping[str, Any]) -> Path:
    """Write `training/` into the folder of a style: what others need to train it on.

    Args:
        method: that made the style.
        folder: of the style.
        train_json: the configuration of the run. Of this method and settings, and the like, are told; paths are not.

    Returns:
        The folder `training/`.

    Raises:
        NonFiniteWeights: NaN or infinity among the weights; nothing is written.
    """
    recipe = {key: train_json[key] for key in TOLD if key in train_json}
    settings = dict(train_json.get("settings") or {})
    if settings.get("features") not in (*feature_networks.PUBLISHED, *feature_networks.RANDOM):
        settings.pop("features", None)  # a file of this machine
    if os.path.isdir(settings.get("teacher") or ""):
        settings["teacher"] = Path(settings["teacher"]).name  # of its path: nothing is found by it, so it is asked for
    target = Path(folder) / TRAINING
    with replacing_folder(target, last=(MANIFEST,)) as temporary:
        weights.write(temporary / NETWORKS, _others(method))
        write_text(temporary / RECIPE, json.dumps({**recipe, "settings": settings}, indent=2) + "\n")
        digests = {name: sha256(temporary / name) for name in (NETWORKS, RECIPE)}
        write_text(temporary / MANIFEST, json.dumps({"sha256": digests}, indent=2) + "\n")
    return target


def load_training(method: Method, folder: str | os.PathLike[str]) -> bool:
    """Give a method the networks in `training/` of a style's folder.

    Returns:
        Whether there are any: a folder of another method counts as none.

    Raises:
        WeightsMismatch: they do not fit the settings of the method.
        CorruptFileError, UnsafeFileError, NonFiniteWeights: they are damaged.
    """
    return _load_networks(method, find(folder))


def _load_networks(method: Method, base: Base) -> bool:
    word = base.recipe().get("method")
    if word not in methods.METHODS or methods.find(word) is not type(method):
        return False
    path = base.training(NETWORKS)
    ours = {name: tuple(tensor.shape) for name, tensor in _others(method).items()}
    theirs = {name: info.shape for name, info in weights.read_header(path).items()}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        raise WeightsMismatch(
            "The discriminators of this style do not fit the settings",
            where=base.files.where,
            found=f"{wrong[0]} {theirs.get(wrong[0], 'missing')}",
            allowed=ours.get(wrong[0], "no such tensor"),
            todo="Leave settings of discriminators as the style has them: see its training/train.json.",
        )
    tensors = weights.read(path)
    weights.check_finite(tensors, where=path)
    method.load_state_dict(tensors, strict=False)
    return True


def _others(method: Method) -> dict[str, Tensor]:
    """What a method holds beside the style, but for pictures and augmentation, which belong to the data."""
    method = method.method if isinstance(method, Adapted) else method
    styles = {id(network) for network in method.styles().values()}
    apart = tuple(
        f"{name}."
        for name, module in method.named_modules()
        if id(module) in styles or isinstance(module, (History, Adversary, ColorSpectra))
    )
    return {name: tensor for name, tensor in method.state_dict().items() if not name.startswith(apart)}


def _method_for(base: Base, word: str | None) -> str:
    """The method that a style without a recipe is trained on with."""
    kind = str(base.files.config.get("_class_name"))
    able = TRAINED_BY.get(kind, ())
    if word is None:  # by our custom the first word of a style's name
        first = Path(base.name).name.partition("-")[0]
        word = able[0] if len(able) == 1 else first
    if word not in able:
        raise ConfigError(
            f"{word} does not train this style" if word in methods.METHODS else "Several methods train such a style",
            where=base.files.where,
            found=kind,
            allowed=", ".join(able) or "none",
            todo="Name one of these with --method." if able else "Take another style.",
        )
    return word


def _fill(network: PretrainedMixin, files: StyleFiles) -> None:
    """Give a network the weights of a published one, which must be the same in all that its configuration says."""
    published = PretrainedMixin.from_files(files)
    ours, theirs = type(network).__name__, type(published).__name__
    if ours != theirs:
        raise ConfigError(
            "This style is of another architecture",
            where=files.where,
            found=theirs,
            allowed=f"{ours}, which the method trains",
            todo=f"Adapt it with {' or '.join(TRAINED_BY.get(theirs, ('another style',)))}.",
        )
    free = {"size"} if network.config.get("light") else set()  # only U-GAT-IT's full networks are made for a size
    new = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(f"{GROWN}.")}
    if new and not published.config[GROWN]:
        free.add(GROWN)
    if published.config.get(FITTED) and not network.config[FITTED]:
        free.add(FITTED)
        warnings.warn(
            f"The {FITTED} of this style ({files.where}) is left out: when it has learnt, fit it a new one, by "
            "`styleforge equalize`.",
            stacklevel=2,
        )
    for key, ours in network.config.items():
        if key not in free and published.config[key] != ours:
            raise ConfigError(
                "This style is of another architecture",
                where=files.where,
                found=f"{key} = {published.config[key]!r}",
                allowed=f"{ours!r}, as the method is set",
                todo=f"Set {key} as the style has it, or choose a method that can.",
            )
    known = {
        name: tensor
        for name, tensor in published.state_dict().items()
        if FITTED not in free or not name.startswith(f"{FITTED}.")
    }
    network.load_state_dict((new if GROWN in free else {}) | known)


def _discriminators(method: Method) -> Iterator[PretrainedMixin]:
    """Those that hold no others."""
    for player in method.players():
        for network in player.networks if player.judges else ():
            for module in network.modules():
                inner = [m for m in module.modules() if isinstance(m, PretrainedMixin)]
                if inner == [module]:
                    yield module


def _freeze_lowest(network: PretrainedMixin, layers: int) -> None:
    """Freeze so many convolutions or linear layers, and the norms between them; the others can be trained."""
    for module in network.modules():
        weight = module._parameters.get("weight")
        if parametrize.is_parametrized(module, "weight") or (weight is not None and weight.ndim > 1):
            layers -= 1
        if layers < 0:
            return
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    raise ConfigError(
        "freeze_d leaves nothing of a discriminator to be trained",
        where=type(network).__name__,
        todo="Freeze fewer layers; about half is usual.",
    )


def _freeze_encoder(network: PretrainedMixin) -> None:
    parts = ENCODERS.get(type(network).__name__)
    if parts is None:
        raise ConfigError(
            "This network has no encoder to be frozen", where=type(network).__name__, todo="Leave out --freeze."
        )
    for part in parts:
        network.get_submodule(part).requires_grad_(False)


def _first_half(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that come first and make up half of all their numbers."""
    parameters = list(network.parameters())
    rest, early = sum(parameter.numel() for parameter in parameters) // 2, []
    for parameter in parameters:
        rest -= parameter.numel()
        if rest < 0:
            break
        early.append(parameter)
    return early
