"""What bridges have in common, ComfyUI's node, which needs no ComfyUI, and the entry in the Hub's list of libraries."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from styleforge import ResnetGenerator, StylePipeline
from styleforge.bridges import comfyui
from styleforge.errors import ConfigError, ImageError, MissingExtra, RepoNotFound, UnknownName
from styleforge.models import DCGANGenerator, MicroASTGenerator

ROOT = Path(__file__).parents[1]
STYLIZE = comfyui.NODE_CLASS_MAPPINGS["StyleforgeStylize"]


@pytest.fixture(autouse=True)
def fresh():
    comfyui._pipeline.cache_clear()


@pytest.fixture
def style(tmp_path: Path) -> str:
    torch.manual_seed(0)
    return str(ResnetGenerator(width=4, blocks=1).save_pretrained(tmp_path / "style"))


def batch(number: int, height: int = 13, width: int = 18, seed: int = 0) -> Tensor:
    """(number, height, width, 3) of 8-bit levels in [0, 1], as ComfyUI's pictures are."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (number, height, width, 3))).float() / 255


def paint(image: Tensor, style: str, **settings) -> Tensor:
    """As ComfyUI runs the node: by the name of its function, with inputs by name."""
    with torch.inference_mode():
        (painted,) = getattr(STYLIZE(), STYLIZE.FUNCTION)(image=image, style=style, **settings)
    return painted


@pytest.mark.parametrize("name", ["diffusers", "spandrel"])
@pytest.mark.parametrize("error", [ImportError("no"), RuntimeError("built for another torch")])
def test_without_its_library_a_bridge_says_what_to_install(monkeypatch, name, error):
    class Broken:
        def find_spec(self, module, *_):
            if module == name:
                raise error

    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"styleforge.bridges.{name}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=rf"needs {name}.*{error}.*styleforge\[{name}\]"):
        importlib.import_module(f"styleforge.bridges.{name}")


def test_the_file_for_comfyui_is_two_lines(tmp_path):
    """ComfyUI loads a file of `custom_nodes` by its path, and looks for two names in it."""
    first, _ = re.findall(r"^    (from styleforge.*)$", comfyui.__doc__, re.MULTILINE)
    (tmp_path / "styleforge_nodes.py").write_text(first)
    spec = importlib.util.spec_from_file_location("styleforge_nodes", tmp_path / "styleforge_nodes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys() == {"StyleforgeStylize"}


def test_the_node_declares_what_its_function_takes():
    inputs = STYLIZE.INPUT_TYPES()
    parameters = STYLIZE.stylize.__code__.co_varnames[1 : STYLIZE.stylize.__code__.co_argcount]
    assert (*inputs["required"], *inputs["optional"]) == parameters
    assert STYLIZE.RETURN_TYPES == ("IMAGE",)
    settings = {name: kind[1]["default"] for name, kind in inputs["required"].items() if len(kind) > 1}
    painted = paint(batch(1), preserve_color=inputs["required"]["preserve_color"][0][0], **settings)
    assert torch.equal(painted, paint(batch(1), settings["style"]))  # of the bundled style


def test_a_batch_is_what_the_pipeline_makes_of_each(style):
    images = batch(2)
    painted = paint(images, style, strength=0.7, preserve_color="luma", style_scale=2.0)
    pipe = StylePipeline.from_pretrained(style)
    settings = {"strength": 0.7, "preserve_color": "luma", "style_scale": 2.0, "output_type": "np"}
    expected = [pipe((image.numpy() * 255).round().astype(np.uint8), **settings) for image in images]
    assert painted.shape == images.shape
    assert painted.dtype == torch.float32
    assert np.abs(painted.numpy() - expected).max() < 1e-4
    assert (painted[0] - painted[1]).abs().max() > 0.1


def test_outside_of_the_mask_pictures_stay(style):
    images, mask = batch(2), torch.zeros(1, 13, 18)
    mask[:, :, 9:] = 1
    painted = paint(images, style, mask=mask)
    assert (painted[:, :, :9] - images[:, :, :9]).abs().max() < 1e-6
    assert (painted - paint(images, style))[:, :, 9:].abs().max() < 1e-4  # 16 bit
    each = torch.cat([mask, 1 - mask])
    assert torch.equal(paint(images, style, mask=each)[0], painted[0])
    assert (paint(images, style, mask=each)[1, :, 9:] - images[1, :, 9:]).abs().max() < 1e-6


def test_the_mask_of_a_picture_without_one_is_small_and_empty(style):
    """ComfyUI's LoadImage gives 64 x 64 zeros where the picture has no alpha."""
    images = batch(1)
    assert (paint(images, style, mask=torch.zeros(64, 64)) - images).abs().max() < 1e-6
    assert (paint(images, style, mask=torch.ones(1, 64, 64)) - paint(images, style)).abs().max() < 1e-4


def test_what_other_nodes_left_outside_of_the_range_is_cut_off(style):
    images = batch(1)
    images[0, 0, 0], clipped = torch.tensor([1.2, -0.3, 0.5]), images.clone().clamp(0, 1)
    clipped[0, 0, 0] = torch.tensor([1.0, 0.0, 0.5])
    assert torch.equal(paint(images, style), paint(clipped, style))


def test_networks_for_any_style_take_a_reference(tmp_path):
    torch.manual_seed(0)
    style = str(MicroASTGenerator(width=2).save_pretrained(tmp_path / "any"))
    images, reference = batch(2), batch(1, 20, 24, seed=1)
    painted = paint(images, style, reference=reference)
    assert painted.shape == images.shape
    assert (painted - paint(images, style, reference=1 - reference)).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="given none"):
        paint(images, style)


def test_a_style_is_loaded_once(style, monkeypatch):
    paint(batch(1), style)
    monkeypatch.setattr(comfyui.StylePipeline, "from_pretrained", None)
    paint(batch(1), style)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"style": "no-such-style"}, RepoNotFound),
        ({"strength": 2.0}, ConfigError),
        ({"preserve_color": "lumma"}, UnknownName),
    ],
)
def test_what_cannot_be_painted_is_said_in_a_sentence(style, settings, error):
    with pytest.raises(error):
        paint(batch(1), **{"style": style, **settings})


@pytest.mark.parametrize("name", ["image", "mask", "reference"])
def test_a_batch_of_nothing_is_said(style, name):
    given = {"image": batch(1), name: batch(1)[:0] if name != "mask" else torch.ones(0, 13, 18)}
    with pytest.raises(ImageError, match=f"holds no pictures .{name}.: found .0, 13, 18"):
        paint(style=style, **given)


def test_snippets_of_the_hub_run(tmp_path, monkeypatch):
    """What `scripts/hub_library.md` would have the Hub show, for each kind of style."""
    text = (ROOT / "scripts" / "hub_library.md").read_text()
    source = textwrap.dedent(re.search(r"```ts\n(   export const styleforge.*?)```", text, re.DOTALL)[1])
    load, noise, reference, image = re.findall(r"`([^`]+)`", source)
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "painting.jpg"):
        Image.new("RGB", (20, 16), "teal").save(name)
    for model, call, made in (
        (ResnetGenerator(width=2, blocks=0), image.replace("${style}", ""), "styled.png"),
        (MicroASTGenerator(width=2), image.replace("${style}", reference), "styled.png"),
        (DCGANGenerator(width=2, size=32, noise_size=4), noise, "new.png"),
    ):
        Path(made).unlink(missing_ok=True)
        model.save_pretrained("style")
        exec(load.replace("${model.id}", "style") + call, {})
        assert Path(made).is_file()
