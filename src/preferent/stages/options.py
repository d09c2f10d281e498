"""Options that several commands share, a group each. Every field is a flag, a YAML key and a Python argument.

A command takes a group as it is, or with defaults of its own: ``group(OptimiserOptions, lr=5e-7)``. Groups stay small,
and what only one command reads stands in that command's own ``Options``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from preferent.config import UsageError

LOWER = frozenset({"loss", "nll", "perplexity", "kl", "error", "ece", "brier"})
HIGHER = frozenset({"accuracy", "reward", "score", "margin", "gold", "win_rate"})


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model."""

    model: Annotated[str, "what to start from: a Hugging Face folder, a Hub name, or a run folder (its model/)"]
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        "number format of the arithmetic (weights stay float32); auto: bfloat16 on a GPU that has it, else float32",
    ] = "auto"
    device: Annotated[str, "auto, cpu, cuda, cuda:1 …; auto: the first GPU if there is one"] = "auto"
    lora: Annotated[int, "rank of a low-rank adapter (8 to 64 are usual); 0: train all weights", Ge(0)] = 0
    lora_alpha: Annotated[float | None, "scale of the adapter, divided by its rank; none: twice the rank"] = None
    load_4bit: Annotated[
        bool, "hold the frozen weights under --lora in four bits (QLoRA): an eighth of their memory, a little slower"
    ] = False
    checkpoint_activations: Annotated[
        bool, "compute each layer again in the backward pass instead of keeping it: less memory, about a third slower"
    ] = False
    trust_remote_code: Annotated[bool, "run Python code that comes with the model; only for authors you trust"] = False


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data."""

    data: Annotated[
        tuple[str, ...],
        "JSONL or Parquet files or Hub names to train on; file=0.3 draws it with that weight in the mixture",
    ]
    eval_data: Annotated[tuple[str, ...], "the same, held out: measured at each evaluation, never trained on"] = ()
    columns: Annotated[tuple[str, ...], "rename columns: chosen=winner reads the column winner as chosen"] = ()
    max_length: Annotated[int, "longest prompt and reply together, in tokens", Gt(0)] = 1024
    truncation: Annotated[
        Literal["drop", "left", "error"],
        "what happens to longer rows: drop them and say how many, cut the prompt's left end, or stop with an error",
    ] = "drop"
    system: Annotated[str | None, "system prompt put before conversations that have none"] = None
    learn: Annotated[
        Literal["all", "last"], "which assistant turns to learn from: all of them, or only the last one"
    ] = "all"
    skip_bad_rows: Annotated[bool, "leave broken rows out and list them in a side file, instead of stopping"] = False
    streaming: Annotated[bool, "read and tokenise rows as they are needed instead of all of them first"] = False


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """Optimiser (AdamW)."""

    lr: Annotated[float, "learning rate at its highest, after the warm-up", Gt(0)] = 1e-5
    schedule: Annotated[
        Literal["constant", "linear", "cosine"], "course of the learning rate after the warm-up; the last two end at 0"
    ] = "linear"
    warmup: Annotated[float, "share of the steps in which the learning rate rises from 0", Ge(0), Lt(1)] = 0.05
    batch: Annotated[int, "prompts per optimiser step, with all their replies", Gt(0)] = 16
    token_budget: Annotated[
        int | None,
        "most tokens in one forward pass: lower it when memory runs out, the result stays the same; none: 2048 on a "
        "CPU, whose cache they fit, else 16384",
        Gt(0),
    ] = None
    max_grad_norm: Annotated[float | None, "longest gradient (Euclidean norm); none: no clipping", Gt(0)] = 1.0
    weight_decay: Annotated[float, "share of each weight taken off per step, times the learning rate", Ge(0)] = 0.0
    optimizer: Annotated[
        Literal["adamw", "adamw8bit"], "adamw8bit keeps its moments in eight bits: a quarter of their memory"
    ] = "adamw"
    adam_beta1: Annotated[float, "decay of the gradient's running mean", Ge(0), Lt(1)] = 0.9
    adam_beta2: Annotated[float, "decay of the squared gradient's running mean", Ge(0), Lt(1)] = 0.999


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run."""

    out: Annotated[Path, "folder that the run writes: its config, metrics, checkpoints and model"]
    resume: Annotated[bool, "go on from the last checkpoint in --out, bit for bit"] = False
    dry_run: Annotated[bool, "show the resolved plan and its memory estimate, and stop"] = False
    epochs: Annotated[float, "passes over the data", Gt(0)] = 1.0
    steps: Annotated[int | None, "optimiser steps, in place of --epochs; none: as many as the epochs make", Gt(0)] = (
        None
    )
    seed: Annotated[int, "seed of everything drawn at random", Ge(0), Lt(2**63)] = 0
    eval_every: Annotated[int | None, "steps between evaluations; none: only at the end", Gt(0)] = 50
    save_every: Annotated[
        int | None, "steps between checkpoints; none: as often as keeps saving under 2 % of the time", Gt(0)
    ] = None
    keep_best: Annotated[
        str | None,
        "metric whose best checkpoint becomes the model, such as eval/loss; write min:NAME or max:NAME for a metric "
        "whose better direction is not known; none: the last step's",
    ] = None
    patience: Annotated[
        int | None, "stop after this many evaluations without a better --keep-best; none: never", Gt(0)
    ] = None
    threads: Annotated[
        int | None, "CPU threads; none: PyTorch's choice. Bits depend on it, so it is recorded", Gt(0), Le(4096)
    ] = None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Sampling."""

    temperature: Annotated[float, "1: as the model says; lower: safer; 0: always the likeliest token", Ge(0)] = 1.0
    top_p: Annotated[float, "draw from the likeliest tokens that hold this share of the probability", Gt(0), Le(1)] = (
        1.0
    )
    top_k: Annotated[int, "draw from this many likeliest tokens; 0: from all", Ge(0)] = 0
    min_p: Annotated[
        float, "leave out tokens less likely than this share of the likeliest one's probability", Ge(0), Le(1)
    ] = 0.0
    max_new_tokens: Annotated[int, "longest reply, in tokens", Gt(0)] = 256
    stop: Annotated[tuple[str, ...], "text that ends a reply when it appears"] = ()


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Prompts."""

    prompts: Annotated[
        tuple[str, ...], "JSONL or Parquet files or Hub names with a column prompt, or messages that end with a user's"
    ]
    columns: Annotated[tuple[str, ...], "rename columns: prompt=question reads the column question as prompt"] = ()
    limit: Annotated[int | None, "read this many rows of each file; none: all of them", Gt(0)] = None
    max_length: Annotated[
        int | None, "longest prompt and reply together, in tokens; longer rows are left out; none: the model's context"
    ] = None
    system: Annotated[str | None, "system prompt put before conversations that have none"] = None
    skip_bad_rows: Annotated[bool, "leave broken rows out and list them in a side file, instead of stopping"] = False


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """Machine."""

    device: Annotated[str, "auto, cpu, cuda, cuda:1 …; auto: the first GPU if there is one"] = "auto"
    trust_remote_code: Annotated[bool, "run Python code that comes with the model; only for authors you trust"] = False
    seed: Annotated[int, "seed of the noise that replies are drawn with", Ge(0), Lt(2**63)] = 0


class Margins(dict[float, float]):
    """The margin for each strength of preference, from 0 up. Raises UsageError for a strength that has none."""

    def __init__(self, margins: Sequence[float]) -> None:
        super().__init__(enumerate(margins))

    def __missing__(self, strength: float) -> float:
        known = ", ".join(f"{one:g}" for one in sorted(self))
        raise UsageError(f"A preference of strength {strength:g} has no margin: --margins gives them for {known}.")


def watched(keep_best: str) -> tuple[str, Literal["min", "max"]]:
    """What ``--keep-best`` names, and which direction is better.

    ``min:eval/x`` and ``max:eval/x`` say it; otherwise the name's last part does (``eval/loss``: lower is better).
    Raises UsageError where neither does, rather than keep the worst.
    """
    direction, colon, name = keep_best.partition(":")
    if colon and name and direction in ("min", "max"):
        return name, "min" if direction == "min" else "max"
    last = keep_best.rpartition("/")[2]
    if last in LOWER or last in HIGHER:
        return keep_best, "min" if last in LOWER else "max"
    raise UsageError(
        f'--keep-best: expected a metric that is known to get better downwards or upwards; got "{keep_best}".\n'
        f"Write min:{keep_best} or max:{keep_best}.\n"
        f"Known: {', '.join(sorted(LOWER))} (lower is better) · {', '.join(sorted(HIGHER))} (higher is better)."
    )


def refuse_idle(group: Any, *words: str, needs: str, given: object) -> None:
    """Raise UsageError for words of a group that were given a value and say nothing without another word."""
    own = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(group)}
    if not given and (idle := [word for word in words if getattr(group, word) != own[word]]):
        raise UsageError(f"--{idle[0].replace('_', '-')} needs {needs}: without it, it says nothing.")
