"""Data files looked through before a run finds out what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import click
from annotated_types import Gt, Le

from preferent.config import UsageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check data files: every row that cannot be used, by its line; lengths, near-duplicates, languages, topics.

    With --model, rows go through its chat template too, and lengths are in tokens. With --against, rows that an
    evaluation holds too are told. The exit code is 1 where a row is bad. Nothing is written but the --page.

    Examples:
        preferent data check prefs.jsonl
        preferent data check demos.jsonl prefs.jsonl --model runs/base --max-length 512
        preferent data check prefs.jsonl --against held_out.jsonl --page check.html
    """

    positional: ClassVar[str] = "files"
    files: Annotated[tuple[str, ...], "JSONL or Parquet files, or Hub names"]
    model: Annotated[str | None, "whose tokenizer and chat template: a folder, run folder or Hub name"] = None
    max_length: Annotated[int | None, "with --model: rows with more tokens are told", Gt(0)] = None
    kind: Annotated[
        Literal["any", "demonstrations", "preferences", "prompts", "unpaired", "rated"],
        "what the rows are meant to be; any: what their columns say; rated: preferences or unpaired",
    ] = "any"
    near: Annotated[
        float | None, "likeness from which two rows are nearly the same; none: not looked for", Gt(0), Le(1)
    ] = 0.8
    against: Annotated[tuple[str, ...], "evaluation data that should not stand in these files"] = ()
    page: Annotated[Path | None, "HTML page with pictures that is written, one file that opens offline"] = None
    columns: Annotated[tuple[str, ...], "rename columns: chosen=winner reads the column winner as chosen"] = ()


def run(options: Options) -> int:
    """Print a report for each file; 1 where a row of one is bad."""
    from preferent.data.census import evaluation
    from preferent.data.check import Check, check
    from preferent.data.columns import mapping
    from preferent.data.template import Template
    from preferent.models.load import load_tokenizer
    from preferent.stages.curating import watched
    from preferent.stages.page import write_page

    if options.max_length and not options.model:
        raise UsageError("--max-length counts tokens, so it needs a --model whose tokenizer makes them.")
    template = Template(load_tokenizer(options.model), max_length=options.max_length) if options.model else None
    columns = mapping(options.columns)
    against = [evaluation(source, options.near or 1.0, columns) for source in options.against]
    for each in against:
        if each.bad:
            click.echo(f"{each.source}: {len(each.bad)} rows cannot be read, and were compared with nothing\n")
    every: list[Check] = []
    for i, file in enumerate(options.files):
        found = check(
            file,
            template=template,
            columns=columns,
            kind=None if options.kind == "any" else options.kind,
            near=options.near,
            against=against,
            watch=partial(watched, title=f"check {file}"),
        )
        click.echo(("\n" if i else "") + found.render())
        every.append(found)
    if options.page:
        write_page(options.page, every)
        click.echo(f"\n→ {options.page}")
    return max(found.verdict for found in every)
