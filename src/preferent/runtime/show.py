"""What a person sees of a run: one live line on a terminal, plain lines now and then in a file. It only watches.

    2/6 SFT            ━━━━━━━━╸━━━  68 %  nll 1.32               10,200 tok/s  0:31 left
    2/6 SFT            ━━━━━━━━━━━━ 100 %  nll 5.21 → 1.02         9,870 tok/s  0:41

A finished line shows where each number came from and where it went. Everything goes to stderr, so that a command's
results on stdout can be piped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from preferent.types import Algorithm, Metrics

QUIET = 30.0  # seconds after which a file gets a line, even when no tenth of the way was passed
TITLE, BAR, PACE = 20, 12, 15  # characters on a terminal
NAMES = {"kl": "KL"}


def shown(
    steps: Algorithm,
    *,
    title: str,
    total: int | None = None,
    start: int = 0,
    numbers: Sequence[str] = (),
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Algorithm:
    """The same steps, while a person is told of them.

    ``numbers`` names the few metrics that matter; ``metrics["tokens"]`` gives tokens/s, over the whole time so far;
    ``total`` is the last step, if known, and ``start`` the step from which a resumed run goes on.
    """
    console = console or Console(stderr=True)
    live = console.is_terminal and not console.is_dumb_terminal
    return (_live if live else _lines)(steps, Seen(title, total, tuple(numbers), clock, start), console)


@dataclass
class Seen:
    """What has been seen of a run so far, and how it reads."""

    title: str
    total: int | None
    numbers: tuple[str, ...]
    clock: Callable[[], float]
    start: int = 0
    step: int = field(init=False)
    how: str = ""  # "" under way, then "done" or "stopped"
    tokens: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    began: float = field(init=False)
    now: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.now = self.clock()
        self.step = self.start

    def add(self, metrics: Metrics) -> None:
        self.now = self.clock()
        self.step += 1
        self.tokens += metrics.get("tokens", 0.0)
        said = {name: metrics[name] for name in self.numbers if name in metrics}
        self.first, self.last = said | self.first, self.last | said

    def values(self) -> list[str]:
        """The numbers now (nll 1.32); once it is over, with their course (nll 5.21 → 1.32)."""
        return [
            f"{label(name)} {number(self.first[name]) + ' → ' if self.how else ''}{number(self.last[name])}"
            for name in self.numbers
            if name in self.last
        ]

    def pace(self) -> str:
        seconds = self.now - self.began
        return f"{self.tokens / seconds:,.0f} tok/s" if self.tokens and seconds > 0 else ""

    def when(self) -> str:
        """Time left at the mean pace of this sitting, counting down between steps; what it took, once it is over."""
        if self.how:
            return duration(self.now - self.began)
        if self.total is None or self.step == self.start:
            return duration(self.clock() - self.began)
        each = (self.now - self.began) / (self.step - self.start)
        return f"{duration(max(0.0, (self.total - self.step) * each - (self.clock() - self.now)))} left"

    def line(self) -> str:
        of = f"/{self.total:,}" if self.total else ""
        parts = [self.title, self.how, f"step {self.step:,}{of}", *self.values(), self.pace(), self.when()]
        return "  ".join(part for part in parts if part)


def number(value: float) -> str:
    """Three significant digits: 0.0123, 1.32, 1,200; very small and very large ones as 1.2e-05."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return f"{value:.0f}"
    if not 1e-3 <= size < 1e6:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(size)))}f}"


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

    def say() -> None:
        console.print(seen.line(), markup=False, highlight=False, soft_wrap=True)

    said_at, tenth = seen.began, -1
    try:
        for metrics in steps:
            seen.add(metrics)
            passed = 10 * seen.step // seen.total if seen.total else 0
            if (passed > tenth or seen.now - said_at >= QUIET) and seen.step != seen.total:
                say()
                said_at, tenth = seen.now, passed
            yield metrics
        seen.how = "done"
    finally:
        seen.how = seen.how or "stopped"
        say()


# --- a terminal ------------------------------------------------------------------------------------


def _live(steps: Algorithm, seen: Seen, console: Console) -> Algorithm:
    columns = (TextColumn(f"{seen.title:<{TITLE}}", markup=False), BarColumn(bar_width=BAR), _Rest(seen, console))
    redirect = sys.stdout.isatty()  # a piped stdout is left alone
    with Progress(*columns, console=console, refresh_per_second=4, redirect_stdout=redirect) as progress:
        bar = progress.add_task("", total=seen.total, completed=seen.start)
        try:
            for metrics in steps:
                seen.add(metrics)
                progress.update(bar, completed=seen.step)
                yield metrics
            seen.how = "done"
            progress.update(bar, total=max(1, seen.step), completed=max(1, seen.step))
        finally:
            seen.how = seen.how or "stopped"


class _Rest(ProgressColumn):
    """What stands to the right of the bar, cut to the width there is: first the pace goes, then the last numbers."""

    def __init__(self, seen: Seen, console: Console) -> None:
        super().__init__()
        self.seen, self.console = seen, console

    def render(self, task: Task) -> Text:
        seen, when = self.seen, self.seen.when()
        share = f"{100 * seen.step // seen.total} %" if seen.total else f"{seen.step:,}"
        room = self.console.width - max(TITLE, len(seen.title)) - BAR - 2 - max(5, len(share)) - 4 - len("00:00 left")
        values = seen.values()
        while len("  ".join(values)) > room and values:
            values.pop()
        text = "  ".join(values)
        if seen.pace() and len(text) + PACE <= room:
            text = f"{text:<{min(room - PACE, 44)}}{seen.pace():>{PACE}}"
        return Text(f"{share:>5}  {text:<{min(room, 44)}}  {when}", no_wrap=True, overflow="ellipsis")
