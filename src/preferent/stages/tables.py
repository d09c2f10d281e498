"""What an evaluation found, as tables on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

Row = Mapping[str, Any]


def show(models: Sequence[Row], rewards: Sequence[Row], missing: Sequence[str]) -> None:
    """Models, rewards, and what is missing and why, as far as there are any."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 120
    if models:
        baseline = models[0]["name"]
        columns = {
            "reward": lambda row: plus_minus(row.get("reward")),
            f"wins against {Path(baseline).name}": lambda row: interval(row.get("win_rate")),
            "KL": lambda row: number(row.get("kl")) or (f"≤ {row['kl_bound']:.2f}" if "kl_bound" in row else ""),
            "length": lambda row: f"{row['length']:.1f}",
            "ended": lambda row: f"{row['ended']:.0%}",
            "distinct-1": lambda row: f"{row['distinct_1']:.3f}",
            "distinct-2": lambda row: f"{row['distinct_2']:.3f}",
        }
        n = models[0]["n"]
        console.print(table(f"one reply to each of {n} prompts", models, columns))
    if rewards:
        about = {
            "accuracy": lambda row: interval(row["accuracy"]),
            "pairs": lambda row: f"{row['pairs']}",
            "ties": lambda row: f"{row['ties']:.0%}",
        }
        console.print(table("reward on held-out comparisons", rewards, about))
    for line in missing:
        click.echo(line)


def table(title: str, rows: Sequence[Row], columns: Mapping[str, Any]) -> Any:
    """Columns in which every cell is empty are left out."""
    from rich.box import SIMPLE
    from rich.table import Table

    cells = {name: [text(row) for row in rows] for name, text in columns.items()}
    kept = {name: texts for name, texts in cells.items() if any(texts)}
    made = Table(title=title, title_justify="left", box=SIMPLE)
    made.add_column("")
    for name in kept:
        made.add_column(name, justify="right")
    for i, row in enumerate(rows):
        made.add_row(str(row["name"]), *(texts[i] for texts in kept.values()))
    return made


def plus_minus(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    error = found["standard_error"]
    return number(found["mean"]) + (f" ± {number(error)}" if error is not None else "")


def interval(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['value']:.1%} [{found['low']:.1%} – {found['high']:.1%}]"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
