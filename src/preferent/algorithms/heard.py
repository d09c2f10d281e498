"""A step's replies: drawn from somebody's weights, read by the policy and by a reference, and described."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from preferent.algorithms.rollouts import described, scored
from preferent.data.collate import episodes, logprobs
from preferent.losses.policy import k1
from preferent.types import Episode, Learner, Metrics, Policy, Prompt, Replies, Reward, Sampler

Group = Sequence[Episode]


class Source(Protocol):
    """Whose weights draw: the learner's, or those of a reference."""

    def weights(self) -> Mapping[str, Tensor]: ...


class Opponent(Policy, Source, Protocol):
    """A reference that can speak as well as judge."""


def drawn(
    learner: Learner[Policy],
    sampler: Sampler,
    prompts: Iterable[Sequence[Prompt]],
    n: int,
    *,
    source: Source | None = None,
) -> Iterator[list[list[Episode]]]:
    """For each batch of prompts ``n`` replies to each, with the weights of the moment. ``source``: the learner."""
    for questions in prompts:
        sampler.load((source or learner).weights(), learner.version)
        yield sampler.sample(questions, n)


@dataclass(frozen=True, slots=True)
class Heard:
    """A step's replies, and what is said of each token by the policy that drew them and by the reference [r, t]."""

    groups: Sequence[Group]
    replies: Replies
    policy: Tensor
    reference: Tensor


def heard(learner: Learner[Policy], reference: Policy, groups: Sequence[Group], *, recompute: bool = False) -> Heard:
    """The reference asked, within the learner's token budget; the policy too, where the sampler's word is not its."""
    x = episodes(groups)
    own = learner.map(x, lambda model, cut: model.read(cut).logprobs).cpu() if recompute else logprobs(groups)
    return Heard(groups, x, own, learner.map(x, lambda _, cut: reference.read(cut).logprobs).to(own.device))


def observed(said: Heard, watched: Reward | None = None, *, on_policy: bool = True) -> Metrics:
    """What a person watches; the reward only where there is one, KL and entropy only of the policy's own replies."""
    flat = [episode for group in said.groups for episode in group]
    scores, parts = scored(watched, flat) if watched else (torch.zeros(len(flat)), {})
    found = {**parts, **described(flat, scores, said.replies, said.policy)}
    found["kl"] = k1(said.policy, said.reference).sum(-1).mean().item()
    unknown = (() if watched else ("reward", "reward_std")) + (() if on_policy else ("kl", "entropy"))
    return {name: value for name, value in found.items() if name not in unknown}
