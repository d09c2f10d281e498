"""SPIN, self-play fine-tuning (Chen et al. 2024): demonstrations against the policy's own replies of an iteration ago.

The opponent is the reference: what it says is the worse reply, what people wrote the better one. Moved to the policy
after each iteration (``algorithms.tr_dpo.following``), it gets harder to beat, until nothing tells it from the data:
the optimum of an iteration is π_k·(p_data/π_k)^(1/β), normalised, so that p_data alone is a fixed point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from preferent.algorithms.dpo import DPO, Objective, referred
from preferent.algorithms.rollouts import Opponent
from preferent.data.comparisons import pairs
from preferent.types import Algorithm, Comparison, Demonstration, Learner, Policy, Preference, Reply, Sampler


def spin(
    learner: Learner[Policy],
    reference: Opponent,
    sampler: Sampler,
    demonstrations: Iterable[Sequence[Demonstration]],
    *,
    objective: Objective = DPO,
) -> Algorithm:
    """One update for each batch; ``sampler`` draws from the reference. A reply that is the demonstration is no pair."""
    for rows in demonstrations:
        sampler.load(reference.weights(), learner.version)
        said = [Reply(e.tokens, e.learn, e.text) for (e,) in sampler.sample([row.prompt for row in rows], 1)]
        opinions = [
            Preference(Comparison(row.prompt, (row.reply, reply)), (1.0, 0.0))
            for row, reply in zip(rows, said, strict=True)
            if row.reply.tokens != reply.tokens
        ]
        if opinions:
            learned = learner.update(referred(learner, reference, pairs(opinions), objective), objective)
        else:
            learned = learner.skip()
        yield {**learned, "length": sum(len(reply.tokens) for reply in said) / len(said)}
