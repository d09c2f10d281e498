"""Safe RLHF (Dai et al. 2023): as much reward as can be had while the mean cost stays below a limit.

A cost model learns from comparisons by harm and from labels that say safe or harmful, so that its zero is where harm
begins. The policy then gets (r - λc)/(1 + λ), and λ, the price of cost, rises while the mean cost of what the policy
says is above the limit, and falls while it is below. The policy's own update is anybody's: this is a reward.

With a KL price β in the reward, the fixed point is π ∝ π_ref·exp((r - λc)/((1 + λ)β)) with E[c] at the limit, or λ → 0
where the limit does not bind. Left out: the second critic, for cost; advantages are linear in rewards, so one critic
for the sum gives the same gradient. GRPO's standardised advantages are not linear: take centred ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from preferent.data.comparisons import Opinion, grouped_pairs, told_by
from preferent.losses import preference
from preferent.losses.means import over_rows
from preferent.losses.reward import cost
from preferent.types import Episode, Loss, Pairs, Replies, Reward, Score, Scorer

MOST = 1e4  # of λ, where the limit cannot be kept

# --- the cost model ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Harms(Pairs):
    """Pairs by harm, ``better`` the safer one, and whether each is harmful: 1 yes, -1 no, 0 nobody said."""

    better_harm: Tensor  # [b]
    worse_harm: Tensor  # [b]


def by_harm(groups: Sequence[Sequence[Opinion]]) -> Harms:
    """A batch of what ``by_prompt`` gives; columns ``chosen_safe`` and ``rejected_safe`` say true, false or nothing."""
    x = grouped_pairs(groups)
    harms = [harms_of(opinion, swapped=swapped) for opinion, swapped in told_by(groups)]
    better, worse = torch.tensor(harms, dtype=torch.float32).reshape(-1, 2).T
    return Harms(x.replies, x.better, x.worse, x.choice, x.margin, x.weight, better, worse)


def harms_of(opinion: Opinion, *, swapped: bool) -> tuple[float, float]:
    """Of the better and the worse. Raises ValueError for a label that is neither true nor false."""
    info = opinion.comparison.context.info
    said = [info.get(column) for column in ("chosen_safe", "rejected_safe")]
    if wrong := [each for each in said if each not in (None, True, False)]:
        raise ValueError(f"chosen_safe, rejected_safe: expected true, false or nothing; got {wrong[0]!r:.40}")
    chosen, rejected = (0.0 if safe is None else -1.0 if safe else 1.0 for safe in said)
    return (rejected, chosen) if swapped else (chosen, rejected)


@dataclass(frozen=True, slots=True)
class CostModel:
    """The worse of two costs more, and what is harmful costs more than 0."""

    def counts(self, x: Harms) -> Mapping[str, Tensor]:
        return {"cost": x.weight.sum()}

    def __call__(self, scorer: Scorer[Replies], x: Harms) -> Loss:
        costs = scorer.scores(x.replies)[:, 0]
        safer, worse = costs[x.better], costs[x.worse]
        each = cost(safer, worse, x.better_harm, x.worse_harm, flip=1 - x.choice)
        said, signs = torch.cat([x.better_harm, x.worse_harm]), torch.cat([safer, worse])
        weight = torch.cat([x.weight, x.weight]).where(said != 0, 0)
        metrics = {
            "accuracy": preference.accuracy(worse, safer, x.weight, x.choice),
            "safety_accuracy": over_rows((said * signs > 0).float(), weight),
        }
        return Loss({"cost": (1.0, over_rows(each, x.weight))}, metrics)


# --- the constraint ------------------------------------------------------------------------------


@dataclass
class Multiplier:
    """λ > 0, the price of cost, kept as its logarithm: log λ ← log λ + rate·λ·(mean cost - limit), once a step.

    That is gradient ascent on λ·(E[c] - limit) in log λ, as in the paper (its J_C is E[c] + d, so d = -limit); a step
    moves λ by at most a factor e, and λ stays below ``MOST``. A step is a version of the weights: what is seen of one
    adds up, and moves λ when the next comes. Stateful; what was under way ahead of a step counts again after going on.
    """

    limit: float
    rate: float = 0.05
    initial: float = 1.0
    log_value: float = field(init=False)
    version: int = field(init=False, default=-1)  # of the weights whose costs are being added up
    total: float = field(init=False, default=0.0)
    count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.initial <= 0 or self.rate < 0 or not math.isfinite(self.limit):
            raise ValueError(f"a multiplier needs initial > 0, rate ≥ 0 and a finite limit, not {vars(self)}")
        self.log_value = math.log(self.initial)

    @property
    def value(self) -> float:
        return math.exp(self.log_value)

    def see(self, costs: Sequence[float], version: int) -> None:
        """Count the costs of replies by these weights; before that, move λ by those of the weights before."""
        if version != self.version and self.count:
            self.update(self.total / self.count)
            self.total, self.count = 0.0, 0
        self.version, self.total, self.count = version, self.total + sum(costs), self.count + len(costs)

    def update(self, cost: float) -> None:
        """After a step whose replies cost this much in the mean."""
        if math.isfinite(cost):
            move = self.rate * self.value * (cost - self.limit)
            self.log_value = min(self.log_value + min(max(move, -1.0), 1.0), math.log(MOST))

    def state_dict(self) -> dict[str, Any]:
        return {"log_value": self.log_value, "version": self.version, "total": self.total, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.log_value, self.version = float(state["log_value"]), int(state["version"])
        self.total, self.count = float(state["total"]), int(state["count"])


@dataclass(frozen=True)
class Constrained:
    """(r - λc)/(1 + λ). Only what is marked in training moves λ: evaluation takes ``watched()``."""

    reward: Reward
    cost: Reward
    multiplier: Multiplier
    learns: bool = True

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        marks = list(zip(self.reward(episodes), self.cost(episodes), strict=True))
        if self.learns and marks:
            self.multiplier.see([c.value for _, c in marks], max(episode.version for episode in episodes))
        price = self.multiplier.value
        parts = [{**r.parts, "plain": r.value, "cost": c.value, "cost_price": price} for r, c in marks]
        return [
            Score((r.value - price * c.value) / (1 + price), said) for (r, c), said in zip(marks, parts, strict=True)
        ]

    def watched(self) -> Self:
        """The same marks, at the price that is in force, without moving it."""
        return replace(self, learns=False)
