"""How far annotators agree beyond chance: Krippendorff's α, nominal and ordinal, Cohen's and Fleiss' κ.

α = 1 − D_o / D_e: the disagreement observed within units over the one expected if labels were dealt at random
(Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": any number of observers, missing data). Intervals are
percentile bootstraps over units. Units that were given the same labels are alike, so they are drawn together: a million
judgements are a handful of patterns, and their interval takes no longer than that of a thousand.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from preferent.config import UsageError
from preferent.feedback.records import Choice, Judgement, Ranks, Ratings, Steps
from preferent.types import Comparison, Preference

X = TypeVar("X")
Y = TypeVar("Y")
Text = Callable[[Any], str]
Counts = NDArray[np.float64]

FEWEST_DEFINED = 0.9  # of the bootstrap's resamples: the others are left out, and too many would bend the interval
ROOM = 4_000_000  # numbers that are held at once while resampling
ALONE = "nothing was labelled by two people"
SAME = "all labels are the same, so chance would agree as well"


class Agreement(NamedTuple):
    """α with its 95 % interval, over the units that at least two people labelled; None where undefined: ``reason``."""

    alpha: float | None
    low: float | None
    high: float | None
    units: int
    labels: int
    reason: str = ""

    def __str__(self) -> str:
        return told("α", self.alpha, self.low, self.high, self.reason)


class Kappa(NamedTuple):
    """κ with its 95 % interval, over the units that at least two people labelled; None where undefined: ``reason``."""

    kappa: float | None
    low: float | None
    high: float | None
    units: int
    reason: str = ""

    def __str__(self) -> str:
        return told("κ", self.kappa, self.low, self.high, self.reason)


class Table(NamedTuple):
    """What units were labelled, those labelled alike together; a unit with less than two labels is left out."""

    counts: Counts  # [p, c] how often each pattern has each label, both in a fixed order
    times: Counts  # [p] units with this pattern


Counted = Iterable[tuple[Hashable, Hashable, int]] | Table  # (unit, label, how often) in any order, or the table of it


# --- Krippendorff's α ------------------------------------------------------------------------------
def agreement(
    preferences: Iterable[Preference[X, Y]], *, resamples: int = 1000, seed: int = 0, text: Text | None = None
) -> Agreement:
    """α of which option was preferred, ties being a label of their own.

    Labels are places in the canonical order, so that order must say nothing of quality: where the better option
    always stands first, agreement is expected by chance and α is low however much people agree.
    """
    groups = by_comparison(preferences, text=text).values()
    return krippendorff([[label(answer) for answer in group] for group in groups], resamples=resamples, seed=seed)


def krippendorff(
    units: Iterable[Sequence[Hashable]],
    *,
    levels: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """α over units, each the labels that it was given; who was missing is simply not there.

    ``levels`` are the labels from the lowest to the highest, for ordinal α; without them α is nominal. Resamples in
    which α is undefined are left out; where they are more than a tenth, there is no interval. Raises UsageError for a
    label that is not among the levels.
    """
    rows = ((unit, given, 1) for unit, labels in enumerate(units) for given in labels)
    return krippendorff_counts(rows, levels=levels, resamples=resamples, seed=seed)


def krippendorff_counts(
    rows: Counted,
    *,
    levels: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """As ``krippendorff``, of (unit, label, how often), in any order, or of a table with its labels in order."""
    counts, times = table = tabulated(rows, levels)
    n, labels = int(times.sum()), int(times @ counts.sum(1))
    if not n:
        return Agreement(None, None, None, 0, 0, ALONE)

    def statistic(weights: Counts) -> Counts:
        return alphas(counts, weights, ordinal=levels is not None)

    alpha, low, high, reason = estimated(statistic, table.times, "α", resamples, seed)
    return Agreement(alpha, low, high, n, labels, reason)


def alphas(counts: Counts, weights: Counts, *, ordinal: bool = False) -> Counts:
    """[b] of counts [p, c] with each pattern taken ``weights`` [b, p] times; NaN where one label is all there is.

    Labels c and k are at distance δ = 1, or, ordinal, at the number of labels between them where all are sorted:
    δ = r_k − r_c with r_c = Σ_{g<c} n_g + n_c / 2. Ordered pairs within a unit of m labels weigh 1 / (m − 1), and
    Σ_ck n_c n_k δ² is 2·(m·Σ n_c r_c² − (Σ n_c r_c)²). Ranks are multiples of ½, so perfect agreement is exactly 1.
    """
    m = counts.sum(1)
    each = weights @ counts  # [b, c]
    n = each.sum(1)
    if ordinal:
        ranks = np.cumsum(each, 1) - each / 2  # [b, c]
        spread = m[:, None] * (counts @ (ranks**2).T) - (counts @ ranks.T) ** 2  # [p, b]
        observed = 2 * np.einsum("bp,pb->b", weights, spread / (m - 1)[:, None])
        expected = 2 * (n * (each * ranks**2).sum(1) - (each * ranks).sum(1) ** 2)
    else:
        observed = weights @ ((counts * (m[:, None] - counts)).sum(1) / (m - 1))
        expected = (each * (n[:, None] - each)).sum(1)
    varied = (each > 0).sum(1) > 1
    ratio: Counts = np.divide(observed * (n - 1), expected, out=np.full_like(n, np.nan), where=varied)
    return 1 - ratio


# --- κ -----------------------------------------------------------------------------------------------
def cohen(
    pairs: Iterable[tuple[Hashable, Hashable]],
    *,
    levels: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Kappa:
    """κ of two people, from the labels that they gave to the same units (Cohen 1960); see ``shared``.

    With ``levels``, the labels from the lowest to the highest, disagreement weighs the squared distance in levels
    (Cohen 1968). Raises UsageError for a label that is not among the levels.
    """
    cells = Counter(pairs)
    if not cells:
        return Kappa(None, None, None, 0, "there is nothing that both labelled")
    column = places(levels)
    at = np.array([[place(column, one, levels), place(column, other, levels)] for one, other in cells])
    c = len(column)
    first, second = np.eye(c)[at[:, 0]], np.eye(c)[at[:, 1]]  # [p, c] each
    apart = (at[:, 0] - at[:, 1]) ** 2.0 if levels else (at[:, 0] != at[:, 1]) * 1.0
    distance = np.subtract.outer(np.arange(c), np.arange(c)) ** 2.0 if levels else 1 - np.eye(c)

    def statistic(weights: Counts) -> Counts:
        n = weights.sum(1)
        by_chance = np.einsum("bc,ck,bk->b", weights @ first, distance, weights @ second)
        ratio: Counts = np.divide(n * (weights @ apart), by_chance, out=np.full_like(n, np.nan), where=by_chance > 0)
        return 1 - ratio

    times = np.array(list(cells.values()), dtype=np.float64)
    return Kappa(*(found := estimated(statistic, times, "κ", resamples, seed))[:3], int(times.sum()), found[3])


def shared(
    triples: Iterable[tuple[Hashable, Hashable, Hashable]], one: Hashable, other: Hashable
) -> list[tuple[Hashable, Hashable]]:
    """The labels that two annotators gave to the items both labelled, from (item, annotator, label) triples."""
    said: dict[Hashable, dict[Hashable, Hashable]] = {one: {}, other: {}}
    for item, annotator, given in triples:
        if annotator in said:
            said[annotator][item] = given
    return [(given, said[other][item]) for item, given in said[one].items() if item in said[other]]


def fleiss(rows: Counted, *, resamples: int = 1000, seed: int = 0) -> Kappa:
    """κ of any number of people, from (unit, label, how often) in any order, or a table (Fleiss 1971).

    Where units have different numbers of labels, each unit weighs the same, in the agreement within it and in the
    shares of labels that chance deals from (Gwet 2014, "Handbook of Inter-Rater Reliability", missing ratings).
    """
    counts, times = tabulated(rows)
    if not len(times):
        return Kappa(None, None, None, 0, ALONE)
    m = counts.sum(1, keepdims=True)
    within = (counts * (counts - 1) / (m * (m - 1))).sum(1)
    shares = counts / m

    def statistic(weights: Counts) -> Counts:
        n = weights.sum(1)
        each = weights @ shares / n[:, None]
        by_chance = (each**2).sum(1)
        varied = (each > 0).sum(1) > 1
        beyond = weights @ within / n - by_chance
        kappa: Counts = np.divide(beyond, 1 - by_chance, out=np.full_like(n, np.nan), where=varied)
        return kappa

    return Kappa(*(found := estimated(statistic, times, "κ", resamples, seed))[:3], int(times.sum()), found[3])


# --- each aspect -------------------------------------------------------------------------------------
def by_aspect(judgements: Iterable[Judgement], *, resamples: int = 1000, seed: int = 0) -> dict[str, Agreement]:
    """α of each thing that was asked: "choice", "ranks", "ratings" or "steps", and its aspects, "choice.honest" say.

    Choices and ranks of two options are nominal, ratings and steps ordinal. Give the judgements that hold: one that was
    superseded would count as another person's. What was skipped or written is not compared.
    """
    rows: dict[str, Counter[tuple[Hashable, Hashable]]] = {}
    for judgement in judgements:
        for aspect, unit, given in labels_of(judgement):
            rows.setdefault(aspect, Counter())[(judgement.item, unit), given] += 1
    found = {}
    for aspect, counted in rows.items():
        numbers = aspect.startswith(("ratings", "steps"))
        levels = sorted({given for _, given in counted}) if numbers else None  # type: ignore[type-var]
        triples = ((unit, given, times) for (unit, given), times in counted.items())
        found[aspect] = krippendorff_counts(triples, levels=levels, resamples=resamples, seed=seed)
    return found


def labels_of(judgement: Judgement) -> Iterator[tuple[str, Hashable, Hashable]]:
    """What a judgement says that another can agree with: (aspect, unit within the item, label)."""
    answer = judgement.answer
    if isinstance(answer, Choice):
        yield "choice", 0, "both bad" if answer.both_bad else most(answer.choice)
        yield from ((f"choice.{name}", 0, most(shares)) for name, shares in answer.aspects.items())
    elif isinstance(answer, Ranks):
        for i, j in combinations(range(len(answer.ranks)), 2):
            yield "ranks", (i, j), int(np.sign(answer.ranks[i] - answer.ranks[j]))
    elif isinstance(answer, Ratings):
        for name, ratings in {
            "ratings": answer.ratings,
            **{f"ratings.{k}": v for k, v in answer.aspects.items()},
        }.items():
            yield from ((name, place, rating) for place, rating in enumerate(ratings))
    elif isinstance(answer, Steps):
        yield from (("steps", place, mark) for place, mark in enumerate(answer.labels))


# --- patterns and resamples --------------------------------------------------------------------------
def tabulated(rows: Counted, levels: Sequence[Hashable] | None = None) -> Table:
    """The table of (unit, label, how often), columns in the order of ``levels``, or as labels first come.

    Raises UsageError for a label that is not among the levels.
    """
    if isinstance(rows, Table):
        return rows
    row: dict[Hashable, int] = {}
    column = places(levels)
    cells: tuple[list[int], list[int], list[int]] = ([], [], [])
    for unit, given, often in rows:
        at = column.get(given)
        cells[0].append(row.setdefault(unit, len(row)))
        cells[1].append(place(column, given, levels) if at is None else at)
        cells[2].append(often)
    u, c, weights = (np.array(each, dtype=np.int64) for each in cells)
    size = len(row) * len(column)
    counts = np.bincount(u * len(column) + c, weights=weights, minlength=size).reshape(len(row), len(column))
    counts = counts[counts.sum(1) >= 2]
    first, times, _ = alike(counts.astype(np.int64))
    return Table(counts[first], times.astype(np.float64))


def alike(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of rows [n, k] of numbers ≥ 0: where each distinct row first stands, how often it comes, and which each row is.

    Columns are packed into one number as digits, as many as fit, which sorts far faster than rows do.
    """
    key, size = np.zeros(len(rows), dtype=np.int64), 1
    for digit in rows.T:
        base = int(digit.max(initial=0)) + 1
        if size * base >= 2**62:
            distinct, key = np.unique(key, return_inverse=True)
            size = len(distinct)
        key, size = key * base + digit, size * base
    _, first, which, times = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    return first, times, which


def estimated(
    statistic: Callable[[Counts], Counts], times: Counts, sign: str, resamples: int, seed: int
) -> tuple[float | None, float | None, float | None, str]:
    """A statistic with its 95 % interval, and the reason where either is None.

    ``statistic`` takes how often each pattern is there [b, p] and gives [b], NaN where it is undefined.
    """
    if np.isnan(value := float(statistic(times[None])[0])):
        return None, None, None, SAME
    n = int(times.sum())
    draw = np.random.default_rng(seed)
    at_once = max(1, ROOM // len(times))
    parts = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    found = [statistic(draw.multinomial(n, times / n, size=part).astype(np.float64)) for part in parts]
    defined = (each := np.concatenate([*found, np.zeros(0)]))[~np.isnan(each)]
    if len(defined) < max(1, FEWEST_DEFINED * resamples):
        return value, None, None, f"{sign} is defined in {len(defined)} of {resamples} resamples"
    low, high = np.quantile(defined, [0.025, 0.975])
    return value, float(low), float(high), ""


def places(levels: Sequence[Hashable] | None) -> dict[Hashable, int]:
    return {level: at for at, level in enumerate(levels or ())}


def place(column: dict[Hashable, int], given: Hashable, levels: Sequence[Hashable] | None) -> int:
    """The column of a label, a new one where there are no levels. Raises UsageError for a label not among them."""
    if levels is not None and given not in column:
        raise UsageError(f"Expected a label among the levels {list(levels)}; got {given!r}. Name all levels, in order.")
    return column.setdefault(given, len(column))


def told(sign: str, value: float | None, low: float | None, high: float | None, reason: str) -> str:
    if value is None:
        return f"{sign} undefined: {reason}"
    if low is None or high is None:
        return f"{sign} = {value:.2f} (no interval: {reason})"
    return f"{sign} = {value:.2f} [{low:.2f} – {high:.2f}]"


# --- comparisons, by what they say -------------------------------------------------------------------
def label(preference: Preference[X, Y]) -> Hashable:
    """The place of the option preferred, or "tie" where no single one has the greatest share."""
    return most(preference.choice)


def most(shares: Sequence[float]) -> Hashable:
    """The place of the greatest share, or "tie" where no single one is."""
    best = max(shares)
    at = [i for i, share in enumerate(shares) if share == best]
    return at[0] if len(at) == 1 else "tie"


def by_comparison(
    preferences: Iterable[Preference[X, Y]], *, text: Text | None = None
) -> dict[tuple[str, ...], list[Preference[X, Y]]]:
    """The answers to each comparison, in the order in which comparisons first came."""
    groups: dict[tuple[str, ...], list[Preference[X, Y]]] = {}
    for preference in preferences:
        groups.setdefault(content(preference.comparison, text or as_text), []).append(preference)
    return groups


def content(comparison: Comparison[X, Y], text: Text) -> tuple[str, ...]:
    """What a comparison says: its context, then its options in canonical order."""
    return (text(comparison.context), *(text(option) for option in comparison.options))


def as_text(shown: Any) -> str:
    """Text as it is, and messages one a line. Raises UsageError for anything else."""
    if isinstance(shown, str):
        return shown
    if isinstance(shown, Sequence) and all(isinstance(each, Mapping) and "content" in each for each in shown):
        return "\n".join(each["content"] for each in shown)
    raise UsageError(
        f"Expected text or messages with role and content; got {json.dumps(shown, default=repr)[:80]}. "
        "Give text=…, a function that turns it into text."
    )
