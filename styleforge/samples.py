"""The pictures by which a run is judged: sheets for the eye, and fixed squares for the measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data, images, rng
from .hub import PretrainedMixin
from .methods.base import Method

ROWS = 6  # of a sheet


def rows(method: Method, pictures: data.Data, size: int, preview: str | None) -> list[dict[str, Tensor]]:
    """Up to :data:`ROWS` rows of fixed pictures by domain, (1, 3, S, S) in [-1, 1].

    Args:
        method: what is trained.
        pictures: of the training.
        size: side of the training squares; sheets of pictures that are translated show at least 256 pixels.
        preview: folder of pictures in place of the source.
    """
    multiple = max((style.capabilities.multiple for style in method.styles().values()), default=1)
    side = size if method.data == "images" else -(-max(size, 256) // multiple) * multiple
    look = data.RandomCrop(side, (1.0, 1.0), flip=False)
    shown = dict(pictures.domains)
    if preview:
        shown["source"] = data.Pictures(data.list_pictures(preview)[:ROWS], side)
    found = []
    for number in range(min(ROWS, len(next(iter(shown.values()))))):
        row = {}
        for domain, given in shown.items():
            places = range(0, len(given), max(1, len(given) // ROWS))
            row[domain] = look(given[places[number % len(places)]], "preview")[None]
        found.append(method.prepare(row, rng.generator("row", number)))
    return found


def squares(method: Method, domains: Mapping[str, data.Pictures], size: int, most: int) -> dict[str, Tensor]:
    """The middles of up to `most` pictures of each domain, evenly chosen: (N, 3, size, size) in [-1, 1]."""
    look, found = data.RandomCrop(size, (1.0, 1.0), flip=False), {}
    for domain, pictures in domains.items():
        chosen = range(0, len(pictures), -(-len(pictures) // most))
        found[domain] = torch.stack([look(pictures[index], "square") for index in chosen])
    return method.prepare(found, rng.generator("squares")) if found else found


@torch.no_grad()
def sheet(
    path: Path, method: Method, styles: dict[str, Any], shown: list[dict[str, Tensor]], device: torch.device
) -> None:
    """A picture with one row for each preview picture: source, styled, and what the method adds."""
    drawn = []
    with evaluating(*styles.values()):
        for number, row in enumerate(shown):
            here = {domain: image.to(device) for domain, image in row.items()}
            columns = method.preview(here, styles, rng.generator("preview", number))
            drawn.append(torch.cat(list(columns.values()), 3))
    images.save(images.to_pil(torch.cat(drawn, 2)), path, quality=92)


@torch.no_grad()
def score_sheet(
    path: Path, method: Method, style: PretrainedMixin, shown: list[dict[str, Tensor]], device: torch.device
) -> None:
    """What each discriminator of the target thinks of each place: of a target, and of a styled picture.

    Two columns of pictures, and beside each one map per discriminator; all maps of one share a scale, on which white
    is the most real place. Discriminators without a map, of pairs, and of the source are left out; without any there
    is no file.
    """
    judges = {
        name: network
        for name, network in method.named_modules()
        if isinstance(network, PretrainedMixin)
        and network.capabilities.output == "logits"
        and network.config.get("in_channels", 3) == 3
        and "source" not in name
    }
    with evaluating(style, *judges.values()):
        targets = torch.cat([row["target"] for row in shown]).to(device)
        sources = torch.cat([row["source"] for row in shown]).to(device) if "source" in shown[0] else None
        styled = styled_as(style, sources, targets, len(shown), rng.generator("scores"))
        columns: list[list[Tensor]] = [[targets], [styled]]
        for judge in judges.values():
            maps = [judge(pictures).float() for pictures in (targets, styled)]
            low, high = min(m.min() for m in maps), max(m.max() for m in maps)
            if maps[0].dim() == 4 and high > low:
                for column, scores in zip(columns, maps, strict=True):
                    drawn = F.interpolate((scores - low) / (high - low), targets.shape[2:], mode="nearest")
                    column.append(drawn.expand(-1, 3, -1, -1) * 2 - 1)
    if len(columns[0]) > 1:
        whole = torch.cat([tensor.cpu() for column in columns for tensor in column], 3)
        images.save(images.to_pil(torch.cat(list(whole), 1)[None]), path, quality=92)


def styled_as(
    style: PretrainedMixin, sources: Tensor | None, targets: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Pictures of a style, whatever it starts from.

    Args:
        style: the network.
        sources: (B, 3, S, S) in [-1, 1]; None for networks that start from noise.
        targets: pictures to take the style from, where the network asks for one, in turn.
        count: pictures to make from noise.
        generator: CPU randomness of the noise.

    Returns:
        (B, 3, S, S) in [-1, 1].
    """
    if sources is None:
        return style(torch.randn(count, style.config["noise_size"], generator=generator).to(targets))
    if "style" in style.capabilities.inputs:
        places = [n % len(targets) for n in range(len(sources))]
        return style(sources, targets[places])
    return style(sources)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks as they are used, not as they are trained."""
    training = [(network, network.training) for network in networks]
    for network, _ in training:
        network.eval()
    try:
        yield
    finally:
        for network, was in training:
            network.train(was)
