"""Draw the strip of a style, photograph, half strength, full: python scripts/strip.py STYLE FILE [PHOTO]

Without PHOTO it takes scikit-learn's Summer Palace, which is CC BY 2.0 (see its sklearn/datasets/images/README.txt):
credit it where you show it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from styleforge import StylePipeline, images


def main() -> None:
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    if len(sys.argv) == 4:
        photo = Image.open(sys.argv[3]).convert("RGB")
    else:
        import sklearn.datasets

        photo = Image.open(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").convert("RGB")
    pipe = StylePipeline.from_pretrained(sys.argv[1])
    tiles = [pipe(photo, strength=strength) for strength in (0, 0.5, 1)]
    gap = 6
    strip = Image.new("RGB", (3 * photo.width + 2 * gap, photo.height), "white")
    for index, tile in enumerate(tiles):
        strip.paste(tile, (index * (photo.width + gap), 0))
    print(images.save(strip, sys.argv[2], quality=88))


if __name__ == "__main__":
    main()
