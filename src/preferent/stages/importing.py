"""Judgements from a file into a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import click

from preferent.config import UsageError

if TYPE_CHECKING:
    from preferent.data.rows import BadRow, Row
    from preferent.feedback.formats import Found, Kept, Names

LONGEST = 64  # characters of a campaign's name


@dataclass(frozen=True, kw_only=True)
class Options:
    """Put the judgements of a file into a store: all of them, or none where a row cannot be read.

    Annotators get pseudonyms; names are kept apart, where they can be erased. Importing a file twice adds nothing.
    Fields and questions of Argilla and Label Studio are recognised by their usual names; --columns names the others:
    prompt, option (repeat in order), choice, strength, note, edit, demonstration, ignore.

    Examples:
        preferent data import prefs.jsonl --store judgements.db
        preferent data import tasks.json --store judgements.db --campaign spring --columns prompt=title
    """

    positional: ClassVar[str] = "file"
    file: Annotated[str, "JSONL, JSON or Parquet file, or Hub name"]
    store: Annotated[str, "SQLite file, made where there is none, or postgresql://host/db"]
    format: Annotated[
        Literal["auto", "trl", "openai", "argilla", "label-studio"], "who wrote the file; auto: as its first row looks"
    ] = "auto"
    campaign: Annotated[str | None, "campaign that what is new is to belong to; none: what the file says"] = None
    columns: Annotated[tuple[str, ...], "our name for a column or question, and the file's: prompt=title"] = ()


def run(options: Options) -> None:
    """Read, write, and say how many there were."""
    from preferent.data.rows import rows
    from preferent.feedback.formats import keep
    from preferent.feedback.store.engine import open_engine, shown
    from preferent.feedback.store.log import seal

    if options.campaign is not None and not 0 < len(options.campaign) <= LONGEST:
        raise UsageError(f"--campaign: expected 1 … {LONGEST} characters; got {len(options.campaign)}.")
    names = names_of(options.columns)
    lines = iter(rows(options.file))
    first = next(lines)  # there is one, or rows had refused the file
    engine = open_engine(options.store)
    try:
        kept = keep(engine, found(chain([first], lines), first, options.format, names), campaign=options.campaign)
        seal(engine)
    finally:
        engine.dispose()
    click.echo(f"{options.file} → {shown(options.store)}: {kept.new} new judgements{there(kept)}")


def there(kept: Kept) -> str:
    """What was there already; a judgement is never changed, so it stays in the campaign that it is in."""
    if not kept.known:
        return ""
    stay = [f"{count} of no campaign" if not name else f'{count} of "{name}"' for name, count in kept.elsewhere.items()]
    return f"; {kept.known} were there already" + (f", and stay where they are: {', '.join(stay)}" if stay else "")


def names_of(words: Sequence[str]) -> Names:
    """``option=a``, ``option=b`` → ``{"option": ["a", "b"]}``."""
    names: dict[str, list[str]] = {}
    for word in words:
        ours, _, theirs = word.partition("=")
        if not ours or not theirs:
            raise UsageError(f"--columns: expected our name, =, and the file's name, as in prompt=title; got {word!r}.")
        names.setdefault(ours, []).append(theirs)
    return names


def found(lines: Iterator[Row | BadRow], first: Row | BadRow, format: str, names: Names) -> Iterator[Found]:
    """Items and judgements, row by row. Raises UsageError that names row and field."""
    from preferent.data.rows import BadRow
    from preferent.feedback.formats import FORMATS, format_of
    from preferent.feedback.formats.cells import sound

    read = FORMATS["trl" if isinstance(first, BadRow) else format_of(first.data) if format == "auto" else format].read
    for row in lines:
        if isinstance(row, BadRow):
            raise UsageError(f"{row}\nNothing was imported.") from row
        where = f"{row.source}: {row.unit} {row.line}"
        try:
            sound(row.data)
            for each in read(row.data, names):
                yield replace(each, where=where)
        except UsageError as error:
            raise UsageError(f"{where}: {error}\nNothing was imported.") from error
