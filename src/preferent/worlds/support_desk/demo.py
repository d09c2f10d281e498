"""The whole loop on the support desk, with the same commands that a user has: a small model learns what people want.

Training sees demonstrations and the simulated crowd's answers, never the gold utility. Gold is asked at the end, on
questions held out of everything, to say how well that went.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge
from rich.console import Console

from preferent.config import UsageError, build
from preferent.feedback.agreement import agreement
from preferent.feedback.crowd import Crowd, chance, merged, noise_ceiling
from preferent.types import Comparison
from preferent.worlds.support_desk.world import INTRODUCTION, World

if TYPE_CHECKING:
    from preferent.types import Episode, Preference, Prompt

console = Console(highlight=False)
MAX_NEW_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class Options:
    """Watch a small model learn what people want, in a few minutes on a CPU.

    Demonstrations → SFT → samples → comparisons by a simulated crowd → reward models → PPO → evaluation on questions
    held out of training. Everything that the commands `sft`, `reward` and `ppo` write lies in the folder, to be looked
    at, and to be made again by hand.

    Examples:
        preferent demo
        preferent demo --all --out runs/demo-all
    """

    out: Annotated[Path, "folder for the data, the runs and the results"] = Path("runs/demo")
    all: Annotated[bool, "train GRPO and DPO on the same comparisons too"] = False
    seed: Annotated[int, "seed of the world, the crowd, the models and the sampling", Ge(0)] = 0
    resume: Annotated[bool, "go on with the demo in --out, from where it stopped"] = False


@dataclass(frozen=True)
class Sizes:
    """How much of everything: what fits into three minutes on two CPU cores."""

    demonstrations: int = 16_000
    asked: int = 1600  # questions whose replies the crowd compares
    replies: int = 4  # to each of them
    pairs: int = 4  # of each question's replies
    members: int = 3
    judged: int = 80  # held-out questions for the reward models' accuracy
    evaluated: int = 400  # held-out questions for the table


SIZES = Sizes()
TEMPERATURE = 0.6  # of every policy, when it is trained by sampling and when it is judged
COMMON = {"max_length": 128, "max_new_tokens": MAX_NEW_TOKENS, "temperature": TEMPERATURE}
SFT = {"lr": 3e-3, "batch": 16, "schedule": "cosine", "adam_beta2": 0.98, "weight_decay": 0.05}
# The lowest of the members' scores: where they disagree, a policy should not believe the kindest of them.
ONLINE = {"lr": 5e-4, "steps": 40, "combine": "worst"}
TRAINING: Mapping[str, Mapping[str, Any]] = {
    "sft": SFT,
    "reward": SFT | {"lr": 7e-4, "batch": 8, "epochs": 2.0, "weight_decay": 0.01, "members": SIZES.members},
    "ppo": ONLINE | {"critic_lr": 1e-3, "batch": 64, "kl": 0.1, "ppo_epochs": 2, "value_weight": 0.5},
    "grpo": ONLINE | {"lr": 3e-4, "batch": 16, "kl": 0.5},
    "dpo": {"lr": 3e-4, "batch": 16, "epochs": 2.0, "beta": 0.05, "schedule": "cosine"},
}


@dataclass(frozen=True)
class Demo:
    """The demo in a folder: each part is done once, and found there when it goes on."""

    out: Path
    seed: int
    sizes: Sizes = SIZES

    @cached_property
    def world(self) -> World:
        return World(seed=self.seed)

    @cached_property
    def crowd(self) -> Crowd[str, str]:
        return Crowd(self.world.utility, seed=self.seed)

    def path(self, name: str) -> Path:
        return self.out / name

    def train(self, command: str, title: str, **words: Any) -> None:
        """One of the training commands, as the command line would run it; nothing where it has ended already."""
        import importlib

        folder = self.path(command)
        if (folder / "model").is_dir():
            return
        stage = importlib.import_module(f"preferent.stages.{command}")
        begun = folder.is_dir() and any(folder.iterdir())
        given = {**COMMON, **TRAINING[command], **words, "out": folder, "seed": self.seed, "resume": begun}
        known = {word.name for word in _words(stage.Options)}
        stage.run(build(stage.Options, {name: value for name, value in given.items() if name in known}), title=title)

    # --- the parts ---------------------------------------------------------------------------------

    def demonstrations(self) -> int:
        """Write them, the training questions, and a model that has learned nothing yet."""
        if not self.path("demonstrations.jsonl").is_file():
            shown = self.world.demonstrations(self.sizes.demonstrations, self.seed)
            write(self.path("questions.jsonl"), [{"prompt": q.text} for q in self.world.train_questions])
            rows = [{"prompt": q.text, "completion": reply} for q, reply in shown]
            write(self.path("demonstrations.jsonl"), rows)
        if not self.path("base").is_dir():
            new_base(self.world.text, self.path("base"), seed=self.seed)
        return self.sizes.demonstrations

    def compare(self) -> dict[str, Any]:
        """Replies of the SFT policy, two by two before the crowd: to train on, and held out for accuracy."""
        if not self.path("comparisons.json").is_file():
            train = sorted(self.world.train_questions, key=lambda q: chance(self.seed, "asked", q.text))
            told = self.ask([q.text for q in train[: self.sizes.asked]], "comparisons.jsonl")
            held = self.ask([q.text for q in self.world.heldout_questions[-self.sizes.judged :]], "held_out.jsonl")
            alpha, ceiling = agreement(told), noise_ceiling(held, self.world.utility)
            facts = {
                "pairs": len(merged(told)),
                "alpha": [alpha.alpha, alpha.low, alpha.high],
                "ceiling": ceiling.merged,
                "ties": ceiling.ties,
            }
            self.path("comparisons.json").write_text(json.dumps(facts))
        return dict(json.loads(self.path("comparisons.json").read_text()))

    def ask(self, questions: Sequence[str], name: str) -> list[Preference[str, str]]:
        """Sample replies, have pairs of them compared, write one row a comparison; every answer is given back."""
        # At temperature 1, so that there is something to choose between.
        groups = self.sample("sft", questions, n=self.sizes.replies, seed=self.seed + 1, temperature=1.0)
        comparisons = [
            Comparison(question, (a.text, b.text))
            for question, group in zip(questions, groups, strict=True)
            for a, b in self.chosen_pairs(question, group)
        ]
        answers = self.crowd(comparisons)
        rows = []
        for said in merged(answers):
            (a, b), (p, q) = said.comparison.options, said.choice
            chosen, rejected, choice = (a, b, p) if p >= q else (b, a, q)
            row = {"prompt": said.comparison.context, "chosen": chosen, "rejected": rejected, "choice": choice}
            rows.append({**row, "annotator": said.annotator})
        write(self.path(name), rows)
        return answers

    def chosen_pairs(self, question: str, group: Sequence[Episode]) -> list[tuple[Episode, Episode]]:
        """Some pairs of replies that differ and say something."""
        pairs = [(a, b) for a, b in combinations(group, 2) if a.text != b.text and a.text and b.text]
        order = sorted(pairs, key=lambda pair: chance(self.seed, "pair", question, pair[0].text, pair[1].text))
        return order[: self.sizes.pairs]

    def sample(
        self, run: str, questions: Sequence[str], *, n: int, seed: int, temperature: float = TEMPERATURE
    ) -> list[list[Episode]]:
        """Replies of a run's policy."""
        from preferent.data.template import Template
        from preferent.models.load import load_policy
        from preferent.sampling.local import LocalSampler

        policy = load_policy(self.path(run), temperature=temperature)
        template = Template(policy.tokenizer)
        prompts: list[Prompt] = [template.prompt([{"role": "user", "content": q}], {}) for q in questions]
        sampler = LocalSampler(policy, max_new_tokens=MAX_NEW_TOKENS, end_tokens=template.end_tokens, seed=seed)
        return sampler.sample(prompts, n)


def new_base(texts: Sequence[str], folder: Path, *, seed: int) -> None:
    """A tokenizer trained on the texts, and a model with random weights."""
    from preferent.models.scratch import Size, new_model, train_tokenizer

    size = Size(hidden=128, layers=3, heads=4, vocabulary=1200, context=256)
    tokenizer = train_tokenizer(texts, vocabulary=size.vocabulary)
    new_model(tokenizer, size, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(options: Options) -> None:
    """The six parts, each with a line; then the table, and replies before and after."""
    from preferent.worlds.support_desk.table import evaluate, show

    began = time.monotonic()
    if options.out.exists() and any(options.out.iterdir()) and not options.resume:
        raise UsageError(f"{options.out} is not empty: go on with the demo in it (--resume), or choose another --out.")
    options.out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("preferent").setLevel(logging.WARNING)
    demo = Demo(options.out, options.seed)
    methods = ["ppo", "grpo", "dpo"] if options.all else ["ppo"]
    last = 5 + len(methods)
    say(f"preferent demo · support desk · {machine()} · {options.out}")
    say(INTRODUCTION, style="dim")
    n = demo.demonstrations()
    say(f" 1/{last} demonstrations     {n:,} dialogues in five styles, some of them wrong   {clock(began)}")
    data = {"model": str(demo.path("base")), "data": (str(demo.path("demonstrations.jsonl")),)}
    demo.train("sft", f" 2/{last} SFT", **data)
    facts = demo.compare()
    alpha, low, high = facts["alpha"]
    say(
        f" 3/{last} comparisons        {facts['pairs']:,} pairs × {demo.crowd.per_comparison} annotators "
        f"(simulated crowd), α = {alpha:.2f} [{low:.2f} – {high:.2f}]   {clock(began)}"
    )
    sft, asked = str(demo.path("sft")), {"data": (str(demo.path("comparisons.jsonl")),)}
    held = {"eval_data": (str(demo.path("held_out.jsonl")),)}
    demo.train("reward", f" 4/{last} reward model", model=sft, **asked, **held)
    say(f"                      held-out accuracy {accuracy(demo):.3f}   (noise ceiling {facts['ceiling']:.3f})")
    online: dict[str, Any] = {"reward": (str(demo.path("reward")),), "data": (str(demo.path("questions.jsonl")),)}
    for i, method in enumerate(methods):
        words = asked if method == "dpo" else online
        demo.train(method, f" {5 + i}/{last} {method.upper()}", model=sft, **words)
    say(f" {last}/{last} evaluation         {demo.sizes.evaluated} questions held out of training")
    results = evaluate(demo, methods)
    results |= {"seconds": time.monotonic() - began, "crowd": facts, "reward_accuracy": accuracy(demo)}
    demo.path("results.json").write_text(json.dumps(results, indent=1))
    show(console, demo, results, methods)
    say(f"\n everything is in {options.out}; the table in numbers: {demo.path('results.json')}   {clock(began)}")


def accuracy(demo: Demo) -> float:
    """The ensemble's, on held-out comparisons, at the last step."""
    from preferent.runtime.track import rows

    *_, last = rows(demo.path("reward") / "metrics.jsonl")
    return last.get("eval/ensemble_accuracy", last["eval/accuracy"])


def machine() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} CPU threads, fp32"


def clock(began: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d}"


def say(line: str, **how: Any) -> None:
    console.print(line, **how)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    from preferent.runtime import files

    with files.replaced(path) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _words(cls: type) -> Sequence[Any]:
    from preferent.config import words

    return words(cls)
