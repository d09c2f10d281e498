"""A model's card: what it is, what made it, and what it was measured to do. Written into every model that is saved.

It says the same whenever and wherever the same run is made again, so that equal runs end in equal folders.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from preferent import __version__
from preferent.config import read_yaml
from preferent.runtime.track import rows

PAGE = """\
---
{header}---

# {title}

Made by `preferent {command}` {version}. `preferent provenance` on the run's folder leads from here to every run, data
file and judgement behind it.

## What it was made of

| input | size | sha256 |
|---|---:|---|
{inputs}

{judgements}

## How

Every option of the run; what is not named here had its default.

```yaml
{options}```

To make it again: save these options as `config.yaml`, then `preferent {command} --config config.yaml --out FOLDER`.

## What was measured

At the last step of the run, {step}. What begins with `eval/` was measured on held-out rows, the rest in training.

| metric | value |
|---|---:|
{metrics}

## What to know

{caution}
"""
CAUTION = {
    "reward": (
        "Scores are for comparing replies to one prompt. They are a proxy of what annotators wanted, and are wrong "
        "where replies are unlike those that were compared: a policy that is trained on them finds such replies."
    ),
    "sft": "It imitates its demonstrations, their mistakes included.",
}
TRAINED = (
    "It was trained towards the annotators' preferences as far as the data or the reward model tell them, and was not "
    "tested for safety. More reward is not more of what people want: look at replies, and at what nobody trained on."
)
VAIN = {"out", "resume", "config", "dry_run", "device", "threads", "save_every"}  # change nothing about the model


def card(folder: Path) -> str:
    """The card of the model of a run, from what lies in the run's folder, in Markdown."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    options = {k: v for k, v in read_yaml(folder / "config.yaml").items() if k not in VAIN and v not in (None, [], "")}
    steps = deque(rows(folder / "metrics.jsonl"), maxlen=1)
    last: Mapping[str, Any] = steps[0] if steps else {}
    command, count = manifest["command"], manifest.get("judgements", 0)
    header = {"library_name": "transformers", "tags": ["preferent", command], "base_model": options["model"]}
    return PAGE.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title=f"A model trained by {command.upper() if len(command) <= 4 else command}",
        command=command,
        version=__version__,
        inputs="\n".join(line for name, noted in manifest["inputs"].items() for line in listed(name, noted)),
        judgements=f"Its data names {count:,} judgements by their ids."
        if count
        else "Its own data names no judgements.",
        options=yaml.safe_dump(options, sort_keys=False),
        step=f"{last.get('step', 0):,}",
        metrics="\n".join(f"| {name} | {value:.4g} |" for name, value in last.items() if name not in ("step", "time")),
        caution=CAUTION.get(command, TRAINED),
    )


def listed(name: str, noted: Any) -> list[str]:
    """The rows of one input: a file, the weights and configuration in a folder, or a name that was not local."""
    if noted is None:
        return [f"| {name} | by name | |"]
    files = {name: noted} if "sha256" in noted else {f"{name}/{file}": told for file, told in noted.items()}
    shown = {path: told for path, told in files.items() if not path.endswith((".json", ".jinja", ".md"))} or files
    return [f"| {path} | {told['size']:,} | {told['sha256'][:16]} |" for path, told in shown.items()]
