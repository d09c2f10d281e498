"""TR-DPO: DPO whose reference follows the policy (Gorbatovski et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from preferent.algorithms.dpo import DPO, Objective, dpo
from preferent.types import Algorithm, Learner, Pairs, Policy, Stateful


class Following(Policy, Stateful, Protocol):
    """A reference that can be moved. What it has become is part of a checkpoint."""

    def follow(self, weights: Mapping[str, Tensor], share: float) -> None: ...  # of the way to these weights
    def weights(self) -> Mapping[str, Tensor]: ...  # for a sampler that draws from it


def following(
    steps: Algorithm, learner: Learner[Policy], reference: Following, *, share: float = 1.0, every: int = 512
) -> Algorithm:
    """The same steps; after each ``every`` updates the reference goes ``share`` of the way to the policy.

    Around online DPO, a share of 1 is iterated DPO. A step that had nothing to learn from counts, too.
    """
    before = learner.version
    for metrics in steps:
        if learner.version // every > before // every:
            reference.follow(learner.weights(), share)
        before = learner.version
        yield metrics


def tr_dpo(
    learner: Learner[Policy],
    reference: Following,
    comparisons: Iterable[Pairs],
    *,
    share: float = 1.0,
    every: int = 512,
    objective: Objective = DPO,
) -> Algorithm:
    """DPO with a reference that follows.

    A share of 1 is the paper's hard update (there every 512 steps), a smaller one after each step its soft one (0.6).
    """
    return following(
        dpo(learner, reference, comparisons, objective=objective), learner, reference, share=share, every=every
    )
