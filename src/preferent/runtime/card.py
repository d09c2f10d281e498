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
from preferent.config import UsageError, read_yaml
from preferent.runtime import provenance
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

{measured}

## What to know

{caution}
"""
MEASURED = """\
At the last step of the run, {step:,}. What begins with `eval/` was measured on held-out rows, the rest in training.

| metric | value |
|---|---:|
{metrics}"""
CAUTION = {
    "init": (
        "Its weights are random, and only its tokenizer has seen the text above: it is there to be trained, and says "
        "nothing that means anything."
    ),
    "reward": (
        "Scores are for comparing replies to one prompt. They are a proxy of what annotators wanted, and are wrong "
        "where replies are unlike those that were compared: a policy that is trained on them finds such replies."
    ),
    "merge": (
        "It is made of the weights of the models above and was not trained since: what is to be known of them holds "
        "for it as well. An average of models can be better or worse than each of them; measure it."
    ),
    "sft": "It imitates its demonstrations, their mistakes included.",
}
TRAINED = (
    "It was trained towards the annotators' preferences as far as the data or the reward model tell them, and was not "
    "tested for safety. More reward is not more of what people want: look at replies, and at what nobody trained on."
)
MEMBER = (
    "This is one of {members} models that were trained side by side, each with a seed and a split of the data of its "
    "own. The numbers above are of all of them together.\n\n"
)
VAIN = {"out", "resume", "config", "dry_run", "device", "threads", "save_every"}  # change nothing about the model


def card(folder: Path, *, member: int | None = None) -> str:
    """The card of the model of a run, or of a member of its ensemble, from what lies in the run's folder: Markdown."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    options = {k: v for k, v in read_yaml(folder / "config.yaml").items() if k not in VAIN and v not in (None, [], "")}
    command = manifest["command"]
    header = {"library_name": "transformers", "tags": ["preferent", command]}
    if "model" in options:
        header["base_model"] = options["model"]
    title = f"A model trained by {command.upper() if len(command) <= 4 else command}"
    title = {"init": "A model from scratch", "merge": "A merged model"}.get(command, title)
    return PAGE.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title=title if member is None else f"{title}: member {member}",
        command=command,
        version=__version__,
        inputs="\n".join(line for name, noted in manifest["inputs"].items() for line in listed(name, noted)),
        judgements=named(folder, manifest.get("judgements", 0)),
        options=yaml.safe_dump(options, sort_keys=False),
        measured=measured(folder / "metrics.jsonl"),
        caution=("" if member is None else MEMBER.format(members=options["members"])) + CAUTION.get(command, TRAINED),
    )


def named(folder: Path, own: int) -> str:
    """How many judgements stand behind the run: its own, and those of the runs that it was made from."""
    said = f"The run names {own:,} judgements by their ids" if own else "The run names no judgements"
    try:
        ids, broken = provenance.judgements(provenance.trace(folder))
    except (UsageError, OSError):  # no reason to lose a model that is trained
        ids, broken = [], ["a run is damaged"]
    if len(ids) > own:
        least = "at least " if broken else ""
        return f"{said}; with the runs that it was made from, {least}{len(ids):,} stand behind it."
    return f"{said}. There may be more in what it was made from, a part of which was missing." if broken else f"{said}."


def measured(path: Path) -> str:
    """The last step's metrics, as a table."""
    steps = deque(rows(path), maxlen=1) if path.is_file() else None
    if not steps:
        return "Nothing: it was not trained."
    last: Mapping[str, Any] = steps[0]
    shown = "\n".join(f"| {name} | {value:.4g} |" for name, value in last.items() if name not in ("step", "time"))
    return MEASURED.format(step=last["step"], metrics=shown)


def listed(name: str, noted: Any) -> list[str]:
    """The rows of one input: a file, the weights and configuration in a folder, or a name that was not local."""
    if noted is None:
        return [f"| {name} | by name | |"]
    files = {name: noted} if "sha256" in noted else {f"{name}/{file}": told for file, told in noted.items()}
    shown = {path: told for path, told in files.items() if not path.endswith((".json", ".jinja", ".md"))} or files
    return [f"| {path} | {told['size']:,} | {told['sha256'][:16]} |" for path, told in shown.items()]
