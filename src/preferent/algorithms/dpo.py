"""Direct preference optimisation and its relatives: learn from pairs, without sampling and without a reward model.

They differ in two places only: what a reply's score is, and the loss on a pair of scores. A soft label or a tie mixes
the loss of both orders by its probability, which for DPO's own loss is cDPO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from preferent.losses import preference
from preferent.losses.means import over_rows, over_tokens
from preferent.types import Algorithm, Learner, Loss, Pairs, Policy


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss on the pair of log-ratios to the reference, summed over each reply's learned tokens."""

    loss: Callable[[Tensor, Tensor], Tensor]  # [b], [b] -> [b]
    likelihood: float = 0.0  # weight of the better replies' negative log-likelihood

    def counts(self, batch: Referred) -> Mapping[str, Tensor]:
        x = batch.pairs
        return {"preference": x.weight.sum(), "likelihood": over_tokens.count(x.replies.learn[x.better])}

    def __call__(self, policy: Policy, batch: Referred) -> Loss:
        x = batch.pairs
        logprobs = policy.read(x.replies).logprobs
        ratio = logprobs.sum(-1) - batch.reference
        better, worse = ratio[x.better], ratio[x.worse]
        each = x.choice * self.loss(better, worse) + (1 - x.choice) * self.loss(worse, better)
        terms = {"preference": (1.0, over_rows(each, x.weight))}
        if self.likelihood:
            nll = over_tokens(-logprobs[x.better], x.replies.learn[x.better])
            terms["likelihood"] = (self.likelihood, nll)
        said = {"margin": better - worse, "chosen": better, "rejected": worse}
        right = preference.accuracy(better, worse, x.weight, x.choice)
        return Loss(terms, {"accuracy": right} | {name: over_rows(value, x.weight) for name, value in said.items()})


DPO = Objective(partial(preference.dpo, beta=0.1))
IPO = Objective(partial(preference.ipo, beta=0.1))
HINGE = Objective(partial(preference.hinge, beta=0.1))


@dataclass(frozen=True, slots=True)
class Referred:
    """Pairs, with what the reference said of their replies: a loss sees a model and a batch, and nothing else."""

    pairs: Pairs
    reference: Tensor  # [r] summed over learned tokens

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens_each(self) -> Sequence[int]:
        return self.pairs.tokens_each()

    def __getitem__(self, prompts: slice | Sequence[int], /) -> Referred:
        return Referred(self.pairs[prompts], self.reference[self.pairs.replies.rows(prompts)])


def dpo(
    learner: Learner[Policy], reference: Policy, comparisons: Iterable[Pairs], *, objective: Objective = DPO
) -> Algorithm:
    """One update for each batch of comparisons (Rafailov et al. 2023)."""
    for pairs in comparisons:
        yield learner.update(referred(learner, reference, pairs), objective)


def referred(learner: Learner[Policy], reference: Policy, pairs: Pairs) -> Referred:
    """Ask the reference, within the learner's token budget."""
    said = learner.map(pairs.replies, lambda _, x: reference.read(x).logprobs.sum(-1))
    return Referred(pairs, said.to(pairs.weight.device))
