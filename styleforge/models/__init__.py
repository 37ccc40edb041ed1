"""Networks. `MODELS` is the closed table of what can be loaded; a new family is one file and one name here."""

from __future__ import annotations

from ..hub import PretrainedMixin
from .adain import AdaINGenerator
from .animegan import AnimeGANDiscriminator, AnimeGANGenerator
from .attention import AttentionGenerator
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .microast import MicroASTGenerator
from .mini import MiniGenerator
from .multiscale import MultiScaleGenerator
from .patch import MultiScaleDiscriminator, PatchDiscriminator, PixelDiscriminator
from .resnet import ResnetGenerator
from .restoration import RestorationUNet
from .stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from .transformer import TransformerNet
from .ugatit import UGATITDiscriminator, UGATITGenerator
from .unet import UNetGenerator

MODELS: tuple[type[PretrainedMixin], ...] = (
    AdaINGenerator,
    AnimeGANGenerator,
    AttentionGenerator,
    DCGANGenerator,
    MicroASTGenerator,
    MiniGenerator,
    MultiScaleGenerator,
    ResnetGenerator,
    RestorationUNet,
    StyleGAN2Generator,
    TransformerNet,
    UGATITGenerator,
    UNetGenerator,
    AnimeGANDiscriminator,
    DCGANDiscriminator,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PixelDiscriminator,
    StyleGAN2Discriminator,
    UGATITDiscriminator,
)

__all__ = ["MODELS", "PretrainedMixin", *(model.__name__ for model in MODELS)]
