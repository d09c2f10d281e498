"""Showing only watches: the steps stay as they are, and what is said of them fits where it is read."""

from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from preferent.runtime.show import duration, label, number, shown

METRICS = st.lists(st.dictionaries(st.sampled_from(["nll", "kl", "tokens", "eval/loss"]), st.floats()), max_size=5)


def paper() -> Console:
    return Console(file=io.StringIO(), width=100)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, _environ={"TERM": "xterm"})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Clock:
    """Seconds, told by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(n: int, clock: Clock, seconds: float = 1.0):
    """Each step takes so long, sees 100 tokens and halves the loss."""
    for i in range(n):
        clock.now += seconds
        yield {"nll": 8 / 2**i, "tokens": 100.0}


@given(METRICS, st.booleans(), st.none() | st.integers(0, 9))
def test_the_steps_are_handed_on_as_they_are(metrics, live, total):
    console = terminal() if live else paper()
    assert all(
        a is b for a, b in zip(shown(iter(metrics), title="x", total=total, console=console), metrics, strict=True)
    )


def test_a_file_gets_the_first_step_every_tenth_of_the_way_and_the_end():
    """40 steps of a second: the first, then one at each of 10 %, …, 90 %, then what became of the number.

    The loss of step n is 8 / 2^(n-1); of the last one 8 / 2^39 = 1.5e-11. 100 tokens a second all the way.
    """
    console, clock = paper(), Clock()
    assert (
        len(list(shown(steps(40, clock), title="SFT", total=40, numbers=["nll"], console=console, clock=clock))) == 40
    )
    lines = written(console).splitlines()
    assert len(lines) == 11
    assert lines[0] == "SFT  step 1/40  nll 8.00  100 tok/s  0:39 left"
    assert lines[1] == "SFT  step 4/40  nll 1.00  100 tok/s  0:36 left"
    assert lines[-1] == "SFT  done  step 40/40  nll 8.00 → 1.5e-11  100 tok/s  0:40"


def test_a_file_gets_a_line_of_every_step_when_steps_are_slow():
    console, clock = paper(), Clock()
    list(shown(steps(5, clock, 60.0), title="PPO", console=console, clock=clock))
    assert len(written(console).splitlines()) == 6


def test_a_resumed_run_tells_the_step_of_the_whole_and_the_pace_of_this_sitting():
    """Steps 11 and 12 of 20 took a second each: 8 are left, so 8 seconds."""
    console, clock = paper(), Clock()
    watched = shown(steps(10, clock), title="PPO", total=20, start=10, console=console, clock=clock)
    next(watched), next(watched)
    assert written(console).splitlines()[-1] == "PPO  step 12/20  100 tok/s  0:08 left"


@pytest.mark.parametrize("console", [paper(), terminal()], ids=["file", "terminal"])
def test_a_run_that_breaks_off_is_closed_with_where_it_stopped(console):
    def breaking():
        yield {"nll": 2.0}
        raise RuntimeError("NaN in loss")

    with pytest.raises(RuntimeError, match="NaN in loss"):
        list(shown(breaking(), title="DPO", total=9, numbers=["nll"], console=console))
    assert "nll 2.00 → 2.00" in written(console)


def test_a_terminal_shows_title_share_numbers_pace_and_time():
    console, clock = terminal(), Clock()
    list(shown(steps(3, clock), title="2/6 SFT", total=3, numbers=["nll"], console=console, clock=clock))
    text = written(console)
    assert all(part in text for part in ("2/6 SFT", "100 %", "nll 8.00 → 2.00", "100 tok/s", "0:03"))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_line_fits_the_terminal(width):
    console, clock = terminal(width), Clock()
    names = ["nll", "a/rather/long_name", "another_of_those"]
    some = ({name: 1.0 for name in [*names, "tokens"]} for _ in range(3))
    list(shown(some, title="5/6 PPO", total=3, numbers=names, console=console, clock=clock))
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", written(console)))
    assert max(map(len, lines)) <= width
    assert any("100 %" in line and "0:00" in line for line in lines)


def test_a_metric_that_is_not_there_at_every_step_keeps_its_last_value():
    console = paper()
    list(shown(iter([{"eval/loss": 3.0}, {}, {}]), title="SFT", total=3, numbers=["eval/loss"], console=console))
    assert "eval loss 3.00 → 3.00" in written(console)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (1, "1.00"), (0.5, "0.500"), (-0.31, "-0.310"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234")),
        *((0.01234, "0.0123"), (1e-5, "1.0e-05"), (2.5e7, "2.5e+07"), (math.inf, "inf"), (math.nan, "nan")),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (41.4, "0:41"), (725, "12:05"), (3723, "1:02:03")])
def test_durations_read_as_a_clock(seconds, text):
    assert duration(seconds) == text


def test_labels_are_words():
    assert [label(name) for name in ("kl", "nll", "eval/win_rate")] == ["KL", "nll", "eval win rate"]
