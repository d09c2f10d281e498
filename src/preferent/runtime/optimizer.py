"""AdamW (Loshchilov and Hutter 2019), its moments in 32 bits or in 8 (Dettmers et al. 2022)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["adamw", "adamw8bit"]
BLOCK = 256  # values of a moment in eight bits that share a scale; as many different values it can have


def adamw(
    model: nn.Module,
    kind: Kind = "adamw",
    *,
    lr: float = 1e-5,
    critic_lr: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """AdamW over what requires gradients; parameters named ``critic.…`` may have a rate of their own.

    In eight bits, moments of fewer than 4,096 numbers stay in 32: they weigh nothing, and norms are delicate.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            rate = critic_lr if critic_lr is not None and name.startswith("critic.") else lr
            groups.setdefault(rate, []).append(p)
    if not groups:
        raise ValueError("the model has no parameter that requires a gradient, so there is nothing to learn")
    each: list[dict[str, Any]] = [{"params": group, "lr": rate} for rate, group in groups.items()]
    if kind == "adamw":
        return torch.optim.AdamW(each, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    from preferent.models.quantised import bitsandbytes

    eight: torch.optim.Optimizer = bitsandbytes("--optimizer adamw8bit").optim.AdamW8bit(
        each, lr=lr, betas=betas, weight_decay=weight_decay
    )
    return eight


def of_its_shape(name: str, value: Any, parameter: Tensor) -> bool:
    """Whether an optimiser's state ``name`` can be that of the parameter: shaped like it, or a scale for its blocks."""
    if not isinstance(value, Tensor) or value.dim() == 0:  # a count of steps
        return True
    if name.startswith("absmax"):
        return value.shape == (-(-parameter.numel() // BLOCK),)
    if name.startswith("qmap"):
        return value.shape == (BLOCK,)
    return value.shape == parameter.shape
