"""Whether annotators prefer what stands first, or what is longer, whatever it says.

    log-odds of preferring what was shown first = position + length · (words of it − words of the other) + quality · gap

Ties say nothing of either and are left out. Order is drawn for each showing, so position is a bias whatever was shown.
Length is not: longer options may be better. Where something else knows how much better one is (a gold utility, the
share of other annotators), give it as ``gap``; without it, length is all that goes with length, and position is
averaged over comparisons, which is smaller than for any one of them.

Fitted with Jeffreys' prior (Firth 1993, "Bias Reduction of Maximum Likelihood Estimates"), so an annotator who always
takes the first has a finite bias: of k firsts in n answers it makes log((k + ½) / (n − k + ½)).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preferent.feedback.records import Choice, Item, Judgement

Floats = NDArray[np.float64]
Z95 = 1.959963984540054
NONE = "no answer prefers one"


class Answered(NamedTuple):
    """An answer to two options as they stood on the screen."""

    annotator: Hashable
    item: Hashable
    first: float  # 1: preferred what was shown first, 0: the other, ½: neither
    longer: float  # words of what was shown first, less those of the other
    gap: float = 0.0  # how much better what was shown first is, where something knows


class Bias(NamedTuple):
    """Log-odds with a 95 % interval; None where undefined: ``reason``."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"undefined: {self.reason}"
        return f"{self.value:+.3f} [{self.low:+.3f} – {self.high:+.3f}]"


class Biases(NamedTuple):
    """Of one annotator, or of all."""

    position: Bias  # for what is shown first
    length: Bias  # for each word more
    answers: int  # that preferred one
    ties: int


class Found(NamedTuple):
    """Biases of all answers together, and of each annotator."""

    overall: Biases
    annotators: dict[Hashable, Biases]


def biases(answers: Iterable[Answered]) -> Found:
    """Position and length bias. Answers of several people to one item are not independent, and the interval knows."""
    rows = list(answers)
    names, shown, *columns = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    people = numbered(names)
    items = np.array(numbered(shown).values, dtype=np.int64)
    numbers = np.stack([np.array(column, dtype=np.float64) for column in columns], 1)
    by = np.array(people.values, dtype=np.int64)
    order = np.argsort(by, kind="stable")
    ends = np.cumsum(np.bincount(by, minlength=len(people.names)))[:-1]
    each = {
        name: estimated(numbers[at], items[at]) for name, at in zip(people.names, np.split(order, ends), strict=False)
    }
    return Found(estimated(numbers, items), each)


def position_bias(firsts: int, answers: int) -> Bias:
    """Of one annotator: how often they preferred what stood first, of the answers that prefer one.

    As ``biases`` finds it where nothing is known of what was shown.
    """
    if not answers:
        return Bias(None, None, None, NONE)
    p = (firsts + 0.5) / (answers + 1)
    at, wide = math.log(p / (1 - p)), Z95 / math.sqrt(answers * p * (1 - p))
    return Bias(at, at - wide, at + wide)


def answered(items: Mapping[str, Item], judgements: Iterable[Judgement]) -> Iterator[Answered]:
    """Answers to comparisons of two options whose order on the screen is known, both being bad counted as a tie."""
    for judgement in judgements:
        of, answer = items[judgement.item], judgement.answer
        if isinstance(answer, Choice) and len(of.options) == 2 and sorted(judgement.shown) == [0, 1]:
            first, second = judgement.shown
            a, b = answer.choice[first], answer.choice[second]
            score = 0.5 if answer.both_bad or a == b else float(a > b)
            yield Answered(judgement.annotator, judgement.item, score, words(of, first) - words(of, second))


def words(of: Item, place: int) -> int:
    """Of one option, in all its messages."""
    return sum(len(str(message.get("content") or "").split()) for message in of.options[place])


def estimated(numbers: Floats, items: NDArray[np.int64]) -> Biases:
    """Of rows (first, longer, gap)."""
    decided = numbers[:, 0] != 0.5
    ties = int((~decided).sum())
    (first, longer, gap), items = numbers[decided].T, items[decided]
    n = len(first)

    def without(reason: str) -> Biases:
        return Biases(Bias(None, None, None, reason), Bias(None, None, None, reason), n, ties)

    if not n:
        return without(NONE)
    columns = [np.ones(n)]
    for column in (longer, gap):
        if np.ptp(column) > 0:
            columns.append(column)
        elif column[0]:
            return without("what was shown first always differs by as much, so place and content cannot be told apart")
    x = np.stack(columns, 1)
    scale = np.sqrt((x**2).mean(0))
    if np.linalg.matrix_rank(x / scale) < x.shape[1]:
        return without("length and quality go together, so they cannot be told apart")
    fit = logistic(x / scale, first, items)
    if fit is None:
        return without("the fit did not settle")
    at, wide = fit[0] / scale, Z95 * fit[1] / scale
    found = [Bias(float(v), float(v - w), float(v + w)) for v, w in zip(at, wide, strict=True)]
    same = Bias(None, None, None, "both options are always equally long")
    return Biases(found[0], found[1] if np.ptp(longer) > 0 else same, n, ties)


def logistic(x: Floats, y: Floats, groups: NDArray[np.int64]) -> tuple[Floats, Floats] | None:
    """Coefficients [k] of x [n, k] under Jeffreys' prior, and their standard errors; None if they don't settle.

    Where rows of one group come several times, errors are those of sums over groups (Liang & Zeger 1986), unless those
    of independent rows are larger, as they are where hardly any row is a surprise.
    """
    at = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ at).clip(-35, 35)))
        weight = p * (1 - p)
        inverse = np.linalg.pinv((x * weight[:, None]).T @ x)
        leverage = weight * ((x @ inverse) * x).sum(1)
        step = inverse @ (x.T @ (y - p + leverage * (0.5 - p)))
        at = at + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    _, group = np.unique(groups, return_inverse=True)
    many = int(group.max()) + 1
    if 1 < many < len(y):
        scores = np.stack([np.bincount(group, column * (y - p)) for column in x.T], 1)
        grouped = inverse @ (scores.T @ scores) @ inverse * many / (many - 1)
        return at, np.sqrt(np.maximum(np.diag(inverse), np.diag(grouped)))
    return at, np.sqrt(np.diag(inverse))


class Numbered(NamedTuple):
    """Names in the order in which they first come, and the place of each."""

    names: tuple[Hashable, ...]
    values: list[int]


def numbered(names: Iterable[Hashable]) -> Numbered:
    at: dict[Hashable, int] = {}
    values = [at.setdefault(name, len(at)) for name in names]
    return Numbered(tuple(at), values)
