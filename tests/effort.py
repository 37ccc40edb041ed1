"""What a call costs, in measures that other processes on the machine do not change."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CLEAR = Path("/proc/self/clear_refs")
resident = pytest.mark.skipif(not CLEAR.exists(), reason="reads and resets the memory peak in /proc, which Linux has")


@dataclass
class Effort:
    """Calls of functions, of Python and of C, and the most bytes that Python's objects took."""

    calls: int = 0
    memory: int = 0


@contextmanager
def effort() -> Iterator[Effort]:
    """Count what the block does; the counts are there when it has ended."""
    found = Effort()

    def count(frame: object, event: str, argument: object) -> None:
        found.calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        yield found
    finally:
        sys.setprofile(None)
        found.memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def seconds(function: Callable[[], object], times: int = 3) -> float:
    """Of the processor; the least of several, to be compared with others: another process may run beside this one."""
    found = []
    for _ in range(times):
        begin = time.process_time()
        function()
        found.append(time.process_time() - begin)
    return min(found)


def growth(function: Callable[[], object]) -> int:
    """By how many bytes the process was larger at its largest, while the function ran, than before; Linux tells it."""
    CLEAR.write_text("5")
    before = peak()
    function()
    return peak() - before


def peak() -> int:
    """The most bytes of memory that this process has had since the last reset."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
