"""What becomes of each row of a source: a noun in tokens, or a fault that is counted. Needs no torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preferent.config import UsageError
from preferent.data.columns import Kind, parse
from preferent.data.faults import BadRows
from preferent.data.rows import BadRow, Row
from preferent.data.template import Template, TooLong


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

    def state(self) -> dict[str, Any]:
        """The counts as plain JSON. Where the rows stand is in it, but not in which file: that may be moved."""
        bad = [{"reason": b.reason, "line": b.line, "unit": b.unit, "raw": b.raw} for b in self.bad.found]
        longest = None if self.longest is None else {"reason": self.longest.reason, "tokens": self.longest.tokens}
        return {"read": self.read, "good": self.good, "too_long": self.too_long, "longest": longest, "bad": bad}

    def add(self, state: Mapping[str, Any], template: Template) -> None:
        """Count what another tally counted of later rows of this source."""
        self.read += state["read"]
        self.good += state["good"]
        self.too_long += state["too_long"]
        self.bad.found += [BadRow(source=self.source, **bad) for bad in state["bad"]]
        longest = state["longest"]
        if longest is not None and (self.longest is None or longest["tokens"] > self.longest.tokens):
            self.longest = TooLong(**longest, limit=template.max_length or 0, hint=template.remedy)

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
