"""Statistics of a large store: the database counts, and what comes back is little.

Items that were judged alike are one pattern, and of these statistics only need to know how many there are: a million
judgements by twenty people are some thousands of patterns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, Select, Text, cast, func, select

from preferent.feedback.aggregation import Votes, numbered
from preferent.feedback.agreement import Table
from preferent.feedback.biases import Bias, position_bias
from preferent.feedback.store.engine import reading
from preferent.feedback.store.store import current
from preferent.feedback.store.tables import judgements

AND, SAYS = "\x1e", "\x1f"  # stand in no annotator's id
LABEL = cast(judgements.c.label, Text)
CHOICES = judgements.c.label.is_not(None)
CORRECTED = select(judgements.c.supersedes).where(judgements.c.supersedes.is_not(None))


def label_table(engine: Engine, *, campaign: str | None = None) -> Table:
    """The choices that stand, for ``krippendorff_counts`` and ``fleiss``: who said what is left out.

    Labels are places of options, -1 a tie, -2 both bad. Items with one choice are left out.
    """
    with reading(engine) as connection:
        found = patterns(connection, LABEL, campaign)
    alike: Counter[tuple[str, ...]] = Counter({pattern: n for pattern, n in found.items() if len(pattern) > 1})
    column = {label: at for at, label in enumerate(sorted({each for pattern in alike for each in pattern}, key=int))}
    counts = np.zeros((len(alike), len(column)))
    for row, pattern in zip(counts, alike, strict=True):
        for label in pattern:
            row[column[label]] += 1
    return Table(counts, np.array([*alike.values()], dtype=np.float64))


def vote_table(engine: Engine, *, campaign: str | None = None) -> Votes:
    """The choices that stand, for ``majority``, ``dawid_skene`` and ``mace``.

    Items with the same votes are one: what these methods call an item is here a tuple of (annotator, label).
    """
    with reading(engine) as connection:
        found = patterns(connection, LABEL + SAYS + judgements.c.annotator, campaign)
    votes: dict[tuple[tuple[str, int], ...], int] = {}
    for pattern, n in found.items():
        said = (vote.split(SAYS, 1) for vote in pattern)
        votes[tuple((annotator, int(label)) for label, annotator in said)] = n
    triples = ((pattern, annotator, label) for pattern in votes for annotator, label in pattern)
    return replace(numbered(triples), times=np.array([*votes.values()], dtype=np.float64))


def patterns(connection: Connection, vote: Any, campaign: str | None) -> Counter[tuple[str, ...]]:
    """How many items have which votes, in sorted order. Corrected items are taken out and counted on their own."""
    query = select(func.aggregate_strings(vote, AND).label("votes")).where(CHOICES).group_by(judgements.c.item)
    if campaign is not None:
        query = query.where(judgements.c.campaign == campaign)
    touched = query.where(judgements.c.item.in_(select(judgements.c.item).where(judgements.c.id.in_(CORRECTED))))

    def counted(of: Select[Any]) -> Counter[tuple[str, ...]]:
        each = of.subquery()
        found: Counter[tuple[str, ...]] = Counter()
        for votes, n in connection.execute(select(each.c.votes, func.count()).group_by(each.c.votes)):
            found[tuple(sorted(votes.split(AND)))] += n
        return found

    return counted(query) - counted(touched) + counted(touched.where(current()))


# --- each annotator ------------------------------------------------------------------------------------
class Habits(NamedTuple):
    """What an annotator's choices look like, whatever was shown."""

    annotator: str
    choices: int
    ties: int  # or both bad
    position: Bias  # for what is shown first, of two options
    seconds: float | None  # per choice, on average


@dataclass
class Tally:
    """Sums over an annotator's choices."""

    choices: int = 0
    ties: int = 0
    decided: int = 0  # choices between two options, of which one was preferred
    firsts: int = 0  # of these, for the one shown first
    timed: int = 0
    seconds: float = 0.0


def habits(engine: Engine, *, campaign: str | None = None) -> list[Habits]:
    """How each annotator chooses and how long that takes, over the choices that stand."""
    given = (judgements.c.annotator, judgements.c.first, judgements.c.label)
    timed, seconds = func.count(judgements.c.seconds), func.sum(judgements.c.seconds)
    query = select(*given, func.count(), timed, seconds).where(CHOICES).group_by(*given)
    of = judgements.c.campaign
    all_ = query if campaign is None else query.where(of == campaign)
    gone = query.add_columns(of).group_by(of).where(judgements.c.id.in_(CORRECTED))  # by their ids: they are few
    tallies: dict[str, Tally] = {}
    with reading(engine) as connection:
        for sign, rows in ((1, all_), (-1, gone)):
            for annotator, first, label, n, timed_n, total, *others in connection.execute(rows):
                if others and campaign not in (None, *others):
                    continue
                tally = tallies.setdefault(annotator, Tally())
                tally.choices += sign * n
                tally.ties += sign * n * (label < 0)
                tally.decided += sign * n * (label >= 0 and first is not None)
                tally.firsts += sign * n * (label == first)
                tally.timed += sign * timed_n
                tally.seconds += sign * (total or 0.0)
    return [
        Habits(who, t.choices, t.ties, position_bias(t.firsts, t.decided), t.seconds / t.timed if t.timed else None)
        for who, t in sorted(tallies.items())
        if t.choices
    ]
