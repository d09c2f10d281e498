"""Attention over prompts and the replies that branch off them, without a mask and without a copy of a prompt's keys.

A branch's token sees its prompt and its own past. On a CPU the two are attended to apart, where they lie, and put
together by the logarithms of their weights' sums, as blocks of keys are in Dao et al. 2022 (FlashAttention): no score
is computed only to be masked. Elsewhere one kernel skips what is not seen (``flex``). ``Plan.tree`` says which tokens
are which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preferent.models import flex, plan
from preferent.models.plan import Block, Tree

TREE = "tree"  # the name under which Hugging Face models find it
DEVICES = ("cpu", "cuda")  # with a kernel that follows trees
KNOWN = {"position_ids", "use_cache", "is_causal", "output_attentions", "cache_position", "output_hidden_states"}
forward_of, backward_of = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    tree: Tree | BlockMask | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """What a Hugging Face layer calls: [1, n, h, d] of queries [1, h, n, d]; without a tree, SDPA with its mask."""
    if tree is None:
        masked: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **rest
        )
        return masked
    if more := {name for name, one in rest.items() if one is not None} - KNOWN:
        raise ValueError(f"attention with {', '.join(sorted(more))} is not known here")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast the layer's own operations leave queries and keys in fp32, as SDPA would find them.
    query, key = query.to(value.dtype), key.to(value.dtype)
    out: Tensor
    if isinstance(tree, BlockMask):
        out = flex.attended(query, key, value, tree, scale)
    else:
        out = TreeAttention.apply(query, key, value, tree, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def followed(tree: Tree, tokens: Tensor) -> Tree | BlockMask:
    """What ``attention`` is given of the tree over a row of tokens, on their device: made once for all layers."""
    return flex.followed(tree, tokens.shape[1], tokens.device) if plan.in_blocks(tokens.device) else tree


AttentionInterface.register(TREE, attention)
AttentionMaskInterface.register(TREE, sdpa_mask)


class TreeAttention(torch.autograd.Function):
    """[1, h, n, d] of queries [1, h, n, d], keys and values [1, few, n, d], all tokens in the order of a flat plan."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float) -> Tensor:
        h, n, d = query.shape[1:]
        out = query.new_empty(n, h, d).transpose(0, 1)[None]
        weight = query.new_empty(n, h, dtype=torch.promote_types(query.dtype, torch.float32)).t()[None]
        out[:, :, tree.tokens :], weight[:, :, tree.tokens :] = 0, 0
        read = Read(query, key, value, out, weight)
        for block in tree.trunks + tree.branches:  # every token is in one of these, once
            attend(read, block, scale)
        if tree.across:
            behind = slice(tree.branches[0].queries.start, tree.tokens)
            value_of_own, own = out[:, :, behind].clone(), weight[:, :, behind].clone()
            for block in tree.across:
                attend(read, block, scale)
            prompts = weight[:, :, behind]
            both = torch.logaddexp(own, prompts)
            out[:, :, behind].mul_((prompts - both).exp_()[..., None])
            out[:, :, behind].addcmul_(value_of_own, (own - both).exp_()[..., None].to(out.dtype))
            prompts.copy_(both)
        ctx.save_for_backward(*read)
        ctx.tree, ctx.scale = tree, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        read, tree = Read(*ctx.saved_tensors), ctx.tree
        found = [torch.empty_like(each) for each in read[:3]]
        for each in found:
            each[:, :, tree.tokens :] = 0
        for block in tree.trunks + tree.branches:
            for whole, share in shares(grad, read, block, ctx.scale, found):
                whole.copy_(share)
        for block in tree.across:
            for whole, share in shares(grad, read, block, ctx.scale, found):
                whole.add_(share)
        return *found, None, None


class Read(NamedTuple):
    """What attention was given and what it read, with the logarithms [1, h, n] of each query's sum of weights."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    weight: Tensor


def attend(read: Read, block: Block, scale: float) -> None:
    """Write what a block's queries read from its keys, and their sums."""
    at, keys, times, causal = block
    parts = [picked(x, place, times) for x, place in zip(read, (at, keys, keys, at, at), strict=True)]
    for whole, part in zip(parts[3:], forward_of(*parts[:3], 0.0, causal, scale=scale), strict=True):
        whole.copy_(part)


def shares(
    grad: Tensor, read: Read, block: Block, scale: float, found: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """A block's share in the gradients of queries, keys and values, and its place in ``found``.

    The sums are those over all keys that a query sees, so that the weights are, too.
    """
    at, keys, times, causal = block
    parts = [picked(x, place, times) for x, place in zip(read, (at, keys, keys, at, at), strict=True)]
    each = backward_of(picked(grad, at, times), *parts, 0.0, causal, scale=scale)
    for whole, place, share in zip(found, (at, keys, keys), each, strict=True):
        yield picked(whole, place, times), share


def picked(x: Tensor, at: slice, times: int) -> Tensor:
    """[times, h, t, …] of [1, h, n, …]: sequences of one length that follow one another, where they lie."""
    part = x[:, :, at]
    return part if times == 1 else part[0].unflatten(1, (times, -1)).transpose(0, 1)
