"""Krippendorff's α: examples from the literature, laws, and evalica as an oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.feedback.agreement import agreement, as_text, krippendorff
from preferent.types import Comparison, Preference

tables = st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=12)


def units_of(rows):
    """Observers' rows as units, a dot being no label."""
    return [[label for label in column if label != "."] for column in zip(*rows, strict=True)]


def test_two_observers_of_binary_data_agree_as_krippendorff_computes():
    """Krippendorff (2011), section A: ten units, 14 zeros and 6 ones among the 20 labels, four units disagree.

    D_o = 8/20 ordered pairs; D_e = 2·14·6/(20·19) = 168/380; α = 1 − (8/20)/(168/380) = 1 − 152/168 = 0.0952.
    """
    found = krippendorff(units_of(["0100000010", "1110010000"]))
    assert found.alpha == pytest.approx(1 - 152 / 168)
    assert (found.units, found.labels) == (10, 20)


def test_two_observers_of_nominal_data_agree_as_krippendorff_computes():
    """Krippendorff (2011), section B: twelve units, five labels, α = 0.692."""
    assert krippendorff(units_of(["aabbdcccedda", "babbbccceddd"])).alpha == pytest.approx(0.692, abs=5e-4)


def test_four_observers_with_missing_labels_agree_as_krippendorff_computes():
    """Krippendorff (2011), section C: the twelfth unit has one label and is left out; 40 labels remain; α = 0.743."""
    found = krippendorff(units_of(["123321412...", "1233224125.3", ".3332342251.", "12332441251."]))
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert (found.units, found.labels) == (11, 40)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_alpha_is_evalicas(units):
    evalica = pytest.importorskip("evalica")
    pd = pytest.importorskip("pandas")
    found = krippendorff(units, resamples=1).alpha
    if found is not None:
        rows = [[{"a": 0.0, "b": 1.0, "c": 2.0}[u[i]] if i < len(u) else np.nan for u in units] for i in range(4)]
        assert found == pytest.approx(evalica.alpha(pd.DataFrame(rows), solver="naive").alpha, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(tables, st.randoms())
def test_the_order_of_units_and_of_labels_and_their_names_do_not_matter(units, random):
    shuffled = [["xyz"["abc".index(label)] for label in random.sample(unit, len(unit))] for unit in units]
    random.shuffle(shuffled)
    one, other = krippendorff(units, resamples=1).alpha, krippendorff(shuffled, resamples=1).alpha
    assert one == other if one is None else one == pytest.approx(other)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_alpha_is_at_most_one_and_one_only_when_nobody_disagrees(units):
    alpha = krippendorff(units, resamples=1).alpha
    if alpha is not None:
        assert alpha <= 1
        assert (alpha == 1) == all(len(set(unit)) == 1 for unit in units if len(unit) > 1)


def test_the_interval_holds_the_alpha_of_the_people_in_nineteen_of_twenty_studies():
    """Two people label honestly with probability .8, else at random among two labels: α = .8² = .64."""
    held = 0
    for study in range(60):
        rng = np.random.default_rng(study)
        truth = rng.integers(2, size=150)
        labels = np.where(rng.random((2, 150)) < 0.8, truth, rng.integers(2, size=(2, 150)))
        found = krippendorff(labels.T.tolist(), resamples=200, seed=study)
        held += found.low <= 0.64 <= found.high
    assert held >= 52  # 57 expected; fewer than 52 has probability 2 % at 95 %


def test_the_same_seed_gives_the_same_interval():
    units = units_of(["aabbdcccedda", "babbbccceddd"])
    assert krippendorff(units, seed=3) == krippendorff(units, seed=3)


@pytest.mark.parametrize("units", [[], [["a"], ["b"]], [[]]])
def test_alpha_is_undefined_where_nobody_labelled_twice(units):
    found = krippendorff(units)
    assert (found.alpha, found.low, found.high) == (None, None, None)
    assert "two people" in found.reason


def test_alpha_is_undefined_where_all_labels_are_the_same():
    found = krippendorff([["a", "a"], ["a", "a", "a"]])
    assert found.alpha is None
    assert "the same" in str(found)


def test_there_is_no_interval_where_many_resamples_have_one_label_only():
    """Without its one unit of b, a resample has no α: probability .9¹⁰ = .35."""
    found = krippendorff([["a", "a"]] * 9 + [["b", "b"]])
    assert (found.alpha, found.low, found.high) == (1, None, None)
    assert "resamples" in str(found)


def test_agreement_reads_the_choices_of_preferences_and_counts_ties_as_a_label():
    """Three comparisons, two answers each: (first, first), (second, tie), (tie, tie).

    Labels: 2 first, 1 second, 3 tie; D_o = 2/6; D_e = (36 − 4 − 1 − 9)/30 = 22/30; α = 1 − (1/3)/(22/30) = 6/11.
    """
    first, second, tie = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)
    answers = {"p": (first, first), "q": (second, tie), "r": (tie, tie)}
    preferences = [Preference(Comparison(q, ("x", "y")), choice) for q, both in answers.items() for choice in both]
    assert agreement(preferences).alpha == pytest.approx(6 / 11)


def test_agreement_tells_comparisons_apart_by_what_they_say():
    question = ({"role": "user", "content": "how much ?"},)
    options = tuple(({"role": "assistant", "content": text},) for text in ("nine", "six"))
    same = [Preference(Comparison(question, options), (1.0, 0.0)) for _ in range(2)]
    other = [Preference(Comparison(question, options[::-1]), (1.0, 0.0)) for _ in range(2)]
    assert agreement([*same, *other]).units == 2


def test_what_has_no_text_is_refused_with_advice():
    with pytest.raises(UsageError, match="text=…"):
        as_text(3)
