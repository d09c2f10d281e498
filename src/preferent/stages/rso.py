"""RSO from the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from preferent.algorithms.rso import Config
from preferent.config import UsageError, group
from preferent.stages.objective import PairOptions, objective_of, refuse_margins
from preferent.stages.online import RewardOptions, refuse_idle_words
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Labels."""

    labels: Annotated[Literal["hard", "soft"], "the higher score wins, or σ of the difference of the scores"] = "hard"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Learn from pairs that are distributed as the best policy's own replies (statistical rejection sampling).

    Replies are drawn from the model as it starts, and accepted more often the higher their reward; accepted ones are
    compared by it. Any loss on pairs; the paper's is the hinge.

    Examples:
        preferent rso --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/rso
        preferent rso --model runs/sft --reward runs/rm --data prompts.jsonl --replies 64 --accept 8 --out runs/rso
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    reward: RewardOptions
    rejection: Config = field(default_factory=Config)
    labels: LabelOptions = LabelOptions()
    loss: PairOptions = group(PairOptions, objective=("hinge",))
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=32)
    run: RunOptions


def run(options: Options, *, title: str = "RSO") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.rso import rso
    from preferent.models.policy import Follower
    from preferent.rewards.annotating import Once, Rewarded, hard, soft
    from preferent.stages import drawn

    refuse_margins(options.loss)
    objective, rejection = objective_of(options.loss), options.rejection
    refuse_idle_words(options.reward)
    if rejection.accept >= rejection.replies:
        raise UsageError(
            f"--accept {rejection.accept} of --replies {rejection.replies} rejects nothing: give --accept less than "
            "--replies."
        )
    with drawn.opened(options, options.reward) as parts:
        reference = Follower(parts.policy)
        if parts.shown(options.rejection.replies, {"reference": reference}):
            return
        assert parts.reward is not None  # noqa: S101  (--reward is required)
        sampler, reward = parts.sampler(reference.policy), Once(parts.reward)
        chance = soft if options.labels.labels == "soft" else hard
        annotator = Rewarded(reward, chance, ", ".join(options.reward.reward))
        steps = rso(
            parts.learner, reference, sampler, reward, annotator, parts.batches,
            objective=objective, config=options.rejection, seed=options.run.seed,
        )  # fmt: skip
        numbers = ("reward", "reward_accepted", "accuracy")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers)
