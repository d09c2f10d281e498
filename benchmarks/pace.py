"""One side of a race: it makes a step when it is told to, and says how long that took and how much memory.

Nothing but the standard library, for it runs in the peer's environment too. What the other side hears are lines of JSON
on the standard output; whatever else is printed goes to the standard error.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(line: str) -> int:
    """Bytes, of a line of the process's status: VmRSS is held now, VmHWM was at the peak."""
    said = next(each for each in STATUS.read_text().splitlines() if each.startswith(line))
    return int(said.split()[1]) * 1024


def length(first: Any, low: int, high: int) -> Any:
    """How long a reply is, by its first token: from ``low`` to ``high`` tokens, drawn alike on both sides."""
    return low + first * 7919 % (high - low + 1)


class Pace:
    """``ready`` once all is loaded; then, for each step, ``turn`` before it and ``done`` after it."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.base = 0
        self.began = 0.0

    def say(self, **said: Any) -> None:
        print(json.dumps(said), file=self.out, flush=True)

    def ready(self, **said: Any) -> None:
        self.base = memory("VmRSS")
        self.say(ready=True, base=self.base, **said)

    def turn(self) -> None:
        """Wait for a word. The end of the words is the end of the process."""
        if not sys.stdin.readline():
            os._exit(0)
        CLEAR.write_text("5")  # the peak is from here on
        self.began = time.perf_counter()

    def done(self, **said: Any) -> None:
        seconds = time.perf_counter() - self.began
        self.say(seconds=seconds, peak=memory("VmHWM") - self.base, **said)
