"""Metrics are strict JSON, survive a kill at any byte, and go on without a gap or a repetition."""

import json
import logging
import math
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preferent.config import UsageError
from preferent.runtime import track
from preferent.runtime.track import JsonLines, TensorBoard, open_new_writers, open_writers, rows

on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def write(path, steps, start=0):
    writer = JsonLines(path, start)
    for step in steps:
        writer.write(step, {"loss": 1.0 / step, "n": step})
    writer.close()


def told(path):
    """The rows without their time."""
    return [{name: value for name, value in row.items() if name != "time"} for row in rows(path)]


@given(st.dictionaries(st.text().filter(lambda name: name not in {"step", "time"}), st.floats() | st.integers()))
@on_disk
def test_every_metric_comes_back_and_every_line_is_strict_json(tmp_path, metrics):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    writer.write(1, metrics)
    writer.close()
    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    (row,) = told(path)
    assert row.pop("step") == 1
    assert row.keys() == metrics.keys()
    assert all(row[name] == value or (math.isnan(row[name]) and math.isnan(value)) for name, value in metrics.items())


def test_numbers_that_are_not_finite_are_strings(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()
    line = json.loads(path.read_text())
    assert (line["a"], line["b"], line["c"]) == ("NaN", "Infinity", "-Infinity")


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    writer = JsonLines(path)
    writer.write(1, {"loss": 0.5})
    assert told(path) == [{"step": 1, "loss": 0.5}]
    writer.close()


def test_a_metric_may_not_take_the_name_of_step_or_time(tmp_path):
    writer = JsonLines(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="metrics may not be called step: every line has these already"):
        writer.write(1, {"step": 2})
    writer.close()


@given(data=st.data())
@on_disk
def test_a_resumed_file_equals_one_never_interrupted_wherever_it_was_torn(tmp_path, data):
    """The run goes on after any step whose line was whole; what came after it, whole or torn, is cut off."""
    path = tmp_path / "metrics.jsonl"
    wanted = [{"step": step, "loss": 1.0 / step, "n": step} for step in range(1, 7)]
    content = b"".join(json.dumps(row | {"time": 1.5}).encode() + b"\n" for row in wanted)
    torn = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:torn])
    start = data.draw(st.integers(0, content[:torn].count(b"\n")))
    write(path, range(start + 1, 7), start)
    assert told(path) == wanted


def test_lines_lost_in_a_power_cut_are_logged(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-3])
    write(path, [4], start=3)
    assert [row["step"] for row in rows(path)] == [1, 4]
    assert caplog.messages == [f"{path} ends at step 1, the run goes on after step 3: lines between were lost."]


def test_tensorboard_shows_each_step_once_as_it_was_last_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writers = []
    for start, end, scale in ((0, 5, 1.0), (3, 7, 10.0), (6, 8, 100.0)):
        writers.append(TensorBoard(tmp_path, start))
        for step in range(start + 1, end + 1):
            writers[-1].write(step, {"loss": scale * step, "eval/nan": math.nan})
    events = EventAccumulator(str(tmp_path)).Reload()
    for writer in writers:  # only now: what was written must be there when a process is killed
        writer.close()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 700.0), (8, 800.0)
    ]  # fmt: skip
    assert len(events.Scalars("eval/nan")) == 8


def test_without_its_extra_tensorboard_is_missed_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    track._say_missing_once.cache_clear()
    for _ in range(2):
        writer = TensorBoard(tmp_path / "events")
        writer.write(1, {"loss": 1.0})
        writer.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "pip install 'preferent[tensorboard]'" in caplog.text
    assert not (tmp_path / "events").exists()


def test_a_folder_gets_both_and_another_runs_metrics_are_not_cut_off(tmp_path):
    for writer in open_writers(tmp_path):
        writer.write(1, {"loss": 1.0})
        writer.close()
    assert told(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    assert len(list((tmp_path / "events").iterdir())) == 1
    with pytest.raises(UsageError, match=r"metrics\.jsonl holds the metrics of another run"):
        open_new_writers(tmp_path)
