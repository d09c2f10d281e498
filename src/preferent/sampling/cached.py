"""Decoding with a model's own forward and Hugging Face's caches, for models that are not decoded by hand.

Replies are admitted once: another batch begins when all of them have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from preferent.models.forward import attention_mask
from preferent.models.head import head_of
from preferent.models.policy import LanguagePolicy

Tokens = Sequence[int]


class Branching:
    """Keys and values of each prompt, computed once and then repeated for its replies; masked by position."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy = policy
        self.head = head_of(policy.base)
        self.cache: Any = DynamicCache()  # whole keys even for sliding layers: the mask holds the window

    def admit(self, prompts: Sequence[Tokens], counts: Sequence[int]) -> Tensor:
        """Logits [r, v] for the first token of so many replies to each prompt."""
        device = self.policy.base.device
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        pads = torch.tensor([width - len(p) for p in prompts], device=device)
        columns = torch.arange(width, device=device)
        self.positions = (columns - pads[:, None]).clamp(min=0)  # [r, k] of every key
        self.valid = columns >= pads[:, None]  # [r, k]
        logits = self.forward(tokens, self.positions)
        rows = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(counts, device=device))
        self.keep(rows)
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [r, v] after one more token [r] each."""
        self.positions = torch.cat([self.positions, self.positions[:, -1:] + 1], 1)
        self.valid = torch.cat([self.valid, torch.ones_like(self.valid[:, :1])], 1)
        return self.forward(tokens[:, None], self.positions[:, -1:])

    def keep(self, rows: Tensor) -> None:
        """These go on, in this order."""
        self.cache.batch_select_indices(rows)
        self.positions, self.valid = self.positions[rows], self.valid[rows]

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        mask = attention_mask(self.policy.base, lambda window: self.allowed(positions, window))
        out = self.policy.base.base_model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        states = out.last_hidden_state[:, -1]
        if self.policy.own_head:
            return self.head(states)
        raise ValueError(f"{type(self.policy.base).__name__} shares prefixes, but its head cannot be applied by hand")

    def allowed(self, positions: Tensor, window: int | None) -> Tensor:
        """[r, q, k] for the last q columns; padding may see itself, so that no row of the softmax is empty."""
        q, k = positions.shape[1], self.positions.shape[1]
        distance = positions[:, :, None] - self.positions[:, None, :]
        seen = self.valid[:, None, :] & (distance >= 0)
        if window is not None:
            seen = seen & (distance < window)
        itself = torch.arange(k - q, k, device=seen.device)[:, None] == torch.arange(k, device=seen.device)
        return seen | itself


class Repeating:
    """The plain path: every reply has its prompt to itself, prompts are of one length, the model makes its cache."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy = policy
        self.cache: Any = None
        self.seen = 0

    def admit(self, prompts: Sequence[Tokens], counts: Sequence[int]) -> Tensor:
        """Logits [r, v] for the first token of so many replies to each prompt."""
        device = self.policy.base.device
        rows = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        self.alive = torch.arange(len(rows), device=device)
        self.rows = len(rows)
        return self.forward(torch.tensor(rows, device=device))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [r, v] of those alive; rows that have ended stay in the batch, for caches of all kinds."""
        every = torch.zeros(self.rows, 1, dtype=torch.long, device=tokens.device)
        every[self.alive, 0] = tokens
        return self.forward(every)[self.alive]

    def keep(self, rows: Tensor) -> None:
        self.alive = self.alive[rows]

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen += tokens.shape[1]
        mask = torch.ones(len(tokens), self.seen, dtype=torch.long, device=tokens.device)
        out = self.policy.base(input_ids=tokens, attention_mask=mask, past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        return out.logits[:, -1]  # type: ignore[no-any-return]
