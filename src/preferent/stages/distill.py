"""On-policy distillation from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from preferent.config import group
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Teacher."""

    teacher: Annotated[str, "the better model, with the same tokenizer: a folder, a run folder or a Hub name"]
    replies: Annotated[int, "replies to each prompt", Gt(0)] = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """Learn from a better model, which marks every token of the policy's own replies (on-policy distillation).

    Both need the same tokens. The KL that is shown is the one to the teacher.

    Examples:
        preferent distill --model runs/small --teacher runs/large --data prompts.jsonl --out runs/distilled
        preferent distill --model Qwen/Qwen2.5-0.5B-Instruct --teacher Qwen/Qwen2.5-7B-Instruct --data p.jsonl --out d
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    teacher: TeacherOptions
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-5, schedule="linear", batch=32)
    run: RunOptions


def run(options: Options, *, title: str = "distillation") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.distill import distill
    from preferent.models.load import found
    from preferent.stages import drawn
    from preferent.stages.anchor import another

    how = options.teacher
    with drawn.opened(options, None, reads=[found(how.teacher)]) as parts:
        teacher = another(how.teacher, "--teacher", options.model, parts.policy)
        if parts.shown(how.replies, {"teacher": teacher}):
            return
        sampler = parts.sampler()
        recompute = parts.learner.bf16
        steps = distill(parts.learner, teacher, sampler, parts.batches, n=how.replies, recompute=recompute)
        parts.trained(steps, sampler, teacher, title=title, numbers=("kl", "entropy", "length"))
