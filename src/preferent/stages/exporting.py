"""Judgements out of a store into a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from preferent.config import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

ENDINGS = (".jsonl", ".json")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write what a store holds into a file: a row for each item, with all that was said of it.

    The row says how people chose between the options, how strongly, who they are by pseudonym, and the ids of their
    judgements; `preferent data import` makes the same judgements of it again. --plain leaves all this away, for
    programs that refuse columns that they do not know. `preferent reward` and `preferent dpo` read TRL's format.
    With it a step is bad where more than half say so, and a reply that is rated alone is good or bad by majority.

    Examples:
        preferent data export --store judgements.db --to prefs.jsonl
        preferent data export --store judgements.db --to tasks.json --format label-studio --campaign spring
    """

    store: Annotated[str, "SQLite file, or postgresql://host/db"]
    to: Annotated[Path, "file that is written: .jsonl, or .json for one array, as Argilla and Label Studio want it"]
    format: Annotated[Literal["trl", "openai", "argilla", "label-studio"], "whom it is for"] = "trl"
    campaign: Annotated[str | None, "campaign whose judgements are written; none: all"] = None
    kind: Annotated[
        Literal["comparison", "ranking", "rating", "steps", "edit", "demonstration", "trajectories"],
        "what is written; the others are counted and left out",
    ] = "comparison"
    plain: Annotated[bool, "only what programs of this format know; no ties as pairs, no scales as labels"] = False


@dataclass
class Tally:
    """What went into the file and what did not, counted while it is written."""

    rows: int = 0
    judgements: int = 0
    others: Counter[str] = field(default_factory=Counter)  # items of other kinds
    unsaid: int = 0  # items that have no answer, or none that the format has words for
    scaled: int = 0  # items rated alone on a scale, where the format has words for good and bad only


def run(options: Options) -> None:
    """Stream the rows into a file that takes its name when it is whole."""
    from preferent.feedback.store.engine import open_engine, shown
    from preferent.runtime import files

    if options.to.suffix not in ENDINGS:
        raise UsageError(f"--to {options.to}: expected a name ending in {' or '.join(ENDINGS)}.")
    engine = open_engine(options.store, make=False)
    tally = Tally()
    try:
        files.make_folder(options.to.absolute().parent)
        with files.replaced(options.to) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(text(rows(engine, options, tally), array=options.to.suffix == ".json"))
            if not tally.rows:
                why = left_out(tally) or among(engine, options.campaign)
                raise UsageError(f"{shown(options.store)}: nothing to write{why}. {options.to} was not touched.")
    except OSError as error:
        raise UsageError(
            f"{options.to} cannot be written: {error.strerror or error}. No part of it is left."
        ) from error
    finally:
        engine.dispose()
    click.echo(
        f"{shown(options.store)} → {options.to}: {tally.rows} rows of {tally.judgements} judgements{left_out(tally)}"
    )


def rows(engine: Engine, options: Options, tally: Tally) -> Iterator[Mapping[str, Any]]:
    """One after another, in constant memory."""
    from sqlalchemy import select

    from preferent.feedback.formats import FORMATS
    from preferent.feedback.records import checked
    from preferent.feedback.store import reading
    from preferent.feedback.store.engine import shown
    from preferent.feedback.store.store import read_judgements
    from preferent.feedback.store.tables import annotators

    made = FORMATS[options.format]
    with reading(engine) as connection:
        others = select(annotators.c.id, annotators.c.kind).where(annotators.c.kind != "person")
        kinds = {row.id: row.kind for row in connection.execute(others)}
    thumbs = options.plain and (options.format, options.kind) == ("trl", "rating")
    scaled = thumbs and rated_on_a_scale(engine, options.campaign)
    for item, said in read_judgements(engine, campaign=options.campaign):
        if item.kind != options.kind:
            tally.others[item.kind] += 1
            continue
        for each in said:
            try:
                checked(item, each.answer)
            except UsageError as error:
                raise UsageError(
                    f"{shown(options.store)}: judgement {each.id}: {error} It was not written so: `preferent data "
                    f"verify {shown(options.store)}` tells what was changed. {options.to} was not touched."
                ) from error
        if scaled and len(item.options) == 1:
            tally.scaled += 1
            continue
        before = tally.rows
        for row in made.write(item, said, kinds):
            given = made.plain(row) if options.plain else row
            if given:
                tally.rows += 1
                yield given
        tally.judgements += len(said) * (tally.rows > before)
        tally.unsaid += tally.rows == before


def rated_on_a_scale(engine: Engine, campaign: str | None) -> bool:
    """Whether any reply that is rated alone has more than a thumb, which is 0 or 1: then 1 of 5 stars is no praise."""
    from preferent.feedback.records import Ratings
    from preferent.feedback.store.store import read_judgements

    said = (one for item, all_ in read_judgements(engine, campaign=campaign) if len(item.options) == 1 for one in all_)
    ratings = (one.answer.ratings for one in said if isinstance(one.answer, Ratings))
    return any(value not in (0, 1) for given in ratings for value in given)


def among(engine: Engine, campaign: str | None) -> str:
    """Which campaigns there are, where the one that is asked for has no judgements."""
    from sqlalchemy import select

    from preferent.feedback.store import reading
    from preferent.feedback.store.tables import judgements

    if campaign is None:
        return ""
    with reading(engine) as connection:
        names = sorted(connection.execute(select(judgements.c.campaign).distinct()).scalars())
    known = ", ".join(f'"{name}"' for name in names if name) or "none with a name"
    return f'; there is no campaign "{campaign}" with judgements. There are: {known}'


def text(made: Iterator[Mapping[str, Any]], *, array: bool) -> Iterator[str]:
    """Lines of JSON, or the lines of one array."""
    for i, row in enumerate(made):
        before = ("[\n" if i == 0 else ",\n") if array else ""
        yield before + json.dumps(row, ensure_ascii=False, allow_nan=False) + ("" if array else "\n")
    yield "\n]\n" if array else ""


def left_out(tally: Tally) -> str:
    parts = [f"{count} items of --kind {kind}" for kind, count in sorted(tally.others.items())]
    parts += [f"{tally.scaled} replies rated alone on a scale, which is no thumb up or down (0 or 1)"] * bool(
        tally.scaled
    )
    parts += [f"{tally.unsaid} items with no answer that the format can say"] * bool(tally.unsaid)
    return f"; left out: {', '.join(parts)}" if parts else ""
