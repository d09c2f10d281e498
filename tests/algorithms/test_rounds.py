"""The iterated loop on the toy model: ask about what the policy says now, learn from all answers, reinforce."""

from itertools import pairwise
from types import SimpleNamespace

import torch

from preferent.algorithms.grpo import RLOO, Config, grpo
from preferent.algorithms.reward_model import BradleyTerry, reward_model
from preferent.data.comparisons import pairs
from preferent.rewards.annotating import Rewarded
from preferent.rewards.learned import LearnedReward, Scale
from preferent.runtime.learner import local_learner
from preferent.testing import Bigram, ToySampler
from preferent.types import Comparison, Prompt, Score
from toys import VOCABULARY

PROMPTS = [Prompt((i,)) for i in range(2, VOCABULARY)]


class Scored(Bigram):
    base = SimpleNamespace(device=torch.device("cpu"))


def many_fives(episodes):
    return [Score(float(sum(token == 5 for token in e.tokens))) for e in episodes]


def test_each_round_of_asking_and_reinforcing_brings_more_of_what_is_wanted():
    """The reward model begins anew each round, with all answers so far; the policy goes on, as does its reference."""
    policy, answers, wanted = Bigram(), [], []
    learner, sampler = local_learner(policy, lr=0.05), ToySampler(policy)
    for _ in range(3):
        sampler.load(learner.weights(), learner.version)
        drawn = sampler.sample(PROMPTS, 4)
        wanted.append(sum(score.value for group in drawn for score in many_fives(group)) / (4 * len(PROMPTS)))
        asked = [Comparison(a.prompt, (a, b)) for group in drawn for a, b in pairwise(group) if a.tokens != b.tokens]
        answers += Rewarded(many_fives)(asked)
        scorer = Scored(seed=len(answers))
        list(reward_model(local_learner(scorer, lr=0.1), [pairs(answers)] * 30, objective=BradleyTerry(centring=0.01)))
        reward = LearnedReward([scorer], [Scale()], token_budget=1000)
        list(grpo(learner, policy.frozen(), sampler, reward, [PROMPTS] * 6, objective=RLOO, config=Config(group=4)))
    assert all(before + 0.3 < after for before, after in pairwise(wanted))
