"""What three policies say of a step's replies: the sampler, the learner before the step, and the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from preferent.algorithms.drawing import Drawing, Drawn
from preferent.algorithms.rollouts import apart, averaged, described
from preferent.data.collate import episodes, logprobs
from preferent.losses.policy import k1
from preferent.types import Learner, Metrics, Policy, Replies


@dataclass(frozen=True, slots=True)
class Said:
    """A step's replies as tensors, and what was said of them. All [r, t]."""

    replies: Replies
    behaviour: Tensor  # log-probability under the sampler
    old: Tensor  # under the learner before the step where it was asked, else the sampler's
    reference: Tensor
    counted: Replies  # those to learn from: the same, without what is masked
    weight: Tensor | float = 1.0  # of the advantage, where there is a correction


def said(learner: Learner[Policy], reference: Policy, drawn: Drawn, how: Drawing = Drawing()) -> Said:
    """Ask the reference, and where its own word is wanted the learner."""
    x, behaviour = episodes(drawn.groups), logprobs(drawn.groups)
    own = how.recompute or how.correction is not None
    old = learner.map(x, lambda model, cut: model.read(cut).logprobs).cpu() if own else behaviour
    theirs = learner.map(x, lambda _, cut: reference.read(cut).logprobs).to(old.device)
    counted, weight = x, 1.0 if how.correction is None else how.correction(old, behaviour, x.learn)
    if how.mask_truncated:
        ended = torch.tensor([episode.stop != "length" for episode in drawn.flat]).unsqueeze(-1)
        counted = replace(x, learn=x.learn & ended)
    return Said(x, behaviour, old, theirs, counted, weight)


def watched(drawn: Drawn, of: Said, how: Drawing) -> Metrics:
    """What a person watches of a step, whatever is learned from it."""
    flat, x = drawn.flat, of.replies
    told = {**averaged(drawn.marks.parts), **described(flat, drawn.marks.scores, x, of.old)}
    told["kl"] = k1(of.old, of.reference).sum(-1).mean().item()
    if of.old is not of.behaviour:
        told |= {name: mean.value for name, mean in apart(of.old, of.behaviour, x.learn).items()}
    if how.attempts:
        told |= {"even_groups": sum(drawn.even()) / len(drawn.groups), "prompt_batches": float(drawn.batches)}
    return told
