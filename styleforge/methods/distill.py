"""Distillation: a small network learns to do what a large one does, from pictures of any kind."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import features as feature_networks
from ..configs import Range, Weight, Width
from ..engine import accelerate
from ..errors import ConfigError, RepoNotFound
from ..hub import PretrainedMixin
from ..losses import content_loss, gram, gram_loss
from ..models import MiniGenerator
from .base import Batch, Method, Player, Terms, unsteadiness


class Distill(Method):
    """What the teacher makes is the target: in pixels, in what a frozen network sees, and in its texture.

    As in OMGD (Ren et al., 2021) there is neither a discriminator nor anything to compare with but the teacher's
    answers. One teacher, which does not learn, and no look into its layers: it may be of any architecture.

    Args:
        teacher: published style that makes a picture from one picture: name of a bundled one, folder of a style or of
            a run, or `organisation/name` on the Hub.
        teacher_revision: branch, tag or commit on the Hub; `main` may move on while a run is stopped.
        width: channels of the student; see :class:`~styleforge.models.MiniGenerator`.
        blocks: its residual blocks.
        features: the frozen network: "vgg19" from the Hub, or a local file; see :func:`styleforge.features.read`.
        layers: its layers that are compared, equally weighted.
        l1: weight of the distance in pixels. By itself it blurs what the student cannot foresee.
        content: weight of the squared distance of features, as a share of their size.
        style: weight of the squared distance of their Gram matrices, likewise.
        shift_equivariance: weight of how far the student's picture changes when its source moves, see
            :func:`~styleforge.methods.base.unsteadiness`: its steps of 2 and 4 pixels leave a grid. Not in the paper.
        lr: learning rate.
    """

    data = "damaged"  # one folder, whose other half is made here
    batch_size = 2
    paper = "https://arxiv.org/abs/2108.06908"

    def __init__(
        self,
        *,
        teacher: str = "fastcut-monet",
        teacher_revision: str | None = None,
        width: Width = 16,
        blocks: Annotated[int, Range(1, 64)] = 5,
        features: str = "vgg19",
        layers: list[str] = ("relu1_2", "relu2_2", "relu3_2"),  # type: ignore[assignment]
        l1: Weight = 1.0,
        content: Weight = 1.0,
        style: Weight = 0.5,
        shift_equivariance: Weight = 0.0,
        lr: Annotated[float, Range(0, 1)] = 2e-3,
    ) -> None:
        super().__init__()
        # In a list: no part of what is trained, stored and published.
        self._teacher = [_load_teacher(teacher, teacher_revision)]
        self.layers, self.l1, self.content, self.style, self.lr = tuple(layers), l1, content, style, lr
        self.shift_equivariance = shift_equivariance
        self.features = feature_networks.load(features)
        self.generator = MiniGenerator(width=width, blocks=blocks)

    @torch.no_grad()
    def prepare(self, images: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The pictures as "source", and as "target" what the teacher makes of each.

        It sees them moved by some pixels, which is undone: a grid that its steps leave is elsewhere each time, and is
        not learnt.
        """
        source, device = images["target"], self.generator.device
        teacher = self._teacher[0].to(device)
        moves = torch.randint(teacher.capabilities.multiple, (2,), generator=generator).tolist()
        back = [-move for move in moves]
        with accelerate(teacher):  # one by one, which on CPUs is faster than together
            made = [teacher(picture.to(device).roll(moves, (2, 3))).roll(back, (2, 3)) for picture in source.split(1)]
        return {"source": source, "target": torch.cat(made).to(source)}

    def players(self) -> list[Player]:  # noqa: D102
        return [Player("generator", (self.generator,), self.terms, self.lr, betas=(0.9, 0.99))]

    def terms(self, batch: Batch) -> Terms:
        """Make what the teacher made."""
        fake, target = self.generator(batch["source"]), batch["target"]
        seen = self.features(fake, self.layers)
        with torch.no_grad():
            wanted = self.features(target, self.layers)
        pairs = [(seen[layer], wanted[layer]) for layer in self.layers]
        content = [content_loss(ours, theirs) / theirs.square().mean() for ours, theirs in pairs]
        style = [gram_loss(ours, theirs) / gram(theirs).square().mean() for ours, theirs in pairs]
        terms = {
            "l1": self.l1 * F.l1_loss(fake, target),
            "content": self.content * torch.stack(content).mean(),
            "style": self.style * torch.stack(style).mean(),
        }
        if self.shift_equivariance:
            terms["shift"] = self.shift_equivariance * unsteadiness(self.generator, batch["source"], fake, batch)
        return terms


def _load_teacher(name: str, revision: str | None) -> PretrainedMixin:
    try:
        network = PretrainedMixin.from_pretrained(name, revision=revision, dtype=torch.float32)
    except RepoNotFound as error:  # perhaps of a style from elsewhere, which tells no paths
        todo = "Say where it is: --teacher, or STYLE of `styleforge distill`."
        raise RepoNotFound("The teacher is not there", where=name, found=error, todo=todo) from error
    can, channels = network.capabilities, [network.config.get(f"{end}_channels", 3) for end in ("in", "out")]
    if can.inputs != ("image",) or can.output != "image" or channels != [3, 3]:
        raise ConfigError(
            "This network cannot be a teacher",
            where=name,
            found=f"{type(network).__name__}, which takes {' and '.join(can.inputs)} and gives {can.output}",
            allowed="what makes a color picture from one color picture",
            todo="Name another style.",
        )
    return network
