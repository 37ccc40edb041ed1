"""One process or many: what Accelerate does for the training loop, and the starts that would go wrong silently."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import nn

from .errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from accelerate import Accelerator

_ON_CPUS = "On CPUs start with: ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m styleforge train ..."


def join() -> Accelerator:
    """This process among those of its run: its device, its number, and how they add up.

    Raises:
        MissingExtra: accelerate is not installed.
        ConfigError: the launcher started several processes that do not know of each other (they would train the
            same run on top of one another), or one that only looks like several, or a kind of distribution that
            cannot hold several networks.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtra("Training needs accelerate", todo="Install it with: pip install accelerate") from error
    AcceleratorState._reset_state()  # else a second run in this process keeps the settings of the first
    accelerator = Accelerator(mixed_precision="no")  # precision.py does that, on CPUs and with float16 too
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != accelerator.num_processes:
        raise ConfigError(
            "The processes of this run do not know of each other",
            found=f"{accelerator.num_processes} in the accelerator, WORLD_SIZE={wanted}",
            todo=_ON_CPUS,
        )
    if "WORLD_SIZE" not in os.environ and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        # What `accelerate launch --cpu --num_processes 2` leaves: an address to meet at, and nobody to meet.
        raise ConfigError(
            "This launch asked for several processes and started one",
            found="MASTER_ADDR without WORLD_SIZE",
            todo=_ON_CPUS,
        )
    if str(accelerator.distributed_type.value) in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ConfigError(
            "Several networks cannot be trained under this kind of distribution",
            found=accelerator.distributed_type.value,
            allowed="one process per GPU (MULTI_GPU) or per CPU",
            todo="Choose plain multi-GPU in `accelerate config`; these networks are small.",
        )
    return accelerator


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a folder; what one that was killed has left keeps nobody out.

    Raises:
        ConfigError: one is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / f".running-{os.getpid()}-{psutil.Process().create_time():.0f}"
    mine.touch()  # before looking for others: of two that start at once, both may give way, but never none
    try:
        for other in folder.glob(".running-*"):
            number, since = map(int, other.name.split("-")[1:])
            if other == mine:
                continue
            if _lives(number, since):
                raise ConfigError(
                    "Another process is training in this folder",
                    where=folder,
                    found=f"process {number}",
                    todo="Wait until it has finished, stop it, or give another --output.",
                )
            other.unlink(missing_ok=True)
        yield
    finally:
        mine.unlink(missing_ok=True)


def _lives(number: int, since: int) -> bool:
    """Whether a process that began then has this number; numbers come again, in containers always."""
    try:
        process = psutil.Process(number)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - since) < 2
    except psutil.Error:
        return False


def anywhere(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Whether each flag is set in any process: all must turn the same way, or some would wait for ever."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(counts, reduction="sum").tolist()]


def average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """One flat reduction: with equal batches, the gradient of the joint batch."""
    if accelerator.num_processes == 1:
        return
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = accelerator.reduce(torch.cat([g.flatten() for g in grads]), reduction="mean")
    for parameter, mean in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = mean.view_as(parameter)
