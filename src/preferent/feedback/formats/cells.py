"""What stands in the cells of a row: conversations, numbers, names. An error names the field."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from preferent.config import UsageError
from preferent.feedback.records import Item, Judgement, Messages, canonical

Names = Mapping[str, Sequence[str]]  # what a column or question means here → what the file calls it

ROLES = ("system", "developer", "user", "assistant", "tool")
HH_TURN = re.compile(r"\n\n(Human|Assistant):")  # of Anthropic's HH data
HH_ROLE = {"Human": "user", "Assistant": "assistant"}
LONGEST_NAME = 64  # characters of ids and campaigns
LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Found:
    """An item in a row, and what was said of it. A judgement without an id gets one from its content."""

    item: Item
    judgements: tuple[Judgement, ...]
    named: bool = True  # annotators go by their names; else by pseudonyms that a store gave them
    kinds: Mapping[str, str] = field(default_factory=dict)  # of annotators: person, crowd, judge, gold
    where: str = ""  # file and line, for messages


def conversation(value: Any, name: str, role: str) -> Messages:
    """Messages from a list of them, or from a string: one message of this role, or several in HH's format."""
    if isinstance(value, str):
        return hh(value) if HH_TURN.match(value) else ({"role": role, "content": value},)
    return tuple(message(one, f"{name}, turn {i}") for i, one in enumerate(sequence(value, name), 1))


def message(value: Any, name: str) -> Mapping[str, Any]:
    said = {key: part for key, part in mapping(value, name).items() if part is not None}
    if said.get("role") not in ROLES:
        raise UsageError(f"{name}: expected a role of {', '.join(ROLES)}; got {short(said.get('role'))}.")
    content = said.get("content")
    if not isinstance(content, str | list) and not (content is None and said.get("tool_calls")):
        raise UsageError(f"{name}: expected content that is text, or a list of parts; got {short(content)}.")
    return said


def hh(value: str) -> Messages:
    r"""``\n\nHuman: a\n\nAssistant: b`` → two messages."""
    starts = list(HH_TURN.finditer(value))
    ends = [turn.start() for turn in starts[1:]] + [len(value)]
    return tuple(
        {"role": HH_ROLE[turn[1]], "content": value[turn.end() : end].strip()}
        for turn, end in zip(starts, ends, strict=True)
    )


def split(turns: Messages, name: str) -> tuple[Messages, Messages]:
    """The prompt, and the reply with all that follows: from the first assistant's turn behind a user's."""
    asked = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), len(turns))
    start = next((i for i in range(asked, len(turns)) if turns[i]["role"] == "assistant"), len(turns))
    if start == len(turns):
        raise UsageError(f"{name}: expected an assistant's turn behind a user's; there is none to learn from.")
    return turns[:start], turns[start:]


def text_of(turns: Messages, role: str) -> tuple[str, bool]:
    """Messages as one text to show, and whether ``conversation`` makes the same messages of it."""
    if len(turns) == 1 and turns[0].keys() == {"role", "content"} and turns[0]["role"] == role:
        content = turns[0]["content"]
        if isinstance(content, str):
            return content, not HH_TURN.match(content)
    lines = (turn.get("content") for turn in turns)
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    if len(turns) == 1:
        return texts[0], False
    return "\n\n".join(f"{turn['role']}: {text}" for turn, text in zip(turns, texts, strict=True)), False


def sound(row: Mapping[str, Any]) -> None:
    """Raise UsageError for a field that cannot be kept as JSON: NaN, bytes, half of a surrogate pair."""
    for name, value in row.items():
        try:
            canonical(value).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise UsageError(f"{name}: cannot be kept: {error}.") from error


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}: expected an object; got {short(value)}.")
    return value


def sequence(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"{name}: expected a list; got {short(value)}.")
    return value


def number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise UsageError(f"{name}: expected a number; got {short(value)}.")
    return float(value)


def moment(value: Any, name: str) -> str:
    """An ISO date as the store keeps them: UTC, to the microsecond; UTC too where no zone is said. Empty for none."""
    if value in (None, ""):
        return ""
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="microseconds")
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name}: expected a date and time as 2026-01-31T12:00:00Z; got {short(value)}.") from error


def duration(value: Any, name: str) -> float | None:
    """Seconds that somebody took; None where that is not said."""
    seconds = None if value is None else number(value, name)
    if seconds is not None and seconds < 0:
        raise UsageError(f"{name}: expected seconds, 0 or more; got {short(value)}.")
    return seconds


def word(value: Any, name: str, *, longest: int | None = None) -> str:
    """Text in a column of its own. Databases take no NUL in it, and no more than its width."""
    if not isinstance(value, str) or "\0" in value or (longest is not None and len(value) > longest):
        most = f" of up to {longest} characters" if longest else ""
        raise UsageError(f"{name}: expected text{most}; got {short(value)}.")
    return value


def short(value: Any) -> str:
    said = json.dumps(value, default=repr)
    return said if len(said) <= 60 else f"{said[:57]}…"
