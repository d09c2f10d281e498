"""The table with which tests reach exact optima says of itself what it should."""

import torch

from preferent.data import collate
from preferent.testing import END, check_actor_critic, check_sampler
from preferent.types import Prompt
from tabular import Tabular, TabularSampler, best, distance
from toys import reply

QUESTION = Prompt((3, 2))


def test_every_reply_is_listed_once_and_their_probabilities_are_one_together():
    policy = Tabular()
    assert len(policy.replies) == len(set(policy.replies)) == 1 + 2 + 4 + 8
    chances = policy.distribution(QUESTION)
    torch.testing.assert_close(chances.sum(), torch.ones(()))
    other = policy.distribution(Prompt((1,)))
    assert distance(chances, other) > 0.1  # prompts have tables of their own


def test_it_is_an_actor_with_a_critic_that_tells_every_prefix_from_every_other():
    policy = Tabular(8, 3, prompts=8)
    groups = [(Prompt((5, 2)), [reply(2, 3, END), reply(END)]), (Prompt((3,)), [reply(6, 2, 7), reply(4, END)])]
    check_actor_critic(policy, collate.replies(groups))
    small = Tabular()
    every = collate.replies([(QUESTION, [reply(*tokens) for tokens in small.replies])])
    _, places = small.places(every)
    shown = {
        (tokens[:t], places[i, t].item()) for i, tokens in enumerate(small.replies) for t in range(len(tokens) + 1)
    }
    assert len({prefix for prefix, _ in shown}) == len({place for _, place in shown}) == len(shown)


def test_what_is_drawn_has_the_listed_probabilities():
    policy = Tabular(seed=1)
    sampler = TabularSampler(policy)
    check_sampler(sampler, policy, [QUESTION, Prompt((1,))])
    (group,) = sampler.sample([QUESTION], 2000)
    drawn = torch.tensor([policy.replies.index(episode.tokens) for episode in group]).bincount(minlength=15) / 2000
    assert distance(drawn, policy.distribution(QUESTION).detach()) < 0.05
    listed = sampler.every(QUESTION)
    torch.testing.assert_close(
        torch.tensor([sum(e.logprobs) for e in listed]).exp(), policy.distribution(QUESTION).detach()
    )


def test_no_other_policy_has_more_reward_less_divergence_than_the_best_one():
    reference, reward = Tabular().distribution(QUESTION).detach(), torch.linspace(-1, 1, 15)
    goal = best(reference, reward, 0.5)

    def worth(p):
        return (p * (reward - 0.5 * (p / reference).log())).sum().item()

    key = torch.Generator().manual_seed(0)
    others = [(goal.log() + 0.1 * torch.randn(15, generator=key)).softmax(-1) for _ in range(50)]
    assert all(worth(goal) > worth(other) for other in others)
