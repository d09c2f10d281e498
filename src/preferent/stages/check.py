"""Data files looked through before a run finds out what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import click
from annotated_types import Gt

from preferent.config import UsageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check data files: formats, columns, lengths, duplicates, and every row that cannot be used, by its line.

    With --model, rows go through its chat template too, and lengths are in tokens. The exit code is 1 where a row is
    bad. Nothing is written.

    Examples:
        preferent data check prefs.jsonl
        preferent data check demos.jsonl prefs.jsonl --model runs/base --max-length 512
    """

    positional: ClassVar[str] = "files"
    files: Annotated[tuple[str, ...], "JSONL or Parquet files, or Hub names"]
    model: Annotated[str | None, "whose tokenizer and chat template: a folder, run folder or Hub name"] = None
    max_length: Annotated[int | None, "with --model: rows with more tokens are told", Gt(0)] = None
    kind: Annotated[
        Literal["any", "demonstrations", "preferences", "prompts", "unpaired"],
        "what the rows are meant to be; any: what their columns say",
    ] = "any"
    columns: Annotated[tuple[str, ...], "rename columns: chosen=winner reads the column winner as chosen"] = ()


def run(options: Options) -> int:
    """Print a report for each file; 1 where a row of one is bad."""
    from preferent.data.check import check
    from preferent.data.columns import mapping
    from preferent.data.template import Template
    from preferent.models.load import load_tokenizer

    if options.max_length and not options.model:
        raise UsageError("--max-length counts tokens, so it needs a --model whose tokenizer makes them.")
    template = Template(load_tokenizer(options.model), max_length=options.max_length) if options.model else None
    verdict = 0
    for i, file in enumerate(options.files):
        found = check(
            file,
            template=template,
            columns=mapping(options.columns),
            kind=None if options.kind == "any" else options.kind,
        )
        click.echo(("\n" if i else "") + found.render())
        verdict = max(verdict, found.verdict)
    return verdict
