"""How often a row stands in a mixture, so that rare classes are heard."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Class = TypeVar("Class", bound=Hashable)


def weights(counts: Mapping[Class, int], strength: float = 1.0, most: float = 10.0) -> dict[Class, float]:
    """How often each row of a class is to stand: (largest class / its class) ** strength, from once to ``most`` times.

    At strength 1 all classes weigh the same, at 0 nothing is repeated, at ½ the ratio of two classes becomes its root.
    ``most`` keeps the few rows of a very rare class from being learned by heart.
    """
    largest = max(counts.values(), default=0)
    return {name: min(most, (largest / n) ** strength) for name, n in counts.items() if n}


def copies(weight: float, key: str) -> int:
    """A whole number of copies, ``weight`` on average: the odd part is settled by a draw from the key's hash."""
    drawn = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()) / 2**64
    return math.floor(weight) + (drawn < weight % 1)
