"""How fast a step could be: its useful arithmetic at the machine's matrix rate, its bytes at the copy rate.

Useful is what no exact method can leave out: every prompt and every reply once through the layers, the scores of the
pairs of tokens that see one another, and the head on the tokens that are learned from. Three times the forward pass
where gradients are wanted. Bytes are those of the optimiser's state, and of weights, keys and values for each drawn
token of a batch. The rates are measured at the model's own shapes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from preferent.models.linear import times

FP32 = 4
Group = tuple[int, Sequence[int]]  # tokens of a prompt, and of each of its replies


def rate(work: float, f: Callable[[], object], seconds: float = 0.3) -> float:
    """How much of ``work`` a second, in the fastest of five spells."""
    best = 0.0
    for _ in range(5):
        n, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / 5:
            f()
            n += 1
        best = max(best, work * n / (time.perf_counter() - began))
    return best


@dataclass(frozen=True)
class Shape:
    """Of a decoder as ``new_model`` makes it, unless its numbers say otherwise."""

    hidden: int
    layers: int
    vocabulary: int
    intermediate: int = 0
    key_width: int = 0  # of all heads' keys together, where they are fewer than the queries'

    @property
    def wide(self) -> int:
        return self.intermediate or 8 * self.hidden // 3

    @property
    def narrow(self) -> int:
        return self.key_width or self.hidden

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """[in, out] of a layer's linear maps."""
        d = self.hidden
        return [(d, d)] * 2 + [(d, self.narrow)] * 2 + [(d, self.wide)] * 2 + [(self.wide, d)]

    @property
    def in_layers(self) -> int:
        return self.layers * sum(a * b for a, b in self.matrices)


@dataclass(frozen=True)
class Machine:
    """What it does at best."""

    matrices: float  # operations a second on many rows
    drawing: float  # the same on as many rows as are drawn at a time
    copying: float  # bytes a second

    def seconds(self, operations: float, drawn: float, moved: float) -> float:
        return operations / self.matrices + drawn / self.drawing + moved / self.copying


def machine(shape: Shape, *, rows: int = 64) -> Machine:
    """The better of MKL and oneDNN, whichever PyTorch would take."""

    def products(n: int) -> float:
        shapes = [*shape.matrices, (shape.hidden, shape.vocabulary)]
        each = [(torch.randn(n, a), torch.randn(b, a), torch.empty(n, b)) for a, b in shapes]
        work = sum(2 * n * w.numel() for _, w, _ in each)
        usual = rate(work, lambda: [torch.mm(x, w.t(), out=out) for x, w, out in each])
        return max(usual, rate(work, lambda: [times(x, w) for x, w, _ in each]))

    block, into = torch.randn(1 << 24), torch.empty(1 << 24)
    return Machine(products(2048), products(rows), rate(2 * FP32 * block.numel(), lambda: into.copy_(block)))


def read(shape: Shape, groups: Sequence[Group], *, head: int) -> float:
    """Operations of one forward pass; ``head``: numbers that it says of a learned token."""
    every = learned = pairs = 0
    for prompt, replies in groups:
        every += prompt + sum(replies)
        learned += sum(replies)
        pairs += prompt * (prompt + 1) // 2 + sum(t * prompt + t * (t + 1) // 2 for t in replies)
    return (
        2.0 * shape.in_layers * every + 4.0 * shape.layers * shape.hidden * pairs + 2.0 * shape.hidden * head * learned
    )


def drawn(shape: Shape, groups: Sequence[Group]) -> tuple[float, float, float]:
    """Operations on prompts, operations on replies token by token, and bytes, of drawing the replies."""
    prompts = read(shape, [(prompt, ()) for prompt, _ in groups], head=0)
    replies = read(shape, groups, head=shape.vocabulary) - prompts
    steps = max(t for _, each in groups for t in each)
    weights = shape.in_layers + shape.hidden * shape.vocabulary
    seen = sum(sum(max(each) * prompt + t * (t + 1) // 2 for t in each[:1]) + sum(t * (t + 1) // 2 for t in each[1:])
               for prompt, each in groups)  # fmt: skip
    return prompts, replies, float(FP32) * (steps * weights + 2 * shape.layers * shape.narrow * seen)


def floor(kind: str, shape: Shape, groups: Sequence[Group], *, epochs: int = 1) -> tuple[float, float, float]:
    """(operations, operations while drawing, bytes) of a step."""
    said, scored = read(shape, groups, head=shape.vocabulary), read(shape, groups, head=1)
    optimiser = (
        7.0 * FP32 * (shape.in_layers + shape.hidden * shape.vocabulary)
    )  # three read and written, gradients read
    if kind in ("sampling", "grpo", "online-dpo", "ppo"):
        prompts, replies, moved = drawn(shape, groups)
        learned = said + 3 * said  # by the reference, and by the policy with its gradient
        critic = said + 2 * scored + epochs * 3 * (said + scored)
        more = {"sampling": 0.0, "grpo": learned, "online-dpo": learned, "ppo": critic}[kind]
        updates = {"sampling": 0, "grpo": 1, "online-dpo": 1, "ppo": 2 * epochs}[kind]
        return prompts + more, replies, moved + updates * optimiser
    if kind == "scoring":
        return said, 0.0, 0.0
    # KTO reads each prompt's own reply, and without gradients another one behind the same prompt.
    others = said - read(shape, [(prompt, ()) for prompt, _ in groups], head=0)
    return {"sft": 3 * said, "reward": 3 * scored, "dpo": 3 * said, "kto": 3 * said + others}[kind], 0.0, optimiser
