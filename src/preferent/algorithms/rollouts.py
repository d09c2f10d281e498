"""What policy-gradient methods learn from: replies of the policy, marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from preferent.types import Batch, Episode, Metrics, PerReply, Replies, Reward

B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, slots=True)
class Rollouts(PerReply):
    """Drawn replies, with what was said of each token when it was drawn. All [r, t]."""

    old: Tensor  # log-probability under the policy that drew it
    reference: Tensor  # log-probability under the reference
    advantage: Tensor


def scored(reward: Reward, episodes: Sequence[Episode]) -> tuple[Tensor, Metrics]:
    """Scores [r], and the means of their parts. Raises ValueError where there is not one score for each episode."""
    scores = reward(episodes)
    if len(scores) != len(episodes):
        raise ValueError(f"the reward gave {len(scores)} scores for {len(episodes)} episodes; expected one for each")
    names = sorted({name for score in scores for name in score.parts})
    parts = {f"reward/{name}": sum(s.parts.get(name, 0.0) for s in scores) / len(scores) for name in names}
    return torch.tensor([score.value for score in scores], dtype=torch.float32), parts


def described(episodes: Sequence[Episode], scores: Tensor, replies: Replies, logprobs: Tensor) -> Metrics:
    """What a person watches: reward, its spread, the length in tokens, the share of replies that ended, and entropy.

    Entropy, in nats a token, is estimated from what was drawn: its expected log-probability, with the sign turned.
    """
    drawn = replies.learn.sum().item()
    return {
        "reward": scores.mean().item(),
        "reward_std": scores.std(correction=0).item(),
        "length": replies.present.sum(-1).float().mean().item(),
        "ended": sum(episode.stop != "length" for episode in episodes) / len(episodes),
        "entropy": -(logprobs * replies.learn).sum().item() / max(drawn, 1),
    }


def minibatches(batch: B, size: int, epochs: int, *, key: int) -> Iterator[B]:
    """``epochs`` times all prompts, ``size`` at a time, each time in a new order that depends on ``key`` alone."""
    generator = torch.Generator().manual_seed(key)
    for _ in range(epochs):
        order = torch.randperm(len(batch), generator=generator).tolist()
        for first in range(0, len(order), size):
            yield batch[order[first : first + size]]
