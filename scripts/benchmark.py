"""Speed and memory on this machine: python scripts/benchmark.py

First every family that makes a picture of a picture, at three sizes (some 20 minutes on two cores; --families and
--sizes choose). `stock` is eager float32 without our engine: the same module, and for `resnet` CycleGAN's generator as
everybody writes it, one `nn.Sequential`. `ours` is what the pipeline runs, `float32` the same when asked for float32,
`onnx` the exported graph in ONNX Runtime, with as many threads, `compiled` (--compile) what a pipeline with
`compile=True` runs. `conv` is one convolution, 256 to 256 channels, 3x3, of 128x128 features, in the better layout:
what the processor gives a network that is nothing else. Families have random weights; --styles takes published ones, or
folders, in their place, which compute in 8 bit as far as they bear it (random weights do not).

Then loading, training steps and memory beside the stock network of `resnet` (--part chooses one of the two).

--part large: a picture of --megapixels in tiles, within --max-memory, beside ones of a single megapixel; and how much
memory it took.

--part beside: a style alone, and beside another program that computes on all cores; with the way in which threads wait
for each other that is OpenMP's own, and with ours.

--part gpu: ResNet-9 on a CUDA GPU at 256 and 1024 px and 4K: the stock network in float32 and float16, ours, ours
compiled; and what part of the rate of one large product of matrices in bfloat16 they reach.

All sides take turns in one process, and the ratios of their medians are what counts: machines are noisy, seconds are
only there to give an idea.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from styleforge import ResnetGenerator, StylePipeline, __version__, engine, methods, models, processes
from styleforge.errors import StyleforgeError
from styleforge.export import export_onnx
from styleforge.hub import PretrainedMixin
from styleforge.memory import peak as peak_memory
from styleforge.methods.base import Batch
from styleforge.precision import Precision, bf16_is_fast, int8_is_fast
from styleforge.train import play

QUICK = 0.1  # seconds


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
    optimizers = {p.name: p.optimizer() for p in players}
    count = iter(range(10**9))

    def step() -> None:
        batch = Batch({"source": a, "target": b}, 0, next(count), 0)
        for player in players:
            play(player, optimizers[player.name], [batch], accelerator, Precision(a.device, precision))

    return step


def in_turns(sides: dict[str, Callable[[], object]], rounds: int, limit: float = math.inf) -> dict[str, float]:
    """Median seconds of each side, after one round to warm up; no new round begins after `limit` seconds.

    What is quick runs once more before it is timed: after another process it took twice as long.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    quick = dict.fromkeys(sides, False)
    start = time.perf_counter()
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() - start > limit:
            break
        for name, run in sides.items():
            if quick[name]:
                run()
            begin = time.perf_counter()
            run()
            spent = time.perf_counter() - begin
            if number:
                seconds[name].append(spent)
            quick[name] = spent < QUICK
    return {name: statistics.median(values) for name, values in seconds.items()}


# -- beside the stock network of `resnet` --


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


def training(size: int, rounds: int, precision: str) -> dict[str, float]:
    a, b = torch.rand(2, 1, 3, size, size) * 2 - 1
    return in_turns({"stock": stock_step(64, 9, a, b), "ours": our_step(64, 9, a, b, precision)}, rounds)


def memory(size: int) -> dict[str, float]:
    """Peak resident memory of one stylisation over the process with the style loaded, in MB."""
    pipe = StylePipeline(ResnetGenerator())
    pipe(Image.new("RGB", (64, 64)))
    before = peak_memory() / 2**20
    pipe(Image.new("RGB", (size, size), (90, 120, 150)))
    peak = peak_memory() / 2**20
    return {"peak": peak, "over the loaded process": peak - before}


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def large(style: str, megapixels: float, gib: float | None, exactly: str) -> dict[str, float]:
    """Seconds for each megapixel of a large picture and of a small one, and the memory that the large one takes.

    The large one comes first, because nobody takes back what a process has once needed.
    """
    pipe = StylePipeline.from_pretrained(style, device="cpu")
    side = round(1000 * math.sqrt(megapixels))
    ramp = Image.linear_gradient("L")
    ramp = Image.merge("RGB", [ramp, ramp.rotate(90), ramp.rotate(180)])
    small, picture = (ramp.resize((length, length), Image.Resampling.BICUBIC) for length in (1000, side))
    pipe(small.resize((64, 64)))
    before = peak_memory()
    whole = timed(lambda: pipe(picture, max_memory=gib, statistics=exactly))
    over = peak_memory() - before
    seconds = [timed(lambda: pipe(small)) for _ in range(12)][2:]
    return {
        "megapixels": side**2 / 1e6,
        "seconds": whole,
        "seconds_per_megapixel": whole / side**2 * 1e6,
        "seconds_of_one": statistics.median(seconds),
        "ratio": whole / side**2 * 1e6 / statistics.median(seconds),
        "gib_over_the_loaded_process": over / 2**30,
    }


BUSY = "import torch\nmatrix = torch.rand(1500, 1500)\nmatrix @ matrix\nprint(flush=True)\nwhile True: matrix @ matrix"


def calls(style: str, size: int) -> dict[str, float]:
    """Seconds of the first picture, with the trial of 8 bit, and of those behind it."""
    pipe = StylePipeline.from_pretrained(style, device="cpu")
    picture = Image.effect_noise((size, size), 64).convert("RGB")
    first, begin, seconds = timed(lambda: pipe(picture)), time.perf_counter(), []
    while len(seconds) < 5 or (len(seconds) < 50 and time.perf_counter() - begin < 5):
        seconds.append(timed(lambda: pipe(picture)))
    return {"first": first, "seconds": statistics.median(seconds)}


@contextlib.contextmanager
def another() -> Iterator[None]:
    """Beside a program that computes on all cores."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as program:
        try:
            program.stdout.readline()  # it has begun
            yield
        finally:
            program.kill()


def compare_beside(styles: list[str], sizes: list[int], show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Alone and beside a program that computes on all cores; as OpenMP waits by itself, and as with us."""
    rows: list[dict[str, Any]] = []
    ways: dict[str, dict[str, str | None]] = {"by itself": {"GOMP_SPINCOUNT": None}, "ours": {}}  # in our environment
    show(f"{'':30}{'alone':>18}{'beside another':>18}   (seconds; the first in brackets)")
    for style, size in itertools.product(styles, sizes):
        found: dict[str, dict[str, dict[str, float]]] = {how: {} for how in ways}
        for where in ("alone", "beside"):
            with another() if where == "beside" else contextlib.nullcontext():
                for how, environment in ways.items():
                    found[how][where] = apart("calls", style, size, environment=environment)
        for how, at in found.items():
            cells = "".join(f"{one['seconds']:>10.3f} ({one['first']:5.2f})" for one in at.values())
            show(f"{style:22}{size:>5}  {how:>9}{cells}")
            rows.append({"style": style, "size": size, "waits": how, **at})
    return rows


# -- on a GPU --

FRAMES = ((256, 256), (1024, 1024), (2160, 3840))  # height and width
MATRIX = 8192  # rows and columns


def gpu(height: int, width: int, rounds: int, limit: float, device: str = "cuda") -> dict[str, Any]:
    """Seconds of all sides for a picture, and TFLOP/s."""
    torch.manual_seed(0)
    model, stock = (network.eval().to(device) for network in (ResnetGenerator(), stock_generator(64, 9)))
    half = copy.deepcopy(stock).half()
    image = torch.rand(1, 3, height, width, device=device) * 2 - 1
    matrix = torch.rand(MATRIX, MATRIX, device=device, dtype=torch.bfloat16)
    compiled = engine.Compiled(model)
    sides: dict[str, Callable[[], object]] = {
        "stock": lambda: stock(image),
        "stock fp16": lambda: half(image.half()),
        "ours": lambda: engine.run(model, image),
        "compiled": lambda: engine.run(model, image, shortcut=compiled),
        "matrix": lambda: matrix @ matrix,
    }

    def waited(run: Callable[[], object]) -> None:
        run()
        torch.accelerator.synchronize(device)

    on = torch.accelerator.is_available() and device != "cpu"
    with torch.inference_mode():
        seconds = in_turns(
            {n: functools.partial(waited, run) if on else run for n, run in sides.items()}, rounds, limit
        )
    work = dict.fromkeys(seconds, operations(ResnetGenerator(), torch.empty(1, 3, height, width), {}))
    work["matrix"] = 2 * MATRIX**3
    rates = {side: work[side] / spent / 1e12 for side, spent in seconds.items()}
    return {
        "height": height,
        "width": width,
        "why": compiled.problem or "",
        "seconds": seconds,
        "tflop_per_second": rates,
        "stock_to": {side: seconds["stock"] / spent for side, spent in seconds.items() if side != "matrix"},
        "share_of_matrix": {side: rate / rates["matrix"] for side, rate in rates.items()},
    }


def compare_on_gpu(rounds: int, limit: float, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each size, shown as it comes."""
    if not torch.cuda.is_available():
        raise SystemExit("--part gpu needs a CUDA GPU, and torch built for it")
    rows = []
    show(f"{torch.cuda.get_device_name()}\n{'ResNet-9':16}{'side':12}{'ms':>10}{'stock / it':>12}{'it / matrix':>13}")
    for height, width in FRAMES:
        rows.append(row := apart("gpu", height, width, rounds, limit))
        for side, spent in row["seconds"].items():
            ratio = f"{row['stock_to'][side]:11.2f}x" if side in row["stock_to"] else f"{'-':>12}"
            size = f"{width} x {height}"
            show(f"{size:16}{side:12}{spent * 1000:10.2f}{ratio}{row['share_of_matrix'][side]:13.0%}")
        if row["why"]:
            show(f"not compiled: {row['why']}")
    return rows


# -- every family --

FAMILIES: dict[str, Callable[[], PretrainedMixin]] = {
    "resnet": models.ResnetGenerator,  # width 64, 9 blocks: CycleGAN, CUT
    "unet": models.UNetGenerator,  # pix2pix
    "ugatit": models.UGATITGenerator,  # light
    "transformer": models.TransformerNet,  # fast style transfer
    "animegan": models.AnimeGANGenerator,
    "adain": models.AdaINGenerator,
    "adaattn": models.AttentionGenerator,
    "sanet": lambda: models.AttentionGenerator(attention="sanet"),
    "microast": models.MicroASTGenerator,
    "multiscale": models.MultiScaleGenerator,
    "restoration": models.RestorationUNet,
    "mini": models.MiniGenerator,
}
CONVOLUTION = 2 * 9 * 256**2 * 128**2  # operations
STYLE_SIDE = 256  # of the picture of the style, where a network wants one


def beside(model: PretrainedMixin, size: int) -> dict[str, torch.Tensor]:
    """What a network takes beside the picture."""
    side = min(size, STYLE_SIDE)
    return {"style": torch.rand(1, 3, side, side) * 2 - 1} if "style" in model.capabilities.inputs else {}


def onnx_side(file: str, image: torch.Tensor, options: dict[str, torch.Tensor]) -> Callable[[], object]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or it disturbs whoever is next
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    inputs = {name: (tensor / 2 + 0.5).numpy() for name, tensor in {"image": image, **options}.items()}
    return lambda: session.run(None, inputs)


@torch.inference_mode()
def convolution(dtype: torch.dtype) -> Callable[[], object]:
    """A large convolution, in the better of two layouts."""
    found = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(dtype=dtype, memory_format=layout)
        x = torch.rand(1, 256, 128, 128).to(dtype=dtype, memory_format=layout)
        found[layout] = functools.partial(layer, x)
    seconds = in_turns(found, 3)
    return found[min(seconds, key=seconds.get)]


def plain_sides(name: str, size: int) -> dict[str, Callable[[], object]]:
    """What does not know our engine."""
    model, image, options = networks(name, size)
    if name == "resnet":
        model = stock_generator(64, 9).eval()
    half = bf16_is_fast(torch.device("cpu"))
    return {
        "stock": lambda: model(image, **options),
        "conv": convolution(torch.bfloat16 if half else torch.float32),
        "conv float32": convolution(torch.float32),
    }


def onnx_sides(name: str, size: int, graph: str) -> dict[str, Callable[[], object]]:
    """In a process of its own: beside its threads the convolution had half of its rate."""
    _, image, options = networks(name, size)
    return {"onnx": onnx_side(graph, image, options)} if graph else {}


def our_sides(name: str, size: int, compiled: bool) -> dict[str, Callable[[], object]]:
    model, image, options = networks(name, size)
    replay = engine.Replay(model)
    sides = {
        "ours": lambda: engine.run(model, image, options=options, shortcut=replay),
        "float32": lambda: engine.run(model, image, options=options, shortcut=replay, fast=False),
    }
    if compiled and model.capabilities.inputs == ("image",):
        network = engine.Compiled(model)
        sides["compiled"] = lambda: engine.run(model, image, options=options, shortcut=network)
    for side in ("ours", "float32"):  # the second picture of a size is noted down
        sides[side](), sides[side]()
    return sides


def networks(name: str, size: int) -> tuple[PretrainedMixin, torch.Tensor, dict[str, torch.Tensor]]:
    """A family with random weights, or a style; a picture, and what else it takes."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval() if name in FAMILIES else StylePipeline.from_pretrained(name, device="cpu").model
    image = torch.rand(1, model.config.get("in_channels", 3), size, size) * 2 - 1
    return model, image, beside(model, size)


@contextlib.contextmanager
def elsewhere(make: Callable[..., dict[str, Callable[[], object]]], *arguments: object) -> Iterator[dict[str, Any]]:
    """The sides that `make` gives, in a process of their own: our engine keeps freed memory, which helps all in it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, make, arguments), daemon=True)
    pages = os.environ["THP_MEM_ALLOC_ENABLE"]
    os.environ["THP_MEM_ALLOC_ENABLE"] = pages if make is our_sides else "0"  # ours are the large pages, too
    process.start()
    os.environ["THP_MEM_ALLOC_ENABLE"] = pages
    there.close()  # so that we hear of its end

    def ask(side: str) -> None:
        here.send(side)
        here.recv()

    try:
        yield {side: functools.partial(ask, side) for side in here.recv()}
    finally:
        here.close()
        process.join()


def serve(connection: Any, make: Callable[..., dict[str, Callable[[], object]]], arguments: tuple[object, ...]) -> None:
    sides = make(*arguments)
    connection.send(list(sides))
    with torch.inference_mode(), contextlib.suppress(EOFError):
        while True:
            sides[connection.recv()]()
            connection.send(None)


def operations(model: torch.nn.Module, image: torch.Tensor, options: dict[str, Any]) -> int:
    """How many floating-point operations a picture takes; counted, not computed."""
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image, **options)
    return counter.get_total_flops()


def family(name: str, size: int, rounds: int, limit: float, graph: str, compiled: bool) -> dict[str, Any]:
    """Seconds and GFLOP/s of all sides for a picture of `size` pixels a side.

    Args:
        name: key of :data:`FAMILIES`, or a style.
        size: side of the picture.
        rounds: timed turns of each side.
        limit: seconds after which no new turn begins.
        graph: exported file; empty for none.
        compiled: whether to use torch.compile, too.
    """
    with (
        elsewhere(plain_sides, name, size) as plain,
        elsewhere(our_sides, name, size, compiled) as ours,
        elsewhere(onnx_sides, name, size, graph) as onnx,
    ):
        seconds = in_turns(plain | ours | onnx, rounds, limit)
    work = operations(*networks(name, size))
    flops = dict.fromkeys(seconds, work) | dict.fromkeys(("conv", "conv float32"), CONVOLUTION)
    rates = {side: flops[side] / spent / 1e9 for side, spent in seconds.items()}
    return {
        "family": name,
        "size": size,
        "gflop": work / 1e9,
        "seconds": seconds,
        "gflop_per_second": rates,
        "stock_to": {side: seconds["stock"] / seconds[side] for side in SIDES if side in seconds},
        "share_of_conv": {"ours": rates["ours"] / rates["conv"], "float32": rates["float32"] / rates["conv float32"]},
    }


def exported(name: str, folder: str) -> tuple[str, str]:
    """The graph of a family or a style, or an empty name and why there is none."""
    file = Path(folder) / f"{Path(name).name}.onnx"
    try:
        import onnxruntime  # noqa: F401 -- before a minute of exporting

        export_onnx(networks(name, 64)[0], file, sizes=[(64, 64)])
    except (ImportError, StyleforgeError) as error:
        return "", str(error).partition("\n")[0]
    return str(file), ""


# -- what is printed --

JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (loading, stylising, training, memory, large, calls, gpu)
}
SIDES = ("ours", "float32", "onnx", "compiled")  # beside `stock`
NAMES = 22  # width of the first column
COLUMNS = (  # title, width of a column, what it takes from a row of a family, the columns
    ("seconds", 9, "seconds", ("stock", *SIDES)),
    ("GFLOP/s", 8, "gflop_per_second", ("conv", "ours", "conv float32", "float32")),
    ("stock / it", 9, "stock_to", SIDES),
    ("it / conv", 8, "share_of_conv", ("ours", "float32")),
)


def apart(name: str, *arguments: object, environment: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Run one job in a process of its own, so that none warms up or bloats another; None takes a variable away."""
    command = [sys.executable, __file__, "--job", name, json.dumps(arguments)]
    given = {key: value for key, value in {**os.environ, **(environment or {})}.items() if value is not None}
    output = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    if output.returncode:
        raise SystemExit(f"{name} failed:\n{output.stderr}")
    return json.loads(output.stdout.splitlines()[-1])


def machine() -> dict[str, object]:
    return {
        "styleforge": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "amx": torch.cpu._is_amx_tile_supported(),
        "bf16_is_fast": bf16_is_fast(torch.device("cpu")),
        "int8_is_fast": int8_is_fast(),
    }


def heading() -> str:
    titles = "|".join(f"{title:^{width * len(keys)}}" for title, width, _, keys in COLUMNS)
    keys = "|".join(
        "".join(f"{key.replace(' float32', '32'):>{width}}" for key in keys) for _, width, _, keys in COLUMNS
    )
    return f"{'':{NAMES + 4}}|{titles}\n{'family, px':{NAMES + 4}}|{keys}"


def line(row: dict[str, Any]) -> str:
    def cell(part: str, key: str, width: int) -> str:
        value = row[part].get(key)
        if value is None:
            return f"{'-':>{width}}"
        texts = {"seconds": f"{value:.3f}", "gflop_per_second": f"{value:.0f}", "stock_to": f"{value:.2f}x"}
        return f"{texts.get(part, f'{value:.0%}'):>{width}}"

    cells = "|".join("".join(cell(part, key, width) for key in keys) for _, width, part, keys in COLUMNS)
    return f"{Path(row['family']).name:{NAMES}}{row['size']:4}|{cells}" + (
        f"  no onnx: {row['why']}" if row["why"] else ""
    )


def compare_families(
    names: list[str],
    sizes: list[int],
    rounds: int,
    limit: float,
    onnx: bool,
    compiled: bool,
    show: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for each family and size, shown as it comes."""
    rows = []
    show(heading())
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            graph, why = exported(name, folder) if onnx else ("", "--no-onnx")
            for size in sizes:
                rows.append(family(name, size, rounds, limit, graph, compiled) | {"why": why})
                show(line(rows[-1]))
    return rows


def compare_with_stock(rounds: int, size: int, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Loading, stylising and training beside the stock network, and the memory of one picture."""
    jobs = [("load, from its file (s)", "loading", (rounds,))]
    jobs += [(f"stylise {s} px, PIL to PIL (s)", "stylising", (s, rounds)) for s in (256, 512)]
    jobs += [(f"CycleGAN step, {size} px, batch 1, {p} (s)", "training", (size, rounds, p)) for p in ("fp32", "bf16")]
    rows = []
    show(f"\nResNet-9, width 64 (11 M parameters)\n{'':44}{'stock':>10}{'ours':>10}  stock/ours")
    for title, job, arguments in jobs:
        (_, stock), (_, ours) = apart(job, *arguments).items()
        rows.append({"what": title, "stock": stock, "ours": ours, "stock_to_ours": stock / ours})
        show(f"{title:44}{stock:10.3f}{ours:10.3f}  {stock / ours:.2f}x")
    used = apart("memory", 1024)
    rows.append({"what": "stylise 1024 px (MB)", **used})
    show(f"\nstylise 1024 px: peak {used['peak']:.0f} MB, {used['over the loaded process']:.0f} MB over the process")
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["families", "stock", "large", "beside", "gpu"], help="only one of the parts")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--styles", nargs="+", metavar="STYLE", help="these in place of families: names or folders")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024], help="sides of the pictures")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each side, one at least")
    parser.add_argument("--seconds", type=float, default=15, help="after these no new turn of a family begins")
    parser.add_argument("--no-onnx", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too: minutes more")
    parser.add_argument("--size", type=int, default=256, help="side of the training pictures")
    parser.add_argument("--megapixels", type=float, default=16, help="of the large picture")
    parser.add_argument("--max-memory", type=float, metavar="GIB", help="for it; by default half of what is free")
    parser.add_argument("--statistics", choices=["exact", "thumbnail"], default="exact", help="for it")
    parser.add_argument("--json", action="store_true", help="one JSON value on standard output")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        print(json.dumps(JOBS[options.job[0]](*json.loads(options.job[1]))))
        return

    def show(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    found: dict[str, Any] = {"machine": machine()}
    show(", ".join(f"{key} {value}" for key, value in found["machine"].items()) + "\n")
    if options.part == "large":
        style = (options.styles or ["fastcut-impressionist"])[0]
        row = apart("large", style, options.megapixels, options.max_memory, options.statistics)
        found["large"] = {"style": style, **row}
        show("\n".join(f"{key.replace('_', ' '):32}{value}" for key, value in found["large"].items()))
    if options.part == "beside":
        found["beside"] = compare_beside(options.styles or ["fastcut-monet"], options.sizes, show)
    if options.part == "gpu":
        found["gpu"] = compare_on_gpu(options.rounds, options.seconds, show)
    if options.part in (None, "families"):
        names = options.styles or options.families
        given = (names, options.sizes, options.rounds, options.seconds, not options.no_onnx, options.compile)
        found["families"] = compare_families(*given, show)
    if options.part in (None, "stock"):
        found["stock"] = compare_with_stock(options.rounds, options.size, show)
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
