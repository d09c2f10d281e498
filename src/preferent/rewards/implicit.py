"""The reward that a policy trained on preferences has within itself: β·log π/π_ref (Rafailov et al. 2023, eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor

from preferent.data.collate import episodes as batched
from preferent.types import Episode, Learner, Policy, Replies, Score


@dataclass(frozen=True, slots=True)
class ImplicitReward:
    """β·(log π(y) - log π_ref(y)) - cost · tokens of y: a policy that judges itself (Chen et al. 2024, DICE).

    It knows what the preferences taught that made π out of π_ref, and nothing else: where it errs, learning from it
    makes that worse. ``cost`` takes off what such rewards pay for length.
    """

    learner: Learner[Any]  # within whose token budget both are read
    policy: Policy
    reference: Policy
    beta: float = 0.1
    cost: float = 0.0

    def __call__(self, episodes: Sequence[Episode], /) -> list[Score]:
        if not episodes:
            return []
        x = batched([list(group) for _, group in groupby(episodes, key=lambda episode: episode.prompt.tokens)])
        own, other = (self.said(policy, x) for policy in (self.policy, self.reference))
        marks = self.beta * (own - other) - self.cost * x.learn.sum(-1)
        return [Score(mark) for mark in marks.tolist()]

    def said(self, policy: Policy, x: Replies) -> Tensor:
        """[r]: log p of each reply."""

        def read(_: Any, cut: Replies) -> Tensor:
            return policy.read(cut).logprobs.sum(-1)

        return self.learner.map(x, read).cpu()
