"""This project's side of ``speed.py``: one step of a job when told to. See ``speed_trl.py`` for what a job is."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import transformers
from pace import Pace, length
from parity import turned

from preferent.algorithms import objectives as our
from preferent.algorithms.dpo import dpo
from preferent.algorithms.grpo import Config as GroupConfig
from preferent.algorithms.grpo import Objective, grpo
from preferent.algorithms.kto import kto
from preferent.algorithms.online_dpo import online_dpo
from preferent.algorithms.ppo import Config as PPOConfig
from preferent.algorithms.ppo import ppo
from preferent.algorithms.reward_model import reward_model
from preferent.algorithms.sft import sft
from preferent.data.batches import Batches
from preferent.data.collate import demonstrations
from preferent.data.columns import parse
from preferent.data.comparisons import pairs
from preferent.data.rated import Rated
from preferent.data.template import Template
from preferent.models.load import actor_critic, load_policy, load_scorer
from preferent.rewards.annotating import Rewarded
from preferent.rewards.load import load_reward
from preferent.rewards.shaping import AdaptiveKL
from preferent.runtime.learner import local_learner
from preferent.runtime.reference import Remembered
from preferent.sampling.local import Drawn, LocalSampler
from preferent.types import Episode, Prompt, Replies, Score

Job = dict[str, Any]
Group = tuple[int, list[int]]


def main(folder: Path) -> None:
    transformers.utils.logging.set_verbosity_error()
    job, rows = (json.loads((folder / name).read_text()) for name in ("job.json", "rows.json"))
    make = {"grpo": grouped, "online-dpo": compared, "ppo": critiqued, "sampling": sampled, "scoring": scored}.get(
        job["kind"], trained
    )
    pace = Pace()
    steps, groups = make(job, rows, folder / "model")
    pace.ready()
    for _ in range(job["rounds"]):
        pace.turn()
        losses = [next(steps) for _ in range(job["each"])]
        pace.done(losses=losses, groups=groups, tokens=sum(sum(replies) for _, replies in groups))
        groups.clear()


def shapes(x: Replies) -> list[Group]:
    """Tokens of each prompt, and of each of its replies."""
    lengths, of = x.present.sum(-1).tolist(), x.prompt_of.tolist()
    return [
        (prompt, [length for length, i in zip(lengths, of, strict=True) if i == own])
        for own, prompt in enumerate(x.prompt_length.tolist())
    ]


def noted(batches: Iterator[Any], groups: list[Group]) -> Iterator[Any]:
    """The same batches; their shapes are written down."""
    for batch in batches:
        groups += shapes(batch if isinstance(batch, Replies) else batch.replies)
        yield batch


def batches_of(job: Job, rows: Sequence[Any], tokenizer: Any, collate: Any) -> list[Any]:
    template = Template(tokenizer)
    tokenised = [template.tokenised(parse(row)) for row in rows]
    return list(Batches(tokenised, job["batch"], collate, steps=job["steps"], shuffle=False))


def trained(job: Job, rows: Sequence[Any], folder: Path) -> tuple[Iterator[float], list[Group]]:
    groups: list[Group] = []
    scorer = job["kind"] == "reward"
    model: Any = load_scorer(folder.parent / "reward", device="cpu") if scorer else load_policy(folder, device="cpu")
    collate = demonstrations if job["kind"] == "sft" else pairs
    every: list[Any] = (
        turned(rows, model.tokenizer, job["batch"])
        if job["kind"] == "kto"
        else batches_of(job, rows, model.tokenizer, collate)
    )
    batches = noted(iter(every), groups)
    learner: Any = local_learner(model, lr=job["lr"])
    if job["kind"] in ("dpo", "kto"):
        reference = Remembered(model)
        about = [x for each in every for x in (each.asked if isinstance(each, Rated) else [each.replies])]
        for _ in reference.asked(learner, about, folder.parent / "kept", mark="reference"):
            pass
        reference.let_go()
        steps = (dpo if job["kind"] == "dpo" else kto)(learner, reference, batches)
    else:
        steps = (sft if job["kind"] == "sft" else reward_model)(learner, batches)
    return (said["loss"] for said in steps), groups


def scored(job: Job, rows: Sequence[Any], folder: Path) -> tuple[Iterator[float], list[Group]]:
    """The mean log-probability of both replies' tokens."""
    groups: list[Group] = []
    policy = load_policy(folder, device="cpu")
    learner: Any = local_learner(policy)

    def steps() -> Iterator[float]:
        for batch in noted(iter(batches_of(job, rows, policy.tokenizer, pairs)), groups):
            said = learner.map(batch.replies, lambda model, x: model.read(x).logprobs.sum(-1))
            yield (said.sum() / batch.replies.learn.sum()).item()

    return steps(), groups


def even(episodes: Sequence[Episode]) -> list[Score]:
    """As ``brief`` of the peer."""
    return [Score(sum(token % 2 == 0 for token in e.tokens) / len(e.tokens)) for e in episodes]


def prompts_of(job: Job, rows: Sequence[Any]) -> list[list[Prompt]]:
    size = job["batch"]
    return [[Prompt(tuple(row["tokens"])) for row in rows[i : i + size]] for i in range(0, len(rows), size)]


class Lengths(LocalSampler):
    """Where ``lengths`` are given, a reply's first token says how long it is, as on the peer's side."""

    lengths: tuple[int, int] | None = None

    def ended(self, row: Drawn, token: int, logprob: float) -> bool:
        over = super().ended(row, token, logprob)
        return over or (self.lengths is not None and len(row.tokens) >= length(row.tokens[0], *self.lengths))


class Noted(Lengths):
    """Writes down what shapes were drawn."""

    groups: list[Group]

    def sample(self, prompts: Sequence[Prompt], n: int) -> list[list[Episode]]:
        drawn = super().sample(prompts, n)
        self.groups += [(len(group[0].prompt.tokens), [len(e.tokens) for e in group]) for group in drawn]
        return drawn


def sampler_of(job: Job, policy: Any, **options: Any) -> Noted:
    sampler = Noted(policy, max_new_tokens=job["new"], **options)
    sampler.groups, sampler.lengths = [], (8, job["new"]) if job["ending"] else None
    return sampler


def grouped(job: Job, rows: Sequence[Any], folder: Path) -> tuple[Iterator[float], list[Group]]:
    policy = load_policy(folder, device="cpu")
    sampler = sampler_of(job, policy)
    steps = grpo(
        local_learner(policy, lr=job["lr"]),
        policy.frozen(),
        sampler,
        even,
        prompts_of(job, rows),
        objective=Objective(kl=job["options"]["beta"]),
        config=GroupConfig(group=job["group"]),
    )
    return (said["loss"] for said in steps), sampler.groups


def compared(job: Job, rows: Sequence[Any], folder: Path) -> tuple[Iterator[float], list[Group]]:
    policy = load_policy(folder, device="cpu")
    sampler = sampler_of(job, policy)
    steps = online_dpo(
        local_learner(policy, lr=job["lr"]),
        policy.frozen(),
        sampler,
        Rewarded(even),
        prompts_of(job, rows),
        objective=our.dpo(beta=job["options"]["beta"]),
        n=job["group"],
    )
    return (said["loss"] for said in steps), sampler.groups


def critiqued(job: Job, rows: Sequence[Any], folder: Path) -> tuple[Iterator[float], list[Group]]:
    policy = load_policy(folder, device="cpu")
    reward: Any = load_reward([str(folder.parent / "reward")], policy.tokenizer, device="cpu")
    model = actor_critic(policy, reward.members[0])
    sampler = sampler_of(job, policy)
    steps = ppo(
        local_learner(model, lr=job["lr"]),
        policy.frozen(),
        sampler,
        reward,
        prompts_of(job, rows),
        price=AdaptiveKL(0.05),
        config=PPOConfig(ppo_epochs=job["options"]["epochs"], mini_batch=job["batch"]),
    )
    return (said["loss"] for said in steps), sampler.groups


def sampled(job: Job, rows: Sequence[Any], folder: Path) -> tuple[Iterator[float], list[Group]]:
    sampler = sampler_of(job, load_policy(folder, device="cpu"), end_tokens=[])

    def steps() -> Iterator[float]:
        for prompts in prompts_of(job, rows):
            sampler.sample(prompts, job["group"])
            yield 0.0

    return steps(), sampler.groups


if __name__ == "__main__":
    main(Path(sys.argv[1]))
