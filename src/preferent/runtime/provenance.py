"""Where a model comes from: run behind run, each with its options, its data by checksum, and the judgements in that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from preferent.config import UsageError, read_yaml
from preferent.runtime.manifest import checksums

JUDGEMENTS = "judgements.txt"  # in a run's folder: the ids of those in its data, one a line

State = Literal["unchanged", "changed", "gone", "not here"]


@dataclass(frozen=True)
class Origin:
    """Something that a model was made of, and what that was made of in turn."""

    name: str
    kind: Literal["run", "model", "data"]
    state: State  # against the checksum that the run noted; "not here" for what was never local
    options: Mapping[str, Any] = field(default_factory=dict)  # of a run
    facts: Mapping[str, Any] = field(default_factory=dict)  # size, sha256, judgements, seed, started
    of: tuple[Origin, ...] = ()


def trace(folder: Path) -> Origin:
    """The run in a folder, with everything behind it. Raises UsageError where there is none."""
    run = run_of(folder)
    if run is None:
        raise UsageError(
            f"There is no run in {folder}: expected a folder with config.yaml and manifest.json, or a model in one. "
            "A model that was not made here has no more history than its own card tells."
        )
    return traced(run, "unchanged", ())


def traced(run: Path, state: State, behind: tuple[Path, ...]) -> Origin:
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    facts = {"seed": manifest["seed"], "started": manifest["sittings"][0]["started"]}
    if "judgements" in manifest:
        facts["judgements"] = manifest["judgements"]
    seen = (*behind, run.resolve())
    began_in = Path(manifest["sittings"][0].get("cwd", "."))
    of = tuple(origin(name, began_in, noted, seen) for name, noted in manifest["inputs"].items())
    return Origin(near(run), "run", state, read_yaml(run / "config.yaml"), facts, merged(of))


def origin(name: str, began_in: Path, noted: Any, behind: tuple[Path, ...]) -> Origin:
    """One input of a run: the run that made it, where there is one, or the file or model itself."""
    if noted is None:
        return Origin(name, "model", "not here")
    path = began_in / Path(name).expanduser()
    now = checksums([path])[str(path)]
    state: State = "gone" if now is None else "unchanged" if now == noted else "changed"
    made_by = run_of(path)
    if made_by and made_by.resolve() not in behind:
        return traced(made_by, state, behind)
    return Origin(name, "data", state, facts=noted) if "sha256" in noted else Origin(name, "model", state)


def near(path: Path) -> str:
    """A path as one would type it from here."""
    return str(path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path)


def merged(origins: tuple[Origin, ...]) -> tuple[Origin, ...]:
    """One origin for each run: an ensemble's members all come from the same."""
    first: dict[str, Origin] = {}
    for each in origins:
        before = first.get(each.name)
        if before is None or before.state == "unchanged":
            first[each.name] = each
    return tuple(first.values())


def run_of(path: Path) -> Path | None:
    """The run's folder that a path is or lies in (its ``model/``, a member of that), if it is one."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "manifest.json").is_file() and (folder / "config.yaml").is_file():
            return folder if folder == path or path.is_dir() else None
    return None


def runs(of: Origin) -> Iterator[Origin]:
    """All runs behind this one, it first, each once."""
    seen: set[str] = set()
    waiting = [of]
    while waiting:
        each = waiting.pop(0)
        if each.kind == "run" and each.name not in seen:
            seen.add(each.name)
            yield each
            waiting.extend(each.of)


def judgements(of: Origin) -> list[str]:
    """The ids of all judgements behind a run, each once. Raises UsageError where a run's list is gone."""
    found: dict[str, None] = {}
    for run in runs(of):
        path = Path(run.name) / JUDGEMENTS
        if run.facts.get("judgements") and not path.is_file():
            raise UsageError(f"{path} is gone: it named {run.facts['judgements']:,} judgements.")
        if path.is_file():
            found.update(dict.fromkeys(path.read_text(encoding="utf-8").split()))
    return list(found)


def judgement_ids(inputs: Iterable[str | Path]) -> list[str]:
    """The ids in the column ``judgements`` of these JSON-lines files, each once."""
    found: dict[str, None] = {}
    for path in map(Path, inputs):
        if path.suffix == ".jsonl" and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    found.update(dict.fromkeys(ids_in(line)))
    return list(found)


def ids_in(line: str) -> list[str]:
    """What is no row is no judgement either: the command that reads the data says so."""
    if '"judgements"' not in line:
        return []
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return []
    ids = row.get("judgements") if isinstance(row, dict) else None
    return [id for id in ids if isinstance(id, str)] if isinstance(ids, list) else []
