"""What reinforcement learning maximises: the score at the end of a reply, less a price for leaving the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from preferent.losses.advantage import last
from preferent.losses.policy import k1


def score_at_end(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores [r] to rewards [r, t]: each on the last token of its reply under the mask, 0 elsewhere.

    The mask is ``learn`` rather than ``present`` where replies may end in a tool's tokens: advantages skip those, and a
    score there would be lost. A reply with nothing under the mask gets no reward.
    """
    marked = torch.arange(mask.shape[1], device=mask.device) == last(mask).unsqueeze(-1)
    return scores.unsqueeze(-1).where(marked, 0)


def kl_in_reward(scores: Tensor, logp: Tensor, reference: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """[r, t]: -β·(log π - log π_ref) at each token under the mask, and the score [r] on the last of them.

    Ziegler et al. 2019, eq. 2, paid token by token. ``logp`` is that of the policy which drew the reply; nothing is
    differentiated through it. The optimum is π_ref·exp(score/β), normalised.
    """
    price = beta * k1(logp, reference).detach()
    return score_at_end(scores, mask) - price.where(mask, 0)


@dataclass
class AdaptiveKL:
    """The price β of a nat of KL, moved towards a target KL: Ziegler et al. 2019, section 2.2.

    ``horizon`` is in episodes; None keeps β fixed. Stateful: ``initial`` is where β starts, ``beta`` where it is now.
    """

    initial: float
    target: float = 6.0  # nats a reply
    horizon: int | None = None
    beta: float = field(init=False)

    def __post_init__(self) -> None:
        self.beta = self.initial
        if self.initial < 0 or self.target <= 0 or (self.horizon is not None and self.horizon <= 0):
            raise ValueError(f"a KL price needs initial ≥ 0, target > 0 and horizon > 0 or None, not {self}")

    def update(self, kl: float, n: int) -> None:
        """After a step over n episodes with mean KL ``kl`` a reply: β·(1 + clip(kl/target - 1, ±0.2)·n/horizon)."""
        if self.horizon is not None:
            if n >= 5 * self.horizon:
                raise ValueError(f"{n} episodes a step against a horizon of {self.horizon}: take a longer horizon")
            error = min(max(kl / self.target - 1, -0.2), 0.2) if math.isfinite(kl) else 0.0  # else β is NaN for good
            self.beta *= 1 + error * n / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.beta = state["beta"]
