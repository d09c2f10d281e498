"""GRPO and its relatives, from REINFORCE on, from the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from preferent.algorithms.grpo import Config
from preferent.config import UsageError, group
from preferent.stages.anchor import AnchorOptions
from preferent.stages.constraint import CostOptions, watched
from preferent.stages.online import DrawingOptions, RewardOptions, priced
from preferent.stages.options import (
    DataOptions,
    ModelOptions,
    OptimiserOptions,
    RunOptions,
    SamplingOptions,
    refuse_idle,
)

if TYPE_CHECKING:
    from torch import Tensor

    from preferent.algorithms.grpo import Objective

ALONE = {"remax", "reinforce++", "reinforce"}  # of one reply to a prompt, they can still say how good it is


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Objective."""

    objective: Annotated[
        Literal[
            "grpo", "dr-grpo", "dapo", "gspo", "cispo", "gmpo", "sapo", "gdpo",
            "rloo", "reinforce", "reinforce++", "remax", "max-rl",
        ],
        "advantage, surrogate and average of the named paper; rloo, reinforce, remax and max-rl do not clip",
    ] = "grpo"  # fmt: skip
    kl: Annotated[float | None, "weight of the KL to the reference as a loss; none: the objective's own", Ge(0)] = None
    kl_reward: Annotated[
        float | None, "what a nat of KL costs in the reward instead; none: the objective's own", Ge(0)
    ] = None
    kl_estimate: Annotated[
        Literal["k2", "k3"],
        "of the KL as a loss; k2 is right on-policy, k3 times the ratio also after the policy moved",
    ] = "k2"
    resample: Annotated[
        int, "further batches of prompts in place of those whose replies all score the same (DAPO); 0: none", Ge(0)
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reinforcement learning without a critic: a reply is compared with its siblings, or with others of its step.

    Prompts come from --data (``prompt``, or conversations that end with the user's turn).

    Examples:
        preferent grpo --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/grpo
        preferent grpo --model runs/sft --reward runs/rm --data prompts.jsonl --objective rloo --group 4 --out runs/rloo
        preferent grpo --model runs/sft --reward maths.py:right --data gsm8k.jsonl --objective dapo --out runs/dapo
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    reward: RewardOptions
    cost: CostOptions = CostOptions()
    groups: Config = field(default_factory=Config)
    objective: ObjectiveOptions = ObjectiveOptions()
    anchor: AnchorOptions = AnchorOptions()
    drawing: DrawingOptions = DrawingOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=16)
    run: RunOptions


def objective_of(options: Options) -> Objective:
    """The objective that is named, with the KL where it is wanted."""
    from preferent.algorithms import grpo as algorithm
    from preferent.algorithms.credit import InGroup
    from preferent.losses import policy
    from preferent.losses.means import over_budget

    objectives = {
        "grpo": algorithm.GRPO,
        "dr-grpo": replace(algorithm.DR_GRPO, average=over_budget(length=options.sampling.max_new_tokens)),
        "dapo": algorithm.DAPO,
        "gspo": algorithm.GSPO,
        "cispo": algorithm.CISPO,
        "gmpo": algorithm.GMPO,
        "sapo": algorithm.SAPO,
        "gdpo": algorithm.GRPO,  # with another advantage, once the names of the rewards are known
        "rloo": algorithm.RLOO,
        "reinforce": algorithm.REINFORCE,
        "reinforce++": algorithm.REINFORCE_PLUS,
        "remax": algorithm.REMAX,
        "max-rl": replace(algorithm.MAX_RL, advantage=InGroup(right_or_wrong)),
    }
    asked = options.objective
    if asked.kl and asked.kl_reward:
        raise UsageError("--kl is paid in the loss and --kl-reward in the reward: give one of them.")
    objective = objectives[asked.objective]
    if asked.kl_estimate == "k3":
        objective = replace(objective, divergence=policy.reverse_off_policy)
    if asked.kl is not None:
        objective = replace(objective, kl=asked.kl, kl_reward=objective.kl_reward if not asked.kl else 0.0)
    if asked.kl_reward is not None:
        objective = replace(objective, kl_reward=asked.kl_reward, kl=objective.kl if not asked.kl_reward else 0.0)
    refuse(options, objective)
    return objective


def refuse(options: Options, objective: Objective) -> None:
    """Raise UsageError where an objective lacks what it is made from."""
    from preferent.losses.policy import reinforce

    name, groups, drawing = options.objective.objective, options.groups, options.drawing
    if groups.group < 2 and (name not in ALONE or options.objective.resample):
        what = f"--objective {name}" if name not in ALONE else "--resample"
        raise UsageError(
            f"{what} compares the replies to a prompt, so it needs --group 2 or more. "
            "Of a single reply, --objective reinforce, reinforce++ and remax learn too."
        )
    if name == "reinforce" and groups.group * options.optimiser.batch < 2:
        raise UsageError(
            "--objective reinforce compares the replies of a step: take a --batch or --group of 2 or more."
        )
    if objective.surrogate is reinforce:
        several = groups.grpo_epochs > 1 or groups.mini_batch < options.optimiser.batch
        if several:
            raise UsageError(
                f"--objective {name} is right for the policy that drew, so for one update a step: take --grpo-epochs 1 "
                "and a --mini-batch of at least --batch, or an objective that clips."
            )
        if drawing.max_staleness and drawing.correction == "none":
            raise UsageError(
                f"--objective {name} knows nothing of the weights that drew: with --max-staleness, take --correction "
                "truncated or masked, or an objective that clips."
            )
    refuse_rewards(options, objective)


def refuse_rewards(options: Options, objective: Objective) -> None:
    """Raise UsageError where an objective cannot look at rewards as they are put together."""
    name = options.objective.objective
    if name == "max-rl" and (options.reward.end_penalty or options.drawing.overlong_buffer):
        raise UsageError(
            "--objective max-rl divides by a group's mean reward, so none may be negative: give "
            "--end-penalty 0, and no --overlong-buffer."
        )
    if name == "gdpo":
        if len(options.reward.reward) < 2:
            raise UsageError("--objective gdpo normalises several rewards apart: name two or more with --reward.")
        if options.reward.end_penalty:
            raise UsageError(
                "--objective gdpo looks at each --reward by itself, so it would not see --end-penalty: give "
                "--end-penalty 0, and a reward of its own, or --overlong-buffer, if replies run on."
            )
        if options.cost.cost:
            raise UsageError(
                "--objective gdpo looks at each --reward by itself, so it would not see what --cost takes off: leave "
                "--cost out, or take --objective dr-grpo or rloo."
            )
        if objective.kl_reward:
            raise UsageError("--objective gdpo rescales rewards, so a --kl-reward would have no price: take --kl.")


def right_or_wrong(rewards: Tensor) -> Tensor:
    """``max_rl``, where a reward that it cannot take is the user's to mend."""
    from preferent.losses.advantage import max_rl

    if (rewards < 0).any():
        raise UsageError(
            "--objective max-rl divides by a group's mean reward, for rewards that say right (1) or wrong (0); this "
            f"one gave {rewards.min().item():g}. Take another --reward, or --objective rloo."
        )
    return max_rl(rewards)


def weights_in(reward: Any) -> dict[str, float]:
    """The weight of each reward in a sum, by the name of its part."""
    from preferent.rewards.combined import SoftOverlong, Weighted

    if isinstance(reward, SoftOverlong):
        return {**weights_in(reward.reward), "overlong": reward.weight}
    return {name: weight for name, (_, weight) in reward.rewards.items()} if isinstance(reward, Weighted) else {}


def run(options: Options, *, title: str = "") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.credit import Decoupled
    from preferent.algorithms.grpo import grpo
    from preferent.stages import drawn, online

    objective, asked, groups = objective_of(options), options.objective, options.groups
    refuse_idle(options.cost, "cost_limit", "cost_price", "cost_rate", needs="--cost", given=options.cost.cost)
    online.refuse_idle_words(options.reward, options.drawing)
    updates = groups.grpo_epochs * -(-options.optimiser.batch // groups.mini_batch)
    with drawn.opened(
        options, options.reward, reads=options.anchor.reads, drawing=options.drawing, cost=options.cost, updates=updates
    ) as parts:
        if asked.objective == "gdpo":
            objective = replace(objective, advantage=Decoupled(weights_in(parts.reward)))
        assert parts.reward is not None  # noqa: S101  (--reward is required)
        reference = options.anchor.frozen(options.model, parts.policy)
        settled = {"kl": objective.kl, "kl_reward": objective.kl_reward}
        if parts.shown(groups.group, {"reference": reference}, mini_batch=groups.mini_batch, settled=settled):
            return
        if asked.resample:
            parts.batches.steps = parts.steps * (1 + asked.resample)  # batches of prompts, at most
        sampler = parts.sampler()
        greedy = online.greedy_of(sampler) if asked.objective == "remax" else None
        how = options.drawing.values(
            attempts=asked.resample, greedy=greedy, judge=watched(parts.reward), recompute=parts.learner.bf16
        )
        steps = grpo(
            parts.learner, reference, sampler, parts.reward, parts.data,
            objective=objective, config=groups, seed=options.run.seed, how=how,
        )  # fmt: skip
        title, numbers = title or asked.objective.upper(), ("reward", *priced(options.cost), "kl", "length")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers)
