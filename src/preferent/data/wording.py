"""What a row says, as curation compares rows: its question, its replies, and what makes it a row of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence

from preferent.data.columns import Dialogue, Parsed, Plain, Unpaired
from preferent.data.messages import Message, Messages
from preferent.feedback.curation.minhash import words
from preferent.types import Preference, Ranking

OPENING = 5  # words at least, of a first question that tells a conversation from others


def spoken(parsed: Parsed) -> tuple[Messages, Sequence[Messages]]:
    """A row's prompt and replies as messages. Plain text is a reply to nothing."""
    noun = parsed.noun
    if isinstance(noun, Preference | Ranking):
        return noun.comparison.context, noun.comparison.options
    if isinstance(noun, Unpaired):
        return noun.context, [noun.option]
    if isinstance(noun, Dialogue):
        return noun.prompt, [noun.reply]
    return ((), [({"role": "assistant", "content": noun.text},)]) if isinstance(noun, Plain) else (noun, [])


def question(parsed: Parsed) -> str:
    """The prompt without system messages, which many rows begin with; plain text stands for its own question."""
    prompt, replies = spoken(parsed)
    return said([turn for turn in prompt if turn["role"] != "system"]) if prompt else said(replies[0])


def opening(parsed: Parsed) -> str | None:
    """The words of a conversation's first question; None where they are so few that many may begin with them.

    Conversations branch and go on: what was asked first stands in all that came of it.
    """
    prompt, _ = spoken(parsed)
    asked = [turn for turn in prompt if turn["role"] == "user"]
    first = words(said(asked[:1]))
    return " ".join(first) if len(first) >= OPENING else None


def answers(parsed: Parsed) -> tuple[str, ...]:
    """The replies; none for plain text, which is its question."""
    prompt, replies = spoken(parsed)
    return tuple(map(said, replies)) if prompt else ()


def parts(parsed: Parsed) -> tuple[str, ...]:
    """What all has to be alike in two rows that say the same: each of these, as Near compares them.

    What went before, the last turn of the prompt, every reply in its place, and whose opinion it is. So a second
    opinion on a pair is a row of its own, and so is a pair of other replies to a long prompt.
    """
    prompt, replies = spoken(parsed)
    return (said(prompt[:-1]), said(prompt[-1:]), *map(said, replies), opinion(parsed))


def opinion(parsed: Parsed) -> str:
    """Who judged, and how, where that is not in the order of the replies."""
    noun = parsed.noun
    if isinstance(noun, Ranking):
        return f"{noun.annotator} {noun.ranks}"
    if isinstance(noun, Preference):
        return noun.annotator
    return str(noun.good) if isinstance(noun, Unpaired) else ""


def said(turns: Sequence[Message]) -> str:
    """The text of some turns, and what tools were called with."""
    return "\n\n".join(
        turn["content"] + (json.dumps(turn["tool_calls"], default=str) if turn.get("tool_calls") else "")
        for turn in turns
    )
