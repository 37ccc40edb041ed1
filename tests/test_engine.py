"""Fast, and in tiles: the same pictures as eager float32 and as the whole."""

import contextlib
import functools
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from styleforge import StylePipeline, engine, images, memory
from styleforge.engine import accelerate, fast, go, plan, run, run_tiled, store, sums, tiled, trace, trial, winograd
from styleforge.errors import ConfigError
from styleforge.layers import moments
from styleforge.models import (
    MODELS,
    AdaINGenerator,
    AnimeGANGenerator,
    AttentionGenerator,
    MicroASTGenerator,
    MiniGenerator,
    MultiScaleGenerator,
    ResnetGenerator,
    RestorationUNet,
    TransformerNet,
    UGATITGenerator,
    UNetGenerator,
)

of_onednn = pytest.mark.skipif(fast._onednn is None, reason="this torch has no oneDNN, as those of Apple")
TILED = [
    (ResnetGenerator, {"blocks": 2}),
    (ResnetGenerator, {"blocks": 1, "border": "reflect", "upsample": "resize"}),
    (ResnetGenerator, {"blocks": 1, "downsample": "blur", "upsample": "blur"}),
    (ResnetGenerator, {"blocks": 1, "norm": "batch"}),
    (ResnetGenerator, {"blocks": 1, "detail": True}),
    (ResnetGenerator, {"blocks": 1, "equalizer": True}),
    (TransformerNet, {"blocks": 1}),
    (AnimeGANGenerator, {}),
    (AnimeGANGenerator, {"align_corners": False}),
    (UNetGenerator, {"norm": "instance", "downs": 3}),
    (UNetGenerator, {"norm": "instance", "downs": 3, "skips": "leaky", "head": "resize"}),
    (UNetGenerator, {"statistics": "batch", "downs": 2}),
    (MultiScaleGenerator, {"scales": 2, "blocks": 1}),
    (MiniGenerator, {"blocks": 1}),
    (RestorationUNet, {"levels": 2}),
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


@pytest.mark.parametrize("again", [0, 20, trace.AGAIN])  # from all is kept to most is computed again
@pytest.mark.parametrize(("model", "config"), TILED, ids=lambda value: str(getattr(value, "__name__", value)))
@torch.no_grad()
def test_tiles_give_what_the_whole_gives(model, config, again, monkeypatch):
    monkeypatch.setattr(trace, "AGAIN", again)
    net = network(model, **config)
    multiple = net.capabilities.multiple
    image = picture(97, 134) if multiple == 1 else picture(96, 128 + multiple)
    whole = net(image)
    assert whole.std() > 0.005
    assert difference(run_tiled(net, image, tile=32), whole) <= 2e-5


@pytest.mark.parametrize(("model", "config"), TILED, ids=lambda value: str(getattr(value, "__name__", value)))
@pytest.mark.parametrize("kept", ["memory", "files", "files of Windows"])
@torch.no_grad()
def test_tiles_side_by_side_give_what_the_whole_gives(model, config, kept, cores, monkeypatch):
    cores(3)
    if kept != "memory":
        monkeypatch.setattr(tiled.Plan, "__init__", _with_held(0, tiled.Plan.__init__))
    if kept == "files of Windows":
        monkeypatch.delattr(os, "pwrite", raising=False)
        monkeypatch.delattr(os, "preadv", raising=False)
    monkeypatch.setattr(trace, "AGAIN", 20)
    net, threads, goes = network(model, **config), set(), go.Pass.go
    monkeypatch.setattr(go.Pass, "go", lambda *args: threads.add(threading.get_ident()) or goes(*args))
    image = picture(96, 132 if net.capabilities.multiple <= 4 else 128 + net.capabilities.multiple)
    with accelerate(net, enabled=False):
        made = run_tiled(net, image, tile=32, around=functools.partial(accelerate, net, enabled=False))
    assert len(threads - {threading.get_ident()}) == 3
    assert difference(made, net(image)) <= 3e-5


@torch.no_grad()
def test_tiles_overlap_no_more_than_each_part_of_the_pass_looks(monkeypatch):
    net, image = network(ResnetGenerator, blocks=1), picture(96, 96)
    overlaps, goes = [], go.Pass.go

    def noted(run, tile):
        overlaps.append((tile.rows.core_begin - tile.rows.begin, run.steps.reach([run._segment])))
        return goes(run, tile)

    monkeypatch.setattr(go.Pass, "go", noted)
    run_tiled(net, image, tile=32)
    inside = {overlap for overlap in overlaps if overlap[0]}
    assert len({reach for _, reach in inside}) > 2
    assert all(reach <= overlap < reach + 4 for overlap, reach in inside)  # four pixels to a feature of its blocks


@pytest.mark.parametrize("height", [69, 73, 74, 97])
@torch.no_grad()
def test_tiles_that_reach_the_end_of_an_odd_picture_in_one_part_of_the_pass_only(height):
    """Where the last feature has less than its four pixels."""
    net, image = network(AnimeGANGenerator), picture(height, 13)
    for x in (image, image.mT.contiguous()):
        assert difference(run_tiled(net, x, tile=16), net(x)) <= 2e-5


@of_onednn
@torch.no_grad()
def test_weights_are_put_into_order_once_for_all_tiles(monkeypatch):
    monkeypatch.setattr(fast, "bf16_is_fast", lambda device: True)
    monkeypatch.setattr(engine, "kernels", lambda *_, **__: {})  # none in 8 bit
    net, image, ordered, tiles = network(ResnetGenerator, blocks=1), picture(256, 256), [], []

    class Onednn:
        def __getattr__(self, name):
            real = getattr(torch.ops.mkldnn, name)
            return (lambda *args: ordered.append(name) or real(*args)) if "reorder" in name else real

    monkeypatch.setattr(fast, "_onednn", Onednn())
    budget = int(tiled.SLACK * trace.trace(net, image, {}).peak() / 2)
    run(net, image, max_memory=budget, progress=lambda done, of: tiles.append(of))
    layers = sum(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in net.modules())
    assert max(tiles) > 2 * layers and layers <= len(ordered) <= 2 * layers  # two threads may begin with the same one


@torch.no_grad()
def test_only_tiles_at_borders_are_reflected(monkeypatch):
    net, image = network(ResnetGenerator, blocks=1, border="reflect", upsample="blur"), picture(160, 160)
    modes = {}
    pad = F.pad

    @functools.wraps(pad)
    def watched(x, pads, mode="constant", value=None):
        modes.setdefault(tile[-1] if tile else None, set()).add(mode)
        return pad(x, pads, mode, value)

    tile, call = [], go.Pass.go

    def goes(run, one):  # the same tile overlaps more in one part of the pass than in another
        tile.append((one.inside, one.rows.core_begin, one.columns.core_begin))
        return call(run, one)

    monkeypatch.setattr(go.Pass, "go", goes)
    monkeypatch.setattr(F, "pad", watched)
    made = run_tiled(net, image, tile=32)
    monkeypatch.undo()
    assert difference(made, net(image)) <= 2e-5
    assert modes.pop(None) == {"reflect"}  # to find out what it does
    assert len(modes) == 25 and {inside for inside, *_ in modes} == {True, False}
    for (inside, *_), found in modes.items():
        assert found - {"reflect"} == {"constant"} if inside else found == {"reflect"}  # by notes zeros alone


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mean", [0, 1e4])
def test_sums_are_exact_far_from_zero(layout, mean):
    torch.manual_seed(0)
    features = (torch.randn(1, 3, 300, 700) + mean).contiguous(memory_format=layout)
    parts = [sums.measure(part, "moments") for part in features.split([100, 7, 193], 2)]
    count, found, squares = sums.joined("moments", torch.stack(parts))
    exact = features.double()
    assert count.tolist() == [210000] * 3
    torch.testing.assert_close(found, exact.mean((0, 2, 3)), rtol=1e-7, atol=1e-5)
    torch.testing.assert_close(squares / count, exact.var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


def test_features_of_full_size_are_computed_again_and_deep_ones_kept():
    steps = trace.trace(ResnetGenerator(width=32, downsample="blur", upsample="blur"), picture(64, 64), {})
    segments = steps.segments()
    assert len(segments) == 1 + len(steps.cuts) and not segments[-1].kept
    assert {steps.scales[step] for segment in segments for step in segment.kept} == {2, 4}
    # Behind the second convolution down: not what it gave, but what it was computed from, half as large.
    (kept,) = segments[2].kept
    assert steps.values[kept] * 2 == steps.values[max(segments[2].computed)]
    assert steps.held(segments) < 2 * 24 * 64**2 * 4
    again = sum(steps.work[step] for segment in segments for step in segment.computed) / sum(steps.work)
    assert 1 < again < 1.4
    (whole,) = steps.segments(waits=False)
    assert whole.computed == set(range(1, len(steps.scales)))


@torch.no_grad()
def test_maps_of_one_column_go_to_files_too(monkeypatch):
    """As the deepest of a network with many steps down have in each tile."""
    monkeypatch.setattr(tiled.Plan, "__init__", _with_held(0, tiled.Plan.__init__))
    net, image = network(ResnetGenerator, blocks=2), picture(28, 28)
    assert difference(run_tiled(net, image, tile=4), net(image)) <= 2e-5


@torch.no_grad()
def test_what_waits_may_lie_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(trace, "AGAIN", 0)
    monkeypatch.setattr(tiled.Plan, "__init__", _with_held(0, tiled.Plan.__init__))
    net, image = network(TransformerNet, blocks=1), picture(96, 132)
    seen, files, make = [], [], store.tempfile.TemporaryFile
    monkeypatch.setattr(store.tempfile, "TemporaryFile", lambda **k: files.append(make(**k)) or files[-1])

    def progress(done, total):
        assert not list(tmp_path.iterdir()), "a killed process would leave it"
        seen.append((done, total, sum(not file.closed for file in files)))

    assert difference(run_tiled(net, image, tile=48, progress=progress), net(image)) <= 2e-5
    assert len(files) == max(now for *_, now in seen) == 1 and files[0].closed
    rounds = 1 + len(trace.trace(net, image, {}).cuts)
    assert [done for *done, _ in seen] == [[n + 1, 6 * rounds] for n in range(6 * rounds)]


@torch.no_grad()
def test_the_disk_is_asked_for_no_less_than_is_written(monkeypatch):
    monkeypatch.setattr(trace, "AGAIN", 0)
    net, image, asked, written = network(ResnetGenerator, blocks=2), picture(256, 256), [], [0]
    check, write = store._check_disk, store._File.write
    monkeypatch.setattr(store, "_check_disk", lambda need: asked.append(need) or check(need))

    def noted(file, data, place):
        written[0] = max(written[0], place + data.nbytes)
        write(file, data, place)

    monkeypatch.setattr(store._File, "write", noted)
    steps = trace.trace(net, image, {})
    most = steps.held(steps.segments())
    for held in (most, most * 2 // 3, most // 3, 0):
        asked.clear()
        written[0] = 0
        with monkeypatch.context() as patch:
            patch.setattr(tiled.Plan, "__init__", _with_held(held, tiled.Plan.__init__))
            run_tiled(net, image, tile=128)
        assert bool(asked) == bool(written[0]) == (held < most)
        assert written[0] <= sum(asked) <= most


FULL, NONE = OSError(28, "No space left"), FileNotFoundError(2, "No usable folder")


@pytest.mark.parametrize(
    ("where", "call", "error"),
    [(os, "pwrite", FULL), (store.tempfile, "TemporaryFile", NONE), (shutil, "disk_usage", NONE)],
)
@torch.no_grad()
def test_a_disk_that_takes_no_features_is_a_sentence(where, call, error, monkeypatch):
    def fails(*_, **__):
        raise error

    net, image = network(ResnetGenerator, blocks=1), picture(96, 96)
    monkeypatch.setattr(tiled.Plan, "__init__", _with_held(0, tiled.Plan.__init__))
    monkeypatch.setattr(where, call, fails)
    with pytest.raises(ConfigError, match=rf"onto the disk.*found {error.strerror}.*TMPDIR"):
        run_tiled(net, image, tile=48)


@pytest.mark.parametrize("held", [2**63, 0])
@torch.no_grad()
def test_maps_that_come_take_the_room_of_those_that_go(held, cores, monkeypatch):
    """Row by row, as tiles go down the picture."""
    cores(2)
    monkeypatch.setattr(tiled.Plan, "__init__", _with_held(held, tiled.Plan.__init__))
    net, image, pages, taken = network(ResnetGenerator, blocks=2), picture(1024, 32), set(), store.Store._taken
    stores = []

    def noted(one, known, place):
        stores.append(one)
        pages.add(page := taken(one, known, place))
        return page

    monkeypatch.setattr(store.Store, "_taken", noted)
    with accelerate(net, enabled=False):
        made = run_tiled(net, image, tile=32, around=functools.partial(accelerate, net, enabled=False))
    assert difference(made, net(image)) <= 3e-5
    steps = trace.trace(net, image, {})
    kept = [segment.kept for segment in steps.segments()]
    both = max(sum(steps.bytes[step] for step in a | b) for a, b in itertools.pairwise(kept))
    alone = max(sum(steps.bytes[step] for step in each) for each in kept)
    needed = (max(pages) + 1) * stores[0]._page
    assert alone <= needed < 1.25 * alone < both


@torch.no_grad()
def test_while_the_result_is_made_memory_is_given_back(monkeypatch):
    net, image = network(ResnetGenerator, blocks=2), picture(1024, 32)
    done, given, give_back = [0], [], memory.give_back

    def noted(raw):
        given.append((done[0], raw.nbytes))
        give_back(raw)

    monkeypatch.setattr(memory, "give_back", noted)
    made = run_tiled(net, image, tile=32, progress=lambda now, total: done.__setitem__(0, now))
    assert difference(made, net(image)) <= 3e-5
    steps = trace.trace(net, image, {})
    times = [time for time, _ in given]
    assert done[0] * (1 - 1 / len(steps.segments())) <= times[0], "in the last part of the pass only"
    assert len(times) > 4 and times == sorted(set(times)), "page by page"
    kept = sum(steps.bytes[step] for step in steps.segments()[-2].kept)
    assert kept <= sum(size for _, size in given) < 1.1 * kept


@torch.no_grad()
def test_tiles_of_one_shape_go_by_notes_to_the_same_bits(monkeypatch):
    """Of several families: one that leaves autocast for a while, as for its equalizer, does so by notes, too."""
    monkeypatch.setattr(fast, "bf16_is_fast", lambda device: True)
    learn = go.Pass._learn
    for model, config in TILED:
        net, passes = network(model, **config), []
        image = picture(160, 160)
        around = functools.partial(accelerate, net, pixels=2**20)
        monkeypatch.setattr(model, "forward", counted(model.forward, passes))
        with around():
            made = run_tiled(net, image, tile=32, around=around)
            by_notes, often = len(passes), len(trace.trace(net, image, {}).cuts) + 1
            assert by_notes <= 20 * often, "all went through the network"  # 9 shapes, some by two threads at once
            monkeypatch.setattr(go.Pass, "_learn", lambda run, one, *rest: learn(run, one, *rest) or run._notes.clear())
            passes.clear()
            again = run_tiled(net, image, tile=32, around=around)
            assert len(passes) >= 25 * often > by_notes
        monkeypatch.undo()
        monkeypatch.setattr(fast, "bf16_is_fast", lambda device: True)
        assert torch.equal(made, again), model


def counted(forward, passes):
    def counting(*args, **kwargs):
        passes.append(1)
        return forward(*args, **kwargs)

    return counting


@torch.no_grad()
def test_hooks_see_every_tile():
    net, image, seen = network(ResnetGenerator, blocks=1), picture(160, 160), []
    net.register_forward_pre_hook(lambda *_: seen.append(1))
    run_tiled(net, image, tile=32)
    assert len(seen) >= 25 * (len(trace.trace(net, image, {}).cuts) + 1), "some went by notes"


def _with_held(bytes, init):
    return lambda self, steps, tile, held, workers=1: init(self, steps, tile, bytes, workers)


@torch.no_grad()
def test_thumbnails_need_one_round_and_are_exact_where_nothing_is_reduced(monkeypatch):
    net, image, calls = network(ResnetGenerator, blocks=1), picture(96, 132), []
    whole = net(image)
    exact = run_tiled(net, image, tile=64, statistics="thumbnail", progress=lambda *done: calls.append(done))
    assert calls == [(n, 6) for n in range(1, 7)]
    assert difference(exact, whole) <= 2e-5
    monkeypatch.setattr(tiled, "THUMBNAIL", 64)
    assert difference(run_tiled(net, image, tile=64, statistics="thumbnail"), whole) > 1e-3


@pytest.mark.parametrize("size", [(8, 20000), (152, 14000), (14000, 64)])
@torch.no_grad()
def test_thumbnails_of_long_thin_pictures_are_what_a_network_takes(size):
    net, image = network(ResnetGenerator, blocks=1), picture(*size)
    made = run_tiled(net, image, tile=512, statistics="thumbnail")
    assert made.shape == image.shape and made.isfinite().all()


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
    steps = trace.trace(net, image, {})
    assert 0 < reached <= steps.reach(steps.segments(waits=False))


def test_a_plan_keeps_to_its_budget_or_says_what_it_needs():
    net, image = network(ResnetGenerator, blocks=2), torch.zeros(1).expand(1, 3, 4096, 4096)
    small, large = plan(net, image, 2**28), plan(net, image, 2**30)
    assert small.tile < large.tile
    assert plan(net, image, 2**36).tile is None
    with pytest.raises(ConfigError, match=r"too little memory.*at least .* MiB.*max_memory"):
        plan(net, image, 2**20)
    for sides in ((40, 400), (100, 100), (304, 400)):  # of which the first two take less at once than in tiles
        thin = torch.zeros(1).expand(1, 3, *sides)
        with pytest.raises(ConfigError, match="too little memory") as error:
            plan(net, thin, 2**10)
        least = int(re.search(r"at least (\d+) MiB", str(error.value))[1])
        assert least <= plan(net, thin, 2**36).trace.peak() * tiled.SLACK / 2**20 + 1
        plan(net, thin, least * 2**20)
    with pytest.raises(ConfigError, match=r"fit neither.*TMPDIR"):
        store._check_disk(2**60)


@pytest.mark.parametrize(
    ("free", "disk", "again"), [(2**40, 2**40, 400), (2**30, 2**40, 800), (2**40, 2**20, 800), (2**40, NONE, 800)]
)
def test_more_is_kept_in_a_file_that_the_system_has_in_memory(free, disk, again, monkeypatch):
    def usage(folder):
        if isinstance(disk, OSError):
            raise disk
        return SimpleNamespace(free=disk)

    monkeypatch.setattr(memory, "available", lambda *device: free)
    monkeypatch.setattr(store.shutil, "disk_usage", usage)
    net, image = ResnetGenerator(width=32, blocks=2, upsample="resize"), torch.zeros(1).expand(1, 3, 8192, 8192)
    steps = plan(net, image, 2**30).trace
    assert steps.again == again
    kept = [segment.kept for segment in steps.segments()]
    last = kept[-2]  # behind the last norm but one
    assert {steps.scales[step] for step in last} == {1 if again == 400 else 2}
    assert plan(net, image, 2**36).trace.again == 100  # in memory, whatever the rest of the system has


def test_a_plan_for_a_huge_picture_sums_up_nothing(monkeypatch):
    """Of fake tensors, too, the block by block sums of accurate norms took two minutes."""
    monkeypatch.setattr(engine.fast, "measure", lambda *args: pytest.fail("summed up"))
    model = ResnetGenerator(width=4, blocks=1).eval()
    with torch.no_grad(), accelerate(model, enabled=False):
        chosen = plan(model, torch.empty(1, 3, 1, 1).expand(1, 3, 10_000, 10_000), 2**30)
    assert chosen.tile and not chosen.trace.refusal


def test_every_network_from_picture_to_picture_runs_in_tiles_but_attention():
    with torch.device("meta"):
        can = {model: model().capabilities for model in MODELS}
    makers = {model for model in MODELS if "image" in can[model].inputs and can[model].output == "image"}
    assert makers == {model for model, _ in TILED} | {AdaINGenerator, MicroASTGenerator, AttentionGenerator}


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


def test_what_an_error_proposes_for_a_large_picture_works():
    torch.manual_seed(0)
    pipe, photo = StylePipeline(AttentionGenerator(backbone="vgg19-16x")), images.to_pil(picture(768, 1024))
    budget = 0.12
    with pytest.raises(ConfigError, match=r"style_scale=[1-3]\.\d\)") as found:
        pipe(photo, style=photo.resize((64, 64)), max_memory=budget)
    scale = float(str(found.value).split("style_scale=")[1].split(")")[0])
    made = pipe(photo, style=photo.resize((64, 64)), max_memory=budget, style_scale=scale)
    assert made.size == photo.size


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


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x - x.mean((2, 3), keepdim=True),
        lambda x: x * x.var((2, 3), keepdim=True),
        lambda x: x * torch.var_mean(x, (2, 3), keepdim=True)[0],
        lambda x: x - x.amax((2, 3), keepdim=True),
    ],
)
def test_sums_over_the_picture_are_those_of_the_whole(call):
    image = picture(64, 64)
    assert difference(run_tiled(Odd(call), image, tile=32), call(image)) <= 1e-5


@torch.no_grad()
def test_a_picture_need_not_be_a_tensor():
    """Read and painted by parts, whole and in tiles, with statistics of a copy that averages boxes."""
    net = network(ResnetGenerator, blocks=0)
    image = images.read(((picture(254, 190)[0] + 1) / 2).clamp(0, 1))
    pixels = images.Pixels(image, multiple=4)
    tensor = pixels[:, :, :, :]
    made = torch.full(pixels.shape, 9.0)
    assert engine.run(net, pixels, into=made, fast=False) is made
    assert torch.equal(made, engine.run(net, tensor, fast=False))
    tiles, budget = [], int(tiled.SLACK * trace.trace(net, pixels, {}).peak()) - 1
    engine.run(net, pixels, into=made.fill_(9), max_memory=budget, fast=False, progress=lambda *n: tiles.append(n))
    assert len(tiles) > 8 and difference(made, net(tensor)) <= 1e-5
    thumbs = [engine.run_tiled(net, p, tile=64, statistics="thumbnail") for p in (pixels, tensor)]
    assert torch.equal(*thumbs)


@torch.no_grad()
def test_run_gives_the_same_whole_tiled_and_one_by_one():
    net, images = network(ResnetGenerator, blocks=0), picture(256, 192).expand(2, 3, 256, 192)
    least = int(tiled.SLACK * trace.trace(net, images[:1], {}).peak())
    options = {"fast": False}
    whole = engine.run(net, images, max_memory=least, **options)
    assert difference(whole, net(images)) <= 5e-5  # roundings of another layout
    tiles = []
    cut = engine.run(net, images, max_memory=least - 1, progress=lambda *done: tiles.append(done), **options)
    assert len(tiles) > 8
    assert difference(cut, whole) <= 5e-5


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
    assert not half or error < 80, "it was float32 all the same"
    with accelerate(model, kernels=engine.trial.kernels(model, {})):
        assert torch.equal(model(image), engine.run(model, image))


@pytest.mark.parametrize(("model", "config"), TILED, ids=lambda value: str(getattr(value, "__name__", value)))
@torch.no_grad()
def test_layouts_change_nothing_but_roundings(model, config):
    net, image = network(model, **config), picture(64, 64)  # maps on both sides of fast.LARGE
    weights = {name: (weight.clone(), weight.stride()) for name, weight in net.named_parameters()}
    with accelerate(net, enabled=False):
        fast = net(image)
    assert difference(fast, net(image)) <= 2e-5
    for name, weight in net.named_parameters():
        assert torch.equal(weight, weights[name][0]) and weight.stride() == weights[name][1]


@pytest.mark.parametrize(
    ("shape", "count", "padding"),
    [((1, 8, 9, 13), 5, 0), ((2, 16, 33, 31), 16, 1), ((3, 4, 6, 300), 4, (0, 2)), ((1, 192, 40, 40), 200, 1)],
)
@of_onednn
@torch.no_grad()
def test_fewer_multiplications_give_the_same_convolution(shape, count, padding):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(count, shape[1], 3, 3) / (9 * shape[1]) ** 0.5
    for bias in (torch.randn(count), None):
        exact = F.conv2d(x.double(), weight.double(), bias if bias is None else bias.double(), padding=padding)
        made = winograd.conv3x3(x, weight, bias, padding)
        assert made.dtype == torch.float32 and difference(made, exact) <= 3e-5


@pytest.mark.parametrize("half", [True, False])
@of_onednn
@torch.no_grad()
def test_wide_convolutions_multiply_less_in_float32_only(half, monkeypatch):
    """Those of 3 x 3 and stride 1 between many channels; all others stay what they are."""
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: half)
    calls, conv = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda x, *rest: calls.append(x.shape) or conv(x, *rest))
    net, image = ResnetGenerator(width=48, blocks=2).eval(), picture(128, 160)
    with accelerate(net):
        fast = net(image)
    assert calls == ([] if half else [(1, 192, 34, 42)] * 4)
    assert half or difference(fast, net(image)) <= 1e-4
    x, weight, wanted = torch.zeros(1, 192, 32, 32), torch.zeros(192, 192, 3, 3), (1, 0, 1, 1)
    assert winograd.suits(x, weight, *wanted) and winograd.suits(x, weight, (1, 1), (1, 1), (1, 1), 1)
    assert not winograd.suits(x, weight, *wanted[:3], 2) and not winograd.suits(x, weight, 2, *wanted[1:])
    assert not winograd.suits(x, weight, 1, "same", 1, 1) and not winograd.suits(x, weight, 1, 0, (1, 2), 1)
    assert not winograd.suits(x[..., :31], weight, *wanted) and not winograd.suits(x.double(), weight, *wanted)
    with torch.enable_grad():
        assert not winograd.suits(x, weight, *wanted), "it has no gradients"


@torch.no_grad()
def test_in_half_a_relu_is_that_of_every_number(monkeypatch):
    """Positive ones stay as they are, to the last bit, what is below zero is zero, and so is a zero with a sign."""
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: True)
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    every = every[~every.isnan()].view(1, 2, -1, 1)
    with engine.accelerate(nn.Conv2d(1, 1, 1)):
        made, inplace = F.relu(every), every.clone()
        F.relu(inplace, inplace=True)
        nn.ReLU()(again := every.clone())
        kept = F.relu(every.float())
    assert torch.equal(made.view(torch.int16), every.clamp_min(0).abs().view(torch.int16))
    assert torch.equal(inplace, made) and torch.equal(again, every) and kept.dtype == torch.float32


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("channels", [8, 256])
@of_onednn
@torch.no_grad()
def test_in_half_a_convolution_of_a_padded_map_is_the_same_however_wide(channels, tiles, monkeypatch):
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: True)
    monkeypatch.setattr(engine.fast, "bf16_by_tiles", lambda: tiles)
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect").eval()
    image = torch.randn(1, channels, 20, 27)
    with engine.accelerate(layer):
        made = layer(image)
    assert made.shape == image.shape and made.is_contiguous(memory_format=torch.channels_last)
    exact = layer(image)
    assert (made - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@of_onednn
@torch.no_grad()
def test_in_half_a_small_map_stays_in_its_layout(layout, monkeypatch):
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: True)
    given, ordered = [], fast._ordered_convolution
    monkeypatch.setattr(
        fast, "_ordered_convolution", lambda x, *rest, **more: given.append(x) or ordered(x, *rest, **more)
    )
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 16, 3), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    image = torch.randn(1, 8, 16, 12).contiguous(memory_format=layout)
    with engine.accelerate(layers):
        made = layers(image)
    assert len(given) == 2 and given[0].data_ptr() == image.data_ptr()
    assert given[1].is_contiguous(memory_format=torch.channels_last)  # as the first makes it
    exact = layers(image)
    assert (made - exact).abs().max() <= 0.03 * exact.abs().max()


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(6, 5), (50, 47)])
@of_onednn
@torch.no_grad()
def test_wide_convolutions_of_single_pixels_are_products_of_rows(size, bias, tiles, monkeypatch):
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: True)
    monkeypatch.setattr(engine.fast, "bf16_by_tiles", lambda: tiles)
    calls, product = [], fast._product_of_rows
    monkeypatch.setattr(fast, "_product_of_rows", lambda x, *rest: calls.append(x.shape) or product(x, *rest))
    torch.manual_seed(0)
    wide, narrow, looking = nn.Conv2d(256, 300, 1, bias=bias), nn.Conv2d(300, 8, 1), nn.Conv2d(256, 256, 1, stride=2)
    model = nn.Sequential(wide, nn.ReLU(), narrow).eval()
    x, kept = torch.randn(2, 256, *size), {}
    with engine.accelerate(model, ordered=kept):
        made, again = model(x), model(x)
        looking(x)
    assert calls == ([] if tiles else [x.shape] * 2) and torch.equal(made, again)
    assert [key for key in kept if key[0] == id(wide.weight)] and len(kept) == 3, "each once"
    exact = model(x)
    assert made.shape == exact.shape and (made - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "least", "away", "rtol"), [(torch.float32, 0, 7, 1e-5), (torch.bfloat16, 0.2, 0.5, 2e-4)]
)
@torch.no_grad()
def test_moments_are_those_of_torch(layout, dtype, least, away, rtol):
    maps = torch.randn(2, 5, 300, 200) * (least + torch.rand(5, 1, 1)) + away
    maps = maps.to(dtype).contiguous(memory_format=layout)
    with engine.accelerate(nn.Conv2d(1, 1, 1)):
        made, other = torch.var_mean(maps, (2, 3), keepdim=True), torch.var_mean(maps, 1)
    exact = torch.var_mean(maps.double(), (2, 3), keepdim=True)
    for ours, theirs in zip(made, exact, strict=True):
        assert ours.dtype == torch.float32 and torch.allclose(ours, theirs.float(), rtol=rtol)
    assert all(map(torch.equal, other, torch.var_mean(maps, 1)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_sums_over_half_precision_are_those_of_float64(layout):
    """Of a map larger than a block, and of a part of one, as tiles have."""
    maps = torch.randn(1, 5, 300, 211) * (0.2 + torch.rand(5, 1, 1)) + torch.arange(-2, 3)[:, None, None]
    maps = maps.bfloat16().contiguous(memory_format=layout)
    for part in (maps, maps[:, :, 7:290, 3:200]):
        count, mean, squares = sums.measure(part, "moments")
        exact = part.double()
        assert (count == exact[0, 0].numel()).all() and count.dtype == torch.float64
        assert torch.allclose(mean, exact.mean((0, 2, 3)), atol=1e-5)
        about = (exact - exact.mean((2, 3), keepdim=True)).square().sum((0, 2, 3))
        assert torch.allclose(squares, about, rtol=1e-3)  # the maps themselves are rounded by 4e-3
    assert not sums.measure(maps * 0 + 7, "moments")[2].any()


@torch.no_grad()
def test_moments_of_half_precision_are_in_float32_wherever():
    maps = torch.randn(1, 5, 30, 20).bfloat16()
    exact = [part.float() for part in torch.var_mean(maps.double(), (2, 3), keepdim=True)][::-1]
    for context in (
        contextlib.nullcontext(),
        torch.autocast("cpu", torch.bfloat16),
        engine.accelerate(nn.Conv2d(1, 1, 1)),
    ):
        with context:
            made = moments(maps)
        for ours, theirs in zip(made, exact, strict=True):
            assert ours.dtype == torch.float32 and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_in_half_a_map_is_scaled_by_channel_as_in_float32(dtype):
    maps, places = torch.randn(1, 5, 30, 20).bfloat16(), torch.randn(1, 5, 30, 20)
    shift, scale = torch.randn(2, 1, 5, 1, 1).to(dtype)
    with engine.accelerate(nn.Conv2d(1, 1, 1)):
        made, other = torch.addcmul(shift, maps, scale), torch.addcmul(places, maps, scale)
    exact = torch.addcmul(shift.float(), maps.float(), scale.float())
    assert made.dtype == torch.bfloat16 and torch.equal(made, exact.bfloat16())
    assert torch.equal(other, torch.addcmul(places, maps, scale))


@torch.no_grad()
def test_maps_are_joined_in_one_layout():
    pixels, image = torch.rand(1, 8, 16, 16).to(memory_format=torch.channels_last), torch.rand(1, 3, 16, 16)
    with engine.accelerate(nn.Conv2d(1, 1, 1)):
        made = torch.cat([pixels, image], dim=1)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made, torch.cat([pixels, image], dim=1))


@torch.no_grad()
def test_wide_convolutions_are_the_same_in_tiles_and_called_in_other_ways():
    torch.manual_seed(0)
    net, image = ResnetGenerator(width=48, blocks=2).eval(), picture(200, 240)
    with accelerate(net, enabled=False):
        assert difference(run_tiled(net, image, tile=160), net(image)) <= 1e-4
        x, weight = torch.rand(192, 40, 1100), torch.rand(192, 192, 3, 3) - 0.5
        one = F.conv2d(x, weight)  # no batch
        assert difference(F.conv2d(x[None], weight=weight)[0], one) <= 1e-4 * one.abs().max().item()


FAULTS = """
import resource, torch
from styleforge.engine import accelerate

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(6 * 2**20) for _ in range(6)]  # 36864 pages
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with accelerate(torch.nn.Conv2d(1, 1, 1)):
    print([faults() for _ in range(12)][-1])  # alignment leaves gaps at first
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")
def test_freed_memory_is_used_again():
    """In a process of its own: what other tests left in the heap decides where a tensor goes."""
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.017)])
def test_norms_of_large_maps_are_exact(dtype, most):
    """Torch's group norm is off by 8e-4 and 0.027 here; 0.016 is the rounding of bfloat16."""
    torch.manual_seed(0)
    features = (torch.randn(2, 4, 1024, 1024) + 3).to(dtype).contiguous(memory_format=torch.channels_last)
    exact = F.instance_norm(features.double().contiguous())
    with accelerate(nn.Conv2d(1, 1, 1), enabled=dtype == torch.bfloat16):
        assert (F.instance_norm(features).double() - exact).abs().max() < most


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1", "1000"]),  # large pages, and threads that do not wait for each other in circles
        ({"THP_MEM_ALLOC_ENABLE": "0", "GOMP_SPINCOUNT": "7"}, ["0", "7"]),
        ({"OMP_WAIT_POLICY": "active"}, ["1", "None"]),
    ],
)
def test_what_torch_reads_when_it_begins_is_set_unless_somebody_says_otherwise(given, expected):
    names = "THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT"
    show = f"import styleforge, os, sys; assert 'torch' not in sys.modules; print(*map(os.environ.get, {names}))"
    kept = {key: value for key, value in os.environ.items() if key not in (*names, "OMP_WAIT_POLICY")}
    run = [sys.executable, "-c", show]
    made = subprocess.run(run, env=kept | given, capture_output=True, text=True, check=True)
    assert made.stdout.split() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_map_of_a_single_column_is_right_in_half(dtype, monkeypatch):
    """With AMX oneDNN gets convolutions with a stride wrong whose result is one: those of pix2pix for tall pictures."""
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: True)
    torch.manual_seed(0)
    net = nn.Conv2d(64, 64, 3, stride=2, padding=1)
    for rows, columns in ((41, 2), (40, 1), (2, 2), (2, 40)):
        x = torch.randn(2, 64, rows, columns).split(1)[0]
        exact = net.float()(x)
        with accelerate(net.to(dtype)):
            made = net(x.to(dtype)).float()
        assert made.shape == exact.shape and (made - exact).abs().max() <= 0.02 * exact.abs().max()
    unet = UNetGenerator(width=8, norm="instance", downs=5).eval()
    image = torch.tanh(torch.randn(1, 3, 128, 32))
    with accelerate(unet):
        assert difference(unet(image), unet.float()(image)) <= 0.1


@torch.no_grad()
def test_threads_trace_a_network_while_others_compute_with_it():
    """A trace of fake tensors once took the place of the weights meanwhile, and of two at a time, for ever."""
    net, image = network(ResnetGenerator, blocks=2), picture(64, 64)
    weights, wanted = dict(net.named_parameters()), net(image)

    @torch.no_grad()  # of each thread
    def call(turn):
        if turn % 2:
            return difference(net(image), wanted)
        return difference(run(net, image, max_memory=10**6, fast=False), wanted)

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(call, range(24))) <= 2e-5
    assert all(weights[name] is weight for name, weight in net.named_parameters())


@torch.no_grad()
def test_calls_with_tensors_given_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))

        def forward(self, x):
            return torch.tanh(input=torch.conv2d(input=F.relu(input=x), weight=self.weight, padding=1))

    net, image = Named().eval(), picture(16, 16)
    assert difference(run(net, image), net(image)) < 0.05


@pytest.mark.parametrize("half", [True, False])
@torch.no_grad()
def test_the_default_type_changes_nothing(half, monkeypatch):
    monkeypatch.setattr(fast, "bf16_is_fast", lambda device: half)
    net, image = ResnetGenerator(width=64, blocks=1).eval(), picture(96, 96)
    wanted = run(net, image)
    monkeypatch.setattr(trial, "_tried", WeakKeyDictionary())
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(run(net, image), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
