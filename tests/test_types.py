"""The laws of cutting: what belongs together stays together, and parts add up to the whole."""

from dataclasses import dataclass, fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.algorithms.dpo import Referred
from preferent.algorithms.ppo import Critiqued
from preferent.losses.means import over_budget, over_rows, over_sequences, over_tokens
from preferent.types import Mean, PerReply
from toys import SIZES, pairs_of, replies_of

law = settings(deadline=None, max_examples=50)
SEEDS = st.integers(0, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Numbered(PerReply):
    """A user's own batch: a number a reply, and one a token."""

    number: torch.Tensor  # [r]
    each: torch.Tensor  # [r, t]


def numbered(x):
    rows = torch.arange(len(x.tokens))
    return Numbered(x, rows, rows[:, None] * 100 + torch.arange(x.tokens.shape[1]))


def critiqued(x, seed):
    key = torch.Generator().manual_seed(seed)
    return Critiqued(x, *(torch.randn(x.tokens.shape, generator=key) for _ in range(5)))


def groups(x):
    """What a batch says, as lists: (prompt, its replies' (tokens, present, learn))."""
    return [
        (
            x.prompts[p, : x.prompt_length[p]].tolist(),
            [(x.tokens[r].tolist(), x.present[r].tolist(), x.learn[r].tolist()) for r in x.rows([p]).tolist()],
        )
        for p in range(len(x))
    ]


def compared(x):
    """Every pair of a batch as what it compares, in any order."""
    said = zip(x.choice.tolist(), x.margin.tolist(), x.weight.tolist(), strict=True)
    tokens, prompt_of = x.replies.tokens, x.replies.prompt_of
    return sorted(
        (x.replies.prompts[prompt_of[i]].tolist(), tokens[i].tolist(), tokens[j].tolist(), label)
        for i, j, label in zip(x.better.tolist(), x.worse.tolist(), said, strict=True)
    )


def some_prompts(data, n):
    return data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=n))


def split(data, n):
    """All prompts, in any order, in one or more parts."""
    order = data.draw(st.permutations(range(n)))
    borders = sorted({0, n, *data.draw(st.lists(st.integers(1, n), max_size=3))})
    return [order[a:b] for a, b in pairwise(borders)]


@law
@given(SIZES, SEEDS, st.data())
def test_a_cut_keeps_every_reply_with_its_prompt(sizes, seed, data):
    x = replies_of(sizes, seed)
    chosen = some_prompts(data, len(x))
    cut = x[chosen]
    assert groups(cut) == [groups(x)[p] for p in chosen]
    assert cut.tokens_each() == [x.tokens_each()[p] for p in chosen]
    assert cut.prompt_of.tolist() == sorted(cut.prompt_of.tolist())


@law
@given(SIZES, st.data())
def test_a_slice_cuts_like_the_list_that_it_stands_for(sizes, data):
    x = replies_of(sizes)
    cut = data.draw(st.slices(len(x)))
    assert groups(x[cut]) == groups(x[list(range(len(x))[cut])])


@law
@given(SIZES, st.data())
def test_a_cut_of_a_cut_is_a_cut(sizes, data):
    x = numbered(replies_of(sizes))
    first = some_prompts(data, len(x))
    second = some_prompts(data, len(first))
    twice, once = x[first][second], x[[first[i] for i in second]]
    assert twice.number.equal(once.number)
    assert groups(twice.replies) == groups(once.replies)


@law
@given(SIZES, SEEDS, st.data())
def test_what_is_said_about_a_reply_stays_with_it(sizes, seed, data):
    x = numbered(replies_of(sizes, seed))
    cut = x[some_prompts(data, len(x))]
    assert cut.each.equal(x.each[cut.number])
    assert cut.replies.tokens.equal(x.replies.tokens[cut.number])
    many = critiqued(x.replies, seed)
    mine = many[cut.replies.prompt_of.unique().tolist()]
    assert len(mine) == len(cut)
    for field in fields(Critiqued):
        if field.name != "replies":
            assert len(getattr(mine, field.name)) == len(mine.replies.tokens)


@law
@given(SIZES, SEEDS, st.data())
def test_a_cut_keeps_every_pair_with_its_replies(sizes, seed, data):
    x = pairs_of(replies_of(sizes, seed), seed)
    parts = [x[part] for part in split(data, len(x))]
    assert sorted(pair for part in parts for pair in compared(part)) == compared(x)
    for part in parts:
        of = part.replies.prompt_of
        assert of[part.better].equal(of[part.worse])


@law
@given(SIZES, SEEDS, st.data())
def test_what_the_reference_said_stays_with_its_reply(sizes, seed, data):
    pairs = pairs_of(replies_of(sizes, seed), seed)
    x = Referred(pairs, torch.arange(pairs.replies.tokens.numel()).view(pairs.replies.tokens.shape).float())
    chosen = some_prompts(data, len(x))
    cut = x[chosen]
    rows = cut.reference[:, 0].long() // pairs.replies.tokens.shape[1]
    assert cut.pairs.replies.tokens.equal(pairs.replies.tokens[rows])
    assert torch.tensor(chosen)[cut.pairs.replies.prompt_of].equal(pairs.replies.prompt_of[rows])
    assert len(cut) == len(chosen)
    assert cut.tokens_each() == [x.tokens_each()[p] for p in chosen]


@law
@given(SIZES, SEEDS, st.data())
def test_parts_add_up_to_the_whole_under_every_average(sizes, seed, data):
    x = critiqued(replies_of(sizes, seed), seed)
    parts = [x[part] for part in split(data, len(x))]
    assert sum(len(part) for part in parts) == len(x)
    assert sum(sum(part.tokens_each()) for part in parts) == sum(x.tokens_each())
    for average in (over_tokens, over_sequences, over_budget(length=7)):
        add_up([average(p.advantage, p.replies.learn) for p in parts], average(x.advantage, x.replies.learn))
    pairs = pairs_of(x.replies, seed)
    cuts = [pairs[part] for part in split(data, len(x))]
    add_up([over_rows(p.margin, p.weight) for p in cuts], over_rows(pairs.margin, pairs.weight))


def add_up(parts, whole):
    total = sum(parts[1:], parts[0])
    torch.testing.assert_close(total.total, whole.total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total.count, whole.count)


def test_a_cut_by_hand():
    """Prompts a, b, c with 2, 1, 2 replies; [c, a] leaves rows 3, 4, 0, 1, numbered 0 … 3; the pair of b is gone."""
    x = replies_of([(1, [1, 2]), (2, [1]), (3, [2, 1])])
    cut = numbered(x)[[2, 0]]
    assert cut.number.tolist() == [3, 4, 0, 1]
    assert cut.replies.prompt_of.tolist() == [0, 0, 1, 1]
    assert cut.replies.prompt_length.tolist() == [3, 1]
    pairs = pairs_of(x)[[2, 0]]
    assert sorted(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_no_prompts_is_an_empty_batch():
    x = pairs_of(replies_of([(1, [1, 2]), (2, [1])]))[[]]
    assert (len(x), len(x.replies.tokens), len(x.better), x.tokens_each()) == (0, 0, 0, [])


@pytest.mark.parametrize("prompts", [[0, 0], [1, 0, -1]])
def test_a_prompt_that_is_named_twice_is_refused(prompts):
    with pytest.raises(ValueError, match="different prompts"):
        replies_of([(1, [1]), (2, [1, 2])])[prompts]


def test_prompts_may_be_counted_from_the_end():
    x = replies_of([(1, [1]), (2, [1, 2])])
    assert groups(x[[-1]]) == groups(x[[1]])
    with pytest.raises(IndexError):
        x[[2]]


def test_cutting_changes_nothing_in_what_is_cut():
    x = pairs_of(replies_of([(1, [1, 2]), (2, [1, 3])]))
    before = [getattr(x, f.name).clone() for f in fields(x) if f.name != "replies"]
    _ = x[[1]], x[:1]
    assert all(a.equal(getattr(x, f.name)) for a, f in zip(before, fields(x)[1:], strict=True))


def test_a_mean_divides_totals_by_counts_and_an_empty_one_is_zero():
    """(3 + 5) / (2 + 2) = 2."""
    assert (Mean(torch.tensor(3.0), torch.tensor(2)) + Mean(torch.tensor(5.0), torch.tensor(2))).value == 2
    assert Mean(torch.tensor(0.0), torch.tensor(0)).value == 0
