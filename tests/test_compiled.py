"""torch.compile as an option: the same pictures, and a fallback where it cannot be had."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from styleforge import StylePipeline, cli, engine
from styleforge.errors import ConfigError
from styleforge.models import MicroASTGenerator, MiniGenerator, TransformerNet, UNetGenerator


@pytest.fixture
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)


def small(**options):
    torch.manual_seed(0)
    return StylePipeline(MiniGenerator(width=4, blocks=1), **options)


def distance(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_pictures_are_those_of_the_network(photo, recwarn):
    for fast, most in ((True, 4), (False, 1)):
        compiled, plain = small(compile=True, fast=fast), small(fast=fast)
        for size in (photo.size, (32, 32)):
            assert distance(compiled(photo.resize(size)), plain(photo.resize(size))) <= most
        assert compiled._shortcut.problem is None and len(compiled._shortcut._sizes) == 2
    assert not [str(w.message) for w in recwarn if "going on without it" in str(w.message)]
    compiled.compile = False
    assert distance(compiled(photo), plain(photo)) == 0
    assert distance(pickle.loads(pickle.dumps(compiled))(photo), plain(photo)) == 0


def test_without_a_compiler_the_pictures_are_the_same_and_one_warning_says_why(photo, monkeypatch):
    def no_compiler(model, **options):
        def run(image):
            raise RuntimeError("No working C++ compiler found\nand much more")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    pipe = small(compile=True)
    with pytest.warns(UserWarning, match=r"No working C\+\+ compiler found$") as seen:
        made = [pipe(photo) for _ in range(2)]
    assert len(seen) == 1 and distance(made[0], made[1]) == distance(made[0], small()(photo)) == 0


def test_what_is_wrong_with_a_picture_is_no_fault_of_the_compiler(photo, monkeypatch):
    def refuse(image):
        raise ConfigError("This picture cannot be")

    monkeypatch.setattr(torch, "compile", lambda model, **options: refuse)
    with pytest.raises(ConfigError, match="cannot be"):
        small(compile=True)(photo)


def test_only_some_sizes_are_compiled_for_and_no_tiles_and_no_films(photo, monkeypatch):
    compiled_for = []

    def note(model, **options):
        assert options == {"dynamic": False}

        def run(image):
            compiled_for.append(image.shape[2])
            return model(image)

        return run

    monkeypatch.setattr(torch, "compile", note)
    pipe = small(compile=True)
    for side in [*range(16, 16 + 4 * (engine.compiled.SIZES + 1), 4), 16]:
        pipe(photo.resize((side, side)))
    assert len(set(compiled_for)) == engine.compiled.SIZES and compiled_for[-1] == 16
    compiled_for.clear()

    class Watcher:
        def begin(self, how):
            pass

        def __call__(self, total):
            return total

    with engine.watched(Watcher()):
        pipe(photo.resize((16, 16)))
    image = torch.rand(1, 3, 256, 256) * 2 - 1
    least = int(engine.tiled.SLACK * engine.trace.trace(pipe.model, image, {}).peak())
    tiles = []
    engine.run(
        pipe.model, image, shortcut=pipe._shortcut, max_memory=least * 3 // 4, progress=lambda *n: tiles.append(n)
    )
    assert len(tiles) > 1 and not compiled_for


def test_networks_with_several_styles_paint_the_one_that_is_asked_for(photo):
    torch.manual_seed(0)
    model = TransformerNet(width=4, blocks=0, styles=3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.5)
    plain, compiled = StylePipeline(model, fast=False), StylePipeline(model, fast=False, compile=True)
    with pytest.warns(UserWarning, match="takes more than a picture"):
        made = [compiled(photo, style=number) for number in range(3)]
    for number, picture in enumerate(made):
        assert distance(picture, plain(photo, style=number)) == 0
    assert distance(made[0], made[1]) > 8


def test_options_are_never_lost_to_a_compiled_network(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: lambda image: pytest.fail("options were lost"))
    compiled = engine.Compiled(MiniGenerator(width=4, blocks=1).eval())
    model = TransformerNet(width=4, blocks=0, styles=3).eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    options = {"weights": torch.tensor([[0.0, 1.0, 0.0]])}
    with torch.no_grad():
        made = engine.run(model, image, shortcut=compiled, options=options, fast=False)
        assert torch.allclose(made, model(image, **options), atol=1e-5)


def test_networks_that_take_a_style_are_not_shortcut(photo):
    pipe = StylePipeline(MicroASTGenerator(width=4), compile=True)
    with pytest.warns(UserWarning, match="takes more than a picture"):
        pipe(photo, style=photo)


@pytest.mark.parametrize("command", ["stylize", "batch"])
def test_the_command_line_compiles_when_asked(photo, tmp_path, monkeypatch, command):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(model) or model)
    small().save_pretrained(tmp_path / "style")
    photo.save(tmp_path / "photo.png")
    base = [command, str(tmp_path / "photo.png"), "--style", str(tmp_path / "style"), "--device", "cpu", "-o"]
    assert CliRunner().invoke(cli.cli, [*base, str(tmp_path / "plain")]).exit_code == 0 and not asked
    assert CliRunner().invoke(cli.cli, [*base, str(tmp_path / "compiled"), "--compile"]).exit_code == 0
    assert len(asked) == 1


def test_where_a_map_becomes_a_single_column_nothing_is_compiled_in_half(monkeypatch):
    """OneDNN would make garbage of it, and torch.compile leaves convolutions to that."""
    seen = []
    monkeypatch.setattr(engine.compiled, "in_half", lambda image: True)
    monkeypatch.setattr(torch, "compile", lambda model, **options: lambda image: seen.append(image.shape) or image)
    compiled = engine.Compiled(UNetGenerator(width=4, norm="instance", downs=3).eval())
    tall, wide = torch.zeros(1, 3, 32, 8), torch.zeros(1, 3, 8, 32)
    for image, fast, made in ((tall, True, False), (tall, True, False), (wide, True, True), (tall, False, True)):
        assert (compiled(image, {}, fast=fast) is not None) == made
    assert seen == [wide.shape, tall.shape]
