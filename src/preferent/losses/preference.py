"""Losses on preferences, one number for each pair: [b], [b] -> [b].

``chosen`` and ``rejected`` are log-ratios log π(y|x) - log π_ref(y|x), summed over the reply's learned tokens, its end
token included; ``bradley_terry`` takes scores of any kind. ``flip`` is the chance that the label is wrong, a number
or [b]: a soft label is flip = 1 - choice, a tie is flip = ½.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from preferent.losses.means import over_rows
from preferent.types import Mean


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


def cross_entropy(logit: Tensor, flip: float | Tensor) -> Tensor:
    """Between the label, right with chance 1 - flip, and σ(logit)."""
    # -logσ(x) as softplus(-x): torch's logsigmoid starts all threads even for four numbers, which takes milliseconds.
    return (1 - flip) * softplus(-logit) + flip * softplus(logit)
