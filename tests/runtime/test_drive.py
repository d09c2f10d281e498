"""Stopping anywhere and going on equals not stopping, whatever is wrapped around the algorithm."""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from killing import PROCESSES, alone, deaths

from preferent.config import UsageError
from preferent.runtime import checkpoint, drive
from preferent.runtime.drive import (
    Best,
    Pace,
    best_kept,
    checkpointed,
    evaluated,
    limited,
    logged,
    stopped_early,
)
from preferent.runtime.track import JsonLines, rows

on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


class Counter:
    """An algorithm in miniature: each step changes the state, and says something that depends on all steps before."""

    def __init__(self, pause: float = 0.0) -> None:
        self.n, self.x, self.pause = 0, 1, pause

    def steps(self) -> Iterator[Mapping[str, float]]:
        while True:
            time.sleep(self.pause)
            self.n, self.x = self.n + 1, (self.x * 1103515245 + 12345) % 2**31
            yield {"loss": self.x / 2**31, "n": self.n}

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "x": self.x}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n, self.x = state["n"], state["x"]


@dataclass(frozen=True)
class Plan:
    """What is wrapped around the counter."""

    last: int = 9
    save_every: int | None = 2
    eval_every: int | None = None
    keep_best: bool = False
    patience: int | None = None


PLANS = st.builds(
    Plan,
    last=st.integers(1, 12),
    save_every=st.none() | st.integers(1, 4),
    eval_every=st.none() | st.integers(1, 4),
    keep_best=st.booleans(),
    patience=st.none() | st.integers(1, 3),
)


def driven(plan: Plan, folder: Path, pause: float = 0.0) -> Iterator[Mapping[str, float]]:
    """The counter in all that the plan wants, in the documented order, from where the folder's last sitting left."""
    folder.mkdir(exist_ok=True)
    counter, best, lately = Counter(pause), Best("loss", "min"), Best("eval/score", "max")
    parts = {"counter": counter, "best": best, "lately": lately}
    start = checkpoint.restore(folder / "checkpoints", parts)
    writer = JsonLines(folder / "metrics.jsonl", start)
    steps = limited(counter.steps(), plan.last, start=start)
    steps = evaluated(steps, plan.eval_every, lambda step: {"score": counter.x % 7}, start=start, last=plan.last)
    if plan.keep_best:
        steps = best_kept(steps, best, lambda step: write(folder / "best", f"{step} {counter.x}"), start=start)
    if plan.patience is not None:
        steps = stopped_early(steps, lately, plan.patience, start=start)
    steps = logged(steps, writer, start=start)
    try:
        yield from checkpointed(steps, plan.save_every, parts, folder / "checkpoints", start=start)
    finally:
        writer.close()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def left(folder: Path) -> tuple[Any, ...]:
    """All that a run leaves, without times: metrics, the best one, and the last checkpoint."""
    metrics = [{name: value for name, value in row.items() if name != "time"} for row in rows(folder / "metrics.jsonl")]
    best = (folder / "best").read_text() if (folder / "best").exists() else None
    return metrics, best, checkpoint.load(folder / "checkpoints")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@given(plan=PLANS, sittings=st.lists(st.integers(1, 6), max_size=4))
@on_disk
def test_dropping_a_run_after_any_yield_and_resuming_equals_not_stopping(tmp_path, plan, sittings):
    straight, stopped = fresh(tmp_path / "straight"), fresh(tmp_path / "stopped")
    list(driven(plan, straight))
    for steps in sittings:
        run = driven(plan, stopped)
        list(islice(run, steps))
        run.close()
    list(driven(plan, stopped))
    assert left(stopped) == left(straight)


PLAN = Plan(last=4, save_every=2, eval_every=1, keep_best=True, patience=3)


def die_everywhere(folder: Path, power_cut: bool) -> tuple[int, list[Any]]:
    """The runs that came out otherwise than one without a death, of how many."""
    list(driven(PLAN, folder / "straight"))
    wanted, count, wrong = left(folder / "straight"), 0, []
    for operation in deaths(lambda: list(driven(PLAN, folder / "killed")), power_cut):
        list(driven(PLAN, folder / "killed"))
        if left(folder / "killed") != wanted:
            wrong.append((operation, left(folder / "killed")))
        shutil.rmtree(folder / "killed")
        count += 1
    return count, wrong


def test_a_death_at_any_operation_on_the_disk_and_resuming_equals_not_stopping(tmp_path):
    count, wrong = alone(die_everywhere, tmp_path, False)
    assert wrong == []
    assert count > 20


def test_a_run_that_is_finished_stays_so(tmp_path):
    list(driven(PLAN, tmp_path))
    before = left(tmp_path)
    assert list(driven(PLAN, tmp_path)) == []
    assert left(tmp_path) == before


# --- the wrappers --------------------------------------------------------------------------------


def values(name: str, *numbers: float) -> Iterator[Mapping[str, float]]:
    yield from ({name: number} for number in numbers)


def test_limited_never_asks_for_a_step_that_it_does_not_give():
    counter = Counter()
    assert [metrics["n"] for metrics in limited(counter.steps(), 3)] == [1, 2, 3]
    assert counter.n == 3
    assert [metrics["n"] for metrics in limited(counter.steps(), 5, start=3)] == [4, 5]
    assert list(limited(counter.steps(), 5, start=5)) == []
    assert counter.n == 5


def test_evaluation_comes_every_so_many_steps_and_at_the_last_one():
    steps = evaluated(values("loss", *range(7)), 3, lambda step: {"at": step}, last=7)
    assert [metrics.get("eval/at") for metrics in steps] == [None, None, 3, None, None, 6, 7]
    steps = evaluated(values("loss", 1, 2, 3), None, lambda step: {"at": step}, start=4, last=7)
    assert [metrics.get("eval/at") for metrics in steps] == [None, None, 7]


@given(st.lists(st.floats(), min_size=1), st.sampled_from(["max", "min"]))
@example([math.nan, 1.0], "max")
def test_the_best_is_the_first_extreme_and_never_nan(numbers, direction):
    best, kept = Best("x", direction), []
    list(best_kept(values("x", *numbers), best, kept.append))
    real = [number for number in numbers if not math.isnan(number)]
    if not real:
        assert best.value is None
        assert kept == []
    else:
        extreme = max(real) if direction == "max" else min(real)
        assert best.value == extreme
        assert best.step == numbers.index(extreme) + 1 == kept[-1]
        assert best.misses == len(numbers) - best.step


def test_training_stops_after_patience_and_asks_for_no_further_step():
    """Best is 3 at step 2; steps 3 and 4 are not better: with patience 2 step 4 is the last."""
    asked = []

    def steps():
        for number in (1, 3, 3, 2, 9):
            asked.append(number)
            yield {"x": number}

    lately = Best("x", "max")
    assert [metrics["x"] for metrics in stopped_early(steps(), lately, 2)] == [1, 3, 3, 2]
    assert asked == [1, 3, 3, 2]
    assert list(stopped_early(steps(), lately, 2)) == []


def test_steps_without_the_metric_do_not_count_against_patience():
    steps = iter([{"loss": 1.0}, {"eval/x": 1.0}, {"loss": 1.0}, {"loss": 1.0}, {"eval/x": 0.0}, {"loss": 1.0}])
    assert len(list(stopped_early(steps, Best("eval/x", "max"), 1))) == 5


@pytest.mark.parametrize("metric", ["eval/acuracy", "los"])
def test_a_metric_that_is_not_there_is_an_error_at_once(metric):
    steps = iter([{"loss": 1.0, "eval/accuracy": 0.5}])
    meant = {"eval/acuracy": "eval/accuracy", "los": "loss"}[metric]
    with pytest.raises(UsageError, match=rf"no metric {metric} \(did you mean {meant}\?\)\. This run has: eval/acc"):
        list(best_kept(steps, Best(metric, "max"), lambda step: None))


def test_a_folder_is_enough_to_log_to(tmp_path):
    list(logged(limited(Counter().steps(), 3), tmp_path))
    list(logged(limited(Counter().steps(), 2), str(tmp_path), start=3))
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="holds the metrics of another run"):
        list(logged(limited(Counter().steps(), 3), tmp_path))


def test_a_step_that_fails_is_not_saved_and_the_one_before_it_stays(tmp_path):
    def steps():
        for counter.n in (1, 2, 3):
            yield {"n": counter.n}
        counter.n = 4
        raise ArithmeticError("half done")

    counter = Counter()
    with pytest.raises(ArithmeticError):
        list(checkpointed(steps(), 2, {"counter": counter}, tmp_path))
    assert checkpoint.load(tmp_path)[1]["counter"]["n"] == 2


def test_saving_every_0_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected to save every 1 step or more, got 0"):
        next(checkpointed(Counter().steps(), 0, {}, tmp_path))


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.001, 1000)), min_size=1, max_size=200))
def test_the_stopwatch_keeps_saving_under_its_share(steps):
    """Of the time up to any moment, all saves but the newest took at most 2 %: each earns its time afterwards."""
    now, spent, newest = 0.0, 0.0, 0.0
    pace = Pace(None, lambda: now)
    for step, (working, saving) in enumerate(steps, 1):
        now += working
        if pace.due(step):
            assert spent <= drive.SHARE * now * (1 + 1e-9)
            with pace.timed():
                now += saving
            spent, newest = spent + saving, saving
    assert spent - newest <= drive.SHARE * now * (1 + 1e-9)


def test_the_stopwatch_does_save():
    """A save of 1 s is due again 49 s after it ended: 1 of 50 s is 2 %."""
    now = 0.0
    pace = Pace(None, lambda: now)
    now = 29.0
    assert not pace.due(1)
    now = 30.0
    assert pace.due(2)
    with pace.timed():
        now = 31.0
    now = 31.0 + 48.9
    assert not pace.due(3)
    now = 31.0 + 49.1
    assert pace.due(4)


# --- signals -------------------------------------------------------------------------------------

LONG = Plan(last=40, save_every=100, eval_every=2, keep_best=True)


def run_until_stopped(folder: Path, pause: float) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    try:
        list(driven(LONG, folder, pause))
    except KeyboardInterrupt:
        sys.exit(130)


def one_long_step(folder: Path) -> None:
    def steps() -> Iterator[Mapping[str, float]]:
        (folder / "begun").write_text("\n")
        time.sleep(100)
        yield {}

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        list(checkpointed(steps(), 1, {}, folder / "checkpoints"))
    except KeyboardInterrupt:
        sys.exit(130)


def wait_for_lines(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        assert time.monotonic() < deadline, f"{path} has not got {lines} lines"
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_finish_saves_it_and_resuming_equals_not_stopping(tmp_path, number, code):
    process = PROCESSES.Process(target=run_until_stopped, args=(tmp_path / "stopped", 0.1), daemon=True)
    process.start()
    wait_for_lines(tmp_path / "stopped" / "metrics.jsonl", 2)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    last = [row["step"] for row in rows(tmp_path / "stopped" / "metrics.jsonl")][-1]
    assert checkpoint.latest(tmp_path / "stopped" / "checkpoints") == last < LONG.last
    list(driven(LONG, tmp_path / "stopped"))
    list(driven(LONG, tmp_path / "straight"))
    assert left(tmp_path / "stopped") == left(tmp_path / "straight")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    process = PROCESSES.Process(target=one_long_step, args=(tmp_path,), daemon=True)
    process.start()
    wait_for_lines(tmp_path / "begun", 1)
    os.kill(process.pid, signal.SIGINT)
    process.join(0.5)
    assert process.exitcode is None
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130
    assert checkpoint.latest(tmp_path / "checkpoints") is None


def test_a_signal_between_two_steps_saves_the_last_one_before_the_next_begins(tmp_path):
    counter = Counter()
    steps = checkpointed(counter.steps(), None, {"counter": counter}, tmp_path)
    next(steps)
    next(steps)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        next(steps)
    assert stop.value.code == 143
    assert (checkpoint.latest(tmp_path), counter.n) == (2, 2)


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    steps = checkpointed(Counter().steps(), None, {}, tmp_path)
    next(steps)
    assert signal.getsignal(signal.SIGTERM) != before[0]
    steps.close()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
