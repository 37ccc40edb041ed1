"""Put a trained style into the package, in half precision: python scripts/bundle.py RUN/style NAME

The card of a bundled style is `model_cards/NAME.md`, written by a person; the package carries configuration and
weights only.
"""

from __future__ import annotations

import sys

from styleforge import PretrainedMixin, models  # noqa: F401 -- fills the table of architectures
from styleforge.hub import BUNDLED, CARD_NAME, WEIGHTS_NAME, fetch


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    style, name = sys.argv[1:]
    folder = PretrainedMixin.from_files(fetch(style)).half().save_pretrained(BUNDLED / name)
    (folder / CARD_NAME).unlink(missing_ok=True)
    print(f"{folder}: {(folder / WEIGHTS_NAME).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
