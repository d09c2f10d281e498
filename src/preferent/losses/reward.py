"""What reward models need besides ``preference.bradley_terry``: a zero point, and one score out of several members."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Combination = Literal["mean", "worst", "uncertain"]


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_w + r_l)² for each pair [b]: pulls scores, of which only differences are learned, towards mean 0.

    Eisenstein et al. 2023 ("Helping or herding?"), there with weight 0.01.
    """
    return (chosen + rejected) ** 2


def combine(scores: Tensor, how: Combination, *, caution: float = 0.0) -> Tensor:
    """Scores of m members [m, r] to one for each reply [r]: Coste et al. 2023.

    ``mean``; ``worst``, the least of the members; ``uncertain``, the mean less ``caution`` times the population
    variance between members. Members should be on one scale: normalise each on the same replies first.
    """
    if how not in get_args(Combination):
        raise ValueError(f"how must be one of {', '.join(get_args(Combination))}, not {how!r}")
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean if how == "mean" else mean - caution * scores.var(0, correction=0)
