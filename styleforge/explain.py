"""Seeing inside: where a style changes a picture, what it looks at, and what its discriminators think of the result.

>>> explanation = explain(pipe, "photo.jpg")
>>> explanation.overlay("changed").save("changed.png")

All maps are (H, W) in [0, 1], of the size of the picture:

================ ====================================================================================
`changed`        how far each pixel went; 1 is from black to white
`changed_luma`   how far its luma went
`changed_color`  how far it went at the same luma; 1 is from blue to yellow, or from green to magenta
`attention`      U-GAT-IT: the heat of its class activation map, 0 at the coldest place, 1 at the hottest
`concentration`  networks that attend to a style: 1 where a place looks at one place of it, 0 where it
                 looks at all of them alike
`looked_at`      the same networks, and of the size of the *style's* picture: how much of all looks each
                 place of it gets, or of those from `point`; 1 is the most
`real`           how real a discriminator finds each place of the result, from 0, the least, to 1; with
                 several of them `real NAME`
================ ====================================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import adaptation, images, methods
from .errors import ConfigError, UnknownName, nearest
from .export import network_input
from .files import replacing_folder
from .hub import PretrainedMixin
from .models import AttentionGenerator, UGATITGenerator
from .models.attention import BLOCK, attention_weights, check_point, looks_from
from .models.ugatit import draw_heatmap
from .pipeline import StylePipeline, luma
from .samples import evaluating

# sRGB; between neighbors the lightness L* differs by 23 to 26.
SCALE = ((0, 0, 0), (80, 28, 128), (205, 65, 85), (245, 155, 50), (255, 250, 180))
LAYER = "relu4_1"  # at which all networks that attend to a style do so


@dataclass(frozen=True, eq=False)
class Explanation:
    """What :func:`explain` found.

    Attributes:
        image: the picture.
        styled: the same in the style.
        style: picture of the style, as the network saw it; None where the network has learnt its styles.
        maps: (H, W) float32 in [0, 1] by name.
    """

    image: Image.Image
    styled: Image.Image
    style: Image.Image | None
    maps: dict[str, np.ndarray]

    def draw(self, name: str) -> Image.Image:
        """A map in :func:`colors`, up to what one pixel in 200 exceeds: else few of them would leave the others dark.

        Raises:
            UnknownName: there is no such map.
        """
        if name not in self.maps:
            raise UnknownName(
                "There is no such map",
                found=repr(name),
                allowed=", ".join(self.maps),
                todo=f"{nearest(name, self.maps)}Not all networks have all.",
            )
        values = self.maps[name]
        top = max(np.quantile(values, 0.995), values.max() / 10, 1e-6)
        return Image.fromarray((colors(values / top) * 255).round().astype(np.uint8))

    def overlay(self, name: str, opacity: float = 0.5) -> Image.Image:
        """A map as :meth:`draw` has it, over the picture that it belongs to, in gray.

        Args:
            name: of the map.
            opacity: of the map, 0 to 1.

        Raises:
            UnknownName: there is no such map.
            ConfigError: another opacity.
        """
        if not 0 <= opacity <= 1:
            raise ConfigError("opacity cannot be used", found=opacity, allowed="0 to 1", todo="1 hides the picture.")
        drawn = self.draw(name)
        below = self.style if name == "looked_at" else self.styled if name.startswith("real") else self.image
        return Image.blend(below.convert("L").convert("RGB"), drawn, opacity)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `image.png`, `styled.png`, and for each map `NAME.png` and `NAME-overlay.png`, all or nothing.

        Returns:
            The folder; made when it is missing.
        """
        with replacing_folder(folder) as temporary:
            images.save(self.image, temporary / "image.png")
            images.save(self.styled, temporary / "styled.png")
            for name in self.maps:
                file = name.replace(" ", "-")
                images.save(self.draw(name), temporary / f"{file}.png")
                images.save(self.overlay(name), temporary / f"{file}-overlay.png")
        return Path(folder)


@torch.no_grad()
def explain(
    style: PretrainedMixin | StylePipeline,
    image: Any,
    *,
    reference: Any = None,
    point: tuple[int, int] | None = None,
    discriminator: PretrainedMixin | Mapping[str, PretrainedMixin] | str | os.PathLike[str] | None = None,
) -> Explanation:
    """Style a picture and say what happened; for the maps see :mod:`styleforge.explain`.

    Args:
        style: the style.
        image: in any form that :class:`StylePipeline` takes; transparency is left aside.
        reference: the style, as `style` in calling the pipeline.
        point: row and column of the pixel whose looks `looked_at` shows; those of all pixels when None.
        discriminator: one, or several by name, that judge the result; or a style (a folder, or a name on the Hub)
            that carries its own in `training/`. One that sees pairs is shown the picture beside the result.

    Raises:
        ConfigError: a network that starts from noise; a `point` for one that attends to no style; a discriminator
            that is none, or a style without any.
        ImageError: a picture cannot be used; a point outside of it.
        RepoError, CorruptFileError, WeightsError: the style of the discriminators cannot be used.
    """
    pipe = style if isinstance(style, StylePipeline) else StylePipeline(style)
    model = pipe.model
    if model.capabilities.inputs == ("noise",):
        raise ConfigError(
            "A network that starts from noise changes no picture, so there is nothing to explain",
            where=type(model).__name__,
            todo="Take a style that changes pictures.",
        )
    if point is not None and not isinstance(model, AttentionGenerator):
        raise ConfigError(
            "A point can only be asked where it looks in networks that attend to a style",
            where=type(model).__name__,
            todo="Leave out `point`.",
        )
    judges = _judges(discriminator)
    picture = images.read(image, pipe.policy)
    source = picture.tensor(device=pipe.device)
    styled = pipe(picture, style=reference, output_type="pt")[None, :3].to(source) * 2 - 1
    maps, looked_at = changes(source, styled), None
    if isinstance(model, UGATITGenerator):
        maps["attention"] = _heat(model, source)
    elif isinstance(model, AttentionGenerator):
        looked_at = pipe._style_options(reference)["style"][0][0]  # of several, the first
        maps |= _looks(model, source, looked_at, point)
    for name, judge in judges.items():
        maps[f"real {name}".strip()] = _real(judge.to(source.device), source, styled)
    arrays = {name: values[0, 0].float().clamp(0, 1).cpu().numpy() for name, values in maps.items()}
    shown = None if looked_at is None else images.to_pil(looked_at)
    return Explanation(images.to_pil(source), images.to_pil(styled), shown, arrays)


def changes(source: Tensor, styled: Tensor) -> dict[str, Tensor]:
    """How far pixels went, as `changed`, `changed_luma` and `changed_color`.

    Args:
        source: (B, 3, H, W) in [-1, 1].
        styled: of the same shape.

    Returns:
        (B, 1, H, W) in [0, 1] each: root mean squares over the channels, of the whole difference, of its luma, and
        of the rest.
    """
    difference = (styled - source) / 2
    light = luma(difference)
    parts = {"changed": difference, "changed_luma": light, "changed_color": difference - light}
    # Of the colors, green to magenta gives 1.07 and blue to yellow 1.04; these count as 1.
    return {name: part.square().mean(1, keepdim=True).sqrt().clamp(max=1) for name, part in parts.items()}


def colors(values: np.ndarray) -> np.ndarray:
    """A scale of colors that gets lighter step by step, in gray print too.

    Args:
        values: in [0, 1].

    Returns:
        (*values.shape, 3) in [0, 1]: black, violet, red, orange, pale yellow.
    """
    places = np.linspace(0, 1, len(SCALE))
    return np.stack([np.interp(values, places, channel) for channel in np.transpose(SCALE)], -1) / 255


def discriminators(style: str | os.PathLike[str]) -> dict[str, PretrainedMixin]:
    """The discriminators that a style carries in `training/`, but for those of its source.

    Args:
        style: a folder, or a name on the Hub.

    Returns:
        Networks in evaluation mode, by their names in the method.

    Raises:
        ConfigError: it carries none.
        RepoError, CorruptFileError, WeightsError: it cannot be used.
    """
    recipe = adaptation.find(style).recipe()
    if recipe:
        settings = {**recipe, **(recipe.get("settings") or {})}  # some networks are made for the size of the run
        known = methods.settings(recipe["method"]).keys() & settings.keys()
        method = methods.build(recipe["method"], {key: settings[key] for key in known})
        adaptation.load_training(method, style)
        found: dict[str, PretrainedMixin] = {}
        for name, network in method.named_modules():  # the parts of one come after it
            judges = isinstance(network, PretrainedMixin) and network.capabilities.output == "logits"
            if judges and "source" not in name and not name.startswith(tuple(f"{known}." for known in found)):
                found[name] = network.eval()
        if found:
            return found
    raise ConfigError(
        "This style carries no discriminators",
        where=style,
        allowed=f"a style whose {adaptation.TRAINING}/ holds some",
        todo="Give a discriminator itself, or leave it out.",
    )


def _judges(given: Any) -> dict[str, PretrainedMixin]:
    """Discriminators by name, from all that :func:`explain` takes."""
    if given is None:
        return {}
    if isinstance(given, (str, os.PathLike)):
        found = discriminators(given)
    else:
        found = dict(given) if isinstance(given, Mapping) else {"": given}
    for network in found.values():
        if not isinstance(network, PretrainedMixin) or network.capabilities.output != "logits":
            raise ConfigError(
                "This is no discriminator",
                found=type(network).__name__,
                allowed="a network that gives logits, or a style that carries some",
                todo="Give a PatchDiscriminator, for example.",
            )
    return {"": next(iter(found.values()))} if len(found) == 1 else found


def _real(judge: PretrainedMixin, source: Tensor, styled: Tensor) -> Tensor:
    """How real each place of a result seems, (B, 1, H, W) from 0 to 1; the same everywhere counts as 1."""
    can, channels = judge.capabilities, judge.config.get("in_channels", 3)
    seen = torch.cat([source, styled], 1) if channels == 6 else styled
    if seen.shape[1] != channels:
        raise ConfigError(
            "This discriminator does not judge such pictures",
            where=type(judge).__name__,
            found=f"{channels} channels",
            allowed="3, or 6 for pairs",
            todo="Leave it out.",
        )
    padded, box = images.pad(seen.to(judge.dtype), can.multiple, can.smallest)
    with evaluating(judge):
        logits = judge.judge(padded)[0] if hasattr(judge, "judge") else judge(padded)  # the finest of several
    if logits.ndim != 4:
        raise ConfigError(
            "This discriminator judges pictures as a whole, not their places",
            where=type(judge).__name__,
            todo="Give a PatchDiscriminator, for example.",
        )
    return images.crop(draw_heatmap(logits, padded.shape[2:]), box)[:, :1] / 2 + 0.5


def _heat(model: UGATITGenerator, source: Tensor) -> Tensor:
    """The class activation map in the size of the picture, (B, 1, H, W) from 0 to 1."""
    padded, box = images.pad(source.to(model.dtype), model.capabilities.multiple, model.capabilities.smallest)
    heatmap = model.translate(network_input(model, padded / 2 + 0.5))[2]
    return images.crop(draw_heatmap(heatmap, padded.shape[2:]), box)[:, :1] / 2 + 0.5


def _looks(
    model: AttentionGenerator, source: Tensor, style: Tensor, point: tuple[int, int] | None
) -> dict[str, Tensor]:
    """`concentration` (B, 1, H, W), and `looked_at` (B, 1, h, w), of one picture and one of the style."""
    if point is not None:
        check_point(point, source.shape[2:])
    padded, box = images.pad(source.to(style), model.capabilities.multiple, model.capabilities.smallest)
    query, key = model.attention.project(model.extract(padded), model.extract(style), LAYER)
    places, entropies, looks = key[0, 0].numel(), [], 0
    for part in query.flatten(2).split(max(1, BLOCK // places), 2):
        weights = attention_weights(part, key.flatten(2))
        entropies.append(torch.special.entr(weights).sum(2))
        looks = looks + weights.sum(1)
    entropy = torch.cat(entropies, 1).unflatten(1, query.shape[2:])[:, None]
    concentration = F.interpolate(1 - entropy / math.log(places), padded.shape[2:], mode="bilinear")
    if point is None:
        looked_at = looks.unflatten(1, key.shape[2:])[:, None]
    else:
        looked_at = looks_from(point, padded.shape[2:], query, key)
    looked_at = F.interpolate(looked_at / looked_at.amax(), style.shape[2:], mode="bilinear")
    return {"concentration": images.crop(concentration, box), "looked_at": looked_at}
