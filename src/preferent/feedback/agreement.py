"""How far annotators agree beyond chance: Krippendorff's α for nominal labels, with a bootstrap interval.

α = 1 − D_o / D_e: the disagreement observed within units over the one expected if labels were dealt at random
(Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", nominal data, any number of observers, missing data).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from preferent.config import UsageError
from preferent.types import Comparison, Preference

X = TypeVar("X")
Y = TypeVar("Y")
Text = Callable[[Any], str]
Counts = NDArray[np.float64]

FEWEST_DEFINED = 0.9  # of the bootstrap's resamples: the others are left out, and too many would bend the interval


class Agreement(NamedTuple):
    """α with its 95 % interval, over the units that at least two people labelled; None where undefined: ``reason``."""

    alpha: float | None
    low: float | None
    high: float | None
    units: int
    labels: int
    reason: str = ""

    def __str__(self) -> str:
        if self.alpha is None:
            return f"α undefined: {self.reason}"
        if self.low is None or self.high is None:
            return f"α = {self.alpha:.2f} (no interval: {self.reason})"
        return f"α = {self.alpha:.2f} [{self.low:.2f} – {self.high:.2f}]"


def agreement(
    preferences: Iterable[Preference[X, Y]], *, resamples: int = 1000, seed: int = 0, text: Text | None = None
) -> Agreement:
    """α of which option was preferred, ties being a label of their own.

    Labels are places in the canonical order, so that order must say nothing of quality: where the better option
    always stands first, agreement is expected by chance and α is low however much people agree.
    """
    groups = by_comparison(preferences, text=text).values()
    return krippendorff([[label(answer) for answer in group] for group in groups], resamples=resamples, seed=seed)


def krippendorff(units: Iterable[Sequence[Hashable]], *, resamples: int = 1000, seed: int = 0) -> Agreement:
    """α over units, each the labels that it was given; who was missing is simply not there.

    The interval is the percentile bootstrap over units. Resamples in which α is undefined are left out; where they
    are more than a tenth, there is no interval.
    """
    counts = table([unit for unit in units if len(unit) >= 2])
    n, labels = len(counts), int(counts.sum())
    if not n:
        return Agreement(None, None, None, 0, 0, "nothing was labelled by two people")
    alpha = float(alphas(counts, np.ones((1, n)))[0])
    if np.isnan(alpha):
        return Agreement(None, None, None, n, labels, "all labels are the same, so chance would agree as well")
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    defined = (found := alphas(counts, drawn))[~np.isnan(found)]
    if len(defined) < FEWEST_DEFINED * resamples:
        return Agreement(alpha, None, None, n, labels, f"α is defined in {len(defined)} of {resamples} resamples")
    low, high = np.quantile(defined, [0.025, 0.975])
    return Agreement(alpha, float(low), float(high), n, labels)


def table(units: Sequence[Sequence[Hashable]]) -> Counts:
    """[u, c]: how often each unit was given each label."""
    column: dict[Hashable, int] = {}
    for unit in units:
        for given in unit:
            column.setdefault(given, len(column))
    counts = np.zeros((len(units), len(column)))
    for row, unit in enumerate(units):
        for given in unit:
            counts[row, column[given]] += 1
    return counts


def alphas(counts: Counts, weights: Counts) -> Counts:
    """[b] of counts [u, c] with each unit taken ``weights`` [b, u] times; NaN where one label is all there is.

    Within a unit of m labels, ordered pairs that differ weigh 1 / (m − 1): Σ_c n_c·(m − n_c) / (m − 1).
    """
    m = counts.sum(1, keepdims=True)
    within = (counts * (m - counts) / (m - 1)).sum(1)
    each = weights @ counts
    n = each.sum(1)
    observed = (weights @ within) / n
    expected = (each * (n[:, None] - each)).sum(1) / (n * (n - 1))
    ratio: Counts = np.divide(observed, expected, out=np.full_like(n, np.nan), where=expected > 0)
    return 1 - ratio


def label(preference: Preference[X, Y]) -> Hashable:
    """The place of the option preferred, or "tie" where no single one has the greatest share."""
    best = max(preference.choice)
    at = [i for i, share in enumerate(preference.choice) if share == best]
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
