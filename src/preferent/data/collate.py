"""From prompts with their replies to tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from preferent.types import Demonstration, Episode, Prompt, Replies, Reply


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
