"""On-policy distillation: the student speaks, and the teacher says of each of its tokens how likely it is.

The reverse KL at every token of the student's own replies (Agarwal et al. 2023, GKD with λ = 1; Gu et al. 2023,
MiniLLM). A token's advantage is log π_teacher - log π, as in Lu 2025 ("On-policy distillation", Thinking Machines): no
token answers for what comes after it. Left out of GKD: KLs over the whole vocabulary, other divergences, and replies
from a data set; of MiniLLM: what later tokens are worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from preferent.algorithms.said import drawn, observed, said
from preferent.losses.means import over_tokens
from preferent.losses.policy import k2
from preferent.types import Algorithm, Learner, Loss, PerReply, Policy, Prompt, Sampler


@dataclass(frozen=True, slots=True)
class Taught(PerReply):
    """The student's replies, with what the teacher says of them."""

    teacher: Tensor  # [r, t] log-probabilities


@dataclass(frozen=True, slots=True)
class Distillation:
    """½·(log π - log π_teacher)², whose gradient on-policy is that of KL(π ‖ π_teacher) at each token (k2)."""

    def counts(self, batch: Taught) -> Mapping[str, Tensor]:
        return {"distance": over_tokens.count(batch.replies.learn)}

    def __call__(self, model: Policy, batch: Taught) -> Loss:
        each = k2(model.read(batch.replies).logprobs, batch.teacher)
        return Loss({"distance": (1.0, over_tokens(each, batch.replies.learn))})


def distill(
    learner: Learner[Policy],
    teacher: Policy,
    sampler: Sampler,
    prompts: Iterable[Sequence[Prompt]],
    *,
    n: int = 4,
    recompute: bool = False,
) -> Algorithm:
    """One update for each batch of prompts, ``n`` replies to each. The KL that is told is the one to the teacher."""
    for groups in drawn(learner, sampler, prompts, n):
        of = said(learner, teacher, groups, recompute=recompute)
        yield {**learner.update(Taught(of.replies, of.reference), Distillation()), **observed(of)}
