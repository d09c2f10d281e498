"""A data set split into parts by its prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click
from annotated_types import Gt, Le

from preferent.config import UsageError, did_you_mean

if TYPE_CHECKING:
    from preferent.data.columns import Parsed
    from preferent.data.rows import Row

LEFT_OUT = "left-out"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Split rows into parts by their prompts: nearly the same prompt is never in two parts.

    The part of a prompt is drawn from its hash, or follows a prompt before that is nearly the same, or a conversation
    that began with the same question. So rows that are added at the end move no old one. A row between two prompts that
    already went to different parts is left out, and listed in left-out.jsonl with the reason.

    Examples:
        preferent data split prefs.jsonl --out parts
        preferent data split prefs.jsonl --out parts --part train=0.8 --part validation=0.1 --part test=0.1
        preferent data split threads.jsonl --out parts --by tree_id
    """

    positional: ClassVar[str] = "files"
    files: Annotated[tuple[str, ...], "JSONL or Parquet files, or Hub names, in order"]
    out: Annotated[Path, "folder that is written: a JSONL file for each part"]
    part: Annotated[tuple[str, ...], "a part's name and its share of the prompts: test=0.1"] = ("train=0.9", "test=0.1")
    near: Annotated[float, "likeness from which two prompts stay together; 1: equal words", Gt(0), Le(1)] = 0.8
    by: Annotated[str | None, "a column: rows with the same value in it stay together too"] = None
    seed: Annotated[int, "another seed draws other parts"] = 0
    columns: Annotated[tuple[str, ...], "rename columns: chosen=winner reads the column winner as chosen"] = ()
    skip_bad_rows: Annotated[bool, "leave out rows that cannot be read, instead of stopping at the first"] = False
    force: Annotated[bool, "write over a folder that this command made"] = False


def run(options: Options) -> None:
    """Deal every row out, and say how many went where."""
    from preferent.data.columns import mapping
    from preferent.data.wording import question
    from preferent.feedback.curation.split import Dealer, Torn
    from preferent.runtime import files
    from preferent.stages import curating

    shares = shares_of(options.part)
    refuse_folder(options.out, shares, force=options.force)
    dealer, counts = Dealer(shares, options.near, options.seed), Counter[str]()
    places: list[str] = []
    files.make_folder(options.out.parent)
    with files.whole(options.out) as folder, ExitStack() as stack:
        parts = {name: stack.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8")) for name in shares}
        left = stack.enter_context(curating.left_out(folder / f"{LEFT_OUT}.jsonl"))
        found = curating.readable(options.files, mapping(options.columns), left, skip=options.skip_bad_rows)
        for row, parsed in curating.watched(found, "split"):
            places.append(f"{row.source} {row.unit} {row.line}")
            dealt = dealer.deal(question(parsed), groups_of(row, parsed, options.by))
            if isinstance(dealt, Torn):
                (one, a), (other, b) = ((claim.side, places[claim.row]) for claim in (dealt.one, dealt.other))
                left.add(row, f"belongs to two parts: to {one} with {a}, and to {other} with {b}")
            else:
                parts[dealt.side].write(curating.text(row))
                counts[dealt.side] += 1
        refuse_empty(shares, counts)
    for name in shares:
        click.echo(f"{counts[name]:>8}  {counts[name] / counts.total():6.1%}  {options.out / name}.jsonl")
    click.echo(left.summary(options.out / f"{LEFT_OUT}.jsonl"))


def shares_of(said: tuple[str, ...]) -> dict[str, float]:
    """``train=0.9 test=0.1`` → names and shares, which need not add up to 1."""
    shares: dict[str, float] = {}
    for word in said:
        name, _, number = word.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not name or not 0 < share < float("inf"):
            raise UsageError(f"--part: expected a name, = and a share above 0, as in test=0.1; got {word!r}.")
        if not name.replace("-", "").replace("_", "").isalnum() or name in (*shares, LEFT_OUT):
            raise UsageError(
                f"--part: {name!r} cannot be the name of a part here; expected letters, and each name once."
            )
        shares[name] = share
    return shares


def refuse_folder(out: Path, shares: Mapping[str, float], *, force: bool) -> None:
    """A folder is replaced as a whole, so it must hold nothing but what this command writes."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; expected a folder to write the parts into.")
    strangers = sorted({path.name for path in out.iterdir()} - {f"{name}.jsonl" for name in (*shares, LEFT_OUT)})
    if strangers:
        raise UsageError(f"{out} holds {strangers[0]!r}, which is none of these parts. Name another folder.")
    if any(out.iterdir()) and not force:
        raise UsageError(f"{out} exists already. --force writes over it.")


def groups_of(row: Row, parsed: Parsed, column: str | None) -> list[str]:
    """What a row has in common with those that it must stay with: its value in the column, and how it begins."""
    from preferent.data.wording import opening

    found, begins = [], opening(parsed)
    if column is not None:
        if column not in row.data:
            raise UsageError(
                f'{row.source}: {row.unit} {row.line}: --by: there is no column "{column}"'
                f"{did_you_mean(column, dict.fromkeys(row.data, ''))}."
            )
        if row.data[column] is not None:
            found.append(f"{column}: {row.data[column]}")
    return found if begins is None else [*found, begins]


def refuse_empty(shares: Mapping[str, float], counts: Mapping[str, int]) -> None:
    empty = [name for name in shares if not counts.get(name)]
    if empty:
        raise UsageError(
            f"No row fell into {', '.join(empty)}, so nothing was written. It needs more prompts, a larger share, or "
            "another --seed."
        )
