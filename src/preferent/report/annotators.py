"""The annotators whose judgements a store keeps, as a report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from preferent.config import UsageError
from preferent.feedback.aggregation import majority
from preferent.feedback.agreement import Agreement, krippendorff_counts
from preferent.feedback.store import open_engine
from preferent.feedback.store.counting import Habits, habits, label_table, vote_table


class Annotator(NamedTuple):
    """Somebody who judged comparisons."""

    habits: Habits
    sides: float | None  # how often with the majority of the others; None where nobody else judged the same


class Annotators(NamedTuple):
    """All of a store."""

    source: str
    agreement: Agreement
    people: Sequence[Annotator]  # those first who judged most


def annotators_in(path: Path) -> Annotators:
    """Raises UsageError where this is no store, or one that cannot be read."""
    engine = open_engine(path, make=False)
    try:
        sides = {each.annotator: each.accuracy for each in majority(vote_table(engine)).annotators}
        people = [Annotator(each, sides.get(each.annotator)) for each in habits(engine)]
        people.sort(key=lambda each: -each.habits.choices)
        return Annotators(str(path), krippendorff_counts(label_table(engine)), people)
    except UsageError:
        raise
    except (ValueError, TypeError) as error:  # a label that is no number, say
        raise UsageError(f"{path}: is damaged: {error}. Restore it from a copy.") from error
    finally:
        engine.dispose()
