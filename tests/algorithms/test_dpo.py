"""Direct preference optimisation starts at its reference, moves towards what was chosen, and ends where it should."""

import math
from dataclasses import replace

import pytest
import torch

from preferent.algorithms import objectives
from preferent.algorithms.dpo import DPO, Referred, dpo, referred
from preferent.algorithms.objectives import hinge, ipo
from preferent.data.batches import Batches
from preferent.data.comparisons import pairs
from preferent.runtime.learner import LocalLearner, local_learner
from preferent.testing import END, Bigram
from preferent.types import Prompt
from toys import preference, referred_of, replies_of, reply

PROMPTS = [Prompt((5,)), Prompt((6, 3))]
# Replies with a 2 are preferred to those with a 4.
ROWS = [
    preference(PROMPTS[0], reply(2, 3, END), reply(4, 3, END)),
    preference(PROMPTS[1], reply(3, 2, END), reply(3, 4, 4, END)),
    preference(PROMPTS[1], reply(7, 4, END), reply(2, END), choice=(0.0, 1.0)),
]


def descent(policy, *, rate):
    """Without momentum, which would carry a policy past the place where its gradient ends."""
    return LocalLearner(policy, torch.optim.SGD(policy.parameters(), lr=rate))


def trained(objective, steps=60, rate=0.05):
    policy = Bigram()
    reference = policy.frozen()
    learner = local_learner(policy, lr=rate)
    told = list(dpo(learner, reference, Batches(ROWS, 3, pairs, steps=steps), objective=objective))
    return policy, reference, told


@pytest.mark.parametrize("objective", [DPO, ipo(), hinge()], ids=["dpo", "ipo", "hinge"])
def test_the_margin_rises_and_the_chosen_become_likelier_than_the_rejected(objective):
    _, reference, told = trained(objective)
    first, last = told[0], told[-1]
    assert first["margin"] == pytest.approx(0, abs=1e-6)
    assert last["margin"] > 2
    assert last["loss"] < first["loss"]
    assert last["accuracy"] == 1
    assert last["chosen"] - last["rejected"] == pytest.approx(last["margin"], abs=1e-5)
    assert reference.next.weight.equal(Bigram().next.weight)


@pytest.mark.parametrize(
    ("objective", "loss"), [(DPO, math.log(2)), (ipo(), 25.0), (hinge(), 1.0)], ids=["dpo", "ipo", "hinge"]
)
def test_at_the_reference_the_loss_is_a_number_known_beforehand(objective, loss):
    """log 2; (0 - 1/(2·.1))² = 25; max(0, 1 - 0) = 1."""
    _, _, told = trained(objective, steps=1)
    assert told[0]["preference"] == pytest.approx(loss, rel=1e-5)
    assert told[0]["accuracy"] == 0.5  # it prefers neither


def test_ipo_ends_at_its_margin_and_the_hinge_stops_at_its():
    """IPO: h = 1/(2β) = 1 for β = ½ on one pair. Hinge: no gradient once βh ≥ 1, so h = 2, hardly more."""
    one = pairs(ROWS[:1])
    for objective, low, high in ((ipo(beta=0.5), 0.99, 1.01), (hinge(beta=0.5), 2.0, 2.1)):
        policy = Bigram()
        learner = descent(policy, rate=0.05)
        told = list(dpo(learner, policy.frozen(), [one] * 100, objective=objective))
        assert low <= told[-1]["margin"] <= high


def test_a_tie_pulls_the_pair_back_together():
    policy = Bigram()
    reference = policy.frozen()
    sharp = objectives.dpo(beta=1.0)
    learner = descent(policy, rate=0.2)
    list(dpo(learner, reference, [pairs(ROWS[:1])] * 20, objective=sharp))
    tie = [preference(PROMPTS[0], reply(2, 3, END), reply(4, 3, END), choice=(0.5, 0.5))]
    told = list(dpo(learner, reference, [pairs(tie)] * 100, objective=sharp))
    assert told[0]["margin"] > 1
    assert abs(told[-1]["margin"]) < 0.05


def test_the_likelihood_term_is_that_of_the_better_replies():
    policy = Bigram()
    x = referred_of(replies_of([(2, (3, 5)), (1, (4, 2))]))
    ones = torch.ones_like(x.pairs.choice)
    x = replace(x, pairs=replace(x.pairs, choice=ones, weight=ones))
    loss = replace(DPO, likelihood=0.5)(policy, x)
    weight, mean = loss.terms["likelihood"]
    learn = x.pairs.replies.learn[x.pairs.better]
    expected = -policy.read(x.pairs.replies).logprobs[x.pairs.better].sum() / learn.sum()
    assert (weight, mean.value) == (0.5, pytest.approx(expected.item()))
    assert mean.count == replace(DPO, likelihood=0.5).counts(x)["likelihood"]
    _, _, told = trained(replace(DPO, likelihood=1.0))
    _, _, plain = trained(DPO)
    assert told[-1]["chosen"] > plain[-1]["chosen"]  # the likelihood holds the chosen up


def test_the_likelihood_of_soft_labels_and_weights_by_hand():
    """Replies of 3 and 1 tokens under a label of .75, and of 2 and 4 a tie that weighs .1, in either order."""
    first = preference(PROMPTS[0], reply(2, 3, END), reply(END), choice=(0.75, 0.25))
    ties = [(reply(4, END), reply(2, 2, 3, END)), (reply(2, 2, 3, END), reply(4, END))]
    policy, likely = Bigram(seed=1), replace(DPO, likelihood=1.0)
    for tie in ties:
        x = pairs([first, preference(PROMPTS[1], *tie, choice=(0.5, 0.5))])
        x = replace(x, weight=torch.tensor([1.0, 0.1]))
        nll, length = -policy.read(x.replies).logprobs.sum(-1), x.replies.learn.sum(-1)
        batch = Referred(x, torch.zeros(x.replies.tokens.shape))
        mean = likely(policy, batch).terms["likelihood"][1]
        total = 0.75 * nll[0] + 0.25 * nll[1] + 0.1 * (nll[2] + nll[3]) / 2
        torch.testing.assert_close(mean.total, total)
        assert mean.count.item() == pytest.approx(0.75 * 3 + 0.25 * 1 + 0.1 * 3)
        assert length.tolist()[:2] == [3, 1]
        torch.testing.assert_close(likely.counts(batch)["likelihood"], mean.count)


@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_the_reference_is_asked_in_the_order_of_the_replies_whatever_the_budget(budget):
    policy, reference = Bigram(seed=1), Bigram(seed=2).frozen()
    x = pairs(ROWS)
    said = referred(local_learner(policy, token_budget=budget), reference, x)
    torch.testing.assert_close(said.reference, reference.read(x.replies).logprobs)
    assert said.pairs is x
