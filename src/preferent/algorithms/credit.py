"""Which token gets the credit: from a step's scores to the advantage of each token [r, t], without a critic.

Every estimator is a function of the whole step, computed once before it is cut. What a method pays for leaving its
reference is in ``price``; an estimator takes it off the reply's score or pays it token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.losses.advantage import Advantage, standardised, to_go, whiten
from preferent.rewards.shaping import score_at_end


@dataclass(frozen=True, slots=True)
class Step:
    """A step's replies, ``n`` to each prompt."""

    n: int
    scores: Tensor  # [r]
    price: Tensor  # [r, t]: what each token pays for leaving the reference; 0 where that is in the loss
    mask: Tensor  # [r, t]: tokens to learn from
    parts: Mapping[str, Tensor]  # [r]: what each reward said, by name
    greedy: Tensor | None = None  # [p]: the score of each prompt's likeliest reply

    @property
    def rewards(self) -> Tensor:
        """[p, n]: scores less what their replies pay."""
        return (self.scores - self.price.sum(-1)).view(-1, self.n)

    def everywhere(self, gain: Tensor) -> Tensor:
        """An advantage for each reply, [p, n], at each of its tokens."""
        return gain.reshape(-1, 1).expand(self.mask.shape)


Estimator = Callable[[Step], Tensor]  # -> [r, t]


@dataclass(frozen=True, slots=True)
class InGroup:
    """A reply is compared with the other replies to its prompt."""

    advantage: Advantage

    def __call__(self, step: Step) -> Tensor:
        return step.everywhere(self.advantage(step.rewards))


@dataclass(frozen=True, slots=True)
class InStep:
    """A reply is compared with all replies of the step, whatever their prompts."""

    advantage: Advantage

    def __call__(self, step: Step) -> Tensor:
        return step.everywhere(self.advantage(step.rewards.view(1, -1)))


def from_greedy(step: Step) -> Tensor:
    """Reward less the score of the prompt's likeliest reply: ReMax (Li et al. 2023).

    The likeliest reply pays nothing for its KL, so the baseline is one of the prompt alone, and there is no bias.
    """
    if step.greedy is None:
        raise ValueError("this advantage compares replies with the likeliest one: give one that draws it")
    return step.everywhere(step.rewards - step.greedy.unsqueeze(-1))


def whitened_to_go(step: Step) -> Tensor:
    """What is still to come at each token, KL paid token by token, whitened over the step: REINFORCE++ (Hu 2025).

    There is no baseline but the step's mean, so one reply to a prompt is enough.
    """
    rewards = score_at_end(step.scores, step.mask) - step.price
    return whiten(to_go(rewards, step.mask), step.mask)


@dataclass(frozen=True, slots=True)
class Decoupled:
    """Each reward standardised in its group, their weighted sum whitened over the step: GDPO (Liu et al. 2026).

    A sum first and then its deviation would make (1, 0) and (0, 1) the same, and the loudest reward the only one.
    """

    weights: Mapping[str, float]  # of the rewards, by the names of their parts

    def __call__(self, step: Step) -> Tensor:
        if len(self.weights) < 2 or not self.weights.keys() <= step.parts.keys():
            raise ValueError(
                "rewards that are normalised apart have to be several, known by name: "
                f"asked for {sorted(self.weights)}, given {sorted(step.parts)}"
            )
        if step.price.any():
            raise ValueError("rewards that are normalised apart have no scale for a KL in the reward: take kl_reward 0")
        each = [w * standardised(step.parts[name].view(-1, step.n)) for name, w in self.weights.items()]
        total = sum(each[1:], each[0]).to(step.scores.dtype)
        return step.everywhere(whiten(total, torch.ones_like(total, dtype=torch.bool)))
