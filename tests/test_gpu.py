"""On a GPU the pictures are those of the processor; most of this is skipped where there is none."""

import numpy as np
import pytest
import torch
from PIL import Image

from styleforge import StylePipeline, engine
from styleforge.engine import fast, trial
from styleforge.memory import available
from styleforge.precision import bf16_is_fast
from styleforge.repos import bundled_styles
from styleforge.runs import TrainConfig
from styleforge.train import train

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch built for it")
CUDA = torch.device("cuda")


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def loaded(name, device, **options):
    """A style, and what calling it needs beside the picture."""
    pipe = StylePipeline.from_pretrained(name, device=device, **options)
    return pipe, {"style": picture(96, 128, 1)} if "style" in pipe.model.capabilities.inputs else {}


def decibel(made, wanted):
    return -10 * np.log10(np.square(made.astype(float) - wanted).mean())


@pytest.mark.parametrize("name", bundled_styles())
@torch.no_grad()
def test_autocast_alone_keeps_pictures_near_float32(name):
    """That of the processor here: a GPU has another, of the same kind."""
    pipe, options = loaded(name, "cpu")
    options = {"style": trial.pictures(3, 96)[:1]} if options else {}
    image, model = trial.pictures(3, 64)[:1], pipe.model  # of the others bfloat16 itself is further away
    with fast.by_autocast("cpu"):
        made = model(image, **options)
    exact = model(image, **options)
    assert made.dtype == (torch.bfloat16 if name == "any-style" else torch.float32)  # which ends in no tanh
    assert 40 <= decibel(made.float().numpy() / 2, exact.numpy() / 2) < 90


def test_what_is_computed_in_half_on_which_device(monkeypatch):
    monkeypatch.setattr(fast, "bf16_is_fast", lambda device: True)

    class On:
        def __init__(self, kind, dtype):
            self.device, self.dtype = torch.device(kind), dtype

    assert [fast.in_half(On(kind, torch.float32)) for kind in ("cpu", "cuda", "mps")] == [True, True, False]
    assert not fast.in_half(On("cuda", torch.float16))


@gpu
@pytest.mark.parametrize("name", bundled_styles())
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_makes_the_same_pictures(name, compiled):
    image = picture(200, 264)
    exact, options = loaded(name, "cpu", dtype=torch.float32)
    pipe, _ = loaded(name, CUDA, compile=compiled)
    wanted, made = (each(image, output_type="np", **options) for each in (exact, pipe))
    assert pipe.device.type == "cuda" and decibel(made, wanted) >= 40
    plain, _ = loaded(name, CUDA, dtype=torch.float32)
    assert decibel(plain(image, output_type="np", **options), wanted) >= 50  # TF32
    assert not bf16_is_fast(CUDA) or not np.array_equal(made, plain(image, output_type="np", **options))


@gpu
@pytest.mark.parametrize("name", ["fastcut-monet", "mini-classic", "restore-denoise"])
@torch.no_grad()
def test_tiles_on_a_gpu_are_the_whole(name):
    """In the memory of the GPU, and in files."""
    model = loaded(name, CUDA)[0].model
    image = trial.pictures(3, 512)[:1].to(CUDA)
    whole = engine.run(model, image, fast=False)
    for tile in (128, 256):
        assert (engine.run_tiled(model, image, tile=tile) - whole).abs().max() <= 2 / 255
    pipe = StylePipeline(model)
    shot = picture(1500, 2000)
    bounded = pipe(shot, max_memory=0.15, output_type="np")
    assert decibel(bounded, pipe(shot, output_type="np")) >= 40


@gpu
def test_a_gpu_takes_no_more_memory_than_it_may():
    pipe, _ = loaded("fastcut-monet", CUDA)
    pipe(picture(64, 64))
    torch.cuda.reset_peak_memory_stats()
    before, free = torch.cuda.memory_allocated(), available(CUDA)
    pipe(picture(2000, 3000), max_memory=0.3)
    pixels = 2000 * 3000 * 3 * 4
    assert torch.cuda.max_memory_allocated() - before < 0.3 * 2**30 + 2 * pixels
    assert available(CUDA) > free - 2**28  # what torch keeps is free to it


@gpu
def test_a_run_on_a_gpu_goes_on_where_it_was(tmp_path):
    for domain in ("source", "target"):
        (tmp_path / domain).mkdir()
        for n in range(3):
            picture(64, 80, n).save(tmp_path / domain / f"{n}.png")
    folders = {domain: str(tmp_path / domain) for domain in ("source", "target")}
    settings = {"width": 4, "blocks": 1, "discriminator_width": 4}
    for steps in (2, 4):
        same = {"output": str(tmp_path / "run"), "size": 32, "settings": settings, "save_every": 2, "sample_every": 0}
        style = train(TrainConfig(method="cyclegan", steps=steps, **folders, **same), lambda progress: None)
    assert StylePipeline.from_pretrained(style)(picture(40, 40)).size == (40, 40)
