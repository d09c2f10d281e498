"""Held-out comparisons with what a reward model said of them: calibration, its members' spread, what it leans to.

A reward model's run writes them to ``judged.jsonl``, a row for each pair of replies: the annotators' choice, each
member's margin, and how the replies differ to the eye. The texts themselves are not in it.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from preferent.config import UsageError
from preferent.evaluation.winrate import WinRate, outcomes, win_rate

MARKUP = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s|^#+\s|\*\*|`", re.MULTILINE)  # list items, headings, bold, code
LOOKS: Mapping[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "lines": lambda text: text.count("\n") + 1,
    "list items, headings, bold, code": lambda text: len(MARKUP.findall(text)),
    "exclamation marks": lambda text: text.count("!"),
    "question marks": lambda text: text.count("?"),
    "digits": lambda text: sum(map(str.isdigit, text)),
}
RESAMPLES = 1000
SHARPEST = 100.0
FEWEST = 20  # pairs in which replies must differ, for a share of them to say something


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair of replies to one prompt, the one that annotators liked better first."""

    prompt: int  # pairs with the same number have the same prompt
    choice: float  # share of the annotators for the first: ½ … 1
    margins: tuple[float, ...]  # score of the first less score of the second, for each member
    differences: Mapping[str, float]  # of what LOOKS counts, first less second
    openings: tuple[str, str]  # the first word of each

    @property
    def predicted(self) -> float:
        """P(first is better) by the mean of the members' scores (Bradley–Terry)."""
        return float(_sigmoid(fmean(self.margins)))


def judged(prompt: int, choice: float, margins: Sequence[float], better: str, worse: str) -> Judged:
    """A pair with what can be seen of its two texts."""
    differences = {name: float(count(better) - count(worse)) for name, count in LOOKS.items()}
    return Judged(prompt, choice, tuple(margins), differences, (opening(better), opening(worse)))


def opening(text: str) -> str:
    """The first word in small letters, without signs around it; empty where there is none."""
    found = re.search(r"\w[\w'’-]*", text)
    return found.group().lower() if found else ""


def written(rows: Iterable[Judged]) -> str:
    """JSON lines, which ``read`` reads."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read(path: Path) -> list[Judged]:
    """The rows of a file. Raises UsageError that names the first line which is not one."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: line {number} is damaged: expected a comparison that was judged.") from error
    return rows


# --- what they say -----------------------------------------------------------------------------------


def accuracy(rows: Sequence[Judged], member: int | None = None) -> WinRate:
    """How often the model, or one member of it, prefers what annotators did, on pairs that they decided.

    Averaged within a prompt first, whose pairs are not independent. Raises ValueError where nothing was decided.
    """
    by_prompt: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.choice != 0.5:
            margin = fmean(row.margins) if member is None else row.margins[member]
            by_prompt[row.prompt] += outcomes([margin], [0.0])
    return win_rate([fmean(each) for each in by_prompt.values()])


class Kept(NamedTuple):
    """Pairs with about the same confidence: what was promised, and the share of annotators who agreed."""

    predicted: float
    observed: WinRate


def reliability(rows: Sequence[Judged], bins: int = 8) -> list[Kept]:
    """Pairs in order of the model's confidence, cut into bins of equal size: promised and observed agreement.

    Confidence is P of the reply that the model prefers, ½ … 1; observed, the annotators' share for it. Bins of equal
    size rather than of equal width, so that no interval stands on a handful of pairs.
    """
    sided = sorted((max(r.predicted, 1 - r.predicted), r.choice if r.predicted >= 0.5 else 1 - r.choice) for r in rows)
    cuts = [round(i * len(sided) / bins) for i in range(bins + 1)]
    groups = [sided[a:b] for a, b in pairwise(cuts) if b > a]
    return [Kept(fmean(p for p, _ in group), win_rate([said for _, said in group])) for group in groups]


def calibration_error(kept: Sequence[Kept]) -> float:
    """Expected calibration error: the mean distance of promised and observed, over pairs (Naeini et al. 2015).

    With bins of equal size, the adaptive one of Nguyen & O'Connor (2015).
    """
    n = sum(each.observed.n for each in kept)
    return sum(each.observed.n * abs(each.predicted - each.observed.value) for each in kept) / n


class Agreeing(NamedTuple):
    """Pairs of which so many members prefer the same reply, and the ensemble's accuracy there."""

    members: int
    accuracy: WinRate


def by_agreement(rows: Sequence[Judged]) -> list[Agreeing]:
    """Accuracy on decided pairs where all members agree, where all but one do, and so on.

    By how many agree rather than by how far their margins are apart, since large margins differ more, and are right.
    """
    groups: dict[int, list[float]] = defaultdict(list)
    for row in (row for row in rows if row.choice != 0.5):
        first = sum(margin > 0 for margin in row.margins)
        groups[max(first, len(row.margins) - first)] += outcomes([fmean(row.margins)], [0.0])
    return [Agreeing(members, win_rate(groups[members])) for members in sorted(groups, reverse=True)]


class Share(NamedTuple):
    """A share of 1 with its 95 % interval."""

    value: float
    low: float
    high: float


class Leaning(NamedTuple):
    """Among the pairs that differ in something, how often the reply with more of it is preferred, and by whom."""

    name: str
    annotators: Share
    model: Share
    excess: Share  # model less annotators: above 0, the model values it more than they do
    correlation: float  # of the margin with the difference, through the origin
    pairs: int


def sharpness(rows: Sequence[Judged]) -> float:
    """By what all margins should be multiplied to fit the choices best: below 1, the model is too sure of itself.

    Temperature scaling (Guo et al. 2017), the inverse of their T. The likelihood's slope in it, Σ m·(c - σ(t·m)), only
    falls, so its root is found by halving; where even ``SHARPEST`` is too little, every choice is as the model says.
    """
    margins, choices = np.array([fmean(row.margins) for row in rows]), np.array([row.choice for row in rows])
    low, high = 0.0, SHARPEST
    for _ in range(60):
        middle = (low + high) / 2
        slope = margins @ (choices - _sigmoid(middle * margins))
        low, high = (middle, high) if slope > 0 else (low, middle)
    return (low + high) / 2


def leanings(rows: Sequence[Judged]) -> list[Leaning]:
    """What can be seen of a reply that has more or less of it, whichever pairs differ in it."""
    names = list(rows[0].differences) if rows else []
    sharp = sharpness(rows)
    every = [leaning(name, rows, [row.differences[name] for row in rows], sharp) for name in names]
    return [each for each in every if each is not None]


def opening_leanings(rows: Sequence[Judged], most: int = 8) -> list[Leaning]:
    """The same for replies that begin with a word against those that do not: the commonest words."""
    sharp = sharpness(rows)
    words = sorted({word for row in rows for word in row.openings if word})
    sides = {word: [float((a == word) - (b == word)) for a, b in (row.openings for row in rows)] for word in words}
    every = [leaning(word, rows, differences, sharp) for word, differences in sides.items()]
    return sorted((each for each in every if each is not None), key=lambda each: -each.pairs)[:most]


def leaning(name: str, rows: Sequence[Judged], differences: Sequence[float], sharp: float = 1.0) -> Leaning | None:
    """None where too few pairs differ. Intervals: percentiles of a bootstrap over prompts, with a fixed seed.

    Shares rather than correlations are compared, because a correlation with single annotators' noisy choices is lower
    than one with a model's smooth scores even where the model is right. The model's share is of its probabilities with
    ``sharpness`` put right: being too sure or too unsure of everything is no leaning.
    """
    pairs = [(row, difference) for row, difference in zip(rows, differences, strict=True) if difference]
    if len(pairs) < FEWEST:
        return None
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row, _ in pairs))}
    sums = np.zeros((len(prompts), 3))  # of each prompt's pairs: how many, annotators' share, model's share
    for row, difference in pairs:
        sure = float(_sigmoid(sharp * fmean(row.margins)))
        shares = (row.choice, sure) if difference > 0 else (1 - row.choice, 1 - sure)
        sums[prompts[row.prompt]] += (1.0, *shares)
    weights = np.random.default_rng(0).multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), RESAMPLES)
    drawn = weights @ sums
    said, resampled = sums.sum(0)[1:] / len(pairs), drawn[:, 1:] / drawn[:, :1]
    margins = np.array([fmean(row.margins) for row, _ in pairs])
    x = np.array([difference for _, difference in pairs])
    norm = float(np.sqrt((margins @ margins) * (x @ x)))
    return Leaning(
        name,
        _share(said[0], resampled[:, 0]),
        _share(said[1], resampled[:, 1]),
        _share(said[1] - said[0], resampled[:, 1] - resampled[:, 0]),
        float(margins @ x) / norm if norm else 0.0,
        len(pairs),
    )


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(x, -500.0, 500.0)))


def _share(value: Any, resampled: Any) -> Share:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Share(float(value), float(low), float(high))


def _row(said: Mapping[str, Any]) -> Judged:
    first, second = said["openings"]
    margins = tuple(float(margin) for margin in said["margins"])
    differences = {str(name): float(value) for name, value in said["differences"].items()}
    if not margins or not all(map(math.isfinite, (*margins, *differences.values()))) or not 0.5 <= said["choice"] <= 1:
        raise ValueError("no comparison that was judged")
    return Judged(int(said["prompt"]), float(said["choice"]), margins, differences, (str(first), str(second)))
