"""Draw the before/after strip of a style from scikit-learn's two photographs: python scripts/strip.py STYLE FILE

The photographs are CC BY 2.0 (see scikit-learn's sklearn/datasets/images/README.txt); credit them where you show it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from styleforge import StylePipeline, images


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    pipe = StylePipeline.from_pretrained(sys.argv[1])
    tiles = []
    for name in ("china.jpg", "flower.jpg"):
        photo = Image.open(folder / name).convert("RGB")
        tiles += [photo, pipe(photo)]
    gap, width, height = 6, tiles[0].width, tiles[0].height
    strip = Image.new("RGB", (2 * width + gap, 2 * height + gap), "white")
    for index, tile in enumerate(tiles):
        strip.paste(tile, (index % 2 * (width + gap), index // 2 * (height + gap)))
    print(images.save(strip, sys.argv[2], quality=88))


if __name__ == "__main__":
    main()
