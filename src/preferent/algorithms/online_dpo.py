"""Online DPO: sample, have somebody compare the replies, learn from the answers (Guo et al. 2024).

Any loss on pairs, and any annotator: a reward, people behind a page, the policy itself. Pairs are the policy's own of
this very step, so the optimum does not depend on what was once sampled from whom: with Bradley–Terry's labels it is
π_ref·exp(r/β), normalised. An annotator may answer fewer than it was asked; only its answers are learned from.

With a reference that is moved (``algorithms.tr_dpo.following``) this is iterated DPO (Xu et al. 2023; Xiong et al.
2024); each move starts another optimisation from there, so after k of them the optimum is π_0·exp(k·r/β).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from preferent.algorithms.answers import Asking, in_pairs, learned
from preferent.algorithms.dpo import DPO, Objective
from preferent.algorithms.said import drawn, observed, said
from preferent.types import Algorithm, Annotator, Episode, Learner, Policy, Prompt, Reward, Sampler


def online_dpo(
    learner: Learner[Policy],
    reference: Policy,
    sampler: Sampler,
    annotator: Annotator[Prompt, Episode],
    prompts: Iterable[Sequence[Prompt]],
    *,
    objective: Objective = DPO,
    n: int = 2,
    asking: Asking = in_pairs,
    watched: Reward | None = None,
    recompute: bool = False,
) -> Algorithm:
    """One step for each batch of prompts: ``n`` replies to each, compared where they differ, and one update.

    ``watched`` is a reward whose mean is told, and nothing else. ``recompute`` where the learner's arithmetic is not
    the sampler's (bf16).
    """
    for groups in drawn(learner, sampler, prompts, n):
        of = said(learner, reference, groups, recompute=recompute)
        metrics = observed(of, watched)
        yield {**learned(learner, of, annotator, objective, asking), **metrics}
