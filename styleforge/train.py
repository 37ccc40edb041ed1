"""The training loop: one function, read from top to bottom, for every method."""

from __future__ import annotations

import copy
import itertools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import cards, checkpoint, data, features, methods, processes, report, rng, runs, samples
from .adaptation import ESTIMATES, Adaptation, Adapted, save_training
from .errors import CheckpointError, ConfigError, ImageError, TrainingDiverged
from .files import clean, writable, write_text
from .hub import PretrainedMixin
from .lora import merge
from .methods.base import Batch, Method, Player
from .precision import Precision, bf16_is_fast
from .quality import Quality
from .recompute import recompute
from .runs import TrainConfig, run_defaults
from .schedules import Plateau, learning_rate
from .state import Memory, TrainState, start_from
from .tracking import open_tracker
from .watch import Detectors, Finding, Watch

__all__ = ["Progress", "TrainConfig", "play", "run_defaults", "train"]

LOOK_EVERY = 100  # steps between two looks for collapse and the like, and between two states to roll back to
PROBES = 8  # pictures of such a look
JUDGED = 64  # held-out pictures that quality is measured on


@dataclass(frozen=True)
class Progress:
    """What the loop tells a callback after a step: terms by name are those of this step."""

    step: int
    steps: int
    terms: dict[str, float]
    images_per_second: float


class Rollbacks:
    """The steps that went wrong, which are left out when the run comes to them again; not rolled back with the rest.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.skipped: list[int] = []

    @property
    def factor(self) -> float:
        """On the learning rates: half for each."""
        return 0.5 ** len(self.skipped)

    def state(self) -> dict[str, Any]:
        """What to remember."""
        return {"skipped": list(self.skipped)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.skipped = list(state["skipped"])


def train(config: TrainConfig, on_step: Callable[[Progress], None] | None = None) -> Path:
    """Train, or go on with, the run that `config` describes.

    Writes into `config.output`: `train.json`, `metrics.jsonl`, `report.html`, `checkpoints/`, `samples/`, and
    `style/`, which `StylePipeline.from_pretrained` loads and `styleforge push` uploads; with held-out pictures also
    `best/`, the style when it was measured best. On Ctrl-C and SIGTERM the step is finished, a checkpoint and the
    style so far are written, and the same call goes on from there. Killed at any moment, it goes on from the newest
    checkpoint, and on one machine with one process comes to the same weights, bit for bit, as if never stopped.

    Args:
        config: the run.
        on_step: called after every step; a progress bar when None.

    Returns:
        The folder of the style.

    Raises:
        ConfigError, DataError: before anything is written; also while another process trains in this folder.
        CheckpointError: the run has checkpoints, but none can be used; or its end could not be saved.
        TrainingDiverged: steps went wrong more often than `rollbacks`; the last good state is a checkpoint.
        KeyboardInterrupt, SystemExit: stopped from outside, after all is written.
    """
    with ExitStack() as opened:
        return _train(config, on_step, opened)


def _train(config: TrainConfig, on_step: Callable[[Progress], None] | None, opened: ExitStack) -> Path:
    """See :func:`train`; what is to be closed at the end, however it comes, is put into `opened`."""
    run = writable(config.output)
    started = time.monotonic()

    # Processes, device, precision.
    accelerator = processes.join()
    device, chief = accelerator.device, accelerator.is_main_process
    joint_batch = config.batch_size * accelerator.num_processes
    automatic = "bf16" if bf16_is_fast(device) else "fp32"
    precision = Precision(device, automatic if config.precision == "auto" else config.precision)

    # Networks.
    torch.manual_seed(rng.seed_of(config.seed, "networks"))
    method = methods.build(config.method, config.settings_with_size()).to(device)
    if device.type == "cuda":  # on CPUs the norms and pads cost more in this layout than convolutions gain
        method.to(memory_format=torch.channels_last)
    _check_size(config.size, method)
    check_pieces(config, method)
    found = checkpoint.newest(run / "checkpoints")
    if config.init and not found:  # the other run may be gone by now
        start_from(Path(config.init), method)
    adaptation = None if config.adapt is None else Adaptation(**config.adapt)
    if adaptation:
        method = adaptation.apply(method, resume=found is not None).to(device)
    if config.recompute:
        recompute(method)

    # Pictures.
    pictures = _pictures(config, method)
    _check_targets(method, pictures)
    _check_preview(config, method)
    rows = samples.rows(method, pictures, config.size, config.preview)
    probes = samples.squares(method, pictures.domains, config.size, PROBES)

    # Who learns, what is published, who looks.
    players = method.players()
    optimizers = {p.name: p.optimizer(config.optimizer) for p in players}
    turns = max(p.turns for p in players)
    averages = {name: _average(style) for name, style in method.styles().items()} if config.ema else {}
    styles = averages or method.styles()
    rollbacks, watch, plateau = Rollbacks(config.rollbacks), Watch(), Plateau(config.patience // 2 or 3)
    detectors = Detectors(paired=method.aligned, adversarial=config.every_setting().get("adversarial"))
    held = _held(config, method, pictures)
    quality = _judge(config, method, held) if held else None
    memories: dict[str, Memory] = {"watch": watch, "plateau": plateau, "detectors": detectors, "precision": precision}
    memories |= {"quality": quality} if quality else {}
    memories |= {"adaptation": adaptation} if adaptation else {}
    state = TrainState(method, averages, optimizers, memories)

    # Go on where the run was.
    if chief:
        opened.enter_context(processes.alone_in(run))
    runs.refuse_other(config, run)  # before a tracker is asked for, whose library may be missing
    tracker = open_tracker(config.tracker if chief else "none", run, asdict(config))
    opened.callback(tracker.close)
    if chief:
        runs.remember(config, run)
    step, seconds = 0, 0.0
    if found:
        tensors, manifest = found
        state.restore(tensors, manifest.get("memories", {}), run)
        rollbacks.restore(manifest.get("rollbacks", rollbacks.state()))
        step, seconds = manifest["step"], manifest["seconds"]
    if chief:
        clean(run)  # what a killed run was writing
        checkpoint.rewind(run / "metrics.jsonl", step)
        if found:
            checkpoint.prune(run / "checkpoints", step)
    begun = step
    method.train()
    voice = Voice(run, chief)
    told = {"device": _hardware(device), "precision": precision.kind, "pictures": pictures.describe()}
    told["joint_batch"] = joint_batch
    progress = on_step or _progress_bar(config.steps, step, chief)
    if not on_step:
        voice.say(f"{config.method} on {pictures.describe()}; {device}, {precision.kind}; into {run}")
        voice.say(quality.note if quality else "Quality is not measured; --held-out 0.1 --judge FILE measures it.")

    def save(step: int) -> None:
        if not chief:
            return
        facts = {"method": config.method, "seconds": round(seconds + time.monotonic() - started, 1), **told}
        facts |= {"rollbacks": rollbacks.state(), "memories": state.facts()}
        try:
            checkpoint.save(run / "checkpoints", step, state.tensors(), facts)
        except OSError as error:
            if step == config.steps:
                raise CheckpointError(
                    "The end of the run could not be saved",
                    where=run,
                    found=error,
                    todo="Make room, and start it again: it goes on from the newest checkpoint.",
                ) from error
            voice.event(step, "warning", f"No checkpoint of step {step} ({error}); the one before is kept.")

    def publish(folder: Path) -> None:
        taken = seconds + time.monotonic() - started
        _publish(folder, method, styles, cards.facts(asdict(config), steps=step, seconds=taken, **told), voice.say)
        save_training(method, folder, asdict(config))

    def draw(step: int) -> data.Batches:
        return data.batches(
            pictures,
            config.batch_size,
            range(step * turns, config.steps * turns),
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            workers=config.workers,
        )

    if adaptation and adaptation.ewc and not found:
        method.estimate(_first_batches(config, method, pictures, device))
    draws = draw(step)
    good = step, state.tensors(copy=True), state.facts()
    ending = finished = bool(quality and found and quality.plateau)  # what has ended for want of gain does not go on
    worked = 0.0
    opened.callback(lambda: draws.close())  # those of that time: a rollback begins others
    with _stop_signals() as stopped:
        while step < config.steps and not ending:
            begin = time.perf_counter()
            # Whatever draws from the global generator (dropout) is a function of the step, too.
            torch.manual_seed(rng.seed_of(config.seed, "step", step, accelerator.process_index))
            rate = learning_rate(config.schedule, step, config.steps, warmup=config.lr_warmup, decay=config.decay)
            rate *= rollbacks.factor * plateau.factor
            terms: dict[str, float] = {}
            for turn in range(turns):
                tensors = {name: tensor.to(device) for name, tensor in next(draws).items()}
                if step in rollbacks.skipped:
                    continue
                key = config.seed, step * turns + turn, accelerator.process_index
                tensors = method.prepare(tensors, rng.generator("prepare", *key))
                pieces = _pieces(tensors, config.accumulate, *key)
                for player in players:
                    if turn < player.turns:
                        optimizer = optimizers[player.name]
                        clips = {"clip": config.clip, "clip_value": config.clip_value}
                        terms |= play(player, optimizer, pieces, accelerator, precision, rate, **clips)
                precision.update()

            # Watch: a step that went wrong is taken back, and left out the next time.
            trouble = watch.judge(terms)
            (wrong,) = processes.anywhere(accelerator, trouble is not None)
            if wrong:
                text = trouble or "Another process found something wrong."
                culprit = _culprit(players)
                again, tensors, facts = good
                state.restore(tensors, facts, run)
                if len(rollbacks.skipped) >= rollbacks.most:
                    save(again)
                    raise _diverged(step, text, culprit, run, again, rollbacks.most)
                rollbacks.skipped.append(step)
                voice.event(
                    step + 1,
                    "rollback",
                    f"Step {step + 1} went wrong: {text}{culprit}. Back to step {again}, on without its batch and at "
                    f"{rollbacks.factor:g} times the learning rate.",
                )
                draws.close()
                step, draws = again, draw(again)
                continue

            # Average the weights that will be published.
            for name, style in method.styles().items() if averages else ():
                _mix(averages[name], style, min(config.ema, (1 + step) / (10 + step)))
            step += 1

            # Log.
            spent = time.perf_counter() - begin
            worked += spent
            speed = joint_batch * turns / spent
            if chief and step % config.log_every == 0:
                entry = {"lr_factor": rate, "images_per_second": round(speed, 2), **terms}
                voice.log({"step": step, **entry})
                tracker.log(step, entry)
            progress(Progress(step, config.steps, terms, speed))
            if step == begun + LOOK_EVERY and draws.waited > 0.2 * worked:
                voice.event(step, "warning", _input_bound(draws.waited / worked))

            # Look.
            detectors.saw(step, terms)
            if chief and _is_look(step, config.steps):
                for finding in _look(detectors, step, config.steps, styles[""], probes, device):
                    voice.event(step, "finding", finding.sentence)
            if chief and config.sample_every and step % config.sample_every == 0:
                sheets = [run / "samples" / f"{name}-{step:08d}.jpg" for name in ("step", "scores")]
                try:
                    samples.sheet(sheets[0], method, styles, rows, device)
                    samples.score_sheet(sheets[1], method, styles[""], rows, device)
                    tracker.image(step, "samples", sheets[0])
                except (OSError, ImageError) as error:
                    voice.event(step, "warning", f"No samples of step {step} ({error}).")
                voice.report()

            # Measure.
            finished = False
            if quality and step % config.judge_every == 0:
                if chief:
                    figures = _measure(quality, step, styles[""], held["target"], device)
                    voice.log({"step": step, **figures})
                    tracker.log(step, figures)
                    voice.event(step, "status", quality.status(worked / (step - begun), config.steps))
                    if quality.improved:
                        publish(run / "best")
                improved, finished = processes.anywhere(accelerator, quality.improved, quality.plateau)
                if config.schedule == "plateau":
                    plateau.update(improved)

            # Save.
            late = config.max_seconds > 0 and time.monotonic() - started > config.max_seconds
            interrupted, finished = processes.anywhere(accelerator, bool(stopped) or late, finished)
            ending = interrupted or finished
            regular = step % config.save_every == 0
            if step % LOOK_EVERY == 0 or regular:
                good = step, state.tensors(copy=True), state.facts()
            if ending or regular or step == config.steps:
                save(step)
    if step < config.steps:
        why = f"nothing better in {config.patience} measurements" if finished else "the same command goes on from there"
        voice.event(step, "status", f"Stopped after step {step} of {config.steps}; {why}.")

    # Publish. Cards tell how long a run was: one that has gone on writes them anew, a finished one leaves them alone.
    published = run / "checkpoints" / "published"  # written last: a kill on the way is made good by the next start
    if chief and (not published.exists() or published.read_text() != str(step) or not (run / "style").exists()):
        publish(run / "style")
        for name in ("latest", *([f"step-{step:08d}"] if config.sample_every else [])):
            samples.sheet(run / "samples" / f"{name}.jpg", method, styles, rows, device)
        write_text(published, str(step))
    voice.report()
    accelerator.wait_for_everyone()
    if stopped:
        raise KeyboardInterrupt if stopped[0] == signal.SIGINT else SystemExit(128 + stopped[0])
    return run / "style"


def play(
    player: Player,
    optimizer: torch.optim.Optimizer,
    pieces: Sequence[Batch],
    accelerator: processes.Accelerator,
    precision: Precision | None = None,
    rate: float = 1.0,
    clip: float = 0.0,
    clip_value: float = 0.0,
) -> dict[str, float]:
    """One step of one player: its loss, gradients for its own parameters, their mean over all processes, its optimizer.

    Args:
        player: who plays.
        optimizer: over its parameters.
        pieces: what it sees, and where it may leave something. The gradients of several equal ones are averaged, which
            is the gradient of the whole batch unless its pictures have to do with one another: in batch norms, and
            where a method compares them.
        accelerator: device and processes.
        precision: of the computation; float32 by default.
        rate: factor on its learning rate.
        clip: largest norm of the gradient; 0 does not clip.
        clip_value: largest value in the gradient; 0 does not clip.

    Returns:
        Its terms, named "player/term", and "player/gradient_norm" before clipping; none when it pauses.
    """
    precision = precision or Precision(accelerator.device, "fp32")
    parameters = player.parameters()
    optimizer.zero_grad(set_to_none=True)
    found: dict[str, list[Tensor]] = {}
    for piece in pieces:
        with precision.autocast():
            terms = player.loss(piece)
        if not terms:
            return {}
        precision.backward(sum(terms.values()) / len(pieces), parameters)
        for name, term in terms.items():
            found.setdefault(name, []).append(term.detach())
        if len(pieces) > 1:
            _forget_graphs(player, piece)
    processes.average_gradients(parameters, accelerator)
    precision.unscale(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_value:
        nn.utils.clip_grad_value_(parameters, clip_value)
    if clip:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    for group in optimizer.param_groups:
        group["lr"] = player.lr * group.get("factor", 1.0) * rate
    precision.step(optimizer)
    if player.after:
        player.after()
    *values, length = torch.stack([*itertools.chain(*found.values()), norm.detach()]).tolist()  # one wait for a GPU
    shares = iter(values)
    named = {f"{player.name}/{name}": sum(itertools.islice(shares, len(x))) / len(x) for name, x in found.items()}
    # Half precision finds its scale by overflowing now and then; the optimizer has left such a step out.
    overflow = precision.kind == "fp16" and not math.isfinite(length)
    return named if overflow else {**named, f"{player.name}/gradient_norm": length}


class Voice:
    """What a run says, to the terminal and into its log.

    Args:
        run: its folder.
        chief: whether this process is the one that speaks.
    """

    def __init__(self, run: Path, chief: bool) -> None:
        self.run, self.chief = run, chief

    def say(self, text: str) -> None:
        """To the terminal, above the progress bar."""
        if self.chief:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)

    def event(self, step: int, kind: str, text: str) -> None:
        """To the terminal and into `metrics.jsonl`."""
        self.say(f"Step {step}: {text}")
        self.log({"step": step, "event": kind, "text": text})

    def log(self, entry: dict[str, Any]) -> None:
        """Into `metrics.jsonl`."""
        if self.chief:
            with suppress(OSError):  # of a full disk the checkpoint tells
                runs.log(self.run, entry)

    def report(self) -> None:
        """Everything so far, as a page."""
        if self.chief:
            with suppress(OSError):
                report.write_report(self.run)


def _pictures(config: TrainConfig, method: Method) -> data.Data:
    crop = data.RandomCrop(config.size, (config.zoom[0], config.zoom[1]), config.flip, config.color_jitter)
    weights = {"source": config.source_weights, "target": config.target_weights}
    return data.KINDS[method.data](
        config.source,
        config.target,
        crop,
        config.seed,
        weights={domain: path for domain, path in weights.items() if path is not None},
        held_out=0.0 if config.test_target else config.held_out,
    )


def _pieces(tensors: dict[str, Tensor], count: int, *key: int) -> list[Batch]:
    """A batch in equal pieces, each with randomness of its own."""
    if count == 1:
        return [Batch(tensors, *key)]
    split = {name: tensor.chunk(count) for name, tensor in tensors.items()}
    return [Batch({name: parts[n] for name, parts in split.items()}, *key, n) for n in range(count)]


def _forget_graphs(player: Player, piece: Batch) -> None:
    """Free the graphs of a piece before the next one is computed.

    A generator's is used up by then, and its pictures stay, for discriminators that play later. What a discriminator
    has asked for goes altogether, and the generator makes it again: its graph would have to be kept for every piece.
    """
    for name in [name for name, tensor in piece.items() if tensor.requires_grad]:
        if player.judges:
            del piece[name]
        else:
            piece[name] = piece[name].detach()


def _culprit(players: list[Player]) -> str:
    """The first parameter whose gradient is not finite, in brackets."""
    for player in players:
        for network in player.networks:
            for name, parameter in network.named_parameters():
                if parameter.grad is not None and not parameter.grad.isfinite().all():
                    return f" (first in the gradient of {type(network).__name__}.{name})"
    return ""


def _diverged(step: int, text: str, culprit: str, run: Path, good: int, most: int) -> TrainingDiverged:
    return TrainingDiverged(
        "Training went wrong" + (f" more than {most} times" if most else ""),
        where=f"step {step + 1} of {run}",
        found=text + culprit,
        todo=f"Step {good} is saved as the last good checkpoint. Try a lower --lr, --clip 1, or --precision fp32.",
    )


def _input_bound(share: float) -> str:
    return (
        f"Input-bound: {share:.0%} of the time goes by waiting for pictures. More --workers, or smaller files "
        "(their short side needs no more pixels than size times zoom), would make it faster."
    )


def _is_look(step: int, steps: int) -> bool:
    """Now and then, and more often at first: colors that turn round do so in the first percents of a run."""
    early = step <= max(LOOK_EVERY, steps // 50) and step % max(LOOK_EVERY // 10, steps // 400) == 0
    return early or step % LOOK_EVERY == 0


@torch.no_grad()
def _look(
    detectors: Detectors, step: int, steps: int, style: PretrainedMixin, probes: dict[str, Tensor], device: torch.device
) -> list[Finding]:
    source = probes.get("source")
    with samples.evaluating(style):
        styled = samples.styled_as(
            style,
            source if source is None else source.to(device),
            probes["target"].to(device),
            PROBES,
            rng.generator("probe"),
        )
    return detectors.look(step, steps, styled.float().cpu(), probes["target"], source)


def _held(config: TrainConfig, method: Method, pictures: data.Data) -> dict[str, Tensor]:
    """The pictures that quality is measured on, by domain; none when there is nothing to measure."""
    held = pictures.held
    if config.test_target:
        look = data.RandomCrop(config.size, (1.0, 1.0), flip=False)
        held = data.KINDS[method.data](config.test_source, config.test_target, look, config.seed).domains
    return samples.squares(method, held, config.size, JUDGED) if config.judge_every else {}


def _judge(config: TrainConfig, method: Method, held: dict[str, Tensor]) -> Quality:
    return Quality(
        network=features.load(config.judge) if config.judge else None,
        network_name=config.judge or "",
        pictures=held,
        paired=method.aligned,
        patience=config.patience,
    )


def _measure(
    quality: Quality, step: int, style: PretrainedMixin, targets: Tensor, device: torch.device
) -> dict[str, float]:
    targets, seen = targets.to(device), 0

    def make(sources: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        nonlocal seen
        seen += count
        turned = targets.roll(count - seen, 0)  # each source has its own picture of a style
        return samples.styled_as(style, None if sources is None else sources.to(device), turned, count, generator)

    with samples.evaluating(style):
        return quality.measure(step, make)


def _publish(
    folder: Path,
    method: Method,
    styles: dict[str, PretrainedMixin],
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Write the networks of a style with their cards."""
    for name, style in styles.items():
        with samples.evaluating(style):
            written = merge(style).save_pretrained(folder / name)
        cards.publish_card(written, style, {**facts, "subfolder": name}, say)
    if isinstance(method, Adapted):
        method.save_adapters(styles, folder)


def _first_batches(config: TrainConfig, method: Method, pictures: data.Data, device: torch.device) -> Iterator[Batch]:
    """Those by which an adaptation weighs its parameters; of the beginning, and the same in every process."""
    with closing(data.batches(pictures, config.batch_size, range(ESTIMATES))) as draws:
        for turn, tensors in enumerate(draws):
            here = {name: tensor.to(device) for name, tensor in tensors.items()}
            yield Batch(method.prepare(here, rng.generator("prepare", turn)), config.seed, turn, 0)


def _check_preview(config: TrainConfig, method: Method) -> None:
    if config.preview and method.data not in ("unpaired", "styles"):
        raise ConfigError(
            "A folder of preview pictures is of no use here",
            where=config.preview,
            todo=f"Leave out --preview: {config.method} shows its training pictures.",
        )


def _average(network: nn.Module) -> Any:
    """A copy of `network` that follows it, for publishing."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def _mix(average: nn.Module, network: nn.Module, decay: float) -> None:
    past, newest = [], []
    for a, n in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.is_floating_point():
            past.append(a)
            newest.append(n)
        else:
            a.copy_(n)
    torch._foreach_lerp_(past, newest, 1 - decay)


def _check_targets(method: Method, pictures: data.Data) -> None:
    found = len(pictures.domains["target"])
    if method.targets not in (None, found):
        raise ConfigError(
            "The number of style pictures does not fit the network",
            where="target",
            found=found,
            allowed=method.targets,
            todo=f"Give --styles {found}, or another folder.",
        )


def check_pieces(config: TrainConfig, method: Method) -> None:
    """Whether each piece of a batch has as many pictures as the method compares.

    Raises:
        ConfigError: it has fewer.
    """
    if (found := config.batch_size // config.accumulate) < method.smallest:
        raise ConfigError(
            f"{config.method} compares pictures of a batch with one another",
            where="batch_size / accumulate",
            found=found,
            allowed=f"at least {method.smallest} at once",
            todo="Give a smaller --accumulate, a larger --batch-size, or leave out the comparison (--contrast 0).",
        )


def _check_size(size: int, method: nn.Module) -> None:
    """Whether every network of the method, discriminators too, takes squares of this size."""
    for network in method.modules():
        if not isinstance(network, PretrainedMixin):
            continue
        can = network.capabilities
        if size % can.multiple or size < can.smallest:
            grid = f"multiples of {can.multiple}, " if can.multiple > 1 else ""
            raise ConfigError(
                f"Pictures of this size do not fit {type(network).__name__}",
                found=f"size = {size}",
                allowed=f"{grid}from {can.smallest} on",
                todo="Change --size, or the settings of the network (fewer --downs or --discriminator-layers).",
            )


def _hardware(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{torch.get_num_threads()} CPU threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


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


def _progress_bar(steps: int, step: int, chief: bool) -> Callable[[Progress], None]:
    from tqdm import tqdm

    bar = tqdm(total=steps, initial=step, unit="step", disable=not chief, dynamic_ncols=True)

    def show(progress: Progress) -> None:
        bar.update(progress.step - bar.n)  # backwards after a rollback
        if progress.step % 10 == 0:
            shown = {k.split("/")[-1]: f"{v:.3g}" for k, v in progress.terms.items() if not k.endswith("gradient_norm")}
            bar.set_postfix(dict(list(shown.items())[:6]), refresh=False)
        if progress.step == progress.steps:
            bar.close()

    return show
