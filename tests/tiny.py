"""Settings that make every method small enough to be trained in a test; a new method may need a line here."""

from __future__ import annotations

from typing import Any

from styleforge import methods

TINY = {
    "width": 4,
    "downs": 4,
    "blocks": 2,
    "discriminator_width": 4,
    "discriminator_layers": 2,
    "head_width": 8,
    "patches": 12,
    "nce_blocks": [0, 1],
    "history": 3,
    "features": "random-16x",
    "backbone": "vgg19-16x",
}
TINY_OF: dict[str, dict[str, Any]] = {  # what a method needs to be small, beside TINY
    "animegan": {"warmup": 0},
    "attention": {"max_keys": 64, "entropy": 1.0, "variation": 1.0},
    "dcgan": {"size": 32, "noise_size": 8, "discriminator_dropout": 0.0},
    "multiscale": {"scales": 3, "adversarial": "lsgan"},  # within its margins, hinge moves no last bias
    "restore": {"gan": 1.0, "levels": 1},
    "stylegan2": {"size": 16, "noise_size": 8, "style_size": 8, "mapping_layers": 2},
    "ugatit": {"global_layers": 5, "local_layers": 3},
}
SIZE_OF = {name: changes["size"] for name, changes in TINY_OF.items() if "size" in changes}


def settings(name: str) -> dict[str, Any]:
    """Those of :data:`TINY` and :data:`TINY_OF` that the method has; the size belongs to the run."""
    known = methods.settings(name)
    return {k: v for k, v in {**TINY, **TINY_OF.get(name, {})}.items() if k in known and k != "size"}
