"""Best-of-n, the baseline without training: draw n replies, keep the one that the proxy reward likes best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean


def kl_bound(n: int) -> float:
    """Nats, log n - (n - 1)/n: at least KL(best-of-n ‖ policy), equal to it only if the proxy knows no ties.

    Stiennon et al. 2020, appendix G.3; a bound and not the value: Beirami et al. 2024. Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"best-of-n needs n of 1 or more, not {n}")
    return math.log(n) - (n - 1) / n


def expected_gold(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """Gold score of the best of n by proxy, estimated without bias from N ≥ n replies to one prompt.

    Σᵢ C(i - 1, n - 1)/C(N, n)·gold₍ᵢ₎, replies in ascending order of proxy: the mean over all subsets of n (Nakano et
    al. 2021, appendix I). Replies that the proxy does not tell apart are chosen among at random. Raises ValueError
    unless 1 ≤ n ≤ N.
    """
    total = len(proxy)
    if not 1 <= n <= total:
        raise ValueError(f"the best of n = {n} cannot be estimated from {total} replies")
    ordered = sorted(zip(proxy, gold, strict=True))
    expected, below = 0.0, 0
    for _, ties in groupby(ordered, key=lambda pair: pair[0]):
        golds = [g for _, g in ties]
        upto = below + len(golds)
        # Subsets whose best by proxy is one of these: those within ``upto``, less those within ``below``.
        expected += (math.comb(upto, n) - math.comb(below, n)) / math.comb(total, n) * fmean(golds)
        below = upto
    return expected
