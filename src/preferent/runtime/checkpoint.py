"""Checkpoints: every part's state in ``step-N/``, as safetensors and JSON, never pickle.

``step-N/`` holds ``<part>.json`` (see ``tree``), ``<part>.safetensors`` where the part has tensors, and
``manifest.json`` with the size and SHA-256 of each file. The folder takes its name only when everything in it is on
the disk, and an older checkpoint is removed only after that: a process may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from preferent.config import UsageError
from preferent.runtime import files, tree
from preferent.types import Stateful

FORMAT = 1
MANIFEST = "manifest.json"

# What a part trips over in a state that is not its own: the file is whole, so another program wrote it.
UNLIKE = (AttributeError, LookupError, OverflowError, TypeError, ValueError)

State = Mapping[str, Any]


def save(folder: Path, step: int, parts: Mapping[str, State], *, keep: int = 2, pinned: Collection[int] = ()) -> Path:
    """Write the checkpoint of ``step``, then remove all but the newest ``keep`` and the ``pinned`` steps.

    Raises UsageError when it cannot be written (disk full), or exists; those written before are as they were.
    """
    if keep < 1:
        raise ValueError(f"expected to keep at least 1 checkpoint, got keep={keep}")
    target = _path(folder, step)
    if target.exists():
        raise UsageError(f"{target} exists already: resume from it, or save to another folder.")
    try:
        with files.whole(target) as partial:
            for name, state in parts.items():
                _write_part(partial, name, state)
            sums = {path.name: files.checksum(path) for path in sorted(partial.iterdir())}
            manifest = {"format": FORMAT, "step": step, "parts": list(parts), "files": sums}
            files.write(partial / MANIFEST, json.dumps({**manifest, "sha256": _seal(manifest)}, indent=1).encode())
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        raise UsageError(
            f"{target} could not be written: {error}. Earlier checkpoints in {folder} are whole. "
            "Make room on the disk, then go on with --resume."
        ) from error
    for old in steps(folder)[:-keep]:
        if old not in pinned and old < step:
            files.remove(_path(folder, old))
    return target


def load(folder: Path, step: int | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """The newest checkpoint, or that of ``step``: its step, and every part's state with its tensors on the CPU.

    Raises UsageError when there is none, when a file in it is damaged, or when a newer version wrote it.
    """
    step = latest(folder) if step is None else step
    if step is None or not _path(folder, step).is_dir():
        found = ", ".join(map(str, steps(folder))) or "none"
        raise UsageError(
            f"No checkpoint{'' if step is None else f' of step {step}'} in {folder} (steps there: {found})."
        )
    path = _path(folder, step)
    manifest = _manifest(path)
    for name, expected in manifest["files"].items():
        _verify(path / name, expected)
    return step, {name: _read_part(path, name) for name in manifest["parts"]}


def restore(folder: Path, parts: Mapping[str, Stateful]) -> int:
    """Give every part its state of the newest checkpoint; that checkpoint's step, or 0 when there is none yet.

    Raises UsageError as ``load`` does, or when the checkpoint has other parts than these, or a part cannot take its
    state; parts before it have theirs then, so that none of them is to be used.
    """
    if latest(folder) is None:
        return 0
    step, states = load(folder)
    if states.keys() != parts.keys():
        raise UsageError(
            f"{_path(folder, step)} holds the state of {_listed(states)}; this run has {_listed(parts)}. "
            "Resume with the options that the run began with."
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except UNLIKE as error:
            raise UsageError(
                f"{_path(folder, step)}: the state of {name} is none that this run can go on from: {error}. "
                "Resume with the options, and the version of preferent, that the run began with."
            ) from error
    return step


def begin(folder: Path, start: int) -> None:
    """Make ready to write checkpoints after step ``start``: remove what a killed process left half-done.

    Raises UsageError when checkpoints of later steps lie there: they belong to another past.
    """
    files.make_folder(folder)
    files.discard_leftovers(folder)
    later = [step for step in steps(folder) if step > start]
    if later:
        raise UsageError(
            f"{folder} holds checkpoints after step {start}, from which this run goes on: "
            f"{', '.join(f'step-{step}' for step in later)}. Resume from the last of them, "
            "delete them, or choose another folder."
        )


def latest(folder: Path) -> int | None:
    """The newest complete checkpoint's step."""
    return max(steps(folder), default=None)


def steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints, oldest first."""
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(name[1]) for name in found if name)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"


def _write_part(folder: Path, name: str, state: State) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name == Path(MANIFEST).stem:
        raise ValueError(f"a part's name is a file's name, of letters, digits, - and _; got {name!r}")
    text, tensors = tree.packed(name, state)
    files.write(folder / f"{name}.json", text)
    if tensors:
        path = folder / f"{name}.safetensors"
        files.failpoint("write", path)
        save_file(tensors, path)


def _read_part(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.safetensors"
    try:
        # Cloned: a tensor must not look at the file, which may go, and must be aligned as it was when it was saved.
        tensors = {key: tensor.clone() for key, tensor in load_file(path).items()} if path.exists() else {}
        return tree.unpacked((folder / f"{name}.json").read_bytes(), tensors)
    except (SafetensorError, ValueError) as error:
        raise _damaged(folder / f"{name}.json", f"expected the state of {name}, found something else") from error


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
        version, step = int(manifest["format"]), int(manifest["step"])
    except FileNotFoundError as error:
        raise _damaged(path / MANIFEST, "expected a checkpoint's manifest, the file is missing") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _damaged(path / MANIFEST, "expected a checkpoint's manifest, found something else") from error
    if version > FORMAT:
        raise UsageError(
            f"{path} was written by a newer preferent (checkpoint format {version}; this one reads up to {FORMAT}). "
            "Install that version to go on with this run."
        )
    sealed = manifest.pop("sha256", None) == _seal(manifest)
    if not sealed or path.name != f"step-{step}" or not _names_its_files(manifest):
        raise _damaged(path / MANIFEST, f"expected the manifest of {path.name}, as it was written")
    return manifest


def _names_its_files(manifest: Mapping[str, Any]) -> bool:
    """Whether every file has its size and checksum, and every part its file."""
    sums, parts = manifest.get("files"), manifest.get("parts")
    return (
        isinstance(sums, dict)
        and isinstance(parts, list)
        and all(isinstance(each, dict) and each.keys() == {"size", "sha256"} for each in sums.values())
        and all(isinstance(name, str) and f"{name}.json" in sums for name in parts)
    )


def _seal(manifest: Mapping[str, Any]) -> str:
    """A manifest's own checksum."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.exists():
        raise _damaged(path, f"expected {expected['size']} bytes, the file is missing")
    size = path.stat().st_size
    if size != expected["size"]:
        raise _damaged(path, f"expected {expected['size']} bytes, found {size}")
    if files.checksum(path) != expected:
        raise _damaged(path, f"its SHA-256 is not {expected['sha256']}, which was written")


def _damaged(path: Path, what: str) -> UsageError:
    checkpoint, folder = path.parent, path.parent.parent
    earlier = [step for step in steps(folder) if step < int(checkpoint.name.removeprefix("step-"))]
    way_out = (
        f"To go on from step {earlier[-1]} instead, delete the folder {checkpoint} and use --resume again."
        if earlier
        else "There is no earlier checkpoint: start the run again with another --out."
    )
    return UsageError(f"Damaged checkpoint: {path}: {what}. {way_out}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
