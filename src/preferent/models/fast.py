"""A model's layers given faster arithmetic: the same parameters in the same places, and the same results."""

from __future__ import annotations

from typing import Any

from torch import nn

from preferent.models.linear import FAST, Linear
from preferent.models.norm import Norm, is_norm


def fast(model: Any) -> Any:
    """The same model. A subclass of a linear layer may do something else, and stays as it is."""
    for module in model.modules():
        if type(module) is nn.Linear and FAST:
            module.__class__ = Linear
        elif is_norm(module):
            module.__class__ = Norm
    return model
