"""Rows that stand in a data set nearly twice, or in an evaluation too, left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import click
from annotated_types import Gt, Le

if TYPE_CHECKING:
    from preferent.data.census import Evaluation
    from preferent.data.columns import Parsed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Leave out rows that are nearly the same as one before, and rows that an evaluation holds too.

    Two rows are as alike as their least alike part: what went before, the last question, each reply. Likeness is the
    share of the word triples that both have. Of rows that are alike, the first is kept. A second annotator's judgement
    of the same replies is a row of its own. Against an evaluation, a row is left out that asks nearly the same
    question, or says 13 words in a row of a question there.

    Rows left out are listed beside the output, in NAME.left-out.jsonl, with their line and the reason.

    Examples:
        preferent data dedupe prefs.jsonl --out clean.jsonl
        preferent data dedupe a.jsonl b.jsonl --against held_out.jsonl --out clean.jsonl
    """

    positional: ClassVar[str] = "files"
    files: Annotated[tuple[str, ...], "JSONL or Parquet files, or Hub names, in order: the first of alike rows is kept"]
    out: Annotated[Path, "JSONL file that is written"]
    near: Annotated[float, "likeness from which two rows are the same; 1: only equal words", Gt(0), Le(1)] = 0.8
    against: Annotated[tuple[str, ...], "evaluation data whose questions must not be trained on"] = ()
    columns: Annotated[tuple[str, ...], "rename columns: chosen=winner reads the column winner as chosen"] = ()
    skip_bad_rows: Annotated[bool, "leave out rows that cannot be read, instead of stopping at the first"] = False
    force: Annotated[bool, "write over a file that exists"] = False


def run(options: Options) -> None:
    """Read row by row, write those that are new, and say what was left out."""
    from preferent.data.columns import mapping
    from preferent.data.wording import parts
    from preferent.feedback.curation.minhash import Near
    from preferent.stages import curating

    curating.refuse_output(options.out, force=options.force)
    columns, near = mapping(options.columns), Near(options.near)
    evaluations = [read_evaluation(source, options) for source in options.against]
    places: list[tuple[str, int]] = []  # of the rows in ``near``
    with curating.kept(options.out) as (file, left):
        found = curating.readable(options.files, columns, left, skip=options.skip_bad_rows)
        for row, parsed in curating.watched(found, "dedupe"):
            leak = leaked(parsed, evaluations)
            if leak is not None:
                left.add(row, leak)
                continue
            sketch = near.sketch(parts(parsed))
            twin = near.first(sketch)
            if twin is not None:
                source, line = places[twin[0]]
                left.add(row, f"nearly the same as a row before: {source} {row.unit} {line} (likeness {twin[1]:.2f})")
                continue
            near.add(sketch)
            places.append((row.source, row.line))
            file.write(curating.text(row))
    click.echo(f"{len(places)} rows kept → {options.out}")
    click.echo(left.summary(curating.beside(options.out)))


def read_evaluation(source: str, options: Options) -> Evaluation:
    """The rows of an evaluation. Raises UsageError for a bad one, unless these are to be skipped."""
    from preferent.data.census import evaluation
    from preferent.data.columns import mapping
    from preferent.stages import curating

    found = evaluation(source, options.near, mapping(options.columns))
    if found.bad and not options.skip_bad_rows:
        raise curating.refused(found.bad[0], source)
    return found


def leaked(parsed: Parsed, evaluations: Sequence[Evaluation]) -> str | None:
    """Why a row must not be trained on, if so."""
    for each in evaluations:
        leak = each.leak(parsed)
        if leak is not None:
            return f"also in {each.source}: {leak[0]}, {leak[1]}"
    return None
