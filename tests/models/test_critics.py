"""A critic is a model of its own: from a policy it starts at zero, from a reward model as that."""

import pytest
import torch

from preferent.algorithms.sft import Likelihood
from preferent.data import collate
from preferent.models.load import actor_critic, critic_from, load_policy, load_scorer
from preferent.models.policy import LanguagePolicy
from preferent.models.scorer import ScoringModel
from preferent.rewards.learned import LearnedReward, Scale
from preferent.runtime.learner import local_learner
from preferent.types import Episode, Prompt
from tiny_models import SHARING, tiny
from toys import replies_of, saved_policy

X = replies_of([(4, (3, 5)), (3, (6, 2)), (5, (4,))], high=60)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


def storages(module):
    return {p.untyped_storage().data_ptr() for p in module.parameters()}


@pytest.mark.parametrize("lora", [0, 2])
def test_a_critic_from_a_policy_expects_nothing_yet_and_shares_nothing_with_it(base, lora):
    policy = load_policy(base, lora=lora)
    critic = critic_from(policy)
    assert critic.values(X).abs().max() == 0
    assert not storages(critic) & storages(policy)
    assert all(p.requires_grad for p in critic.parameters())
    assert not critic.has_adapter
    before = policy.read(X).logprobs
    optimizer = torch.optim.SGD(critic.parameters(), lr=1.0)
    for _ in range(2):  # the trunk moves once the head is not zero
        (critic.values(X) - 1).square().mean().backward()
        optimizer.step()
    assert critic.values(X).abs().max() > 0
    assert policy.read(X).logprobs.equal(before)


def test_a_critic_from_a_trained_adapter_has_the_adapted_trunk(base):
    policy = load_policy(base, lora=2)
    learner = local_learner(policy, lr=0.05)
    for _ in range(3):
        learner.update(X, Likelihood())
    trunk = critic_from(policy).base.base_model
    row = torch.tensor([[4, 5, 6, 7]])
    with torch.no_grad():
        mine, theirs = (model(row).last_hidden_state for model in (trunk, policy.base.base_model))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert policy.has_adapter  # and keeps its own


@pytest.mark.parametrize("name", SHARING)
def test_every_architecture_can_be_a_critic_with_or_without_a_scorer_of_its_own(name):
    critic = critic_from(LanguagePolicy(tiny(name), sharing=True))
    torch.nn.init.normal_(critic.base.score.weight)
    plain = ScoringModel(critic.model, sharing=False)
    reached = torch.cat([torch.ones(len(X.tokens), 1, dtype=torch.bool), X.present], 1)
    ours, theirs = (each.values(X).where(reached, 0) for each in (critic, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_critic_from_a_reward_model_starts_as_it_and_goes_its_own_way(base):
    scorer = load_scorer(base, seed=2).requires_grad_(False)
    model = actor_critic(load_policy(base), scorer)
    last = X.present.sum(-1, keepdim=True)
    assert model.values(X).gather(1, last).equal(scorer.scores(X))
    assert not storages(model.critic) & storages(scorer)
    assert all(p.requires_grad for p in model.critic.parameters())
    before = scorer.scores(X)
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.add_(1)
    assert scorer.scores(X).equal(before)


def scaled(scorer, *, mean, std):
    """The critic's first values at the end of each reply, and the reward that the replies get."""
    replies = [
        Episode(Prompt(asked), said, (True,) * len(said), (0.0,) * len(said), "end", 0, "")
        for asked, said in (((4, 5, 6), (7, 8)), ((9, 10), (11,)))
    ]
    x = collate.replies([(e.prompt, [e]) for e in replies])
    critic = actor_critic(LanguagePolicy(tiny("Qwen2"), sharing=True), scorer, mean=mean, std=std)
    reward = LearnedReward([scorer], [Scale(mean, std)])(replies)
    return critic.values(x).gather(1, x.present.sum(-1, keepdim=True))[:, 0], torch.tensor([r.value for r in reward])


def test_a_critic_from_a_reward_model_predicts_on_the_rewards_scale_but_for_the_mean(base):
    """Without a bias: score / std, which is the reward + mean / std."""
    predicted, reward = scaled(load_scorer(base, seed=2), mean=0.3, std=0.02)
    torch.testing.assert_close(predicted, reward + 0.3 / 0.02, rtol=1e-4, atol=1e-4)


def test_a_critic_whose_head_has_a_bias_predicts_the_reward_itself(base):
    scorer = load_scorer(base, seed=2)
    scorer.base.score.bias = torch.nn.Parameter(torch.tensor([0.7]))
    predicted, reward = scaled(scorer, mean=0.3, std=0.02)
    torch.testing.assert_close(predicted, reward, rtol=1e-4, atol=1e-4)
    assert scorer.base.score.bias.item() == pytest.approx(0.7)
