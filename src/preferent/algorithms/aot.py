"""AOT, alignment through optimal transport: the pairs' margins as a distribution, not one by one (Melnyk et al. 2024).

The policy's differences log π(y_w) - log π(y_l), in order of size, are compared with the reference's, in order of size:
all quantiles are to be ahead (first-order stochastic dominance), whichever pair each one comes from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from preferent.algorithms.dpo import Objective, Referred
from preferent.algorithms.objectives import odpo
from preferent.types import Learner, Policy


def aot(*, beta: float = 0.1) -> Objective:
    """The paper's paired form, over all pairs of a step at once."""
    return replace(odpo(beta=beta), prepare=partial(matched, beta=beta))


def matched(learner: Learner[Policy], batch: Referred, *, beta: float) -> Referred:
    """The batch, each pair with the reference's difference of its own rank, as an offset to the one of its own.

    -logσ(β(Δ - Δ_ref of its rank)) is DPO with an offset of β·(Δ_ref of its rank - Δ_ref of its own). Ranks are over
    the whole step and have no gradient, so the step may be cut anywhere. Ties have no rank, and stay as in DPO.
    """
    x = batch.pairs

    def difference(logp: Tensor) -> Tensor:
        return logp[x.better] - logp[x.worse]

    said = learner.map(x.replies, lambda policy, cut: policy.read(cut).logprobs.sum(-1)).to(x.weight.device)
    told = x.choice != 0.5  # a tie's difference has the sign of the order in which its options stand
    own = difference(batch.reference.sum(-1))
    ranked = own.clone()
    places = told.nonzero().squeeze(-1)[difference(said)[told].argsort(stable=True)]
    ranked[places] = own[told].sort().values
    return replace(batch, pairs=replace(x, margin=beta * (ranked - own)))
