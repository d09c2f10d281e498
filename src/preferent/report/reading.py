"""What lies in run folders and beside them, read whole or not at all.

A folder is a run if it holds ``config.yaml``; a folder of runs stands for the runs in it, and for what lies beside
them: evaluations (``preferent evaluate --out``, the demo's results), and the store of the judgements. What is damaged
is named, and nothing of it is used.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from preferent.config import UsageError, read_yaml, words
from preferent.evaluation import judged
from preferent.evaluation.judged import Judged
from preferent.report.annotators import Annotators, annotators_in
from preferent.report.evaluations import Evaluation, apart, evaluation_of, mapping
from preferent.runtime import track
from preferent.stages.options import watched

STAGES = (  # what trains
    "sft", "reward", "ppo", "grpo", "dpo", "kto", "online-dpo", "xpo", "nash-md", "spin", "raft", "rso", "distill",
)  # fmt: skip
FIRST = ("sft", "reward")  # what a page tells of before the rest
ALIKE = 0.7  # of the words of a run's options and of a command's, for the run to be of that command
MARKS = ("manifest.json", "metrics.jsonl", "checkpoints")  # of a run that has lost its config.yaml
BESIDE = (".json", ".db")  # a folder's runs: evaluations, and the store of the judgements
LONGEST_HEADER = 100_000_000  # bytes: the format's own limit


@dataclass(frozen=True)
class Sample:
    """What a policy said at an evaluation."""

    prompt: str
    reply: str
    reward: float | None


@dataclass(frozen=True)
class Run:
    """A run's folder, read."""

    name: str
    folder: Path
    kind: str  # the command that made it, such as ppo; "run" where that is not known
    options: Mapping[str, Any]
    manifest: Mapping[str, Any]
    metrics: Sequence[Mapping[str, float]]  # a row for each step
    samples: Mapping[int, Sequence[Sample]]  # by step
    judged: Sequence[Judged]
    finished: bool  # there is a model
    parameters: int | None  # of the model, or of one member of an ensemble

    def values(self, name: str) -> list[tuple[int, float]]:
        """(step, value) where the metric was written."""
        return [(int(row["step"]), row[name]) for row in self.metrics if name in row]

    @property
    def steps(self) -> int:
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def chosen(self) -> int:
        """The step whose weights are the model: the best by --keep-best, else the last."""
        if not (asked := self.options.get("keep_best")):
            return self.steps
        name, direction = watched(str(asked))
        values = [(step, value) for step, value in self.values(name) if not math.isnan(value)]
        better = min if direction == "min" else max
        return better(values, key=lambda pair: pair[1])[0] if values else self.steps


@dataclass
class Found:
    """All that a page can tell of."""

    runs: list[Run] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    crowds: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    annotators: list[Annotators] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)


def found(paths: Sequence[Path]) -> Found:
    """Everything that these folders and files hold.

    Raises UsageError for what is not there, and where there is nothing to tell of.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UsageError(f"There is no {', '.join(missing)}. Name run folders, or a folder that holds some.")
    all_ = Found()
    for inside in dict.fromkeys(each for path in paths for each in expanded(path)):
        look(inside, all_)
    if not (all_.runs or all_.evaluations or all_.crowds or all_.annotators):
        if all_.damaged:
            raise UsageError("\n".join(why for _, why in all_.damaged))
        raise UsageError(
            f"There is no run in {', '.join(map(str, paths))}: expected folders with a config.yaml, as `preferent ppo` "
            "and its like write them, or a folder that holds such."
        )
    all_.evaluations = apart(all_.evaluations)
    all_.runs = uniquely_named(sorted(all_.runs, key=order))
    return all_


def expanded(path: Path) -> list[Path]:
    """The path itself, or what is inside a folder of runs."""
    if not path.is_dir() or is_run(path):
        return [path]
    children = sorted(path.iterdir())
    inside = [child for child in children if child.is_dir() and is_run(child)]
    told = inside or (path / "results.json").exists()  # of a comparison, whose runs lie deeper
    return [*inside, *(child for child in children if child.suffix in BESIDE and told)] or [path]


def is_run(folder: Path) -> bool:
    """Whether this is a run's folder, or what is left of one."""
    return (folder / "config.yaml").exists() or sum((folder / name).exists() for name in MARKS) > 1


def look(path: Path, all_: Found) -> None:
    """Put what is here where it belongs."""
    try:
        if path.is_dir() and is_run(path):
            all_.runs.append(run_in(path))
        elif path.suffix == ".json":
            said = mapping(path)
            if evaluation := evaluation_of(said, path):
                all_.evaluations.append(evaluation)
            elif {"alpha", "pairs"} <= said.keys():
                all_.crowds.append((str(path), said))
            else:
                all_.passed_over.append(path)
        elif path.suffix == ".db":
            all_.annotators.append(annotators_in(path))
        else:
            all_.passed_over.append(path)
    except UsageError as error:
        all_.damaged.append((path, str(error)))
    except OSError as error:
        all_.damaged.append((path, f"{error.filename or path}: cannot be read ({error.strerror})."))


# --- a run -------------------------------------------------------------------------------------------


def run_in(folder: Path) -> Run:
    """Raises UsageError where a part of the run is damaged."""
    options, manifest = read_yaml(folder / "config.yaml"), mapping(folder / "manifest.json")
    if not options:
        raise UsageError(f"{folder / 'config.yaml'}: is empty; expected the run's options. The run cannot be told of.")
    try:
        watched(str(options.get("keep_best") or "loss"))
    except UsageError as error:
        raise UsageError(f"{folder / 'config.yaml'}: is damaged: {error}") from error
    if not sound(manifest):
        raise UsageError(
            f'{folder / "manifest.json"}: is damaged: expected "sittings", when and how the run was begun.'
        )
    return Run(
        name=folder.resolve().name,
        folder=folder,
        kind=kind_of(options, manifest),
        options=options,
        manifest=manifest,
        metrics=metrics_in(folder / "metrics.jsonl"),
        samples=samples_in(folder / "samples"),
        judged=judged.read(folder / "judged.jsonl") if (folder / "judged.jsonl").exists() else (),
        finished=(folder / "model").is_dir(),
        parameters=parameters_in(folder / "model"),
    )


def sound(manifest: Mapping[str, Any]) -> bool:
    """Whether the manifest has what is read from it here, of the right kind."""
    sittings = manifest.get("sittings")
    return (
        isinstance(sittings, list)
        and len(sittings) > 0
        and all(isinstance(each, dict) and isinstance(each.get("after_step", 0), int) for each in sittings)
        and all(
            isinstance(each.get("command", []), list) and isinstance(each.get("versions", {}), dict)
            for each in sittings
        )
        and isinstance(manifest.get("inputs", {}), dict)
    )


def kind_of(options: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The command that a run is of: as it was typed, or the one whose options are most like the run's."""
    typed = list(manifest["sittings"][0].get("command", ()))[1:2]
    if typed and typed[0] in STAGES:
        return str(typed[0])
    likeness = {}
    for name in STAGES:
        module = importlib.import_module(f"preferent.stages.{name.replace('-', '_')}")
        known = {word.name for word in words(module.Options)}
        likeness[name] = len(known & options.keys()) / len(known | options.keys())
    best = max(STAGES, key=lambda name: likeness[name])
    return best if likeness[best] >= ALIKE else "run"


def metrics_in(path: Path) -> list[dict[str, float]]:
    """Every whole line. The last may be torn, by a kill or because it is being written; any other may not."""
    if not path.exists():
        return []
    try:
        rows = list(track.rows(path))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: is damaged: a value is not a number ({error}).") from error
    with path.open("rb") as file:
        lines = sum(line.endswith(b"\n") for line in file)
    if len(rows) < lines:
        raise UsageError(f"{path}: line {len(rows) + 1} is damaged: expected one JSON object with a step.")
    return rows


def samples_in(folder: Path) -> dict[int, list[Sample]]:
    """By step. A file that does not end yet is still being written."""
    by_step = {}
    for path in folder.glob("step-*.jsonl"):
        content = path.read_bytes()
        number = path.stem.removeprefix("step-")
        if content.endswith(b"\n") and number.isdigit():
            by_step[int(number)] = [sample(line, path) for line in content.splitlines()]
    return dict(sorted(by_step.items()))


def sample(line: bytes, path: Path) -> Sample:
    try:
        said = json.loads(line)
        reward = said.get("reward")
        return Sample(spoken(said["prompt"]), str(said["reply"]), None if reward is None else float(reward))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: is damaged: expected rows with prompt and reply.") from error


def spoken(prompt: Any) -> str:
    """A prompt's messages as text: the last one if it is all there is, else each with its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def parameters_in(folder: Path) -> int | None:
    """Counted in the headers of the model's files, or of an ensemble's first member's; None where there are none."""
    at = next((place for place in (folder / "member-0", folder) if place.is_dir()), folder)
    files = sorted(at.glob("*.safetensors"))
    return sum(map(numbers_in, files)) if files else None


def numbers_in(path: Path) -> int:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size <= LONGEST_HEADER else b""
    try:
        tensors = {name: said for name, said in json.loads(header).items() if name != "__metadata__"}
        return sum(product(said["shape"]) for said in tensors.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: is damaged: expected a safetensors file.") from error


def product(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= int(length)
    return total


def order(run: Run) -> tuple[int, str, str]:
    """As a page tells of them: by what they are, then by when they began."""
    place = FIRST.index(run.kind) if run.kind in FIRST else len(FIRST)
    return place, str(run.manifest["sittings"][0].get("started", "")), str(run.folder)


def uniquely_named(runs: Sequence[Run]) -> list[Run]:
    """Runs whose folders are called alike are named with the folder above, or with their whole path."""
    for longer in (lambda path: f"{path.parent.name}/{path.name}", str):
        names = [run.name for run in runs]
        runs = [replace(run, name=longer(run.folder.resolve())) if names.count(run.name) > 1 else run for run in runs]
    return list(runs)
