"""Linear maps in fp32 by oneDNN where PyTorch would take MKL, which on processors of other makers is half as fast.

Seen on an AMD EPYC with AVX-512, forwards and for both gradients (``benchmarks/arithmetic.py``). PyTorch itself takes
oneDNN for bf16 only. oneDNN prepares a product for every new shape, which takes as long as one of 2048 rows: they come
in multiples of ``ROWS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 64
COPIED = 1 << 27  # bytes of weights, all in all, that may stand in memory twice while tokens are drawn
REFUSED = "could not create a primitive"  # what oneDNN says where it finds no room for the code that it makes
FAST = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def rounded(n: int, to: int = ROWS) -> int:
    """The next multiple."""
    return -(-n // to) * to


def alike(x: Tensor) -> bool:
    """Whether it is what oneDNN is taken for."""
    return x.device.type == "cpu" and x.dtype == torch.float32


class Linear(nn.Linear):
    """``nn.Linear`` with the same parameters, in the same place."""

    def forward(self, input: Tensor) -> Tensor:
        if not (alike(input) and alike(self.weight) and input.numel()) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (input, self.weight, self.bias)):
            return Product.apply(input, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
        return times(input, self.weight, self.bias)


class Product(torch.autograd.Function):
    """x · wᵀ + b of x [..., i], w [o, i] and b [o] or nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        return times(x, w, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, w = ctx.saved_tensors
        of_x = of_w = of_b = None
        if ctx.needs_input_grad[0]:
            of_x = times(grad, w.t())
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            # The product is fastest with the longer side among its columns.
            longer = rows.shape[1] > inputs.shape[1]
            of_w = times(inputs.t(), rows.t()).t() if longer else times(rows.t(), inputs.t())
        if ctx.needs_input_grad[2]:
            of_b = rows.sum(0)
        return of_x, of_w, of_b


def times(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x · wᵀ + b, outside of autograd."""
    if not FAST or not alike(x):
        return linear(x, w, b)
    try:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
        return linear(x, w, b)
    return product


def products(layers: Sequence[Any], *, copied: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What several layers make of the same few rows, again and again, while their weights stay as they are.

    With ``copied``, one product serves them all where oneDNN computes it, of a copy of their weights laid out for it.
    Of 64 rows of 192, queries, keys and values take half as long as one by one (``benchmarks/arithmetic.py``).
    """
    plain = [each.base_layer if getattr(each, "disable_adapters", False) else each for each in layers]
    if not copied or not FAST or not all(type(each) is Linear and alike(each.weight) for each in plain):
        return lambda x: tuple(layer(x) for layer in layers)
    weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat([each.weight for each in plain]), ROWS)
    biases = [each.bias if each.bias is not None else each.weight.new_zeros(len(each.weight)) for each in plain]
    bias = torch.cat(biases) if any(each.bias is not None for each in plain) else None
    sizes = [len(each.weight) for each in plain]

    def product(x: Tensor) -> tuple[Tensor, ...]:
        try:
            together: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        except RuntimeError as error:
            if REFUSED not in str(error):
                raise
            return tuple(layer(x) for layer in layers)
        return tuple(together.split(sizes, -1))

    return product


def copied_bytes(model: nn.Module) -> int:
    """What ``products`` of all of a model's linear layers take: nothing where that would be much."""
    weights = {module.weight for module in model.modules() if type(module) is Linear} if FAST else set()
    size = sum(weight.nbytes for weight in weights if alike(weight))
    return size if size <= COPIED else 0
