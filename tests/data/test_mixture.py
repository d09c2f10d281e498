"""Mixtures: each place depends on (seed, place) alone, proportions hold, and every row has its turn."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.data.load import Loaded
from preferent.data.mixture import BLOCK, Mixture, mixed, weighed
from preferent.data.reading import Report

weights = st.lists(st.floats(0.001, 50), min_size=1, max_size=5)


def parts_of(*sizes: int) -> list[Loaded[Any]]:
    return [
        Loaded(tuple((part, i) for i in range(size)), (Report(str(part), size, size),))
        for part, size in enumerate(sizes)
    ]


@settings(max_examples=30, deadline=None)
@given(places=st.lists(st.integers(0, 5 * BLOCK), min_size=1, max_size=20), seed=st.integers(0, 5), shares=weights)
def test_a_place_depends_on_the_seed_and_itself_alone(places: list[int], seed: int, shares: list[float]) -> None:
    sizes = [3 + i for i in range(len(shares))]
    used, fresh = (Mixture(parts_of(*sizes), shares, seed) for _ in range(2))
    wandered = [used[place] for place in places]
    assert wandered == [Mixture(parts_of(*sizes), shares, seed)[place] for place in places]
    assert [fresh[place] for place in sorted(places)] == [used[place] for place in sorted(places)]


@settings(max_examples=20, deadline=None)
@given(shares=weights, seed=st.integers(0, 5))
def test_each_block_holds_every_part_in_proportion(shares: list[float], seed: int) -> None:
    mixture = Mixture(parts_of(*[7] * len(shares)), shares, seed)
    for block in range(2):
        counts = Counter(mixture.drawn(block * BLOCK + i)[0] for i in range(BLOCK))
        for part, share in enumerate(shares):
            assert abs(counts[part] - BLOCK * share / sum(shares)) < 1 + 1e-6


def test_a_part_too_rare_for_a_place_in_each_block_still_gets_its_share() -> None:
    mixture = Mixture(parts_of(5, 5), [1, 1 / 4000], 0)
    counts = sum(mixture.counts(block)[1] for block in range(2000))
    assert 450 <= counts <= 575  # 2000 · 1024 / 4001 = 512


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_row_of_a_part_comes_once_before_any_comes_again(size: int, seed: int) -> None:
    mixture = Mixture(parts_of(size, 3), [0.6, 0.4], seed)
    drawn = [row for part, row in (mixture[i] for i in range(3 * BLOCK)) if part == 0]
    for first in range(0, len(drawn) - size, size):
        assert sorted(drawn[first : first + size]) == list(range(size))


def test_a_part_has_another_order_in_each_of_its_epochs() -> None:
    drawn = [row for _, row in (Mixture(parts_of(20), [1.0], 0)[i] for i in range(60))]
    assert len({tuple(drawn[i : i + 20]) for i in (0, 20, 40)}) == 3


def test_batches_of_a_mixture_go_on_beyond_its_length_and_resume() -> None:
    mixture = Mixture(parts_of(4, 4), [0.9, 0.1], 1)
    straight = list(mixture.batches(3, steps=20))
    assert [row for batch in straight for row in batch] == [mixture[i] for i in range(60)]
    first, second = mixture.batches(3, steps=20), mixture.batches(3, steps=20)
    begun = [batch for batch, _ in zip(first, range(7), strict=False)]
    second.load_state_dict({"position": 7})
    assert begun + list(second) == straight
    assert len(mixture.batches(2, epochs=2)) == 8


def test_words_without_weights_are_one_behind_the_other() -> None:
    found = {"a": parts_of(2)[0], "b": parts_of(3)[0]}
    whole = mixed(["a", "b"], found.__getitem__)
    assert isinstance(whole, Loaded)
    assert len(whole) == 5
    assert [report.kept for report in whole.report] == [2, 3]


def test_words_with_weights_are_a_mixture() -> None:
    found = {"a.jsonl": parts_of(2)[0], "x=y/b.jsonl": parts_of(3)[0]}
    mixture = mixed(["a.jsonl=0.7", "x=y/b.jsonl=3e-1"], found.__getitem__, seed=3)
    assert isinstance(mixture, Mixture)
    assert (list(mixture.weights), mixture.seed, len(mixture)) == ([0.7, 0.3], 3, 5)
    assert [report.kept for report in mixture.report] == [2, 3]


def test_words_that_make_no_mixture_are_told() -> None:
    assert weighed("a=b.jsonl") == ("a=b.jsonl", None)
    with pytest.raises(UsageError, match=r"b: no weight, but others have one"):
        mixed(["a=1", "b"], lambda _: parts_of(1)[0])
    with pytest.raises(UsageError, match="a number above 0"):
        mixed(["a=0"], lambda _: parts_of(1)[0])
    with pytest.raises(UsageError, match="no data"):
        mixed([], lambda _: parts_of(1)[0])
    with pytest.raises(UsageError, match="data sets with rows"):
        Mixture([[]], [1.0])
    with pytest.raises(UsageError, match="has 2 weights"):
        Mixture([[1]], [1.0, 2.0])
    with pytest.raises(IndexError, match="begins at place 0"):
        Mixture([[1]], [1.0])[-1]


class Anew(list[Any]):
    """Rows as they are read from disk: another object each time."""

    def __getitem__(self, i: Any) -> Any:
        return [*super().__getitem__(i)]


def test_the_batches_with_news_hold_every_row_that_a_run_sees_whether_in_memory_or_on_disk() -> None:
    """With weights of 30 to 1 the small part comes again long before the large one was seen once."""
    large, small = [[[name, i] for i in range(n)] for name, n in (("large", 40), ("small", 3))]
    held, read = (
        Mixture(parts, [1.0, 30.0], 0).batches(4, steps=300) for parts in ([large, small], [Anew(large), Anew(small)])
    )
    assert read.with_news() == held.with_news()
    known = {tuple(row) for step in read.with_news() for row in read.at(step)}
    assert {tuple(row) for batch in read for row in batch} == known
