"""The curves of ``scale.py`` as two pictures, a panel for each axis; light and dark as the reader's system is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preferent.pictures import STYLE, Axis, Point
from preferent.pictures.figure import coordinate, marker, swatch, tag, text
from preferent.pictures.lines import path
from preferent.pictures.scales import HEIGHT, WIDTH, Frame, frame, label, number

TITLES = {
    "prompt": ("Prompt length", "tokens of each prompt"),
    "replies": ("Number of replies", "replies to each prompt"),
    "reply": ("Reply length", "tokens of each reply"),
    "vocabulary": ("Vocabulary", "tokens that the model knows"),
    "prompts": ("Prompts a step", "prompts"),
    "rows": ("Rows of data", "pairs in the file"),
}
PLACES = {"update": 0, "sampling": 1, "reading": 2}  # which colour; tokenising, seconds once, is not drawn
NAMES = {"update": "an update", "sampling": "sampling", "reading": "reading a batch of 16 pairs"}
PICTURES = {
    "scale-time": ("How long a step takes", "seconds", "seconds", 1e-9),
    "scale-memory": ("How much memory a step takes", "peak_mib", "MiB, above what is held before", 1.0),
}
PER_ROW, GAP, EDGE, HEAD, NAME = 2, 34.0, 24.0, 78.0, 26.0
MANY = 10.0  # doublings, above which an axis has ticks at powers of four
OURS = """
.panel text { font: 11.5px system-ui, sans-serif; fill: var(--soft); }
.panel text.title { font-size: 19px; font-weight: 600; fill: var(--ink); }
.panel text.panel-name { font-size: 14px; font-weight: 600; fill: var(--ink); }
.panel text.say { font-size: 12.5px; }
.panel .sheet { fill: var(--paper); }
"""


@dataclass(frozen=True)
class Powers(Axis):
    """An axis of logarithms, whose ticks say the numbers: ``unit`` times a power of ``base``."""

    base: float = 2.0
    unit: float = 1.0

    def write(self, value: float | None) -> str:
        return super().write(None if value is None else self.unit * self.base**value)

    def at(self, value: float) -> float:
        return math.log(value / self.unit, self.base)


def across(values: Sequence[float], name: str) -> Powers:
    """From the first value to the last, with ticks at doublings of the first."""
    scale = Powers(name, unit=values[0])
    return replace(scale, low=0.0, high=scale.at(values[-1]))


def up(values: Sequence[float], name: str) -> Powers:
    """Between powers of two (or of four, where they are many), at least three of them apart."""
    scale = Powers(name, base=2.0 if math.log2(max(values) / min(values)) <= MANY else 4.0)
    low, high = math.floor(scale.at(min(values)) + 1e-9), math.ceil(scale.at(max(values)) - 1e-9)
    if high - low < 3:
        low, high = low - 1, max(high, low + 2)
    return replace(scale, low=low, high=high)


def draw(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, key, unit, least) in PICTURES.items():
        (folder / f"{name}.svg").write_text(picture(report["axes"], title, key, unit, least))


def picture(axes: dict[str, Any], title: str, key: str, unit: str, least: float) -> str:
    """All panels on one sheet, which has a colour of its own: the page around it may be of either kind."""
    rows = math.ceil(len(axes) / PER_ROW)
    width = 2 * EDGE + PER_ROW * WIDTH + (PER_ROW - 1) * GAP
    height = HEAD + rows * (HEIGHT + NAME + GAP)
    parts = [tag("rect", width=width, height=height, rx=8, class_="sheet"), label(EDGE, 36, title, kind="title")]
    parts.append(legend([work for work in PLACES if any(work in works for works in axes.values())]))
    said = []
    for i, (axis, works) in enumerate(axes.items()):
        x, y = EDGE + i % PER_ROW * (WIDTH + GAP), HEAD + i // PER_ROW * (HEIGHT + NAME + GAP)
        drawn = {work: found for work, found in works.items() if work in PLACES}
        inside = label(0, 8, TITLES[axis][0], kind="panel-name") + exponents(drawn, key)
        inside += tag("g", panel(axis, drawn, key, unit, least), transform=f"translate(0 {NAME})")
        parts.append(tag("g", inside, transform=f"translate({coordinate(x)} {coordinate(y + NAME)})"))
        said.append(f"{TITLES[axis][0]}: {described(drawn, key, unit)}.")
    # The style of pictures is for what lies in an <svg> in a .picture.
    sheet = tag("svg", *parts, width=width, height=height, viewBox=f"0 0 {width} {height}")
    inside = tag("style", STYLE + OURS) + tag("title", text(title)) + tag("desc", text(" ".join(said)))
    grouped = tag("g", tag("g", sheet), class_="picture panel")
    return tag("svg", inside, grouped, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}",
               width=width, height=height, role="img") + "\n"  # fmt: skip


def legend(works: Sequence[str]) -> str:
    parts, x = [], EDGE
    for work in works:
        parts.append(tag("g", swatch(PLACES[work], "line"), transform=f"translate({coordinate(x)} 51)"))
        parts.append(label(x + 28, 60, NAMES[work], kind="say"))
        x += 52 + 7 * len(NAMES[work])
    even = tag("path", d=f"M{coordinate(x)} 56h22", class_="even")
    return "".join([*parts, even, label(x + 28, 60, "the slope of a cost in proportion to size", kind="say")])


def exponents(works: dict[str, Any], key: str) -> str:
    """How steep the curves are at their end, at the right of a panel's name."""
    what = "time" if key == "seconds" else "memory"
    said = ", ".join(f"{work} ^{found['exponents'][what]:.2f}" for work, found in works.items())
    return label(WIDTH - 14, 8, said, "end", "say")


def panel(axis: str, works: dict[str, Any], key: str, unit: str, least: float) -> str:
    if unit == "seconds" and axis == "rows":
        unit, times = "milliseconds", 1e3
    else:
        times = 1.0
    curves = {
        work: [(p["value"], times * max(p[key], least)) for p in found["points"]] for work, found in works.items()
    }
    x = across([value for value, _ in next(iter(curves.values()))], TITLES[axis][1])
    y = up([each for points in curves.values() for _, each in points], unit)
    logs = {work: [Point(x.at(a), y.at(b)) for a, b in points] for work, points in curves.items()}
    every = [point for points in logs.values() for point in points]
    within = frame([p.x for p in every], [p.y for p in every], x, y, tight=True)
    drawing = [within.drawing]
    for work, points in logs.items():
        drawing += [even(points[-1], within, x, y), path(points, within, PLACES[work])]
    for work, points in logs.items():
        for p in points:
            said = f"{work}: {y.write(p.y)} {unit} at {x.write(p.x)} {TITLES[axis][1]}"
            drawing.append(marker(within.x(p.x), within.y(p.y), PLACES[work], title=said, size=2.8))
    return "".join(drawing)


def even(last: Point, within: Frame, x: Powers, y: Powers) -> str:
    """Growth with the size itself, up to a curve's last point and no lower than the panel."""
    slope = math.log(x.base, y.base)
    first = max(within.x.low, last.x - (last.y - within.y.low) / slope)
    ends = [(first, last.y - slope * (last.x - first)), (last.x, last.y)]
    return tag(
        "path", d="M" + "L".join(f"{coordinate(within.x(a))} {coordinate(within.y(b))}" for a, b in ends), class_="even"
    )


def described(works: dict[str, Any], key: str, unit: str) -> str:
    said = []
    for work, found in works.items():
        first, last = (
            f"{number(point[key])} at {number(point['value'])}" for point in (found["points"][0], found["points"][-1])
        )
        said.append(f"{NAMES[work]} from {first} to {last} ({unit})")
    return "; ".join(said)
