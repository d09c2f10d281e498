"""The model and the real rows on which speed is measured.

HH-RLHF, harmless-base, test (Bai et al. 2022); TL;DR, comparisons (Stiennon et al. 2020); GSM8K, questions (Cobbe et
al. 2021).
"""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from preferent.data.columns import parse
from preferent.data.rows import BadRow, rows
from preferent.data.template import Template
from preferent.models.load import load_scorer, save
from preferent.models.scratch import Size, new_model, train_tokenizer

SIZE = Size(hidden=192, layers=3, heads=3, vocabulary=4608, context=2048)  # 2.2 million parameters
LONGEST = 512  # tokens of a prompt with the longer of its replies
FILES = {
    "hh": "hh_rlhf/harmless_base_test.preference.jsonl.gz",
    "tldr": "tldr_summarize_feedback/comparisons_valid1.preference.jsonl.gz",
    "gsm8k": "gsm8k/train.verifiable.jsonl.gz",
}
Row = dict[str, Any]


def real(name: str, most: int = 4000) -> list[Row]:
    """Rows of a data set, in its order."""
    folder = os.environ.get("PREFERENT_TEST_DATA")
    if not folder or not (Path(folder) / FILES[name]).is_file():
        sys.exit(f"PREFERENT_TEST_DATA must name the folder that holds {FILES[name]}; it is {folder or 'not set'}.")
    found = []
    for row in rows(Path(folder) / FILES[name]):
        if not isinstance(row, BadRow):
            found.append({key: row.data[key] for key in ("prompt", "chosen", "rejected") if key in row.data})
        if len(found) == most:
            break
    return found


def texts(said: Sequence[Row]) -> Iterator[str]:
    return (turn["content"] for row in said for turns in row.values() for turn in turns)


def made(folder: Path) -> Template:
    """A model and a reward model with random weights, beside one another, and a tokenizer of the real rows' text."""
    tokenizer = train_tokenizer((text for name in FILES for text in texts(real(name))), vocabulary=SIZE.vocabulary)
    new_model(tokenizer, SIZE, seed=1).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save(load_scorer(folder / "model", seed=2, device="cpu"), folder / "reward")
    return Template(tokenizer)


def compared(template: Template, *, batch: int, rounds: int) -> list[Row]:
    """Three steps a round: pairs from the shorter, the middle and the longer third of the data, of like length each.

    That is how a trainer that groups by length takes them, and what padding likes best.
    """
    sized = []
    for row in real("hh"):
        try:
            pair: Any = template.tokenised(parse(row, kind="preferences"))
        except BadRow:
            continue
        longest = len(pair.comparison.context.tokens) + max(len(reply.tokens) for reply in pair.comparison.options)
        if longest <= LONGEST:
            sized.append((longest, len(sized), row))
    sized.sort()
    batches = [sized[i : i + batch] for i in range(0, len(sized) - batch + 1, batch)]
    third = len(batches) // 3
    drawn = [random.Random(0).sample(batches[i * third : (i + 1) * third], rounds) for i in range(3)]
    return [row for each in zip(*drawn, strict=True) for steps in each for _, _, row in steps]


def asked(template: Template, name: str, *, shortest: int, longest: int, count: int) -> list[Row]:
    """Prompts as messages, for the peer's trainer, and as tokens, for whoever samples. Long ones are several in one."""
    found, before = [], ""
    for row in real(name):
        text = before + " ".join(turn["content"] for turn in row["prompt"])
        messages = [{"role": "user", "content": text}]
        tokens = template.prompt(messages).tokens
        before = text + " " if len(tokens) < shortest else ""
        if shortest <= len(tokens) <= longest:
            found.append({"prompt": messages, "tokens": tokens})
    return random.Random(0).sample(found, count)
