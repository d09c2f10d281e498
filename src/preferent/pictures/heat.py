"""A table whose cells are coloured by their values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from preferent.pictures.bars import short
from preferent.pictures.figure import Picture, coordinate, tag, text
from preferent.pictures.scales import LETTER, WIDTH, Axis, label

CELL = 30.0  # high
STRONGEST = 0.55  # opacity of the fullest cell, on which text can still be read


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    scale: Axis,
    *,
    title: str,
    note: str = "",
) -> Picture:
    """A cell for each row and column, the stronger its colour the higher it is; None leaves a cell empty.

    Raises ValueError where ``values`` are not one row of cells for each name.
    """
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise ValueError(f"expected {len(rows)} rows of {len(columns)} values")
    finite = [value for row in values for value in row if value is not None and math.isfinite(value)]
    low = scale.low if scale.low is not None else min(finite, default=0.0)
    high = scale.high if scale.high is not None else max(finite, default=1.0)
    left = 12 + LETTER * max((len(short(name)) for name in rows), default=0)
    wide = (WIDTH - left) / max(len(columns), 1)
    fitting = max(int(wide / LETTER), 3)
    drawing = [
        label(
            left + wide * (j + 0.5), 14, name if len(name) <= fitting else name[: fitting - 1] + "…", "middle", "named"
        )
        for j, name in enumerate(columns)
    ]
    for i, (name, row) in enumerate(zip(rows, values, strict=True)):
        top = 22 + i * CELL
        drawing.append(label(left - 8, top + CELL / 2 + 4, short(name), "end", "named"))
        for j, value in enumerate(row):
            said = f"{name}, {columns[j]}: {scale.write(value)}"
            known = value is not None and math.isfinite(value)
            share = (value - low) / (high - low) if known and value is not None and high > low else 0.0
            drawing.append(cell(left + j * wide, top, wide, STRONGEST * min(max(share, 0.0), 1.0), said))
            drawing.append(label(left + (j + 0.5) * wide, top + CELL / 2 + 4, scale.write(value), "middle", "named"))
    cells = [(name, *(scale.write(value) for value in row)) for name, row in zip(rows, values, strict=True)]
    said = "; ".join(f"{row[0]}: " + ", ".join(map(" ".join, zip(columns, row[1:], strict=True))) for row in cells)
    size = (WIDTH, 26 + CELL * len(rows))
    return Picture(title, f"{scale.label}. {said}.", "".join(drawing), size, ("row", *columns), cells, note=note)


def cell(x: float, y: float, width: float, strength: float, said: str) -> str:
    return tag(
        "rect",
        tag("title", text(said)),
        x=coordinate(x + 1),
        y=coordinate(y + 1),
        width=coordinate(width - 2),
        height=coordinate(CELL - 2),
        fill_opacity=f"{strength:.3f}",
        class_="cell",
    )
