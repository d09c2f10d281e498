"""From prompts with their replies to tensors, and in which order a run goes through its data."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from preferent.types import Demonstration, Episode, Pairs, Preference, Prompt, Ranking, Replies, Reply

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
    for each strength (Llama 2, table 27); without it, margins are 0.
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
    better, worse, choice, margin, weight = zip(*edges, strict=True)
    return Pairs(
        replies([(prompt, list(known.values())) for prompt, known in groups.values()]),
        better=torch.tensor(better),
        worse=torch.tensor(worse),
        choice=torch.tensor(choice),
        margin=torch.tensor(margin),
        weight=torch.tensor(weight),
    )


def compared(opinion: Opinion, margins: Mapping[float, float]) -> Iterator[tuple[Reply, Reply, float, float, float]]:
    """(better, worse, P(better is better), margin, weight) for each pair of options; equal ranks are ties."""
    options = opinion.comparison.options
    for i, j in every_pair(len(options)):
        weight = 2 / (len(options) * (len(options) - 1))
        if isinstance(opinion, Ranking):
            a, b = (i, j) if opinion.ranks[i] <= opinion.ranks[j] else (j, i)
            choice = 0.5 if opinion.ranks[i] == opinion.ranks[j] else 1.0
            margin = 0.0
        else:
            a, b = (i, j) if opinion.choice[i] >= opinion.choice[j] else (j, i)
            total = opinion.choice[a] + opinion.choice[b]
            choice = opinion.choice[a] / total if total else 0.5
            margin = margins.get(opinion.strength, 0.0) if opinion.strength is not None else 0.0
        yield options[a], options[b], choice, margin, weight


def every_pair(n: int) -> Iterator[tuple[int, int]]:
    yield from combinations(range(n), 2)


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

    def __len__(self) -> int:
        """Steps in all, those behind us included."""
        return self.steps if self.steps is not None else max(1, round(self.epochs * len(self.rows) / self.size))

    def __iter__(self) -> Iterator[Out]:
        while self.position < len(self):
            first = self.position * self.size
            batch = self.collate([self.rows[self.index(i)] for i in range(first, first + self.size)])
            self.position += 1
            yield batch

    def index(self, i: int) -> int:
        """Which row comes at place i of the run, counted over all epochs."""
        epoch, place = divmod(i, len(self.rows))
        if not self.shuffle:
            return place
        if self._order is None or self._order[0] != epoch:
            key = torch.Generator().manual_seed(keyed(self.seed, epoch))
            self._order = (epoch, torch.randperm(len(self.rows), generator=key).tolist())
        return self._order[1][place]

    _order: tuple[int, list[int]] | None = field(default=None, init=False, repr=False)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def keyed(*parts: object) -> int:
    """A 63-bit key for a generator, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
