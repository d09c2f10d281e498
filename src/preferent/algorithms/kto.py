"""Learning from replies that were judged one by one: KTO, and the binary classifier BCO. No pairs, no sampling.

A good reply should become likelier than the reference has it, a bad one less likely, each held against a baseline: how
far the policy has moved from the reference anyhow. The two methods differ in the loss and in the baseline. KTO measures
it in each step on replies to other prompts, from which the policy has nothing to learn; BCO takes the moving average of
what it saw of the judged replies themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from preferent.losses import unpaired
from preferent.losses.means import over_rows
from preferent.losses.preference import accuracy
from preferent.types import Algorithm, Learner, Loss, Metrics, PerReply, Policy

if TYPE_CHECKING:
    from preferent.data.rated import Rated


@dataclass(frozen=True, slots=True)
class Held(PerReply):
    """Judged replies, held against what the reference said of them and a baseline."""

    desirable: Tensor  # [r] in [0, 1]
    weight: Tensor  # [r] how many judgements
    reference: Tensor  # [r] summed over learned tokens
    baseline: Tensor  # [r] log-ratio, one value for the whole step


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss on log-ratios to the reference, averaged over the judgements of a step, good and bad alike."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]  # ratio, desirable, baseline: [r], [r], [r] -> [r]

    def counts(self, batch: Held) -> Mapping[str, Tensor]:
        return {"rating": batch.weight.sum()}

    def __call__(self, policy: Policy, batch: Held) -> Loss:
        ratio = policy.read(batch.replies).logprobs.sum(-1) - batch.reference
        good, weight = batch.desirable, batch.weight
        each = self.loss(ratio, good, batch.baseline)
        beyond = (2 * good - 1) * (ratio - batch.baseline)  # on which side of the baseline it should be, and how far
        said = {
            "accuracy": accuracy(beyond, torch.zeros_like(beyond), weight, good),
            "chosen": over_rows(ratio, weight * good),
            "rejected": over_rows(ratio, weight * (1 - good)),
            "margin": over_rows(beyond, weight),
            "baseline": over_rows(batch.baseline, weight),
            "desirable": over_rows(good, weight),
        }
        return Loss({"rating": (1.0, over_rows(each, weight))}, said)


KTO = Objective(partial(unpaired.kto, beta=0.1))
BCO = Objective(partial(unpaired.bco, beta=0.1))


@dataclass
class Shift:
    """BCO's baseline: midway between the mean log-ratios of good and of bad replies, each a moving average.

    That is δ/β of Jung et al. 2024. It is of the steps before, so that it takes no forward pass; before the first all
    ratios are 0, and so is it. Stateful.
    """

    decay: float = 0.9
    chosen: float = 0.0
    rejected: float = 0.0

    @property
    def value(self) -> float:
        return (self.chosen + self.rejected) / 2

    def see(self, metrics: Metrics) -> None:
        """Take in a step. A kind of which it had no reply, or no finite number, stays as it was."""
        there = {"chosen": metrics["desirable"] > 0, "rejected": metrics["desirable"] < 1}
        for name in ("chosen", "rejected"):
            if there[name] and math.isfinite(metrics[name]):
                setattr(self, name, self.decay * getattr(self, name) + (1 - self.decay) * metrics[name])

    def state_dict(self) -> dict[str, float]:
        return {"chosen": self.chosen, "rejected": self.rejected}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.chosen, self.rejected = state["chosen"], state["rejected"]


def kto(
    learner: Learner[Policy], reference: Policy, batches: Iterable[Rated], *, objective: Objective = KTO
) -> Algorithm:
    """One update for each batch of judged replies, which has others to measure z₀ on (Ethayarajh et al. 2024).

    Without others z₀ is 0, and this is APO-zero on single judgements (D'Oosterlinck et al. 2024, eq. 7).
    """
    for batch in batches:
        yield learner.update(held(learner, reference, batch, drift(learner, reference, batch)), objective)


def bco(
    learner: Learner[Policy],
    reference: Policy,
    batches: Iterable[Rated],
    *,
    shift: Shift,
    objective: Objective = BCO,
) -> Algorithm:
    """One update for each batch of judged replies; others are not looked at (Jung et al. 2024)."""
    for batch in batches:
        metrics = learner.update(held(learner, reference, batch, shift.value), objective)
        shift.see(metrics)
        yield metrics


def drift(learner: Learner[Policy], reference: Policy, batch: Rated) -> float:
    """KTO's z₀: the mean log-ratio of a step's replies to other prompts, at least 0; it has no gradient.

    It estimates the KL from the reference (Ethayarajh et al. 2024, section 4.1).
    """
    if batch.others is None:
        return 0.0
    ratio = learner.map(
        batch.others, lambda policy, x: policy.read(x).logprobs.sum(-1) - reference.read(x).logprobs.sum(-1)
    )
    return max(ratio.mean().item(), 0.0)


def held(learner: Learner[Policy], reference: Policy, batch: Rated, baseline: float) -> Held:
    """The judged replies with the reference's word on them, asked within the learner's token budget."""
    said = learner.map(batch.replies, lambda _, x: reference.read(x).logprobs.sum(-1)).to(batch.weight.device)
    return Held(batch.replies, batch.desirable, batch.weight, said, torch.full_like(batch.weight, baseline))
