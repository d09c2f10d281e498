"""Direct preference optimisation: learn from pairs, without sampling and without a reward model.

Its relatives, values in ``algorithms/objectives.py``, differ in what is read off a reply and in the loss on two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from preferent.losses import preference
from preferent.losses.means import over_rows
from preferent.types import Algorithm, Learner, Loss, Mean, Pairs, Policy, Reading


@dataclass(frozen=True, slots=True)
class Side:
    """One reply of each pair, as the policy and the reference see it. What it is asked for is [b]."""

    said: Reading  # of all replies in the batch [r, t], by the policy
    reference: Tensor  # [r, t] log-probabilities
    learn: Tensor  # [r, t]
    rows: Tensor  # [b] which of them stand on this side
    chance: Tensor  # [b] probability that this side is the better one
    lead: Tensor  # [b] by how much it should be ahead

    def ratio(self) -> Tensor:
        """log π(y|x) - log π_ref(y|x), summed over the reply's learned tokens."""
        return (self.said.logprobs.sum(-1) - self.reference.sum(-1))[self.rows]

    def mean_ratio(self) -> Tensor:
        return self.ratio() / self.length()

    def logp(self) -> Tensor:
        """log π(y|x), without the reference."""
        return self.said.logprobs.sum(-1)[self.rows]

    def mean(self) -> Tensor:
        """log π(y|x) a token."""
        return self.logp() / self.length()

    def length(self) -> Tensor:
        """Learned tokens, the end of the reply included."""
        return self.learn.sum(-1).clamp(min=1)[self.rows]


PairLoss = Callable[[Side, Side], Tensor]  # better, worse → [b]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss on the two sides of a pair."""

    loss: PairLoss
    score: Callable[[Side], Tensor] = Side.ratio  # what the better side has more of once this has learned
    likelihood: float = 0.0  # weight of the better replies' negative log-likelihood, averaged over their tokens
    referred: bool = True  # whether the reference is asked
    entropy: bool = False  # whether the loss looks at the policy's entropy
    prepare: Callable[[Learner[Policy], Referred], Referred] | None = None  # what has to be known of the whole step

    def counts(self, batch: Referred) -> Mapping[str, Tensor]:
        x = batch.pairs
        return {"preference": x.weight.sum(), "likelihood": preference.of_better(x.replies.learn.sum(-1), x)}

    def __call__(self, policy: Policy, batch: Referred) -> Loss:
        x, learn = batch.pairs, batch.pairs.replies.learn
        said = policy.read(x.replies, entropy=self.entropy)
        better = Side(said, batch.reference, learn, x.better, x.choice, x.margin)
        worse = Side(said, batch.reference, learn, x.worse, 1 - x.choice, -x.margin)
        terms = {"preference": (1.0, over_rows(self.loss(better, worse), x.weight))}
        if self.likelihood:
            each = (preference.of_better(of, x) for of in (-said.logprobs.where(learn, 0).sum(-1), learn.sum(-1)))
            terms["likelihood"] = (self.likelihood, Mean(*each))
        chosen, rejected = self.score(better), self.score(worse)
        told = {"margin": chosen - rejected, "chosen": chosen, "rejected": rejected}
        right = preference.accuracy(chosen, rejected, x.weight, x.choice)
        return Loss(terms, {"accuracy": right} | {name: over_rows(value, x.weight) for name, value in told.items()})


def mixed(loss: PairLoss) -> PairLoss:
    """For soft labels and ties: the loss of both orders, by their chances. For DPO's own loss this is cDPO."""

    def both(better: Side, worse: Side) -> Tensor:
        return better.chance * loss(better, worse) + worse.chance * loss(worse, better)

    return both


def on(loss: Callable[[Tensor, Tensor], Tensor], score: Callable[[Side], Tensor] = Side.ratio) -> PairLoss:
    """A loss on the two sides' scores [b], [b], both orders mixed."""
    return mixed(lambda better, worse: loss(score(better), score(worse)))


def together(parts: Sequence[tuple[Objective, float]]) -> Objective:
    """Several at once: the sum of weight times loss; one may prepare; what is measured besides is the first one's."""

    def loss(better: Side, worse: Side) -> Tensor:
        each: list[Tensor] = [weight * part.loss(better, worse) for part, weight in parts]
        return torch.stack(each).sum(0)

    return Objective(
        loss,
        parts[0][0].score,
        likelihood=sum(weight * part.likelihood for part, weight in parts),
        referred=any(part.referred for part, _ in parts),
        entropy=any(part.entropy for part, _ in parts),
        prepare=next((part.prepare for part, _ in parts if part.prepare), None),
    )


DPO = Objective(on(partial(preference.dpo, beta=0.1)))


@dataclass(frozen=True, slots=True)
class Referred:
    """Pairs, with what the reference said of their replies: a loss sees a model and a batch, and nothing else."""

    pairs: Pairs
    reference: Tensor  # [r, t]

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens_each(self) -> Sequence[int]:
        return self.pairs.tokens_each()

    def __getitem__(self, prompts: slice | Sequence[int], /) -> Referred:
        return Referred(self.pairs[prompts], self.reference[self.pairs.replies.rows(prompts)])


def dpo(
    learner: Learner[Policy], reference: Policy | None, comparisons: Iterable[Pairs], *, objective: Objective = DPO
) -> Algorithm:
    """One update for each batch of comparisons (Rafailov et al. 2023)."""
    for pairs in comparisons:
        yield learner.update(referred(learner, reference, pairs, objective), objective)


def referred(learner: Learner[Policy], reference: Policy | None, pairs: Pairs, objective: Objective = DPO) -> Referred:
    """Ask the reference, within the learner's token budget, where the objective wants it; and what else it wants."""
    if reference is None or not objective.referred:
        batch = Referred(pairs, torch.zeros(pairs.replies.tokens.shape, device=pairs.weight.device))
    else:
        said = learner.map(pairs.replies, lambda _, x: reference.read(x).logprobs)
        batch = Referred(pairs, said.to(pairs.weight.device))
    return objective.prepare(learner, batch) if objective.prepare else batch
