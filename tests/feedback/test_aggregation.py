"""One label out of many: examples by hand, the papers' formulas spelt out, crowd-kit's numbers on real votes."""

import gzip
import json
import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.feedback.aggregation import dawid_skene, mace, majority

METHODS = [majority, dawid_skene, mace]
votes_drawn = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("uvwx"), st.sampled_from("abc")), min_size=1)


@pytest.fixture
def votes(real_data):
    """(item, annotator, label) of people who compared two models' replies."""
    with gzip.open(real_data / "llmfao" / "annotations.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [(row["pair_id"], row["annotator"], row["label"]) for row in map(json.loads, lines)]


def crowd(items, people, per_item, *, labels=3, seed=0):
    """People who look with probability .3 … .95, and else guess among all labels; the truth is one of two."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=items)
    panel = np.argsort(rng.random((items, people)), 1)[:, :per_item]
    looks = np.linspace(0.3, 0.95, people)
    guess = rng.integers(labels, size=panel.shape)
    said = np.where(rng.random(panel.shape) < looks[panel], truth[:, None], guess)
    cells = [(i, int(panel[i, k]), int(said[i, k])) for i in range(items) for k in range(per_item)]
    return truth, looks, cells


def right(consensus, truth):
    best = consensus.best()
    return float(np.mean([best[item] == true for item, true in enumerate(truth)]))


def by_name(consensus):
    return {each.annotator: each for each in consensus.annotators}


# --- all -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_of_no_labels_there_is_no_consensus_and_a_reason(method):
    found = method([])
    assert (found.items, found.annotators, found.best()) == ((), (), {})
    assert found.reason == "there are no labels"


@pytest.mark.parametrize("method", METHODS)
def test_where_all_agree_that_is_the_consensus(method):
    found = method([(item, who, "yes") for item in range(4) for who in "uvw"])
    assert found.best() == dict.fromkeys(range(4), "yes")
    assert all(each.accuracy == 1 for each in found.annotators)


@pytest.mark.parametrize("method", METHODS)
def test_one_annotator_is_believed(method):
    found = method([(item, "u", "yn"[item % 2]) for item in range(6)])
    assert found.best() == {item: "yn"[item % 2] for item in range(6)}


@settings(max_examples=60, deadline=None)
@given(votes_drawn, st.sampled_from(METHODS))
def test_whatever_was_voted_shares_are_shares_and_nothing_is_lost(votes, method):
    found = method(votes)
    assert np.isfinite(found.shares).all()
    assert found.shares.sum(1) == pytest.approx(1)
    assert set(found.best()) == {item for item, _, _ in votes}
    assert {each.annotator: each.labels for each in found.annotators} == Counter(who for _, who, _ in votes)
    assert all(each.accuracy is None or 0 <= each.accuracy <= 1 + 1e-9 for each in found.annotators)


@settings(max_examples=30, deadline=None)
@given(votes_drawn, st.randoms(), st.sampled_from(METHODS))
def test_the_order_of_votes_does_not_matter(votes, random, method):
    mixed = random.sample(votes, len(votes))
    one, other = method(votes, **limits(method)), method(mixed, **limits(method))
    for item, row in zip(one.items, one.shares, strict=True):
        there = dict(zip(other.labels, other.shares[other.items.index(item)], strict=True))
        assert [there[label] for label in one.labels] == pytest.approx(row, abs=1e-6)


def limits(method):
    return {} if method is majority else {"tolerance": 0, "steps": 10}


def test_weighing_people_beats_the_majority():
    truth, _, cells = crowd(1000, 20, 3)
    assert right(dawid_skene(cells), truth) > right(majority(cells), truth) + 0.05
    assert right(mace(cells), truth) > right(majority(cells), truth) + 0.05


def test_smoothing_helps_where_people_gave_few_labels():
    truth, _, cells = crowd(200, 20, 3)
    assert right(dawid_skene(cells), truth) > right(dawid_skene(cells, smoothing=0), truth) + 0.05


@pytest.mark.slow
def test_a_million_labels_take_some_seconds():
    _, _, cells = crowd(333_334, 20, 3)
    start = time.process_time()
    assert len(majority(cells).items) == 333_334
    assert time.process_time() - start < 6


# --- majority --------------------------------------------------------------------------------------------
def test_the_majority_by_hand():
    """Item p: a a b. Item q: a b, a tie. Of others: u sides with a|b on p (½), b on q (0); v likewise ½ and 0; w 0."""
    found = majority([("p", "u", "a"), ("p", "v", "a"), ("p", "w", "b"), ("q", "u", "a"), ("q", "v", "b")])
    assert found.best() == {"p": "a", "q": None}
    assert found.shares.tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)], [0.5, 0.5]]
    assert {each.annotator: each.accuracy for each in found.annotators} == {"u": 0.25, "v": 0.25, "w": 0}


def test_who_was_never_second_has_no_reliability_by_majority():
    assert majority([("p", "u", "a")]).annotators[0].accuracy is None


# --- Dawid–Skene -------------------------------------------------------------------------------------------
def dawid_skene_spelt_out(votes, steps):
    """Dawid & Skene (1979), equations 2.3 – 2.5, one sum at a time; shares of votes first."""
    items, people = sorted({i for i, _, _ in votes}), {a for _, a, _ in votes}
    labels = sorted({label for _, _, label in votes})
    of = {item: [(a, label) for i, a, label in votes if i == item] for item in items}
    t = {i: {k: sum(label == k for _, label in of[i]) / len(of[i]) for k in labels} for i in items}
    for _ in range(steps):
        p = {k: sum(t[i][k] for i in items) / len(items) for k in labels}
        pi = {}
        for a in people:
            for k in labels:
                mass = sum(t[i][k] for i, by, _ in votes if by == a)
                for said in labels:
                    hits = sum(t[i][k] for i, by, label in votes if by == a and label == said)
                    pi[a, k, said] = hits / mass if mass else 1 / len(labels)
        joint = {i: {k: p[k] * math.prod(pi[a, k, label] for a, label in of[i]) for k in labels} for i in items}
        t = {i: {k: joint[i][k] / sum(joint[i].values()) for k in labels} for i in items}
    return t, sum(math.log(sum(row.values())) for row in joint.values())


def test_dawid_skene_is_the_papers_formulas():
    _, _, cells = crowd(40, 5, 3, seed=2)
    found = dawid_skene(cells, smoothing=0, tolerance=0, steps=6)
    shares, loglik = dawid_skene_spelt_out(cells, 6)
    for item, row in zip(found.items, found.shares, strict=True):
        assert row == pytest.approx([shares[item][label] for label in found.labels], abs=1e-9)
    assert found.loglik == pytest.approx(loglik)


@pytest.mark.real_data
def test_dawid_skene_on_real_votes_is_crowd_kits(votes):
    """crowd-kit 1.4.2, DawidSkene(n_iter=20), its floor under probabilities lowered from 1e-10 to 1e-300.

    The mean share of each label, the sum of squared shares, and the shares of items 0, 2 and 100.
    """
    found = dawid_skene(votes, smoothing=0, tolerance=0, steps=20)
    column = {label: found.shares[:, at] for at, label in enumerate(found.labels)}
    at = [found.items.index(item) for item in (0, 2, 100)]
    expected = {
        "a": (0.3056640655843881, 565.6706121122556, [0.012249256862912661, 0.8526083141143949, 0.06712100886856896]),
        "b": (0.303187120946333, 567.9251719951642, [0.7998481453239548, 0.03525951366346867, 0.5108056627450198]),
        "tie": (0.391148813469279, 734.1583636113597, [0.1879025978131326, 0.1121321722221364, 0.42207332838641115]),
    }
    for label, (mean, squares, some) in expected.items():
        assert column[label].mean() == pytest.approx(mean, abs=1e-9)
        assert (column[label] ** 2).sum() == pytest.approx(squares, abs=1e-6)
        assert column[label][at] == pytest.approx(some, abs=1e-6)


def test_dawid_skene_finds_who_confuses_what():
    """One of five says n whatever is true; the others are right nine times in ten."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    said = np.where(rng.random((400, 5)) < 0.9, truth[:, None], 1 - truth[:, None])
    said[:, 4] = 0
    found = dawid_skene([(i, who, "ny"[said[i, who]]) for i in range(400) for who in range(5)])
    n, y = found.labels.index("n"), found.labels.index("y")
    people = by_name(found)
    assert people[4].confusion[y][n] > 0.97
    assert people[0].confusion[y][y] == pytest.approx(0.9, abs=0.05)
    assert people[4].accuracy == pytest.approx(0.5, abs=0.07)


def test_a_row_of_a_confusion_matrix_nobody_could_fill_is_none():
    found = dawid_skene([("p", "u", "a"), ("p", "v", "a"), ("q", "v", "b")], smoothing=0)
    assert by_name(found)["u"].confusion[found.labels.index("b")] is None


@settings(max_examples=30, deadline=None)
@given(votes_drawn, st.integers(1, 8))
def test_no_step_of_em_lowers_the_likelihood(votes, steps):
    before = dawid_skene(votes, smoothing=0, tolerance=-1, steps=steps).loglik
    assert dawid_skene(votes, smoothing=0, tolerance=-1, steps=steps + 1).loglik >= before - 1e-9


def test_em_that_ran_out_of_steps_says_so():
    _, _, cells = crowd(200, 20, 3)
    found = dawid_skene(cells, steps=2)
    assert not found.settled
    assert "after 2 steps" in found.reason


# --- MACE --------------------------------------------------------------------------------------------------
def mace_likelihood(cells, items, looks, guess):
    """Hovy et al. (2013), section 3: the sum over truths, all equally likely, of what each annotator may have done."""
    total = np.zeros((items, guess.shape[1]))
    for item, who, said in cells:
        for true in range(guess.shape[1]):
            total[item, true] += np.log(looks[who] * (said == true) + (1 - looks[who]) * guess[who, said])
    return float(np.log(np.exp(total).mean(1)).sum())


def test_mace_stands_on_top_of_its_likelihood():
    """No small change of one annotator's parameters, read off the confusion matrix, makes the labels likelier."""
    _, _, cells = crowd(150, 4, 3, labels=2)
    found = mace(cells, uniform=True, smoothing=1e-9, tolerance=1e-10, steps=20_000)
    order = np.argsort(found.labels)
    people = by_name(found)
    looks = np.array([people[who].competence for who in range(4)])
    matrix = np.array([np.array(people[who].confusion)[np.ix_(order, order)] for who in range(4)])
    guess = np.stack([matrix[:, 1, 0], matrix[:, 0, 1]], 1) / (1 - looks)[:, None]
    top = mace_likelihood(cells, 150, looks, guess)
    assert top == pytest.approx(found.loglik, abs=1e-6)
    for who in range(4):
        for change in (-0.01, 0.01):
            moved = looks.copy()
            moved[who] = np.clip(moved[who] + change, 0, 1 - 1e-9)
            assert mace_likelihood(cells, 150, moved, guess) <= top + 1e-6
            other = guess.copy()
            other[who] = np.clip(other[who] + [change, -change], 1e-9, 1)
            assert mace_likelihood(cells, 150, looks, other / other.sum(1, keepdims=True)) <= top + 1e-6


def test_mace_finds_how_often_people_look():
    truth, looks, cells = crowd(4000, 10, 5, labels=2)
    found = mace(cells)
    people = by_name(found)
    assert [people[who].competence for who in range(10)] == pytest.approx(looks, abs=0.06)
    assert right(found, truth) > 0.95


def test_learned_shares_of_labels_help_where_one_is_never_true():
    truth, _, cells = crowd(1000, 20, 3)
    assert right(mace(cells), truth) > right(mace(cells, uniform=True), truth) + 0.05
