"""The loop of Bai et al. 2022, section 4.5: round by round, people compare what the newest policy says."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click
from annotated_types import Ge, Gt, Le, Lt

from preferent.config import UsageError, did_you_mean, flatten, read_yaml, words
from preferent.stages.options import SamplingOptions
from preferent.stages.rounds import PEOPLE, AskOptions, Round, Row, guideline_of

if TYPE_CHECKING:
    from preferent.runtime.run import Run
    from preferent.types import Algorithm

log = logging.getLogger(__name__)
RESUMED = frozenset({"rounds", "wait", "poll"})  # may differ when the loop goes on: no round depends on them


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data."""

    prompts: Annotated[tuple[str, ...], "JSONL or Parquet files or Hub names: prompts to ask about and to train on"]
    held_out: Annotated[
        tuple[str, ...], "the same for the evaluation after each round: never asked about or trained on"
    ]
    data: Annotated[tuple[str, ...], "comparisons from before the loop, which every round trains on too"] = ()
    columns: Annotated[tuple[str, ...], "rename columns of prompts: prompt=question reads the column question"] = ()
    max_length: Annotated[
        int | None, "longest prompt and reply together, in tokens; none: as each command has it", Gt(0)
    ] = None
    system: Annotated[str | None, "system prompt put before conversations that have none"] = None


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Policy."""

    method: Annotated[
        Literal["ppo", "grpo", "online-dpo", "raft", "dpo"],
        "how the policy learns; dpo: from the judgements, without a reward model",
    ] = "ppo"
    start: Annotated[
        Literal["first", "last"],
        "where each round's training starts: at the policy that the loop began with, as in Bai et al. 2022, or at that "
        "of the round before",
    ] = "first"
    anchor: Annotated[
        Literal["first", "last"] | None,
        "reference, which the KL is paid to: the policy that the loop began with, or that of the round before; none: "
        "where training starts",
    ] = None


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Machine."""

    device: Annotated[str, "auto, cpu, cuda, cuda:1 …; auto: the first GPU if there is one"] = "auto"
    threads: Annotated[
        int | None, "CPU threads; none: PyTorch's choice. Bits depend on it, so it is recorded", Gt(0), Le(4096)
    ] = None
    trust_remote_code: Annotated[bool, "run Python code that comes with the model; only for authors you trust"] = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """Round by round: sample, have replies compared, train a reward model and a policy, evaluate; then again.

    Each round asks about replies of the newest policy, trains the reward model on all judgements so far, and then the
    policy against it (Bai et al. 2022, section 4.5). With `method: dpo` the policy learns from the judgements directly.
    Everything lies in --out, a folder for each round, and what is done there is not done again: after a kill, and after
    more --rounds, the same command with --resume goes on. Where people have not answered yet, the loop says so and
    stops with exit code 3, or waits for them (--wait).

    FILE is YAML. It holds the options below by their names, flags win over it, and sections for the commands that a
    round runs, `sample:`, `reward:` and that of the method, such as `ppo:`, with any of their own options but
    those that the loop says itself (what to start from, data, folders, seeds). A loop's own folder will do as FILE.

    Examples:
        preferent loop loop.yaml --rounds 4
        preferent loop loop.yaml --rounds 4 --resume --wait
        preferent loop loop.yaml --method grpo --out runs/loop-grpo --dry-run
    """

    positional: ClassVar[str] = "file"
    sections: ClassVar[tuple[str, ...]] = ("sample", "reward", "ppo", "grpo", "online-dpo", "raft", "dpo")
    file: Annotated[Path, "YAML file of options, with sections for the commands of a round"]
    model: Annotated[str, "the policy to begin with: a Hugging Face folder, a Hub name, or a run folder"]
    out: Annotated[Path, "folder for the rounds, the store of judgements and the table of results"]
    rounds: Annotated[int, "how many rounds", Gt(0)] = 4
    seed: Annotated[int, "seed of everything drawn at random", Ge(0), Lt(2**62)] = 0
    resume: Annotated[bool, "go on with the loop in --out, bit for bit"] = False
    dry_run: Annotated[bool, "show what a round would do, and stop"] = False
    data: DataOptions
    ask: AskOptions
    policy: PolicyOptions = PolicyOptions()
    sampling: SamplingOptions = SamplingOptions()
    machine: MachineOptions = MachineOptions()


def run(options: Options) -> None:
    """Round after round. Raises Waiting where people have to answer first."""
    from preferent.runtime.drive import logged
    from preferent.stages.standing import table

    plan = Plan.of(options)
    plan.checked()
    if options.dry_run:
        for line in plan.lines():
            click.echo(line)
        return
    with opened(plan) as run:
        start = min(plan.done(), logged_rounds(options.out))
        steps = logged(plan.rounds(start), *run.writers(start), start=start)
        for _ in steps:
            pass
    table(plan.results(), Path(options.model).name)


@dataclass(frozen=True)
class Plan:
    """The options of a loop, with the sections of its file."""

    options: Options
    sections: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, options: Options) -> Plan:
        """Raises UsageError for a section that there is not, or that is none."""
        path = options.file / "config.yaml" if options.file.is_dir() else options.file
        said, known = read_yaml(path), dict.fromkeys(options.sections, "")
        for name, value in said.items():
            if isinstance(value, dict) and name not in known:
                meant = did_you_mean(name, known, quote='"{}"')
                raise UsageError(f'{path}: "{name}" is no section{meant}; there are {", ".join(known)}.')
            if name in known and not isinstance(value, dict | None):
                raise UsageError(
                    f'{path}: "{name}": expected options of `preferent {name}`, a line each; got {value!r}.'
                )
        found = {name: said[name] or {} for name in options.sections if name in said}
        return cls(options, found)

    @property
    def commands(self) -> list[str]:
        """What a round runs."""
        return ["sample", *(["reward"] if self.learned else []), self.options.policy.method]

    @property
    def learned(self) -> bool:
        """Whether there is a reward model."""
        return self.options.policy.method != "dpo"

    def round(self, number: int) -> Round:
        """Counted from 1."""
        options, out = self.options, self.options.out
        first = options.model
        last = first if number == 1 else str(out / f"round-{number - 1}" / "policy")
        so_far = [str(out / f"round-{i}" / "comparisons.jsonl") for i in range(1, number + 1)]
        shared = {**flatten(options.sampling), **flatten(options.data), **flatten(options.machine)}
        given = {name: value for name, value in shared.items() if value is not None}
        return Round(
            number,
            out / f"round-{number}",
            seed=options.seed,
            first=first,
            last=last,
            start={"first": first, "last": last}[options.policy.start],
            anchor={"first": first, "last": last}[options.policy.anchor or options.policy.start],
            ask=options.ask,
            given={**given, "seed": options.seed + number},
            sections=self.sections,
            prompts=options.data.prompts,
            held_out=options.data.held_out,
            before=out / f"round-{number - 1}" / "reward" if self.learned and number > 1 else None,
            data=[*options.data.data, *so_far],
            store=options.ask.store or str(out / "judgements.db"),
            campaign=f"{options.ask.campaign or out.resolve().name}, round {number}",
        )

    def checked(self) -> None:
        """Raise UsageError for what can be seen to be wrong before anything is made."""
        from preferent.data.rows import rows
        from preferent.feedback.store.engine import url_of
        from preferent.models.load import found_policy
        from preferent.stages import training
        from preferent.stages.importing import LONGEST
        from preferent.stages.standing import HELD_OUT

        second = self.round(2)  # the first that may differ from the policy that the loop began with
        try:
            for name in dict.fromkeys((*self.commands, *self.sections)):
                (second if name in self.commands else replace(second, anchor=second.start)).options(name)
        except UsageError as error:
            raise UsageError(f"{self.options.file}: {error}") from error
        found_policy(self.options.model, trust_remote_code=self.options.machine.trust_remote_code)
        about = self.options.data
        for name in (*about.prompts, *about.held_out, *about.data):
            if training.unweighted(name) != name:
                raise UsageError(f"{name}: a loop's files have no weights, for those of its rounds have none.")
            next(rows(name))  # which says what is wrong with the file, if anything is
        last = self.round(self.options.rounds).campaign + (HELD_OUT if "wins.json" in self.ends else "")
        if len(last) > LONGEST:
            raise UsageError(f'--campaign: expected {LONGEST} characters at most; got {len(last)}: "{last}".')
        url_of(self.options.ask.store or "")
        guideline_of(self.options.ask)
        if self.options.ask.adversarial and not (self.learned and second.options("reward").reward.members > 1):
            raise UsageError(
                "--adversarial asks where members disagree: in the section reward:, give members: 2 or more."
            )
        if not self.round(1).people:
            refuse_nobody(self.options.ask.annotator)
            training.readable([self.options.ask.annotator])

    def lines(self) -> list[str]:
        """What a round does, as somebody would type it."""
        first, second = self.round(1), self.round(2)
        who = self.options.ask.annotator if first.people else f"{self.options.ask.annotator}, in place of people"
        return [
            f"{self.options.rounds} rounds in {self.options.out}. The first:",
            "",
            command_line("sample", first.options("sample")),
            f"(pairs of replies → {who} → {first.store} → {first.path('comparisons.jsonl')})",
            *(command_line(name, first.options(name)) for name in self.commands[1:]),
            f"(evaluation on {', '.join(first.held_out)} → {first.path('evaluation.json')})",
            "",
            f"The second asks about replies of {second.last}, and trains on {len(second.data)} files of comparisons.",
        ]

    def done(self) -> int:
        """How many rounds have ended."""
        number = 0
        while all(self.round(number + 1).path(name).is_file() for name in self.ends):
            number += 1
        return number

    @property
    def ends(self) -> list[str]:
        """What lies in the folder of a round that has ended."""
        return ["evaluation.json", *(["wins.json"] if self.round(1).people and self.options.ask.compared else [])]

    def rounds(self, start: int) -> Algorithm:
        """A generator like any algorithm's, with rounds for steps; what is there already is done at once."""
        from preferent.stages.standing import metrics_of

        for number in range(start + 1, self.options.rounds + 1):
            log.info("Round %d of %d.", number, self.options.rounds)
            at = self.round(number)
            at.sample()
            at.asking()
            for name in self.commands[1:]:
                at.run(name, title=f"round {number} {name}")
            self.evaluate(at)
            found = self.results()
            write(self.options.out / "rounds.json", found)
            yield metrics_of(found[number - 1])

    def evaluate(self, at: Round) -> None:
        """Where the round's policy stands."""
        from preferent.stages.standing import compared, measured

        path, wins = at.path("evaluation.json"), at.path("wins.json")
        if not path.is_file():
            write(path, measured(at, learned=self.learned))
        if wins.name in self.ends and not wins.is_file():
            write(wins, compared(at))

    def results(self) -> list[Row]:
        """A row for each round that has ended."""
        rows: list[Row] = []
        for number in range(1, self.done() + 1):
            said = json.loads(self.round(number).path("evaluation.json").read_text(encoding="utf-8"))
            before = {"agreement": said["reward"][0]["accuracy"]} if said["reward"] else {}
            judged = {name: said[name] + (rows[-1][name] if rows else 0) for name in ("comparisons", "judgements")}
            row = {"round": number, **judged, **before, **said["models"][-1]}
            if "wins.json" in self.ends:  # people's word, in place of the reward's
                wins = json.loads(self.round(number).path("wins.json").read_text(encoding="utf-8"))
                row = {name: value for name, value in row.items() if name not in ("win_rate", "win_rate_last")} | wins
            rows.append(row)
        return rows


# --- the folder, and what is said of it ------------------------------------------------------------


@contextmanager
def opened(plan: Plan) -> Iterator[Run]:
    """The loop's folder, locked; a loop that fails before it has any reply leaves nothing behind."""
    import torch

    from preferent.feedback.store import open_engine
    from preferent.models.device import chosen_device
    from preferent.models.load import found
    from preferent.runtime.run import Run
    from preferent.stages import training

    options = plan.options
    if options.machine.threads:
        torch.set_num_threads(options.machine.threads)
    about, who = options.data, [] if plan.round(1).people else training.readable([options.ask.annotator])
    guideline = [options.ask.guideline] if options.ask.guideline else []
    files = map(training.unweighted, (*about.prompts, *about.held_out, *about.data))
    said = {name: value for name, value in flatten(options).items() if name != "file"}
    run = Run(
        options.out,
        said | dict(plan.sections),
        resume=options.resume,
        inputs=[found(options.model), *files, *who, *guideline],
        command="loop",
        seed=options.seed,
        device=str(chosen_device(options.machine.device)),
        allow=RESUMED,
    )
    try:
        run.restore({})
        if options.ask.store:
            open_engine(options.ask.store).dispose()  # before anything is sampled, say that it cannot be opened
        yield run
    except BaseException as error:
        if not any(options.out.glob("round-*/replies.jsonl")):
            shutil.rmtree(options.out / "round-1", ignore_errors=True)
            run.__exit__(type(error), error, None)
        raise
    finally:
        run.close()


def refuse_nobody(annotator: str) -> None:
    """Raise UsageError for a word that names neither people nor a reward; a name of the Hub has an owner/."""
    from preferent.rewards.load import is_function, weighted

    name, _ = weighted(annotator)
    if not (is_function(name) or Path(name).is_dir() or "/" in name):
        meant = did_you_mean(name, {PEOPLE: ""}, quote='"{}"')
        raise UsageError(
            f'--annotator {annotator}: expected "{PEOPLE}", file.py:function, a reward model\'s folder, or its Hub '
            f"name (owner/name); this is none of them{meant}."
        )


def logged_rounds(out: Path) -> int:
    """How many rounds the metrics file tells of."""
    from preferent.runtime.track import rows

    path = out / "metrics.jsonl"
    return max((int(row["step"]) for row in rows(path)), default=0) if path.is_file() else 0


def write(path: Path, said: Any) -> None:
    from preferent.runtime import files

    with files.replaced(path) as partial:
        partial.write_text(json.dumps(said, indent=2, ensure_ascii=False), encoding="utf-8")


def command_line(name: str, options: Any) -> str:
    """The command with the options that are not its own defaults."""
    said = flatten(options)
    parts = [f"preferent {name}"]
    positional = getattr(type(options), "positional", None)
    for word in words(type(options)):
        value = said[word.name]
        if value == (list(word.default) if word.many and not word.required else word.default) or word.name == "resume":
            continue
        flag = "" if word.name == positional else f"{word.flag} " if value is not False else f"--no-{word.flag[2:]} "
        values = value if isinstance(value, list) else [value]
        parts += [f"{flag}{'' if isinstance(each, bool) else shlex.quote(str(each))}".strip() for each in values]
    return " ".join(parts)
