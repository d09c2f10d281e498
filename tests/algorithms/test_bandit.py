"""On a bandit — one prompt, replies of one token — the best policy is known: π* ∝ π_ref·exp(r/β)."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from bandit import BETA, QUESTION, REWARD, best, by_token, distance, said
from preferent.algorithms import objectives
from preferent.algorithms import ppo as ppo_
from preferent.algorithms.best_of_n import best_of_n
from preferent.algorithms.dpo import dpo
from preferent.algorithms.grpo import RLOO, Config, grpo
from preferent.data.comparisons import pairs
from preferent.evaluation.best_of_n import kl_bound
from preferent.losses import policy as policies
from preferent.rewards.shaping import AdaptiveKL
from preferent.runtime.learner import Schedule, local_learner
from preferent.testing import Bigram, ToySampler
from toys import preference, reply


def started(**learning):
    policy = Bigram()
    reference = policy.frozen()
    assert distance(said(reference), best(reference)) > 0.3
    return policy, reference, local_learner(policy, **learning)


def test_ppo_with_the_kl_in_its_reward_reaches_the_best_policy():
    """Total variation ≤ 0.02, and the KL that it reports is that of π* to the reference within 0.05 nats."""
    policy, reference, learner = started(lr=0.1, schedule=Schedule("linear", total=120))
    config = ppo_.Config(ppo_epochs=2, mini_batch=64, whiten_advantages=False, value_clip=10.0, value_weight=1.0)
    sampler = ToySampler(policy, length=1)
    steps = [[QUESTION] * 64] * 60
    told = list(ppo_.ppo(learner, reference, sampler, by_token, steps, price=AdaptiveKL(BETA), config=config))
    goal = best(reference)
    assert distance(said(policy), goal) <= 0.02
    kl = (goal * (goal / said(reference)).log()).sum().item()
    assert abs(sum(step["kl"] for step in told[-20:]) / 20 - kl) < 0.05
    assert abs(sum(step["reward"] for step in told[-20:]) / 20 - (goal * REWARD).sum().item()) < 0.05


@pytest.mark.parametrize("divergence", [policies.reverse, policies.reverse_off_policy])
def test_rloo_with_the_kl_as_a_loss_reaches_it_too_where_a_reply_is_one_token(divergence):
    """An unbiased advantage and k2, or the ratio times k3: the gradient of the reverse KL. Total variation ≤ 0.03."""
    policy, reference, learner = started(lr=0.1, schedule=Schedule("linear", total=60))
    objective = replace(RLOO, kl=BETA, kl_reward=0.0, divergence=divergence)
    config = Config(group=128)
    list(
        grpo(
            learner,
            reference,
            ToySampler(policy, length=1),
            by_token,
            [[QUESTION]] * 60,
            objective=objective,
            config=config,
        )
    )
    assert distance(said(policy), best(reference)) <= 0.03


def test_dpo_on_bradley_terrys_own_labels_reaches_it():
    """All pairs, each labelled σ(r_i - r_j): total variation ≤ 0.005."""
    policy, reference, learner = started(lr=0.1, schedule=Schedule("linear", total=200))
    chances = [
        preference(QUESTION, reply(i), reply(j), choice=(p, 1 - p))
        for i, j in combinations(range(8), 2)
        for p in [(REWARD[i] - REWARD[j]).sigmoid().item()]
    ]
    objective = objectives.dpo(beta=BETA)
    list(dpo(learner, reference, [pairs(chances)] * 200, objective=objective))
    assert distance(said(policy), best(reference)) <= 0.005


def test_best_of_n_draws_as_its_formula_says_and_leaves_its_policy_no_further_than_its_bound():
    """P(best is i) = Fᵢⁿ - Fᵢ₋₁ⁿ over tokens in the order of their rewards; KL ≤ log n - (n - 1)/n."""
    policy, n, m = Bigram(), 4, 3000
    chosen = best_of_n(ToySampler(policy, length=1), by_token, [QUESTION] * m, n=n)
    drawn = torch.tensor([e.tokens[0] for e in chosen]).bincount(minlength=8) / m
    order = REWARD.argsort()
    below = said(policy)[order].cumsum(-1)
    exact = torch.zeros(8).index_copy(0, order, below**n - torch.cat([torch.zeros(1), below[:-1]]) ** n)
    assert distance(drawn, exact) < 0.03
    assert (drawn * REWARD).sum() > (said(policy) * REWARD).sum() + 0.3
    kl = torch.xlogy(drawn, drawn / said(policy)).sum().item()
    assert 0.3 < kl <= kl_bound(n)
