"""Who judges what next: tasks with overlap, handed out on leases, correct under many writers at once.

A task is open while fewer annotators hold or have answered it than opinions are wanted. A lease that runs out gives its
place back. An answer that comes too late is taken while the place is still free, and is else kept outside of the
campaign: no work of anybody's is lost, and no item gets more opinions than were asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, and_, delete, exists, select, update

from preferent.config import UsageError
from preferent.feedback.records import Answer, Item, Judgement, batched, checked, digest
from preferent.feedback.store.engine import repeated, writing
from preferent.feedback.store.store import (
    BATCH,
    insert_items,
    insert_judgements,
    insert_new,
    item_of,
    judgement_of,
)
from preferent.feedback.store.tables import HELD, annotators, campaigns, judgements, leases, tasks


@dataclass(frozen=True)
class Lease:
    """An item that an annotator has until a time, and the order in which the options are to be shown."""

    id: str
    item: Item
    shown: tuple[int, ...]
    until: float  # seconds since 1970


@repeated
def claim(engine: Engine, campaign: str, annotator: str, *, at: float | None = None) -> Lease | None:
    """The item that this annotator has already, or the next; None when there is nothing left for them.

    Raises UsageError for a campaign or an annotator that does not exist.
    """
    now = time.time() if at is None else at
    with writing(engine) as connection:
        seconds = connection.execute(select(campaigns.c.lease).where(campaigns.c.id == campaign)).scalar()
        if seconds is None:
            raise UsageError(f'There is no campaign "{campaign}" in this store.')
        if not alone_as(connection, annotator):
            raise UsageError(f'There is no annotator "{annotator}" in this store.')
        give_back(connection, leases.c.until < now)
        held = connection.execute(
            select(leases.c.id, leases.c.shown, leases.c.until, tasks.c.item)
            .join(tasks, tasks.c.number == leases.c.task)
            .where(leases.c.annotator == annotator, HELD, tasks.c.campaign == campaign)
        ).first()
        if held:
            return Lease(held.id, item_of(connection, held.item), tuple(held.shown), held.until)
        task = next_task(connection, campaign, annotator)
        if task is None:
            return None
        item = item_of(connection, task.item)
        lease = Lease(uuid4().hex, item, order(task.number, annotator, len(item.options)), now + seconds)
        connection.execute(update(tasks).where(tasks.c.number == task.number).values(taken=tasks.c.taken + 1))
        connection.execute(
            delete(leases).where(
                leases.c.task == task.number, leases.c.annotator == annotator, leases.c.state == "over"
            )
        )
        connection.execute(
            leases.insert().values(
                id=lease.id,
                task=task.number,
                annotator=annotator,
                shown=lease.shown,
                state="held",
                since=now,
                until=lease.until,
            )
        )
        return lease


def alone_as(connection: Connection, annotator: Any) -> bool:
    """Whether there is such an annotator; what else they do at once (in two tabs, say) waits until this is done.

    Each statement after it sees what they did before. Records of other people's work may refer to them meanwhile.
    """
    row = select(annotators.c.id).where(annotators.c.id == annotator)
    return connection.execute(row.with_for_update(key_share=True)).first() is not None


def next_task(connection: Connection, campaign: str, annotator: str) -> Any:
    """The first open task, by priority, that this annotator has neither answered nor holds; locked until the end."""
    mine = and_(leases.c.task == tasks.c.number, leases.c.annotator == annotator, leases.c.state != "over")
    query = (
        select(tasks.c.number, tasks.c.item)
        .where(tasks.c.campaign == campaign, tasks.c.taken < tasks.c.wanted, ~exists().where(mine))
        .order_by(tasks.c.priority.desc(), tasks.c.number)
        .limit(1)
    )
    # What others are claiming at this moment is passed over. Before nothing is left, their end is waited for: each of
    # them takes one opinion only, of those that are wanted.
    while (found := connection.execute(query.with_for_update(of=tasks, skip_locked=True)).first()) is None:
        if connection.execute(query).first() is None:
            return None
        connection.execute(query.with_for_update(of=tasks))
    return found


@repeated
def answer(
    engine: Engine, lease: str, said: Answer, *, seconds: float | None = None, note: str = "", at: float | None = None
) -> Judgement:
    """Keep an answer; the same answer twice is kept once. Raises UsageError for one that does not fit the item."""
    now = time.time() if at is None else at
    with writing(engine) as connection:
        alone_as(connection, select(leases.c.annotator).where(leases.c.id == lease).scalar_subquery())
        row = connection.execute(
            select(leases, tasks.c.item, tasks.c.campaign, campaigns.c.guideline)
            .join(tasks, tasks.c.number == leases.c.task)
            .join(campaigns, campaigns.c.id == tasks.c.campaign)
            .where(leases.c.id == lease)
            .with_for_update(of=leases)
        ).first()
        if row is None:
            raise UsageError(f"There is no lease {lease}: this item was given back, or asked for again, meanwhile.")
        if row.state == "answered":
            return said_before(connection, lease, said)
        checked(item_of(connection, row.item), said)
        free = row.state == "held" or bool(
            connection.execute(
                update(tasks)
                .where(tasks.c.number == row.task, tasks.c.taken < tasks.c.wanted)
                .values(taken=tasks.c.taken + 1)
            ).rowcount
        )
        took = seconds if seconds is not None else round(max(0.0, now - row.since), 3)
        judgement = Judgement(
            row.item,
            row.annotator,
            said,
            tuple(row.shown),
            took,
            row.guideline,
            row.campaign if free else "",
            note=note,
            id=lease,
        )
        insert_judgements(connection, [judgement])
        connection.execute(update(leases).where(leases.c.id == lease).values(state="answered"))
        return judgement


def said_before(connection: Connection, lease: str, said: Answer) -> Judgement:
    """The judgement of this lease, when it is the same. Raises UsageError when it is another."""
    row = connection.execute(select(judgements).where(judgements.c.id == lease)).mappings().one()
    if (kept := judgement_of(row)).answer != said:
        raise UsageError(f"Lease {lease} is answered already, otherwise. To correct an answer, supersede it.")
    return kept


@repeated
def release(engine: Engine, lease: str) -> None:
    """Give an item back unanswered."""
    with writing(engine) as connection:
        give_back(connection, leases.c.id == lease)


def give_back(connection: Connection, which: Any) -> None:
    """End held leases and open their places again: tasks in order, so that no two writers wait for each other."""
    held = select(leases.c.id, leases.c.task).where(HELD, which)  # in any order: sorted by task, SQLite reads them all
    rows = connection.execute(held.with_for_update(skip_locked=True)).all()
    if not rows:
        return
    connection.execute(update(leases).where(leases.c.id.in_([row.id for row in rows])).values(state="over"))
    for number, places in sorted(Counter(row.task for row in rows).items()):
        connection.execute(update(tasks).where(tasks.c.number == number).values(taken=tasks.c.taken - places))


def order(task: int, annotator: str, options: int) -> tuple[int, ...]:
    """In which order this annotator sees the options: drawn by key, so that reloading the page does not tell more."""
    return tuple(sorted(range(options), key=lambda place: digest([task, annotator, place])))


def ask(engine: Engine, campaign: str, of: Iterable[Item], *, priority: float = 0.0) -> int:
    """Put items into a campaign; how many are new to it. Raises UsageError for a campaign that does not exist."""
    return ask_all(engine, campaign, list(of), priority)


@repeated
def ask_all(engine: Engine, campaign: str, of: Sequence[Item], priority: float) -> int:
    """Who asks in the same campaign waits here, so that tasks can stand in the order in which they were asked."""
    added = 0
    with writing(engine) as connection:
        settings = select(campaigns.c.overlap).where(campaigns.c.id == campaign)
        wanted = connection.execute(settings.with_for_update(key_share=True)).scalar()
        if wanted is None:
            raise UsageError(f'There is no campaign "{campaign}" in this store.')
        insert_items(connection, of)
        for some in batched(of, BATCH):
            rows = [{"campaign": campaign, "item": each.id, "wanted": wanted, "priority": priority} for each in some]
            added += len(insert_new(connection, tasks, rows))
    return added
