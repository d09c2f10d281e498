"""DPO's relatives as values: what each reads off a reply, and its loss on a pair. Defaults are those of the papers.

A new one is a function in ``losses/preference.py`` and three lines here.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from preferent.algorithms.dpo import Objective, Side, mixed, on
from preferent.losses import preference


def dpo(*, beta: float = 0.1, flip: float = 0.0) -> Objective:
    """Rafailov et al. 2023; with ``flip``, conservative DPO (Mitchell 2023)."""
    return Objective(on(partial(preference.dpo, beta=beta, flip=flip)))


def odpo(*, beta: float = 0.1) -> Objective:
    """DPO with an offset: the data's margin, which the better reply's reward has to exceed (Amini et al. 2024)."""

    def loss(better: Side, worse: Side) -> Tensor:
        return preference.bradley_terry(beta * better.ratio(), beta * worse.ratio(), margin=better.lead)

    return Objective(mixed(loss))


def robust_dpo(*, beta: float = 0.1, flip: float = 0.1) -> Objective:
    return Objective(on(partial(preference.robust_dpo, beta=beta, flip=flip)))


def ipo(*, beta: float = 0.1) -> Objective:
    return Objective(on(partial(preference.ipo, beta=beta)))


def hinge(*, beta: float = 0.1) -> Objective:
    return Objective(on(partial(preference.hinge, beta=beta)))


def apo_zero(*, beta: float = 0.1) -> Objective:
    return Objective(on(partial(preference.apo_zero, beta=beta)))


def apo_down(*, beta: float = 0.1) -> Objective:
    return Objective(on(partial(preference.apo_down, beta=beta)))


def nca(*, beta: float = 0.01) -> Objective:
    return Objective(on(partial(preference.nca, beta=beta)))


def sppo(*, beta: float = 0.001) -> Objective:
    return Objective(on(partial(preference.sppo, beta=beta)))


def exo(*, beta: float = 0.1, flip: float = 1e-3) -> Objective:
    """Soft labels are its target, not a mixture of two losses: at its optimum the policy says the label itself."""

    def loss(better: Side, worse: Side) -> Tensor:
        label = better.chance * (1 - flip) + worse.chance * flip
        return preference.exo(better.ratio(), worse.ratio(), beta=beta, flip=1 - label)

    return Objective(loss)


def discopop(*, beta: float = 0.05, mixing: float = 0.05) -> Objective:
    return Objective(on(partial(preference.discopop, beta=beta, temperature=mixing)))


def dpop(*, beta: float = 0.3, penalty: float = 50.0) -> Objective:
    return Objective(on(partial(preference.dpop, beta=beta, penalty=penalty)))


def f_dpo(*, beta: float = 0.1, divergence: preference.Divergence = "jensen-shannon", alpha: float = 0.5) -> Objective:
    return Objective(on(partial(preference.f_dpo, beta=beta, divergence=divergence, alpha=alpha)))


def rdpo(*, beta: float = 0.1, alpha: float = 0.01) -> Objective:
    def loss(better: Side, worse: Side) -> Tensor:
        sides = (better.ratio(), worse.ratio(), better.length(), worse.length())
        return preference.rdpo(*sides, beta=beta, alpha=alpha)

    return Objective(mixed(loss))


def sigmoid_norm(*, beta: float = 2.0) -> Objective:
    def score(side: Side) -> Tensor:
        return side.ratio() / side.length()

    return Objective(on(partial(preference.sigmoid_norm, beta=beta), score), score)


def ld_dpo(*, beta: float = 0.1, alpha: float = 0.5) -> Objective:
    """Tokens behind the length that both replies reach count ``alpha`` each (Liu et al. 2024, eq. 11)."""

    def part(side: Side, other: Side) -> Tensor:
        place = side.learn.cumsum(-1)[side.rows]
        share = torch.where(place > side.length().minimum(other.length())[:, None], alpha, 1.0)
        return (share * (side.said.logprobs - side.reference)[side.rows]).sum(-1)

    def loss(better: Side, worse: Side) -> Tensor:
        return preference.dpo(part(better, worse), part(worse, better), beta=beta)

    return Objective(mixed(loss))


def slic(*, margin: float = 1.0) -> Objective:
    return Objective(on(partial(preference.slic, margin=margin), Side.logp), Side.logp, likelihood=1.0, referred=False)


def simpo(*, beta: float = 2.0, gamma: float = 1.0) -> Objective:
    return Objective(on(partial(preference.simpo, beta=beta, gamma=gamma), Side.mean), Side.mean, referred=False)


def cpo(*, beta: float = 0.1) -> Objective:
    """Contrastive, plus each better reply's negative log-likelihood a token (Xu et al. 2024, eq. 6)."""

    def loss(better: Side, worse: Side) -> Tensor:
        return preference.cpo(better.logp(), worse.logp(), beta=beta) - better.mean()

    return Objective(mixed(loss), Side.logp, referred=False)


def orpo(*, alpha: float = 0.1) -> Objective:
    """Each better reply's negative log-likelihood a token, plus ``alpha`` times the odds ratio's (Hong et al. 2024)."""

    def loss(better: Side, worse: Side) -> Tensor:
        return alpha * preference.orpo(better.mean(), worse.mean()) - better.mean()

    return Objective(mixed(loss), Side.mean, referred=False)
