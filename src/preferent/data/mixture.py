"""Several data sets in given proportions, in an order that a place alone determines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import ceil, isfinite
from typing import Any, Generic, TypeVar, cast, overload

import torch
from torch import Tensor

from preferent.config import UsageError
from preferent.data.arrow import prompt_of
from preferent.data.batches import Batches, keyed, steps_in
from preferent.data.comparisons import by_prompt
from preferent.data.joined import joined
from preferent.data.load import Collate, Loaded
from preferent.data.reading import Report

T = TypeVar("T")
BLOCK = 1024  # places shared out at a time, exactly in proportion


def mixed(words: Sequence[str], load: Callable[[str], Loaded[T]], *, seed: int = 0) -> Loaded[T] | Mixture[T]:
    """``a.jsonl b.jsonl``: one behind the other. ``a.jsonl=0.7 b.jsonl=0.3``: drawn with these weights."""
    named = [weighed(word) for word in words]
    if not named:
        raise UsageError("There is no data: expected at least one file or Hub name.")
    lacking = [name for name, weight in named if weight is None]
    if len(lacking) not in (0, len(named)):
        raise UsageError(f"{lacking[0]}: no weight, but others have one. Give each a weight, as in {lacking[0]}=0.5.")
    parts = [load(name) for name, _ in named]
    if not lacking:
        return Mixture(parts, [weight for _, weight in named if weight is not None], seed)
    rows = joined([part.rows for part in parts])
    return Loaded(rows, tuple(report for part in parts for report in part.report), parts[0].collate)


def weighed(word: str) -> tuple[str, float | None]:
    """``prefs.jsonl=0.7`` → name and weight. A name may itself hold the sign, if no number follows it."""
    name, sign, number = word.rpartition("=")
    try:
        weight = float(number) if sign and name else None
    except ValueError:
        weight = None
    if weight is None:
        return word, None
    if not (isfinite(weight) and weight > 0):
        raise UsageError(f"{word}: a weight is a number above 0.")
    return name, weight


@dataclass
class Mixture(Sequence[T], Generic[T]):
    """Place i, for every i ≥ 0, holds a row that depends on (seed, i) alone: a position is all the state there is.

    Places are shared out in blocks: each block holds every data set in proportion (the odd place is settled by a keyed
    draw, so that proportions are exact on average), in keyed order. Each data set is gone through epoch by epoch, all
    its rows once before any of them again. ``len`` is the number of rows in all; places go on beyond it.
    """

    parts: Sequence[Sequence[T]]
    weights: Sequence[float]
    seed: int = 0
    # How many places of the blocks before each block went to each part; the block and the orders last used.
    _before: list[tuple[int, ...]] = field(init=False, repr=False, compare=False)
    _block: tuple[int, list[int], list[int]] | None = field(default=None, init=False, repr=False, compare=False)
    _orders: dict[int, tuple[int, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.weights) or not self.parts:
            raise UsageError(f"A mixture of {len(self.parts)} data sets has {len(self.weights)} weights.")
        if not all(weight > 0 for weight in self.weights) or not all(len(part) for part in self.parts):
            raise UsageError("A mixture needs weights above 0 and data sets with rows.")
        self._before = [(0,) * len(self.parts)]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @overload
    def __getitem__(self, i: int, /) -> T: ...
    @overload
    def __getitem__(self, i: slice, /) -> list[T]: ...
    def __getitem__(self, i: int | slice, /) -> T | list[T]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        if i < 0:
            raise IndexError(f"a mixture begins at place 0, got {i}")
        part, row = self.number(i)
        return self.parts[part][row]

    def number(self, i: int) -> tuple[int, int]:
        """Which part's which row stands at place i: the same row may stand at several."""
        part, draw = self.drawn(i)
        return part, self.row(part, draw)

    def drawn(self, i: int) -> tuple[int, int]:
        """Which part place i goes to, and how many places went there before it."""
        block, place = divmod(i, BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self.shared_out(block))
        _, parts, earlier = self._block
        return parts[place], earlier[place]

    def shared_out(self, block: int) -> tuple[list[int], list[int]]:
        """For each place of a block: its part, and how many places of all blocks that part had before it."""
        while len(self._before) <= block:
            counts = self.counts(len(self._before) - 1)
            self._before.append(tuple(a + b for a, b in zip(self._before[-1], counts, strict=True)))
        dealt = [part for part, count in enumerate(self.counts(block)) for _ in range(count)]
        parts = [dealt[k] for k in order(BLOCK, self.seed, "block", block).tolist()]
        had, earlier = list(self._before[block]), []
        for part in parts:
            earlier.append(had[part])
            had[part] += 1
        return parts, earlier

    def counts(self, block: int) -> list[int]:
        """Places of a block for each part: systematic sampling, whose expectation is exactly proportional."""
        offset = keyed(self.seed, "share", block) / 2**63
        total = sum(self.weights)
        borders = [ceil(BLOCK * reached / total - offset) for reached in accumulate(self.weights, initial=0.0)]
        borders[0], borders[-1] = 0, BLOCK
        return [max(0, b - a) for a, b in pairwise(borders)]

    def row(self, part: int, draw: int) -> int:
        """Which row a part's draw-th draw takes."""
        epoch, place = divmod(draw, len(self.parts[part]))
        if part not in self._orders or self._orders[part][0] != epoch:
            self._orders[part] = (epoch, order(len(self.parts[part]), self.seed, "part", part, epoch))
        return int(self._orders[part][1][place])

    def by_prompt(self) -> list[list[Any]]:
        """As many places as there are rows, by their prompts: in memory, for a row may stand at several."""
        return by_prompt(cast(Sequence[Any], [self[i] for i in range(len(self))]), prompt_of)

    @property
    def report(self) -> tuple[Report, ...]:
        return tuple(report for part in self.parts if isinstance(part, Loaded) for report in part.report)

    def batches(self, size: int, *, seed: int = 0, epochs: float = 1.0, steps: int | None = None) -> Batches[T, Any]:
        """Batches in the mixture's own order, which its own seed keys; ``epochs`` of as many places as it has rows."""
        first = self.parts[0]
        collate: Collate = first.collate if isinstance(first, Loaded) else list
        wanted = steps if steps is not None else steps_in(epochs, len(self), size)
        return Batches(Endless(self), size, collate, seed=seed, steps=wanted, shuffle=False)


@dataclass(frozen=True)
class Endless(Sequence[T], Generic[T]):
    """A mixture whose places never start again from 0."""

    mixture: Mixture[T]

    def __len__(self) -> int:
        return sys.maxsize

    @overload
    def __getitem__(self, i: int, /) -> T: ...
    @overload
    def __getitem__(self, i: slice, /) -> list[T]: ...
    def __getitem__(self, i: int | slice, /) -> T | list[T]:
        return self.mixture[i]

    def number(self, i: int) -> tuple[int, int]:
        return self.mixture.number(i)


def order(n: int, *key: object) -> Tensor:
    """[n] a keyed permutation."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(keyed(*key)))
