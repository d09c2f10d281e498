"""Where metrics go. A writer has two methods: ``write(step, metrics)`` and ``close()``.

Made for a run that goes on after step ``start``, a writer first cuts off what an interrupted sitting wrote after that
step: the run writes it again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from preferent.config import UsageError
from preferent.runtime import files
from preferent.types import Metrics

log = logging.getLogger(__name__)
NOT_FINITE = ("NaN", "Infinity", "-Infinity")


class Writer(Protocol):
    """Somewhere that a step's metrics go."""

    def write(self, step: int, metrics: Metrics) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line: ``{"step": 3, "time": 1767225600.123, "loss": 0.5, …}``, handed to the system at once.

    ``time`` is in seconds since 1970. JSON has no numbers that are not finite: they stand as the strings ``"NaN"``,
    ``"Infinity"`` and ``"-Infinity"``, which Python's ``float`` and JavaScript's ``Number`` read; ``rows`` does so.
    A line survives the process; after a power cut lines may be missing, which is then logged.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        files.make_folder(path.parent)
        if path.exists():
            _cut(path, start)
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Metrics) -> None:
        if taken := metrics.keys() & {"step", "time"}:
            raise ValueError(f"metrics may not be called {' or '.join(sorted(taken))}: every line has these already")
        row = {"step": step, "time": round(time.time(), 3)} | {name: _strict(value) for name, value in metrics.items()}
        files.failpoint("write", self._path)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def rows(path: Path) -> Iterator[dict[str, float]]:
    """The lines of a metrics file as numbers; a torn last line is left out."""
    with path.open("rb") as file:
        for line in file:
            if (row := _row(line)) is None:
                return
            yield {name: value if isinstance(value, int) else float(value) for name, value in row.items()}


class TensorBoard:
    """Event files for TensorBoard, one for each sitting, each step handed to the system at once.

    TensorBoard itself hides what earlier files say of steps that a later file writes again (its ``purge_step``).
    Without the extra ``tensorboard`` this says so once and writes nothing.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        self._records: Any = None
        try:  # TensorBoard's own record format: torch's writer would add a thread and hold lines back for two minutes
            from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]  # has no types
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except ImportError:
            _say_missing_once()
            return
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        files.make_folder(folder)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{platform.node()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("xb"))
        self._put(file_version="brain.Event:2")
        self._put(step=start + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int, metrics: Metrics) -> None:
        if self._records is not None:
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
            self._put(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        if self._records is not None:
            self._records.close()

    def _put(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._records.flush()


def open_writers(folder: Path, start: int = 0) -> tuple[Writer, ...]:
    """The writers of a run folder: ``metrics.jsonl`` and ``events/``."""
    return JsonLines(folder / "metrics.jsonl", start), TensorBoard(folder / "events", start)


def open_new_writers(folder: Path) -> tuple[Writer, ...]:
    """The same, where no metrics may be yet. Raises UsageError otherwise: they would be cut off."""
    path = folder / "metrics.jsonl"
    if path.exists() and path.stat().st_size:
        raise UsageError(f"{path} holds the metrics of another run: choose another folder, or say start= to go on.")
    return open_writers(folder)


def _strict(value: float) -> float | str:
    if isinstance(value, int):
        return value
    number = float(value)
    if math.isnan(number):
        return "NaN"
    return number if math.isfinite(number) else ("Infinity" if number > 0 else "-Infinity")


def _cut(path: Path, start: int) -> None:
    """Keep the lines up to step ``start``; a line torn by a kill, or what follows it, is never among them."""
    end, last = 0, 0
    with path.open("rb") as file:
        for line in file:
            row = _row(line)
            if row is None or row["step"] > start:
                break
            end, last = end + len(line), row["step"]
    if last < start:
        log.warning("%s ends at step %d, the run goes on after step %d: lines between were lost.", path, last, start)
    files.failpoint("write", path)
    os.truncate(path, end)
    files.sync(path)


def _row(line: bytes) -> dict[str, Any] | None:
    """One complete line of numbers, or None for a torn or damaged one."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    return row if all(isinstance(value, int | float) or value in NOT_FINITE for value in row.values()) else None


@cache
def _say_missing_once() -> None:
    log.warning("TensorBoard events are not written: its extra is missing (pip install 'preferent[tensorboard]').")
