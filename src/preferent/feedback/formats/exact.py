"""What a row of ours says besides, in any format: who said what, word for word, so that nothing is lost on the way.

``annotators`` and ``judgements`` are lists of ids; ``said`` holds each judgement, its answer in the item's canonical
order. People go by their pseudonyms; their names never leave the store. What a judgement corrects is named, and is not
in the row itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preferent.config import UsageError
from preferent.feedback.formats.cells import LONGEST_NAME, Found, duration, mapping, moment, sequence, short, word
from preferent.feedback.records import ANSWERS, Item, Judgement, Kind, Messages, checked, item, plain, read_answer

COLUMNS = ("kind", "sources", "info", "annotators", "judgements", "said")
PERSON = "person"


def exact(
    of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str], order: Sequence[int] | None = None
) -> dict[str, Any]:
    """These columns for an item. ``order``: places of its options as they stand in the row."""
    places = range(len(of.options)) if order is None else order
    found: dict[str, Any] = {
        "kind": of.kind,
        "sources": [of.sources[place] for place in places] if of.sources else None,
        "info": dict(of.info) or None,
        "annotators": list(dict.fromkeys(each.annotator for each in judgements)),
        "judgements": [each.id for each in judgements],
        "said": [entry(each, kinds.get(each.annotator, PERSON)) for each in judgements],
    }
    return {name: value for name, value in found.items() if value is not None}


def entry(each: Judgement, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": each.id,
        "annotator": each.annotator,
        "by": "" if kind == PERSON else kind,
        "answer": plain(each.answer),
        "shown": list(each.shown),
        "seconds": each.seconds,
        "guideline": each.guideline,
        "campaign": each.campaign,
        "supersedes": each.supersedes,
        "note": each.note,
        "at": each.at,
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def found_exactly(columns: Mapping[str, Any], context: Messages, options: Sequence[Messages]) -> Found:
    """The item and its judgements, from a row that ``exact`` had a part in. Raises UsageError that names the field."""
    of = item(
        context,
        options,
        kind=kind_of(columns.get("kind")),
        sources=[word(one, "sources") for one in sequence(columns.get("sources") or (), "sources")],
        info=mapping(columns.get("info") or {}, "info"),
    )[0]
    entries = sequence(columns["said"], "said")
    judgements = tuple(judgement(of, one, f"said, {i}") for i, one in enumerate(entries, 1))
    ids = [each.id for each in judgements]
    if "judgements" in columns and list(sequence(columns["judgements"] or (), "judgements")) != ids:
        raise UsageError(f"judgements: expected the ids in said, {short(ids)}; got {short(columns['judgements'])}.")
    kinds = {one["annotator"]: one["by"] for one in entries if one.get("by")}
    return Found(of, judgements, named=False, kinds=kinds)


def judgement(of: Item, said: Any, name: str) -> Judgement:
    one = mapping(said, name)
    try:
        answer = checked(of, read_answer(one.get("answer")))
    except UsageError as error:
        raise UsageError(f"{name}, {error}") from error
    shown = tuple(sequence(one.get("shown") or (), f"{name}, shown"))
    places = list(range(len(of.options)))
    if shown and (any(type(place) is not int for place in shown) or sorted(shown) != places):
        raise UsageError(f"{name}, shown: expected the places of {len(of.options)} options; got {short(shown)}.")

    def text(column: str, longest: int | None = LONGEST_NAME) -> str:
        return word(one.get(column) or "", f"{name}, {column}", longest=longest)

    if not (text("id") and text("annotator") and text("at")):
        raise UsageError(f"{name}: expected id, annotator and at; got {short(sorted(one))}.")
    word(one.get("by") or "", f"{name}, by", longest=16)
    return Judgement(
        of.id,
        one["annotator"],
        answer,
        shown,
        duration(one.get("seconds"), f"{name}, seconds"),
        text("guideline"),
        text("campaign"),
        text("supersedes") or None,
        text("note", None),
        moment(one["at"], f"{name}, at"),
        one["id"],
    )


def kind_of(value: Any) -> Kind:
    kind = next((known for known in ANSWERS if known == value), None)
    if kind is None:
        raise UsageError(f"kind: expected one of {', '.join(ANSWERS)}; got {short(value)}.")
    return kind
