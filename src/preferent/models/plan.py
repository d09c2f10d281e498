"""Where each token of a batch stands in the rows that a model sees, and whose hidden state predicts it.

A prompt stands once, its replies behind it: ``prompt | reply 1 | reply 2 | …``. Each reply continues the prompt's
positions and sees the prompt and its own past only (exact tree attention), so one row holds what would otherwise be
several sequences with the same beginning. Several such groups share a row when they fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from preferent.models.linear import ROWS, rounded
from preferent.types import Replies

NOWHERE = -1  # the group of padding
WIDE = 1024  # what the length of a flat plan's row is a multiple of where a compiled kernel reads it


def token_budget(device: torch.device) -> int:
    """Tokens in one forward pass where nobody says: on a CPU so few that a layer's activations stay in its cache."""
    return 2048 if device.type == "cpu" else 16_384


def in_blocks(device: torch.device) -> bool:
    """Whether attention along a tree is there a compiled kernel's, over blocks of tokens (``flex``)."""
    return device.type != "cpu"


def row_length(tokens: int, device: torch.device) -> int:
    """That of the one row of a flat plan.

    For a compiled kernel it has few values, so that memory given back fits again, and holds several blocks and no
    rest: what is compiled for any length would be compiled once more for one block.
    """
    return rounded(tokens, WIDE if in_blocks(device) else ROWS)


class Block(NamedTuple):
    """Attention of some tokens to some others, in the one row of a flat plan."""

    queries: slice
    keys: slice
    times: int = 1  # so many sequences of one length, one behind the other
    causal: bool = True


class Tree(NamedTuple):
    """Every token is in one trunk or branch. A trunk is a prompt and its first reply, a branch any other reply."""

    trunks: tuple[Block, ...]
    branches: tuple[Block, ...]
    across: tuple[Block, ...]  # branches to the prompts that they continue
    tokens: int  # in all; what stands behind them is padding


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows [n, w]. ``states`` is the only place where the shift by one token lives."""

    tokens: Tensor  # [n, w]
    positions: Tensor  # [n, w] a reply's go on from its prompt's
    group: Tensor  # [n, w] which prompt a token belongs to; NOWHERE for padding
    branch: Tensor  # [n, w] 0 in a prompt, else 1 + the reply's row
    states: Tensor  # [r, t + 1] flat index (into n · w) of the token before each reply token, and of the last present
    tree: Tree | None = None  # of a flat plan, which needs no masks

    def allowed(self, window: int | None = None) -> Tensor:
        """[n, w, w] bool: may the query token see the key token; ``window`` is measured in positions."""
        query, key = (slice(None), slice(None), None), (slice(None), None, slice(None))
        seen = self.branch[key] == self.branch[query]  # comparisons in place: each takes a byte, a difference eight
        seen |= self.branch[key] == 0
        seen &= self.group[query] == self.group[key]
        seen &= self.positions[query] >= self.positions[key]
        if window is not None:
            seen &= self.positions[query] < self.positions[key] + window
        return seen


def shared(x: Replies, *, hidden_size: int) -> Plan:
    """Groups packed into rows. ``hidden_size`` weighs attention, which grows with the width, against the rest."""
    return packed(x, *placed(x.tokens_each(), hidden_size=hidden_size))


def unshared(x: Replies) -> Plan:
    """Every reply behind a copy of its prompt in a row of its own: the plain computation."""
    alone = Replies(
        x.prompts[x.prompt_of],
        x.prompt_length[x.prompt_of],
        torch.arange(len(x.tokens), device=x.tokens.device),
        x.tokens,
        x.present,
        x.learn,
    )
    lengths = alone.tokens_each()
    return packed(alone, [width * i for width in [max(lengths)] for i in range(len(lengths))], max(lengths))


def packed(x: Replies, start: list[int], width: int) -> Plan:
    """Lay out each prompt and its replies from its flat ``start`` on, in rows of ``width`` tokens."""
    group_start, length = torch.tensor(start, device=x.tokens.device), x.present.sum(-1)
    before = length.cumsum(0) - length  # reply tokens of the batch before this reply …
    first = torch.searchsorted(x.prompt_of, x.prompt_of)  # … less those before its group's first reply
    reply_start = group_start[x.prompt_of] + x.prompt_length[x.prompt_of] + before - before[first]
    return laid_out(x, group_start, reply_start, max(start) // width + 1, width)


def flat(x: Replies) -> Plan:
    """One row: every prompt with its first reply, then all the other replies, then padding up to a usual length."""
    prompts, lengths, prompt_of = (each.tolist() for each in (x.prompt_length, x.present.sum(-1), x.prompt_of))
    first = {i: r for r, i in reversed(list(enumerate(prompt_of)))}
    others = [r for r, i in enumerate(prompt_of) if first[i] != r]
    trunks = [length + (lengths[first[i]] if i in first else 0) for i, length in enumerate(prompts)]
    places = list(accumulate([*trunks, *(lengths[r] for r in others)], initial=0))
    start, n = places[: len(prompts)], places[len(prompts)]
    reply_start = [start[i] + prompts[i] for i in prompt_of]
    for r, place in zip(others, places[len(prompts) : -1], strict=True):
        reply_start[r] = place

    across, at = [], n
    for i, own in groupby(others, key=lambda r: prompt_of[r]):
        size = sum(lengths[r] for r in own)
        if size:
            across.append(Block(slice(at, at + size), slice(start[i], start[i] + prompts[i]), causal=False))
        at += size
    tree = Tree(runs(trunks, 0), runs([lengths[r] for r in others], n), tuple(across), places[-1])
    device = x.tokens.device
    width = row_length(places[-1], device)
    return laid_out(x, torch.tensor(start, device=device), torch.tensor(reply_start, device=device), 1, width, tree)


def runs(lengths: list[int], start: int) -> tuple[Block, ...]:
    """Sequences one behind the other, those of one length in a block."""
    blocks = []
    for length, each in groupby(lengths):
        times = len(list(each))
        at = slice(start, start + times * length)
        start = at.stop
        if length:
            blocks.append(Block(at, at, times))
    return tuple(blocks)


def laid_out(
    x: Replies, prompt_start: Tensor, reply_start: Tensor, n: int, width: int, tree: Tree | None = None
) -> Plan:
    """The plan in which prompts and replies begin at these flat places."""
    device, length = x.tokens.device, x.present.sum(-1)
    along_prompt, along = (torch.arange(each.shape[1], device=device) for each in (x.prompts, x.tokens))
    in_prompt = along_prompt < x.prompt_length[:, None]
    to_prompt = (prompt_start[:, None] + along_prompt)[in_prompt]
    to_reply = (reply_start[:, None] + along)[x.present]

    def laid(of_prompts: Tensor, of_replies: Tensor, empty: int) -> Tensor:
        row = torch.full((n * width,), empty, device=device)
        row[to_prompt] = of_prompts.expand(in_prompt.shape)[in_prompt]
        row[to_reply] = of_replies.expand(x.present.shape)[x.present]
        return row.view(n, width)

    prompts = torch.arange(len(x), device=device)[:, None]
    rows = torch.arange(len(x.tokens), device=device)[:, None]
    last_of_prompt = (prompt_start + x.prompt_length - 1)[x.prompt_of, None]
    own = reply_start[:, None] + torch.minimum(along, (length - 1).clamp(min=0)[:, None])
    return Plan(
        tokens=laid(x.prompts, x.tokens, 0),
        positions=laid(along_prompt, x.prompt_length[x.prompt_of, None] + along, 0),
        group=laid(prompts, x.prompt_of[:, None], NOWHERE),
        branch=laid(torch.zeros_like(prompts), rows + 1, 0),
        states=torch.cat([last_of_prompt, own.where(length[:, None] > 0, last_of_prompt)], 1),
        tree=tree,
    )


def placed(lengths: list[int], *, hidden_size: int) -> tuple[list[int], int]:
    """Flat start of each group, and the row width, by first fit into rows as wide as is cheapest.

    The cost of a row of w tokens is w · (24 d² + 4 w d) operations a layer: matrices, and attention over a dense mask.
    A formula, not a stopwatch, decides, so that the same batch is always laid out the same way.
    """
    longest = max(lengths)
    best: tuple[float, list[int], int] | None = None
    for width in sorted({longest, 2 * longest, 4 * longest}):
        start, n = first_fit(lengths, width)
        cost = n * width * (6.0 * hidden_size + width)
        if best is None or cost < best[0]:
            best = (cost, start, width)
    assert best is not None  # noqa: S101  (there is always the longest group's own width)
    return best[1], best[2]


def first_fit(lengths: list[int], width: int) -> tuple[list[int], int]:
    """Longest first, each into the first row with room: (flat start of each, number of rows)."""
    room: list[int] = []
    start = [0] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, free in enumerate(room) if free >= lengths[i]), len(room))
        if row == len(room):
            room.append(width)
        start[i] = row * width + width - room[row]
        room[row] -= lengths[i]
    return start, len(room)
