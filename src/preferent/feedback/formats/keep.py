"""Judgements from a file into a store: all of them or none, each once, however often the file is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from sqlalchemy import Connection, Engine, select

from preferent.config import UsageError
from preferent.feedback.formats.cells import Found
from preferent.feedback.formats.exact import PERSON
from preferent.feedback.records import Judgement, batched, digest, now, plain
from preferent.feedback.store.engine import writing
from preferent.feedback.store.store import BATCH, insert_annotator, insert_items, insert_judgements, judgement_of
from preferent.feedback.store.tables import identities, judgements

UNNAMED = "unnamed"  # who judged where a file does not say


@dataclass(frozen=True)
class Kept:
    """What an import did."""

    new: int  # judgements that were added
    known: int  # judgements that were there already, or stand twice in the file


def keep(engine: Engine, found: Iterable[Found], *, campaign: str | None = None) -> Kept:
    """Write what was found, in one transaction. ``campaign``: which all of it is to belong to; None: as the file says.

    Names become pseudonyms, those that the store has given them before. Raises UsageError, and writes nothing, where a
    judgement has the id of another one, or ``found`` raises.
    """
    new = known = 0
    people = People()
    with writing(engine) as connection:
        for some in batched(found, BATCH):
            insert_items(connection, [each.item for each in some])
            settled: dict[str, tuple[Judgement, str]] = {}
            for each in some:
                for one in settle(connection, each, people):
                    mine = one if campaign is None else replace(one, campaign=campaign)
                    if same(settled.setdefault(mine.id, (mine, each.where))[0], mine, each.where):
                        known += settled[mine.id][0] is not mine
            fresh = unknown(connection, settled)
            if fresh:
                insert_judgements(connection, fresh)
            new, known = new + len(fresh), known + len(settled) - len(fresh)
    return Kept(new, known)


@dataclass
class People:
    """Who was met in a file so far."""

    pseudonyms: dict[str, str] = field(default_factory=dict)  # by name, or by NUL and the pseudonym that a file had
    unnamed: Counter[int] = field(default_factory=Counter)  # how often each answer stood there without a name
    at: str = field(default_factory=now)


def settle(connection: Connection, found: Found, people: People) -> list[Judgement]:
    """Judgements with annotators that are in the store, ids and times."""
    settled = []
    for each in found.judgements:
        who = each.annotator or UNNAMED
        key = who if found.named else f"\0{who}"
        if key not in people.pseudonyms:
            kind = found.kinds.get(who, PERSON)
            pseudonym = named(connection, who) if found.named else insert_annotator(connection, who, kind)
            people.pseudonyms[key] = pseudonym
        mine = replace(each, annotator=people.pseudonyms[key])
        id = mine.id or content_id(mine, None if each.annotator else people.unnamed)
        settled.append(replace(mine, id=id, at=mine.at or people.at))
    return settled


def content_id(each: Judgement, unnamed: Counter[int] | None) -> str:
    """The same for the same answer by the same person about the same item at the same time.

    Equal answers without a name are different people's: they are told apart by their number in the file.
    """
    said = [each.item, each.annotator, plain(each.answer), each.note, each.seconds, each.at]
    if unnamed is not None:
        key = int(digest(said)[:15], 16)
        unnamed[key] += 1
        said.append(unnamed[key])
    return digest(said)[:32]


def named(connection: Connection, name: str) -> str:
    """The pseudonym that goes with a name in this store; a new one for a new name."""
    known = connection.execute(select(identities.c.annotator).where(identities.c.name == name).limit(1)).scalar()
    if known is not None:
        return str(known)
    return insert_annotator(connection, uuid4().hex, PERSON, name)


def unknown(connection: Connection, settled: Mapping[str, tuple[Judgement, str]]) -> list[Judgement]:
    """Those that the store does not have. What one corrects may come later, or from another file."""
    there: dict[str, Judgement] = {}
    for ids in batched(settled, BATCH):
        rows = connection.execute(select(judgements).where(judgements.c.id.in_(ids))).mappings()
        there |= {row["id"]: judgement_of(row) for row in rows}
    corrections = by_corrected(connection, [each.supersedes for each, _ in settled.values() if each.supersedes])
    fresh: list[Judgement] = []
    for id, (each, where) in settled.items():
        if id in there and same(there[id], each, where):
            continue
        earlier = corrections.setdefault(each.supersedes, id) if each.supersedes else id
        if earlier != id:
            raise UsageError(f"{where}: judgement {id} corrects {each.supersedes}, which {earlier} corrects already.")
        fresh.append(each)
    return fresh


def by_corrected(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """What corrects which of these judgements."""
    found: dict[str, str] = {}
    for some in batched(ids, BATCH):
        query = select(judgements.c.supersedes, judgements.c.id).where(judgements.c.supersedes.in_(some))
        found |= {row.supersedes: row.id for row in connection.execute(query)}
    return found


def same(kept: Judgement, given: Judgement, where: str) -> bool:
    """True. Raises UsageError for another judgement under the same id."""
    for name in ("item", "annotator", "answer"):
        if getattr(kept, name) != getattr(given, name):
            raise UsageError(f"{where}: judgement {given.id} is in the store already, with another {name}.")
    return True
