"""What the curating commands share: rows read with their places, and files of what was kept and what was left out."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from preferent.config import UsageError
from preferent.data.columns import Parsed, parse
from preferent.data.rows import BadRow, Row, rows
from preferent.runtime import files

T = TypeVar("T")

QUIET = 20.0  # seconds between lines where there is no terminal
EVERY = 200  # rows between looks at the clock
log = logging.getLogger(__name__)


@dataclass
class LeftOut:
    """Rows that are not in the output, each with its reason in a side file; counted by the reason up to its colon."""

    file: IO[str]
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row | BadRow, reason: str) -> None:
        said = {"source": row.source, row.unit: row.line, "reason": reason, "raw": row.raw}
        self.file.write(json.dumps(said) + "\n")
        self.counts[reason.split(":", 1)[0]] += 1

    def summary(self, where: Path) -> str:
        if not self.counts:
            return "nothing was left out"
        lines = [f"  {n:>8}  {reason}" for reason, n in self.counts.most_common()]
        rows_ = "1 row was" if self.counts.total() == 1 else f"{self.counts.total()} rows were"
        return "\n".join([f"{rows_} left out → {where}", *lines])


@contextmanager
def left_out(target: Path) -> Iterator[LeftOut]:
    """The side file, whole or not at all; there is none where nothing was left out."""
    with files.replaced(target) as partial, partial.open("w", encoding="utf-8") as file:
        left = LeftOut(file)
        yield left
    if not left.counts:
        target.unlink()


def beside(out: Path) -> Path:
    """``clean.jsonl`` → ``clean.left-out.jsonl``."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.left-out.jsonl")


@contextmanager
def kept(out: Path) -> Iterator[tuple[IO[str], LeftOut]]:
    """The output and its side file, which is complete before the output is there. Raises UsageError for no rows."""
    files.make_folder(out.parent)
    with files.replaced(out) as partial, partial.open("w", encoding="utf-8") as file, left_out(beside(out)) as left:
        yield file, left
        if file.tell() == 0:
            raise UsageError(f"Every row was left out, so nothing was written:\n{left.summary(beside(out))}")


def refuse_output(out: Path, *, force: bool) -> None:
    """Raises UsageError for an output that is no JSONL file, or that would be written over unasked."""
    if out.suffix != ".jsonl":
        raise UsageError(f"{out}: rows are written as JSONL: expected a name ending in .jsonl.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; expected the name of a file.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already. --force writes over it.")


def readable(
    sources: Sequence[str], columns: Mapping[str, str], left: LeftOut, *, skip: bool
) -> Iterator[tuple[Row, Parsed]]:
    """Every row with what it says. A bad row is an error, or left out where these are to be skipped."""
    for source in sources:
        for item in rows(source):
            try:
                if isinstance(item, BadRow):
                    raise item
                yield item, parse(item.data, columns=columns)
            except BadRow as bad:
                if not skip:
                    raise refused(bad if isinstance(item, BadRow) else bad.at(item), source) from bad
                left.add(item, bad.reason)


def refused(bad: BadRow, source: str) -> UsageError:
    return UsageError(
        f"{bad}\n`preferent data check {source}` lists every such row; --skip-bad-rows leaves them out and writes them "
        "to a file with their reasons."
    )


def text(row: Row) -> str:
    """A row as a line of JSONL: all its columns, under the names that they had."""
    written = json.dumps(row.data, ensure_ascii=False, default=str)
    try:
        written.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair in a column that nobody reads
        written = row.raw
    return written + "\n"


def watched(items: Iterable[T], title: str) -> Iterator[T]:
    """The same items, while a person sees how many there were: a live line on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console, begun = Console(stderr=True), time.monotonic()
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}  {task.completed:,} rows"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(title, total=None)
            for i, item in enumerate(items, 1):
                yield item
                if i % EVERY == 0:
                    progress.update(bar, completed=i)
        return
    said = begun
    for i, item in enumerate(items, 1):
        yield item
        if i % EVERY == 0 and (now := time.monotonic()) - said >= QUIET:
            said = now
            log.info("%s: %s rows, %.0f a second", title, f"{i:,}", i / (now - begun))
