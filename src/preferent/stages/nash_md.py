"""Nash-MD from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from preferent.config import group
from preferent.stages.anchor import AnchorOptions
from preferent.stages.judging import JudgeOptions, annotator_of, refuse_nobody, waiting
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class GameOptions:
    """Game."""

    replies: Annotated[int, "replies to each prompt, each against one of the opponent's", Gt(0)] = 1
    tau: Annotated[float, "price of a nat of KL, in units of the chance to win", Ge(0)] = 0.1
    mixture: Annotated[
        float, "share of the reference in the opponent, which is else the policy itself; 0: self-play", Ge(0), Le(1)
    ] = 0.125


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play against a mixture of the policy and the reference, and learn to be preferred (Nash-MD).

    It assumes no reward, only who wins, so that preferences may go in circles. Who compares is a reward (its soft
    answers are less noisy), or people through a store, as in `preferent online-dpo`. Take many replies: its gradient is
    a policy gradient's.

    Examples:
        preferent nash-md --model runs/sft --reward runs/rm --data prompts.jsonl --replies 4 --out runs/nash
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    judge: JudgeOptions = group(JudgeOptions, labels="soft")
    game: GameOptions = GameOptions()
    anchor: AnchorOptions = AnchorOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=64)
    run: RunOptions


def run(options: Options, *, title: str = "Nash-MD") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.nash_md import nash_md
    from preferent.rewards.annotating import Once
    from preferent.sampling.mixture import MixtureSampler
    from preferent.stages import drawn

    judge, game = options.judge, options.game
    refuse_nobody(judge)
    with drawn.opened(options, judge, reads=options.anchor.reads) as parts, waiting(judge, parts.run):
        reference = options.anchor.speaking(options.model, parts.policy)
        if parts.shown(2 * game.replies, {"reference": reference}):
            return
        reward, sampler = Once(parts.reward) if parts.reward else None, parts.sampler()
        opponent = MixtureSampler(
            parts.policy, reference.policy, share=game.mixture, max_new_tokens=sampler.max_new_tokens,
            end_tokens=sorted(sampler.end_tokens), support=sampler.support, stop=sampler.stop,
            seed=sampler.seed + drawn.OPPONENT,
        )  # fmt: skip
        steps = nash_md(
            parts.learner, reference, sampler, opponent, annotator_of(judge, reward, parts.run), parts.batches,
            tau=game.tau, n=game.replies, watched=reward, recompute=parts.learner.bf16,
        )  # fmt: skip
        numbers = ("won", "reward", "kl")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers, states={"opponent": opponent})
