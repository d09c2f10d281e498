"""Whether a store of judgements is as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import click

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compute every checksum in a store of judgements again; where all is well, seal what was written lately.

    Each judgement, item, annotator and campaign left a checksum in the log when it was written, and the log is sealed
    in a chain, as it grows: what was changed, removed or slipped in since is named. The exit code is 1 where anything
    is. What is not under seal yet cannot be vouched for, so its number is shown. Write the last seal down elsewhere:
    with --seal it shows later that nothing before it was changed, not even together with the whole log.

    Examples:
        preferent data verify judgements.db
        preferent data verify postgresql://localhost/judgements --seal 3f0c…
        preferent provenance runs/ppo --ids ids.txt && preferent data verify judgements.db --ids ids.txt
    """

    positional: ClassVar[str] = "store"
    store: Annotated[str, "a SQLite file, or postgresql://host/database"]
    ids: Annotated[Path | None, "judgement ids, one a line, that must all be there"] = None
    seal: Annotated[str | None, "a last seal that was written down, which must still be in the chain"] = None


def run(options: Options) -> int:
    """Print what was looked at and each fault; 1 where there is one."""
    from preferent.config import UsageError
    from preferent.feedback.store.engine import open_engine, shown
    from preferent.feedback.store.log import chain, seal, verify
    from preferent.feedback.store.store import known

    if options.ids and not options.ids.is_file():
        raise UsageError(f"--ids: there is no file {options.ids}. `preferent provenance RUN --ids FILE` writes one.")
    engine = open_engine(options.store, make=False)
    try:
        found = verify(engine)
        if not found.faults:  # a store that is not as it was written is left as it is
            seal(engine)
        seals = chain(engine)
        wanted = options.ids.read_text(encoding="utf-8").split() if options.ids else []
        missing = sorted(set(wanted) - known(engine, wanted))
    finally:
        engine.dispose()
    faults = [*found.faults, *(f"judgement {id} is not in this store." for id in missing)]
    if options.seal and options.seal not in seals:
        faults.append(
            f"--seal: {options.seal} is not in the chain: what was under it was removed or written anew, or it is "
            "another store's."
        )
    click.echo(f"{shown(options.store)}: {found.judgements:,} judgements of {found.items:,} items")
    click.echo(f"log         {found.sealed:,} events under seal, {found.unsealed:,} open until now")
    if options.ids:
        click.echo(f"asked for   {len(wanted):,} judgements, {len(wanted) - len(missing):,} found")
    if options.seal in seals:
        click.echo(f"asked for   seal {seals.index(options.seal) + 1:,} of {len(seals):,}, found")
    click.echo(f"last seal   {seals[-1] if seals else 'none yet'}")
    for fault in faults[:SHOWN]:
        click.echo(f"FAULT       {fault}")
    if len(faults) > SHOWN:
        click.echo(f"            and {len(faults) - SHOWN:,} more")
    click.echo(f"{len(faults):,} faults." if faults else vouched(found.unsealed))
    return 1 if faults else 0


def vouched(unsealed: int) -> str:
    """What a store without a fault shows, and what it does not."""
    if not unsealed:
        return "Nothing was changed since it was written."
    return (
        f"Nothing under seal was changed since it was written. The {unsealed:,} open events fit the store and are now "
        "under seal too; whether there were others before, nobody can say."
    )
