"""A bigram language model: the smallest thing that satisfies every protocol. Algorithms run on it in milliseconds."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from preferent.data.batches import keyed
from preferent.types import Episode, Prompt, Reading, Replies

END = 1  # the token that ends a reply; 0 pads


class Bigram(nn.Module):
    """Policy, critic, actor with critic, and scorer. The next token, the value and the score look one token back."""

    def __init__(self, vocabulary: int = 8, *, seed: int = 0) -> None:
        super().__init__()
        self.next = nn.Embedding(vocabulary, vocabulary)
        self.value = nn.Embedding(vocabulary, 1)
        self.score = nn.Embedding(vocabulary, 1)
        key = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, generator=key)

    def read(self, x: Replies, *, entropy: bool = False) -> Reading:
        logp = self.next(before(x)[:, :-1]).log_softmax(-1)  # [r, t, vocabulary]
        drawn = logp.gather(-1, x.tokens.unsqueeze(-1)).squeeze(-1).where(x.learn, 0)
        return Reading(drawn, -(logp.exp() * logp).sum(-1).where(x.learn, 0) if entropy else None)

    def values(self, x: Replies) -> Tensor:
        values: Tensor = self.value(before(x)).squeeze(-1)
        return values

    def read_with_values(self, x: Replies, *, entropy: bool = False) -> tuple[Reading, Tensor]:
        return self.read(x, entropy=entropy), self.values(x)

    def scores(self, x: Replies) -> Tensor:
        """[r, 1]: a running sum over the reply's tokens, read at the last present one."""
        each: Tensor = self.score(x.tokens).squeeze(-1)
        return each.where(x.present, 0).sum(-1, keepdim=True)

    def frozen(self) -> Self:
        """A reference: a copy that nobody updates."""
        return copy.deepcopy(self).requires_grad_(False).eval()


def before(x: Replies) -> Tensor:
    """[r, t + 1]: the token that stands before each reply token, and the last one."""
    ends = x.prompts.gather(1, x.prompt_length.unsqueeze(-1) - 1)  # [p, 1]
    return torch.cat([ends[x.prompt_of], x.tokens], 1)


class ToySampler:
    """Draws from a bigram by Gumbel-max; a reply stops after ``END`` or at ``length`` tokens.

    The noise is keyed by (seed, version, prompt, number of the reply); a prompt that stands twice in one call has its
    replies numbered on, so they differ.
    """

    def __init__(self, model: Bigram, *, length: int = 5, seed: int = 0) -> None:
        self.model = model.frozen()
        self.length = length
        self.seed = seed
        self.version = 0

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], n: int) -> list[list[Episode]]:
        table = self.model.next.weight.log_softmax(-1)
        seen = Counter[tuple[int, ...]]()
        asked = list[tuple[Prompt, int]]()
        for prompt in prompts:
            asked += [(prompt, seen[prompt.tokens] + i) for i in range(n)]
            seen[prompt.tokens] += n
        noise = torch.stack([self.noise(prompt, i, table) for prompt, i in asked])  # [r, length, vocabulary]
        last = torch.tensor([prompt.tokens[-1] for prompt, _ in asked])
        drawn = list[Tensor]()
        for t in range(self.length):
            last = (table[last] + noise[:, t]).argmax(-1)
            drawn.append(last)
        rows = torch.stack(drawn, 1).tolist()
        flat = [self.episode(prompt, row, table) for (prompt, _), row in zip(asked, rows, strict=True)]
        return [flat[i : i + n] for i in range(0, len(flat), n)]

    def noise(self, prompt: Prompt, i: int, table: Tensor) -> Tensor:
        """[length, vocabulary] of Gumbel noise for the i-th reply to a prompt."""
        key = torch.Generator().manual_seed(keyed(self.seed, self.version, prompt.tokens, i))
        return -table.new_empty(self.length, len(table)).exponential_(generator=key).log()

    def episode(self, prompt: Prompt, row: list[int], table: Tensor) -> Episode:
        """What was drawn, up to its end token."""
        reply = row[: row.index(END) + 1] if END in row else row
        logprobs = table[[prompt.tokens[-1], *reply[:-1]], reply].tolist()
        learn = (True,) * len(reply)
        stop: Literal["end", "length"] = "end" if reply[-1] == END else "length"
        return Episode(prompt, tuple(reply), learn, tuple(logprobs), stop, self.version)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.model.load_state_dict(dict(weights))
        self.version = version
