"""WPO: any loss on pairs, weighed by how likely the policy itself would say the two replies (Zhou et al. 2024)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from preferent.algorithms.dpo import Objective, Side


def weighted(objective: Objective) -> Objective:
    """WPO (Zhou et al. 2024, eq. 2): pairs weigh by how likely the policy itself would say them.

    A reply's weight is exp of the mean over its tokens of log π(token) + entropy, so that what is drawn from the policy
    weighs about 1; a pair's is the product of both, at most 1. The paper aligns by log Σπ², which is of the same kind.
    """

    def likely(side: Side) -> Tensor:
        assert side.said.entropy is not None  # noqa: S101  (asked for below)
        surprise = (side.said.logprobs + side.said.entropy).detach().sum(-1)
        return (surprise[side.rows] / side.length()).exp()

    def loss(better: Side, worse: Side) -> Tensor:
        return (likely(better) * likely(worse)).clamp(max=1) * objective.loss(better, worse)

    return replace(objective, loss=loss, entropy=True)
