"""A data set as a whole: what stands in it nearly twice, what an evaluation holds too, languages, topics, classes."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preferent.data.columns import Parsed, Unpaired, parse
from preferent.data.rows import BadRow, Row, rows
from preferent.data.wording import answers, opinion, parts, question
from preferent.feedback.curation.contamination import HeldOut
from preferent.feedback.curation.language import language
from preferent.feedback.curation.minhash import Near
from preferent.feedback.curation.topics import Topic, topics
from preferent.types import Preference

SAMPLE = 2000  # questions that topics are made of
CLASSES = 20  # different values of a column at most, or they are no classes
LONGEST_CLASS = 40  # characters

NEARLY = "nearly the same row as one before"
OPPOSED = "the opposite of a row before: the same replies to the same prompt, judged the other way round"


@dataclass
class Evaluation:
    """A data set to be held out: its rows, where each stands, and those that cannot be read."""

    source: str
    held: HeldOut
    places: list[str] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    def leak(self, parsed: Parsed) -> tuple[str, str] | None:
        """Where it stands in here, and how one can tell."""
        found = self.held.leak(question(parsed), answers(parsed))
        return None if found is None else (self.places[found.place], found.why)


def evaluation(source: str | Path, threshold: float, columns: Mapping[str, str] | None = None) -> Evaluation:
    """Read all of it. Raises UsageError where the source cannot be read at all."""
    made = Evaluation(str(source), HeldOut(threshold))
    for item in rows(source):
        if isinstance(item, BadRow):
            made.bad.append(item)
            continue
        try:
            parsed = parse(item.data, columns=columns)
        except BadRow as bad:
            made.bad.append(bad.at(item))
            continue
        made.held.add(question(parsed))
        made.places.append(f"{item.unit} {item.line}")
    return made


@dataclass
class Census:
    """Counts over the rows of a source. ``near`` is the likeness from which rows are told; None: they are not compared.

    Memory: with ``near``, what ``Near`` takes; else a few bytes a row.
    """

    near: float | None = None
    against: Sequence[Evaluation] = ()
    languages: Counter[str] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    dropped: set[str] = field(default_factory=set)  # columns that are no classes
    leaks: Counter[str] = field(default_factory=Counter)  # rows that an evaluation holds too, by its name
    seen: Near = field(init=False)
    places: list[str] = field(default_factory=list)  # of the rows in ``seen``
    judged: dict[bytes, bytes] = field(default_factory=dict)  # replies in any order → how they were judged first
    sample: list[tuple[int, str]] = field(default_factory=list)  # a heap of different questions, those of least hash
    sampled: set[int] = field(default_factory=set)  # their hashes

    def __post_init__(self) -> None:
        self.seen = Near(self.near or 1.0)

    def take(self, row: Row, parsed: Parsed, *, again: bool) -> Iterator[tuple[str, str]]:
        """Count a row; yields what is to be known of it, and where. ``again``: all of it stood in a row before."""
        place = f"{row.unit} {row.line}"
        self.languages[language("\n".join((question(parsed), *answers(parsed))))] += 1
        self.classify(row)
        self.keep(question(parsed))
        if self.opposed(parsed):
            yield OPPOSED, place
        if self.near is not None and not again:
            sketch = self.seen.sketch(parts(parsed))
            twin = self.seen.first(sketch)
            if twin is not None:
                yield NEARLY, f"{place} ({self.places[twin[0]]})"
            else:
                self.seen.add(sketch)
                self.places.append(place)
        for each in self.against:
            leak = each.leak(parsed)
            if leak is not None:
                self.leaks[each.source] += 1
                yield f"also in {each.source}", f"{place} ({leak[0]})"

    def classify(self, row: Row) -> None:
        """Count short values of columns, until there are too many different ones."""
        for column, value in row.data.items():
            if column in self.dropped or value is None:
                continue
            if not isinstance(value, str | bool | int) or len(str(value)) > LONGEST_CLASS:
                self.dropped.add(column)
            else:
                self.values[column][str(value)] += 1
            if column in self.dropped or len(self.values[column]) > CLASSES:
                self.dropped.add(column)
                self.values.pop(column, None)

    def opposed(self, parsed: Parsed) -> bool:
        """Is this the other way round from how the same replies were judged before?"""
        if isinstance(parsed.noun, Preference):
            one, other = answers(parsed)
            order = one < other, parsed.noun.choice[0] > parsed.noun.choice[1]
            # A tie is the opposite of nothing, and a reply that is worse by its number is better in the other place.
            verdict = str(order[0] == order[1]) if len(set(parsed.noun.choice)) > 1 else None
        elif isinstance(parsed.noun, Unpaired):
            verdict = opinion(parsed)
        else:
            verdict = None
        if verdict is None:
            return False
        key = hashed("\0".join((question(parsed), *sorted(answers(parsed)))))
        return self.judged.setdefault(key, verdict.encode()) != verdict.encode()

    def keep(self, asked: str) -> None:
        """A sample of the different questions that does not depend on their order."""
        mark = -int.from_bytes(hashed(asked))  # heapq keeps the least on top, which is here the first to go
        if mark in self.sampled or (len(self.sample) == SAMPLE and mark < self.sample[0][0]):
            return
        self.sampled.add(mark)
        heapq.heappush(self.sample, (mark, asked))
        if len(self.sample) > SAMPLE:
            self.sampled.remove(heapq.heappop(self.sample)[0])

    def classes(self) -> dict[str, Counter[str]]:
        """Columns whose few values come again and again."""
        return {name: counts for name, counts in self.values.items() if 2 <= len(counts) <= counts.total() / 2}

    def topics(self) -> list[Topic]:
        return topics([text for _, text in sorted(self.sample)])


def hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
