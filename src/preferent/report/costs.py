"""What runs cost, and how to run them again."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

from preferent.pictures import Axis, Bar, bars
from preferent.pictures.scales import number
from preferent.report.reading import STAGES, Found, Run
from preferent.report.section import Command, Figure, Places, Section, Table


def cost(all_: Found, places: Places) -> Section:
    """Time, tokens and room on the disk."""
    timed = [run for run in all_.runs if run.metrics]
    columns = ("run", "time", "steps", "tokens trained on", "tokens/s", "sittings", "device", "model on disk")
    rows = [
        (
            run.name,
            clock(seconds(run)),
            number(run.steps),
            number(tokens(run)) if tokens(run) else "–",
            number(tokens(run) / seconds(run)) if seconds(run) and tokens(run) else "–",
            number(len(run.manifest["sittings"])),
            str(run.manifest["sittings"][-1].get("device", "–")),
            size(run.folder / "model"),
        )
        for run in timed
    ]
    drawn = [Bar(run.name, seconds(run) / 60, place=places[run.name]) for run in timed]
    total = sum(map(seconds, timed))
    lines = [
        f"{clock(total)} in all, from the start of each sitting to its last step, loading included.",
        memory(timed),
    ]
    return Section(
        title="Cost",
        lines=lines if timed else [],
        pictures=[bars(drawn, Axis("minutes", low=0.0), title="Time")] if timed else [],
        tables=[Table("Time, tokens, room", columns, rows)] if timed else [],
        missing="" if timed else "No run has made a step yet.",
    )


def seconds(run: Run) -> float:
    """From each sitting's start to its last step that was kept, added up."""
    sittings = run.manifest["sittings"]
    ends = [int(later.get("after_step", 0)) for later in sittings[1:]] + [run.steps]
    total = 0.0
    for sitting, end in zip(sittings, ends, strict=True):
        first, begun = int(sitting.get("after_step", 0)), began(sitting)
        times = [row["time"] for row in run.metrics if first < row["step"] <= end and "time" in row]
        if times:
            total += max(max(times) - (begun if begun is not None else min(times)), 0.0)
    return total


def began(sitting: dict[str, object]) -> float | None:
    try:
        return datetime.fromisoformat(str(sitting.get("started"))).timestamp()
    except ValueError:
        return None


def tokens(run: Run) -> float:
    """That were trained on: an ensemble's metric is the mean of its members', each of which read its own."""
    members = run.options.get("members", 1)
    return sum(value for _, value in run.values("tokens")) * (members if isinstance(members, int) else 1)


def memory(runs: list[Run]) -> str:
    """The most that any sitting of each run took; a killed one wrote nothing of it."""
    peaks = []
    for run in runs:
        known = [each["peak_memory"] for each in run.manifest["sittings"] if isinstance(each.get("peak_memory"), int)]
        if known:
            peaks.append(f"{run.name} {number(round(max(known) / 2**30, 2))} GiB")
    if peaks:
        return f"Memory at the peak: {', '.join(peaks)}. On a CPU: of the whole process, from its start."
    return "These runs recorded no memory; --dry-run estimates it beforehand."


def clock(total: float) -> str:
    hours, rest = divmod(round(total), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return f"{number(total / 1e6)} MB" if total else "–"


def again(all_: Found, places: Places) -> Section:
    """The commands, as they were typed and for each run alone."""
    typed = list(dict.fromkeys(as_typed(run) for run in all_.runs))
    commands = [
        Command("As it was begun" if len(typed) == 1 else f"As it was begun, {i + 1}", line)
        for i, line in enumerate(typed)
    ]
    for run in all_.runs:
        if run.kind in STAGES:
            out = run.folder.with_name(f"{run.folder.name}-again")
            line = ["preferent", run.kind, "--config", str(run.folder / "config.yaml"), "--out", str(out)]
            commands.append(Command(f"{run.name} alone, into a new folder", shlex.join(line)))
    if not commands:
        return Section(title="How to run it again", missing="No run folder was named.")
    said = "On the same machine, with as many threads and the same data, the weights come out the same to the last bit."
    return Section(title="How to run it again", lines=[said], commands=commands)


def as_typed(run: Run) -> str:
    program, *rest = map(str, run.manifest["sittings"][0].get("command") or ["preferent"])
    name = "preferent" if Path(program).name in ("preferent", "__main__.py") else Path(program).name
    return shlex.join([name, *rest])


def in_short(all_: Found) -> list[Figure]:
    timed = [run for run in all_.runs if run.metrics]
    if not timed:
        return []
    devices = dict.fromkeys(str(run.manifest["sittings"][-1].get("device", "?")) for run in timed)
    return [
        Figure(
            clock(sum(map(seconds, timed))),
            "of training",
            f"{len(timed)} run{'s' * (len(timed) != 1)} on {', '.join(devices)}",
        )
    ]
