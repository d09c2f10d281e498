import pytest

from preferent.evaluation.text import described, distinct, ended, length
from preferent.types import Episode, Prompt


def episode(*tokens, stop="end", given=0):
    """The first ``given`` tokens were a tool's."""
    learn = tuple(i >= given for i in range(len(tokens)))
    return Episode(Prompt((9,)), tokens, learn, (0.0,) * len(tokens), stop, 0)


def test_distinct_n_is_the_share_of_different_n_grams_over_all_replies():
    """1 2 1 2 and 1 2: six unigrams, two of them different; pairs 12 21 12 and 12: two of four."""
    replies = [[1, 2, 1, 2], [1, 2]]
    assert distinct(replies, 1) == 2 / 6
    assert distinct(replies, 2) == 2 / 4


def test_n_grams_do_not_reach_over_the_end_of_a_reply():
    assert distinct([["a"], ["b"]], 2) == 0


def test_saying_the_same_everywhere_is_less_distinct_than_saying_it_once():
    assert distinct([["a", "b"]] * 4, 1) == distinct([["a", "b"]], 1) / 4


def test_the_length_counts_what_the_policy_chose():
    assert length([episode(1, 2, 3), episode(4, 5, 6, 7, given=3)]) == 2


def test_a_stop_string_is_an_end_and_the_length_limit_is_not():
    assert ended([episode(1), episode(1, stop="stop_string"), episode(1, stop="length"), episode(1)]) == 0.75


def test_replies_are_described_by_all_of_these():
    got = described([episode(1, 2), episode(1, 3, stop="length")])
    assert got == {"length": 2, "ended": 0.5, "distinct_1": 0.75, "distinct_2": 1}


def test_nothing_cannot_be_described():
    with pytest.raises(ValueError, match="no episodes"):
        described([])
