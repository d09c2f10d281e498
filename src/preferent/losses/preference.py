"""Losses on preferences, one number for each pair: [b], [b] -> [b].

``chosen`` and ``rejected`` are log-ratios log π(y|x) - log π_ref(y|x), summed over the reply's learned tokens, its end
token included; ``bradley_terry`` takes scores of any kind. ``flip`` is the chance that the label is wrong, a number
or [b]: a soft label is flip = 1 - choice, a tie is flip = ½.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import log_ndtr

from preferent.losses.means import over_rows
from preferent.types import Mean, Pairs

Divergence = Literal["reverse", "forward", "jensen-shannon", "alpha"]
MOST = 30.0  # where exp goes on as a straight line: squares of what is larger leave fp32


def dpo(chosen: Tensor, rejected: Tensor, *, beta: float, flip: float | Tensor = 0.0) -> Tensor:
    """-(1 - ε)·logσ(βh) - ε·logσ(-βh), h = chosen - rejected.

    Rafailov et al. 2023, eq. 7; with ``flip`` ε, conservative DPO (Mitchell 2023, eq. 3).
    """
    return cross_entropy(beta * (chosen - rejected), flip)


def robust_dpo(chosen: Tensor, rejected: Tensor, *, beta: float, flip: float | Tensor) -> Tensor:
    """[-(1 - ε)·logσ(βh) + ε·logσ(-βh)] / (1 - 2ε): under labels flipped with chance ε, unbiased for DPO's loss.

    Chowdhury et al. 2024. Not bounded below: confident errors on flipped labels are rewarded. Raises ValueError
    unless 0 ≤ ε < ½.
    """
    known = torch.as_tensor(flip)
    if not bool(((known >= 0) & (known < 0.5)).all()):
        raise ValueError(f"robust_dpo undoes label noise, so flip must be in [0, ½), not {flip}; for ties use dpo")
    logit = beta * (chosen - rejected)
    return ((1 - flip) * softplus(-logit) - flip * softplus(logit)) / (1 - 2 * flip)


def ipo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(h - 1/(2β))², h of sums over tokens, as in the paper: Azar et al. 2023, eq. 17 (its τ is β)."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def hinge(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - βh): the hinge of RSO (Liu et al. 2023, "hinge-norm") and, on log-ratios, of SLiC (Zhao et al. 2023).

    Once β·h reaches 1, a pair has no gradient left.
    """
    return (1 - beta * (chosen - rejected)).relu()


def slic(chosen_logp: Tensor, rejected_logp: Tensor, *, margin: float) -> Tensor:
    """max(0, margin - (log π(y_w) - log π(y_l))), on the policy's own log-probabilities: Zhao et al. 2023, eq. 1.

    The likelihood of a good reply, which the paper adds, is a term of its own.
    """
    return (margin - (chosen_logp - rejected_logp)).relu()


def simpo(chosen_mean: Tensor, rejected_mean: Tensor, *, beta: float, gamma: float) -> Tensor:
    """-logσ(β(c̄ - r̄) - γ) on log-probabilities a token, without a reference: Meng et al. 2024, eq. 6.

    γ stands beside β·(c̄ - r̄), not within.
    """
    return softplus(gamma - beta * (chosen_mean - rejected_mean))


def cpo(chosen_logp: Tensor, rejected_logp: Tensor, *, beta: float) -> Tensor:
    """-logσ(β(log π(y_w) - log π(y_l))), DPO with a uniform reference: Xu et al. 2024, eq. 3.

    Its other half, the better reply's negative log-likelihood, is its user's to add.
    """
    return softplus(-beta * (chosen_logp - rejected_logp))


def orpo(chosen_mean: Tensor, rejected_mean: Tensor) -> Tensor:
    """-logσ(log odds(c̄) - log odds(r̄)), odds = p/(1 - p) of p = exp(mean): Hong et al. 2024, eq. 7.

    A probability within 1e-6 of 1 is taken to be there: its odds have no end.
    """

    def log_odds(mean: Tensor) -> Tensor:
        mean = mean.clamp(max=-1e-6)
        return mean - (-mean.expm1()).log()

    return softplus(log_odds(rejected_mean) - log_odds(chosen_mean))


def apo_zero(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """1 - σ(βc) + σ(βr): up with the better reply, down with the worse. D'Oosterlinck et al. 2024, eq. 7."""
    return (-beta * chosen).sigmoid() + (beta * rejected).sigmoid()


def apo_down(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """σ(βc) + 1 - σ(βh): down with both, more with the worse. D'Oosterlinck et al. 2024, eq. 8.

    For data whose better replies are worse than what the policy says on its own.
    """
    return (beta * chosen).sigmoid() + (-beta * (chosen - rejected)).sigmoid()


def nca(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-logσ(βc) - ½·logσ(-βc) - ½·logσ(-βr): Chen et al. 2024, for a pair. Likelihoods, not only their difference."""
    return softplus(-beta * chosen) + 0.5 * softplus(beta * chosen) + 0.5 * softplus(beta * rejected)


def sppo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(c - 1/(2β))² + (r + 1/(2β))² for a hard label: Wu et al. 2024, eq. 4.7 with P = 1 and 0; 1/β is the paper's η.

    Mixed by the chance of each order, its optimum is the paper's with a soft P.
    """
    half = 1 / (2 * beta)
    return (chosen - half) ** 2 + (rejected + half) ** 2


def exo(chosen: Tensor, rejected: Tensor, *, beta: float, flip: float | Tensor) -> Tensor:
    """KL(σ(βh) ‖ 1 - ε), the other way round than DPO's: Ji et al. 2024, eq. 16.

    Infinite where the label leaves nothing to one side. Raises ValueError unless 0 < ε < 1.
    """
    flip = torch.as_tensor(flip, dtype=chosen.dtype, device=chosen.device)
    if not bool(((flip > 0) & (flip < 1)).all()):
        raise ValueError("exo needs a chance that the label is wrong, 0 < flip < 1, or its divergence has no end")
    logit = beta * (chosen - rejected)
    right = logit.sigmoid()
    return right * (-softplus(-logit) - (-flip).log1p()) + (1 - right) * (-softplus(logit) - flip.log())


def discopop(chosen: Tensor, rejected: Tensor, *, beta: float, temperature: float) -> Tensor:
    """The logistic loss and the exponential one, mixed by σ(βh/τ): Lu et al. 2024, eq. 5 (there β = τ = 0.05).

    It has a local optimum at h = -2.37, and between that and h = 1.44 it lowers the better reply: at h = 0 too.
    """
    logit = beta * (chosen - rejected)
    share = (logit / temperature).sigmoid()
    # exp(-x)·σ(x/τ), which is small where exp(-x) alone has no end
    return softplus(-logit) * (1 - share) + exp(-logit - softplus(-logit / temperature))


def dpop(chosen: Tensor, rejected: Tensor, *, beta: float, penalty: float) -> Tensor:
    """-logσ(β(h - λ·max(0, -c))), DPO-positive: a better reply that loses likelihood costs. Pal et al. 2024, eq. 3."""
    return softplus(-beta * (chosen - rejected - penalty * (-chosen).relu()))


def rdpo(
    chosen: Tensor, rejected: Tensor, chosen_length: Tensor, rejected_length: Tensor, *, beta: float, alpha: float
) -> Tensor:
    """-logσ(βh + α(L_w - L_l)): length costs α a token of reward. Park et al. 2024; Meng et al. 2024, table 3.

    If annotators follow r and the policy is to maximise r - α·L, then r = β·log-ratio + α·L up to a constant: what
    length explains of a choice is not learned. Implementations with a minus sign teach the policy to be longer.
    """
    return softplus(-beta * (chosen - rejected) - alpha * (chosen_length - rejected_length))


def sigmoid_norm(chosen_mean: Tensor, rejected_mean: Tensor, *, beta: float) -> Tensor:
    """DPO on log-ratios a token: Lambert et al. 2024 (Tülu 3), length-normalised DPO."""
    return dpo(chosen_mean, rejected_mean, beta=beta)


def f_dpo(chosen: Tensor, rejected: Tensor, *, beta: float, divergence: Divergence, alpha: float = 0.5) -> Tensor:
    """-logσ(β(f'(u_w) - f'(u_l))), u = π/π_ref: DPO under another divergence from the reference. Wang et al. 2023.

    f' is log u for the reverse KL (DPO), -1/u for the forward KL, log(2u/(1 + u)) for Jensen-Shannon, and
    (1 - u^(-α))/α for the α-divergence, 0 < α < 1, which lies between the first two.
    """
    if divergence == "alpha" and not 0 < alpha < 1:
        raise ValueError(f"the α-divergence needs 0 < alpha < 1, not {alpha}; the ends are reverse and forward KL")

    def slope(ratio: Tensor) -> Tensor:
        if divergence == "reverse":
            return ratio
        if divergence == "jensen-shannon":
            return -softplus(-ratio)
        power = 1.0 if divergence == "forward" else alpha
        return -exp(-power * ratio) / power

    return softplus(-beta * (slope(chosen) - slope(rejected)))


def xpo(chosen: Tensor, rejected: Tensor, reference_sample_logp: Tensor, *, beta: float, alpha: float) -> Tensor:
    """DPO on a pair drawn online, plus α·log π(y) of a reply y that the reference drew: Xie et al. 2024, algorithm 1.

    To make what the reference says less likely is to look elsewhere.
    """
    return dpo(chosen, rejected, beta=beta) + alpha * reference_sample_logp


def bradley_terry(
    chosen: Tensor, rejected: Tensor, *, margin: float | Tensor = 0.0, flip: float | Tensor = 0.0
) -> Tensor:
    """-(1 - ε)·logσ(d) - ε·logσ(-d), d = chosen - rejected - margin, on scores: a reward model's loss.

    Ouyang et al. 2022, eq. 1; the margin, a number or [b], is Touvron et al. 2023 (Llama 2), eq. 2. Only differences
    matter: adding a constant to all scores of a prompt changes nothing.
    """
    return cross_entropy(chosen - rejected - margin, flip)


def accuracy(better: Tensor, worse: Tensor, weight: Tensor, choice: Tensor) -> Mean:
    """How often the better one scores higher; equal scores count ½, pairs left undecided (choice ½) not at all."""
    right = (better > worse).float() + 0.5 * (better == worse).float()
    return over_rows(right, weight.where(choice != 0.5, 0))


def of_better(each: Tensor, x: Pairs) -> Tensor:
    """What the better replies have together of a quantity [r]: as the labels expect it, and as the pairs weigh."""
    return (x.weight * (x.choice * each[x.better] + (1 - x.choice) * each[x.worse])).sum()


def cross_entropy(logit: Tensor, flip: float | Tensor) -> Tensor:
    """Between the label, right with chance 1 - flip, and σ(logit)."""
    # -logσ(x) as softplus(-x): torch's logsigmoid starts all threads even for four numbers, which takes milliseconds.
    return (1 - flip) * softplus(-logit) + flip * softplus(logit)


def exp(x: Tensor) -> Tensor:
    """e^x, and from ``MOST`` on its tangent, which still says in which direction things are better."""
    return x.clamp(max=MOST).exp() * (1 + (x - MOST).relu())


def thurstone(chosen: Tensor, rejected: Tensor, *, margin: float | Tensor = 0.0, flip: float | Tensor = 0.0) -> Tensor:
    """-(1 - ε)·log Φ(d) - ε·log Φ(-d), d = chosen - rejected - margin, on scores: probit in place of the logistic.

    Thurstone 1927, case V, the deviation of a difference being 1. An error costs as its square, not as its size.
    """
    d = chosen - rejected - margin
    each: Tensor = -(1 - flip) * log_ndtr(d) - flip * log_ndtr(-d)
    return each
