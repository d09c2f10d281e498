"""PPO from the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from preferent.algorithms.ppo import Config
from preferent.config import group
from preferent.stages.anchor import AnchorOptions
from preferent.stages.constraint import CostOptions, constrained
from preferent.stages.online import DrawingOptions, RewardOptions
from preferent.stages.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions, SamplingOptions

if TYPE_CHECKING:
    from preferent.data.batches import Batches
    from preferent.models.policy import LanguagePolicy


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


def run(options: Options, *, title: str = "PPO") -> None:
    """Train, and write the policy as a Hugging Face folder."""
    from preferent.algorithms.ppo import ppo
    from preferent.data.load import load_prompts
    from preferent.models.load import actor_critic, save
    from preferent.rewards.shaping import AdaptiveKL
    from preferent.stages import online, plan, training

    reads = [
        *training.readable([*options.reward.reward, *options.reward.truth, *options.cost.cost]),
        *options.anchor.reads,
        *options.ptx.ptx_data,
    ]
    with training.opened(options, reads=reads) as run:
        policy = training.policy_of(options.model, seed=options.run.seed, temperature=options.sampling.temperature)
        template = training.template_of(policy, policy.tokenizer, options.data, reply=options.sampling.max_new_tokens)
        held_out = training.held_out(load_prompts, options, template)
        reward, learned = online.reward_of(options.reward, policy.tokenizer, device=options.model.device)
        reward = online.shortened(reward, options.drawing, options.sampling)
        reward = constrained(reward, options.cost, policy.tokenizer, device=options.model.device)
        truth = online.truth_of(options.reward, options.data, policy.tokenizer, device=options.model.device)
        size = options.optimiser.batch
        batches = training.batched(load_prompts, "prompts", options, template)
        reference = options.anchor.frozen(options.model, policy)
        start = {"scorer": learned.members[0], **asdict(learned.scales[0])} if learned else {}
        model = actor_critic(policy, **start)
        updates = len(batches) * options.ppo.ppo_epochs * -(-size // options.ppo.mini_batch)
        text = text_of(options, policy, steps=updates)
        learner = training.learner_of(model, options, updates=updates, critic_lr=options.price.critic_lr)
        drawing = online.drawing_policy(policy, options.drawing)
        if options.run.dry_run:
            rewards, drawn = online.reward_models(reward), (1, options.sampling.max_new_tokens)
            held = {"policy": policy, "critic": model.critic, "reference": reference, **rewards}
            held |= {"copy": drawing} if drawing is not policy else {}
            cut, trunks = options.ppo.mini_batch, [policy, model.critic]
            plan.show(plan.Plan(options, held, [model], trunks, batches, updates, cut, drawn, scored=bool(rewards)))
            return
        sampler = online.sampler_of(drawing, template, options.sampling, seed=options.run.seed, bf16=learner.bf16)
        horizon = options.price.kl_horizon if options.price.kl_target else None
        price = AdaptiveKL(options.price.kl, options.price.kl_target or 6.0, horizon)
        data, how = online.taken(batches, options.drawing), options.drawing.values(recompute=learner.bf16)
        measure = online.measuring(learner, reference, sampler, reward, held_out, run, truth) if held_out else None
        training.trained(
            run,
            ppo(
                learner, reference, sampler, reward, data,
                price=price, config=options.ppo, seed=options.run.seed, how=how, text=text or (),
            ),
            options.run,
            {
                "learner": learner, "data": data, "price": price, "sampler": sampler,
                **({"ptx": text} if text else {}), **online.stateful(reward=reward, truth=truth),
            },
            title=title,
            total=len(batches),
            numbers=("reward", "kl", "length"),
            measure=online.in_turn(measure, data) if measure else None,
            save=lambda folder: save(policy, folder),
        )  # fmt: skip
