"""Items as pages of another program show them: every field one text, and beside it what the text cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preferent.config import UsageError
from preferent.feedback import summary
from preferent.feedback.formats.cells import Found, conversation, mapping, text_of
from preferent.feedback.formats.exact import exact, found_exactly
from preferent.feedback.records import Item, Judgement


def write_ours(
    of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str], label: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """The fields, texts in canonical order, and our columns; ``messages`` holds those that are more than their text."""
    turns = {"prompt": (of.context, "user")}
    turns |= {label.format(i): (option, "assistant") for i, option in enumerate(of.options, 1)}
    texts = {name: text_of(each, role) for name, (each, role) in turns.items()}
    whole = {name: list(turns[name][0]) for name, (_, same) in texts.items() if not same}
    found = summary.choices(judgements)
    chosen: dict[str, Any] = {}
    if found is not None:
        chosen = {"choice": list(found.choice), "strength": found.strength, "both_bad": found.both_bad}
    columns = chosen | exact(of, judgements, kinds) | ({"messages": whole} if whole else {})
    return {name: text for name, (text, _) in texts.items()}, columns


def read_ours(fields: Mapping[str, Any], columns: Mapping[str, Any]) -> Found:
    """The same item again. Raises UsageError that names the field."""
    whole = mapping(columns.get("messages") or {}, "messages")
    labels = [name for name in fields if name != "prompt"]
    if "prompt" not in fields:
        raise UsageError("prompt: missing among the fields.")
    context = conversation(whole.get("prompt", fields["prompt"]), "prompt", "user")
    return found_exactly(
        columns, context, [conversation(whole.get(name, fields[name]), name, "assistant") for name in labels]
    )
