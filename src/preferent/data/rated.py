"""Replies judged one by one, and beside them replies to other prompts, which show how far a policy has drifted.

A prompt's *others* are all the replies to the prompt that comes next in the file (after the last, to the first). They
are the same in every epoch, so what a reference says of them is asked once; and over an epoch each reply stands once
with its own prompt and once with another, so that both kinds are the same replies.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from preferent.config import UsageError
from preferent.data import collate, comparisons
from preferent.data.arrow import prompt_of
from preferent.data.columns import Unpaired
from preferent.data.load import Loaded, Opinion, Source, load
from preferent.data.reading import Reading
from preferent.data.template import Template
from preferent.types import Prompt, Replies, Reply

Judgement = Unpaired[Prompt, Reply] | Opinion
LONE = "all rows have the same prompt, and what is expected of a reply is measured on replies to other prompts"
ALONE = (
    "The %d judgements of a step are all of one prompt, so that nothing shows what is expected of a reply: z₀ is 0 "
    "there. A larger --batch, or rows in another order, mends that."
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rated:
    """Replies that were judged, and the same prompts with others, which nobody judged as an answer to them."""

    replies: Replies
    desirable: Tensor  # [r] in [0, 1]
    weight: Tensor  # [r] how many judgements
    others: Replies | None = None

    @property
    def asked(self) -> list[Replies]:
        """What a reference is asked about, in the batches in which a step reads it."""
        return [self.replies] if self.others is None else [self.replies, self.others]


class Judged(NamedTuple):
    """A prompt's judgements, and what was said to another prompt."""

    own: Sequence[Judgement]
    others: Sequence[Judgement] = ()


def load_rated(
    source: Source, template: Template | Any, reading: Reading = Reading(), *, others: bool = True
) -> Loaded[Judged]:
    """Replies with a label, pairs and rankings alike, by their prompts, with or without others.

    Raises UsageError where others are wanted and there is one prompt only.
    """
    made = template if isinstance(template, Template) else Template(template)
    loaded: Loaded[Any] = load(source, made, "rated", reading)
    rows = Neighbours(loaded.by_prompt(), others)
    if others and len(rows) < 2:
        raise UsageError(f"{loaded.report[0].source}: {LONE}.\nGive rows with several prompts, or --objective bco.")
    return replace(loaded, rows=rows, collate=Collate(made.max_length))


@dataclass(frozen=True)
class Neighbours(Sequence[Judged]):
    """Groups of judgements, each with the next one; they may be on disk."""

    groups: Sequence[Sequence[Judgement]]
    others: bool = True

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, i: int, /) -> Judged: ...
    @overload
    def __getitem__(self, i: slice, /) -> list[Judged]: ...
    def __getitem__(self, i: int | slice, /) -> Judged | list[Judged]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        own = self.groups[i]
        return Judged(own, self.groups[(i + 1) % len(self)] if self.others and len(self) > 1 else ())


@dataclass(frozen=True)
class Collate:
    """Rows to batches. An other reply is cut where with its prompt it would be longer than any row may be."""

    longest: int | None = None  # tokens of a prompt with a reply

    def __call__(self, rows: Sequence[Judged]) -> Rated:
        judged = [rated(own) for own, _ in rows]
        prompts = [prompt_of(own[0]) for own, _ in rows]
        marks = [(desirable, weight) for each in judged for _, desirable, weight in each]
        desirable, weight = torch.tensor(marks, dtype=torch.float32).T.contiguous()
        own = [(prompt, [reply for reply, _, _ in each]) for prompt, each in zip(prompts, judged, strict=True)]
        others = [
            (prompt, [self.cut(prompt, reply) for reply, _, _ in rated(strange)])
            for prompt, (_, strange) in zip(prompts, rows, strict=True)
            if strange
        ]
        return Rated(collate.replies(own), desirable, weight, collate.replies(others) if others else None)

    def cut(self, prompt: Prompt, reply: Reply) -> Reply:
        if self.longest is None:
            return reply
        left = max(self.longest - len(prompt.tokens), 1)
        return replace(reply, tokens=reply.tokens[:left], learn=reply.learn[:left])


@dataclass(frozen=True)
class Streamed:
    """The same for single judgements as a stream gives them: the next prompt is that of the batch."""

    longest: int | None = None
    others: bool = True

    def __call__(self, rows: Sequence[Judgement]) -> Rated:
        groups = comparisons.by_prompt(rows, prompt_of)
        if self.others and len(groups) < 2:
            log.warning(ALONE, len(rows))
        return Collate(self.longest)(Neighbours(groups, self.others))


def rated(judgements: Sequence[Judgement]) -> list[tuple[Reply, float, float]]:
    """(reply, how desirable, how many judgements) for each different reply to a prompt; desirable by their mean."""
    found: dict[tuple[int, ...], tuple[Reply, float, int]] = {}
    for judgement in judgements:
        for reply, desirable in marks_of(judgement):
            known, total, count = found.get(reply.tokens, (reply, 0.0, 0))
            found[reply.tokens] = (known, total + desirable, count + 1)
    return [(reply, total / count, float(count)) for reply, total, count in found.values()]


def marks_of(judgement: Judgement) -> list[tuple[Reply, float]]:
    """How desirable each reply is. In a comparison that is its share of wins, which for a pair is the label itself.

    A tie is ½ for both; of two that are both bad, neither is desirable.
    """
    if isinstance(judgement, Unpaired):
        return [(judgement.option, float(judgement.good))]
    if getattr(judgement, "both_bad", False):
        return [(option, 0.0) for option in judgement.comparison.options]
    won: dict[tuple[int, ...], list[float]] = {option.tokens: [] for option in judgement.comparison.options}
    for better, worse, choice, _, _ in comparisons.compared(judgement, {}):
        won[better.tokens].append(choice)
        won[worse.tokens].append(1 - choice)
    # An option without a pair is one of several that a choice gave no chance at all.
    return [(option, sum(w) / max(len(w), 1)) for option in judgement.comparison.options for w in [won[option.tokens]]]
