"""Styles in diffusers.

Most of it needs no bridge, because :class:`styleforge.StylePipeline` takes what diffusers' pipelines give, in any of
their forms (`output_type="pil"`, `"np"` or `"pt"`):

>>> paint = StylePipeline.from_pretrained("fastcut-monet")
>>> painted = paint(pipe("a harbor at dawn").images, strength=0.8)

Here are a style as a component of pipelines, and as the last step of any:

>>> style = StyleModel.from_pretrained("fastcut-monet")
>>> pixels = style(vae.decode(latents / vae.config.scaling_factor).sample)  # both in [-1, 1]
>>> painter = StyledPipeline(pipe, style)
>>> painter("a harbor at dawn", style_options={"strength": 0.8}).images[0]
>>> painter.save_pretrained("painter")
>>> painter = StyledPipeline.from_pretrained("painter")

What diffusers 0.42 does not let us do: `DiffusionPipeline.from_pretrained` itself knows no pipelines of others, and a
pipeline of yours with a :class:`StyleModel` in it loads from a folder (when this module has been imported), but never
from the Hub, where diffusers refuses components of others before it looks at what was given. For
:class:`StyledPipeline` its own `from_pretrained` does both; the snippet that the Hub shows for it does not work. To
share a style alone, push it with :meth:`StyleModel.push_to_hub`, which makes it one of ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from .. import images
from ..errors import ConfigError, MissingExtra, NotAStyle
from ..hub import PretrainedMixin
from ..pipeline import OutputType, StylePipeline
from ..repos import check_digest, plain_errors

try:
    from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
except (ImportError, RuntimeError) as error:  # RuntimeError: what diffusers says of a dependency that fails to import
    raise MissingExtra(
        "This bridge needs diffusers", found=error, todo="Install it with: pip install 'styleforge[diffusers]'"
    ) from error

PARTS = ("pipeline", "style")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # the latter two are vocabularies; no pickles, no code
# How diffusers would have weights travel. Ours are read in one way, which suits all of these.
_TRAVEL = {"low_cpu_mem_usage", "disable_mmap", "use_safetensors", "max_memory", "offload_folder", "offload_state_dict"}


class StyleModel(ModelMixin, ConfigMixin):
    """A network of ours as a component of diffusers' pipelines, in the files of a style.

    It takes what decoders give, computes it whole, and has gradients.

    Args:
        network: that makes a picture of a picture, or of a picture and one of the style.

    Raises:
        ConfigError: the network does something else.
    """

    def __init__(self, network: PretrainedMixin) -> None:
        super().__init__()
        can = network.capabilities
        if can.inputs[0] != "image" or can.output != "image":
            raise ConfigError(
                "This network styles no pictures",
                where=type(network).__name__,
                found=f"{' and '.join(can.inputs)} in, {can.output} out",
                allowed="an image in, with or without a style, and an image out",
                todo="Load the generator of a style.",
            )
        self.register_to_config(**network.config)
        self.network = network
        self.train(network.training)

    def forward(self, image: Tensor, **options: Any) -> Tensor:
        """Style pictures of any size.

        Args:
            image: (B, C, H, W) in [-1, 1].
            **options: what the network takes beside it: `style`, `strength`, `weights`.

        Returns:
            (B, C, H, W) in [-1, 1], of the type of `image`.

        Raises:
            ImageError, ConfigError: as for calling the network.
        """
        can = self.network.capabilities
        padded, box = images.pad(image.to(self.dtype), can.multiple, can.smallest)
        return images.crop(self.network(padded, **options), box).to(image.dtype)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Self:
        """Load a style, wherever it lies, as strictly as always.

        Args:
            pretrained_model_name_or_path: a folder, the name of a bundled style, or `organisation/name` on the Hub.
            torch_dtype: diffusers' older name of `dtype`.
            dtype: convert the weights; to float32 when None, as diffusers does.
            **options: as for :meth:`styleforge.PretrainedMixin.from_pretrained`, and what diffusers says of how to read
                weights, which changes nothing.

        Raises:
            ConfigError: an option of diffusers that would change the result, and that we do not have.
            StyleforgeError: as there.
        """
        ours = {name: value for name, value in options.items() if name not in _TRAVEL}
        foreign = {"device_map", "variant", "quantization_config", "use_flashpack"} & ours.keys()
        if asked := sorted(name for name in foreign if ours.pop(name)):
            raise ConfigError(
                "A style is not loaded like this",
                where=pretrained_model_name_or_path,
                found=", ".join(asked),
                todo="Leave it out; dtype= and .to() are understood.",
            )
        dtype = dtype or torch_dtype or torch.float32
        return cls(PretrainedMixin.from_pretrained(pretrained_model_name_or_path, dtype=dtype, **ours))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **card: Any) -> Path:  # type: ignore[override]
        """Write the style; see :meth:`styleforge.PretrainedMixin.save_pretrained`."""
        return self.network.save_pretrained(save_directory, **card)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Upload the style; see :meth:`styleforge.PretrainedMixin.push_to_hub`."""
        return self.network.push_to_hub(repo_id, **options)


class StyledPipeline(DiffusionPipeline):
    """A pipeline of diffusers and a style that its pictures are painted in.

    Schedulers, offloading, progress and whatever else is special to the pipeline stay with `self.pipeline`.

    Args:
        pipeline: any that makes pictures.
        style: the style.
    """

    def __init__(self, pipeline: DiffusionPipeline, style: StyleModel) -> None:
        super().__init__()
        self.register_modules(pipeline=pipeline, style=style)

    def __call__(
        self,
        *args: Any,
        style_options: dict[str, Any] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        **kwargs: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make pictures and paint them; between the two they are not rounded to 8 bit.

        Args:
            *args: for the pipeline.
            style_options: of :meth:`styleforge.StylePipeline.__call__`, for instance `{"strength": 0.6}`.
            output_type: "pil", a list of pictures; "np", an array (B, H, W, 3); "pt", a tensor (B, 3, H, W), both in
                [0, 1].
            return_dict: give diffusers' output, or a tuple.
            **kwargs: for the pipeline.

        Raises:
            ConfigError: another type of output, a pipeline that makes no pictures, or as for the style.
        """
        if output_type not in get_args(OutputType):
            allowed = ", ".join(get_args(OutputType))
            raise ConfigError("Unknown output_type", found=output_type, allowed=allowed, todo="Choose one of these.")
        made = self.pipeline(*args, **kwargs, output_type="np")
        if not hasattr(made, "images"):
            raise ConfigError(
                "This pipeline makes no pictures",
                where=type(self.pipeline).__name__,
                found=type(made).__name__,
                allowed="an output with `images`",
                todo="Style its frames one by one with StylePipeline.",
            )
        paint = StylePipeline(self.style.network, fast=False)  # in its own type, as all of diffusers
        painted: Any = paint(list(made.images), **(style_options or {}), output_type=output_type)
        if output_type != "pil":
            painted = (np if output_type == "np" else torch).stack(painted)
        return ImagePipelineOutput(images=painted) if return_dict else (painted,)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert both; diffusers itself would leave a pipeline inside of a pipeline where it is."""
        self.pipeline.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Self:
        """Load what `save_pretrained` or `push_to_hub` wrote; safetensors and JSON only, no code.

        Args:
            pretrained_model_name_or_path: a folder, or `organisation/name` on the Hub.
            revision: branch, tag or commit on the Hub.
            token: Hub token; the saved one when None.
            cache_dir: Hub cache; the usual one when None.
            local_files_only: never ask the network.
            force_download: fetch again although it is in the cache.
            torch_dtype: diffusers' older name of `dtype`.
            dtype: convert the weights of both; to float32 when None.
            **options: for the pipeline's `DiffusionPipeline.from_pretrained`.

        Raises:
            NotAStyle: something else was saved there.
            StyleforgeError: as for a style.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            repo = str(pretrained_model_name_or_path)
            where: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
            where |= {"local_files_only": local_files_only, "force_download": force_download}
            with plain_errors(repo, revision):
                folder = Path(snapshot_download(repo, allow_patterns=list(_FILES), **where))
        if missing := [part for part in PARTS if not (folder / part).is_dir()]:
            raise NotAStyle(
                f"This is no {cls.__name__}",
                where=pretrained_model_name_or_path,
                found=f"no {' and no '.join(missing)}",
                allowed="the folders 'pipeline' and 'style'",
                todo="Load both by themselves, and put them together: StyledPipeline(pipeline, style).",
            )
        for file in (folder / "style").iterdir():
            check_digest(file, f"{pretrained_model_name_or_path}/style")
        dtype = dtype or torch_dtype
        style = StyleModel.from_pretrained(folder / "style", dtype=dtype)
        options = {"dtype": dtype, "use_safetensors": True, **options}
        return cls(DiffusionPipeline.from_pretrained(folder / "pipeline", **options), style)
