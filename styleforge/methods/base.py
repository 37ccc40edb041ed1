"""What a training method is: networks, players, and what each player minimises.

A method knows nothing of devices, files, precision or the Hub; :mod:`styleforge.train` knows nothing of losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import rng
from ..augment import CHANGES, AdaptiveAugment, check_policy, diff_augment
from ..configs import Range, Weight
from ..errors import ConfigError
from ..hub import PretrainedMixin
from ..losses import Adversarial, discriminator_loss, fakes_loss, generator_loss, gradient_penalty, r1_penalty
from .projected import ProjectedDiscriminator

Optimizer = Literal["adam", "adamw", "rmsprop"]
Terms = dict[str, Tensor]
Judge = Callable[[Tensor], Tensor | list[Tensor]]


class Batch(dict[str, Tensor]):
    """The tensors of one turn, by name. A player may leave here what the next one needs.

    Args:
        tensors: by name.
        key: what randomness of this turn depends on, beside its purpose: seed, running number, process, piece.
    """

    def __init__(self, tensors: dict[str, Tensor], *key: int) -> None:
        super().__init__(tensors)
        self.key = key

    @property
    def turn(self) -> int:
        """The running number of this turn."""
        return self.key[1]

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness for one purpose of this turn, the same after every restart."""
        return rng.generator(purpose, *self.key)


@dataclass(frozen=True)
class Player:
    """Some networks that minimise some terms.

    Attributes:
        name: prefix of its terms in the log.
        networks: what its optimiser changes; gradients are taken for these parameters only, so nothing has to
            be frozen, and a player may leave a fake with its graph in the batch for another.
        loss: from a batch to named terms, already weighted; their sum is minimised. No terms: it pauses.
        lr: learning rate; different ones for two players are TTUR.
        betas: of Adam and AdamW.
        turns: steps it makes while others make one (`n_critic`); each has a batch of its own.
        weight_decay: as a part of the gradient, but with AdamW beside it.
        after: called after each of its steps, for what must hold of its weights.
        judges: whether it is a discriminator's: it sees what others made, and leaves their graphs alone.
        groups: which parameters are changed, with a factor on the learning rate; all of `networks` when None.
    """

    name: str
    networks: tuple[nn.Module, ...]
    loss: Callable[[Batch], Terms]
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    turns: int = 1
    weight_decay: float = 0.0
    after: Callable[[], None] | None = None
    judges: bool = False
    groups: tuple[tuple[tuple[nn.Parameter, ...], float], ...] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that its optimiser changes."""
        return [parameter for group in self._groups() for parameter in group["params"]]

    def optimizer(self, kind: Optimizer = "adam") -> torch.optim.Optimizer:
        """A new optimizer of its parameters.

        Args:
            kind: "adam"; "adamw", with a weight decay of 0.01 where the player has none, as it would be Adam without;
                or "rmsprop", whose mean of squares has the 0.99 of WGAN's code: nothing corrects its start, and with
                Adam's 0.999 the first step would be 32 times too long.

        Returns:
            Each of its parameter groups has a "factor", by which its learning rate differs from the player's.
        """
        groups, decay = self._groups(), self.weight_decay
        if kind == "rmsprop":
            return torch.optim.RMSprop(groups, lr=self.lr, alpha=0.99, weight_decay=decay)
        if kind == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, weight_decay=decay or 0.01)
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, weight_decay=decay)

    def _groups(self) -> list[dict[str, Any]]:
        groups = self.groups or ((tuple(p for network in self.networks for p in network.parameters()), 1.0),)
        return [
            {"params": [p for p in parameters if p.requires_grad], "factor": factor, "lr": self.lr * factor}
            for parameters, factor in groups
        ]


class Adversary(nn.Module):
    """How discriminators are trained, and kept from winning too early; shared by all methods that have some.

    A module, because adaptive augmentation has a state; without it nothing is added to that of the method.

    Args:
        adversarial: see :func:`~styleforge.losses.discriminator_loss`.
        smooth: one-sided label smoothing: real pictures count as 1 less this ("lsgan" and "vanilla").
        penalty: on the discriminator's gradient: at real pictures ("r1", Mescheder et al., 2018) or between real
            and generated ones ("wgan-gp", Gulrajani et al., 2017).
        penalty_weight: of the penalty.
        penalty_every: turns between two penalties, each weighted so many times more (StyleGAN2's lazy way).
        augment: differentiable augmentation (Zhao et al., 2020) of all that a discriminator sees: "color",
            "translation" and "cutout" joined by commas, or "" for none. For few pictures.
        ada_target: augment only a share of the pictures, such that real ones are told as real this much more often
            than as fake (Karras et al., 2020; theirs is 0.6); 0 augments all. Without `augment`, by all three.
        ada_images: pictures in which that share can go from none to all; 500 000 in the paper. A short run on some
            hundred pictures has learnt them by heart long before.
        instance_noise: deviation of noise on all that a discriminator sees.
        spectral_norm: bound the gain of each convolution of the discriminators (Miyato et al., 2018), which then
            have no other norm.
        n_critic: steps of the discriminators for one of the generators.
        discriminator_lr: learning rate of the discriminators; as `lr` when null. A different one is TTUR.
        projected: weight of fooling one more discriminator, that of the target pictures: it looks through a frozen
            network, see :class:`~styleforge.methods.projected.ProjectedDiscriminator`. Where another, in an hour on a
            laptop, finds a grain of its own, this leads to that of the target pictures.
        features: that network: "vgg19" from the Hub, or a local file; see :func:`styleforge.features.read`. Not loaded
            without `projected`. Do not measure what comes out by the same one.
    """

    def __init__(
        self,
        *,
        adversarial: Adversarial = "lsgan",
        smooth: Annotated[float, Range(0, 0.5)] = 0.0,
        penalty: Literal["none", "r1", "wgan-gp"] = "none",
        penalty_weight: Weight = 10.0,
        penalty_every: Annotated[int, Range(1, 1000)] = 1,
        augment: str = "",
        ada_target: Annotated[float, Range(0, 1)] = 0.0,
        ada_images: Annotated[int, Range(1, 10**9)] = 20_000,
        instance_noise: Annotated[float, Range(0, 10)] = 0.0,
        spectral_norm: bool = False,
        n_critic: Annotated[int, Range(1, 100)] = 1,
        discriminator_lr: Annotated[float, Range(0, 1)] | None = None,
        projected: Weight = 0.0,
        features: str = "vgg19",
    ) -> None:
        super().__init__()
        check_policy(augment)
        if ada_target and adversarial == "wgan":
            raise ConfigError(
                "A critic's values cannot steer adaptive augmentation: none of them stands between real and fake",
                found="adversarial = wgan with ada_target",
                todo="Leave out ada_target, or take another adversarial loss.",
            )
        self.ada = AdaptiveAugment(augment or ",".join(CHANGES), ada_target, ada_images) if ada_target else None
        self.adversarial, self.smooth = adversarial, smooth
        self.penalty, self.penalty_weight, self.penalty_every = penalty, penalty_weight, penalty_every
        self.augment, self.instance_noise = augment, instance_noise
        self.spectral_norm, self.n_critic, self.discriminator_lr = spectral_norm, n_critic, discriminator_lr
        self.projected, self.projection = projected, ProjectedDiscriminator(features) if projected else None

    @property
    def discriminator_options(self) -> dict[str, Any]:
        """Arguments for the constructor of a discriminator."""
        return {"spectral_norm": True, "norm": "none"} if self.spectral_norm else {}

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """What is trained of the discriminator that looks through a frozen network, if there is one."""
        return (self.projection.heads,) if self.projection else ()

    def player(
        self, name: str, networks: tuple[nn.Module, ...], loss: Callable[[Batch], Terms], lr: float, **options: Any
    ) -> Player:
        """The player of a discriminator; `lr` is that of the generator."""
        lr = lr if self.discriminator_lr is None else self.discriminator_lr
        after = self.ada.move if self.ada else None
        return Player(name, networks, loss, lr, turns=self.n_critic, judges=True, after=after, **options)

    def discriminator_terms(
        self, judge: Judge, real: Tensor, fake: Tensor, batch: Batch, name: str = "real_fake"
    ) -> Terms:
        """Tell real pictures from fakes.

        Args:
            judge: from pictures to logits; the losses of several are added up.
            real: (B, C, H, W).
            fake: of the same shape; its graph is cut.
            batch: of this turn.
            name: of the term.

        Returns:
            The loss as `name`, and in turns that have one `<name>_penalty`, weighted.
        """
        real, fake = self.seen(real, batch, f"{name} real"), self.seen(fake.detach(), batch, f"{name} fake")
        fakes, reals = _several(judge(fake)), _several(judge(real))  # in the order of pix2pix, whose norms remember it
        if self.ada:
            # Several discriminators look at the same pictures.
            self.ada.watch(reals, self._middle, 0 if "judged" in batch else len(real))
            batch["judged"] = real
        pairs = zip(reals, fakes, strict=True)
        terms = {name: sum(discriminator_loss(r, f, self.adversarial, smooth=self.smooth) for r, f in pairs)}
        if self.penalty != "none" and batch.turn % self.penalty_every == 0:
            if self.penalty == "r1":
                penalty = r1_penalty(judge, real)
            else:
                penalty = gradient_penalty(judge, real, fake, batch.generator(f"{name} mixture"))
            terms[f"{name}_penalty"] = self.penalty_weight * self.penalty_every * penalty
        return terms

    def fakes_terms(self, judge: Judge, fake: Tensor, batch: Batch, name: str) -> Terms:
        """More pictures that are not real, beside those of :meth:`discriminator_terms`; arguments as there."""
        seen = self.seen(fake.detach(), batch, f"{name} fake")
        return {name: sum(fakes_loss(logits, self.adversarial) for logits in _several(judge(seen))) / 2}

    def generator_loss(self, judge: Judge, fake: Tensor, batch: Batch, name: str = "fool") -> Tensor:
        """How far fakes are from passing as real; arguments as for :meth:`discriminator_terms`."""
        seen = self.seen(fake, batch, f"{name} generator")
        return sum(generator_loss(logits, self.adversarial) for logits in _several(judge(seen)))

    def projected_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Tell target pictures from fakes through a frozen network, by a hinge loss; nothing where there is none.

        Args:
            real: (B, 3, H, W) in [-1, 1].
            fake: the same; its graph is cut.
            batch: of this turn.
        """
        if not self.projection:
            return {}
        real = self.seen(real, batch, "projected real")
        fake = self.seen(fake.detach(), batch, "projected fake")
        pairs = zip(self.projection(real), self.projection(fake), strict=True)
        return {"projected": sum(discriminator_loss(true, made, "hinge") for true, made in pairs)}

    def fool_projected(self, fake: Tensor, batch: Batch) -> Terms:
        """Pass as real there, by the mean over its layers; arguments as above."""
        if not self.projection:
            return {}
        seen = self.seen(fake, batch, "projected generator")
        logits = self.projection.moved(seen, batch.generator("projected"))
        loss = sum(generator_loss(x, "hinge") for x in logits) / len(logits)
        return {"fool_projected": self.projected * loss}

    @property
    def _middle(self) -> float:
        """The logit that the best discriminator gives to what is as often real as fake."""
        if self.adversarial == "lsgan":
            return (1 - self.smooth) / 2
        return math.log((1 - self.smooth) / (1 + self.smooth)) if self.adversarial != "hinge" else 0.0

    def seen(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        """Pictures as a discriminator gets to see them: augmented, with noise."""
        if self.ada:
            images = self.ada(images, batch.generator(purpose))
        elif self.augment:
            images = diff_augment(images, self.augment, batch.generator(purpose))
        if self.instance_noise:
            noise = torch.randn(images.shape, generator=batch.generator(f"{purpose} noise"))
            images = images + self.instance_noise * noise.to(images)
        return images


def _several(logits: Tensor | list[Tensor]) -> list[Tensor]:
    return logits if isinstance(logits, list) else [logits]


class Method(nn.Module):
    """Base of all training methods.

    A subclass has a keyword-only constructor with plain JSON values (see :mod:`styleforge.configs`); everything
    that a run must remember is in its `state_dict`.

    Attributes:
        generator: the style; methods that call it otherwise, or publish more, say so in :meth:`styles`.
        data: what it learns from; see :data:`styleforge.data.KINDS`.
        batch_size: pictures per step that suit it.
        paper: its address.
        targets: how many target pictures there must be; any number when None.
        smallest: how many pictures must be computed together, because they are compared with one another.
    """

    generator: PretrainedMixin
    data: ClassVar[Literal["unpaired", "paired", "images", "damaged", "styles"]] = "unpaired"
    batch_size: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    targets: int | None = None
    smallest: int = 1

    def players(self) -> list[Player]:
        """Who plays, in the order of a turn."""
        raise NotImplementedError

    def styles(self) -> dict[str, PretrainedMixin]:
        """What a run publishes: "" is the style itself, other names are subfolders."""
        return {"": self.generator}

    @property
    def aligned(self) -> bool:
        """Whether source and target show the same."""
        return self.data in ("paired", "damaged")

    def prepare(self, images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """What the method adds to pictures from the folders, before anything else sees them.

        Args:
            images: (B, 3, S, S) in [-1, 1] by domain.
            generator: CPU randomness.

        Returns:
            These, and others.
        """
        return images

    def preview(
        self, images: dict[str, Tensor], styles: dict[str, PretrainedMixin], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Columns of one row of the sample sheet.

        Args:
            images: "source" (unless the method starts from noise) and "target", (1, 3, H, W) in [-1, 1]. Only where
                they are aligned do they belong together.
            styles: networks as :meth:`styles` names them, averaged if the run averages.
            generator: CPU randomness of this row, the same in every sheet.

        Returns:
            Pictures (1, 3, H, W) by column title.
        """
        style, source = styles[""], images["source"]
        if "style" in style.capabilities.inputs:
            return {**images, "styled": style(source, images["target"])}
        shown = images if self.aligned else {"source": source}
        return {**shown, "styled": style(source)}

    def _fake(self, batch: Batch) -> Tensor:
        """The newest fake with its graph: one forward pass serves both players."""
        if "fake" not in batch:
            batch["fake"] = self.generator(batch["source"])
        return batch["fake"]


class History(nn.Module):
    """Past fakes: half of the pictures a discriminator sees are not the newest (Shrivastava et al., 2017).

    Args:
        capacity: pictures kept; 0 hands the newest on.
    """

    images: Tensor

    def __init__(self, capacity: int = 50) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("images", torch.empty(0))

    def forward(self, fakes: Tensor, generator: torch.Generator) -> Tensor:
        """For each picture, itself or (half of the time) an older one whose place it takes.

        Args:
            fakes: (B, C, H, W), detached.
            generator: CPU randomness of this turn.
        """
        if not self.capacity:
            return fakes
        if not self.images.numel():
            self.images = fakes[:0].clone()
        chosen = []
        for fake in fakes:
            if len(self.images) < self.capacity:
                self.images = torch.cat([self.images, fake[None]])
            elif torch.rand((), generator=generator) < 0.5:
                index = int(torch.randint(len(self.images), (), generator=generator))
                older = self.images[index].clone()
                self.images[index] = fake
                fake = older
            chosen.append(fake)
        return torch.stack(chosen)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (stored := state_dict.get(f"{prefix}images")) is not None:  # as many as there were
            self.images = torch.empty_like(stored, device=self.images.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def unsteadiness(network: Callable[[Tensor], Tensor], source: Tensor, made: Tensor, batch: Batch) -> Tensor:
    """How far a translation changes when its source moves by 1 to 3 pixels, L1; what wraps around is left aside.

    A pattern that is bound to the grid of the network's steps stays where it is, and what is shown moves.

    Args:
        network: (B, 3, H, W) to the same.
        source: (B, 3, H, W) in [-1, 1].
        made: what the network makes of it.
        batch: for the randomness.
    """
    steps = torch.randint(1, 4, (2,), generator=batch.generator("shift")).tolist()
    moved, expected = network(source.roll(steps, (2, 3))), made.roll(steps, (2, 3))
    edge = source.shape[3] // 8
    return F.l1_loss(moved[..., edge:-edge, edge:-edge], expected[..., edge:-edge, edge:-edge])
