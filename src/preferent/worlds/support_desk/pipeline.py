"""What the demo does in a folder, part by part, with the training commands that a user has."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preferent import __version__
from preferent.config import UsageError, build, words
from preferent.feedback.agreement import agreement
from preferent.feedback.asking import ask_crowd
from preferent.feedback.crowd import Crowd, chance, merged, noise_ceiling
from preferent.feedback.store.engine import open_engine
from preferent.feedback.store.log import seal
from preferent.types import Comparison
from preferent.worlds.support_desk.world import World, last

if TYPE_CHECKING:
    from preferent.feedback.records import Messages
    from preferent.types import Episode, Preference, Prompt

MAX_NEW_TOKENS = 48
MARKER = "demo.json"  # says that a folder is a demo's, of which seed, and by which version


TRUTH = '''"""What people want of a reply, which this world hides: asked on held-out questions, and never trained on."""

from preferent.worlds.support_desk.world import World

WORLD = World(seed={seed})


def gold(episodes):
    return [WORLD.utility(episode.prompt.info["messages"], episode.text) for episode in episodes]
'''


@dataclass(frozen=True)
class Sizes:
    """How much of everything: what fits into three minutes on two CPU cores."""

    demonstrations: int = 16_000
    asked: int = 1600  # questions whose replies the crowd compares
    replies: int = 8  # to each of them
    pairs: int = 12  # of each question's replies
    members: int = 3
    judged: int = 80  # held-out questions for the reward models' accuracy
    evaluated: int = 400  # held-out questions for the table
    watched: int = 64  # of them, for the truth along the way


SIZES = Sizes()
TEMPERATURE = 0.65  # of every policy, when it is trained by sampling and when it is judged
COMMON = {"max_length": 128, "max_new_tokens": MAX_NEW_TOKENS, "temperature": TEMPERATURE}
SFT = {"lr": 3e-3, "batch": 16, "schedule": "cosine", "adam_beta2": 0.98, "weight_decay": 0.05}
# The lowest of the members' scores: where they disagree, a policy should not believe the kindest of them.
ONLINE = {"lr": 5e-4, "steps": 40, "combine": "worst", "eval_every": 5}
TRAINING: Mapping[str, Mapping[str, Any]] = {
    "sft": SFT,
    "reward": SFT | {"lr": 7e-4, "batch": 4, "weight_decay": 0.01, "members": SIZES.members},
    "ppo": ONLINE | {"critic_lr": 1e-3, "batch": 128, "kl": 0.1, "ppo_epochs": 1, "lam": 1.0, "value_weight": 0.5},
    "grpo": ONLINE | {"lr": 1e-3, "schedule": "cosine", "batch": 32, "kl": 0.3},
    "dpo": {"lr": 5e-4, "schedule": "cosine", "batch": 4, "epochs": 2.0, "beta": 0.5},
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
    def crowd(self) -> Crowd[Messages, Messages]:
        return Crowd(self.world.utility, seed=self.seed)

    def path(self, name: str) -> Path:
        return self.out / name

    def train(self, command: str, title: str, **given: Any) -> None:
        """One of the training commands, with the settings of the demo and what is given."""
        self.run(command, command, title, **{**TRAINING[command], **given})

    def run(self, name: str, command: str, title: str, **given: Any) -> None:
        """A command in a folder, as the command line would run it; nothing where it has ended already."""
        folder = self.path(name)
        if (folder / "model").is_dir():
            return
        stage = importlib.import_module(f"preferent.stages.{command.replace('-', '_')}")
        begun = folder.is_dir() and any(folder.iterdir())
        asked = {**COMMON, **given, "out": folder, "seed": self.seed, "resume": begun}
        known = {word.name for word in words(stage.Options)}
        stage.run(build(stage.Options, {name: value for name, value in asked.items() if name in known}), title=title)

    # --- the parts ---------------------------------------------------------------------------------

    def demonstrations(self) -> int:
        """Write them, the training questions, and a model that has learned nothing yet."""
        if not self.path("demonstrations.jsonl").is_file():
            shown = self.world.demonstrations(self.sizes.demonstrations, self.seed)
            write(self.path("questions.jsonl"), [{"prompt": q.text} for q in self.world.train_questions])
            watched = self.world.heldout_questions[: self.sizes.watched]
            write(self.path("watched.jsonl"), [{"prompt": q.text} for q in watched])
            self.path("truth.py").write_text(TRUTH.format(seed=self.seed), encoding="utf-8")
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
            write(self.path("comparisons.json"), [facts])
        return dict(json.loads(self.path("comparisons.json").read_text()))

    def ask(self, questions: Sequence[str], name: str) -> list[Preference[Messages, Messages]]:
        """Sample replies, have pairs of them compared, keep every judgement, write one row a comparison."""
        # At temperature 1, so that there is something to choose between.
        groups = self.sample("sft", questions, n=self.sizes.replies, seed=self.seed + 1, temperature=1.0)
        comparisons = [
            Comparison(question, (a.text, b.text))
            for question, group in zip(questions, groups, strict=True)
            for a, b in self.chosen_pairs(question, group)
        ]
        store = open_engine(self.path("judgements.db"))
        answers = ask_crowd(store, self.crowd, comparisons, campaign=Path(name).stem)
        seal(store)
        store.dispose()
        rows = []
        for said in merged(answers):
            prompt, a, b = (last(shown) for shown in (said.comparison.context, *said.comparison.options))
            chosen, rejected, choice = (a, b, said.choice[0]) if said.choice[0] >= 0.5 else (b, a, said.choice[1])
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "choice": choice}
            rows.append({**row, "annotator": said.annotator, "judgements": said.judgements})
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


def begin(out: Path, seed: int, *, resume: bool) -> None:
    """Make the folder, and write down whose it is: a demo goes on with its own folder alone, and with its own seed.

    A folder in which nothing lies yet but hidden files is begun, resumed or not.
    """
    from preferent.runtime import files

    with files.wanted(out):
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is a file; expected a folder to write the demo to: choose another --out.")
        files.make_folder(out)
        if not any(not path.name.startswith(".") for path in out.iterdir()):
            files.discard_leftovers(out)
            write(out / MARKER, [{"seed": seed, "version": __version__}])
            return
    begun = seed_in(out)
    if begun is None:
        raise UsageError(f"{out} is not empty and holds no demo: choose another --out.")
    if not resume:
        raise UsageError(f"{out} is not empty: go on with the demo in it (--resume), or choose another --out.")
    if begun != seed:
        raise UsageError(f"{out} holds the demo of seed {begun}, not of seed {seed}: choose another --out.")


def seed_in(out: Path) -> int | None:
    """The seed of the demo in a folder; None where there is no demo in it."""
    try:
        return int(json.loads((out / MARKER).read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def new_base(texts: Sequence[str], folder: Path, *, seed: int) -> None:
    """A tokenizer trained on the texts, and a model with random weights."""
    from preferent.models.load import save_folder
    from preferent.models.scratch import Size, new_model, train_tokenizer
    from preferent.runtime import files

    size = Size(hidden=128, layers=2, heads=4, vocabulary=1200, context=256)
    tokenizer = train_tokenizer(texts, vocabulary=size.vocabulary)
    with files.whole(folder) as partial:
        save_folder(new_model(tokenizer, size, seed=seed), tokenizer, partial)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    from preferent.runtime import files

    with files.replaced(path) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
