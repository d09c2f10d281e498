"""Asked once when a model is loaded: does it say the same on the shared path as on the plain one?

A wrong mask is not an error but other numbers, so every model is tried on a few random tokens before it is trusted.
Sliding windows are too long to be reached by a few tokens: the window is shortened while the question is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from preferent.models import flex
from preferent.models import plan as plans
from preferent.models.attention import DEVICES, TREE
from preferent.models.compiled import failures, reason_of
from preferent.models.forward import FULL, SLIDING, Backbone
from preferent.models.head import head_of
from preferent.models.plan import unshared
from preferent.types import Replies

log = logging.getLogger(__name__)
WINDOW = 8
MOVING = ("dynamic", "longrope")  # ways to turn positions that change with the length of what is read
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError)


@torch.no_grad()
def can_share(model: nn.Module) -> bool:
    """Whether hidden states on the shared path equal the plain ones; says so once where they do not.

    A model whose attention can follow a tree does so from then on; others get rows and masks.
    """
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    positions = getattr(config, "rope_parameters", None) or {}
    if positions.get("rope_type") in MOVING:
        return apart(
            model,
            "what it reads of one text depends on the longest that is read with it (rope_type "
            f"{positions['rope_type']})",
        )
    return can_branch(model) or can_mask(model)


def apart(model: nn.Module, reason: str) -> bool:
    log.warning("%s computes every reply with a prompt of its own: %s.", type(model).__name__, reason)
    return False


def can_branch(model: Any) -> bool:
    """Give the model attention over trees, unless that changes what it says on the device where it is."""
    config = model.config.get_text_config()
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    known = config._attn_implementation in ("sdpa", TREE)
    if not known or model.device.type not in DEVICES or windows:
        return False
    if set(getattr(config, "layer_types", None) or ()) - {FULL}:
        return False
    compiled = plans.in_blocks(model.device)
    model.set_attn_implementation(TREE)
    try:
        if difference(model, None) <= tolerance(model) and (not compiled or flex.agrees(config, model.device)):
            return True
        why = "it says something else"
    except REFUSALS + failures() as refused:
        why = reason_of(refused)
    model.set_attn_implementation("sdpa")
    if compiled:
        log.warning("%s attends under masks, not with the kernel for trees: %s.", type(model).__name__, why)
    return False


def can_mask(model: nn.Module) -> bool:
    """Whether the model takes rows of several sequences, with a mask of ours."""
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    reason = None
    if other := set(getattr(config, "layer_types", None) or ()) - {FULL, SLIDING}:
        reason = f"its layers of type {', '.join(sorted(other))} read tokens in order"
    else:
        try:
            error = max(
                difference(model, window) for window in {None, getattr(config, "sliding_window", None) and WINDOW}
            )
        except REFUSALS as refused:
            reason = f"it takes no mask of ours ({reason_of(refused)})"
        else:
            if not error <= tolerance(model):
                reason = f"a shared prefix changes its hidden states by {error:.1e}"
    return reason is None or apart(model, reason)


@torch.no_grad()
def can_use_own_head(model: nn.Module) -> bool:
    """Whether the head applied by hand gives the model's logits; otherwise all logits are computed."""
    x = random_replies(model)
    backbone = Backbone(model, sharing=False)
    plan = unshared(x)
    logits = backbone.base(**backbone.inputs(plan)).logits.flatten(0, 1)
    try:
        own = head_of(model)(backbone.hidden(plan))
    except (TypeError, RuntimeError, AttributeError):
        return False
    return relative(own, logits) <= tolerance(model)


def difference(model: nn.Module, window: int | None) -> float:
    """Relative largest difference of the states that predict anything, shared against plain."""
    x = random_replies(model)
    with shortened(model, window):
        hidden = []
        for sharing in (True, False):
            trunk = Backbone(model, sharing=sharing)
            plan = trunk.plan(x)
            hidden.append(trunk.hidden(plan)[plan.states])
    return relative(*hidden)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def tolerance(model: Any) -> float:
    return 1e-4 if model.dtype == torch.float32 else 5e-2


@contextmanager
def shortened(model: Any, window: int | None) -> Iterator[None]:
    """The model's sliding window set to ``window`` for a moment, before anything else shares the configuration."""
    config = model.config.get_text_config()
    if window is None:
        yield
        return
    before, config.sliding_window = config.sliding_window, window
    try:
        yield
    finally:
        config.sliding_window = before


def random_replies(model: Any) -> Replies:
    """Two prompts, one with three replies, of random tokens, in places where a window of WINDOW matters."""
    key = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    device = model.device
    length, reply_length = torch.tensor([11, 5]), torch.tensor([7, 3, 9, 6])
    present = torch.arange(9) < reply_length[:, None]
    return Replies(
        prompts=torch.randint(vocabulary, (2, 11), generator=key).to(device),
        prompt_length=length.to(device),
        prompt_of=torch.tensor([0, 0, 0, 1], device=device),
        tokens=torch.randint(vocabulary, (4, 9), generator=key).to(device),
        present=present.to(device),
        learn=present.to(device),
    )
