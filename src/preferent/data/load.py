"""From a file's name to rows of tokens: read, recognised, put through the template, and accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

from preferent.config import UsageError
from preferent.data import collate, comparisons
from preferent.data.arrow import parts, prompt_of
from preferent.data.batches import Batches, keyed
from preferent.data.columns import Kind, Unpaired
from preferent.data.faults import plain_name
from preferent.data.joined import Joined, joined
from preferent.data.kept import kept_rows
from preferent.data.messages import Messages
from preferent.data.reading import Reader, Reading, Report, Tally
from preferent.data.rows import rows
from preferent.data.template import Template
from preferent.types import Demonstration, Preference, Prompt, Ranking, Reply

T = TypeVar("T")
Opinion = Preference[Prompt, Reply] | Ranking[Prompt, Reply]
Source = str | Path | Sequence[str | Path]
Collate = Callable[[list[Any]], Any]

COLLATE: Mapping[Kind, Collate] = {
    "demonstrations": collate.demonstrations,
    "preferences": comparisons.pairs,
    "prompts": list,
    "unpaired": list,
    "rated": list,
}


@dataclass(frozen=True, slots=True)
class Loaded(Sequence[T], Generic[T]):
    """Rows as a model takes them, in memory or on disk, and how they came to be."""

    rows: Sequence[T]
    report: tuple[Report, ...] = ()  # one for each source
    collate: Collate = list

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int, /) -> T: ...
    @overload
    def __getitem__(self, i: slice, /) -> Loaded[T]: ...
    def __getitem__(self, i: int | slice, /) -> T | Loaded[T]:
        return replace(self, rows=self.rows[i]) if isinstance(i, slice) else self.rows[i]

    def batches(self, size: int, *, seed: int = 0, epochs: float = 1.0, steps: int | None = None) -> Batches[T, Any]:
        """Batches in keyed shuffled order, to be given to an algorithm; opinions on one prompt stay together."""
        if self.collate is comparisons.pairs:
            groups: Sequence[Any] = self.by_prompt()
            return Batches(groups, size, comparisons.grouped_pairs, seed=seed, epochs=epochs, steps=steps)
        return Batches(self.rows, size, self.collate, seed=seed, epochs=epochs, steps=steps)

    def by_prompt(self) -> Sequence[list[Any]]:
        """All opinions on replies to one prompt together; on disk they are read when they are asked for."""
        if isinstance(self.rows, Joined):
            return self.rows.by_prompt()
        return comparisons.by_prompt(self.rows, prompt_of)


def load_demonstrations(
    source: Source, template: Template | Any, reading: Reading = Reading()
) -> Loaded[Demonstration]:
    """Conversations to imitate. ``template`` may be a bare tokenizer, for a template without options."""
    return load(source, template, "demonstrations", reading)


def load_preferences(source: Source, template: Template | Any, reading: Reading = Reading()) -> Loaded[Opinion]:
    """Pairs and rankings alike. ``template`` may be a bare tokenizer, for a template without options."""
    return load(source, template, "preferences", reading)


def load_prompts(source: Source, template: Template | Any, reading: Reading = Reading()) -> Loaded[Prompt]:
    """Questions for a policy. ``template`` may be a bare tokenizer, for a template without options."""
    return load(source, template, "prompts", reading)


def load_unpaired(
    source: Source, template: Template | Any, reading: Reading = Reading()
) -> Loaded[Unpaired[Prompt, Reply]]:
    """Replies marked good or bad one by one. ``template`` may be a bare tokenizer."""
    return load(source, template, "unpaired", reading)


def load(source: Source, template: Template | Any, kind: Kind, reading: Reading = Reading()) -> Loaded[Any]:
    """All rows of a source, or of several one behind the other: in memory, and those of large files on disk.

    Raises UsageError for a source that cannot be read, for the first bad row unless they are to be skipped, and where
    no row is left.
    """
    names = [str(source)] if isinstance(source, str | Path) else [str(one) for one in source]
    reader = Reader(template if isinstance(template, Template) else Template(template), kind, reading)
    found, reports = list[Sequence[Any]](), list[Report]()
    for name, label in zip(names, distinct([plain_name(name) for name in names]), strict=True):
        tally = Tally(name, label, reading)
        kept = kept_rows(reader, tally)
        found.append(tuple(islice(tally.kept(reader, rows(name)), reading.limit)) if kept is None else kept)
        reports.append(tally.report())
    return Loaded(joined(found), tuple(reports), COLLATE[kind])


def distinct(labels: Sequence[str]) -> list[str]:
    """Labels that stand twice get their place before them."""
    return [label if labels.count(label) == 1 else f"{i}-{label}" for i, label in enumerate(labels, 1)]


# --- what is held out ----------------------------------------------------------------------------


def held_out(loaded: Loaded[T], share: float, *, seed: int = 0) -> tuple[Loaded[T], Loaded[T]]:
    """(for training, for evaluation): about this share of the *prompts* is held out, by a hash of their text.

    A prompt never stands on both sides, and stays on its side when rows are added. Raises UsageError where there are
    not two prompts to share out.
    """
    if not 0 < share < 1:
        raise UsageError(f"The share to hold out lies between 0 and 1, got {share:g}.")
    places = [keyed(seed, asked(row)) / 2**63 for row in loaded.rows]
    if len(set(places)) < 2:
        raise UsageError("Nothing can be held out: all rows have the same prompt.")
    # Both sides get a prompt, however few there are.
    border = min(max(share, min(places)), sorted(set(places))[-2])
    sides = [[i for i, p in enumerate(places) if (p <= border) == held] for held in (False, True)]
    return picked(loaded, sides[0]), picked(loaded, sides[1])


def picked(loaded: Loaded[T], places: Sequence[int]) -> Loaded[T]:
    """The rows at these places."""
    rows = loaded.rows
    return replace(loaded, rows=rows.picked(places) if isinstance(rows, Joined) else tuple(rows[i] for i in places))


def asked(row: Any) -> str:
    """The prompt of a row as text, spaces and case aside; all of it where there are no turns."""
    prompt, _, _ = parts(row)
    turns = cast(Messages, prompt.info.get("messages", ()))
    if turns:
        return json.dumps([[turn["role"], " ".join(str(turn["content"]).lower().split())] for turn in turns])
    return json.dumps([prompt.tokens, row.reply.tokens if isinstance(row, Demonstration) else ()])
