"""Speed and memory beside a stock network of the same architecture, in the same run: python scripts/benchmark.py

The stock network is CycleGAN's generator as everybody writes it: one `nn.Sequential`, float32, eager. Both sides take
turns, and the ratio of their medians is what counts: the machines are noisy, seconds are only there to give an idea.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from styleforge import ResnetGenerator, StylePipeline, __version__, methods, processes
from styleforge.methods.base import Batch
from styleforge.precision import Precision, bf16_is_fast
from styleforge.train import play


class StockBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        half = lambda: [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c)]  # noqa: E731
        self.body = nn.Sequential(*half(), nn.ReLU(True), *half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def stock_generator(width: int, blocks: int) -> nn.Sequential:
    w = width
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), nn.InstanceNorm2d(w), nn.ReLU(True)]
    for a, b in ((w, 2 * w), (2 * w, 4 * w)):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.InstanceNorm2d(b), nn.ReLU(True)]
    layers += [StockBlock(4 * w) for _ in range(blocks)]
    for a, b in ((4 * w, 2 * w), (2 * w, w)):
        layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(b), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh())


def stock_discriminator(width: int) -> nn.Sequential:
    w = width
    layers: list[nn.Module] = [nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for a, b, stride in ((w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 1)):
        layers += [nn.Conv2d(a, b, 4, stride, 1), nn.InstanceNorm2d(b), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * w, 1, 4, 1, 1))


def stock_step(width: int, blocks: int, a: torch.Tensor, b: torch.Tensor) -> Callable[[], None]:
    """One CycleGAN step in plain float32 PyTorch, as the reference does it."""
    ab, ba = stock_generator(width, blocks), stock_generator(width, blocks)
    da, db = stock_discriminator(width), stock_discriminator(width)
    g = torch.optim.Adam([*ab.parameters(), *ba.parameters()], 2e-4, (0.5, 0.999))
    d = torch.optim.Adam([*da.parameters(), *db.parameters()], 2e-4, (0.5, 0.999))
    l1 = nn.functional.l1_loss

    def step() -> None:
        for net in (da, db):
            net.requires_grad_(False)
        g.zero_grad()
        fake_b, fake_a = ab(a), ba(b)
        loss = (db(fake_b) - 1).square().mean() + (da(fake_a) - 1).square().mean()
        loss = loss + 10 * (l1(ba(fake_b), a) + l1(ab(fake_a), b)) + 5 * (l1(ab(b), b) + l1(ba(a), a))
        loss.backward()
        g.step()
        for net in (da, db):
            net.requires_grad_(True)
        d.zero_grad()
        for net, real, fake in ((da, a, fake_a), (db, b, fake_b)):
            (0.5 * ((net(real) - 1).square().mean() + net(fake.detach()).square().mean())).backward()
        d.step()

    return step


def our_step(width: int, blocks: int, a: torch.Tensor, b: torch.Tensor, precision: str) -> Callable[[], None]:
    accelerator = processes.join()
    method = methods.build(
        "cyclegan", {"width": width, "blocks": blocks, "discriminator_width": width, "upsample": "transpose"}
    ).to(a.device)
    players = method.players()
    optimizers = {p.name: torch.optim.Adam(p.parameters(), p.lr, p.betas) for p in players}
    count = iter(range(10**9))

    def step() -> None:
        batch = Batch({"source": a, "target": b}, 0, next(count), 0)
        for player in players:
            play(player, optimizers[player.name], [batch], accelerator, Precision(a.device, precision))

    return step


def in_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def loading(rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        ResnetGenerator().save_pretrained(folder)
        stock = stock_generator(64, 9)
        torch.save(stock.state_dict(), Path(folder) / "stock.pth")

        def load_stock() -> None:
            net = stock_generator(64, 9)
            net.load_state_dict(torch.load(Path(folder) / "stock.pth", weights_only=True))

        return in_turns({"stock": load_stock, "ours": lambda: ResnetGenerator.from_pretrained(folder)}, rounds)


def stylising(size: int, rounds: int) -> dict[str, float]:
    """Picture object in, picture object out, against tensor in, tensor out of the stock network."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8))
    tensor = torch.rand(1, 3, size, size) * 2 - 1
    pipe, stock = StylePipeline(ResnetGenerator()), stock_generator(64, 9).eval()
    with torch.inference_mode():
        return in_turns({"stock": lambda: stock(tensor), "ours": lambda: pipe(image)}, rounds)


def training(size: int, rounds: int) -> dict[str, float]:
    a, b = torch.rand(2, 1, 3, size, size) * 2 - 1
    return in_turns({"stock": stock_step(64, 9, a, b), "ours fp32": our_step(64, 9, a, b, "fp32")}, rounds)


def training_bf16(size: int, rounds: int) -> dict[str, float]:
    a, b = torch.rand(2, 1, 3, size, size) * 2 - 1
    return in_turns({"stock": stock_step(64, 9, a, b), "ours bf16": our_step(64, 9, a, b, "bf16")}, rounds)


def memory(size: int) -> dict[str, float]:
    """Peak resident memory of one stylisation over the process with the style loaded, in MB."""
    pipe = StylePipeline(ResnetGenerator())
    pipe(Image.new("RGB", (64, 64)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe(Image.new("RGB", (size, size), (90, 120, 150)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak": peak, "over the loaded process": peak - before}


JOBS: dict[str, Callable[..., dict[str, float]]] = {
    f.__name__: f for f in (loading, stylising, training, training_bf16, memory)
}


def apart(name: str, *arguments: int) -> dict[str, float]:
    """Run one job in a process of its own, so that none warms up or bloats another."""
    command = [sys.executable, __file__, "--job", name, *map(str, arguments)]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    if output.returncode:
        raise SystemExit(f"{name} failed:\n{output.stderr}")
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each side")
    parser.add_argument("--size", type=int, default=256, help="side of the training pictures")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        name, *arguments = options.job
        print(json.dumps(JOBS[name](*map(int, arguments))))
        return
    print(f"styleforge {__version__}, torch {torch.__version__}, Python {platform.python_version()}, ", end="")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, ", end="")
    print(f"AMX {torch.cpu._is_amx_tile_supported()}, bf16 fast {bf16_is_fast(torch.device('cpu'))}")
    print("ResNet-9, width 64 (11 M parameters); stock = the same network as one nn.Sequential, float32, eager\n")
    print(f"{'':44}{'stock':>10}{'ours':>10}  stock/ours")
    rows = [("load, from its file (s)", "loading", (options.rounds,))]
    rows += [(f"stylise {s} px, PIL to PIL (s)", "stylising", (s, options.rounds)) for s in (256, 512)]
    rows += [
        (f"CycleGAN step, {options.size} px, batch 1, fp32 (s)", "training", (options.size, options.rounds)),
        (f"CycleGAN step, {options.size} px, batch 1, bf16 (s)", "training_bf16", (options.size, options.rounds)),
    ]
    for title, job, arguments in rows:
        (_, stock), (_, ours) = apart(job, *arguments).items()
        print(f"{title:44}{stock:10.3f}{ours:10.3f}  {stock / ours:.2f}x", flush=True)
    used = apart("memory", 1024)
    print(f"\nstylise 1024 px: peak {used['peak']:.0f} MB, {used['over the loaded process']:.0f} MB over the process")


if __name__ == "__main__":
    main()
