"""The training loop: one function, read from top to bottom, for every method."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn

from . import __version__, checkpoint, configs, data, images, methods, rng
from .configs import Range
from .errors import CheckpointError, ConfigError, MissingExtra, TrainingDiverged
from .files import write_text
from .hub import CARD_NAME, PretrainedMixin
from .methods.base import Batch, Player

if TYPE_CHECKING:
    from accelerate import Accelerator

Steps = Annotated[int, Range(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that determines a run; written to `train.json`, from which the run can be repeated.

    Attributes:
        method: word of the method, see `styleforge train --help`.
        source: folder of pictures to start from; none for methods that make pictures from noise.
        target: folder of pictures to resemble, or a single one.
        output: folder of the run. A run that is there goes on.
        size: side of the training squares, in pixels; what suits the method when null.
        zoom: lowest and highest factor between `size` and the short side that squares are cut from.
        flip: mirror half of the pictures.
        batch_size: pictures per step and process; what suits the method when null.
        steps: steps in all.
        decay: share of the steps, at the end, in which the learning rate falls linearly to 0.
        ema: weight of the past in the averaged generator that is published; 0 publishes the last one.
        clip: largest norm of a player's gradient; 0 does not clip.
        precision: "auto" takes bf16 where the processor computes with it, and fp32 elsewhere.
        seed: of everything random.
        save_every: steps between checkpoints.
        sample_every: steps between sheets of samples; 0 for none.
        log_every: steps between lines in `metrics.jsonl`.
        init: folder of another run whose networks this one starts from; they must have the same shapes.
        preview: folder of pictures for the sheets, in place of some of the source; not for pairs.
        max_seconds: stop (and save) after this time; 0 for no limit.
        license: licence of the weights for the card, as the Hub names it.
        settings: settings of the method that differ from its defaults.
    """

    method: str
    source: str | None = None
    target: str
    output: str
    size: Annotated[int, Range(16, 2048)] | None = None
    zoom: list[float] = field(default_factory=lambda: [1.12, 1.12])
    flip: bool = True
    batch_size: Annotated[int, Range(1, 4096)] | None = None
    steps: Steps = 100_000
    decay: Annotated[float, Range(0, 1)] = 0.5
    ema: Annotated[float, Range(0, 0.99999)] = 0.999
    clip: Annotated[float, Range(0, 1e9)] = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Annotated[int, Range(0, 2**31)] = 0
    save_every: Annotated[int, Range(1, 10**9)] = 1000
    sample_every: Steps = 1000
    log_every: Annotated[int, Range(1, 10**9)] = 50
    init: str | None = None
    preview: str | None = None
    max_seconds: Annotated[float, Range(0, 1e9)] = 0.0
    license: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        configs.check(type(self).__init__, {f.name: getattr(self, f.name) for f in fields(self)}, "training")
        for name, value in run_defaults(self.method).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if "size" in self.settings:
            raise ConfigError(
                "The size belongs to the run, not to the settings of the method",
                found=self.settings["size"],
                todo="Give TrainConfig(size=...).",
            )
        if (methods.find(self.method).data == "images") != (self.source is None):
            needs = "needs a folder of pictures to start from" if self.source is None else "makes pictures from noise"
            raise ConfigError(
                f"{self.method} {needs}",
                where="source",
                found=self.source,
                todo="Give --source." if self.source is None else "Leave out --source.",
            )
        if len(self.zoom) != 2 or not 1 <= self.zoom[0] <= self.zoom[1] <= 16:
            raise ConfigError(
                "zoom is no interval",
                found=self.zoom,
                allowed="two numbers, 1 <= low <= high <= 16",
                todo="Give for example 1.12 1.12, as CycleGAN has it.",
            )


def run_defaults(method: str) -> dict[str, int]:
    """Size and batch size that suit a method, for :class:`TrainConfig`."""
    return {"size": methods.settings(method).get("size", 256), "batch_size": methods.find(method).batch_size}


@dataclass(frozen=True)
class Progress:
    """What the loop tells a callback after a step: terms by name are those of this step."""

    step: int
    steps: int
    terms: dict[str, float]
    images_per_second: float


def train(config: TrainConfig, on_step: Callable[[Progress], None] | None = None) -> Path:
    """Train, or go on with, the run that `config` describes.

    Writes into `config.output`: `train.json`, `metrics.jsonl`, `checkpoints/`, `samples/`, and `style/`, which
    `StylePipeline.from_pretrained` loads and `styleforge push` uploads. On Ctrl-C and SIGTERM the step is
    finished, a checkpoint and the style so far are written, and the same call goes on from there.

    Args:
        config: the run.
        on_step: called after every step; a progress bar when None.

    Returns:
        The folder of the style.

    Raises:
        ConfigError, DataError: before anything is written.
        CheckpointError: the run has checkpoints, but none can be used.
        TrainingDiverged: a loss is not finite; checkpoints stay.
        KeyboardInterrupt, SystemExit: stopped from outside, after all is written.
    """
    run = Path(config.output)
    started = time.monotonic()

    # Processes, device, precision.
    accelerator = _accelerator(config)
    device, chief = accelerator.device, accelerator.is_main_process
    joint_batch = config.batch_size * accelerator.num_processes

    # Networks and data.
    torch.manual_seed(rng.seed_of(config.seed, "networks"))
    method = methods.build(config.method, _settings(config)).to(device)
    if device.type == "cuda":  # on CPUs the norms and pads cost more in this layout than convolutions gain
        method.to(memory_format=torch.channels_last)
    _check_size(config.size, method)
    if config.preview and method.data in ("paired", "images"):
        raise ConfigError(
            "A folder of preview pictures is of no use here",
            where=config.preview,
            todo=f"Leave out --preview: {config.method} shows its training pictures.",
        )
    crop = data.RandomCrop(config.size, (config.zoom[0], config.zoom[1]), config.flip)
    if config.init:
        _start_from(Path(config.init), method)
    pictures = data.KINDS[method.data](config.source, config.target, crop, config.seed)
    _check_targets(method, pictures)
    averages = {name: _average(style) for name, style in method.styles().items()} if config.ema else {}
    styles = averages or method.styles()
    preview = _preview(config, method, pictures)

    # An optimiser for each player.
    players = method.players()
    optimizers = {p.name: p.optimizer() for p in players}
    turns = max(p.turns for p in players)

    # Go on where the run was.
    _remember(config, run, chief)
    step, seconds = 0, 0.0
    if found := checkpoint.newest(run / "checkpoints"):
        tensors, manifest = found
        _restore(tensors, run, method, averages, optimizers)
        step, seconds = manifest["step"], manifest["seconds"]
    method.train()

    def save(step: int) -> None:
        if chief:
            state = _state(method, averages, optimizers)
            facts = {"method": config.method, "seconds": round(seconds + time.monotonic() - started, 1)}
            checkpoint.save(run / "checkpoints", step, state, facts)

    progress = on_step or _progress_bar(config, step, pictures.describe(), accelerator, chief)
    draws = data.batches(
        pictures,
        config.batch_size,
        range(step * turns, config.steps * turns),
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    with _stop_signals() as stopped, closing(draws):
        done = begun = step
        for step in range(done, config.steps):
            begin = time.perf_counter()
            # Whatever draws from the global generator (dropout) is a function of the step, too.
            torch.manual_seed(rng.seed_of(config.seed, "step", step, accelerator.process_index))
            rate = learning_rate(step, config.steps, config.decay)
            terms: dict[str, float] = {}
            for turn in range(turns):
                tensors = {name: tensor.to(device) for name, tensor in next(draws).items()}
                batch = Batch(tensors, config.seed, step * turns + turn, accelerator.process_index)
                for player in players:
                    if turn < player.turns:
                        terms |= play(player, optimizers[player.name], batch, accelerator, rate, config.clip)
            _check(terms, step, run)

            # Average the weights that will be published.
            for name, style in method.styles().items() if averages else ():
                _mix(averages[name], style, min(config.ema, (1 + step) / (10 + step)))

            # Log, look, save.
            done = step + 1
            speed = joint_batch * turns / (time.perf_counter() - begin)
            if chief and done % config.log_every == 0:
                _log(run, {"step": done, "lr_factor": rate, "images_per_second": round(speed, 2), **terms})
            progress(Progress(done, config.steps, terms, speed))
            if chief and config.sample_every and done % config.sample_every == 0:
                _sheet(run / "samples" / f"step-{done:08d}.jpg", method, styles, preview, device)
            late = config.max_seconds > 0 and time.monotonic() - started > config.max_seconds
            ending = _anywhere(bool(stopped) or late, accelerator)
            if ending or done % config.save_every == 0 or done == config.steps:
                save(done)
            if ending:
                _say(accelerator, f"Stopped after step {done} of {config.steps}; the same command goes on from there.")
                break

    # Publish. Cards of a run tell of the run, so a longer one writes them anew; a finished one leaves them alone.
    if chief and (done > begun or not (run / "style").exists()):
        facts = _card_facts(config, method, device, joint_batch, done, seconds + time.monotonic() - started)
        for name, style in styles.items():
            folder = style.eval().save_pretrained(run / "style" / name)
            write_text(folder / CARD_NAME, str(style.generate_model_card(**facts, subfolder=name)))
        _sheet(run / "samples" / "latest.jpg", method, styles, preview, device)
    accelerator.wait_for_everyone()
    if stopped:
        raise KeyboardInterrupt if stopped[0] == signal.SIGINT else SystemExit(128 + stopped[0])
    return run / "style"


def play(
    player: Player,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    accelerator: Accelerator,
    rate: float = 1.0,
    clip: float = 0.0,
) -> dict[str, float]:
    """One step of one player: its loss, gradients for its own parameters, their mean over all processes, Adam.

    Args:
        player: who plays.
        optimizer: over its parameters.
        batch: what it sees; it may leave something there.
        accelerator: device, precision and processes.
        rate: factor on its learning rate.
        clip: largest norm of the gradient; 0 does not clip.

    Returns:
        Its terms, named "player/term"; none when it pauses.
    """
    parameters = player.parameters()
    with accelerator.autocast():
        terms = player.loss(batch)
    if not terms:
        return {}
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(sum(terms.values()), inputs=parameters)
    if accelerator.num_processes > 1:
        _average_gradients(parameters, accelerator)
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = player.lr * rate
    optimizer.step()
    if player.after:
        player.after()
    values = torch.stack([term.detach().double() for term in terms.values()]).tolist()  # one wait for a GPU
    return {f"{player.name}/{name}": value for name, value in zip(terms, values, strict=True)}


def learning_rate(step: int, steps: int, decay: float) -> float:
    """Factor on the learning rate: 1, and over the last `decay` of the steps linearly down to 0."""
    falling = max(1, round(decay * steps))
    return min(1.0, (steps - step) / falling) if decay else 1.0


def bf16_is_fast() -> bool:
    """Whether this machine's processor or GPU computes in bfloat16 by itself."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu
    return any(getattr(cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def _accelerator(config: TrainConfig) -> Accelerator:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtra("Training needs accelerate", todo="Install it with: pip install accelerate") from error
    bf16 = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast())
    AcceleratorState._reset_state()  # else a second run in this process is bound to the precision of the first
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != accelerator.num_processes:
        raise ConfigError(
            "The processes of this run do not know of each other",
            found=f"{accelerator.num_processes} in the accelerator, WORLD_SIZE={wanted}",
            todo="On CPUs start with: ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m styleforge train ...",
        )
    if str(accelerator.distributed_type.value) in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ConfigError(
            "Several networks cannot be trained under this kind of distribution",
            found=accelerator.distributed_type.value,
            allowed="one process per GPU (MULTI_GPU) or per CPU",
            todo="Choose plain multi-GPU in `accelerate config`; these networks are small.",
        )
    return accelerator


def _anywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether `flag` is set in any process: all must stop after the same step, or the others would wait for ever."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum") > 0)


def _average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """One flat reduction: with equal batches, the gradient of the joint batch."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = accelerator.reduce(torch.cat([g.flatten() for g in grads]), reduction="mean")
    for parameter, mean in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = mean.view_as(parameter)


def _average(network: nn.Module) -> Any:
    """A copy of `network` that follows it, for publishing."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def _mix(average: nn.Module, network: nn.Module, decay: float) -> None:
    floating = [
        (a, n)
        for a, n in zip(average.state_dict().values(), network.state_dict().values(), strict=True)
        if a.is_floating_point() or a.copy_(n) is None
    ]
    torch._foreach_lerp_([a for a, _ in floating], [n for _, n in floating], 1 - decay)


def _state(
    method: nn.Module, averages: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    state = {f"method.{key}": tensor for key, tensor in method.state_dict().items()}
    for name, average in averages.items():
        state |= {f"average.{name}.{key}": tensor for key, tensor in average.state_dict().items()}
    for name, optimizer in optimizers.items():
        state |= checkpoint.pack(optimizer, f"optimizer.{name}")
    return state


def _start_from(run: Path, method: nn.Module) -> None:
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        raise CheckpointError(
            "There is no run to start from",
            where=run,
            allowed="the folder of a run with checkpoints",
            todo="Check --init, or leave it out.",
        )
    _load(method, _under(found[0], "method."), run)


def _restore(
    tensors: dict[str, Tensor],
    run: Path,
    method: nn.Module,
    averages: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
) -> None:
    _load(method, _under(tensors, "method."), run)
    for name, average in averages.items():
        _load(average, _under(tensors, f"average.{name}."), run)
    for name, optimizer in optimizers.items():
        checkpoint.unpack(optimizer, tensors, f"optimizer.{name}")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _load(network: nn.Module, tensors: dict[str, Tensor], run: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(
            "The checkpoint is of another method or other settings",
            where=run,
            found=str(error).split("\n")[1].strip() if "\n" in str(error) else error,
            todo="Take the method and the settings in its train.json, or another folder.",
        ) from error


def _remember(config: TrainConfig, run: Path, chief: bool) -> None:
    """Write `train.json`; a run that is there must be the same in all that shapes the networks."""
    path = run / "train.json"
    if path.exists():
        try:
            before = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ConfigError("train.json is damaged", where=path, found=error, todo="Repair or remove it.") from error
        now = asdict(config)
        for table in (before, now):  # what is set, whether by hand or by default
            table["settings"] = {**methods.settings(config.method), **table.get("settings", {})}
        before, now = json.loads(json.dumps([before, now]))
        for key in ("method", "settings", "seed", "batch_size", "size", "ema"):
            if before.get(key, now[key]) != now[key]:
                was, wanted = before[key], now[key]
                if key == "settings":
                    key = next(k for k in {**wanted, **was} if was.get(k) != wanted.get(k))
                    was, wanted = was.get(key), wanted.get(key)
                raise ConfigError(
                    "This folder holds a run with other settings",
                    where=run,
                    found=f"{key} = {wanted!r}",
                    allowed=f"{was!r}, as it was begun",
                    todo="Give another --output, or the same settings.",
                )
    if chief:
        write_text(path, json.dumps({**asdict(config), "styleforge": __version__}, indent=2) + "\n")


def _check(terms: dict[str, float], step: int, run: Path) -> None:
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        raise TrainingDiverged(
            "A loss is not finite any more",
            where=f"step {step + 1} of {run}",
            found=f"{bad[0]} = {terms[bad[0]]}",
            todo="The last checkpoint is intact. Try a lower --lr, --clip 1, or --precision fp32.",
        )


def _log(run: Path, entry: dict[str, Any]) -> None:
    rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Settings of the method; networks that are made for one size are made for the size of the run."""
    size = {"size": config.size} if "size" in methods.settings(config.method) else {}
    return {**config.settings, **size}


def _check_targets(method: Any, pictures: data.Data) -> None:
    found = len(pictures.domains["target"])
    if method.targets not in (None, found):
        raise ConfigError(
            "The number of style pictures does not fit the network",
            where="target",
            found=found,
            allowed=method.targets,
            todo=f"Give --styles {found}, or another folder.",
        )


def _check_size(size: int, method: nn.Module) -> None:
    """Whether every network of the method, discriminators too, takes squares of this size."""
    for network in method.modules():
        if not isinstance(network, PretrainedMixin):
            continue
        can = network.capabilities
        if size % can.multiple or size < can.smallest:
            raise ConfigError(
                f"Pictures of this size do not fit {type(network).__name__}",
                found=f"size = {size}",
                allowed=f"multiples of {can.multiple}, from {can.smallest} on",
                todo="Change --size, or the settings of the network (fewer --downs or --discriminator-layers).",
            )


def _preview(config: TrainConfig, method: Any, pictures: data.Data) -> list[dict[str, Tensor]]:
    """Up to six rows of fixed pictures by domain, (1, 3, S, S) in [-1, 1]."""
    multiple = max((style.capabilities.multiple for style in method.styles().values()), default=1)
    side = config.size if method.data == "images" else -(-max(config.size, 256) // multiple) * multiple
    look = data.RandomCrop(side, (1.0, 1.0), flip=False)
    shown = dict(pictures.domains)
    if config.preview:
        shown["source"] = data.Pictures(data.list_pictures(config.preview)[:6], side)
    rows = min(6, len(next(iter(shown.values()))))
    spread = {d: range(0, len(p), max(1, len(p) // 6)) for d, p in shown.items()}
    return [
        {d: look(p[spread[d][row % len(spread[d])]], "preview")[None] for d, p in shown.items()} for row in range(rows)
    ]


@torch.no_grad()
def _sheet(
    path: Path, method: Any, styles: dict[str, Any], preview: list[dict[str, Tensor]], device: torch.device
) -> None:
    """A picture with one row for each preview picture: source, styled, and what the method adds."""
    training = {s: s.training for s in styles.values()}
    for style in styles.values():
        style.eval()
    rows = []
    for number, images_of_row in enumerate(preview):
        here = {domain: image.to(device) for domain, image in images_of_row.items()}
        rows.append(torch.cat(list(method.preview(here, styles, rng.generator("preview", number)).values()), 3))
    for style, was in training.items():
        style.train(was)
    images.save(images.to_pil(torch.cat(rows, 2)), path, quality=92)


def _card_facts(
    config: TrainConfig, method: Any, device: torch.device, joint_batch: int, steps: int, seconds: float
) -> dict[str, Any]:
    if device.type == "cpu":
        hardware = f"{torch.get_num_threads()} CPU threads"
    else:
        hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "name": Path(config.output).name,
        "license": config.license,
        "tags": [config.method],
        "training": {
            "Method": f"[{config.method}]({method.paper})",
            "Steps": f"{steps} of {joint_batch} pictures",
            "Size": f"{config.size} px",
            "Time": f"{seconds / 3600:.2f} h on {hardware}",
            "Settings": ", ".join(f"{k} {v}" for k, v in config.settings.items()) or "defaults",
            "Seed": config.seed,
        },
    }


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second one is not held back."""
    received: list[int] = []
    before = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: signals are not ours to take
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        print(text, file=sys.stderr)


def _progress_bar(
    config: TrainConfig, step: int, contents: str, accelerator: Accelerator, chief: bool
) -> Callable[[Progress], None]:
    from tqdm import tqdm

    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    _say(accelerator, f"{config.method} on {contents}; {accelerator.device}, {precision}; into {config.output}")
    bar = tqdm(total=config.steps, initial=step, unit="step", disable=not chief, dynamic_ncols=True)

    def show(progress: Progress) -> None:
        bar.update()
        if progress.step % 10 == 0:
            bar.set_postfix({k.split("/")[-1]: f"{v:.3g}" for k, v in list(progress.terms.items())[:6]}, refresh=False)
        if progress.step == progress.steps:
            bar.close()

    return show
