"""Label Studio's tasks with annotations: its guide, "Label Studio JSON format of annotated tasks".

Results are those of the tags Pairwise, Rating, Number, Ranker with List, Choices and TextArea, as their pages say. A
task has ``data``, what was shown, and ``annotations``: one a person, each with results by control tag. Cancelled ones
are skips. Predictions are a model's: they are kept with the item, and count as nobody's judgement. Of names, those of
its templates are known (prompt, answer1, answer2). The short export, JSON-MIN, says less and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preferent.config import UsageError
from preferent.feedback.formats import questions
from preferent.feedback.formats.argilla import as_written
from preferent.feedback.formats.cells import Found, Names, duration, mapping, moment, number, sequence, short, word
from preferent.feedback.formats.pages import read_ours, write_ours
from preferent.feedback.formats.questions import Mark, Sheet
from preferent.feedback.records import Choice, Item, Judgement, Ranks, Ratings, Skipped, Written

# --- reading ---------------------------------------------------------------------------------------


def read(row: Mapping[str, Any], names: Names) -> Iterator[Found]:
    """The items in a task. Raises UsageError that names the field or control tag."""
    data, meta = mapping(row.get("data"), "data"), mapping(row.get("meta") or {}, "meta")
    if meta.get("said") is not None:
        yield read_ours({name: text for name, text in data.items() if name != "items"}, meta)
        return
    shown = questions.layout(data, names)
    if predictions := row.get("predictions"):
        shown = questions.Layout(shown.context, shown.options, shown.labels, {**shown.info, "predictions": predictions})
    annotations = sequence(row.get("annotations") or row.get("completions") or (), "annotations")
    sheets = [sheet(mapping(one, f"annotations, {i}"), i, shown.labels) for i, one in enumerate(annotations, 1)]
    yield from questions.found(shown, sheets, names)


def sheet(annotation: Mapping[str, Any], i: int, labels: Sequence[str]) -> Sheet:
    name = f"annotations, {i}"
    cancelled = bool(annotation.get("was_cancelled"))
    results = sequence(annotation.get("result") or (), f"{name}, result")
    marks = () if cancelled else tuple(mark(mapping(one, f"{name}, result"), name, labels) for one in results)
    return Sheet(
        who(annotation.get("completed_by")),
        marks,
        moment(annotation.get("created_at"), f"{name}, created_at"),
        duration(annotation.get("lead_time"), f"{name}, lead_time"),
        "cancelled" if cancelled else "",
    )


def who(value: Any) -> str:
    """A user's number, or an object that says more."""
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("id")
    if value is None:
        return ""
    return f"Label Studio user {value}" if isinstance(value, int) else word(value, "completed_by")


def mark(result: Mapping[str, Any], name: str, labels: Sequence[str]) -> Mark:
    tag, type_ = word(result.get("from_name", ""), f"{name}, from_name"), result.get("type")
    where = f"{name}, {tag}"
    value = mapping(result.get("value"), f"{where}, value")
    if type_ == "pairwise":
        return pairwise(tag, value.get("selected"), where, result, labels)
    if type_ in ("rating", "number"):
        return questions.rated(tag, number(value.get(type_), where), labels, str(result.get("to_name", "")))
    if type_ == "ranker":
        return questions.ordered(tag, in_order(value.get("ranker"), where), labels)
    if type_ == "choices":
        picked = sequence(value.get("choices"), where)
        if len(picked) != 1:
            raise UsageError(f"{where}: expected one choice; got {short(list(picked))}.")
        return questions.picked(tag, word(picked[0], where), labels) or Mark(tag, "wrote", text=picked[0])
    if type_ == "textarea":
        texts = value.get("text")
        lines = [texts] if isinstance(texts, str) else sequence(texts, where)
        return Mark(tag, "wrote", text="\n".join(word(line, where) for line in lines))
    raise UsageError(f"{where}: expected pairwise, rating, number, ranker, choices or textarea; got {short(type_)}.")


def pairwise(tag: str, selected: Any, where: str, result: Mapping[str, Any], labels: Sequence[str]) -> Mark:
    """Left is the first of the tags that the control is for, where these are named as the fields are."""
    sides = {"left": 0, "right": 1}
    if selected not in sides or len(labels) != 2:
        raise UsageError(f"{where}: expected left or right, of two options; got {short(selected)} of {len(labels)}.")
    named = result.get("to_name", "").split(",") if isinstance(result.get("to_name"), str) else []
    place = sides[selected]
    return Mark(tag, "picked", list(labels).index(named[place]) if set(named) == set(labels) else place)


def in_order(value: Any, where: str) -> Sequence[Any]:
    """A ranker's list of ids, which newer versions put under the tag's name. Several buckets have no order."""
    if isinstance(value, Mapping):
        lists = [each for each in value.values() if each]
        if len(lists) != 1:
            raise UsageError(f"{where}: expected one list in order; got the buckets {', '.join(value)}.")
        value = lists[0]
    return sequence(value, where)


# --- writing ---------------------------------------------------------------------------------------
def write(of: Item, judgements: Sequence[Judgement], kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One task, its data texts: prompt, answer1, answer2, … in canonical order; our columns under meta.

    Annotations do not say who completed them, for Label Studio refuses users that it does not know; meta does.
    """
    if of.kind == "steps":
        return  # there is no control tag for them
    data, meta = write_ours(of, judgements, kinds, "answer{}")
    task: dict[str, Any] = {"data": data, "meta": meta}
    if of.kind == "ranking":
        labels = [name for name in data if name != "prompt"]
        task["data"] = {**data, "items": [{"id": name, "title": name, "body": data[name]} for name in labels]}
    task["annotations"] = [annotation(each) for each in judgements]
    yield {**task, "predictions": of.info.get("predictions") or []}


def annotation(each: Judgement) -> dict[str, Any]:
    results = list(said(each)) + ([result("note", "prompt", "textarea", {"text": [each.note]})] if each.note else [])
    found: dict[str, Any] = {"result": results, "was_cancelled": isinstance(each.answer, Skipped)}
    return found | {"created_at": each.at} | ({} if each.seconds is None else {"lead_time": each.seconds})


def said(each: Judgement) -> Iterator[dict[str, Any]]:
    """Results by control tag. Pairwise knows left and right; anything else about a choice goes to Choices."""
    answer = each.answer
    if isinstance(answer, Choice):
        for tag, shares in {"preference": answer.choice, **answer.aspects}.items():
            best = max(shares)
            tie, place = shares.count(best) > 1, shares.index(best)
            bad = answer.both_bad and tag == "preference"
            if len(shares) == 2 and not tie and not bad:
                side = {"selected": ("left", "right")[place]}
                yield result(tag, "answer1,answer2", "pairwise", side)
            else:
                choice = "both bad" if bad else "tie" if tie else f"answer{place + 1}"
                yield result(tag, "prompt", "choices", {"choices": [choice]})
        if answer.strength is not None:
            yield result("strength", "prompt", "number", {"number": answer.strength})
    elif isinstance(answer, Ranks):
        order = sorted(range(len(answer.ranks)), key=answer.ranks.__getitem__)
        yield result("ranking", "items", "ranker", {"ranker": [f"answer{place + 1}" for place in order]})
    elif isinstance(answer, Ratings):
        for tag, values in {"rating": answer.ratings, **answer.aspects}.items():
            for i, value in enumerate(values, 1):
                yield result(f"{tag}_{i}", f"answer{i}", "number", {"number": value})
    elif isinstance(answer, Written):
        tag = "edit" if answer.of is not None else "demonstration"
        yield result(tag, "prompt", "textarea", {"text": [as_written(answer)]})


def result(tag: str, of: str, type_: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": tag, "to_name": of, "type": type_, "value": value}


def plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without our columns."""
    return {name: value for name, value in row.items() if name != "meta"}
