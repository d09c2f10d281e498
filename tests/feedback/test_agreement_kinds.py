"""Ordinal α, κ, counts and aspects: worked examples, laws, and krippendorff and evalica as oracles on real votes."""

import gzip
import json
import time
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.feedback.agreement import (
    alike,
    by_aspect,
    cohen,
    fleiss,
    krippendorff,
    krippendorff_counts,
    shared,
    tabulated,
)
from preferent.feedback.records import Choice, Judgement, Ranks, Ratings, Skipped, Steps

LEVELS = ("b", "tie", "a")
tables = st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=12)


def as_rows(units):
    return [(unit, label, 1) for unit, labels in enumerate(units) for label in labels]


@pytest.fixture
def votes(real_data):
    """(item, annotator, label) of people who compared two models' replies."""
    with gzip.open(real_data / "llmfao" / "annotations.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [(row["pair_id"], row["annotator"], row["label"]) for row in map(json.loads, lines)]


# --- α -----------------------------------------------------------------------------------------------
def test_ordinal_alpha_of_four_observers_is_krippendorffs():
    """Krippendorff (2011), section C with ordinal data: α = 0.815."""
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[int(label) for label in column if label != "."] for column in zip(*rows, strict=True)]
    assert krippendorff(units, levels=range(1, 6)).alpha == pytest.approx(0.815, abs=5e-4)


def test_ordinal_alpha_counts_the_labels_between():
    """Units (1, 1), (1, 2), (3, 3): counts 3, 1, 2, so ranks 1.5, 3.5, 5: δ² are 4 (1–2), 12.25 (1–3), 2.25 (2–3).

    Observed: one unit of two ordered pairs, 2·4 = 8 over 6 labels. Expected: 2·(3·1·4 + 3·2·12.25 + 1·2·2.25) = 180
    over 6·5 = 30. α = 1 − (8/6)/(180/30) = 1 − 8/36 = 7/9.
    """
    assert krippendorff([[1, 1], [1, 2], [3, 3]], levels=[1, 2, 3]).alpha == pytest.approx(7 / 9)


@settings(max_examples=60, deadline=None)
@given(tables, st.booleans())
def test_alpha_is_that_of_the_package_krippendorff(units, ordinal):
    oracle = pytest.importorskip("krippendorff")
    found = krippendorff(units, levels=range(4) if ordinal else None, resamples=1).alpha
    if found is not None:
        counts = np.array([[unit.count(label) for label in range(4)] for unit in units])
        level = "ordinal" if ordinal else "nominal"
        theirs = oracle.alpha(value_counts=counts, value_domain=list(range(4)), level_of_measurement=level)
        assert found == pytest.approx(theirs, abs=1e-9)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["nominal", "ordinal"])
def test_alpha_of_real_votes_is_that_of_two_other_packages(votes, kind):
    oracle, evalica, pd = map(pytest.importorskip, ("krippendorff", "evalica", "pandas"))
    rows = [(item, label, 1) for item, _, label in votes]
    found = krippendorff_counts(rows, levels=LEVELS if kind == "ordinal" else None)
    seen = Counter((item, label) for item, _, label in votes)
    counts = np.array([[seen[item, label] for label in LEVELS] for item in {item for item, _, _ in votes}])
    theirs = oracle.alpha(value_counts=counts, value_domain=[0, 1, 2], level_of_measurement=kind)
    assert found.alpha == pytest.approx(theirs, abs=1e-6)
    wide = pd.DataFrame([(i, a, float(LEVELS.index(label))) for i, a, label in votes], columns=["i", "a", "l"])
    wide = wide.pivot_table(index="a", columns="i", values="l")
    assert found.alpha == pytest.approx(evalica.alpha(wide, distance=kind).alpha, abs=1e-6)
    assert found.low < found.alpha < found.high
    assert found.high - found.low < 0.06


@settings(max_examples=40, deadline=None)
@given(tables, st.booleans())
def test_ordinal_alpha_does_not_mind_which_end_is_up_and_is_one_only_without_disagreement(units, ordinal):
    levels = range(4) if ordinal else None
    one = krippendorff(units, levels=levels, resamples=1).alpha
    other = krippendorff(units, levels=levels and levels[::-1], resamples=1).alpha
    assert one == other if one is None else one == pytest.approx(other)
    if one is not None:
        assert (one == 1) == all(len(set(unit)) == 1 for unit in units if len(unit) > 1)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_counts_and_labels_one_by_one_are_the_same(units):
    counted = [(unit, label, n) for unit, labels in enumerate(units) for label, n in Counter(labels).items()]
    assert krippendorff_counts(counted, seed=1) == krippendorff(units, seed=1)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_a_table_holds_every_unit_that_was_labelled_twice(units):
    counts, times = tabulated(as_rows(units), range(4))
    held = Counter(tuple(sorted(unit)) for unit in units if len(unit) > 1)
    rebuilt = {
        tuple(label for label in range(4) for _ in range(int(row[label]))): n
        for row, n in zip(counts, times, strict=True)
    }
    assert rebuilt == held


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40).flatmap(lambda k: st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=1)))
def test_rows_that_are_alike_are_counted_together_however_many_columns(rows):
    first, times, which = alike(np.array(rows, dtype=np.int64))
    assert Counter(map(tuple, rows)) == {tuple(rows[at]): n for at, n in zip(first, times, strict=True)}
    assert [rows[first[group]] for group in which] == rows


def test_the_interval_of_patterns_is_the_bootstrap_over_units():
    """The same study by drawing units one by one: the two intervals differ by what 2,000 draws leave to chance."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=300)
    labels = np.where(rng.random((300, 3)) < 0.6, truth[:, None], rng.integers(3, size=(300, 3)))
    found = krippendorff(labels.tolist(), resamples=2000)
    drawn = [krippendorff(labels[rng.integers(300, size=300)].tolist(), resamples=0).alpha for _ in range(2000)]
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.008)


def test_a_million_judgements_take_two_seconds():
    """333,334 units of three labels; where the machine is busy, process time says what the code needs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=(333_334, 3))
    rows = [(unit, label, 1) for unit, three in enumerate(labels.tolist()) for label in three]
    start = time.process_time()
    found = krippendorff_counts(rows, levels=range(5))
    assert time.process_time() - start < 2
    assert found.labels == 1_000_002
    assert found.low < 0 < found.high


@pytest.mark.parametrize("levels", [None, [0, 1]])
@pytest.mark.parametrize(("units", "why"), [([], "two people"), ([[0], [1]], "two people"), ([[0, 0]] * 3, "the same")])
def test_where_alpha_is_undefined_it_says_why(units, why, levels):
    found = krippendorff(units, levels=levels)
    assert (found.alpha, found.low, found.high) == (None, None, None)
    assert why in str(found)


def test_a_label_that_is_no_level_is_refused():
    with pytest.raises(UsageError, match=r"among the levels .*got 3"):
        krippendorff([[1, 3]], levels=[1, 2])


# --- κ -----------------------------------------------------------------------------------------------
def test_cohens_kappa_of_a_worked_example():
    """20 yes–yes, 5 yes–no, 10 no–yes, 15 no–no: agreement .7, by chance .5·.6 + .5·.4 = .5, κ = .2/.5 = .4."""
    cells = {("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}
    found = cohen([pair for pair, n in cells.items() for _ in range(n)])
    assert found.kappa == pytest.approx(0.4)
    assert found.units == 50
    assert found.low < 0.4 < found.high


def test_weighted_kappa_counts_the_square_of_the_distance():
    """(1, 1), (1, 3), (3, 3), (2, 2): observed 4/4; shares of the labels ½ ¼ ¼ and ¼ ¼ ½.

    By chance, at distance 1: ½·¼ + ¼·¼ + ¼·½ + ¼·¼ = 6/16; at distance 2, which weighs 4: ½·½ + ¼·¼ = 5/16; so 26/16.
    κ = 1 − 1/(26/16) = 10/26.
    """
    assert cohen([(1, 1), (1, 3), (3, 3), (2, 2)], levels=[1, 2, 3]).kappa == pytest.approx(10 / 26)


@pytest.mark.real_data
def test_cohens_kappa_of_two_real_people_is_that_of_scikit_learn(votes):
    """Annotators 11 and 47 share the most items, 307; scikit-learn 1.9.1, cohen_kappa_score, plain and quadratic."""
    pairs = shared(votes, 11, 47)
    assert len(pairs) == 307
    assert cohen(pairs).kappa == pytest.approx(0.03152652672513001, abs=1e-6)
    assert cohen(pairs, levels=LEVELS).kappa == pytest.approx(0.019026219414330914, abs=1e-6)


@pytest.mark.parametrize(
    ("pairs", "why"), [([], "nothing that both"), ([("a", "a")] * 4, "the same"), ([("a", "b")] * 4, None)]
)
def test_cohens_kappa_is_undefined_only_where_both_always_say_the_same(pairs, why):
    found = cohen(pairs)
    assert found.kappa == (None if why else 0)
    assert why is None or why in str(found)


def test_fleiss_kappa_is_that_of_his_worked_example():
    """Ten subjects, fourteen raters, five categories, as in most textbooks: κ = 0.210."""
    rows = ["00 00 00 00 14", "00 02 06 04 02", "00 00 03 05 06", "00 03 09 02 00", "02 02 08 01 01"]
    rows += ["07 07 00 00 00", "03 02 06 03 00", "02 05 03 02 02", "06 05 02 01 00", "00 02 02 03 07"]
    cells = [(unit, label, int(n)) for unit, row in enumerate(rows) for label, n in enumerate(row.split()) if int(n)]
    assert fleiss(cells).kappa == pytest.approx(0.210, abs=5e-4)


@pytest.mark.real_data
def test_fleiss_kappa_of_real_votes_is_its_formula_spelt_out(votes):
    """Items that exactly five people labelled, as in Fleiss (1971), pair by pair."""
    of = {}
    for item, _, label in votes:
        of.setdefault(item, []).append(label)
    five = [labels for labels in of.values() if len(labels) == 5]
    agreed = np.mean([(sum(a == b for a, b in product(five_, five_)) - 5) / 20 for five_ in five])
    chance = sum((sum(labels.count(level) for labels in five) / (5 * len(five))) ** 2 for level in LEVELS)
    found = fleiss(as_rows(five))
    assert found.kappa == pytest.approx((agreed - chance) / (1 - chance), abs=1e-9)
    assert found.low < found.kappa < found.high


@pytest.mark.parametrize(("units", "why"), [([], "two people"), ([[1]], "two people"), ([[1, 1]] * 3, "the same")])
def test_where_fleiss_kappa_is_undefined_it_says_why(units, why):
    found = fleiss(as_rows(units))
    assert found.kappa is None
    assert why in str(found)


# --- aspects -----------------------------------------------------------------------------------------
def test_each_aspect_has_its_own_agreement():
    """Two people agree on the choice and on honesty, never on tone: with 2 labels of each kind, α = 1 − 1/(2·4/12)."""
    first, second = (1.0, 0.0), (0.0, 1.0)
    judgements = []
    for item, choice in {"p": first, "q": second}.items():
        for who, tone in {"ann": first, "bob": second}.items():
            judgements.append(Judgement(item, who, Choice(choice, aspects={"honest": choice, "tone": tone})))
    found = by_aspect([*judgements, Judgement("p", "eve", Skipped("no idea"))])
    assert set(found) == {"choice", "choice.honest", "choice.tone"}
    assert (found["choice"].alpha, found["choice.honest"].alpha) == (1, 1)
    assert found["choice.tone"].alpha == pytest.approx(1 - 1 / (8 / 12))


def test_ratings_and_steps_are_ordinal_and_ranks_are_compared_by_pairs():
    near = [Judgement("p", who, Ratings((1.0, rating, 5.0))) for who, rating in (("ann", 4.0), ("bob", 5.0))]
    far = [Judgement("p", who, Ratings((1.0, rating, 5.0))) for who, rating in (("ann", 1.0), ("bob", 5.0))]
    assert by_aspect(near)["ratings"].alpha > by_aspect(far)["ratings"].alpha
    ranks = [Judgement("r", who, Ranks(order)) for who, order in (("ann", (0, 1, 2)), ("bob", (0, 2, 1)))]
    assert (by_aspect(ranks)["ranks"].units, by_aspect(ranks)["ranks"].labels) == (3, 6)
    steps = [Judgement("s", who, Steps(marks)) for who, marks in (("ann", (1, 1, -1)), ("bob", (1, 1, -1)))]
    assert by_aspect(steps)["steps"].alpha == 1


def test_both_being_bad_is_not_a_tie():
    bad, tie = Choice((0.5, 0.5), both_bad=True), Choice((0.5, 0.5))
    judgements = [Judgement(item, who, answer) for item in "pq" for who, answer in (("ann", bad), ("bob", tie))]
    assert by_aspect(judgements)["choice"].alpha < 0
