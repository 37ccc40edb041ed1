"""Styles in spandrel, and so in whatever loads its networks with it: chaiNNer, ComfyUI's loader of upscale models.

>>> from spandrel import ModelLoader
>>> from styleforge.bridges import spandrel as bridge
>>> bridge.register()
>>> bridge.save("fastcut-monet", "fastcut-monet.safetensors")
>>> painted = ModelLoader().load_from_file("fastcut-monet.safetensors")(photo)  # both (1, 3, H, W) in [0, 1]

spandrel knows a network by its tensors alone, and those of a `model.safetensors` do not tell all that its `config.json`
does: how borders are padded, or steps up resized, is in no shape. So :func:`save` writes a file that carries the
configuration as one more tensor; a plain `model.safetensors` is refused with that advice, and not guessed at.
Checkpoints of other projects need no such file, because there the project settles what shapes leave open:
:func:`register` has spandrel load every generator that :mod:`styleforge.convert` recognizes.

spandrel has no word for style: "Restoration" is its only purpose for what is neither larger nor filled in. A picture
goes in and one comes out. Networks that ask for the picture of a style, and strength, colors and masks, are for
:class:`styleforge.StylePipeline`; of several learnt styles the first is painted. Programs that cut large pictures into
tiles by themselves, whatever `tiling` says, get seams: ComfyUI does from 512 px on, and :mod:`.comfyui` does not.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__, engine, weights
from ..convert.recognize import FAMILIES, Fit, recognize
from ..convert.unwrap import unwrap
from ..errors import ConfigError, MissingExtra, NotAStyle, WeightsError, WeightsMismatch
from ..files import write_bytes
from ..hub import PretrainedMixin, WithoutDrawing
from ..models import MODELS
from ..repos import CONFIG_NAME, WEIGHTS_NAME, local

try:
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelTiling,
        SizeRequirements,
    )
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
    raise MissingExtra(
        "This bridge needs spandrel",
        found=error,
        todo="Install it with: pip install 'styleforge[spandrel]', with a torchvision of the same build as torch.",
    ) from error

CONFIG_KEY = "styleforge.config"  # uint8: the text of config.json


def register(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Teach spandrel our files and other projects' generators, after all that it knows itself; twice does no harm.

    Args:
        registry: of architectures; that of every `ModelLoader` without one of its own.
    """
    known = (ArchSupport.from_architecture(architecture) for architecture in (StyleArch(), CheckpointArch()))
    registry.add(*known, ignore_duplicates=True)


def load(style: str | os.PathLike[str], **options: Any) -> ImageModelDescriptor[nn.Module]:
    """A style as a descriptor, in float32; nothing need be registered.

    Args:
        style: a folder, the name of a bundled style, or `organisation/name` on the Hub.
        **options: as for :meth:`styleforge.PretrainedMixin.from_pretrained`.

    Raises:
        ConfigError: the network does not make a picture of a picture.
        StyleforgeError: as there.
    """
    network = PretrainedMixin.from_pretrained(style, **{"dtype": torch.float32, **options})
    return _describe(network, StyleArch())


def save(style: str | os.PathLike[str], path: str | os.PathLike[str], **options: Any) -> Path:
    """Write a style as one file that spandrel loads after :func:`register`.

    Args:
        style: as for :func:`load`, like `options`.
        path: of the file, ending in `.safetensors`; in ComfyUI it belongs into `models/upscale_models`.
        **options: see there.

    Raises:
        ConfigError: another suffix, or as for :func:`load`.
        StyleforgeError: as for :func:`load`.
    """
    if Path(path).suffix.lower() != ".safetensors":
        todo = "Name it .safetensors: spandrel goes by the suffix."
        raise ConfigError("Cannot write this file", where=path, allowed=".safetensors", todo=todo)
    network = load(style, **{"dtype": None, **options}).model
    config = {"_class_name": type(network).__name__, "_styleforge_version": __version__, **network.config}
    text = torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)
    return weights.write(path, {**network.state_dict(), CONFIG_KEY: text})


class StyleArch(Architecture[nn.Module]):
    """What :func:`save` writes."""

    def __init__(self) -> None:
        super().__init__(id="styleforge", name="styleforge", detect=_is_style)

    def load(self, state_dict: Mapping[str, Tensor]) -> ImageModelDescriptor[nn.Module]:
        """The network that a file describes, read as strictly as any style.

        Raises:
            NotAStyle: a style's plain weights, without their configuration.
            StyleforgeError: configuration and weights cannot be used or do not fit.
        """
        tensors = dict(state_dict)
        config = tensors.pop(CONFIG_KEY, None)
        if config is None:
            raise NotAStyle(
                "These weights do not tell which network they are of",
                found=f"a style without '{CONFIG_KEY}'",
                todo="Write a file that tells with styleforge.bridges.spandrel.save(style, file), and load that one.",
            )
        with tempfile.TemporaryDirectory() as folder:  # whatever is checked of a style, is checked of its two files
            write_bytes(Path(folder, CONFIG_NAME), config.cpu().numpy().tobytes())
            weights.write(Path(folder, WEIGHTS_NAME), tensors)
            files = local(Path(folder), "a file of spandrel")
            return _describe(PretrainedMixin.from_files(files, dtype=torch.float32), self)


class CheckpointArch(Architecture[nn.Module]):
    """Generators of other projects, see :mod:`styleforge.convert`; of two ways in one file, the way there."""

    def __init__(self) -> None:
        super().__init__(
            id="styleforge-checkpoint", name="GAN image style", detect=lambda state: _recognized(state) is not None
        )

    def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[nn.Module]:
        """The same network as one of ours, in float32; batch norms use the statistics that the project does.

        Raises:
            NonFiniteWeights: NaN or infinity among the weights.
        """
        found = _recognized(state_dict)
        assert found is not None, "spandrel asks `detect` first"
        fit, tensors = found
        weights.check_finite(tensors, where=fit.family.name)
        if "statistics" in fit.config:
            fit = fit.refit(statistics=fit.family.statistics)
        return _describe(fit.convert(tensors), self)


def _describe(network: PretrainedMixin, architecture: Architecture[nn.Module]) -> ImageModelDescriptor[nn.Module]:
    can, config = network.capabilities, network.config
    if not _paints(network):
        raise ConfigError(
            "spandrel has no use for this network",
            where=type(network).__name__,
            found=f"{' and '.join(can.inputs)} in, {can.output} out",
            allowed="an image in, an image out",
            todo="Use it with StylePipeline.",
        )
    return ImageModelDescriptor(
        network,
        network.state_dict(),
        architecture,
        purpose="Restoration",
        tags=[type(network).__name__],
        supports_half=False,  # nobody has tried
        supports_bfloat16=True,
        scale=1,
        input_channels=config.get("in_channels", 3),
        output_channels=config.get("out_channels", 3),
        size_requirements=SizeRequirements(minimum=can.smallest, multiple_of=can.multiple),
        tiling=ModelTiling.INTERNAL,  # our tiles share exact statistics; a caller's would each have a light of its own
        call_fn=_run,
    )


def _paints(network: PretrainedMixin) -> bool:
    return network.capabilities.inputs == ("image",) and network.capabilities.output == "image"


def _run(network: nn.Module, image: Tensor) -> Tensor:
    """(1, C, H, W) in [0, 1] to the same."""
    return (engine.run(network, image * 2 - 1, fast=False) + 1) / 2


def _is_style(state: Mapping[str, Any]) -> bool:
    text = state.get(CONFIG_KEY)
    return (isinstance(text, Tensor) and text.dtype == torch.uint8) or _parts(state) in _plain_parts()


def _parts(state: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(key).partition(".")[0] for key in state)


@functools.cache
def _plain_parts() -> set[frozenset[str]]:
    """The parts of our usual networks, by which a plain `model.safetensors` is known, though not read."""
    with torch.device("meta"), WithoutDrawing():
        usual = [model() for model in MODELS]
    return {_parts(network.state_dict()) for network in usual if _paints(network)}


def _recognized(state: Mapping[str, Any]) -> tuple[Fit, dict[str, Tensor]] | None:
    """The generator in a checkpoint, with its tensors; None when there is none that we know."""
    families = [f for f in FAMILIES if f.role == "generator" and f.model.capabilities.inputs == ("image",)]
    found = []
    with suppress(WeightsError):  # of prefixes that cannot be undone
        for name, tensors in unwrap(state).items():
            with suppress(WeightsMismatch):
                fit = recognize(tensors, name, families)
                found.append((fit.family.role_of(name) != "generator", fit, tensors))
    return min(found, key=lambda one: one[0])[1:] if found else None  # the way there before the way back
