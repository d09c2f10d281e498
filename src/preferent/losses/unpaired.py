"""Losses on replies judged one by one: [r], [r], [r] -> [r].

``ratio`` is log π(y|x) - log π_ref(y|x), summed over the reply's learned tokens, its end token included. ``desirable``
is 1 for a good reply and 0 for a bad one; between them, both losses mix by it. ``baseline`` is what a ratio is held
against, the same for a whole step, and nothing is differentiated through it.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def kto(
    ratio: Tensor,
    desirable: Tensor,
    baseline: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """w·(1 - σ(β(ratio - z₀))) for a desirable reply, w·(1 - σ(β(z₀ - ratio))) for an undesirable one.

    Ethayarajh et al. 2024, eq. 8 less the constant w. z₀ ≥ 0, the baseline, estimates the KL to the reference from
    replies to other prompts. A reply far on either side of it has hardly a gradient; one that is as desirable as not,
    with equal weights, has none.
    """
    logit = beta * (ratio - baseline.detach())
    good = desirable.to(ratio.dtype)
    return desirable_weight * good * (-logit).sigmoid() + undesirable_weight * (1 - good) * logit.sigmoid()


def bco(
    ratio: Tensor,
    desirable: Tensor,
    baseline: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """-logσ(β·ratio - δ) for a desirable reply, -logσ(-(β·ratio - δ)) for an undesirable one, δ = β·baseline.

    Jung et al. 2024: a binary classifier whose logit is the implied reward; δ is the implied rewards' mean.
    """
    logit = beta * (ratio - baseline.detach())
    good = desirable.to(ratio.dtype)
    return desirable_weight * good * softplus(-logit) + undesirable_weight * (1 - good) * softplus(logit)
