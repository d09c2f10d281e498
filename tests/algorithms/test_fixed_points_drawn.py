"""Where the methods end that learn from their policy's own replies: each at its own optimum, which is known beforehand.

On a bandit — one prompt, replies of one token — and on whole sequences, with a table that can say anything. Labels are
soft and replies are drawn evenly, so that little noise is left.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from preferent.algorithms import objectives
from preferent.algorithms.grpo import RLOO, Config, grpo
from preferent.algorithms.nash_md import nash_md
from preferent.algorithms.online_dpo import online_dpo
from preferent.algorithms.safe_rlhf import Constrained, Multiplier
from preferent.algorithms.tr_dpo import following
from preferent.algorithms.xpo import exploring, xpo
from preferent.models.policy import Follower
from preferent.rewards.annotating import Rewarded, soft
from preferent.runtime.learner import Schedule, local_learner
from preferent.types import Preference, Prompt, Score
from tabular import EvenSampler, Tabular, TabularSampler, best, constrained, distance

BETA = 0.5
QUESTION = Prompt((2,))
OTHER = 0.5698402910  # the stride that goes with the usual one
on_both = pytest.mark.parametrize("make", [partial(Tabular, 6, 1), Tabular], ids=["bandit", "sequences"])


def numbers(make, seed=4, scale=0.7):
    """For each reply that there is, a reward."""
    return torch.randn(len(make().replies), generator=torch.Generator().manual_seed(seed)) * scale


def by(table, make):
    places = {tokens: i for i, tokens in enumerate(make().replies)}
    return lambda episodes: [Score(table[places[e.tokens]].item()) for e in episodes]


def said(policy):
    """π(reply | the one prompt) of each reply."""
    return policy.distribution(QUESTION).detach()


def started(make, steps, lr=0.1):
    """A policy, a reference that can be moved, what it says now, and a learner."""
    policy = make()
    learner = local_learner(policy, lr=lr, schedule=Schedule("linear", total=steps))
    return policy, Follower(policy), said(policy), learner


def averaged(policy, steps, last):
    """The mean of π over the last steps, and what all of them told."""
    each = [(said(policy), told) for told in steps]
    return torch.stack([chances for chances, _ in each[-last:]]).mean(0), [told for _, told in each]


# --- against a reward ----------------------------------------------------------------------------


@on_both
def test_online_dpo_reaches_the_best_policy(make):
    reward = numbers(make)
    policy, reference, start, learner = started(make, 150)
    goal, annotator = best(start, reward, BETA), Rewarded(by(reward, make), soft)
    assert distance(start, goal) > 0.3
    batches = [[QUESTION] * 32] * 150
    list(
        online_dpo(learner, reference, TabularSampler(policy), annotator, batches, objective=objectives.dpo(beta=BETA))
    )
    assert distance(said(policy), goal) <= 0.02


@on_both
def test_iterated_online_dpo_goes_on_from_each_rounds_best_policy_to_the_next(make):
    """After k moves of the reference: π_0·exp(k·r/β)."""
    rounds, each, reward = 3, 80, numbers(make)
    policy, reference, start, learner = started(make, rounds * each)
    steps = online_dpo(
        learner, reference, TabularSampler(policy), Rewarded(by(reward, make), soft), [[QUESTION] * 32] * rounds * each,
        objective=objectives.dpo(beta=rounds * BETA),
    )  # fmt: skip
    list(following(steps, learner, reference, every=each))
    assert distance(said(policy), best(start, reward, BETA)) <= 0.02
    assert distance(said(policy), best(start, reward, rounds * BETA)) > 0.1


def xpos_optimum(reference, reward, alpha):
    """Where XPO's expected gradient is 0, by descent on the exact loss: pairs of π (no gradient) and π_ref."""
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    p = (reward[:, None] - reward).sigmoid()
    for _ in range(400):
        logp = logits.log_softmax(-1)
        ratio = BETA * (logp - reference.log())
        h = ratio[:, None] - ratio
        each = -p * h.sigmoid().log() - (1 - p) * (-h).sigmoid().log() + alpha * logp
        optimizer.zero_grad()
        (logp.exp().detach()[:, None] * reference * each).sum().backward()
        optimizer.step()
    return logits.detach().softmax(-1)


@on_both
@pytest.mark.parametrize("alpha", [0.0, 0.02])
def test_xpo_reaches_its_own_optimum_which_alpha_moves_away_from_the_reference(make, alpha):
    reward = numbers(make)
    policy, reference, start, learner = started(make, 150)
    goal = xpos_optimum(start, reward, alpha)
    assert (distance(goal, best(start, reward, BETA)) < 1e-3) == (alpha == 0)
    steps = xpo(
        learner, reference, EvenSampler(policy), EvenSampler(policy, stride=OTHER, seed=1),
        Rewarded(by(reward, make), soft), [[QUESTION] * 64] * 150, objective=exploring(beta=BETA, alpha=alpha),
    )  # fmt: skip
    told = list(steps)
    assert distance(said(policy), goal) <= 0.02
    assert told[0]["kl"] == pytest.approx(0, abs=1e-6)


@on_both
def test_rloo_with_the_kl_in_its_reward_reaches_the_best_policy(make):
    reward = numbers(make)
    policy, reference, start, learner = started(make, 120)
    goal, objective = best(start, reward, BETA), replace(RLOO, kl_reward=BETA)
    batches, config = [[QUESTION]] * 120, Config(group=128)
    list(grpo(learner, reference, EvenSampler(policy), by(reward, make), batches, objective=objective, config=config))
    assert distance(said(policy), goal) <= 0.02


# --- at a cost -----------------------------------------------------------------------------------

LIMIT = 0.0


@on_both
def test_safe_rlhf_reaches_the_best_policy_that_keeps_its_limit(make):
    """Averaged over the last half."""
    reward, noise = numbers(make), numbers(make, seed=5)
    cost = reward + noise / 2  # what is good is costly
    policy, reference, start, learner = started(make, 240)
    goal, price = constrained(start, reward, cost, BETA, LIMIT)
    assert (best(start, reward, BETA) * cost).sum() > LIMIT + 0.2
    multiplier = Multiplier(LIMIT, rate=0.1, initial=1.0)
    rewarded = Constrained(by(reward, make), by(cost, make), multiplier)
    steps = grpo(
        learner, reference, EvenSampler(policy), rewarded, [[QUESTION]] * 240,
        objective=replace(RLOO, kl_reward=BETA), config=Config(group=96),
    )  # fmt: skip
    average, told = averaged(policy, steps, 120)
    assert distance(average, goal) <= 0.02
    assert sum(step["reward/cost"] for step in told[-20:]) / 20 == pytest.approx(LIMIT, abs=0.02)
    assert multiplier.value == pytest.approx(price, rel=0.15)


# --- against oneself -----------------------------------------------------------------------------

TAU = 0.2


def ring(n):
    """[n, n] chances that no reward explains, larger and smaller ones."""
    key = torch.Generator().manual_seed(4)
    noise = torch.rand(n, n, generator=key)
    return 0.5 + 0.45 * (noise - noise.T)


def equilibrium(reference, chances):
    """π ∝ π_ref·exp(P(· beats π)/τ), by damped iteration."""
    policy = reference.clone()
    for _ in range(2000):
        answer = best(reference, chances @ policy, TAU)
        policy = (0.95 * policy.log() + 0.05 * answer.log()).softmax(-1)
    assert distance(policy, answer) < 1e-5
    return policy


@on_both
def test_nash_md_in_self_play_reaches_the_regularised_equilibrium_where_preferences_go_in_circles(make):
    """Averaged over the last half."""
    policy, reference, start, learner = started(make, 160)
    chances = ring(len(start))
    goal, places = equilibrium(start, chances), {tokens: i for i, tokens in enumerate(policy.replies)}
    assert distance(start, goal) > 0.1

    def judged(comparisons):
        each = [chances[tuple(places[option.tokens] for option in c.options)].item() for c in comparisons]
        return [Preference(c, (chance, 1 - chance)) for c, chance in zip(comparisons, each, strict=True)]

    samplers = EvenSampler(policy), EvenSampler(policy, stride=OTHER, seed=1)
    steps = nash_md(learner, reference, *samplers, judged, [[QUESTION]] * 160, tau=TAU, n=96)
    average, _ = averaged(policy, steps, 80)
    assert distance(average, goal) <= 0.02
