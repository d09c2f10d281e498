"""Judgements from a file into a store: all of them or none, each once, however often the file is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
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
    elsewhere: Mapping[str, int] = field(
        default_factory=dict
    )  # of these, in other campaigns than the one that was named


def keep(engine: Engine, found: Iterable[Found], *, campaign: str | None = None) -> Kept:
    """Write what was found, in one transaction. ``campaign``: which all of it is to belong to; None: as the file says.

    Names become pseudonyms, those that the store has given them before. What is there already stays in its campaign.
    Raises UsageError, and writes nothing, where a judgement has the id of another one, corrects what it cannot, or
    ``found`` raises.
    """
    new = known = 0
    elsewhere: Counter[str] = Counter()
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
            there = stored(connection, settled)
            fresh = unknown(connection, settled, there)
            if fresh:
                insert_judgements(connection, fresh)
            new, known = new + len(fresh), known + len(settled) - len(fresh)
            elsewhere.update(each.campaign for each in there.values() if campaign not in (None, each.campaign))
    return Kept(new, known, elsewhere)


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


def stored(connection: Connection, ids: Iterable[str]) -> dict[str, Judgement]:
    """Those of these judgements that the store has."""
    there: dict[str, Judgement] = {}
    for some in batched(ids, BATCH):
        rows = connection.execute(select(judgements).where(judgements.c.id.in_(some))).mappings()
        there |= {row["id"]: judgement_of(row) for row in rows}
    return there


def unknown(
    connection: Connection, settled: Mapping[str, tuple[Judgement, str]], there: Mapping[str, Judgement]
) -> list[Judgement]:
    """Those that the store does not have. What one corrects may come later, or from another file.

    Raises UsageError for a correction that would not hold, and for another judgement under an id that is taken.
    """
    fresh = {
        id: (each, where) for id, (each, where) in settled.items() if not (id in there and same(there[id], each, where))
    }
    corrected = [each.supersedes for each, _ in fresh.values() if each.supersedes]
    corrections = by_corrected(connection, [*fresh, *corrected])
    before = lineage(connection, [*corrected, *corrections.values()])
    for id, (each, where) in fresh.items():
        earlier = corrections.setdefault(each.supersedes, id) if each.supersedes else id
        if earlier != id:
            raise UsageError(f"{where}: judgement {id} corrects {each.supersedes}, which {earlier} corrects already.")
    refuse_misfits(fresh, before)
    return [each for each, _ in fresh.values()]


def refuse_misfits(fresh: Mapping[str, tuple[Judgement, str]], before: Mapping[str, Link]) -> None:
    """Raise UsageError for a correction of what another said, or said of another item; and for those that end nowhere.

    ``before``: what is in the store of the chains that the fresh ones lengthen, on either side.
    """
    links = {**before, **{id: Link(each.item, each.annotator, each.supersedes) for id, (each, _) in fresh.items()}}
    for id, link in links.items():
        of, new = links.get(link.supersedes or ""), fresh.get(id) or fresh.get(link.supersedes or "")
        for name in ("item", "annotator"):
            if of and new and getattr(of, name) != getattr(link, name):
                raise UsageError(f"{new[1]}: judgement {id} corrects {link.supersedes}, which is of another {name}.")
    ended: set[str | None] = {None}  # what one corrects, only one corrects: who goes in a circle comes by again
    for id, (each, where) in fresh.items():
        at = each.supersedes
        while at not in ended:
            if at == id:
                raise UsageError(f"{where}: judgement {id} corrects itself, or what corrects it, so that none stands.")
            ended.add(at)
            at = links[at].supersedes if at in links else None


class Link(NamedTuple):
    """A judgement as far as corrections go."""

    item: str
    annotator: str
    supersedes: str | None


def lineage(connection: Connection, ids: Sequence[str]) -> dict[str, Link]:
    """Those of these judgements that are in the store, what they correct, what that corrects, and so on."""
    found: dict[str, Link] = {}
    columns = judgements.c.id, judgements.c.item, judgements.c.annotator, judgements.c.supersedes
    for some in batched(ids, BATCH):
        chain = select(*columns).where(judgements.c.id.in_(some)).cte(recursive=True)
        chain = chain.union(select(*columns).join(chain, judgements.c.id == chain.c.supersedes))
        found |= {row.id: Link(row.item, row.annotator, row.supersedes) for row in connection.execute(select(chain))}
    return found


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
