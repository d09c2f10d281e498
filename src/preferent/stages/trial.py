"""How often a reward agrees with annotators on held-out comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from preferent.config import UsageError

if TYPE_CHECKING:
    from preferent.types import Episode, Reward


def replied(row: Any) -> Iterator[Episode]:
    """A comparison's options as a reward sees them."""
    from preferent.types import Episode

    for reply in row.comparison.options:
        silent = (0.0,) * len(reply.tokens)
        yield Episode(row.comparison.context, reply.tokens, reply.learn, silent, "end", 0, reply.text)


def accuracy(
    name: str, rows: Sequence[Any], comparisons: Sequence[Sequence[Episode]], reward: Reward
) -> dict[str, Any]:
    """On decided pairs, ties of the reward ½; averaged within a prompt first, for its comparisons are not independent.

    ``ties`` is the share of the pairs that the annotators left undecided.
    """
    from preferent.data.comparisons import compared
    from preferent.evaluation.winrate import outcomes, win_rate
    from preferent.stages import speaking

    right: dict[tuple[int, ...], list[float]] = {}
    pairs = ties = 0
    for row, options, marks in zip(rows, comparisons, speaking.marked(reward, comparisons), strict=True):
        by_reply = {option.tokens: mark for option, mark in zip(options, marks, strict=True)}
        for better, worse, choice, _, _ in compared(row, {}):
            pairs += 1
            ties += choice == 0.5
            if choice != 0.5:
                result = outcomes([by_reply[better.tokens]], [by_reply[worse.tokens]])
                right.setdefault(row.comparison.context.tokens, []).extend(result)
    if not right:
        raise UsageError("--preferences: the annotators left every pair undecided, so nothing can be right or wrong.")
    rate = win_rate([fmean(each) for each in right.values()])
    return {"name": name, "accuracy": asdict(rate), "pairs": pairs, "ties": ties / pairs}
