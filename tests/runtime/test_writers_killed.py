"""A death at any operation of the writers of metrics and of the report, or in the middle of a line, loses no more."""

import os
import shutil
from pathlib import Path

import pytest
from killing import alone, deaths

from preferent.report.command import Options, run
from preferent.runtime.run import Run
from preferent.runtime.track import JsonLines, open_writers, rows

LAST = 6  # steps of a run, which is resumed after step 3
LINES = [{"step": float(step), "loss": 1.0 / step} for step in range(1, LAST + 1)]


def written(path: Path) -> list[dict[str, float]]:
    """The rows without their time."""
    return [{name: value for name, value in row.items() if name != "time"} for row in rows(path)]


def go_on(folder: Path, start: int) -> None:
    """The sitting of a run that goes on after step ``start``, with both of its writers."""
    writers = open_writers(folder, start)
    for step in range(start + 1, LAST + 1):
        for writer in writers:
            writer.write(step, {"loss": 1.0 / step})
    for writer in writers:
        writer.close()


def interrupted(folder: Path) -> Path:
    """A run whose last sitting wrote five lines and half of another; its checkpoint is that of step 3."""
    go_on(folder, 0)
    path = folder / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - 12)
    return folder


def die_everywhere(folder: Path, power_cut: bool) -> list[str]:
    """Go on after step 3, dying at each failpoint in turn; after each death the run goes on once more, to its end."""
    seen = []
    clean, place = interrupted(folder / "clean"), folder / "place"
    shutil.copytree(clean, place)
    for operation in deaths(lambda: go_on(place, 3), power_cut):
        kept = written(place / "metrics.jsonl")
        assert kept == LINES[: len(kept)]
        assert len(kept) >= 3 or power_cut
        go_on(place, min(3, len(kept)))
        assert written(place / "metrics.jsonl") == LINES
        seen.append(f"{operation} with {len(kept)}")
        shutil.rmtree(place)
        shutil.copytree(clean, place)
    assert written(place / "metrics.jsonl") == LINES
    return seen


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_death_at_any_operation_of_the_metrics_leaves_lines_that_the_resumed_run_continues(tmp_path, power_cut):
    seen = alone(die_everywhere, tmp_path, power_cut)
    assert "write metrics.jsonl with 5" in seen  # before anything is cut off
    assert "sync metrics.jsonl with 3" in seen or power_cut
    assert sum(line.startswith("write metrics.jsonl") for line in seen) == 1 + LAST - 3


def die_within_a_line(folder: Path) -> list[int]:
    """Stop a run in the middle of its fifth line at each of the line's bytes; how many lines were whole each time."""
    go_on(folder / "straight", 0)
    content = (folder / "straight" / "metrics.jsonl").read_bytes()
    four, five = (sum(map(len, content.splitlines(keepends=True)[:n])) for n in (4, 5))
    whole = []
    for end in range(four, five + 1):
        path = folder / f"{end}" / "metrics.jsonl"
        path.parent.mkdir()
        path.write_bytes(content[:end])
        whole.append(len(written(path)))
        writer = JsonLines(path, 4)
        for step in (5, 6):
            writer.write(step, {"loss": 1.0 / step})
        writer.close()
        assert written(path) == LINES
        assert path.read_bytes().count(b"\n") == LAST
    return whole


def test_half_a_last_line_is_cut_off_and_written_again_wherever_it_was_torn(tmp_path):
    whole = die_within_a_line(tmp_path)
    assert whole == [4] * (len(whole) - 1) + [5]


# --- the report ------------------------------------------------------------------------------------


def report(folder: Path, title: str) -> bytes:
    run(Options(runs=(str(folder / "run"),), out=folder / "page.html", title=title))
    return (folder / "page.html").read_bytes()


def die_while_reporting(folder: Path) -> list[str]:
    """Write a page over an older one, dying at each failpoint in turn; which of the two is left each time."""
    Run(folder / "run", {"model": "base", "data": ["demos.jsonl"], "out": "run"}, command="sft").close()
    go_on(folder / "run", 0)
    new = without_time(report(folder, "new"))
    old = without_time(report(folder, "old"))
    seen = []
    for operation in deaths(lambda: report(folder, "new"), power_cut=False):
        left = without_time((folder / "page.html").read_bytes())
        assert left in (old, new)
        seen.append(f"{operation}: {'old' if left == old else 'new'}")
        assert without_time(report(folder, "old")) == old
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert without_time((folder / "page.html").read_bytes()) == new
    return seen


def without_time(page: bytes) -> list[bytes]:
    """The lines of a page but those that say when it was written."""
    return [line for line in page.splitlines() if b"datetime" not in line and b" UTC" not in line]


def test_a_death_at_any_operation_of_the_report_leaves_the_old_page_or_the_new_one_whole(tmp_path):
    seen = alone(die_while_reporting, tmp_path)
    assert seen == [
        "write .page.html.partial: old",
        "sync .page.html.partial: old",
        "rename page.html: old",
        f"sync {tmp_path.name}: new",
    ]
