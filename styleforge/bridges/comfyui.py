"""A node of ComfyUI that paints pictures in a style.

Install styleforge into ComfyUI's Python, and write two lines into `ComfyUI/custom_nodes/styleforge_nodes.py`::

    from styleforge.bridges.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from styleforge.bridges import spandrel; spandrel.register()

The second is for ComfyUI's own "Load Upscale Model", see :mod:`.spandrel`; the node needs it not. ComfyUI does not
know of the memory that the node's networks take: the two styles used last stay loaded.
"""

from __future__ import annotations

import functools
from typing import Any, get_args

import torch
from torch import Tensor

from ..control import MAX_STRENGTH, SCALES, Color
from ..errors import ImageError
from ..hub import bundled_styles
from ..pipeline import StylePipeline

NO_COLOR = "no"


class StyleforgeStylize:
    """Pictures in, the same pictures in a style out; see :class:`styleforge.StylePipeline` for what the inputs do."""

    CATEGORY = "image/style"
    FUNCTION = "stylize"
    RETURN_TYPES = ("IMAGE",)
    DESCRIPTION = "Paints pictures in a GAN style: a bundled one, a folder, or organisation/name on the Hub."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        """What ComfyUI draws the node from."""
        low, high = SCALES
        return {
            "required": {
                "image": ("IMAGE",),
                "style": ("STRING", {"default": next(iter(bundled_styles()), "organisation/name")}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": MAX_STRENGTH, "step": 0.05}),
                "preserve_color": ([NO_COLOR, *get_args(Color)],),
                "style_scale": ("FLOAT", {"default": 1.0, "min": low, "max": high, "step": 0.25}),
            },
            "optional": {
                "mask": ("MASK",),
                "reference": ("IMAGE",),
            },
        }

    def stylize(
        self,
        image: Tensor,
        style: str,
        strength: float = 1.0,
        preserve_color: str = NO_COLOR,
        style_scale: float = 1.0,
        mask: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Paint a batch.

        Args:
            image: (B, H, W, 3) in [0, 1]; what other nodes have left outside is cut off, as on saving.
            style: name of a bundled style, a folder, or `organisation/name` on the Hub.
            strength: from 0 to 1.5.
            preserve_color: "no", "luma" or "histogram".
            style_scale: size of the brush.
            mask: (B or 1, H', W') or (H', W') in [0, 1], 1 where to paint; of any size, as ComfyUI's are.
            reference: (B or 1, H', W', 3), picture of the style for networks that take any.

        Returns:
            (B, H, W, 3) float32 in [0, 1].

        Raises:
            ImageError: a batch of no pictures.
            StyleforgeError: as of the pipeline.
        """
        for name, given in (("image", image), ("mask", mask), ("reference", reference)):
            if given is not None and not given.numel():
                todo = "Look at the node that makes it."
                raise ImageError("This batch holds no pictures", where=name, found=tuple(given.shape), todo=todo)
        pipe = _pipeline(style)
        pictures = image.movedim(-1, 1).clamp(0, 1)
        masks = None if mask is None else mask.reshape(-1, *mask.shape[-2:]).clamp(0, 1)
        references = None if reference is None else reference.movedim(-1, 1).clamp(0, 1)
        painted = [
            pipe(
                picture,
                style=_of(references, number),
                strength=strength,
                preserve_color=None if preserve_color == NO_COLOR else preserve_color,
                style_scale=style_scale,
                mask=_of(masks, number),
                mask_fit=masks is not None,
                output_type="pt",
            )
            for number, picture in enumerate(pictures)
        ]
        return (torch.stack(painted).movedim(1, -1),)


def _of(batch: Tensor | None, number: int) -> Tensor | None:
    """The one of a batch that belongs to a picture; a batch of one belongs to all, and a short one begins again."""
    return None if batch is None else batch[number % len(batch)]


@functools.lru_cache(maxsize=2)
def _pipeline(style: str) -> StylePipeline:
    return StylePipeline.from_pretrained(style)


NODE_CLASS_MAPPINGS: dict[str, type] = {"StyleforgeStylize": StyleforgeStylize}
NODE_DISPLAY_NAME_MAPPINGS = {"StyleforgeStylize": "Stylize (styleforge)"}
