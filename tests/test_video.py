"""Films: steady where the camera moves, frame by frame where asked, and whole or not there at all."""

import os
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from styleforge import ResnetGenerator, StylePipeline, engine, video
from styleforge.errors import ConfigError, ImageTooLarge, ImageUnreadable, MissingExtra
from styleforge.images import DEFAULT_POLICY
from styleforge.layers import BatchNorm
from styleforge.models import MicroASTGenerator, UGATITGenerator
from styleforge.video import SteadyStyle, SteadySums, find_shift, stylize_video, warping_error


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    model = ResnetGenerator(width=4, blocks=1)
    nn.init.normal_(model.head.weight, 0, 0.2)
    return StylePipeline(model)


def scene(seed, height=48, width=160):
    """(3, H, W) in [0, 1] with shapes of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    sum_ = sum(
        nn.functional.interpolate(torch.rand(1, 3, height // n, width // n, generator=generator), (height, width)) * n
        for n in (2, 4, 8)
    )
    return (sum_[0] / 14 * 0.8 + 0.1).mul(255).round() / 255


def pan(count, step=(0, 3), side=40, seed=0, light=0.0):
    picture, generator = scene(seed), torch.Generator().manual_seed(1)
    gains = 1 + light * torch.randn(count, generator=generator)
    frames = [picture[:, t * step[0] :, t * step[1] :][:, :side, :side] * gains[t] for t in range(count)]
    return torch.stack(frames).clamp(0, 1)


def styled(pipe, frames, **settings):
    style = SteadyStyle(pipe, **settings)
    return torch.stack([style(frame)[0] for frame in frames]), style


# ----------------------------------------------------------------------------------------------- steadiness


def test_without_smoothing_each_frame_is_styled_alone(pipe):
    frames = pan(3, light=0.05)
    alone = torch.stack([pipe(frame, output_type="pt") for frame in frames])
    assert torch.equal(styled(pipe, frames, smooth=0.0)[0], alone)
    assert not torch.equal(styled(pipe, frames, smooth=0.8)[0], alone)


@pytest.mark.parametrize("step", [(0, 3), (1, 0)])
def test_a_pan_in_unsteady_light_flickers_less_than_half(pipe, step):
    frames = pan(8, step, light=0.03)
    rough, smooth, blended = (
        warping_error(styled(pipe, frames, **settings)[0], step)
        for settings in ({"smooth": 0.0}, {"smooth": 0.8}, {"smooth": 0.8, "blend": 0.7})
    )
    assert blended < smooth < rough / 2


def test_a_mask_stays_where_it_is_while_the_camera_pans(pipe):
    frames, mask = pan(4), np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 255
    results, _ = styled(pipe, frames, mask=mask)
    assert torch.allclose(results[..., :20], frames[..., :20], atol=0.02)  # but for the light
    assert not torch.allclose(results[..., 20:], frames[..., 20:], atol=0.1)


@pytest.mark.parametrize("step", [(0, 0), (0, 3), (2, 5), (-4, 1), (0, -7)])
def test_the_shift_of_the_camera_is_found(step):
    picture = scene(3)
    before, now = (picture[:, 8 + n * step[0] :, 60 + n * step[1] :][:, :36, :80] for n in (0, 1))
    assert find_shift(now, before) == step
    assert warping_error(torch.stack([before, now]), step) == 0
    assert find_shift(now * 0.9, before) == step


def test_no_shift_where_none_explains_the_frame():
    assert find_shift(scene(1), scene(2)) == (0, 0)
    assert find_shift(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)) == (0, 0)


def test_a_cut_begins_anew(pipe):
    dark = pan(2, seed=5) * 0.4
    both, style = styled(pipe, torch.cat([pan(3), dark]), blend=0.5)
    assert style.cuts == 1
    assert torch.equal(both[3:], styled(pipe, dark, blend=0.5)[0])


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(2, 6), BatchNorm(6, "batch")])
def test_norms_use_averages_and_are_themselves_again(norm):
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    net, frames = nn.Sequential(norm).eval(), torch.randn(2, 1, 6, 5, 7) * 3 + 1
    plain = [net(frame) for frame in frames]
    steady = SteadySums(0.75)
    with engine.watched(steady):
        first, second = (engine.run(net, frame, fast=False) for frame in frames)
    assert torch.allclose(first, plain[0], atol=1e-5)
    channels = frames.reshape(2, 6, -1)
    for average, of in zip(steady.averages[0][1:], (channels.mean(2), channels.var(2, correction=0)), strict=True):
        assert torch.allclose(average.float(), 0.75 * of[0] + 0.25 * of[1], atol=1e-5)
    assert not torch.allclose(second, plain[1], atol=1e-2)
    assert torch.allclose(engine.run(net, frames[1], fast=False), plain[1], atol=1e-5)


STATISTICAL = {
    "instance": (ResnetGenerator(width=4, blocks=1), {}, 0.007),
    "adailn": (UGATITGenerator(width=4, blocks=1), {}, 0.009),
    "microast": (MicroASTGenerator(width=4), {"style": Image.new("RGB", (32, 32), "orange")}, 0.009),
}


@pytest.mark.parametrize("how", ["whole", "tiles"])
@pytest.mark.parametrize("name", STATISTICAL)
def test_what_the_engine_sums_up_is_steady_whole_and_in_tiles(name, how):
    model, options, small = STATISTICAL[name]
    budget = small if how == "tiles" else None
    pipe = StylePipeline(model, fast=False)
    frame = scene(4)[..., :120].repeat(1, 4, 4)
    dark = frame * 0.9 - 0.02
    style = SteadyStyle(pipe, 0.8, max_memory=budget, **options)
    first, _ = (style(one)[0] for one in (frame, dark))
    assert style._sums.how == how and style._sums.averages
    alone = SteadyStyle(pipe, 0.0, **options)(frame)[0]
    assert (first - alone).abs().max() < 2e-4, "one frame is what the pipeline makes of it"
    sums = [average.clone() for average in style._sums.averages]
    again = SteadyStyle(pipe, 0.8, max_memory=budget, **options)
    again.state = style.state
    third = [one(frame)[0] for one in (style, again)]
    assert torch.equal(*third) and not all(map(torch.equal, sums, style._sums.averages))


def test_what_is_remembered_is_enough_to_go_on(pipe):
    frames = pan(6, light=0.03)
    whole, _ = styled(pipe, frames, blend=0.5)
    _, half = styled(pipe, frames[:3], blend=0.5)
    again = SteadyStyle(pipe, blend=0.5)
    again.state = half.state
    assert torch.equal(torch.stack([again(frame)[0] for frame in frames[3:]]), whole[3:])


# ---------------------------------------------------------------------------------------------------- films


@pytest.fixture
def film(tmp_path):
    """7 frames of 41 x 39 at 30000/1001 per second, with half a second of sound."""
    return shoot(tmp_path / "film.mp4", pan(7)[:, :, :39], sound="aac")


def shoot(path, frames, sound="", rotation=0, aspect=0, begin=0):
    av = pytest.importorskip("av")

    with av.open(str(path), "w", options={"output_ts_offset": str(begin)}) as result:
        stream = result.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "1"})
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        audio = result.add_stream(sound, rate=48000, layout="mono") if sound else None
        for frame in frames:
            array = (frame * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            result.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        result.mux(stream.encode())
        if audio:
            noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 24_000)).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            samples.sample_rate = 48000
            result.mux([*audio.encode(samples), *audio.encode()])
    return path


def watch(path):
    """Times and pictures of the frames, the packets of the sound, and the rotation."""
    import av

    with av.open(str(path)) as film:
        frames = list(film.decode(video=0))
    with av.open(str(path)) as film:
        audio = [bytes(p) for p in film.demux(film.streams.audio[0]) if p.size] if film.streams.audio else []
    times = [frame.pts * frame.time_base for frame in frames]
    return times, [frame.to_ndarray(format="rgb24") for frame in frames], audio, frames[0].rotation


def test_times_and_sound_stay_and_frames_are_styled(pipe, film, tmp_path):
    calls = []
    report = stylize_video(
        pipe, film, tmp_path / "out.mp4", smooth=0.0, strength=0.2, on_frame=lambda *numbers: calls.append(numbers)
    )
    assert (report.frames, report.resumed, report.cuts) == (7, 0, 0) and report.flicker > 0
    assert calls == [(n + 1, 7) for n in range(7)]
    (times, frames, audio, _), (new_times, results, new_audio, _) = watch(film), watch(tmp_path / "out.mp4")
    assert new_times == times and new_audio == audio and len(audio) > 10
    assert results[0].shape == (40, 40, 3)  # even sides
    luma = np.array([0.2126, 0.7152, 0.0722])  # BT.709
    for frame, result in zip(frames, results, strict=True):
        expected, got = np.array(pipe(frame, strength=0.2)).astype(float), result[:39].astype(float)
        error, other = (np.abs((got - array) @ luma).mean() for array in (expected, expected[:, ::-1]))
        assert error < 6 and error < other / 4  # the colors have half the resolution
        assert np.abs((got - expected).mean((0, 1))).max() < 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_report_measures_along_the_shift_of_the_camera(pipe, film, tmp_path):
    rough, smooth = (stylize_video(pipe, film, tmp_path / f"{s}.mp4", smooth=s) for s in (0.0, 0.8))
    assert 0 < smooth.warping_error < rough.warping_error / 2
    frames = torch.stack([torch.from_numpy(array.copy()).permute(2, 0, 1) / 255 for array in watch(film)[1]])
    results, _ = styled(pipe, frames)
    assert smooth.warping_error == pytest.approx(warping_error(results, (0, 3)), rel=1e-4)
    moved = warping_error(results, (0, 0)) / warping_error(frames, (0, 0))
    assert smooth.flicker == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_rotation_and_other_containers(pipe, tmp_path, suffix):
    film = shoot(tmp_path / "film.mov", pan(2), rotation=90)
    stylize_video(pipe, film, tmp_path / f"out{suffix}")
    assert watch(tmp_path / f"out{suffix}")[3] == watch(film)[3] != 0


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_pixels_that_are_no_squares_stay_so(pipe, tmp_path, suffix):
    film = shoot(tmp_path / "film.mp4", pan(2), aspect=Fraction(4, 3))
    stylize_video(pipe, film, tmp_path / f"out{suffix}")
    with pytest.importorskip("av").open(str(tmp_path / f"out{suffix}")) as result:
        assert result.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_film_that_begins_late_begins_at_once(pipe, tmp_path, suffix):
    av = pytest.importorskip("av")
    film = shoot(tmp_path / "film.ts", pan(2), sound="aac", begin=7200)
    stylize_video(pipe, film, tmp_path / f"out{suffix}")

    def begins(path):
        with av.open(str(path)) as opened:
            streams = opened.streams.video[0], opened.streams.audio[0]
            return [float(stream.start_time * stream.time_base) for stream in streams]

    (picture, sound), (new_picture, new_sound) = begins(film), begins(tmp_path / f"out{suffix}")
    assert picture > 7190 and 0 <= min(new_picture, new_sound) < 0.01
    assert new_picture - new_sound == pytest.approx(picture - sound, abs=2e-3)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_last_frame_is_shown_as_long(pipe, tmp_path, suffix):
    av = pytest.importorskip("av")
    first, *rest = (Image.fromarray((frame * 255).byte().permute(1, 2, 0).numpy()) for frame in pan(3))
    first.save(tmp_path / "film.gif", save_all=True, append_images=rest, duration=[500, 500, 4000])
    stylize_video(pipe, tmp_path / "film.gif", tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as result:
        assert result.duration == pytest.approx(5 * av.time_base, abs=2000)


def test_frames_that_change_their_size_get_that_of_the_first(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "PART", 2)
    large, small = pan(3), pan(3, side=24)
    data = [shoot(tmp_path / f"{n}.h264", frames).read_bytes() for n, frames in enumerate((large, small))]
    (tmp_path / "film.h264").write_bytes(b"".join(data))
    stylize_video(pipe, tmp_path / "film.h264", tmp_path / "out.mp4", smooth=0.0, strength=0.0)
    expected = torch.cat([large, nn.functional.interpolate(small, (40, 40), mode="bicubic")]) * 255
    for frame, array in zip(expected.permute(0, 2, 3, 1).numpy(), watch(tmp_path / "out.mp4")[1], strict=True):
        assert array.shape == (40, 40, 3) and np.abs(array - frame).mean() < 15


def test_frames_without_times_follow_each_other_in_a_run_that_goes_on_too(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "PART", 2)
    film = shoot(tmp_path / "film.h264", pan(5))

    def stop(count, total):
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_video(pipe, film, tmp_path / "out.mp4", on_frame=stop)
    assert stylize_video(pipe, film, tmp_path / "out.mp4").resumed == 2
    times = watch(tmp_path / "out.mp4")[0]
    assert [float(time) for time in times] == pytest.approx([n * 1001 / 30000 for n in range(5)], abs=1e-3)


def test_a_stopped_run_goes_on_and_gives_the_same_film(pipe, film, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "PART", 3)
    stylize_video(pipe, film, tmp_path / "whole.mp4", blend=0.5)

    def stop(count, total):
        if count == 5:
            raise KeyboardInterrupt

    def run(**settings):
        return stylize_video(pipe, film, tmp_path / "out.mp4", blend=0.5, **settings)

    with pytest.raises(KeyboardInterrupt):
        run(on_frame=stop)
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(KeyboardInterrupt):  # other settings share no parts
        stylize_video(pipe, film, tmp_path / "out.mp4", blend=0.2, on_frame=stop)
    with pytest.raises(KeyboardInterrupt):
        run(on_frame=stop)
    report = run()
    assert (report.frames, report.resumed) == (7, 3)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(overwrite=True, on_frame=stop)
    assert run(overwrite=True, resume=False).resumed == 0


def test_a_full_disk_keeps_finished_parts(pipe, film, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "PART", 3)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(video, "_join", full)
        with pytest.raises(ImageUnreadable, match="No space left"):
            stylize_video(pipe, film, tmp_path / "out.mp4")
    held = []  # of what is removed; Windows would not
    remove = video.shutil.rmtree
    process = psutil.Process()

    def look(folder, **options):
        used = [*getattr(process, "memory_maps", list)(), *process.open_files()]
        held.extend(one.path for one in used if one.path.startswith(str(folder)))
        remove(folder, **options)

    monkeypatch.setattr(video.shutil, "rmtree", look)
    report = stylize_video(pipe, film, tmp_path / "out.mp4")
    assert (report.frames, report.resumed) == (7, 7) and len(watch(tmp_path / "out.mp4")[0]) == 7
    assert not held


def test_sound_that_the_container_refuses_is_told_before_a_frame_is_styled(pipe, tmp_path, monkeypatch):
    film = shoot(tmp_path / "film.mkv", pan(2), sound="libopus")
    with monkeypatch.context() as patched:
        patched.setattr(video, "_style_frame", lambda *args: pytest.fail("a frame was styled"))
        with pytest.raises(ConfigError, match=r"does not take the sound.*opus.*\.mkv"):
            stylize_video(pipe, film, tmp_path / "out.m4v")
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]
    stylize_video(pipe, film, tmp_path / "out.mkv")
    assert watch(tmp_path / "out.mkv")[2] == watch(film)[2] != []


def test_a_film_is_joined_where_the_next_run_cleans(pipe, film, tmp_path, monkeypatch):
    replace, renamed = os.replace, []
    monkeypatch.setattr(
        os, "replace", lambda old, new: (renamed.append((old.parent.name, new.name)), replace(old, new))
    )
    stylize_video(pipe, film, tmp_path / "out.mp4")
    assert renamed[-1] == (".out.mp4-parts", "out.mp4")


def test_what_cannot_be_styled(pipe, film, tmp_path):
    av = pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no film")
    whole = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as result:
        stream = result.add_stream("aac", rate=48000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 48000
        result.mux([*stream.encode(samples), *stream.encode()])
    twice = shoot(tmp_path / "back.ts", pan(2)).read_bytes() * 2
    (tmp_path / "back.ts").write_bytes(twice)
    (tmp_path / "empty.y4m").write_text("YUV4MPEG2 W8 H8 F25:1 C420jpeg\n")
    for name, message in (
        ("gone.mp4", "gone.mp4"),
        ("text.mp4", "Cannot style the film"),
        ("cut.mp4", "Cannot style the film"),
        ("sound.mp4", "No pictures"),
        ("empty.y4m", "No frames"),
        ("back.ts", "times of this film go back.*found 0"),
    ):
        with pytest.raises(ImageUnreadable, match=message):
            stylize_video(pipe, tmp_path / name, tmp_path / "out" / "x.mp4")
        assert not list(tmp_path.glob("out/*"))


def test_frames_over_the_limits_are_not_decoded(pipe, film, tmp_path, monkeypatch):
    strict = StylePipeline(pipe.model, replace(DEFAULT_POLICY, max_pixels=1000))
    monkeypatch.setattr(video, "_style_frame", lambda *args: pytest.fail("a frame was decoded"))
    with pytest.raises(ImageTooLarge, match="x 39 pixels"):
        stylize_video(strict, film, tmp_path / "out" / "x.mp4")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("out.gif", {}, "kind of film"),
        ("film.mp4", {}, "exists.*--overwrite"),
        ("out.mp4", {"smooth": 1.0}, "smooth"),
        ("out.mp4", {"mask": np.ones((2, 2), bool)}, "another size"),
    ],
)
def test_settings_that_cannot_be_used(pipe, film, tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        stylize_video(pipe, film, tmp_path / name, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4"]


def test_pyav_that_is_not_there(pipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"styleforge\[video\]"):
        stylize_video(pipe, tmp_path / "film.mp4", tmp_path / "out.mp4")
