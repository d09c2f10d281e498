"""One round of the loop, part by part. Each part is done once, and found in the round's folder when the loop goes on.

    prompts.jsonl      what is asked about in this round
    replies.jsonl      several replies to each, by the policy that the round begins with
    exploits.jsonl     pairs that the last round's reward model may be wrong about, where some are to be judged
    asked.jsonl        pairs of them, where people judge; `preferent data import` takes what they say elsewhere
    comparisons.jsonl  the pairs as they were judged; each row names its judgements in the store
    reward/            the reward model of this round, trained on the judgements of all rounds so far
    policy/            the policy of this round
    held_out.jsonl     what that policy says to held-out prompts, the first one and the last round's
    evaluation.json    where it stands beside these
    wins.json          how often people prefer it to the first one, where they were asked

A file takes its name when it is whole, a run has its ``model/`` when it has ended; the store keeps each judgement once.
So a kill costs the way back to the last checkpoint of one part, and what is learned is the same to the last bit.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from preferent.config import UsageError, Waiting, build, words
from preferent.feedback.crowd import Crowd, chance
from preferent.feedback.records import Item, Judgement, Messages, canonical

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)
Row = Mapping[str, Any]
Worth = Callable[[Messages, Messages], float]  # context and reply → mark
PEOPLE = "people"
BARE = {"people": 1, "per_comparison": 1, "reliability": (1.0, 1.0), "position_bias": 0.0, "length_bias": 0.0}
NOISE: Mapping[str, Mapping[str, Any]] = {  # how somebody who has a mark for each reply answers: a crowd's settings
    "none": {**BARE, "lapse": 0.0, "tie_rate": 1.0, "sharpness": 1e12},
    "bradley-terry": {**BARE, "lapse": 0.0, "tie_rate": 0.0},
    "crowd": {},
}


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Asking."""

    annotator: Annotated[
        str, "who compares replies: people (through the store), or who stands in: file.py:function, a reward model"
    ]
    noise: Annotated[
        Literal["none", "bradley-terry", "crowd"],
        "how who stands in answers. none: the higher mark wins; bradley-terry: more often, the higher it is; crowd: "
        "three of nine simulated people, with biases, ties and slips",
    ] = "none"
    sharpness: Annotated[float, "with noise: log-odds of preferring a reply whose mark is higher by 1", Ge(0)] = 14.0
    asked: Annotated[int | None, "prompts to ask about in a round, others in each; none: all of them", Gt(0)] = None
    replies: Annotated[int, "replies to each of them", Ge(2)] = 4
    comparisons: Annotated[int | None, "pairs of replies to judge in a round; none: one for each prompt", Gt(0)] = None
    adversarial: Annotated[
        float,
        "share of a round's pairs that are likely exploits of the last round's reward model, an ensemble (reward: "
        "members): a reply that it marks high and its members disagree on, beside one that they trust",
        Ge(0),
        Le(1),
    ] = 0.0
    compared: Annotated[
        int, "held-out prompts on which people say, after each round, whether its policy beats the first one", Ge(0)
    ] = 0
    overlap: Annotated[int, "people to judge each pair", Gt(0)] = 1
    guideline: Annotated[Path | None, "text file that people judge by; none: no guideline"] = None
    store: Annotated[str | None, "SQLite file or postgresql://host/db of judgements; none: judgements.db in --out"] = (
        None
    )
    campaign: Annotated[str | None, "what campaigns in the store are called; none: as the folder --out"] = None
    wait: Annotated[bool, "where people's answers are missing, wait for them instead of stopping"] = False
    poll: Annotated[float, "with --wait: seconds between looks into the store", Gt(0)] = 30.0


@dataclass(frozen=True)
class Round:
    """What one round is to do, and where."""

    number: int
    folder: Path
    seed: int  # of the loop: who is asked what; that of the round is among ``given``
    first: str  # the model that the loop began with
    last: str  # the policy that this round begins with: asked, and what the new one is compared with
    start: str  # the policy that training starts from
    anchor: str  # the reference
    ask: AskOptions
    given: Mapping[str, Any]  # words for every part that knows them
    sections: Mapping[str, Mapping[str, Any]]  # words for one part
    prompts: Sequence[str]
    held_out: Sequence[str]
    before: Path | None  # the last round's reward model
    data: Sequence[str]  # comparisons from before the loop, and of the rounds so far, this one's with them
    store: str
    campaign: str

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def people(self) -> bool:
        return self.ask.annotator == PEOPLE

    # --- asking ------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Replies to the round's prompts; marked, where a function or a model stands in for people."""
        if self.path("replies.jsonl").is_file():
            return
        if not self.path("prompts.jsonl").is_file():
            write(self.path("prompts.jsonl"), self.questions())
        self.run("sample")

    def exploits(self) -> list[Item]:
        """What the last round's reward model may be wrong about: of the same replies, drawn again."""
        most = round(self.ask.adversarial * self.most)
        if self.before is None or most == 0:
            return []
        if not self.path("exploits.jsonl").is_file():
            doubted = {"out": self.path("exploits.jsonl"), "reward": (str(self.before),), "adversarial": most}
            importlib.import_module("preferent.stages.sample").run(self.options("sample", **doubted))
        return pairs(read(self.path("exploits.jsonl")), most, policy=self.last, seed=self.seed)

    @property
    def most(self) -> int:
        """Pairs to judge."""
        return self.ask.comparisons or len(read(self.path("replies.jsonl")))

    def questions(self) -> list[Row]:
        """The next ``asked`` of all prompts in an order drawn once: round by round all of them, then again."""
        from preferent.data.rows import BadRow, rows

        every: list[Row] = []
        for row in (row for name in self.prompts for row in rows(name)):
            if isinstance(row, BadRow):
                raise row
            every.append(row.data)
        every.sort(key=lambda row: chance(self.seed, "asked", json.dumps(row, sort_keys=True, default=str)))
        n = min(self.ask.asked or len(every), len(every))
        begin = (self.number - 1) * n
        return [every[(begin + i) % len(every)] for i in range(n)]

    def asking(self) -> None:
        """Have pairs of replies judged, through the store; one row for each pair that somebody chose in.

        Raises Waiting where people have not answered all of them.
        """
        from preferent.feedback.formats import trl

        if self.path("comparisons.jsonl").is_file():
            return
        replies = read(self.path("replies.jsonl"))
        drawn = pairs(replies, self.most, policy=self.last, seed=self.seed)
        items = list({of.id: of for of in (*self.exploits(), *drawn)}.values())[: self.most]
        if not items:
            raise UsageError(
                f"{self.path('replies.jsonl')}: no prompt has two replies that differ, so there is nothing to compare. "
                "A higher --temperature or more --replies help."
            )
        if len(items) < self.most:
            fewer = (
                "Round %d has %d pairs of replies that differ to ask about, fewer than %d: more --replies give more."
            )
            log.warning(fewer, self.number, len(items), self.most)
        said = self.judged(items, self.campaign, "asked.jsonl", None if self.people else worth_in(replies))
        rows = []
        for of in items:
            judgements = said.get(of.id, [])
            made = trl.judged(of, judgements)
            if made is not None:
                who = list(dict.fromkeys(each.annotator for each in judgements))
                ids = [each.id for each in judgements]
                rows.append({"prompt": list(of.context), **made[0], "annotators": who, "judgements": ids})
        if not rows:
            raise UsageError(f"{self.campaign}: everybody skipped every comparison, so there is nothing to learn from.")
        if all(row["choice"] == 0.5 for row in rows):
            undecided = "Round %d: all %d answers are ties, so they do not say which replies are better."
            log.warning(undecided, self.number, len(rows))
        write(self.path("comparisons.jsonl"), rows)

    def judged(
        self, items: Sequence[Item], campaign: str, asked: str, worth: Worth | None
    ) -> dict[str, list[Judgement]]:
        """What was judged of these items, by item: by people, or where their worth is known, by who stands in.

        Raises Waiting where people have not answered all of them; ``asked`` is a file of what they are asked.
        """
        from preferent.feedback.asking import ask_crowd, comparison_of
        from preferent.feedback.store.engine import open_engine
        from preferent.feedback.store.log import seal
        from preferent.feedback.store.store import add_items, read_judgements

        engine = open_engine(self.store)
        try:
            add_items(engine, items)
            comparisons = [comparison_of(of) for of in items]
            if worth is None:
                write_asked(self.path(asked), items)
                self.wait_for_people(engine, campaign, comparisons)
            else:
                settings = {"sharpness": self.ask.sharpness, **NOISE[self.ask.noise]}
                name = Path(self.ask.annotator).name[:48]  # an annotator's id has 64 characters, "person 9" among them
                ask_crowd(engine, Crowd(worth, seed=self.seed, name=name, **settings), comparisons, campaign=campaign)
            seal(engine)
            return {of.id: judgements for of, judgements in read_judgements(engine, campaign=campaign)}
        finally:
            engine.dispose()

    def wait_for_people(self, engine: Engine, campaign: str, comparisons: Sequence[Any]) -> None:
        """Return once everything was answered. Raises Waiting before, unless this is to wait."""
        from preferent.feedback.asking import Campaign, Unanswered
        from preferent.feedback.store.engine import shown

        asked = Campaign(engine, campaign, overlap=self.ask.overlap, guideline=guideline_of(self.ask))
        missing = None
        while True:
            try:
                asked(comparisons)
                return
            except Unanswered as waiting:
                said = (
                    f"Round {self.number} waits for people: {waiting.asked - waiting.missing} of {waiting.asked} "
                    f'comparisons of the campaign "{campaign}" are answered in {shown(self.store)}.'
                )
                if not self.ask.wait:
                    hint = "The same command with --resume goes on when all are, or with --wait waits for them."
                    raise Waiting(f"{said}\n{hint}") from waiting
                if waiting.missing != missing:
                    log.info("%s", said)
                missing = waiting.missing
                time.sleep(self.ask.poll)

    # --- training ----------------------------------------------------------------------------------

    def run(self, name: str, *, title: str = "") -> None:
        """A command, as the command line would run it; a training that has ended already is not run again."""
        options = self.options(name)
        if name == "sample":
            importlib.import_module("preferent.stages.sample").run(options)
        elif not (options.run.out / "model").is_dir():
            module_of(name).run(options, title=title)

    def options(self, name: str, **more: Any) -> Any:
        """The options of a command in this round. Raises UsageError that names what of its section is wrong."""
        cls = module_of(name).Options
        mine = self.mine(name) | more
        section = self.sections.get(name, {})
        if fixed := [word for word in section if word in mine and (name, word) != ("reward", "model")]:
            raise UsageError(f'{name}: "{fixed[0]}" is for the loop to say. Leave it out.')
        known = {word.name for word in words(cls)}
        if "reference" in mine and "reference" not in known:
            raise UsageError(f"`preferent {name}` has no reference but where it starts: give --anchor as --start.")
        given = {word: value for word, value in self.given.items() if word in known}
        return build(cls, {**given, **mine, **section}, called=f'{name}: "{{}}"'.format)

    def mine(self, name: str) -> dict[str, Any]:
        """The words of a command that the round itself says."""
        if name == "sample":
            reward = {} if self.people else {"reward": (self.ask.annotator,)}
            prompts, out = self.path("prompts.jsonl"), self.path("replies.jsonl")
            return {"model": self.last, "prompts": (str(prompts),), "out": out, "n": self.ask.replies, **reward}
        out = self.path("reward" if name == "reward" else "policy")
        resume = out.is_dir() and any(out.iterdir())
        given: dict[str, Any] = {"out": out, "resume": resume, "dry_run": False}
        if name == "reward":
            return {**given, "model": self.first, "data": tuple(self.data), "columns": ()}
        given |= {"model": self.start} | ({"reference": self.anchor} if self.anchor != self.start else {})
        if name == "dpo":
            return {**given, "data": tuple(self.data), "columns": ()}
        truth = {} if self.people else {"truth": (self.ask.annotator,)}
        online = {"data": tuple(self.prompts), "eval_data": tuple(self.held_out), **truth}
        return {**given, "reward": (str(self.path("reward")),), **online}


def module_of(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"preferent.stages.{name.replace('-', '_')}")


def worth_in(replies: Sequence[Row]) -> Worth:
    """The mark that each reply got when it was drawn."""
    marks: dict[tuple[str, str], float] = {
        (canonical(row["prompt"]), text): mark
        for row in replies
        for text, mark in zip(row["completions"], row["rewards"], strict=True)
    }
    return lambda context, reply: marks[canonical(context), reply[-1]["content"]]


def guideline_of(ask: AskOptions) -> str:
    """What people judge by. Raises UsageError where the file cannot be read as text."""
    try:
        return ask.guideline.read_text(encoding="utf-8") if ask.guideline else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--guideline {ask.guideline}: cannot be read as text ({error}).") from error


def pairs(replies: Sequence[Row], most: int, *, policy: str, seed: int) -> list[Item]:
    """Pairs of replies to judge, at random: one of each prompt, then a second of each, until there are ``most``.

    Replies that say nothing, or the same, are not compared. Random pairs tell most of where the policy is now; to ask
    where members of an ensemble disagree, or what the last reward model likes most, is to choose otherwise here.
    """
    from preferent.feedback.asking import item_of
    from preferent.feedback.store.store import UNFIT
    from preferent.types import Comparison

    waiting: list[tuple[int, float, Item]] = []
    for row in replies:
        context = tuple(row["prompt"])
        texts = [text for text in dict.fromkeys(row["completions"]) if text.strip() and not UNFIT.search(text)]
        items = [item_of(Comparison(context, pair), sources=(policy, policy))[0] for pair in combinations(texts, 2)]
        drawn = sorted(items, key=lambda of: chance(seed, "pair", of.id))
        waiting += [(i, chance(seed, "prompt", of.id), of) for i, of in enumerate(drawn)]
    chosen = sorted(waiting, key=lambda each: each[:2])
    return list({of.id: of for _, _, of in chosen}.values())[:most]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_asked(path: Path, items: Iterable[Item]) -> None:
    """What people are asked, for those who answer elsewhere than in the store."""
    write(path, ({"prompt": list(of.context), "completions": list(map(list, of.options))} for of in items))


def write(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines, whole or not at all."""
    from preferent.runtime import files

    files.make_folder(path.parent)
    with files.replaced(path) as partial:
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        partial.write_text("".join(lines), encoding="utf-8")
