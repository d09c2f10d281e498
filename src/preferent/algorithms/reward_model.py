"""Reward models from comparisons: pairs, rankings, margins and soft labels alike, and ensembles of them.

A ranking of K replies is its K(K-1)/2 pairs in one batch, weighing one together, each reply computed once
(Ouyang et al. 2022, eq. 1). The scores' zero point is free; whoever uses them sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from preferent.losses import preference
from preferent.losses.means import over_rows
from preferent.losses.reward import centring
from preferent.types import Algorithm, Batch, Learner, Loss, Objective, Pairs, Replies, Scorer

Link = Callable[..., Tensor]  # (chosen, rejected, *, margin, flip) → [b]


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """-log P(better beats worse) on the scores of the first head; ``choice`` and ``margin`` are the data's."""

    centring: float = 0.0  # weight of (r_w + r_l)², which keeps scores near zero
    smoothing: float = 0.0  # chance that a label is wrong: a choice c counts as c(1 - ε) + (1 - c)ε
    link: Link = preference.bradley_terry  # ``preference.thurstone``: normal in place of logistic

    def counts(self, x: Pairs) -> Mapping[str, Tensor]:
        return {"preference": x.weight.sum(), "centring": x.weight.sum()}

    def __call__(self, scorer: Scorer[Replies], x: Pairs) -> Loss:
        scores = scorer.scores(x.replies)[:, 0]
        better, worse = scores[x.better], scores[x.worse]
        flip = 1 - smoothed(x.choice, self.smoothing)
        each = self.link(better, worse, margin=x.margin, flip=flip)
        decided = x.weight.where(x.choice != 0.5, 0)
        right = preference.accuracy(better, worse, x.weight, x.choice)
        terms = {"preference": (1.0, over_rows(each, x.weight))}
        if self.centring:
            terms["centring"] = (self.centring, over_rows(centring(better, worse), x.weight))
        return Loss(terms, {"accuracy": right, "margin": over_rows(better - worse, decided)})


THURSTONE = BradleyTerry(link=preference.thurstone)


def smoothed(choice: Tensor, chance: float) -> Tensor:
    """The choice where a label is wrong with this chance."""
    return choice * (1 - chance) + (1 - choice) * chance


def reward_model(
    learner: Learner[Scorer[Replies]],
    comparisons: Iterable[Batch],
    *,
    objective: Objective[Scorer[Replies], Any] = BradleyTerry(),
) -> Algorithm:
    """One update for each batch of comparisons, or of what else the objective learns from."""
    for batch in comparisons:
        yield learner.update(batch, objective)


def ensemble(members: Sequence[Algorithm]) -> Algorithm:
    """Reward models trained side by side, each on its own seed and split (Coste et al. 2023); metrics are averaged."""
    for step in zip(*members, strict=True):
        yield {name: sum(metrics[name] for metrics in step) / len(step) for name in step[0]}
