"""A run whose policy learns from replies that are drawn: from options to its parts, and from its steps to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from preferent.config import UsageError
from preferent.stages.constraint import CostOptions, constrained
from preferent.stages.online import DrawingOptions, RewardOptions

if TYPE_CHECKING:
    from torch import nn

    from preferent.data.columns import Kind
    from preferent.data.load import Loaded
    from preferent.data.template import Template
    from preferent.models.policy import LanguagePolicy
    from preferent.rewards.learned import LearnedReward
    from preferent.runtime.learner import LocalLearner
    from preferent.runtime.run import Run
    from preferent.sampling.local import LocalSampler
    from preferent.types import Algorithm, Metrics, Policy, Reward, Stateful

OPPONENT = 1 << 21  # added to the seed: two samplers whose policies are alike must not say the same


@dataclass(frozen=True)
class Parts:
    """What a command has, once its options are resolved."""

    options: Any
    run: Run
    policy: LanguagePolicy
    speaks: LanguagePolicy  # the policy, or a copy that may stay behind it
    template: Template
    batches: Any
    data: Any  # the batches, or where replies are drawn ahead of a step, those that remember what has been used
    held_out: Loaded[Any] | None
    reward: Reward | None
    truth: Reward | None
    learner: LocalLearner[Any]
    steps: int
    updates: int

    def shown(
        self, replies: int, models: Mapping[str, Any], *, mini_batch: int | None = None, trunks: Sequence[Any] = (),
        settled: Mapping[str, Any] = MappingProxyType({}),
    ) -> bool:  # fmt: skip
        """Whether this is a dry run; its plan is shown then. ``models`` are held beside the policy and the reward."""
        from preferent.stages import online, plan

        if not self.options.run.dry_run:
            return False
        rewards = online.reward_models(self.reward) if self.reward else {}
        held = {"policy": self.policy, **models, **rewards}
        held |= {"copy": self.speaks} if self.speaks is not self.policy else {}
        plan.show(
            plan.Plan(
                self.options, held, [self.learner.model], trunks or [self.policy], self.batches, self.updates,
                mini_batch or self.options.optimiser.batch, (replies, self.options.sampling.max_new_tokens),
                scored=bool(rewards), settled=settled,
            )
        )  # fmt: skip
        return True

    def sampler(self, opponent: LanguagePolicy | None = None) -> LocalSampler:
        """Draws from the policy, or from an opponent with other noise."""
        from preferent.stages import online

        seed = self.options.run.seed + (0 if opponent is None else OPPONENT)
        own, how, bf16 = opponent or self.speaks, self.options.sampling, self.learner.bf16
        return online.sampler_of(own, self.template, how, seed=seed, bf16=bf16)

    def trained(
        self, steps: Algorithm, sampler: LocalSampler, reference: Policy, *, title: str, numbers: Sequence[str],
        states: Mapping[str, Stateful] = MappingProxyType({}), measure: Callable[[int], Metrics] | None = None,
    ) -> None:  # fmt: skip
        """Run the steps to their end, and write the policy; ``states`` is what a checkpoint has to know besides."""
        from preferent.models.load import save
        from preferent.stages import online, training

        rewards = online.stateful(reward=self.reward, truth=self.truth)
        every = {"learner": self.learner, "data": self.data, "sampler": sampler, **rewards, **states}
        if self.held_out and measure is None:
            own = sampler if sampler.source is self.speaks else self.sampler()  # not from an opponent
            measure = online.measuring(self.learner, reference, own, self.reward, self.held_out, self.run, self.truth)
        training.trained(
            self.run, steps, self.options.run, every, title=title, total=self.steps, numbers=numbers,
            measure=online.in_turn(measure, self.data) if self.held_out and measure else None,
            save=lambda folder: save(self.policy, folder),
        )  # fmt: skip


@contextmanager
def opened(
    options: Any, judge: RewardOptions | None, *, kind: Kind = "prompts", reads: Sequence[str] = (),
    drawing: DrawingOptions = DrawingOptions(), cost: CostOptions = CostOptions(), updates: int = 1,
    model: Callable[[LanguagePolicy, LearnedReward | None], nn.Module] = lambda policy, _: policy,
    critic_lr: float | None = None,
) -> Iterator[Parts]:  # fmt: skip
    """The parts of a command's run, its folder locked. Batches are lists of prompts, or of demonstrations.

    ``updates`` are those of a step. What learns is the policy, or the ``model`` that is made of it and, where there is
    one, of the reward model.
    """
    from preferent.data.load import load
    from preferent.data.stream import StreamBatches
    from preferent.rewards.finite import NoScore
    from preferent.stages import online, training

    def rows(*how: Any) -> Loaded[Any]:
        return replace(load(how[0], how[1], kind, how[2]), collate=list)

    named = [*judge.reward, *judge.truth, *cost.cost] if judge else []
    with training.opened(options, reads=[*training.readable(named), *reads]) as run:
        policy = training.policy_of(options.model, seed=options.run.seed, temperature=options.sampling.temperature)
        tokenizer, device, length = policy.tokenizer, options.model.device, options.sampling.max_new_tokens
        template = training.template_of(policy, tokenizer, options.data, reply=length)
        held_out = training.held_out(rows, options, template)
        reward, learned = online.reward_of(judge, tokenizer, device=device) if judge and judge.reward else (None, None)
        if reward:
            reward = online.shortened(reward, drawing, options.sampling)
            reward = constrained(reward, cost, tokenizer, device=device)
        truth = online.truth_of(judge, options.data, tokenizer, device=device) if judge else None
        batches = training.batched(rows, kind, options, template)
        if isinstance(batches, StreamBatches):
            batches.stream.collate = list  # as ``rows`` does
        steps = len(batches)
        learner = training.learner_of(model(policy, learned), options, updates=steps * updates, critic_lr=critic_lr)
        speaks, data = online.drawing_policy(policy, drawing), online.taken(batches, drawing)
        try:
            yield Parts(
                options, run, policy, speaks, template, batches, data, held_out, reward, truth, learner,
                steps, steps * updates,
            )  # fmt: skip
        except NoScore as error:
            raise UsageError(f"{error}") from error
