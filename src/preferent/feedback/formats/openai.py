"""OpenAI's fine-tuning formats (its guides "Direct preference optimization" and "Supervised fine-tuning").

A pair is ``input`` with its messages, ``preferred_output`` and ``non_preferred_output``; what people wrote is
``messages``. There is no word for a ranking, a rating or a choice between more than two: no row is written for these.
Whoever uploads the file leaves our columns away, and the ties with them (``plain``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preferent.config import UsageError
from preferent.feedback.formats import trl
from preferent.feedback.formats.cells import Found, Names, conversation, mapping, sequence, split
from preferent.feedback.formats.exact import exact, found_exactly
from preferent.feedback.records import Item, Judgement, Messages

INPUT = ("tools", "parallel_tool_calls")  # what stands beside the messages of the input
BETTER, WORSE = "preferred_output", "non_preferred_output"
NATIVE = {"input", BETTER, WORSE, "messages", *INPUT}


def read(row: Mapping[str, Any], names: Names) -> Iterator[Found]:
    """The one item in a row. Raises UsageError that names the field."""
    if names:
        raise UsageError("columns: OpenAI's format has its names; for other columns, import as trl.")
    data = {name: value for name, value in row.items() if value is not None or name not in NATIVE | trl.OURS}
    context, replies, info = contents(data)
    info |= {name: value for name, value in data.items() if name not in NATIVE | trl.OURS}
    info |= mapping(data.get("info") or {}, "info")
    if data.get("said") is None:
        yield trl.foreign(as_trl(data), context, replies, info)
        return
    if "messages" in data:
        at = len(context) + len(replies[0]) - written_length(data["said"])
        yield found_exactly({**data, "info": info}, (*context, *replies[0])[:at], [])
    else:
        yield found_exactly({**data, "info": info}, context, trl.options_of(data, replies, info))


def contents(data: Mapping[str, Any]) -> tuple[Messages, list[Messages], dict[str, Any]]:
    """Prompt, replies, and what else the input holds."""
    if "messages" in data:
        turns = conversation(data["messages"], "messages", "user")
        asked, reply = split(turns, "messages") if data.get("said") is None else (turns, turns[:0])
        return asked, [reply], {name: data[name] for name in INPUT if name in data}
    missing = [column for column in ("input", BETTER, WORSE) if column not in data]
    if missing:
        raise UsageError(f"{missing[0]}: missing. Expected input, {BETTER} and {WORSE}; or messages.")
    given = mapping(data["input"], "input")
    context = conversation(given.get("messages"), "input, messages", "user")
    replies = [conversation(data[column], column, "assistant") for column in (BETTER, WORSE)]
    return context, replies, {name: given[name] for name in INPUT if given.get(name) is not None}


def as_trl(data: Mapping[str, Any]) -> dict[str, Any]:
    sides = {BETTER: "chosen", WORSE: "rejected", "messages": "completion"}
    return {sides.get(name, name): value for name, value in data.items()}


def written_length(said: Any) -> int:
    entries = sequence(said, "said")
    answer = mapping(mapping(entries[0], "said, 1").get("answer"), "said, 1, answer") if entries else {}
    return len(sequence(answer.get("messages"), "said, 1, answer, messages"))


def write(of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One row, or one for each text that was written; none for what this format cannot say."""
    beside = {name: of.info[name] for name in INPUT if name in of.info and of.info[name] is not None}
    if of.kind == "demonstration":
        for answer, some in trl.by_text(judgements):
            yield {"messages": [*of.context, *answer.messages], **beside, **ours(of, some, kinds)}
        return
    if of.kind in ("ranking", "rating", "steps") or (of.kind != "edit" and len(of.options) != 2):
        return
    for row in trl.write(of, judgements, kinds):
        pair: dict[str, Any] = {BETTER: row["chosen"], WORSE: row["rejected"]}
        more: dict[str, Any] = {name: row[name] for name in ("choice", "strength", "both_bad") if name in row}
        said = [each for each in judgements if each.id in row["judgements"]]
        order = None if of.kind == "edit" else [of.options.index(tuple(row[side])) for side in ("chosen", "rejected")]
        yield {"input": {"messages": row["prompt"], **beside}, **pair, **more, **ours(of, said, kinds, order)}


def ours(
    of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str], order: Sequence[int] | None = None
) -> dict[str, Any]:
    found = exact(of, judgements, kinds, order)
    rest = {name: value for name, value in of.info.items() if name not in INPUT or value is None}
    found.pop("info", None)
    return found | ({"info": rest} if rest else {})


def plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without our columns; None of a tie, which would read as a preference."""
    if row.get("both_bad") or (BETTER in row and row.get("choice") == 0.5):
        return {}
    return {name: value for name, value in row.items() if name in NATIVE}
