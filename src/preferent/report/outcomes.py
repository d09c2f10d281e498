"""What was run, what it said before and after, and how good that is by what the reward never saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from preferent.pictures import Axis, Bar, Picture, Point, Series, bars, heatmap, scatter
from preferent.pictures.scales import number, percentage
from preferent.report.evaluations import Evaluation, Standing
from preferent.report.reading import Found, Run
from preferent.report.section import Dialogue, Figure, Places, Section, Table

NAMES = {
    "sft": "supervised fine-tuning",
    "reward": "reward model",
    "dpo": "DPO",
    "kto": "KTO",
    "online-dpo": "online DPO",
    "xpo": "XPO",
    "nash-md": "Nash-MD",
    "spin": "SPIN",
    "raft": "RAFT",
    "rso": "RSO",
    "distill": "distillation",
    "ppo": "PPO",
    "grpo": "GRPO",
    "run": "run",
}
SHOWN = 4  # prompts whose replies are shown
Z = 1.96  # standard errors to each side of a mean: 95 %


def what_was_run(all_: Found, places: Places) -> Section:
    """A row for each run, and the options in full behind a fold."""
    columns = ("run", "what", "state", "from", "data", "parameters", "seed", "begun")
    rows = [
        (
            run.name,
            what(run),
            state(run),
            base(run),
            ", ".join(Path(str(name)).name for name in listed(run.options.get("data"))) or "–",
            number(run.parameters) if run.parameters else "–",
            str(run.manifest.get("seed", "–")),
            str(run.manifest["sittings"][0].get("started", "–"))[:16].replace("T", " "),
        )
        for run in all_.runs
    ]
    folded = [options_of(all_.runs), checksums_of(all_.runs)] if all_.runs else []
    return Section(
        title="What was run",
        lines=[machines(all_.runs)] if all_.runs else [],
        tables=[Table("Runs", columns, rows), *folded] if all_.runs else [],
        missing="" if all_.runs else "No run folder was named, only evaluations.",
    )


def state(run: Run) -> str:
    if not run.metrics:
        return "no step yet"
    return f"{'finished' if run.finished else 'not finished'}, {number(run.steps)} step{'s' * (run.steps != 1)}"


def what(run: Run) -> str:
    """The kind of run, and its objective where it has one of another name: DPO · simpo."""
    name = NAMES[run.kind]
    said = [str(each) for each in listed(run.options.get("objective"))]
    own = not said or said == [run.kind] or name.lower().endswith(f" {' '.join(said)}")
    return name if own else f"{name} · {' + '.join(said)}"


def base(run: Run) -> str:
    """The model that a run began from: a run's folder rather than the model/ in it."""
    path = Path(str(run.options.get("model", "–")))
    return path.parent.name if path.name == "model" else path.name


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def machines(runs: Sequence[Run]) -> str:
    """The machines, and the versions that made the runs."""
    told = []
    for run in runs:
        last = run.manifest["sittings"][-1]
        versions = {name: version for name, version in dict(last.get("versions", {})).items() if version}
        with_ = ", ".join(
            f"{name} {versions[name]}" for name in ("preferent", "torch", "transformers") if name in versions
        )
        threads = last.get("threads", "?")
        told.append(
            f"On {last.get('device', 'an unknown device')} with {threads} thread{'s' * (threads != 1)}, "
            f"{str(last.get('platform', 'an unknown system')).partition('-')[0]}; {with_}."
        )
    return " ".join(dict.fromkeys(told))


def options_of(runs: Sequence[Run]) -> Table:
    """Every option that any run has, a column for each run."""
    names = list(dict.fromkeys(name for run in runs for name in run.options))
    rows = [(name, *(as_written(run.options[name]) if name in run.options else "" for run in runs)) for name in names]
    return Table("All options", ("option", *(run.name for run in runs)), rows, folded=True)


def as_written(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)


def checksums_of(runs: Sequence[Run]) -> Table:
    """The data files and models that the runs read, by the beginning of their SHA-256."""
    rows = [
        (
            run.name,
            file,
            f"{number(int(said['size']))} bytes" if "size" in said else "–",
            str(said.get("sha256", "not local"))[:16],
        )
        for run in runs
        for name, inside in dict(run.manifest.get("inputs", {})).items()
        for file, said in files_of(str(name), inside)
    ]
    return Table("What they read, by checksum", ("run", "file", "size", "SHA-256 begins"), rows, folded=True)


def files_of(name: str, inside: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(inside, dict):
        yield name, {}
    elif "sha256" in inside:
        yield name, inside
    else:
        yield from ((f"{name}/{file}", said) for file, said in inside.items())


# --- before and after -----------------------------------------------------------------------------------


def before_and_after(all_: Found, places: Places) -> Section:
    """Replies to the same prompts side by side: from evaluations, else from the runs' own samples."""
    shown = [dialogue for evaluation in all_.evaluations for dialogue in from_evaluation(evaluation, places)]
    lines = []
    if not shown:
        shown = from_samples(all_.runs, places)
        lines = ["The prompts are spread evenly over the held-out file; nobody picked them."] if shown else []
    hint = "Give a run --eval-data with prompts: its replies are then kept at each evaluation."
    return Section(title="Before and after", lines=lines, dialogues=shown, missing="" if shown else hint)


def from_evaluation(evaluation: Evaluation, places: Places) -> list[Dialogue]:
    return [
        Dialogue(prompt, [(name, place_of(name, places), reply) for name, reply in replies.items()])
        for prompt, replies in evaluation.examples
    ]


def from_samples(runs: Sequence[Run], places: Places) -> list[Dialogue]:
    """What each run said at its first evaluation and at that of its model, to prompts that the first run was asked."""
    asked = next((list(run.samples.values())[-1] for run in runs if run.samples), [])
    apart = max(1, len(asked) // SHOWN)
    dialogues = []
    for chosen in list(asked)[::apart][:SHOWN]:
        replies = []
        for run in runs:
            last = [step for step in run.samples if step <= run.chosen][-1:]
            for step in dict.fromkeys([*list(run.samples)[:1], *last]):
                said = next((sample.reply for sample in run.samples[step] if sample.prompt == chosen.prompt), None)
                if said is not None:
                    replies.append((f"{run.name}, step {number(step)}", places[run.name], said))
        dialogues.append(Dialogue(chosen.prompt, replies))
    return dialogues


def place_of(name: str, places: Places) -> int:
    """The colour of the run that an evaluation names; one of its own for whatever is no run here."""
    return places.get(name, places.get(Path(name).name, len(places) + 1))


# --- how good -------------------------------------------------------------------------------------------


def how_good(all_: Found, places: Places) -> Section:
    """Win rates and the truth, with intervals."""
    told = [each for each in all_.evaluations if each.standings]
    pictures: list[Picture] = []
    for each in told:
        pictures += [*wins(each, places), *means(each, places), *parts(each)]
    hint = "An evaluation fills this: preferent evaluate BASELINE RUN… --prompts FILE --reward REWARD --out FILE.json"
    return Section(
        title="Win rate and truth",
        lines=[f"From {Path(each.source).name}{asked(each)}." for each in told],
        pictures=pictures,
        tables=[standings_of(each) for each in told],
        missing="" if told else hint,
    )


def asked(evaluation: Evaluation) -> str:
    """How many prompts, if that is known."""
    n = next((row.n for row in evaluation.standings if row.n), None)
    return (
        f": one reply of each policy to {number(n)} held-out prompts"
        if n
        else ": one reply of each policy to each held-out prompt"
    )


def wins(evaluation: Evaluation, places: Places) -> list[Picture]:
    first = evaluation.standings[0].name
    rows = [
        Bar(row.name, *row.wins, place_of(row.name, places)) for row in evaluation.standings if row.wins is not None
    ]
    note = f"Share of prompts on which {evaluation.truth} is higher than {first}'s, ties ½, with 95 % intervals."
    axis = Axis(f"wins against {first}", 0.0, 1.0, percent=True)
    return [bars(rows, axis, title=f"Wins against {first}{evaluation.of}", note=note, even=0.5)] if rows else []


def means(evaluation: Evaluation, places: Places) -> list[Picture]:
    rows = [
        Bar(row.name, row.mean, *interval(row), place_of(row.name, places))
        for row in evaluation.standings
        if row.mean is not None
    ]
    exact = all(bar.low is not None for bar in rows)
    note = "Mean over prompts, with 95 % intervals." if exact else "Mean over prompts."
    below = any(bar.value < 0 for bar in rows)
    title = f"{evaluation.truth.capitalize()}{evaluation.of}"
    return [bars(rows, Axis(evaluation.truth), title=title, note=note, dots=below)] if rows else []


def parts(evaluation: Evaluation) -> list[Picture]:
    names = list(dict.fromkeys(part for row in evaluation.standings for part in row.parts))
    rows = [row for row in evaluation.standings if row.parts]
    if not names:
        return []
    values = [[row.parts.get(name) for name in names] for row in rows]
    note = f"What {evaluation.truth} is made of, for each policy; 1 is full marks."
    scale = Axis("marks from 0 to 1", 0.0, 1.0)
    return [
        heatmap(
            [row.name for row in rows],
            names,
            values,
            scale,
            title=f"{evaluation.truth.capitalize()} by part{evaluation.of}",
            note=note,
        )
    ]


def standings_of(evaluation: Evaluation) -> Table:
    timed = any(row.seconds is not None for row in evaluation.standings)
    columns = ("policy", evaluation.truth, "wins", "95 % interval", "KL", "length", "ended", "distinct-1", "distinct-2")
    rows = [
        (
            row.name,
            written(row.mean) + (f" ± {number(row.spread)}" if row.spread is not None else ""),
            percentage(row.wins[0]) if row.wins else "–",
            f"{percentage(row.wins[1])} – {percentage(row.wins[2])}" if row.wins else "–",
            written(round(max(row.kl, 0.0), 3) if row.kl is not None else None),
            *(written(row.text.get(name)) for name in ("length",)),
            percentage(row.text["ended"]) if "ended" in row.text else "–",
            *(written(row.text.get(name)) for name in ("distinct_1", "distinct_2")),
            *([written(None if row.seconds is None else round(row.seconds))] if timed else []),
        )
        for row in evaluation.standings
    ]
    spread = any(row.spread is not None for row in evaluation.standings)
    about = ", ± the spread among replies" if spread else ""
    return Table(f"In numbers{evaluation.of}{about}", (*columns, "seconds") if timed else columns, rows)


def written(value: float | None) -> str:
    return "–" if value is None else number(value)


def truth_against_distance(evaluation: Evaluation, places: Places) -> list[Picture]:
    """Each policy where it ended: how good, and how far from where it began."""
    series = []
    for row in evaluation.standings:
        if row.mean is not None and row.kl is not None:
            point = Point(math.sqrt(max(row.kl, 0.0)), row.mean, *interval(row), label=row.name)
            series.append(Series(row.name, [point], place_of(row.name, places)))
    if len(series) < 2:
        return []
    title = f"{evaluation.truth.capitalize()} against √KL{evaluation.of}"
    note = "Where each policy ended, on held-out prompts."
    return [scatter(series, Axis("√KL to the baseline", low=0.0), Axis(evaluation.truth), title=title, note=note)]


def interval(row: Standing) -> tuple[float | None, float | None]:
    """Of the mean, where its standard error is known."""
    if row.mean is None or row.error is None:
        return None, None
    return row.mean - Z * row.error, row.mean + Z * row.error


# --- in short -------------------------------------------------------------------------------------------


def in_short(all_: Found) -> list[Figure]:
    """The win rates that a reader looks for first: those that the interval tells from an even chance."""
    return [
        won(row, evaluation)
        for evaluation in all_.evaluations
        for row in evaluation.standings
        if row.wins and not row.wins[1] <= 0.5 <= row.wins[2]
    ]


def won(row: Standing, evaluation: Evaluation) -> Figure:
    value, low, high = row.wins or (0.0, 0.0, 0.0)
    first = evaluation.standings[0]
    detail = f"{percentage(low)} – {percentage(high)}"
    if row.mean is not None and first.mean is not None:
        detail += f"; {evaluation.truth} {number(round(first.mean, 2))} → {number(round(row.mean, 2))}"
    return Figure(percentage(value), f"{row.name} wins against {first.name}", detail)
