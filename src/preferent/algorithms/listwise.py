"""Reward models from whole rankings: Plackett–Luce, and the best of several picked out.

An opinion is a list of its own, so where two people ranked the replies to one prompt, the prompt stands twice. What is
told of a list is which replies are left when one is taken, and how often it is: all that both losses need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.data.collate import replies
from preferent.data.comparisons import Opinion
from preferent.losses.means import over_rows
from preferent.losses.reward import choices, listed, plackett_luce
from preferent.types import Loss, PerReply, Ranking, Replies, Scorer

Told = tuple[Sequence[int], Sequence[float]]  # ranks and choices of a list's replies


@dataclass(frozen=True, slots=True)
class Lists(PerReply):
    """Replies of which each prompt's were put in order, or the best of them picked out. All [r]."""

    ranks: Tensor  # a reply is taken while those of its rank and of later ones are there
    taken: Tensor  # how many of the list's choices fall to it


def in_order(opinion: Opinion) -> Told:
    """All of a ranking; of a choice among several, which says no more, the best."""
    if isinstance(opinion, Ranking):
        return opinion.ranks, choices(torch.tensor([opinion.ranks]))[0].tolist()
    return best_only(opinion)


def best_only(opinion: Opinion) -> Told:
    """Which reply is the best: those of a ranking's first rank with equal chances, or as the choice says."""
    if isinstance(opinion, Ranking):
        first = [rank == min(opinion.ranks) for rank in opinion.ranks]
        return [0] * len(first), [each / sum(first) for each in first]
    return [0] * len(opinion.choice), opinion.choice


def lists(groups: Sequence[Sequence[Opinion]], *, told: Callable[[Opinion], Told] = in_order) -> Lists:
    """A batch of what ``by_prompt`` gives."""
    opinions = [opinion for group in groups for opinion in group]
    said = [told(opinion) for opinion in opinions]
    return Lists(
        replies([(opinion.comparison.context, opinion.comparison.options) for opinion in opinions]),
        ranks=torch.tensor([rank for ranks, _ in said for rank in ranks], dtype=torch.long),
        taken=torch.tensor([share for _, shares in said for share in shares], dtype=torch.float32),
    )


@dataclass(frozen=True, slots=True)
class Listwise:
    """-log P(what was chosen, choice by choice) on the scores of the first head; a list weighs one."""

    def counts(self, x: Lists) -> Mapping[str, Tensor]:
        return {"preference": torch.tensor(len(x), device=x.ranks.device)}

    def __call__(self, scorer: Scorer[Replies], x: Lists) -> Loss:
        of = x.replies.prompt_of
        scores = listed(scorer.scores(x.replies)[:, 0], of, 0.0)
        ranks, taken = listed(x.ranks, of, -1), listed(x.taken, of, 0.0)
        right, pairs = agreement(scores, ranks, taken)
        each = over_rows(plackett_luce(scores, ranks, taken))
        return Loss({"preference": (1.0, each)}, {"accuracy": over_rows(right / pairs.clamp(min=1), 1.0 * (pairs > 0))})


def agreement(scores: Tensor, ranks: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """[l], [l]: in how many pairs of a list the better one scores higher, equal scores ½, and how many pairs it has."""

    def difference(x: Tensor) -> Tensor:
        return x.unsqueeze(-1) - x.unsqueeze(-2)

    there = (ranks >= 0).unsqueeze(-1) & (ranks >= 0).unsqueeze(-2)
    later = difference(ranks)
    better = there & ((later < 0) | ((later == 0) & (difference(taken) > 0)))
    right = (difference(scores).sign() + 1) / 2
    return right.where(better, 0).sum((-1, -2)), better.sum((-1, -2))
