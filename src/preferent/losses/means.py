"""How a quantity per token [r, t] is averaged. Choosing one of these *is* choosing between GRPO, DAPO and Dr. GRPO.

Nothing is divided here by what the batch holds in all: totals and counts add up over cuts and ranks, then the learner
divides once. Counts come from masks alone, so they are known before any forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.types import Mean


@dataclass(frozen=True, slots=True)
class Average:
    """An average over the tokens under a mask; what stands off the mask may be NaN, in value and in gradient.

    A reply with nothing under the mask is not there: it adds neither to the total nor to the count.
    """

    divisor: Callable[[Tensor], Tensor]  # mask [r, t] -> [r]: by what each reply's own sum is divided
    count: Callable[[Tensor], Tensor]  # mask [r, t] -> scalar: by what the learner divides

    def __call__(self, x: Tensor, mask: Tensor) -> Mean:
        return Mean((x.where(mask, 0).sum(-1) / self.divisor(mask)).sum(), self.count(mask))


def over_budget(*, length: int) -> Average:
    """Sum over a reply's tokens by a constant length, whatever its own: Dr. GRPO (Liu et al. 2025)."""
    return Average(divisor=no_division, count=lambda mask: length * replies_in(mask))


def over_rows(x: Tensor, weight: Tensor | None = None) -> Mean:
    """Average a quantity [b] of pairs or replies; with weights [b], the count is the sum of the weights."""
    if weight is None:
        return Mean(x.sum(), torch.tensor(len(x), device=x.device))
    return Mean((x * weight).sum(), weight.sum())


def lengths(mask: Tensor) -> Tensor:
    """[r]: tokens under the mask, at least 1."""
    return mask.sum(-1).clamp(min=1)


def no_division(mask: Tensor) -> Tensor:
    """One, for every reply."""
    return mask.new_ones((), dtype=torch.long)


def replies_in(mask: Tensor) -> Tensor:
    """How many replies have a token under the mask."""
    return mask.any(-1).sum()


def tokens_in(mask: Tensor) -> Tensor:
    """How many tokens are under the mask."""
    return mask.sum()


over_tokens = Average(divisor=no_division, count=tokens_in)
"""Every token weighs the same: DAPO (Yu et al. 2025, eq. 8)."""

over_sequences = Average(divisor=lengths, count=replies_in)
"""Every reply weighs the same, so a token of a long one weighs less: GRPO (Shao et al. 2024, eq. 3)."""

over_replies = Average(divisor=no_division, count=replies_in)
"""A reply's tokens summed, so that a log-probability is the whole reply's: REINFORCE and RLOO."""
