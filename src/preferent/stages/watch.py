"""A training that is under way, followed on the terminal from its folder: any number of runs, from anywhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from preferent.config import UsageError

BARS = "▁▂▃▄▅▆▇█"
WIDE = 40  # characters of a curve
NOTICED = 0.2  # seconds until the end of the last run is seen
FIRST = (
    "reward",
    "eval/reward",
    "eval/accuracy",
    "eval/ensemble_accuracy",
    "eval/loss",
    "loss",
    "nll",
    "accuracy",
    "kl",
)
HIDDEN = {"step", "time", "skipped", "tokens"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Follow runs while they train: each metric's course, its last value, the pace, and whether it still runs.

    Reads the runs' metrics files and touches nothing, so it can be started and stopped at any time, and also shows
    runs that have ended. What is no run is passed over, so that a * will do. Ctrl-C ends the watching, not the
    training.

    Examples:
        preferent watch runs/ppo
        preferent watch runs/* --once
    """

    positional: ClassVar[str] = "runs"
    runs: Annotated[tuple[Path, ...], "run folders"]
    every: Annotated[float, "seconds between looks", Gt(0)] = 2.0
    rows: Annotated[int, "metrics of each run to show", Gt(0)] = 12
    once: Annotated[bool, "show how things stand now, and stop"] = False


def run(options: Options) -> None:
    """Draw until the runs have ended; once where there is no terminal."""
    runs = [folder for folder in options.runs if (folder / "config.yaml").is_file()]
    if not runs:
        raise UsageError(
            f"There is no run in {', '.join(map(str, options.runs))}: expected a folder with config.yaml, as training "
            "writes it."
        )
    console = Console()
    if absent := [str(folder) for folder in options.runs if not folder.exists()]:
        console.print(f"Not there yet: {', '.join(absent)}.", highlight=False, markup=False)
    if options.once or not console.is_terminal:
        console.print(drawn(runs, options.rows))
        return
    with Live(drawn(runs, options.rows), console=console, auto_refresh=False) as live:
        while wait(runs, options.every):
            live.update(drawn(runs, options.rows), refresh=True)
        live.update(drawn(runs, options.rows), refresh=True)


def wait(runs: Sequence[Path], seconds: float) -> bool:
    """Until it is time to look again; False at once when no run is left to wait for."""
    until = time.monotonic() + seconds
    while alive := any(running(folder) for folder in runs):
        if (left := until - time.monotonic()) <= 0:
            break
        time.sleep(min(left, NOTICED))
    return alive


def drawn(runs: Sequence[Path], most: int) -> Group:
    return Group(*(table(folder, most) for folder in runs))


def table(folder: Path, most: int) -> Table:
    """One run: its state in the title, then a metric a row."""
    steps = metrics(folder)
    shown = Table(title=headline(folder, steps), title_justify="left", title_style="bold", box=None, padding=(0, 1))
    shown.add_column("metric", no_wrap=True)
    shown.add_column("now", justify="right", no_wrap=True)
    shown.add_column("course", no_wrap=True, style="cyan")
    for name in names(steps)[:most]:
        values = [step[name] for step in steps if name in step]
        shown.add_row(name, f"{values[-1]:.4g}", curve(values))
    return shown


def metrics(folder: Path) -> list[dict[str, float]]:
    from preferent.runtime.track import rows

    path = folder / "metrics.jsonl"
    return list(rows(path)) if path.is_file() else []


def headline(folder: Path, steps: Sequence[dict[str, float]]) -> str:
    """Such as: runs/ppo   running   step 12   3.4 s a step. Seconds are the median of the last steps'."""
    state = "running" if running(folder) else "done" if (folder / "model").is_dir() else "stopped"
    if not steps:
        return f"{folder}   {state}   no step yet"
    gaps = sorted(after["time"] - before["time"] for before, after in pairwise(steps[-20:]))
    pace = f"   {gaps[len(gaps) // 2]:.2g} s a step" if gaps else ""
    return f"{folder}   {state}   step {int(steps[-1]['step']):,}{pace}"


def running(folder: Path) -> bool:
    """Whether a process holds the run."""
    import fcntl

    path = folder / ".lock"
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def names(steps: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics, those that matter most first."""
    found = dict.fromkeys(name for step in (steps[:1], steps[-1:]) for each in step for name in each)
    found |= dict.fromkeys(name for step in steps for name in step if name.startswith("eval/"))
    return [*(name for name in FIRST if name in found), *(n for n in found if n not in HIDDEN and n not in FIRST)]


def curve(values: Sequence[float]) -> str:
    """Means over equal stretches of the course, drawn from the lowest to the highest; · where nothing is finite."""
    n = min(WIDE, len(values))
    cuts = [values[len(values) * i // n : len(values) * (i + 1) // n] for i in range(n)]
    means = [mean([value for value in cut if math.isfinite(value)]) for cut in cuts]
    finite = [value for value in means if value is not None]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join("·" if value is None else BARS[round((value - low) * scale)] for value in means)


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
