"""A batch that does not fit into memory is cut smaller and read again; what cannot be cut smaller is told of.

The result is the same: an update's counts are over the whole step, however it is cut. The smaller budget stays, and is
a part of the learner's state, since the last bits of a result depend on the cuts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from preferent.config import UsageError
from preferent.models.room import no_room, release, too_large
from preferent.types import Batch

log = logging.getLogger(__name__)
B = TypeVar("B", bound=Batch)
Out = TypeVar("Out")


class Cutter(Protocol):
    """What cuts batches by a token budget: a learner."""

    token_budget: int

    @property
    def model(self) -> nn.Module: ...
    def cuts(self, batch: B, /) -> Iterator[B]: ...


class Attempt(Generic[B]):
    """The cuts of a batch, which may be gone through more than once, and the place of the one that was given last."""

    def __init__(self, cuts: Iterable[B]) -> None:
        self.cuts = list(cuts)
        self.place = 0

    def __iter__(self) -> Iterator[B]:
        for self.place, cut in enumerate(self.cuts):  # noqa: B020  (the place is what is kept)
            yield cut

    @property
    def last(self) -> B:
        return self.cuts[self.place]

    @property
    def prompt(self) -> int:
        """The number in the batch of the last cut's first prompt."""
        return sum(map(len, self.cuts[: self.place]))


def fitted(learner: Cutter, batch: B, work: Callable[[Attempt[B]], Out]) -> Out:
    """``work`` done on the batch's cuts, from the beginning with smaller ones where they do not fit.

    Raises UsageError where a single prompt with its replies does not.
    """
    while True:
        cuts = Attempt(learner.cuts(batch))
        try:
            return work(cuts)
        except (RuntimeError, MemoryError) as error:
            if not no_room(error):
                raise
            said = str(error)
        release()
        held = sum(cuts.last.tokens_each())
        if len(cuts.last) == 1:
            raise alone(cuts.last, cuts.prompt, len(batch), learner.model, said)
        learner.token_budget = held // 2
        log.warning("%d tokens at a time do not fit into memory: --token-budget is %d from here on.", held, held // 2)


def alone(cut: Any, prompt: int, prompts: int, model: Any, said: str) -> UsageError:
    """Of a prompt that is all there is in a cut: which of the batch it is, and how long."""
    replies = getattr(cut, "replies", cut)
    length = int(replies.prompt_length[0])
    return too_large(
        f"for a single prompt with its replies: number {prompt + 1} of the {prompts} in this batch, {length} tokens "
        f"and replies of {listed(replies.present.sum(-1).tolist())}",
        replies.prompts[0, :length].tolist(),
        tokenizer=getattr(getattr(model, "policy", model), "tokenizer", None),
        helps="Shorter texts help (--max-length, --max-new-tokens), and fewer replies to a prompt (--group); so do "
        "--checkpoint-activations, --dtype bfloat16, --lora, and with it --load-4bit.",
        said=said,
    )


def listed(lengths: Sequence[int]) -> str:
    shown = ", ".join(map(str, lengths[:8]))
    return f"{shown} … ({len(lengths)} of them)" if len(lengths) > 8 else shown
