"""Direct preference optimisation from the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from preferent.config import UsageError, group
from preferent.stages.anchor import AnchorOptions, ReferenceOptions, refuse_reference
from preferent.stages.objective import PairOptions, defaults, objective_of, weighed_names
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, refuse_idle

if TYPE_CHECKING:
    from preferent.algorithms.dpo import Objective
    from preferent.models.policy import Follower, LanguagePolicy
    from preferent.rewards.learned import LearnedReward
    from preferent.runtime.learner import LocalLearner
    from preferent.runtime.reference import Remembered
    from preferent.types import Algorithm, Pairs, Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UncertaintyOptions:
    """Uncertainty."""

    uncertainty: Annotated[
        str | None, "an ensemble of reward models: pairs on whose margin its members disagree weigh less"
    ] = None
    uncertainty_temperature: Annotated[
        float, "weights are e^(-u/T), u the members' deviation, in standard deviations of their scores", Gt(0)
    ] = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Learn from comparisons directly, without a reward model and without sampling.

    The reference is the model as it starts, or the --reference. What it says of each reply is computed once, before the
    first step, so that it takes no memory (only with --streaming does a copy stay). Rows are as for ``preferent
    reward``.

    --objective takes DPO's relatives, alone or weighed against one another; `preferent methods` says what each needs.
    With odpo, a row's column ``margin`` says by how much the better reply should be ahead, in units of β·log-ratio.

    Examples:
        preferent dpo --model runs/sft --data prefs.jsonl --eval-data held.jsonl --out runs/dpo
        preferent dpo --model runs/sft --data prefs.jsonl --objective simpo --beta 2.5 --gamma 1.2 --out runs/simpo
        preferent dpo --model runs/sft --data prefs.jsonl --follow 0.6 --out runs/tr-dpo
        preferent dpo --model Qwen/Qwen2.5-0.5B-Instruct --data prefs.jsonl --lora 16 --lr 1e-5 --out runs/dpo
    """

    model: ModelOptions
    data: DataOptions
    dpo: PairOptions = PairOptions()
    reference: ReferenceOptions = ReferenceOptions()
    anchor: AnchorOptions = AnchorOptions()
    uncertainty: UncertaintyOptions = UncertaintyOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6)
    run: RunOptions


def run(options: Options, *, title: str = "") -> None:
    """Train, and write a Hugging Face folder."""
    from preferent.algorithms.dpo import referred
    from preferent.data.load import load_preferences
    from preferent.models.load import save
    from preferent.models.policy import Follower
    from preferent.runtime.reference import Remembered
    from preferent.stages import plan, training

    objective = objective_of(options.dpo)
    refuse_reference(options.reference, options.anchor, referred=objective.referred)
    reads = [*options.anchor.reads, *training.readable(doubters(options.uncertainty))]
    title = title or " + ".join(name for name, _ in weighed_names(options.dpo.objective)).upper()
    with training.opened(options, reads=reads) as run:
        policy = training.policy_of(options.model, seed=options.run.seed)
        template = training.template_of(policy, policy.tokenizer, options.data)
        held_out = training.held_out(load_preferences, options, template)
        size = options.optimiser.batch
        batches = training.batched(load_preferences, "preferences", options, template)
        advise(options, batches)
        learner = training.learner_of(policy, options, updates=len(batches))
        reference: Remembered | Follower | None = None
        other: LanguagePolicy | None = None
        if objective.referred:
            follows = options.reference.follow is not None
            other = options.anchor.model(options.model, policy)
            reference = Follower(policy) if follows else training.reference_of(policy, batches, other)
        doubt = ensemble_of(options, policy)
        if options.run.dry_run:
            held: dict[str, Any] = {"policy": policy} | ({"reference": reference} if reference else {})
            held |= {f"reward {i}": member for i, member in enumerate(doubt.members if doubt else ())}
            settled = defaults(options.dpo)
            plan.show(plan.Plan(options, held, [policy], [policy], batches, updates=len(batches), settled=settled))
            return
        watched: Policy | None = reference
        if isinstance(reference, Remembered):
            watched = training.asked(reference, run, other or policy, learner, batches, held_out, title=title)
            del other  # it has said all that there is to say

        def measure(_: int) -> dict[str, float]:
            assert held_out is not None  # noqa: S101  (asked only where it is given)
            held = (referred(learner, watched, pairs, objective) for pairs in training.in_order(held_out, size))
            return dict(learner.measure(held, objective))

        training.trained(
            run,
            steps(
                options.reference, learner, reference, doubting(options.uncertainty, doubt, learner, batches), objective
            ),
            options.run,
            {"learner": learner, "data": batches}
            | ({"uncertainty": doubt} if doubt else {})
            | ({"reference": reference} if isinstance(reference, Follower) else {}),
            title=title,
            total=len(batches),
            numbers=("loss", "accuracy", "margin"),
            measure=measure if held_out else None,
            save=lambda folder: save(policy, folder),
        )


def advise(options: Options, batches: Any) -> None:
    """Warn where odpo is to go by margins and no row has one; a stream cannot be asked beforehand."""
    rows = getattr(batches, "rows", None)
    if rows is None or "odpo" not in dict(weighed_names(options.dpo.objective)):
        return
    if not any(float(row.comparison.context.info.get("margin") or 0) for i in range(len(rows)) for row in rows[i]):
        log.warning("--objective odpo: no row has a column margin, so it is dpo. --columns margin=NAME reads another.")


def doubters(options: UncertaintyOptions) -> list[str]:
    """Who doubts, if anybody. Raises UsageError for a temperature of nothing."""
    refuse_idle(options, "uncertainty_temperature", needs="--uncertainty", given=options.uncertainty)
    return [options.uncertainty] if options.uncertainty else []


def ensemble_of(options: Options, policy: LanguagePolicy) -> LearnedReward | None:
    """What ``--uncertainty`` names. Raises UsageError for what cannot weigh the policy's pairs."""
    from preferent.rewards.disagreement import refuse_unfit
    from preferent.rewards.learned import LearnedReward
    from preferent.rewards.load import load_reward

    name = options.uncertainty.uncertainty
    if name is None:
        return None
    reward = load_reward([name], policy.tokenizer, device=options.model.device)
    try:
        if not isinstance(reward, LearnedReward):
            raise ValueError("it is no ensemble of reward models")
        refuse_unfit(reward)
    except ValueError as error:
        raise UsageError(f"--uncertainty {name}: {error}.") from error
    return reward


def doubting(
    options: UncertaintyOptions, doubt: LearnedReward | None, learner: LocalLearner[Any], batches: Iterable[Pairs]
) -> Iterable[Pairs]:
    """The batches, weighed where there is somebody to doubt them."""
    from preferent.rewards.disagreement import reweighted

    return reweighted(batches, doubt, learner, temperature=options.uncertainty_temperature) if doubt else batches


def steps(
    options: ReferenceOptions,
    learner: LocalLearner[LanguagePolicy],
    reference: Remembered | Follower | None,
    batches: Iterable[Pairs],
    objective: Objective,
) -> Algorithm:
    """DPO, with a reference that stays or one that follows."""
    from preferent.algorithms.dpo import dpo
    from preferent.algorithms.tr_dpo import tr_dpo
    from preferent.models.policy import Follower

    if not isinstance(reference, Follower) or options.follow is None:
        return dpo(learner, reference, batches, objective=objective)
    share, every = options.follow, options.follow_every or 1
    return tr_dpo(learner, reference, batches, share=share, every=every, objective=objective)
