"""How a step of every sampling method begins: replies are drawn and scored, on time or ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from preferent.algorithms.ahead import Ahead, lagged
from preferent.algorithms.rollouts import Drawn, Marks, marked
from preferent.algorithms.said import Said, observed
from preferent.losses.policy import Correction
from preferent.types import Learner, Metrics, Policy, Prompt, Replies, Reward, Sampler


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a step's replies are drawn, and which of them count.

    With ``max_staleness`` s, the replies that are learned from at step i were drawn with the weights after step i - s
    (after a start, with those of the start), while the learner updated. It takes a sampler with a policy of its own.
    A prompt that stands in two of the batches drawn at the start gets the same replies in both.
    """

    max_staleness: int = 0  # steps; 0 draws with the weights that learn
    attempts: int = 0  # further batches of prompts in place of those whose replies all score the same
    mask_truncated: bool = False  # replies cut off at their length leave the loss, but are compared with as before
    greedy: Sampler | None = None  # says each prompt's likeliest reply, for a baseline
    judge: Reward | None = None  # marks that reply, where the reward itself learns from what it marks
    recompute: bool = False  # ask the learner, if its weights drew: in bf16 it has an arithmetic of its own
    correction: Correction | None = None  # of what older weights, or other arithmetic, drew; recomputes, too

    @property
    def asked(self) -> bool:
        """Whether the learner says the old log-probabilities: of older weights' replies only beside a correction."""
        return self.correction is not None or (self.recompute and not self.max_staleness)


def draws(
    learner: Learner[Policy],
    sampler: Sampler,
    reward: Reward,
    prompts: Iterable[Sequence[Prompt]],
    n: int,
    how: Drawing = Drawing(),
) -> Iterator[Drawn]:
    """``n`` replies to each prompt of each batch, scored."""
    turn = prompts.drawing if isinstance(prompts, Ahead) else nullcontext()
    draw = Draw(sampler, reward, iter(prompts), n, how, turn)

    def begin() -> Callable[[], Drawn | None]:
        weights = learner.weights()
        if how.max_staleness:  # they will have moved by then
            drawn_from = {k: v for k, v in weights.items() if not k.startswith("critic.")}  # which draws nothing
            weights = {k: v.detach().clone() if v.requires_grad else v for k, v in drawn_from.items()}
        return partial(draw, weights, learner.version)

    for drawn in lagged(begin, how.max_staleness):
        if isinstance(prompts, Ahead):
            prompts.consumed(drawn.batches)
        yield drawn


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws the replies of a step, wherever it runs."""

    sampler: Sampler
    reward: Reward
    coming: Iterator[Sequence[Prompt]]
    n: int
    how: Drawing
    turn: AbstractContextManager[object]

    def __call__(self, weights: Mapping[str, Tensor], version: int) -> Drawn | None:
        with self.turn:
            for each in (self.sampler, self.how.greedy):
                if each is not None:
                    each.load(weights, version)
            questions = next(self.coming, None)
            return None if questions is None else self.spread(questions)

    def spread(self, questions: Sequence[Prompt]) -> Drawn:
        """Replies to these questions, or where all of a prompt's score the same, to others of the next batches."""
        drawn, seen = self.ask(questions), {prompt.tokens for prompt in questions}
        for _ in range(self.how.attempts):
            more = next(self.coming, None) if any(drawn.even()) else None
            if more is None:
                break
            # A prompt that was asked with these weights would get the same replies.
            new = [prompt for prompt in more if prompt.tokens not in seen]
            seen |= {prompt.tokens for prompt in new}
            drawn = replace(refilled(drawn, self.ask(new)) if new else drawn, batches=drawn.batches + 1)
        return drawn

    def ask(self, questions: Sequence[Prompt]) -> Drawn:
        groups = self.sampler.sample(questions, self.n)
        marks = marked(self.reward, [episode for group in groups for episode in group])
        if self.how.greedy is None:
            return Drawn(groups, marks)
        likeliest = [episode for group in self.how.greedy.sample(questions, 1) for episode in group]
        return Drawn(groups, marks, marked(self.how.judge or self.reward, likeliest).scores)


def refilled(drawn: Drawn, more: Drawn) -> Drawn:
    """Groups without spread replaced by others that have some, as far as there are any."""
    even = [p for p, same in enumerate(drawn.even()) if same]
    found = [p for p, same in enumerate(more.even()) if not same][: len(even)]
    taken = dict(zip(even, found, strict=False))
    n = len(drawn.groups[0])

    def mixed(mine: Tensor, other: Tensor, each: int) -> Tensor:
        mine = mine.clone().view(-1, each)
        mine[list(taken)] = other.view(-1, each)[list(taken.values())]
        return mine.view(-1)

    zeros = torch.zeros(len(more.marks.scores), dtype=torch.float64)
    parts = {name: mixed(part, more.marks.parts.get(name, zeros), n) for name, part in drawn.marks.parts.items()}
    greedy = None
    if drawn.greedy is not None and more.greedy is not None:
        greedy = mixed(drawn.greedy, more.greedy, 1)
    groups = [more.groups[taken[p]] if p in taken else group for p, group in enumerate(drawn.groups)]
    return Drawn(groups, Marks(mixed(drawn.marks.scores, more.marks.scores, n), parts), greedy)


def counted(drawn: Drawn, of: Said, how: Drawing) -> tuple[Replies, Tensor | None]:
    """The replies without what is masked, and where there is a correction what their tokens weigh, [r, t]."""
    x, weight = of.replies, None if how.correction is None else how.correction(of.old, of.behaviour, of.replies.learn)
    if how.mask_truncated:
        ended = torch.tensor([episode.stop != "length" for episode in drawn.flat]).unsqueeze(-1)
        x = replace(x, learn=x.learn & ended)
    return x, weight


def watched(drawn: Drawn, of: Said, how: Drawing) -> Metrics:
    """What a person watches of a step that was scored, whatever is learned from it."""
    told = observed(of, drawn.marks)
    again = {"even_groups": sum(drawn.even()) / len(drawn.groups), "prompt_batches": float(drawn.batches)}
    return {**told, **again} if how.attempts else told
