"""Asking through the store: what annotators said becomes preferences, and a crowd answers where people would.

A preference made here holds the ids of the judgements behind it, so that what is trained on it can name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from preferent.feedback.crowd import Crowd
from preferent.feedback.records import Answer, Choice, Item, Judgement, Messages, batched, digest, item
from preferent.feedback.store.queue import answer, ask, claim
from preferent.feedback.store.store import (
    add_annotator,
    add_campaign,
    add_items,
    add_judgements,
    known,
    read_judgements,
)
from preferent.types import Comparison, Preference

Asked = Comparison[Messages, Messages]
Say = Callable[[Item, tuple[int, ...]], tuple[Answer, float]]  # an item and its order on the screen → answer, seconds


def messages(shown: Any, role: str) -> Messages:
    """Text as one message by ``role``; messages as they are."""
    return ({"role": role, "content": shown},) if isinstance(shown, str) else tuple(shown)


def item_of(comparison: Comparison[Any, Any], *, sources: Sequence[str] = ()) -> tuple[Item, tuple[int, ...]]:
    """The item that asks this, and for each of its options the place that it had in the comparison."""
    options = [messages(option, "assistant") for option in comparison.options]
    return item(messages(comparison.context, "user"), options, sources=sources)


def comparison_of(item: Item) -> Asked:
    return Comparison(item.context, item.options)


def preference_of(item: Item, judgement: Judgement) -> Preference[Messages, Messages] | None:
    """A judgement as training reads it; None where it is no choice."""
    said = judgement.answer
    if not isinstance(said, Choice):
        return None
    return Preference(
        comparison_of(item), said.choice, judgement.annotator, said.strength, said.both_bad, (judgement.id,)
    )


def preferences(engine: Engine, *, campaign: str | None = None) -> Iterator[Preference[Messages, Messages]]:
    """All choices that stand, those about one item one after another; in constant memory."""
    for of, group in read_judgements(engine, campaign=campaign):
        yield from filter(None, (preference_of(of, each) for each in group))


# --- people, as an annotator -----------------------------------------------------------------------
class Unanswered(Exception):
    """Some of what was asked has too few answers yet."""

    def __init__(self, missing: int, items: Sequence[Item]) -> None:
        super().__init__(f"{missing} of {len(items)} comparisons wait for answers. Go on when people have answered.")
        self.missing, self.asked, self.items = missing, len(items), items


@dataclass(frozen=True)
class Campaign:
    """A campaign as an annotator: asks what was not asked yet, and gives what people have said of it."""

    engine: Engine
    id: str
    overlap: int = 1
    lease: float = 900.0
    guideline: str = ""

    def __call__(self, comparisons: Sequence[Comparison[Any, Any]], /) -> list[Preference[Messages, Messages]]:
        """Every answer to these. Raises Unanswered, with everything asked, while any has fewer than ``overlap``."""
        add_campaign(self.engine, self.id, overlap=self.overlap, lease=self.lease, guideline=self.guideline)
        asked = {each.id: each for each in (item_of(comparison)[0] for comparison in comparisons)}
        ask(self.engine, self.id, asked.values())
        found: list[Preference[Messages, Messages]] = []
        complete = 0
        for of, group in read_judgements(self.engine, campaign=self.id):
            if of.id in asked:
                complete += len(group) >= self.overlap
                found.extend(filter(None, (preference_of(of, each) for each in group)))
        if complete < len(asked):
            raise Unanswered(len(asked) - complete, list(asked.values()))
        return found


# --- a simulated crowd -----------------------------------------------------------------------------
def person_of(crowd: Crowd[Any, Any], person: int) -> str:
    """The annotator's id of one of the crowd."""
    return f"{crowd.name}, person {person + 1}"


def says(crowd: Crowd[Any, Any], person: int) -> Say:
    """What one of the crowd says of items, and how long they take."""

    def say(of: Item, shown: tuple[int, ...]) -> tuple[Answer, float]:
        said = crowd.answer(comparison_of(of), person, shown_first=shown[0])
        return Choice(said.choice), crowd.seconds(comparison_of(of), person)

    return say


def work(engine: Engine, campaign: str, annotator: str, say: Say) -> int:
    """Claim and answer until nothing is left for this annotator; how many answers were kept."""
    done = 0
    while lease := claim(engine, campaign, annotator):
        said, seconds = say(lease.item, lease.shown)
        answer(engine, lease.id, said, seconds=seconds)
        done += 1
    return done


def ask_crowd(
    engine: Engine, crowd: Crowd[Any, Any], comparisons: Sequence[Comparison[Any, Any]], *, campaign: str = ""
) -> list[Preference[Messages, Messages]]:
    """The whole crowd's answers, kept at once and not one by one through the queue.

    A judgement's id is a checksum of who was asked what in which campaign, so asking again keeps nothing twice.
    """
    for person in range(crowd.people):
        add_annotator(engine, person_of(crowd, person), kind="crowd")
    answered: list[Preference[Messages, Messages]] = []
    for some in batched(comparisons, 1000):
        items = {each.id: each for each in (item_of(comparison)[0] for comparison in some)}
        add_items(engine, items.values())
        pairs = [(of, judgement) for of in items.values() for judgement in judged(crowd, of, campaign)]
        there = known(engine, [judgement.id for _, judgement in pairs])
        add_judgements(engine, [judgement for _, judgement in pairs if judgement.id not in there])
        answered.extend(filter(None, (preference_of(of, judgement) for of, judgement in pairs)))
    return answered


def judged(crowd: Crowd[Any, Any], of: Item, campaign: str) -> list[Judgement]:
    """What those of the crowd who are asked say of an item."""
    comparison = comparison_of(of)
    gap = crowd.gap(comparison)
    said = []
    for person in crowd.panel(comparison):
        annotator, first = person_of(crowd, person), crowd.shown_first(comparison, person)
        choice = crowd.answer(comparison, person, shown_first=first, gap=gap).choice
        seconds, id = crowd.seconds(comparison, person), digest([campaign, of.id, annotator])[:32]
        said.append(Judgement(of.id, annotator, Choice(choice), (first, 1 - first), seconds, campaign=campaign, id=id))
    return said
