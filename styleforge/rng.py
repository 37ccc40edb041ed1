"""Counter-based randomness: every draw is a function of what it is for, not of what was drawn before.

`generator(seed, "order", "source", epoch)` gives the same numbers in every process, with any number of
workers, and after any restart; two purposes never share a stream.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed for a purpose, for example `seed_of(run_seed, "augment", "source", index)`."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for a purpose; see :func:`seed_of`."""
    return torch.Generator().manual_seed(seed_of(*key))
