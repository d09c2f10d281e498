"""XPO from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from preferent.config import group
from preferent.stages.anchor import AnchorOptions
from preferent.stages.judging import JudgeOptions, annotator_of, refuse_nobody, waiting
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class ExploringOptions:
    """Objective."""

    beta: Annotated[float, "how much leaving the reference costs; lower goes further", Gt(0)] = 0.1
    alpha: Annotated[
        float, "how much saying what the reference says costs: exploration; far below beta, or nothing holds it", Ge(0)
    ] = 1e-5


@dataclass(frozen=True, kw_only=True)
class Options:
    """Online DPO that explores: the policy's reply against the reference's, which is made less likely besides.

    Who compares is a reward, or people through a store, as in `preferent online-dpo`.

    Examples:
        preferent xpo --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/xpo
        preferent xpo --model runs/sft --annotator people --data prompts.jsonl --steps 4 --batch 64 --out runs/xpo
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    judge: JudgeOptions = JudgeOptions()
    loss: ExploringOptions = ExploringOptions()
    anchor: AnchorOptions = AnchorOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=32)
    run: RunOptions


def run(options: Options, *, title: str = "XPO") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.xpo import exploring, xpo
    from preferent.rewards.annotating import Once
    from preferent.stages import drawn

    judge, loss = options.judge, options.loss
    refuse_nobody(judge)
    with drawn.opened(options, judge, reads=options.anchor.reads) as parts, waiting(judge, parts.run):
        reference = options.anchor.speaking(options.model, parts.policy)
        if parts.shown(2, {"reference": reference}):
            return
        reward = Once(parts.reward) if parts.reward else None
        sampler, opponent = parts.sampler(), parts.sampler(reference.policy)
        steps = xpo(
            parts.learner, reference, sampler, opponent, annotator_of(judge, reward, parts.run), parts.batches,
            objective=exploring(beta=loss.beta, alpha=loss.alpha), watched=reward, recompute=parts.learner.bf16,
        )  # fmt: skip
        numbers = ("reward", "kl", "accuracy")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers, states={"opponent": opponent})
