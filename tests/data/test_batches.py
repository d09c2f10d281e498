"""Collating keeps what was said; every row comes once an epoch; a run that stopped goes on in the same order."""

import math
from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.algorithms.reward_model import BradleyTerry
from preferent.config import UsageError
from preferent.data.batches import Batches, in_order, keyed
from preferent.data.collate import demonstrations, episodes, logprobs, replies
from preferent.data.comparisons import pairs
from preferent.stages.options import Margins
from preferent.testing import Bigram
from preferent.types import Demonstration, Episode, Prompt, Reply
from toys import preference, ranking, reply

law = settings(deadline=None, max_examples=60)
tokens = st.lists(st.integers(0, 50), min_size=1, max_size=5).map(tuple)


def prompt(*tokens):
    return Prompt(tokens)


def row_of(x, context, option):
    """The only row of a batch in which this reply to this prompt stands."""
    (row,) = [
        i
        for i, p in enumerate(x.prompt_of.tolist())
        if x.prompts[p, : x.prompt_length[p]].tolist() == list(context.tokens)
        and x.tokens[i][x.present[i]].tolist() == list(option.tokens)
    ]
    return row


def edges(x):
    """{(better row, worse row): (choice, margin, weight)}; no edge stands twice in what is asked here."""
    rows = zip(x.better.tolist(), x.worse.tolist(), strict=True)
    said = zip(x.choice.tolist(), x.margin.tolist(), x.weight.tolist(), strict=True)
    return dict(zip(rows, said, strict=True))


# --- tensors --------------------------------------------------------------------------------------


@law
@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_what_is_collated_can_be_read_off_again(groups):
    x = replies([(Prompt(p), [Reply(r, tuple(t % 2 == 0 for t in r)) for r in rows]) for p, rows in groups])
    assert [x.prompts[i, : x.prompt_length[i]].tolist() for i in range(len(x))] == [list(p) for p, _ in groups]
    flat = [(i, r) for i, (_, rows) in enumerate(groups) for r in rows]
    assert x.prompt_of.tolist() == [i for i, _ in flat]
    for row, (_, said) in enumerate(flat):
        assert x.tokens[row][x.present[row]].tolist() == list(said)
        assert x.learn[row].tolist()[: len(said)] == [t % 2 == 0 for t in said]
        assert not x.learn[row][~x.present[row]].any()
        assert x.present[row].tolist() == sorted(x.present[row].tolist(), reverse=True)  # right-padded


def test_demonstrations_are_prompts_with_one_reply():
    x = demonstrations([Demonstration(prompt(3, 4), reply(5)), Demonstration(prompt(6), reply(7, 8))])
    assert (x.prompts.tolist(), x.tokens.tolist()) == ([[3, 4], [6, 0]], [[5, 0], [7, 8]])
    assert x.prompt_of.tolist() == [0, 1]


def test_episodes_bring_their_log_probabilities_along():
    def episode(*tokens):
        return Episode(prompt(3), tokens, (True,) * len(tokens), tuple(-float(t) for t in tokens), "end", 0)

    groups = [[episode(1, 2), episode(4)], [episode(5), episode(6, 7)]]
    assert episodes(groups).tokens.tolist() == [[1, 2], [4, 0], [5, 0], [6, 7]]
    assert logprobs(groups).tolist() == [[-1, -2], [-4, 0], [-5, 0], [-6, -7]]


# --- pairs ----------------------------------------------------------------------------------------

A, B, C, D = reply(10, 1), reply(11), reply(12, 13, 1), reply(14)
Q, R = prompt(3, 4), prompt(5)


def test_the_better_one_is_the_likelier_one_however_the_options_stand():
    x = pairs([preference(Q, A, B, choice=(0.2, 0.8))])
    assert edges(x) == {(1, 0): (pytest.approx(0.8), 0.0, 1.0)}
    assert x.replies.tokens.tolist() == [[10, 1], [11, 0]]


def test_a_tie_is_a_choice_of_one_half():
    assert edges(pairs([preference(Q, A, B, choice=(0.5, 0.5))])) == {(0, 1): (0.5, 0.0, 1.0)}


def test_strengths_become_margins_where_margins_are_given():
    said = [preference(Q, A, B, strength=2.0), preference(R, A, B, strength=0.0), preference(R, C, D)]
    assert pairs(said).margin.tolist() == [0, 0, 0]
    assert pairs(said, margins={0: 0, 1: 1, 2: 2.5}).margin.tolist() == [2.5, 0, 0]


def test_a_margin_in_the_data_is_the_margin():
    asked = Prompt(Q.tokens, {"margin": 1.5})
    assert pairs([preference(asked, A, B)]).margin.tolist() == [1.5]


def test_a_strength_without_a_margin_is_an_error_and_not_a_margin_of_nothing():
    with pytest.raises(UsageError, match=r"strength 7 has no margin: --margins gives them for 0, 1"):
        pairs([preference(Q, A, B, strength=7.0)], margins=Margins([0.0, 1.0]))


def test_the_same_prompt_in_several_rows_stands_once_and_so_does_a_reply():
    x = pairs([preference(Q, A, B), preference(R, A, C), preference(Q, C, A), preference(Q, A, B, choice=(0.3, 0.7))])
    assert len(x) == 2
    assert len(x.replies.tokens) == 5  # A, B, C to Q; A, C to R
    assert sum(x.tokens_each()) == 2 + 2 + 1 + 3 + 1 + 2 + 3
    a, b, c = (row_of(x.replies, Q, option) for option in (A, B, C))
    assert list(zip(x.better.tolist(), x.worse.tolist(), strict=True)) == [
        (a, b),
        (row_of(x.replies, R, A), row_of(x.replies, R, C)),
        (c, a),
        (b, a),
    ]


class Counting(Bigram):
    """Notes how many replies it is asked about."""

    rows = 0

    def scores(self, x):
        self.rows += len(x.tokens)
        return super().scores(x)


def test_a_reply_that_stands_in_several_pairs_is_forwarded_once():
    scorer = Counting(16)
    BradleyTerry()(scorer, pairs([ranking(Q, A, B, C, D, ranks=(0, 1, 2, 3)), preference(Q, D, A)]))
    assert scorer.rows == 4


@law
@given(st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_a_ranking_is_all_its_pairs_and_weighs_one(ranks):
    options = [reply(10 + i) for i in range(len(ranks))]
    x = pairs([ranking(Q, *options, ranks=ranks)])
    k = len(ranks)
    assert len(x.better) == k * (k - 1) / 2
    assert x.weight.sum().item() == pytest.approx(1)
    assert {frozenset(edge) for edge in edges(x)} == {frozenset((i, j)) for i in range(k) for j in range(i)}
    for (better, worse), (choice, margin, _) in edges(x).items():
        assert (choice, margin) == (1.0 if ranks[better] < ranks[worse] else 0.5, 0)
        assert ranks[better] <= ranks[worse]


def test_the_loss_of_a_ranking_is_instructgpts_mean_over_its_pairs():
    """Ouyang et al. 2022, eq. 1: -1/C(3,2)·Σ logσ(r_w - r_l), and rankings of any K weigh alike.

    Scores 2, 1, 0 in rank order: (softplus(-1) + softplus(-2) + softplus(-1)) / 3, and beside it a pair 1, 0:
    softplus(-1); the mean of the two.
    """
    scores = {10: 2.0, 11: 1.0, 12: 0.0}
    a, b, c = (reply(token) for token in scores)

    class Scored:
        def scores(self, x):
            return torch.tensor([[scores[int(t)]] for t in x.tokens[:, 0]])

    x = pairs([ranking(Q, c, a, b, ranks=(2, 0, 1)), preference(R, b, c)])
    _, mean = BradleyTerry()(Scored(), x).terms["preference"]
    loss = [math.log1p(math.exp(-d)) for d in (1, 2, 1)]
    assert mean.value == pytest.approx((sum(loss) / 3 + loss[0]) / 2)


def test_a_choice_among_several_says_nothing_of_two_that_have_no_chance():
    """(1, 0, 0): the first is better than both others, each pair weighing one half; the others are no tie."""
    x = pairs([preference(Q, A, B, C, choice=(1.0, 0.0, 0.0))])
    assert edges(x) == {(0, 1): (1.0, 0.0, 0.5), (0, 2): (1.0, 0.0, 0.5)}


def test_a_soft_choice_among_several_becomes_odds_between_two():
    """(.6, .3, .1): .6/.9, .6/.7, .3/.4."""
    x = pairs([preference(Q, A, B, C, choice=(0.6, 0.3, 0.1))])
    assert [choice for choice, *_ in edges(x).values()] == pytest.approx([0.6 / 0.9, 0.6 / 0.7, 0.3 / 0.4])


# --- batches --------------------------------------------------------------------------------------


def batches_of(n, size, **rest):
    return Batches(range(n), size, list, **rest)


@law
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(0, 9))
def test_every_row_comes_once_an_epoch_whatever_the_size_of_a_batch(n, size, epochs, seed):
    steps = math.ceil(epochs * n / size)
    flat = [row for batch in batches_of(n, size, steps=steps, seed=seed) for row in batch]
    assert len(flat) == steps * size
    for epoch in range(epochs):
        assert sorted(flat[epoch * n : (epoch + 1) * n]) == list(range(n))


@law
@given(st.integers(2, 25), st.integers(1, 9), st.integers(0, 9), st.data())
def test_from_any_position_a_resumed_run_sees_what_the_other_would_have_seen(n, size, seed, data):
    straight = list(batches_of(n, size, epochs=3, seed=seed))
    stop = data.draw(st.integers(0, len(straight)))
    first = batches_of(n, size, epochs=3, seed=seed)
    seen = list(islice(first, stop))
    second = batches_of(n, size, epochs=3, seed=seed)
    second.load_state_dict(first.state_dict())
    assert seen + list(second) == straight
    assert seen + list(first) == straight  # the same object goes on, too
    assert len(first) == len(second) == len(straight)


def test_epochs_differ_in_order_and_so_do_seeds():
    first, second = (list(batches_of(20, 20, epochs=2))[i] for i in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)
    assert next(iter(batches_of(20, 20, seed=1))) != first
    assert list(batches_of(20, 7, shuffle=False, steps=3)) == [
        list(range(7)),
        list(range(7, 14)),
        [*range(14, 20), 0],
    ]


@pytest.mark.parametrize(
    ("n", "size", "epochs", "steps"), [(10, 5, 1, 2), (10, 4, 1, 2), (11, 4, 1, 3), (3, 8, 1, 1), (3, 8, 8, 3)]
)
def test_the_number_of_steps_is_the_nearest_to_the_epochs_and_at_least_one(n, size, epochs, steps):
    assert len(batches_of(n, size, epochs=epochs)) == steps
    assert len(list(batches_of(n, size, epochs=epochs))) == steps
    assert len(batches_of(n, size, epochs=epochs, steps=5)) == 5


def test_the_order_does_not_hang_on_the_global_generator():
    orders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        orders.append(list(batches_of(20, 3, epochs=2)))
    assert orders[0] == orders[1]


def test_for_evaluation_every_row_comes_once_in_order_and_the_last_batch_is_smaller():
    assert list(in_order(range(5), 2, list)) == [[0, 1], [2, 3], [4]]


def test_keys_are_the_same_on_every_machine_and_tell_their_parts_apart():
    assert keyed(0, 1) == 8566881351708354045
    keys = Counter(keyed(a, b) for a in range(30) for b in range(30))
    assert max(keys.values()) == 1
    assert all(0 <= key < 2**63 for key in keys)
