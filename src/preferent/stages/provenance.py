"""Where a model comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click

from preferent.config import UsageError

if TYPE_CHECKING:
    from preferent.runtime.provenance import Origin

NOTICES = {"unchanged": "", "changed": "   CHANGED since", "gone": "   GONE since", "not here": "   by name, not local"}
QUIET = {"out", "resume", "config", "dry_run", "device"}  # say how it was run, not what was made


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show what made a model: the runs behind it, their options, data files by checksum, and judgements.

    Files are compared with what the runs noted when they began; what was changed or removed since is said. With --ids
    every judgement is named, in a file that `preferent data verify STORE --ids FILE` holds against the store. Runs that
    were moved together find one another. The exit code is 1 where something is gone, so that there may be more.

    Examples:
        preferent provenance runs/demo/ppo
        preferent provenance runs/demo/ppo --options --ids ids.txt
    """

    positional: ClassVar[str] = "model"
    model: Annotated[Path, "a run's folder, or a model in one"]
    ids: Annotated[Path | None, "write the ids of all judgements behind it here, one a line"] = None
    options: Annotated[bool, "show every option of every run, not only the data and models"] = False


def run(options: Options) -> int:
    """Print the tree, and write the ids; 1 where the chain is broken."""
    from preferent.runtime.provenance import judgements, trace

    found = trace(options.model)
    for line in lines(found, all_options=options.options):
        click.echo(line)
    ids, broken = judgements(found)
    if options.ids:
        write(options.ids, ids)
    where = f"; their ids are in {options.ids}" if options.ids else "; --ids FILE names them" if ids else ""
    click.echo(f"\n{'At least ' if broken else ''}{len(ids):,} judgements stand behind it{where}.")
    if broken:
        click.echo(
            f"The chain is broken at: {'; '.join(broken)}. Put it back where it was, or in its place beside the run."
        )
    return 1 if broken else 0


def write(path: Path, ids: Sequence[str]) -> None:
    from preferent.runtime import files

    try:
        files.make_folder(path.absolute().parent)
        with files.replaced(path) as partial:
            partial.write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--ids {path} cannot be written: {error.strerror or error}. Choose another name.") from error


def lines(of: Origin, *, all_options: bool, indent: str = "") -> list[str]:
    """A tree, one origin a line; a run that was shown above is not taken apart again."""
    return list(_lines(of, all_options, indent, set()))


def _lines(of: Origin, all_options: bool, indent: str, shown: set[str]) -> list[str]:
    notice = NOTICES[of.state]
    if of.kind != "run":
        size = f"   {of.facts['size']:,} bytes, sha256 {str(of.facts['sha256'])[:16]}" if of.facts else ""
        return [f"{indent}{of.kind:<5} {of.name}{size}{notice}"]
    told = f"   seed {of.facts['seed']}, begun {of.facts['started']}"
    if of.name in shown:
        return [f"{indent}run   {of.name}   (above){notice}"]
    shown.add(of.name)
    below = indent + "      "
    counted = of.facts.get("judgements")
    said = [f"{indent}run   {of.name}{told}{notice}"]
    if counted:
        said.append(f"{below}{counted:,} judgements that it learned from")
    if all_options:
        said += [f"{below}{name}: {value}" for name, value in of.options.items() if name not in QUIET]
    for each in of.of:
        said += _lines(each, all_options, below, shown)
    return said
