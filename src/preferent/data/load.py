"""From a file's name to rows of tokens: read, recognised, put through the template, and accounted for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

from preferent.config import UsageError
from preferent.data import batches
from preferent.data.batches import Batches, keyed
from preferent.data.columns import Kind, Unpaired, parse
from preferent.data.faults import BadRows, plain_name
from preferent.data.messages import Messages
from preferent.data.rows import BadRow, Row, rows
from preferent.data.template import Template, TooLong
from preferent.types import Demonstration, Preference, Prompt, Ranking, Reply

T = TypeVar("T")
Opinion = Preference[Prompt, Reply] | Ranking[Prompt, Reply]
Source = str | Path | Sequence[str | Path]
Collate = Callable[[list[Any]], Any]

COLLATE: Mapping[Kind, Collate] = {
    "demonstrations": batches.demonstrations,
    "preferences": batches.pairs,
    "prompts": list,
    "unpaired": list,
}


@dataclass(frozen=True)
class Reading:
    """How a file is read. ``columns``: what the file calls our columns, as in ``{"chosen": "better"}``.

    A bad row is an error, unless ``skip_bad_rows``: then it is counted, and listed in ``<name>.bad.jsonl`` in
    ``bad_rows_folder`` where one is given. ``limit`` stops behind so many good rows of each source.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    skip_bad_rows: bool = False
    bad_rows_folder: str | Path | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a source's rows."""

    source: str
    read: int = 0
    kept: int = 0
    too_long: int = 0  # left out because of ``max_length``
    bad: Mapping[str, int] = field(default_factory=dict)  # left out, by fault
    bad_file: Path | None = None

    def __str__(self) -> str:
        """One line: ``prefs.jsonl: 2303 of 2312 rows · 4 × an empty reply · 5 × … → prefs.bad.jsonl``."""
        parts = [f"{self.source}: {self.kept} of {self.read} rows"]
        parts += [f"{self.too_long} × too long"] if self.too_long else []
        parts += [f"{count} × {fault}" for fault, count in self.bad.items()]
        return " · ".join(parts) + (f" → {self.bad_file}" if self.bad_file else "")


@dataclass(frozen=True, slots=True)
class Loaded(Sequence[T], Generic[T]):
    """Rows in memory, as a model takes them, and how they came to be."""

    rows: tuple[T, ...]
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
        if self.collate is batches.pairs:
            groups: Sequence[Any] = batches.by_prompt(cast(Sequence[Any], self.rows))
            return Batches(groups, size, batches.grouped_pairs, seed=seed, epochs=epochs, steps=steps)
        return Batches(self.rows, size, self.collate, seed=seed, epochs=epochs, steps=steps)


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
    """All rows of a source, or of several one behind the other, in memory.

    Raises UsageError for a source that cannot be read, for the first bad row unless they are to be skipped, and where
    no row is left.
    """
    names = [str(source)] if isinstance(source, str | Path) else [str(one) for one in source]
    reader = Reader(template if isinstance(template, Template) else Template(template), kind, reading)
    found, reports = list[Any](), list[Report]()
    for name, label in zip(names, distinct([plain_name(name) for name in names]), strict=True):
        tally = Tally(name, label, reading)
        found += islice(tally.kept(reader, rows(name)), reading.limit)
        reports.append(tally.report())
    return Loaded(tuple(found), tuple(reports), COLLATE[kind])


@dataclass(frozen=True)
class Reader:
    """What a row says, in tokens. Raises BadRow, with the row's place."""

    template: Template
    kind: Kind
    reading: Reading

    def __call__(self, row: Row | BadRow) -> Any:
        if isinstance(row, BadRow):
            raise row
        try:
            return self.template.tokenised(parse(row.data, kind=self.kind, columns=self.reading.columns))
        except BadRow as bad:
            raise bad.at(row) from bad

    def needed(self, row: Row | BadRow) -> list[str]:
        """The options that ``preferent data check`` needs to find what is wrong with a row."""
        if isinstance(row, BadRow):
            return []
        said = [word for ours, theirs in self.reading.columns.items() for word in ("--columns", f"{ours}={theirs}")]
        if self.kind_of(row, None) not in (None, self.kind):
            said += ["--kind", self.kind]
        model = str(self.template.tokenizer.name_or_path)
        if model and self.kind_of(row, self.kind):  # it can be read, so its template refuses it
            limit = self.template.max_length
            said += ["--model", model, *(["--max-length", str(limit)] if limit else [])]
        return said

    def kind_of(self, row: Row, kind: Kind | None) -> Kind | None:
        """What a row is when it is read as this; None where that cannot be."""
        try:
            return parse(row.data, kind=kind, columns=self.reading.columns).kind
        except BadRow:
            return None


@dataclass
class Tally:
    """Counts what becomes of a source's rows while they go by."""

    source: str
    label: str  # of its file of bad rows
    reading: Reading
    read: int = 0
    good: int = 0
    too_long: int = 0
    longest: TooLong | None = None
    bad: BadRows = field(init=False)

    def __post_init__(self) -> None:
        self.bad = BadRows(self.label)

    def kept(self, reader: Reader, found: Iterable[Row | BadRow]) -> Iterator[Any]:
        for row in found:
            noun = self.converted(reader, row)
            if noun is not None:
                yield noun

    def converted(self, reader: Reader, row: Row | BadRow) -> Any | None:
        """The noun, or None for a row that is left out."""
        self.read += 1
        try:
            noun = reader(row)
        except BadRow as bad:
            if isinstance(bad, TooLong) and reader.template.truncation != "error":
                self.too_long += 1
                self.longest = bad if self.longest is None or bad.tokens > self.longest.tokens else self.longest
            elif self.reading.skip_bad_rows:
                self.bad.found.append(bad)
            else:
                raise self.advised(bad, reader.needed(row)) from bad
            return None
        self.good += 1
        return noun

    def advised(self, bad: BadRow, needed: Sequence[str]) -> UsageError:
        """``needed``: the options with which a check finds such rows."""
        checking = shlex.join(["preferent", "data", "check", self.source, *needed])
        return UsageError(
            f"{bad}\n`{checking}` lists every such row; `--skip-bad-rows` leaves them out and writes them to "
            f"{self.label}.bad.jsonl."
        )

    def report(self) -> Report:
        """The counts, once all rows went by. Writes the bad ones down; raises UsageError where none was good."""
        file = None
        if self.bad.found and self.reading.bad_rows_folder is not None:
            file = self.bad.write(self.reading.bad_rows_folder)
        if not self.good:
            raise self.none_left()
        return Report(self.source, self.read, self.good, self.too_long, self.bad.by_fault, file)

    def none_left(self) -> UsageError:
        why = [f"{count} × {fault}" for fault, count in self.bad.by_fault.items()]
        if self.longest is None:
            return UsageError(f"{self.source}: none of its {self.read} rows can be used: {' · '.join(why)}.")
        size = f"{self.longest.tokens:,} tokens, and at most {self.longest.limit:,} fit"
        hint = f"\n{self.longest.hint}" if self.longest.hint else ""
        if self.read == 1:
            return UsageError(f"{self.source}: the only row has {size}.{hint}")
        why.insert(0, f"{self.too_long} {'is' if self.too_long == 1 else 'are'} too long (the longest has {size})")
        return UsageError(f"{self.source}: none of its {self.read} rows can be used: {' · '.join(why)}.{hint}")


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
    sides = [
        [row for row, p in zip(loaded.rows, places, strict=True) if (p <= border) == held] for held in (False, True)
    ]
    return replace(loaded, rows=tuple(sides[0])), replace(loaded, rows=tuple(sides[1]))


def asked(row: Any) -> str:
    """The prompt of a row as text, spaces and case aside; all of it where there are no turns."""
    prompt = prompt_in(row)
    turns = cast(Messages, prompt.info.get("messages", ()))
    if turns:
        return json.dumps([[turn["role"], " ".join(str(turn["content"]).lower().split())] for turn in turns])
    return json.dumps([prompt.tokens, row.reply.tokens if isinstance(row, Demonstration) else ()])


def prompt_in(row: Any) -> Prompt:
    if isinstance(row, Preference | Ranking):
        return cast(Prompt, row.comparison.context)
    if isinstance(row, Unpaired):
        return cast(Prompt, row.context)
    return row.prompt if isinstance(row, Demonstration) else cast(Prompt, row)
