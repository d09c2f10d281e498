"""Two batches in one update: cut anywhere, each term over its own count."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.algorithms.beside import Beside, Together
from preferent.algorithms.sft import Likelihood
from preferent.losses.means import over_sequences
from preferent.runtime.learner import LocalLearner
from preferent.testing import Bigram, check_learner
from toys import SIZES, pairs_of, replies_of

law = settings(deadline=None, max_examples=30)
BOTH = Together(Likelihood(), Likelihood(over_sequences), 0.3, "other")


def learner(budget=10**6):
    model = Bigram().double()
    return LocalLearner(model, torch.optim.SGD(model.parameters(), lr=1.0), token_budget=budget)


@law
@given(SIZES, SIZES, st.integers(0, 99))
def test_it_can_be_cut_between_any_two_prompts(here, there, seed):
    both = Beside(replies_of(here, seed), pairs_of(replies_of(there, seed + 1)))
    assert len(both) == len(here) + len(there) == len(both.tokens_each())
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed)).tolist()
    for prompts in (order, order[::2], slice(0, len(here)), []):
        part = both[prompts]
        chosen = list(range(len(both)))[prompts] if isinstance(prompts, slice) else prompts
        mine = [i for i in chosen if i < len(here)]
        assert part.first.tokens.equal(both.first[mine].tokens)
        assert part.second.choice.equal(both.second[[i - len(here) for i in chosen if i >= len(here)]].choice)
        assert sorted(part.tokens_each()) == sorted(both.tokens_each()[i] for i in chosen)


@law
@given(SIZES, SIZES, st.integers(1, 40))
def test_the_update_does_not_depend_on_where_it_is_cut(here, there, budget):
    batch = Beside(replies_of(here), replies_of(there, 1))
    whole, cut = learner(), learner(budget)
    told, said = whole.update(batch, BOTH), cut.update(batch, BOTH)
    for name, value in told.items():
        assert said[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_the_sum_of_both_each_with_its_own_denominator():
    here, there = replies_of([(2, (3, 5))]), replies_of([(1, (2,)), (3, (1, 4, 2))], 1)
    both, one, other = learner(), learner(), learner()
    told = both.update(Beside(here, there), BOTH)
    first, second = one.update(here, Likelihood()), other.update(there, Likelihood(over_sequences))
    start = Bigram().double().next.weight
    moved = [each.model.next.weight.detach() - start.detach() for each in (both, one, other)]
    scale = [min(1.0, 1 / each["grad_norm"]) for each in (told, first, second)]  # what clipping left of them
    torch.testing.assert_close(moved[0] / scale[0], moved[1] / scale[1] + 0.3 * moved[2] / scale[2])
    assert told["loss"] == pytest.approx(first["loss"] + 0.3 * second["loss"])
    assert (told["nll"], told["other_nll"]) == (pytest.approx(first["nll"]), pytest.approx(second["nll"]))


def test_the_learner_keeps_its_law_under_both():
    batch = Beside(replies_of([(2, (3, 5)), (1, (2, 2, 1))], 3), replies_of([(4, (1, 2)), (1, (3,))], 4))
    check_learner(lambda budget: learner(budget), batch, BOTH)
