"""PPO for language models (Ziegler et al. 2019; Stiennon et al. 2020; Ouyang et al. 2022).

The score arrives at the last token; the KL to the reference is paid at every token; a critic predicts what is still to
come. Beside that, where it is asked for: a bonus for entropy, dual clipping, the likelihood of other text (PPO-ptx).
Left out: early stopping on the step's KL, which at these clip ranges changes little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from preferent.algorithms.beside import Beside, Together
from preferent.algorithms.drawing import Drawing, counted, draws, watched
from preferent.algorithms.rollouts import Rollouts, apart, learned, minibatches
from preferent.algorithms.said import said
from preferent.algorithms.sft import Likelihood
from preferent.losses import policy
from preferent.losses.advantage import gae, whiten
from preferent.losses.means import over_tokens
from preferent.rewards.shaping import AdaptiveKL, kl_in_reward
from preferent.types import ActorCritic, Algorithm, Learner, Loss, Policy, Prompt, Replies, Reward, Sampler


@dataclass(frozen=True, slots=True)
class Config:
    """PPO."""

    gamma: Annotated[float, "discount of what comes one token later"] = 1.0
    lam: Annotated[float, "GAE's λ: 1 trusts the returns, 0 the critic"] = 0.95
    clip: Annotated[float, "how far a token's probability ratio may move in a step"] = 0.2
    value_clip: Annotated[float, "how far a value may move in a step"] = 0.2
    value_weight: Annotated[float, "weight of the critic's loss beside the policy's"] = 0.1
    ppo_epochs: Annotated[int, "passes over a step's replies", Gt(0)] = 4
    mini_batch: Annotated[int, "prompts in an update", Gt(0)] = 64
    whiten_advantages: Annotated[bool, "shift and scale a step's advantages to mean 0, variance 1"] = True
    entropy_bonus: Annotated[
        float, "what a nat of a token's entropy is worth; keeps replies from all being one", Ge(0)
    ] = 0.0
    dual_clip: Annotated[
        float | None, "stop learning from a bad token that became more than so many times as likely (3 is usual)", Gt(1)
    ] = None
    ptx_weight: Annotated[float, "weight of the likelihood of --ptx-data beside the policy's loss (PPO-ptx)", Ge(0)] = (
        1.0
    )


@dataclass(frozen=True, slots=True)
class Critiqued(Rollouts):
    """Rollouts, with what the critic thought of them and what it should have thought. All [r, t]."""

    value: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """The clipped surrogate and the clipped value loss, both over tokens."""

    config: Config

    def counts(self, batch: Critiqued) -> Mapping[str, Tensor]:
        tokens = over_tokens.count(batch.replies.learn)
        return {"policy": tokens, "value": tokens, "entropy_bonus": tokens}

    def __call__(self, model: ActorCritic, batch: Critiqued) -> Loss:
        mask, config = batch.replies.learn, self.config
        reading, values = model.read_with_values(batch.replies, entropy=config.entropy_bonus > 0)
        logp, value = reading.logprobs, values[:, :-1]
        clipped = partial(policy.clipped, low=config.clip, high=config.clip, dual=config.dual_clip)
        actor = clipped(logp, batch.old, batch.advantage, mask)
        critic = policy.clipped_value(value, batch.value, batch.target, clip=config.value_clip)
        moved = (logp.detach() - batch.old).exp()
        metrics = {
            "drift": over_tokens((moved - 1).abs(), mask),
            "clipped": over_tokens(((moved - 1).abs() > config.clip).float(), mask),
            **apart(logp, batch.old, mask),
        }
        terms = {"policy": (1.0, over_tokens(actor, mask)), "value": (config.value_weight, over_tokens(critic, mask))}
        if reading.entropy is not None:
            terms["entropy_bonus"] = (-config.entropy_bonus, over_tokens(reading.entropy, mask))
        return Loss(terms, metrics)


def ppo(
    learner: Learner[ActorCritic],
    reference: Policy,
    sampler: Sampler,
    reward: Reward,
    prompts: Iterable[Sequence[Prompt]],
    *,
    price: AdaptiveKL,
    config: Config = Config(),
    seed: int = 0,
    how: Drawing = Drawing(),
    text: Iterable[Replies] = (),
) -> Algorithm:
    """One step for each batch of prompts: respond, score, pay for KL, estimate advantages, update, adapt the price.

    With ``text``, each update takes a batch of it besides, to keep its likelihood (PPO-ptx); its state counts updates.
    """
    objective, rows = Objective(config), iter(text)
    both = Together(objective, Likelihood(), config.ptx_weight, "ptx")
    for drawn in draws(learner, sampler, reward, prompts, 1, how):
        of = said(learner, reference, drawn.groups, recompute=how.asked)
        x, (to_learn, weight) = of.replies, counted(drawn, of, how)
        values = learner.map(x, lambda model, cut: model.values(cut)).to(of.old.device)
        rewards = kl_in_reward(drawn.marks.scores, of.old, of.reference, x.learn, beta=price.beta)
        gain, target = gae(rewards, values, x.learn, gamma=config.gamma, lam=config.lam)
        if config.whiten_advantages:
            gain = whiten(gain, to_learn.learn)
        gain = gain if weight is None else gain * weight
        batch = Critiqued(to_learn, of.old, of.reference, gain, value=values[:, :-1], target=target)
        minis = minibatches(batch, config.mini_batch, config.ppo_epochs, key=seed + learner.version)
        if text:
            step = learned(learner, (Beside(mini, next(rows)) for mini in minis), both)
        else:
            step = learned(learner, minis, objective)
        told = {**step, **watched(drawn, of, how)}
        paid = price.beta
        price.update(told["kl"], len(drawn.groups))
        yield {**told, "kl_price": paid}
