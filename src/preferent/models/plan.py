"""Where each token of a batch stands in the rows that a model sees, and whose hidden state predicts it.

A prompt stands once, its replies behind it: ``prompt | reply 1 | reply 2 | …``. Each reply continues the prompt's
positions and sees the prompt and its own past only (exact tree attention), so one row holds what would otherwise be
several sequences with the same beginning. Several such groups share a row when they fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from preferent.types import Replies

NOWHERE = -1  # the group of padding


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows [n, w]. ``states`` is the only place where the shift by one token lives."""

    tokens: Tensor  # [n, w]
    positions: Tensor  # [n, w] a reply's go on from its prompt's
    group: Tensor  # [n, w] which prompt a token belongs to; NOWHERE for padding
    branch: Tensor  # [n, w] 0 in a prompt, else 1 + the reply's row
    states: Tensor  # [r, t + 1] flat index (into n · w) of the token before each reply token, and of the last present

    def allowed(self, window: int | None = None) -> Tensor:
        """[n, w, w] bool: may the query token see the key token; ``window`` is measured in positions."""
        query, key = (slice(None), slice(None), None), (slice(None), None, slice(None))
        distance = self.positions[query] - self.positions[key]
        own = (self.branch[key] == 0) | (self.branch[key] == self.branch[query])
        seen = (self.group[query] == self.group[key]) & own & (distance >= 0)
        return seen if window is None else seen & (distance < window)


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
    device, length = x.tokens.device, x.present.sum(-1)
    group_start = torch.tensor(start, device=device)
    before = length.cumsum(0) - length  # reply tokens of the batch before this reply …
    first = torch.searchsorted(x.prompt_of, x.prompt_of)  # … less those before its group's first reply
    reply_start = group_start[x.prompt_of] + x.prompt_length[x.prompt_of] + before - before[first]
    n = max(start) // width + 1

    along_prompt, along = (torch.arange(each.shape[1], device=device) for each in (x.prompts, x.tokens))
    in_prompt = along_prompt < x.prompt_length[:, None]
    to_prompt = (group_start[:, None] + along_prompt)[in_prompt]
    to_reply = (reply_start[:, None] + along)[x.present]

    def laid(of_prompts: Tensor, of_replies: Tensor, empty: int) -> Tensor:
        flat = torch.full((n * width,), empty, device=device)
        flat[to_prompt] = of_prompts.expand(in_prompt.shape)[in_prompt]
        flat[to_reply] = of_replies.expand(x.present.shape)[x.present]
        return flat.view(n, width)

    prompts = torch.arange(len(x), device=device)[:, None]
    rows = torch.arange(len(x.tokens), device=device)[:, None]
    last_of_prompt = (group_start + x.prompt_length - 1)[x.prompt_of, None]
    own = reply_start[:, None] + torch.minimum(along, (length - 1).clamp(min=0)[:, None])
    return Plan(
        tokens=laid(x.prompts, x.tokens, 0),
        positions=laid(along_prompt, x.prompt_length[x.prompt_of, None] + along, 0),
        group=laid(prompts, x.prompt_of[:, None], NOWHERE),
        branch=laid(torch.zeros_like(prompts), rows + 1, 0),
        states=torch.cat([last_of_prompt, own.where(length[:, None] > 0, last_of_prompt)], 1),
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
