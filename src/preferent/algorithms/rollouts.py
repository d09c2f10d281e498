"""What methods that sample learn from: replies, marked, and how a step of policy gradients learns from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from preferent.losses.means import over_tokens
from preferent.losses.policy import k3
from preferent.types import Batch, Episode, Learner, Mean, Metrics, Objective, PerReply, Policy, Replies, Reward

B = TypeVar("B", bound=Batch)
M = TypeVar("M")
Group = Sequence[Episode]  # replies to one prompt
MISMATCH = ("mismatch", "mismatch_k3")


class Source(Protocol):
    """Whose weights draw: the learner's, or those of a reference."""

    def weights(self) -> Mapping[str, Tensor]: ...


class Opponent(Policy, Source, Protocol):
    """A reference that can speak as well as judge."""


@dataclass(frozen=True, slots=True)
class Rollouts(PerReply):
    """Drawn replies, with what was said of each token when it was drawn. All [r, t]."""

    old: Tensor  # log-probability under the policy that drew it, or the learner's own before the step
    reference: Tensor  # log-probability under the reference
    advantage: Tensor


class Marks(NamedTuple):
    """What a reward said of episodes, and by name what each of its parts did."""

    scores: Tensor  # [r]
    parts: Mapping[str, Tensor]  # [r] each; 0 where a score lacks the part


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step's replies: as many to each prompt, in the order of the prompts."""

    groups: Sequence[Group]
    marks: Marks
    greedy: Tensor | None = None  # [p]: the score of each prompt's likeliest reply, where it was asked for
    batches: int = 1  # of prompts that it took

    @property
    def flat(self) -> list[Episode]:
        return [episode for group in self.groups for episode in group]

    def even(self) -> list[bool]:
        """For each prompt whether its replies all have one score; a score that is no number is like no other."""
        grouped = self.marks.scores.view(len(self.groups), -1)
        return [bool(same) for same in grouped.amax(-1) == grouped.amin(-1)]


def marked(reward: Reward | None, episodes: Sequence[Episode]) -> Marks:
    """Scores and their parts; 0 without a reward. Raises ValueError where there is not one score for each episode."""
    if reward is None:
        return Marks(torch.zeros(len(episodes)), {})
    scores = reward(episodes)
    if len(scores) != len(episodes):
        raise ValueError(f"the reward gave {len(scores)} scores for {len(episodes)} episodes; expected one for each")
    names = sorted({name for score in scores for name in score.parts})
    parts = {name: torch.tensor([s.parts.get(name, 0.0) for s in scores], dtype=torch.float64) for name in names}
    return Marks(torch.tensor([score.value for score in scores], dtype=torch.float32), parts)


def averaged(parts: Mapping[str, Tensor]) -> Metrics:
    """The mean of each part."""
    return {f"reward/{name}": sum(values.tolist()) / len(values) for name, values in parts.items()}


def scored(reward: Reward, episodes: Sequence[Episode]) -> tuple[Tensor, Metrics]:
    """Scores [r], and the means of their parts."""
    scores, parts = marked(reward, episodes)
    return scores, averaged(parts)


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


def apart(logp: Tensor, old: Tensor, mask: Tensor) -> dict[str, Mean]:
    """How far the learner is from what drew: mean |Δ log p| of a token, and the k3 estimate of KL(old ‖ learner)."""
    now = logp.detach().where(mask, 0)
    old = old.where(mask, 0)
    both = (now - old).abs(), k3(old, now)
    return dict(zip(MISMATCH, (over_tokens(each, mask) for each in both), strict=True))


def learned(learner: Learner[M], batches: Iterable[Any], objective: Objective[M, Any]) -> Metrics:
    """An update for each mini-batch, up to one that gives no number; what the last of them said.

    The mismatch is that of the first one which read anything, before the policy moved, to whoever said ``old``.
    """
    first: Metrics = {}
    metrics: Metrics = {}
    for batch in batches:
        metrics = learner.update(batch, objective)
        first = first or {name: metrics[name] for name in MISMATCH if name in metrics}
        if metrics["skipped"]:
            break
    return {**metrics, **first}


def minibatches(batch: B, size: int, epochs: int, *, key: int) -> Iterator[B]:
    """``epochs`` times all prompts, ``size`` at a time, each time in a new order that depends on ``key`` alone."""
    generator = torch.Generator().manual_seed(key)
    for _ in range(epochs):
        order = torch.randperm(len(batch), generator=generator).tolist()
        for first in range(0, len(order), size):
            yield batch[order[first : first + size]]
