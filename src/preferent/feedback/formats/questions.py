"""What people answered on a page of another program: questions with names of its makers', read by their shape.

Argilla and Label Studio let everybody name fields and questions. Names are recognised where they are usual (``prompt``
or ``instruction``; ``response_1``, ``answer2``, ``completion_b``; ``comment``), and told where they are not: Names maps
prompt, option, choice, strength, note, edit, demonstration and ignore to what the file calls them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from preferent.config import UsageError
from preferent.feedback.formats.cells import Found, Names, conversation, number, short
from preferent.feedback.formats.trl import placed
from preferent.feedback.records import (
    Answer,
    Choice,
    Judgement,
    Kind,
    Messages,
    Ranks,
    Ratings,
    Skipped,
    Written,
    checked,
    item,
)

PROMPTS = ("prompt", "instruction", "question", "input", "query", "context", "conversation", "messages", "dialogue")
NUMBERED = re.compile(r"(?P<stem>.*?)(?:[-_ ]|(?=\d)|(?<=[a-z])(?=[A-H]))(?P<place>\d+|[a-hA-H])")
SINGLE = ("response", "completion", "reply", "answer", "output", "generation", "text")
MEANINGS = ("prompt", "option", "choice", "strength", "note", "edit", "demonstration", "ignore")
USUAL = {  # names of questions that are answered in words
    "note": re.compile(r"comment|note|why|reason|rationale|expla|feedback|justif"),
    "edit": re.compile(r"edit|correct|revis|improv|rewrit"),
    "demonstration": re.compile(r"demonstration|response|answer|completion|reply|generation"),
}
OVERALL = ("choice", "preference", "overall", "better", "best", "rating", "score", "quality")
TIE = ("tie", "equal", "same", "draw", "both", "both good", "equally good", "no preference")
BAD = ("both bad", "neither", "none", "equally bad")
SIDES = {"left": 0, "first": 0, "right": 1, "second": 1}
SIDE = re.compile(
    r"(?:option|response|answer|reply|completion|output|model|text)? ?(?P<side>[a-h]|[1-9]|left|right|first|second)"
    r"(?: (?:is|was))?(?: (?:much|slightly|far|a bit))?(?: better)?"
)


@dataclass(frozen=True)
class Layout:
    """What was shown: a prompt, and options under the names that the file has for them."""

    context: Messages
    options: tuple[Messages, ...]
    labels: tuple[str, ...]
    info: Mapping[str, Any]  # all other fields


@dataclass(frozen=True)
class Mark:
    """One question, answered in one of the ways that there are to answer one."""

    question: str
    means: Literal["picked", "ordered", "rated", "wrote"]
    place: int | None = None  # the option picked, None for a tie; the one rated, None where there is but one
    bad: bool = False  # picked: both are bad
    ranks: tuple[int, ...] = ()
    value: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Sheet:
    """All that one person answered about one row."""

    who: str
    marks: tuple[Mark, ...]
    at: str = ""
    seconds: float | None = None
    skipped: str = ""  # why, where nothing was answered


# --- what was shown --------------------------------------------------------------------------------
def layout(fields: Mapping[str, Any], names: Names) -> Layout:
    """Raises UsageError where no field is a prompt, or a cell holds no text."""
    if stranger := next((name for name in names if name not in MEANINGS), None):
        raise UsageError(f"columns: {stranger} means nothing in this format. Expected one of {', '.join(MEANINGS)}.")
    prompt = next((name for name in names.get("prompt", PROMPTS) if fields.get(name) is not None), None)
    if prompt is None:
        raise UsageError(
            f"fields: expected a prompt; got {', '.join(fields) or 'none'}. Say which it is: --columns prompt=NAME"
        )
    labels, cells, used = options(fields, prompt, names)
    said = tuple(conversation(cell, label, "assistant") for label, cell in zip(labels, cells, strict=True))
    gone = {prompt, *used, *names.get("ignore", ())}
    info = {name: value for name, value in fields.items() if name not in gone}
    return Layout(conversation(fields[prompt], prompt, "user"), said, labels, info)


def options(
    fields: Mapping[str, Any], prompt: str, names: Names
) -> tuple[tuple[str, ...], Sequence[Any], tuple[str, ...]]:
    """The names of the options, what they hold, and the fields that this was found in."""
    labels = tuple(names["option"]) if "option" in names else usual_options(fields, prompt)
    if missing := [label for label in labels if fields.get(label) is None]:
        raise UsageError(f"{missing[0]}: no such field, given as option; there are {', '.join(fields)}.")
    for name in labels if len(labels) == 1 else () if labels else fields:
        if (cells := listed(fields[name])) is not None:  # Label Studio's List
            return tuple(str(one["id"]) for one in fields[name]), cells, (name,)
    return labels, [fields[label] for label in labels], labels


def usual_options(fields: Mapping[str, Any], prompt: str) -> tuple[str, ...]:
    """Fields of one name with numbers or letters behind it, the commonest; else one with a usual name."""
    if {"chosen", "rejected"} <= fields.keys():
        return ("chosen", "rejected")
    stems: dict[str, list[str]] = {}
    for name, value in fields.items():
        if name != prompt and value is not None and (found := NUMBERED.fullmatch(name)):
            stems.setdefault(found["stem"].lower(), []).append(name)
    labels = tuple(sorted(stems.values(), key=len)[-1]) if stems else ()
    numbered = [name for stem in SINGLE for name in stems.get(stem, ())]
    single = [name for name, value in fields.items() if name.lower() in SINGLE and name != prompt and value is not None]
    return labels if len(labels) > 1 else tuple([*single, *numbered][:1])


def listed(value: Any) -> Sequence[Any] | None:
    """The texts of a List's items (objects with an id and a body), if this is one."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence) or not value:
        return None
    if not all(isinstance(one, Mapping) and "id" in one for one in value):
        return None
    return [one.get("body") or one.get("html") or one.get("text") or one.get("title") or "" for one in value]


# --- what was answered -----------------------------------------------------------------------------
def picked(question: str, said: str, labels: Sequence[str]) -> Mark | None:
    """A word that stands for an option, a tie, or both being bad; None for any other text."""
    words = normal(said)
    known = [normal(label) for label in labels]
    if words in known:
        return Mark(question, "picked", known.index(words))
    if len(labels) < 2:
        return None
    if words in TIE or words in BAD:
        return Mark(question, "picked", None, bad=words in BAD)
    if not (found := SIDE.fullmatch(words)):
        return None
    side = found["side"]
    place = SIDES.get(side, int(side) - 1 if side.isdigit() else ord(side[0]) - ord("a"))
    return Mark(question, "picked", place) if place < len(labels) else None


def ordered(question: str, names: Sequence[Any], labels: Sequence[str]) -> Mark:
    """Options from the best to the worst, or objects with a value and a rank, of which equal ones are ties."""
    pairs = [
        (one.get("value"), one.get("rank", i)) if isinstance(one, Mapping) else (one, i) for i, one in enumerate(names)
    ]
    ranks = {str(name): number(rank, question) for name, rank in pairs}
    if set(ranks) != set(labels) or len(pairs) != len(labels):
        raise UsageError(f"{question}: expected an order of {', '.join(labels)}; got {short(list(names))}.")
    levels = sorted(set(ranks.values()))
    return Mark(question, "ordered", ranks=tuple(levels.index(ranks[label]) for label in labels))


def rated(question: str, value: float, labels: Sequence[str], of: str = "") -> Mark:
    """A number, for the option that the question or ``of`` names."""
    known = [normal(label) for label in labels]
    place = next((i for i, label in enumerate(known) if label in (normal(of), normal(question))), None)
    if place is None:
        place = next(
            (i for i, label in enumerate(known) if re.search(rf"\b{re.escape(label)}\b", normal(question))), None
        )
    if place is None and len(labels) > 1 and (found := NUMBERED.fullmatch(question)):
        end = found["place"].lower()
        side = int(end) - 1 if end.isdigit() else ord(end) - ord("a")
        place = side if 0 <= side < len(labels) else None
    return Mark(question, "rated", 0 if place is None and len(labels) == 1 else place, value=value)


def normal(name: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-zA-Z])(?=\d)", " ", name)).lower().split())


# --- both together ---------------------------------------------------------------------------------
def found(shown: Layout, sheets: Sequence[Sheet], names: Names) -> Iterator[Found]:
    """Items with what was said of them: one for each kind of answer. Raises UsageError that names the question."""
    said: dict[Kind, list[tuple[Sheet, Answer, str]]] = {}
    for sheet in sheets:
        if not sheet.skipped:
            note = "\n".join(mark.text for mark in sheet.marks if meaning(mark, shown, names) == "note")
            for kind, answer in answers(shown, sheet, names):
                said.setdefault(kind, []).append((sheet, answer, note))
    asked: Kind = next(iter(said), ("demonstration", "rating", "comparison")[min(len(shown.options), 2)])
    for sheet in sheets:
        if sheet.skipped:
            said.setdefault(asked, []).append((sheet, Skipped(sheet.skipped), ""))
    for kind, each in said.items():
        yield settled(shown, kind, each)


def settled(shown: Layout, kind: Kind, said: Sequence[tuple[Sheet, Answer, str]]) -> Found:
    options = () if kind == "demonstration" else shown.options
    of, order = item(shown.context, options, kind=kind, info=shown.info)
    on_screen = tuple(order.index(place) for place in range(len(options)))
    judgements = (
        Judgement(
            of.id,
            sheet.who,
            checked(of, placed(answer, order)),
            on_screen if len(options) > 1 else (),
            sheet.seconds,
            note=note,
            at=sheet.at,
            id="",
        )
        for sheet, answer, note in said
    )
    return Found(of, tuple(judgements))


def answers(shown: Layout, sheet: Sheet, names: Names) -> Iterator[tuple[Kind, Answer]]:
    marks = [mark for mark in sheet.marks if mark.question not in names.get("ignore", ())]
    by_meaning = {means: [mark for mark in marks if meaning(mark, shown, names) == means] for means in MEANINGS}
    strengths = [mark.value for mark in by_meaning["strength"]]
    if by_meaning["choice"]:
        shares = {mark.question: share(mark, len(shown.options)) for mark in by_meaning["choice"]}
        main = overall(list(shares), names.get("choice", ()))
        bad = any(mark.bad for mark in by_meaning["choice"] if mark.question == main)
        aspects = {question: each for question, each in shares.items() if question != main}
        yield "comparison", Choice(shares[main], strengths[0] if strengths else None, bad, aspects)
    for mark in marks:
        if mark.means == "ordered":
            yield "ranking", Ranks(mark.ranks)
    if scores := ratings([mark for mark in by_meaning["option"] if mark.means == "rated"], shown):
        main = overall(list(scores), ())
        yield "rating", Ratings(scores[main], {name: each for name, each in scores.items() if name != main})
    for mark in by_meaning["edit"]:
        if len(shown.options) != 1:
            raise UsageError(f"{mark.question}: an edit is of one option; there are {len(shown.options)}.")
        yield "edit", Written(({"role": "assistant", "content": mark.text},), of=0)
    for mark in by_meaning["demonstration"]:
        yield "demonstration", Written(({"role": "assistant", "content": mark.text},))


def meaning(mark: Mark, shown: Layout, names: Names) -> str:
    """What a question is for. Raises UsageError where that cannot be told."""
    if told := next((means for means, called in names.items() if mark.question in called), None):
        return told
    if mark.means == "picked":
        return "choice"
    if mark.means != "wrote":
        return "strength" if mark.place is None and "strength" in normal(mark.question) else "option"
    usual = next((means for means, pattern in USUAL.items() if pattern.search(mark.question.lower())), None)
    if usual is None:
        raise UsageError(
            f"{mark.question}: cannot tell what the answer {short(mark.text)} is for. Say so: --columns "
            f"note={mark.question}, or choice=, edit=, demonstration=, ignore="
        )
    return usual


def share(mark: Mark, options: int) -> tuple[float, ...]:
    if mark.means != "picked":
        raise UsageError(f"{mark.question}: expected the name of an option, a tie or both bad; got {short(mark.text)}.")
    if mark.place is None:
        return (1 / options,) * options
    return tuple(float(place == mark.place) for place in range(options))


def overall(questions: Sequence[str], told: Sequence[str]) -> str:
    """The question that stands for the whole; the others are aspects."""
    usual = (name for word in OVERALL for name in questions if word in normal(name).split())
    return next((name for name in told if name in questions), None) or next(usual, questions[0])


def ratings(marks: Sequence[Mark], shown: Layout) -> dict[str, tuple[float, ...]]:
    """A rating of every option, by what is left of the question's name without the option's."""
    by_stem: dict[str, dict[int, float]] = {}
    for mark in marks:
        if mark.place is None:
            raise UsageError(
                f"{mark.question}: cannot tell which of {', '.join(shown.labels) or 'no options'} is rated. "
                f"Say --columns strength={mark.question} or ignore={mark.question}"
            )
        by_stem.setdefault(stem(mark.question, shown.labels), {})[mark.place] = mark.value
    for name, values in by_stem.items():
        if missing := [label for place, label in enumerate(shown.labels) if place not in values]:
            raise UsageError(f"{name}: expected a rating of each option; {', '.join(missing)} has none.")
    return {name: tuple(values[place] for place in sorted(values)) for name, values in by_stem.items()}


def stem(question: str, labels: Sequence[str]) -> str:
    words = normal(question)
    for label in sorted(map(normal, labels), key=len, reverse=True):
        if len(labels) > 1 and label in words:
            return words.replace(label, "").strip() or "rating"
    cut = NUMBERED.fullmatch(question) if len(labels) > 1 else None
    return normal(cut["stem"]) if cut else question
