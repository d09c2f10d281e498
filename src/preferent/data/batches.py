"""From prompts with their replies to tensors, and in which order a run goes through its data."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from preferent.config import UsageError
from preferent.types import Demonstration, Episode, Pairs, Preference, Prompt, Ranking, Replies, Reply

MOST = 10**18  # steps, far beyond what anybody waits for

Row = TypeVar("Row")
Out = TypeVar("Out")
Opinion = Preference[Prompt, Reply] | Ranking[Prompt, Reply]


def replies(groups: Sequence[tuple[Prompt, Sequence[Reply | Episode]]]) -> Replies:
    """Prompts, each with the replies to it."""
    flat = [reply for _, group in groups for reply in group]
    prompt_of = [i for i, (_, group) in enumerate(groups) for _ in group]
    lengths = [len(reply.tokens) for reply in flat]
    present = torch.arange(max(lengths, default=0)) < torch.tensor(lengths, dtype=torch.long)[:, None]
    return Replies(
        prompts=padded([prompt.tokens for prompt, _ in groups]),
        prompt_length=torch.tensor([len(prompt.tokens) for prompt, _ in groups]),
        prompt_of=torch.tensor(prompt_of, dtype=torch.long),
        tokens=padded([reply.tokens for reply in flat]),
        present=present,
        learn=padded([reply.learn for reply in flat]).bool(),
    )


def demonstrations(rows: Sequence[Demonstration]) -> Replies:
    """Each prompt with its one reply."""
    return replies([(row.prompt, [row.reply]) for row in rows])


def episodes(groups: Sequence[Sequence[Episode]]) -> Replies:
    """Groups as a sampler gives them: at least one episode for each prompt."""
    return replies([(group[0].prompt, group) for group in groups])


def logprobs(groups: Sequence[Sequence[Episode]]) -> Tensor:
    """[r, t]: what the sampler said of its tokens, aligned with ``episodes(groups).tokens``."""
    return padded([episode.logprobs for group in groups for episode in group], torch.float32)


def pairs(opinions: Sequence[Opinion], *, margins: Mapping[float, float] | None = None) -> Pairs:
    """Preferences and rankings over a batch in which a prompt, and a reply to it, stands once.

    A ranking becomes all its pairs, weighing one together (InstructGPT's K-wise loss). ``margins`` gives the margin
    for each strength (Llama 2, table 27); without it, margins are the data's column ``margin``, or 0. Raises UsageError
    for a strength not among them.
    """
    groups: dict[tuple[int, ...], tuple[Prompt, dict[tuple[int, ...], Reply]]] = {}
    for opinion in opinions:
        prompt = opinion.comparison.context
        _, known = groups.setdefault(prompt.tokens, (prompt, {}))
        for option in opinion.comparison.options:
            known.setdefault(option.tokens, option)
    row = {key: i for i, key in enumerate((prompt, reply) for prompt, (_, known) in groups.items() for reply in known)}
    edges = [
        (row[context, a.tokens], row[context, b.tokens], choice, margin, weight)
        for opinion in opinions
        for context in [opinion.comparison.context.tokens]
        for a, b, choice, margin, weight in compared(opinion, margins or {})
    ]
    better, worse, choice, margin, weight = zip(*edges, strict=True) if edges else ((),) * 5
    return Pairs(
        replies([(prompt, list(known.values())) for prompt, known in groups.values()]),
        better=torch.tensor(better, dtype=torch.long),
        worse=torch.tensor(worse, dtype=torch.long),
        choice=torch.tensor(choice, dtype=torch.float32),
        margin=torch.tensor(margin, dtype=torch.float32),
        weight=torch.tensor(weight, dtype=torch.float32),
    )


def by_prompt(opinions: Sequence[Opinion]) -> list[list[Opinion]]:
    """All opinions on replies to one prompt together, so that a batch holds each prompt and reply once."""
    groups: dict[tuple[int, ...], list[Opinion]] = {}
    for opinion in opinions:
        groups.setdefault(opinion.comparison.context.tokens, []).append(opinion)
    return list(groups.values())


def grouped_pairs(groups: Sequence[Sequence[Opinion]], *, margins: Mapping[float, float] | None = None) -> Pairs:
    """``pairs`` of what ``by_prompt`` gives."""
    return pairs([opinion for group in groups for opinion in group], margins=margins)


def compared(opinion: Opinion, margins: Mapping[float, float]) -> Iterator[tuple[Reply, Reply, float, float, float]]:
    """(better, worse, P(better is better), margin, weight) for each pair of options; equal ranks are ties.

    Of two options that a choice among several gives no chance at all, it says nothing: they are no pair.
    """
    options = opinion.comparison.options
    every = list(combinations(range(len(options)), 2))
    if isinstance(opinion, Ranking):
        for i, j in every:
            a, b = (i, j) if opinion.ranks[i] <= opinion.ranks[j] else (j, i)
            choice = 0.5 if opinion.ranks[i] == opinion.ranks[j] else 1.0
            yield options[a], options[b], choice, 0.0, 1 / len(every)
        return
    told = [(i, j) for i, j in every if opinion.choice[i] + opinion.choice[j] > 0]
    own = float(opinion.comparison.context.info.get("margin") or 0.0)  # a column that says it outright, as TRL's does
    margin = margin_of(opinion.strength, margins) if margins else own
    for i, j in told:
        a, b = (i, j) if opinion.choice[i] >= opinion.choice[j] else (j, i)
        choice = opinion.choice[a] / (opinion.choice[a] + opinion.choice[b])
        yield options[a], options[b], choice, margin, 1 / len(told)


def margin_of(strength: float | None, margins: Mapping[float, float]) -> float:
    """How much higher the better one should score; 0 where nobody said how much better it is."""
    if strength is None:
        return 0.0
    if strength not in margins:
        known = ", ".join(f"{one:g}" for one in sorted(margins))
        raise UsageError(f"A preference of strength {strength:g} has no margin: --margins gives them for {known}.")
    return margins[strength]


def moved(batch: Any, device: torch.device) -> Any:
    """The same frozen dataclass with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    changes = {f.name: moved(getattr(batch, f.name), device) for f in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **changes)


def padded(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.long) -> Tensor:
    """[n, longest], zero behind each row's end."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype).reshape(len(rows), width)


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
