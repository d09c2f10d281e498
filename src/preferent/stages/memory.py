"""How much memory a run will need at its peak: counted where that is possible, not guessed from the parameters alone.

What a forward pass keeps for the backward one is most of it. That is counted tensor by tensor on three rows of a few
tokens, and extended to the run's largest micro-batch: a constant, a part for each token, and a part for each pair of
tokens in a row (masks, eager attention). Left out: what evaluation and reading a checkpoint need, which is less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from preferent.models.forward import Backbone
    from preferent.models.plan import Plan
    from preferent.models.policy import LanguagePolicy

FP32 = 4  # bytes
TRIED = (32, 64, 128)  # tokens in a row on which a model is tried; twice as many where rows are rounded up
NOISE = 16  # bytes for each row and token of the vocabulary while a token is drawn: logits, softmax, copies of them

Group = tuple[int, tuple[int, ...]]  # tokens of a prompt, and of each of its replies


@dataclass(frozen=True)
class Work:
    """What a run does with memory: its steps as groups of prompts and replies, and how they are cut."""

    steps: Sequence[Sequence[Group]]
    token_budget: int
    mini_batch: int | None = None  # prompts in an update; None: the step's
    drawn: tuple[int, int] | None = None  # replies to a prompt and tokens of each, where the policy draws them itself
    scored: int = 0  # most tokens that reward models read at a time; 0: there are none
    half: bool = False  # whether replies are drawn from a copy of the policy in bf16


@dataclass(frozen=True)
class Estimate:
    """Bytes by what they are for, and the peak of each phase."""

    parts: Mapping[str, float]
    phases: Mapping[str, float]
    largest: str  # the micro-batch that needs most, in words

    @property
    def peak(self) -> float:
        return max(self.phases.values())


class Kept(NamedTuple):
    """Bytes kept for the backward pass by a trunk that reads n rows of w tokens: once + token·n·w + pair·n·w²."""

    once: float
    token: float
    pair: float

    def __call__(self, rows: int, width: int) -> float:
        return self.once + self.token * rows * width + self.pair * rows * width**2


def estimated(
    held: Mapping[str, nn.Module],
    trained: Sequence[nn.Module],
    trunks: Sequence[Backbone],
    work: Work,
    *,
    bf16: bool,
    eight_bits: bool = False,
) -> Estimate:
    """``held``: all models by name, ``trained``: those that a learner owns, ``trunks``: those in one backward pass.

    ``eight_bits`` is about the optimiser's moments.
    """
    from preferent.models.half import size_of_half

    weights = weighed(held)
    each = [sum(p.numel() * p.element_size() for p in m.parameters() if p.requires_grad) for m in trained]
    learned, own = sum(each), max(each)
    kept = [kept_by(trunk, bf16=bf16) for trunk in trunks]
    updates = [list(cut(update, work.token_budget)) for update in updates_of(work)]
    parts_of = (part for update in updates for part in update)
    activations, logits, largest, most = max(
        (needed(part, trunks, kept, bf16=bf16) for part in parts_of), key=lambda found: found[0] + found[1]
    )
    several = any(len(update) > 1 for update in updates)
    # In a single backward pass, gradients take the place that activations leave; those of other learners stay.
    working = activations + logits + (own if several else 0)
    mixed = several or len(trained) > 1 or work.drawn is not None
    lost = wasted(activations, trunks, most, mixed=mixed)
    half = size_of_half(cast("LanguagePolicy", trunks[0])) if work.half else 0.0
    sampler = drawing(trunks[0], work) if work.drawn else 0.0
    copy = copied(trunks[0]) if work.drawn and not work.half else 0.0
    moments = sum(map(moments_of, trained)) if eight_bits else 2.0 * learned
    fixed = sum(weights.values()) + half + moments
    cpu = trunks[0].base.device.type == "cpu"
    parts = {
        **{f"weights: {name}": size for name, size in weights.items()},
        **({"weights: copy in bf16": half} if half else {}),
        "AdamW's moments": moments,
        "gradients": learned,
        "activations": activations,
        "logits": logits,
        "lost to the allocator": lost,
        **({"sampler": sampler} if work.drawn else {}),
        **({"weights: adapter added": copy} if copy else {}),
    }
    updating = fixed + learned - own + max(working + lost, own)
    phases = {"updating": updating}
    if work.drawn:
        phases["sampling"] = max(fixed + learned + sampler, updating if cpu else 0) + copy
    if reading := read(work, trunks[0], kept[0]):
        phases["scoring"] = updating + reading
    return Estimate(parts, phases, largest)


def weighed(held: Mapping[str, nn.Module]) -> dict[str, float]:
    """Bytes of each model's parameters and buffers; what two models share counts for the first."""
    seen: set[int] = set()
    found: dict[str, float] = {}
    for name, model in held.items():
        found[name] = scales_of(model)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                found[name] += tensor.numel() * tensor.element_size()
    return found


def scales_of(model: nn.Module) -> float:
    """Bytes beside weights in four bits: a scale in eight bits for each 64 of them (32 bytes)."""
    return sum(p.numel() * p.element_size() / 32 for p in model.parameters() if hasattr(p, "quant_state"))


def moments_of(model: nn.Module) -> float:
    """Bytes of AdamW's moments in eight bits, each 256 of them with a scale in fp32; small ones stay in 32 bits."""
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    return sum(2.0 * (n + FP32 * n / 256 if n >= 4096 else FP32 * n) for n in sizes)


def updates_of(work: Work) -> Iterator[Sequence[Group]]:
    """What an optimiser step learns from: a step's groups, or a mini-batch of them."""
    for step in work.steps:
        size = work.mini_batch or len(step)
        yield from (step[first : first + size] for first in range(0, len(step), size))


def cut(update: Sequence[Group], token_budget: int) -> Iterator[Sequence[Group]]:
    """Micro-batches: neighbouring groups up to the token budget, as the learner cuts them."""
    part: list[Group] = []
    for group in update:
        if part and sum(map(tokens, part)) + tokens(group) > token_budget:
            yield part
            part = []
        part.append(group)
    yield part


def tokens(group: Group) -> int:
    return group[0] + sum(group[1])


def needed(
    part: Sequence[Group], trunks: Sequence[Backbone], kept: Sequence[Kept], *, bf16: bool
) -> tuple[float, float, str, int]:
    """(activations, logits) of a micro-batch in bytes, what it is in words, and the places in its rows."""
    rows, width = laid_out(part, trunks[0])
    replied = sum(sum(replies) for _, replies in part)
    activations = sum(each(rows, width) for each in kept) + replied * trunks[0].text_config.hidden_size * FP32
    logits = 0.0
    if hasattr(trunks[0], "own_head"):
        logits = said_of(cast("LanguagePolicy", trunks[0]), replied, rows * width, bf16=bf16)
    return activations, logits, f"{rows} row{'s' * (rows > 1)} of {width} tokens", rows * width


def said_of(policy: LanguagePolicy, replied: int, places: int, *, bf16: bool) -> float:
    """Bytes of a policy's logits: kept for the backward pass up to a chunk, else computed again piece by piece.

    Where the head works in place, they are there once; else with their logarithm and their gradient. A model that
    applies its head itself has logits of every place beside.
    """
    from preferent.models.head import CACHED, CHUNK, WIDER, head_of

    vocabulary, cpu = policy.text_config.vocab_size, policy.base.device.type == "cpu"
    n = replied * vocabulary
    if policy.own_head and head_of(policy.base).plain and not bf16:
        return float(FP32 * ((n if n <= CHUNK else 0) + 3 * min(n, CACHED)))
    most = max(CHUNK if cpu else WIDER * CHUNK, vocabulary)
    return float(FP32 * (3 * min(n, most) + (0 if policy.own_head else places * vocabulary)))


def laid_out(part: Sequence[Group], trunk: Backbone) -> tuple[int, int]:
    """Rows and their width, as the model's plan will have them."""
    from preferent.models.plan import placed, row_length

    if not trunk.sharing:
        lengths = [prompt + reply for prompt, replies in part for reply in replies]
        return len(lengths), max(lengths)
    if trunk.branching:
        return 1, row_length(sum(map(tokens, part)), trunk.base.device)
    start, width = placed([tokens(group) for group in part], hidden_size=trunk.text_config.hidden_size)
    return max(start) // width + 1, width


def kept_by(trunk: Backbone, *, bf16: bool) -> Kept:
    """Tried on rows of three widths, through which the parabola is exact.

    Where layers are computed again, that of their inputs, and of one layer whole, which is there while it goes back.
    """
    from preferent.models.recompute import layers_of, recomputed

    kept = kept_of(trunk, bf16=bf16)
    if layers := sum(map(recomputed, layers_of(trunk))):
        whole = kept_before(trunk, kept, bf16=bf16)
        kept = Kept(*(some + each / layers for some, each in zip(kept, whole, strict=True)))
    return kept


def kept_before(trunk: Backbone, kept: Kept, *, bf16: bool) -> Kept:
    """What would be kept if no layer were computed again: what comes and goes. It is ``kept`` where none is."""
    from preferent.models.recompute import kept_whole

    with kept_whole(trunk) as layers:
        return kept_of(trunk, bf16=bf16) if layers else kept


def kept_of(trunk: Backbone, *, bf16: bool) -> Kept:
    """The parabola for the layers as they are."""
    import torch

    found: list[float] = []
    widths: list[int] = []
    for plan in tried(trunk):
        widths.append(plan.tokens.shape[1])
        with torch.autocast(trunk.base.device.type, torch.bfloat16, enabled=bf16):
            found.append(kept_bytes(trunk, partial(trunk.hidden, plan)))
    (x, y, z), (a, b, c) = widths, found
    if not x < y < z:  # a context so short that rows are rounded up to one width
        return Kept(0.0, max(found) / z, 0.0)
    pair = ((c - a) / (z - x) - (b - a) / (y - x)) / (z - y)
    token = (b - a) / (y - x) - pair * (x + y)
    return Kept(max(0.0, a - token * x - pair * x * x), token, max(0.0, pair))


def tried(trunk: Backbone) -> Iterator[Plan]:
    """Rows of three widths, within the model's context."""
    widths = tuple(2 * width for width in TRIED) if trunk.branching else TRIED
    context = getattr(trunk.text_config, "max_position_embeddings", None) or max(widths)
    if context < max(widths):
        widths = tuple(max(4, context * i // 4) for i in (1, 2, 3))
    yield from (trunk.plan(row_of(width, trunk)) for width in widths)


def row_of(width: int, trunk: Backbone) -> Any:
    """One prompt with one reply, half of the row each."""
    import torch

    from preferent.data.collate import moved
    from preferent.types import Replies

    half = width // 2
    key = torch.Generator().manual_seed(0)
    drawn = torch.randint(trunk.text_config.vocab_size, (2, half), generator=key)
    ones = torch.ones(1, half, dtype=torch.bool)
    x = Replies(drawn[:1], torch.tensor([half]), torch.tensor([0]), drawn[1:], ones, ones)
    return moved(x, trunk.base.device)


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd keeps in this forward pass, the model's own parameters aside."""
    import torch

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward()  # noqa: F841  (while it lives, no place is used twice)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def read(work: Work, trunk: Backbone, kept: Kept) -> float:
    """What reading without gradients adds, where more tokens are read at a time than an update reads.

    About half of a layer's activations live at a time. Tensors no larger than an update's find room in what it freed.
    """
    updated = max(sum(map(tokens, part)) for update in updates_of(work) for part in cut(update, work.token_budget))
    steps = [sum(map(tokens, step)) for step in work.steps]
    most = max(min(work.token_budget, max(steps)), min(work.scored, max(steps) if work.drawn else sum(steps)))
    return 0.5 * kept.token / trunk.text_config.num_hidden_layers * most if most > updated else 0.0


def wasted(activations: float, trunks: Sequence[Backbone], places: int, *, mixed: bool) -> float:
    """Memory that has been given back to the allocator and cannot be used again, since something small lies in it.

    On a CPU measured with glibc 2.36 (``benchmarks/memory.py``): three tenths of what a pass over the layers makes,
    which under an adapter is twice as much, though hardly more of it is kept, and which is no less where layers are
    computed again; and three tenths of what is kept, where gradients or drawn replies come between one micro-batch and
    the next. A GPU's caching allocator loses little.
    """
    if trunks[0].base.device.type != "cpu":
        return 0.1 * activations
    return 0.3 * (places * sum(map(made_by, trunks)) + (activations if mixed else 0))


def made_by(trunk: Backbone) -> float:
    """Bytes that each further token adds to the tensors which a forward pass makes, whether they are kept or not."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def places(values: Any) -> dict[int, int]:
        found = (each.untyped_storage() for each in tree_leaves(values) if isinstance(each, torch.Tensor))
        return {storage.data_ptr(): storage.nbytes() for storage in found}

    class Made(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            given = places((args, kwargs))
            self.size += sum(size for place, size in places(out).items() if place not in given)
            return out

    first, *_, last = tried(trunk)
    sizes: list[int] = []
    for plan in (first, last):
        with torch.no_grad(), Made() as made:  # type: ignore[no-untyped-call]
            trunk.hidden(plan)
        sizes.append(made.size)
    further = last.tokens.numel() - first.tokens.numel()
    return (sizes[1] - sizes[0]) / further if further else sizes[1] / last.tokens.numel()


def copied(policy: Backbone) -> float:
    """Bytes of the weights to which an adapter is added while replies are drawn: the frozen ones stay beside them.

    They lie in one piece, for which a CPU's heap has no place even when an update has left it empty. What is added to
    one of them is there twice for a moment.
    """
    from preferent.models.merging import adapted, whole

    if not policy.has_adapter or not whole(policy.model):
        return 0.0
    sizes = [layer.base_layer.weight.nbytes for layer in adapted(policy.model)]
    return float(sum(sizes) + 2 * max(sizes))


def drawing(policy: Backbone, work: Work) -> float:
    """Keys and values of the replies drawn at a time, twice for a layer that grows, and what drawing a token takes.

    Decoding by hand has a prompt's once for all its replies, buffers with some room, and copies of small weights.
    """
    from preferent.models.linear import copied_bytes, rounded
    from preferent.sampling.direct import can_decode
    from preferent.sampling.local import LocalSampler

    config = policy.text_config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers
    assert work.drawn is not None  # noqa: S101  (asked only where replies are drawn)
    n, length = work.drawn
    most = 0.0
    by_hand = can_decode(cast("LanguagePolicy", policy))
    budget = signature(LocalSampler).parameters["cache_tokens"].default
    for step in work.steps:
        prompts = sorted((group[0] for group in step), reverse=True)
        copies = 1 if by_hand else n
        together = max(1, min(len(prompts), budget // (copies * prompts[0] + n * length)))
        rows = n * together
        held = copies * together * prompts[0] + rows * (rounded(length) if by_hand else length)
        values = 2.0 * layers * heads * size * (FP32 // 2 if work.half else FP32) * held
        most = max(most, values * (1 + 1 / layers) + NOISE * rows * config.vocab_size)
    return most + (copied_bytes(policy.base) if by_hand and not work.half else 0)
