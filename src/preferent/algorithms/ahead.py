"""Drawing ahead: jobs that begin a fixed number of turns before they are wanted, and data that remembers what is used.

The lag is fixed, so what a run learns does not depend on whether drawing or learning is faster. Other than that,
results are those of one thread: a job has its own copy of what it needs, and jobs run one after the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from preferent.types import Stateful

T = TypeVar("T")


class Source(Stateful, Protocol):
    """Batches, and how far they have been handed out."""

    def __iter__(self) -> Iterator[Any]: ...


class Ahead:
    """Batches that are taken before they are learned from: the state is that of those which were.

    So a run that goes on from a checkpoint draws again what was under way, and neither skips nor repeats a prompt.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.before: deque[Mapping[str, Any]] = deque()  # the source's state before each batch that is under way
        self.lock = threading.Lock()
        self.drawing = threading.Lock()  # held while replies are drawn and scored: what draws is used by one at a time

    def __iter__(self) -> Iterator[Any]:
        coming = iter(self.source)
        while True:
            with self.lock:
                state = dict(self.source.state_dict())
                batch = next(coming, None)
                if batch is None:
                    return
                self.before.append(state)
            yield batch

    def consumed(self, n: int) -> None:
        """The oldest ``n`` are learned from now; the next checkpoint comes when they have been."""
        with self.lock:
            for _ in range(n):
                self.before.popleft()

    def state_dict(self) -> Mapping[str, Any]:
        with self.lock:
            return self.before[0] if self.before else self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.source.load_state_dict(state)


def lagged(begin: Callable[[], Callable[[], T | None]], lag: int) -> Iterator[T]:
    """What jobs give, in turn, up to the first None. ``begin`` makes a job, ``lag`` turns early.

    With a lag the jobs run in a thread of their own, one after the other; without, right here when they are wanted.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="drawing") if lag else None
    waiting: deque[Callable[[], T | None]] = deque()
    try:
        while True:
            while len(waiting) <= lag:
                job = begin()
                waiting.append(job if pool is None else pool.submit(job).result)
            done = waiting.popleft()()
            if done is None:
                return
            yield done
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)  # after the job under way
