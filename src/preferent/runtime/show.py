"""What a person sees of a run: one live line on a terminal, plain lines now and then in a file. It only watches.

    2/6 SFT            ━━━━━━━━╸━━━  68 %  nll 1.32               10,200 tok/s  0:31 left
    2/6 SFT            ━━━━━━━━━━━━ 100 %  nll 5.21 → 1.02         9,870 tok/s  0:41

A finished line shows where each number came from and where it went. Everything goes to stderr, so that a command's
results on stdout can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from preferent.types import Algorithm, Metrics

QUIET = 30.0  # seconds after which a file gets a line, even when no tenth of the way was passed
NAMES = {"kl": "KL"}


def shown(
    steps: Algorithm,
    *,
    title: str,
    total: int | None = None,
    numbers: Sequence[str] = (),
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Algorithm:
    """The same steps, while a person is told of them.

    ``numbers`` names the few metrics that matter; ``metrics["tokens"]`` gives tokens/s, over the whole time so far;
    ``metrics["step"]``, where there is one, says how far a resumed run is; ``total`` is the last step, if known.
    """
    console = console or Console(stderr=True)
    live = console.is_terminal and not console.is_dumb_terminal
    return (_live if live else _lines)(steps, Seen(title, total, tuple(numbers), clock), console)


@dataclass
class Seen:
    """What has been seen of a run so far, and how it reads."""

    title: str
    total: int | None
    numbers: tuple[str, ...]
    clock: Callable[[], float]
    step: int = 0
    steps_here: int = 0  # by this process; a resumed run starts at a later step
    tokens: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    began: float = field(init=False)
    now: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.now = self.clock()

    def add(self, metrics: Metrics) -> None:
        self.now = self.clock()
        self.steps_here += 1
        self.step = int(metrics.get("step", self.step + 1))
        self.tokens += metrics.get("tokens", 0.0)
        said = {name: metrics[name] for name in self.numbers if name in metrics}
        self.first, self.last = said | self.first, self.last | said

    def values(self, *, course: bool) -> str:
        """ "nll 1.32  KL 0.04", or with its course "nll 5.21 → 1.32"."""
        return "  ".join(
            f"{label(name)} {number(self.first[name]) + ' → ' if course else ''}{number(self.last[name])}"
            for name in self.numbers
            if name in self.last
        )

    def pace(self) -> str:
        seconds = self.now - self.began
        return f"{self.tokens / seconds:,.0f} tok/s" if self.tokens and seconds > 0 else ""

    def seconds_left(self) -> float | None:
        """By the mean pace of this process; None while nothing is known."""
        if self.total is None or not self.steps_here:
            return None
        left = (self.total - self.step) * (self.now - self.began) / self.steps_here
        return max(0.0, left - (self.clock() - self.now))

    def line(self, how: str) -> str:
        """A plain line; ``how`` is "" under way, "done" or "stopped" at the end."""
        of = f"/{self.total:,}" if self.total else ""
        left = self.seconds_left()
        when = duration(self.now - self.began) if how or left is None else f"{duration(left)} left"
        parts = [self.title, how, f"step {self.step:,}{of}", self.values(course=bool(how)), self.pace(), when]
        return "  ".join(part for part in parts if part)


def number(value: float) -> str:
    """Three significant digits: 0.0123, 1.32, 1,200; very small and very large ones as 1.2e-05."""
    if value == int(value) if abs(value) < 1e15 else False:
        return f"{int(value):,}" if abs(value) < 1e6 else f"{value:.2e}"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}" if abs(value) < float("inf") else str(value)
    digits = 2 if abs(value) >= 1 else 3 if abs(value) >= 0.1 else 4
    return f"{value:,.{max(0, digits - (len(str(int(abs(value)))) - 1))}f}"


def duration(seconds: float) -> str:
    """0:41, 12:05, 1:02:03."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def label(name: str) -> str:
    """A metric's name as a person reads it: "eval/win_rate" is "eval win rate"."""
    return NAMES.get(name, name.replace("/", " ").replace("_", " "))


# --- a file ----------------------------------------------------------------------------------------


def _lines(steps: Algorithm, seen: Seen, console: Console) -> Algorithm:
    """The first and the last step always; between them every tenth of the way, or when it was quiet for long."""

    def say(how: str) -> None:
        console.print(seen.line(how), markup=False, highlight=False, soft_wrap=True)

    said_at, tenth, how = seen.began, -1, "stopped"
    try:
        for metrics in steps:
            seen.add(metrics)
            passed = 10 * seen.step // seen.total if seen.total else 0
            if passed > tenth or seen.now - said_at >= QUIET:
                say("")
                said_at, tenth = seen.now, passed
            yield metrics
        how = "done"
    finally:
        say(how)


# --- a terminal ------------------------------------------------------------------------------------


def _live(steps: Algorithm, seen: Seen, console: Console) -> Algorithm:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[share]:>5}  {task.fields[text]}", markup=False),
        _Time(seen),
    )
    redirect = sys.stdout.isatty()  # a piped stdout is left alone
    with Progress(*columns, console=console, refresh_per_second=4, redirect_stdout=redirect) as progress:
        bar = progress.add_task(f"{seen.title:<20}", total=seen.total, share="", text="")
        try:
            for metrics in steps:
                seen.add(metrics)
                progress.update(bar, completed=seen.step, share=_share(seen), text=_text(seen, course=False))
                yield metrics
            progress.update(bar, total=max(1, seen.step), completed=max(1, seen.step))
        finally:
            progress.update(bar, share=_share(seen), text=_text(seen, course=True))


def _share(seen: Seen) -> str:
    return f"{100 * seen.step // seen.total} %" if seen.total else f"{seen.step:,}"


def _text(seen: Seen, *, course: bool) -> str:
    return f"{seen.values(course=course):<34}  {seen.pace():>13}"


class _Time(ProgressColumn):
    """Time left, counting down between steps; the time it took once it is over."""

    max_refresh = 0.2

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def render(self, task: Task) -> Text:
        left = None if task.finished else self.seen.seconds_left()
        took = self.seen.now if task.finished else self.seen.clock()
        return Text(duration(took - self.seen.began) if left is None else f"{duration(left)} left")
