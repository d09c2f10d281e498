"""Two batches in one update, each with an objective of its own: a gradient of one size, whatever else is learned from.

PPO-ptx is the case at hand (Ouyang et al. 2022, eq. 2): the likelihood of other text beside the policy's own replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from torch import Tensor

from preferent.cutting import Prompts, listed
from preferent.types import Batch, Loss, Mean, Objective

A = TypeVar("A", bound=Batch)
B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, slots=True)
class Beside(Generic[A, B]):
    """The prompts of one batch, then those of another; it may be cut between any two of them."""

    first: A
    second: B

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def tokens_each(self) -> Sequence[int]:
        return [*self.first.tokens_each(), *self.second.tokens_each()]

    def __getitem__(self, prompts: Prompts, /) -> Self:
        chosen, here = listed(prompts, len(self)), len(self.first)
        mine = self.first[[i for i in chosen if i < here]]
        return replace(self, first=mine, second=self.second[[i - here for i in chosen if i >= here]])


@dataclass(frozen=True, slots=True)
class Together:
    """The sum of two objectives, each on its side, ``weight`` times the second; every term keeps its own denominator.

    What the second says is called by ``name``. A cut may hold prompts of one side alone.
    """

    first: Objective[Any, Any]
    second: Objective[Any, Any]
    weight: float
    name: str

    def counts(self, batch: Beside[Any, Any]) -> Mapping[str, Tensor]:
        first = self.first.counts(batch.first) if len(batch.first) else {}
        second = self.second.counts(batch.second) if len(batch.second) else {}
        return {**first, **{self.called(term): count for term, count in second.items()}}

    def __call__(self, model: Any, batch: Beside[Any, Any]) -> Loss:
        terms: dict[str, tuple[float, Mean]] = {}
        metrics: dict[str, Mean] = {}
        if len(batch.first):
            loss = self.first(model, batch.first)
            terms, metrics = dict(loss.terms), dict(loss.metrics)
        if len(batch.second):
            loss = self.second(model, batch.second)
            terms |= {self.called(term): (self.weight * w, mean) for term, (w, mean) in loss.terms.items()}
            metrics |= {self.called(metric): mean for metric, mean in loss.metrics.items()}
        return Loss(terms, metrics)

    def called(self, term: str) -> str:
        return f"{self.name}_{term}"
