"""What votes say: win rates with exact intervals, and Bradley-Terry scores.

"Cannot tell" is a vote of its own: it is counted and shown, left out of the win rates (as in the sign test), and
shared equally between those shown in the scores. Voters who fail an attention check are left out, and counted.

The intervals take votes for independent. They are not when few people vote often, which is why scores come with a
second standard error over voters.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from ..errors import ConfigError
from .study import Study
from .votes import Vote, read_database

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Attributes:
        wins: how often.
        of: out of how many.
        low: lower end of the exact interval of 95 %.
        high: upper end.
    """

    wins: int
    of: int
    low: float
    high: float

    @classmethod
    def from_counts(cls, wins: int, of: int) -> Rate:
        """With its interval."""
        return cls(wins, of, *exact_interval(wins, of))

    def __str__(self) -> str:
        if not self.of:
            return "no votes"
        return f"{self.wins / self.of:.0%} [{self.low:.0%}, {self.high:.0%}] of {self.of}"


@dataclass(frozen=True)
class Competitor:
    """One competitor's part.

    Attributes:
        name: of it.
        wins: how often it was chosen, of the decided votes it was in.
        ties: votes of "cannot tell" it was in.
        score: Bradley-Terry log-strength, 0 on average: `exp(a - b)` are the odds of a against b. None when the votes
            do not determine it.
        error: standard error of the score when votes are independent.
        error_voters: the same when only voters are.
    """

    name: str
    wins: Rate
    ties: int
    score: float | None
    error: float | None
    error_voters: float | None


@dataclass(frozen=True)
class Results:
    """What the votes of a study say.

    Attributes:
        study: its id.
        question: what was asked.
        chance: win rate of a competitor like all others.
        votes: how many count.
        voters: whose they are.
        left_out: voters who failed an attention check.
        seconds: median time to answer, or None.
        competitors: by score, or else by win rate, best first.
        pairs: (a, b, how often a was chosen when one of the two was, ties of both).
        first: how often the first place was chosen, whoever stood there: far from `chance`, voters clicked blindly.
        note: in a sentence why there are no scores, or None.
    """

    study: str
    question: str
    chance: float
    votes: int
    voters: int
    left_out: int
    seconds: float | None
    competitors: tuple[Competitor, ...]
    pairs: tuple[tuple[str, str, Rate, int], ...]
    first: Rate
    note: str | None

    def json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def text(self) -> str:
        """As lines for a terminal."""
        head = f"{self.question}  {self.votes} votes of {self.voters} voters"
        head += f", {self.left_out} voters left out by attention checks" * bool(self.left_out)
        lines = [head, "", f"{'':24} {'chosen [95 %]':28} {'ties':>5} {'score':>7} {'± votes':>8} {'± voters':>9}"]
        for one in self.competitors:
            scores = [_number(one.score, "+.2f"), _number(one.error), _number(one.error_voters)]
            lines.append("{:24} {:28} {:5} {:>7} {:>8} {:>9}".format(one.name, str(one.wins), one.ties, *scores))
        lines += ["", *(f"{a} against {b}: {rate}, {ties} ties" for a, b, rate, ties in self.pairs)]
        lines += ["", f"The first place was chosen: {self.first}."]
        lines += [f"Median time to answer: {self.seconds:.1f} s."] if self.seconds is not None else []
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def svg(self) -> str:
        """A bar for each win rate with its interval, as an element for a page; it takes the page's text color."""
        left, width, step = 170, 430, 34
        bottom = len(self.competitors) * step + 8
        ticks = ((0, 0.3, ""), (self.chance, 0.8, ' stroke-dasharray="4 3"'), (1, 0.3, ""))
        grid = [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}" stroke="currentColor" opacity="{opacity}"{dashes}/>'
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{at:.0%}</text>'
            for at, opacity, dashes in ticks
            for x in [left + width * at]
        ]
        bars = [_bar(n * step + 8, one, left, width, step - 14) for n, one in enumerate(self.competitors)]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {bottom + 24}" role="img" '
            f'font-size="13" fill="currentColor" style="width:100%;max-width:{left + width + 30}px;'
            f'font-family:system-ui,sans-serif"><title>How often each was chosen, with the interval of 95 %; the '
            f"dashed line is chance</title>{''.join(grid + bars)}</svg>"
        )


def results(study: Study, votes: Iterable[Vote] | None = None) -> Results:
    """Rank the competitors of a study.

    Args:
        study: what was asked.
        votes: for instance of :func:`~styleforge.survey.votes.read_csv`; doubled ones count once, those of other
            studies are an error. When None, those in the folder of the study.

    Raises:
        ConfigError: votes of another study.
        DataError: the votes cannot be read.
    """
    if votes is None:
        votes = read_database(study)
    all_votes = list({(vote.token, vote.number): vote for vote in votes}.values())
    if odd := {vote.study for vote in all_votes} - {study.id}:
        found, todo = ", ".join(sorted(odd)), "Give the votes of this study, or the study of these votes."
        raise ConfigError("These votes are of another study", found=found, allowed=study.id, todo=todo)
    blind = {vote.token for vote in all_votes if vote.expected is not None and vote.choice != vote.expected}
    counted = [vote for vote in all_votes if vote.token not in blind and vote.expected is None]
    names = list(study.competitors)
    scores, note = bradley_terry(names, counted)
    decided = [vote for vote in counted if vote.choice is not None]
    competitors = [_competitor(name, counted, scores) for name in names]
    return Results(
        study=study.id,
        question=study.question,
        chance=1 / study.way,
        votes=len(counted),
        voters=len({vote.token for vote in counted}),
        left_out=len(blind),
        seconds=median(vote.seconds for vote in counted) if counted else None,
        competitors=tuple(sorted(competitors, key=_standing, reverse=True)),
        pairs=tuple(_pair(a, b, counted) for a, b in combinations(names, 2)),
        first=Rate.from_counts(sum(vote.choice == vote.shown[0] for vote in decided), len(decided)),
        note=note,
    )


def exact_interval(wins: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934).

    Its ends are the proportions at which `wins` or more, or `wins` or fewer, have half of `1 - confidence` as their
    probability; found by bisection on the binomial tail.

    Returns:
        Two numbers in [0, 1]; (0, 1) of nothing.

    Raises:
        ConfigError: not `0 <= wins <= of`, or no confidence in (0, 1).
    """
    if not 0 <= wins <= of or not 0 < confidence < 1:
        found, todo = f"{wins} of {of} at {confidence}", "Give counts and, for instance, 0.95."
        raise ConfigError("There is no interval of this", found=found, todo=todo)
    half, counts = (1 - confidence) / 2, np.arange(1, of + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((of - counts + 1) / counts))])

    def at_most(most: int, p: float) -> float:
        k = np.arange(most + 1)
        return float(np.exp(log_choose[: most + 1] + k * math.log(p) + (of - k) * math.log1p(-p)).sum())

    low = 0.0 if wins == 0 else _bisect(lambda p: 1 - at_most(wins - 1, p) < half)
    high = 1.0 if wins == of else _bisect(lambda p: at_most(wins, p) >= half)
    return low, high


@dataclass(frozen=True)
class Score:
    """A log-strength with its standard errors; see :class:`Competitor`."""

    value: float
    error: float
    error_voters: float | None


def bradley_terry(names: Sequence[str], votes: Sequence[Vote]) -> tuple[dict[str, Score], str | None]:
    """Strengths behind choices: each competitor is chosen with a probability proportional to its strength.

    For two at once this is the model of Bradley and Terry (Biometrika 39, 1952), for more that of Luce (1959), by
    maximum likelihood with the MM algorithm of Hunter (Annals of Statistics 32, 2004). A vote of "cannot tell" counts
    as an equal part of a vote for each of those shown. Standard errors are those of the inverse information under
    `sum of scores = 0`, and the same between the scores' sums over voters (Liang and Zeger, Biometrika 73, 1986).

    Returns:
        The scores; none of them, and why in a sentence, when the votes have no finite answer.

    Raises:
        ConfigError: a vote on competitors that are not among `names`.
    """
    place = {name: number for number, name in enumerate(names)}
    if odd := {name for vote in votes for name in vote.shown} - set(place):
        found, allowed = ", ".join(sorted(odd)), ", ".join(names)
        raise ConfigError("Unknown competitors", found=found, allowed=allowed, todo="Give the votes of this study.")
    present = np.zeros((len(votes), len(names)))
    chosen = np.zeros_like(present)
    for number, vote in enumerate(votes):
        shown = [place[name] for name in vote.shown]
        present[number, shown] = 1
        chosen[number, shown if vote.choice is None else place[vote.choice]] = 1
    chosen /= np.maximum(chosen.sum(1, keepdims=True), 1)
    if note := _undetermined(names, chosen.T @ present > 0):
        return {}, note
    scores = _maximize(present, chosen)
    shares = _shares(present, scores)
    information = np.diag(shares.sum(0)) - shares.T @ shares
    even = 1 / len(names)  # adding it everywhere fills the one direction that choices say nothing about
    inverse = np.linalg.inv(information + even) - even
    errors = np.sqrt(np.diag(inverse))
    tokens, voter = np.unique([vote.token for vote in votes], return_inverse=True)
    across: Sequence[float | None] = [None] * len(names)
    if (count := len(tokens)) > len(names):  # with fewer the estimate is far too small
        sums = np.zeros((count, len(names)))
        np.add.at(sums, voter, chosen - shares)
        across = np.sqrt(np.diag(inverse @ sums.T @ sums @ inverse) * count / (count - 1)).tolist()
    rows = zip(names, scores.tolist(), errors.tolist(), across, strict=True)
    return {name: Score(*score) for name, *score in rows}, None


def _maximize(present: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Log-strengths, 0 on average, of votes (N, K) where shown and where chosen."""
    wins, scores = chosen.sum(0), np.zeros(present.shape[1])
    for _ in range(10_000):
        strengths = np.exp(scores)
        after = np.log(wins) - np.log((present / (present @ strengths)[:, None]).sum(0))
        after -= after.mean()
        if np.abs(after - scores).max() < 1e-10:
            break
        scores = after
    return after


def _shares(present: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Probabilities of being chosen, (N, K)."""
    strengths = present * np.exp(scores)
    return strengths / strengths.sum(1, keepdims=True)


def _undetermined(names: Sequence[str], beats: np.ndarray) -> str | None:
    """Why there is no finite maximum: not everybody beats everybody over others (Ford 1957).

    Args:
        names: of K competitors.
        beats: (K, K), whether the row was chosen, or tied, when the column was there.
    """
    reach = beats | np.eye(len(names), dtype=bool)
    for _ in names:
        reach = reach @ reach
    if reach.all():
        return None
    linked = beats | beats.T | np.eye(len(names), dtype=bool)
    for _ in names:
        linked = linked @ linked
    if not linked.all():
        group = [name for name, there in zip(names, linked[0], strict=True) if there]
        others = [name for name in names if name not in group]
        return f"No scores: no vote compares {_list(group)} with {_list(others)}."
    top = min(range(len(names)), key=lambda n: int(reach[:, n].sum()))  # those that hardly anybody reaches
    above = [name for name, there in zip(names, reach[:, top], strict=True) if there]
    below = [name for name in names if name not in above]
    return (
        f"No scores: in every comparison of {_list(above)} with {_list(below)} the former won, "
        "so the best score would be infinite. More votes may change that; the win rates hold."
    )


def _list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _competitor(name: str, votes: Sequence[Vote], scores: dict[str, Score]) -> Competitor:
    seen = [vote.choice for vote in votes if name in vote.shown]
    rate = Rate.from_counts(seen.count(name), len(seen) - seen.count(None))
    score = scores.get(name)
    figures = (score.value, score.error, score.error_voters) if score else (None, None, None)
    return Competitor(name, rate, seen.count(None), *figures)


def _standing(one: Competitor) -> tuple[float, float]:
    rate = one.wins.wins / one.wins.of if one.wins.of else 0.0
    return (rate if one.score is None else one.score), rate


def _pair(a: str, b: str, votes: Sequence[Vote]) -> tuple[str, str, Rate, int]:
    choices = [vote.choice for vote in votes if a in vote.shown and b in vote.shown]
    wins = choices.count(a)
    return a, b, Rate.from_counts(wins, wins + choices.count(b)), choices.count(None)


def _bisect(below: Callable[[float], bool]) -> float:
    """Where a condition on [0, 1] that holds up to a point ends."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if below(middle) else (low, middle)
    return middle


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def _bar(top: float, one: Competitor, left: float, width: float, height: float) -> str:
    label = html.escape(one.name if len(one.name) < 22 else one.name[:20] + "…")
    middle, share = top + height / 2, one.wins.wins / max(one.wins.of, 1)
    low, high = left + width * one.wins.low, left + width * one.wins.high
    return (
        f'<text x="{left - 10}" y="{middle + 5:.1f}" text-anchor="end">{label}</text>'
        f'<rect x="{left}" y="{top}" width="{width * share:.1f}" height="{height}" fill="#8f86f0" rx="2">'
        f"<title>{html.escape(one.name)}: {one.wins}</title></rect>"
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10" '
        f'stroke="currentColor" fill="none" stroke-width="1.5"/>'
    )
