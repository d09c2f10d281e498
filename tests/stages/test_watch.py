"""What one sees of runs from their folders."""

import json
import threading
import time

import pytest

from preferent.cli import main
from preferent.runtime.run import Run
from preferent.stages.watch import BARS, curve, headline, names, running, wait


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def steps(n):
    return [{"step": i + 1, "time": 100.0 + 2 * i, "loss": 1.0 - i / 10, "grad_norm": 1.0, "lr": 0.1} for i in range(n)]


def write(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_is_running_while_it_is_held_and_stopped_or_done_after(folder):
    with Run(folder, {"lr": 1}):
        write(folder, steps(5))
        assert running(folder)
        assert headline(folder, steps(5)) == f"{folder}   running   step 5   2 s a step"
    assert not running(folder)
    assert headline(folder, []) == f"{folder}   stopped   no step yet"
    (folder / "model").mkdir()
    assert "done" in headline(folder, steps(1))


def test_watching_where_there_is_no_terminal_shows_how_things_stand_once(folder, capsys):
    with Run(folder, {"lr": 1}):
        write(folder, steps(9))
    assert main(["watch", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "loss" in said
    assert "0.2 " in said
    assert "█▇▆▅" in said


def test_what_is_no_run_is_an_error(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "There is no run in" in capsys.readouterr().err


def test_what_is_no_run_is_passed_over_beside_one(folder, tmp_path, capsys):
    """As a shell makes it of runs/*."""
    (tmp_path / "base").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with Run(folder, {"lr": 1}):
        write(folder, steps(3))
    assert main(["watch", *map(str, sorted(tmp_path.iterdir())), "--once"]) == 0
    said = "".join(capsys.readouterr().out.split())  # long lines are folded
    assert f"{folder}stoppedstep3" in said
    assert "base" not in said


def test_the_end_of_the_last_run_is_not_waited_for_until_the_next_look(folder):
    with Run(folder, {"lr": 1}) as run:
        assert wait([folder], 0.01)
        began = time.monotonic()
        threading.Timer(0.5, run.close).start()
        assert not wait([folder.parent, folder], 60)
    assert time.monotonic() - began < 10


def test_a_curve_goes_from_the_lowest_to_the_highest():
    assert curve([0, 1, 2, 3, 4, 5, 6, 7]) == BARS
    assert curve([2.0, float("nan"), 1.0]) == "█·▁"
    assert curve([3.0]) == "▁"
    assert len(curve(list(range(1000)))) == 40


def test_what_matters_most_stands_first():
    assert names([*steps(2), {"step": 3, "time": 1.0, "eval/accuracy": 0.5, "loss": 1.0, "reward": 2.0}])[:3] == [
        "reward",
        "eval/accuracy",
        "loss",
    ]


def test_a_run_that_is_not_there_yet_is_named(folder, capsys):
    with Run(folder, {"lr": 1}):
        write(folder, steps(2))
    assert main(["watch", str(folder), str(folder.parent / "none"), "--once"]) == 0
    assert "Not there yet:" in (told := capsys.readouterr().out)
    assert str(folder.parent / "none") in told.replace("\n", "")
