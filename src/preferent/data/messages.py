r"""Conversations as they stand in a cell of a data file, read into messages with faults said in one sentence.

A cell may hold a list of messages, a plain string, or a string in the format of Anthropic's HH data
(``\n\nHuman: … \n\nAssistant: …``). Content is text, or a list of parts that are all text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from preferent.data.rows import BadRow

Message = Mapping[str, Any]  # role, content, and where they are there tool_calls, name, reasoning_content, …
Messages = tuple[Message, ...]

ROLES = ("system", "user", "assistant", "tool")
RENAMED = {"developer": "system"}  # OpenAI's newer word for the same role
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLE = {"Human": "user", "Assistant": "assistant"}


def conversation(value: object, column: str) -> Messages:
    """Messages from a list of them, or from a string in HH's format."""
    if isinstance(value, str) and HH_TURN.match(value):
        return parsed_hh(valid(value, column))
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BadRow(f"not a conversation: {column} is {named(value)}, expected a list of messages")
    if not value:
        raise BadRow(f"an empty conversation: {column}")
    return tuple(message(turn, f"{column}, turn {i}") for i, turn in enumerate(value, 1))


def prompt_of(value: object, column: str = "prompt") -> Messages:
    """A prompt: messages that end where an assistant is to speak, or a user's one message as a string."""
    if not isinstance(value, str):
        return checked_prompt(conversation(value, column), column)
    if HH_TURN.match(value):
        turns = parsed_hh(valid(value, column))
        # HH's prompts often end in the header of the reply that is asked for.
        asked = turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns
        return checked_prompt(asked, column)
    return checked_prompt(({"role": "user", "content": valid(value, column)},), column)


def reply_of(value: object, column: str) -> Messages:
    """A reply: messages from an assistant's turn to an assistant's turn, or one assistant's message as a string."""
    if isinstance(value, str) and not HH_TURN.match(value):
        return checked_reply(({"role": "assistant", "content": valid(value, column)},), column)
    return checked_reply(conversation(value, column), column)


def message(value: object, where: str) -> Message:
    """One turn: known role, content as text, keys without a value left out."""
    if not isinstance(value, Mapping):
        raise BadRow(f"not a message: {where} is {named(value)}, expected an object with role and content")
    role = value.get("role")
    role = RENAMED.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise BadRow(
            f"an unknown role: {where} has {json.dumps(role, default=str)}, expected one of {', '.join(ROLES)}"
        )
    others = {key: other for key, other in value.items() if key not in ("role", "content") and other is not None}
    calls = others.pop("tool_calls", None)
    if calls:
        others["tool_calls"] = tool_calls(calls, where)
    content = text(value.get("content"), where, may_lack=bool(calls))
    valid(json.dumps(others, default=str, ensure_ascii=False), where)
    return {"role": role, "content": content} | others


def text(content: object, where: str, *, may_lack: bool) -> str:
    """Content as one string; a turn that only calls tools may have none."""
    if isinstance(content, str):
        return valid(content, where)
    if content is None and may_lack:
        return ""
    if isinstance(content, Sequence):
        return valid("".join(part(one, where) for one in content), where)
    raise BadRow(f"content that is no text: {where} has {named(content)}")


def part(value: object, where: str) -> str:
    if isinstance(value, Mapping) and value.get("type") == "text" and isinstance(value.get("text"), str):
        return str(value["text"])
    kind = value.get("type") if isinstance(value, Mapping) else named(value)
    raise BadRow(f"content that is no text: {where} has a part of type {kind!r}; only text is read")


def tool_calls(calls: object, where: str) -> list[Any]:
    """Calls as templates expect them: OpenAI writes the arguments as a string of JSON, templates want the object."""
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise BadRow(f"tool calls that cannot be read: {where} has {named(calls)}, expected a list")
    return [one_call(call, where) for call in calls]


def one_call(call: object, where: str) -> Mapping[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow(f"tool calls that cannot be read: {where} has a call without the name of a function")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        unpacked = {**function, "arguments": json.loads(arguments)}
    except (ValueError, RecursionError):
        return call
    return {**call, "function": unpacked} if "function" in call else unpacked


def parsed_hh(value: str) -> Messages:
    r"""``\n\nHuman: a\n\nAssistant: b`` → two messages; what surrounds a turn's text is space, not text."""
    starts = list(HH_TURN.finditer(value))
    ends = [turn.start() for turn in starts[1:]] + [len(value)]
    return tuple(
        {"role": HH_ROLE[turn[1]], "content": value[turn.end() : end].strip()}
        for turn, end in zip(starts, ends, strict=True)
    )


def checked_prompt(turns: Messages, column: str) -> Messages:
    roles = [turn["role"] for turn in turns]
    if "user" not in roles:
        raise BadRow(f"an empty prompt: {column} has no turn of a user")
    if roles[-1] == "assistant":
        raise BadRow(f"roles that make no sense: {column} ends with an assistant's turn, so nothing is asked")
    checked_turns(turns, column, "an empty prompt")
    return turns


def checked_reply(turns: Messages, column: str) -> Messages:
    for i, (before, turn) in enumerate(zip(({"role": "prompt"}, *turns), turns, strict=False), 1):
        if before["role"] == turn["role"] == "assistant":
            raise BadRow(
                f"roles that make no sense: {column} has two assistant's turns in a row (turns {i - 1} and {i}), "
                "which nothing asked for between them"
            )
    if turns[0]["role"] != "assistant" or turns[-1]["role"] != "assistant":
        which = "begins" if turns[0]["role"] != "assistant" else "ends"
        role = turns[0 if which == "begins" else -1]["role"]
        raise BadRow(f"roles that make no sense: {column} {which} with a turn of {role}, expected assistant")
    checked_turns(turns, column, "an empty reply")
    return turns


def checked_turns(turns: Messages, column: str, fault: str) -> None:
    """No user's or assistant's turn is empty, and a tool speaks only when it was called."""
    for i, (before, turn) in enumerate(zip((None, *turns), turns, strict=False), 1):
        spoken = turn["content"].strip() or turn.get("tool_calls")
        if turn["role"] in ("user", "assistant") and not spoken:
            place = f", turn {i} ({turn['role']})" if len(turns) > 1 else ""
            raise BadRow(f"{fault}: {column}{place}")
        if turn["role"] == "tool" and (before is None or before["role"] not in ("assistant", "tool")):
            raise BadRow(f"roles that make no sense: {column}, turn {i} is a tool's, but nobody called it")


def valid(value: str, where: str) -> str:
    """JSON can hold half of a surrogate pair, which is no character and which no tokenizer takes."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"\\u{ord(value[error.start]):04x}"
        raise BadRow(f"text that is not Unicode: {where} holds {code} by itself, half of a surrogate pair") from error
    return value


def spoken(turns: Messages) -> tuple[object, ...]:
    """What two conversations are compared by: who said what, spaces around it aside."""
    return tuple(
        (turn["role"], turn["content"].strip(), json.dumps(turn.get("tool_calls"), default=str)) for turn in turns
    )


def named(value: object) -> str:
    """A JSON value's kind, in words."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, Sequence) else "an object")
