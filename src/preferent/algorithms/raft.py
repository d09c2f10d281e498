"""RAFT: sample, keep what the reward likes, and imitate it (Dong et al. 2023). Also known as rejection sampling.

Without moving what is drawn from, the same is best-of-n distillation: the policy goes to the distribution of the best
of n replies of the model as it was (Stiennon et al. 2020; Touvron et al. 2023, Llama 2's rejection sampling).
Left out of the paper: its KL penalty within the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from preferent.algorithms.rollouts import Source, marked
from preferent.algorithms.said import drawn, observed, said
from preferent.algorithms.sft import Likelihood
from preferent.data.collate import episodes
from preferent.rewards.finite import finite
from preferent.types import Algorithm, Learner, Policy, Prompt, Reward, Sampler

Keep = Callable[[Sequence[float]], list[int]]  # scores of a prompt's replies → places of those to imitate


def top(scores: Sequence[float], *, k: int = 1, least: float = float("-inf")) -> list[int]:
    """The ``k`` best that have at least this score; of equals the first."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [place for place in order[:k] if scores[place] >= least]


def raft(
    learner: Learner[Policy],
    reference: Policy,
    sampler: Sampler,
    reward: Reward,
    prompts: Iterable[Sequence[Prompt]],
    *,
    n: int = 8,
    keep: Keep = partial(top, k=1),
    source: Source | None = None,
    objective: Likelihood = Likelihood(),
    recompute: bool = False,
) -> Algorithm:
    """One update for each batch of prompts, on the replies kept; none where nothing is. The reference is only watched.

    ``source`` is whose weights draw, where it is not the policy itself.
    """
    for groups in drawn(learner, sampler, prompts, n, source=source):
        of = said(learner, reference, groups, recompute=recompute)
        marks = marked(reward, [episode for group in groups for episode in group])
        scores = marks.scores.view(-1, n).tolist()
        kept = [[(group[i], own[i]) for i in keep(finite(own))] for group, own in zip(groups, scores, strict=True)]
        chosen = [score for group in kept for _, score in group]
        worth = {"kept": len(chosen) / len(marks.scores)}
        if chosen:
            worth["reward_kept"] = sum(chosen) / len(chosen)
            learned = learner.update(episodes([[e for e, _ in group] for group in kept if group]), objective)
        else:
            learned = learner.skip()
        yield {**learned, **observed(of, marks, on_policy=source is None), **worth}
