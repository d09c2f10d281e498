"""What `preferent data check` found, as one page with pictures that opens offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preferent.data.check import Check
    from preferent.pictures import Bar, Picture

MOST_BARS = 12
NAMED = 3  # words of a topic that stand beside its bar


@dataclass(frozen=True, slots=True)
class Section:
    """One data file on the page."""

    found: Check
    facts: Sequence[tuple[str, str]]
    pictures: Sequence[Picture]
    findings: Sequence[tuple[str, int, str]]  # what, in how many rows, and where


def write_page(out: Path, every: Sequence[Check]) -> None:
    """The page, whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from preferent.pictures import STYLE
    from preferent.runtime import files

    environment = Environment(
        loader=PackageLoader("preferent.stages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("page.html").render(sections=[section(found) for found in every], style=STYLE)
    files.make_folder(out.parent)
    with files.replaced(out) as partial:
        partial.write_text(text, encoding="utf-8")


def section(found: Check) -> Section:
    from preferent.data.check import named

    faults = sorted(found.faults.items(), key=lambda item: -len(item[1]))
    findings = [
        (fault if found.reasons[fault].reason == fault else f"{found.reasons[fault].reason}, and the like", places)
        for fault, places in faults
    ]
    findings += list(found.notes.items())
    return Section(found, tuple(facts(found)), tuple(drawn(found)), [(w, len(p), named(p)) for w, p in findings])


def facts(found: Check) -> Iterator[tuple[str, str]]:
    yield "rows", f"{found.rows:,}"
    yield "cannot be used", f"{found.bad:,}"
    if found.prompts:
        yield "different prompts", f"{len(found.prompts):,}"
    if found.pairs:
        yield "longer reply chosen", f"{found.longer_chosen / found.pairs:.0%}"
    if len(found.languages) == 1:
        yield "language", next(iter(found.languages))
    if found.duplicates:
        yield "stand twice", f"{found.duplicates:,}"


def drawn(found: Check) -> Iterator[Picture]:
    """Lengths, languages, topics and classes, those that there are."""
    from preferent.pictures import Axis, Bar, bars

    for name, many in sorted(found.lengths.items()):
        yield lengths(name, many)
    rows = Axis("rows", low=0.0)
    if len(found.languages) > 1:
        note = "Guessed from scripts and common words; unknown where there is too little to go by."
        yield bars(commonest(found.languages), rows, title="Languages", note=note)
    if found.topics:
        named = [Bar(", ".join(topic.words[:NAMED]), float(topic.texts)) for topic in found.topics]
        note = f"Groups of similar questions in a sample of {found.sampled:,}, by the words that tell them apart."
        yield bars(named, Axis("questions", low=0.0), title="Topics", note=note)
    for column, counts in found.classes.items():
        yield bars(commonest(counts), rows, title=f"Classes: {column}")


def commonest(counts: Counter[str]) -> list[Bar]:
    from preferent.pictures import Bar

    most = [Bar(name, float(n)) for name, n in counts.most_common(MOST_BARS)]
    rest = counts.total() - sum(int(bar.value) for bar in most)
    return [*most, Bar("others", float(rest))] if rest else most


def lengths(name: str, counts: Counter[int]) -> Picture:
    """Bars for lengths that double from one to the next: they spread over powers of ten."""
    from preferent.data.check import doubling, quantiles
    from preferent.pictures import Axis, Bar, bars

    what, unit = name.rsplit(", ", 1)
    rows = [Bar(f"{low:,} – {high:,}", float(n)) for low, high, n in doubling(counts)]
    title = f"Length of {what} in {unit}"
    return bars(rows, Axis("how many", low=0.0), title=title, note=quantiles(counts))
