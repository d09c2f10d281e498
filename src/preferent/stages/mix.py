"""Several data sets mixed into one file, in proportion, or with rare classes repeated."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import click
from annotated_types import Ge, Gt, Le

from preferent.config import UsageError, did_you_mean

if TYPE_CHECKING:
    from preferent.data.columns import Parsed
    from preferent.data.rows import Row

LANGUAGE = "language"  # found in the text where no column is called so


@dataclass(frozen=True, kw_only=True)
class Options:
    """Mix data sets into one file, in an order that the seed draws.

    With weights, FILE=0.7, the files stand in these proportions: as many rows as there can be without one standing
    twice, or --rows of them. With --balance, rows of rare classes are repeated: at --strength 1 until all classes are
    as large as the largest, at 0.5 until the ratio of two classes is the root of what it was.

    Rows left out are listed beside the output, in NAME.left-out.jsonl. All rows are in memory at once.

    Examples:
        preferent data mix ours.jsonl=0.7 public.jsonl=0.3 --out mixed.jsonl
        preferent data mix prefs.jsonl --balance topic --strength 0.5 --out balanced.jsonl
    """

    positional: ClassVar[str] = "files"
    files: Annotated[tuple[str, ...], "JSONL or Parquet files, or Hub names, each with its weight or none of them"]
    out: Annotated[Path, "JSONL file that is written"]
    rows: Annotated[int | None, "rows to write; none: all, or as many as weights allow", Gt(0)] = None
    balance: Annotated[str | None, "a column whose rare values are repeated; language: as found in the text"] = None
    strength: Annotated[float, "of --balance: 0 repeats nothing, 1 makes all classes equal", Ge(0), Le(1)] = 1.0
    most_copies: Annotated[float, "of --balance: how often one row stands, at most", Ge(1)] = 10.0
    seed: Annotated[int, "another seed draws other rows in another order"] = 0
    columns: Annotated[tuple[str, ...], "rename columns: chosen=winner reads the column winner as chosen"] = ()
    skip_bad_rows: Annotated[bool, "leave out rows that cannot be read, instead of stopping at the first"] = False
    force: Annotated[bool, "write over a file that exists"] = False


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one source, each with its class, in an order that the seed drew."""

    source: str
    weight: float | None
    rows: tuple[tuple[Row, str | None], ...]


def run(options: Options) -> None:
    """Read everything, settle how often each row stands, and write it in a drawn order."""
    from preferent.data.columns import mapping
    from preferent.data.mixture import weighed
    from preferent.stages import curating

    curating.refuse_output(options.out, force=options.force)
    named = [weighed(word) for word in options.files]
    refuse_nonsense(options, named)
    with curating.kept(options.out) as (file, left):
        parts = []
        for name, weight in named:
            found = curating.readable([name], mapping(options.columns), left, skip=options.skip_bad_rows)
            read = [(row, class_of(row, parsed, options)) for row, parsed in curating.watched(found, f"mix {name}")]
            if not read:
                raise UsageError(f"{name}: none of its rows can be read, so there is nothing to mix.")
            parts.append(Part(name, weight, tuple(sorted(read, key=lambda item: drawn(options.seed, item[0])))))
        standing = settled(parts, options)
        for row, _, n in standing:
            if not n:
                left.add(row, "not drawn")
        every = [(row, copy) for row, _, n in standing for copy in range(n)]
        for row, _ in sorted(every, key=lambda item: drawn(options.seed, item[0], f"place {item[1]}")):
            file.write(curating.text(row))
    for line in told(standing):
        click.echo(line)
    click.echo(f"{len(every)} rows → {options.out}")
    click.echo(left.summary(curating.beside(options.out)))


def refuse_nonsense(options: Options, named: Sequence[tuple[str, float | None]]) -> None:
    lacking = [name for name, weight in named if weight is None]
    if len(lacking) not in (0, len(named)):
        raise UsageError(f"{lacking[0]}: no weight, but others have one. Give each a weight, as in {lacking[0]}=0.5.")
    if options.balance and (not lacking or options.rows):
        raise UsageError(
            "--balance says how often a row stands, and so do weights and --rows: first mix, then balance the result."
        )


def settled(parts: Sequence[Part], options: Options) -> list[tuple[Row, str | None, int]]:
    """How often each row stands in the output."""
    from preferent.feedback.curation.balance import copies, weights

    if not options.balance:
        often = [divmod(n, len(part.rows)) for n, part in zip(quotas(parts, options.rows), parts, strict=True)]
        return [
            (row, name, whole + (i < rest))
            for part, (whole, rest) in zip(parts, often, strict=True)
            for i, (row, name) in enumerate(part.rows)
        ]
    every = [item for part in parts for item in part.rows]
    counts = Counter(name for _, name in every if name is not None)
    if not counts:
        seen = dict.fromkeys((column for row, _ in every for column in row.data), "")
        raise UsageError(f'--balance: no row has a column "{options.balance}"{did_you_mean(options.balance, seen)}.')
    times = weights(counts, options.strength, options.most_copies)
    return [
        (row, name, 1 if name is None else copies(times[name], f"{options.seed} {row.source} {row.line}"))
        for row, name in every
    ]


def quotas(parts: Sequence[Part], wanted: int | None) -> list[int]:
    """Rows of each part. Largest remainders get the rows that rounding down leaves, so that they add up."""
    sizes = [len(part.rows) for part in parts]
    ratios = [size if part.weight is None else part.weight for size, part in zip(sizes, parts, strict=True)]
    total = sum(ratios)
    # A hair is added, as 7 / 0.7 may come out below 10.
    most = int(min(size * total / ratio for size, ratio in zip(sizes, ratios, strict=True)) + 1e-6)
    n = wanted or most
    exact = [n * ratio / total for ratio in ratios]
    found = [int(share + 1e-6) for share in exact]
    for i in sorted(range(len(parts)), key=lambda i: found[i] - exact[i])[: n - sum(found)]:
        found[i] += 1
    return found


def class_of(row: Row, parsed: Parsed, options: Options) -> str | None:
    """The value that a row is balanced by; None where it has none."""
    from preferent.data.wording import answers, question
    from preferent.feedback.curation.language import language

    if options.balance is None:
        return None
    if options.balance == LANGUAGE and LANGUAGE not in row.data:
        return language("\n".join((question(parsed), *answers(parsed))))
    value: Any = row.data.get(options.balance)
    return None if value is None else str(value)


def drawn(seed: int, row: Row, also: str = "") -> bytes:
    """A row's place in the order that the seed draws: of its own source and line alone."""
    return hashlib.blake2b(f"{seed} {row.source} {row.line} {also}".encode("utf-8", "replace"), digest_size=12).digest()


def told(standing: Sequence[tuple[Row, str | None, int]]) -> list[str]:
    """What became of every source, or of every class."""
    by_class = any(name is not None for _, name, _ in standing)
    before, after, twice = Counter[str](), Counter[str](), 0
    for row, name, n in standing:
        key = (name or "no value") if by_class else row.source
        before[key] += 1
        after[key] += n
        twice += n > 1
    lines = [f"{before[key]:>8} → {n:<8}  {n / after.total():6.1%}  {key}" for key, n in sorted(after.items())]
    return lines + ([f"rows that stand more than once: {twice}"] if twice else [])
