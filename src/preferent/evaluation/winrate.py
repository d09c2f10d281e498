"""How often one policy's replies are preferred to another's, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean


@dataclass(frozen=True, slots=True)
class WinRate:
    """A share of wins, ties ½, with its confidence interval, over n prompts."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def outcomes(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """For each prompt 1 where our score is higher, ½ where equal, 0 where lower. NaN raises ValueError."""
    pairs = list(zip(ours, theirs, strict=True))
    if any(math.isnan(a) or math.isnan(b) for a, b in pairs):
        raise ValueError("a score is not a number, so it neither wins nor loses")
    return [(a > b) + (a == b) / 2 for a, b in pairs]


def win_rate(results: Sequence[float], *, level: float = 0.95) -> WinRate:
    """The mean of ``results`` in [0, 1], one for each prompt, with a score interval.

    Wilson's (1927) interval holds every rate θ which the mean m does not contradict: (m - θ)² ≤ z²·Var(θ)/n. Here
    Var(θ) = θ(1 - θ) - u, since ties and other results between 0 and 1 spread less than wins and losses: u is the mean
    of x(1 - x), ¼ for a tie. Without ties this is Wilson's interval. Taken from few prompts, a u near ¼ would promise
    an interval of width 0, so z² prompts without ties are added to its mean. A closed form rather than a bootstrap over
    prompts: it needs no random numbers, and where all prompts were won, it does not claim that all will be.

    Prompts must be independent of each other: average several replies to a prompt first. Raises ValueError if there is
    no result, or one outside of [0, 1].
    """
    n = len(results)
    if n == 0 or not all(0 <= x <= 1 for x in results):
        raise ValueError("a win rate needs one or more results, each 1 for a win, ½ for a tie, 0 for a loss or between")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    m, u = fmean(results), sum(x * (1 - x) for x in results) / (n + z2)
    c = z2 / n
    # (1 + c)·θ² - (2m + c)·θ + m² + c·u = 0
    centre = (2 * m + c) / 2 / (1 + c)
    half = math.sqrt(max(0.0, centre**2 - (m**2 + c * u) / (1 + c)))
    return WinRate(m, max(0.0, centre - half), min(1.0, centre + half), n)
