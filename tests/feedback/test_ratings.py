"""Strengths: closed forms, laws, a slow climb of the same likelihood, and evalica's numbers on real votes."""

import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.feedback.ratings import Result, davidson, elo, groups, islands, tally, thurstone

SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5}
MODELS = [davidson, thurstone]
names = st.sampled_from("uvwxy")
played = st.lists(st.builds(Result, names, names, st.sampled_from([0.0, 0.5, 1.0]), st.just(1.0)), max_size=25)


@pytest.fixture
def results(real_data):
    """Models that people compared, and what they said."""
    with gzip.open(real_data / "llmfao" / "pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        models = {row["pair_id"]: (row["model_a"], row["model_b"]) for row in map(json.loads, lines)}
    with gzip.open(real_data / "llmfao" / "annotations.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [Result(*models[row["pair_id"]], SCORE[row["label"]]) for row in map(json.loads, lines)]


def strengths(standing):
    return {rating.name: rating.strength for rating in standing.ratings}


def centred_logs(scores):
    logs = np.log(scores)
    return (logs - logs.mean()).to_dict()


# --- against others ----------------------------------------------------------------------------------
@pytest.mark.real_data
def test_strengths_with_ties_on_real_votes_are_evalicas(results):
    """Newman (2023), section 5, maximises Davidson's likelihood with v = ν / 2 by another algorithm."""
    evalica = pytest.importorskip("evalica")
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    columns = [r.first for r in results], [r.second for r in results], [winner[r.score] for r in results]
    theirs = evalica.newman(*columns, tolerance=1e-12, limit=10_000)
    found = davidson(results, ridge=0)
    assert strengths(found) == pytest.approx(centred_logs(theirs.scores), abs=1e-6)
    assert found.tie == pytest.approx(2 * theirs.v, abs=1e-6)
    assert found.reason == ""
    assert len(found.ratings) == 59


@pytest.mark.real_data
def test_strengths_without_ties_on_real_votes_are_evalicas(results):
    evalica = pytest.importorskip("evalica")
    decided = [r for r in results if r.score != 0.5]
    winners = [evalica.Winner.X if r.score else evalica.Winner.Y for r in decided]
    columns = [r.first for r in decided], [r.second for r in decided], winners
    theirs = evalica.bradley_terry(*columns, tolerance=1e-12, limit=10_000)
    found = davidson(decided, ridge=0)
    assert strengths(found) == pytest.approx(centred_logs(theirs.scores), abs=1e-6)
    assert found.tie == 0


@pytest.mark.real_data
def test_elo_on_real_votes_is_evalicas(results):
    evalica = pytest.importorskip("evalica")
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    columns = [r.first for r in results], [r.second for r in results], [winner[r.score] for r in results]
    for k in (4.0, 32.0):
        assert elo(results, k=k) == pytest.approx(evalica.elo(*columns, k=k).scores.to_dict(), abs=1e-6)


def davidson_likelihood(x, results, names, ridge):
    """Straight from the paper's probabilities; x holds log-strengths, then log ν."""
    total = -ridge / 2 * float((x[:-1] ** 2).sum())
    for first, second, score, times in results:
        a, b = math.exp(x[names.index(first)]), math.exp(x[names.index(second)])
        tie = math.exp(x[-1]) * math.sqrt(a * b)
        total += times * math.log({1.0: a, 0.0: b, 0.5: tie}[score] / (a + b + tie))
    return total


def thurstone_likelihood(x, results, names, ridge):
    """The same of Glenn and David's; the last of x is τ."""
    total = -ridge / 2 * float((x[:-1] ** 2).sum())
    below = lambda u: math.erfc(-u / math.sqrt(2)) / 2  # noqa: E731
    for first, second, score, times in results:
        d = x[names.index(first)] - x[names.index(second)]
        a, b = below(d - x[-1]), below(-d - x[-1])
        total += times * math.log({1.0: a, 0.0: b, 0.5: 1 - a - b}[score])
    return total


def drawn(seed):
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(list("uvwx"), size=2, replace=False) for _ in range(60)]
    return [Result(str(a), str(b), float(rng.choice([0.0, 0.5, 1.0], p=[0.3, 0.3, 0.4]))) for a, b in pairs]


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize(
    ("model", "likelihood", "tie"),
    [(davidson, davidson_likelihood, math.log), (thurstone, thurstone_likelihood, float)],
)
def test_a_fit_is_the_top_of_its_likelihood_and_its_intervals_the_bend_there(model, likelihood, tie, ridge):
    """Numerical slopes of the likelihood written from the paper are 0; its numerical bend gives the same covariance."""
    results, names = drawn(1), list("uvwx")
    found = model(results, ridge=ridge)
    at = np.array([strengths(found)[name] for name in names] + [tie(found.tie)])
    value = lambda move: likelihood(at + move, results, names, ridge)  # noqa: E731
    e = np.eye(5) * 1e-4
    assert [(value(each) - value(-each)) / 2e-4 for each in e] == pytest.approx([0] * 5, abs=1e-5)
    bend = np.array([[value(i + j) - value(i - j) - value(j - i) + value(-i - j) for j in e] for i in e]) / -4e-8
    bend[:4, :4] += 0.25
    centre = np.eye(4) - 0.25
    expected = centre @ np.linalg.inv(bend)[:4, :4] @ centre
    place = [[rating.name for rating in found.ratings].index(name) for name in names]
    assert found.covariance[np.ix_(place, place)] == pytest.approx(expected, abs=1e-4)
    for rating in found.ratings:
        deviation = math.sqrt(expected[names.index(rating.name), names.index(rating.name)])
        assert (rating.high - rating.low) / 2 == pytest.approx(1.959964 * deviation, rel=1e-3)


def test_davidson_of_two_has_a_closed_form():
    """Six wins, two losses, four ties: π_a / π_b = 6 / 2, so the gap is log 3, and ν = 4 / √(6·2)."""
    results = [Result("a", "b", 1, 6), Result("b", "a", 1, 2), Result("a", "b", 0.5, 4)]
    found = davidson(results, ridge=0)
    assert found.difference("a", "b").strength == pytest.approx(math.log(3))
    assert found.tie == pytest.approx(4 / math.sqrt(12))
    assert found.loglik == pytest.approx(6 * math.log(1 / 2) + 2 * math.log(1 / 6) + 4 * math.log(1 / 3))


def test_thurstone_of_two_has_a_closed_form():
    """Φ(d − τ) = .5 and Φ(−d − τ) = .1587, so d = τ and 2d = 1."""
    share = math.erfc(1 / math.sqrt(2)) / 2
    results = [Result("a", "b", 1, 50), Result("a", "b", 0, 100 * share), Result("a", "b", 0.5, 100 * (0.5 - share))]
    found = thurstone(results, ridge=0)
    assert found.difference("a", "b").strength == pytest.approx(0.5, abs=1e-6)
    assert found.tie == pytest.approx(0.5, abs=1e-6)


def test_elo_moves_by_what_was_not_expected():
    """Equal at first: 16 up and down. Then 32 apart: expected 1/(1 + 10^(−32/400)) = .5459; a tie costs a 1.469."""
    found = elo([Result("a", "b", 1), Result("b", "a", 0.5)], k=32)
    assert found == pytest.approx({"a": 1016 - 1.469, "b": 984 + 1.469}, abs=1e-3)


# --- laws --------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(played, st.sampled_from(MODELS))
def test_whatever_was_played_ratings_are_finite_or_there_is_a_reason(results, model):
    for ridge in (0.0, 0.01):
        found = model(results, ridge=ridge)
        assert found.ratings or found.reason
        assert all(np.isfinite(rating[1:]).all() for rating in found.ratings)
        assert sum(rating.strength for rating in found.ratings) == pytest.approx(0, abs=1e-6)
        assert all(rating.low <= rating.strength <= rating.high for rating in found.ratings)


@settings(max_examples=40, deadline=None)
@given(played, st.randoms(), st.sampled_from(MODELS))
def test_neither_order_nor_side_matters(results, random, model):
    turned = [Result(r.second, r.first, 1 - r.score) if random.random() < 0.5 else r for r in results]
    random.shuffle(turned)
    assert strengths(model(turned, ridge=0.1)) == pytest.approx(strengths(model(results, ridge=0.1)), abs=1e-5)


def test_a_tie_is_not_half_a_win():
    """Of real strengths 0 and 2 and ν = 1, ties as halves find a smaller gap; Davidson finds 2."""
    win, loss, tie = (math.exp(x) for x in (1, -1, 0))
    both = [Result("a", "b", 1, 100 * win), Result("a", "b", 0, 100 * loss), Result("a", "b", 0.5, 100 * tie)]
    halves = [Result("a", "b", 1, 100 * (win + tie / 2)), Result("a", "b", 0, 100 * (loss + tie / 2))]
    assert davidson(both, ridge=0).difference("a", "b").strength == pytest.approx(2)
    assert davidson(halves, ridge=0).difference("a", "b").strength < 1.5


@pytest.mark.slow
def test_intervals_hold_the_truth_in_nineteen_of_twenty_studies():
    """Five models, 400 comparisons each study, 100 studies, five intervals each: 475 of 500 expected."""
    truth, held = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), 0
    for study in range(100):
        rng = np.random.default_rng(study)
        results = []
        for _ in range(400):
            a, b = rng.choice(5, size=2, replace=False)
            d = truth[a] - truth[b]
            p = np.exp([d / 2, -d / 2, 0])
            results.append(Result(int(a), int(b), float(rng.choice([1, 0, 0.5], p=p / p.sum()))))
        held += sum(rating.low <= truth[rating.name] <= rating.high for rating in davidson(results).ratings)
    assert 455 <= held <= 492


# --- what cannot be compared ---------------------------------------------------------------------------
def test_who_never_lost_is_named_and_only_a_prior_bounds_them():
    results = [Result("ace", "b", 1), Result("ace", "c", 1), Result("b", "c", 1), Result("c", "b", 1)]
    free, held = davidson(results, ridge=0), davidson(results)
    assert free.ratings == ()
    assert "never lost: {b, c}; {ace}" in free.reason
    assert held.ratings[0].name == "ace"
    assert held.ratings[0].low < 0 < held.ratings[0].strength < 10
    assert "prior" in held.reason


def test_groups_that_never_met_are_named_and_their_gap_is_wide():
    results = [Result("a", "b", 1), Result("b", "a", 1), Result("c", "d", 1), Result("d", "c", 1), Result("d", "c", 1)]
    found = davidson(results)
    assert "never compared with one another: {a, b}; {c, d}" in found.reason
    assert found.difference("d", "a").high > 15
    assert found.difference("d", "c").high < 5
    assert davidson(results, ridge=0).ratings == ()
    assert islands(tally(results)) == (("a", "b"), ("c", "d"))


def test_ties_and_cycles_hold_a_group_together():
    assert groups(tally([Result("a", "b", 1), Result("b", "c", 1), Result("c", "a", 1)])) == (("a", "b", "c"),)
    assert groups(tally([Result("a", "b", 0.5), Result("b", "c", 1)])) == (("a", "b"), ("c",))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([], "nothing was compared"),
        ([Result("a", "a", 1)], "nothing was compared"),
        ([Result("a", "b", 0.5)] * 3, "every comparison was a tie"),
        ([Result("a", "b", 1), Result("a", "b", 0.5)], "no maximum"),
    ],
)
def test_where_strengths_are_undefined_there_is_a_reason(model, results, why):
    found = model(results, ridge=0)
    assert (found.ratings, found.tie, found.loglik) == ((), None, None)
    assert why in found.reason


@pytest.mark.parametrize("score", [-0.1, 1.5, math.nan])
def test_a_score_that_is_none_is_refused(score):
    with pytest.raises(UsageError, match="score in 0 … 1"):
        davidson([Result("a", "b", score)])


def test_a_name_that_never_played_is_refused():
    with pytest.raises(UsageError, match="got 'z'"):
        davidson([Result("a", "b", 1)]).difference("a", "z")
