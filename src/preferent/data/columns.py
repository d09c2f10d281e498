"""Which column format a row has, and the noun of ``types`` that it holds, as text.

The formats are those that TRL users have, each with strings or with lists of messages, and OpenAI's preference format.
All columns that a format does not use go to ``info``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from preferent.config import UsageError
from preferent.data.messages import (
    HH_TURN,
    Messages,
    checked_prompt,
    checked_reply,
    conversation,
    named,
    prompt_of,
    reply_of,
    spoken,
    text,
    valid,
)
from preferent.data.rows import BadRow
from preferent.types import Comparison, Preference, Ranking

X = TypeVar("X")
Y = TypeVar("Y")
Kind = Literal["demonstrations", "preferences", "prompts", "unpaired", "rated"]  # rated: preferences or unpaired


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A demonstration as text: the prompt's messages, and the reply's, which may hold later turns of the user."""

    prompt: Messages
    reply: Messages


@dataclass(frozen=True, slots=True)
class Plain:
    """Text without turns, for learning a language rather than a conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class Unpaired(Generic[X, Y]):
    """One reply with a thumb up or down, and no other reply to compare it with."""

    context: X
    option: Y
    good: float  # true or false; between 0 and 1 where it is a rating


Choice = Preference[Messages, Messages] | Ranking[Messages, Messages]
Noun = Messages | Dialogue | Plain | Choice | Unpaired[Messages, Messages]  # Messages alone: a prompt
Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a row says, in which format it says so, and its other columns."""

    noun: Noun
    format: str
    info: Data

    @property
    def kind(self) -> Kind:
        if isinstance(self.noun, tuple):
            return "prompts"
        if isinstance(self.noun, Dialogue | Plain):
            return "demonstrations"
        return "unpaired" if isinstance(self.noun, Unpaired) else "preferences"


def parse(data: Data, *, kind: Kind | None = None, columns: Mapping[str, str] | None = None) -> Parsed:
    """The noun in a row. ``kind`` is what the caller needs; without it, the most telling format wins.

    ``columns`` gives the file's name for a column: ``{"chosen": "better"}``. Raises BadRow where the columns fit no
    format, or what they hold cannot be used.
    """
    named_as_here = renamed(data, columns or {})
    present = frozenset(key for key, value in named_as_here.items() if value is not None)
    found = next((f for f in FORMATS if present >= f.needs and (kind is None or kind in f.kinds)), None)
    # A string cannot hold a prompt and a reply, except in HH's format: the prompt is what is missing.
    spoilt = found is not None and found.needs == {"chosen", "rejected"} and lone_reply(named_as_here)
    if found is None or spoilt:
        refuse_null(named_as_here, kind)
    if found is None or (kind is None and (present - found.needs) & TELLING):
        raise unknown(present, kind)
    if kind == "demonstrations" and found.needs == {"prompt", "completion"} and truth(named_as_here.get("label")):
        raise BadRow(
            "not demonstrations: label says which completions are good; imitating all of them would learn the bad ones"
        )
    used = found.needs - {"turns"} | (OPTIONAL if found.name in PAIRS else set())
    parsed = Parsed(found.read(named_as_here), found.name, {k: v for k, v in named_as_here.items() if k not in used})
    if kind in ("demonstrations", "prompts") and parsed.kind != kind:
        raise wrong_end(kind)
    return parsed


def mapping(words: Sequence[str]) -> dict[str, str]:
    """``chosen=better`` → ``{"chosen": "better"}``: our name for a column, then the file's."""
    pairs = [word.partition("=") for word in words]
    for word, (ours, _, theirs) in zip(words, pairs, strict=True):
        if not ours or not theirs:
            raise UsageError(
                f"--columns: expected our name, =, and the file's name, as in chosen=better; got {word!r}."
            )
    return {ours: theirs for ours, _, theirs in pairs}


def renamed(data: Data, columns: Mapping[str, str]) -> Data:
    """The row with its columns under the names used here."""
    strangers = [ours for ours in columns if ours not in KNOWN]
    if strangers:
        raise UsageError(f"Column {strangers[0]!r} means nothing here{near(strangers[0], KNOWN)}. {EXPECTED}")
    for ours, theirs in columns.items():
        if theirs not in data:
            raise BadRow(f'a missing column: "{theirs}", given as {ours}, is not there{near(theirs, data)}')
    moved = {ours: data[theirs] for ours, theirs in columns.items()}
    return {k: v for k, v in data.items() if k not in columns.values()} | moved if columns else data


def lone_reply(data: Data) -> bool:
    return isinstance(data["chosen"], str) and HH_TURN.match(data["chosen"]) is None


def refuse_null(data: Data, kind: Kind | None) -> None:
    """Raises BadRow where a format would fit if only a column were not null."""
    for f in FORMATS:
        if data.keys() >= f.needs and (kind is None or kind in f.kinds):
            if empty := sorted(column for column in f.needs if data[column] is None):
                raise BadRow(f"{empty[0]} is null")
            return


def unknown(present: frozenset[str], kind: Kind | None) -> BadRow:
    """Says which column is misspelt or missing: that of the format which lacks least and would use most."""
    if kind == "preferences" and present >= {"prompt", "completion", "label"}:
        return BadRow("not comparisons: label judges each completion alone", hint="`preferent kto` learns from these.")
    formats = [f for f in FORMATS if kind is None or kind in f.kinds]
    hint = expected(formats)
    for f in sorted(formats, key=lambda f: (len(f.needs - present), -len(f.needs & present))):
        for stranger in sorted(present - KNOWN):
            meant = difflib.get_close_matches(stranger, sorted(f.needs - present), n=1, cutoff=0.75)
            if meant:
                return BadRow(f'column "{stranger}" is not known here (did you mean "{meant[0]}"?)', hint=hint)
    close = [f for f in formats if len(f.needs - present) == 1 < len(f.needs) or f.needs & present & TELLING]
    if close:
        best = min(close, key=lambda f: (len(f.needs - present), -len(f.needs & present)))
        return BadRow(
            f"a missing column: no {listed(best.needs - present)} beside {listed(best.needs & present)}", hint=hint
        )
    return BadRow(f"no known columns: got {listed(present) or 'none with a value'}", hint=hint)


def wrong_end(kind: Kind) -> BadRow:
    if kind == "prompts":
        return BadRow("not a prompt: the conversation ends with an assistant's turn, so nothing is asked")
    return BadRow("nothing to learn from: the conversation ends before an assistant's turn")


# --- what each format holds ----------------------------------------------------------------------


def read_pair(data: Data) -> Choice:
    prompt = prompt_of(data["prompt"])
    chosen, rejected = (after(prompt, data[column], column) for column in ("chosen", "rejected"))
    return preference(prompt, chosen, rejected, data)


def read_implicit_pair(data: Data) -> Choice:
    """The prompt is what both conversations begin with."""
    chosen, rejected = (conversation(data[column], column) for column in ("chosen", "rejected"))
    if spoken(chosen) == spoken(rejected):
        raise BadRow("chosen and rejected are equal: there is nothing to prefer")
    alike = list(zip(spoken(chosen), spoken(rejected), strict=False))
    same = next((i for i, (a, b) in enumerate(alike) if a != b), len(alike))
    turns = [turn["role"] for turn in (*chosen[same : same + 1], *rejected[same : same + 1])]
    if same < len(alike) and set(turns) == {"user"}:
        raise BadRow(f"different prompts: chosen and rejected differ in turn {same + 1}, which is a user's")
    if set(turns) != {"assistant"} or len(turns) < 2:
        raise BadRow(f"roles that make no sense: behind turn {same}, one reply begins where the other does not")
    prompt = checked_prompt(chosen[:same], "what chosen and rejected share") if same else ()
    if not prompt:
        raise BadRow("different prompts: chosen and rejected differ from their first turn on")
    return preference(prompt, checked_reply(chosen[same:], "chosen"), checked_reply(rejected[same:], "rejected"), data)


def read_openai_pair(data: Data) -> Choice:
    question = data["input"].get("messages") if isinstance(data["input"], Mapping) else data["input"]
    prompt = prompt_of(question, "input")
    better = reply_of(data["preferred_output"], "preferred_output")
    return preference(prompt, better, reply_of(data["non_preferred_output"], "non_preferred_output"), data)


def read_ranking(data: Data) -> Choice:
    prompt, completions, ranks = prompt_of(data["prompt"]), data["completions"], data["ranks"]
    for value, column in ((completions, "completions"), (ranks, "ranks")):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise BadRow(f"not a ranking: {column} is {named(value)}, expected a list")
    if len(completions) != len(ranks):
        raise BadRow(f"not a ranking: there are {len(completions)} completions and {len(ranks)} ranks")
    if len(completions) < 2:
        raise BadRow(f"not a ranking: it takes two completions, got {len(completions)}")
    numbers = [number(rank, "ranks") for rank in ranks]
    order = sorted(set(numbers))
    replies = tuple(after(prompt, reply, f"completion {i}") for i, reply in enumerate(completions, 1))
    seen: dict[object, int] = {}
    for i, reply in enumerate(replies, 1):
        if seen.setdefault(spoken(reply), i) != i:
            raise BadRow(f"equal completions: {seen[spoken(reply)]} and {i} are the same reply")
    annotator, judgements = who(data)
    return Ranking(Comparison(prompt, replies), tuple(map(order.index, numbers)), annotator, judgements)


def read_unpaired(data: Data) -> Noun:
    prompt = prompt_of(data["prompt"])
    value, label = data["label"], truth(data["label"])
    if label is None and not (isinstance(value, float) and 0 < value < 1):
        raise BadRow(f"a label that is neither true nor false nor between 0 and 1: {value!r:.40}")
    return Unpaired(prompt, after(prompt, data["completion"], "completion"), value if not label else label == "true")


def read_completion(data: Data) -> Noun:
    prompt = prompt_of(data["prompt"])
    return Dialogue(prompt, after(prompt, data["completion"], "completion"))


def read_messages(data: Data) -> Noun:
    """A demonstration, or a prompt when the user has the last word."""
    turns = conversation(data["messages"], "messages")
    if turns[-1]["role"] != "assistant":
        return checked_prompt(turns, "messages")
    # An assistant's greeting before the user's first word is part of the prompt.
    asked = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), len(turns))
    start = next((i for i in range(asked, len(turns)) if turns[i]["role"] == "assistant"), len(turns))
    if start == len(turns):
        raise BadRow("an empty prompt: messages has no turn of a user before an assistant's")
    return Dialogue(checked_prompt(turns[:start], "messages"), checked_reply(turns[start:], "messages"))


def read_text(data: Data) -> Noun:
    if not isinstance(data["text"], str) or not data["text"].strip():
        raise BadRow(f"an empty text: text is {named(data['text'])}")
    return Plain(valid(data["text"], "text"))


def read_prompt(data: Data) -> Noun:
    return prompt_of(data["prompt"])


def read_turns(data: Data) -> Noun:
    """Questions to ask one after the other: the first is the prompt, all of them stay in ``info["turns"]``."""
    turns = data["turns"]
    if isinstance(turns, str) or not isinstance(turns, Sequence) or not turns:
        raise BadRow(f"an empty prompt: turns is {named(turns)}, expected a list of questions")
    return prompt_of(text(turns[0], "turns, turn 1", may_lack=False), "turns")


# --- parts of them -------------------------------------------------------------------------------


def after(prompt: Messages, value: object, column: str) -> Messages:
    """A reply, which may repeat the prompt before it."""
    if not isinstance(value, str) and isinstance(value, Sequence):
        turns = conversation(value, column)
        if len(turns) > len(prompt) and spoken(turns[: len(prompt)]) == spoken(prompt):
            return checked_reply(turns[len(prompt) :], column)
    return reply_of(value, column)


def preference(prompt: Messages, chosen: Messages, rejected: Messages, data: Data) -> Choice:
    if spoken(chosen) == spoken(rejected):
        raise BadRow("chosen and rejected are equal: there is nothing to prefer")
    choice = number(data["choice"], "choice") if data.get("choice") is not None else 1.0
    if not 0 <= choice <= 1:
        raise BadRow(f"a choice that is no probability: {choice:g}, expected 0 to 1 (how likely chosen is better)")
    strength = data.get("strength")
    annotator, judgements = who(data)
    return Preference(
        Comparison(prompt, (chosen, rejected)),
        (choice, 1 - choice),
        annotator,
        None if strength is None else number(strength, "strength"),
        truth(data.get("both_bad")) == "true",
        judgements,
    )


def who(data: Data) -> tuple[str, tuple[str, ...]]:
    """The annotator, and the ids of the judgements that the row was made of."""
    annotator, judgements = data.get("annotator"), data.get("judgements")
    ids = judgements if isinstance(judgements, Sequence) and not isinstance(judgements, str) else ()
    return "" if annotator is None else str(annotator), tuple(str(one) for one in ids)


def number(value: object, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"not a number: {column} is {value!r:.40}")
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise BadRow(f"not a number: {column} is {value!r:.40}")
    return converted


def truth(value: object) -> Literal["true", "false"] | None:
    """True, false, 1 and 0 are truth values; a category's name is none."""
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        return None
    return "true" if value else "false"


def near(name: str, names: object) -> str:
    found = difflib.get_close_matches(name, [str(one) for one in names], n=1, cutoff=0.6)  # type: ignore[attr-defined]
    return f' (did you mean "{found[0]}"?)' if found else ""


def listed(names: frozenset[str] | set[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names))


# --- the formats, most telling first -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """Columns that must have a value, what they may be used as, and how to read them."""

    name: str
    needs: frozenset[str]
    kinds: tuple[Kind, ...]
    read: Callable[[Data], Noun]


def made_of(names: str, read: Callable[[Data], Noun], *kinds: Kind) -> Format:
    return Format(names, frozenset(names.split(" + ")), kinds, read)


FORMATS = (
    made_of("prompt + chosen + rejected", read_pair, "preferences", "rated"),
    made_of("prompt + completions + ranks", read_ranking, "preferences", "rated"),
    made_of("input + preferred_output + non_preferred_output", read_openai_pair, "preferences", "rated"),
    made_of("chosen + rejected", read_implicit_pair, "preferences", "rated"),
    made_of("prompt + completion + label", read_unpaired, "unpaired", "rated"),
    made_of("prompt + completion", read_completion, "demonstrations"),
    made_of("messages", read_messages, "demonstrations", "prompts"),
    made_of("prompt", read_prompt, "prompts"),
    made_of("turns", read_turns, "prompts"),
    made_of("text", read_text, "demonstrations"),
)
PAIRS = {f.name for f in FORMATS if "preferences" in f.kinds}
OPTIONAL = {"choice", "strength", "annotator", "both_bad", "judgements"}  # margin stays in info as well
KNOWN = frozenset(OPTIONAL | {"margin"} | {column for f in FORMATS for column in f.needs})
# A row with one of these and without its partners is a broken row of that format, never a row of a lesser one.
TELLING = {"chosen", "rejected", "preferred_output", "non_preferred_output", "ranks"}


def expected(formats: Sequence[Format]) -> str:
    return f"Expected {'one of: ' if len(formats) > 1 else ''}{' · '.join(f.name for f in formats)}"


EXPECTED = expected(FORMATS)
