"""Whatever makes a step faster or smaller changes nothing: every technique at once, against none of them."""

import pytest
import torch

from preferent.algorithms import dpo, grpo, sft
from preferent.algorithms.rollouts import Rollouts
from preferent.data.collate import replies
from preferent.models import head, linear
from preferent.models.fast import fast
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share
from preferent.models.recompute import recompute_layers
from preferent.runtime.learner import local_learner
from preferent.runtime.reference import Remembered
from preferent.sampling.local import LocalSampler
from preferent.types import Pairs, Prompt, Reply, Score
from tiny_models import tiny

ARCHITECTURES = ["Qwen2", "Llama", "Gemma 3"]
LENGTHS = [(9, (5, 3)), (2, (7, 7)), (17, (4, 1)), (5, (6, 2)), (30, (8, 8))]


def batch():
    key = torch.Generator().manual_seed(3)
    draw = lambda n: tuple(torch.randint(3, 60, (n,), generator=key).tolist())  # noqa: E731
    return replies([(Prompt(draw(p)), [Reply(draw(t), (True,) * t) for t in each]) for p, each in LENGTHS])


def plain(name):
    """Every reply behind a copy of its prompt in a padded row, all logits, PyTorch's own products, one micro-batch."""
    return LanguagePolicy(tiny(name), sharing=False, own_head=False), 10**6


def quick(name):
    """Trees or packed rows; the head in pieces; products, norms and decoding by hand; layers computed again."""
    model = tiny(name)
    policy = LanguagePolicy(fast(model), sharing=can_share(model))
    recompute_layers(policy)
    return policy, 40


def remembered(policy, learner, x, folder):
    """A reference that was asked once."""
    reference = Remembered(policy)
    for _ in reference.asked(learner, [x], folder, mark="a"):
        pass
    reference.let_go()
    return reference


def shorter(episodes):
    return [Score(-float(len(episode.tokens))) for episode in episodes]


def learned(policy, budget, method, folder, *, memory):
    """The weights after three steps."""
    x = batch()
    learner = local_learner(policy, lr=0.02, token_budget=budget)
    if method == "sft":
        steps = sft.sft(learner, [x] * 3)
    elif method == "dpo":
        ones = torch.ones(len(LENGTHS))
        better = torch.arange(0, 2 * len(LENGTHS), 2)
        pairs = Pairs(x, better, better + 1, ones, 0 * ones, ones)
        reference = remembered(policy, learner, x, folder) if memory else policy.frozen()
        steps = dpo.dpo(learner, reference, [pairs] * 3)
    elif method == "grpo":
        # With every technique some replies wait until others have ended.
        sampler = LocalSampler(
            policy, max_new_tokens=8, end_tokens=range(3, 9), cache_tokens=150 if memory else 1 << 17
        )
        prompts = [Prompt(tuple(range(3, 3 + p))) for p, _ in LENGTHS]
        steps = grpo.grpo(learner, policy.frozen(), sampler, shorter, [prompts] * 3, config=grpo.Config(group=3))
    else:
        gain = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0, 2.0, -2.0])[:, None].expand(x.tokens.shape)
        old = learner.map(x, lambda model, cut: model.read(cut).logprobs)
        steps = (learner.update(Rollouts(x, old, old, gain), grpo.DAPO) for _ in range(3))
    return [said["loss"] for said in steps], {name: value.detach().clone() for name, value in policy.named_parameters()}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "dapo"])
def test_every_technique_at_once_trains_the_same_weights_as_none(name, method, tmp_path, monkeypatch):
    losses, weights = learned(*plain(name), method, tmp_path, memory=False)
    monkeypatch.setattr(head, "CHUNK", 64)
    monkeypatch.setattr(head, "CACHED", 64)
    monkeypatch.setattr(linear, "ROWS", 8)
    fast_losses, fast_weights = learned(*quick(name), method, tmp_path, memory=True)
    assert fast_losses == pytest.approx(losses, rel=1e-4, abs=1e-6)
    for key, value in weights.items():
        # AdamW's first steps are of the learning rate's size in every weight, so 0.06 of movement at most.
        torch.testing.assert_close(fast_weights[key], value, atol=5e-4, rtol=0, msg=key)


class Counting(LanguagePolicy):
    """Counts the prompts that it reads."""

    prompts = 0

    def read(self, x, **options):
        self.prompts += len(x)
        return super().read(x, **options)


def test_groups_without_spread_are_counted_and_not_forwarded():
    """Two of five groups have advantages of nought: without a price for the KL they cannot move the policy."""
    model = tiny("Llama")
    policy = Counting(model, sharing=can_share(model))
    x = batch()
    learner = local_learner(policy, lr=0.01)
    gain = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0, 2.0, -2.0])[:, None].expand(x.tokens.shape)
    old = torch.zeros(x.tokens.shape)
    learner.update(Rollouts(x, old, old, gain), grpo.DAPO)
    assert policy.prompts == 3
    learner.update(Rollouts(x, old, old, gain), grpo.GRPO)
    assert policy.prompts == 3 + 5
    nothing = learner.update(Rollouts(x, old, old, 0 * gain), grpo.DAPO)
    assert policy.prompts == 3 + 5
    assert (nothing["loss"], nothing["grad_norm"], nothing["skipped"]) == (0, 0, 0)
