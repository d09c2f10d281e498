"""What learning by sampling has in common: prompts, a sampler, a reward, and evaluation on held-out prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from preferent.config import UsageError
from preferent.stages.constraint import CostOptions, prices, watched
from preferent.stages.options import DataOptions, SamplingOptions, refuse_idle

if TYPE_CHECKING:
    from preferent.algorithms.ahead import Ahead
    from preferent.algorithms.drawing import Drawing
    from preferent.data.template import Template
    from preferent.models.policy import LanguagePolicy
    from preferent.models.scorer import ScoringModel
    from preferent.rewards.learned import LearnedReward
    from preferent.runtime.learner import LocalLearner
    from preferent.runtime.run import Run
    from preferent.sampling.local import LocalSampler
    from preferent.types import Metrics, Policy, Prompt, Reward, Stateful

log = logging.getLogger(__name__)
EVALUATION = 1 << 20  # added to the seed, so that evaluation draws other replies than training


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """Reward."""

    reward: Annotated[
        tuple[str, ...],
        "a reward model's folder or Hub name, or file.py:function; several with weights: runs/rm=0.8, a.py:brief=0.2",
    ]
    combine: Annotated[
        Literal["mean", "worst", "uncertain"], "how an ensemble's members become one score; worst: the lowest"
    ] = "mean"
    caution: Annotated[float, "with uncertain: what a unit of variance between members costs", Ge(0)] = 1.0
    end_penalty: Annotated[float, "taken off the score of a reply that was cut off at its length", Ge(0)] = 1.0
    truth: Annotated[
        tuple[str, ...],
        "what replies are really worth, named as --reward is: asked of replies to --eval-data alone, and never trained "
        "on (eval/truth), so that a reward which is exploited shows",
    ] = ()


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """Drawing."""

    max_staleness: Annotated[
        int,
        "steps that the weights which draw may be behind: 0 is exactly on-policy; with 1, the next replies are drawn "
        "from a copy of the policy while the learner updates",
        Ge(0),
    ] = 0
    correction: Annotated[
        Literal["none", "truncated", "masked"],
        "weights where what drew is not what learns (older weights, bf16): capped, or left out beyond the cap",
    ] = "none"
    correction_of: Annotated[
        Literal["token", "reply"], "whose probability the weight is of; a reply's is without bias, and varies more"
    ] = "token"
    correction_cap: Annotated[float, "the largest weight", Gt(0)] = 2.0
    mask_truncated: Annotated[
        bool, "leave replies that were cut off at their length out of the loss; --end-penalty says what they cost"
    ] = False
    overlong_buffer: Annotated[
        int,
        "tokens before --max-new-tokens in which a reply pays for its length, from 0 up to 1 (DAPO); 0: none",
        Ge(0),
    ] = 0

    def values(self, **more: Any) -> Drawing:
        """What an algorithm takes."""
        from functools import partial

        from preferent.algorithms.drawing import Drawing
        from preferent.losses import policy

        kinds = {"truncated": policy.truncated, "masked": policy.masked}
        kind, whole = kinds.get(self.correction), self.correction_of == "reply"
        weight = partial(kind, cap=self.correction_cap, whole=whole) if kind else None
        return Drawing(self.max_staleness, mask_truncated=self.mask_truncated, correction=weight, **more)


def refuse_idle_words(reward: RewardOptions, drawing: DrawingOptions = DrawingOptions()) -> None:
    """Raise UsageError for what was given and qualifies nothing."""
    refuse_idle(reward, "caution", needs="--combine uncertain", given=reward.combine == "uncertain")
    needs = "--correction truncated or masked"
    refuse_idle(drawing, "correction_cap", "correction_of", needs=needs, given=drawing.correction != "none")


def priced(cost: CostOptions) -> tuple[str, ...]:
    """What the training line shows besides where there is a cost."""
    return ("reward/cost", "reward/cost_price") if cost.cost else ()


def taken(batches: Any, options: DrawingOptions) -> Any:
    """The batches themselves, or where replies are drawn ahead of a step, those that remember what has been used."""
    from preferent.algorithms.ahead import Ahead

    return Ahead(batches) if options.max_staleness else batches


def drawing_policy(policy: LanguagePolicy, options: DrawingOptions) -> LanguagePolicy:
    """The policy from which is drawn: the one that learns, or a copy that may stay behind it."""
    from preferent.models.policy import twin
    from preferent.models.room import suffices

    if not options.max_staleness:
        return policy
    helps = "Take --max-staleness 0, which draws from the policy itself, or train less of it with --lora."
    with suffices("for a copy of the weights that are trained, from which replies are drawn meanwhile", helps):
        return twin(policy)


def sampler_of(
    policy: LanguagePolicy, template: Template, options: SamplingOptions, *, seed: int, bf16: bool
) -> LocalSampler:
    """The sampler of a training run; what narrows its support is said, for it biases what is learned.

    ``bf16`` where the run trains in it: replies may then be drawn from a copy, and the learner is asked for its own
    log-probabilities of them.
    """
    from preferent.models.half import halves
    from preferent.sampling.local import LocalSampler
    from preferent.sampling.support import Support

    support = Support(top_k=options.top_k, top_p=options.top_p, min_p=options.min_p)
    if options.temperature == 0:
        raise UsageError("--temperature 0 always draws the same reply, so there is nothing to compare: take 0.7 to 1.")
    if not support.whole:
        log.warning(
            "Training on replies drawn with top-k, top-p or min-p is biased: they are scored with the whole "
            "distribution, so the KL can look negative, and what may not be drawn is never unlearned."
        )
    return LocalSampler(
        policy,
        max_new_tokens=options.max_new_tokens,
        end_tokens=template.end_tokens,
        support=support,
        stop=options.stop,
        seed=seed,
        half=halves(policy, bf16=bf16),
    )


def alike(sampler: LocalSampler, **changes: Any) -> LocalSampler:
    """Another sampler that draws from the same policy."""
    from preferent.sampling.local import LocalSampler

    same = {
        "max_new_tokens": sampler.max_new_tokens, "end_tokens": sorted(sampler.end_tokens),
        "support": sampler.support, "stop": sampler.stop, "seed": sampler.seed,
    }  # fmt: skip
    return LocalSampler(sampler.policy, **{**same, **changes})


def greedy_of(sampler: LocalSampler) -> LocalSampler:
    """A sampler of each prompt's likeliest reply."""
    from preferent.sampling.support import Support

    return alike(sampler, support=Support(top_k=1))


def reward_of(options: RewardOptions, tokenizer: Any, *, device: str) -> tuple[Reward, LearnedReward | None]:
    """The reward, and the reward model in it from which a critic can start, if there is one of the policy's tokens."""
    from preferent.rewards.combined import EndRewarded, Weighted
    from preferent.rewards.learned import LearnedReward
    from preferent.rewards.load import load_reward

    reward = load_reward(options.reward, tokenizer, how=options.combine, caution=options.caution, device=device)
    parts = [part for part, _ in reward.rewards.values()] if isinstance(reward, Weighted) else [reward]
    learned = next((part for part in parts if isinstance(part, LearnedReward) and part.template is None), None)
    return (EndRewarded(reward, options.end_penalty) if options.end_penalty else reward), learned


def shortened(reward: Reward, options: DrawingOptions, sampling: SamplingOptions) -> Reward:
    """The reward less what a reply pays that comes near the longest. Raises UsageError where all of them would."""
    from preferent.rewards.combined import SoftOverlong

    if options.overlong_buffer > sampling.max_new_tokens:
        raise UsageError(
            f"--overlong-buffer {options.overlong_buffer} is more than a reply can be long: --max-new-tokens is "
            f"{sampling.max_new_tokens}. A quarter of that is usual."
        )
    return SoftOverlong(reward, sampling.max_new_tokens, options.overlong_buffer) if options.overlong_buffer else reward


def truth_of(options: RewardOptions, data: DataOptions, tokenizer: Any, *, device: str) -> Reward | None:
    """What ``--truth`` names. Raises UsageError where there are no held-out prompts to ask it about."""
    from preferent.rewards.load import load_reward

    if options.truth and not data.eval_data:
        raise UsageError("--truth is asked of replies to held-out prompts: name some with --eval-data.")
    return load_reward(options.truth, tokenizer, device=device) if options.truth else None


def learned_in(reward: Reward | None) -> dict[str, LearnedReward]:
    """The rewards in a reward that are models, by name; one on its own has none."""
    from preferent.algorithms.safe_rlhf import Constrained
    from preferent.rewards.combined import EndRewarded, SoftOverlong, Weighted
    from preferent.rewards.learned import LearnedReward

    if isinstance(reward, Constrained):
        return learned_in(reward.reward) | {f"cost {name}": part for name, part in learned_in(reward.cost).items()}
    if isinstance(reward, EndRewarded | SoftOverlong):
        return learned_in(reward.reward)
    if isinstance(reward, Weighted):
        return {f"{name} ": part for name, (part, _) in reward.rewards.items() if isinstance(part, LearnedReward)}
    return {"": reward} if isinstance(reward, LearnedReward) else {}


def reward_models(reward: Reward) -> dict[str, ScoringModel]:
    """The models in a reward, by name."""
    return {
        f"{name}reward {i}": member
        for name, part in learned_in(reward).items()
        for i, member in enumerate(part.members)
    }


def stateful(**rewards: Reward | None) -> dict[str, Stateful]:
    """What a checkpoint has to know of rewards: the price of cost, and how much is read where memory made that less."""
    found: dict[str, Stateful] = {}
    for kind, reward in rewards.items():
        found |= prices(reward)
        found |= {f"{kind}-{i}": part for i, part in enumerate(learned_in(reward).values())}
    return found


def in_turn(measure: Callable[[int], Metrics], batches: Ahead | Any) -> Callable[[int], Metrics]:
    """The same measuring, while nothing is drawn ahead: both use the sampler and the reward."""
    from preferent.algorithms.ahead import Ahead

    if not isinstance(batches, Ahead):
        return measure

    def measured(step: int) -> Metrics:
        with batches.drawing:
            return measure(step)

    return measured


def measuring(
    learner: LocalLearner[Any],
    reference: Policy,
    sampler: LocalSampler,
    reward: Reward | None,
    prompts: Sequence[Prompt],
    run: Run,
    truth: Reward | None = None,
) -> Callable[[int], Metrics]:
    """Evaluation on held-out prompts, one reply each, drawn with the same noise; samples go to the run's folder."""
    from preferent.algorithms.rollouts import marked, scored
    from preferent.algorithms.said import observed, said
    from preferent.evaluation.text import distinct

    drawn = alike(sampler, seed=sampler.seed + EVALUATION)
    reward = watched(reward) if reward else None

    def measure(step: int) -> Metrics:
        sampler.load(learner.weights(), learner.version)  # both draw from one policy, which may be a copy
        groups = drawn.sample(prompts, 1)
        flat = [episode for group in groups for episode in group]
        marks = marked(reward, flat) if reward else None
        worth = {} if truth is None else {"truth": scored(truth, flat)[0].mean().item()}
        copied = sampler.policy is not sampler.source  # whose arithmetic is not the reference's
        told = observed(said(learner, reference, groups, recompute=copied), marks)
        rows = [{"prompt": e.prompt.info.get("messages"), "reply": e.text, "stop": e.stop} for e in flat]
        if marks:
            rows = [row | {"reward": score} for row, score in zip(rows, marks.scores.tolist(), strict=True)]
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        run.samples(step).write_text("".join(lines), encoding="utf-8")
        return {**told, **worth, "distinct_2": distinct([episode.text for episode in flat], 2)}

    return measure
