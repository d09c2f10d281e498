"""Online and iterated DPO, and self-rewarding, from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from preferent.config import UsageError, group
from preferent.stages.anchor import AnchorOptions, ReferenceOptions, refuse_reference
from preferent.stages.judging import JudgeOptions, annotator_of, refuse_nobody, waiting
from preferent.stages.objective import PairOptions, objective_of, refuse_margins
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions

if TYPE_CHECKING:
    from preferent.stages.drawn import Parts
    from preferent.types import Policy, Reward, Stateful


@dataclass(frozen=True, kw_only=True)
class PairingOptions:
    """Pairs."""

    replies: Annotated[int, "replies to each prompt", Ge(2)] = 2
    compare: Annotated[
        Literal["pairs", "once"],
        "pairs: each two replies; once: one question about all of a prompt's, in which a reward compares the best with "
        "the worst, and people choose the best",
    ] = "pairs"


@dataclass(frozen=True, kw_only=True)
class SelfOptions:
    """Self-rewarding."""

    self_reward: Annotated[
        str | None,
        "judge by what preferences have taught --model already: its log-ratio to the model named here, from which it "
        "was trained, times --self-beta",
    ] = None
    self_beta: Annotated[float, "beta of the training that made --model", Gt(0)] = 0.1
    self_cost: Annotated[float, "taken off that reward for each token, which it tends to overpay", Ge(0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sample replies, have them compared, learn from the answers, and again: DPO on the policy's own replies.

    Who compares is a reward, or people. Their questions wait in a store: the run stops where answers are missing, with
    exit code 3, says how many, and goes on with --resume, without asking anything twice. Each step waits for its own
    answers, so take few steps and a large --batch, and --save-every 1.

    With --follow 1 --follow-every N the reference moves to the policy every N steps, which is iterated DPO; the KL is
    then to where it stands. With --self-reward nobody is asked: the reference's own log-ratio to an earlier model
    judges (DICE).

    Examples:
        preferent online-dpo --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/online
        preferent online-dpo --model runs/sft --reward runs/rm --data prompts.jsonl --replies 8 --compare once --out o
        preferent online-dpo --model runs/sft --annotator people --data prompts.jsonl --steps 4 --batch 64 --out p
        preferent online-dpo --model runs/dpo --self-reward runs/sft --data prompts.jsonl --follow 1 --follow-every 50 \
--out runs/self
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    judge: JudgeOptions = JudgeOptions()
    itself: SelfOptions = SelfOptions()
    pairs: PairingOptions = PairingOptions()
    loss: PairOptions = PairOptions()
    reference: ReferenceOptions = ReferenceOptions()
    anchor: AnchorOptions = AnchorOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=32)
    run: RunOptions


def run(options: Options, *, title: str = "online DPO") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.answers import at_once, in_pairs
    from preferent.algorithms.online_dpo import online_dpo
    from preferent.algorithms.tr_dpo import following
    from preferent.models.policy import Follower
    from preferent.rewards.annotating import Once
    from preferent.stages import drawn

    refuse_margins(options.loss)
    objective, pairs, follow, judge = objective_of(options.loss), options.pairs, options.reference, options.judge
    refuse_reference(follow, options.anchor, referred=objective.referred)
    reads = [*refuse_two_judges(options), *options.anchor.reads]
    with drawn.opened(options, judge, reads=reads) as parts, waiting(judge, parts.run):
        stays = follow.follow is None
        reference = options.anchor.frozen(options.model, parts.policy) if stays else Follower(parts.policy)
        own, held = itself(options, parts, reference)
        if parts.shown(pairs.replies, {"reference": reference, **held}):
            return
        learner, sampler, reward = parts.learner, parts.sampler(), own or parts.reward
        once = Once(reward) if reward else None
        steps = online_dpo(
            learner, reference, sampler, annotator_of(judge, once, parts.run), parts.batches,
            objective=objective, n=pairs.replies, watched=once, recompute=learner.bf16,
            asking=at_once if pairs.compare == "once" else in_pairs,
        )  # fmt: skip
        states: dict[str, Stateful] = {}
        if isinstance(reference, Follower) and follow.follow is not None:
            steps = following(steps, learner, reference, share=follow.follow, every=follow.follow_every or 1)
            states["reference"] = reference
        numbers = ("reward", "kl", "accuracy")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers, states=states)


def refuse_two_judges(options: Options) -> list[str]:
    """The further files that judging needs. Raises UsageError unless one alone judges."""
    from preferent.models.load import found

    if options.itself.self_reward is None:
        refuse_nobody(options.judge)
        return []
    if options.judge.reward or options.judge.annotator is not None:
        raise UsageError("With --self-reward the model judges itself: leave --reward and --annotator out.")
    return [found(options.itself.self_reward)]


def itself(options: Options, parts: Parts, reference: Policy) -> tuple[Reward | None, dict[str, Policy]]:
    """The reward within the reference, which is the policy as it was when it was last moved; and what that holds."""
    from preferent.rewards.combined import EndRewarded
    from preferent.rewards.implicit import ImplicitReward
    from preferent.stages.anchor import another

    how = options.itself
    if how.self_reward is None:
        return None, {}
    base = another(how.self_reward, "--self-reward", options.model, parts.policy)
    own = ImplicitReward(parts.learner, reference, base, how.self_beta, how.self_cost)
    penalty = options.judge.end_penalty
    return EndRewarded(own, penalty) if penalty else own, {"judged against": base}
