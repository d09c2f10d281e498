"""One forward for every algorithm: hidden states of the tokens that a plan lays out.

A model takes the shared path when, asked once at load time, it says the same there as on the plain path (``probe``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from preferent.models.attention import DEVICES, TREE, followed
from preferent.models.plan import NOWHERE, Plan, flat, shared, unshared
from preferent.types import Replies

Allowed = Callable[[int | None], Tensor]  # window -> [n, q, k] bool
FULL, SLIDING = "full_attention", "sliding_attention"  # as Hugging Face configurations call kinds of layers


class Backbone(nn.Module):
    """A Hugging Face model, perhaps with an adapter, and the path on which it reads a batch."""

    def __init__(self, model: nn.Module, *, sharing: bool) -> None:
        super().__init__()
        self.model = model
        self.sharing = sharing

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "disable_adapter")

    @property
    def base(self) -> Any:
        """The Hugging Face model itself, inside an adapter or not."""
        model: Any = self.model
        return model.get_base_model() if self.has_adapter else model

    @property
    def text_config(self) -> Any:
        return self.base.config.get_text_config()

    @property
    def branching(self) -> bool:
        """Whether attention follows a tree here, so that no row is padded and no mask is made."""
        followed: bool = self.text_config._attn_implementation == TREE and self.base.device.type in DEVICES
        return self.sharing and followed

    def plan(self, x: Replies) -> Plan:
        """The layout that this model can read."""
        if len(x.tokens) == 0 or not bool((x.prompt_length > 0).all()):
            raise ValueError("a batch needs at least one reply, and every prompt at least one token")
        if not self.sharing:
            return unshared(x)
        if self.branching:
            return flat(x)
        return shared(x, hidden_size=self.text_config.hidden_size)

    def inputs(self, plan: Plan) -> dict[str, Any]:
        """What the Hugging Face forward is called with."""
        if not self.sharing:
            return {"input_ids": plan.tokens, "attention_mask": (plan.group != NOWHERE).long(), "use_cache": False}
        given = {"input_ids": plan.tokens, "position_ids": plan.positions, "use_cache": False}
        if plan.tree is not None:
            nothing = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=plan.tokens.device)  # or the model makes a mask
            return {**given, "attention_mask": nothing, "tree": followed(plan.tree, plan.tokens)}
        return {**given, "attention_mask": attention_mask(self.base, plan.allowed)}

    def hidden(self, plan: Plan) -> Tensor:
        """[n · w, d] after the last norm: what ``plan.states`` points into."""
        out: Tensor = self.base.base_model(**self.inputs(plan)).last_hidden_state
        return out.flatten(0, 1)


def attention_mask(base: Any, allowed: Allowed) -> Any:
    """A mask for each kind of layer that the configuration names, in the form that the attention wants.

    Eager attention adds the mask to its scores, so there it is 0 or the lowest number; SDPA takes the boolean.
    """
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)

    def formed(mask: Tensor) -> Tensor:
        mask = mask[:, None]
        if config._attn_implementation != "eager":
            return mask
        zero = torch.zeros((), dtype=base.dtype, device=mask.device)
        return zero.where(mask, torch.finfo(base.dtype).min)

    if not kinds:
        return formed(allowed(window))
    named = {kind: formed(allowed(window if kind == SLIDING else None)) for kind in sorted(kinds)}
    return named if len(named) > 1 else next(iter(named.values()))
