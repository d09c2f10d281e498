"""From rewards to advantages: over the replies to a prompt [g, n], or along a reply [r, t] with a critic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Advantage = Callable[[Tensor], Tensor]  # [g, n] -> [g, n]: g prompts, n replies to each


def centred(rewards: Tensor) -> Tensor:
    """Reward less the group's mean: Dr. GRPO (Liu et al. 2025)."""
    return rewards - rewards.mean(-1, keepdim=True)


def standardised(rewards: Tensor, *, eps: float = 1e-4) -> Tensor:
    """Reward less the group's mean, by its standard deviation (n - 1) + eps: GRPO (Shao et al. 2024, section 4.1.2).

    Prompts whose rewards hardly differ weigh as much as any other. Raises ValueError if n < 2.
    """
    needs_siblings(rewards)
    return centred(rewards) / (rewards.std(-1, keepdim=True) + eps)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward less the mean of its n - 1 siblings: RLOO (Kool et al. 2019; Ahmadian et al. 2024).

    Raises ValueError if n < 2.
    """
    needs_siblings(rewards)
    n = rewards.shape[-1]
    return centred(rewards) * n / (n - 1)


def max_rl(rewards: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Reward less the group's mean, by that mean + eps: maximum-likelihood RL (Tajwar et al. 2026).

    Where rewards say right (1) or wrong (0), its expected gradient is Σₖ (1 - p)ᵏ·∇p, k = 0 … n - 2, with p = P(right):
    that of log p, truncated. A group with nothing right gives none. Raises ValueError for a negative reward or n < 2.
    """
    needs_siblings(rewards)
    if (rewards < 0).any():
        raise ValueError(f"max_rl divides by a group's mean reward: rewards are to be 0 or more, not {rewards.min():g}")
    return centred(rewards) / (rewards.mean(-1, keepdim=True) + eps)


def needs_siblings(rewards: Tensor) -> None:
    """Raise ValueError where a group is one reply."""
    if rewards.shape[-1] < 2:
        raise ValueError(
            f"this advantage compares the replies to a prompt: it needs 2 or more, not {rewards.shape[-1]}"
        )


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    bootstrap: Tensor | None = None,
    present: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) over the tokens under the mask.

    ``rewards``, ``mask`` [r, t]; ``values`` [r, t + 1]: entry i is the value before token i, the entry behind a reply's
    last present token that of where it stopped. Other tokens (a tool's, a user's, padding) are skipped as if absent,
    their rewards and values included, and take no time.

    The value after the end is 0, since a scored reply is terminal, except in rows where ``bootstrap`` [r] is True:
    episodes cut off without a score. ``present`` [r, t] says where those end if that is not where the mask ends.

    Returns (advantage, returns), each [r, t] and 0 off the mask; returns = advantage + values, the critic's target.
    """
    width = mask.shape[1]
    following = values.new_zeros(len(mask))
    value_after = torch.zeros_like(following)
    if bootstrap is not None:
        end = last(mask if present is None else present) + 1
        value_after = values.gather(1, end.unsqueeze(-1)).squeeze(-1).where(bootstrap, 0)
    backwards = []
    for t in reversed(range(width)):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * value_after - values[:, t]
        following = (delta + gamma * lam * following).where(here, following)
        value_after = values[:, t].where(here, value_after)
        backwards.append(following.where(here, 0))
    advantage = torch.stack(backwards[::-1], 1)
    return advantage, (advantage + values[:, :width]).where(mask, 0)


def to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """[r, t]: at each token under the mask the sum of the rewards from there on; 0 off it."""
    own = rewards.where(mask, 0)
    return own.flip(-1).cumsum(-1).flip(-1).where(mask, 0)


def last(mask: Tensor) -> Tensor:
    """[r]: the place of the last True, -1 where there is none."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * place).amax(-1) - 1


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(x - mean)·rsqrt(variance + 1e-8) over the mask, with the population variance; 0 off the mask.

    Without ``shift_mean`` the mean is added again: scaled, not moved. Both as in lm-human-preferences (Ziegler et al.
    2019). A constant becomes 0.
    """
    count = mask.sum().clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return values.where(mask, 0).sum() / count

    # Twice, because what rounding leaves of a constant's mean would be multiplied by 1e4 below.
    once = x - mean(x)
    deviation = once - mean(once)
    white = deviation * (mean(deviation**2) + 1e-8).rsqrt()
    return (white if shift_mean else white + mean(x)).where(mask, 0)
