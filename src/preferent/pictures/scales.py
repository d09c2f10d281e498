"""From numbers to places: axes with round ticks, and how a number is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from preferent.pictures.figure import coordinate, tag, text

WIDTH, HEIGHT = 420.0, 250.0
LETTER = 6.4  # units that a character takes, about
TICKS = 5  # wanted on an axis
MOST = 1e300  # beyond it, the room that an axis needs is more than a float holds
FINEST, LEAST = 1e-9, 1e-30  # a range narrower than this share of its numbers, or than this, is of one number


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows; limits that are None come from the numbers."""

    label: str
    low: float | None = None
    high: float | None = None
    percent: bool = False

    def write(self, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "–"
        return percentage(value) if self.percent else number(value)


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers from ``low`` to ``high`` laid out from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Frame:
    """Two axes, drawn."""

    x: Scale
    y: Scale
    drawing: str


def frame(
    xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis, *, height: float = HEIGHT, tight: bool = False
) -> Frame:
    """Axes around these numbers, those not finite aside, with lines to read values by.

    Free ends reach to the next round number; with ``tight``, those of the x axis stay where the numbers end.
    """
    x_ticks, (x_low, x_high) = fitted(xs, x, tight=tight)
    y_ticks, (y_low, y_high) = fitted(ys, y)
    left = 12 + LETTER * max(len(y.write(tick)) for tick in y_ticks)
    right, bottom = WIDTH - 14, height - 38
    across, up = Scale(x_low, x_high, left, right), Scale(y_low, y_high, bottom, 24)
    grid = []
    for tick in y_ticks:
        grid.append(tag("path", d=f"M{coordinate(left)} {coordinate(up(tick))}H{coordinate(right)}", class_="grid"))
        grid.append(label(left - 6, up(tick) + 4, y.write(tick), "end"))
    for tick in x_ticks:
        grid.append(label(across(tick), height - 22, x.write(tick), "middle"))
    grid.append(tag("path", d=f"M{coordinate(left)} {coordinate(bottom)}H{coordinate(right)}", class_="axis"))
    grid.append(label(0, 12, y.label, "start", "named"))
    grid.append(label(right, height - 4, x.label, "end", "named"))
    return Frame(across, up, "".join(grid))


def fitted(values: Sequence[float], axis: Axis, *, tight: bool = False) -> tuple[list[float], tuple[float, float]]:
    """The ticks, and from where to where the axis goes."""
    low, high = limits(values, axis)
    marks = ticks(low, high)
    low = marks[0] if axis.low is None and not tight else low
    high = marks[-1] if axis.high is None and not tight else high
    room = (high - low) * 1e-6
    return [mark for mark in marks if low - room <= mark <= high + room], (low, high)


def limits(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    """Of the finite values and of what the axis asks for; never a range of nothing."""
    finite = [value for value in values if abs(value) < MOST]
    low = axis.low if axis.low is not None else min(finite, default=0.0)
    high = axis.high if axis.high is not None else max(finite, default=1.0)
    if high - low > max(FINEST * max(abs(low), abs(high)), LEAST):
        return low, high
    margin = max(abs(low) * 0.1, 0.5 if not axis.percent else 0.05)
    return low - (margin if axis.low is None else 0.0), low + margin


def ticks(low: float, high: float, wanted: int = TICKS) -> list[float]:
    """Round numbers from at or before ``low`` to at or after ``high``: steps of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    # One of them that lies a rounding error beyond a round number is that number.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") + 0.0 for i in range(first, last + 1)]


def label(x: float, y: float, content: str, anchor: str = "start", kind: str = "tick") -> str:
    return tag("text", text(content), x=coordinate(x), y=coordinate(y), text_anchor=anchor, class_=kind)


def number(value: float) -> str:
    """Three digits that count, thousands apart; no ``-0``."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 8:
        return f"{value:.2g}".replace("-", "−", 1 if value < 0 else 0)
    said = f"{value:,.{max(0, 2 - size)}f}"
    said = said.rstrip("0").rstrip(".") if "." in said else said
    return said.replace("-", "−")


def percentage(value: float) -> str:
    """A share as a percentage, with a digit behind the point where it is nearly 0 or 1."""
    near = 0 < abs(value) < 0.01 or 0.99 < value < 1
    said = f"{100 * value:.{1 if near else 0}f}".removesuffix(".0").replace("-", "−")
    return f"{said} %"
