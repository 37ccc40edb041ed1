"""Whether films flicker: how much frames change that should only move. The one motion known is that of the camera.

No optical flow is asked for. The shift of the whole frame is found by phase correlation (Kuglin and Hines, 1975) in the
source, and frames of the result are compared after it. Things that move on their own count too, in both, so the figure
compares results of one film.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pictures import Rows, check

_CUT = 0.12  # mean difference of thumbnails, of 1

Shift = tuple[int, int]


def warping_error(frames: Tensor, shift: Shift) -> float:
    """Mean absolute difference of each frame to the one before, moved by a shift that is known.

    Args:
        frames: (T, C, H, W).
        shift: by how many pixels down and right the camera goes in each frame: `frames[t, :, y, x]` shows what
            `frames[t - 1, :, y + down, x + right]` did.

    Returns:
        In the units of `frames`, over the pixels that both show.
    """
    return _difference(*overlap(frames[1:], frames[:-1], shift))


def changes(sources: tuple[Tensor, Tensor], results: tuple[Tensor, Tensor], shift: Shift) -> list[float]:
    """Mean absolute differences of two frames that follow each other.

    Args:
        sources: a frame and the one before, (3, H, W) each.
        results: what was made of them.
        shift: of the camera between them, see :func:`warping_error`.

    Returns:
        Of the sources and of the results as they are, then of both when the earlier ones are moved by the shift.
    """
    return [_difference(*overlap(*pair, by)) for by in ((0, 0), shift) for pair in (sources, results)]


def find_shift(now: Tensor, before: Tensor) -> Shift:
    """By how many pixels down and right the camera went, by phase correlation; (0, 0) where no shift explains it.

    Args:
        now: (3, H, W).
        before: (3, H, W).
    """
    size = now.shape[1:]
    window = torch.hann_window(size[0])[:, None] * torch.hann_window(size[1])
    one, two = (torch.fft.rfft2((x.mean(0) - x.mean()) * window) for x in (before, now))
    product = one * two.conj()
    peak = int(torch.fft.irfft2(product / product.abs().clamp_min(1e-9), s=size).argmax())
    shift = [(n + side // 2) % side - side // 2 for n, side in zip(divmod(peak, size[1]), size, strict=True)]
    if max(abs(n) / side for n, side in zip(shift, size, strict=True)) > 0.25:
        return 0, 0
    moved, still = (torch.sub(*overlap(now, before, s)).abs().mean() for s in (shift, (0, 0)))
    return (shift[0], shift[1]) if moved < 0.8 * still else (0, 0)


def overlap(now: Tensor, before: Tensor, shift: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Views (..., h, w) of both that show the same."""
    for dim, by in zip((-2, -1), shift, strict=True):
        length = now.shape[dim] - abs(by)
        now, before = now.narrow(dim, max(-by, 0), length), before.narrow(dim, max(by, 0), length)
    return now, before


def is_cut(now: Tensor, before: Tensor) -> bool:
    """Whether two frames (3, H, W) in [0, 1] are of different scenes, or of different sizes."""
    if now.shape != before.shape:
        return True
    small = [F.adaptive_avg_pool2d(x, 16) for x in (now, before)]
    return (small[0] - small[1]).abs().mean().item() > _CUT


class WarpingError(Rows):
    """How steady what was made of films is; frames come in their order, in batches of any size.

    Of several processes, each has to see whole films.
    """

    def __init__(self) -> None:
        super().__init__(("frames",), 4)
        self._last: tuple[Tensor, Tensor] | None = None

    def begin(self) -> None:
        """Another film comes. (Where a film is cut is seen without this.)"""
        self._last = None

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Take in the next frames.

        Args:
            real: of the source, (T, 3, H, W) in [-1, 1].
            fake: what was made of them, of the same shape.

        Raises:
            ImageError: other shapes or values.
        """
        check(real, fake)
        for frames in zip(*((x.cpu().double() + 1) / 2 for x in (real, fake)), strict=True):
            if self._last and not is_cut(frames[0], self._last[0]):
                pairs = [(now, before) for now, before in zip(frames, self._last, strict=True)]
                found = changes(*pairs, find_shift(*pairs[0]))
                self._take("frames", torch.tensor([found], dtype=torch.float64))
            self._last = frames

    def compute(self) -> dict[str, float]:
        """What is known so far, over all frames that do not begin a scene.

        Returns:
            "warping_error": mean absolute difference of each result to the one before, moved with the camera, of 1.
            "warping_error_real": that of the sources: what moves on its own, noise, and light.
            "flicker": mean difference of results that follow each other, over that of the sources; 0 when nothing
            moved there.

        Raises:
            ConfigError: no two frames of a scene yet.
        """
        source, result, still_source, still_result = self._known("frames").mean(0).tolist()
        return {
            "warping_error": still_result,
            "warping_error_real": still_source,
            "flicker": result / source if source else 0.0,
        }


def _difference(one: Tensor, two: Tensor) -> float:
    return (one - two).abs().mean(dtype=torch.float64).item()
