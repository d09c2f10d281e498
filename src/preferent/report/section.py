"""What a page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from preferent.pictures import Picture, Point
from preferent.report.reading import Run

MOST = 80  # points of a line: beyond that, neighbours are averaged


class Figure(NamedTuple):
    """A number worth its size."""

    value: str
    about: str
    detail: str = ""


class Table(NamedTuple):
    """Cells as text; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


class Dialogue(NamedTuple):
    """A prompt, and who replied what: (name, colour, reply)."""

    prompt: str
    replies: Sequence[tuple[str, int, str]]


class Command(NamedTuple):
    """What to type, and what for."""

    about: str
    typed: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands below it; ``missing`` says what would fill it."""

    title: str
    lines: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    dialogues: Sequence[Dialogue] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[Command] = ()
    missing: str = ""

    @property
    def anchor(self) -> str:
        return "".join(sign if sign.isalnum() else "-" for sign in self.title.lower())


Places = Mapping[str, int]  # the colour of each run, by its name


def thinned(values: Sequence[tuple[int, float]], most: int = MOST) -> list[Point]:
    """At most so many points: means of neighbouring steps, with the lowest and the highest of them as a band."""
    size = -(-len(values) // most)
    if size <= 1:
        return [Point(step, value) for step, value in values]
    parts = [values[first : first + size] for first in range(0, len(values), size)]
    return [
        Point(
            part[-1][0],
            sum(value for _, value in part) / len(part),
            min(value for _, value in part),
            max(value for _, value in part),
        )
        for part in parts
    ]


def averaged(runs: Sequence[Run], name: str) -> str:
    """What to say under a picture of lines that are averages."""
    size = max((-(-len(run.values(name)) // MOST) for run in runs), default=1)
    return (
        f"Each point is the mean of up to {size} steps; the band goes from the lowest to the highest."
        if size > 1
        else ""
    )
