"""Supervised fine-tuning from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from preferent.config import group
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions

if TYPE_CHECKING:
    from preferent.types import Metrics


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """Objective."""

    objective: Annotated[
        Literal["sft", "dft"],
        "sft: all tokens alike; dft: each by how likely it is already, so that rare ones pull less",
    ] = "sft"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fine-tune a language model on demonstrations.

    Rows hold ``messages``, or ``prompt`` and ``completion``, or plain ``text``. Only the assistant's turns are learned.

    Examples:
        preferent sft --model Qwen/Qwen2.5-0.5B-Instruct --data demos.jsonl --out runs/sft --lora 16
        preferent sft --model runs/base --data chat.jsonl --eval-data held.jsonl --keep-best eval/nll --out runs/sft
    """

    model: ModelOptions
    data: DataOptions
    likelihood: LikelihoodOptions = LikelihoodOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=2e-5, schedule="cosine")
    run: RunOptions


def run(options: Options, *, title: str = "") -> None:
    """Train, and write a Hugging Face folder."""
    from preferent.algorithms.sft import DFT, SFT, sft
    from preferent.data.load import load_demonstrations
    from preferent.models.load import save
    from preferent.stages import plan, training

    name = options.likelihood.objective
    objective = {"sft": SFT, "dft": DFT}[name]
    with training.opened(options) as run:
        policy = training.policy_of(options.model, seed=options.run.seed)
        template = training.template_of(policy, policy.tokenizer, options.data)
        held_out = training.held_out(load_demonstrations, options, template)
        batches = training.batched(load_demonstrations, "demonstrations", options, template)
        learner = training.learner_of(policy, options, updates=len(batches))
        if options.run.dry_run:
            plan.show(plan.Plan(options, {"policy": policy}, [policy], [policy], batches, updates=len(batches)))
            return

        def measure(_: int) -> Metrics:
            assert held_out is not None  # noqa: S101  (asked only where it is given)
            return learner.measure(training.in_order(held_out, options.optimiser.batch), objective)

        training.trained(
            run,
            sft(learner, batches, objective=objective),
            options.run,
            {"learner": learner, "data": batches},
            title=title or name.upper(),
            total=len(batches),
            numbers=("nll",),
            measure=measure if held_out else None,
            save=lambda folder: save(policy, folder),
        )
