"""The reward model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

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
