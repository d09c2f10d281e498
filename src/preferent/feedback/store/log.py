"""What happened in a store, so that it can be shown that nothing was changed afterwards.

Each record leaves an event with a checksum of what was written, in the same transaction. Events are sealed in batches:
a seal is a checksum over the events in it and the seal before, so that one changed, missing or inserted anywhere breaks
the chain from there on. (A chain link for each event would make writers queue up behind one another.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, update

from preferent.feedback.records import batched, digest, now
from preferent.feedback.store.engine import alone, reading, writing
from preferent.feedback.store.tables import events, items, judgements, seals


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong: each fault a sentence."""

    judgements: int
    items: int
    sealed: int
    unsealed: int
    head: str  # the last seal: who wrote it down elsewhere can show later that nothing before it was changed
    faults: tuple[str, ...]


def happened(connection: Connection, what: str, records: Iterable[tuple[str, str]]) -> None:
    """Note events: what, of which record, and the checksum of what was written."""
    at = now()
    rows = [{"at": at, "what": what, "of": of, "digest": checksum} for of, checksum in records]
    if rows:
        connection.execute(insert(events), rows)


def content(row: Mapping[str, Any]) -> str:
    """The checksum of a row of a table, all its columns but the number that the database gave it."""
    return digest({name: value for name, value in row.items() if name != "number"})


def seal(engine: Engine, *, most: int = 100_000) -> int:
    """Seal the events that are not sealed yet, ``most`` to a seal; how many they were."""
    sealed = 0
    while count := seal_once(engine, most):
        sealed += count
    return sealed


def seal_once(engine: Engine, most: int) -> int:
    with writing(engine) as connection:
        alone(connection, "preferent seal")
        rows = connection.execute(
            select(events).where(events.c.seal.is_(None)).order_by(events.c.number).limit(most)
        ).all()
        if not rows:
            return 0
        last = connection.execute(select(seals).order_by(seals.c.number.desc()).limit(1)).one_or_none()
        number, before = (last.number + 1, last.digest) if last else (1, "")
        connection.execute(
            insert(seals).values(number=number, events=len(rows), before=before, digest=link(before, rows), at=now())
        )
        numbers = [row.number for row in rows]
        for some in batched(numbers, 5000):  # not by range: others may be written between them just now
            connection.execute(update(events).where(events.c.number.in_(some)).values(seal=number))
        return len(rows)


def link(before: str, rows: Iterable[Row[Any]]) -> str:
    """The checksum of a seal."""
    chained = hashlib.sha256(before.encode())
    for row in rows:
        chained.update(f"\n{row.number} {row.at} {row.what} {row.of} {row.digest}".encode())
    return chained.hexdigest()


def verify(engine: Engine) -> Verified:
    """Compute every checksum again. Reads the whole store, in constant memory."""
    faults: list[str] = []
    with reading(engine) as connection:
        counts = {
            table.name: check_rows(connection, table, what, faults)
            for table, what in ((judgements, "judgement"), (items, "item"))
        }
        before, sealed = "", 0
        for each in connection.execute(select(seals).order_by(seals.c.number)).all():
            rows = list(
                connection.execute(select(events).where(events.c.seal == each.number).order_by(events.c.number))
            )
            sealed += len(rows)
            if each.before != before or len(rows) != each.events or link(each.before, rows) != each.digest:
                faults.append(f"seal {each.number} is broken: of {each.events} events, {len(rows)} are there.")
            before = each.digest
        unsealed = connection.execute(select(func.count()).where(events.c.seal.is_(None))).scalar_one()
    return Verified(counts["judgements"], counts["items"], sealed, unsealed, before, tuple(faults))


def check_rows(connection: Connection, table: Any, what: str, faults: list[str]) -> int:
    """How many rows; those that are not as their event says, or have none, or are gone, become faults."""
    log = select(events.c.of, events.c.digest).where(events.c.what == what).subquery()
    count = 0
    for row in rows_of(connection, select(table, log.c.digest).outerjoin(log, log.c.of == table.c.id)):
        count += 1
        said = row.pop("digest")
        if said is None:
            faults.append(f"{what} {row['id']} is not in the log.")
        elif content(row) != said:
            faults.append(f"{what} {row['id']} was changed after it was written.")
    gone = select(log.c.of).outerjoin(table, table.c.id == log.c.of).where(table.c.id.is_(None))
    faults.extend(f"{what} {of} is gone." for of in connection.execute(gone).scalars())
    return count


def rows_of(connection: Connection, query: Any) -> Iterator[dict[str, Any]]:
    return (dict(row) for row in connection.execute(query).mappings())
