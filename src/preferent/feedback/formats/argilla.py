"""Argilla's records (its reference, "rg.Record" and "rg.Dataset.records": to_json, to_list, and the server's records).

A record has fields, responses, suggestions and metadata. Responses stand by question, each with a value and a user; or
by user, each with a status and values; or in columns of a flat record, ``preference.responses`` beside ``.users`` and
``.status``. Submitted ones are judgements, discarded ones are skips, and drafts, which nobody handed in, are left out.
Suggestions are a model's: they are kept with the item, and count as nobody's judgement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preferent.config import UsageError
from preferent.feedback.formats import questions
from preferent.feedback.formats.cells import Found, Names, mapping, sequence, short, word
from preferent.feedback.formats.exact import COLUMNS
from preferent.feedback.formats.pages import read_ours, write_ours
from preferent.feedback.formats.questions import Mark, Sheet
from preferent.feedback.records import Choice, Item, Judgement, Ranks, Ratings, Skipped, Written

ABOUT = ("id", "_server_id", "status", "inserted_at", "updated_at", "score", "vectors")  # the record, not what it says
FLAT = (".responses", ".suggestion", ".score", ".agent", ".users", ".status")
Answers = dict[str, list[tuple[str, Any]]]  # user → questions with values


def read(row: Mapping[str, Any], names: Names) -> Iterator[Found]:
    """The items in a record. Raises UsageError that names the field or question."""
    if row.get("said") is not None:
        yield read_ours(mapping(row.get("fields"), "fields"), row)
        return
    fields = dict(mapping(row["fields"], "fields")) if "fields" in row else flat_fields(row)
    fields |= {k: v for k, v in mapping(row.get("metadata") or {}, "metadata").items() if k not in fields}
    shown = questions.layout(fields, names)
    if suggested := {name: value for name, value in suggestions(row).items() if value}:
        shown = questions.Layout(shown.context, shown.options, shown.labels, {**shown.info, "suggestions": suggested})
    given, discarded = responses(row)
    labels = shown.labels
    sheets = [
        Sheet(user, tuple(mark(question, value, labels, names) for question, value in said))
        for user, said in given.items()
    ]
    sheets += [Sheet(user, (), skipped="discarded") for user in discarded]
    yield from questions.found(shown, sheets, names)


def flat_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ABOUT and not name.endswith(FLAT)}


def suggestions(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "suggestions" in row:
        return mapping(row["suggestions"] or {}, "suggestions")
    return {name: value for name, value in row.items() if ".suggestion" in name}


def responses(row: Mapping[str, Any]) -> tuple[Answers, list[str]]:
    """What each user submitted, and who discarded the record."""
    given, discarded = Answers(), list[str]()
    for user, question, value, status in triples(row):
        if status == "discarded":
            discarded += [user] * (user not in discarded)
        elif status != "draft" and value is not None:
            given.setdefault(user, []).append((question, value))
    return given, discarded


def triples(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, str]]:
    """User, question, value and status, whichever way the responses stand."""
    said = row.get("responses") or {}
    if not isinstance(said, Mapping):
        yield from by_user(sequence(said, "responses"))
        said = {}
    for question, each in said.items():
        for one in sequence(each or (), f"responses, {question}"):
            answer = mapping(one, f"responses, {question}")
            yield user(answer), question, answer.get("value"), status(answer.get("status"))
    for column in (name for name in row if name.endswith(".responses")):
        values = sequence(row[column] or (), column)
        parts = (f"{column}.users", f"{column}.status")
        users, states = (sequence(row.get(part) or [None] * len(values), part) for part in parts)
        if not len(values) == len(users) == len(states):
            raise UsageError(f"{column}: {len(values)} values, {len(users)} users and {len(states)} states.")
        for value, who, state in zip(values, users, states, strict=True):
            yield user({"user_id": who}), column.removesuffix(".responses"), value, status(state)


def by_user(each: Sequence[Any]) -> Iterator[tuple[str, str, Any, str]]:
    for one in each:
        answer = mapping(one, "responses")
        values = mapping(answer.get("values") or {}, "responses, values")
        for question, value in values.items() or [("", None)]:
            inner = value.get("value") if isinstance(value, Mapping) else value
            yield user(answer), question, inner, status(answer.get("status"))


def user(answer: Mapping[str, Any]) -> str:
    found = answer.get("user_id")
    return f"Argilla user {word(str(found), 'user_id')}" if found not in (None, "None") else ""


def status(value: Any) -> str:
    if value not in (None, "submitted", "discarded", "draft"):
        raise UsageError(f"status: expected submitted, discarded or draft; got {short(value)}.")
    return value or "submitted"


def mark(question: str, value: Any, labels: Sequence[str], names: Names) -> Mark:
    name = f"responses, {question}"
    if isinstance(value, str):
        wrote = any(question in names.get(means, ()) for means in ("note", "edit", "demonstration"))
        found = None if wrote else questions.picked(question, value, labels)
        return found or Mark(question, "wrote", text=word(value, name))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return questions.rated(question, float(value), labels)
    if question in names.get("ignore", ()):
        return Mark(question, "wrote")
    return questions.ordered(question, sequence(value, name), labels)


# --- writing ---------------------------------------------------------------------------------------
def write(of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One record, its fields texts: prompt, response_1, response_2, … in canonical order."""
    if of.kind == "steps":
        return  # there is no question for them
    answered: dict[str, list[dict[str, Any]]] = {}
    for each in judgements:
        notes = [("note", each.note)] if each.note else []
        for question, value in [*said(each), *notes]:
            answer = {"value": value, "user_id": each.annotator}
            if isinstance(each.answer, Skipped):
                answer["status"] = "discarded"
            answered.setdefault(question, []).append(answer)
    fields, more = write_ours(of, judgements, kinds, "response_{}")
    yield {
        "id": of.id,
        "fields": fields,
        "metadata": {k: v for k, v in of.info.items() if isinstance(v, str | int | float) and not isinstance(v, bool)},
        "suggestions": of.info.get("suggestions") or {},
        "responses": answered,
        "vectors": {},
        "_server_id": None,
        **more,
    }


def said(each: Judgement) -> Iterator[tuple[str, Any]]:
    """Questions with values. A label is one of the options: a soft choice goes to the greatest share."""
    answer = each.answer
    if isinstance(answer, Choice):
        yield "preference", "both_bad" if answer.both_bad else label(answer.choice)
        yield from ((question, label(shares)) for question, shares in answer.aspects.items())
        if answer.strength is not None:
            yield "strength", answer.strength
    elif isinstance(answer, Ranks):
        yield "ranking", [{"value": f"response_{i}", "rank": rank + 1} for i, rank in enumerate(answer.ranks, 1)]
    elif isinstance(answer, Ratings):
        for question, values in {"rating": answer.ratings, **answer.aspects}.items():
            for i, value in enumerate(values, 1):
                yield f"{question}_{i}", value
    elif isinstance(answer, Written):
        yield "edit" if answer.of is not None else "demonstration", as_written(answer)
    else:
        yield "preference", None


def label(shares: Sequence[float]) -> str:
    best = max(shares)
    return f"response_{shares.index(best) + 1}" if shares.count(best) == 1 else "tie"


def as_written(answer: Written) -> str:
    return "\n\n".join(str(turn.get("content") or "") for turn in answer.messages)


def plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without our columns."""
    return {
        name: value
        for name, value in row.items()
        if name not in {*COLUMNS, "choice", "strength", "both_bad", "messages"}
    }
