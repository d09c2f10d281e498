"""Supervised fine-tuning: maximise the likelihood of demonstrations, the prompts' own tokens left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from preferent.losses.means import Average, over_tokens
from preferent.types import Algorithm, Learner, Loss, Policy, Replies


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Negative log-likelihood in nats of the tokens to be learned, averaged over all of them in the step."""

    average: Average = over_tokens

    def counts(self, x: Replies) -> Mapping[str, Tensor]:
        return {"nll": self.average.count(x.learn)}

    def __call__(self, policy: Policy, x: Replies) -> Loss:
        return Loss({"nll": (1.0, self.average(-policy.read(x).logprobs, x.learn))})


def sft(
    learner: Learner[Policy], demonstrations: Iterable[Replies], *, objective: Likelihood = Likelihood()
) -> Algorithm:
    """One update for each batch of demonstrations."""
    for batch in demonstrations:
        yield learner.update(batch, objective)
