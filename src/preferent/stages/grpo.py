"""GRPO and its relatives from the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from preferent.algorithms.grpo import Config
from preferent.config import group
from preferent.stages.online import RewardOptions
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Objective."""

    objective: Annotated[
        Literal["grpo", "dr-grpo", "rloo", "dapo"], "advantage, surrogate and average of the named paper"
    ] = "grpo"
    kl: Annotated[float | None, "weight of the KL to the reference; none: the objective's own", Ge(0)] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reinforcement learning on groups of replies: each is compared with its siblings, so there is no critic.

    Prompts come from --data (``prompt``, or conversations that end with the user's turn).

    Examples:
        preferent grpo --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/grpo
        preferent grpo --model runs/sft --reward maths.py:right --data gsm8k.jsonl --objective dapo --out runs/dapo
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    reward: RewardOptions
    groups: Config = field(default_factory=Config)
    objective: ObjectiveOptions = ObjectiveOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=16)
    run: RunOptions


def run(options: Options, *, title: str = "") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms import grpo as algorithm
    from preferent.data.load import load_prompts
    from preferent.losses.means import over_budget
    from preferent.models.load import save
    from preferent.stages import online, plan, training

    objectives = {
        "grpo": algorithm.GRPO,
        "dr-grpo": replace(algorithm.DR_GRPO, average=over_budget(length=options.sampling.max_new_tokens)),
        "rloo": algorithm.RLOO,
        "dapo": algorithm.DAPO,
    }
    objective = objectives[options.objective.objective]
    if options.objective.kl is not None:
        objective = replace(objective, kl=options.objective.kl)
    with training.opened(options, reads=training.readable([*options.reward.reward, *options.reward.truth])) as run:
        policy = training.policy_of(options.model, seed=options.run.seed, temperature=options.sampling.temperature)
        template = training.template_of(policy, policy.tokenizer, options.data, reply=options.sampling.max_new_tokens)
        held_out = training.held_out(load_prompts, options, template)
        reward, _ = online.reward_of(options.reward, policy.tokenizer, device=options.model.device)
        truth = online.truth_of(options.reward, options.data, policy.tokenizer, device=options.model.device)
        size = options.optimiser.batch
        batches = training.batched(load_prompts, "prompts", options, template)
        reference = policy.frozen()
        updates = len(batches) * options.groups.grpo_epochs * -(-size // options.groups.mini_batch)
        learner = training.learner_of(policy, options, updates=updates)
        if options.run.dry_run:
            rewards, drawn = online.reward_models(reward), (options.groups.group, options.sampling.max_new_tokens)
            held, cut = {"policy": policy, "reference": reference, **rewards}, options.groups.mini_batch
            planned = plan.Plan(options, held, [policy], [policy], batches, updates, cut, drawn, scored=bool(rewards))
            plan.show(replace(planned, settled={"kl": objective.kl}))
            return
        sampler = online.sampler_of(policy, template, options.sampling, seed=options.run.seed, bf16=learner.bf16)
        training.trained(
            run,
            algorithm.grpo(
                learner, reference, sampler, reward, batches,
                objective=objective, config=options.groups, seed=options.run.seed, recompute=learner.bf16,
            ),
            options.run,
            {"learner": learner, "data": batches, "sampler": sampler, **online.stateful(reward=reward, truth=truth)},
            title=title or options.objective.objective.upper(),
            total=len(batches),
            numbers=("reward", "kl", "length"),
            measure=online.measuring(learner, reference, sampler, reward, held_out, run, truth) if held_out else None,
            save=lambda folder: save(policy, folder),
        )  # fmt: skip
