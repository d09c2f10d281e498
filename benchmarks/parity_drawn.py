"""Our side of ``parity.py`` for methods that sample: replies, marks and old log-probabilities are given, as if drawn.

Four replies to each prompt: both of its row and both of the next row, some of them cut off. They are said to be drawn
by the model as it was before each of its weights was moved at random, so ratios differ from 1 from the first step on.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preferent.algorithms.credit import Decoupled, Step
from preferent.algorithms.grpo import Config, grpo
from preferent.algorithms.online_dpo import online_dpo
from preferent.data.collate import episodes
from preferent.data.columns import parse
from preferent.data.template import Template
from preferent.losses import policy
from preferent.models.load import load_policy, save
from preferent.rewards.annotating import Rewarded
from preferent.types import Algorithm, Episode, Prompt, Score

GROUP = 4
LONGEST = 40  # tokens of a reply; longer ones are cut off
WEIGHTS = {"right": 1.0, "style": 0.5}  # of the two rewards
MOVED = 0.01  # deviation of what is added to each weight
METHODS = ("grpo", "gmpo", "rloo", "online-dpo")

Row = dict[str, Any]


def gdpo(step: Step) -> Tensor:
    """With TRL's deviation, that of a sample, where ours is the population's."""
    replies = len(step.scores)
    return Decoupled(WEIGHTS)(step) * ((replies - 1) / replies) ** 0.5


def forward_kl(logp: Tensor, old: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """k3 as a loss: the paper's GRPO, and TRL's where it does not correct for the ratio."""
    return policy.k3(logp.where(mask, 0), reference.where(mask, 0))


@dataclass
class Given:
    """A sampler that gives each step's replies when their turn has come, and a reward that knows their marks."""

    steps: list[list[list[Episode]]]
    marks: Mapping[int, Mapping[str, float]]  # by an episode's identity

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """What is given does not depend on weights."""

    def sample(self, prompts: Sequence[Prompt], n: int) -> list[list[Episode]]:
        return [group[:n] for group in self.steps.pop(0)]

    def __call__(self, drawn: Sequence[Episode]) -> list[Score]:
        parts = [self.marks[id(episode)] for episode in drawn]
        return [Score(sum(WEIGHTS[name] * mark for name, mark in each.items()), each) for each in parts]


def steps(job: Any, said: Sequence[Row], base: Path, folder: Path, learner: Any) -> Algorithm:
    """The method on what is given; the folder gets the rows, and the model that both sides start from."""
    model = load_policy(base, device="cpu")
    asked, given = drawn(said, model, job.batch)
    (folder / "rows.json").write_text(json.dumps(as_rows(said, given)))
    move(model)
    save(model, folder / "model")
    start = learner(model, job), model.frozen(), given
    if job.method == "online-dpo":
        return online_dpo(*start, Rewarded(given), asked, objective=job.objective)
    return grpo(*start, given, asked, objective=job.objective, config=Config(group=GROUP), how=job.how)


def drawn(said: Sequence[Row], model: Any, batch: int) -> tuple[list[list[Prompt]], Given]:
    template, chance = Template(model.tokenizer), random.Random(0)
    pairs: list[Any] = [template.tokenised(parse(row, kind="preferences")).comparison for row in said]
    flat = []
    for pair, following in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        flat += [heard(pair.context, reply) for reply in pair.options + following.options]
    x = episodes([flat[i : i + GROUP] for i in range(0, len(flat), GROUP)])
    with torch.no_grad():
        logprobs = model.read(x).logprobs.tolist()
    flat = [replace(e, logprobs=tuple(each[: len(e.tokens)])) for e, each in zip(flat, logprobs, strict=True)]
    groups = [flat[i : i + GROUP] for i in range(0, len(flat), GROUP)]
    marks = {id(e): {"right": float(chance.random() < 0.5), "style": chance.gauss(0, 1)} for e in flat}
    taken = [groups[i : i + batch] for i in range(0, len(groups), batch)]
    return [[group[0].prompt for group in step] for step in taken], Given(taken, marks)


def heard(prompt: Prompt, reply: Any) -> Episode:
    """A given reply as if it had been drawn."""
    whole = reply.tokens[: max(i for i, learned in enumerate(reply.learn) if learned) + 1]
    tokens = whole[:LONGEST]
    stop = "end" if tokens == whole else "length"
    return Episode(prompt, tokens, (True,) * len(tokens), (0.0,) * len(tokens), stop, version=0)


def as_rows(said: Sequence[Row], given: Given) -> list[Row]:
    """What the other side is told: a row for each prompt with its replies, what was said of them, and their marks."""
    groups = [group for step in given.steps for group in step]
    return [
        {
            "prompt": row["prompt"],
            "replies": [e.tokens for e in group],
            "old": [e.logprobs for e in group],
            "marks": [[given.marks[id(e)][name] for name in WEIGHTS] for e in group],
        }
        for row, group in zip(said, groups, strict=True)
    ]


@torch.no_grad()
def move(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight += MOVED * torch.randn(weight.shape, generator=generator)
