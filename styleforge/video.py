"""Films: frame after frame in bounded memory, steady over time, with their sound.

What flickers when a network styles frames one by one, and what is done here, all of it without optical flow:

* Light. A camera's exposure wavers; each channel's mean and deviation of the frames follow their moving average.
* Statistics. What looks at one picture, as norms do, sees other statistics in every frame; they too are averaged.
* The grid. A network with strides paints its strokes on a grid of some pixels (4 for ResNet generators), and they
  jump where the film pans by anything else. The shift of the whole frame, found by phase correlation (Kuglin and
  Hines, 1975), moves the grid along.
* What is left, if asked for: a blend with the result before, moved by that shift, where the frame did not change.

A cut begins all of them anew. Things that move on their own keep some flicker: only the one shift of the whole frame is
followed.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from . import engine, files, images
from .batch import Input, digest, read_options
from .errors import ConfigError, ImageUnreadable, MissingExtra, StyleforgeError
from .metrics.temporal import changes, find_shift, is_cut, overlap
from .metrics.temporal import warping_error as warping_error
from .pipeline import StylePipeline

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
PART = 64  # frames: what a stop may cost
FORM = 2  # of what is kept beside the parts; those of another form are not gone on from
_PART_SUFFIX = ".nut"  # keeps times as they are, where .mkv rounds to milliseconds
_LARGEST_GRID = 16  # pixels: padding for more would change what the network sees
_SAME = 0.05  # difference from which on nothing is blended, of 1


@dataclass(frozen=True)
class Report:
    """What became of a film.

    Attributes:
        frames: how many there are.
        resumed: how many of them were styled by a run before.
        cuts: how many began a new scene in this run.
        flicker: mean difference of frames that follow each other, of results over sources and without cuts, in this
            run. Motion counts in both, so it compares settings for one film; 0 when nothing moved in the source.
        warping_error: mean absolute difference of each result to the one before, moved by the shift of the whole frame
            that was found in the source, of 1; without cuts, in this run. Things that move on their own count too.
        seconds: how long it took.
    """

    frames: int
    resumed: int
    cuts: int
    flicker: float
    warping_error: float
    seconds: float


class SteadySums:
    """Means, variances and maxima that a network takes over each picture, averaged over a film.

    All that the engine sums up: instance, layer and group norms, AdaIN, AdaILN, and the poolings behind U-GAT-IT's
    attention; whole or in tiles. Attention maps themselves stay those of the frame.

    Args:
        smooth: weight of the past, in [0, 1).

    Attributes:
        averages: in the order of the layers: 1, mean and variance (3, C), or maxima (C,), of each channel; empty
            before the first frame.
        how: how the engine ran the frames; when that changes the averages begin anew, as the order changes.
    """

    def __init__(self, smooth: float) -> None:
        self.averages: list[Tensor] = []
        self.how: engine.How | None = None
        self._smooth, self._at = smooth, 0

    def begin(self, how: engine.How) -> None:
        """A new frame comes."""
        if how != self.how:
            self.how, self.averages = how, []
        self._at = 0

    def __call__(self, total: Tensor) -> Tensor:
        """See :class:`styleforge.engine.watch.Watcher`."""
        now, scale = total, torch.ones_like(total)
        if total.ndim == 2:  # a frame may have some rows more than the one before: a moving grid is padding
            scale[[0, 2]] = total[0]
            now = total / scale
        if self._at == len(self.averages):
            self.averages.append(now)
        else:
            self.averages[self._at] = torch.lerp(now, self.averages[self._at], self._smooth)
        self._at += 1
        return self.averages[self._at - 1] * scale


class SteadyStyle:
    """Styles the frames of a film in their order; see the module.

    Args:
        pipe: the style.
        smooth: weight of the past in all averages, in [0, 1); with 0, and without blend, each frame is styled alone.
        blend: share of the result before where the frame did not change, in [0, 1).
        **options: for :meth:`StylePipeline.__call__`. With a mask the grid stays where it is.

    Attributes:
        cuts: how many scenes began after the first.
        shift: by how many pixels down and right the camera went to the last frame.
    """

    def __init__(self, pipe: StylePipeline, smooth: float = 0.8, blend: float = 0.0, **options: Any) -> None:
        for name, value in (("smooth", smooth), ("blend", blend)):
            if not 0 <= value < 1:
                raise ConfigError(
                    f"{name} cannot be used", found=value, allowed="from 0 to below 1", todo="0 is frame by frame."
                )
        self.cuts, self.shift = 0, (0, 0)
        self._pipe, self._smooth, self._blend, self._options = pipe, smooth, blend, options
        multiple = pipe.model.capabilities.multiple
        moves = smooth and multiple <= _LARGEST_GRID and options.get("mask") is None
        self._grid = multiple if moves else 1  # a mask is of the frame's size, and would slide on a padded one
        self._sums = SteadySums(smooth)
        self._state: dict[str, Tensor] = {}

    @property
    def state(self) -> dict[str, Tensor]:
        """What the next frame needs to know of those before."""
        sums = {f"sums {self._sums.how} {n:04d}": average for n, average in enumerate(self._sums.averages)}
        return self._state | sums

    @state.setter
    def state(self, state: dict[str, Tensor]) -> None:
        sums = sorted(name for name in state if name.startswith("sums "))
        self._sums.averages = [state[name] for name in sums]
        self._sums.how = sums[0].split()[1] if sums else None  # type: ignore[assignment]
        self._state = {name: tensor for name, tensor in state.items() if name not in sums}

    def __call__(self, frame: Tensor) -> tuple[Tensor, bool]:
        """Style the next frame.

        Args:
            frame: (3, H, W) in [0, 1].

        Returns:
            The result, of the same shape and range, and whether a scene begins with it.
        """
        begins = not self._state or is_cut(frame, self._state["frame"])
        if begins:
            self.cuts += bool(self._state)
            self._state, self._sums = {}, SteadySums(self._smooth)
        self.shift = (0, 0) if begins else find_shift(frame, self._state["frame"])
        offset = torch.zeros(2, dtype=torch.int64) if begins else self._state["offset"] + torch.tensor(self.shift)
        even, light = self._evened(frame)
        result = self._styled(even, [int(n) % self._grid for n in offset])
        if not begins and self._blend:
            result = self._blended(result, even)
        self._state = {"frame": frame, "even": even, "result": result, "offset": offset, "light": light}
        return result, begins

    def _evened(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The frame in the average light of those before, and that light (2, 3, 1, 1): mean and deviation."""
        deviation, mean = torch.std_mean(frame, (1, 2), keepdim=True)
        light = torch.stack([mean, deviation])
        if not self._smooth or "light" not in self._state:
            return frame, light
        light = torch.lerp(light, self._state["light"], self._smooth)
        return ((frame - mean) / deviation.clamp_min(1e-3) * light[1] + light[0]).clamp(0, 1), light

    def _styled(self, frame: Tensor, offset: Sequence[int]) -> Tensor:
        """Style a frame whose content lies `offset` pixels beside the grid, downwards and to the right."""
        down, right = offset
        padded = F.pad(frame[None], (right, 0, down, 0), mode="replicate")[0] if down or right else frame
        with engine.watched(self._sums if self._smooth else None):
            return self._pipe(padded, output_type="pt", **self._options)[:, down:, right:]

    def _blended(self, result: Tensor, frame: Tensor) -> Tensor:
        """The result with a share of the one before where the frames are the same."""
        result = result.clone()
        new, old = overlap(result, self._state["result"], self.shift)
        now, before = overlap(frame, self._state["even"], self.shift)
        difference = F.avg_pool2d((now - before).abs().amax(0)[None, None], 5, 1, 2, count_include_pad=False)[0]
        new.lerp_(old, self._blend * (1 - difference / _SAME).clamp(0, 1))
        return result


def stylize_video(
    pipe: StylePipeline,
    source: Input,
    target: Input,
    *,
    smooth: float = 0.8,
    blend: float = 0.0,
    overwrite: bool = False,
    resume: bool = True,
    on_frame: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Report:
    """Style a film; its sound, times of frames, rotation and shape of pixels stay.

    The result is H.264 with 4:2:0 colors, which every player shows; where a side is odd, its last row or column is
    repeated; where frames change their size, they keep that of the first. What begins at a later time than 0, as
    transport streams do, begins at 0. It appears whole or not at all. Until then finished parts of 64 frames lie in a
    hidden folder beside it, with what the next one needs to know of them: a run that was stopped goes on there and
    gives the same film.

    Args:
        pipe: the style.
        source: any film that FFmpeg reads; its first video stream is styled, its first audio stream copied.
        target: where to; `.mp4`, `.m4v`, `.mov` or `.mkv`.
        smooth: weight of the past against flicker, in [0, 1): see :class:`SteadyStyle`. 0 is frame by frame.
        blend: share of the result before where the frame did not change, in [0, 1).
        overwrite: replace what is at `target`.
        resume: go on with the parts of a run that was stopped, if source, style and settings are the same.
        on_frame: called with the number of frames done and of all, which is 0 where the film does not tell.
        **options: for :meth:`StylePipeline.__call__`.

    Raises:
        MissingExtra: PyAV is not installed.
        ConfigError: another suffix, one whose container does not take the sound, a target that exists, or a setting
            that cannot be used.
        ImageUnreadable: no film, no video stream or no frames in it, times that go back, a film that breaks off with an
            error, or a target that cannot be written (a full disk). Finished parts are kept.
        ImageTooLarge: frames over the limits of the pipeline's policy.
    """
    begin = time.monotonic()
    av = _library()
    source, target = Path(source), Path(target)
    if target.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            "Cannot write this kind of film", where=target, allowed=", ".join(SUFFIXES), todo="Rename the target."
        )
    if target.exists() and not overwrite:
        todo = "Choose another name, or overwrite it: overwrite=True, or --overwrite."
        raise ConfigError("This file exists", where=target, todo=todo)
    options = read_options(options, pipe.policy)
    style = SteadyStyle(pipe, smooth, blend, **options)
    folder = target.with_name(f".{target.name}-parts")
    settings = [FORM, digest(pipe, options), smooth, blend, str(source.resolve())]
    with _readable(av, source), av.open(str(source)) as film:
        if not film.streams.video:
            raise ImageUnreadable("No pictures in this film", where=source, todo="Give one with a video stream.")
        stream = film.streams.video[0]
        images.check_size(stream.width, stream.height, source, pipe.policy)  # before any frame is decoded
        _check_sound(av, source, target)
        parts = _parts(folder, [*settings, source.stat().st_mtime_ns], resume)
        count = resumed = _restore(style, parts)
        frames = islice(_frames(film, stream), resumed, None)
        sums = np.zeros(4)
        try:
            while first := next(frames, None):
                part = folder / f"{len(parts):06d}{_PART_SUFFIX}"
                with files.replacing(part) as path:
                    with _encoder(av, path, stream, first) as encode:
                        for frame in chain([first], islice(frames, PART - 1)):
                            sums += _style_frame(style, frame, encode)
                            count += 1
                            if on_frame:
                                on_frame(count, stream.frames)
                    numbers = torch.tensor([count, first.rotation, frame.duration])
                    state = {name: tensor.clone() for name, tensor in (style.state | {"numbers": numbers}).items()}
                    files.write_bytes(_state_of(part), safetensors.torch.save(state))
                parts.append(part)
            if not parts:
                raise ImageUnreadable("No frames in this film", where=source, todo="Check that it plays.")
            _join(av, parts, source, target)
        finally:
            if not parts:  # nothing to go on from
                shutil.rmtree(folder)
    shutil.rmtree(folder)
    moved, flickered, warped, pairs = sums.tolist()
    flicker = flickered / moved if moved else 0.0
    return Report(count, resumed, style.cuts, flicker, warped / max(pairs, 1), time.monotonic() - begin)


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtra("Films need PyAV", todo="Install it with: pip install 'styleforge[video]'") from error
    return av


@contextmanager
def _readable(av: Any, source: Path) -> Iterator[None]:
    """Turn what FFmpeg and the disk say into an error of ours."""
    try:
        yield
    except StyleforgeError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageUnreadable(
            "Cannot style the film",
            where=source,
            found=f"{type(error).__name__}: {error}",
            todo="Check that it plays and that the disk has room.",
        ) from error


def _check_sound(av: Any, source: Path, target: Path) -> None:
    """Let the container refuse the sound now, by its first packet, and not when all frames are styled."""
    trial = io.BytesIO()
    trial.name = target.name  # type: ignore[attr-defined] -- tells FFmpeg the kind
    with av.open(str(source)) as film:
        packets = (packet for stream in film.streams.audio[:1] for packet in film.demux(stream) if packet.size)
        for first in islice(packets, 1):
            sound = first.stream
            try:
                with av.open(trial, "w") as result:
                    first.stream, first.pts, first.dts = result.add_stream_from_template(sound), 0, 0
                    result.mux(first)
            except (av.FFmpegError, ValueError) as error:
                raise ConfigError(
                    "This kind of film does not take the sound",
                    where=target,
                    found=sound.codec_context.codec.canonical_name,
                    todo="Name the target .mkv, which takes any.",
                ) from error


def _parts(folder: Path, settings: list[Any], resume: bool) -> list[Path]:
    """Finished parts of a run with these settings; everything else in the folder goes."""
    manifest, text = folder / "settings.json", json.dumps(settings)
    if not (resume and manifest.is_file() and manifest.read_text(encoding="utf-8") == text):
        shutil.rmtree(folder, ignore_errors=True)
        files.write_text(manifest, text)
    files.clean(folder)
    return sorted(folder.glob(f"*{_PART_SUFFIX}"))


def _state_of(part: Path) -> Path:
    return part.with_suffix(".safetensors")


def _numbers(part: Path) -> list[int]:
    """Frames up to the end of a part, their rotation, and how long the last one is shown."""
    with safetensors.safe_open(_state_of(part), "pt") as state:
        return state.get_tensor("numbers").tolist()


def _restore(style: SteadyStyle, parts: list[Path]) -> int:
    """Let a style go on behind the last part; the number of frames so far."""
    if not parts:
        return 0
    state = safetensors.torch.load_file(_state_of(parts[-1]), backend="pread")  # Windows removes no mapped file
    count, *_ = state.pop("numbers").tolist()
    style.state = state
    return count


def _frames(film: Any, stream: Any) -> Iterator[Any]:
    """All frames in the size that the stream begins with, and with a time: one without follows the one before."""
    size, last, end = (stream.width, stream.height), -math.inf, 0
    for frame in film.decode(stream):
        frame = frame.reformat(*size)
        frame.pts = end if frame.pts is None else frame.pts  # as in a bare stream (.h264)
        if frame.pts <= last:
            raise ImageUnreadable(
                "The times of this film go back",
                where=film.name,
                found=f"{frame.time:g} s after {float(last * frame.time_base):g} s",
                todo="Let FFmpeg write them anew: ffmpeg -i FILM -c copy new.mkv",
            )
        last, end = frame.pts, frame.pts + frame.duration
        yield frame


def _style_frame(style: SteadyStyle, frame: Any, encode: Callable[[np.ndarray, int], None]) -> np.ndarray:
    """Style and encode one; differences to the one before, of source, result and moved result, and 1; 0 at a cut."""
    before = style.state
    now = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous().float() / 255
    result, begins = style(now)
    pixels = (result * 255).round().byte().permute(1, 2, 0).numpy()
    encode(np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], "edge"), frame.pts)
    if begins:
        return np.zeros(4)
    source, made, _, warped = changes((now, before["frame"]), (result, before["result"]), style.shift)
    return np.array([source, made, warped, 1])


@contextmanager
def _encoder(av: Any, path: Path, like: Any, first: Any) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Writes arrays (H, W, 3) with their times into one part."""
    with av.open(str(path), "w") as part:
        stream = part.add_stream("libx264", rate=like.average_rate or 25, options={"crf": "18"})
        stream.width, stream.height = (side + side % 2 for side in (first.width, first.height))
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = "yuv420p", like.time_base, like.time_base
        stream.codec_context.sample_aspect_ratio = like.sample_aspect_ratio or 0  # not known
        stream.codec_context.max_b_frames = 0  # times of decoding are those of showing: parts join without a seam
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1  # BT.709, 16 to 235

        def encode(array: np.ndarray, pts: int) -> None:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base = pts, like.time_base
            part.mux(stream.encode(frame))

        yield encode
        part.mux(stream.encode())


def _join(av: Any, parts: list[Path], source: Path, target: Path) -> None:
    """All parts, and the sound of the source, in the order of their times."""
    _, rotation, _ = _numbers(parts[-1])
    among = files.replacing(target, parts[0].parent)  # which the next run cleans where this one is killed
    with among as path, av.open(str(source)) as film, av.open(str(path), "w") as result:
        with av.open(str(parts[0])) as first:
            video = result.add_stream_from_template(first.streams.video[0])
        if rotation:
            video.set_display_rotation(rotation)
        begin = Fraction(max(film.start_time or 0, 0), av.time_base)  # transport streams may begin at hours
        unit = film.streams.video[0].time_base
        streams = [_moved((packet for part in parts for packet in _packets(av, part, unit)), video, begin)]
        if film.streams.audio:
            audio = result.add_stream_from_template(film.streams.audio[0])
            streams.append(_moved(film.demux(film.streams.audio[0]), audio, begin))
        for packet in merge(*streams, key=lambda packet: packet.dts * packet.time_base):
            result.mux(packet)


def _packets(av: Any, part: Path, unit: Fraction) -> Iterator[Any]:
    """Packets of a part with how long they are shown, which it does not keep; `unit` is what frames are timed in."""
    *_, last = _numbers(part)
    with av.open(str(part)) as film:
        for packet, after in pairwise(film.demux(film.streams.video[0])):  # an empty one comes at the end
            known = round(last * unit / packet.time_base) if after.pts is None else after.pts - packet.pts
            packet.duration = known or packet.duration
            yield packet


def _moved(packets: Iterable[Any], stream: Any, begin: Fraction) -> Iterator[Any]:
    """Packets as those of another stream, their times counted from `begin` (s), without the empty one at the end."""
    for packet in packets:
        if packet.pts is not None:
            first = round(begin / packet.time_base)
            packet.dts = (packet.pts if packet.dts is None else packet.dts) - first
            packet.pts -= first
            packet.stream = stream
            yield packet
