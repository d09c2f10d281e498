"""A policy's weights in bf16, from which replies are drawn: a token then reads half of the bytes.

The learner goes on with fp32 weights, and has to say itself what it thinks of a reply: the copy rounds. An adapter is
added in fp32 and the sum rounded once. Rounding each, as one in bf16 on weights in bf16 would be, loses what an adapter
says until it says much: a step of bf16 is 1/128 to 1/256 of a weight, and early updates are thousandths of that.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from preferent.models.merging import adapted, add, whole
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import REFUSALS, random_replies, tolerance
from preferent.models.quantised import in_four_bits
from preferent.models.room import no_room, suffices

log = logging.getLogger(__name__)
HELPS = "Take --dtype float32, which draws replies from the weights themselves, or a smaller --model."


def halves(policy: LanguagePolicy, *, bf16: bool) -> bool:
    """Whether a run that trains in bf16 draws from a copy: not on a CPU, where drawing in bf16 is seldom faster."""
    return bf16 and policy.base.device.type != "cpu" and can_halve(policy)


def can_halve(policy: LanguagePolicy) -> bool:
    """Weights in four bits are small as they are; an adapter has to be one that can be added."""
    return not in_four_bits(policy.base) and (not policy.has_adapter or whole(policy.model))


def halved(policy: LanguagePolicy) -> LanguagePolicy:
    """The copy, which ``follow`` keeps up; the policy itself where that is better, or where a copy says something else.

    Parameters alone are rounded: buffers, such as the frequencies of positions, stay in fp32. Raises UsageError where
    memory does not suffice.
    """
    if not can_halve(policy):
        return policy
    with suffices("for a copy of the weights in bf16, from which replies are drawn", HELPS):
        narrow = {id(each): narrowed(each) for each in policy.parameters()}
        model: Any = copy.deepcopy(policy.model, dict[int, Any](narrow))  # with no copy in fp32 on the way
        made = LanguagePolicy(
            model.unload() if policy.has_adapter else model,
            policy.tokenizer,
            sharing=policy.sharing,
            own_head=policy.own_head,
            temperature=policy.temperature,
        ).eval()
        follow(made, policy)
        why = difference(made, policy)
    if why:
        log.warning("Replies are drawn from the fp32 weights, which takes more time: %s.", why)
    return policy if why else made


def narrowed(parameter: nn.Parameter) -> nn.Parameter:
    numbers = parameter.detach()
    return nn.Parameter(numbers.to(torch.bfloat16) if numbers.is_floating_point() else numbers, requires_grad=False)


@torch.no_grad()
def follow(made: LanguagePolicy, policy: LanguagePolicy) -> None:
    """Give the copy what the policy's weights are now, its adapter added."""
    found = set(adapted(policy.model)) if policy.has_adapter else set()
    layers = {f"{name}.weight": layer for name, layer in policy.base.named_modules() if layer in found}
    weights = {name.replace(".base_layer.", "."): weight for name, weight in policy.base.named_parameters()}
    for name, weight in made.base.named_parameters():
        weight.copy_(added(layers[name]) if name in layers else weights[name])


def added(layer: Any) -> Tensor:
    """A layer's weight with its adapter, W + BA·α/r."""
    weight: Tensor = layer.base_layer.weight.clone()
    add(layer, weight)
    return weight


@torch.no_grad()
def difference(made: LanguagePolicy, policy: LanguagePolicy) -> str:
    """Why the copy is not to be trusted, asked in numbers; nothing where it is."""
    tokens = random_replies(policy.base).prompts[:1]
    try:
        narrow, wide = (each.base(input_ids=tokens).logits.float().log_softmax(-1) for each in (made, policy))
    except REFUSALS as refused:
        if no_room(refused):
            raise
        return f"a copy in bf16 cannot be read ({type(refused).__name__}: {str(refused)[:160]})"
    # Not the largest difference: rounding sends a token to another expert now and then.
    error = ((narrow - wide).norm() / wide.norm()).item()
    return "" if error <= tolerance(made.base) else f"a copy in bf16 says something else, by {error:.1e}"


def size_of_half(policy: LanguagePolicy) -> float:
    """Bytes of the copy."""
    layers = adapted(policy.model) if policy.has_adapter else ()
    adapters = {id(p) for layer in layers for n, p in layer.named_parameters() if not n.startswith("base_layer.")}
    return float(sum(2 * p.numel() for p in policy.parameters() if id(p) not in adapters))
