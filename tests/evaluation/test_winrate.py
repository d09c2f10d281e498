import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.evaluation.winrate import outcomes, win_rate

law = settings(deadline=None)
results = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)
soft_results = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def test_without_ties_it_is_wilsons_interval():
    """8 of 10, z = 1.959964, z² = 3.841459: centre (.8 + .192073)/1.384146 = .716740,

    half √(.716740² - .64/1.384146) = √(.513716 - .462379) = .226577: [.490163, .943317].
    """
    got = win_rate([1] * 8 + [0] * 2)
    assert (got.value, got.n) == (0.8, 10)
    assert (got.low, got.high) == pytest.approx((0.490162, 0.943318), abs=2e-6)


def test_winning_all_does_not_prove_that_all_will_be_won():
    """N/(n + z²) = 10/13.841459 = .722467."""
    got = win_rate([1.0] * 10)
    assert got.low == pytest.approx(0.722467, abs=1e-6)
    assert got.high == 1


@law
@given(soft_results)
def test_the_interval_holds_the_rate_and_lies_between_none_and_all(xs):
    got = win_rate(xs)
    assert 0 <= got.low <= got.value + 1e-12
    assert got.value - 1e-12 <= got.high <= 1
    assert got.low < got.high


@law
@given(soft_results)
def test_seen_from_the_other_side_everything_is_mirrored(xs):
    here, there = win_rate(xs), win_rate([1 - x for x in xs])
    assert (1 - there.value, 1 - there.high, 1 - there.low) == pytest.approx((here.value, here.low, here.high))


@law
@given(results, st.randoms())
def test_the_order_of_the_prompts_does_not_matter(xs, random):
    assert win_rate(random.sample(xs, len(xs))) == win_rate(xs)


@law
@given(st.integers(1, 30))
def test_ties_say_more_than_as_many_wins_and_losses(n):
    tied, split = win_rate([0.5] * 2 * n), win_rate([0.0, 1.0] * n)
    assert tied.value == split.value == 0.5
    assert split.low < tied.low < 0.5 < tied.high < split.high


@law
@given(results)
def test_a_higher_level_is_wider(xs):
    narrow, wide = win_rate(xs, level=0.8), win_rate(xs, level=0.99)
    assert wide.low <= narrow.low + 1e-12
    assert wide.high >= narrow.high - 1e-12


@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize(("win", "tie"), [(0.5, 0.0), (0.85, 0.0), (0.8, 0.1), (0.4, 0.5), (0.1, 0.8), (0.02, 0.97)])
def test_the_interval_holds_the_true_rate_as_often_as_it_says(n, win, tie):
    """By enumeration of all numbers of wins and ties; discreteness allows for a little less than 95 %."""
    lose, covered = 1 - win - tie, 0.0
    for wins in range(n + 1):
        for ties in range(n + 1 - wins):
            losses = n - wins - ties
            ways = math.comb(n, wins) * math.comb(n - wins, ties)
            got = win_rate([1.0] * wins + [0.5] * ties + [0.0] * losses)
            if got.low <= win + tie / 2 <= got.high:
                covered += ways * win**wins * tie**ties * lose**losses
    assert covered > 0.92


@pytest.mark.parametrize("xs", [[], [1.5], [-0.1, 1], [math.nan]])
def test_what_is_no_share_of_a_win_is_refused(xs):
    with pytest.raises(ValueError, match="a win rate needs"):
        win_rate(xs)


def test_the_higher_score_wins_and_equal_scores_tie():
    assert outcomes([1.0, 2.0, 0.0], [0.0, 2.0, 3.0]) == [1, 0.5, 0]


def test_a_score_that_is_not_a_number_does_not_silently_lose():
    with pytest.raises(ValueError, match="not a number"):
        outcomes([math.nan], [1.0])


def test_scores_of_different_prompts_are_not_compared():
    with pytest.raises(ValueError, match="shorter"):
        outcomes([1.0, 2.0], [1.0])


def test_a_win_rate_reads_as_a_line_of_a_table():
    assert str(win_rate([1] * 8 + [0] * 2)) == "80.0% [49.0%, 94.3%]"
