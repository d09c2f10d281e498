"""What happened in a store, so that it can be shown that nothing was changed afterwards.

Each record leaves an event with a checksum of what was written, in the same transaction. Events are sealed in batches,
by whoever writes when there are enough: a seal is a checksum over the events in it and the seal before, so that one
changed, missing or inserted anywhere breaks the chain from there on. (A chain link for each event would make writers
queue up behind one another.) An event that is not sealed yet is open: it can be taken out without a trace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Connection, Engine, Row, Table, Text, cast, func, insert, select, update

from preferent.feedback.records import batched, digest, now
from preferent.feedback.store.engine import alone, is_postgresql, reading, writing
from preferent.feedback.store.tables import annotators, campaigns, events, guidelines, items, judgements, seals

OPEN = 1000  # events that are left open at most, but for those of transactions that run at the same time
SEALING = "preferent seal"  # what only one transaction at a time does


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong: each fault a sentence."""

    judgements: int
    items: int
    sealed: int
    unsealed: int  # open: what was taken out together with its event is not missed
    head: str  # the last seal: who wrote it down elsewhere can show later that nothing before it was changed
    faults: tuple[str, ...]


def happened(connection: Connection, what: str, records: Iterable[tuple[str, str]]) -> None:
    """Note events: what, of which record, and the checksum of what was written."""
    at = now()
    rows = [{"at": at, "what": what, "of": of, "digest": checksum} for of, checksum in records]
    if rows:
        connection.execute(insert(events), rows)
        seal_when(connection)


def content(row: Mapping[str, Any]) -> str:
    """The checksum of a row of a table, all its columns but the number that the database gave it."""
    return digest({name: as_kept(value) for name, value in row.items() if name != "number"})


def as_kept(value: Any) -> Any:
    """A whole number as an integer: what was given as 900 comes back from a database as 900.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def seal_when(connection: Connection, open_events: int = OPEN) -> None:
    """Seal as many events once so many are open, unless another transaction is at it just now: nobody waits."""
    some = select(events.c.number).where(events.c.seal.is_(None)).limit(open_events).subquery()
    if connection.execute(select(func.count()).select_from(some)).scalar_one() == open_events and free(connection):
        seal_open(connection, open_events)


def free(connection: Connection) -> bool:
    """Whether no other transaction is sealing, so that this one may, until it ends. SQLite has one writer anyway."""
    if not is_postgresql(connection.engine):
        return True
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock(func.hashtext(SEALING)))).scalar())


def seal(engine: Engine, *, most: int = 100_000) -> int:
    """Seal the events that are not sealed yet, ``most`` to a seal; how many they were."""
    sealed = 0
    while count := seal_once(engine, most):
        sealed += count
    return sealed


def seal_once(engine: Engine, most: int) -> int:
    with writing(engine) as connection:
        alone(connection, SEALING)
        return seal_open(connection, most)


def seal_open(connection: Connection, most: int) -> int:
    """Put the first open events under a seal; how many they were. Only one transaction at a time may be at it."""
    rows = connection.execute(select(events).where(events.c.seal.is_(None)).order_by(events.c.number).limit(most)).all()
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


def chain(engine: Engine) -> list[str]:
    """Every seal, from the first on."""
    with reading(engine) as connection:
        return list(connection.execute(select(seals.c.digest).order_by(seals.c.number)).scalars())


def verify(engine: Engine) -> Verified:
    """Compute every checksum again, and change nothing. Reads the whole store, in constant memory."""
    faults: list[str] = []
    with reading(engine) as connection, undecoded(connection):
        counts = {
            table.name: check_rows(connection, table, what, checksum, faults)
            for table, what, checksum in (
                (judgements, "judgement", content),
                (items, "item", content),
                (annotators, "annotator", lambda row: digest([row["id"], row["kind"]])),
                (campaigns, "campaign", content),
            )
        }
        check_guidelines(connection, faults)
        sealed, head = check_seals(connection, faults)
        unsealed = connection.execute(select(func.count()).where(events.c.seal.is_(None))).scalar_one()
        lost = connection.execute(select(func.count()).select_from(events)).scalar_one() - sealed - unsealed
        if lost:
            faults.append(f"{lost} events are under a seal that is gone.")
    return Verified(counts["judgements"], counts["items"], sealed, unsealed, head, tuple(faults))


@contextmanager
def undecoded(connection: Connection) -> Iterator[None]:
    """Text that is none comes as bytes, to be named with its row; SQLite holds any, and reading it would end here."""
    if is_postgresql(connection.engine):
        yield
        return
    driver: Any = connection.connection.dbapi_connection
    driver.text_factory = text_or_bytes
    try:
        yield
    finally:
        driver.text_factory = str


def text_or_bytes(kept: bytes) -> str | bytes:
    try:
        return kept.decode()
    except UnicodeDecodeError:
        return kept


def check_rows(
    connection: Connection, table: Table, what: str, checksum: Callable[[dict[str, Any]], str], faults: list[str]
) -> int:
    """How many rows; those that are not as their event says, or have none, or are gone, become faults."""
    log = select(events.c.of, events.c.digest).where(events.c.what == what).subquery()
    read = {column.name for column in table.c if isinstance(column.type, JSON)}  # here: one that is none is a fault
    columns = [cast(column, Text).label(column.name) if column.name in read else column for column in table.c]
    count = 0
    query = select(*columns, log.c.digest.label("logged")).outerjoin_from(table, log, log.c.of == table.c.id)
    for row in connection.execute(query).mappings():
        count += 1
        if row["logged"] is None:
            faults.append(f"{what} {row['id']} is not in the log.")
            continue
        try:
            said = {each.name: json.loads(row[each.name]) if each.name in read else row[each.name] for each in table.c}
            if checksum(said) != row["logged"]:
                faults.append(f"{what} {row['id']} was changed after it was written.")
        except (ValueError, TypeError, RecursionError):  # no JSON, or what has no place in it: a number without end
            faults.append(f"{what} {row['id']} is damaged: it cannot be read.")
    gone = select(log.c.of).outerjoin(table, table.c.id == log.c.of).where(table.c.id.is_(None))
    faults.extend(f"{what} {of} is gone." for of in connection.execute(gone).scalars())
    return count


def check_guidelines(connection: Connection, faults: list[str]) -> None:
    """A guideline is known by the checksum of its text, and each campaign's must be there."""
    for version, text in connection.execute(select(guidelines.c.version, guidelines.c.text)):
        if not isinstance(text, str) or digest(text) != version:
            faults.append(f"guideline {version} was changed after it was written.")
    there = select(guidelines.c.version)
    gone = select(campaigns.c.id, campaigns.c.guideline).where(campaigns.c.guideline.not_in(there))
    faults.extend(f"guideline {version} of campaign {id} is gone." for id, version in connection.execute(gone))


def check_seals(connection: Connection, faults: list[str]) -> tuple[int, str]:
    """How many events are under seal, and the last seal; a seal that does not fit its events becomes a fault."""
    before, sealed = "", 0
    for each in connection.execute(select(seals).order_by(seals.c.number)).all():
        rows = connection.execute(select(events).where(events.c.seal == each.number).order_by(events.c.number)).all()
        sealed += len(rows)
        if each.before != before or len(rows) != each.events or link(each.before, rows) != each.digest:
            faults.append(f"seal {each.number} is broken: of {each.events} events, {len(rows)} are there.")
        before = each.digest
    return sealed, before
