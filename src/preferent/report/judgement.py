"""The reward model and the crowd that it was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from preferent.evaluation import judged
from preferent.evaluation.judged import Judged, Leaning
from preferent.pictures import Axis, Bar, Picture, Reliable, bars, binned, histogram, reliability
from preferent.pictures.scales import number, percentage
from preferent.report.reading import Found, Run
from preferent.report.section import Figure, Places, Section, Table

SIDES = ("annotators", "reward model")


def reward_models(all_: Found, places: Places) -> Section:
    """Accuracy, calibration, the members' disagreement, and what the model values more than people do."""
    tried = [run for run in all_.runs if run.judged]
    several = len(tried) > 1
    pictures: list[Picture] = []
    said: list[str] = []
    for run in tried:
        of = f" ({run.name})" if several else ""
        pictures += [accuracies(run, of), calibration(run, of), *spreads(run, of), *overvalued(run, of)]
        said += told(run)
    hint = "A reward model that is trained with --eval-data fills this: its run then holds judged.jsonl."
    return Section(
        title="The reward model",
        lines=said,
        pictures=pictures,
        tables=[leanings_of(run, several) for run in tried],
        missing="" if tried else hint,
    )


def told(run: Run) -> list[str]:
    rate = judged.accuracy(run.judged) if decided(run.judged) else None
    error = judged.calibration_error(judged.reliability(run.judged))
    lines = []
    if rate is not None:
        lines.append(
            f"{run.name} agrees with the annotators on {percentage(rate.value)} [{percentage(rate.low)} – "
            f"{percentage(rate.high)}] of the held-out comparisons that they decided ({number(len(run.judged))} "
            f"comparisons of {number(rate.n)} prompts)."
        )
    lines.append(
        f"Expected calibration error: {number(round(100 * error, 1))} percentage points, which is how far, on average, "
        "the share of annotators who agree lies from the share that the model promises."
        + sureness(judged.sharpness(run.judged))
    )
    over = [each for each in everything(run.judged) if each.excess.low > 0]
    under = [each for each in everything(run.judged) if each.excess.high < 0]
    for which, word in ((over, "more"), (under, "less")):
        if which:
            names = ", ".join(phrase(each) for each in sorted(which, key=lambda each: -abs(each.excess.value))[:4])
            lines.append(f"It values {word} than the annotators do: {names}.")
    if not over and not under:
        lines.append("Nothing that could be counted here does it value more or less than the annotators do.")
    return lines


def sureness(sharp: float) -> str:
    """In which direction, if that is more than a little."""
    if 0.9 < sharp < 1.1:
        return ""
    times = number(round(sharp, 2))
    return (
        f" It is too {'sure' if sharp < 1 else 'unsure'} of itself: its margins would fit best {times} times as large."
    )


def everything(rows: Sequence[Judged]) -> list[Leaning]:
    return [*judged.leanings(rows), *(each._replace(name=f"“{each.name} …”") for each in judged.opening_leanings(rows))]


def phrase(each: Leaning) -> str:
    name = f"opening {each.name}" if each.name.startswith("“") else each.name
    return f"{name} ({percentage(each.model.value)} of the time, they {percentage(each.annotators.value)})"


def decided(rows: Sequence[Judged]) -> bool:
    return any(row.choice != 0.5 for row in rows)


def accuracies(run: Run, of: str) -> Picture:
    """The ensemble's and each member's."""
    members = len(run.judged[0].margins)
    rows = []
    if decided(run.judged):
        rate = judged.accuracy(run.judged)
        rows.append(Bar("all together" if members > 1 else "the model", rate.value, rate.low, rate.high))
    if rows and members > 1:
        each = [judged.accuracy(run.judged, member) for member in range(members)]
        rows += [Bar(f"member {i}", rate.value, rate.low, rate.high, place=7) for i, rate in enumerate(each)]
    note = "On held-out comparisons that the annotators decided, averaged within a prompt first; ½ is chance."
    return bars(rows, Axis("accuracy", 0.0, 1.0, percent=True), title=f"Accuracy{of}", note=note, even=0.5)


def calibration(run: Run, of: str) -> Picture:
    kept = judged.reliability(run.judged)
    bins = [
        Reliable(each.predicted, each.observed.value, each.observed.low, each.observed.high, each.observed.n)
        for each in kept
    ]
    note = (
        "How sure the model is of the reply that it prefers, and the share of annotators who prefer it too. On the "
        "dashed line it is right about itself; below, too sure. Columns: how many pairs."
    )
    return reliability(bins, title=f"Calibration{of}", note=note, low=0.5)


def spreads(run: Run, of: str) -> list[Picture]:
    """How far members disagree, and whether that tells where they are wrong. Nothing for a single model."""
    if len(run.judged[0].margins) < 2 or not decided(run.judged):
        return []
    right = [pstdev(row.margins) for row in run.judged if row.choice != 0.5 and fmean(row.margins) > 0]
    wrong = [pstdev(row.margins) for row in run.judged if row.choice != 0.5 and fmean(row.margins) <= 0]
    axis = Axis("standard deviation of the margin between members")
    first = histogram(
        binned([right, wrong]),
        axis,
        title=f"Disagreement of the members{of}",
        note="On how much better one reply is than the other.",
        names=("the ensemble is right", "the ensemble is wrong"),
    )
    rows = [
        Bar(
            f"{each.members} of {len(run.judged[0].margins)} agree",
            each.accuracy.value,
            each.accuracy.low,
            each.accuracy.high,
        )
        for each in judged.by_agreement(run.judged)
    ]
    note = "By how many members prefer the same reply: an ensemble should be wrong more often where they do not agree."
    x = Axis("accuracy", 0.0, 1.0, percent=True)
    second = bars(rows, x, title=f"Accuracy by agreement of the members{of}", note=note, even=0.5)
    return [first, second]


def overvalued(run: Run, of: str) -> list[Picture]:
    """What can be seen of a reply, and how it begins: the annotators' preference beside the model's."""
    looks, openings = judged.leanings(run.judged), judged.opening_leanings(run.judged)
    pictures = []
    for each, title, about in (
        (looks, "What is preferred, by looks", "the reply with more of it"),
        (openings, "What is preferred, by the first word", "the reply that begins so, against one that does not"),
    ):
        if each:
            rows = [
                Bar(one.name, share.value, share.low, share.high, place)
                for one in each
                for place, share in enumerate((one.annotators, one.model))
            ]
            note = (
                f"How often {about} is preferred, among pairs that differ in it, with 95 % intervals. Where "
                "the model's bar is the longer one, it over-values that."
            )
            axis = Axis("preferred", 0.0, 1.0, percent=True)
            pictures.append(bars(rows, axis, title=f"{title}{of}", note=note, names=SIDES, even=0.5))
    return pictures


def leanings_of(run: Run, several: bool) -> Table:
    columns = (
        "a reply with more …",
        "annotators",
        "model",
        "model – annotators",
        "95 % interval",
        "correlation",
        "pairs",
    )
    rows = [
        (
            each.name,
            percentage(each.annotators.value),
            percentage(each.model.value),
            points(each.excess.value),
            f"{points(each.excess.low)} – {points(each.excess.high)}",
            number(round(each.correlation, 3)),
            number(each.pairs),
        )
        for each in everything(run.judged)
    ]
    return Table(f"What it over-values{f' ({run.name})' if several else ''}, in numbers", columns, rows, folded=True)


def points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return ("+" if share > 0 else "") + number(round(100 * share, 1))


# --- the crowd ------------------------------------------------------------------------------------------


def crowd(all_: Found, places: Places) -> Section:
    """Agreement beyond chance, ties, and what annotators themselves lean to."""
    known = [(each.source, each.crowd) for each in all_.evaluations if each.crowd]
    facts = known or all_.crowds
    said = [sentence for _, each in facts[:1] for sentence in agreed(each)]
    pictures = [choices(run) for run in all_.runs if run.judged][:1]
    if pictures:
        said.append(
            "What annotators lean to by looks and first words stands beside the reward model's leanings, above."
        )
    hint = "Agreement stands in the file comparisons.json of a demo; give it, or the folder that holds it."
    return Section(
        title="The crowd",
        lines=said,
        pictures=pictures,
        tables=[facts_of(source, each) for source, each in facts[:1]],
        missing="" if said else hint,
    )


def agreed(facts: Mapping[str, Any]) -> list[str]:
    said = []
    if (alpha := shares(facts.get("alpha"))) is not None:
        said.append(
            f"Krippendorff's α is {number(round(alpha[0], 2))} [{number(round(alpha[1], 2))} – "
            f"{number(round(alpha[2], 2))}]: 0 is what chance alone would give, 1 is full agreement."
        )
    if isinstance(facts.get("ceiling"), int | float):
        said.append(
            f"No model can agree with them on more than about {percentage(facts['ceiling'])} of the comparisons "
            "that they decided, since they err themselves."
        )
    return said


def shares(value: Any) -> tuple[float, float, float] | None:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, int | float) for each in value):
        return (float(value[0]), float(value[1]), float(value[2]))
    return None


def facts_of(source: str, facts: Mapping[str, Any]) -> Table:
    named = {"pairs": "comparisons", "ties": "ties", "ceiling": "noise ceiling", "alpha": "Krippendorff's α"}
    rows = []
    for key, name in named.items():
        value = facts.get(key)
        if (interval := shares(value)) is not None:
            rows.append((name, f"{number(interval[0])} [{number(interval[1])} – {number(interval[2])}]"))
        elif isinstance(value, int | float):
            rows.append((name, percentage(value) if key in ("ties", "ceiling") else number(value)))
    return Table(f"In numbers, from {Path(source).name}", ("what", "value"), rows)


def choices(run: Run) -> Picture:
    """How the annotators of a comparison were divided."""
    counted = Counter(round(row.choice, 2) for row in run.judged)
    total = sum(counted.values())
    named = {0.5: "undecided", 1.0: "all for one"}
    rows = [
        Bar(named.get(choice, f"{percentage(choice)} for one"), counted[choice] / total)
        for choice in sorted(counted, reverse=True)
    ]
    note = f"{number(total)} held-out comparisons, by the share of their annotators who preferred the same reply."
    return bars(rows, Axis("of the comparisons", low=0.0, percent=True), title="How annotators were divided", note=note)


def in_short(all_: Found) -> list[Figure]:
    """The reward model's accuracy and the annotators' agreement, large."""
    figures = []
    crowds = [*(each.crowd for each in all_.evaluations), *(facts for _, facts in all_.crowds)]
    for run in (run for run in all_.runs if run.judged and decided(run.judged)):
        rate = judged.accuracy(run.judged)
        ceilings = (facts.get("ceiling") for facts in crowds)
        ceiling = next((each for each in ceilings if isinstance(each, int | float)), None)
        detail = f"{percentage(rate.low)} – {percentage(rate.high)}"
        about = f"accuracy of {run.name} on held-out comparisons"
        figures.append(
            Figure(percentage(rate.value), about, detail + (f"; ceiling {percentage(ceiling)}" if ceiling else ""))
        )
    return figures
