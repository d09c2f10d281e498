"""A policy that can say anything: logits for every prefix of a reply, and every reply can be listed.

With three or four tokens and replies of at most three, optima over whole sequences are known by enumeration, and so are
expected gradients. A prompt is known by its last token.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Self

import torch
from torch import Tensor, nn

from preferent.data import collate
from preferent.data.batches import keyed
from preferent.testing import END
from preferent.testing.toy import before
from preferent.types import Episode, Prompt, Reading, Replies, Reply


class Tabular(nn.Module):
    """Policy, critic, and actor with critic. A reply stops after ``END`` or at ``length`` tokens."""

    def __init__(self, vocabulary: int = 3, length: int = 3, *, prompts: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        prefixes = sum(vocabulary**t for t in range(length))  # shorter than the longest reply
        self.logits = nn.Parameter(torch.empty(prompts, prefixes, vocabulary))
        self.value = nn.Parameter(torch.empty(prompts, prefixes + vocabulary**length))
        key = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, generator=key)

    def places(self, x: Replies) -> tuple[Tensor, Tensor]:
        """[r, 1] prompts and [r, t + 1] prefixes: before each token, and after the last one."""
        if x.tokens.shape[1] > self.length:
            raise ValueError(f"replies of at most {self.length} tokens are known, not of {x.tokens.shape[1]}")
        number, found = torch.zeros_like(x.prompt_of), [torch.zeros_like(x.prompt_of)]
        for t in range(x.tokens.shape[1]):
            number = number * self.vocabulary + x.tokens[:, t]
            found.append(number + sum(self.vocabulary**i for i in range(t + 1)))
        return before(x)[:, :1], torch.stack(found, 1)

    def read(self, x: Replies, *, entropy: bool = False) -> Reading:
        prompt, prefix = self.places(x)
        logp = self.logits[prompt, prefix[:, :-1]].log_softmax(-1)  # [r, t, vocabulary]
        drawn = logp.gather(-1, x.tokens.unsqueeze(-1)).squeeze(-1).where(x.learn, 0)
        return Reading(drawn, -(logp.exp() * logp).sum(-1).where(x.learn, 0) if entropy else None)

    def values(self, x: Replies) -> Tensor:
        return self.value[self.places(x)]

    def read_with_values(self, x: Replies, *, entropy: bool = False) -> tuple[Reading, Tensor]:
        return self.read(x, entropy=entropy), self.values(x)

    def frozen(self) -> Self:
        return copy.deepcopy(self).requires_grad_(False).eval()

    @cached_property
    def replies(self) -> list[tuple[int, ...]]:
        """Every reply that there is: those that end, by length, and those that are cut off."""
        others = [token for token in range(self.vocabulary) if token != END]
        ended = [(*start, END) for t in range(self.length) for start in product(others, repeat=t)]
        return ended + list(product(others, repeat=self.length))

    def distribution(self, prompt: Prompt) -> Tensor:
        """π(reply | prompt) of each of ``replies`` [n], with gradients; it sums to 1."""
        every = [Reply(tokens, (True,) * len(tokens)) for tokens in self.replies]
        return self.read(collate.replies([(prompt, every)])).logprobs.sum(-1).exp()


class TabularSampler:
    """Draws replies whole, from the list of all. The noise is keyed by (seed, version, prompt, number of the reply)."""

    def __init__(self, model: Tabular, *, seed: int = 0) -> None:
        self.model = model.frozen()
        self.seed, self.version = seed, 0

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], n: int) -> list[list[Episode]]:
        seen = Counter[tuple[int, ...]]()
        asked = {prompt.tokens: prompt for prompt in prompts}
        listed = {tokens: (self.model.distribution(p).cumsum(0), self.every(p)) for tokens, p in asked.items()}
        groups = []
        for prompt in prompts:
            numbers = range(seen[prompt.tokens], seen[prompt.tokens] + n)
            seen[prompt.tokens] += n
            chances, every = listed[prompt.tokens]
            drawn = torch.searchsorted(chances, torch.stack([self.noise(prompt, i) for i in numbers]))
            groups.append([replace(every[i]) for i in drawn.clamp(max=len(every) - 1).tolist()])
        return groups

    @torch.no_grad()
    def every(self, prompt: Prompt) -> list[Episode]:
        """An episode for each reply that there is, in the order of ``Tabular.replies``."""
        found = []
        for tokens in self.model.replies:
            prefix, logprobs = 0, list[float]()
            for t, token in enumerate(tokens):
                place = prefix + sum(self.model.vocabulary**i for i in range(t))
                logprobs.append(self.model.logits[prompt.tokens[-1], place].log_softmax(-1)[token].item())
                prefix = prefix * self.model.vocabulary + token
            stop = "end" if tokens[-1] == END else "length"
            found.append(Episode(prompt, tokens, (True,) * len(tokens), tuple(logprobs), stop, self.version))
        return found

    def noise(self, prompt: Prompt, i: int) -> Tensor:
        return torch.rand((), generator=torch.Generator().manual_seed(keyed(self.seed, self.version, prompt.tokens, i)))

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.model.load_state_dict(dict(weights))
        self.version = version


class EvenSampler(TabularSampler):
    """With hardly any noise: a prompt's i-th reply is at i·``stride`` through the list, modulo 1, from a random start.

    With the strides of Roberts' R2 sequence two of these, drawing at once, spread their pairs evenly as well.
    """

    def __init__(self, model: Tabular, *, stride: float = 0.7548776662, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
        self.stride = stride

    def noise(self, prompt: Prompt, i: int) -> Tensor:
        return (super().noise(prompt, 0) + i * self.stride) % 1


def best(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """π* ∝ π_ref·exp(r/β) over a list of replies: of all policies, the one with the most E[r] - β·KL to π_ref."""
    return (reference.log() + reward / beta).softmax(-1)


def constrained(reference: Tensor, reward: Tensor, cost: Tensor, beta: float, limit: float) -> tuple[Tensor, float]:
    """π_ref·exp((r - λc)/((1 + λ)β)), normalised, at the price λ at which its mean cost is the limit; and λ."""

    def at(price: float) -> Tensor:
        return best(reference, (reward - price * cost) / (1 + price), beta)

    low, high = 1e-6, 1e3
    for _ in range(80):
        price = math.sqrt(low * high)
        low, high = (price, high) if (at(price) * cost).sum() > limit else (low, price)
    return at(price), price


def distance(p: Tensor, q: Tensor) -> float:
    """Total variation."""
    return (p - q).abs().sum().item() / 2
