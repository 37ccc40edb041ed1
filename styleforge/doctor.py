"""What this machine has: versions, devices, cache, extras; and what of it is known not to work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import __version__, memory
from .precision import bf16_is_fast, int8_is_fast

State = Literal["ok", "note", "wrong"]

# Versions that break something: package, lowest wrong, first right again or None, state, and what it breaks.
KNOWN_BAD: tuple[tuple[str, tuple[int, ...], tuple[int, ...] | None, State, str], ...] = (
    ("pillow", (13,), None, "wrong", "gradio 6 asks for pillow<13: the demo cannot be installed beside it"),
    ("gradio", (7,), None, "wrong", "the demo is made for gradio 6: pip install 'gradio<7'"),
    ("huggingface-hub", (3,), None, "wrong", "made for version 1.32 to 2: pip install 'huggingface-hub<3'"),
    ("diffusers", (0, 43), None, "note", "the bridge was tried with 0.42"),
    (
        "torch",
        (2, 13),
        (2, 14),
        "note",
        "gradients of instance norms are wrong on CPUs for one channels-last picture; our training has none",
    ),
)
EXTRAS: dict[str, tuple[str, ...]] = {  # what `pip install styleforge[EXTRA]` brings, by the names one imports
    "train": ("accelerate",),
    "demo": ("gradio",),
    "diffusers": ("diffusers",),
    "examples": ("sklearn",),
    "heif": ("pi_heif",),
    "large": ("pyvips",),
    "export": ("onnx", "onnxruntime"),
    "segment": ("transformers",),
    "video": ("av",),
    "ray": ("ray",),
    "spandrel": ("spandrel",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
NEEDED = ("torch", "huggingface-hub", "safetensors", "pillow", "numpy", "psutil", "jinja2", "pyyaml", "click", "tqdm")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about.
        text: what was found, and what to do where something is wrong.
        state: "ok"; "note", for what is missing but not needed; "wrong", for what will not work.
    """

    topic: str
    text: str
    state: State = "ok"


def examine() -> list[Finding]:
    """Look at this machine; nothing is downloaded, and nothing heavy but torch is loaded."""
    findings = [Finding("styleforge", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")]
    findings += [_package(name) for name in NEEDED]
    findings += _versions()
    return [*findings, *_devices(), _memory(), _cache(), *(_extra(*extra) for extra in EXTRAS.items())]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, f"missing: pip install {name}", "wrong")


def _versions() -> list[Finding]:
    found = []
    for name, low, high, state, why in KNOWN_BAD:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers >= low and (high is None or numbers < high):
            found.append(Finding(name, f"{version}: {why}", state))
    return found


def _devices() -> list[Finding]:
    import torch

    cpu = torch.device("cpu")
    speed = "computes in bfloat16" if bf16_is_fast(cpu) else "no bfloat16 of its own: computes in float32"
    speed += ", and in 8 bit where a style bears it" if int8_is_fast() else ""
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    found = [Finding("cpu", f"{threads}; {speed}")]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(Finding(f"cuda:{index}", f"{name}, {free / memory.GIB:.1f} of {total / memory.GIB:.1f} GiB free"))
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "there"))
    if len(found) == 1:
        found.append(Finding("gpu", "none that torch can use", "note"))
    return found


def _memory() -> Finding:
    free = memory.available() / memory.GIB
    return Finding("memory", f"{free:.1f} GiB free", "ok" if free > 1 else "wrong")


def _cache() -> Finding:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = folder if folder.exists() else next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(there).free / memory.GIB
    offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    models = len(list(folder.glob("models--*")))
    text = f"{folder}: {models} models, {free:.1f} GiB free on the disk{offline}"
    if not os.access(there, os.W_OK):
        return Finding("cache", f"{text}; it cannot be written: set HF_HOME to a folder of yours", "wrong")
    return Finding("cache", text)


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a mere folder of its name, as a tracker leaves where it ran, is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _extra(name: str, modules: tuple[str, ...]) -> Finding:
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        return Finding(name, f"not installed ({', '.join(missing)}): pip install 'styleforge[{name}]'", "note")
    return Finding(name, ", ".join(f"{module} {_version_of(module)}" for module in modules))


def _version_of(module: str) -> str:
    names = importlib.metadata.packages_distributions().get(module)
    return importlib.metadata.version(names[0]) if names else "of no package"


def as_text(findings: list[Finding]) -> str:
    """A table for people; marks what is missing with `-` and what is wrong with `!`."""
    marks = {"ok": " ", "note": "-", "wrong": "!"}
    return "\n".join(f"{marks[f.state]} {f.topic:16} {f.text}" for f in findings)
