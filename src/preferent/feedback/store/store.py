"""What a store holds, written and read: items, annotators, campaigns, judgements."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from preferent.config import UsageError
from preferent.feedback.records import (
    Choice,
    Item,
    Judgement,
    Messages,
    batched,
    checked,
    digest,
    now,
    plain,
    read_answer,
)
from preferent.feedback.store.engine import is_postgresql, pragma, reading, repeated, shown, writing
from preferent.feedback.store.log import content, happened
from preferent.feedback.store.tables import annotators, campaigns, guidelines, identities, items, judgements

BATCH = 500  # rows to a statement
TIE, BOTH_BAD = -1, -2
UNFIT = re.compile("[\0\ud800-\udfff]")  # PostgreSQL keeps no NUL, and half a character is no UTF-8


# --- writing -------------------------------------------------------------------------------------
def add_items(engine: Engine, new: Iterable[Item]) -> None:
    """Keep items; those that are there already stay as they are."""
    add_all_items(engine, list(new))


@repeated
def add_all_items(engine: Engine, new: Sequence[Item]) -> None:
    with writing(engine) as connection:
        insert_items(connection, new)


def insert_items(connection: Connection, new: Iterable[Item]) -> None:
    """In the order of their ids, so that no two writers of the same items wait for each other."""
    at = now()
    by_id = sorted({each.id: each for each in new}.items())
    for some in batched((each for _, each in by_id), BATCH):
        rows: list[dict[str, Any]] = [
            {
                "id": each.id,
                "kind": each.kind,
                "context": each.context,
                "options": each.options,
                "sources": each.sources,
                "info": each.info,
                "at": at,
            }
            for each in some
        ]
        added = set(insert_new(connection, items, rows))
        happened(connection, "item", [(row["id"], content(row)) for row in rows if row["id"] in added])


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Insert the rows that are not there yet; their first column."""
    if not rows:
        return []
    insert = postgresql.insert if is_postgresql(connection.engine) else sqlite.insert
    first = next(iter(table.primary_key))
    new = insert(table).on_conflict_do_nothing().returning(first)
    return list(connection.execute(new, fitting(table, rows)).scalars())


def fitting(table: Table, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows, where both databases can hold them. Raises UsageError that names the column."""
    for row in rows:
        for name, value in row.items():
            longest = getattr(table.c[name].type, "length", None) or math.inf
            if isinstance(value, str) and len(value) > longest:
                raise UsageError(
                    f"{table.name}, {name}: expected at most {longest} characters; got {len(value)}: {value[:20]!r}…"
                )
            if isinstance(value, str) and UNFIT.search(value):
                raise UsageError(
                    f"{table.name}, {name}: expected text without NUL or halves of characters; got {value!r:.80}."
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{table.name}, {name}: expected a finite number; got {value}.")
    return rows


def add_annotator(engine: Engine, id: str, *, kind: str = "person", name: str = "", contact: str = "") -> None:
    """Somebody who judges. ``id`` says nothing of who it is; the name is kept apart, and can be erased."""
    with writing(engine) as connection:
        insert_annotator(connection, id, kind, name, contact)


def insert_annotator(connection: Connection, id: str, kind: str, name: str = "", contact: str = "") -> str:
    """The id, of an annotator who is new or known. Raises UsageError for one that cannot be shown on a line."""
    if not id or not id.isprintable():
        raise UsageError(f"Expected an annotator's id that can be printed; got {id!r}.")
    if insert_new(connection, annotators, [{"id": id, "kind": kind, "at": now()}]):
        happened(connection, "annotator", [(id, digest([id, kind]))])
    if name:
        insert_new(connection, identities, [{"annotator": id, "name": name, "contact": contact}])
    return id


def annotators_named(engine: Engine, name: str) -> list[str]:
    """The annotators of this name."""
    with reading(engine) as connection:
        found = select(identities.c.annotator).where(identities.c.name == name).order_by(identities.c.annotator)
        return list(connection.execute(found).scalars())


def judged_by(engine: Engine, annotator: str) -> int:
    """How many judgements of an annotator are kept."""
    with reading(engine) as connection:
        return connection.execute(select(func.count()).where(judgements.c.annotator == annotator)).scalar_one()


def erase(engine: Engine, annotator: str) -> bool:
    """Forget who an annotator is; the judgements stay. Whether a name was known.

    Raises UsageError for an unknown one, and where a reader keeps SQLite from clearing its log, which holds the name.
    """
    with writing(engine) as connection:
        if connection.execute(select(annotators.c.id).where(annotators.c.id == annotator)).first() is None:
            raise UsageError(f'There is no annotator "{annotator}" in this store.')
        known = bool(connection.execute(delete(identities).where(identities.c.annotator == annotator)).rowcount)
        if not is_postgresql(engine):  # written anew, for pages that SQLite once joined may hold copies of their rows
            others = [dict(row) for row in connection.execute(select(identities)).mappings()]
            connection.execute(delete(identities))
            insert_new(connection, identities, others)
        happened(connection, "erasure", [(annotator, digest([annotator]))])
    if not is_postgresql(engine) and pragma(engine, "wal_checkpoint(TRUNCATE)")[0]:
        raise UsageError(
            f"The name of annotator {annotator} is erased, but another program has been reading {shown(engine.url)} all"
            " the time, and the name stays in its -wal file: erase this annotator once more when it is done."
        )
    return known


def add_campaign(engine: Engine, id: str, *, overlap: int = 1, lease: float = 900.0, guideline: str = "") -> None:
    """A campaign: how many opinions each item is to get, for how many seconds it is lent, and by which guideline.

    Raises UsageError where it exists with other settings.
    """
    if not id:
        raise UsageError("Expected a campaign's name; got an empty one.")
    fitting(guidelines, [{"text": guideline}])  # before the checksum, which cannot be made of every text
    version = digest(guideline)
    row = {"id": id, "guideline": version, "overlap": overlap, "lease": lease, "at": now()}
    with writing(engine) as connection:
        insert_new(connection, guidelines, [{"version": version, "text": guideline, "at": now()}])
        if insert_new(connection, campaigns, [row]):
            happened(connection, "campaign", [(id, content(row))])
            return
        found = connection.execute(select(campaigns).where(campaigns.c.id == id)).mappings().one()
    if any(found[name] != row[name] for name in ("guideline", "overlap", "lease")):
        raise UsageError(f'Campaign "{id}" exists, with another guideline, overlap or lease. Choose another name.')


def add_judgements(engine: Engine, new: Iterable[Judgement]) -> None:
    """Keep judgements that came another way than through the queue: all of them or none.

    Raises UsageError where an answer does not fit its item, or the item or annotator is not in the store.
    """
    with writing(engine) as connection:
        for some in batched(new, BATCH):
            found = items_of(connection, {each.item for each in some})
            earlier = judgements_of(connection, [each.supersedes for each in some if each.supersedes])
            kept = []
            for each in some:
                checked(found[each.item], each.answer)
                mine = correction(each, earlier.get(each.supersedes)) if each.supersedes else each
                earlier[mine.id] = mine
                kept.append(mine)
            insert_judgements(connection, kept)


def judgements_of(connection: Connection, ids: Collection[str]) -> dict[str, Judgement]:
    """Judgements by their ids, some hundreds at most; those that the store has."""
    query = select(judgements).where(judgements.c.id.in_(ids))
    return {row["id"]: judgement_of(row) for row in connection.execute(query).mappings()} if ids else {}


def correction(new: Judgement, old: Judgement | None) -> Judgement:
    """In the campaign of what it corrects, where it names none. Raises UsageError where it corrects nothing it may."""
    if old is None or old.item != new.item:
        raise UsageError(f"There is no judgement {new.supersedes} of item {new.item} to supersede.")
    if old.annotator != new.annotator:
        raise UsageError(
            f"Judgement {old.id} is annotator {old.annotator}'s, who alone can supersede it; got {new.annotator}."
        )
    return replace(new, campaign=new.campaign or old.campaign)


def insert_judgements(connection: Connection, new: Sequence[Judgement]) -> None:
    rows = fitting(judgements, [row_of(each) for each in new])
    try:
        connection.execute(judgements.insert(), rows)
    except IntegrityError as error:
        raise UsageError(f"A judgement cannot be kept: {explained(error)}. None of these was written.") from error
    happened(connection, "judgement", [(row["id"], content(row)) for row in rows])


def explained(error: IntegrityError) -> str:
    said = str(error.orig)
    if "supersedes" in said:
        return "what it supersedes is superseded already; correct the newest one"
    if "unique" in said.lower():
        return "its id is taken"
    return "its annotator is not in the store"


def row_of(each: Judgement) -> dict[str, Any]:
    """A judgement as its row. Lists and mappings are as JSON gives them back, so that checksums can be made again."""
    return {
        "id": each.id,
        "item": each.item,
        "annotator": each.annotator,
        "campaign": each.campaign,
        "said": each.answer.said,
        "label": label(each.answer) if isinstance(each.answer, Choice) else None,
        "answer": plain(each.answer),
        "shown": list(each.shown),
        "first": each.shown[0] if len(each.shown) == 2 else None,
        "seconds": each.seconds,
        "guideline": each.guideline,
        "supersedes": each.supersedes,
        "note": each.note,
        "at": each.at,
    }


def label(answer: Choice) -> int:
    """The place of the preferred option; -1 where several share the most, -2 where both are bad."""
    if answer.both_bad:
        return BOTH_BAD
    best = max(answer.choice)
    return answer.choice.index(best) if answer.choice.count(best) == 1 else TIE


# --- reading -------------------------------------------------------------------------------------
def known(engine: Engine, ids: Iterable[str]) -> set[str]:
    """Which of these judgements are in the store."""
    with reading(engine) as connection:
        found = (
            connection.execute(select(judgements.c.id).where(judgements.c.id.in_(some))).scalars()
            for some in batched(ids, BATCH)
        )
        return {id for some in found for id in some}


def item_of(connection: Connection, id: str) -> Item:
    """Raises UsageError for an item that is not in the store."""
    return items_of(connection, [id])[id]


def items_of(connection: Connection, ids: Collection[str]) -> dict[str, Item]:
    """Items by their ids, some hundreds at most. Raises UsageError where one is not in the store."""
    rows = connection.execute(select(items).where(items.c.id.in_(ids))).mappings()
    found = {row["id"]: read_item(row) for row in rows}
    if missing := sorted(set(ids) - found.keys()):
        raise UsageError(f"There is no item {missing[0]} in this store.")
    return found


def read_item(row: Mapping[Any, Any]) -> Item:
    def messages(said: Any) -> Messages:
        return tuple(said)

    options = tuple(messages(option) for option in row["options"])
    return Item(messages(row["context"]), options, row["kind"], tuple(row["sources"]), row["info"])


def judgement_of(row: Mapping[Any, Any]) -> Judgement:
    return Judgement(
        row["item"],
        row["annotator"],
        read_answer(row["answer"]),
        tuple(row["shown"]),
        row["seconds"],
        row["guideline"],
        row["campaign"],
        row["supersedes"],
        row["note"],
        row["at"],
        row["id"],
    )


def current() -> Any:
    """The judgements that no other supersedes."""
    newer = judgements.alias()
    return ~exists().where(newer.c.supersedes == judgements.c.id)


def read_judgements(engine: Engine, *, campaign: str | None = None) -> Iterator[tuple[Item, list[Judgement]]]:
    """Each item with what is said of it now, item by item, in constant memory."""
    prefix = {f"item_{column.name}": column for column in items.c}
    query = (
        select(judgements, *(column.label(name) for name, column in prefix.items()))
        .join(items, items.c.id == judgements.c.item)
        .where(current())
        .order_by(judgements.c.item, judgements.c.number)
    )
    if campaign is not None:
        query = query.where(judgements.c.campaign == campaign)
    with reading(engine) as connection:
        for _, rows in groupby(connection.execute(query).mappings(), key=lambda row: row["item"]):
            group = list(rows)
            yield read_item({name[5:]: group[0][name] for name in prefix}), [judgement_of(row) for row in group]
