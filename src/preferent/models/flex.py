"""Attention along a tree where no kernel tells its sums: FlexAttention (Dong et al. 2024), compiled, as on a GPU.

Every token sees at most two runs of keys: the past of its own sequence, and its prompt where that lies elsewhere. Three
numbers a token say so, and from them follows which blocks of keys the kernel reads: nothing has the size of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from preferent.models.device import fast_bf16
from preferent.models.linear import rounded
from preferent.models.plan import WIDE, Block, Tree

BLOCK = 128  # tokens that the kernel takes or skips together
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}  # relative error; fp32's leaves room for products in TF32
VARIANTS = 64  # of the compiled code: two precisions, with gradients or without, for each shape of a model's heads

# A prompt of 300 tokens with replies of 200, 170 and 90, and one of 100 with one of 30, over several blocks.
TRIED = Tree(
    (Block(slice(0, 500), slice(0, 500)), Block(slice(500, 630), slice(500, 630))),
    (Block(slice(630, 800), slice(630, 800)), Block(slice(800, 890), slice(800, 890))),
    (Block(slice(630, 890), slice(0, 300), causal=False),),
    890,
)

Runs = tuple[Tensor, Tensor, Tensor]  # [n] each: first key of a token's own sequence; its prompt's first, and the end


def attended(query: Tensor, key: Tensor, value: Tensor, blocks: BlockMask, scale: float) -> Tensor:
    """[1, h, n, d] of queries [1, h, n, d], keys and values [1, few, n, d], all of one precision."""
    # All are in the precision wanted by now, and code compiled under autocast would not serve outside of it.
    with torch.autocast(query.device.type, enabled=False):
        out: Tensor = kernel(query.device.type)(query, key, value, block_mask=blocks, scale=scale, enable_gqa=True)
    return out


@cache
def kernel(device: str) -> Callable[..., Any]:
    """What computes it. A CPU has no such kernel for gradients: there it is the formula, of use to tests alone."""
    if device == "cpu":
        return flex_attention
    # Beyond the limit PyTorch would go on without compiling, with all scores in memory: it must not be reached,
    # and is an error. Lengths are symbols from the first call on, so that a new one is not compiled anew.
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True, fullgraph=True)
    return compiled


def followed(tree: Tree, n: int, device: torch.device) -> BlockMask:
    """Which blocks of keys the queries of a row of ``n`` tokens read, and which keys among them they see."""
    own, first, end = runs = seen(tree, n, device)
    wanted, whole = tiles(runs)

    def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((own[query] <= key) & (key <= query)) | ((first[query] <= key) & (key < end[query]))

    blocks: BlockMask = BlockMask.from_kv_blocks(
        *listed(wanted & ~whole), *listed(whole), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(n, n)
    )
    return blocks


def seen(tree: Tree, n: int, device: torch.device) -> Runs:
    """The keys that each token sees. Padding is one more sequence, so that no token sees none."""
    lengths: list[int] = []
    starts: list[int] = []
    for at, _, times, _ in tree.trunks + tree.branches:
        each = (at.stop - at.start) // times
        lengths += [each] * times
        starts += range(at.start, at.stop, each)
    own = repeated([*starts, tree.tokens], [*lengths, n - tree.tokens])
    before = tree.across[0].queries.start if tree.across else n  # trunks have their prompt in their own past
    sizes = [before, *(block.queries.stop - block.queries.start for block in tree.across)]
    sizes.append(n - sum(sizes))
    first = repeated([0, *(block.keys.start for block in tree.across), 0], sizes)
    end = repeated([0, *(block.keys.stop for block in tree.across), 0], sizes)
    own, first, end = torch.stack([own, first, end]).to(device)
    return own, first, end


def repeated(values: list[int], times: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32).repeat_interleave(torch.tensor(times))


def tiles(runs: Runs) -> tuple[Tensor, Tensor]:
    """Blocks of queries against blocks of keys [b, b]: whether any token of the one sees any of the other; all, all."""
    own, first, end = runs
    past = torch.arange(1, len(own) + 1, dtype=own.dtype, device=own.device)
    some, every = (
        counted(down(own), up(past)) + counted(down(first), up(end)),
        counted(up(own), down(past)) + counted(up(first), down(end)),
    )
    return some > 0, every == BLOCK


def down(place: Tensor) -> Tensor:
    return place // BLOCK


def up(place: Tensor) -> Tensor:
    return (place + BLOCK - 1) // BLOCK


def counted(start: Tensor, stop: Tensor) -> Tensor:
    """[b, b]: how many tokens of each block have a run [start, stop) of blocks that covers each block."""
    n = len(start)
    change = torch.zeros(n // BLOCK, n // BLOCK + 1, dtype=torch.int32, device=start.device)
    row, one = torch.arange(n, device=start.device) // BLOCK, torch.ones_like(start)
    change.index_put_((row, start.long()), one, accumulate=True)
    change.index_put_((row, stop.maximum(start).long()), -one, accumulate=True)
    return change.cumsum(1)[:, :-1]


def listed(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries reads [1, 1, b], and which, those in front [1, 1, b, b]."""
    order = wanted.int().argsort(dim=-1, descending=True, stable=True)
    return wanted.sum(-1).int()[None, None], order.int()[None, None]


# --- is it to be trusted? ------------------------------------------------------------------------
@torch.enable_grad()
def agrees(config: Any, device: torch.device) -> bool:
    """Whether the kernel says and pulls back what SDPA does under a mask, for a model's heads, in fp32 and bf16."""
    n, heads = rounded(TRIED.tokens, WIDE), config.num_attention_heads
    few = getattr(config, "num_key_value_heads", None) or heads
    d = getattr(config, "head_dim", None) or config.hidden_size // heads
    key = torch.Generator().manual_seed(0)
    *drawn, pull = (torch.randn(1, n, h, d, generator=key).to(device).transpose(1, 2) for h in (heads, few, few, heads))
    mask, blocks, scale = dense(TRIED, n).to(device), followed(TRIED, n, device), d**-0.5

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attended(q, k, v, blocks, scale)

    exact = read(masked, drawn, pull)
    for dtype in (torch.float32, torch.bfloat16) if fast_bf16(device, "auto") else (torch.float32,):
        told = read(ours, [x.to(dtype) for x in drawn], pull.to(dtype))
        if not all((a - b).norm() <= CLOSE[dtype] * b.norm() for a, b in zip(told, exact, strict=True)):
            return False
    return True


def read(f: Callable[..., Tensor], given: Sequence[Tensor], pull: Tensor) -> list[Tensor]:
    """What ``f`` says of queries, keys and values, and their gradients."""
    leaves = [x.detach().requires_grad_() for x in given]
    out = f(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull)]


def dense(tree: Tree, n: int) -> Tensor:
    """[n, n] bool: the mask that says the same of sequences that are each alone of their length."""
    mask, rest = torch.zeros(n, n, dtype=torch.bool), slice(tree.tokens, n)
    for at, keys, _, causal in (*tree.trunks, *tree.branches, *tree.across, Block(rest, rest)):
        block = torch.ones(at.stop - at.start, keys.stop - keys.start, dtype=torch.bool)
        mask[at, keys] = block.tril() if causal else block
    return mask
