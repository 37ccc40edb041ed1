"""A given picture in the codes of a StyleGAN2, and what can be done there (Image2StyleGAN, Abdal et al., 2019).

>>> codes = invert(generator, torch.cat([content, style]), features=features.load("vgg19"))
>>> mixed = generator.synthesize(mix(codes[:1], codes[1:], from_scale=32))

A generator knows what it was trained on. Its own pictures are found again, with 33 dB and more in small trials of 16
and 64 px; paintings that it had not seen came to 24 to 31 dB at 16 px, and 22 at 64, with a code for each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from . import rng
from .errors import ConfigError, ImageError
from .features import VGG19
from .models import StyleGAN2Generator

LAYERS = ("relu1_1", "relu1_2", "relu3_2", "relu4_2")
SAMPLES = 4096  # codes whose mean the search begins at


def invert(
    generator: StyleGAN2Generator,
    image: Tensor,
    *,
    space: Literal["w+", "w"] = "w+",
    steps: int = 500,
    lr: float = 0.1,
    features: VGG19 | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Find the codes with which a generator makes a picture.

    Adam goes from the mean code down the squared error of pixels and, if there are `features`, of those. The paper
    takes 5000 steps of .01. In our trials a constant .1 was better within some hundred, also than rates that rise and
    fall, or noise on the codes, as in StyleGAN2's own projector.

    Args:
        generator: is put into evaluation mode; its noise stays as it is.
        image: (B, 3, size, size) in [-1, 1]. Pictures are independent of each other.
        space: a code for each layer ("w+") can become almost any picture; one for all layers ("w") comes less near,
            and stays better to mix.
        steps: of Adam.
        lr: its learning rate.
        features: what else has to agree; see :func:`styleforge.features.load`. The pixels of foreign pictures
            then agree less, by 1 to 3 dB.
        seed: of the noise whose codes are averaged.
        progress: is told the number of steps done, and the loss.

    Returns:
        Codes (B, layers, style_size) for `generator.synthesize`.

    Raises:
        ImageError: pictures of another size than the generator's.
        ConfigError: there is no such space.
    """
    size = generator.eval().config["size"]
    if image.shape[1:] != (3, size, size):
        raise ImageError(
            "This generator cannot make a picture of this shape",
            found=tuple(image.shape),
            allowed=f"(B, 3, {size}, {size})",
            todo="Crop and resize it first.",
        )
    if space not in ("w+", "w"):
        raise ConfigError("Unknown space", found=repr(space), allowed="'w+', 'w'", todo="Choose one of these.")
    with torch.no_grad():
        noise = torch.randn(SAMPLES, generator.config["noise_size"], generator=rng.generator("invert", seed))
        mean = generator.codes(noise.to(image)).mean(0)[: 1 if space == "w" else None]
        wanted = [image, *_seen(image, features)]
    codes = mean.repeat(len(image), 1, 1).requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=lr)
    for step in range(steps):
        made = generator.synthesize(codes.expand(-1, generator.layers, -1))
        pairs = zip([made, *_seen(made, features)], wanted, strict=True)
        loss = sum((ours - theirs).square().flatten(1).mean(1).sum() for ours, theirs in pairs)
        optimizer.zero_grad()
        loss.backward(inputs=[codes])
        optimizer.step()
        if progress:
            progress(step + 1, loss.item() / len(image))
    return codes.detach().expand(-1, generator.layers, -1)


def mix(content: Tensor, style: Tensor, from_scale: int) -> Tensor:
    """Codes that are coarse as one picture and fine as another: composition of the first, colors of the second.

    Args:
        content: codes (B, layers, style_size).
        style: codes of the same generator.
        from_scale: side in pixels of the coarsest feature maps that the style decides: 4 (all of them), 8, 16 and so
            on. Small numbers take over shapes, large ones colors only.

    Raises:
        ConfigError: the generator has no such scale.
    """
    scales = [4 * 2**level for level in range(content.shape[1] // 2)]
    if from_scale not in scales:
        raise ConfigError(
            "The generator has no such scale",
            found=from_scale,
            allowed=", ".join(map(str, scales)),
            todo="Choose one of these.",
        )
    first = max(0, 2 * scales.index(from_scale) - 1)
    return torch.cat([content[:, :first], style[:, first:]], 1)


def interpolate(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Codes on the way from `a` (0) to `b` (1); numbers outside go beyond."""
    return a.lerp(b, t)


def _seen(image: Tensor, features: VGG19 | None) -> list[Tensor]:
    return [] if features is None else list(features(image, LAYERS).values())
