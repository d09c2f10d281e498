"""XPO: online DPO that explores (Xie et al. 2024, algorithm 1).

Of two replies to a prompt one is the policy's and one the reference's, and what the reference says is made less likely
besides. That moves the optimum away from online DPO's π_ref·exp(r/β), by as much as ``alpha`` says; the paper lets it
go to 0. Where α exceeds β times the chance that a reply of the reference wins, DPO's pull back, at most that much,
gives way, and the reply's likelihood falls without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch
from torch import Tensor

from preferent.algorithms.answers import Opinions, answered, referred
from preferent.algorithms.dpo import Objective, Referred, Side, mixed
from preferent.algorithms.rollouts import Opponent
from preferent.algorithms.said import Said, drawn, observed, said
from preferent.data.collate import episodes
from preferent.losses import preference
from preferent.types import (
    Algorithm,
    Annotator,
    Comparison,
    Episode,
    Learner,
    Policy,
    Preference,
    Prompt,
    Reward,
    Sampler,
)


def exploring(*, beta: float = 0.1, alpha: float = 1e-5) -> Objective:
    """Its loss, on pairs whose leading side is the policy's own reply; the other one is the reference's."""

    def loss(better: Side, worse: Side) -> Tensor:
        theirs = worse.logp().where(better.lead > 0, better.logp())
        return preference.xpo(better.ratio(), worse.ratio(), theirs, beta=beta, alpha=alpha)

    return Objective(mixed(loss))


def xpo(
    learner: Learner[Policy],
    reference: Opponent,
    sampler: Sampler,
    opponent: Sampler,
    annotator: Annotator[Prompt, Episode],
    prompts: Iterable[Sequence[Prompt]],
    *,
    objective: Objective,
    watched: Reward | None = None,
    recompute: bool = False,
) -> Algorithm:
    """One update for each batch of prompts. ``opponent`` draws from the reference, with noise of its own."""
    for own in drawn(learner, sampler, prompts, 1):
        opponent.load(reference.weights(), learner.version)
        other = opponent.sample([group[0].prompt for group in own], 1)
        duels = [(a, b) for (a,), (b,) in zip(own, other, strict=True)]
        of = said(learner, reference, duels, recompute=recompute)
        metrics = observed(first(of), watched)
        asked = [Comparison(a.prompt, (a, b)) for a, b in duels if a.tokens != b.tokens]
        answers = annotator(asked) if asked else []
        # Where both say the same nothing is compared, but it is still the reference's reply.
        alike = [Preference(Comparison(a.prompt, (a, b)), (0.5, 0.5)) for a, b in duels if a.tokens == b.tokens]
        opinions = [*answers, *alike]
        if opinions:
            batch = sided(referred(of, opinions), opinions, {id(a) for a, _ in duels})
            learned = learner.update(batch, objective)
        else:
            learned = learner.skip()
        yield {**learned, **metrics, "answered": answered(answers, asked)}


def first(of: Said) -> Said:
    """Of pairs of replies the first ones."""
    own = [[group[0]] for group in of.groups]
    x = episodes(own)
    behaviour, old, reference = (each[::2, : x.tokens.shape[1]] for each in (of.behaviour, of.old, of.reference))
    return Said(own, x, old if of.old is of.behaviour else behaviour, old, reference)


def sided(batch: Referred, opinions: Opinions, own: AbstractSet[int]) -> Referred:
    """The same pairs with the policy's reply in the lead, which is what the sign of a margin says here."""
    first = [o.choice[0] >= o.choice[1] for o in opinions]  # is the better one, as in ``comparisons.compared``
    leads = [(id(o.comparison.options[0]) in own) == better for o, better in zip(opinions, first, strict=True)]
    margin = torch.tensor([1.0 if lead else -1.0 for lead in leads])
    return replace(batch, pairs=replace(batch.pairs, margin=margin))
