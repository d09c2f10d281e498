"""A run whose policy learns from replies that are drawn: from options to its parts, and from its steps to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from preferent.config import UsageError
from preferent.stages.online import RewardOptions

if TYPE_CHECKING:
    from preferent.data.columns import Kind
    from preferent.data.load import Loaded
    from preferent.data.template import Template
    from preferent.models.policy import LanguagePolicy
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
    template: Template
    batches: Any
    held_out: Loaded[Any] | None
    learner: LocalLearner[LanguagePolicy]
    reward: Reward | None
    truth: Reward | None

    def shown(self, replies: int, **models: Any) -> bool:
        """Whether this is a dry run; its plan is shown then. ``models`` are held beside the policy and the reward."""
        from preferent.stages import online, plan

        if not self.options.run.dry_run:
            return False
        rewards = online.reward_models(self.reward) if self.reward else {}
        drawn = replies, self.options.sampling.max_new_tokens
        held, updates = {"policy": self.policy, **models, **rewards}, len(self.batches)
        size, trained = self.options.optimiser.batch, [self.policy]
        plan.show(plan.Plan(self.options, held, trained, trained, self.batches, updates, size, drawn, bool(rewards)))
        return True

    def sampler(self, policy: LanguagePolicy | None = None) -> LocalSampler:
        """Draws from the policy, or from an opponent with other noise."""
        from preferent.stages import online

        seed = self.options.run.seed + (0 if policy is None else OPPONENT)
        own, how, bf16 = policy or self.policy, self.options.sampling, self.learner.bf16
        return online.sampler_of(own, self.template, how, seed=seed, bf16=bf16)

    def trained(
        self, steps: Algorithm, sampler: LocalSampler, reference: Policy, *, title: str, numbers: Sequence[str],
        states: Mapping[str, Stateful] = MappingProxyType({}), measure: Callable[[int], Metrics] | None = None,
    ) -> None:  # fmt: skip
        """Run the steps to their end, and write the policy; ``states`` is what a checkpoint has to know besides."""
        from preferent.models.load import save
        from preferent.stages import online, training

        rewards = online.stateful(reward=self.reward, truth=self.truth)
        every = {"learner": self.learner, "data": self.batches, "sampler": sampler, **rewards, **states}
        if self.held_out and measure is None:
            measure = self.measuring(sampler, reference)
        training.trained(
            self.run, steps, self.options.run, every, title=title, total=len(self.batches), numbers=numbers,
            measure=measure if self.held_out else None, save=lambda folder: save(self.policy, folder),
        )  # fmt: skip

    def measuring(self, sampler: LocalSampler, reference: Policy) -> Callable[[int], Metrics]:
        """Evaluation on held-out prompts, with the policy's own replies whoever draws those that are learned from."""
        from preferent.stages import online

        own, prompts = sampler if sampler.source is self.policy else self.sampler(), self.held_out or ()
        return online.measuring(self.learner, reference, own, self.reward, prompts, self.run, self.truth)


@contextmanager
def opened(
    options: Any, judge: RewardOptions | None, *, kind: Kind = "prompts", reads: Sequence[str] = ()
) -> Iterator[Parts]:
    """The parts of a command's run, its folder locked. Batches are lists of prompts, or of demonstrations."""
    from preferent.data.load import load
    from preferent.rewards.annotating import NoScore
    from preferent.stages import online, training

    def rows(*how: Any) -> Loaded[Any]:
        return replace(load(how[0], how[1], kind, how[2]), collate=list)

    named = [*judge.reward, *judge.truth] if judge else []
    with training.opened(options, reads=[*training.readable(named), *reads]) as run:
        policy = training.policy_of(options.model, seed=options.run.seed, temperature=options.sampling.temperature)
        tokenizer, device, length = policy.tokenizer, options.model.device, options.sampling.max_new_tokens
        template = training.template_of(policy, tokenizer, options.data, reply=length)
        held_out = training.held_out(rows, options, template)
        reward = online.reward_of(judge, tokenizer, device=device)[0] if judge and judge.reward else None
        truth = online.truth_of(judge, options.data, tokenizer, device=device) if judge else None
        batches = training.batched(rows, kind, options, template)
        learner = training.learner_of(policy, options, updates=len(batches))
        try:
            yield Parts(options, run, policy, template, batches, held_out, learner, reward, truth)
        except NoScore as error:
            raise UsageError(f"{error}") from error
