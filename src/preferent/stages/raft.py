"""RAFT and best-of-n distillation from the command line."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from preferent.config import UsageError, group
from preferent.stages.online import RewardOptions, refuse_idle_words
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions

if TYPE_CHECKING:
    from preferent.runtime.learner import LocalLearner
    from preferent.types import Algorithm

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """What is imitated."""

    replies: Annotated[int, "replies to each prompt", Ge(1)] = 8
    keep: Annotated[int, "how many of them, the best ones, are imitated", Gt(0)] = 1
    least: Annotated[float | None, "and only those whose reward is at least this; none: whatever it is"] = None
    draw_every: Annotated[
        int, "steps after which replies are drawn from the policy as it is then; 0: always from the model as it starts"
    ] = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sample, keep what the reward likes best, imitate it, and again (RAFT, rejection sampling).

    With --draw-every 0 it is best-of-n distillation: the policy learns to say at once what the best of n was.

    Examples:
        preferent raft --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/raft
        preferent raft --model runs/sft --reward runs/rm --data prompts.jsonl --replies 16 --draw-every 0 --out runs/bon
        preferent raft --model runs/sft --reward maths.py:right --data gsm8k.jsonl --keep 4 --least 1 --out runs/maths
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    reward: RewardOptions
    kept: KeepOptions = KeepOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=5e-6, schedule="constant", batch=32)
    run: RunOptions


def run(options: Options, *, title: str = "RAFT") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from functools import partial

    from preferent.algorithms.raft import raft, top
    from preferent.algorithms.tr_dpo import following
    from preferent.models.policy import Follower
    from preferent.stages import drawn

    kept = options.kept
    refuse_idle_words(options.reward)
    refuse(kept)
    with drawn.opened(options, options.reward) as parts:
        reference = parts.policy.frozen()
        source = None if kept.draw_every == 1 else Follower(parts.policy)
        if parts.shown(kept.replies, {"reference": reference} | ({"drawn from": source} if source else {})):
            return
        assert parts.reward is not None  # noqa: S101  (--reward is required)
        learner, sampler = parts.learner, parts.sampler(source.policy if source else None)
        steps = raft(
            learner, reference, sampler, parts.reward, parts.batches,
            n=kept.replies, source=source, recompute=learner.bf16,
            keep=partial(top, k=kept.keep, least=float("-inf") if kept.least is None else kept.least),
        )  # fmt: skip
        steps = imitating(steps, learner, parts.batches, of=kept.replies * options.optimiser.batch, least=kept.least)
        if source and kept.draw_every:
            steps = following(steps, learner, source, every=kept.draw_every)
        states = {"source": source} if source else {}
        numbers = ("reward", "reward_kept", "length")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers, states=states)


def imitating(steps: Algorithm, learner: LocalLearner[Any], batches: Any, *, of: int, least: float | None) -> Algorithm:
    """The steps, with a word on the first without a reply to imitate. Raises UsageError where each of them was so."""
    said = False
    for metrics in steps:
        if not metrics["kept"] and not said:
            said = True
            log.warning("0 of %d replies reached --least %s: nothing is learned from such a step.", of, least)
        if not learner.optimizer.state and batches.position >= len(batches):  # no step has moved it
            raise UsageError(f"No reply reached --least {least}, so nothing was learned: give a lower one.")
        yield metrics


def refuse(kept: KeepOptions) -> None:
    """Raise UsageError where nothing is chosen among the replies."""
    if kept.keep > kept.replies or (kept.keep == kept.replies and kept.least is None):
        raise UsageError(
            f"--keep {kept.keep} of --replies {kept.replies} chooses nothing: give --keep less than --replies, or as "
            "many with --least, the reward that a reply needs."
        )
