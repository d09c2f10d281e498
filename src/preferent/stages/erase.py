"""Who an annotator is, out of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import click


@dataclass(frozen=True, kw_only=True)
class Options:
    """Erase the name and contact of an annotator from a store of judgements, at once and for good.

    The judgements stay, under the pseudonym alone. Nothing of the name is left in a SQLite file; PostgreSQL gives its
    space free at the next VACUUM FULL, and keeps it in its logs and backups as long as they are kept. To import a file
    that holds the name brings it back.

    Examples:
        preferent data erase judgements.db --name "Ada Lovelace"
        preferent data erase --store judgements.db --annotator 3f2c9a1be4d74c51a1f0a94d1b3f6d8e
    """

    positional: ClassVar[str] = "store"
    store: Annotated[str, "SQLite file, or postgresql://host/database"]
    name: Annotated[str | None, "the annotator's name, as it was given"] = None
    annotator: Annotated[str | None, "or the pseudonym, as an export and `preferent report` show it"] = None


def run(options: Options) -> None:
    """Find the annotator, erase, and say what was erased."""
    from preferent.config import UsageError
    from preferent.feedback.store.engine import open_engine, shown
    from preferent.feedback.store.store import annotators_named, erase, judged_by

    if (options.name is None) == (options.annotator is None):
        raise UsageError("Whom? Expected --name NAME or --annotator ID, one of them.")
    store = shown(options.store)
    engine = open_engine(options.store, make=False)
    try:
        found = [options.annotator] if options.annotator is not None else annotators_named(engine, options.name or "")
        if not found:
            raise UsageError(f'There is no annotator of the name "{options.name}" in {store}. Nothing was erased.')
        if len(found) > 1:
            raise UsageError(
                f'"{options.name}" is the name of {len(found)} annotators in {store}: {", ".join(found)}. '
                "Nothing was erased: say with --annotator which one is meant."
            )
        known, judgements = erase(engine, found[0]), judged_by(engine, found[0])
    finally:
        engine.dispose()
    what = "name and contact erased" if known else "no name was known"
    click.echo(f"{store}: annotator {found[0]}: {what}; {judgements:,} judgements stay, under this pseudonym")
