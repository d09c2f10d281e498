"""As much reward as can be had at a cost: the cost model's zero, the price of cost, and the constrained optimum."""

import math

import pytest
import torch

from bandit import BETA, QUESTION, REWARD
from preferent.algorithms.reward_model import reward_model
from preferent.algorithms.safe_rlhf import MOST, Constrained, CostModel, Multiplier, by_harm
from preferent.data.collate import replies
from preferent.runtime.learner import local_learner
from preferent.testing import Bigram
from preferent.types import Episode, Prompt, Score
from tabular import best, constrained
from toys import preference, reply

COST = torch.tensor([-0.5, 0.6, 1.5, -1.0, -0.8, 1.0, 0.2, -0.3])
LIMIT = 0.0


def by(table):
    return lambda episodes: [Score(table[e.tokens[0]].item()) for e in episodes]


def says(token, version=0):
    return Episode(QUESTION, (token,), (True,), (0.0,), "end", version)


def test_expected_gradients_reach_the_constrained_optimum():
    """Total variation ≤ 0.02 over the averaged last iterates, from a policy whose best reward costs too much."""
    reference = torch.arange(8.0).div(-4).softmax(-1)
    goal, price = constrained(reference, REWARD, COST, BETA, LIMIT)
    assert (best(reference, REWARD, BETA) * COST).sum() > LIMIT + 0.2
    multiplier = Multiplier(LIMIT, rate=0.1, initial=0.3)
    rewarded = Constrained(by(REWARD), by(COST), multiplier).watched()
    logits = reference.log().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    total, steps = torch.zeros(8), 400
    for step in range(steps):
        policy = logits.softmax(-1)
        gain = torch.tensor([score.value for score in rewarded([says(token) for token in range(8)])])
        loss = BETA * (policy * (policy / reference).log()).sum() - (policy * gain).sum()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        multiplier.update((policy.detach() * COST).sum().item())
        total += policy.detach() * (step >= steps // 2)
    average = total / (steps // 2)
    assert (average - goal).abs().sum() / 2 <= 0.02
    assert multiplier.value == pytest.approx(price, rel=0.1)


def test_a_mark_by_hand():
    """(r - λc)/(1 + λ) with r 1, c 1.5 and λ 3: (1 - 4.5)/4."""
    (score,) = Constrained(by(REWARD), by(COST), Multiplier(LIMIT, initial=3.0)).watched()([says(2)])
    assert score.value == pytest.approx(-3.5 / 4)
    assert score.parts == pytest.approx({"plain": 1.0, "cost": 1.5, "cost_price": 3.0})


def test_the_price_rises_above_the_limit_and_falls_below_it():
    """log λ ← log λ + rate·λ·(c - limit): from 2 at rate .1, a cost .5 above the limit adds .1."""
    multiplier = Multiplier(1.0, rate=0.1, initial=2.0)
    multiplier.update(1.5)
    assert multiplier.value == pytest.approx(2 * math.exp(0.1))
    multiplier.update(0.0)
    assert multiplier.value < 2 * math.exp(0.1)


def test_a_step_moves_the_price_by_a_bounded_factor_and_nothing_drives_it_beyond_bounds():
    multiplier = Multiplier(0.0, rate=1.0, initial=1.0)
    multiplier.update(50.0)
    assert multiplier.value == pytest.approx(math.e)
    for _ in range(50):
        multiplier.update(50.0)
    assert multiplier.value == pytest.approx(MOST)
    multiplier.update(float("nan"))
    assert multiplier.value == pytest.approx(MOST)
    multiplier.update(-50.0)
    assert multiplier.value == pytest.approx(MOST / math.e)


def test_the_price_moves_once_a_step_however_often_replies_are_marked():
    """All that is marked under one version of the weights counts as one mean, when the next version comes."""
    once, twice = (Multiplier(LIMIT, rate=0.5, initial=1.0) for _ in range(2))
    whole, parts = (Constrained(by(REWARD), by(COST), each) for each in (once, twice))
    whole([says(1), says(2), says(3)])
    parts([says(1)]), parts([says(2), says(3)])
    assert once.value == twice.value == 1
    marks = [reward([says(2, version=4)])[0].value for reward in (whole, parts)]
    assert once.value == pytest.approx(math.exp(0.5 * (0.6 + 1.5 - 1.0) / 3))
    assert marks[0] == pytest.approx(marks[1])


def test_watching_does_not_move_the_price_and_marks_at_it():
    multiplier = Multiplier(LIMIT, rate=0.5)
    training = Constrained(by(REWARD), by(COST), multiplier)
    training([says(2)])
    before = dict(multiplier.state_dict())
    for version in range(3):
        training.watched()([says(1, version=version)])
    assert multiplier.state_dict() == before
    training([says(2, version=1)])
    assert training.watched()([says(1)])[0].parts["cost_price"] == multiplier.value > 1


def test_a_multiplier_goes_on_where_it_was():
    straight = Multiplier(LIMIT, rate=0.3)
    for version in range(6):
        straight.see([COST[version].item()], version)
        if version == 2:
            resumed = Multiplier(LIMIT, rate=0.3)
            resumed.load_state_dict(straight.state_dict())
        elif version > 2:
            resumed.see([COST[version].item()], version)
    assert resumed.state_dict() == straight.state_dict()


@pytest.mark.parametrize("wrong", [{"initial": 0.0}, {"rate": -1.0}, {"limit": math.inf}])
def test_a_price_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="initial > 0"):
        Multiplier(**{"limit": 0.0} | wrong)


# --- the cost model ------------------------------------------------------------------------------


def told(a, b, *, safe=(None, None), choice=(1.0, 0.0)):
    prompt = Prompt((3,), {"chosen_safe": safe[0], "rejected_safe": safe[1]})
    return preference(prompt, a, b, choice=choice)


def test_a_cost_model_finds_the_order_and_where_harm_begins():
    """Tokens 2 and 3 are safe, 4 and 5 harmful: of each pair the smaller token is the safer."""
    rows = [told(reply(a), reply(b), safe=(a < 4, b < 4)) for a in range(2, 6) for b in range(a + 1, 6)]
    learner = local_learner(Bigram(seed=2), lr=0.05)
    metrics = list(reward_model(learner, [by_harm([rows])] * 150, objective=CostModel()))
    costs = learner.model.scores(replies([(QUESTION, [reply(token) for token in range(2, 6)])])).detach()[:, 0]
    assert costs.tolist() == sorted(costs.tolist())
    assert (costs > 0).tolist() == [False, False, True, True]
    assert metrics[-1]["accuracy"] == metrics[-1]["safety_accuracy"] == 1


def test_labels_of_harm_go_with_their_replies_whichever_is_better():
    """A row whose choice says that the rejected one is safer after all, and one that says nothing."""
    x = by_harm([[told(reply(2), reply(3), safe=(False, True), choice=(0.2, 0.8)), told(reply(2), reply(4))]])
    assert x.better_harm.tolist() == [-1, 0]
    assert x.worse_harm.tolist() == [1, 0]
    with pytest.raises(ValueError, match="true, false or nothing; got 'yes'"):
        by_harm([[told(reply(2), reply(3), safe=("yes", None))]])
