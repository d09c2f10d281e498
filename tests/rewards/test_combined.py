"""Several rewards at once, and the price of a reply that never ended."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preferent.rewards.combined import EndRewarded, SoftOverlong, Weighted
from preferent.testing import check_reward
from preferent.types import Episode, Prompt, Score


def episode(*tokens, stop="end"):
    return Episode(Prompt((3,)), tokens, (True,) * len(tokens), (-1.0,) * len(tokens), stop, 0)


EPISODES = [episode(5, 6), episode(7, stop="length"), episode(8, 9, 4, stop="stop_string")]


def length(episodes):
    return [Score(float(len(e.tokens)), {"tokens": len(e.tokens)}) for e in episodes]


def first(episodes):
    return [Score(float(e.tokens[0])) for e in episodes]


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_the_whole_is_the_weighted_sum_and_each_part_is_named(a, b):
    whole = Weighted({"length": (length, a), "first": (first, b)})
    check_reward(whole, EPISODES)
    for e, score in zip(EPISODES, whole(EPISODES), strict=True):
        assert score.value == pytest.approx(a * len(e.tokens) + b * e.tokens[0])
        assert score.parts == {"length": len(e.tokens), "length/tokens": len(e.tokens), "first": e.tokens[0]}


def test_each_reward_is_asked_once_for_all_episodes():
    calls = []

    def counted(episodes):
        calls.append(len(episodes))
        return first(episodes)

    Weighted({"a": (counted, 1.0), "b": (length, 1.0)})(EPISODES)
    assert calls == [3]


def test_nan_in_one_part_is_nan_in_the_whole():
    def broken(episodes):
        return [Score(math.nan) for _ in episodes]

    assert all(math.isnan(s.value) for s in Weighted({"a": (first, 1.0), "b": (broken, 0.5)})(EPISODES))


def test_only_a_reply_that_was_cut_off_pays_and_its_parts_stay():
    ended = EndRewarded(length, 0.5)
    check_reward(ended, EPISODES)
    assert ended(EPISODES) == [Score(2.0, {"tokens": 2}), Score(0.5, {"tokens": 1}), Score(3.0, {"tokens": 3})]
    cut = [replace(e, stop="length") for e in EPISODES]
    assert [s.value for s in ended(cut)] == [1.5, 0.5, 2.5]


def of_length(n):
    return episode(*[2] * n)


def test_a_reply_that_comes_near_the_longest_pays_for_it_linearly():
    """Longest 10, buffer 4: free up to 6; then -(length - 6)/4: 7: -.25, 9: -.75, 10: -1; floored there."""
    soft = SoftOverlong(length, longest=10, buffer=4)
    check_reward(soft, EPISODES)
    prices = {n: soft([of_length(n)])[0] for n in (1, 6, 7, 9, 10, 13)}
    assert {n: score.parts["overlong"] for n, score in prices.items()} == {
        1: 0,
        6: 0,
        7: -0.25,
        9: -0.75,
        10: -1,
        13: -1,
    }
    assert all(score.value == n + score.parts["overlong"] for n, score in prices.items())
    assert prices[7].parts["tokens"] == 7
    assert SoftOverlong(length, longest=10, buffer=4, weight=2.0)([of_length(9)])[0].value == 9 - 1.5


@pytest.mark.parametrize("buffer", [0, 11])
def test_a_buffer_of_nothing_or_of_more_than_a_reply_is_refused(buffer):
    with pytest.raises(ValueError, match=f"1 to 10 tokens, the longest reply; got {buffer}"):
        SoftOverlong(length, longest=10, buffer=buffer)
