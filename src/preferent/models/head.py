"""From hidden states to what a policy says of tokens, without ever holding [tokens, vocabulary] for a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint

from preferent.models.compiled import Fused
from preferent.models.linear import ROWS, Linear, rounded, times

CHUNK = 1 << 24  # logits held at a time on a CPU: 64 MiB in fp32
WIDER = 16  # times as many elsewhere: products of few rows are slow there, and sums over many pieces inexact in bf16
CACHED = 1 << 20  # logits worked on at a time: what stays in a processor's cache

Logits = Callable[[Tensor], Tensor]  # of hidden states [n, d]: [n, v]


@dataclass(frozen=True, slots=True)
class Head:
    """A causal language model's own head, with the scaling and soft-capping that its configuration asks for."""

    linear: Any  # nn.Linear, or what stands in for it
    factor: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.linear(hidden)
        if self.factor != 1:
            logits = logits * self.factor
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap

    @property
    def plain(self) -> bool:
        """Whether logits are states times a matrix times a number, in the fp32 in which they are read."""
        if type(self.linear) not in (nn.Linear, Linear) or self.cap is not None:  # another class may do anything
            return False
        return getattr(self.linear, "bias", None) is None and self.linear.weight.dtype == torch.float32


def head_of(model: Any) -> Head:
    config, linear = model.config.get_text_config(), model.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    over = getattr(config, "logits_scaling", None) or 1.0  # Granite
    return Head(linear, scale / over, getattr(config, "final_logit_softcapping", None))  # the last: Gemma 2


def token_logprobs(
    head: Logits, hidden: Tensor, targets: Tensor, *, vocabulary: int, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """log p of each target [n], and the entropy in nats [n] if asked for, from the states [n, d] that predict them.

    Where logits are many, they are computed again in the backward pass instead of being kept.
    """
    n = len(hidden)
    hidden, targets = pad(hidden, (0, 0, 0, rounded(n) - n)), pad(targets, (0, rounded(n) - n))
    if isinstance(head, Head) and head.plain and not entropy:
        half = torch.is_autocast_enabled(hidden.device.type)
        by_hand: Any = HalfLogprobs if half else Logprobs
        logp: Tensor = by_hand.apply(hidden, head.linear.weight, targets, head.factor / temperature)
        return logp[:n], None

    def read(states: Tensor, tokens: Tensor) -> Tensor:
        logits = head(states).float()
        if temperature != 1:
            logits = logits / temperature
        logp = -cross_entropy(logits, tokens, reduction="none")
        if not entropy:
            return logp[None]
        scores = logits.log_softmax(-1)
        return torch.stack([logp, -(scores.exp() * scores).sum(-1)])

    size = chunk(hidden, vocabulary)
    if len(hidden) <= size:
        both = read(hidden, targets)
    else:
        keep = torch.is_grad_enabled() and hidden.requires_grad
        chunks = zip(hidden.split(size), targets.split(size), strict=True)
        each = [checkpoint(read, *chunk, use_reentrant=False) if keep else read(*chunk) for chunk in chunks]
        both = torch.cat(each, -1)
    return both[0, :n], both[1, :n] if entropy else None


class Logprobs(torch.autograd.Function):
    """log softmax(factor · states · weightᵀ) at the targets, a few rows at a time and in place."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, factor: float) -> Tensor:
        n, v = len(hidden), len(weight)
        keep = any(ctx.needs_input_grad[:2]) and n * v <= CHUNK
        logp = hidden.new_empty(n)
        kept = []
        for rows in some(n, v):
            logp[rows], probabilities = predicted(hidden[rows], weight, targets[rows], factor)
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(hidden, weight, targets, *kept)
        ctx.factor = factor
        return logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, targets, *kept = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight.t()) if ctx.needs_input_grad[1] else None
        for i, rows in enumerate(some(len(hidden), len(weight))):
            states, tokens, pull = hidden[rows], targets[rows, None], grad[rows, None] * ctx.factor
            probabilities = kept[i] if kept else predicted(states, weight, targets[rows], ctx.factor)[1]
            of_logits = (probabilities * -pull).scatter_add_(1, tokens, pull)
            if of_hidden is not None:
                of_hidden[rows] = times(of_logits, weight.t())
            if of_weight is not None:
                of_weight += times(states.t(), of_logits.t())
        return of_hidden, None if of_weight is None else of_weight.t(), None, None


def predicted(hidden: Tensor, weight: Tensor, targets: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """log p of the targets [n], and the probabilities [n, v] of all tokens, in the logits' own place.

    The likeliest token's probability tells the sum of powers: no logarithm is taken of a number that has vanished.
    """
    logits = times(hidden, weight)
    if factor != 1:
        logits.mul_(factor)
    below = logits.gather(1, targets[:, None]) - logits.amax(-1, keepdim=True)
    probabilities = torch.softmax(logits, -1, out=logits)
    return (below + probabilities.amax(-1, keepdim=True).log())[:, 0], probabilities


class HalfLogprobs(torch.autograd.Function):
    """The same under autocast: logits and their gradient are in its precision, all that is summed in fp32.

    So is the weight's gradient over all chunks, which autograd sums in the precision of one: 0.3 % off over any number
    of pieces, where autograd's is 0.8 % over 40 and 2 % over 160 (``benchmarks/arithmetic.py``).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, factor: float) -> Tensor:
        states = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        matrix, each = weight.to(states.dtype), chunk(hidden, len(weight))
        logp, sums = (torch.empty_like(targets, dtype=torch.float32) for _ in range(2))
        for rows in split(len(states), each):
            logp[rows], sums[rows] = told(states[rows] @ matrix.t(), targets[rows], factor)
        ctx.save_for_backward(states, weight, targets, sums)
        ctx.factor, ctx.dtype = factor, hidden.dtype
        return logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        states, weight, targets, sums = ctx.saved_tensors
        matrix, each = weight.to(states.dtype), chunk(states, len(weight))
        of_hidden = torch.empty_like(states, dtype=ctx.dtype) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows in split(len(states), each):
            of_logits = pulled(states[rows] @ matrix.t(), targets[rows], sums[rows], grad[rows], ctx.factor)
            if of_hidden is not None:
                of_hidden[rows] = of_logits @ matrix
            if of_weight is not None:
                of_weight += of_logits.t() @ states[rows]
        return of_hidden, of_weight, None, None


@Fused
def told(logits: Tensor, targets: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """In fp32: log p of the targets [n], and the logarithm of each row's sum of powers [n]."""
    scores = logits.float() * factor
    sums = scores.logsumexp(-1)
    return scores.gather(1, targets[:, None])[:, 0] - sums, sums


@Fused
def pulled(logits: Tensor, targets: Tensor, sums: Tensor, grad: Tensor, factor: float) -> Tensor:
    """The gradient [n, v] of the logits, in their precision, from that [n] of the targets' log p."""
    share = (logits.float() * factor - sums[:, None]).exp()
    chosen = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    return ((chosen.float() - share) * (grad[:, None] * factor)).to(logits.dtype)


def chunk(hidden: Tensor, vocabulary: int) -> int:
    """Rows whose logits are held at a time."""
    return at_a_time(CHUNK if hidden.device.type == "cpu" else WIDER * CHUNK, vocabulary)


def some(n: int, v: int) -> list[slice]:
    """Rows whose logits stay in the cache."""
    return split(n, at_a_time(CACHED, v))


def split(n: int, size: int) -> list[slice]:
    return [slice(i, min(n, i + size)) for i in range(0, n, size)]


def at_a_time(logits: int, vocabulary: int) -> int:
    """Rows that have so many logits, a usual number of them."""
    return max(ROWS, logits // vocabulary // ROWS * ROWS)
