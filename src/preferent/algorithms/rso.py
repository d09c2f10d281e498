"""RSO, statistical rejection sampling optimisation (Liu et al. 2023): pairs as the best policy would draw them.

Replies are drawn from the reference and accepted with probability exp((r - r_max)/β), so that what is accepted is
distributed as π_ref·exp(r/β), as far as n replies can show it. Pairs of accepted ones, labelled by the reward, are
learned from with any loss on pairs (the paper's choice is the hinge).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import Annotated

import torch
from annotated_types import Gt

from preferent.algorithms.answers import learned
from preferent.algorithms.dpo import Objective, on
from preferent.algorithms.rollouts import Opponent, scored
from preferent.algorithms.said import drawn, observed, said
from preferent.losses import preference
from preferent.rewards.finite import finite
from preferent.types import Algorithm, Annotator, Comparison, Episode, Learner, Policy, Prompt, Reward, Sampler

HINGE = Objective(on(partial(preference.hinge, beta=0.1)))


@dataclass(frozen=True, slots=True)
class Config:
    """Rejection sampling."""

    replies: Annotated[int, "replies of the reference to each prompt", Gt(1)] = 8
    accept: Annotated[int, "how many of them make pairs, the first with the second and so on", Gt(1)] = 2
    tilt: Annotated[float, "β of the policy that accepted replies come from, in units of the reward", Gt(0)] = 0.5


def rso(
    learner: Learner[Policy],
    reference: Opponent,
    sampler: Sampler,
    reward: Reward,
    annotator: Annotator[Prompt, Episode],
    prompts: Iterable[Sequence[Prompt]],
    *,
    objective: Objective = HINGE,
    config: Config = Config(),
    seed: int = 0,
) -> Algorithm:
    """One update for each batch: the sampler draws from the reference, the reward accepts, and the annotator labels."""
    for groups in drawn(learner, sampler, prompts, config.replies, source=reference):
        scores, parts = scored(reward, [episode for group in groups for episode in group])
        key = torch.Generator().manual_seed(seed + learner.version)
        kept = [
            [group[i] for i in accepted(finite(own), config.accept, beta=config.tilt, key=key)]
            for group, own in zip(groups, scores.view(len(groups), -1).tolist(), strict=True)
        ]
        of = said(learner, reference, kept)
        metrics = {**parts, **observed(of, reward, on_policy=False)}
        worth = {"reward": scores.mean().item(), "reward_accepted": metrics["reward"]}
        yield {**learned(learner, of, annotator, objective, asking=neighbours), **metrics, **worth}


def accepted(scores: Sequence[float], k: int, *, beta: float, key: torch.Generator) -> list[int]:
    """Places of ``k`` replies, in the order in which they were accepted: the paper's algorithm 1.

    Where a round accepts too few, those left are tried again against the highest among them.
    """
    left, taken = list(range(len(scores))), list[int]()
    while left and len(taken) < k:
        most = max(scores[place] for place in left)
        chances = torch.rand(len(left), generator=key).tolist()
        new = [p for p, chance in zip(left, chances, strict=True) if chance < exp((scores[p] - most) / beta)]
        taken += new[: k - len(taken)]
        left = [place for place in left if place not in taken]
    return taken


def neighbours(group: Sequence[Episode]) -> list[Comparison[Prompt, Episode]]:
    """The first with the second, the third with the fourth: the paper's first round of a tournament."""
    return [Comparison(a.prompt, (a, b)) for a, b in zip(group[::2], group[1::2], strict=False)]
