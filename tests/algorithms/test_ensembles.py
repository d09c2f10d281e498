"""What members disagree on: a careful reward does not chase it, DPO learns less from it, and asking settles it."""

from types import SimpleNamespace

import pytest
import torch

from preferent.algorithms.dpo import dpo
from preferent.algorithms.grpo import RLOO, Config, grpo
from preferent.algorithms.reward_model import reward_model
from preferent.data.comparisons import pairs
from preferent.rewards.disagreement import exploits, reweighted
from preferent.rewards.learned import LearnedReward, Scale
from preferent.runtime.learner import local_learner
from preferent.testing import Bigram, ToySampler
from preferent.types import Episode, Prompt
from toys import preference, reply

QUESTION = Prompt((3,))
GOLD = [0.0, 0.0, 1.0, 0.5, -0.5, -0.6, -1.0, -0.8]
DOUBTFUL = 6  # nobody was asked about it: one member thinks the world of it


class Member(Bigram):
    """A reward model that knows what every reply of one token is worth, but for the doubtful one."""

    base = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, doubtful):
        super().__init__()
        with torch.no_grad():
            self.score.weight[:, 0] = torch.tensor(GOLD)
            self.score.weight[DOUBTFUL] = doubtful


def ensemble(**how):
    members = [Member(doubtful) for doubtful in (6.0, 0.2, -0.5)]
    return LearnedReward(members, [Scale()] * 3, token_budget=1000, **how)


def says(token):
    return Episode(QUESTION, (token,), (True,), (0.0,), "end", 0)


@pytest.mark.parametrize("how", [{"how": "worst"}, {"how": "uncertain", "caution": 1.0}, {"how": "mean"}], ids=str)
def test_a_policy_chases_what_one_member_overrates_unless_the_reward_is_careful(how):
    policy = Bigram()
    learner = local_learner(policy, lr=0.1)
    sampler, batches = ToySampler(policy, length=1), [[QUESTION]] * 40
    list(grpo(learner, policy.frozen(), sampler, ensemble(**how), batches, objective=RLOO, config=Config(group=16)))
    chances = policy.next.weight[3].softmax(-1)
    assert chances.argmax() == (DOUBTFUL if how["how"] == "mean" else 2)
    assert (chances[DOUBTFUL] < 0.02) == (how["how"] != "mean")


def test_dpo_believes_most_what_members_agree_on():
    """Three pairs in a circle: alike they say nothing, and so the one without the doubtful reply decides."""
    said = [preference(QUESTION, reply(a), reply(b)) for a, b in ((4, 5), (5, DOUBTFUL), (DOUBTFUL, 4))]
    moved = []
    for careful in (False, True):
        policy = Bigram()
        reference, learner = policy.frozen(), local_learner(policy, lr=0.05)
        batches = [pairs(said)] * 100
        list(dpo(learner, reference, reweighted(batches, ensemble(), learner) if careful else batches))
        each = (policy.next.weight - reference.next.weight)[3].detach()
        moved.append((each[4] - each[5]).item())
    assert moved[0] == pytest.approx(0, abs=1e-3)
    assert moved[1] > 1


def test_in_adversarial_rounds_the_reward_model_is_taught_what_it_would_be_exploited_for():
    reward = ensemble()
    replies = [says(token) for token in range(2, 8)]

    def favourite():
        return max(replies, key=lambda e: reward([e])[0].value).tokens[0]

    assert favourite() == DOUBTFUL
    learners, asked = [local_learner(member, lr=0.1) for member in reward.members], []
    for _ in range(3):
        for found in exploits([reward(replies)], 1):
            two = [reply(*replies[place].tokens) for place in (found.suspect, found.trusted)]
            better = GOLD[two[0].tokens[0]] > GOLD[two[1].tokens[0]]
            asked.append(preference(QUESTION, *two, choice=(1.0, 0.0) if better else (0.0, 1.0)))
        for learner in learners:
            list(reward_model(learner, [pairs(asked)] * 30))
    assert favourite() == 2
    assert {option.tokens for row in asked[:1] for option in row.comparison.options} == {(DOUBTFUL,), (2,)}
