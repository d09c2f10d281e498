"""Reward models with several heads: one for each attribute that was rated, or for each aspect that was compared.

Ratings (HelpSteer2: Wang et al. 2024) are regressed on, each attribute in deviations from its mean, so that heads learn
alike whatever their scales. Comparisons by aspect (helpful, harmless: Bai et al. 2022) train each head by Bradley and
Terry's loss. What a head is worth is said where the rewards are used, not here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.algorithms.reward_model import Link, smoothed
from preferent.data.collate import replies
from preferent.data.comparisons import Opinion, grouped_pairs, told_by
from preferent.losses import preference
from preferent.losses.means import over_rows
from preferent.losses.reward import regression
from preferent.types import Demonstration, Loss, Mean, Pairs, PerReply, Replies, Scorer

# --- ratings -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rated(PerReply):
    """Replies, each with what it was rated."""

    ratings: Tensor  # [r, h] in deviations from the attribute's mean; NaN where nobody rated


@dataclass(frozen=True, slots=True)
class Spread:
    """What an attribute's ratings are measured in."""

    mean: float
    std: float


def rating(row: Demonstration, head: str) -> float:
    """NaN where the row has none. Raises ValueError for what is no number."""
    said = row.prompt.info.get(head)
    if said is not None and (isinstance(said, str) or not isinstance(said, int | float)):
        raise ValueError(f"column {head}: expected a rating, a number or null; got {said!r:.40}")
    return math.nan if said is None else float(said)


def spread(rows: Sequence[Demonstration], head: str) -> Spread:
    """Raises ValueError where no row has a rating, or all have the same."""
    known = torch.tensor([x for row in rows if not math.isnan(x := rating(row, head))], dtype=torch.float64)
    if len(known) == 0 or known.min() == known.max():
        said = f"all {len(known)} ratings are {known[0]:g}" if len(known) else "no row has this column"
        raise ValueError(f"{head}: {said}, so there is nothing to learn")
    return Spread(known.mean().item(), known.std(correction=0).item())


def rated(groups: Sequence[Sequence[Demonstration]], *, heads: Mapping[str, Spread]) -> Rated:
    """A batch of rows, each with its reply and its ratings."""
    rows = [row for group in groups for row in group]
    said = [[(rating(row, name) - of.mean) / of.std for name, of in heads.items()] for row in rows]
    ratings = torch.tensor(said, dtype=torch.float32).reshape(len(rows), len(heads))
    return Rated(replies([(row.prompt, [row.reply]) for row in rows]), ratings)


@dataclass(frozen=True, slots=True)
class Regression:
    """The mean of (score - rating)² over all ratings that were given, whichever head they are about."""

    heads: Sequence[str]

    def counts(self, x: Rated) -> Mapping[str, Tensor]:
        return {"rating": (~x.ratings.isnan()).sum()}

    def __call__(self, scorer: Scorer[Replies], x: Rated) -> Loss:
        each = regression(scorer.scores(x.replies), x.ratings)
        known = ~x.ratings.isnan()
        metrics = {f"error/{name}": Mean(each[:, i].sum(), known[:, i].sum()) for i, name in enumerate(self.heads)}
        return Loss({"rating": (1.0, Mean(each.sum(), known.sum()))}, metrics)


# --- comparisons by aspect -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Aspects(Pairs):
    """Pairs that were compared in several regards."""

    aspects: Tensor  # [b, h] chance that ``better`` is better in this regard; NaN where nobody said


def by_aspect(groups: Sequence[Sequence[Opinion]], *, heads: Sequence[str]) -> Aspects:
    """A batch of what ``by_prompt`` gives. The column ``aspects`` holds, by name, the chance that chosen is better."""
    x = grouped_pairs(groups)
    rows = [[said_of(opinion, name, swapped=swapped) for name in heads] for opinion, swapped in told_by(groups)]
    aspects = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(heads))
    return Aspects(x.replies, x.better, x.worse, x.choice, x.margin, x.weight, aspects)


def said_of(opinion: Opinion, name: str, *, swapped: bool) -> float:
    """NaN where nothing was said. Raises ValueError for what is no chance, and for more than two options."""
    said = (opinion.comparison.context.info.get("aspects") or {}).get(name)
    if said is None:
        return math.nan
    if len(opinion.comparison.options) != 2 or not isinstance(said, int | float) or not 0 <= said <= 1:
        raise ValueError(f"aspects, {name}: expected of a pair a number from 0 to 1; got {said!r:.40}")
    return 1 - said if swapped else float(said)


@dataclass(frozen=True, slots=True)
class ByAspect:
    """-log P(better beats worse) for each head on its own aspect; what nobody said is left out."""

    heads: Sequence[str]
    smoothing: float = 0.0
    link: Link = preference.bradley_terry

    def counts(self, x: Aspects) -> Mapping[str, Tensor]:
        return {"preference": weights(x).sum()}

    def __call__(self, scorer: Scorer[Replies], x: Aspects) -> Loss:
        scores, weight = scorer.scores(x.replies), weights(x)
        better, worse = scores[x.better], scores[x.worse]
        choice = x.aspects.nan_to_num(0.5)
        each = self.link(better, worse, flip=1 - smoothed(choice, self.smoothing))
        high, low = torch.where(choice < 0.5, worse, better), torch.where(choice < 0.5, better, worse)
        right = {
            f"accuracy/{name}": preference.accuracy(high[:, i], low[:, i], weight[:, i], choice[:, i])
            for i, name in enumerate(self.heads)
        }
        return Loss({"preference": (1.0, over_rows(each, weight))}, right)


def weights(x: Aspects) -> Tensor:
    """[b, h]."""
    return x.weight.unsqueeze(-1).where(~x.aspects.isnan(), 0)
