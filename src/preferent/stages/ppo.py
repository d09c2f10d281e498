"""PPO from the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from preferent.algorithms.ppo import Config
from preferent.config import group
from preferent.stages.anchor import AnchorOptions
from preferent.stages.constraint import CostOptions
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
    from preferent.data.batches import Batches
    from preferent.models.policy import LanguageActorCritic, LanguagePolicy
    from preferent.rewards.learned import LearnedReward
    from preferent.types import Stateful


@dataclass(frozen=True, kw_only=True)
class KLOptions:
    """KL and critic."""

    kl: Annotated[float, "price of a nat of KL to the reference, in units of the reward", Ge(0)] = 0.05
    kl_target: Annotated[float | None, "nats a reply: move the price towards this KL; none: a fixed price", Gt(0)] = (
        None
    )
    kl_horizon: Annotated[int, "replies over which the price moves", Gt(0)] = 10_000
    critic_lr: Annotated[float | None, "learning rate of the critic; none: that of the policy", Gt(0)] = None


@dataclass(frozen=True, kw_only=True)
class PtxOptions:
    """PPO-ptx."""

    ptx_data: Annotated[
        tuple[str, ...], "demonstrations whose likelihood is kept up beside the reward, such as those of preferent sft"
    ] = ()
    ptx_batch: Annotated[int, "rows of them beside each update", Gt(0)] = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reinforcement learning with a critic, against a reward, at a price for every nat that leaves the reference.

    Prompts come from --data (``prompt``, or conversations that end with the user's turn). The critic starts from the
    reward model where there is one, else from the policy.

    Examples:
        preferent ppo --model runs/sft --reward runs/rm --data prompts.jsonl --out runs/ppo
        preferent ppo --model runs/sft --reward runs/rm=0.8 --reward short.py:brief=0.2 --data p.jsonl --out runs/ppo
    """

    hidden: ClassVar[tuple[str, ...]] = ("learn",)  # concerns demonstrations
    model: ModelOptions
    data: DataOptions
    reward: RewardOptions
    cost: CostOptions = CostOptions()
    ppo: Config = field(default_factory=Config)
    price: KLOptions = KLOptions()
    ptx: PtxOptions = PtxOptions()
    anchor: AnchorOptions = AnchorOptions()
    drawing: DrawingOptions = DrawingOptions()
    sampling: SamplingOptions = SamplingOptions()
    optimiser: OptimiserOptions = group(OptimiserOptions, lr=1e-6, schedule="constant", batch=64)
    run: RunOptions


def text_of(options: Options, policy: LanguagePolicy, *, steps: int) -> Batches[Any, Any] | None:
    """What lies beside each update, where --ptx-data names it."""
    from preferent.data.load import load_demonstrations
    from preferent.stages import training

    if not options.ptx.ptx_data:
        return None
    template = training.template_of(policy, policy.tokenizer, options.data)
    rows = load_demonstrations(options.ptx.ptx_data, template, training.reading(options))
    training.reported(rows.report)
    return rows.batches(options.ptx.ptx_batch, seed=options.run.seed, steps=steps)


def with_critic(policy: LanguagePolicy, learned: LearnedReward | None) -> LanguageActorCritic:
    """The policy, and a critic that starts from the reward model, or without one from the policy."""
    from preferent.models.load import actor_critic

    start = {"scorer": learned.members[0], **asdict(learned.scales[0])} if learned else {}
    return actor_critic(policy, **start)


def run(options: Options, *, title: str = "PPO") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.ppo import ppo
    from preferent.rewards.shaping import AdaptiveKL
    from preferent.stages import drawn, online

    config, kl = options.ppo, options.price
    refuse_idle(options.ptx, "ptx_batch", needs="--ptx-data", given=options.ptx.ptx_data)
    refuse_idle(config, "ptx_weight", needs="--ptx-data", given=options.ptx.ptx_data)
    refuse_idle(kl, "kl_horizon", needs="--kl-target", given=kl.kl_target)
    refuse_idle(options.cost, "cost_limit", "cost_price", "cost_rate", needs="--cost", given=options.cost.cost)
    online.refuse_idle_words(options.reward, options.drawing)
    with drawn.opened(
        options, options.reward, reads=[*options.anchor.reads, *options.ptx.ptx_data], drawing=options.drawing,
        cost=options.cost, updates=config.ppo_epochs * -(-options.optimiser.batch // config.mini_batch),
        model=with_critic, critic_lr=kl.critic_lr,
    ) as parts:  # fmt: skip
        assert parts.reward is not None  # noqa: S101  (--reward is required)
        learner, critic = parts.learner, parts.learner.model.critic
        reference = options.anchor.frozen(options.model, parts.policy)
        text = text_of(options, parts.policy, steps=parts.updates)
        trunks = [parts.policy, critic]
        if parts.shown(1, {"critic": critic, "reference": reference}, mini_batch=config.mini_batch, trunks=trunks):
            return
        sampler, how = parts.sampler(), options.drawing.values(recompute=learner.bf16)
        price = AdaptiveKL(kl.kl, kl.kl_target or 6.0, kl.kl_horizon if kl.kl_target else None)
        steps = ppo(
            learner, reference, sampler, parts.reward, parts.data,
            price=price, config=config, seed=options.run.seed, how=how, text=text or (),
        )  # fmt: skip
        states: dict[str, Stateful] = {"price": price, **({"ptx": text} if text else {})}
        numbers = ("reward", *priced(options.cost), "kl", "length")
        parts.trained(steps, sampler, reference, title=title, numbers=numbers, states=states)
