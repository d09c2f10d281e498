"""Drawing from a geometric mixture of two policies, token by token: Nash-MD's opponent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from preferent.models.policy import LanguagePolicy
from preferent.sampling.cached import Tokens
from preferent.sampling.local import LocalSampler


class Mixed:
    """Two states that keep keys and values of the same replies, read as one.

    Mixed logits are the logits of p^(1-share)·q^share, normalised, at any temperature.
    """

    def __init__(self, first: Any, second: Any, share: float) -> None:
        self.first, self.second, self.share = first, second, share

    def admit(self, prompts: Sequence[Tokens], counts: Sequence[int]) -> Tensor:
        return self.mixed(self.first.admit(prompts, counts), self.second.admit(prompts, counts))

    def step(self, tokens: Tensor) -> Tensor:
        return self.mixed(self.first.step(tokens), self.second.step(tokens))

    def keep(self, rows: Tensor) -> None:
        self.first.keep(rows)
        self.second.keep(rows)

    def mixed(self, p: Tensor, q: Tensor) -> Tensor:
        return torch.lerp(p.float(), q.float(), self.share)


class MixtureSampler(LocalSampler):
    """Draws from policy^(1-share)·other^share, normalised at each token. The log-probabilities are the mixture's.

    The other policy is nobody's to train, and shares no parameters with the first, only memory: an adapter that
    is added to the one for a while must not be added to both.
    """

    def __init__(self, policy: LanguagePolicy, other: LanguagePolicy, *, share: float, **how: Any) -> None:
        super().__init__(policy, **how)
        self.other = LocalSampler(other, **how | {"half": False})
        self.share = share
        self.direct = self.direct and self.other.direct

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        super().load(weights, version)
        self.other.version = version

    def state(self) -> Any:
        return Mixed(super().state(), self.other.state(), self.share)
