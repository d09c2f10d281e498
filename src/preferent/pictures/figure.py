"""A chart as HTML: the drawing, what it says in words, and its numbers as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

COLOURS = 8  # that STYLE knows; a ninth series is told from the first by its dashes and its marker
MARKERS = DASHES = 4
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that stands by itself. ``drawing`` is markup; everything else is text, escaped when it is written."""

    title: str
    description: str  # for those who cannot see it
    drawing: str  # what stands inside <svg>
    size: tuple[float, float]  # of the viewBox
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]  # the numbers, a cell for each column
    legend: Sequence[tuple[int, str]] = ()  # the place of each series, which is its colour, and its name
    note: str = ""
    swatch: Literal["line", "point", "bar"] = "line"  # how a series looks in the legend

    def __html__(self) -> str:
        width, height = self.size
        described = tag("title", text(self.title)) + tag("desc", text(self.description))
        svg = tag("svg", described, self.drawing, viewBox=f"0 0 {coordinate(width)} {coordinate(height)}", role="img")
        head = tag("strong", text(self.title)) + (tag("span", text(self.note), class_="note") if self.note else "")
        return tag(
            "figure", tag("figcaption", head), key(self.legend, self.swatch), svg, self.table(), class_="picture"
        )

    def __str__(self) -> str:
        return self.__html__()

    def table(self) -> str:
        """The numbers behind a fold; nothing where there are none."""
        if not self.rows:
            return ""
        head = tag("tr", *(tag("th", text(name), scope="col") for name in self.columns))
        body = [
            tag("tr", tag("th", text(first), scope="row"), *(tag("td", text(cell)) for cell in rest))
            for first, *rest in self.rows
        ]
        table = tag("table", tag("thead", head), tag("tbody", *body))
        scrolled = tag(
            "div", table, class_="scroll", tabindex=0, role="group", aria_label=f"The numbers of: {self.title}"
        )
        return tag("details", tag("summary", "The numbers"), scrolled)


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element around markup. ``class_`` is class, ``aria_label`` aria-label; values escaped, None left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{said}>{''.join(inside)}</{name}>"


def text(content: object) -> str:
    """Escaped; what no document may hold (control characters, halves of pairs) becomes a sign that says so."""
    return escape(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(content)))


def coordinate(value: float) -> str:
    """A place in the drawing, to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")


def key(legend: Sequence[tuple[int, str]], looks: str) -> str:
    if not legend:
        return ""
    size = {"viewBox": "0 0 22 10", "class_": "swatch", "aria_hidden": "true"}
    items = [tag("li", tag("svg", swatch(place, looks), **size), tag("span", text(name))) for place, name in legend]
    return tag("ul", *items, class_="legend")


def swatch(series: int, looks: str) -> str:
    if looks == "bar":
        return tag("rect", x=4, y=0, width=14, height=10, class_=f"bar {drawn(series)}")
    if looks == "point":
        return marker(11, 5, series)
    line = tag("path", d="M1 5H21", class_=f"line {drawn(series)}")
    return line + marker(11, 5, series)


def drawn(series: int) -> str:
    """The classes of a series: its colour and its dashes."""
    return f"c{series % COLOURS} d{series % DASHES}"


def marker(x: float, y: float, series: int, *, title: str = "", size: float = 3.2) -> str:
    """A disc, a square, a diamond or a triangle, so that colour is not all that tells series apart."""
    shapes = (
        f"M{coordinate(x - size)} {coordinate(y)}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0",
        f"M{coordinate(x - size)} {coordinate(y - size)}h{2 * size}v{2 * size}h{-2 * size}z",
        f"M{coordinate(x)} {coordinate(y - 1.4 * size)}l{1.4 * size} {1.4 * size}l{-1.4 * size} {1.4 * size}"
        f"l{-1.4 * size} {-1.4 * size}z",
        f"M{coordinate(x)} {coordinate(y - 1.3 * size)}l{1.3 * size} {2.3 * size}h{-2.6 * size}z",
    )
    inside = tag("title", text(title)) if title else ""
    return tag("path", inside, d=shapes[series % MARKERS], class_=f"marker {drawn(series)}")
