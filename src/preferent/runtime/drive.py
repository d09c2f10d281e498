"""What happens around an algorithm. Each wrapper takes an iterator of metrics and gives one.

Compose them in this order, innermost first, each where it is wanted:

    steps = limited(algorithm, 1000, start=start)
    steps = evaluated(steps, 50, measure, start=start, last=1000)
    steps = best_kept(steps, best, save_best, start=start)
    steps = stopped_early(steps, lately, patience=5, start=start)
    steps = logged(steps, *writers, start=start)
    steps = checkpointed(steps, None, {"learner": learner, "best": best, "lately": lately}, folder, start=start)

``checkpointed`` is outermost because a checkpoint promises that all that belongs to its step has happened: the best
model is kept and the metrics are written. What an interrupted run did after its last checkpoint is done again, and
the writers cut it off first; so the metrics are unbroken wherever the run was killed. ``limited`` and
``stopped_early`` never ask for a step that will not be kept, for asking changes the learner.

``start`` is the step of the checkpoint from which the run goes on, 0 for a new one; the next step is ``start + 1``.
What a wrapper remembers is an object of the caller's (``Best``), which goes into the checkpoint as a part.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from preferent.config import UsageError, did_you_mean
from preferent.runtime import checkpoint
from preferent.runtime.track import Writer, open_new_writers, open_writers
from preferent.types import Algorithm, Metrics, Stateful

SHARE = 0.02  # of the run's time that saving may take when nobody says how often to save
FIRST_SAVE = 30.0  # seconds into the run, while nobody knows how long saving takes


def limited(steps: Algorithm, n: int, *, start: int = 0) -> Algorithm:
    """The steps up to step ``n``."""
    return islice(steps, max(n - start, 0))


def evaluated(
    steps: Algorithm, every: int | None, measure: Callable[[int], Metrics], *, start: int = 0, last: int | None = None
) -> Algorithm:
    """Every so many steps (None: never), and at step ``last``, add what ``measure(step)`` says, under ``eval/``.

    ``measure`` must leave everything as it was that later steps depend on (random generators, ``train()``).
    """
    for step, metrics in enumerate(steps, start + 1):
        due = step == last or (every is not None and step % every == 0)
        yield {**metrics, **{f"eval/{name}": value for name, value in measure(step).items()}} if due else metrics


class Best:
    """The best value yet of a metric, its step, and how many values since then were not better. A part of a run."""

    def __init__(self, metric: str, direction: Literal["max", "min"]) -> None:
        self.metric, self.direction = metric, direction
        self.value: float | None = None
        self.step = 0
        self.misses = 0

    def see(self, step: int, metrics: Metrics) -> bool:
        """Whether this step is the best yet. A step without the metric says nothing; NaN is never better.

        Raises UsageError when the metric is not where it should first have been.
        """
        if self.metric not in metrics:
            self._expect_in(metrics)
            return False
        value = float(metrics[self.metric])
        sign = 1 if self.direction == "max" else -1
        better = not math.isnan(value) if self.value is None else sign * value > sign * self.value
        if better:
            self.value, self.step, self.misses = value, step, 0
        else:
            self.misses += 1
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step, "misses": self.misses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.step, self.misses = state["value"], state["step"], state["misses"]

    def _expect_in(self, metrics: Metrics) -> None:
        evaluated_now = any(name.startswith("eval/") for name in metrics)
        if self.value is not None or self.misses or (self.metric.startswith("eval/") and not evaluated_now):
            return
        hint = did_you_mean(self.metric, dict.fromkeys(metrics, ""))
        raise UsageError(f"There is no metric {self.metric}{hint}. This run has: {', '.join(sorted(metrics))}.")


def best_kept(steps: Algorithm, best: Best, save_best: Callable[[int], None], *, start: int = 0) -> Algorithm:
    """Call ``save_best(step)`` at each step that is the best yet.

    After a resume the steps since the checkpoint happen again, and so do their calls: the last one counts.
    """
    for step, metrics in enumerate(steps, start + 1):
        if best.see(step, metrics):
            save_best(step)
        yield metrics


def stopped_early(steps: Algorithm, lately: Best, patience: int, *, start: int = 0) -> Algorithm:
    """End after ``patience`` values in a row of ``lately.metric`` that were not better than the best before them."""
    step = start
    while lately.misses < patience:  # asked before each step, the first too: a run that has stopped stays so
        metrics = next(steps, None)
        if metrics is None:
            return
        step += 1
        lately.see(step, metrics)
        yield metrics


def logged(steps: Algorithm, *writers: Writer | str | Path, start: int = 0) -> Algorithm:
    """Write each step's metrics, then hand them on.

    A folder's path stands for ``metrics.jsonl`` and ``events/`` in it, opened and closed here. Raises UsageError when
    another run's metrics are there already and ``start`` is 0.
    """
    opened: list[Writer] = []
    try:
        for folder in (Path(given) for given in writers if isinstance(given, str | Path)):
            opened += open_writers(folder, start) if start else open_new_writers(folder)
        everyone = [*opened, *(given for given in writers if not isinstance(given, str | Path))]
        for step, metrics in enumerate(steps, start + 1):
            for writer in everyone:
                writer.write(step, metrics)
            yield metrics
    finally:
        for writer in opened:
            writer.close()


def checkpointed(
    steps: Algorithm, every: int | None, parts: Mapping[str, Stateful], folder: Path, *, start: int = 0, keep: int = 2
) -> Algorithm:
    """Save all ``parts`` every so many steps and after the last one, before handing the step on.

    With ``every=None`` a stopwatch decides when to save, and nothing else: as seldom as keeps saving under 2 % of the
    run's time. SIGTERM and Ctrl-C let the step under way finish, save it, then raise SystemExit(143) or
    KeyboardInterrupt; a second Ctrl-C stops at once. An exception out of ``steps`` saves nothing: a step half done
    cannot be resumed from. Raises UsageError when a checkpoint cannot be written, or later ones than ``start`` exist.
    """
    checkpoint.begin(folder, start)
    step = saved = start
    pace = Pace(every)

    def settle(due: bool) -> None:
        nonlocal saved
        if step > saved and (due or stop.signal):
            with pace.timed():
                checkpoint.save(folder, step, {name: part.state_dict() for name, part in parts.items()}, keep=keep)
            saved = step
        stop.obey()

    with _Stop() as stop:
        for metrics in steps:
            step += 1
            settle(pace.due(step))
            yield metrics
            settle(False)  # a signal may have come while the caller had the step
        settle(True)


class Pace:
    """When to save: every so many steps, or (None) as seldom as a share of the time by this clock allows."""

    def __init__(self, every: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        if every is not None and every < 1:
            raise ValueError(f"expected to save every 1 step or more, got {every}")
        self.every = every
        self.clock = clock
        self.cost = 0.0  # seconds that the last save took
        self.ended = clock()  # of the last save

    def due(self, step: int) -> bool:
        if self.every is not None:
            return step % self.every == 0
        return self.clock() - self.ended >= max(FIRST_SAVE, self.cost * (1 - SHARE) / SHARE)

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = self.clock()
        yield
        self.ended = self.clock()
        self.cost = self.ended - began


class _Stop:
    """Holds SIGTERM and Ctrl-C back until it is time to obey."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as in a job that is to outlive its terminal
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def obey(self) -> None:
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        # Not through a stream: the signal may have come while one was being written to.
        os.write(2, b"\nFinishing this step and saving a checkpoint; Ctrl-C (again) stops at once, without.\n")
