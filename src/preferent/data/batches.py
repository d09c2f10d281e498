"""In which order a run goes through its data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from preferent.config import UsageError

MOST = 10**18  # steps, far beyond what anybody waits for

Row = TypeVar("Row")
Out = TypeVar("Out")


def in_order(rows: Sequence[Row], size: int, collate: Callable[[list[Row]], Out]) -> Iterator[Out]:
    """Every row once, ``size`` at a time, for evaluation."""
    for first in range(0, len(rows), size):
        yield collate([rows[i] for i in range(first, min(first + size, len(rows)))])


@dataclass(frozen=True)
class Chosen(Sequence[Row], Generic[Row]):
    """The rows at some places, without a copy of them: they may be on disk."""

    rows: Sequence[Row]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int, /) -> Row: ...
    @overload
    def __getitem__(self, i: slice, /) -> Chosen[Row]: ...
    def __getitem__(self, i: int | slice, /) -> Row | Chosen[Row]:
        return Chosen(self.rows, self.places[i]) if isinstance(i, slice) else self.rows[self.places[i]]


def steps_in(epochs: float, rows: int, size: int) -> int:
    """How many batches of ``size`` make so many epochs, at least 1. Raises UsageError for more than can be counted."""
    steps = epochs * rows / size
    if steps >= MOST:
        raise UsageError(f"{epochs:g} epochs of {rows} rows make more steps than can be counted: give fewer.")
    return max(1, round(steps))


@dataclass
class Batches(Generic[Row, Out]):
    """Batches of ``size`` rows in an order keyed by (seed, epoch), ``steps`` of them or ``epochs`` times all rows.

    The only state is the position, so iterating again goes on where a checkpoint left off. The last batch of an
    epoch takes its missing rows from the next one: every step sees ``size`` prompts, and each row comes once an epoch.
    """

    rows: Sequence[Row]
    size: int
    collate: Callable[[list[Row]], Out]
    seed: int = 0
    epochs: float = 1.0
    steps: int | None = None
    shuffle: bool = True
    position: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps >= MOST:
            raise UsageError(f"{self.steps:.3g} steps are more than can be counted: give fewer.")

    def __len__(self) -> int:
        """Steps in all, those behind us included."""
        return self.steps if self.steps is not None else steps_in(self.epochs, len(self.rows), self.size)

    def __iter__(self) -> Iterator[Out]:
        while self.position < len(self):
            batch = self.at(self.position)
            self.position += 1
            yield batch

    def at(self, step: int) -> Out:
        """The batch that stands at this position, counted from 0."""
        first = step * self.size
        return self.collate([self.rows[self.index(i)] for i in range(first, first + self.size)])

    def with_news(self) -> list[int]:
        """The positions at which some row comes for the first time in the run: these batches hold all it ever sees."""
        every = len(getattr(self.rows, "mixture", self.rows))  # a mixture has rows without end, of so many
        number = getattr(
            self.rows, "number", int
        )  # of the row at a place: read from disk, it is a new object each time
        seen: set[object] = set()
        found: list[int] = []
        for step in range(len(self)):
            if len(seen) >= every:
                break
            rows = {number(self.index(i)) for i in range(step * self.size, (step + 1) * self.size)}
            if rows - seen:
                seen |= rows
                found.append(step)
        return found

    def index(self, i: int) -> int:
        """Which row comes at place i of the run, counted over all epochs."""
        epoch, place = divmod(i, len(self.rows))
        if not self.shuffle:
            return place
        if self._order is None or self._order[0] != epoch:
            key = torch.Generator().manual_seed(keyed(self.seed, epoch))
            self._order = (epoch, torch.randperm(len(self.rows), generator=key))
        return int(self._order[1][place])

    _order: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def keyed(*parts: object) -> int:
    """A 63-bit key for a generator, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
