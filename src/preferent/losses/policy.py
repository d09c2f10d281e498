"""Policy-gradient surrogates, to be minimised: (logp, old, advantage, mask) -> loss, each [r, t].

``logp`` is the policy's log-probability of a token, ``old`` that of the policy which drew it. Off ``mask`` anything
may stand, NaN too: the loss is 0 there, and so is its gradient. On-policy, where logp = old, all of them have the
gradient of REINFORCE, -advantage · ∇logp; they differ in what they do once the policy has moved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from preferent.losses.means import lengths

Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Correction = Callable[[Tensor, Tensor, Tensor], Tensor]  # (learner's log p, sampler's, mask) -> weight, each [r, t]
Divergence = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (logp, old, reference, mask) -> loss, each [r, t]


def reinforce(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-A·logp: Williams 1992. ``old`` is not looked at, so it is right on-policy only."""
    return -advantage.where(mask, 0) * logp.where(mask, 0)


def clipped(
    logp: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
    dual: float | None = None,
) -> Tensor:
    """-min(ρA, clip(ρ, 1 - low, 1 + high)·A) with ρ = exp(logp - old): PPO (Schulman et al. 2017, eq. 7).

    ``high > low`` is DAPO's clip-higher (Yu et al. 2025, eq. 8). ``dual`` > 1 stops the gradient where A < 0 and
    ρ > dual, which the minimum leaves unbounded (Ye et al. 2020).
    """
    advantage = advantage.where(mask, 0)
    ratio = token_ratio(logp, old, mask)
    gain = (ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage)
    if dual is not None:
        gain = gain.maximum(dual * advantage).where(advantage < 0, gain)
    return -gain


def cispo(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, *, high: float = 5.0) -> Tensor:
    """-sg[min(ρ, high)]·A·logp: caps a token's weight instead of dropping its gradient (MiniMax 2025, eq. 4).

    ``high`` is the cap itself, not its distance from 1; as in the paper's experiments there is no lower cap.
    """
    weight = token_ratio(logp, old, mask).clamp(max=high).detach()
    return -weight * advantage.where(mask, 0) * logp.where(mask, 0)


def gspo(
    logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, *, low: float = 3e-4, high: float = 4e-4
) -> Tensor:
    """PPO's clipping with one ratio for the whole reply, the geometric mean of its tokens' (Zheng et al. 2025, eq. 5).

    Every token of the mask carries its reply's loss, so ``over_sequences`` averages it as the paper does.
    """
    log_ratio = (logp - old).where(mask, 0).sum(-1, keepdim=True) / lengths(mask).unsqueeze(-1)
    ratio, advantage = log_ratio.exp(), advantage.where(mask, 0)
    return -(ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage)


def gmpo(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, *, low: float = 0.4, high: float = 0.4) -> Tensor:
    """-A·(geometric mean of the tokens' clipped ratios): Zhao et al. 2025.

    Each log-ratio is clipped to [-low, high], on the side that ``clipped`` clips, before the mean; so one token far off
    neither drives the reply nor silences it. One advantage a reply; every token carries its reply's loss, as in GSPO.
    """
    advantage = advantage.where(mask, 0)
    moved, sign = (logp - old).where(mask, 0), advantage.sign()
    kept = sign * (sign * moved).minimum(sign * moved.clamp(-low, high))
    return -advantage * (kept.sum(-1, keepdim=True) / lengths(mask).unsqueeze(-1)).exp()


def sapo(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, *, up: float = 1.0, down: float = 1.05) -> Tensor:
    """-(4/τ)·σ(τ(ρ - 1))·A, τ = ``up`` where A > 0 and ``down`` elsewhere: Gao et al. 2025.

    A soft gate in place of clipping: its slope is 1 on-policy and falls off smoothly on both sides, faster downwards.
    """
    advantage = advantage.where(mask, 0)
    ratio = token_ratio(logp, old, mask)
    steep = torch.full_like(ratio, down).masked_fill(advantage > 0, up)
    gate = (steep * (ratio - 1)).sigmoid() * 4 / steep
    return -gate * advantage


def token_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """exp(logp - old), 1 off the mask."""
    return (logp - old).where(mask, 0).exp()


# Between the policy that drew a reply (``behaviour``: the sampler's arithmetic, on weights that may be older) and the
# one that learns from it. It multiplies the advantage, and the KL in the loss; nothing is differentiated through it.


def truncated(logp: Tensor, behaviour: Tensor, mask: Tensor, *, cap: float = 2.0, whole: bool = False) -> Tensor:
    """min(ρ, cap) with ρ = p/p_behaviour of each token, or with ``whole`` of the reply: truncated importance sampling.

    Ionides 2008; for samplers that are not quite the learner: Yao et al. 2025. 0 off the mask. The reply's ratio is
    without bias up to ``cap``; a token's knows nothing of what came before it, and varies less.
    """
    return importance(logp, behaviour, mask, whole=whole).clamp(max=cap).where(mask, 0)


def masked(
    logp: Tensor, behaviour: Tensor, mask: Tensor, *, cap: float = 2.0, low: float = 0.0, whole: bool = False
) -> Tensor:
    """ρ where low ≤ ρ ≤ cap, else 0: what is too far off is left out instead of capped (masked importance sampling)."""
    ratio = importance(logp, behaviour, mask, whole=whole)
    return ratio.where(mask & (ratio >= low) & (ratio <= cap), 0)


def importance(logp: Tensor, behaviour: Tensor, mask: Tensor, *, whole: bool) -> Tensor:
    """p/p_behaviour [r, t] without gradient: each token's, or the whole reply's at each of its tokens."""
    moved = (logp - behaviour).detach().where(mask, 0)
    return (moved.sum(-1, keepdim=True).expand(moved.shape) if whole else moved).exp()


def clipped_value(value: Tensor, old: Tensor, target: Tensor, *, clip: float) -> Tensor:
    """½·max((V - target)², (old + clip(V - old, ±clip) - target)²): the critic's loss, kept near what it said before.

    As in OpenAI's lm-human-preferences (Ziegler et al. 2019) and baselines; PPO's paper has no value clipping.
    """
    near = old + (value - old).clamp(-clip, clip)
    return 0.5 * ((value - target) ** 2).maximum((near - target) ** 2)


# Estimators of KL(policy ‖ reference) at tokens that the policy drew (Schulman 2020, http://joschu.net/blog/kl-approx.html).
# As numbers to report or to subtract from a reward, all three estimate the reverse KL, without gradient. What each is
# as a *loss*, differentiated through ``logp``, is said below. At token level even the right ones are exact only for the
# next token given its prefix: for the reply's KL, take k2 of the summed log-ratio, or put k1 into the reward.


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """Log p/q: unbiased, of any sign. As a loss its expected gradient is 0: it does nothing but add noise."""
    return logp - reference


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    """½·(log p/q)²: biased, never negative. As a loss on-policy it has the gradient of the reverse KL(p ‖ q)."""
    return 0.5 * (logp - reference) ** 2


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """q/p - 1 - log q/p: unbiased, never negative. As a loss it has the gradient of the *forward* KL(q ‖ p).

    Multiplied by the importance ratio ``token_ratio(logp, old)`` it has that of the reverse KL.
    """
    return (reference - logp).expm1() - (reference - logp)


def reverse(logp: Tensor, old: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """k2 as a loss: the reverse KL's gradient as long as the policy is the one that drew. 0 off the mask."""
    return k2(logp.where(mask, 0), reference.where(mask, 0))


def reverse_off_policy(logp: Tensor, old: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """ρ·k3 with ρ = exp(logp - old), differentiated through both: the reverse KL's gradient after the policy moved."""
    return token_ratio(logp, old, mask) * k3(logp.where(mask, 0), reference.where(mask, 0))
