"""Tiny models and data for tests that type commands as a person would."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from preferent.cli import main

THINGS = ("sun", "moon", "rain", "snow", "wind", "lamp")
SMALL = ["--max-length", "96", "--threads", "1"]


def question(i: int) -> str:
    return f"what is the {THINGS[i % len(THINGS)]} number {i}?"


DEMOS = [
    {"prompt": question(i), "completion": f"the {THINGS[i % len(THINGS)]} is number {i}. thank you."} for i in range(24)
]
PREFS = [
    {
        "prompt": question(i),
        "chosen": f"the {THINGS[i % len(THINGS)]} is {i}.",
        "rejected": f"well, well, i do not know {i}",
    }
    for i in range(24)
]
RATED = [
    {"prompt": row["prompt"], "completion": row["rejected" if i % 3 else "chosen"], "label": not i % 3}
    for i, row in enumerate(PREFS)
]
PROMPTS = [{"prompt": question(i), "topic": THINGS[i % len(THINGS)]} for i in range(12)]
REWARDS = """
def brief(episodes):
    return [-len(episode.text) / 10 for episode in episodes]

def topical(episodes, topic):
    return [float(wanted in episode.text) for episode, wanted in zip(episodes, topic)]

def nothing(episodes):
    return [float("nan") for episode in episodes]
"""


def run(*words: object) -> int:
    """The exit code of ``preferent WORDS``."""
    return main([str(word) for word in words])


def quietly(*words: object) -> None:
    """The same where nobody wants to read what it says."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert run(*words) == 0


def written(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """The name of a JSONL file with these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@cache
def kept() -> Path:
    """A folder with models that tests read and never write to, and with rewards.py; gone when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="preferent-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "rewards.py").write_text(REWARDS)
    return folder


@cache
def base() -> str:
    """A run of ``preferent init``: one layer, 32 wide."""
    folder = kept()
    text = written(folder / "text.jsonl", [*DEMOS, *PREFS])
    size = ["--hidden", 32, "--layers", 1, "--heads", 2, "--vocabulary", 360, "--context", 128]
    quietly("init", "--text", text, "--out", folder / "base", *size)
    return str(folder / "base")


@cache
def older() -> str:
    """Another model with the same tokens: what some steps of fine-tuning made."""
    folder = kept()
    demos = written(folder / "older.jsonl", DEMOS)
    words = ["sft", "--model", base(), "--data", demos, "--out", folder / "older", "--lr", "1e-2", "--steps", 3]
    quietly(*words, *SMALL)
    return str(folder / "older")


@cache
def reward_models() -> str:
    """A run of ``preferent reward``: two members, two steps."""
    folder = kept()
    prefs = written(folder / "prefs.jsonl", PREFS)
    words = ["reward", "--model", base(), "--data", prefs, "--out", folder / "rm", "--members", 2, "--lr", "1e-2"]
    quietly(*words, *SMALL)
    return str(folder / "rm")


def reward(name: str) -> str:
    return f"{kept() / 'rewards.py'}:{name}"


def left(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
