import math
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.evaluation.best_of_n import expected_gold, kl_bound

law = settings(deadline=None)
scored = st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5)), min_size=1, max_size=7)


def enumerated(pairs, n):
    """The mean over all subsets of n of the gold of their best, or of their best ones, by proxy."""
    golds = []
    for subset in combinations(pairs, n):
        best = max(proxy for proxy, _ in subset)
        golds.append(fmean(gold for proxy, gold in subset if proxy == best))
    return fmean(golds)


@law
@given(scored, st.data())
def test_it_is_the_mean_over_all_subsets_ties_included(pairs, data):
    n = data.draw(st.integers(1, len(pairs)))
    proxy, gold = zip(*pairs, strict=True)
    assert expected_gold(proxy, gold, n) == pytest.approx(enumerated(pairs, n), abs=1e-9)


def test_the_best_of_one_is_the_mean_and_of_all_is_the_best():
    proxy, gold = [0.1, 0.3, 0.2], [5.0, 1.0, 3.0]
    assert expected_gold(proxy, gold, 1) == pytest.approx(3)
    assert expected_gold(proxy, gold, 3) == 1


def test_the_best_of_two_of_three_by_hand():
    """By proxy 5, 3, 1: C(0,1), C(1,1), C(2,1) = 0, 1, 2 of C(3,2) = 3 subsets: (3 + 2·1)/3 = 5/3."""
    assert expected_gold([0.1, 0.3, 0.2], [5.0, 1.0, 3.0], 2) == pytest.approx(5 / 3)


@pytest.mark.parametrize("n", [0, 4])
def test_more_than_was_drawn_cannot_be_estimated(n):
    with pytest.raises(ValueError, match="from 3 replies"):
        expected_gold([1, 2, 3], [1, 2, 3], n)


def test_many_replies_are_no_trouble():
    n = 2000
    assert expected_gold(range(n), [1.0] * n, 500) == pytest.approx(1)


def test_the_kl_of_one_is_nothing_and_of_four_is_log_four_less_three_quarters():
    assert kl_bound(1) == 0
    assert kl_bound(4) == pytest.approx(math.log(4) - 0.75)


@law
@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 1000))
def test_no_policy_leaves_itself_further_by_best_of_n(tokens, n, seed):
    """Exactly, for a policy over few tokens which the proxy tells apart: P(best is i) = Fᵢⁿ - Fᵢ₋₁ⁿ."""
    raw = [1 + (seed * (i + 3)) % 7 for i in range(tokens)]
    p = [x / sum(raw) for x in raw]
    below = [sum(p[:i]) for i in range(tokens + 1)]
    best = [below[i + 1] ** n - below[i] ** n for i in range(tokens)]
    kl = sum(q * math.log(q / a) for q, a in zip(best, p, strict=True))
    assert kl <= kl_bound(n) + 1e-9


def test_the_bound_needs_a_reply():
    with pytest.raises(ValueError, match="1 or more"):
        kl_bound(0)
