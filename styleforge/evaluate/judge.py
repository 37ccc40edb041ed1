"""The network that sees the pictures of an evaluation, or none."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from .. import features
from ..errors import ConfigError
from ..features import VGG19, FeatureNetwork
from ..metrics.color import ColorDistance, moments
from ..metrics.looks import DEFAULT_LAYERS, eye, fingerprint, look, pool
from ..metrics.texture import Texture, spectrum
from ..quality import CONTENT_LAYERS
from .measures import MEASURES
from .task import Task

SEEN, GRAIN, PALETTE = "seen", "grain", "palette"  # rows: of the judge, of spectra, and of colors
NO_JUDGE = "No network has judged, so nothing tells how near the pictures come to the paintings: give a judge."


class Judge:
    """The feature network, or none.

    Attributes:
        name: of the network and the layer that decides; "none".
        sha256: of its weights; empty without them.
        warnings: why to trust it less.
        widths: of the rows by kind. Only sets of paintings need rows.
    """

    def __init__(self, given: str | os.PathLike[str] | None, device: torch.device, task: Task) -> None:
        self.network: FeatureNetwork | None = None
        self.name, self.sha256, self.warnings = "none", "", [NO_JUDGE] if task.sets else []
        self.widths = {GRAIN: Texture.width, PALETTE: ColorDistance.width} if task.sets else {}
        if given is None:
            return
        self.network = features.load(given).to(device)
        kind = type(self.network)
        self.layers = {"content": CONTENT_LAYERS[kind]} | ({"style": DEFAULT_LAYERS[kind]} if task.sets else {})
        for layer in self.layers.values():
            if layer not in self.network.channels:
                raise ConfigError(
                    "This feature network ends before the layers that judge",
                    where=given,
                    found=f"no {layer}",
                    todo="Give a complete file of its weights.",
                )
        if task.sets:
            self.widths[SEEN] = self.network.channels[self.layers["style"]]
        decides = self.layers["style" if task.sets else "content"]
        self.name, self.sha256 = eye(self.network, decides), fingerprint(self.network)
        self.warnings = []
        if str(given) in features.RANDOM:
            self.warnings.append("The judge has random weights, which see little but color: give a trained one.")
        elif isinstance(self.network, VGG19):
            self.warnings.append("Losses that look through VGG please this judge too; SqueezeNet is impartial.")

    def see(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Rows (B, d) by kind, and what is shown, (B, C, h, w), of pictures (B, 3, S, S) in [-1, 1]."""
        rows = {GRAIN: spectrum(pictures), PALETTE: moments(pictures)} if self.widths else {}
        if not self.network:
            return rows, None
        seen = look(self.network, pictures, list(self.layers.values()))
        if SEEN in self.widths:
            rows[SEEN] = pool(seen[self.layers["style"]])
        return rows, seen[self.layers["content"]]

    def called(self, name: str) -> str:
        """The name of a figure: that of a measure, and of the network and the layers that it looks at."""
        layers = " x ".join(self.layers[layer] for layer in MEASURES[name].layers)
        return f"{name} ({eye(self.network, layers)})" if layers else name
