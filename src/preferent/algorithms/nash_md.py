"""Nash-MD with policy gradients (Munos et al. 2023): play against a mixture of oneself and the reference.

No reward is assumed, only P(y beats y'), which may go in circles. The opponent draws each token from
π^(1-share)·π_ref^share, normalised; the policy is moved by E[∇log π(y)·(P(y ≻ y') - ½ - τ·log π(y)/π_ref(y))], the KL
paid token by token. Its fixed point is π ∝ π_ref·exp(P(· ≻ opponent)/τ). With a share of 0, self-play, that is the Nash
equilibrium of the regularised game; it is what the paper's tabular Nash-MD converges to as its rate goes to 0. With a
larger share the opponent is nearer to the reference, and so is the fixed point. On the way the policy may circle:
averaged iterates settle sooner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from preferent.algorithms.said import drawn, observed, said
from preferent.losses.advantage import to_go
from preferent.losses.means import over_replies
from preferent.losses.policy import k1, reinforce
from preferent.types import (
    Algorithm,
    Annotator,
    Comparison,
    Episode,
    Learner,
    Loss,
    PerReply,
    Policy,
    Prompt,
    Reward,
    Sampler,
)

Duel = tuple[Episode, Episode]  # the policy's reply and its opponent's


@dataclass(frozen=True, slots=True)
class Fought(PerReply):
    """Replies with what each token brought."""

    gain: Tensor  # [r, t]


@dataclass(frozen=True, slots=True)
class Gradient:
    """-gain·log π summed over a reply, averaged over replies."""

    def counts(self, batch: Fought) -> Mapping[str, Tensor]:
        return {"policy": over_replies.count(batch.replies.learn)}

    def __call__(self, model: Policy, batch: Fought) -> Loss:
        logp, mask = model.read(batch.replies).logprobs, batch.replies.learn
        return Loss({"policy": (1.0, over_replies(reinforce(logp, logp.detach(), batch.gain, mask), mask))})


def nash_md(
    learner: Learner[Policy],
    reference: Policy,
    sampler: Sampler,
    opponent: Sampler,
    annotator: Annotator[Prompt, Episode],
    prompts: Iterable[Sequence[Prompt]],
    *,
    tau: float = 0.1,
    n: int = 1,
    watched: Reward | None = None,
    recompute: bool = False,
) -> Algorithm:
    """One update for each batch of prompts, with ``n`` duels to each. Duels without an answer are left out."""
    for own in drawn(learner, sampler, prompts, n):
        opponent.load(learner.weights(), learner.version)
        other = opponent.sample([group[0].prompt for group in own], n)
        duels = [duel for mine, theirs in zip(own, other, strict=True) for duel in zip(mine, theirs, strict=True)]
        asked = sum(a.tokens != b.tokens for a, b in duels)
        chances = fought(annotator, duels)
        known = [[a for a in mine if id(a) in chances] for mine in own]
        answered = {"answered": (len(chances) - len(duels) + asked) / max(asked, 1)}
        of = said(learner, reference, [group for group in known if group] or own, recompute=recompute)
        metrics = observed(of, watched)
        if not chances:
            yield {**learner.skip(), **metrics, **answered}
            continue
        won = torch.tensor([chances[id(episode)] for group in of.groups for episode in group])
        paid = to_go(tau * k1(of.old, of.reference), of.replies.learn)  # a token answers for the KL from there on
        learned = learner.update(Fought(of.replies, (won - 0.5)[:, None] - paid), Gradient())
        yield {**learned, **metrics, **answered, "won": won.mean().item()}


def fought(annotator: Annotator[Prompt, Episode], duels: Sequence[Duel]) -> dict[int, float]:
    """For each of the policy's replies, by identity, P(it beats its opponent's): ½ where both say the same.

    Replies whose duel nobody answered are missing; several answers are averaged.
    """
    asked = [Comparison(a.prompt, (a, b)) for a, b in duels if a.tokens != b.tokens]
    mine = {id(a) for a, _ in duels}
    said: dict[int, list[float]] = {}
    for a, b in duels:  # a sampler may give one object for what it drew twice
        if a.tokens == b.tokens:
            said.setdefault(id(a), []).append(0.5)
    for answer in annotator(asked) if asked else ():
        for option, chance in zip(answer.comparison.options, answer.choice, strict=True):
            if id(option) in mine:
                said.setdefault(id(option), []).append(chance)
    return {each: fmean(chances) for each, chances in said.items()}
