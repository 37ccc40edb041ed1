"""Pictures drawn by code, to try styles on: no photograph whose rights would have to be carried along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Light:
    """The colors of a time of day, from the top of the picture downwards."""

    zenith: Color
    horizon: Color
    cloud: Color
    far: Color
    near: Color
    meadow: Color
    sun: tuple[float, float]  # of width and height
    seed: int


LIGHTS = {
    "lake": Light(
        (62, 118, 186), (222, 232, 232), (255, 252, 244), (132, 152, 178), (36, 62, 44), (92, 128, 46), (0.74, 0.16), 4
    ),
    "evening": Light(
        (44, 52, 108), (252, 176, 104), (250, 132, 96), (148, 96, 122), (40, 30, 48), (72, 62, 40), (0.33, 0.37), 17
    ),
}


def draw_scene(name: str = "lake", size: tuple[int, int] = (768, 512)) -> Image.Image:
    """A lake between mountains.

    Args:
        name: of :data:`LIGHTS`.
        size: width and height in pixels.
    """
    light, (width, height) = LIGHTS[name], size
    random = np.random.default_rng(light.seed)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    shore = 0.6
    picture = _sky(light, x, y / shore, random)
    for step, depth in enumerate(np.linspace(0, 1, 4)):
        crest = shore - (0.26 - 0.2 * depth) * (0.35 + _noise((1, width), 3 + 2 * step, random))
        color = _mix(light.far, light.near, depth) * (0.8 + 0.4 * _noise((height, width), 24, random)[..., None])
        picture = np.where((y >= crest)[..., None], color, picture)
    picture = _lake(picture, light, int(shore * height), random)
    bank = 0.86 + 0.1 * (x - 0.4) ** 2 - 0.05 * _noise((1, width), 5, random)
    grass = np.array(light.meadow) * (0.5 + _noise((height, width), (28, 90), random)[..., None])
    picture = np.where((y > bank)[..., None], grass, picture)
    return Image.fromarray(_flowers(picture, y > bank + 0.02, random).clip(0, 255).astype(np.uint8))


def _mix(one: Color, two: Color, share: np.ndarray | float) -> np.ndarray:
    """Between two colors; `share` (...) gives (..., 3)."""
    share = np.asarray(share, float)[..., None]
    return np.array(one) * (1 - share) + np.array(two) * share


def _noise(shape: tuple[int, int], cells: int | tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Clouds of five octaves in [0, 1]; `cells` of the coarsest, down and across."""
    down, across = (cells, cells) if isinstance(cells, int) else cells
    total, weight = np.zeros(shape), 0.5
    for _ in range(5):
        grid = random.random((min(shape[0], down) + 1, min(shape[1], across) + 1)).astype(np.float32)
        total += weight * np.asarray(Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BICUBIC))
        down, across, weight = 2 * down, 2 * across, weight / 2
    return ((total - total.min()) / np.ptp(total)) if np.ptp(total) else total


def _sky(light: Light, x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Sky, sun and clouds, (H, W, 3); `y` is 1 at the horizon."""
    sky = _mix(light.zenith, light.horizon, y.clip(0, 1) ** 0.8)
    far = np.hypot((x - light.sun[0]) * 1.5, y * 0.6 - light.sun[1])
    sky += np.exp(-far * 7)[..., None] * 90 + (far < 0.045)[..., None] * 80
    clouds = ((_noise(x.shape, (7, 4), random) - 0.5) * 3.2).clip(0, 0.85)
    return sky * (1 - clouds[..., None]) + np.array(light.cloud) * clouds[..., None]


def _lake(picture: np.ndarray, light: Light, shore: int, random: np.random.Generator) -> np.ndarray:
    """The picture with what is above row `shore` mirrored, darker and rippled, below it."""
    height, width = picture.shape[:2]
    depth = np.arange(height - shore)
    rows = shore - 1 - (depth[:, None] * 1.3 + 14 * (_noise((height - shore, width), (48, 6), random) - 0.5))
    mirrored = picture[rows.round().astype(int).clip(0, shore - 1), np.arange(width)]
    shine = _noise((height - shore, width), (60, 8), random)[..., None]
    water = 0.74 * mirrored + 0.2 * np.array(light.zenith) + 60 * (shine - 0.5)
    return np.concatenate([picture[:shore], water])


def _flowers(picture: np.ndarray, meadow: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Dots of color on the meadow, larger in front."""
    colors = np.array([(226, 60, 52), (250, 214, 70), (244, 240, 250), (150, 96, 200)])
    height = len(picture)
    places = np.argwhere(meadow)
    for row, column in places[random.integers(0, len(places), 420)]:
        size = 1 + int(5 * (row / height - 0.8) * height / 256)
        picture[row : row + size, column : column + size] = colors[random.integers(4)] * random.uniform(0.75, 1.05)
    return picture
