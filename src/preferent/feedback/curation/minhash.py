"""Near-duplicates: texts that share nearly all of their word triples, found without comparing all with all.

A text is the set of its shingles (three words in a row), and two texts are as alike as their sets: |A ∩ B| / |A ∪ B|
(Jaccard). The smallest of randomly hashed shingles is the same in both with just this probability (Broder 1997),
so bands of such minima find the pairs worth comparing (locality-sensitive hashing; Leskovec, Rajaraman & Ullman, Mining
of Massive Datasets, 3.4). Each of these is then compared exactly: what is found is always true, and what is
missed, a pair right at the threshold in a thousand, is the price.

A sketch has parts, a row's question and its replies say, and is as alike as its least alike part: two comparisons of
different replies to one long question are different rows.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint32]

SHINGLE = 3  # words
MISSED = 1e-3  # of the pairs that are exactly as alike as the threshold
MOST_HASHES = 128  # in a signature
# Scripts that put no spaces between words: there, a character counts as a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
# Random numbers that are the same everywhere and for ever.
SALTS = np.frombuffer(hashlib.shake_128(b"salts").digest(8 * MOST_HASHES), dtype=np.uint64) | np.uint64(1)
FACTORS = np.frombuffer(hashlib.shake_128(b"factors").digest(4 * MOST_HASHES), dtype=np.uint32) | np.uint32(1)
TERMS = np.frombuffer(hashlib.shake_128(b"terms").digest(4 * MOST_HASHES), dtype=np.uint32)
PART = np.uint64(1 << 32)


def words(text: str) -> list[str]:
    """Letters and digits in a row, case and punctuation aside; signs where there is nothing else (``:-)``, ``+ =``)."""
    lower = text.lower()
    return WORD.findall(lower) or lower.split()


def shingles(text: str) -> Hashes:
    """Hashes of the word triples in a text, sorted, each once. A text of fewer words is one shingle."""
    found = words(text)
    return np.unique(mixed(grams(found, min(SHINGLE, len(found)))))


def grams(found: Sequence[str], size: int) -> npt.NDArray[np.uint64]:
    """A number for each run of ``size`` words, in order; for no words, one for nothing."""
    numbers = np.fromiter(map(number, found or [""]), dtype=np.uint64)
    size = max(size, 1)
    rows = max(0, len(numbers) - size + 1)
    sums = np.zeros(rows, dtype=np.uint64)
    for i in range(size):
        sums += numbers[i : i + rows] * SALTS[i]
    return sums


def jaccard(a: Hashes, b: Hashes) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted sets; exact but for shingles whose 32 bits agree by chance."""
    few, many = (a, b) if len(a) < len(b) else (b, a)
    at = many.searchsorted(few)
    at[at == len(many)] = 0  # behind the last: compared with the first, which is smaller
    shared = int(np.count_nonzero(many[at] == few))
    return shared / (len(a) + len(b) - shared)


@dataclass(frozen=True, slots=True)
class Sketch:
    """The shingles of each part of a row, and the key of each band: rows with a key in common may be alike."""

    parts: tuple[Hashes, ...]
    keys: tuple[int, ...]

    def likeness(self, other: Sketch, least: float = 0.0) -> float:
        """That of the least alike part; 0 where it is below ``least``, or where there are more parts in one."""
        if len(self.parts) != len(other.parts):
            return 0.0
        pairs = list(zip(self.parts, other.parts, strict=True))
        # Sets of very different sizes are not alike, whatever is in them: |A ∩ B| / |A ∪ B| ≤ min / max.
        if any(min(len(a), len(b)) < least * max(len(a), len(b)) for a, b in pairs):
            return 0.0
        found = 1.0
        for a, b in pairs:
            found = min(found, jaccard(a, b))
            if found < least:
                return 0.0
        return found


@dataclass(frozen=True, slots=True)
class Bands:
    """``bands`` times ``rows`` minima. A pair of likeness s agrees on a whole band with 1 − (1 − s^rows)^bands."""

    bands: int
    rows: int

    def found(self, likeness: float) -> float:
        """The probability with which a pair is compared."""
        return 1 - (1 - likeness**self.rows) ** self.bands


def bands_for(threshold: float, missed: float = MISSED) -> Bands:
    """The bands with the fewest needless comparisons that miss at most this share of the pairs at the threshold."""
    if not 0 < threshold <= 1:
        raise ValueError(f"a likeness above 0 and up to 1 was expected, not {threshold}")
    for rows in range(8, 0, -1):
        bands = 1 if threshold == 1 else math.ceil(math.log(missed) / math.log(1 - threshold**rows))
        if bands * rows <= MOST_HASHES:
            return Bands(bands, rows)
    return Bands(MOST_HASHES, 1)


@dataclass
class Near:
    """Sketches seen so far, and which of them are alike. Takes about four bytes a word, and 2 kB a row."""

    threshold: float = 0.8
    bands: Bands = field(init=False)
    sketches: list[Sketch] = field(default_factory=list)
    latest: dict[int, int] = field(default_factory=dict)  # a band's key → the last sketch that has it
    before: list[tuple[int | None, ...]] = field(default_factory=list)  # and the one that had it before, for each band

    def __post_init__(self) -> None:
        self.bands = bands_for(self.threshold)

    def __len__(self) -> int:
        return len(self.sketches)

    def sketch(self, parts: Sequence[str]) -> Sketch:
        """What is compared of a row with these parts."""
        sets = tuple(map(shingles, parts))
        # Marked with their parts: where |A ∩ B| ≥ t |A ∪ B| holds for each part, it holds for the sums over parts, so
        # one signature of the whole row misses no more than one for each part would.
        every = mixed(np.concatenate([one + PART * np.uint64(i + 1) for i, one in enumerate(sets)]))
        n = self.bands.bands * self.bands.rows
        minima = (every[:, None] * FACTORS[:n] + TERMS[:n]).min(axis=0)
        numbers = (minima.reshape(self.bands.bands, -1) * SALTS[: self.bands.rows]).sum(axis=1, dtype=np.uint64)
        return Sketch(sets, tuple((numbers + SALTS[: self.bands.bands]).tolist()))

    def alike(self, sketch: Sketch) -> Iterator[tuple[int, float]]:
        """Places of the sketches that are alike, first come first, and how alike they are."""
        places: set[int] = set()
        for band, key in enumerate(sketch.keys):
            place = self.latest.get(key)
            while place is not None:
                places.add(place)
                place = self.before[place][band]
        for place in sorted(places):
            likeness = self.sketches[place].likeness(sketch, self.threshold)
            if likeness >= self.threshold:
                yield place, likeness

    def first(self, sketch: Sketch) -> tuple[int, float] | None:
        return next(self.alike(sketch), None)

    def add(self, sketch: Sketch) -> int:
        """Its place: how many were added before."""
        place = len(self.sketches)
        self.sketches.append(sketch)
        self.before.append(tuple(map(self.latest.get, sketch.keys)))
        self.latest.update(dict.fromkeys(sketch.keys, place))
        return place


@lru_cache(maxsize=1 << 20)
def number(word: str) -> int:
    """The same in every process, as ``hash`` is not."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())


def mixed(numbers: npt.NDArray[np.uint64]) -> Hashes:
    """32 of 64 bits, all of which depend on all (the finaliser of MurmurHash3, Appleby 2011)."""
    x = numbers ^ (numbers >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    found: Hashes = (x >> np.uint64(32)).astype(np.uint32)
    return found
