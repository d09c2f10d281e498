"""Lines with bands, points with whiskers, and the reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from preferent.pictures.figure import Picture, coordinate, drawn, marker, tag, text
from preferent.pictures.scales import HEIGHT, WIDTH, Axis, Frame, frame, label, number

FEW = 30  # points of a line that get a marker each
NEAR, LINE = 110.0, 14.0  # within which two labels would be written over one another, across and down


class Point(NamedTuple):
    """A number at a place, with its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.x) and math.isfinite(self.y)


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together; ``place`` is the colour, the order among the series where it is None."""

    name: str
    points: Sequence[Point]
    place: int | None = None


class Mark(NamedTuple):
    """A ring around something worth a look."""

    x: float
    y: float
    label: str


class Reliable(NamedTuple):
    """What was promised and what came: both shares of 1, the latter with its interval, over n cases."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def lines(
    series: Sequence[Series], x: Axis, y: Axis, *, title: str, note: str = "", marks: Sequence[Mark] = ()
) -> Picture:
    """Each series as a line through its points, in their order, with a band where they have intervals.

    A point that is not finite breaks the line, and is counted in the note.
    """
    shown = placed(series)
    within = around(shown, marks, x, y, tight=True)
    few = max((len(one.points) for one in series), default=0) <= FEW
    bands = [band(run, within, place) for place, one in shown for run in runs(one.points)]
    paths = [path(run, within, place) for place, one in shown for run in runs(one.points)]
    dots = [
        marker(within.x(p.x), within.y(p.y), place, title=told(one, p, x, y), size=2.6)
        for place, one in shown
        for p in one.points
        if p.finite and (few or len(one.points) == 1)
    ]
    drawing = "".join([within.drawing, *bands, *paths, *dots, *rings(marks, within)])
    return pictured(series, drawing, x, y, title=title, note=note, marks=marks)


def scatter(
    series: Sequence[Series], x: Axis, y: Axis, *, title: str, note: str = "", marks: Sequence[Mark] = ()
) -> Picture:
    """Each point by itself, with whiskers where it has an interval, and its label beside it where it has one."""
    shown = placed(series)
    within = around(shown, marks, x, y)
    drawing, labels = [within.drawing], []
    for place, one in shown:
        for p in one.points:
            if p.finite:
                labels += [(p.label, within.x(p.x), within.y(p.y))] if p.label else []
                drawing += [
                    whisker(p, within, place),
                    marker(within.x(p.x), within.y(p.y), place, title=told(one, p, x, y)),
                ]
    drawing += [beside(*label) for label in apart(labels)]
    drawing += rings(marks, within)
    picture = pictured(series, "".join(drawing), x, y, title=title, note=note, marks=marks)
    named = all(p.label for one in series for p in one.points)  # where each says who it is, a legend would say it again
    return replace(picture, swatch="point", legend=() if named else picture.legend)


def reliability(bins: Sequence[Reliable], *, title: str, note: str = "", low: float = 0.0) -> Picture:
    """What came against what was promised: on the diagonal, promises are kept. Bars below say how many there were.

    ``low`` is where both axes begin: ½ for the confidence in the better of two.
    """
    x, y = Axis("predicted", low, 1.0, percent=True), Axis("observed", low, 1.0, percent=True)
    y = Axis("observed", min([low, *(math.floor(10 * b.low) / 10 for b in bins)]), 1.0, percent=True)
    within = frame([low, 1.0], [low, 1.0], x, y, height=HEIGHT)
    diagonal = f"M{at(within, low, low)}L{at(within, 1.0, 1.0)}"
    drawing = [within.drawing, tag("path", d=diagonal, class_="even")]
    most = max((b.n for b in bins), default=1)
    for b in bins:
        height = 26 * b.n / most
        told_ = f"predicted {x.write(b.predicted)}, observed {x.write(b.observed)}, n = {number(b.n)}"
        drawing.append(
            tag(
                "rect",
                tag("title", text(told_)),
                x=coordinate(within.x(b.predicted) - 5),
                y=coordinate(within.y.start - height),
                width=10,
                height=coordinate(height),
                class_="count",
            )
        )
    points = [Point(b.predicted, b.observed, b.low, b.high) for b in bins]
    drawing += [whisker(p, within, 0) for p in points]
    drawing += [path(points, within, 0)] if points else []
    drawing += [
        marker(within.x(b.predicted), within.y(b.observed), 0, title=f"{x.write(b.observed)} of {number(b.n)}")
        for b in bins
    ]
    rows = [
        (x.write(b.predicted), x.write(b.observed), f"{x.write(b.low)} – {x.write(b.high)}", number(b.n)) for b in bins
    ]
    said = f"{len(bins)} points, each with its interval, and the diagonal on which predictions come true. " + "; ".join(
        f"predicted {first}, observed {second}" for first, second, *_ in rows
    )
    columns = ("predicted", "observed", "95 % interval", "n")
    return Picture(title, said, "".join(drawing), (WIDTH, HEIGHT), columns, rows, note=note)


# --- parts -----------------------------------------------------------------------------------------


def placed(series: Sequence[Series]) -> list[tuple[int, Series]]:
    return [(i if one.place is None else one.place, one) for i, one in enumerate(series)]


def around(
    shown: Sequence[tuple[int, Series]], marks: Sequence[Mark], x: Axis, y: Axis, *, tight: bool = False
) -> Frame:
    points = [point for _, one in shown for point in one.points if point.finite]
    ends = [end for point in points for end in (point.low, point.high) if end is not None]
    xs = [*(p.x for p in points), *(m.x for m in marks)]
    return frame(xs, [*(p.y for p in points), *ends], x, y, tight=tight)


def at(within: Frame, x: float, y: float) -> str:
    return f"{coordinate(within.x(x))} {coordinate(within.y(y))}"


def runs(points: Iterable[Point]) -> list[list[Point]]:
    """Cut where a point is not finite."""
    found: list[list[Point]] = [[]]
    for point in points:
        if point.finite:
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def path(points: Sequence[Point], within: Frame, place: int) -> str:
    return tag("path", d="M" + "L".join(at(within, p.x, p.y) for p in points), class_=f"line {drawn(place)}")


def band(points: Sequence[Point], within: Frame, place: int) -> str:
    """Between the lower and the upper ends, where every point has both."""
    ends = [(p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if len(ends) < max(2, len(points)) or not all(math.isfinite(end) for each in ends for end in each):
        return ""
    corners = [at(within, x, high) for x, _, high in ends] + [at(within, x, low) for x, low, _ in reversed(ends)]
    return tag("path", d=f"M{'L'.join(corners)}Z", class_=f"band {drawn(place)}")


def whisker(p: Point, within: Frame, place: int) -> str:
    if p.low is None or p.high is None or not (math.isfinite(p.low) and math.isfinite(p.high)):
        return ""
    x = coordinate(within.x(p.x))
    return tag(
        "path", d=f"M{x} {coordinate(within.y(p.low))}V{coordinate(within.y(p.high))}", class_=f"whisker {drawn(place)}"
    )


def rings(marks: Sequence[Mark], within: Frame) -> list[str]:
    places = [(mark.label, within.x(mark.x), within.y(mark.y)) for mark in marks]
    circles = [
        tag("circle", tag("title", text(content)), cx=coordinate(x), cy=coordinate(y), r=7, class_="ring")
        for content, x, y in places
    ]
    return circles + [beside(*each) for each in apart([(content, x, y - 12) for content, x, y in places])]


def apart(labels: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """The same labels, those moved down that would be written over another."""
    done: list[tuple[str, float, float]] = []
    for content, x, y in sorted(labels, key=lambda each: each[2]):
        while any(abs(x - at) < NEAR and abs(y - height) < LINE for _, at, height in done):
            y += 1.0
        done.append((content, x, y))
    return done


def beside(content: str, x: float, y: float) -> str:
    """Text next to a point, on the side where there is room."""
    left = x > WIDTH * 0.6
    return label(x + (-11 if left else 11), y + 4, content, "end" if left else "start", "beside")


def told(one: Series, p: Point, x: Axis, y: Axis) -> str:
    interval = f" [{y.write(p.low)} – {y.write(p.high)}]" if p.low is not None else ""
    return f"{one.name}: {x.label} {x.write(p.x)}, {y.label} {y.write(p.y)}{interval}"


def pictured(
    series: Sequence[Series], drawing: str, x: Axis, y: Axis, *, title: str, note: str, marks: Sequence[Mark]
) -> Picture:
    """The drawing with its words and its table: a row for each point."""
    intervals = any(p.low is not None for one in series for p in one.points)
    rows = [
        (
            one.name,
            x.write(p.x),
            y.write(p.y),
            *((f"{y.write(p.low)} – {y.write(p.high)}" if p.low is not None else "–",) if intervals else ()),
        )
        for one in series
        for p in one.points
    ]
    columns = ("series", x.label, y.label, *(("from – to",) if intervals else ()))
    lost = sum(not p.finite for one in series for p in one.points)
    said = [described(one, x, y) for one in series]
    said += [f"Marked: {mark.label} at {x.label} {x.write(mark.x)}." for mark in marks]
    notes = [note, f"{lost} of the values are not finite numbers." if lost else ""]
    named = len(series) > 1 or any(one.place is not None for one in series)
    legend = [(place, one.name) for place, one in placed(series)] if named else []
    return Picture(
        title,
        f"{y.label} against {x.label}. " + " ".join(said),
        drawing,
        (WIDTH, HEIGHT),
        columns,
        rows,
        legend,
        " ".join(part for part in notes if part),
    )


def described(one: Series, x: Axis, y: Axis) -> str:
    finite = [p for p in one.points if p.finite]
    if not finite:
        return f"{one.name}: no values."
    first, last = finite[0], finite[-1]
    if first is last:
        return f"{one.name}: {y.write(last.y)} at {x.write(last.x)}."
    return f"{one.name}: from {y.write(first.y)} at {x.write(first.x)} to {y.write(last.y)} at {x.write(last.x)}."
