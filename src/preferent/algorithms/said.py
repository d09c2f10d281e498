"""A step's replies, drawn on time, and what is said of them: by who drew them, the learner, the reference, the reward.

Policy gradients draw in ``drawing``, where it may be ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from preferent.algorithms.rollouts import Group, Marks, Source, apart, averaged, described, marked
from preferent.data.collate import episodes, logprobs
from preferent.losses.policy import k1
from preferent.types import Episode, Learner, Metrics, Policy, Prompt, Replies, Reward, Sampler


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
class Said:
    """A step's replies as tensors, and log-probabilities of their tokens. All [r, t]."""

    groups: Sequence[Group]
    replies: Replies
    behaviour: Tensor  # under the sampler
    old: Tensor  # under the learner before the step where it was asked, else the sampler's
    reference: Tensor


def said(learner: Learner[Policy], reference: Policy, groups: Sequence[Group], *, recompute: bool = False) -> Said:
    """Ask the reference, within the learner's token budget; the learner too, where the sampler's word is not its."""
    x, behaviour = episodes(groups), logprobs(groups)
    old = learner.map(x, lambda model, cut: model.read(cut).logprobs).cpu() if recompute else behaviour
    theirs = learner.map(x, lambda _, cut: reference.read(cut).logprobs).to(old.device)
    return Said(groups, x, behaviour, old, theirs)


def observed(of: Said, by: Reward | Marks | None = None, *, on_policy: bool = True) -> Metrics:
    """What a person watches; the reward only where there is one, KL and entropy only of the policy's own replies."""
    flat = [episode for group in of.groups for episode in group]
    scores, parts = by if isinstance(by, Marks) else marked(by, flat)
    told = {**averaged(parts), **described(flat, scores, of.replies, of.old)}
    told["kl"] = k1(of.old, of.reference).sum(-1).mean().item()
    if of.old is not of.behaviour:
        told |= {name: mean.value for name, mean in apart(of.old, of.behaviour, of.replies.learn).items()}
    unknown = (("reward", "reward_std") if by is None else ()) + (() if on_policy else ("kl", "entropy"))
    return {name: value for name, value in told.items() if name not in unknown}
