"""Where a model comes from: run behind run, each with its options, its data by checksum, and the judgements in that."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from preferent.config import UsageError, read_yaml
from preferent.data.rows import Row, rows, suffix_of
from preferent.runtime import files
from preferent.runtime.manifest import checksums, read

JUDGEMENTS = "judgements.txt"  # in a run's folder: the ids of those that it learned from, one a line

State = Literal["unchanged", "changed", "gone", "not here"]


@dataclass(frozen=True)
class Origin:
    """Something that a model was made of, and what that was made of in turn."""

    name: str
    kind: Literal["run", "model", "data"]
    state: State  # against the checksum that the run noted; "not here" for what was never local
    options: Mapping[str, Any] = field(default_factory=dict)  # of a run
    facts: Mapping[str, Any] = field(default_factory=dict)  # size, sha256, judgements (and their list's), seed, started
    of: tuple[Origin, ...] = ()


def trace(folder: Path) -> Origin:
    """The run in a folder, with everything behind it. Raises UsageError where there is none, or one is damaged."""
    run = run_of(folder)
    if run is None:
        raise UsageError(
            f"There is no run in {folder}: expected a folder with config.yaml and manifest.json, or a model in one. "
            "A model that was not made here has no more history than its own card tells."
        )
    return traced(run, "unchanged", ())


def traced(run: Path, state: State, behind: tuple[Path, ...]) -> Origin:
    manifest, options = read(run / "manifest.json"), read_yaml(run / "config.yaml")
    facts = {"seed": manifest["seed"], "started": manifest["sittings"][0]["started"]}
    facts |= {name: manifest[name] for name in ("judgements", "judgements_sha256") if name in manifest}
    seen = (*behind, run.resolve())
    began_in = Path(manifest["sittings"][0].get("cwd", "."))
    lay_at = began_in / str(options.get("out") or run.resolve())
    of = tuple(
        origin(name, found(began_in / Path(name).expanduser(), lay_at, run), noted, seen)
        for name, noted in manifest["inputs"].items()
    )
    return Origin(near(run), "run", state, options, facts, merged(of))


def found(path: Path, lay_at: Path, run: Path) -> Path:
    """An input of a run that lay elsewhere: where it was, or else as far from the run as it was then.

    So runs that were moved or copied together, with their data or without, still find one another.
    """
    if path.exists():
        return path
    moved = Path(os.path.normpath(run.resolve() / os.path.relpath(path, lay_at)))
    return moved if moved.exists() else path


def origin(name: str, path: Path, noted: Any, behind: tuple[Path, ...]) -> Origin:
    """One input of a run: the run that made it, where there is one, or the file or model itself."""
    if noted is None:
        return Origin(name, "model", "not here")
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


def judgements(of: Origin) -> tuple[list[str], list[str]]:
    """The ids of all judgements behind a run, each once; and where the chain is broken, so that there may be more.

    A list that is not as its run noted it says nothing that can be relied on: its ids are left out.
    """
    ids: dict[str, None] = {}
    broken = []
    for run in runs(of):
        broken += [f"{each.name} is gone" for each in run.of if each.state == "gone"]
        path = Path(run.name) / JUDGEMENTS
        noted, listed = run.facts.get("judgements", 0), listed_in(path)
        if noted and not path.is_file():
            broken.append(f"{path} is gone: it named {noted:,} judgements")
        elif (noted or listed) and (len(listed), files.checksum(path)["sha256"]) != (
            noted,
            run.facts.get("judgements_sha256"),
        ):
            broken.append(f"{path} was changed: it named {noted:,} judgements, now {len(listed):,}")
        else:
            ids.update(dict.fromkeys(listed))
    return list(ids), list(dict.fromkeys(broken))


def listed_in(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []


def judgement_ids(inputs: Iterable[str | Path]) -> list[str]:
    """The ids in the column ``judgements`` of these data files, each once.

    What is no row is no judgement either: the command that reads the data says so.
    """
    ids: dict[str, None] = {}
    for path in map(Path, inputs):
        if path.is_file() and suffix_of(path.name):
            with suppress(UsageError):
                for row in rows(path):
                    ids.update(dict.fromkeys(ids_in(row.data) if isinstance(row, Row) else ()))
    return list(ids)


def ids_in(row: Mapping[str, Any]) -> list[str]:
    ids = row.get("judgements")
    return [id for id in ids if isinstance(id, str)] if isinstance(ids, list) else []
