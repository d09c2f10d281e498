"""Activation checkpointing (Chen et al. 2016): a layer keeps only its input, and computes the rest again going back.

Hugging Face's own switch works in ``train()`` alone and takes the cache from a model that samples; ours are in
``eval()`` and do both. Dropout is 0 everywhere, so no state of a generator has to be kept to compute the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from preferent.config import UsageError


@dataclass(frozen=True)
class Recomputed:
    """A layer's forward whose inner tensors are not kept. Without gradients it is the forward itself."""

    plain: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        # The reentrant kind would give an adapter no gradient: below it nothing requires one.
        return checkpoint(self.plain, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def recompute_layers(model: nn.Module) -> None:
    """Make every decoder layer of the models in ``model`` compute again what its backward pass needs.

    Raises UsageError where the model does not say which modules are its layers.
    """
    layers = list(layers_of(model))
    if not layers:
        raise UsageError(
            "--checkpoint-activations: this model's code does not mark its layers as ones that can be computed again "
            "(transformers' GradientCheckpointingLayer). Lower --token-budget or --max-length instead, or take --lora."
        )
    for layer in layers:
        if not recomputed(layer):
            layer.forward = Recomputed(layer.forward)


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The layers, in order, none of them inside another."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    outer = "\0"
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not name.startswith(outer):
            outer = name + "."
            yield module


def recomputed(layer: nn.Module) -> bool:
    return isinstance(layer.forward, Recomputed)


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[int]:
    """The layers as they were for a moment, to see what they would keep; how many of them there are."""
    forwards = [(layer, layer.forward) for layer in layers_of(model) if isinstance(layer.forward, Recomputed)]
    for layer, forward in forwards:
        layer.forward = forward.plain
    try:
        yield len(forwards)
    finally:
        for layer, forward in forwards:
            layer.forward = forward
