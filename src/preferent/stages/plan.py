"""What ``--dry-run`` shows: the options as they are resolved, the data, the models, the machine, and the memory."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from preferent.config import flatten, words
from preferent.stages.memory import Estimate, Group, Work, estimated

if TYPE_CHECKING:
    from torch import nn

    from preferent.data.batches import Batches
    from preferent.data.stream import StreamBatches
    from preferent.models.forward import Backbone
    from preferent.models.policy import LanguagePolicy

LOOKED_AT = 2000  # steps whose batches are looked at for the largest
WIDTH = 110  # characters


@dataclass(frozen=True)
class Plan:
    """A training command, ready to begin."""

    options: Any
    models: Mapping[str, Any]  # policies, references, scorers, rewards: all that is held in memory, by name
    trained: Sequence[nn.Module]  # what the learners own
    trunks: Sequence[Backbone]  # what one backward pass goes through, the policy first
    batches: Batches[Any, Any] | StreamBatches[Any]
    updates: int
    mini_batch: int | None = None  # prompts in an update; None: the step's
    drawn: tuple[int, int] | None = None  # replies to a prompt and tokens of each, where the policy draws them
    scored: bool = False  # by reward models
    settled: Mapping[str, Any] = field(default_factory=dict)  # what words mean whose value is none


def show(plan: Plan) -> None:
    """Everything, on stdout; nothing is written."""
    click.echo("\n".join(lines_of(plan)))


def lines_of(plan: Plan) -> Iterator[str]:
    yield "options (* as given, not the default)"
    yield from resolved(plan.options, plan.settled)
    yield ""
    yield from data(plan)
    yield ""
    yield from models(plan)
    yield ""
    yield from machine(plan)
    yield ""
    yield from memory(estimate(plan), written=plan)


def resolved(options: Any, settled: Mapping[str, Any]) -> Iterator[str]:
    """Every word with its value, group by group; in place of none, what it comes to."""
    values = flatten(options)
    by_title: dict[str, list[str]] = {}
    for word in words(type(options)):
        said = values[word.name]
        given = word.required or said != plain(word.default)
        shown = settled.get(word.name) if said is None else said
        by_title.setdefault(word.title or "Options", []).append(f"{word.name} {spelt(shown)}{'*' * given}")
    for title, each in by_title.items():
        text = f"  {title:<17} {' · '.join(each)}"
        yield from textwrap.wrap(text, WIDTH, break_on_hyphens=False, subsequent_indent=" " * 20)


def plain(value: Any) -> Any:
    """A default as ``flatten`` gives values."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def spelt(value: Any) -> str:
    """A value as a person would say it on the command line."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def data(plan: Plan) -> Iterator[str]:
    """What was read, how long it is, and how often it comes."""
    from preferent.data.check import quantiles
    from preferent.data.stream import StreamBatches

    steps, size = len(plan.batches), plan.batches.size
    yield "data"
    if isinstance(plan.batches, StreamBatches):
        yield f"  streamed     {steps:,} steps of {size} rows; how long they are is not known beforehand"
        return
    own = getattr(plan.batches.rows, "mixture", plan.batches.rows)  # a mixture has rows without end
    groups = [group_of(own[i], plan.drawn) for i in range(len(own))]
    prompts, replies = Counter(g[0] for g in groups), Counter(length for g in groups for length in g[1])
    yield f"  rows         {len(own):,}"
    yield f"  prompt       tokens: {quantiles(prompts)}"
    if plan.drawn is None:
        yield f"  reply        tokens: {quantiles(replies)}"
    else:
        yield f"  reply        {plan.drawn[0]} to a prompt, at most {plan.drawn[1]} tokens each"
    again = f" · a step takes a row {size / len(own):.1f} times" if size > len(own) else ""
    passes = f"{steps * size / len(own):.2f} epochs"
    yield f"  steps        {steps:,} of {size} rows: {passes} · {plan.updates:,} updates{again}"


def group_of(row: Any, drawn: tuple[int, int] | None) -> Group:
    """A row's prompt and replies, in tokens. A row may be all opinions on the replies to one prompt."""
    from preferent.data.arrow import parts
    from preferent.data.rated import Judged
    from preferent.types import Demonstration, Prompt

    if isinstance(row, Prompt):
        n, length = drawn or (1, 0)
        return len(row.tokens), (length,) * n
    if isinstance(row, Demonstration):
        return len(row.prompt.tokens), (len(row.reply.tokens),)
    said = row.own if isinstance(row, Judged) else row if isinstance(row, list) else [row]
    each = [parts(noun) for noun in said]
    return len(each[0][0].tokens), tuple(map(len, {reply.tokens for _, replies, _ in each for reply in replies}))


def models(plan: Plan) -> Iterator[str]:
    yield "models"
    learned = {id(p) for model in plan.trained for p in model.parameters() if p.requires_grad}
    for name, model in held(plan).items():
        every = list(model.parameters())
        trained = sum(p.numel() for p in every if id(p) in learned)
        path = "" if getattr(model, "sharing", True) else " · every reply with a prompt of its own (plain path)"
        yield f"  {name:<12} {sum(p.numel() for p in every):,} parameters, {trained:,} of them trained{path}"
    if "reference" in plan.models and "reference" not in held(plan):
        yield f"  reference    {unheld(plan.models['reference'])}: no memory of its own"


def held(plan: Plan) -> dict[str, nn.Module]:
    """The modules behind the plan's models, each once; a reference that is the policy without its adapter is none."""
    from preferent.models.policy import Adapterless, Frozen
    from preferent.runtime.reference import Remembered

    found: dict[str, nn.Module] = {}
    for name, given in plan.models.items():
        model: Any = given.source if isinstance(given, Remembered) else given
        if isinstance(model, Frozen):
            found[name] = model.policy
        elif not isinstance(model, Adapterless) and model not in found.values():
            found[name] = model
    return found


def unheld(reference: Any) -> str:
    """What a reference is that has no weights of its own."""
    from preferent.models.policy import Adapterless
    from preferent.runtime.reference import Remembered

    source = reference.source if isinstance(reference, Remembered) else reference
    who = "the policy with its adapter switched off" if isinstance(source, Adapterless) else "the policy as it starts"
    return f"{who}, asked once before the first step" if isinstance(reference, Remembered) else who


def machine(plan: Plan) -> Iterator[str]:
    """Where it will run, and what it will write."""
    from preferent.models.device import chosen_device, fast_bf16
    from preferent.runtime.reference import Remembered
    from preferent.stages.doctor import choice

    asked, run = plan.options.model, plan.options.run
    device = chosen_device(asked.device)
    dtype = "bfloat16" if fast_bf16(device, asked.dtype) else "float32"
    why = choice().why if (asked.device, asked.dtype) == ("auto", "auto") else "as --device and --dtype say"
    yield f"device         {device}, {dtype}: {why}"
    yield (
        f"writes         {run.out}/: config.yaml, manifest.json, metrics.jsonl, events/, checkpoints/, model/"
        + (", reference/" if isinstance(plan.models.get("reference"), Remembered) else "")
        + (", samples/" if plan.drawn and plan.options.data.eval_data else "")
    )


def estimate(plan: Plan) -> Estimate:
    """The memory that the plan needs."""
    from preferent.models.device import chosen_device, fast_bf16
    from preferent.models.half import halves
    from preferent.models.plan import token_budget

    device = chosen_device(plan.options.model.device)
    usual = token_budget(device)
    budget = plan.options.optimiser.token_budget or usual
    bf16 = fast_bf16(device, plan.options.model.dtype)
    half = plan.drawn is not None and halves(cast("LanguagePolicy", plan.trunks[0]), bf16=bf16)
    work = Work(list(steps_of(plan)), budget, plan.mini_batch, plan.drawn, usual if plan.scored else 0, half)
    eight_bits = plan.options.optimiser.optimizer == "adamw8bit"
    return estimated(held(plan), plan.trained, plan.trunks, work, bf16=bf16, eight_bits=eight_bits)


def steps_of(plan: Plan) -> Iterator[Sequence[Group]]:
    """The groups of each step, in the run's own order; of a stream, rows as long as may be."""
    from preferent.data.stream import StreamBatches

    batches = plan.batches
    if isinstance(batches, StreamBatches):
        longest = plan.options.data.max_length
        n, reply = plan.drawn or (
            2 if batches.stream.reader.kind in ("preferences", "rated") else 1,
            longest - longest // 2,
        )
        yield [(longest // 2, (reply,) * n)] * batches.size
        return
    for step in range(min(len(batches), LOOKED_AT)):
        places = range(step * batches.size, (step + 1) * batches.size)
        yield [group_of(batches.rows[batches.index(i)], plan.drawn) for i in places]


def memory(found: Estimate, *, written: Plan) -> Iterator[str]:
    yield "memory (an estimate)"
    for name, size in found.parts.items():
        yield f"  {name:<24} {mib(size):>12}" + (f" · {found.largest}" if name == "activations" else "")
    for name, size in found.phases.items():
        yield f"  peak while {name:<13} {mib(size):>12}"
    learned = sum(p.numel() for model in written.trained for p in model.parameters() if p.requires_grad)
    state = 4 * learned + found.parts["AdamW's moments"]
    yield f"disk           a checkpoint takes {mib(state)}, and up to three lie there at a time"


def mib(size: float) -> str:
    return f"{size / 2**20:,.{0 if size >= 10 * 2**20 else 1}f} MiB"
