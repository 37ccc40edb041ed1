"""The functions behind the page, each an endpoint of its API too."""

from __future__ import annotations

import copy
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from .. import images
from ..batch import Summary, stylize_many
from ..errors import DataError
from ..explain import explain
from ..pipeline import StylePipeline
from ..video import stylize_video
from .policy import Deadline, Policy, check_film, check_frames, gather, to_number, uploaded, without_folders
from .styles import Style, Styles

SHOWN = 1600  # longest side on the page, in pixels; what is downloaded has the size of what was uploaded
EXPLAINED = 768
LARGEST_BRUSH = 4  # and none below 1: for those the picture is made larger than any policy allows
WIDEST_EDGE = 64
MAPS = {
    "changed": "How much each place changed",
    "changed_luma": "How much lighter or darker it became",
    "changed_color": "How much its color changed",
    "attention": "Where the network looks",
    "concentration": "Where it takes the style from one place, rather than from everywhere",
    "looked_at": "What it looks at in your painting",
}
Pair = tuple[Image.Image, Image.Image]


class Face:
    """The functions behind the page. Files come as gradio has stored them, and only the library opens them.

    Args:
        styles: that are offered.
        policy: limits.
    """

    def __init__(self, styles: Styles, policy: Policy) -> None:
        self.styles, self.policy = styles, policy

    def stylize(
        self,
        image: dict,
        style: str,
        strength: float = 1.0,
        preserve_color: str = "off",
        style_scale: float = 1.0,
        mask: dict | None = None,
        feather: float = 8.0,
        reference: dict | None = None,
        number: int = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 -- gradio looks for it here
    ) -> tuple[Pair, str]:
        """Style one picture.

        Args:
            image: PNG, JPEG or WebP.
            style: a name from the gallery, or organisation/name on the Hub.
            strength: 0 gives the picture back, 1 the full style, up to 1.5 exaggerates.
            preserve_color: whose colors the result has: "off" those of the style, "luma" those of the picture place by
                place, "histogram" its palette.
            style_scale: size of the brush, 1 to 4.
            mask: the picture is styled only where the one layer of it is painted.
            feather: width in pixels of the soft edge inside the mask.
            reference: a picture to take the style from, for networks that take any.
            number: which of its styles, for networks that have learnt several.

        Returns:
            Before and after, reduced for the page.
            The result as PNG, in the size of the picture.
        """
        path = uploaded(image)
        progress(0.1, "Getting the style")
        chosen = self.styles.get(style)
        options = self._options(chosen, strength, preserve_color, style_scale, reference, number)
        progress(0.3, "Painting")
        picture = images.read(path, self.policy.pictures)
        layer, edge = self._mask(mask), to_number("feather", feather, 0, WIDEST_EDGE)
        options |= {} if layer is None else {"mask": layer, "mask_fit": True, "feather": edge}
        painted = chosen.pipe(picture, **options)
        progress(0.8, "Saving")
        result = images.save(painted, _result(f"{path.stem[:80]}-{Path(chosen.name).name}.png"))
        return (_small(images.to_pil(picture.tensor(), picture.alpha)), _small(painted)), str(result)

    def stylize_batch(
        self,
        files: list[dict],
        style: str,
        strength: float = 1.0,
        preserve_color: str = "off",
        style_scale: float = 1.0,
        reference: dict | None = None,
        number: int = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Style many pictures.

        Args:
            files: pictures, or zips of pictures.
            style: as for one picture.
            strength: as for one picture.
            preserve_color: as for one picture.
            style_scale: as for one picture.
            reference: as for one picture.
            number: as for one picture.

        Returns:
            A zip of PNGs.
            What became of them, as Markdown.
        """
        paths = [uploaded(file) for file in files or [None]]
        chosen = self.styles.get(style)
        options = self._options(chosen, strength, preserve_color, style_scale, reference, number)
        deadline, done = Deadline(self.policy, "batch"), 0
        with _workplace() as folder:
            sources = gather(paths, folder, self.policy)

            def on_item(_: Any) -> None:
                nonlocal done
                done += 1
                progress((done, len(sources)), unit="pictures")
                deadline.check(done, len(sources))

            summary = stylize_many(_own(chosen), sources, folder / "styled", on_item=on_item, **options)
            result = _result(f"{Path(chosen.name).name}.zip")
            with zipfile.ZipFile(result, "w") as zipped:  # PNGs are compressed already
                for path in sorted((folder / "styled").glob("*.png")):
                    zipped.write(path, path.name)
        return str(result), _told(summary)

    def stylize_film(
        self,
        film: dict,
        style: str,
        strength: float = 1.0,
        preserve_color: str = "off",
        style_scale: float = 1.0,
        reference: dict | None = None,
        number: int = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """Style a short film; its sound stays.

        Args:
            film: MP4, MOV, MKV or WebM.
            style: as for one picture.
            strength: as for one picture.
            preserve_color: as for one picture.
            style_scale: as for one picture.
            reference: as for one picture.
            number: as for one picture.

        Returns:
            MP4 with H.264.
        """
        path = check_film(uploaded(film, "film"))
        chosen = self.styles.get(style)
        options = self._options(chosen, strength, preserve_color, style_scale, reference, number)
        pictures = replace(self.policy.pictures, max_pixels=self.policy.film_pixels)
        deadline = Deadline(self.policy, "film")

        def on_frame(count: int, total: int) -> None:
            progress((count, max(total, count)), unit="frames")
            check_frames(max(count, total), self.policy)
            deadline.check(count, total)

        with _workplace() as folder:
            target = folder / f"{path.stem[:80]}-{Path(chosen.name).name}.mp4"
            stylize_video(_own(chosen, pictures), path, target, on_frame=on_frame, **options)
            result = _result(target.name)
            target.rename(result)
        return str(result)

    def explain(
        self, image: dict, style: str, reference: dict | None = None, number: int = 0
    ) -> list[tuple[Image.Image, str]]:
        """Show where a style changes a picture, and what its network looks at.

        Args:
            image: as for styling it.
            style: as for one picture.
            reference: as for one picture.
            number: as for one picture.

        Returns:
            Maps over the picture, each with a sentence; bright is much.
        """
        picture = images.read(uploaded(image), self.policy.pictures)
        chosen = self.styles.get(style)
        small = images.to_pil(picture.tensor())
        small.thumbnail((EXPLAINED, EXPLAINED))
        found = explain(chosen.pipe, small, reference=self._reference(chosen, reference, number))
        return [(found.overlay(name, 0.8), MAPS.get(name, name)) for name in found.maps]

    def list_styles(self) -> list[str]:
        """Name the styles that are offered.

        Returns:
            Names, to be given as `style`.
        """
        return list(self.styles.offered)

    def _options(
        self, style: Style, strength: float, preserve_color: str, style_scale: float, reference: Any, number: Any
    ) -> dict[str, Any]:
        """As the pipeline calls them."""
        return {
            "strength": to_number("strength", strength, 0, 1.5),
            "preserve_color": None if preserve_color == "off" else preserve_color,
            "style_scale": to_number("style_scale", style_scale, 1, LARGEST_BRUSH),
            "style": self._reference(style, reference, number),
            "max_memory": self.policy.memory,
        }

    def _reference(self, style: Style, reference: Any, number: Any) -> Any:
        if style.wants_reference:
            return images.read(uploaded(reference, "painting to take the style from"), self.policy.pictures)
        return int(to_number("number", number, 0, style.count - 1)) if style.count > 1 else None

    def _mask(self, editor: dict | None) -> np.ndarray | None:
        """Where the brush has been, (H, W) uint8; None where it has been nowhere."""
        layers = (editor or {}).get("layers")
        if not layers:
            return None
        if len(layers) > 1:
            raise DataError("The mask has several layers", found=len(layers), allowed=1, todo="Merge them.")
        layer = images.read(uploaded(layers[0]), self.policy.pictures)
        mask = layer.rgb.max(2) if layer.alpha is None else layer.alpha
        return mask if mask.any() else None

    # -- what only the page needs --

    def choose(self, style: str, seen: list[str]) -> tuple[Any, ...]:
        """A style was chosen: what is known of it, the fields it needs, and the gallery with it."""
        chosen = self.styles.get(style)
        if chosen.name not in self.styles.offered and chosen.name not in seen:
            seen = [*seen, chosen.name][-12:]
        return (
            chosen.facts,
            gr.update(visible=chosen.wants_reference),
            gr.update(visible=chosen.count > 1, maximum=max(1, chosen.count - 1)),
            self.gallery(seen),
            seen,
        )

    def gallery(self, seen: Iterable[str] = ()) -> list[tuple[Image.Image, str]]:
        """Previews with names."""
        return [(self.styles.preview(name), name) for name in [*self.styles.offered, *seen]]

    def prepare(self, image: dict | None) -> tuple[Any, None, Any]:
        """A picture came, or went: what the brush paints on; older results go."""
        if not image:
            return None, None, gr.update(value=None, interactive=False)
        picture = images.read(uploaded(image), self.policy.pictures)
        ground = _small(images.to_pil(picture.tensor()), 1024)
        return {"background": ground, "layers": [], "composite": None}, None, gr.update(value=None, interactive=False)


def _result(name: str) -> Path:
    """Where a file is served from, and deleted in time, by gradio."""
    folder = Path(get_upload_folder(), uuid.uuid4().hex)
    folder.mkdir(parents=True)
    return folder / name


@contextmanager
def _workplace() -> Iterator[Path]:
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=get_upload_folder()) as folder:
        yield Path(folder)


def _own(style: Style, pictures: images.ImagePolicy | None = None) -> StylePipeline:
    """A pipeline of one's own: long work runs beside pictures, and steadies the norms of its network."""
    return StylePipeline(copy.deepcopy(style.pipe.model), pictures or style.pipe.policy, fast=style.pipe.fast)


def _small(image: Image.Image, side: int = SHOWN) -> Image.Image:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _told(summary: Summary) -> str:
    lines = [f"{summary.done} painted in {summary.seconds:.0f} s."]
    lines += [f"- {without_folders(reason)}" for _, reason in summary.failed]
    return "\n".join(lines)
