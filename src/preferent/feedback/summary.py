"""What several people said of one item, as one: a distribution over the options, ranks, ratings, labels of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import fsum
from typing import Protocol

from preferent.feedback.records import Choice, Judgement, Ranks, Ratings, Steps


class Chosen(Protocol):
    """A choice between options, as a store or training has it."""

    @property
    def choice(self) -> tuple[float, ...]: ...
    @property
    def strength(self) -> float | None: ...
    @property
    def both_bad(self) -> bool: ...


@dataclass(frozen=True)
class Summary:
    """Of the choices that people made between the options of an item; places are canonical."""

    choice: tuple[float, ...]  # the mean of their distributions
    strength: float | None  # mean of those given, with their sign: against the option preferred counts below 0; from 0
    both_bad: bool  # so said more than half of them

    @property
    def order(self) -> tuple[int, ...]:
        """Places, the most preferred first; equal ones as they stand."""
        return tuple(sorted(range(len(self.choice)), key=lambda place: -self.choice[place]))


def choices(judgements: Sequence[Judgement]) -> Summary | None:
    """None where nobody chose."""
    said = [each.answer for each in judgements if isinstance(each.answer, Choice)]
    return together(said) if said else None


def together(said: Sequence[Chosen]) -> Summary:
    """At least one choice, all between the same options in the same order."""
    choice = mean([answer.choice for answer in said])
    best = max(range(len(choice)), key=choice.__getitem__)
    towards = [signed(answer, best) for answer in said if answer.strength is not None]
    strength = max(0.0, fsum(towards) / len(towards)) if towards else None
    return Summary(choice, strength, 2 * sum(answer.both_bad for answer in said) > len(said))


def aspects(judgements: Sequence[Judgement]) -> dict[str, tuple[float, ...]]:
    """For each aspect that was asked of choices, the mean of the distributions of those who answered."""
    said = [each.answer.aspects for each in judgements if isinstance(each.answer, Choice)]
    names = dict.fromkeys(name for one in said for name in one)
    return {name: mean([one[name] for one in said if name in one]) for name in names}


def signed(answer: Chosen, best: int) -> float:
    """Its strength, positive where it prefers ``best``, 0 for a tie."""
    most = max(answer.choice)
    if answer.choice.count(most) > 1 or answer.strength is None:
        return 0.0
    return answer.strength if answer.choice[best] == most else -answer.strength


def ranks(judgements: Sequence[Judgement]) -> tuple[int, ...] | None:
    """By mean rank, from 0 on; None where nobody ranked."""
    said = [each.answer.ranks for each in judgements if isinstance(each.answer, Ranks)]
    return dense(mean(said)) if said else None


def ratings(judgements: Sequence[Judgement]) -> tuple[float, ...] | None:
    """Mean ratings; None where nobody rated."""
    said = [each.answer.ratings for each in judgements if isinstance(each.answer, Ratings)]
    return mean(said) if said else None


def steps(judgements: Sequence[Judgement]) -> tuple[float, ...] | None:
    """The mean label of each step, over those who went that far; None where nobody labelled steps."""
    said = [each.answer.labels for each in judgements if isinstance(each.answer, Steps)]
    columns = ([label for label in column if label is not None] for column in zip_longest(*said))
    return tuple(fsum(column) / len(column) for column in columns) if said else None


def mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(fsum(column) / len(rows) for column in zip(*rows, strict=True))


def dense(values: Sequence[float]) -> tuple[int, ...]:
    """The rank of each value, the least being 0; equal values share one."""
    levels = sorted(set(values))
    return tuple(levels.index(value) for value in values)
