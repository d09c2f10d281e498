"""Rows read while they are needed: for files larger than memory. Shuffled within a buffer, and restartable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from preferent.config import UsageError
from preferent.data.batches import keyed
from preferent.data.columns import Kind
from preferent.data.faults import plain_name
from preferent.data.load import COLLATE, Collate, Source
from preferent.data.reading import Reader, Reading, Report, Tally
from preferent.data.rows import rows
from preferent.data.template import Template

T = TypeVar("T")


def stream(
    source: Source,
    template: Template | Any,
    kind: Kind,
    reading: Reading = Reading(),
    *,
    seed: int = 0,
    buffer: int = 1024,
) -> Stream[Any]:
    """``load`` for large files. ``buffer`` rows are in memory at a time; 1 keeps the order of the file."""
    names = [str(source)] if isinstance(source, str | Path) else [str(one) for one in source]
    if reading.limit is not None:
        raise UsageError("A stream has no limit: give the number of steps.")
    reader = Reader(template if isinstance(template, Template) else Template(template), kind, reading)
    return Stream(names, reader, COLLATE[kind], seed, buffer)


@dataclass
class Stream(Generic[T]):
    """Rows without end, epoch after epoch, each in an order keyed by (seed, epoch).

    The state is how many rows of which epoch were drawn from the buffer, those left out included. Going on from it
    reads the file up to there again, without tokenising, and then yields what would have come next, bit for bit.
    """

    sources: list[str]
    reader: Reader
    collate: Collate = list
    seed: int = 0
    buffer: int = 1024
    epoch: int = field(default=0, init=False)
    position: int = field(default=0, init=False)
    report: tuple[Report, ...] = field(default=(), init=False)  # of the last whole epoch

    def __iter__(self) -> Iterator[T]:
        while True:
            yield from self.once()
            self.epoch, self.position = self.epoch + 1, 0

    def once(self) -> Iterator[T]:
        """The rest of the epoch."""
        begun = self.position
        tally = Tally(" + ".join(self.sources), "-".join(map(plain_name, self.sources)), self.reader.reading)
        found = shuffled(chain.from_iterable(map(rows, self.sources)), self.buffer, self.seed, self.epoch)
        for row in islice(found, begun, None):
            self.position += 1
            noun = tally.converted(self.reader, row)
            if noun is not None:
                yield noun
        # The end of an epoch that was begun in the middle says nothing of the file as a whole.
        if not begun:
            self.report = (tally.report(),)

    def batches(self, size: int, *, steps: int) -> StreamBatches[T]:
        """``steps`` batches: a stream does not know how many make an epoch."""
        return StreamBatches(self, size, steps)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.position = int(state["epoch"]), int(state["position"])


@dataclass
class StreamBatches(Generic[T]):
    """Batches of a stream; the state is that of the stream, and how many batches came."""

    stream: Stream[T]
    size: int
    steps: int
    position: int = field(default=0, init=False)

    def __len__(self) -> int:
        """Steps in all, those behind us included."""
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        coming = iter(self.stream)
        while self.position < self.steps:
            batch = self.stream.collate(list(islice(coming, self.size)))
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "stream": self.stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])
        self.stream.load_state_dict(state["stream"])


def shuffled(items: Iterable[T], buffer: int, *key: object) -> Iterator[T]:
    """Each item once, drawn from the ``buffer`` next ones by a keyed choice."""
    held: list[T] = []
    draws = count()
    for item in items:
        held.append(item)
        if len(held) >= buffer:
            yield taken(held, keyed(*key, next(draws)))
    while held:
        yield taken(held, keyed(*key, next(draws)))


def taken(held: list[T], key: int) -> T:
    at = key % len(held)
    held[at], held[-1] = held[-1], held[at]
    return held.pop()
