"""From hidden states to what a policy says of tokens, without ever holding [tokens, vocabulary] for a whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

CHUNK = 1 << 24  # logits held at a time: 64 MiB in fp32

Head = Callable[[Tensor], Tensor]  # hidden states [n, d] to logits [n, v]


def token_logprobs(
    head: Head, hidden: Tensor, targets: Tensor, *, vocabulary: int, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """log p of each target [n], and the entropy in nats [n] if asked for, from the states [n, d] that predict them.

    With gradients, a chunk's logits are computed again in the backward pass instead of being kept.
    """

    def read(states: Tensor, tokens: Tensor) -> Tensor:
        logits = head(states).float()
        if temperature != 1:
            logits = logits / temperature
        logp = -cross_entropy(logits, tokens, reduction="none")
        if not entropy:
            return logp[None]
        scores = logits.log_softmax(-1)
        return torch.stack([logp, -(scores.exp() * scores).sum(-1)])

    size = max(1, CHUNK // vocabulary)
    if len(hidden) <= size:
        both = read(hidden, targets)
    else:
        keep = torch.is_grad_enabled() and hidden.requires_grad
        chunks = zip(hidden.split(size), targets.split(size), strict=True)
        each = [checkpoint(read, *chunk, use_reentrant=False) if keep else read(*chunk) for chunk in chunks]
        both = torch.cat(each, -1)
    return both[0], both[1] if entropy else None


def head_of(model: torch.nn.Module) -> Head:
    """A causal language model's own head, with the scaling and soft-capping that its configuration asks for."""
    config, linear = model.config.get_text_config(), model.get_output_embeddings()  # type: ignore[operator,union-attr]
    times = getattr(config, "logit_scale", None) or 1.0  # Cohere
    over = getattr(config, "logits_scaling", None) or 1.0  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = linear(hidden)
        if times != over:
            logits = logits * (times / over)
        return logits if cap is None else (logits / cap).tanh() * cap

    return head
