"""Policy-gradient surrogates, to be minimised: (logp, old, advantage, mask) -> loss, each [r, t].

``logp`` is the policy's log-probability of a token, ``old`` that of the policy which drew it. Off ``mask`` anything
may stand, NaN too: the loss is 0 there, and so is its gradient. On-policy, where logp = old, all of them have the
gradient of REINFORCE, -advantage · ∇logp; they differ in what they do once the policy has moved.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from preferent.losses.means import lengths

Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


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


def token_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """exp(logp - old), 1 off the mask."""
    return (logp - old).where(mask, 0).exp()


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
