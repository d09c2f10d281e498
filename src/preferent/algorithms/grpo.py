"""Policy gradients without a critic: replies to a prompt, or of a step, are compared with one another.

From REINFORCE to GRPO and its relatives they differ in three places only: how rewards become advantages, the surrogate
at a token, and how tokens are averaged; and in whether leaving the reference is paid in the reward or in the loss.
Left out of GRPO's paper (Shao et al. 2024): its k3 term, whose gradient is that of the *forward* KL. The KL term is
k2, which on-policy has the reverse KL's gradient token by token. With the KL in the reward, REINFORCE, RLOO, ReMax and
REINFORCE++ have the fixed point π_ref·exp(r/β). With it in the loss it is another: a token's KL knows nothing of what
comes after it, and beside standardised rewards its price differs from prompt to prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from preferent.algorithms.credit import Estimator, InGroup, InStep, Step, from_greedy, whitened_to_go
from preferent.algorithms.drawing import Drawing, counted, draws, watched
from preferent.algorithms.rollouts import Rollouts, apart, learned, minibatches
from preferent.algorithms.said import said
from preferent.losses import policy
from preferent.losses.advantage import centred, leave_one_out, max_rl, standardised
from preferent.losses.means import Average, over_budget, over_replies, over_sequences, over_tokens
from preferent.types import Algorithm, Learner, Loss, Policy, Prompt, Reward, Sampler


@dataclass(frozen=True, slots=True)
class Weighed(Rollouts):
    """Rollouts of what another policy drew than the one that learns; the advantage has the weight already."""

    weight: Tensor  # [r, t]: how much likelier the learner draws the token, or the reply


@dataclass(frozen=True, slots=True)
class Objective:
    """A surrogate over tokens, averaged, plus a price for leaving the reference."""

    advantage: Estimator = InGroup(standardised)
    surrogate: policy.Surrogate = policy.clipped
    average: Average = over_sequences
    kl: float = 0.04  # weight of the KL(policy || reference) as a loss, nats a token
    kl_reward: float = 0.0  # what a nat of the reply's KL costs in the reward
    divergence: policy.Divergence = policy.reverse  # what the loss is of which ``kl`` is the weight

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
            away = self.divergence(logp, batch.old, batch.reference, mask)
            away = away * batch.weight if isinstance(batch, Weighed) else away
            terms["kl_loss"] = (self.kl, self.average(away, mask))
        drift = (logp.detach() - batch.old).abs()
        return Loss(terms, {"drift": over_tokens(drift, mask), **apart(logp, batch.old, mask)})


GRPO = Objective()
DR_GRPO = Objective(InGroup(centred), average=over_budget(length=1024))
DAPO = Objective(surrogate=partial(policy.clipped, low=0.2, high=0.28), average=over_tokens, kl=0.0)
GSPO = Objective(surrogate=policy.gspo, kl=0.0)
CISPO = Objective(surrogate=policy.cispo, average=over_tokens, kl=0.0)
GMPO = Objective(surrogate=policy.gmpo, kl=0.0)
SAPO = Objective(surrogate=policy.sapo, kl=0.0)
# Of the whole reply, without clipping: for one update a step, or with a correction for what drew.
REINFORCE = Objective(InStep(leave_one_out), policy.reinforce, over_replies, kl=0.0, kl_reward=0.05)
RLOO = Objective(InGroup(leave_one_out), policy.reinforce, over_replies, kl=0.0, kl_reward=0.05)
REMAX = Objective(from_greedy, policy.reinforce, over_replies, kl=0.0, kl_reward=0.05)
MAX_RL = Objective(InGroup(max_rl), policy.reinforce, over_replies, kl=0.0)
REINFORCE_PLUS = Objective(whitened_to_go, policy.clipped, over_tokens, kl=0.0, kl_reward=0.01)


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
    how: Drawing = Drawing(),
) -> Algorithm:
    """One step for each batch of prompts: sample, score, compare, update."""
    for drawn in draws(learner, sampler, reward, prompts, config.group, how):
        of = said(learner, reference, drawn.groups, recompute=how.asked)
        x, weight = counted(drawn, of, how)
        scores, parts = drawn.marks
        price = objective.kl_reward * policy.k1(of.old, of.reference)
        step = Step(config.group, scores, price, x.learn, parts, drawn.greedy)
        batch = Rollouts(x, of.old, of.reference, objective.advantage(step))
        if weight is not None:
            batch = Weighed(x, of.old, of.reference, batch.advantage * weight, weight)
        minis = minibatches(batch, config.mini_batch, config.grpo_epochs, key=seed + learner.version)
        yield {**learned(learner, minis, objective), **watched(drawn, of, how)}
