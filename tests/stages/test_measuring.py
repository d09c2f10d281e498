"""Evaluation of a run that draws replies, held against the policy as it is at that moment."""

import json
from types import SimpleNamespace

import pytest
import torch

from preferent.models.load import load_policy
from preferent.runtime.learner import local_learner
from preferent.sampling.local import LocalSampler
from preferent.stages.online import measuring
from preferent.types import Prompt, Score
from toys import saved_policy

PROMPTS = [Prompt((3, 4, 5), {"messages": []}), Prompt((6, 7), {"messages": []})]


def rewarded(drawn):
    return [Score(float(sum(e.tokens) % 7)) for e in drawn]


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("half", [False, True])
def test_evaluation_sees_the_weights_as_they_are_also_where_a_copy_draws(tmp_path, lora, half):
    """The same as of a sampler that was made from those weights, and no divergence before anything was learned."""
    policy = load_policy(saved_policy(tmp_path), device="cpu", lora=lora)
    learner, reference = local_learner(policy, bf16=half), policy.frozen()
    run = SimpleNamespace(samples=lambda step: tmp_path / f"{step}.jsonl")

    def measured_by(sampler):
        return measuring(learner, reference, sampler, rewarded, PROMPTS, run)

    sampler = LocalSampler(policy, max_new_tokens=8, half=half)
    measure = measured_by(sampler)
    first = measure(0)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for p in policy.parameters():
            p += p.requires_grad * 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    learner.version = 5
    found = measure(1)
    assert found == measured_by(LocalSampler(policy, max_new_tokens=8, half=half))(2)
    assert found["kl"] > 0.01
    said = [[json.loads(line)["reply"] for line in (tmp_path / f"{i}.jsonl").read_text().splitlines()] for i in (0, 1)]
    assert said[0] != said[1]
