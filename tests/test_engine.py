"""Fast, and in tiles: the same pictures as eager float32 and as the whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from styleforge import StylePipeline, engine
from styleforge.engine import accelerate, plan, run_tiled, tiled
from styleforge.engine.trace import trace
from styleforge.errors import ConfigError
from styleforge.models import (
    AdaINGenerator,
    AnimeGANGenerator,
    AttentionGenerator,
    MicroASTGenerator,
    MultiScaleGenerator,
    ResnetGenerator,
    TransformerNet,
    UGATITGenerator,
    UNetGenerator,
)

TILED = [
    (ResnetGenerator, {"blocks": 2}),
    (ResnetGenerator, {"blocks": 1, "border": "reflect", "upsample": "resize"}),
    (ResnetGenerator, {"blocks": 1, "downsample": "blur", "upsample": "blur"}),
    (ResnetGenerator, {"blocks": 1, "norm": "batch"}),
    (TransformerNet, {"blocks": 1}),
    (AnimeGANGenerator, {}),
    (AnimeGANGenerator, {"align_corners": False}),
    (UNetGenerator, {"norm": "instance", "downs": 3}),
    (UNetGenerator, {"norm": "instance", "downs": 3, "skips": "leaky", "head": "resize"}),
    (UNetGenerator, {"statistics": "batch", "downs": 2}),
    (MultiScaleGenerator, {"scales": 2, "blocks": 1}),
    (UGATITGenerator, {"blocks": 1}),
    (UGATITGenerator, {"blocks": 1, "fusion": "pyramid"}),
]


def network(model, **config):
    """With weights that are not near zero, so that what it paints depends on its statistics."""
    torch.manual_seed(0)
    result = model(width=4, **config).eval()
    for module in result.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_normal_(module.weight)
    return result


def picture(height, width):
    """Noise on a slope: no tile has the statistics of the whole."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 3, height, width, generator=generator) - 0.5
    return noise + torch.linspace(-0.5, 0.5, width) * torch.linspace(-0.9, 1, height)[:, None]


def difference(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize(("model", "config"), TILED, ids=lambda value: str(getattr(value, "__name__", value)))
@torch.no_grad()
def test_tiles_give_what_the_whole_gives(model, config):
    net = network(model, **config)
    multiple = net.capabilities.multiple
    image = picture(97, 134) if multiple == 1 else picture(96, 128 + multiple)
    whole = net(image)
    assert whole.std() > 0.005
    assert difference(run_tiled(net, image, tile=32), whole) <= 2e-5


@pytest.mark.parametrize("strength", [1.0, 0.5])
@torch.no_grad()
def test_styles_are_the_same_in_all_tiles(strength):
    net, image, style = network(MicroASTGenerator), picture(96, 132), picture(40, 64).flip(1)
    options = {"style": style, "strength": strength}
    assert difference(run_tiled(net, image, tile=32, options=options), net(image, **options)) <= 1e-4


@torch.no_grad()
def test_one_statistic_of_deep_features_is_enough_for_adain():
    net, image = AdaINGenerator(backbone="vgg19-16x").eval(), picture(64, 208)
    options = {"style": picture(64, 64)}
    assert difference(run_tiled(net, image, tile=104, options=options), net(image, **options)) <= 1e-5


@torch.no_grad()
def test_what_waits_may_lie_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tiled.tempfile, "tempdir", str(tmp_path))
    net, image = network(TransformerNet, blocks=1), picture(96, 132)
    seen, stored = [], []
    monkeypatch.setattr(tiled.Plan, "__init__", _with_nothing_held(tiled.Plan.__init__))

    def progress(done, total):
        seen.append((done, total))
        stored.append(len(list(tmp_path.rglob("*"))))

    assert difference(run_tiled(net, image, tile=48, progress=progress), net(image)) <= 2e-5
    assert max(stored) > 3, "no two maps were ever in files"
    assert not list(tmp_path.iterdir())
    rounds = 1 + len(trace(net, image, {}).cuts)
    assert seen == [(n + 1, 6 * rounds) for n in range(6 * rounds)]


def _with_nothing_held(init):
    return lambda self, steps, tile, held: init(self, steps, tile, 0)


@torch.no_grad()
def test_thumbnails_need_one_round_and_are_exact_where_nothing_is_reduced(monkeypatch):
    net, image, calls = network(ResnetGenerator, blocks=1), picture(96, 132), []
    whole = net(image)
    exact = run_tiled(net, image, tile=64, statistics="thumbnail", progress=lambda *done: calls.append(done))
    assert calls == [(n, 6) for n in range(1, 7)]
    assert difference(exact, whole) <= 2e-5
    monkeypatch.setattr(tiled, "THUMBNAIL", 64)
    assert difference(run_tiled(net, image, tile=64, statistics="thumbnail"), whole) > 1e-3


@pytest.mark.parametrize(("model", "config"), TILED[:10], ids=lambda value: str(getattr(value, "__name__", value)))
@torch.no_grad()
def test_the_reach_of_a_pixel_is_never_underestimated(model, config):
    net = network(model, **config).double()
    for module in net.modules():  # without statistics
        if isinstance(module, (nn.InstanceNorm2d, nn.GroupNorm, nn.BatchNorm2d)):
            module.forward = lambda x: x
    image = torch.zeros(1, 3, 160, 160, dtype=torch.float64)
    point = image.clone()
    point[:, :, 79:81, 79:81] = 1
    changed = (net(image) != net(point)).any(1)[0].nonzero()
    reached = torch.maximum(79 - changed.min(), changed.max() - 80)
    assert 0 < reached <= trace(net, image, {}).radius


def test_a_plan_keeps_to_its_budget_or_says_what_it_needs():
    net, image = network(ResnetGenerator, blocks=2), torch.zeros(1).expand(1, 3, 4096, 4096)
    small, large = plan(net, image, 2**28), plan(net, image, 2**30)
    assert small.tile < large.tile
    assert plan(net, image, 2**36).tile is None
    with pytest.raises(ConfigError, match=r"too little memory.*at least .* MiB.*max_memory"):
        plan(net, image, 2**20)
    with pytest.raises(ConfigError, match=r"fit neither.*TMPDIR"):
        tiled._check_disk(trace(net, torch.zeros(1).expand(1, 3, 2**20, 2**20), {}), 0)


def test_networks_that_see_the_whole_say_so():
    image = picture(64, 64)
    for net, options in (
        (AttentionGenerator(backbone="vgg19-16x").eval(), {"style": image}),
        (network(UGATITGenerator, light=False, size=16, blocks=1), {}),
    ):
        with pytest.raises(ConfigError, match=r"cannot run in tiles \(.*Run it on the whole"):
            run_tiled(net, image, tile=32, options=options)
        with pytest.raises(ConfigError, match=r"too large for this network.*max_memory"):
            engine.run(net, image, max_memory=1000, options=options)


class Odd(nn.Module):
    """What no table knows."""

    def __init__(self, call):
        super().__init__()
        self.call, self.weight = call, nn.Parameter(torch.ones(1))

    def forward(self, image):
        return self.call(image) * self.weight


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.flip(3),
        lambda x: x.cumsum(2),
        lambda x: x.softmax(3),
        lambda x: x - x.mean(),
        lambda x: x - x.mean(3, keepdim=True),
        lambda x: x @ x.transpose(2, 3) @ x,
        lambda x: x[:, :, :-4],
        lambda x: x.roll(1, 2),
    ],
)
def test_unknown_calls_are_refused_not_guessed(call):
    with pytest.raises(ConfigError, match="cannot run in tiles"):
        run_tiled(Odd(call), picture(64, 64), tile=32)


@torch.no_grad()
def test_run_gives_the_same_whole_tiled_and_one_by_one():
    net, images = network(ResnetGenerator, blocks=0), picture(256, 192).expand(2, 3, 256, 192)
    least = int(tiled.SLACK * trace(net, images[:1], {}).peak())
    options = {"fast": False}
    whole = engine.run(net, images, max_memory=least, **options)
    assert difference(whole, net(images)) <= 1e-5
    tiles = []
    cut = engine.run(net, images, max_memory=least - 1, progress=lambda *done: tiles.append(done), **options)
    assert len(tiles) > 8
    assert difference(cut, whole) <= 1e-5


@pytest.mark.parametrize("half", [True, False])
@torch.no_grad()
def test_fast_is_near_float32(half, monkeypatch):
    """Also where the processor has no bfloat16: then it is slow, but the same."""
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: half)
    model = StylePipeline.from_pretrained("fastcut-monet").model
    image = F.interpolate(picture(16, 20), scale_factor=8, mode="bicubic").clamp(-1, 1)
    with accelerate(model):
        fast = model(image)
    assert fast.dtype == torch.float32
    error = 10 * torch.log10(4 / (fast - model(image)).square().mean())
    assert error >= 40 if half else error >= 90
    assert torch.equal(fast, engine.run(model, image))
    assert not half or error < 80, "it was float32 all the same"
