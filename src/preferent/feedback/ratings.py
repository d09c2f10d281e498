"""How strong each option's author is, from comparisons: Bradley–Terry with ties, Thurstone with ties, and Elo.

Strengths β are log-odds (Thurstone: standard deviations), centred at 0; with d = β_a − β_b:

    Davidson (1970), "On Extending the Bradley–Terry Model to Accommodate Ties in Paired Comparison Experiments":
    P(a) : P(tie) : P(b) = e^{d/2} : ν : e^{−d/2}. Without ties ν is 0, which is Bradley–Terry.
    Glenn & David (1960), "Ties in Paired-Comparison Experiments Using a Modified Thurstone–Mosteller Model":
    P(a) = Φ(d − τ), P(b) = Φ(−d − τ), and a tie between.

A tie is not half a win: counted so, strengths shrink. A weak normal prior on β, ``ridge``, keeps who never lost finite;
who was never compared, directly or through others, is named. Strengths from ½·ridge·Σβ² and the likelihood by Newton's
method; intervals from the Hessian there, of strengths relative to their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preferent.config import UsageError

Floats = NDArray[np.float64]
Z95 = 1.959963984540054
NAMED = 5  # of a group, in a sentence
TINY = 1e-300
FLAT = 1e12  # condition of the information beyond which a maximum is no more than rounding


class Result(NamedTuple):
    """What a comparison said: 1 the first is better, 0 the second, ½ a tie; anything between is both, in part."""

    first: Hashable
    second: Hashable
    score: float
    times: float = 1.0  # that this was said


class Rating(NamedTuple):
    """A strength with its 95 % interval, relative to the mean of all."""

    name: Hashable
    strength: float
    low: float
    high: float
    compared: float  # times


@dataclass(frozen=True, eq=False)
class Standing:
    """Strengths, the best first; none where undefined. ``reason`` says why, or what they rest on beside the data."""

    ratings: tuple[Rating, ...]
    tie: float | None  # Davidson's ν, Thurstone's τ
    covariance: Floats  # [n, n] of strengths relative to their mean, in the order of ``ratings``
    loglik: float | None = None
    reason: str = ""

    def difference(self, one: Hashable, other: Hashable) -> Rating:
        """How much stronger one is than the other, with an interval that knows what both share."""
        at = {rating.name: place for place, rating in enumerate(self.ratings)}
        if unknown := [name for name in (one, other) if name not in at]:
            raise UsageError(f"Expected names among {listed(list(at))}; got {unknown[0]!r}.")
        i, j = at[one], at[other]
        gap = self.ratings[i].strength - self.ratings[j].strength
        c = self.covariance
        wide = Z95 * math.sqrt(max(0.0, c[i, i] + c[j, j] - 2 * c[i, j]))
        return Rating((one, other), gap, gap - wide, gap + wide, self.ratings[i].compared + self.ratings[j].compared)


@dataclass(frozen=True, eq=False)
class Tally:
    """Results by pair of names."""

    names: tuple[Hashable, ...]
    pairs: NDArray[np.int64]  # [g, 2] places in names, the lower first
    won: Floats  # [g] by the first of the pair
    lost: Floats
    tied: Floats


class Slopes(NamedTuple):
    """Log-likelihood of each pair [g], its gradient and its negative Hessian in d and in the tie parameter e."""

    value: Floats
    d: Floats
    e: Floats
    dd: Floats
    de: Floats
    ee: Floats


Model = Callable[[Floats, float | None, Tally], Slopes]  # without ties there is no tie parameter


# --- models ------------------------------------------------------------------------------------------
def davidson(results: Iterable[Result], *, ridge: float = 0.01) -> Standing:
    """Bradley–Terry with ties; ``ridge`` is one over the variance of the prior, 0 is maximum likelihood.

    Where maximum likelihood does not exist, because some never lost or were never compared with others, ridge 0 gives
    no ratings and a reason; with a prior there are ratings, their intervals are wide, and the reason says so too.
    Raises UsageError for a score outside 0 … 1.
    """
    found = fitted(tally(results), davidson_slopes, ridge, lambda ties: math.log(2 * ties / (1 - ties)))
    if not found.ratings:
        return found
    return replace(found, tie=0.0 if found.tie is None else math.exp(found.tie))


def thurstone(results: Iterable[Result], *, ridge: float = 0.01) -> Standing:
    """Thurstone–Mosteller with ties; all else as in ``davidson``."""
    found = fitted(tally(results), thurstone_slopes, ridge, lambda ties: ties * math.sqrt(math.pi / 2))
    return replace(found, tie=found.tie or 0.0) if found.ratings else found


def elo(
    results: Iterable[Result], *, k: float = 4.0, initial: float = 1000.0, scale: float = 400.0
) -> dict[Hashable, float]:
    """Elo (1978), in the order of the results: K points times what was scored beyond what was expected.

    Expected is 1 / (1 + 10^((R_other − R) / scale)). It follows whoever changes; for those who don't, ``davidson`` is
    better, as it doesn't depend on the order. What was said several times counts K times as often.
    """
    ratings: dict[Hashable, float] = {}
    for first, second, score, times in map(checked, results):
        a, b = ratings.setdefault(first, initial), ratings.setdefault(second, initial)
        if first != second:
            gain = k * times * (score - 1 / (1 + 10 ** ((b - a) / scale)))
            ratings[first], ratings[second] = a + gain, b - gain
    return ratings


def davidson_slopes(d: Floats, e: float | None, seen: Tally) -> Slopes:
    """Of e = log ν; an exponential family with statistics (½, 0), (−½, 0), (0, 1), so slopes are moments."""
    e = -math.inf if e is None else e
    n = seen.won + seen.lost + seen.tied
    log_z = np.logaddexp(np.logaddexp(d / 2, -d / 2), e)
    a, b, t = np.exp(d / 2 - log_z), np.exp(-d / 2 - log_z), np.exp(e - log_z)
    value = (seen.won - seen.lost) * d / 2 + (seen.tied * e if math.isfinite(e) else 0) - n * log_z
    return Slopes(
        value,
        (seen.won - seen.lost) / 2 - n * (a - b) / 2,
        seen.tied - n * t,
        n * (a + b - (a - b) ** 2) / 4,
        -n * (a - b) / 2 * t,
        n * t * (1 - t),
    )


def thurstone_slopes(d: Floats, e: float | None, seen: Tally) -> Slopes:
    """Of e = τ: the ordered probit with cut-points ±τ."""
    e = 0.0 if e is None else e
    win, win1, win2 = log_normal(d - e)
    loss, loss1, loss2 = log_normal(-d - e)
    up, down = density(d + e), density(d - e)
    tie = np.where(seen.tied > 0, (normal(e - abs(d)) - normal(-e - abs(d))).clip(min=TINY), 1)
    tie_d, tie_e = (up - down) / tie, (up + down) / tie
    bent, mixed = ((d - e) * down - (d + e) * up) / tie, -((d - e) * down + (d + e) * up) / tie
    return Slopes(
        seen.won * win + seen.lost * loss + seen.tied * np.log(tie),
        seen.won * win1 - seen.lost * loss1 + seen.tied * tie_d,
        -seen.won * win1 - seen.lost * loss1 + seen.tied * tie_e,
        -seen.won * win2 - seen.lost * loss2 - seen.tied * (bent - tie_d**2),
        seen.won * win2 - seen.lost * loss2 - seen.tied * (mixed - tie_d * tie_e),
        -seen.won * win2 - seen.lost * loss2 - seen.tied * (bent - tie_e**2),
    )


def log_normal(u: Floats) -> tuple[Floats, Floats, Floats]:
    """log Φ(u) and its first two derivatives."""
    below = normal(u).clip(min=TINY)
    slope = density(u) / below
    return np.log(below), slope, -slope * (u + slope)


def normal(u: Floats) -> Floats:
    """Φ(u)."""
    return np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in u])


def density(u: Floats) -> Floats:
    below: Floats = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    return below


# --- the fit -----------------------------------------------------------------------------------------
def fitted(seen: Tally, model: Model, ridge: float, start: Callable[[float], float]) -> Standing:
    """Strengths at the top of likelihood and prior. ``start`` is the tie parameter where all are equal."""
    if ridge < 0:
        raise UsageError(f"ridge: expected 0 (no prior) or more; got {ridge}.")
    decided, ties = float((seen.won + seen.lost).sum()), float(seen.tied.sum())
    if not decided + ties:
        return undefined("nothing was compared")
    if not decided:
        return undefined("every comparison was a tie, so nobody is stronger, and ties may be as likely as one likes")
    reason = unconnected(seen)
    if reason and not ridge:
        return undefined(f"{reason}; a ridge above 0 makes them finite")
    top = climb(seen, model, ridge, start(ties / (decided + ties)) if ties else None)
    if top is None:
        return undefined("the likelihood has no maximum; a ridge above 0 gives it one")
    reason = f"{reason}; across them, strengths rest on the prior" if reason else ""
    return replace(standing(seen, *top), reason=reason)


def standing(seen: Tally, at: Floats, value: float, information: Floats) -> Standing:
    """Names sorted by strength, with intervals from the inverse of the information."""
    n = len(seen.names)
    centre = np.eye(n) - 1 / n
    covariance = centre @ np.linalg.inv(information)[:n, :n] @ centre
    strengths = centre @ at[:n]
    wide = Z95 * np.sqrt(np.diag(covariance).clip(min=0))
    compared = np.bincount(seen.pairs.ravel(), weights=np.repeat(seen.won + seen.lost + seen.tied, 2), minlength=n)
    order = np.argsort(-strengths, kind="stable")
    columns = (strengths, strengths - wide, strengths + wide, compared)
    ratings = tuple(Rating(seen.names[i], *(float(column[i]) for column in columns)) for i in order)
    return Standing(ratings, float(at[n]) if len(at) > n else None, covariance[np.ix_(order, order)], value)


def climb(seen: Tally, model: Model, ridge: float, start: float | None) -> tuple[Floats, float, Floats] | None:
    """Newton's method with halved steps: parameters (strengths, then the tie's), log-likelihood, information.

    None where there is no maximum. Only differences of strengths matter, so their mean is held at 0.
    """
    n = len(seen.names)
    at = np.zeros(n if start is None else n + 1)
    at[n:] = start or 0.0

    def height(at: Floats) -> tuple[float, Slopes]:
        slopes = model(at[seen.pairs[:, 0]] - at[seen.pairs[:, 1]], None if start is None else float(at[n]), seen)
        return float(slopes.value.sum() - ridge / 2 * (at[:n] ** 2).sum()), slopes

    now, slopes = height(at)
    for _ in range(100):
        gradient, information = assembled(seen, slopes, at, ridge)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:  # flat: strengths have run away
            return None
        if np.abs(step).max() < 1e-9:
            flat = np.linalg.cond(information) > FLAT
            return None if flat else (at, float(slopes.value.sum()), information)
        scale = 1.0
        while scale > 1e-9:
            higher, there = height(at + scale * step)
            if higher >= now - 1e-12 * abs(now):
                break
            scale /= 2
        at, now, slopes = at + scale * step, higher, there
        if np.abs(at).max() > 500 or not np.isfinite(now):
            return None
    return None


def assembled(seen: Tally, slopes: Slopes, at: Floats, ridge: float) -> tuple[Floats, Floats]:
    """The gradient of likelihood and prior, and the information, with one more for the mean, which nothing moves."""
    n, k = len(seen.names), len(at)
    a, b = seen.pairs.T
    gradient = np.bincount(a, slopes.d, n) - np.bincount(b, slopes.d, n) - ridge * at[:n]
    information = np.zeros((k, k))
    np.add.at(information, (a, a), slopes.dd)
    np.add.at(information, (b, b), slopes.dd)
    np.add.at(information, (a, b), -slopes.dd)
    np.add.at(information, (b, a), -slopes.dd)
    information[:n, :n] += ridge * np.eye(n) + 1 / n
    if k > n:
        gradient = np.append(gradient, slopes.e.sum())
        information[:n, n] = information[n, :n] = np.bincount(a, slopes.de, n) - np.bincount(b, slopes.de, n)
        information[n, n] = slopes.ee.sum()
    return gradient, information


def undefined(reason: str) -> Standing:
    return Standing((), None, np.zeros((0, 0)), None, reason)


# --- who was compared with whom ----------------------------------------------------------------------
def tally(results: Iterable[Result]) -> Tally:
    """Results by pair, names in the order in which they first come; with oneself, nobody is compared."""
    at: dict[Hashable, int] = {}
    counts: dict[tuple[int, int], list[float]] = {}
    for first, second, score, times in map(checked, results):
        a, b = at.setdefault(first, len(at)), at.setdefault(second, len(at))
        if a == b or not times:
            continue
        a, b, score = (a, b, score) if a < b else (b, a, 1 - score)
        seen = counts.setdefault((a, b), [0.0, 0.0, 0.0])
        if score == 0.5:
            seen[2] += times
        else:
            seen[0] += score * times
            seen[1] += (1 - score) * times
    pairs = np.array(list(counts), dtype=np.int64).reshape(-1, 2)
    won, lost, tied = np.array(list(counts.values()), dtype=np.float64).reshape(-1, 3).T
    return Tally(tuple(at), pairs, won, lost, tied)


def checked(result: Result) -> Result:
    if not 0 <= result.score <= 1 or not 0 <= result.times < math.inf:
        raise UsageError(f"Expected a score in 0 … 1 (½ is a tie), said 0 or more times; got {result}.")
    return result


def groups(seen: Tally) -> tuple[tuple[Hashable, ...], ...]:
    """Names each of whom, through others, did not lose to each: within such a group likelihood bounds the strengths."""
    return classes(seen, reachable(seen, both=False))


def islands(seen: Tally) -> tuple[tuple[Hashable, ...], ...]:
    """Names that were compared with one another, directly or through others."""
    return classes(seen, reachable(seen, both=True))


def unconnected(seen: Tally) -> str:
    """Which strengths the results cannot compare; nothing where they can compare all."""
    if len(apart := islands(seen)) > 1:
        return f"these were never compared with one another: {sets(apart)}"
    if len(above := groups(seen)) > 1:
        return f"between these, one side never lost: {sets(above)}"
    return ""


def reachable(seen: Tally, *, both: bool) -> NDArray[np.bool_]:
    """[n, n] whom each did not lose to, directly or through others; with ``both``, whom each was compared with."""
    n = len(seen.names)
    a, b = seen.pairs.T
    reach = np.eye(n, dtype=np.float32)
    reach[a, b] = (seen.won + seen.tied > 0) | both
    reach[b, a] = (seen.lost + seen.tied > 0) | both
    while True:
        further = (reach @ reach > 0).astype(np.float32)
        if (further == reach).all():
            return reach > 0
        reach = further


def classes(seen: Tally, reach: NDArray[np.bool_]) -> tuple[tuple[Hashable, ...], ...]:
    """Names that reach one another, the largest group first."""
    first = (reach & reach.T).argmax(1)
    found: dict[int, list[Hashable]] = {}
    for name, group in zip(seen.names, first.tolist(), strict=True):
        found.setdefault(group, []).append(name)
    return tuple(sorted(map(tuple, found.values()), key=len, reverse=True))


def sets(found: Sequence[Sequence[Hashable]]) -> str:
    return f"{'; '.join(f'{{{listed(group)}}}' for group in found[:NAMED])}{'; …' if len(found) > NAMED else ''}"


def listed(names: Sequence[Hashable]) -> str:
    return ", ".join(map(str, names[:NAMED])) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
