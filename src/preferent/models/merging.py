"""An adapter added to the weights for a while: drawing a token then costs what it costs without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from preferent.models.forward import Backbone


@contextmanager
def merged(policy: Backbone) -> Iterator[None]:
    """Layers with LoRA (Hu et al. 2021, §4.1) hold W + BA·α/r meanwhile, and after it W as it was, to the bit.

    PEFT's own merging subtracts again what it added, which leaves rounding errors. Four-bit weights stay apart.
    """
    if not policy.has_adapter:
        yield
        return
    held: list[tuple[nn.Parameter, Tensor]] = []
    model: Any = policy.model
    try:
        if whole(model):
            with torch.no_grad():
                layers = list(adapted(model))
                for layer, copy in zip(layers, copies([layer.base_layer.weight for layer in layers]), strict=True):
                    add(layer, copy)
                    weight = layer.base_layer.weight
                    held.append((weight, weight.data))
                    weight.data = copy
            with model.disable_adapter():
                yield
        else:
            yield
    finally:
        for weight, data in held:
            weight.data = data


def copies(weights: Sequence[Tensor]) -> list[Tensor]:
    """In one piece of memory, which goes back whole: pieces by the layer leave holes in a heap that nothing fits."""
    flat = torch.cat([weight.flatten() for weight in weights])
    each = flat.split([weight.numel() for weight in weights])
    return [copy.view_as(weight) for copy, weight in zip(each, weights, strict=True)]


def add(layer: Any, weight: Tensor) -> None:
    """What a layer's adapter says, BA·α/r, to a copy of its weight."""
    for name in layer.active_adapters:
        weight += layer.get_delta_weight(name)


def adapted(model: nn.Module) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


def whole(model: nn.Module) -> bool:
    """Whether every layer with an adapter is a linear one in ordinary numbers."""
    return all(
        isinstance(layer.base_layer, nn.Linear) and layer.base_layer.weight.is_floating_point()
        for layer in adapted(model)
    )
