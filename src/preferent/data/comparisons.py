"""From preferences and rankings to tensors: which pairs they are, and of which replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import torch

from preferent.data.collate import replies
from preferent.types import Episode, Pairs, Preference, Prompt, Ranking, Reply

Row = TypeVar("Row")
Said = Reply | Episode
Opinion = Preference[Prompt, Reply] | Ranking[Prompt, Reply] | Preference[Prompt, Episode]


def pairs(opinions: Sequence[Opinion], *, margins: Mapping[float, float] | None = None) -> Pairs:
    """Preferences and rankings over a batch in which a prompt, and a reply to it, stands once.

    A ranking becomes all its pairs, weighing one together (InstructGPT's K-wise loss). ``margins`` gives the margin
    for each strength (Llama 2, table 27); without it, margins are the data's column ``margin``, or 0. Raises KeyError
    for a strength not among them.
    """
    groups: dict[tuple[int, ...], tuple[Prompt, dict[tuple[int, ...], Said]]] = {}
    for opinion in opinions:
        prompt = opinion.comparison.context
        _, known = groups.setdefault(prompt.tokens, (prompt, {}))
        for option in opinion.comparison.options:
            known.setdefault(option.tokens, option)
    row = {key: i for i, key in enumerate((prompt, reply) for prompt, (_, known) in groups.items() for reply in known)}
    edges = [
        (row[context, a.tokens], row[context, b.tokens], choice, margin, weight)
        for opinion in opinions
        for context in [opinion.comparison.context.tokens]
        for a, b, choice, margin, weight in compared(opinion, margins or {})
    ]
    better, worse, choice, margin, weight = zip(*edges, strict=True) if edges else ((),) * 5
    return Pairs(
        replies([(prompt, list(known.values())) for prompt, known in groups.values()]),
        better=torch.tensor(better, dtype=torch.long),
        worse=torch.tensor(worse, dtype=torch.long),
        choice=torch.tensor(choice, dtype=torch.float32),
        margin=torch.tensor(margin, dtype=torch.float32),
        weight=torch.tensor(weight, dtype=torch.float32),
    )


def by_prompt(rows: Sequence[Row], prompt_of: Callable[[Row], Prompt]) -> list[list[Row]]:
    """All judgements of replies to one prompt together, so that a batch holds each prompt and reply once."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(prompt_of(row).tokens, []).append(row)
    return list(groups.values())


def grouped_pairs(groups: Sequence[Sequence[Opinion]], *, margins: Mapping[float, float] | None = None) -> Pairs:
    """``pairs`` of what ``by_prompt`` gives."""
    return pairs([opinion for group in groups for opinion in group], margins=margins)


def told_by(groups: Sequence[Sequence[Opinion]]) -> Iterator[tuple[Opinion, bool]]:
    """The opinion behind each pair of ``grouped_pairs``, and whether its better option is another than its first."""
    for group in groups:
        for opinion in group:
            for better, *_ in compared(opinion, {}):
                yield opinion, better is not opinion.comparison.options[0]


def compared(opinion: Opinion, margins: Mapping[float, float]) -> Iterator[tuple[Said, Said, float, float, float]]:
    """(better, worse, P(better is better), margin, weight) for each pair of options; equal ranks are ties.

    Of two options that a choice among several gives no chance at all, it says nothing: they are no pair.
    """
    options = opinion.comparison.options
    every = list(combinations(range(len(options)), 2))
    if isinstance(opinion, Ranking):
        for i, j in every:
            a, b = (i, j) if opinion.ranks[i] <= opinion.ranks[j] else (j, i)
            choice = 0.5 if opinion.ranks[i] == opinion.ranks[j] else 1.0
            yield options[a], options[b], choice, 0.0, 1 / len(every)
        return
    told = [(i, j) for i, j in every if opinion.choice[i] + opinion.choice[j] > 0]
    own = float(opinion.comparison.context.info.get("margin") or 0.0)  # a column that says it outright, as TRL's does
    margin = own if not margins else 0.0 if opinion.strength is None else margins[opinion.strength]
    for i, j in told:
        a, b = (i, j) if opinion.choice[i] >= opinion.choice[j] else (j, i)
        choice = opinion.choice[a] / (opinion.choice[a] + opinion.choice[b])
        yield options[a], options[b], choice, margin, 1 / len(told)
