"""How the batches of ``types`` are cut between prompts: by their fields alone, so that a noun lists only what it holds.

Works on tensors without importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from torch import Tensor

Prompts = slice | Sequence[int]


class CutReplies:
    """A prompt takes its replies along; replies are numbered anew."""

    __slots__ = ()
    prompts: Tensor
    prompt_length: Tensor
    prompt_of: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def tokens_each(self) -> list[int]:
        total = self.prompt_length.clone().index_add(0, self.prompt_of, self.present.sum(-1))
        return cast(list[int], total.tolist())

    def rows(self, prompts: Prompts) -> Tensor:
        """[k]: the replies of these prompts, in the order of the prompts."""
        of: list[list[int]] = [[] for _ in range(len(self))]
        for row, prompt in enumerate(self.prompt_of.tolist()):
            of[prompt].append(row)
        return self.prompt_of.new_tensor([row for prompt in listed(prompts, len(self)) for row in of[prompt]])

    def __getitem__(self, prompts: Prompts, /) -> Self:
        chosen, rows = listed(prompts, len(self)), self.rows(prompts)
        by_prompt = {"prompts": self.prompts[chosen], "prompt_length": self.prompt_length[chosen]}
        prompt_of = renumbered(self.prompt_of, chosen, len(self))[rows]
        by_reply = {f.name: getattr(self, f.name)[rows] for f in fields(cast(Any, self)) if f.name not in by_prompt}
        return cast(Self, replace(cast(Any, self), **by_prompt, **by_reply | {"prompt_of": prompt_of}))


class CutRows:
    """Every field beside ``replies`` has one row for each reply."""

    __slots__ = ()
    replies: Any

    def __len__(self) -> int:
        return len(self.replies)

    def tokens_each(self) -> Sequence[int]:
        return cast(Sequence[int], self.replies.tokens_each())

    def __getitem__(self, prompts: Prompts, /) -> Self:
        rows = self.replies.rows(prompts)
        about = {f.name: getattr(self, f.name)[rows] for f in fields(cast(Any, self)) if f.name != "replies"}
        return cast(Self, replace(cast(Any, self), replies=self.replies[prompts], **about))


class CutPairs(CutRows):
    """Every field beside ``replies`` has one row for each pair; ``better`` and ``worse`` point at replies."""

    __slots__ = ()
    better: Tensor
    worse: Tensor

    def __getitem__(self, prompts: Prompts, /) -> Self:
        rows = self.replies.rows(prompts).tolist()
        better, worse = (renumbered(i, rows, len(self.replies.tokens)) for i in (self.better, self.worse))
        mine = better >= 0
        about = {f.name: getattr(self, f.name)[mine] for f in fields(cast(Any, self)) if f.name != "replies"}
        new = about | {"replies": self.replies[prompts], "better": better[mine], "worse": worse[mine]}
        return cast(Self, replace(cast(Any, self), **new))


def listed(prompts: Prompts, n: int) -> list[int]:
    """The prompts as numbers from 0 to n - 1. Raises ValueError where one is named twice, IndexError where none is."""
    chosen = list(range(n)[prompts]) if isinstance(prompts, slice) else [range(n)[prompt] for prompt in prompts]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a batch is cut into different prompts: one of {chosen} is named twice")
    return chosen


def renumbered(index: Tensor, kept: Sequence[int], n: int) -> Tensor:
    """``index`` into n things, rewritten for the kept ones only; -1 where its thing is gone."""
    new = index.new_full((n,), -1)
    new[list(kept)] = index.new_tensor(range(len(kept)))
    return new[index]
