"""Measures of sets of pictures: `update(real=, fake=)` takes batches, `compute()` gives plain numbers by name."""

from .kid import KID

__all__ = ["KID"]
