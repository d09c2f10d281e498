"""Direct preference optimisation from the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from preferent.config import group
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions


@dataclass(frozen=True, kw_only=True)
class DPOOptions:
    """Objective."""

    objective: Annotated[Literal["dpo", "ipo", "hinge"], "loss on the pair of log-ratios to the reference"] = "dpo"
    beta: Annotated[float, "how much leaving the reference costs; lower goes further", Gt(0)] = 0.1
    likelihood: Annotated[float, "weight of the better replies' negative log-likelihood", Ge(0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Learn from comparisons directly, without a reward model and without sampling.

    The reference is the model as it starts: what it says of each reply is computed once, before the first step, so that
    it takes no memory (only with --streaming does a copy of the model stay). Rows are as for ``preferent reward``.

    Examples:
        preferent dpo --model runs/sft --data prefs.jsonl --eval-data held.jsonl --out runs/dpo
        preferent dpo --model Qwen/Qwen2.5-0.5B-Instruct --data prefs.jsonl --lora 16 --lr 1e-5 --out runs/dpo
    """

    model: ModelOptions
    data: DataOptions
    dpo: DPOOptions = DPOOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6)
    run: RunOptions


def run(options: Options, *, title: str = "DPO") -> None:
    """Train, and write a Hugging Face folder."""
    from preferent.algorithms import dpo as algorithm
    from preferent.data.load import load_preferences
    from preferent.losses import preference
    from preferent.models.load import save
    from preferent.stages import plan, training

    losses = {"dpo": preference.dpo, "ipo": preference.ipo, "hinge": preference.hinge}
    loss = partial(losses[options.dpo.objective], beta=options.dpo.beta)
    objective = replace(algorithm.DPO, loss=loss, likelihood=options.dpo.likelihood)
    with training.opened(options) as run:
        policy = training.policy_of(options.model, seed=options.run.seed)
        template = training.template_of(policy, policy.tokenizer, options.data)
        held_out = training.held_out(load_preferences, options, template)
        size = options.optimiser.batch
        batches = training.batched(load_preferences, "preferences", options, template)
        learner = training.learner_of(policy, options, updates=len(batches))
        reference = training.reference_of(policy, batches)
        if options.run.dry_run:
            held = {"policy": policy, "reference": reference}
            plan.show(plan.Plan(options, held, [policy], [policy], batches, updates=len(batches)))
            return
        watched = training.asked(reference, run, policy, learner, batches, held_out, title=title)

        def measure(_: int) -> dict[str, float]:
            assert held_out is not None  # noqa: S101  (asked only where it is given)
            held = (algorithm.referred(learner, watched, pairs) for pairs in training.in_order(held_out, size))
            return dict(learner.measure(held, objective))

        training.trained(
            run,
            algorithm.dpo(learner, reference, batches, objective=objective),
            options.run,
            {"learner": learner, "data": batches},
            title=title,
            total=len(batches),
            numbers=("loss", "accuracy", "margin"),
            measure=measure if held_out else None,
            save=lambda folder: save(policy, folder),
        )
