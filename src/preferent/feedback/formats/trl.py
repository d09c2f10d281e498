"""TRL's columns (its documentation, "Dataset formats and types"), as `preferent reward`, `dpo` and `sft` read them.

Pairs are prompt + chosen + rejected, with ``choice``: how likely the chosen reply is better, and ``aspects``: how
likely in each regard that was asked about. What orders more than two replies is prompt + completions + ranks, ratings
beside it; step labels are prompt + completions + labels; what people wrote is prompt + completion, and their edits are
pairs of the edit and what it mends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from preferent.config import UsageError
from preferent.feedback import summary
from preferent.feedback.formats.cells import Found, Names, conversation, mapping, number, sequence, short, split, word
from preferent.feedback.formats.exact import COLUMNS, exact, found_exactly
from preferent.feedback.records import (
    Answer,
    Choice,
    Item,
    Judgement,
    Kind,
    Messages,
    Ranks,
    Ratings,
    Steps,
    Written,
    checked,
    item,
)

SHAPES = {  # columns of a format of TRL
    "prompt + chosen + rejected",
    "chosen + rejected",
    "prompt + completions + ranks",
    "prompt + completions + labels",
    "prompt + completion + label",
    "prompt + completion",
    "messages",
}
OURS = {"choice", "strength", "both_bad", "aspects", "annotator", *COLUMNS}
NATIVE = {column for shape in SHAPES for column in shape.split(" + ")} | {"ratings"}
EXPECTED = f"Expected one of: {' · '.join(sorted(SHAPES, key=len, reverse=True))}"


# --- reading ---------------------------------------------------------------------------------------
def read(row: Mapping[str, Any], names: Names) -> Iterator[Found]:
    """The one item in a row. Raises UsageError that names the field."""
    data = renamed(row, names)
    context, replies = contents(data)
    info = {name: value for name, value in data.items() if name not in NATIVE | OURS}
    if isinstance(data.get("info"), Mapping):
        info |= data["info"]
    elif data.get("info") is not None:
        info["info"] = data["info"]
    if data.get("said") is not None:
        yield found_exactly({**data, "info": info}, context, options_of(data, replies, info))
    else:
        yield foreign(data, context, [without(context, reply) for reply in replies], info)


def options_of(data: Mapping[str, Any], replies: list[Messages], info: Mapping[str, Any]) -> list[Messages]:
    """What of a row of ours was judged; what was written stands in ``said`` as well."""
    if data.get("kind") == "demonstration":
        return []
    if data.get("kind") == "edit":
        return replies[1:]
    if data.get("kind") == "steps" and data.get("completions") == info.get("steps"):
        return [joined(replies)]
    return replies


def renamed(row: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The row with its columns under the names used here, those without a value left out of the known ones."""
    moved = dict(row)
    for ours, theirs in names.items():
        if ours not in NATIVE | OURS:
            raise UsageError(f"columns: {ours} means nothing in this format. {EXPECTED}.")
        if len(theirs) != 1 or theirs[0] not in row:
            raise UsageError(f"{theirs[0]}: no such column, given as {ours}; there are {', '.join(row)}.")
        moved[ours] = moved.pop(theirs[0])
    return {key: value for key, value in moved.items() if value is not None or key not in NATIVE | OURS}


def contents(data: Mapping[str, Any]) -> tuple[Messages, list[Messages]]:
    """The prompt, and the replies in the order in which they stand."""
    if "messages" in data:
        context, reply = split(conversation(data["messages"], "messages", "user"), "messages")
        return context, [reply]
    columns = next((some for some in (("chosen", "rejected"), ("completion",)) if set(some) <= data.keys()), ())
    replies = [conversation(data[column], column, "assistant") for column in columns]
    if "completions" in data and not columns:
        cells = enumerate(sequence(data["completions"], "completions"), 1)
        replies = [conversation(cell, f"completions, {i}", "assistant") for i, cell in cells]
    if not replies:
        raise UsageError(f"no known columns: got {', '.join(data) or 'none with a value'}. {EXPECTED}.")
    if "prompt" in data:
        return conversation(data["prompt"], "prompt", "user"), replies
    if columns != ("chosen", "rejected"):
        raise UsageError(f"prompt: missing beside {', '.join(columns or ['completions'])}. {EXPECTED}.")
    same = next((i for i, (a, b) in enumerate(zip(*replies, strict=False)) if a != b), min(map(len, replies)))
    if not same:
        raise UsageError("chosen and rejected: expected conversations that begin alike: their prompt; these do not.")
    return replies[0][:same], [reply[same:] for reply in replies]


def without(context: Messages, reply: Messages) -> Messages:
    """A reply, which may repeat the prompt before it."""
    return reply[len(context) :] if len(reply) > len(context) > 0 and reply[: len(context)] == context else reply


def foreign(data: Mapping[str, Any], context: Messages, replies: list[Messages], info: dict[str, Any]) -> Found:
    """One judgement, of the annotator whom the row names, if any."""
    kind, answer, options = meant(data, replies, info)
    of, order = item(context, options, kind=kind, info=info)
    given = data.get("judgements") or ()
    ids = [word(one, "judgements", longest=64) for one in sequence(given, "judgements")]
    if len(ids) > 1:
        raise UsageError(
            f"judgements: {len(ids)} of them cannot be told apart without the column said. Leave the column out to "
            "import the row as one judgement."
        )
    annotators = sequence(data.get("annotators") or [data.get("annotator") or ""], "annotators")
    who = annotators[0] if len(annotators) == 1 else ""
    name = word(str(who) if isinstance(who, int) else who, "annotator")
    said = Judgement(of.id, name, checked(of, placed(answer, order)), at="", id=ids[0] if ids else "")
    return Found(of, (said,))


def meant(
    data: Mapping[str, Any], replies: list[Messages], info: dict[str, Any]
) -> tuple[Kind, Answer, list[Messages]]:
    """Kind, answer in the order of the row, and the options."""
    if "rejected" in data and "chosen" in data:
        return "comparison", pair(data), replies
    if "completions" not in data:
        if "label" not in data:
            return "demonstration", Written(replies[0]), []
        return "rating", Ratings((float(truth(data["label"], "label")),)), replies
    if "ranks" in data:
        ranks = [number(rank, "ranks") for rank in sequence(data["ranks"], "ranks")]
        return "ranking", Ranks(summary.dense(ranks)), replies
    if "labels" not in data:
        raise UsageError(f"ranks: missing beside completions. {EXPECTED}.")
    labels = [step_label(label) for label in sequence(data["labels"], "labels")]
    if len(labels) != len(replies):
        raise UsageError(f"labels: expected one for each of {len(replies)} completions; got {len(labels)}.")
    info["steps"] = list(data["completions"])
    return "steps", Steps(tuple(labels)), [joined(replies)]


def joined(steps: Sequence[Messages]) -> Messages:
    """One reply of several steps, a line each."""
    return ({"role": "assistant", "content": "\n".join(str(turn.get("content")) for step in steps for turn in step)},)


def pair(data: Mapping[str, Any]) -> Choice:
    strength = data.get("strength")
    regards = mapping(data.get("aspects") or {}, "aspects")
    return Choice(
        shares_of(data.get("choice", 1.0), "choice"),
        None if strength is None else number(strength, "strength"),
        truth(data.get("both_bad", False), "both_bad"),
        {name: shares_of(share, f"aspects, {name}") for name, share in regards.items() if share is not None},
    )


def shares_of(value: Any, name: str) -> tuple[float, float]:
    """Of the chosen and of the rejected one."""
    share = number(value, name)
    if not 0 <= share <= 1:
        raise UsageError(f"{name}: expected 0 … 1, how likely chosen is better; got {share:g}.")
    return share, 1 - share


def placed(answer: Answer, order: Sequence[int]) -> Answer:
    """An answer about options as they stand in a row, in canonical order instead."""
    if isinstance(answer, Choice):
        aspects = {name: tuple(shares[i] for i in order) for name, shares in answer.aspects.items()}
        return Choice(tuple(answer.choice[i] for i in order), answer.strength, answer.both_bad, aspects)
    if isinstance(answer, Ranks):
        if len(answer.ranks) != len(order):
            raise UsageError(f"ranks: expected {len(order)}, one for each completion; got {len(answer.ranks)}.")
        return Ranks(tuple(answer.ranks[i] for i in order))
    if isinstance(answer, Ratings):
        rated = {name: tuple(values[i] for i in order) for name, values in answer.aspects.items()}
        return Ratings(tuple(answer.ratings[i] for i in order), rated)
    return answer


def truth(value: Any, name: str) -> bool:
    if value not in (0, 1) or not isinstance(value, bool | int | float):
        raise UsageError(f"{name}: expected true or false; got {short(value)}.")
    return bool(value)


def step_label(value: Any) -> Any:
    if isinstance(value, bool):
        return 1 if value else -1
    if value not in (-1, 0, 1):
        raise UsageError(f"labels: expected true, false, 1, 0 or -1; got {short(value)}.")
    return int(value)


# --- writing ---------------------------------------------------------------------------------------
def write(of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One row, or one for each text that was written; none where nobody answered."""
    if of.kind in ("edit", "demonstration"):
        for answer, some in by_text(judgements):
            yield {"prompt": list(of.context), **written(of, answer), **columns(of, some, kinds)}
        return
    made = judged(of, judgements)
    if made is not None:
        native, order = made
        yield {"prompt": list(of.context), **native, **columns(of, judgements, kinds, order)}


def by_text(judgements: Sequence[Judgement]) -> Iterator[tuple[Written, list[Judgement]]]:
    """Each text that was written, with its judgement; those who skipped go with the first."""
    skips = [each for each in judgements if not isinstance(each.answer, Written)]
    for each in judgements:
        if isinstance(each.answer, Written):
            yield each.answer, [each, *skips]
            skips = []


def written(of: Item, answer: Written) -> dict[str, Any]:
    if of.kind == "demonstration":
        return {"completion": list(answer.messages)}
    return {"chosen": list(answer.messages), "rejected": list(of.options[0]), "choice": 1.0}


def judged(of: Item, judgements: Sequence[Judgement]) -> tuple[dict[str, Any], Sequence[int]] | None:
    """Columns of the row, and the places of the options as they stand in it."""
    every = range(len(of.options))
    replies = {"completions": [list(option) for option in of.options]}
    if of.kind == "steps":
        labels = summary.steps(judgements)
        return None if labels is None else ({"completions": steps_of(of), "labels": list(labels)}, every)
    if of.kind == "ranking":
        ranks = summary.ranks(judgements)
        return None if ranks is None else ({**replies, "ranks": list(ranks)}, every)
    if of.kind == "rating":
        rated = summary.ratings(judgements)
        if rated is None:
            return None
        order = {"ranks": list(summary.dense([-value for value in rated]))} if len(rated) > 1 else {}
        return {**replies, **order, "ratings": list(rated)}, every
    found = summary.choices(judgements)
    if found is None:
        return None
    more = {"both_bad": found.both_bad} | ({} if found.strength is None else {"strength": found.strength})
    if len(of.options) == 2:
        better, worse = found.order
        sides = {"chosen": list(of.options[better]), "rejected": list(of.options[worse])}
        if regards := {name: shares[better] for name, shares in summary.aspects(judgements).items()}:
            return {**sides, "choice": found.choice[better], **more, "aspects": regards}, found.order
        return {**sides, "choice": found.choice[better], **more}, found.order
    ranks = summary.dense([-share for share in found.choice])
    return {**replies, "ranks": list(ranks), "choice": list(found.choice), **more}, every


def steps_of(of: Item) -> list[Any]:
    """The steps, where the item says how its option is cut; else the option as one."""
    cut = of.info.get("steps")
    texts = cut if isinstance(cut, Sequence) and all(isinstance(step, str) for step in cut) else ()
    whole = joined([conversation(step, "steps", "assistant") for step in texts])
    return list(texts) if texts and whole == of.options[0] else [list(of.options[0])]


def columns(
    of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str], order: Sequence[int] | None = None
) -> dict[str, Any]:
    """Our columns. What else is known of an item goes to columns of their own, where the names are free."""
    found = exact(of, judgements, kinds, order)
    taken = NATIVE | OURS
    kept = {name: value for name, value in of.info.items() if name in taken}
    found.pop("info", None)
    free = {name: value for name, value in of.info.items() if name not in taken}
    return free | found | ({"info": kept} if kept else {})


def plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without our columns; empty for a tie, which would read as a preference, and for what TRL has no column for."""
    if row.get("both_bad") or ("chosen" in row and row.get("choice") == 0.5):
        return {}
    given = {name: value for name, value in row.items() if name not in OURS}
    if "labels" in row:
        return {**given, **plain_steps(row)} if row["labels"] else {}
    return plain_thumb(given) if "ratings" in row and "ranks" not in row else given


def plain_steps(row: Mapping[str, Any]) -> dict[str, Any]:
    """Labels that are true or false: a step is bad where more than half of those who went that far say so.

    Neutral is not bad, as Lightman et al. 2023 count it. Steps that nobody came to are left out.
    """
    answers = (one["answer"] for one in row["said"])
    by_step = zip_longest(*(answer["labels"] for answer in answers if answer["said"] == "steps"))
    labels = [2 * said.count(-1) <= sum(label is not None for label in said) for said in by_step]
    return {"completions": row["completions"][: len(labels)], "labels": labels[: len(row["completions"])]}


def plain_thumb(row: Mapping[str, Any]) -> dict[str, Any]:
    """One reply, good or bad by majority; empty where that is even, or what people gave was no thumb."""
    (share,), (reply,) = row["ratings"], row["completions"]
    if not 0 <= share <= 1 or share == 0.5:
        return {}
    rest = {name: value for name, value in row.items() if name not in ("completions", "ratings")}
    return {**rest, "completion": reply, "label": share > 0.5}
