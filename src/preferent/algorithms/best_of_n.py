"""Best of n: draw n replies, keep the one that the reward likes most. The baseline that needs no training."""

from __future__ import annotations

from collections.abc import Sequence

from preferent.types import Episode, Prompt, Reward, Sampler


def best_of_n(sampler: Sampler, reward: Reward, prompts: Sequence[Prompt], *, n: int) -> list[Episode]:
    """One episode for each prompt. KL to the sampler's policy ≤ log n - (n - 1)/n nats, equal only without ties."""
    groups = sampler.sample(prompts, n)
    scores = iter(reward([episode for group in groups for episode in group]))
    return [max(group, key=lambda episode: next(scores).value) for group in groups]
