"""Statistics against published figures, closed forms and simulated voters."""

import math
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from styleforge.errors import ConfigError
from styleforge.survey import Study, Vote, results
from styleforge.survey.ranking import bradley_terry, exact_interval


def vote(shown, choice, token="t", number=0, expected=None, seconds=1.0):
    return Vote("s", token, number, "beach", tuple(shown), expected, choice, seconds)


def voted(*groups):
    """`voted(("ab", "a", 3), ...)`: three votes for a, each of a voter of its own."""
    votes = []
    for shown, choice, count in groups:
        votes += [vote(shown, choice, token=f"{len(votes) + n}") for n in range(count)]
    return votes


def study_of(names, way=2):
    return Study(Path("study"), "s", "Which?", dict.fromkeys(names, ""), 64, 0, way, 30, 0, ())


# ------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("wins", "of", "low", "high"),
    [  # 95 % limits of the tables of Clopper and Pearson as reprinted in textbooks
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (3, 10, 0.0667, 0.6525),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (0, 1, 0.0, 0.9750),
        (5, 20, 0.0866, 0.4910),
        (0, 0, 0.0, 1.0),
    ],
)
def test_published_limits(wins, of, low, high):
    assert exact_interval(wins, of) == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_limits_have_exactly_half_of_the_rest_beyond_them(confidence):
    """By the definition, in rational numbers."""
    for of in (1, 2, 7, 40):
        for wins in range(of + 1):
            low, high = map(Fraction, exact_interval(wins, of, confidence))
            mass = [math.comb(of, k) * p**k * (1 - p) ** (of - k) for p in (low, high) for k in range(of + 1)]
            if wins:
                assert float(sum(mass[wins : of + 1])) == pytest.approx((1 - confidence) / 2, rel=1e-9)
            if wins < of:
                assert float(sum(mass[of + 1 : of + 1 + wins + 1])) == pytest.approx((1 - confidence) / 2, rel=1e-9)


def test_limits_agree_with_scipy():
    beta = pytest.importorskip("scipy.stats").beta
    for wins, of in [(1, 3), (7, 400), (399, 400), (1500, 3000), (1, 100_000), (99_999, 100_000), (47_123, 100_000)]:
        expected = beta.ppf(0.025, wins, of - wins + 1), beta.ppf(0.975, wins + 1, of - wins)
        assert exact_interval(wins, of) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("wins", "of", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 0.0)])
def test_no_interval_of_nonsense(wins, of, confidence):
    with pytest.raises(ConfigError, match="no interval"):
        exact_interval(wins, of, confidence)


# ---------------------------------------------------------------------------------------------- scores


def test_scores_of_the_american_league_1987():
    """Agresti, Categorical Data Analysis, and the vignette of the R package BradleyTerry2, without home advantage."""
    teams = ["Milwaukee", "Detroit", "Toronto", "NewYork", "Boston", "Cleveland", "Baltimore"]
    wins = [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
    rows = [((a, b), a, wins[i][j]) for i, a in enumerate(teams) for j, b in enumerate(teams) if i != j]
    scores, note = bradley_terry(teams, voted(*rows))
    assert note is None
    over = {team: score.value - scores["Baltimore"].value for team, score in scores.items()}
    published = {"Boston": 1.1077, "Cleveland": 0.6839, "Detroit": 1.4364, "Milwaukee": 1.5814, "NewYork": 1.2476}
    published |= {"Toronto": 1.2945, "Baltimore": 0.0}
    assert over == pytest.approx(published, abs=5.1e-5)


def test_two_competitors_have_a_closed_form():
    scores, _ = bradley_terry("ab", voted(("ab", "a", 30), ("ba", "b", 10)))
    assert scores["a"].value == pytest.approx(math.log(3) / 2) == -scores["b"].value
    of_difference = math.sqrt(1 / 30 + 1 / 10)  # of a log-odds
    assert scores["a"].error == pytest.approx(of_difference / 2) == scores["b"].error
    assert scores["a"].error_voters == pytest.approx(of_difference / 2 * math.sqrt(40 / 39))


def test_choices_among_several_are_proportional_to_strength():
    scores, _ = bradley_terry("abc", voted(("abc", "a", 60), ("bca", "b", 30), ("cab", "c", 10)))
    value = {name: score.value for name, score in scores.items()}
    assert value["a"] - value["b"] == pytest.approx(math.log(2))
    assert value["b"] - value["c"] == pytest.approx(math.log(3))
    assert sum(value.values()) == pytest.approx(0, abs=1e-12)


def test_a_tie_is_half_a_vote_for_each():
    tied = bradley_terry("ab", voted(("ab", "a", 3), ("ab", "b", 1), ("ba", None, 4)))[0]
    halves = bradley_terry("ab", voted(("ab", "a", 5), ("ab", "b", 3)))[0]
    assert tied["a"].value == pytest.approx(halves["a"].value)
    assert bradley_terry("ab", voted(("ab", None, 3)))[0]["a"].value == 0


def test_errors_are_those_of_the_curvature():
    """Against second differences of the likelihood, under sum = 0."""
    votes = voted(("ab", "a", 9), ("ba", "b", 4), ("bc", "b", 7), ("bc", "c", 5), ("ca", "a", 2), ("abc", "c", 3))
    scores, _ = bradley_terry("abc", votes)

    def loss(theta):
        strength = dict(zip("abc", np.exp(theta), strict=True))
        return -sum(math.log(strength[v.choice] / sum(strength[n] for n in v.shown)) for v in votes)

    at = np.array([scores[name].value for name in "abc"])
    basis = np.linalg.qr(np.array([[1, 0], [-1, 1], [0, -1.0]]))[0]  # of the plane sum = 0
    h = 1e-3
    curvature = np.array(
        [
            [
                sum(
                    s * t * loss(at + basis @ (h * (s * np.eye(2)[i] + t * np.eye(2)[j])))
                    for s in (1, -1)
                    for t in (1, -1)
                )
                / (4 * h * h)
                for j in range(2)
            ]
            for i in range(2)
        ]
    )
    errors = np.sqrt(np.diag(basis @ np.linalg.inv(curvature) @ basis.T))
    assert [scores[name].error for name in "abc"] == pytest.approx(errors.tolist(), rel=1e-4)
    assert all(loss(at) < loss(at + basis @ step) for step in np.eye(2) * 0.01)


def test_voters_who_repeat_themselves_tell_less():
    once = voted(("ab", "a", 30), ("ab", "b", 20))
    nine = [vote(v.shown, v.choice, v.token, n) for v in once for n in range(9)]
    alone, repeated = (bradley_terry("ab", votes)[0]["a"] for votes in (once, nine))
    assert repeated.error == pytest.approx(alone.error / 3)
    assert repeated.error_voters == pytest.approx(alone.error_voters)
    assert bradley_terry("ab", [vote("ab", c, number=n) for n, c in enumerate("ab")])[0]["a"].error_voters is None


def test_strengths_behind_simulated_votes_are_found():
    truth = dict(zip("abcd", (1.0, 0.3, -0.4, -0.9), strict=True))
    chance = np.random.default_rng(0)
    votes = []
    for number in range(3000):
        shown = chance.choice(list("abcd"), chance.integers(2, 5), replace=False)
        weights = np.exp([truth[name] for name in shown])
        votes.append(vote(shown, chance.choice(shown, p=weights / weights.sum()), token=str(number)))
    scores, _ = bradley_terry("abcd", votes)
    for name, score in scores.items():
        assert abs(score.value - truth[name]) < 4 * score.error < 0.3
        assert score.error_voters == pytest.approx(score.error, rel=0.15)


def test_a_weak_link_is_followed_to_the_end():
    """The slowest case of the algorithm: much evidence in two groups, little between them."""
    scores, _ = bradley_terry("abc", voted(("ab", "a", 300), ("ab", "b", 300), ("bc", "b", 3), ("bc", "c", 1)))
    value = {name: score.value for name, score in scores.items()}
    assert value["b"] - value["c"] == pytest.approx(math.log(3), abs=1e-6)
    assert value["a"] == pytest.approx(value["b"], abs=1e-6)


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        ([], "no vote compares a with b, c and d"),
        ([("ab", "a", 5), ("cd", "c", 5), ("cd", "d", 5)], "no vote compares a and b with c and d"),
        ([("ab", "a", 5), ("bc", "b", 2), ("cd", "c", 2)], "comparison of a with b, c and d the former won"),
        ([("abcd", "a", 1), ("abcd", "b", 1), ("cd", None, 2)], "comparison of a and b with c and d the former won"),
    ],
)
def test_votes_without_a_finite_answer_get_a_sentence(votes, words):
    scores, note = bradley_terry("abcd", voted(*votes))
    assert scores == {} and words in note
    assert len(results(study_of("abcd", 4), voted(*votes)).competitors) == 4


def test_a_circle_is_enough():
    scores, note = bradley_terry("abc", voted(("ab", "a", 1), ("bc", "b", 1), ("ca", "c", 1)))
    assert note is None and [score.value for score in scores.values()] == pytest.approx([0, 0, 0], abs=1e-9)


# --------------------------------------------------------------------------------------------- results


def test_ties_are_counted_and_left_out_of_the_rates():
    found = results(study_of("ab"), voted(("ab", "a", 6), ("ba", "b", 2), ("ab", None, 3)))
    a, b = found.competitors
    assert (found.votes, found.voters, found.left_out, found.note) == (11, 11, 0, None)
    assert (a.name, a.wins.wins, a.wins.of, a.ties) == ("a", 6, 8, 3)
    assert (a.wins.low, a.wins.high) == exact_interval(6, 8)
    assert (b.name, b.wins.wins, b.wins.of, b.ties) == ("b", 2, 8, 3)
    ((first, second, rate, ties),) = found.pairs
    assert (first, second, rate.wins, rate.of, ties) == ("a", "b", 6, 8, 3)
    assert (found.first.wins, found.first.of) == (8, 8), "all chose the first place"


def test_in_a_choice_of_several_pairs_are_of_those_where_one_of_both_was_chosen():
    found = results(study_of("abc", 3), voted(("abc", "a", 4), ("abc", "c", 2), ("cba", "b", 1)))
    rates = {(a, b): (rate.wins, rate.of) for a, b, rate, _ in found.pairs}
    assert rates == {("a", "b"): (4, 5), ("a", "c"): (4, 6), ("b", "c"): (1, 3)}
    assert found.chance == 1 / 3


def test_voters_who_fail_a_check_are_left_out_with_all_votes():
    votes = [vote("ab", "a", "good", n) for n in range(3)] + [vote("ab", "b", "good", 3, expected="b")]
    votes += [vote("ab", "b", "blind", n) for n in range(5)] + [vote("ab", "b", "blind", 5, expected="a")]
    votes += [vote("ab", "b", "tired", 0), vote("ab", None, "tired", 1, expected="a")]
    found = results(study_of("ab"), votes)
    assert (found.votes, found.voters, found.left_out) == (3, 1, 2)
    assert found.competitors[0].wins.of == 3


def test_votes_of_another_study_are_refused():
    with pytest.raises(ConfigError, match="another study: found s; allowed: other"):
        results(Study(Path(), "other", "?", {"a": "", "b": ""}, 64, 0, 2, 30, 0, ()), voted(("ab", "a", 1)))
    with pytest.raises(ConfigError, match="Unknown competitors.*found c"):
        results(study_of("ab"), voted(("ac", "a", 1)))


def test_results_as_text_json_and_drawing():
    name = '<b>&"very long name of a method'
    found = results(study_of([name, "b"]), voted(((name, "b"), name, 9), ((name, "b"), "b", 3), ((name, "b"), None, 1)))
    text = found.text()
    assert "13 votes of 13 voters" in text and "75% [43%, 95%] of 12" in text and "+0.50" in text
    assert found.json()["competitors"][0]["wins"] == {"wins": 9, "of": 12, "low": found.competitors[0].wins.low} | {
        "high": found.competitors[0].wins.high
    }
    drawing = ET.fromstring(found.svg())
    bars = drawing.findall("{*}rect")
    assert [float(bar.get("width")) for bar in bars] == [
        pytest.approx(430 * 0.75, abs=0.1),
        pytest.approx(430 * 0.25, abs=0.1),
    ]
    assert drawing.findall("{*}text")[-2].text.startswith('<b>&"very')
    assert "no votes" in results(study_of("ab"), []).text()
