"""How training went: reward and truth against distance, length, entropy, diversity, losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from preferent.pictures import Axis, Bar, Mark, Picture, Point, Series, bars, lines
from preferent.pictures.scales import number
from preferent.report.outcomes import place_of, truth_against_distance
from preferent.report.reading import Found, Run
from preferent.report.section import Places, Section, averaged, thinned

TRUTHS = ("eval/gold", "eval/truth", "eval/reward/gold")  # marks that the policy was not trained on
PATHS = 20  # points of a path: neighbouring steps are averaged


def against_distance(all_: Found, places: Places) -> Section:
    """Reward and truth against √KL: a reward that rises while the truth falls is being exploited (Gao et al. 2022)."""
    moved = [run for run in all_.runs if run.values("kl") and run.values("reward")]
    watched_ = [run for run in all_.runs if run.values("eval/kl") and run.values("eval/reward")]
    pictures: list[Picture] = []
    if moved:
        pictures.append(paths(moved, "reward", "kl", "Reward against √KL, in training", places))
    if watched_:
        pictures.append(paths(watched_, "eval/reward", "eval/kl", "Reward against √KL, on held-out prompts", places))
    for truth in TRUTHS:
        known = [run for run in all_.runs if run.values("eval/kl") and run.values(truth)]
        if known:
            pictures.append(paths(known, truth, "eval/kl", "Truth against √KL, on held-out prompts", places))
    for each in all_.evaluations:
        pictures += truth_against_distance(each, places)
    lines_ = [
        "The further a policy goes from where it began, the more it can find what the reward likes and people do not: "
        "where the reward goes on rising and the truth does not, training should have stopped.",
        " ".join(chosen_line(run) for run in moved),
    ]
    hint = "Runs of PPO or GRPO fill this with their reward and KL, and --eval-data with what held-out prompts say."
    return Section(
        title="Reward and truth against √KL",
        lines=lines_ if pictures else [],
        pictures=pictures,
        missing="" if pictures else hint,
    )


def paths(runs: Sequence[Run], reward: str, kl: str, title: str, places: Places) -> Picture:
    """Each run's way, from left to right as it goes away from where it began, with a ring where its model is from."""
    series, marks = [], []
    for run in runs:
        distance = dict(run.values(kl))
        way = [
            (step, math.sqrt(max(distance[step], 0.0)), value) for step, value in run.values(reward) if step in distance
        ]
        size = -(-len(way) // PATHS)
        parts = [way[first : first + size] for first in range(0, len(way), size)]
        points = [Point(sum(x for _, x, _ in part) / len(part), sum(y for *_, y in part) / len(part)) for part in parts]
        series.append(Series(run.name, points, places[run.name]))
        chosen = run.chosen
        at = next((i for i, part in enumerate(parts) if part[0][0] <= chosen <= part[-1][0]), None)
        if at is not None and points[at].finite and run.finished:
            marks.append(Mark(points[at].x, points[at].y, f"{run.name}, step {number(chosen)}"))
    note = "A line is a run's way, averaged over neighbouring steps; the ring is the checkpoint that became its model."
    return lines(
        series,
        Axis("√KL to where it began", low=0.0),
        Axis(reward.rpartition("/")[2]),
        title=title,
        note=note,
        marks=marks,
    )


def chosen_line(run: Run) -> str:
    if not run.finished:
        return f"{run.name} has no model yet."
    why = f"best by {run.options['keep_best']}" if run.options.get("keep_best") else "its last"
    return f"The model of {run.name} is that of step {number(run.chosen)}, {why}."


# --- what replies look like -----------------------------------------------------------------------------


def what_replies_look_like(all_: Found, places: Places) -> Section:
    """Length, entropy and diversity: what changes first when a policy has found a trick."""
    named = (
        ("length", "Length of a reply", Axis("tokens")),
        ("entropy", "Entropy", Axis("nats a token")),
        ("ended", "Replies that ended by themselves", Axis("share", percent=True)),
        ("eval/distinct_2", "Diversity on held-out prompts", Axis("distinct-2")),
    )
    pictures = [
        over_steps(runs, name, title, axis, places)
        for name, title, axis in named
        if (runs := [run for run in all_.runs if run.values(name)]) and not always_one(runs, name)
    ]
    for each in all_.evaluations:
        for name, title, label in (
            ("length", "Length of a reply, held out", "tokens"),
            ("distinct_2", "Diversity, held out", "distinct-2: different pairs of tokens, as a share of all"),
        ):
            rows = [
                Bar(row.name, row.text[name], place=place_of(row.name, places))
                for row in each.standings
                if name in row.text
            ]
            if rows:
                pictures.append(bars(rows, Axis(label), title=f"{title}{each.of}"))
    absent = [] if any(run.values("entropy") for run in all_.runs) else ["These runs recorded no entropy."]
    hint = "Runs of PPO or GRPO, and evaluations, say how long and how varied replies are."
    return Section(
        title="Length, entropy, diversity",
        lines=absent if pictures else [],
        pictures=pictures,
        missing="" if pictures else hint,
    )


def always_one(runs: Sequence[Run], name: str) -> bool:
    """Whether a share of replies that ended says nothing, since all did."""
    return name == "ended" and all(value == 1 for run in runs for _, value in run.values(name))


def over_steps(runs: Sequence[Run], name: str, title: str, axis: Axis, places: Places) -> Picture:
    series = [Series(run.name, thinned(run.values(name)), places[run.name]) for run in runs]
    return lines(series, Axis("step", low=0.0), axis, title=title, note=averaged(runs, name))


# --- training -------------------------------------------------------------------------------------------


def how_training_went(all_: Found, places: Places) -> Section:
    """What each command goes by, over its steps."""
    named = (
        ("nll", "Loss of supervised fine-tuning", Axis("nats a token")),
        ("eval/nll", "The same, held out", Axis("nats a token")),
        ("accuracy", "Accuracy on comparisons, in training", Axis("accuracy", percent=True)),
        ("eval/accuracy", "Accuracy on comparisons, held out", Axis("accuracy", percent=True)),
        ("reward", "Reward, in training", Axis("reward")),
        ("eval/reward", "Reward, on held-out prompts", Axis("reward")),
        ("kl", "KL to where it began", Axis("nats a reply", low=0.0)),
        ("reward/members_spread", "Disagreement of the reward's members", Axis("standard deviation")),
    )
    pictures = [
        over_steps(runs, name, title, axis, places)
        for name, title, axis in named
        if (runs := [run for run in all_.runs if run.values(name)])
    ]
    skipped = [
        f"{run.name} left out {number(n)} steps whose gradient was not finite."
        for run in all_.runs
        if (n := sum(value for _, value in run.values("skipped")))
    ]
    hint = "No run has made a step yet."
    return Section(title="How training went", lines=skipped, pictures=pictures, missing="" if pictures else hint)
