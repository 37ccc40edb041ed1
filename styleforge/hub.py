"""Styles as repositories: one `config.json` and one `model.safetensors`, from a folder, the package or the Hub.

:class:`PretrainedMixin` gives a network `save_pretrained`, `from_pretrained` and `push_to_hub`. It keeps the
interface of `huggingface_hub.ModelHubMixin` and replaces its behaviour where a zoo of strangers' files needs
more: loading is strict, reads safetensors only, takes both files from one commit, and costs nothing before the
configuration has been checked and the tensors' names and shapes agree with it.
"""

from __future__ import annotations

import itertools
import json
import os
import reprlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import __version__, card, configs, weights
from .errors import (
    ConfigError,
    ImageError,
    NotAStyle,
    StyleforgeError,
    UnknownName,
    WeightsError,
    WeightsMismatch,
    nearest,
)
from .files import replacing_folder, write_text
from .layers import shares
from .repos import BUNDLED as BUNDLED
from .repos import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, StyleFiles, fetch, first_line, push_folder
from .repos import MAX_CONFIG_BYTES as MAX_CONFIG_BYTES
from .repos import bundled_styles as bundled_styles
from .repos import fetch_file as fetch_file
from .repos import style_of as style_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Capabilities:
    """What a model takes and gives, pictures in [-1, 1]; pipeline, export and Space ask this instead of the class.

    Attributes:
        inputs: names of what `forward` takes: `("image",)`, `("image", "style")` or `("noise",)`.
        multiple: height and width must be multiples of this.
        smallest: height and width must be at least this.
        output: "image", or "logits" for discriminators.
        strength: `forward` has an argument `strength` in [0, 1] and blends features itself.
        grain: from noise: `forward` has an argument `noises` for what differs between pictures of one style code, and
            the model a method `fresh_noises`.
        styles: how many learnt styles there are to choose from; `forward` then takes `weights` (B, styles).
    """

    inputs: tuple[str, ...] = ("image",)
    multiple: int = 1
    smallest: int = 1
    output: Literal["image", "logits"] = "image"
    strength: bool = False
    grain: bool = False
    styles: int = 1


class PretrainedMixin(
    nn.Module,
    ModelHubMixin,
    library_name="styleforge",
    pipeline_tag="image-to-image",
    tags=["styleforge", "style-transfer"],
):
    """Base of every network that is stored and shared.

    A subclass has a keyword-only constructor whose arguments are plain JSON, annotated with what is allowed
    (see :mod:`styleforge.configs`): they are its configuration. It has no other arguments. Buffers that are
    not stored (`persistent=False`) are made with an explicit `device="cpu"`, because loading builds the
    network on the meta device.
    """

    capabilities: Capabilities = Capabilities()
    architectures: ClassVar[dict[str, type[PretrainedMixin]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Only code can register a class; a repository can merely name one of these.
        PretrainedMixin.architectures[cls.__name__] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        configs.check(cls.__init__, kwargs, where=cls.__name__)
        return super().__new__(cls, *args, **kwargs)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments of this network, defaults included."""
        return dict(self._hub_mixin_config or {})

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run :meth:`forward`, after a look whether the tensors fit.

        Raises:
            ImageError: a wrong number of channels, or a size that this network does not take.
            ConfigError: a tensor is missing, for instance the style of an arbitrary-style network.
        """
        if not torch.compiler.is_compiling():  # tracing has no sizes to look at
            self._check_inputs({**dict(zip(self.capabilities.inputs, args, strict=False)), **kwargs})
        return super().__call__(*args, **kwargs)

    def _check_inputs(self, given: dict[str, Any]) -> None:
        wanted, name = self.capabilities.inputs, type(self).__name__
        for key in wanted:
            if given.get(key) is None:
                raise ConfigError(
                    f"{name} needs a {key}",
                    allowed=f"{name}({', '.join(wanted)})",
                    todo="Give the picture to take the style from." if key == "style" else f"Give the {key}.",
                )
        if "noise" in given:
            self._check_noise(given["noise"])
        for key in ("image", "style"):
            for picture, _ in shares(given[key]) if key in given else ():
                self._check_picture(key, picture)

    def _check_noise(self, noise: Tensor) -> None:
        name, size = type(self).__name__, self.config["noise_size"]
        if noise.ndim != 2 or noise.shape[1] != size:
            raise ConfigError(
                f"{name} does not take noise of this shape",
                found=tuple(noise.shape),
                allowed=f"(B, {size})",
                todo=f"Draw it with torch.randn(B, {size}).",
            )

    def _check_picture(self, key: str, picture: Tensor) -> None:
        can, name = self.capabilities, type(self).__name__
        shape, channels = tuple(picture.shape), self.config.get("in_channels", 3)
        if len(shape) != 4 or shape[1] != channels:
            raise ImageError(
                f"{name} does not take a tensor of this shape",
                where=key,
                found=shape,
                allowed=f"(B, {channels}, H, W)",
                todo="Pictures come as batches, channels first: see styleforge.images.",
            )
        if any(side < can.smallest or side % can.multiple for side in shape[2:]):
            raise ImageError(
                f"{name} does not take pictures of this size",
                where=key,
                found=f"{shape[3]}x{shape[2]}",
                allowed=f"sides of at least {can.smallest} that are multiples of {can.multiple}",
                todo="Pad it with styleforge.images.pad, or use StylePipeline, which takes any size.",
            )

    # -- loading --

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = "",
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a network, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, the name of a bundled style, or `organisation/name` on
                the Hub. A folder that exists is taken first.
            revision: branch, tag or commit on the Hub.
            subfolder: folder inside the repository.
            dtype: convert the weights; as stored when None.
            device: where to put them.
            token: Hub token; the saved one when None.
            cache_dir: Hub cache; the usual one when None.
            local_files_only: never ask the network.
            force_download: fetch again although it is in the cache.

        Raises:
            RepoError: not found, gated, offline, or not a style (see :mod:`styleforge.errors`).
            ConfigError: a configuration that this class does not accept, or a `dtype` or `device` that cannot be used.
            CorruptFileError, UnsafeFileError, WeightsError: files that cannot be used.
        """
        files = fetch(
            pretrained_model_name_or_path,
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls.from_files(files, dtype=dtype, device=device)

    @classmethod
    def from_files(
        cls, files: StyleFiles, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        """Build the network that `files` describe; on `PretrainedMixin` itself the class is looked up.

        Raises: as :meth:`from_pretrained`.
        """
        if dtype not in (None, *FLOATS):  # whole and complex numbers, and 8-bit ones, hold no weights to compute with
            allowed = ", ".join(map(str, FLOATS))
            raise ConfigError("No network computes in this dtype", found=repr(dtype), allowed=allowed, todo="Give one.")
        found = architecture(files)
        if not issubclass(found, cls):
            raise ConfigError(
                f"This is not a {cls.__name__}",
                where=files.where,
                found=found.__name__,
                allowed=cls.__name__,
                todo=f"Load it with {found.__name__}.from_pretrained or StylePipeline.from_pretrained.",
            )
        config = {k: v for k, v in files.config.items() if not k.startswith("_")}
        configs.check(found.__init__, config, where=f"{CONFIG_NAME} of {files.where}")
        try:
            # Nothing is allocated on the meta device: a configuration that asks for a terabyte costs nothing,
            # because its shapes will not be those of the file.
            with torch.device("meta"), WithoutDrawing():
                network = found(**config)
        except StyleforgeError:
            raise
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # a required argument is missing, ...
            raise ConfigError(
                "The configuration does not build a network",
                where=f"{CONFIG_NAME} of {files.where}",
                found=error,
                todo="Ask the author of the style for a complete config.json.",
            ) from error
        _compare(network.state_dict(), weights.read_header(files.weights), where=files.where)
        tensors = weights.read(files.weights)
        weights.check_finite(tensors, where=f"{WEIGHTS_NAME} of {files.where}")
        network.load_state_dict(tensors, strict=True, assign=True)
        try:
            return network.to(device=device, dtype=dtype).eval()
        except (RuntimeError, AssertionError) as error:  # no such kind of device, none of them here, or full
            raise ConfigError(
                "This device cannot be used",
                found=f"{str(device)!r} ({first_line(error)})",
                allowed="cpu, or cuda, mps, xpu where torch finds one",
                todo="Choose another device.",
            ) from error

    # -- saving --

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], *, card_facts: dict[str, Any] | None = None
    ) -> Path:
        """Write `config.json`, `model.safetensors` and, when there is none yet, `README.md` into a folder.

        A crash or a full disk leaves the folder as it was. Weights keep their type.

        Args:
            save_directory: the folder; made when it is missing.
            card_facts: what :func:`styleforge.card.render` puts on the model card.

        Returns:
            The folder.

        Raises:
            NonFiniteWeights: NaN or infinity among the weights.
            WeightsError: two names share one tensor, which safetensors cannot keep apart.
        """
        tensors = self.state_dict()
        _refuse_tied(tensors, where=type(self).__name__)
        config = {"_class_name": type(self).__name__, "_styleforge_version": __version__, **self.config}
        folder = Path(save_directory)
        with replacing_folder(folder, last=(CONFIG_NAME,)) as temporary:
            weights.write(temporary / WEIGHTS_NAME, tensors)
            write_text(temporary / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
            if not (folder / CARD_NAME).exists():
                write_text(temporary / CARD_NAME, str(self.generate_model_card(**(card_facts or {}))))
        return folder

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        card_facts: dict[str, Any] | None = None,
    ) -> str:
        """Upload this network to the Hub in one commit; see :func:`push_folder`.

        Returns:
            The address of the commit, or of the pull request.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save_pretrained(Path(temporary) / "style", card_facts=card_facts)
            return push_folder(
                folder,
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )

    def generate_model_card(self, **facts: Any) -> Any:
        """The model card as `huggingface_hub.ModelCard`; `facts` as in :func:`styleforge.card.render`."""
        from huggingface_hub import ModelCard

        config = {"_class_name": type(self).__name__, **self.config}
        of_class = [tag for tag in self._hub_mixin_info.model_card_data.tags or [] if tag != "model_hub_mixin"]
        facts = {"inputs": self.capabilities.inputs, **facts, "tags": [*of_class, *(facts.get("tags") or [])]}
        return ModelCard(card.render(config, **facts))


class WithoutDrawing(TorchFunctionMode):
    """Random initialisation does nothing on the meta device, but there loads torch's compiler: most of a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):  # kaiming_uniform_ and all their kin
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


def architecture(files: StyleFiles) -> type[PretrainedMixin]:
    """The class that a configuration names, from our own table; nothing is imported for it.

    Raises:
        UnknownName: no such class; the nearest one is named.
        NotAStyle: the configuration names none.
    """
    name = files.config.get("_class_name")
    if not isinstance(name, str):
        raise NotAStyle(
            f"{CONFIG_NAME} names no architecture",
            where=files.where,
            found=f"_class_name = {reprlib.repr(name)}",
            allowed=", ".join(sorted(PretrainedMixin.architectures)),
            todo="Only networks saved by styleforge can be loaded.",
        )
    if name not in PretrainedMixin.architectures:
        raise UnknownName(
            "Unknown architecture",
            where=files.where,
            found=repr(name[:80]),
            allowed=", ".join(sorted(PretrainedMixin.architectures)),
            todo=f"{nearest(name, PretrainedMixin.architectures)}A newer styleforge may know it.",
        )
    return PretrainedMixin.architectures[name]


def _compare(ours: dict[str, Tensor], theirs: dict[str, weights.TensorInfo], where: str) -> None:
    """Names and shapes of a network against those of a file, before any tensor is read."""
    missing = sorted(set(ours) - set(theirs))
    unexpected = sorted(set(theirs) - set(ours))
    shapes = [
        f"{name} {theirs[name].shape} instead of {tuple(ours[name].shape)}"
        for name in ours
        if name in theirs and theirs[name].shape != tuple(ours[name].shape)
    ]
    kinds = [
        f"{name} of type {theirs[name].dtype}"
        for name in ours
        if name in theirs and not _interchangeable(weights.DTYPES[theirs[name].dtype], ours[name].dtype)
    ]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misfit", shapes),
            ("mistyped", kinds),
        )
        if names
    ]
    if parts:
        raise WeightsMismatch(
            f"{WEIGHTS_NAME} does not fit {CONFIG_NAME}",
            where=where,
            found=" and ".join(parts),
            allowed=f"exactly the {len(ours)} tensors of this architecture",
            todo="Both files must come from one save; ask the author of the style.",
        )


def _interchangeable(theirs: torch.dtype, ours: torch.dtype) -> bool:
    return theirs == ours or (theirs.is_floating_point and ours.is_floating_point)


def _refuse_tied(tensors: dict[str, Tensor], where: str) -> None:
    """Tensors that share memory would be stored twice, and part on loading."""
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name)
        for name, tensor in tensors.items()
        if tensor.numel()
    )
    for (device, _, end, name), (other_device, begin, _, other) in itertools.pairwise(spans):
        if device == other_device and begin < end:
            raise WeightsError(
                "Two names share one tensor",
                where=where,
                found=f"'{name}' and '{other}'",
                allowed="a tensor of its own for every name",
                todo="Clone one of them before saving.",
            )


def _extent(tensor: Tensor) -> int:
    """Bytes from the first element of a tensor to the end of its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * (1 + sum((size - 1) * stride for size, stride in steps))
