"""How much memory there is, and how much this process has needed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

GIB = 2**30


def available(device: torch.device | str = "cpu") -> int:
    """Bytes that a program may still take: free on a GPU; on CPUs what the system or its container has left.

    Raises:
        RuntimeError: the system does not tell (neither Linux nor CUDA).
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        table = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError as error:
        raise RuntimeError("this system does not tell how much memory it has") from error
    left = [int(table["MemAvailable"].split()[0]) * 1024]
    limits = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit, used in limits:  # of a container, cgroup version 2 or 1
        try:
            texts = [Path("/sys/fs/cgroup", name).read_text().strip() for name in (limit, used)]
        except OSError:
            continue
        if texts[0] != "max":
            left.append(int(texts[0]) - int(texts[1]))
    return max(0, min(left))


def peak(device: torch.device | str = "cpu") -> int:
    """The most bytes that this process has held at one time."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:  # what getrusage() says of Linux begins with the peak of the parent process
        table = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(table["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
