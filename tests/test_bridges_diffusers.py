"""Pictures of diffusers' pipelines in our styles; the pipelines are tiny and random, and nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import HubServer
from torch import Tensor

from styleforge import PatchDiscriminator, PretrainedMixin, ResnetGenerator, StylePipeline, UNetGenerator
from styleforge.errors import ConfigError, CorruptFileError, NotAStyle, RepoNotFound, WeightsMismatch
from styleforge.models import DCGANGenerator, MicroASTGenerator

try:
    from diffusers import (
        AutoencoderKL,
        DDIMPipeline,
        DDIMScheduler,
        DDPMPipeline,
        DDPMScheduler,
        DiffusionPipeline,
        ImagePipelineOutput,
        UNet2DModel,
    )
except (ImportError, RuntimeError) as error:  # RuntimeError: as with a torchvision that was built for another torch
    pytest.skip(f"needs pip install '.[diffusers]' ({error})", allow_module_level=True)

from styleforge.bridges.diffusers import StyledPipeline, StyleModel


@pytest.fixture(autouse=True)
def fresh(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.reset()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pipe() -> DDIMPipeline:
    """16 x 16 pixels out of noise, in two steps."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipe = DDIMPipeline(unet, DDIMScheduler(num_train_timesteps=10))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def network() -> PretrainedMixin:
    torch.manual_seed(0)
    return ResnetGenerator(width=4, blocks=1).eval()


@pytest.fixture
def styled(pipe, network) -> StyledPipeline:
    return StyledPipeline(pipe, StyleModel(network))


def made(pipeline: DiffusionPipeline, output_type: str, **settings):
    """Two pictures, always the same."""
    quiet = getattr(pipeline, "pipeline", pipeline)
    quiet.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    return pipeline(batch_size=2, num_inference_steps=2, generator=seed, output_type=output_type, **settings).images


def test_the_pipeline_takes_what_diffusers_gives(pipe, network):
    """Every form of output as it comes, without a bridge."""
    paint = StylePipeline(network, fast=False)
    arrays = made(pipe, "np")
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)  # what newer pipelines give for "pt"
    from_pil, from_np, from_pt = (
        np.stack(paint(pictures, output_type="np")) for pictures in (made(pipe, "pil"), arrays, tensors)
    )
    assert from_np.shape == (2, 16, 16, 3)
    assert np.array_equal(from_np, from_pt)
    assert np.abs(from_np - from_pil).max() < 0.05  # of 8 bits
    assert [picture.size for picture in paint(made(pipe, "pil"))] == [(16, 16)] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pictures_are_taken_too(pipe, network, dtype):
    tensors = torch.from_numpy(made(pipe, "np")).permute(0, 3, 1, 2)
    paint = StylePipeline(network, fast=False)
    exact, rounded = (torch.stack(paint(t, output_type="pt")) for t in (tensors, tensors.to(dtype)))
    assert (exact - rounded).abs().max() < 0.05


@pytest.mark.parametrize("size", [(16, 16), (17, 10), (3, 33)])
def test_a_component_behind_a_decoder(network, size):
    style = StyleModel(network)
    image = torch.rand(2, 3, *size) * 2 - 1
    styled = style(image)
    assert styled.shape == image.shape
    expected = torch.stack(StylePipeline(network, fast=False)(image / 2 + 0.5, output_type="pt"))
    assert (styled / 2 + 0.5 - expected).abs().max() < 1e-3  # the pipeline reads 16 bits


def test_decoded_latents_are_styled_with_gradients_down_to_them(network):
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2, sample_size=16)
    latents = torch.randn(1, 2, 18, 13, requires_grad=True)
    styled = StyleModel(network)(vae.decode(latents / vae.config.scaling_factor).sample)
    assert styled.shape == (1, 3, 18, 13)
    assert styled.abs().max() <= 1
    styled.mean().backward()
    assert latents.grad.abs().max() > 0


def test_the_component_hands_on_what_networks_take_beside_the_picture():
    torch.manual_seed(0)
    network = MicroASTGenerator(width=2).eval()
    image, style = torch.rand(1, 3, 17, 12) * 2 - 1, torch.rand(1, 3, 16, 16) * 2 - 1
    half = StyleModel(network)(image, style=style, strength=0.5)
    assert half.shape == image.shape
    assert (half - StyleModel(network)(image, style=style)).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="needs a style"):
        StyleModel(network)(image)


def test_the_components_files_are_those_of_a_style(network, tmp_path):
    StyleModel(network).save_pretrained(tmp_path / "style")
    assert {path.name for path in (tmp_path / "style").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = StyleModel.from_pretrained(tmp_path / "style", dtype=torch.bfloat16)
    assert (again.dtype, again.config.width) == (torch.bfloat16, 4)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert (again(image) - StyleModel(network)(image)).abs().max() < 0.1
    assert torch.equal(PretrainedMixin.from_pretrained(tmp_path / "style")(image), network(image))
    assert not again.training


def test_the_component_takes_bundled_styles_and_subfolders(network, tmp_path):
    bundled = StyleModel.from_pretrained("fastcut-monet")
    assert (bundled.config.upsample, bundled.dtype) == ("blur", torch.float32)  # stored in half precision
    network.save_pretrained(tmp_path / "reverse")
    assert StyleModel.from_pretrained(tmp_path, subfolder="reverse", torch_dtype=torch.float64).dtype == torch.float64


def test_the_component_is_loaded_as_strictly_as_a_style(network, tmp_path):
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "blocks": 2}))
    with pytest.raises(WeightsMismatch):  # diffusers itself would only warn
        StyleModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("option", [{"variant": "fp16"}, {"device_map": "auto"}, {"quantization_config": {"bits": 4}}])
def test_options_of_diffusers_that_we_do_not_have_are_not_ignored(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        StyleModel.from_pretrained("fastcut-monet", **option)


def test_the_component_on_the_hub_is_a_style(network, hub):
    StyleModel(network).push_to_hub("org/rain")
    assert "library_name: styleforge" in hub.files("org/rain")["README.md"].decode()
    assert StyleModel.from_pretrained("org/rain").config.width == 4


@pytest.mark.parametrize("network", [DCGANGenerator(width=2, size=32), PatchDiscriminator(width=2, layers=1)])
def test_what_styles_no_pictures_is_no_component(network):
    with pytest.raises(ConfigError, match="styles no pictures"):
        StyleModel(network)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_styled_pipeline_is_one_after_the_other(pipe, network, styled, output_type):
    options = {"strength": 0.6, "preserve_color": "luma"}
    expected = StylePipeline(network, fast=False)(made(pipe, "np"), **options, output_type=output_type)
    found = made(styled, output_type, style_options=options)
    if output_type == "pil":
        assert [picture.tobytes() for picture in found] == [picture.tobytes() for picture in expected]
    else:
        assert found.shape == ((2, 16, 16, 3) if output_type == "np" else (2, 3, 16, 16))
        assert np.array_equal(np.asarray(found), np.stack([np.asarray(one) for one in expected]))


def test_a_styled_pipeline_gives_diffusers_output_or_a_tuple(styled):
    assert isinstance(styled(num_inference_steps=1), ImagePipelineOutput)
    (pictures,) = styled(num_inference_steps=1, return_dict=False)
    assert pictures[0].size == (16, 16)


def test_a_styled_pipeline_with_a_style_for_any_picture(pipe):
    torch.manual_seed(0)
    styled = StyledPipeline(pipe, StyleModel(MicroASTGenerator(width=2)))
    assert made(styled, "pt", style_options={"style": torch.rand(3, 20, 20)}).shape == (2, 3, 16, 16)
    with pytest.raises(ConfigError, match="given none"):
        made(styled, "pt")


def test_a_styled_pipeline_comes_back_from_a_folder(styled, tmp_path):
    styled.save_pretrained(tmp_path)
    again = StyledPipeline.from_pretrained(tmp_path)
    assert isinstance(again.pipeline, DDIMPipeline)
    assert torch.equal(made(again, "pt"), made(styled, "pt"))
    for name in ("dtype", "torch_dtype"):
        in_double = StyledPipeline.from_pretrained(tmp_path, **{name: torch.float64})
        assert (in_double.pipeline.unet.dtype, in_double.style.dtype) == (torch.float64, torch.float64)


def test_both_parts_move_together(pipe, network):
    styled = StyledPipeline(
        DDIMPipeline(UNet2DModel.from_config(pipe.unet.config), pipe.scheduler),
        StyleModel(ResnetGenerator(width=2, blocks=0)),
    )
    assert styled.to("meta") is styled
    assert styled.pipeline.unet.device.type == styled.style.device.type == "meta"


def test_a_styled_pipeline_comes_back_from_the_hub(styled, hub, tmp_path):
    styled.push_to_hub("org/painter", token="hf_of_the_tests")
    hub.add("org/painter", {**hub.files("org/painter"), "pipeline/unet/evil.bin": b"x", "pipeline.py": b"1 / 0"})
    again = StyledPipeline.from_pretrained("org/painter")
    assert torch.equal(made(again, "pt"), made(styled, "pt"))
    with hub.down():
        offline = StyledPipeline.from_pretrained("org/painter", local_files_only=True)
    assert torch.equal(made(offline, "pt"), made(styled, "pt"))
    cached = {path.suffix for path in (tmp_path / "cache").rglob("*.*") if path.is_symlink()}
    assert cached == {".json", ".safetensors"}


def test_a_style_damaged_in_the_cache_is_found(styled, hub, tmp_path):
    styled.push_to_hub("org/painter", token="hf_of_the_tests")
    StyledPipeline.from_pretrained("org/painter")
    (weights,) = (tmp_path / "cache").rglob("style/model.safetensors")
    blob = weights.resolve()
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CorruptFileError, match="org/painter/style"):
        StyledPipeline.from_pretrained("org/painter")


def test_pickles_are_not_read(styled, tmp_path):
    styled.save_pretrained(tmp_path)
    unet = tmp_path / "pipeline" / "unet"
    shutil.move(unet / "diffusion_pytorch_model.safetensors", unet / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        StyledPipeline.from_pretrained(tmp_path)


def test_something_else_is_no_styled_pipeline(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(NotAStyle, match="no pipeline and no style"):
        StyledPipeline.from_pretrained(tmp_path)
    with pytest.raises(RepoNotFound):
        StyledPipeline.from_pretrained("org/nowhere")


def test_pipelines_without_pictures_and_outputs_without_styles(pipe, network):
    class Frames(DiffusionPipeline):
        def __init__(self, unet):
            super().__init__()
            self.register_modules(unet=unet)

        def __call__(self, output_type):
            return {"frames": []}

    with pytest.raises(ConfigError, match="makes no pictures"):
        StyledPipeline(Frames(pipe.unet), StyleModel(network))()
    with pytest.raises(ConfigError, match="latent"):
        StyledPipeline(Frames(pipe.unet), StyleModel(network))(output_type="latent")


class Decorated(DiffusionPipeline):
    """A pipeline of somebody, with a style as one of its components."""

    def __init__(self, unet: UNet2DModel, scheduler: DDPMScheduler, style: StyleModel) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, style=style)

    def __call__(self) -> Tensor:
        return self.style(torch.zeros(1, 3, 16, 16))


def test_diffusers_own_loader_knows_the_component_in_a_folder(pipe, network, tmp_path):
    Decorated(pipe.unet, pipe.scheduler, StyleModel(network)).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["style"] == ["styleforge.bridges.diffusers", "StyleModel"]
    again = Decorated.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(again.style, StyleModel)
    assert again.style.dtype == torch.float64
    assert again().shape == (1, 3, 16, 16)


def test_what_diffusers_does_not_let_us_do(pipe, network, styled, tmp_path, hub):
    """Limits that the module's text names; when one of these fails, diffusers has opened up, and the text can go."""
    Decorated(pipe.unet, pipe.scheduler, StyleModel(network)).save_pretrained(tmp_path)
    hub.add("org/decorated", {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*.*")})
    with pytest.raises(ValueError, match="does not exist in org/decorated"):
        Decorated.from_pretrained("org/decorated", style=StyleModel(network))
    styled.save_pretrained(tmp_path / "styled")
    with pytest.raises(AttributeError, match="StyledPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path / "styled")


def test_large_multiples_and_batches(pipe):
    torch.manual_seed(0)
    styled = StyledPipeline(pipe, StyleModel(UNetGenerator(width=2, downs=6, norm="instance")))
    assert made(styled, "np").shape == (2, 16, 16, 3)


def test_ddpm_too(pipe, network):
    styled = StyledPipeline(DDPMPipeline(pipe.unet, DDPMScheduler(num_train_timesteps=10)), StyleModel(network))
    assert made(styled, "pt").shape == (2, 3, 16, 16)
