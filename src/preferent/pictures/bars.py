"""Horizontal bars with intervals, and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from preferent.pictures.figure import Picture, coordinate, drawn, tag, text
from preferent.pictures.scales import HEIGHT, LETTER, WIDTH, Axis, Scale, fitted, frame, label, number

THICK, GAP = 15.0, 9.0  # of a bar, and between groups of them
LONGEST = 22  # characters of a label that are shown; the whole of it is in the table and under the pointer


class Bar(NamedTuple):
    """A value with its interval, if it has one; ``place`` says of which series, and is its colour."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    place: int = 0


class Bin(NamedTuple):
    """How many values of each series lie from ``low`` up to ``high``."""

    low: float
    high: float
    counts: tuple[int, ...]


def bars(
    rows: Sequence[Bar],
    x: Axis,
    *,
    title: str,
    note: str = "",
    names: Sequence[str] = (),
    even: float | None = None,
    dots: bool = False,
) -> Picture:
    """A bar for each row, from 0; neighbours with the same label stand together, and ``names`` are their series.

    ``even`` draws a line to compare with, such as ½ for a win rate. With ``dots`` there are points instead of bars, for
    values of which 0 is not the natural beginning.
    """
    finite = [bar for bar in rows if math.isfinite(bar.value)]
    ends = [end for bar in finite for end in (bar.value, bar.low, bar.high) if end is not None]
    marks, (low, high) = fitted([*ends, *([] if dots else [0.0]), *([] if even is None else [even])], x)
    left = 12 + LETTER * max((len(short(bar.label)) for bar in rows), default=0)
    right = WIDTH - 14 - LETTER * max((len(x.write(bar.value)) for bar in rows), default=0)
    across = Scale(low, high, left, right)
    places = heights(rows)
    bottom = (places[-1] if places else 0.0) + THICK + GAP
    drawing = [
        part
        for mark in marks
        for part in (
            tag("path", d=f"M{coordinate(across(mark))} 4V{coordinate(bottom)}", class_="grid"),
            label(across(mark), bottom + 15, x.write(mark), "middle"),
        )
    ]
    if even is not None:
        drawing.append(tag("path", d=f"M{coordinate(across(even))} 2V{coordinate(bottom)}", class_="even"))
    before = None
    for bar, top in zip(rows, places, strict=True):
        if bar.label != before:
            drawing.append(label(left - 8, top + THICK / 2 + 4, short(bar.label), "end", "named"))
        drawing.append(one_bar(bar, top, across, x, right, dots=dots))
        before = bar.label
    drawing.append(label(right, bottom + 31, x.label, "end", "named"))
    columns, cells = tabled(rows, x, names)
    said = "; ".join(", ".join(row) for row in cells)
    legend = list(enumerate(names)) if len(names) > 1 else []
    return Picture(
        title,
        f"{x.label}: {said}.",
        "".join(drawing),
        (WIDTH, bottom + 36),
        columns,
        cells,
        legend=legend,
        note=note,
        swatch="bar",
    )


def binned(series: Sequence[Sequence[float]], bins: int = 20) -> list[Bin]:
    """Counts in equal steps over the finite values of all series together; no bins where there are no values."""
    finite = [[value for value in values if math.isfinite(value)] for values in series]
    every = [value for values in finite for value in values]
    if not every:
        return []
    low, high = min(every), max(every)
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = (high - low) / bins
    counts = [[0] * bins for _ in finite]
    for row, values in zip(counts, finite, strict=True):
        for value in values:
            row[min(int((value - low) / step), bins - 1)] += 1
    return [Bin(low + i * step, low + (i + 1) * step, tuple(row[i] for row in counts)) for i in range(bins)]


def histogram(bins: Sequence[Bin], x: Axis, *, title: str, note: str = "", names: Sequence[str] = ()) -> Picture:
    """Counts as columns, those of several series one upon the other."""
    ends = [bins[0].low, bins[-1].high] if bins else []
    y = Axis("how many", low=0.0)
    within = frame(ends, [float(sum(each.counts)) for each in bins], x, y, tight=True)
    drawing = [within.drawing]
    for each in bins:
        start, wide = within.x(each.low), within.x(each.high) - within.x(each.low)
        reached = 0
        for place, count in enumerate(each.counts):
            if not count:
                continue
            top = within.y(reached + count)
            said = f"{x.write(each.low)} to {x.write(each.high)}: {number(count)}"
            drawing.append(rectangle(start + 0.5, top, max(wide - 1, 0.5), within.y(reached) - top, place, said))
            reached += count
    named = names or ("how many",)
    rows = [(f"{x.write(each.low)} – {x.write(each.high)}", *(number(count) for count in each.counts)) for each in bins]
    total = sum(sum(each.counts) for each in bins)
    fullest = max(bins, key=lambda each: sum(each.counts), default=None)
    said = f"{x.label} of {number(total)} values."
    if fullest is not None:
        said += (
            f" Most of them, {number(sum(fullest.counts))}, lie from {x.write(fullest.low)} to {x.write(fullest.high)}."
        )
    legend = list(enumerate(names)) if len(names) > 1 else []
    return Picture(
        title, said, "".join(drawing), (WIDTH, HEIGHT), (x.label, *named), rows, legend=legend, note=note, swatch="bar"
    )


# --- parts -----------------------------------------------------------------------------------------


def short(content: str) -> str:
    return content if len(content) <= LONGEST else content[: LONGEST - 1] + "…"


def heights(rows: Sequence[Bar]) -> list[float]:
    """Where each bar begins; those with the label of their neighbour follow without a gap."""
    if not rows:
        return []
    tops = [6.0]
    for one, other in pairwise(rows):
        tops.append(tops[-1] + THICK + (1.5 if one.label == other.label else GAP))
    return tops


def one_bar(bar: Bar, top: float, across: Scale, x: Axis, right: float, *, dots: bool) -> str:
    said = f"{bar.label}: {x.write(bar.value)}{between(bar, x)}"
    middle = top + THICK / 2
    drawing = []
    if math.isfinite(bar.value):
        zero, end = across(min(max(0.0, across.low), across.high)), across(bar.value)
        if dots:
            drawing.append(
                tag("circle", tag("title", text(said)), cx=coordinate(end), cy=coordinate(middle), r=4.5,
                    class_=f"marker {drawn(bar.place)}")
            )  # fmt: skip
        else:
            drawing.append(rectangle(min(zero, end), top, max(abs(end - zero), 0.8), THICK, bar.place, said))
    if bar.low is not None and bar.high is not None:
        a, b, y = coordinate(across(bar.low)), coordinate(across(bar.high)), coordinate(middle)
        caps = "".join(f"M{end} {coordinate(middle - 4)}v8" for end in (a, b))
        drawing.append(tag("path", d=f"M{a} {y}H{b}{caps}", class_="interval"))
    drawing.append(label(WIDTH - 2, middle + 4, x.write(bar.value), "end", "named"))
    return "".join(drawing)


def rectangle(x: float, y: float, width: float, height: float, place: int, said: str) -> str:
    return tag(
        "rect",
        tag("title", text(said)),
        x=coordinate(x),
        y=coordinate(y),
        width=coordinate(width),
        height=coordinate(height),
        class_=f"bar {drawn(place)}",
    )


def between(bar: Bar, x: Axis) -> str:
    return f" [{x.write(bar.low)} – {x.write(bar.high)}]" if bar.low is not None and bar.high is not None else ""


def tabled(rows: Sequence[Bar], x: Axis, names: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The columns and the cells: label, series where there are several, value, interval where there is one."""
    several, intervals = len(names) > 1, any(bar.low is not None for bar in rows)
    columns = ["row", *(["of"] if several else []), x.label, *(["95 % interval"] if intervals else [])]
    cells = [
        (
            bar.label,
            *((names[bar.place],) if several else ()),
            x.write(bar.value),
            *((between(bar, x).strip(" []") or "–",) if intervals else ()),
        )
        for bar in rows
    ]
    return columns, cells
