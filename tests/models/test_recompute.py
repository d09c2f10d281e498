"""Activation checkpointing: the same gradients to the bit, from less memory, under every kind of model that learns."""

import copy

import pytest
import torch
from torch import nn

from preferent.algorithms.sft import Likelihood
from preferent.config import UsageError
from preferent.models.load import actor_critic, load_policy, load_scorer
from preferent.models.policy import LanguagePolicy
from preferent.models.recompute import kept_whole, layers_of, recompute_layers, recomputed
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.stages.memory import kept_bytes
from preferent.types import Prompt
from tiny_models import VOCABULARY, tiny
from toys import replies_of, saved_policy, tiny_policy

X = replies_of([(9, [6, 3, 8]), (4, [5])], high=VOCABULARY)


def gradients(model, f):
    model.zero_grad()
    f(model).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both_ways(model, f):
    """The gradients without and with recomputing, and how often a layer's second half ran in the second case."""
    plain = gradients(model, f)
    recompute_layers(model)
    runs = []
    for name, module in model.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    return plain, gradients(model, f), len(runs)


def spoken(model):
    reading = model.read(X, entropy=True)
    return reading.logprobs.sum() + reading.entropy.sum()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_gradients_are_the_same_to_the_bit_and_layers_run_twice():
    policy = tiny_policy()
    plain, again, runs = both_ways(policy, spoken)
    assert equal(plain, again)
    assert runs == 2 * 2  # forward, and again going back


@pytest.mark.parametrize("name", ["Mistral with a window", "Gemma 2", "GPT-NeoX", "Qwen3-MoE, a mixture of experts"])
def test_so_they_are_in_other_architectures(name):
    policy = LanguagePolicy(tiny(name), sharing=True)
    plain = gradients(policy, spoken)
    recompute_layers(policy)
    assert equal(plain, gradients(policy, spoken))


def test_an_adapter_gets_its_gradients_though_nothing_below_it_requires_one(tmp_path):
    policy = load_policy(saved_policy(tmp_path), lora=4, device="cpu")
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p)
    plain, again, _ = both_ways(policy, spoken)
    assert equal(plain, again)
    assert all(g.abs().max() > 0 for g in again.values())
    assert any(name.startswith("model.base_model.model.model.layers.0.") for name in again)


def test_reward_models_and_actors_with_critics_recompute_too(tmp_path):
    scorer = load_scorer(saved_policy(tmp_path), device="cpu")
    plain, again, _ = both_ways(scorer, lambda model: (model.scores(X) ** 2).sum() + model.values(X).sum())
    assert equal(plain, again)

    def both(model):
        reading, values = model.read_with_values(X)
        return reading.logprobs.sum() + (values - 1).pow(2).sum()

    model = actor_critic(tiny_policy())
    plain, again, _ = both_ways(model, both)
    assert equal(plain, again)
    assert len(list(layers_of(model))) == 4


def test_a_copy_recomputes_with_its_own_weights():
    policy = tiny_policy()
    recompute_layers(policy)
    twin = copy.deepcopy(policy)
    with torch.no_grad():
        for p in policy.parameters():
            p.zero_()
    assert equal(gradients(twin, spoken), gradients(tiny_policy(), spoken))


def test_the_backward_pass_keeps_less():
    policy = tiny_policy()

    def forward():
        return policy.hidden(policy.plan(X))

    plain = kept_bytes(policy, forward)
    recompute_layers(policy)
    assert kept_bytes(policy, forward) < plain / 2
    with kept_whole(policy) as layers:
        assert layers == 2
        assert kept_bytes(policy, forward) == plain
    assert all(map(recomputed, layers_of(policy)))


def test_a_policy_that_recomputes_still_samples_with_its_cache():
    prompts = [Prompt((3, 4, 5)), Prompt((6, 7))]
    before, policy = tiny_policy(), tiny_policy()
    recompute_layers(policy)
    drawn = [LocalSampler(each, max_new_tokens=6).sample(prompts, 2) for each in (before, policy)]
    assert drawn[0] == drawn[1]


def test_recomputing_twice_is_recomputing_once():
    policy = tiny_policy()
    recompute_layers(policy)
    recompute_layers(policy)
    assert not any(isinstance(layer.forward.plain, type(layer.forward)) for layer in layers_of(policy))


def test_a_model_without_marked_layers_is_refused():
    with pytest.raises(UsageError, match="--checkpoint-activations"):
        recompute_layers(nn.Linear(2, 2))


def test_it_learns_in_bf16():
    learners = [local_learner(tiny_policy(), lr=0.01, bf16=True) for _ in range(2)]
    recompute_layers(learners[1].model)
    losses = [[learner.update(X, Likelihood())["loss"] for _ in range(3)] for learner in learners]
    assert losses[0] == losses[1]
