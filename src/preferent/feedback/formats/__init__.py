"""Judgements as other programs write them: TRL, OpenAI, Argilla and Label Studio; one file a format.

``read(row, names)`` gives the items and judgements in a row; ``write(item, judgements, kinds)`` the rows for an item,
none where the format has no words for it. Whatever the format, a row of ours says besides what each person said, word
for word (``exact``), so that reading what was written gives the same judgements back; ``plain`` takes that away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from preferent.feedback.formats import argilla, label_studio, openai, trl
from preferent.feedback.formats.cells import Found, Names
from preferent.feedback.formats.keep import Kept, keep
from preferent.feedback.records import Item, Judgement

Row = Mapping[str, Any]


class Format(NamedTuple):
    """What there is to do with a format."""

    read: Callable[[Row, Names], Iterator[Found]]
    write: Callable[[Item, Sequence[Judgement], Mapping[str, str]], Iterator[Row]]
    plain: Callable[[Row], Row]  # a row without our columns; empty where it would mislead without them


FORMATS: Mapping[str, Format] = {
    "trl": Format(trl.read, trl.write, trl.plain),
    "openai": Format(openai.read, openai.write, openai.plain),
    "argilla": Format(argilla.read, argilla.write, argilla.plain),
    "label-studio": Format(label_studio.read, label_studio.write, label_studio.plain),
}


def format_of(row: Row) -> str:
    """Which format a row looks like; TRL's where none is clearer."""
    if isinstance(row.get("fields"), Mapping) or any(column.endswith(".responses") for column in row):
        return "argilla"
    if isinstance(row.get("data"), Mapping):
        return "label-studio"
    return "openai" if {"input", "preferred_output"} <= row.keys() else "trl"


__all__ = ["FORMATS", "Found", "Kept", "Names", "format_of", "keep"]
