"""What texts are about: groups of texts with similar words, each named by the words that tell it from the others.

Texts become vectors of tf-idf weights (Salton & Buckley 1988), and k-means on the sphere groups them (Dhillon & Modha
2001), from centres that lie far apart (k-means++, Arthur & Vassilvitskii 2007). It is a look at a data set, not a
judgement of any text: the groups depend on the seed, and their number is chosen, not found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from preferent.feedback.curation.language import COMMON
from preferent.feedback.curation.minhash import words

Vectors = npt.NDArray[np.float32]

VOCABULARY = 2000  # words
FEWEST = 3  # texts that a word stands in, or it tells nothing of a group
COMMONEST = 0.3  # of the texts: a word that stands in more of them tells nothing either
TELLING = 5  # words that name a topic
ROUNDS = 30
STARTS = 3
ASIDE = (
    "tell give get got know want need help please thanks thank hello hey good well really going even still many most "
    "too can't doesn't didn't now every such another same before while again being both through under over"
)
STOP = frozenset(word for common in (*COMMON.values(), ASIDE) for word in common.split())


@dataclass(frozen=True, slots=True)
class Topic:
    """A group of texts: how many, and the words that tell it, the most telling first."""

    texts: int
    words: tuple[str, ...]


def topics(texts: Sequence[str], most: int = 8, seed: int = 0) -> list[Topic]:
    """At most so many topics, the largest first; none where there are too few texts to have any in common.

    Texts without any word of the vocabulary are in none, so the counts may add up to less than there are texts.
    """
    bags = [Counter(word for word in words(text) if telling(word)) for text in texts]
    vocabulary = chosen(bags)
    vectors = weighted(bags, vocabulary)
    vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]
    k = min(most, math.isqrt(len(vectors) // 2))
    if k < 2:
        return []
    groups = grouped(vectors, k, seed)
    names = list(vocabulary)
    found = [Topic(int((groups == g).sum()), named(vectors, groups == g, names)) for g in range(k)]
    return sorted((topic for topic in found if topic.texts), key=lambda topic: -topic.texts)


def telling(word: str) -> bool:
    return len(word) > 2 and not word.isdigit() and word not in STOP


def chosen(bags: Sequence[Counter[str]]) -> dict[str, int]:
    """Words that stand in enough texts and not in too many, the commonest first, with in how many."""
    spread = Counter(word for bag in bags for word in bag)
    kept = ((word, n) for word, n in spread.most_common() if FEWEST <= n <= COMMONEST * len(bags))
    return dict(islice(kept, VOCABULARY))


def weighted(bags: Sequence[Counter[str]], vocabulary: dict[str, int]) -> Vectors:
    """(1 + log tf) · log(N / df), each row of length 1: [texts, words]."""
    columns = {word: i for i, word in enumerate(vocabulary)}
    vectors = np.zeros((len(bags), len(columns)), dtype=np.float32)
    for row, bag in zip(vectors, bags, strict=True):
        for word, n in bag.items():
            if word in columns:
                row[columns[word]] = (1 + math.log(n)) * math.log(len(bags) / vocabulary[word])
    scaled: Vectors = unit(vectors)
    return scaled


def grouped(vectors: Vectors, k: int, seed: int) -> npt.NDArray[np.intp]:
    """The group of each vector: the best of ``STARTS`` runs, by the sum of cosines to the centres."""
    runs = [one_run(vectors, k, np.random.default_rng([seed, start])) for start in range(STARTS)]
    return max(runs, key=lambda run: run[0])[1]


def one_run(vectors: Vectors, k: int, random: np.random.Generator) -> tuple[float, npt.NDArray[np.intp]]:
    centres = far_apart(vectors, k, random)
    groups = np.zeros(len(vectors), dtype=np.intp)
    for _ in range(ROUNDS):
        before, groups = groups, (vectors @ centres.T).argmax(axis=1)
        if (before == groups).all():
            break
        # A centre without texts stays where it is: it may get some again.
        centres = np.stack(
            [unit(vectors[groups == g].sum(axis=0)) if (groups == g).any() else centres[g] for g in range(k)]
        )
    return float((vectors * centres[groups]).sum()), groups


def middle(mine: Vectors, before: Vectors) -> Vectors:
    return unit(mine.sum(axis=0)) if len(mine) else before


def far_apart(vectors: Vectors, k: int, random: np.random.Generator) -> Vectors:
    """k of the vectors, each drawn in proportion to its distance from those drawn before."""
    centres = [vectors[random.integers(len(vectors))]]
    distance = np.full(len(vectors), np.inf)
    for _ in range(k - 1):
        distance = np.minimum(distance, np.maximum(1 - vectors @ centres[-1], 0))
        total = distance.sum()
        next_ = random.choice(len(vectors), p=distance / total) if total > 0 else random.integers(len(vectors))
        centres.append(vectors[next_])
    return np.stack(centres)


def named(vectors: Vectors, mine: npt.NDArray[np.bool_], names: Sequence[str]) -> tuple[str, ...]:
    """The words whose mean weight is the most above that in the other groups."""
    if not mine.any():
        return ()
    inside = vectors[mine].mean(axis=0)
    outside = vectors[~mine].mean(axis=0) if not mine.all() else np.zeros_like(inside)
    best = np.argsort(outside - inside, kind="stable")[:TELLING]
    return tuple(names[i] for i in best if inside[i] > outside[i])


def unit(vectors: Vectors) -> Vectors:
    """Of length 1, along the last axis; zeros stay zeros."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
    return scaled
