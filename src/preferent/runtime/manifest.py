"""What a run's manifest says: its inputs by their checksums, and each sitting's machine, versions and command."""

from __future__ import annotations

import json
import platform
import resource
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from preferent.config import UsageError
from preferent.runtime import files

PACKAGES = ("preferent", "torch", "transformers", "tokenizers", "safetensors", "numpy")
SITTING = ("started", "device", "threads", "platform", "versions")  # when; and what the next one is compared with


def read(path: Path) -> dict[str, Any]:
    """A run's manifest. Raises UsageError where it is not as it was written."""
    try:
        said = json.loads(path.read_bytes())
    except ValueError:
        said = None
    if not (isinstance(said, dict) and "seed" in said and _are_inputs(said) and _are_sittings(said.get("sittings"))):
        raise UsageError(
            f"{path} is damaged: expected what the run noted of its inputs and sittings. Put it back from a copy; or "
            "delete it, and --resume goes on without comparing data, models and versions."
        )
    return said


def checksums(inputs: Iterable[str | Path]) -> dict[str, Any]:
    """For each input the checksum of its file, or of each file in its folder; None for what is not local."""
    return {str(name): _checksum(Path(name).expanduser()) for name in inputs}


def refuse_other_inputs(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise UsageError when an input that the run began with is not what it was."""
    changed = [name for name in saved if name in given and saved[name] != given[name]]
    if changed:
        raise UsageError(
            f"Changed since the run began: {', '.join(changed)}. To resume needs the same data and models: "
            "put the old ones back, or begin a new run with another --out."
        )


def sitting(device: str, step: int) -> dict[str, Any]:
    """What there is to say of this start of the program, which goes on after ``step``."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "after_step": step,
        "command": sys.argv,
        "cwd": str(Path.cwd()),
        "device": device,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def peak_memory(device: str) -> int:
    """Bytes at the peak: on a CUDA device those that tensors took there, else those of this whole process so far."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What was otherwise when the run last went on."""
    same = ("device", "threads", "platform")
    lines = [f"{name} was {before[name]}, now {now[name]}" for name in same if before[name] != now[name]]
    old, new = before["versions"], now["versions"]
    return lines + [f"{name} was {old.get(name)}, now {new[name]}" for name in new if old.get(name) != new[name]]


def _are_inputs(said: Mapping[str, Any]) -> bool:
    """Are they names with checksums, and the judgements in them a number?"""
    inputs = said.get("inputs")
    return isinstance(inputs, dict) and isinstance(said.get("judgements", 0), int) and all(map(_noted, inputs.values()))


def _noted(said: Any) -> bool:
    """Is it what ``_checksum`` gives: nothing, a file's size and checksum, or those of each file in a folder?"""
    each = said.values() if isinstance(said, dict) and "sha256" not in said else [said]
    return said is None or all(
        isinstance(one, dict) and isinstance(one.get("size"), int) and isinstance(one.get("sha256"), str)
        for one in each
    )


def _are_sittings(said: Any) -> bool:
    whole = isinstance(said, list) and all(isinstance(each, dict) and each.keys() >= set(SITTING) for each in said)
    told = whole and all(isinstance(each["versions"], dict) and isinstance(each.get("cwd", ""), str) for each in said)
    return told and bool(said)


def _checksum(path: Path) -> dict[str, Any] | None:
    if path.is_dir():
        visible = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
        return {str(file.relative_to(path)): files.checksum(file) for file in visible}
    return dict(files.checksum(path)) if path.is_file() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
