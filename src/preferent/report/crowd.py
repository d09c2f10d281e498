"""The crowd that a reward model was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from preferent.pictures import Axis, Bar, Picture, bars
from preferent.pictures.scales import number, percentage
from preferent.report.annotators import Annotator, Annotators
from preferent.report.reading import Found, Run
from preferent.report.section import Places, Section, Table

MOST = 30  # annotators that a picture shows


def crowd(all_: Found, places: Places) -> Section:
    """Agreement beyond chance, ties, and what annotators themselves lean to."""
    known = [(each.source, each.crowd) for each in all_.evaluations if each.crowd]
    facts = (known or all_.crowds)[:1]
    said = [sentence for _, each in facts for sentence in agreed(each)]
    pictures = [choices(run) for run in all_.runs if run.judged][:1]
    for each in all_.annotators:
        of = f" ({Path(each.source).stem})" if len(all_.annotators) > 1 else ""
        said += [*([] if facts else [f"{each.agreement}."]), *habitual(each)]
        pictures += [siding(each, of), leaning_to_a_side(each, of)]
    if any(run.judged for run in all_.runs):
        said.append(
            "What annotators lean to by looks and first words stands beside the reward model's leanings, above."
        )
    hint = "A store of judgements fills this (runs/judgements.db, say): give it, or the folder that holds it and runs."
    return Section(
        title="The crowd",
        lines=said,
        pictures=pictures,
        tables=[facts_of(source, each) for source, each in facts],
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


# --- each annotator --------------------------------------------------------------------------------------
def habitual(all_: Annotators) -> list[str]:
    """How they work, in sentences."""
    people = all_.people
    choices = sum(each.habits.choices for each in people)
    said = [f"{number(len(people))} annotators chose {number(choices)} times."]
    if times := [each.habits.seconds for each in people if each.habits.seconds is not None]:
        said.append(
            f"A choice took {number(round(fmean(times), 1))} seconds on average: {number(round(min(times), 1))} the "
            f"quickest annotator, {number(round(max(times), 1))} the slowest."
        )
    biased = [each.habits.position for each in people]
    first = sum(each.low is not None and each.low > 0 for each in biased)
    second = sum(each.high is not None and each.high < 0 for each in biased)
    said.append(
        f"{number(first)} of them prefer what is shown first and {number(second)} what is shown second, beyond what "
        "chance explains (one in twenty would seem to by chance alone)."
    )
    return said


def shown(all_: Annotators) -> tuple[list[tuple[str, Annotator]], str]:
    """As many as a picture holds, by names without what all have in common, and what else there is to say of them."""
    people = all_.people[:MOST]
    words = [each.habits.annotator.split() for each in people]
    alike = len([*takewhile(lambda said: len(set(said)) == 1, zip(*words, strict=False))]) if len(people) > 1 else 0
    said = f" All names begin with “{' '.join(words[0][:alike])}”." if alike else ""
    if (more := len(all_.people) - MOST) > 0:
        said += f" {number(more)} more who judged less are not shown."
    return [(" ".join(name[alike:]), each) for name, each in zip(words, people, strict=True)], said


def siding(all_: Annotators, of: str) -> Picture:
    people, others = shown(all_)
    known = [(name, each.sides) for name, each in people if each.sides is not None]
    rows = [Bar(name, sides) for name, sides in sorted(known, key=lambda each: -each[1])]
    note = "How often an annotator sides with the majority of the others who judged the same comparison." + others
    return bars(rows, Axis("with the others", low=0.0, percent=True), title=f"Siding with the others{of}", note=note)


def leaning_to_a_side(all_: Annotators, of: str) -> Picture:
    people, others = shown(all_)
    rows = [
        Bar(name, bias.value, bias.low, bias.high)
        for name, each in people
        if (bias := each.habits.position).value is not None
    ]
    note = "Log-odds of preferring the reply that was shown first, whatever it says; 0 is no bias." + others
    x = Axis("log-odds for what is shown first")
    return bars(sorted(rows, key=lambda bar: -bar.value), x, title=f"Position bias{of}", note=note, even=0.0, dots=True)
