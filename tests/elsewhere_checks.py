"""What has to be right on every device, on one that only this process knows; run by test_elsewhere.py."""

import numpy as np
import pytest
import tiny
import torch
from elsewhere import DEVICE
from PIL import Image
from test_engine import TILED, difference, network
from test_engine import picture as slope
from variants import VARIANTS

from styleforge import StylePipeline, data, engine, explain, methods
from styleforge.control import interpolate_styles
from styleforge.models import MicroASTGenerator, MiniGenerator, TransformerNet
from styleforge.pipeline import style_regions
from styleforge.runs import TrainConfig
from styleforge.train import train
from styleforge.video import SteadyStyle


def picture(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pair(kind, **config):
    """One network as a style, here and there."""
    torch.manual_seed(0)
    here = kind(width=4, **config).eval()
    there = kind(width=4, **config).eval()
    there.load_state_dict(here.state_dict())
    return StylePipeline(here, fast=False), StylePipeline(there.to(DEVICE))


def levels(here, there):
    """By how many of 255 two pictures differ at most."""
    return np.abs(np.asarray(here).astype(int) - np.asarray(there).astype(int)).max()


def test_this_device_refuses_what_a_gpu_refuses():
    x = torch.ones(2, device=DEVICE)
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.ones(2)
    with pytest.raises(TypeError, match="float64"):
        x.double()


@pytest.mark.parametrize(("kind", "config"), VARIANTS, ids=lambda value: str(getattr(value, "__name__", value)))
@torch.no_grad()
def test_every_network_computes_the_same(kind, config):
    small = {"width": 4} if "width" in kind(**config).config else {}
    here = kind(**{**config, **small}).eval()
    can = here.capabilities
    side = -(-48 // can.multiple) * can.multiple
    if can.output == "logits":
        side = here.config.get("size", side)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, here.config.get("in_channels", 3), side, side, generator=generator)
    given = {"image": image, "style": image.flip(3), "noise": image.flatten(1)[:, : here.config.get("noise_size", 0)]}
    given = [given[name] for name in can.inputs]
    wanted = here(*given)
    there = here.to(DEVICE)
    made = there(*(x.to(DEVICE) for x in given))
    for one, other in zip(_all(made), _all(wanted), strict=True):
        assert one.device == DEVICE and difference(one.cpu(), other) <= 1e-5


def _all(made):
    return made if isinstance(made, (tuple, list)) else [made]


@pytest.mark.parametrize(("kind", "config"), TILED, ids=lambda value: str(getattr(value, "__name__", value)))
@torch.no_grad()
def test_tiles_are_the_whole(kind, config):
    net = network(kind, **config)
    image = slope(64, 96 if net.capabilities.multiple == 1 else 64 + net.capabilities.multiple)
    whole = net(image)
    made = engine.run_tiled(net.to(DEVICE), image.to(DEVICE), tile=32)
    assert made.device == DEVICE and difference(made.cpu(), whole) <= 2e-5


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.5, "preserve_color": "luma"},
        {"preserve_color": "histogram"},
        {"style_scale": 1.5, "mask": np.eye(40, 60) > 0, "feather": 3},
        {"max_memory": 0.01},
        {"max_memory": 0.01, "statistics": "thumbnail"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_pictures_are_the_same_under_control(options):
    here, there = pair(MiniGenerator)
    size = (600, 400) if "max_memory" in options else (60, 40)
    assert levels(here(picture(*size), **options), there(picture(*size), **options)) <= 1


def test_styles_are_given_by_picture_by_number_and_by_region():
    photo, mask = picture(48, 40), np.arange(40 * 48).reshape(40, 48) % 48 < 20
    here, there = pair(MicroASTGenerator)
    style = [(picture(40, 40, 1), 0.7), (picture(64, 32, 2), 0.3)]
    assert levels(here(photo, style=style), there(photo, style=style)) <= 1
    here, there = pair(TransformerNet, styles=3)
    assert levels(here(photo, style=[0.2, 0.5, 0.3]), there(photo, style=[0.2, 0.5, 0.3])) <= 1
    assert levels(*(style_regions(photo, [(pipe, mask), (pipe, ~mask)]) for pipe in (here, there))) <= 1


def test_a_style_between_two_stays_where_the_first_was():
    (_, there), other = pair(MiniGenerator), MiniGenerator(width=4)
    mixed = interpolate_styles(there.model, other, 0.5)
    assert mixed.device == DEVICE
    for name, weight in mixed.state_dict().items():
        middle = (there.model.state_dict()[name].cpu() + other.state_dict()[name]) / 2
        assert torch.allclose(weight.cpu(), middle)


def test_films_are_the_same_and_go_on():
    frames = [torch.from_numpy(np.asarray(picture(40, 32, seed)) / 255).permute(2, 0, 1).float() for seed in range(4)]
    made = []
    for pipe in pair(MiniGenerator):
        film = SteadyStyle(pipe, blend=0.5)
        shown = [film(frame)[0] for frame in frames[:2]]
        again = SteadyStyle(pipe, blend=0.5)
        again.state = film.state
        made.append(torch.stack([*shown, *(again(frame)[0] for frame in frames[2:])]))
    assert difference(*made) <= 1e-4


def test_explaining_a_style():
    photo = picture(48, 40)
    here, there = (explain.explain(pipe, photo) for pipe in pair(MiniGenerator))
    assert here.maps.keys() == there.maps.keys()
    assert all(np.allclose(here.maps[name], there.maps[name], atol=1e-4) for name in here.maps)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for domain in ("source", "target"):
        (root / domain).mkdir()
        for n in range(3):
            picture(48, 40, n).save(root / domain / f"{n}.png")
    return str(root / "source"), str(root / "target")


@pytest.fixture
def there(monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "device", DEVICE)


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_run_goes_on_where_it_was(method, folders, there, tmp_path):
    kind = methods.find(method).data
    source = folders[0] if "source" in data.KINDS[kind].folders else None
    target = {"paired": folders[0], "styles": f"{folders[1]}/0.png"}.get(kind, folders[1])
    same = {"method": method, "source": source, "target": target, "output": str(tmp_path / "run"), "batch_size": 2}
    same |= {"settings": tiny.settings(method), "size": tiny.SIZE_OF.get(method, 32), "held_out": 0.3, "judge_every": 1}
    for steps in (1, 2):
        style = train(TrainConfig(**same, steps=steps, save_every=1, sample_every=1, ema=0.5), lambda progress: None)
    assert all(weight.isfinite().all() for weight in StylePipeline.from_pretrained(style).model.state_dict().values())


@pytest.mark.parametrize(
    "kept", [{"lora": 2}, {"ewc": 1.0, "l2_start": 1.0, "style_perceptual": 1.0, "features": "random-16x"}], ids=str
)
def test_a_published_style_is_adapted(kept, folders, there, tmp_path):
    same = {"method": "fastcut", "source": folders[0], "target": folders[1], "size": 32, "steps": 1, "sample_every": 0}
    same |= {"settings": tiny.settings("fastcut"), "precision": "bf16", "held_out": 0.3, "judge": "random-16x"}
    style = train(TrainConfig(**same, output=str(tmp_path / "base")), lambda progress: None)
    adapt = {"base": str(style), **kept}
    style = train(TrainConfig(**same, output=str(tmp_path / "run"), adapt=adapt), lambda progress: None)
    assert StylePipeline.from_pretrained(style)(picture(40, 40)).size == (40, 40)
