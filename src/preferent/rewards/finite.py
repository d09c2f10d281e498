"""Scores that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence


class NoScore(ValueError):
    """A reward gave what is not a number: nothing is better or worse than that."""


def finite(scores: Sequence[float], name: str = "the reward") -> Sequence[float]:
    """The scores. Raises NoScore where one is not finite."""
    if not all(map(math.isfinite, scores)):
        raise NoScore(f"{name} gave {list(scores)} to replies that should be compared; expected finite numbers.")
    return scores
