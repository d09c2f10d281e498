"""Whether a store of judgements is as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import click

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compute every checksum in a store of judgements again, and seal what happened since the last time.

    Each judgement left a checksum in the log when it was written, and the log is sealed in a chain: what was changed,
    removed or slipped in since is named. The exit code is 1 where anything is. Write the last seal down elsewhere to be
    able to show later that nothing before it was changed.

    Examples:
        preferent data verify judgements.db
        preferent data verify postgresql://localhost/judgements
        preferent provenance runs/ppo --ids ids.txt && preferent data verify judgements.db --ids ids.txt
    """

    positional: ClassVar[str] = "store"
    store: Annotated[str, "a SQLite file, or postgresql://host/database"]
    ids: Annotated[Path | None, "judgement ids, one a line, that must all be there"] = None


def run(options: Options) -> int:
    """Print what was looked at and each fault; 1 where there is one."""
    from preferent.config import UsageError
    from preferent.feedback.store.engine import open_engine
    from preferent.feedback.store.log import seal, verify
    from preferent.feedback.store.store import known

    if options.ids and not options.ids.is_file():
        raise UsageError(f"--ids: there is no file {options.ids}. `preferent provenance RUN --ids FILE` writes one.")
    engine = open_engine(options.store, make=False)
    sealed = seal(engine)
    found = verify(engine)
    wanted = options.ids.read_text(encoding="utf-8").split() if options.ids else []
    missing = sorted(set(wanted) - known(engine, wanted))
    engine.dispose()
    faults = [*found.faults, *(f"judgement {id} is not in this store." for id in missing)]
    click.echo(f"{options.store}: {found.judgements:,} judgements of {found.items:,} items")
    click.echo(f"log         {found.sealed:,} events under seal ({sealed:,} of them since last time)")
    if options.ids:
        click.echo(f"asked for   {len(wanted):,} judgements, {len(wanted) - len(missing):,} found")
    click.echo(f"last seal   {found.head}")
    for fault in faults[:SHOWN]:
        click.echo(f"FAULT       {fault}")
    if len(faults) > SHOWN:
        click.echo(f"            and {len(faults) - SHOWN:,} more")
    click.echo("Nothing was changed since it was written." if not faults else f"{len(faults):,} faults.")
    return 1 if faults else 0
