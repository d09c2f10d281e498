"""A small model and its tokenizer from scratch, out of text, from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from annotated_types import Ge, Lt

from preferent.config import UsageError, flatten
from preferent.models.scratch import Size

if TYPE_CHECKING:
    from preferent.data.rows import Row

HONEST = (
    "The weights are random: this model has read nothing yet, and says nothing that means anything. `preferent sft` "
    "teaches it what its demonstrations hold, and no more. A pretrained model (--model with a Hub name or folder, "
    "instead of this one) already writes and knows the world, so that far fewer demonstrations go much further."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a small model and its tokenizer from scratch, out of text, for machines with no weights at hand.

    Writes a run folder whose model/ is a plain Hugging Face folder. The weights are random; only the tokenizer has
    seen the text.

    Examples:
        preferent init --text demos.jsonl --out runs/base
        preferent init --text corpus.txt --text demos.jsonl --hidden 256 --layers 6 --vocabulary 8192 --out runs/base
    """

    text: Annotated[
        tuple[str, ...],
        "what the tokenizer learns from: .txt files, a line at a time, or all that is said in JSONL or Parquet files",
    ]
    out: Annotated[Path, "folder that is written: config.yaml, manifest.json and model/"]
    size: Size = Size()
    seed: Annotated[int, "seed of the random weights", Ge(0), Lt(2**63)] = 0


def run(options: Options) -> None:
    """Train the tokenizer, draw the weights, write both, and say what was made."""
    from preferent.models.load import save_folder
    from preferent.models.scratch import new_model, train_tokenizer
    from preferent.runtime import files
    from preferent.runtime.card import card
    from preferent.runtime.run import Run

    words = flatten(options)
    with Run(options.out, words, resume=None, inputs=options.text, command="init", seed=options.seed) as run:
        said = [text for name in options.text for text in texts(name)]
        tokenizer = train_tokenizer(said, vocabulary=options.size.vocabulary)
        model = new_model(tokenizer, options.size, seed=options.seed)
        with files.whole(run.model_folder) as folder:
            save_folder(model, tokenizer, folder)
            files.write(folder / "README.md", card(run.folder).encode())
    click.echo("\n".join(told(options, model, tokenizer, said)))


def texts(name: str) -> Iterator[str]:
    """What stands in a file: each line of a .txt file that is not blank, or each message of a data file's rows.

    Raises UsageError for a row without text that is known here: the data layer's words say which columns are.
    """
    if not name.endswith(".txt"):
        from preferent.data.rows import BadRow, rows

        for row in rows(name):
            if isinstance(row, BadRow):
                raise row
            yield from spoken_in(row)
        return
    path, found = Path(name), False
    if not path.is_file():
        raise UsageError(f"{name}: there is no such file.")
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            found = True
            yield line
    if not found:
        raise UsageError(f"{name}: there is no text in it.")


def spoken_in(row: Row) -> Iterator[str]:
    """All that is said in a row. A row that is broken as training data (two equal replies) still holds text."""
    from preferent.data.columns import FORMATS
    from preferent.data.rows import BadRow

    columns = {column for each in FORMATS for column in each.needs} - {"label", "ranks"}
    said = [text for column in sorted(columns & row.data.keys()) for text in strings(row.data[column])]
    if not said:
        known = " · ".join(each.name for each in FORMATS)
        reason = f"no text in known columns: got {', '.join(sorted(row.data)) or 'none'}"
        raise BadRow(reason, hint=f"Expected one of: {known}").at(row)
    yield from said


def strings(value: Any) -> Iterator[str]:
    """The text in a cell: a string, a message's content, or a list of these."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(value.get("content") or value.get("messages") or value.get("text"))
    elif isinstance(value, Sequence):
        for each in value:
            yield from strings(each)


def told(options: Options, model: Any, tokenizer: Any, said: Sequence[str]) -> list[str]:
    """What was made, as a person reads it."""
    size, characters = options.size, sum(map(len, said))
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said)
    return [
        f"model        {options.out}/model",
        f"parameters   {model.num_parameters():,} · {size.layers} layers · hidden {size.hidden} · {size.heads} heads "
        f"· context {size.context:,} tokens",
        f"vocabulary   {len(tokenizer):,} tokens"
        + (f", fewer than {size.vocabulary:,}: the text has no more" if len(tokenizer) < size.vocabulary else ""),
        f"text         {len(said):,} pieces · {characters:,} characters · {tokens / max(1, characters):.2f} tokens per "
        "character",
        "",
        HONEST,
    ]
