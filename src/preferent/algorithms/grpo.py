"""Group-relative policy optimisation and its relatives: sample a group for each prompt, and compare it with itself.

They differ in three places only: how rewards become advantages, the surrogate at a token, and how tokens are averaged.
Left out of the paper (Shao et al. 2024): its k3 term, whose gradient is that of the *forward* KL. Here the KL term is
k2, which on-policy has the reverse KL's gradient token by token. The fixed point is not π_ref·exp(r/β): standardised
advantages weigh every prompt alike, and a token's KL knows nothing of what comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from preferent.algorithms.rollouts import Rollouts, described, minibatches, scored
from preferent.data.collate import episodes, logprobs
from preferent.losses import policy
from preferent.losses.advantage import Advantage, centred, leave_one_out, standardised
from preferent.losses.means import Average, over_budget, over_sequences, over_tokens
from preferent.types import Algorithm, Learner, Loss, Metrics, Policy, Prompt, Reward, Sampler


@dataclass(frozen=True, slots=True)
class Objective:
    """A surrogate over tokens, averaged, plus a price for leaving the reference."""

    advantage: Advantage = standardised
    surrogate: policy.Surrogate = policy.clipped
    average: Average = over_sequences
    kl: float = 0.04  # weight of the k2 estimate of KL(policy || reference), nats a token

    def counts(self, batch: Rollouts) -> Mapping[str, Tensor]:
        mask = batch.replies.learn
        return {"policy": self.average.count(mask), "kl_loss": self.average.count(mask)}

    def moving(self, batch: Rollouts) -> list[int]:
        """All prompts where leaving the reference costs; else those whose replies' rewards differ."""
        if self.kl:
            return list(range(len(batch)))
        hit = (batch.advantage * batch.replies.learn != 0).any(-1)
        return sorted(set(batch.replies.prompt_of[hit].tolist()))

    def __call__(self, model: Policy, batch: Rollouts) -> Loss:
        mask = batch.replies.learn
        logp = model.read(batch.replies).logprobs
        each = self.surrogate(logp, batch.old, batch.advantage, mask)
        terms = {"policy": (1.0, self.average(each, mask))}
        if self.kl:
            terms["kl_loss"] = (self.kl, self.average(policy.k2(logp, batch.reference), mask))
        drift = (logp.detach() - batch.old).abs()
        return Loss(terms, {"drift": over_tokens(drift, mask)})


GRPO = Objective()
DR_GRPO = Objective(centred, average=over_budget(length=1024))
RLOO = Objective(leave_one_out, average=over_tokens)
DAPO = Objective(surrogate=partial(policy.clipped, low=0.2, high=0.28), average=over_tokens, kl=0.0)


@dataclass(frozen=True, slots=True)
class Config:
    """Groups."""

    group: Annotated[int, "replies to each prompt, compared with one another", Gt(0)] = 8
    grpo_epochs: Annotated[int, "passes over a step's groups", Gt(0)] = 1
    mini_batch: Annotated[int, "prompts in an update", Gt(0)] = 1024


def grpo(
    learner: Learner[Policy],
    reference: Policy,
    sampler: Sampler,
    reward: Reward,
    prompts: Iterable[Sequence[Prompt]],
    *,
    objective: Objective = GRPO,
    config: Config = Config(),
    seed: int = 0,
    recompute: bool = False,
) -> Algorithm:
    """One step for each batch of prompts: sample, score, compare, update.

    ``recompute`` where the learner's arithmetic is not the sampler's (bf16): the ratio then starts at 1 all the same.
    """
    for questions in prompts:
        sampler.load(learner.weights(), learner.version)
        groups = sampler.sample(questions, config.group)
        flat = [episode for group in groups for episode in group]
        scores, parts = scored(reward, flat)
        x = episodes(groups)
        old = learner.map(x, lambda model, cut: model.read(cut).logprobs).cpu() if recompute else logprobs(groups)
        said = learner.map(x, lambda _, cut: reference.read(cut).logprobs).to(old.device)
        gain = objective.advantage(scores.view(-1, config.group)).view(-1, 1).expand(old.shape)
        batch = Rollouts(x, old, said, gain)

        metrics: Metrics = {}
        for mini in minibatches(batch, config.mini_batch, config.grpo_epochs, key=seed + learner.version):
            metrics = learner.update(mini, objective)
            if metrics["skipped"]:
                break
        kl = policy.k1(old, said).sum(-1).mean().item()
        yield {**metrics, **parts, **described(flat, scores, x, old), "kl": kl}
