"""What a chat template writes: where the replies stand in it, and where its end tokens do. Text only, no tokens.

A template is a program over the whole conversation. What it writes for a prompt must be the beginning of what it writes
for the prompt with its reply, or training would show a model other text than sampling does: this is checked for every
turn that is learned from, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from preferent.config import UsageError
from preferent.data.messages import Message, Messages
from preferent.data.rows import BadRow

# For tokenizers without a template of their own: a header line for each turn, an end token behind each reply.
DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
{{ message.role.capitalize() + ':\\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\\n\\n' }}
{%- else -%}
{{ message.content + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:\\n' }}{%- endif -%}"""

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
CLOCK = re.compile(r"strftime_now\(\s*(['\"])(?P<format>.*?)\1\s*\)")
PROBE: Messages = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "World"})
SHOWN = 40  # characters of a text that an error quotes

Render = Callable[[int, bool], str]  # the first n messages, and whether the header of a reply is to follow


class Span(NamedTuple):
    """Characters [start, end) that the assistant says, and whether an end token closes them."""

    start: int
    end: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A conversation as its template writes it, up to the end of the last reply."""

    text: str
    prompt_length: int  # characters of the prompt, the header of the reply included
    spans: tuple[Span, ...]  # what is learned from; ascending, the last one reaches the end of the text


def written(
    render: Render,
    messages: Messages,
    start: int,
    *,
    ends: Sequence[str],
    tail: str,
    marks: Sequence[tuple[int, int]] | None = None,
) -> Written:
    """The turns of the assistant from ``messages[start]`` on: where the template's marks say, or found by rendering.

    ``ends`` are the texts of the tokens that can end a turn; ``tail`` is what the template writes behind a reply when
    it writes no such token; ``marks`` the characters inside ``{% generation %}``. Raises BadRow where the template does
    not extend what it wrote before.
    """
    full, found = render(len(messages), False), []
    turns = [i for i in range(start, len(messages)) if messages[i]["role"] == "assistant"]
    for i in turns:
        before = render(i, True)
        if not full.startswith(before):
            raise changed(before, full, prompt=i == start)
        until = render(i + 1, False) if marks is None or "tool_calls" in messages[i] else full
        if marks is None and not full.startswith(until):
            raise changed(until, full, prompt=False)
        if not calls_written(messages[i], until[len(before) :]):
            raise BadRow(f"tool calls that are not written: the chat template leaves out those of turn {i + 1}")
        found.append((len(before), len(until)))
    first, last = found[0][0], found[-1][0]
    if marks is not None:
        heads = [head for head, _ in found]
        found, tail = [(max(a, *(h for h in heads if h < b)), b) for a, b in marks if b > first], ""
    if not found or found[-1][1] <= last:
        raise BadRow("generation marks without the reply: the chat template marks nothing of the last turn")
    spans = tuple(closed(full, a, b, ends, tail) for a, b in found)
    return Written(full[: spans[-1].end], first, spans)


def closed(full: str, start: int, end: int, ends: Sequence[str], tail: str) -> Span:
    """A turn up to and with its end token: what a template writes behind that, like a line break, is nobody's.

    Marks may stop before the end token; it is taken along, or nobody would ever learn to stop.
    """
    said = full[start:end].rstrip()
    if any(said.endswith(token) for token in ends):
        return Span(start, start + len(said), True)
    following = next((token for token in ends if full.startswith(token, end)), None)
    if following is not None:
        return Span(start, end + len(following), True)
    return Span(start, end - len(tail) if tail and full.endswith(tail, start, end) else end, False)


def changed(before: str, full: str, *, prompt: bool) -> BadRow:
    """Says where the template stops writing what it wrote before."""
    at = next((i for i, (a, b) in enumerate(zip(before, full, strict=False)) if a != b), min(len(before), len(full)))
    place = f"at character {at + 1}: {quoted(before, at)} becomes {quoted(full, at)}"
    if prompt:
        return BadRow(f"a prompt that changes with its reply: the chat template rewrites it {place}")
    return BadRow(
        f"turns that change later: the chat template rewrites one when others follow it, {place}",
        hint='learn="last" learns from the last turn only, behind what the template then writes.',
    )


def quoted(text: str, at: int) -> str:
    return repr(text[at : at + SHOWN]) if at < len(text) else "the end"


def calls_written(message: Message, said: str) -> bool:
    """A template that knows no tool calls would have an empty reply learned."""
    return all(call.get("function", call)["name"] in said for call in message.get("tool_calls", ()))


def tail_of(probe: str) -> str:
    """What the template writes behind the reply of ``PROBE``."""
    said = str(PROBE[1]["content"])
    return probe[probe.rfind(said) + len(said) :] if said in probe else ""


def merged(messages: Messages) -> Messages:
    """The system's message put at the head of the first user's, for templates that know no system."""
    if not messages or messages[0]["role"] != "system":
        return messages
    rest = list(messages[1:])
    first = next((i for i, turn in enumerate(rest) if turn["role"] == "user"), None)
    if first is not None:
        rest[first] = {**rest[first], "content": f"{messages[0]['content']}\n\n{rest[first]['content']}"}
    return tuple(rest)


def pinned(template: str, day: str) -> str:
    """The template with a calendar that stands still, or a run could not be resumed on another day."""
    if "strftime_now" not in template:
        return template
    try:
        today = date.fromisoformat(day)
    except ValueError as error:
        raise UsageError(f"date: expected a day as in 2024-07-26, got {day!r}.") from error
    known = {found["format"]: today.strftime(found["format"]) for found in CLOCK.finditer(template)}
    macro = "{%- macro strftime_now(format) -%}{{ " + f"{known!r}.get(format, {day!r})" + " }}{%- endmacro -%}"
    return macro + template


def refused(error: Exception) -> BadRow:
    """A template's own complaint, or what it stumbled over."""
    words = str(error).strip().rstrip(".") or type(error).__name__
    hint = (
        "merge_system=True puts the system's message into the first user's turn." if "system" in words.lower() else ""
    )
    return BadRow(f"the chat template refuses this conversation: {words}", hint=hint)


def variables(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a row itself gives its template: TRL's column ``chat_template_kwargs``."""
    given = info.get("chat_template_kwargs")
    return {str(k): v for k, v in given.items() if v is not None} if isinstance(given, Mapping) else {}
