"""Rows to train on that an evaluation holds too: what is measured on those was not learned, only remembered.

Two signs, as neither sees all: the question is a near-duplicate of one that is held out (``minhash``), or the row says
``PASSAGE`` words in a row of such a question, whatever is around them (n-gram overlap, Brown et al. 2020, appendix C).
Passages that stand in more than ``COMMON`` of the questions are nobody's: instructions that they begin with. Replies of
the evaluation are not looked for: phrases that everybody uses would be found, and no question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from preferent.feedback.curation.minhash import Near, grams, words

PASSAGE = 13  # words in a row
COMMON = 10  # texts


@dataclass(frozen=True, slots=True)
class Passages:
    """The runs of ``PASSAGE`` words in some texts, sorted, and the first text that each stands in."""

    hashes: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int64]

    def shared(self, text: str) -> tuple[int, str] | None:
        """The first passage of this text that is known: the place of the text that holds it, and its words."""
        found = words(text)
        runs = grams(found, PASSAGE)
        if not len(runs) or not len(self.hashes):
            return None
        at = np.minimum(np.searchsorted(self.hashes, runs), len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[at] == runs)
        if not len(hits):
            return None
        first = int(hits[0])
        return int(self.places[at[first]]), " ".join(found[first : first + PASSAGE])


def passages(texts: Sequence[str]) -> Passages:
    """The passages in different texts, without those that more than ``COMMON`` of them share."""
    runs = [np.unique(grams(words(text), PASSAGE)) for text in texts]
    every = np.concatenate([*runs, np.zeros(0, dtype=np.uint64)])
    whose = np.repeat(np.arange(len(runs)), [len(one) for one in runs])
    hashes, first, counts = np.unique(every, return_index=True, return_counts=True)
    rare = counts <= COMMON
    return Passages(hashes[rare], whose[first[rare]])


@dataclass(frozen=True, slots=True)
class Leak:
    """A row that an evaluation holds too: which of its rows, and how one can tell."""

    place: int
    why: str


@dataclass
class HeldOut:
    """The questions of an evaluation: add them all, then ask."""

    threshold: float = 0.8
    near: Near = field(init=False)
    texts: dict[str, None] = field(default_factory=dict)  # different questions, in order
    firsts: list[int] = field(default_factory=list)  # the first row that asks each
    rows: int = 0
    known: Passages | None = None

    def __post_init__(self) -> None:
        self.near = Near(self.threshold)

    def add(self, question: str) -> None:
        if question not in self.texts:
            self.texts[question] = None
            self.firsts.append(self.rows)
            self.near.add(self.near.sketch([question]))
        self.rows += 1
        self.known = None

    def leak(self, question: str, replies: Sequence[str] = ()) -> Leak | None:
        """Where the question of a row stands in the evaluation, or what it says; None where it does not."""
        near = self.near.first(self.near.sketch([question]))
        if near is not None:
            same = "the same question" if near[1] == 1 else f"nearly the same question (likeness {near[1]:.2f})"
            return Leak(self.firsts[near[0]], same)
        if self.known is None:
            self.known = passages(list(self.texts))
        for text in (question, *replies):
            shared = self.known.shared(text)
            if shared is not None:
                return Leak(self.firsts[shared[0]], f"{PASSAGE} words in a row of its question: {shared[1]!r}")
        return None
