"""Every network that test_models.py tries; a new family adds its lines here."""

from __future__ import annotations

from styleforge.models import PatchDiscriminator, PixelDiscriminator, ResnetGenerator, UNetGenerator

# Every choice that a configuration offers, at the smallest width.
VARIANTS = [
    (ResnetGenerator, {}),
    (ResnetGenerator, {"norm": "batch", "dropout": True, "blocks": 1, "out_channels": 1}),
    (ResnetGenerator, {"downsample": "blur", "upsample": "blur"}),
    (ResnetGenerator, {"upsample": "resize", "in_channels": 1, "blocks": 0}),
    (UNetGenerator, {}),
    (UNetGenerator, {"norm": "instance", "downs": 3, "in_channels": 1}),
    (UNetGenerator, {"statistics": "batch", "dropout": True, "downs": 6, "out_channels": 2}),
    (UNetGenerator, {"downs": 2}),
    (PatchDiscriminator, {}),
    (PatchDiscriminator, {"layers": 1, "norm": "batch", "in_channels": 6}),
    (PatchDiscriminator, {"layers": 2, "norm": "none", "spectral_norm": True}),
    (PatchDiscriminator, {"layers": 4, "downsample": "blur"}),
    (PixelDiscriminator, {}),
    (PixelDiscriminator, {"norm": "batch", "in_channels": 6}),
    (PixelDiscriminator, {"norm": "none", "spectral_norm": True}),
]
