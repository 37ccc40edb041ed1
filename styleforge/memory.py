"""How much memory there is, and how much this process has needed."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import psutil
import torch

GIB = 2**30


def available(device: torch.device | str = "cpu") -> int:
    """Bytes that a program may still take: free on a GPU; on CPUs what the system or its container has left."""
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's, from before
        return torch.cuda.mem_get_info(device)[0] + unused
    left = [psutil.virtual_memory().available]
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
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    try:  # what getrusage() says of Linux begins with the peak of the parent process
        table = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(table["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back(unused: torch.Tensor) -> None:
    """Let the system have the memory of a tensor, whose numbers are lost; it can be written to again.

    Only with Linux, and of memory of CPUs. Elsewhere nothing happens.
    """
    if sys.platform != "linux" or not unused.is_cpu:
        return
    begin = -(-unused.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = unused.data_ptr() + unused.nbytes - begin
    if length >= mmap.PAGESIZE:  # the mmap of Python frees only what it has made
        length -= length % mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
