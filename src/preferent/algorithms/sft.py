"""Supervised fine-tuning: maximise the likelihood of demonstrations, the prompts' own tokens left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from preferent.losses.means import Average, over_tokens
from preferent.types import Algorithm, Learner, Loss, Policy, Replies


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Negative log-likelihood in nats of the tokens to be learned, averaged over all of them in the step."""

    average: Average = over_tokens
    weight: Callable[[Tensor], Tensor] | None = None  # of a token, by its log-probability; it has no gradient

    def counts(self, x: Replies) -> Mapping[str, Tensor]:
        count = self.average.count(x.learn)
        return {"nll": count, "weighted_nll": count}

    def __call__(self, policy: Policy, x: Replies) -> Loss:
        logp = policy.read(x).logprobs
        nll = self.average(-logp, x.learn)
        if self.weight is None:
            return Loss({"nll": (1.0, nll)})
        weighted = self.average(-self.weight(logp.detach()) * logp, x.learn)
        return Loss({"weighted_nll": (1.0, weighted)}, {"nll": nll})


SFT = Likelihood()
DFT = Likelihood(weight=Tensor.exp)
"""Dynamic fine-tuning (Wu et al. 2025): a token weighs as much as it is likely; rare ones do not pull hard."""


def sft(learner: Learner[Policy], demonstrations: Iterable[Replies], *, objective: Likelihood = SFT) -> Algorithm:
    """One update for each batch of demonstrations."""
    for batch in demonstrations:
        yield learner.update(batch, objective)
