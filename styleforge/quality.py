"""How good a style is while it is trained: the same held-out pictures at every measurement, and words for an artist.

What decides which step is best, and when there is no more to gain, is KID where there is a feature network to judge
by, else the SSIM to the target of paired pictures, else nothing.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import rng
from .configs import Range
from .errors import ConfigError, DataError, TrainingDiverged
from .features import VGG19, FeatureNetwork, SqueezeNet
from .losses import gray, ssim
from .metrics.kid import DEFAULT_LAYERS, estimate, look, pool

Seen = tuple[Tensor, Tensor, Tensor | None]  # see Quality._see
Make = Callable[[Tensor | None, int, torch.Generator], Tensor]

BATCH = 8
FEWEST = 8  # pictures of either kind for a KID: of so few its error is already a fifth of the distance
# Layers at which colors count little and shapes much: a transfer of colors alone is a sixth as far as another picture.
CONTENT_LAYERS = {SqueezeNet: "fire7", VGG19: "relu4_1"}
NAMES = {"kid": "KID", "ssim": "SSIM"}
NOTHING = "nothing tells which step is best or when to stop"
GIVE = "for a judge of the style give --judge FILE, for example squeezenet1_0.safetensors."
# Share of the standard error by which a measurement must be better to count as a gain. That error is about other
# pictures; on the same ones, two states of a style a tenth of the way apart differed with 0.07 to 0.14 of it, for 8 to
# 190 pictures. The whole error would allow no gain at all, and a share of the value would allow any, by luck, near 0.
GAIN = 0.2


class Quality:
    """Measures styles on fixed held-out pictures, and remembers.

    Features of the real pictures are computed once and stay in memory: 2 MB for each source of 256 px.

    Args:
        network: that judges, see :func:`styleforge.features.load`; None for SSIM-type measures only.
        network_name: of the network, for people.
        pictures: by domain, "source" (none for methods that start from noise) and "target": (N, 3, S, S) or a list of
            (3, S, S), uint8 or floats in [-1, 1]. In paired data those of one number belong together.
        paired: whether they do.
        patience: measurements without a gain that make a plateau; 0 for never.

    Attributes:
        decides: what says which step is best: "kid" (lower is better), "ssim" (higher is better), or None.
        unstyled: the measures of the sources as they are, the bar that a style has to pass; empty without sources.
        history: what was measured, {"step", and measures by name}, oldest first.
        note: what is measured, with what, and what is missing.

    Raises:
        DataError: no pictures of a domain; pairs of which one half is missing.
        ConfigError: a network that ends before the layers that judge.
    """

    def __init__(
        self,
        *,
        network: FeatureNetwork | None = None,
        network_name: str = "",
        pictures: Mapping[str, Sequence[Tensor] | Tensor],
        paired: bool,
        patience: Annotated[int, Range(0, 10**9)] = 0,
    ) -> None:
        sizes = {domain: len(images) for domain, images in pictures.items()}
        if not all(sizes.values()) or (paired and len(set(sizes.values())) > 1):
            raise DataError(
                "Quality cannot be measured on these held-out pictures",
                found=", ".join(f"{size} {domain}" for domain, size in sizes.items()),
                allowed="as many of both" if paired else "at least one of each",
                todo="Hold out more pictures, or measure no quality.",
            )
        for layer in _layers(network) if network else ():
            if layer not in network.channels:
                raise ConfigError(
                    "This feature network ends before the layers that judge",
                    where=network_name,
                    found=f"no {layer}",
                    todo="Give a complete file of its weights.",
                )
        self._pictures = {domain: torch.stack(list(images)) for domain, images in pictures.items()}
        self._network, self._name, self._paired, self._patience = network, network_name, paired, patience
        self._source, self._target = self._pictures.get("source"), self._pictures["target"]
        self._count = len(self._target if self._source is None else self._source)
        few = min(self._count, len(self._target)) < FEWEST
        self.decides = "kid" if network and not few else "ssim" if paired else None
        self.history: list[dict[str, Any]] = []
        self._real = torch.cat([rows for _, rows, _ in self._see(_batches(self._target))])
        self._shown: list[Tensor | None] = []
        self.unstyled: dict[str, float] = {}
        if self._source is not None:
            seen = list(self._see(_batches(self._source)))
            self._shown = [shown for *_, shown in seen]
            self.unstyled = self._score(seen)
        self.note = self._note()

    def measure(self, step: int, make: Make) -> dict[str, float]:
        """Make pictures and measure them.

        Args:
            step: after which this is.
            make: from sources (B, 3, S, S) in [-1, 1], float32 on the CPU, their number B and a CPU generator to
                pictures (B, 3 or 1, S, S) of any device and precision. Methods that start from noise get None for
                the sources. At every measurement it is given the same, in batches.

        Returns:
            By name, each where it can be had:
            "kid", "kid_error": distance to the targets, see :func:`styleforge.metrics.kid.estimate`; 0 is best.
            "content": distance to the sources in what is shown: 1 less the cosine of features, mean over places; 0
            for the same picture. A photograph and any painting have about 0.55 with SqueezeNet, 0.2 with VGG-19.
            "structure": SSIM of luma to the sources, 1 is the same.
            "ssim", "ssim_error", "l1": SSIM to the target of each, its standard error, and the mean absolute
            difference of pixels in [0, 1]; paired data only.
            "diversity": mean distance of two pictures made from noise, of features or else of pictures reduced to 16
            px, where 1 is that of two targets; towards 0 all become one.

        Raises:
            TrainingDiverged: NaN or infinity in the pictures; nothing is remembered.
        """
        with torch.no_grad():
            values = self._score(self._see(self._made(step, make)))
        self.history.append({"step": step, **values})
        return values

    @property
    def best(self) -> dict[str, Any] | None:
        """The best measurement, {"step", "value", "name"}; None before the first, or when nothing decides."""
        if not self._decided:
            return None
        entry = min(self._decided, key=self._cost)
        return {"step": entry["step"], "value": entry[self.decides], "name": self.decides}

    @property
    def improved(self) -> bool:
        """Whether the last measurement is the best."""
        costs = [self._cost(entry) for entry in self._decided]
        return bool(costs) and costs.index(min(costs)) == len(costs) - 1

    @property
    def plateau(self) -> bool:
        """Whether `patience` measurements in a row were no gain: not better by :data:`GAIN` of the standard error.

        By KID never before the first gain over the pictures unstyled: on its way to a style, a network is at first
        further from it than they are.
        """
        return 0 < self._patience <= self._waited()

    def status(self, seconds_per_step: float, steps: int) -> str:
        """How it goes, in words, after the last measurement of a run of so many steps."""
        done = self.history[-1]["step"] if self.history else 0
        left = _time_left((steps - done) * seconds_per_step) if steps > done else "all steps are done"
        return "; ".join([*self._verdict(), left])

    def state(self) -> dict[str, Any]:
        """Plain JSON that :meth:`restore` takes."""
        return {"judge": self._judge, "history": copy.deepcopy(self.history)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was; with another judge, or other numbers of pictures, begin anew."""
        same = state["judge"] == self._judge
        self.history = copy.deepcopy(state["history"]) if same else []

    # -- measuring --

    def _made(self, step: int, make: Make) -> Iterator[Tensor]:
        """Batches of what `make` makes, float32 on the CPU; clipped, as pictures are when they are published."""
        for first in range(0, self._count, BATCH):
            sources = None if self._source is None else _floats(self._source[first : first + BATCH])
            count = min(BATCH, self._count - first)
            made = make(sources, count, rng.generator("quality", first)).float().cpu()
            if not made.isfinite().all():
                raise TrainingDiverged(
                    "The pictures are not finite any more",
                    where=f"held-out pictures after step {step}",
                    todo="Go back to an earlier checkpoint, and try a lower --lr, --clip 1, or --precision fp32.",
                )
            yield made.expand(-1, 3, -1, -1).clamp(-1, 1)

    def _see(self, batches: Iterable[Tensor]) -> Iterator[Seen]:
        """For each batch itself, its rows for KID and diversity (B, d), and what it shows: (B, C, h, w) of length 1."""
        for images in batches:
            if self._network is None:
                yield images, F.adaptive_avg_pool2d(images, 16).flatten(1).double(), None
                continue
            style, content = _layers(self._network)
            features = look(self._network, images, [style, content])
            yield images, pool(features[style]), F.normalize(features[content], dim=1).cpu()

    def _score(self, seen: Iterable[Seen]) -> dict[str, float]:
        rows: list[Tensor] = []
        each: dict[str, list[Tensor]] = defaultdict(list)  # of each picture, by batches
        for number, (made, row, shown) in enumerate(seen):
            here = slice(number * BATCH, number * BATCH + len(made))
            rows.append(row)
            if self._source is not None:
                each["structure"].append(_similarities(gray(made), gray(_floats(self._source[here]))))
                if shown is not None:  # of unit vectors, half of this is 1 less the cosine
                    each["content"].append((shown - self._shown[number]).square().sum(1).mean((1, 2)) / 2)
            if self._paired:
                target = _floats(self._target[here])
                each["ssim"].append(_similarities(made, target))
                each["l1"].append((made - target).abs().mean((1, 2, 3)) / 2)
        values: dict[str, float] = {}
        if self.decides == "kid":
            values["kid"], values["kid_error"] = estimate(torch.cat(rows), self._real)
        for name, parts in each.items():
            values[name] = torch.cat(parts).double().mean().item()
        if self._paired:
            values["ssim_error"] = _error(torch.cat(each["ssim"]).double())
        if self._source is None:
            values |= _diversity(torch.cat(rows), self._real)
        return values

    # -- deciding --

    @property
    def _decided(self) -> list[dict[str, Any]]:
        return self.history if self.decides else []

    def _cost(self, entry: Mapping[str, Any]) -> float:
        return -entry["ssim"] if self.decides == "ssim" else entry[self.decides]

    def _waited(self) -> int:
        """Measurements since the last gain."""
        bar = self.unstyled["kid"] if self.unstyled and self.decides == "kid" else float("inf")
        waited, begun = 0, False
        for entry in self._decided:
            if self._cost(entry) < bar - GAIN * entry[f"{self.decides}_error"]:
                bar, waited, begun = self._cost(entry), 0, True
            else:
                waited += begun
        return waited

    # -- words --

    def _verdict(self) -> list[str]:
        """Status without the time."""
        if not self.history:
            return ["not measured yet"]
        last, best = self.history[-1], self.best
        if best is None:
            kept = f", structure kept: {last['structure']:.2f} of 1" if "structure" in last else ""
            return [f"{NOTHING}{kept}"]
        name, now = NAMES[self.decides], f"{last[self.decides]:.3g}"
        top = f"{name} {best['value']:.3g}"
        if self.plateau:
            words = f"no gain in the last {self._waited()} measurements, best at step {best['step']} ({top})"
        elif len(self._decided) == 1:
            words = f"first measurement: {top}"
        elif self.improved:
            before = min(self._decided[:-1], key=self._cost)[self.decides]
            words = f"still improving ({top}, was {before:.3g})"
        else:
            words = f"no better since step {best['step']} ({top} there, {now} now)"
        if self.unstyled and self._cost(self.unstyled) <= min(map(self._cost, self._decided)):
            unstyled = f"{name} {self.unstyled[self.decides]:.3g}"
            return [words, f"not yet closer to the target than the pictures unstyled ({unstyled})"]
        return [words]

    @property
    def _judge(self) -> str:
        counts = " against ".join(f"{len(images)} {domain}" for domain, images in self._pictures.items())
        return f"{self.decides} of {self._name or 'no network'}, {counts}"

    def _note(self) -> str:
        held = " and ".join(f"{len(images)} {domain}" for domain, images in self._pictures.items())
        if self.decides == "kid":
            sentences = [
                f"Quality is KID at {_layers(self._network)[0]} of {self._name}, {held} pictures held out: "
                "0 is like the target. KIDs of papers are other numbers, of Inception."
            ]
            if self.unstyled:
                sentences.append("The pictures unstyled have {kid:.3g} ± {kid_error:.2g}.".format(**self.unstyled))
            if isinstance(self._network, VGG19):
                sentences.append("Losses that look through VGG please this judge too; SqueezeNet is impartial.")
            return " ".join(sentences)
        tells = "SSIM to the target tells which step is best" if self._paired else NOTHING
        if self._network is None:
            return f"Without a feature network {tells}: {GIVE}"
        return f"{held} pictures held out are too few for KID, so {tells}: hold out at least {FEWEST} of each."


def _layers(network: FeatureNetwork) -> tuple[str, str]:
    """Where it sees style, and content."""
    return DEFAULT_LAYERS[type(network)], CONTENT_LAYERS[type(network)]


def _batches(images: Tensor) -> Iterator[Tensor]:
    return map(_floats, images.split(BATCH))


def _floats(images: Tensor) -> Tensor:
    """Pictures in [-1, 1], float32."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()


def _similarities(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of each picture with its counterpart, (B,)."""
    return torch.stack([ssim(x[None], y[None]) for x, y in zip(a, b, strict=True)])


def _error(values: Tensor) -> float:
    """Standard error of their mean; 0 for a single one, of which nothing is known."""
    return (values.var() / len(values)).sqrt().item() if len(values) > 1 else 0.0


def _diversity(rows: Tensor, real: Tensor) -> dict[str, float]:
    """Mean distance of two rows, where 1 is that of `real`; nothing where these do not differ."""
    usual = torch.pdist(real).mean().item() if len(real) > 1 else 0.0
    return {"diversity": torch.pdist(rows).mean().item() / usual} if usual else {}


def _time_left(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1.5:
        return "about a minute left"
    if minutes < 90:
        return f"about {minutes:.0f} min left"
    return f"about {minutes / 60:.1f} h left" if minutes < 36 * 60 else f"about {minutes / 1440:.0f} days left"
