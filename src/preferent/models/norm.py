"""Root-mean-square norms (Zhang and Sennrich 2019, eq. 4) in fp32 on a CPU, with the gradient worked out by hand.

Autograd of the norm's parts goes over memory some sixteen times, this eight, and takes about three times as long
(``benchmarks/arithmetic.py``).
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm


class Norm(nn.Module):
    """x · w / √(mean x² + ε) over the last dimension, in place of a Hugging Face model's own."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        if not x.dtype == self.weight.dtype == torch.float32 or x.device.type != "cpu":
            out: Tensor = self.weight * rms_norm(x.float(), x.shape[-1:], eps=self.variance_epsilon).to(x.dtype)
            return out
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return Normed.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-any-return, no-untyped-call]
        return (x * inverse(x, self.variance_epsilon)).mul_(self.weight)


def inverse(x: Tensor, epsilon: float) -> Tensor:
    """1 / √(mean x² + ε) of each row [..., 1]."""
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class Normed(torch.autograd.Function):
    """x · s · w, with s for the inverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, epsilon: float) -> Tensor:
        s = inverse(x, epsilon)
        ctx.save_for_backward(x, w, s)
        return (x * s).mul_(w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """With g for the gradient: s · g · w − x · s³ · mean(g · w · x), and Σ g · x · s over rows."""
        x, w, s = ctx.saved_tensors
        both = (grad * x).flatten(0, -2)
        of_x = of_w = None
        if ctx.needs_input_grad[0]:
            along = (both @ w).view_as(s) * s.pow(3)
            of_x = (grad * w).mul_(s).addcmul_(x, along, value=-1 / x.shape[-1])
        if ctx.needs_input_grad[1]:
            of_w = s.flatten() @ both
        return of_x, of_w, None


@torch.no_grad()
def is_norm(module: nn.Module) -> bool:
    """Whether a layer of some other class is such a norm, of nothing but its input: asked in numbers."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(epsilon, float) or not isinstance(weight, nn.Parameter) or len(list(module.parameters())) != 1:
        return False
    if len(signature(type(module).forward).parameters) != 2:  # a gate may come with it
        return False
    x = torch.linspace(-2, 3, 2 * len(weight)).view(2, -1).to(weight)
    ours = weight * rms_norm(x.float(), x.shape[-1:], eps=epsilon).to(x.dtype)
    return torch.allclose(module(x), ours, rtol=1e-3, atol=1e-5)
