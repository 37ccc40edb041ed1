"""Notes of a forward pass: the same pictures, bit for bit, and never those of yesterday's weights."""

from __future__ import annotations

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from test_models import build, name_of
from torch import nn
from variants import VARIANTS

from styleforge import StylePipeline, engine
from styleforge.engine import Replay
from styleforge.engine.fast import in_half
from styleforge.models import MicroASTGenerator, MiniGenerator, ResnetGenerator, TransformerNet


def styles():
    """Networks from a picture, perhaps with one of the style, to a picture."""
    found = []
    for variant in VARIANTS:
        with torch.device("meta"):
            can = build(variant).capabilities
        if can.output == "image" and can.inputs[0] == "image":
            found.append(variant)
    return found


def pictures(model, count):
    side = max(model.capabilities.smallest, 32)
    side += -side % model.capabilities.multiple
    channels = model.config.get("in_channels", 3)
    return torch.rand(count, 1, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def small(**config):
    torch.manual_seed(0)
    return MiniGenerator(width=4, blocks=1, **config).eval()


def noted(replay):
    return sum(notes is not None for notes in replay._notes.values())


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("variant", styles(), ids=name_of)
def test_every_style_gives_the_same_bits(variant, fast):
    model = build(variant).eval()
    replay = Replay(model)
    for picture in pictures(model, 4):
        options = {"style": picture.flip(3)} if "style" in model.capabilities.inputs else {}
        plain = engine.run(model, picture, fast=fast, options=options)
        assert torch.equal(engine.run(model, picture, fast=fast, options=options, shortcut=replay), plain)
    assert noted(replay) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_may_change_in_place_or_be_others(mode):
    model = ResnetGenerator(width=4, blocks=1).eval()
    other = ResnetGenerator(width=4, blocks=1).eval()
    replay, (one, two, three) = Replay(model), pictures(model, 3)

    def same():
        for picture in (one, two, three):
            with mode():
                made = engine.run(model, picture, shortcut=replay)
                assert torch.equal(made, engine.run(model, picture))
        assert noted(replay) == 1 and len(replay._notes) == 1

    same()
    model.load_state_dict(other.state_dict())
    same()
    model.head.weight = nn.Parameter(model.head.weight * 2)
    same()
    with torch.no_grad():
        model.stem.weight.mul_(3)
    same()
    model.double()
    one, two, three = one.double(), two.double(), three.double()
    same()


def test_a_network_that_somebody_looks_into_is_not_noted_down():
    model, seen = small(), []
    replay, (picture,) = Replay(model), pictures(model, 1)
    for _ in range(3):
        engine.run(model, picture, shortcut=replay)
    handle = model.stem.register_forward_hook(lambda *given: seen.append(given))
    for _ in range(3):
        engine.run(model, picture, shortcut=replay)
    assert len(seen) == 3
    handle.remove()
    engine.run(model, picture, shortcut=replay)
    assert len(seen) == 3 and noted(replay) == 1


class Turns(nn.Module):
    """Goes by values, or by chance."""

    def __init__(self, chance):
        super().__init__()
        self.conv, self.chance = nn.Conv2d(3, 3, 1), chance

    def forward(self, image):
        if self.chance:
            return self.conv(image) + torch.randn_like(image)
        return self.conv(image) if image.mean() > 0 else -image


@pytest.mark.parametrize("chance", [False, True])
def test_what_goes_by_values_or_by_chance_is_not_noted_down(chance):
    model = Turns(chance).eval()
    replay, bright = Replay(model), torch.full((1, 3, 8, 8), 0.5)
    made = [engine.run(model, bright, shortcut=replay) for _ in range(4)]
    assert not noted(replay)
    if chance:
        assert not torch.equal(made[2], made[3])
    else:
        assert torch.equal(engine.run(model, -bright, shortcut=replay), bright)


class Writes(nn.Module):
    """Into a copy of its weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image):
        copy = self.conv.weight.to(torch.bfloat16)
        copy.view(-1).mul_(2)
        return nn.functional.relu(self.conv(image)) + copy.float().sum()


def test_what_is_written_into_a_copy_is_gone_the_next_time():
    model = Writes().eval()
    replay, (picture,) = Replay(model), torch.rand(1, 1, 3, 8, 8)
    made = [engine.run(model, picture, shortcut=replay) for _ in range(4)]
    assert noted(replay) == 1 and all(torch.equal(one, engine.run(model, picture)) for one in made)


class Remembers(nn.Module):
    """Adds what no part of it and no argument is."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 1), torch.zeros(1)

    def forward(self, image):
        self.last = self.last + image.mean()
        return self.conv(image) + self.last


def test_what_a_network_remembers_is_never_old():
    one, two = Remembers().eval(), Remembers().eval()
    two.load_state_dict(one.state_dict())
    replay = Replay(one)
    for _ in range(4):
        picture = torch.rand(1, 3, 8, 8)
        assert torch.equal(engine.run(one, picture, shortcut=replay), engine.run(two, picture))
    assert not noted(replay)


def test_notes_hold_no_pictures_and_only_of_some_sizes():
    model = small()
    replay = Replay(model)

    def alive():
        gc.collect()
        return sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor and x.ndim == 4 and len(x) == 1)

    before = alive()
    for side in range(16, 16 + 4 * (engine.replay.SIZES + 2), 4):
        for _ in range(3):
            engine.run(model, torch.rand(1, 3, side, side), shortcut=replay)
    assert len(replay._notes) == noted(replay) == engine.replay.SIZES
    assert alive() <= before + 100


class Half(nn.Module):
    """A convolution in half with a ReLU behind it; what the convolution gives may be wanted elsewhere, too."""

    def __init__(self, inplace, also):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.inplace, self.also = nn.Conv2d(3, 3, 3, padding=1), inplace, also

    def forward(self, image):
        x = self.conv(image)
        y = nn.functional.relu(x, inplace=self.inplace)
        return y.float() + x.float() if self.also else y.float()


@pytest.mark.parametrize("also", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.skipif(engine.fast._onednn is None, reason="this torch has no oneDNN, as those of Apple")
@torch.no_grad()
def test_a_relu_behind_a_convolution_is_done_by_it_unless_that_is_wanted_without(inplace, also, monkeypatch):
    monkeypatch.setattr(engine.fast, "bf16_is_fast", lambda device: True)
    model = Half(inplace, also).eval()
    replay = Replay(model)
    for picture in torch.rand(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1:
        with engine.accelerate(model):
            plain = model(picture)
        made = replay(picture, {}, fast=True)
        assert made is None or torch.equal(made, plain)
    (notes,) = replay._notes.values()
    assert ("relu" in notes.code.replace("'relu'", "")) == also


def test_ordered_weights_are_kept_once_for_all_sizes():
    model = small()
    replay = Replay(model)
    for side in (16, 32, 64):
        picture = torch.rand(1, 3, side, side)
        for _ in range(2):
            engine.run(model, picture, shortcut=replay)
    kept, own = sum(known.numel() for known in replay._known.values()), sum(p.numel() for p in model.parameters())
    assert kept <= own and (kept > own / 2 or not in_half(picture))


def test_threads_share_notes():
    model = small()
    replay, given = Replay(model), pictures(model, 40)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda picture: engine.run(model, picture, shortcut=replay), given))
    assert all(torch.equal(one, engine.run(model, picture)) for one, picture in zip(made, given, strict=True))


def test_pipelines_take_notes_and_travel_without_them():
    photo = Image.effect_noise((37, 29), 80).convert("RGB")
    pipe = StylePipeline(TransformerNet(width=4, blocks=1, styles=2))
    for style in (None, 0, 1, [1, 3]):
        plain = StylePipeline(pipe.model)(photo, style=style)
        assert all(pipe(photo, style=style).tobytes() == plain.tobytes() for _ in range(3))
    assert noted(pipe._shortcut) == 2  # with weights of styles, and without
    assert pickle.loads(pickle.dumps(pipe))(photo).tobytes() == pipe(photo).tobytes()
    pipe.model = TransformerNet(width=4, blocks=1, styles=2)
    assert pipe(photo).tobytes() == StylePipeline(pipe.model)(photo).tobytes()


class Sums(nn.Module):
    """Writes into numbers of its own, also through a view."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        total, shares = torch.tensor(0.0), torch.tensor([0.1, 0.2, 0.3])
        total += x.mean()
        shares.view(1, 3, 1, 1).mul_(2)
        return self.conv(x) + total + shares[None, :, None, None]


def test_numbers_that_are_written_into_are_new_each_time():
    model, picture = Sums().eval(), torch.rand(1, 3, 8, 8)
    replay, wanted = Replay(model), engine.run(model, picture)
    assert all(torch.equal(engine.run(model, picture, shortcut=replay), wanted) for _ in range(4)) and noted(replay)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimizers_are_seen(kind):
    """They leave the count of changes as it was."""
    model, picture = small(), torch.rand(1, 3, 32, 32)
    replay, optimizer = Replay(model), kind(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        before = engine.run(model, picture, shortcut=replay)
    model(picture).square().sum().backward()
    optimizer.step()
    after = engine.run(model, picture, shortcut=replay)
    assert torch.equal(after, engine.run(model, picture)) and not torch.equal(after, before)


def changed_data(model):
    model.even.weight.data.mul_(2)


def in_training(model):
    next(part for part in model.modules() if isinstance(part, nn.Conv2d)).train()


def without_norms(model):
    for part in model.modules():
        for name, inner in part.named_children():
            if not list(inner.parameters()) and not list(inner.children()):
                setattr(part, name, nn.Identity())


def with_another_forward(model):
    model.forward = lambda image: -type(model).forward(model, image)


@pytest.mark.parametrize("change", [changed_data, in_training, without_norms, with_another_forward])
def test_changes_that_torch_does_not_count_are_seen(change):
    model = ResnetGenerator(width=4, blocks=1, downsample="blur").eval() if change is without_norms else small()
    replay, picture = Replay(model), torch.rand(1, 3, 32, 32)
    for _ in range(3):
        engine.run(model, picture, shortcut=replay)
    old = list(replay._notes.values())
    change(model)
    for _ in range(3):
        assert torch.equal(engine.run(model, picture, shortcut=replay), engine.run(model, picture))
    assert change in (changed_data, without_norms) or list(replay._notes.values()) == old  # not asked, not taken


def test_hooks_on_all_modules_are_called():
    model, picture, calls = small(), torch.rand(1, 3, 32, 32), []
    replay = Replay(model)
    for _ in range(3):
        engine.run(model, picture, shortcut=replay)
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, made: calls.append(module))
    try:
        engine.run(model, picture, shortcut=replay)
    finally:
        hook.remove()
    assert len(calls) == sum(1 for part in model.modules() if type(part).forward is not nn.Module.forward)


@pytest.mark.parametrize("fast", [True, False])
def test_notes_do_not_mind_autocast_around_them(fast):
    model, picture = ResnetGenerator(width=4, blocks=1).eval(), torch.rand(1, 3, 32, 32)
    replay, wanted = Replay(model), engine.run(model, picture, fast=fast)
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(engine.run(model, picture, fast=fast, shortcut=replay), wanted)
    assert noted(replay) == 1


def test_one_tensor_given_twice_is_not_taken_for_two():
    model = MicroASTGenerator(width=4).eval()
    picture, one, other = torch.rand(3, 1, 3, 32, 32)
    replay = Replay(model)
    for _ in range(3):
        engine.run(model, picture, shortcut=replay, options={"style": [(one, 0.5), (one, 0.5)]})
    options = {"style": [(one, 0.5), (other, 0.5)]}
    for _ in range(3):
        assert torch.equal(
            engine.run(model, picture, shortcut=replay, options=options), engine.run(model, picture, options=options)
        )
