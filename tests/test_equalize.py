"""A filter behind a style that sets how strong its detail is."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from styleforge import PretrainedMixin, images
from styleforge.adaptation import Adaptation
from styleforge.cli import cli
from styleforge.engine import accelerate
from styleforge.equalize import equalize, fitted
from styleforge.errors import ConfigError, DataError
from styleforge.methods import build
from styleforge.metrics.texture import log_power
from styleforge.models import MicroASTGenerator, ResnetGenerator


def pictures(count: int, seed: int, size: int = 64) -> torch.Tensor:
    """Colored noise of all sizes, softer the finer, not far from gray."""
    generator = torch.Generator().manual_seed(seed)
    made = 0
    for coarse in (1, 2, 4, 8):
        noise = torch.randn(count, 3, size // coarse, size // coarse, generator=generator)
        made = made + coarse * F.interpolate(noise, size, mode="bicubic")
    return (made * 0.03).clamp(-1, 1)


def sharper(x: torch.Tensor, amount: float) -> torch.Tensor:
    """With more, or less, of what a blur of 3 x 3 takes away."""
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return (x + amount * (x - blurred)).clamp(-1, 1)


def folder(place: Path, made: torch.Tensor) -> Path:
    place.mkdir()
    for number, x in enumerate(made.split(1)):
        images.save(images.to_pil(x), place / f"{number}.png")
    return place


class Rough(ResnetGenerator):
    """A style whose detail is too strong, and nothing else."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.equalizer(sharper(image, 0.8)) if self.equalizer is not None else sharper(image, 0.8)


@pytest.fixture
def rough(tmp_path):
    """The style, photographs, and what it should learn from: other pictures of the kind of the photographs."""
    style = Rough(width=4, blocks=0).save_pretrained(tmp_path / "rough")
    return style, folder(tmp_path / "source", pictures(8, 1)), folder(tmp_path / "target", pictures(8, 2))


@pytest.mark.parametrize("amount", [0.8, -0.5])
def test_detail_becomes_as_strong_as_in_others_and_nothing_else_changes(amount):
    wanted, right = log_power(pictures(16, 2)), pictures(16, 1)
    made = sharper(right, amount)
    weight = fitted(made, wanted)
    filtered = F.conv2d(F.pad(made, (3, 3, 3, 3), mode="reflect"), weight).clamp(-1, 1)

    def far(x):
        return ((log_power(x).mean(0) - wanted.mean(0)) / wanted.std(0)).square().mean().item()

    assert far(filtered) < far(made) / 5 and far(made) > 0.3
    assert (filtered - right).abs().mean() < (made - right).abs().mean() / 2
    assert torch.allclose(weight.sum((2, 3)), torch.eye(3), atol=1e-5)  # an even color stays what it is
    assert torch.allclose(weight, weight.flip(2), atol=1e-6) and torch.allclose(weight, weight.flip(3), atol=1e-6)


def test_a_style_gets_its_filter(rough, tmp_path):
    style, source, target = rough
    made = equalize(style, source, target, tmp_path / "new", size=64)
    assert made.after < made.before / 3 and abs(made.photographs) < 0.1 < made.before
    read = PretrainedMixin.from_pretrained(tmp_path / "new")
    assert read.config["equalizer"] and torch.equal(read.equalizer.weight, made.network.equalizer.weight)
    again = equalize(tmp_path / "new", source, target, size=64)  # as if there were none
    assert torch.allclose(again.network.equalizer.weight, made.network.equalizer.weight, atol=1e-5)
    assert again.before == pytest.approx(made.before)


def test_strength_is_a_share_and_the_type_of_weights_stays(rough, tmp_path):
    style, source, target = rough
    full, half, none = (
        equalize(style, source, target, size=64, strength=s).network.equalizer.weight for s in (1.0, 0.5, 0.0)
    )
    nothing = torch.nn.init.dirac_(torch.empty(3, 3, 7, 7))
    assert torch.equal(none, nothing) and torch.allclose(half, (full + nothing) / 2, atol=1e-6)
    Rough(width=4, blocks=0).half().save_pretrained(tmp_path / "fp16")
    equalize(tmp_path / "fp16", source, target, tmp_path / "new", size=64, limit=4)
    assert PretrainedMixin.from_pretrained(tmp_path / "new").dtype == torch.float16


def test_a_new_filter_changes_no_bit_and_is_computed_in_float32():
    torch.manual_seed(0)
    plain = ResnetGenerator(width=8, blocks=1).eval()
    network = ResnetGenerator(width=8, blocks=1, equalizer=True).eval()
    network.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    for fast in (False, True):
        with torch.no_grad(), accelerate(plain, enabled=fast):
            made, same = plain(image), network(image)
            assert torch.equal(made, same)
            network.equalizer.weight.data += 0.01 * torch.randn_like(network.equalizer.weight)
            filtered = network(image)
        weight = network.equalizer.weight
        expected = F.conv2d(F.pad(made, (3, 3, 3, 3), mode="reflect"), weight).clamp(-1, 1)
        assert torch.allclose(filtered, expected, atol=1e-5)
        network.equalizer.reset_parameters()


def test_what_is_wrong_is_said_before_anything_is_written(rough, tmp_path):
    style, source, target = rough
    with pytest.raises(ConfigError, match="something here already"):
        equalize(style, source, target, source)
    MicroASTGenerator(width=4).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"no place for an equalizer.*MicroASTGenerator"):
        equalize(tmp_path / "other", source, target, tmp_path / "new")
    few = folder(tmp_path / "few", pictures(2, 1))
    with pytest.raises(DataError, match=r"Too few pictures.*found 2"):
        equalize(style, source, few, tmp_path / "new")
    with pytest.raises(ConfigError, match="strength"):
        equalize(style, source, target, tmp_path / "new", strength=2)
    assert not (tmp_path / "new").exists()


def test_training_goes_on_without_the_filter_and_says_so(tmp_path):
    method = build("cut", {"width": 4, "blocks": 1, "nce_blocks": [0]})
    config = {**method.generator.config, "equalizer": True}
    style = ResnetGenerator(**config)
    style.save_pretrained(tmp_path / "style")
    with pytest.warns(UserWarning, match="equalizer of this style"):
        Adaptation(base=str(tmp_path / "style")).apply(method)
    assert method.generator.equalizer is None
    assert torch.equal(method.generator.head.weight, style.head.weight)


def test_the_command_line_says_what_was_gained_and_keeps_the_discriminators(rough, tmp_path):
    style, source, target = rough
    (style / "training").mkdir()
    (style / "training" / "networks.safetensors").write_bytes(b"left alone")
    (style / "README.md").write_text("# My style\n")
    new = tmp_path / "new"
    asked = ["equalize", str(style), "--source", str(source), "--target", str(target), "-o", str(new), "--size", "64"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    assert str(new) in result.output and "texture distance" in result.output
    assert (new / "training" / "networks.safetensors").read_bytes() == b"left alone"
    assert (new / "README.md").read_text() == "# My style\n"
    assert json.loads((new / "config.json").read_text())["equalizer"] is True
    assert CliRunner().invoke(cli, asked).exit_code == 1  # it is there already
