"""Detail as strong as in other pictures, without training: a filter behind a style's last layer is fitted to them.

A generator learns what paint looks like sooner than how strong its finest grain is, because a discriminator of patches
looks at forms. How strong detail of each size is, is what a linear filter changes, and nothing else: it invents nothing
and moves nothing. Its weights are found in half a minute from the style's own pictures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from . import configs, images
from .adaptation import TRAINING, find
from .configs import Range
from .data import list_pictures
from .engine import accelerate
from .errors import ConfigError, DataError
from .files import new_or_empty, replacing_folder
from .hub import CARD_NAME, PretrainedMixin
from .losses.pixel import YUV
from .metrics.texture import log_power, spectrum, texture
from .models.resnet import filtered

SIZE, LIMIT, FEWEST = 256, 60, 3  # pixels of the pictures; most of them, and fewest
STEPS = 40
SMALL = 1e-3  # weight of the squared taps: what is not needed stays away


@dataclass(frozen=True)
class Equalized:
    """A style with its filter.

    Attributes:
        network: the style.
        before: :func:`~styleforge.metrics.texture.texture` of the pictures it made, to the target's.
        after: the same with the filter.
        photographs: of what it made them from.
    """

    network: PretrainedMixin
    before: float
    after: float
    photographs: float


def equalize(
    style: str | os.PathLike[str],
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    strength: Annotated[float, Range(0, 1)] = 1.0,
    revision: str | None = None,
    size: Annotated[int, Range(32, 4096)] = SIZE,
    limit: Annotated[int, Range(FEWEST, 10**6)] = LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> Equalized:
    """Give a style a filter with which its pictures have detail as strong as others on the mean.

    For luma and each chroma one filter of 7 x 7, symmetric, that leaves even planes alone; for all places and pictures
    the same. It is fitted (L-BFGS) so that the mean over pictures of :func:`~styleforge.metrics.texture.log_power`,
    each frequency in deviations between the targets, becomes that of the targets. So this measure of pictures that the
    filter was fitted to says little: take others to judge a style by, and other measures.

    A filter that is there already is replaced. Discriminators that came with the style stay; `styleforge adapt` goes on
    without the filter, which is then to be fitted anew.

    Args:
        style: name of a bundled one, folder of a style or of a run, or `organisation/name` on the Hub.
        source: folder of pictures as the style was trained on.
        target: folder of pictures whose detail is wanted: those that it learnt from.
        output: folder for the style, new or empty; nowhere when None.
        strength: share of the filter's effect; 0 is none.
        revision: branch, tag or commit on the Hub.
        size: of the middle squares that are looked at, as in `styleforge evaluate`: detail of pictures that were
            reduced is not that of larger ones.
        limit: most pictures of the source; of the target all are looked at.
        progress: called with how many pictures are made, of how many.

    Raises:
        ConfigError: the network has no place for such a filter, or the folder holds something.
        DataError: fewer than 3 pictures in a folder.
        RepoError, WeightsError: see :meth:`styleforge.hub.PretrainedMixin.from_pretrained`.
    """
    configs.check(equalize, {"strength": strength, "size": size, "limit": limit}, "equalize")
    folder = None if output is None else new_or_empty(output)
    base = find(style, revision)
    published = PretrainedMixin.from_files(base.files)
    network = _with_filter(published, base.files.where)
    sources, targets = _pictures(source), _pictures(target)
    sources = sources[:: -(-len(sources) // limit)]
    photographs, made = [], []
    for number, file in enumerate(sources):
        photo = images.square(images.read(file), size)
        with torch.no_grad(), accelerate(network):
            made.append(network(photo))
        photographs.append(spectrum(photo))
        if progress:
            progress(number + 1, len(sources))
    wanted = torch.cat([spectrum(images.square(images.read(file), size)) for file in targets])
    made = torch.cat(made)
    network.equalizer.weight.data.lerp_(fitted(made, wanted), strength)
    with torch.no_grad():
        spectra = [torch.cat([spectrum(x) for x in pictures.split(1)]) for pictures in (made, network.equalizer(made))]
    before, after = (texture(wanted, each) for each in spectra)
    network.to(published.dtype)
    if folder is not None:
        _save(network, base.files.weights.parent if base.files.commit is None else None, folder)
    return Equalized(network, before, after, texture(wanted, torch.cat(photographs)))


def fitted(made: Tensor, wanted: Tensor) -> Tensor:
    """The filter.

    Args:
        made: pictures (B, 3, H, W) in [-1, 1].
        wanted: spectra (n, 192) of others.

    Returns:
        Weights (3, 3, 7, 7) of a convolution.
    """
    mean, deviation = wanted.mean(0).to(made), wanted.std(0).clamp_min(1e-3).to(made)
    quarters = torch.zeros(3, 4, 4, requires_grad=True)  # of each plane's filter: the others are mirrored
    optimizer = torch.optim.LBFGS([quarters], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        distance = ((log_power(filtered(made, _in_colors(quarters))).mean(0) - mean) / deviation).square().mean()
        total = distance + SMALL * quarters.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return _in_colors(quarters).detach()


def _in_colors(quarters: Tensor) -> Tensor:
    """Filters of luma and chromas as one convolution of red, green and blue; each leaves the mean of a plane alone."""
    half = torch.cat([quarters.flip(2)[:, :, :-1], quarters], dim=2)
    whole = torch.cat([half.flip(1)[:, :-1], half], dim=1)
    whole = whole - whole.mean((1, 2), keepdim=True)
    matrix = torch.tensor(YUV)
    planes = torch.einsum("op,pyx,pc->ocyx", matrix.inverse(), whole, matrix)
    return planes + torch.nn.init.dirac_(torch.empty_like(planes))


def _with_filter(network: PretrainedMixin, where: object) -> PretrainedMixin:
    """The same network with a filter that does nothing yet."""
    if network.config.get("equalizer") is None or network.config.get("out_channels") != 3:
        raise ConfigError(
            "This network has no place for an equalizer",
            where=where,
            found=type(network).__name__,
            allowed="ResnetGenerator with three output channels: styles of cut, fastcut, cyclegan, pix2pix",
            todo="Take one of these.",
        )
    tensors = {name: value for name, value in network.state_dict().items() if not name.startswith("equalizer.")}
    new = type(network)(**{**network.config, "equalizer": True})
    new.load_state_dict(tensors, strict=False)
    return new.eval()


def _pictures(folder: str | os.PathLike[str]) -> list[Path]:
    found = list_pictures(folder)
    if len(found) < FEWEST:
        raise DataError(
            "Too few pictures", where=folder, found=len(found), allowed=f"at least {FEWEST}", todo="Add some."
        )
    return found


def _save(network: PretrainedMixin, old: Path | None, output: Path) -> None:
    """Write the style with its card and its discriminators, where it has them."""
    with replacing_folder(output) as temporary:
        if old is not None and (old / CARD_NAME).is_file():
            shutil.copy(old / CARD_NAME, temporary)
        if old is not None and (old / TRAINING).is_dir():
            shutil.copytree(old / TRAINING, temporary / TRAINING)
        network.save_pretrained(temporary)
