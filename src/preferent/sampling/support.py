"""Which tokens may be drawn: the whole distribution in training, less of it for evaluation and demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Support:
    """Limits that hold together. The likeliest token always stays."""

    top_k: int = 0  # keep the k likeliest; 0 for all
    top_p: float = 1.0  # keep the likeliest until their probabilities sum to p (Holtzman et al. 2020)
    min_p: float = 0.0  # keep those at least this share of the likeliest's probability (Nguyen et al. 2024)

    def __post_init__(self) -> None:
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise ValueError(f"expected top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1; got {self}")

    @property
    def whole(self) -> bool:
        """Nothing is left out, so what is drawn can be trained on without bias."""
        return self.top_k == 0 and self.top_p == 1 and self.min_p == 0

    def __call__(self, logprobs: Tensor) -> Tensor:
        """Log-probabilities [r, v], minus infinity where nothing may be drawn."""
        if self.whole:
            return logprobs
        out = torch.zeros_like(logprobs, dtype=torch.bool)
        if self.min_p:
            out |= logprobs < logprobs.amax(-1, keepdim=True) + log(self.min_p)
        if 0 < self.top_k < logprobs.shape[-1]:
            out |= logprobs < logprobs.topk(self.top_k, dim=-1).values[:, -1:]
        if self.top_p < 1:
            ordered, index = logprobs.sort(-1, descending=True)
            before = ordered.exp().cumsum(-1) - ordered.exp()
            out |= torch.zeros_like(out).scatter(-1, index, before >= self.top_p)
        return logprobs.masked_fill(out, -torch.inf)
