"""Rows in memory and on disk as one sequence, a selection of them, and them by prompt: all as numbers of rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Generic, TypeVar, overload

import numpy as np

from preferent.data.arrow import ArrowRows, parts
from preferent.data.batches import keyed

T = TypeVar("T")


def joined(found: Sequence[Sequence[T]]) -> Sequence[T]:
    """Sequences of rows one behind the other; where all are in memory, a tuple."""
    if all(isinstance(part, tuple) for part in found):
        return tuple(row for part in found for row in part)
    inner = [one for part in found for one in (part.parts if isinstance(part, Joined) and part.whole else [part])]
    return Joined(tuple(inner), np.arange(sum(map(len, inner))))


@dataclass(frozen=True, eq=False)
class Joined(Sequence[T], Generic[T]):
    """Rows ``places`` of several sequences, counted through all of them: eight bytes in memory for each row."""

    parts: tuple[Sequence[T], ...]
    places: Any  # [n] numbers

    @cached_property
    def starts(self) -> list[int]:
        return list(accumulate(map(len, self.parts), initial=0))

    @property
    def whole(self) -> bool:
        return len(self.places) == self.starts[-1] and bool((self.places == np.arange(len(self.places))).all())

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int, /) -> T: ...
    @overload
    def __getitem__(self, i: slice, /) -> Joined[T]: ...
    def __getitem__(self, i: int | slice, /) -> T | Joined[T]:
        if isinstance(i, slice):
            return self.picked(i)
        place = int(self.places[i])
        part = bisect_right(self.starts, place) - 1
        return self.parts[part][place - self.starts[part]]

    def picked(self, rows: Any) -> Joined[T]:
        """The rows under these numbers, in their order."""
        return replace(self, places=self.places[rows])

    def by_prompt(self) -> Groups[T]:
        """``batches.by_prompt``: found by checksums, without reading rows."""
        _, first, prompt = np.unique(self.asked(), return_index=True, return_inverse=True)
        order = np.argsort(first[prompt], kind="stable")
        sizes = np.bincount(prompt)[np.argsort(first)]
        return Groups(self.picked(order), np.concatenate([[0], np.cumsum(sizes)]))

    def asked(self) -> Any:
        """[n] a checksum of each row's prompt."""
        return np.concatenate([checksums(part) for part in self.parts])[self.places]


def checksums(rows: Sequence[Any]) -> Any:
    if isinstance(rows, ArrowRows | Joined):
        return rows.asked()
    return np.array([keyed(parts(row)[0].tokens) for row in rows], np.uint64)


@dataclass(frozen=True, eq=False)
class Groups(Sequence[list[T]], Generic[T]):
    """Rows in groups: group i is rows[starts[i]:starts[i + 1]], read when it is asked for."""

    rows: Sequence[T]
    starts: Any  # [n + 1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[T]]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, i: int, /) -> list[T]: ...
    @overload
    def __getitem__(self, i: slice, /) -> list[list[T]]: ...
    def __getitem__(self, i: int | slice, /) -> list[T] | list[list[T]]:
        if isinstance(i, slice):
            return [self[group] for group in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} groups, got {i}")
        group = range(len(self))[i]
        return list(self.rows[int(self.starts[group]) : int(self.starts[group + 1])])
