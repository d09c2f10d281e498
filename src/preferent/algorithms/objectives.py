"""DPO's relatives as values: what each reads off a reply, and its loss on a pair. Defaults are those of the papers.

A new one is a function in ``losses/preference.py`` and three lines here.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Chowdhury et al. 2024; their experiments take ``flip`` = 0.1."""
    return Objective(on(tried(partial(preference.robust_dpo, beta=beta, flip=flip))))


def ipo(*, beta: float = 0.1) -> Objective:
    """Azar et al. 2023. With soft labels p, its optimum is h = (p - ½)/β."""
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
    """Wu et al. 2024, whose η is 1000. With soft labels p, its optimum is the paper's, c = (p - ½)/β."""
    return Objective(on(partial(preference.sppo, beta=beta)))


def exo(*, beta: float = 0.1, flip: float = 1e-3) -> Objective:
    """Soft labels are its target, not a mixture of two losses: at its optimum the policy says the label itself."""

    def loss(better: Side, worse: Side) -> Tensor:
        label = better.chance * (1 - flip) + worse.chance * flip
        return preference.exo(better.ratio(), worse.ratio(), beta=beta, flip=1 - label)

    tried(partial(preference.exo, beta=beta, flip=flip))
    return Objective(loss)


def discopop(*, beta: float = 0.05, mixing: float = 0.05) -> Objective:
    return Objective(on(partial(preference.discopop, beta=beta, temperature=mixing)))


def dpop(*, beta: float = 0.3, penalty: float = 50.0) -> Objective:
    return Objective(on(partial(preference.dpop, beta=beta, penalty=penalty)))


def f_dpo(
    *, beta: float = 0.1, divergence: preference.Divergence = "jensen-shannon", alpha: float | None = None
) -> Objective:
    """Wang et al. 2023. ``alpha``, ½ unless said, belongs to the divergence of that name alone."""
    if alpha is not None and divergence != "alpha":
        raise ValueError(f"f_dpo takes alpha with the α-divergence only, not with {divergence}")
    order = 0.5 if alpha is None else alpha
    return Objective(on(tried(partial(preference.f_dpo, beta=beta, divergence=divergence, alpha=order))))


def rdpo(*, beta: float = 0.1, alpha: float = 0.01) -> Objective:
    def loss(better: Side, worse: Side) -> Tensor:
        sides = (better.ratio(), worse.ratio(), better.length(), worse.length())
        return preference.rdpo(*sides, beta=beta, alpha=alpha)

    return Objective(mixed(loss))


def sigmoid_norm(*, beta: float = 5.0) -> Objective:
    """Length-normalised DPO, with the β of Tülu 3 (Lambert et al. 2024)."""
    return Objective(on(partial(preference.sigmoid_norm, beta=beta), Side.mean_ratio), Side.mean_ratio)


def ld_dpo(*, beta: float = 0.1, alpha: float = 0.5) -> Objective:
    """Tokens behind the length that both replies reach count ``alpha`` each (Liu et al. 2024)."""

    def part(side: Side, other: Side) -> Tensor:
        each = (side.said.logprobs - side.reference)[side.rows]
        shared = side.learn.cumsum(-1)[side.rows] <= side.length().minimum(other.length())[:, None]
        return each.where(shared, alpha * each).sum(-1)

    def loss(better: Side, worse: Side) -> Tensor:
        return preference.dpo(part(better, worse), part(worse, better), beta=beta)

    return Objective(mixed(loss))


def slic(*, margin: float = 1.0) -> Objective:
    """Zhao et al. 2023, with the better reply's likelihood for that of the data that the policy was tuned on."""
    return Objective(on(partial(preference.slic, margin=margin), Side.logp), Side.logp, likelihood=1.0, referred=False)


def simpo(*, beta: float = 2.0, gamma: float = 1.0) -> Objective:
    return Objective(on(partial(preference.simpo, beta=beta, gamma=gamma), Side.mean), Side.mean, referred=False)


def cpo(*, beta: float = 0.1) -> Objective:
    """Contrastive, plus each better reply's negative log-likelihood a token (Xu et al. 2024)."""

    def loss(better: Side, worse: Side) -> Tensor:
        return preference.cpo(better.logp(), worse.logp(), beta=beta) - better.mean()

    return Objective(mixed(loss), Side.logp, referred=False)


def orpo(*, alpha: float = 0.1) -> Objective:
    """Each better reply's negative log-likelihood a token, plus ``alpha`` times the odds ratio's (Hong et al. 2024)."""

    def loss(better: Side, worse: Side) -> Tensor:
        return alpha * preference.orpo(better.mean(), worse.mean()) - better.mean()

    return Objective(mixed(loss), Side.mean, referred=False)


def tried(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss, asked once: numbers that it cannot take are refused here, and not in a run's first step."""
    loss(torch.zeros(1), torch.zeros(1))
    return loss
