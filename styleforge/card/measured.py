"""Reading cards and what `styleforge evaluate` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import weights
from ..errors import CorruptFileError

METRICS = "metrics.json"
MAX_BYTES = 256 * 1024  # of a card or of measurements
MEASURE = {"value": (int, float), "low": (int, float), "high": (int, float), "n": (int,), "better": (str,)}
PROTOCOL = ("split", "n_source", "n_target", "size", "resize", "feature_network", "feature_sha256", "seed")


def read_metrics(path: Path) -> dict[str, Any]:
    """What `styleforge evaluate` measured: protocol, metrics, controls, warnings.

    Raises:
        CorruptFileError: it is something else.
    """
    found = None
    try:
        table = json.loads(read_text(path), object_pairs_hook=weights.unique_keys)
        metrics = {"warnings": [], "controls": {}, **table}
        missing = [key for key in PROTOCOL if key not in metrics["protocol"]]
        figures = [metrics["metrics"], *metrics["controls"].values()]
        odd = [name for part in figures for name, measured in part.items() if not _is_measured(measured)]
        found = ", ".join([*missing, *odd])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
    if found:
        todo = "Make it with `styleforge evaluate`, or remove it."
        raise CorruptFileError("The measurements cannot be read", where=path, found=found[:200], todo=todo)
    return metrics


def read_text(path: Path) -> str:
    """The text of a card or of measurements.

    Raises:
        CorruptFileError: too large, or no text.
    """
    if path.stat().st_size > MAX_BYTES:
        raise CorruptFileError(
            "This file is too large", where=path, allowed=f"up to {MAX_BYTES} bytes", todo="It is none that we make."
        )
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise CorruptFileError("This file is no text", where=path, found=error, todo="Save it as UTF-8.") from error


def _is_measured(measured: Any) -> bool:
    typed = all(type(measured.get(key)) in kinds for key, kinds in MEASURE.items())
    return typed and measured["n"] >= 1 and measured["better"] in ("lower", "higher")
